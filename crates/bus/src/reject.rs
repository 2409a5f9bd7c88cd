//! Dead letters: what could not be used goes to the rejects stream with the reason, so that a
//! poison message never stops a partition and a person can see what was wrong with it.

use bytes::Bytes;

use crate::connection::Bus;
use crate::error::PublishError;
use crate::message::{Headers, Outgoing};
use crate::publish::Published;

/// How much of the original is kept: enough for any single event, and little enough that a flood of
/// oversized messages does not push older rejects out.
pub const ORIGINAL_MAX_BYTES: usize = 64 * 1024;

/// How long a reason may be; it may quote outside text.
pub const REASON_MAX_BYTES: usize = 1024;

/// A message that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Where to, one subject per service.
    pub subject: String,
    /// Names the rejected thing, so that rejecting it again after a restart stores nothing new:
    /// for instance `TELEMETRY_3/812/5`. Empty when it has no name.
    pub id: String,
    /// Where it came from: a stream and sequence, or a device.
    pub source: String,
    /// A stable code for counting, for instance `EVENT_TOO_LARGE`.
    pub code: String,
    /// What is wrong, in words.
    pub reason: String,
    /// Trace context of the rejected message, if it had one.
    pub traceparent: Option<String>,
    /// The rejected bytes.
    pub original: Bytes,
}

impl Reject {
    /// Header with the source.
    pub const SOURCE: &'static str = "Twinward-Reject-Source";
    /// Header with the code.
    pub const CODE: &'static str = "Twinward-Reject-Code";
    /// Header with the reason.
    pub const REASON: &'static str = "Twinward-Reject-Reason";
    /// Header with the original's size in bytes; there only when less of it is kept.
    pub const TRUNCATED_FROM: &'static str = "Twinward-Reject-Truncated-From";

    fn into_message(self) -> Outgoing {
        let mut headers = Headers::new()
            .with(Self::SOURCE, self.source)
            .with(Self::CODE, self.code)
            .with(Self::REASON, shortened(self.reason));
        if !self.id.is_empty() {
            headers.insert(Headers::MESSAGE_ID, self.id);
        }
        if let Some(traceparent) = self.traceparent {
            headers.insert(Headers::TRACEPARENT, traceparent);
        }
        let size = self.original.len();
        if size > ORIGINAL_MAX_BYTES {
            headers.insert(Self::TRUNCATED_FROM, size.to_string());
        }
        let payload = self.original.slice(..size.min(ORIGINAL_MAX_BYTES));
        Outgoing {
            subject: self.subject,
            headers,
            payload,
        }
    }
}

impl Bus {
    /// Stores a reject; the caller may go on (and acknowledge) after it returns.
    pub async fn reject(&self, reject: Reject) -> Result<Published, PublishError> {
        self.publish(reject.into_message()).await
    }
}

fn shortened(mut reason: String) -> String {
    if reason.len() > REASON_MAX_BYTES {
        let end = reason.floor_char_boundary(REASON_MAX_BYTES);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reject(original: Vec<u8>, reason: &str) -> Outgoing {
        let reject = Reject {
            subject: "rejects.ingestion".into(),
            id: "a/1".into(),
            source: "devices/a".into(),
            code: "MALFORMED".into(),
            reason: reason.into(),
            traceparent: None,
            original: original.into(),
        };
        reject.into_message()
    }

    #[test]
    fn a_small_reject_is_kept_whole() {
        let message = reject(vec![7; 10], "no such field");
        assert_eq!(message.payload.len(), 10);
        assert_eq!(message.headers.get(Reject::REASON), Some("no such field"));
        assert_eq!(message.headers.get(Headers::MESSAGE_ID), Some("a/1"));
        assert_eq!(message.headers.get(Reject::TRUNCATED_FROM), None);
    }

    #[test]
    fn a_large_reject_says_how_much_is_missing() {
        let message = reject(vec![7; ORIGINAL_MAX_BYTES + 1], "too large");
        assert_eq!(message.payload.len(), ORIGINAL_MAX_BYTES);
        assert_eq!(message.headers.get(Reject::TRUNCATED_FROM), Some("65537"));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let message = reject(Vec::new(), &"ä".repeat(REASON_MAX_BYTES));
        let reason = message.headers.get(Reject::REASON).expect("a reason");
        assert!(reason.len() <= REASON_MAX_BYTES + '…'.len_utf8());
        assert!(reason.ends_with("ä…"));
    }
}
