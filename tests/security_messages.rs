//! Security messages written for IoT Hub: the real Azure device SDK for Python sends each documented
//! kind, marked by the SDK itself, and the posture of the security module follows.

use std::time::Duration;

use crate::support::sdk;

/// The suite starts a hub of its own.
const WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn security_messages_of_the_device_sdk_move_the_posture() {
    sdk::python("test_security.py", 4, WITHIN).await;
}
