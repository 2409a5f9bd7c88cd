//! Where the services are and how to be let in: found from options, the env file and variables.
//!
//! It never guesses an address: what is not known is an error that says where it was looked for.

mod policy_operations;
mod sources;

use std::error::Error as _;
use std::path::{Path, PathBuf};

use service_kit::client::{self, ClientConfig, ClientError};
use service_kit::secret::Secret;
use service_kit::tls::ClientTls;
use tonic::{Code, Status};
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;
use wire::policy::v1::action_service_client::ActionServiceClient;
use wire::policy::v1::configuration_service_client::ConfigurationServiceClient;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;
use wire::policy::v1::guard_service_client::GuardServiceClient;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::policy::v1::reevaluation_service_client::ReevaluationServiceClient;
use wire::policy::v1::rollout_service_client::RolloutServiceClient;
use wire::registry::v1::audit_service_client::AuditServiceClient;
use wire::registry::v1::enrollment_service_client::EnrollmentServiceClient;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1::twin_bulk_service_client::TwinBulkServiceClient;
use wire::twin::v1::twin_history_service_client::TwinHistoryServiceClient;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::args::Global;
use crate::env_file::variable;
use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;

use sources::Sources;
pub(crate) use sources::{Origin, Setting};

/// A channel that carries the token.
pub(crate) type Channel = client::Connection;
/// Identities.
pub(crate) type Registry = RegistryServiceClient<Channel>;
/// Enrolments of devices that register themselves.
pub(crate) type Enrollments = EnrollmentServiceClient<Channel>;
/// Twins.
pub(crate) type Twins = TwinServiceClient<Channel>;
/// What twins were.
pub(crate) type Histories = TwinHistoryServiceClient<Channel>;
/// Search over twins.
pub(crate) type Queries = TwinQueryServiceClient<Channel>;
/// Updates of many twins.
pub(crate) type Operations = TwinBulkServiceClient<Channel>;
/// The audit log.
pub(crate) type Audits = AuditServiceClient<Channel>;
/// Calls and messages to devices.
pub(crate) type Commands = DeviceCommandServiceClient<Channel>;
/// Policies.
pub(crate) type Policies = PolicyServiceClient<Channel>;
/// Configurations of IoT Hub.
pub(crate) type Configurations = ConfigurationServiceClient<Channel>;
/// Freezes.
pub(crate) type Freezes = FreezeServiceClient<Channel>;
/// The actions of policies.
pub(crate) type Actions = ActionServiceClient<Channel>;
/// The oscillation guard.
pub(crate) type Guard = GuardServiceClient<Channel>;
/// Re-evaluations.
pub(crate) type Reevaluations = ReevaluationServiceClient<Channel>;
/// Rollouts.
pub(crate) type Rollouts = RolloutServiceClient<Channel>;

/// Answers hold documents of twins, up to 1000 of them: more than tonic's 4 MiB.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// What connection strings name when nothing else is known: what ingestion believes of itself too.
const HOST_DEFAULT: &str = "localhost";

/// How to reach the services.
#[derive(Debug)]
pub(crate) struct Connection {
    sources: Sources,
    global: Global,
    token: Option<Secret>,
    /// Where the token is, if in a file of its own.
    token_file: Option<PathBuf>,
    operator: String,
    data_dir: PathBuf,
}

impl Connection {
    /// Finds out what can be found out without asking anybody.
    pub(crate) fn find(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        let data_dir = data_dir(global, environment)?;
        let sources = Sources::read(global, environment, &data_dir)?;
        let (token, token_file) = match (&global.token, &global.token_file) {
            (Some(token), _) => (Some(Secret::new(token)), None),
            (None, Some(path)) => (None, Some(path.clone())),
            (None, None) => {
                match sources.get_first(&[variable::ADMIN_TOKEN, variable::TOKEN_FILE]) {
                    Some((variable::TOKEN_FILE, setting)) => (None, Some(setting.value.into())),
                    Some((_, setting)) => (Some(Secret::new(setting.value)), None),
                    None => (None, None),
                }
            }
        };
        // What cannot be read is told at once, and not by the first call.
        let token = match &token_file {
            Some(path) => Some(read_token(path)?),
            None => token,
        };
        let operator = ["TWINWARD_OPERATOR", "USER"]
            .iter()
            .find_map(|name| environment.get(name));
        Ok(Self {
            sources,
            global: global.clone(),
            token,
            token_file,
            operator: operator.unwrap_or("admin").to_owned(),
            data_dir,
        })
    }

