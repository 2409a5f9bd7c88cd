//! The real agent, watching this machine.

use std::path::Path;

use testkit::{Process, ProcessBuilder, workspace_binary};
use wire::registry::v1::CreateEnrollmentTokenRequest;

use super::SOON;
use super::api::Api;

/// A running `twinward-agent`.
pub(crate) struct RealAgent {
    pub(crate) process: Process,
}

impl RealAgent {
    /// Enrols with a token and runs, with its files below `folder`.
    pub(crate) async fn enroll(api: &Api, url: &str, device: &str, folder: &Path) -> RealAgent {
        RealAgent::enroll_with(api, url, device, folder, |builder| builder).await
    }

    /// As [`RealAgent::enroll`], with more said on the command line.
    pub(crate) async fn enroll_with(
        api: &Api,
        url: &str,
        device: &str,
        folder: &Path,
        more: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
    ) -> RealAgent {
        let request = CreateEnrollmentTokenRequest {
            device_id: device.to_owned(),
            ..Default::default()
        };
        let token = api.registry.clone().create_enrollment_token(request).await;
        let token = token.expect("a token is made").into_inner().token;
        let builder = agent(url, folder)
            .args(["--device-id", device])
            .env("TWINWARD_AGENT__ENROLLMENT_TOKEN", token);
        RealAgent {
            process: more(builder).spawn(),
        }
    }

    /// Runs with what an earlier run left in `folder`.
    pub(crate) fn again(url: &str, folder: &Path) -> RealAgent {
        RealAgent::again_with(url, folder, |builder| builder)
    }

    /// As [`RealAgent::again`], with more said on the command line.
    pub(crate) fn again_with(
        url: &str,
        folder: &Path,
        more: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
    ) -> RealAgent {
        RealAgent {
            process: more(agent(url, folder)).spawn(),
        }
    }

    /// SIGTERM and a clean end.
    pub(crate) async fn stop(self) {
        self.process.stop(SOON).await;
    }
}

fn agent(url: &str, folder: &Path) -> ProcessBuilder {
    ProcessBuilder::new("agent", workspace_binary("twinward-agent"))
        .args(["run", "--server", url, "--data-dir"])
        .arg(folder.join("agent"))
}
