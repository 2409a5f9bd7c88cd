//! A condition that takes too many steps on a twin: what was set stays, and is told of.

use serde_json::{Value, json};
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::judged_policy::Verdict;

use crate::world::{MODULE, SETTLE, SOON, World};

const COSTLY: &str = "\
kind: Policy
name: pairs
target: '*'
when: EXISTS(a IN posture.a WHERE EXISTS(b IN posture.b WHERE a + b = 3))
settings: {x: 1}
";

fn lists(length: u32, first: u32) -> Value {
    let numbers: Vec<u32> = (first..first + length).collect();
    json!({"a": numbers, "b": numbers})
}

async fn verdict(world: &World) -> proto::JudgedPolicy {
    let name = MODULE.to_owned();
    let request = proto::ExplainTwinRequest { name };
    let answer = world.client().await.explain_twin(request).await.unwrap();
    let mut policies = answer.into_inner().policies.into_iter();
    policies.find(|judged| judged.policy_id == "pairs").unwrap()
}

async fn wait_status(world: &World, names: &[&str]) {
    wait_for("what is told of the policy", SOON, async || {
        let status = world.policy("pairs").await.status?;
        let count = u64::try_from(names.len()).ok()?;
        (status.twins_undecided == count && status.undecided_twins == names).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_set_stays_while_nobody_can_say_whether_it_should() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(COSTLY).await;
    world.twins.create(MODULE, json!({}), lists(3, 1)).await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    assert_eq!(verdict(&world).await.verdict(), Verdict::Applies);

    // Of so many pairs none has this sum.
    world.twins.fold(MODULE, lists(2000, 10)).await;
    wait_status(&world, &[MODULE]).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({"x": 1}));
    let judged = verdict(&world).await;
    assert_eq!(judged.verdict(), Verdict::Undecided);
    assert!(judged.reason.contains("when takes more than"), "{judged:?}");
    assert!(judged.condition.starts_with("EXISTS(a IN"), "{judged:?}");
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("twinward_policy_undecided_total")
            && !metrics.contains("twinward_policy_undecided_total 0"),
        "{metrics}"
    );

    world.twins.fold(MODULE, lists(3, 10)).await;
    world.wait_desired(MODULE, json!({})).await;
    wait_status(&world, &[]).await;
}
