//! The body of a refusal on the device's side of the wire.

use jiff::Timestamp;
use serde_json::json;

/// `{"errorCode":400004,"trackingId":"..","message":"..","timestampUtc":".."}`. The Node SDK looks
/// at nothing else to tell a refusal from a success, so every refusal carries one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// IoT Hub's number; its first three digits are the status. Never 0.
    pub error_code: u32,
    /// By which our log has it: 32 hex digits.
    pub tracking_id: &'a str,
    /// What, where and what is allowed.
    pub message: &'a str,
    /// When.
    pub at: Timestamp,
}

impl ErrorBody<'_> {
    /// As it goes over the wire.
    pub fn to_json(&self) -> String {
        let stamp = self.at.strftime("%m/%d/%Y %H:%M:%S");
        json!({
            "errorCode": self.error_code,
            // The form that people know from Azure and search for.
            "trackingId": format!("{}-G:0-TimeStamp:{stamp}", self.tracking_id),
            "message": self.message,
            // Seven digits, as .NET prints and parses them.
            "timestampUtc": self.at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn it_has_the_members_that_sdks_read() {
        let body = ErrorBody {
            error_code: 400_004,
            tracking_id: "7f3c",
            message: "a \"quoted\" text",
            at: "2024-05-01T10:00:00.1234567Z".parse().unwrap(),
        };
        let read: Value = serde_json::from_str(&body.to_json()).unwrap();
        let wanted = json!({
            "errorCode": 400_004,
            "trackingId": "7f3c-G:0-TimeStamp:05/01/2024 10:00:00",
            "message": "a \"quoted\" text",
            "timestampUtc": "2024-05-01T10:00:00.1234567Z",
        });
        assert_eq!(read, wanted);
    }
}
