//! What back ends ask of devices: the real Azure service SDK and the real device SDK for Python,
//! unmodified, with `twinward up` between them.

use std::time::Duration;

use crate::support::sdk;

/// A device that does not answer is waited for.
const WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn the_service_sdk_calls_methods_of_devices_with_the_device_sdk() {
    sdk::python("test_commands.py", 8, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_from_the_cloud_reach_devices_with_the_device_sdk() {
    sdk::python("test_messages.py", 7, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_messages_reach_devices_at_each_of_two_instances() {
    sdk::python("test_replicas.py", 2, WITHIN).await;
}
