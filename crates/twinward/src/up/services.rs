//! The services of `up`: configured to find each other, started in the order of who needs whom,
//! stopped in the opposite one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use service_kit::client::{self, ClientConfig};
use service_kit::clock::SystemClock;
use service_kit::shutdown::ShutdownToken;
use service_kit::tls::ClientTls;
use tokio::time::{Instant, timeout_at};
use wire::registry::v1::GetProvisioningRequest;
use wire::registry::v1::enrollment_service_client::EnrollmentServiceClient;

use super::EnvFiles;
use super::plan::{Door, Plan};
use super::summary::Summary;
use crate::env_file::variable;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::service::{self, Addresses, Service};
use crate::{output, probe};

/// A store that has much to read back may take a while; longer is worth an error.
const READY_WITHIN: Duration = Duration::from_mins(2);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The access policy whose connection string scripts are given.
const OWNER: &str = "iothubowner";
/// A page of health is answered at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The services, built and not yet running.
struct Built {
    ingestion: ingestion::App,
    twin_store: twin_store::App,
    policy: policy::App,
    gateway: gateway::App,
    summary: Summary,
}

/// Builds everything, runs it until told to stop or until a service ends, and stops the rest.
pub(super) async fn run(
    plan: &Plan,
    env_files: &EnvFiles,
    shutdown: &ShutdownToken,
) -> Result<(), Failure> {
    // Building waits for NATS; whoever stops us then need not wait with it.
    let Some(built) = shutdown.run_until(Box::pin(build(plan))).await else {
        return Ok(());
    };
    let Built {
        ingestion,
        twin_store,
        policy,
        gateway,
        summary,
    } = built?;
    let (front, first) = (Stage::default(), Stage::default());
    let (second, third) = (Stage::default(), Stage::default());
    let work = async {
        let (gateway, ingestion, policy, twin_store, announced) = tokio::join!(
            front.run(gateway, shutdown),
            first.run(ingestion, shutdown),
            second.run(policy, shutdown),
            third.run(twin_store, shutdown),
            async {
                let announced = announce(&summary, env_files, shutdown).await;
                if announced.is_err() {
                    shutdown.trigger();
                }
                shutdown.triggered().await;
                env_files.remove();
                // Against the stream of work: the doors, who decides, who keeps.
                for stage in [&front, &first, &second, &third] {
                    stage.stop.trigger();
                    stage.ended.triggered().await;
                }
                announced
            },
        );
        announced
            .and(gateway)
            .and(ingestion)
            .and(policy)
            .and(twin_store)
    };
    let overdue = async {
        shutdown.triggered().await;
        tokio::time::sleep(plan.drain_within).await;
    };
    tokio::select! {
        result = work => result,
        () = overdue => {
            let names = [
                ("gateway", &front),
                ("ingestion", &first),
                ("policy", &second),
                ("twin-store", &third),
            ];
            let waiting: Vec<_> = names
                .into_iter()
                .filter(|(_, stage)| !stage.ended.is_triggered())
                .map(|(name, _)| name)
                .collect();
            Err(Failure::new(Kind::Failed, "stopping took too long and was cut short")
                .because(format!(
                    "{} had not ended after {} s",
                    waiting.join(", "),
                    plan.drain_within.as_secs()
                ))
                .advise("nothing that was acknowledged is lost; --drain-within allows more"))
        }
    }
}

async fn build(plan: &Plan) -> Result<Built, Failure> {
    // Every configuration is read before anything is bound; addresses are not known yet.
    let nowhere = Door {
        addresses: Addresses {
            grpc: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        },
        tls: false,
    };
    let config = plan.twin_store()?;
    let (ingestion_config, _) = plan.ingestion(&nowhere)?;
    plan.policy(&nowhere)?;
    plan.gateway((&nowhere, &nowhere, &nowhere), &ingestion_config)?;

    let twin_store_tls = config.tls.cert_file.is_some();
    let twin_store: twin_store::App = build_one(config).await?;
    let store_door = Door {
        addresses: Service::addresses(&twin_store),
        tls: twin_store_tls,
    };

    let (config, device_ca) = plan.ingestion(&store_door)?;
    let (agent_tls, host) = (config.tls.cert_file.is_some(), config.public_host.clone());
    let policy_config = plan.policy(&store_door)?;
    let policy_tls = policy_config.tls.cert_file.is_some();
    let shown = config.clone();
    // The gateway would make them, and is built last; ingestion only reads them.
    if let Some(path) = shown.access_policies_file.clone() {
        let made = access_policies::Followed::open(path).await;
        made.map_err(|error| {
            let what = "cannot make the access policies";
            Failure::new(Kind::Failed, what).because(service_kit::error::chain(&error))
        })?;
    }
    let (ingestion, policy) = tokio::join!(
        build_one::<ingestion::App>(config),
        build_one::<policy::App>(policy_config)
    );
    let (ingestion, policy) = (ingestion?, policy?);
    let policy_door = Door {
        addresses: Service::addresses(&policy),
        tls: policy_tls,
    };
    let ingestion_door = Door {
        addresses: Service::addresses(&ingestion),
        tls: agent_tls,
    };
    let gateway_config = plan.gateway((&store_door, &policy_door, &ingestion_door), &shown)?;
    let gateway_tls = gateway_config.tls.cert_file.is_some();
    let gateway: gateway::App = build_one(gateway_config).await?;
    let owner = gateway.policies().named(OWNER).cloned();
    // Callers of a service with a certificate must not be sent to an authority that did not sign it.
    let only_devices = !(agent_tls || twin_store_tls || policy_tls);
    let device_ca = device_ca.filter(|_| only_devices);
    let summary = Summary {
        host,
        mqtt: ingestion::App::addresses(&ingestion).mqtt,
        ingestion: ingestion_door,
        twin_store: store_door,
        policy: policy_door,
        gateway: Door {
            addresses: Service::addresses(&gateway),
            tls: gateway_tls,
        },
        owner,
        nats_url: plan.nats_url.clone(),
        nats_token: plan.nats_token.clone(),
        nats_about: plan.nats_about.clone(),
        admin_token: plan.token.clone(),
        data_dir: plan.data_dir.clone(),
        data_dir_option: plan.data_dir_option.clone(),
        ca_file: plan.ca_file.clone().or(device_ca),
    };
    Ok(Built {
        ingestion,
        twin_store,
        policy,
        gateway,
        summary,
    })
}

