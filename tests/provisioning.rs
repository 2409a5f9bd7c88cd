//! Device programs written for the Device Provisioning Service: the real Azure provisioning client for
//! Python, unmodified, registers devices with `twinward up`, which then connect.

use std::time::Duration;

use crate::support::sdk;

/// The suite starts a hub of its own, and the client waits two seconds in each registration.
const WITHIN: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_provisioning_sdk_registers_devices_which_then_connect() {
    sdk::python("test_provisioning.py", 6, WITHIN).await;
}
