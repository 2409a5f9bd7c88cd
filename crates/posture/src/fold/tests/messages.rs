//! Security messages of IoT Hub have effect once, however often and wherever they arrive again.

use super::*;
use crate::posture::MessageKey;

fn message(key: u64, events: Vec<SecurityEvent>) -> MessageBatch {
    MessageBatch {
        key: MessageKey::new(key),
        events,
        rejected: 0,
        received_at: at(1_000_000),
    }
}

#[test]
fn a_message_moves_the_posture_and_is_counted() {
    let mut posture = Posture::default();
    let failed = login(LoginOperation::LoginFailed, "root");
    let mut sent = message(1, vec![event(1, 7, ports(&[22])), event(2, 5, failed)]);
    sent.rejected = 3;
    let outcome = fold_message(&mut posture, &sent, 9);
    assert_eq!((outcome.applied, outcome.duplicates), (2, 0));
    assert_eq!(outcome.first_observed_at, Some(at(5)));
    assert!(outcome.changes.listening_ports && outcome.changes.logins);
    assert_eq!(posture.listening_ports, [port(22)]);
    assert_eq!((posture.logins.failed, posture.event_count), (1, 2));
    assert_eq!(posture.version, 9);
    assert_eq!(posture.agent.last_seen_at, Some(at(1_000_000)));
    let delivery = posture.delivery.messages.as_ref().unwrap();
    assert_eq!((delivery.received, delivery.rejected), (2, 3));

    let printed = serde_json::to_value(&posture).unwrap();
    let newest = &printed["delivery"]["messages"]["newest"];
    assert_eq!(*newest, serde_json::json!(["0000000000000001"]));
    assert_eq!(serde_json::from_value::<Posture>(printed).unwrap(), posture);
}

#[test]
fn a_posture_without_messages_says_nothing_of_them() {
    let printed = serde_json::to_value(Posture::default()).unwrap();
    assert_eq!(printed["delivery"].get("messages"), None);
}

proptest! {
    #[test]
    fn repetitions_within_the_memory_have_no_effect(
        order in prop::collection::vec(0_u64..32, 1..120),
    ) {
        let mut posture = Posture::default();
        let mut applied = 0;
        for (sequence, key) in (1..).zip(&order) {
            let failed = login(LoginOperation::LoginFailed, "root");
            let sent = message(*key, vec![event(1, 1, failed)]);
            applied += fold_message(&mut posture, &sent, sequence).applied;
        }
        let distinct: std::collections::BTreeSet<_> = order.iter().collect();
        let distinct = u64::try_from(distinct.len()).unwrap();
        let all = u64::try_from(order.len()).unwrap();
        let delivery = posture.delivery.messages.unwrap();
        prop_assert_eq!(posture.logins.failed, distinct);
        prop_assert_eq!(applied, distinct);
        prop_assert_eq!((delivery.received, delivery.duplicates), (distinct, all - distinct));
    }
}