async fn build_one<S: Service>(config: S::Config) -> Result<S, Failure> {
    S::build(config, SystemClock::shared())
        .await
        .map_err(|error| service::failed(S::NAME, "cannot start", &error))
}

/// A service in the order of stopping.
#[derive(Default)]
struct Stage {
    stop: ShutdownToken,
    ended: ShutdownToken,
}

impl Stage {
    /// Runs the service; when it ends for whatever reason, everything stops.
    async fn run<S: Service>(&self, app: S, everything: &ShutdownToken) -> Result<(), Failure> {
        let result = app.run(self.stop.clone()).await;
        self.ended.trigger();
        everything.trigger();
        result.map_err(|error| service::failed(S::NAME, "failed", &error))
    }
}

/// Waits until every service says that it is ready, then tells the world.
async fn announce(
    summary: &Summary,
    env_files: &EnvFiles,
    shutdown: &ShutdownToken,
) -> Result<(), Failure> {
    let doors = [
        &summary.ingestion,
        &summary.twin_store,
        &summary.policy,
        &summary.gateway,
    ];
    let deadline = Instant::now() + READY_WITHIN;
    for door in doors {
        let url = door.metrics_url();
        match shutdown.run_until(timeout_at(deadline, ready(&url))).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(not_ready(door).await),
            None => return Ok(()),
        }
    }
    let mut variables = summary.variables();
    let asked = timeout_at(deadline, id_scope(summary));
    match shutdown.run_until(asked).await {
        Some(Ok(id_scope)) => variables.push((variable::DPS_ID_SCOPE, id_scope?)),
        Some(Err(_)) => return Err(no_scope()),
        None => return Ok(()),
    }
    env_files.write(&variables)?;
    output::write(&summary.text())
}

/// What devices that register themselves have to be told; twin-store makes it at the first start.
async fn id_scope(summary: &Summary) -> Result<String, Failure> {
    let config = ClientConfig {
        tls: ClientTls {
            ca_file: summary.ca_file.clone(),
            ..ClientTls::default()
        },
        token: Some(summary.admin_token.clone()),
        ..ClientConfig::to(summary.twin_store.url())
    };
    let connection = client::connect(&config)
        .map_err(|error| no_scope().because(service_kit::error::chain(&error)))?;
    let asked = EnrollmentServiceClient::new(connection)
        .get_provisioning(GetProvisioningRequest {})
        .await;
    let known = asked.map_err(|status| no_scope().because(status.message().to_owned()))?;
    Ok(known.into_inner().id_scope)
}

fn no_scope() -> Failure {
    let what = "twin-store does not say which id scope devices register with";
    Failure::new(Kind::Unavailable, what)
}

async fn ready(metrics_url: &str) {
    loop {
        let answer = probe::readiness(metrics_url, ANSWERS_WITHIN).await;
        if answer.is_ok_and(|readiness| readiness.ready) {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn not_ready(door: &Door) -> Failure {
    let url = door.metrics_url();
    let mut failure = Failure::new(
        Kind::Unavailable,
        format!(
            "not everything was ready within {} s",
            READY_WITHIN.as_secs()
        ),
    )
    .because(format!("{url}/readyz says no"));
    if let Ok(readiness) = probe::readiness(&url, ANSWERS_WITHIN).await {
        for (name, part) in readiness.components {
            failure = failure.detail(format!("{name}: {} {}", part.state, part.reason));
        }
    }
    failure
}
