//! Automatic configurations of IoT Hub: the real Azure service SDK for Python makes, changes and
//! deletes them, and the device SDK sees what they set within seconds.

use std::time::Duration;

use crate::support::sdk;

/// The suite starts a hub of its own.
const WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn configurations_of_the_service_sdk_reach_the_device_sdk() {
    sdk::python("test_configurations.py", 2, WITHIN).await;
}
