//! Configurations of IoT Hub: kept over a restart, never with an etag twice, each change audited.

use std::collections::HashMap;

use policy::rollout::{Guard, OfConfigurations};
use serde_json::json;
use service_kit::error::Classified;
use service_kit::status::RemoteError;
use tonic::Status;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::configuration_service_client::ConfigurationServiceClient;
use wire::twin::v1::ConfigurationStatus;

use crate::world::{SOON, World};

async fn client(world: &World) -> ConfigurationServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    ConfigurationServiceClient::connect(url).await.unwrap()
}

fn configuration(id: &str) -> proto::Configuration {
    proto::Configuration {
        name: format!("configurations/{id}"),
        schema_version: "1.0".to_owned(),
        labels_json: json!({"a": "b"}).to_string(),
        content_json: json!({"deviceContent": {"properties.desired.x": 1}}).to_string(),
        target_condition: "tags.site = 'here'".to_owned(),
        priority: 3,
        metric_queries: HashMap::from([(
            "all".to_owned(),
            "SELECT deviceId FROM devices".to_owned(),
        )]),
        ..proto::Configuration::default()
    }
}

fn create(configuration: proto::Configuration) -> proto::CreateConfigurationRequest {
    proto::CreateConfigurationRequest {
        configuration: Some(configuration),
        operator: String::new(),
    }
}

fn update(configuration: proto::Configuration, etag: &str) -> proto::UpdateConfigurationRequest {
    proto::UpdateConfigurationRequest {
        configuration: Some(configuration),
        etag: etag.to_owned(),
        operator: String::new(),
    }
}

