//! Why the service could not start or had to end, and why a session ended. What a kind of failure
//! means to a caller is said in `service_kit::status`, once.

use bus::PackError;
use service_kit::admin::AdminError;
use service_kit::client::ClientError;
use service_kit::config::Problem;
use service_kit::error::{Classified, IotHubCode, Kind};
use service_kit::server::ServerError;
use service_kit::shutdown::RunError;

use crate::auth::AuthError;

/// A failure of the service itself, as opposed to one of a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("the configuration of ingestion cannot be used: {}", list(.problems))]
    Config {
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// The agents' door cannot be opened.
    #[error("cannot open the door for agents")]
    Door(#[from] ServerError),
    /// The door for devices cannot be opened.
    #[error("cannot listen for MQTT on {address}")]
    MqttDoor {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The authorities of devices cannot be used.
    #[error("cannot use the authorities of devices in {}: {problem}", path.display())]
    DeviceAuthorities {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The shared access policies cannot be used.
    #[error(transparent)]
    AccessPolicies(#[from] access_policies::AccessError),
    /// The certificate of the door for devices cannot be used.
    #[error("cannot set up TLS for MQTT")]
    MqttTls(#[source] service_kit::tls::TlsError),
    /// The listener for probes and metrics cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] bus::ConnectError),
    /// A stream cannot be made.
    #[error(transparent)]
    Streams(#[from] bus::EnsureError),
    /// Hints cannot be listened for.
    #[error(transparent)]
    Hints(#[from] bus::HintError),
    /// The configured way to twin-store cannot be used.
    #[error("cannot set up the connection to twin-store")]
    TwinStore(#[from] ClientError),
    /// A part failed, or did not end in time.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } | Self::TwinStore(_) => Kind::InvalidArgument,
            Self::Door(_)
            | Self::MqttDoor { .. }
            | Self::MqttTls(_)
            | Self::DeviceAuthorities { .. }
            | Self::AccessPolicies(_)
            | Self::Admin(_) => Kind::FailedPrecondition,
            Self::Bus(_) | Self::Streams(_) | Self::Hints(_) => Kind::Unavailable,
            Self::Run(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Config { .. } => "CONFIG_INVALID",
            Self::Door(_)
            | Self::MqttDoor { .. }
            | Self::MqttTls(_)
            | Self::DeviceAuthorities { .. }
            | Self::AccessPolicies(_)
            | Self::Admin(_) => "LISTEN_FAILED",
            Self::Bus(_) => "BUS_UNAVAILABLE",
            Self::Streams(_) => "STREAMS_UNAVAILABLE",
            Self::Hints(_) => "HINTS_UNAVAILABLE",
            Self::TwinStore(_) => "TWIN_STORE_CONFIG_INVALID",
            Self::Run(_) => "SERVICE_FAILED",
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Why a session ended, or did not begin. The texts go to the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    /// The agent closed its side and everything it sent is answered.
    #[error("the agent ended the session")]
    Finished,
    /// The agent, or the way to it, is gone.
    #[error("the connection was lost")]
    Left,
    /// What the agent sent is no message.
    #[error("the stream cannot be read: {problem}")]
    Broken {
        /// What is wrong with it.
        problem: String,
    },
    /// There was no hello in time.
    #[error("no hello within {seconds} s")]
    NoHello {
        /// How long was waited.
        seconds: u64,
    },
    /// The identity is not proven (any more).
    #[error(transparent)]
    NotProven(#[from] AuthError),
    /// A newer session of the identity began.
    #[error("a newer session of this identity has begun")]
    TakenOver,
    /// A batch was not made durable.
    #[error("events cannot be stored at the moment; send them again")]
    NotStored(#[source] PackError),
    /// The service stops.
    #[error("the service stops; connect again")]
    Stopping,
    /// There are too many sessions.
    #[error("this instance has its {max} sessions; connect to another one or later")]
    TooMany {
        /// That many.
        max: usize,
    },
}

impl SessionEnd {
    /// The stable code of the end.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Finished => "FINISHED",
            Self::Left => "CONNECTION_LOST",
            Self::Broken { .. } => "MALFORMED_MESSAGE",
            Self::NoHello { .. } => "HELLO_MISSING",
            Self::NotProven(error) => error.code(),
            Self::TakenOver => "SESSION_TAKEN_OVER",
            Self::NotStored(_) => "EVENTS_NOT_STORED",
            Self::Stopping => "SERVICE_STOPPING",
            Self::TooMany { .. } => "TOO_MANY_SESSIONS",
        }
    }
}

impl Classified for SessionEnd {
    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::NotProven(error) => error.retry_after(),
            Self::Finished
            | Self::Left
            | Self::Broken { .. }
            | Self::NoHello { .. }
            | Self::TakenOver
            | Self::NotStored(_)
            | Self::Stopping
            | Self::TooMany { .. } => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::NotProven(error) => error.kind(),
            Self::Broken { .. } => Kind::InvalidArgument,
            Self::NoHello { .. } => Kind::DeadlineExceeded,
            Self::TakenOver => Kind::Aborted,
            Self::TooMany { .. } => Kind::ResourceExhausted,
            Self::Finished | Self::Left | Self::NotStored(_) | Self::Stopping => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        self.code()
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::NotProven(error) => error.iot_hub(),
            Self::Broken { .. } => IotHubCode::FORMAT_ERROR,
            Self::TakenOver => {
                IotHubCode::new(400_027, "ConnectionForcefullyClosedOnNewConnection")
            }
            Self::Finished
            | Self::Left
            | Self::NoHello { .. }
            | Self::NotStored(_)
            | Self::Stopping
            | Self::TooMany { .. } => self.kind().iot_hub(),
        }
    }
}
