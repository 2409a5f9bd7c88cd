//! Sessions: only the newest one decides.

use super::super::{SessionChange, SessionNotice, fold_session, lose_session};
use super::*;

fn notice(session_id: &str, change: SessionChange, second: i64) -> SessionNotice {
    SessionNotice {
        session_id: session_id.to_owned(),
        change,
        agent_version: Some("0.1.0".to_owned()),
        run: Some("run-1".to_owned()),
        access_policy: None,
        model_id: None,
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

#[test]
fn a_session_of_a_run_that_is_gone_ends() {
    let mut posture = Posture::default();
    let begun = notice("a", SessionChange::Connected, 10);
    fold_session(&mut posture, &begun, 1);
    assert!(!lose_session(&mut posture, "run-2", at(40)), "another run");
    assert!(lose_session(&mut posture, "run-1", at(40)));
    let agent = &posture.agent;
    assert!(!agent.connected && agent.session_lost);
    assert_eq!(agent.disconnected_at, Some(at(40)));
    assert!(!lose_session(&mut posture, "run-1", at(50)), "it has ended");
}

#[test]
fn a_run_that_was_there_after_all_keeps_its_sessions() {
    let mut posture = Posture::default();
    let begun = notice("a", SessionChange::Connected, 10);
    fold_session(&mut posture, &begun, 1);
    assert!(begun.is_known(&posture.agent));
    lose_session(&mut posture, "run-1", at(40));
    assert!(!begun.is_known(&posture.agent));
    assert!(fold_session(&mut posture, &begun, 2), "it says so again");
    let agent = &posture.agent;
    assert!(agent.connected && !agent.session_lost);
    assert_eq!(
        (agent.connected_at, agent.disconnected_at),
        (Some(at(10)), None)
    );
}

#[test]
fn what_comes_late_of_a_lost_session_does_not_bring_it_back() {
    let mut posture = Posture::default();
    let begun = notice("a", SessionChange::Connected, 10);
    fold_session(&mut posture, &begun, 1);
    lose_session(&mut posture, "run-1", at(40));
    // The end that was on its way.
    fold_session(
        &mut posture,
        &notice("a", SessionChange::Disconnected, 20),
        2,
    );
    assert!(!fold_session(&mut posture, &begun, 3), "a redelivery");
    assert!(!posture.agent.connected);
    // A newer session, and then an older one that is said again.
    fold_session(&mut posture, &notice("b", SessionChange::Connected, 50), 4);
    lose_session(&mut posture, "run-1", at(90));
    fold_session(&mut posture, &begun, 5);
    assert_eq!(posture.agent.session_id.as_deref(), Some("b"));
    assert!(!posture.agent.connected);
}

#[test]
fn no_session_ends_before_it_began() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 10), 1);
    lose_session(&mut posture, "run-1", at(5));
    assert_eq!(posture.agent.disconnected_at, Some(at(10)));
}

/// The notice of another run, whose clock is behind.
fn elsewhere(session_id: &str, change: SessionChange, second: i64) -> SessionNotice {
    SessionNotice {
        run: Some("run-2".to_owned()),
        ..notice(session_id, change, second)
    }
}

#[test]
fn a_device_that_moved_to_a_run_whose_clock_is_behind_is_there_when_the_former_one_ends() {
    let begun = [
        notice("a", SessionChange::Connected, 20),
        elsewhere("b", SessionChange::Connected, 15),
    ];
    let mut posture = Posture::default();
    for notice in &begun {
        fold_session(&mut posture, notice, 1);
    }
    assert_eq!(posture.agent.session_id.as_deref(), Some("a"));
    assert!(begun[1].is_known(&posture.agent), "it is noted");
    assert!(!fold_session(&mut posture, &begun[1], 2), "a redelivery");

    // Its end is told, or its run is killed.
    let mut ended = posture.clone();
    let end = notice("a", SessionChange::Disconnected, 21);
    assert!(fold_session(&mut ended, &end, 3));
    let mut lost = posture.clone();
    assert!(lose_session(&mut lost, "run-1", at(60)));
    for posture in [&ended, &lost] {
        let agent = &posture.agent;
        assert!(agent.connected && !agent.session_lost);
        assert_eq!(agent.session_id.as_deref(), Some("b"));
        assert_eq!(agent.session_run.as_deref(), Some("run-2"));
        assert_eq!(
            (agent.connected_at, agent.disconnected_at),
            (Some(at(15)), None)
        );
        assert_eq!(agent.other_session, None);
    }
    // What is left is ended as any other is.
    let end = elsewhere("b", SessionChange::Disconnected, 70);
    for posture in [&mut ended, &mut lost] {
        assert!(fold_session(posture, &end, 4));
        assert!(!posture.agent.connected);
    }
}

#[test]
fn a_beginning_at_another_run_counts_when_the_known_session_is_lost_whatever_its_time() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 20), 1);
    lose_session(&mut posture, "run-1", at(50));
    let late = elsewhere("b", SessionChange::Connected, 15);
    assert!(fold_session(&mut posture, &late, 2));
    assert!(posture.agent.connected);
    assert_eq!(posture.agent.session_id.as_deref(), Some("b"));
    // The run that was lost is there after all, with a session that is no longer the newest.
    fold_session(
        &mut posture,
        &notice("a", SessionChange::Disconnected, 60),
        3,
    );
    assert!(posture.agent.connected);
}

#[test]
fn what_began_beside_the_newest_and_ended_leaves_nothing() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 20), 1);
    fold_session(
        &mut posture,
        &elsewhere("b", SessionChange::Connected, 15),
        2,
    );
    let end = elsewhere("b", SessionChange::Disconnected, 30);
    assert!(fold_session(&mut posture, &end, 3));
    assert_eq!(posture.agent.other_session, None);
    assert!(posture.agent.connected);
    fold_session(
        &mut posture,
        &notice("a", SessionChange::Disconnected, 40),
        4,
    );
    assert!(!posture.agent.connected);
    // Of what has ended, an older beginning is a late one.
    let late = elsewhere("c", SessionChange::Connected, 10);
    fold_session(&mut posture, &late, 5);
    assert!(!posture.agent.connected);
}

#[test]
fn both_runs_may_be_gone() {
    let mut posture = Posture::default();
    fold_session(&mut posture, &notice("a", SessionChange::Connected, 20), 1);
    fold_session(
        &mut posture,
        &elsewhere("b", SessionChange::Connected, 15),
        2,
    );
    assert!(lose_session(&mut posture, "run-1", at(50)));
    assert!(lose_session(&mut posture, "run-2", at(50)));
    assert!(!posture.agent.connected && posture.agent.session_lost);
}

#[test]
fn who_was_vouched_for_by_an_access_policy_is_told_while_that_session_is_the_newest() {
    let mut posture = Posture::default();
    let vouched = SessionNotice {
        access_policy: Some("device".to_owned()),
        ..notice("a", SessionChange::Connected, 10)
    };
    fold_session(&mut posture, &vouched, 1);
    let policy = |posture: &Posture| posture.agent.session_access_policy.clone();
    assert_eq!(policy(&posture).as_deref(), Some("device"));
    fold_session(&mut posture, &notice("b", SessionChange::Connected, 20), 2);
    assert_eq!(policy(&posture), None, "it proved itself");
}
