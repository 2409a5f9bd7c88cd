//! Queries over gRPC, on what calls before them wrote.

use service_kit::error::{Classified as _, Kind};
use testkit::NatsServer;
use wire::twin::v1 as proto;

use crate::service::{Service, refusal};

fn query(text: &str) -> proto::QueryTwinsRequest {
    proto::QueryTwinsRequest {
        query: text.to_owned(),
        ..proto::QueryTwinsRequest::default()
    }
}

#[tokio::test]
async fn a_query_finds_what_was_written_a_moment_ago_by_its_index() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d1").await;
    service.create("d2").await;
    let tag = |name: &str, site: &str| proto::PatchTwinRequest {
        name: name.to_owned(),
        tags_patch_json: format!(r#"{{"site":"{site}"}}"#),
        ..proto::PatchTwinRequest::default()
    };
    let paris = "SELECT deviceId, tags.site FROM devices WHERE tags.site = 'paris'";
    for (name, site, expected) in [
        (
            "devices/d1",
            "paris",
            vec![r#"{"deviceId":"d1","site":"paris"}"#],
        ),
        (
            "devices/d2",
            "paris",
            vec![
                r#"{"deviceId":"d1","site":"paris"}"#,
                r#"{"deviceId":"d2","site":"paris"}"#,
            ],
        ),
        (
            "devices/d1",
            "oslo",
            vec![r#"{"deviceId":"d2","site":"paris"}"#],
        ),
    ] {
        service.twins().patch_twin(tag(name, site)).await.unwrap();
        let answer = service.queries().query_twins(query(paris)).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!(answer.rows_json, expected, "after {name} went to {site}");
        assert_eq!(answer.kind(), proto::RowKind::Raw);
        assert!(answer.next_page_token.is_empty() && answer.damaged.is_empty());
    }

    let modules = "SELECT * FROM devices.modules WHERE status = 'enabled'";
    let answer = service.queries().query_twins(query(modules)).await.unwrap();
    let names: Vec<_> = answer
        .into_inner()
        .twins
        .into_iter()
        .map(|twin| twin.name)
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");

    let count = "SELECT COUNT() AS n FROM devices WHERE tags.site IN ['paris', 'oslo']";
    let answer = service.queries().query_twins(query(count)).await.unwrap();
    assert_eq!(answer.into_inner().rows_json, [r#"{"n":2}"#]);

    let request = proto::ExplainQueryRequest {
        query: paris.to_owned(),
    };
    let plan = service
        .queries()
        .explain_query(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plan.indexes, ["twin_index (tags.site)"]);
    assert_eq!(plan.residual_condition, "");

    let refused = refusal(
        service
            .queries()
            .query_twins(query("SELECT * FROM x"))
            .await,
    );
    assert_eq!(
        (refused.reason(), refused.kind()),
        ("INVALID_QUERY", Kind::InvalidArgument)
    );
    service.stop().await;
}
