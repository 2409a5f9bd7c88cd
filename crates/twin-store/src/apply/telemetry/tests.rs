use posture::event::{ListeningPort, ListeningPorts, Protocol};
use posture::{EventPayload, SecurityEvent};

use super::*;
use crate::record::Damaged;
use crate::store::{Loaded, Selection};
use crate::testing::{entry, heartbeats, key, now, overlay, overlay_of, partition, record};

fn ports(sequence: u64, port: u16) -> AgentBatch {
    let port = ListeningPort {
        protocol: Protocol::Tcp,
        port,
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        pid: None,
        executable: None,
    };
    let snapshot = ListeningPorts { ports: vec![port] };
    let mut batch = heartbeats([]);
    batch.events = vec![SecurityEvent {
        sequence,
        observed_at: now(),
        payload: EventPayload::ListeningPorts(snapshot),
    }];
    batch
}

fn traced(mut entry: Entry, trace: &str) -> Entry {
    entry.trace_parent = Some(trace.to_owned());
    entry
}

#[test]
fn entries_without_a_usable_twin_are_refused_and_do_not_stop_the_others() {
    let damaged = Damaged {
        key: "broken".to_owned(),
        part: "row",
        problem: "its checksum does not match".to_owned(),
    };
    let mut overlay = overlay_of(vec![
        Loaded::Whole(Box::new(record("d", "new"))),
        Loaded::Damaged(Selection::One(key("broken")), damaged),
    ]);
    let entries = [
        entry("gone", "g", 1, heartbeats([1])),
        entry("d", "old", 1, heartbeats([1])),
        entry("broken", "g", 1, heartbeats([1])),
        entry("d", "new", 1, heartbeats([1, 2])),
    ];
    let folded = fold_entries(&mut overlay, partition(), &entries, now());
    assert_eq!((folded.applied, folded.duplicates), (2, 0));
    let refused: Vec<_> = folded.refused.iter().map(|(index, _)| *index).collect();
    assert_eq!(refused, [0, 1, 2]);
    assert!(folded.refused[1].1.contains("anew"), "{:?}", folded.refused);
    let outcome = overlay.into_outcome();
    assert_eq!(outcome.changes.len(), 1);
    assert!(outcome.changes[0].after.is_some());
}

#[test]
fn an_event_has_effect_once_and_holes_are_counted() {
    let mut overlay = overlay([record("d", "g")]);
    let entries = [
        entry("d", "g", 1, heartbeats([1, 2])),
        entry("d", "g", 2, heartbeats([1, 2])),
        entry("d", "g", 3, heartbeats([5])),
    ];
    let folded = fold_entries(&mut overlay, partition(), &entries, now());
    assert_eq!(
        (folded.applied, folded.duplicates, folded.missing),
        (3, 2, 2)
    );
    let posture = &overlay.get(&key("d")).unwrap().posture;
    assert_eq!((posture.event_count, posture.version), (3, 3));
}

#[test]
fn a_change_carries_the_cause_that_tells_most_and_of_equals_the_first() {
    let mut overlay = overlay([record("d", "g")]);
    let entries = [
        traced(entry("d", "g", 1, heartbeats([1])), "routine"),
        traced(entry("d", "g", 1, ports(2, 8080)), "fact"),
        traced(entry("d", "g", 1, heartbeats([3])), "later"),
    ];
    let mut other = entries[1].clone();
    other.content = Content::Batch({
        let mut batch = ports(4, 9090);
        batch.events[0].observed_at += jiff::SignedDuration::from_secs(1);
        batch
    });
    other.trace_parent = Some("second fact".to_owned());
    let all: Vec<_> = entries.into_iter().chain([other]).collect();
    let folded = fold_entries(&mut overlay, partition(), &all, now());
    assert_eq!(folded.applied, 4);
    let mut outcome = overlay.into_outcome();
    let change = outcome.changes.pop().expect("a change");
    assert_eq!(
        change.steps.len(),
        1,
        "what was folded at once is one revision"
    );
    let touch = change.touch;
    assert_eq!(touch.cause.cause, "events:0/1");
    assert_eq!(touch.cause.actor, twin::Writer::Device);
    assert_eq!(touch.cause.trace_parent.as_deref(), Some("fact"));
    assert_eq!(touch.cause.timeline.folded_at, Some(now()));
    assert_eq!(touch.cause.timeline.observed_at, Some(now()));
}

#[test]
fn sessions_show_whether_the_agent_is_connected() {
    use posture::fold::{SessionChange, SessionNotice};
    let mut overlay = overlay([record("d", "g")]);
    let mut notice = entry("d", "g", 1, heartbeats([]));
    notice.content = Content::Session(SessionNotice {
        session_id: "s1".to_owned(),
        change: SessionChange::Connected,
        agent_version: Some("1.2.3".to_owned()),
        run: Some("run".to_owned()),
        access_policy: None,
        model_id: None,
        at: now(),
    });
    fold_entries(&mut overlay, partition(), &[notice], now());
    let agent = &overlay.get(&key("d")).unwrap().posture.agent;
    assert_eq!(agent.version.as_deref(), Some("1.2.3"));
    assert!(agent.connected);
    let change = overlay.into_outcome().changes.pop().expect("a change");
    assert_eq!(change.touch.cause.cause, "session");
    assert!(!change.touch.is_routine(), "coming and going is told");
}