/// IoT Hub's number of a refusal.
fn number(status: Status) -> String {
    let error = RemoteError::from(status);
    error.fact("iot_hub_code").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_configuration_lives_over_restarts_and_its_content_never_changes() {
    let mut world = World::start().await;
    let mut api = client(&world).await;
    let made = api.create_configuration(create(configuration("c")));
    let made = made.await.unwrap().into_inner();
    assert_eq!(made.etag, "MQ==");
    let again = api.create_configuration(create(configuration("c"))).await;
    assert_eq!(number(again.unwrap_err()), "409401");

    let better = proto::Configuration {
        priority: 9,
        content_json: String::new(),
        ..configuration("c")
    };
    let updated = api.update_configuration(update(better, "MQ=="));
    let updated = updated.await.unwrap().into_inner();
    assert_eq!((&*updated.etag, updated.priority), ("Mg==", 9));
    assert_eq!(updated.content_json, made.content_json);
    assert_eq!(updated.create_time, made.create_time);
    let other = proto::Configuration {
        content_json: json!({"deviceContent": {"properties.desired.x": 2}}).to_string(),
        ..configuration("c")
    };
    let refused = api.update_configuration(update(other, "")).await;
    assert_eq!(number(refused.unwrap_err()), "400403");
    let late = api.update_configuration(update(configuration("c"), "MQ=="));
    assert_eq!(number(late.await.unwrap_err()), "412001");

    world.stop_service().await;
    world.start_service().await;
    let mut api = client(&world).await;
    let name = "configurations/c".to_owned();
    let get = proto::GetConfigurationRequest { name: name.clone() };
    let kept = api.get_configuration(get.clone()).await.unwrap();
    assert_eq!(kept.into_inner(), updated);

    let delete = |etag: &str| proto::DeleteConfigurationRequest {
        name: name.clone(),
        etag: etag.to_owned(),
        operator: String::new(),
    };
    let wrong = api.delete_configuration(delete("MQ==")).await;
    assert_eq!(number(wrong.unwrap_err()), "412001");
    api.delete_configuration(delete("Mg==")).await.unwrap();
    let gone = api.get_configuration(get).await;
    assert_eq!(number(gone.unwrap_err()), "404301");
    let lost = api.update_configuration(update(configuration("c"), ""));
    assert_eq!(number(lost.await.unwrap_err()), "404301");
    // Whoever holds an old etag must not write over the new one.
    let made = api.create_configuration(create(configuration("c")));
    assert_eq!(made.await.unwrap().into_inner().etag, "Mw==");
    let listed = api.list_configurations(proto::ListConfigurationsRequest {});
    assert_eq!(listed.await.unwrap().into_inner().configurations.len(), 1);

    let recorded = testkit::wait_for("the audit entries", SOON, async || {
        let recorded = world.twins.recorded();
        (recorded.len() == 4).then_some(recorded)
    });
    let actions: Vec<(String, String)> = recorded
        .await
        .into_iter()
        .map(|entry| (entry.action, entry.resource))
        .collect();
    let of = |action: &str| (format!("configuration.{action}"), name.clone());
    assert_eq!(
        actions,
        [of("create"), of("update"), of("delete"), of("create")]
    );
}

type Change = fn(&mut proto::Configuration);

#[tokio::test]
async fn what_is_wrong_has_iot_hubs_number() {
    let world = World::start().await;
    let mut api = client(&world).await;
    let changes: [(&str, Change); 7] = [
        ("400401", |it| it.target_condition = "tags.a =".to_owned()),
        ("400402", |it| it.content_json = "{\"x\":{}}".to_owned()),
        ("400404", |it| {
            it.metric_queries
                .insert("m".to_owned(), "SELECT".to_owned());
        }),
        ("400004", |it| it.priority = -1),
        ("400004", |it| it.labels_json = "[]".to_owned()),
        ("400004", |it| it.name = "configurations/Upper".to_owned()),
        ("400010", |it| it.schema_version = "x".repeat(200)),
    ];
    for (wanted, change) in changes {
        let mut wrong = configuration("c");
        change(&mut wrong);
        let refused = api.create_configuration(create(wrong)).await.unwrap_err();
        let message = refused.message().to_owned();
        assert_eq!(number(refused), wanted, "{message}");
    }
    let check = proto::CheckConfigurationQueriesRequest {
        target_condition: "tags.a >".to_owned(),
        metric_queries: HashMap::from([
            ("good".to_owned(), "SELECT * FROM devices".to_owned()),
            ("bad".to_owned(), "SELECT * FROM".to_owned()),
        ]),
    };
    let found = api.check_configuration_queries(check).await.unwrap();
    let found = found.into_inner();
    assert!(
        found.target_condition_error.starts_with("line 1, column"),
        "{found:?}"
    );
    let names: Vec<&String> = found.metric_query_errors.keys().collect();
    assert_eq!(names, ["bad"]);
}

/// What a twin says of `c` and `d`.
async fn wait_states(world: &World, name: &str, expected: &[(&str, ConfigurationStatus)]) {
    testkit::wait_for("where configurations stand", SOON, async || {
        let found = world.twins.configurations(name);
        let found: Vec<_> = found.iter().map(|(id, at)| (id.as_str(), *at)).collect();
        (found == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_configuration_is_carried_out_on_the_twins_that_it_targets_until_it_is_deleted() {
    use ConfigurationStatus::{Applied, Targeted};
    const HERE: &str = "devices/here";
    const THERE: &str = "devices/there";
    let mut world = World::start().await;
    let mut api = client(&world).await;
    let site = |site: &str| json!({ "site": site });
    world.twins.create(HERE, site("here"), json!(null)).await;
    world.twins.create(THERE, site("there"), json!(null)).await;
    world
        .twins
        .operate(HERE, None, Some(json!({"mine": 1})))
        .await;
    api.create_configuration(create(configuration("c")))
        .await
        .unwrap();
    world.wait_desired(HERE, json!({"mine": 1, "x": 1})).await;
    assert_eq!(world.twins.writer(HERE, "x"), "configuration:c");
    wait_states(&world, HERE, &[("c", Applied)]).await;

    // A higher one takes the leaf over; the lower one gets it back when that goes.
    let higher = proto::Configuration {
        priority: 4,
        content_json: json!({"deviceContent": {"properties.desired.x": 2}}).to_string(),
        ..configuration("d")
    };
    api.create_configuration(create(higher.clone()))
        .await
        .unwrap();
    world.wait_desired(HERE, json!({"mine": 1, "x": 2})).await;
    wait_states(&world, HERE, &[("c", Targeted), ("d", Applied)]).await;
    let lower = proto::Configuration {
        priority: 2,
        ..higher
    };
    api.update_configuration(update(lower, "")).await.unwrap();
    world.wait_desired(HERE, json!({"mine": 1, "x": 1})).await;
    wait_states(&world, HERE, &[("c", Applied), ("d", Targeted)]).await;

    // Changes of twins, also after a restart.
    world.stop_service().await;
    world.start_service().await;
    let mut api = client(&world).await;
    world.twins.operate(THERE, Some(site("here")), None).await;
    world.wait_desired(THERE, json!({"x": 1})).await;
    world.twins.operate(HERE, Some(site("there")), None).await;
    world.wait_desired(HERE, json!({"mine": 1})).await;
    wait_states(&world, HERE, &[]).await;
    for id in ["c", "d"] {
        let delete = proto::DeleteConfigurationRequest {
            name: format!("configurations/{id}"),
            ..proto::DeleteConfigurationRequest::default()
        };
        api.delete_configuration(delete).await.unwrap();
    }
    world.wait_desired(THERE, json!({})).await;
    wait_states(&world, THERE, &[]).await;
    assert!(world.rejects_now().await.is_empty());
}

#[tokio::test]
async fn there_are_a_hundred_at_most() {
    let world = World::start().await;
    let mut api = client(&world).await;
    for number in 0..100 {
        let one = configuration(&format!("c-{number}"));
        api.create_configuration(create(one)).await.unwrap();
    }
    let one_more = api.create_configuration(create(configuration("c"))).await;
    assert_eq!(number(one_more.unwrap_err()), "413101");
    let delete = proto::DeleteConfigurationRequest {
        name: "configurations/c-7".to_owned(),
        ..proto::DeleteConfigurationRequest::default()
    };
    api.delete_configuration(delete).await.unwrap();
    api.create_configuration(create(configuration("c")))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_frozen_configuration_is_not_deleted() {
    let world = World::start().await;
    let mut api = client(&world).await;
    api.create_configuration(create(configuration("c")))
        .await
        .unwrap();
    let url = format!("http://{}", world.addresses().grpc);
    let freezes = proto::freeze_service_client::FreezeServiceClient::connect(url).await;
    let mut freezes = freezes.unwrap();
    let freeze = proto::CreateFreezeRequest {
        freeze: Some(proto::Freeze {
            reason: "incident 4711".to_owned(),
            ..proto::Freeze::default()
        }),
        lasts: None,
    };
    let freeze = freezes.create_freeze(freeze).await.unwrap().into_inner();
    let delete = proto::DeleteConfigurationRequest {
        name: "configurations/c".to_owned(),
        ..proto::DeleteConfigurationRequest::default()
    };
    let refused = api.delete_configuration(delete.clone()).await.unwrap_err();
    let refused = RemoteError::from(refused);
    assert_eq!(refused.reason(), "POLICY_CLOSED");
    assert!(refused.to_string().contains("incident 4711"), "{refused}");

    let end = proto::EndFreezeRequest { name: freeze.name };
    freezes.end_freeze(end).await.unwrap();
    api.delete_configuration(delete).await.unwrap();
}

#[tokio::test]
async fn where_the_guard_is_told_to_a_configuration_of_too_many_devices_is_refused() {
    let guard = |configurations| Guard {
        twins_max: 3,
        percent_max: 100,
        twins_free: 2,
        configurations,
    };
    for (of_configurations, refuses) in [
        (OfConfigurations::Apply, false),
        (OfConfigurations::Refuse, true),
    ] {
        let world = World::start_with(guard(of_configurations)).await;
        for number in 0..4 {
            let tags = json!({"site": "here", "number": number});
            let name = format!("devices/cam-{number}");
            world.twins.create(&name, tags, json!(null)).await;
        }
        let mut client = client(&world).await;
        let reason = |answer: Result<(), Status>| match answer {
            Ok(()) => String::new(),
            Err(status) => RemoteError::from(status).reason().to_owned(),
        };
        let too_much = if refuses { "MASS_CHANGE" } else { "" };
        let few = proto::Configuration {
            target_condition: "tags.number < 3".to_owned(),
            ..configuration("few")
        };
        let made = client.create_configuration(create(few)).await.unwrap();
        let many = client.create_configuration(create(configuration("many")));
        assert_eq!(reason(many.await.map(|_| ())), too_much);
        let made = made.into_inner();
        let etag = made.etag.clone();
        let better = proto::Configuration {
            labels_json: json!({"a": "c"}).to_string(),
            ..made.clone()
        };
        let better = client.update_configuration(update(better, &etag)).await;
        let etag = better.unwrap().into_inner().etag;
        let wider = proto::Configuration {
            target_condition: "tags.site = 'here'".to_owned(),
            ..made
        };
        let wider = client.update_configuration(update(wider, &etag)).await;
        assert_eq!(reason(wider.map(|_| ())), too_much);
        let request = proto::DeleteConfigurationRequest {
            name: "configurations/few".to_owned(),
            ..proto::DeleteConfigurationRequest::default()
        };
        let deleted = client.delete_configuration(request).await;
        assert_eq!(reason(deleted.map(|_| ())), "", "it is of three");
    }
}
