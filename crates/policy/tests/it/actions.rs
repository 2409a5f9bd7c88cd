//! Direct actions: called when a policy begins to hold, once for each cause, whatever happens beside it.

use serde_json::{Value, json};
use service_kit::error::{Classified, Kind};
use service_kit::status::to_status;
use testkit::wait_for;
use tonic::Status;
use tonic::transport::Channel;
use wire::policy::v1 as proto;
use wire::policy::v1::action_call::Outcome;
use wire::policy::v1::action_service_client::ActionServiceClient;
use wire::policy::v1::freeze_service_client::FreezeServiceClient;

use crate::world::{MODULE, SETTLE, SOON, World};

/// What is called with these extra lines of the action.
fn collects(more: &str) -> String {
    format!(
        "kind: Policy\nname: collects\ntarget: '*'\nwhen: posture.score < 50\nactions:\n  calls:\n  \
         - name: collect\n    method: collectNow\n    payload: {{why: 'site {{{{tags.site}}}}'}}\n{more}"
    )
}

fn posture(score: i32, connected: bool) -> Value {
    json!({"score": score, "agent": {"connected": connected}})
}

#[derive(Debug, thiserror::Error)]
#[error("the device is not online")]
struct NotOnline;

impl Classified for NotOnline {
    fn kind(&self) -> Kind {
        Kind::FailedPrecondition
    }

    fn reason(&self) -> &'static str {
        "DEVICE_NOT_ONLINE"
    }
}

fn not_online() -> Status {
    to_status(&NotOnline)
}

async fn actions(world: &World) -> ActionServiceClient<Channel> {
    let url = format!("http://{}", world.addresses().grpc);
    ActionServiceClient::connect(url).await.unwrap()
}

async fn listed(world: &World) -> proto::ListActionCallsResponse {
    let request = proto::ListActionCallsRequest {
        parent: "policies/collects".to_owned(),
        ..proto::ListActionCallsRequest::default()
    };
    let answer = actions(world).await.list_action_calls(request).await;
    answer.unwrap().into_inner()
}

/// Waits for so many results, the newest first.
async fn results(world: &World, count: usize) -> Vec<proto::ActionCall> {
    wait_for("results of calls", SOON, async || {
        let calls = listed(world).await.calls;
        (calls.len() >= count).then_some(calls)
    })
    .await
}