#[test]
fn a_security_message_has_effect_once() {
    let mut overlay = overlay([record("d", "g")]);
    let batch = ports(1, 22);
    let message = posture::MessageBatch {
        key: posture::MessageKey::new(5),
        events: batch.events,
        rejected: 1,
        received_at: now(),
    };
    let entries = [1, 2].map(|sequence| Entry {
        content: Content::Message(message.clone()),
        ..entry("d", "g", sequence, heartbeats([1]))
    });
    let folded = fold_entries(&mut overlay, partition(), &entries, now());
    assert_eq!((folded.applied, folded.duplicates), (1, 2));
    let posture = &overlay.get(&key("d")).unwrap().posture;
    assert_eq!(posture.listening_ports[0].port, 22);
    assert_eq!(posture.version, 2);
    let changes = overlay.into_outcome().changes;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].touch.cause.timeline.observed_at, Some(now()));
}

fn begun(device: &str, session: &str, second: i64, model_id: Option<&str>) -> Entry {
    use posture::fold::SessionChange;
    let at = jiff::Timestamp::from_second(second).expect("an instant");
    let mut notice = entry(device, "g", 1, heartbeats([]));
    notice.content = Content::Session(SessionNotice {
        session_id: session.to_owned(),
        change: SessionChange::Connected,
        agent_version: None,
        run: Some("run-1".to_owned()),
        access_policy: None,
        model_id: model_id.map(str::to_owned),
        at,
    });
    notice
}

#[test]
fn the_model_is_that_of_the_newest_session_which_announced_one() {
    let mut overlay = overlay([record("d", "g")]);
    let entries = [
        begun("d", "s2", 20, Some("dtmi:a;2")),
        begun("d", "s1", 10, Some("dtmi:a;1")),
        begun("d", "s3", 30, None),
    ];
    fold_entries(&mut overlay, partition(), &entries, now());
    let identity = &overlay.get(&key("d")).unwrap().identity;
    assert_eq!(identity.model_id, "dtmi:a;2");
    let change = overlay.into_outcome().changes.pop().expect("a change");
    assert!(change.touch.changes.contains(&ChangeKind::Identity));
    assert!(!change.touch.is_routine());
}

#[test]
fn a_beginning_that_is_said_again_is_no_write() {
    let mut overlay = overlay([record("d", "g")]);
    let begun = begun("d", "s1", 10, None);
    fold_entries(
        &mut overlay,
        partition(),
        std::slice::from_ref(&begun),
        now(),
    );
    let record = overlay.get(&key("d")).unwrap().clone();
    let mut overlay = self::overlay([record]);
    let folded = fold_entries(&mut overlay, partition(), &[begun], now());
    assert_eq!(folded, Folded::default());
    assert!(overlay.into_outcome().changes.is_empty());
}

#[test]
fn only_open_sessions_of_the_run_that_is_gone_end() {
    let mut overlay = overlay(["a", "b"].map(|id| record(id, "g")));
    let entries = [begun("a", "s1", 10, None), begun("b", "s2", 10, None)];
    fold_entries(&mut overlay, partition(), &entries, now());
    let lost = [("a", "run-1"), ("b", "run-2"), ("nobody", "run-1")];
    let lost = lost.map(|(id, run)| (key(id), run.to_owned()));
    let mut end_them = || lose_sessions(&mut overlay, &lost, now());
    assert_eq!(end_them(), (1, Vec::new()));
    assert_eq!(end_them(), (0, Vec::new()), "it has ended");
    let agent = |id: &str| overlay.get(&key(id)).unwrap().posture.agent.clone();
    assert!(!agent("a").connected && agent("a").session_lost);
    assert!(agent("b").connected && !agent("b").session_lost);
}

#[test]
fn a_session_beside_the_newest_counts_when_that_ends_or_is_lost_and_its_run_is_named() {
    let entries = |id: &str| {
        let mut beside = begun(id, "s2", 5, None);
        if let Content::Session(notice) = &mut beside.content {
            notice.run = Some("run-2".to_owned());
        }
        [begun(id, "s1", 10, None), beside]
    };
    let mut overlay = overlay(["ended", "lost"].map(|id| record(id, "g")));
    for id in ["ended", "lost"] {
        let folded = fold_entries(&mut overlay, partition(), &entries(id), now());
        assert_eq!(folded.taken_up, Vec::<String>::new());
    }
    let mut end = begun("ended", "s1", 20, None);
    if let Content::Session(notice) = &mut end.content {
        notice.change = posture::fold::SessionChange::Disconnected;
    }
    let folded = fold_entries(&mut overlay, partition(), &[end], now());
    assert_eq!(folded.taken_up, ["run-2"]);
    let lost = [(key("lost"), "run-1".to_owned())];
    let outcome = lose_sessions(&mut overlay, &lost, now());
    assert_eq!(outcome, (1, vec!["run-2".to_owned()]));
    for id in ["ended", "lost"] {
        let agent = &overlay.get(&key(id)).unwrap().posture.agent;
        assert!(agent.connected, "{id}");
        assert_eq!(agent.session_run.as_deref(), Some("run-2"));
    }
}
