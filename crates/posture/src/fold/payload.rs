//! What each kind of event does to a posture. Called once per new event.
//!
//! Everything here gives the same posture in any order of events: counters add, recent lists keep
//! the newest by observation, snapshots win by observation.

use jiff::Timestamp;

use super::Changes;
use crate::event::{
    AgentStatus, ConnectionActivity, Direction, EventPayload, FileAction, FileActivity,
    LoginActivity, LoginOperation, ProcessAction, ProcessActivity, SecurityEvent,
};
use crate::limits;
use crate::posture::{
    Agent, Collector, Connections, Files, Logins, Posture, Processes, RecentConnection, RecentFile,
    RecentLogin, RecentProcess, Snapshot, cut, remember,
};

/// Applies one new event. `observed_at` is the event's, held to the instant of reception.
pub(super) fn apply(
    posture: &mut Posture,
    event: &SecurityEvent,
    observed_at: Timestamp,
    changes: &mut Changes,
) {
    posture.event_count = posture.event_count.saturating_add(1);
    let of_kind = posture.events_by_kind.entry(event.kind()).or_default();
    *of_kind = of_kind.saturating_add(1);

    match &event.payload {
        EventPayload::SystemInformation(it) => {
            if is_no_older(&mut posture.system_observed_at, observed_at) {
                changes.system |= posture.system.as_ref() != Some(it.as_ref());
                posture.system = Some((**it).clone());
            }
        }
        EventPayload::ListeningPorts(it) => {
            changes.listening_ports |= replace(
                (
                    &mut posture.listening_ports,
                    &mut posture.listening_ports_snapshot,
                ),
                &it.ports,
                observed_at,
                limits::POSTURE_LISTENING_PORTS_MAX,
            );
        }
        EventPayload::LocalUsers(it) => {
            changes.users |= replace(
                (&mut posture.users, &mut posture.users_snapshot),
                &it.users,
                observed_at,
                limits::POSTURE_LOCAL_USERS_MAX,
            );
        }
        EventPayload::AgentStatus(it) => {
            changes.agent |= agent_status(&mut posture.agent, it, observed_at);
        }
        EventPayload::Heartbeat => {
            let newest = &mut posture.agent.last_heartbeat_at;
            *newest = (*newest).max(Some(observed_at));
        }
        EventPayload::LoginActivity(it) => {
            login(&mut posture.logins, it, observed_at);
            changes.logins = true;
        }
        EventPayload::ProcessActivity(it) => process(&mut posture.processes, it, observed_at),
        EventPayload::ConnectionActivity(it) => {
            connection(&mut posture.connections, it, observed_at);
        }
        EventPayload::FileActivity(it) => file(&mut posture.files, it, observed_at),
    }
}

/// Whether a snapshot may replace the one known; notes its instant if so. Of two with one instant
/// the later arrival wins: lanes keep their order, so it is the newer one.
fn is_no_older(known: &mut Option<Timestamp>, observed_at: Timestamp) -> bool {
    if known.is_some_and(|known| observed_at < known) {
        return false;
    }
    *known = Some(observed_at);
    true
}

/// Replaces a list by a snapshot of it; says whether the list or its length changed.
fn replace<T: Ord + Clone>(
    (list, snapshot): (&mut Vec<T>, &mut Snapshot),
    entries: &[T],
    observed_at: Timestamp,
    max: usize,
) -> bool {
    if !is_no_older(&mut snapshot.observed_at, observed_at) {
        return false;
    }
    let mut sorted = entries.to_vec();
    sorted.sort();
    sorted.dedup();
    let count = u64::try_from(sorted.len()).unwrap_or(u64::MAX);
    sorted.truncate(max);
    let changed = *list != sorted || snapshot.count != count;
    *list = sorted;
    snapshot.count = count;
    changed
}

fn agent_status(agent: &mut Agent, it: &AgentStatus, observed_at: Timestamp) -> bool {
    if !is_no_older(&mut agent.status_observed_at, observed_at) {
        return false;
    }
    let version = Some(it.agent_version.clone());
    let collectors = it
        .collectors
        .iter()
        .map(|collector| {
            let known = Collector {
                state: collector.state,
                reason: collector
                    .reason
                    .as_deref()
                    .map(|reason| cut(reason, limits::POSTURE_TEXT_BYTES_MAX)),
            };
            (collector.name.clone(), known)
        })
        .collect();
    let changed = agent.version != version || agent.collectors != collectors;
    agent.version = version;
    agent.collectors = collectors;
    changed
}

fn login(logins: &mut Logins, it: &LoginActivity, at: Timestamp) {
    match it.operation {
        LoginOperation::Login => {
            logins.succeeded = logins.succeeded.saturating_add(1);
            logins.last_succeeded_at = logins.last_succeeded_at.max(Some(at));
        }
        LoginOperation::Logout => logins.logged_out = logins.logged_out.saturating_add(1),
        LoginOperation::LoginFailed => {
            logins.failed = logins.failed.saturating_add(1);
            logins.last_failed_at = logins.last_failed_at.max(Some(at));
            remember(
                &mut logins.recent_failures,
                RecentLogin {
                    at,
                    user: it.user.clone(),
                    terminal: it.terminal.clone(),
                    remote_address: it.remote_address.clone(),
                },
            );
        }
    }
}

fn process(processes: &mut Processes, it: &ProcessActivity, at: Timestamp) {
    let counter = match it.action {
        ProcessAction::Fork => &mut processes.forked,
        ProcessAction::Exec => &mut processes.started,
        ProcessAction::Exit => &mut processes.exited,
    };
    *counter = counter.saturating_add(it.hit_count.into());
    if it.action != ProcessAction::Exec {
        return;
    }
    remember(
        &mut processes.recent,
        RecentProcess {
            at,
            action: it.action,
            pid: it.pid,
            uid: it.uid,
            executable: cut(&it.executable, limits::POSTURE_TEXT_BYTES_MAX),
            command_line: cut(&it.command_line, limits::POSTURE_TEXT_BYTES_MAX),
            hit_count: it.hit_count,
        },
    );
}

fn connection(connections: &mut Connections, it: &ConnectionActivity, at: Timestamp) {
    let counter = match it.direction {
        Direction::Inbound => &mut connections.inbound,
        Direction::Outbound => &mut connections.outbound,
        Direction::Unknown => &mut connections.unknown,
    };
    *counter = counter.saturating_add(it.hit_count.into());
    remember(
        &mut connections.recent,
        RecentConnection {
            at,
            direction: it.direction,
            protocol: it.protocol,
            local_address: it.local_address,
            local_port: it.local_port,
            remote_address: it.remote_address,
            remote_port: it.remote_port,
            executable: it
                .executable
                .as_deref()
                .map(|executable| cut(executable, limits::POSTURE_TEXT_BYTES_MAX)),
            hit_count: it.hit_count,
        },
    );
}

fn file(files: &mut Files, it: &FileActivity, at: Timestamp) {
    let counter = match it.action {
        FileAction::Created => &mut files.created,
        FileAction::Modified => &mut files.modified,
        FileAction::Deleted => &mut files.deleted,
        FileAction::Moved => &mut files.moved,
        FileAction::MetadataChanged => &mut files.metadata_changed,
    };
    *counter = counter.saturating_add(it.hit_count.into());
    remember(
        &mut files.recent,
        RecentFile {
            at,
            action: it.action,
            path: cut(&it.path, limits::POSTURE_TEXT_BYTES_MAX),
            hit_count: it.hit_count,
        },
    );
}