    /// The registry of twin-store.
    pub(crate) fn registry(&self) -> Result<Registry, Failure> {
        Ok(Registry::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The enrolments of twin-store.
    pub(crate) fn enrollments(&self) -> Result<Enrollments, Failure> {
        Ok(Enrollments::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The twins of twin-store.
    pub(crate) fn twins(&self) -> Result<Twins, Failure> {
        Ok(Twins::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The histories of twin-store's twins.
    pub(crate) fn histories(&self) -> Result<Histories, Failure> {
        Ok(Histories::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Search over twin-store's twins.
    pub(crate) fn queries(&self) -> Result<Queries, Failure> {
        Ok(Queries::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The long-running operations of twin-store.
    pub(crate) fn operations(&self) -> Result<Operations, Failure> {
        Ok(Operations::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The audit log of twin-store.
    pub(crate) fn audits(&self) -> Result<Audits, Failure> {
        Ok(Audits::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// What can be asked of devices.
    pub(crate) fn commands(&self) -> Result<Commands, Failure> {
        Ok(Commands::new(self.channel(&self.twin_store()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The policies.
    pub(crate) fn policies(&self) -> Result<Policies, Failure> {
        Ok(Policies::new(self.channel(&self.policy()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The configurations of IoT Hub.
    pub(crate) fn configurations(&self) -> Result<Configurations, Failure> {
        Ok(Configurations::new(self.channel(&self.policy()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// What policies have called.
    pub(crate) fn actions(&self) -> Result<Actions, Failure> {
        Ok(
            Actions::new(self.channel(&self.policy()?)?)
                .max_decoding_message_size(ANSWER_BYTES_MAX),
        )
    }

    /// What policies leave alone since it went back and forth.
    pub(crate) fn guard(&self) -> Result<Guard, Failure> {
        Ok(Guard::new(self.channel(&self.policy()?)?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The rollouts of policies.
    pub(crate) fn rollouts(&self) -> Result<Rollouts, Failure> {
        Ok(Rollouts::new(self.channel(&self.policy()?)?)
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// The freezes of policies.
    pub(crate) fn freezes(&self) -> Result<Freezes, Failure> {
        Ok(
            Freezes::new(self.channel(&self.policy()?)?)
                .max_decoding_message_size(ANSWER_BYTES_MAX),
        )
    }

    /// A channel to any of our services.
    pub(crate) fn channel(&self, url: &Setting) -> Result<Channel, Failure> {
        let file = |option: &Option<PathBuf>, name| {
            let known = || self.sources.get(name).map(|file| PathBuf::from(file.value));
            option.clone().or_else(known)
        };
        let config = ClientConfig {
            tls: ClientTls {
                ca_file: file(&self.global.ca_file, variable::CA_FILE),
                cert_file: file(&self.global.client_cert_file, variable::CLIENT_CERT_FILE),
                key_file: file(&self.global.client_key_file, variable::CLIENT_KEY_FILE),
                domain: None,
            },
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            connect_timeout: self.global.timeout,
            call_timeout: self.global.timeout,
            ..ClientConfig::to(&url.value)
        };
        client::connect(&config).map_err(|error| {
            let failure = match &error {
                ClientError::Token(_) => Failure::new(Kind::Denied, "cannot use the token").advise(
                    "`twinward up` writes the right one into its env file (--env-file, \
                         --token-file)",
                ),
                _ => Failure::new(
                    Kind::Usage,
                    format!("cannot use {} ({})", url.value, url.origin),
                ),
            };
            failure.because(service_kit::error::chain(&error))
        })
    }

    /// What is known under this variable's name.
    pub(crate) fn known(&self, name: &str) -> Option<Setting> {
        self.sources.get(name)
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> std::time::Duration {
        self.global.timeout.get()
    }

    /// The host that connection strings name.
    pub(crate) fn host(&self) -> String {
        self.known(variable::HOST)
            .map_or_else(|| HOST_DEFAULT.to_owned(), |host| host.value)
    }

    /// Where agents connect, when it is known.
    pub(crate) fn agent_url(&self) -> Option<String> {
        self.known(variable::AGENT_URL).map(|url| url.value)
    }

    /// Who changes things, unless the verb is told otherwise.
    pub(crate) fn operator(&self) -> &str {
        &self.operator
    }

    /// The address of twin-store.
    pub(crate) fn twin_store(&self) -> Result<Setting, Failure> {
        self.url(
            self.global.twin_store_url.as_ref(),
            "--twin-store-url",
            variable::TWIN_STORE_URL,
        )
    }

    /// The address of policy.
    pub(crate) fn policy(&self) -> Result<Setting, Failure> {
        self.url(
            self.global.policy_url.as_ref(),
            "--policy-url",
            variable::POLICY_URL,
        )
    }

    fn url(
        &self,
        flag: Option<&String>,
        flag_name: &'static str,
        variable: &'static str,
    ) -> Result<Setting, Failure> {
        if let Some(value) = flag {
            return Ok(Setting {
                value: value.clone(),
                origin: Origin::Option(flag_name),
            });
        }
        self.known(variable).ok_or_else(|| {
            Failure::new(Kind::Unavailable, "no service to ask")
                .because(format!(
                    "neither {flag_name} nor {variable} is set, and {}",
                    self.looked()
                ))
                .advise(
                    "start everything with `twinward up`, or name the services with --env-file or \
                     --twin-store-url and --policy-url",
                )
        })
    }

    /// Says that nobody answered, and who was asked.
    pub(crate) fn unreachable(&self, what: &str, cause: &str) -> Failure {
        let mut failure = Failure::new(Kind::Unavailable, what).because(cause);
        for address in [self.twin_store(), self.policy()].into_iter().flatten() {
            failure = failure.detail(format!("{} ({})", address.value, address.origin));
        }
        failure.advise("is `twinward up` running? `twinward status` shows what is serving")
    }

    fn looked(&self) -> String {
        format!(
            "there is no {}",
            crate::env_file::path_in(&self.data_dir).display()
        )
    }

    /// Explains a failed call. When nobody answered, says who was asked, how that address was
    /// found, and what to look at.
    pub(crate) fn refused(&self, what: &str, status: Status) -> Failure {
        let transport = transport_cause(&status);
        match (transport, status.code()) {
            (Some(cause), _) => self.unreachable(what, &cause),
            (None, Code::DeadlineExceeded | Code::Cancelled) if status.source().is_some() => {
                Failure::new(Kind::Unavailable, what)
                    .because(format!("no answer within {}", self.global.timeout))
                    .advise("--timeout allows more; `twinward status` shows what is serving")
            }
            (None, _) => Failure::from_status(what, status),
        }
    }
}

/// Where `up` keeps everything: an option, a variable, or where the XDG base directory
/// specification wants what a user's programs keep.
pub(crate) fn data_dir(global: &Global, environment: &Environment) -> Result<PathBuf, Failure> {
    if let Some(path) = &global.data_dir {
        return Ok(path.clone());
    }
    if let Some(path) = environment.get(variable::DATA_DIR) {
        return Ok(PathBuf::from(path));
    }
    // The specification: a relative path is to be ignored.
    if let Some(path) = environment
        .get("XDG_DATA_HOME")
        .filter(|path| path.starts_with('/'))
    {
        return Ok(Path::new(path).join("twinward"));
    }
    match environment.get("HOME") {
        Some(home) => Ok(Path::new(home).join(".local/share/twinward")),
        None => Err(Failure::new(Kind::Usage, "no data directory")
            .because("neither TWINWARD_DATA_DIR nor XDG_DATA_HOME nor HOME is set")
            .advise("name one with --data-dir")),
    }
}

fn read_token(path: &Path) -> Result<Secret, Failure> {
    let text = crate::files::read(path)?;
    match text.trim() {
        "" => Err(Failure::new(
            Kind::Usage,
            format!("{} holds no token", path.display()),
        )),
        token => Ok(Secret::new(token)),
    }
}

/// Why the call did not reach the service, if that is what happened. Tonic wraps what the system
/// said several times; the innermost is what a person can use.
fn transport_cause(status: &Status) -> Option<String> {
    let mut cause = status.source()?;
    let mut transport = false;
    loop {
        transport |= cause.is::<tonic::transport::Error>() || cause.is::<std::io::Error>();
        match cause.source() {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    transport.then(|| cause.to_string())
}

#[cfg(test)]
mod tests;
