//! The way to `REJECTS`: what could not be used is kept there with its reason, counted and logged,
//! and everything else goes on.

use bus::{Bus, Reject};
use bytes::Bytes;
use service_kit::backoff::{Attempt, Policy, RetryError, retry};
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{error, warn};

use crate::metrics::Metrics;

/// Name under which the service rejects.
const SERVICE: &str = "policy";

/// Why something is rejected. The codes are stable; the documentation and dashboards name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A message is no `TwinChanges`.
    Undecodable,
    /// A twin in a message or an answer cannot be parsed.
    InvalidTwin,
    /// The settings of policies would break a limit of the twin.
    SettingsBreakLimit,
    /// twin-store refuses the settings for good.
    SettingsRefused,
    /// twin-store refuses an entry for the audit log for good.
    AuditRefused,
}

impl Reason {
    /// The code.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Undecodable => "UNDECODABLE_MESSAGE",
            Reason::InvalidTwin => "INVALID_TWIN",
            Reason::SettingsBreakLimit => "SETTINGS_BREAK_LIMIT",
            Reason::SettingsRefused => "SETTINGS_REFUSED",
            Reason::AuditRefused => "AUDIT_ENTRY_REFUSED",
        }
    }
}

/// One thing to reject.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    /// Names it, so that rejecting it again soon stores nothing new.
    pub id: String,
    /// Where it came from: a stream and sequence, or a twin.
    pub source: String,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub message: String,
    /// Trace context, if it had one.
    pub traceparent: Option<String>,
    /// The bytes, if there are any.
    pub original: Bytes,
}

/// The handle for rejecting.
#[derive(Debug, Clone)]
pub(crate) struct Rejects {
    /// None in tests of what rejects: then it is only counted.
    bus: Option<Bus>,
    metrics: Metrics,
    shutdown: ShutdownToken,
}

impl Rejects {
    /// Rejects into this bus.
    pub(crate) fn new(bus: Bus, metrics: Metrics, shutdown: ShutdownToken) -> Rejects {
        Rejects {
            bus: Some(bus),
            metrics,
            shutdown,
        }
    }

    /// Counts what is rejected, and keeps nothing.
    #[cfg(test)]
    pub(crate) fn counted_only(metrics: Metrics, shutdown: ShutdownToken) -> Rejects {
        Rejects {
            bus: None,
            metrics,
            shutdown,
        }
    }

    /// Stores a reject durably. False if the service stopped before it could: then what was
    /// rejected must be looked at again.
    pub(crate) async fn put(&self, rejected: Rejected) -> bool {
        let code = rejected.reason.as_str();
        let reject = Reject {
            subject: wire::subjects::rejects_subject(SERVICE),
            id: rejected.id,
            source: rejected.source.clone(),
            code: code.to_owned(),
            reason: rejected.message.clone(),
            traceparent: rejected.traceparent,
            original: rejected.original,
        };
        if let Some(bus) = &self.bus
            && !self.keep(bus, reject, &rejected.source).await
        {
            return false;
        }
        self.metrics.reject(code);
        warn!(
            source = rejected.source,
            reason = code,
            error = rejected.message,
            "rejected"
        );
        true
    }
    /// Puts it into the stream; false if the service stopped before that was done.
    async fn keep(&self, bus: &Bus, reject: Reject, source: &str) -> bool {
        let stored = retry("reject", Policy::FOREVER, &self.shutdown, || async {
            bus.reject(reject.clone()).await.map_err(|error| {
                if error.is_transient() {
                    Attempt::Again(error)
                } else {
                    Attempt::GiveUp(error)
                }
            })
        })
        .await;
        match stored {
            Ok(_) => true,
            Err(RetryError::Stopped { .. }) => false,
            // The reject itself cannot be kept; the log is what is left of it.
            Err(failed @ RetryError::Failed { .. }) => {
                error!(error = chain(&failed), source, "cannot keep a reject");
                true
            }
        }
    }
}
