//! Sessions: only the newest one decides.

use super::super::{SessionChange, SessionNotice, fold_session};
use super::*;

fn notice(session_id: &str, change: SessionChange, second: i64) -> SessionNotice {
    SessionNotice {
        session_id: session_id.to_owned(),
        change,
        agent_version: Some("0.1.0".to_owned()),
        at: at(second),
    }
}

#[test]
fn a_session_begins_and_ends() {
    let mut posture = Posture::default();
    let begun = notice("a", SessionChange::Connected, 10);
    assert!(fold_session(&mut posture, &begun, 1));
    assert!(posture.agent.connected);
    assert_eq!(posture.agent.session_id.as_deref(), Some("a"));
    assert_eq!(posture.agent.version.as_deref(), Some("0.1.0"));
    assert_eq!(posture.agent.last_seen_at, Some(at(10)));

    let ended = notice("a", SessionChange::Disconnected, 20);
    assert!(fold_session(&mut posture, &ended, 2));
    assert!(!posture.agent.connected);
    assert_eq!(posture.agent.disconnected_at, Some(at(20)));
    assert_eq!((posture.version, posture.updated_at), (2, Some(at(20))));

    assert!(!fold_session(&mut posture, &begun, 3), "a redelivery");
    assert!(!fold_session(&mut posture, &ended, 3), "a redelivery");
    assert!(!posture.agent.connected);
}

#[test]
fn the_end_of_an_older_session_leaves_the_newer_connected() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 10), 1);
    fold_session(&mut posture, &notice("b", SessionChange::Connected, 20), 2);
    let old_end = notice("a", SessionChange::Disconnected, 30);
    assert!(!fold_session(&mut posture, &old_end, 3));
    assert!(posture.agent.connected);
    assert_eq!(posture.agent.session_id.as_deref(), Some("b"));
}

#[test]
fn the_beginning_of_an_older_session_changes_nothing() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("b", SessionChange::Connected, 20), 1);
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 10), 2);
    assert_eq!(posture.agent.session_id.as_deref(), Some("b"));
    assert_eq!(posture.agent.connected_at, Some(at(20)));
}
