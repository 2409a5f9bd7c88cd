//! A twin-store that lost its partitions cannot commit: the second one on the same data takes
//! them, the first is refused by the store, says so, and ends.

use serde_json::json;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::hub::{Hub, Part};

#[tokio::test(flavor = "multi_thread")]
async fn the_stale_one_is_refused_and_ends() {
    let mut hub = Hub::start().await;
    let api = hub.api();
    let device = api.device("cam-1").await;
    hub.allow_everything();

    let mut second = hub.another(Part::TwinStore);
    second.wait_for_line("twin-store serves", SOON).await;
    let request = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: json!({"from": "the stale one"}).to_string(),
        ..Default::default()
    };
    let refused = api
        .patch(request)
        .await
        .expect_err("the partition is another's");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    let status = hub.twin_store.wait_exit(SOON).await;
    assert!(
        !status.success(),
        "it says by its exit code that it was not asked to end"
    );
    let lines = hub.twin_store.lines().join("\n");
    assert!(lines.contains("was taken by another twin-store"), "{lines}");
    second.allow("");
    second.stop(SOON).await;
    hub.twin_store = hub.another(Part::TwinStore);
    hub.twin_store.allow("");
    hub.twin_store
        .wait_for_line("twin-store serves", SOON)
        .await;
}