#[tokio::test]
async fn an_action_is_called_once_each_time_the_policy_begins_to_hold() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    let tags = json!({"site": "Lyon"});
    world.twins.create(MODULE, tags, posture(70, true)).await;
    world.settle().await;
    assert_eq!(world.twins.invoked(), []);
    world.twins.answer_next(Some(Ok((200, r#"{"n":3}"#))));
    world.twins.fold(MODULE, posture(40, true)).await;
    let found = results(&world, 1).await;
    let payload = r#"{"why":"site Lyon"}"#.to_owned();
    let call = (MODULE.to_owned(), "collectNow".to_owned(), payload);
    assert_eq!(world.twins.invoked(), std::slice::from_ref(&call));
    assert_eq!(world.twins.invokers(), ["policy:collects@1"]);
    let one = &found[0];
    assert_eq!(one.outcome(), Outcome::Succeeded);
    assert_eq!((one.status, &*one.payload_json), (200, r#"{"n":3}"#));
    assert_eq!((one.cause, one.policy_revision, &*one.twin), (1, 1, MODULE));
    assert!(one.begin_time.is_some() && one.end_time.is_some());
    // It holds on, is told again, and over a restart; a revision that leaves the call as it is calls nothing.
    world.twins.fold(MODULE, posture(30, true)).await;
    world.stop_service().await;
    world.start_service().await;
    world
        .apply(&collects("    every: 1h\n    timeout: 10s\n"))
        .await;
    world.wait_evaluated("collects").await;
    world.settle().await;
    assert_eq!(world.twins.invoked().len(), 1);
    // It ends and begins again, and the device fails.
    world.twins.answer_next(Some(Ok((500, "null"))));
    world.twins.fold(MODULE, posture(60, true)).await;
    world.settle().await;
    world.twins.fold(MODULE, posture(10, true)).await;
    let found = results(&world, 2).await;
    assert_eq!(found[0].outcome(), Outcome::Failed);
    assert_eq!(
        (found[0].status, found[0].cause, found[0].policy_revision),
        (500, 2, 2)
    );
    // Nothing was set: the twin was never written.
    assert_eq!(world.calls_for(MODULE), 0);
    let page = world.metrics().await;
    // Since the restart.
    let counted = r#"policy_action_calls_total{policy="collects",outcome="failed"} 1"#;
    assert!(page.contains(counted), "{page}");
}

#[tokio::test]
async fn another_payload_is_another_call_and_a_policy_that_is_gone_calls_no_more() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    let tags = json!({"site": "Lyon"});
    world.twins.create(MODULE, tags, posture(40, true)).await;
    results(&world, 1).await;
    let other = collects("").replace("site ", "the site ");
    world.apply(&other).await;
    let found = results(&world, 2).await;
    assert_eq!((found[0].cause, found[0].policy_revision), (2, 2));
    world.delete_policy("collects").await;
    world.twins.fold(MODULE, posture(60, true)).await;
    world.settle().await;
    world.twins.fold(MODULE, posture(40, true)).await;
    world.settle().await;
    assert_eq!(world.twins.invoked().len(), 2);
    // What came of its calls is still told; of a new policy of its name it is a beginning.
    assert_eq!(listed(&world).await.calls.len(), 2);
    world.apply(&other).await;
    assert_eq!(results(&world, 3).await[0].cause, 1);
}

#[tokio::test]
async fn a_device_that_is_away_is_called_when_it_comes() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    let tags = json!({"site": "Lyon"});
    world.twins.create(MODULE, tags, posture(40, false)).await;
    let due = wait_for("the call to be due", SOON, async || {
        let listed = listed(&world).await;
        (listed.pending_count == 1).then_some(listed)
    })
    .await;
    assert_eq!(due.pending[0].outcome(), Outcome::Due);
    world.settle().await;
    assert_eq!(world.twins.invoked(), []);
    // It comes, and is gone again before the call arrives.
    world.twins.answer_next(Some(Err(not_online())));
    world.twins.fold(MODULE, posture(40, true)).await;
    wait_for("the call in vain", SOON, async || {
        let listed = listed(&world).await;
        let is_due = listed
            .pending
            .iter()
            .all(|one| one.outcome() == Outcome::Due);
        (world.twins.invoked().len() == 1 && is_due).then_some(())
    })
    .await;
    assert_eq!(listed(&world).await.calls, []);
    world.twins.fold(MODULE, posture(41, true)).await;
    let found = results(&world, 1).await;
    assert_eq!(
        (found[0].outcome(), found[0].cause),
        (Outcome::Succeeded, 1)
    );
    assert_eq!(listed(&world).await.pending_count, 0);
}

#[tokio::test]
async fn what_was_under_way_when_the_service_ended_is_unknown_and_called_again_only_if_it_may_be() {
    for (more, calls) in [("", 1), ("    retry: true\n", 2)] {
        let mut world = World::start().await;
        world.apply(SETTLE).await;
        world.apply(&collects(more)).await;
        world.twins.answer_next(None);
        let tags = json!({"site": "Lyon"});
        world.twins.create(MODULE, tags, posture(40, true)).await;
        wait_for("the call to be under way", SOON, async || {
            let pending = listed(&world).await.pending;
            let is_calling = |one: &proto::ActionCall| one.outcome() == Outcome::Calling;
            let under_way = pending.first().is_some_and(is_calling);
            (under_way && !world.twins.invoked().is_empty()).then_some(())
        })
        .await;
        world.stop_service().await;
        world.start_service().await;
        let found = results(&world, calls).await;
        let unknown = found.last().unwrap();
        assert_eq!((unknown.outcome(), unknown.cause), (Outcome::Unknown, 1));
        assert!(unknown.error.contains("not known"), "{}", unknown.error);
        if calls == 2 {
            assert_eq!(
                (found[0].outcome(), found[0].cause),
                (Outcome::Succeeded, 1)
            );
        }
        world.twins.fold(MODULE, posture(39, true)).await;
        world.settle().await;
        assert_eq!(world.twins.invoked().len(), calls);
    }
}

#[tokio::test]
async fn a_policy_that_may_change_nothing_calls_nothing() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    let url = format!("http://{}", world.addresses().grpc);
    let mut freezes = FreezeServiceClient::connect(url).await.unwrap();
    let freeze = proto::CreateFreezeRequest {
        freeze: Some(proto::Freeze {
            policies: vec!["policies/collects".to_owned()],
            ..proto::Freeze::default()
        }),
        lasts: None,
    };
    let freeze = freezes.create_freeze(freeze).await.unwrap().into_inner();
    let tags = json!({"site": "Lyon"});
    world.twins.create(MODULE, tags, posture(40, true)).await;
    world.settle().await;
    assert_eq!(
        listed(&world).await,
        proto::ListActionCallsResponse::default()
    );
    let name = freeze.name;
    freezes
        .end_freeze(proto::EndFreezeRequest { name })
        .await
        .unwrap();
    results(&world, 1).await;
    assert_eq!(world.twins.invoked().len(), 1);
}

#[tokio::test]
async fn a_rollout_calls_where_its_waves_have_come_and_not_where_it_stands_still() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    for n in 0..3 {
        let name = format!("devices/cam-{n}/modules/m");
        let tags = json!({"site": n, "canary": n == 0});
        world.twins.create(&name, tags, posture(40, true)).await;
    }
    // The double cannot be watched, so the counts never say that the first wave is well.
    let staged = collects("rollout:\n  waves:\n  - where: tags.canary = true\n");
    world.apply(&staged).await;
    results(&world, 1).await;
    world.settle().await;
    let called: Vec<String> = world.twins.invoked().into_iter().map(|one| one.0).collect();
    assert_eq!(called, ["devices/cam-0/modules/m"]);
}

#[tokio::test]
async fn no_more_is_called_than_the_policy_says_and_a_preview_says_what_would_be() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    for n in 0..4 {
        let name = format!("devices/cam-{n}/modules/m");
        let tags = json!({"site": n});
        world.twins.create(&name, tags, posture(40, n != 3)).await;
    }
    let file = collects("").replace("actions:\n", "actions:\n  perMinute: 2\n");
    let spec = policy::file::parse(&file).unwrap().remove(0);
    let preview = async || {
        let request = proto::PreviewPolicyRequest {
            policy: Some(policy::resource::to_request(&spec)),
        };
        let answer = world.client().await.preview_policy(request).await.unwrap();
        let mut events = answer.into_inner();
        let mut twins = 0;
        loop {
            use proto::preview_policy_response::Event;
            match events.message().await.unwrap().unwrap().event.unwrap() {
                Event::Twin(twin) => twins += usize::from(twin.actions == ["collect"]),
                Event::Summary(sum) => return (twins, sum.actions),
            }
        }
    };
    let (twins, sum) = preview().await;
    assert_eq!((twins, sum[0].twins, &*sum[0].method), (4, 4, "collectNow"));
    world.apply(&file).await;
    results(&world, 2).await;
    world.settle().await;
    assert_eq!(world.twins.invoked().len(), 2);
    assert_eq!(listed(&world).await.pending_count, 2);
    let (twins, sum) = preview().await;
    assert_eq!((twins, sum[0].twins), (0, 0), "all causes are known");
    let wrong = proto::ListActionCallsRequest {
        parent: "policies/collects".to_owned(),
        outcome: 99,
        ..proto::ListActionCallsRequest::default()
    };
    assert!(
        actions(&world)
            .await
            .list_action_calls(wrong)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_payload_that_cannot_be_filled_in_is_told_and_not_called() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    world
        .twins
        .create(MODULE, json!({}), posture(40, true))
        .await;
    let found = results(&world, 1).await;
    assert_eq!(found[0].outcome(), Outcome::Failed);
    assert!(
        found[0].error.contains("needs tags.site"),
        "{}",
        found[0].error
    );
    assert_eq!(
        (found[0].begin_time, world.twins.invoked().len()),
        (None, 0)
    );
}

#[tokio::test]
async fn a_twin_that_a_policy_left_while_nobody_looked_begins_anew_when_it_comes_back() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&collects("")).await;
    let tags = json!({"site": "Lyon"});
    world.twins.create(MODULE, tags, posture(40, true)).await;
    results(&world, 1).await;
    // Another target leaves it, and no sweep finds it: nothing was set there.
    let elsewhere = collects("").replace("target: '*'", "target: tags.site = 'Nice'");
    world.apply(&elsewhere).await;
    world.wait_evaluated("collects").await;
    wait_for("the twin to be looked at", SOON, async || {
        let spec = policy::file::parse(&collects("")).unwrap().remove(0);
        let request = proto::PreviewPolicyRequest {
            policy: Some(policy::resource::to_request(&spec)),
        };
        let answer = world.client().await.preview_policy(request).await.unwrap();
        let mut events = answer.into_inner();
        while let Some(event) = events.message().await.unwrap() {
            use proto::preview_policy_response::Event;
            if let Some(Event::Summary(sum)) = event.event {
                return (sum.actions[0].twins == 1).then_some(());
            }
        }
        None
    })
    .await;
    world.apply(&collects("")).await;
    assert_eq!(results(&world, 2).await[0].cause, 2);
}
