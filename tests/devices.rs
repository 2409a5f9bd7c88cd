//! Device programs written for IoT Hub: the real Azure device SDK for Python, unmodified, against
//! `twinward up`, over MQTT on port 8883 and WebSocket on port 443 of loopback addresses of their own.

use std::time::Duration;

use crate::support::sdk;

/// The suite starts and restarts hubs of its own.
const WITHIN: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn devices_answer_for_their_configuration_by_what_they_report() {
    sdk::python("test_answers.py", 3, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_sdk_connects_reports_and_follows_its_twin() {
    sdk::python("test_device.py", 14, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_reports_in_vain_is_told_in_iot_hubs_numbers() {
    sdk::python("test_twin_refusals.py", 2, WITHIN).await;
}
