//! Processes that fork, start a program or end, aggregated by what, command line and user.
//!
//! The netlink process connector is used where the kernel allows it, else `/proc` is read again and
//! again; then processes that live shorter than the interval are not seen, and the health says so.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use posture::EventPayload;
use posture::agent_config::{ProcessConfiguration, ProcessMode};
use posture::event::{ProcessAction, ProcessActivity};

use self::connector::{Connector, Event, Read};
use self::table::{Life, Program};
use super::aggregate::Aggregate;
use super::machine::Machine;
use super::{Collector, Health, Observation, Wakeup};

mod connector;
mod table;

/// Processes read from `/proc` within a second at most. A fork bomb must not make the agent a
/// second burden; beyond this, a process counts under the program it was forked from.
const LOOKUPS_PER_SECOND: u32 = 500;

/// Follows processes.
#[derive(Debug)]
pub(crate) struct Processes {
    machine: Machine,
    polling_interval: Duration,
    source: Source,
    /// Programs of living processes, for the events that come without one.
    programs: HashMap<u32, Program>,
    users: HashMap<u32, String>,
    seen: Aggregate<(ProcessAction, u32, String), ProcessActivity>,
    lookups: Lookups,
    overruns: Overruns,
    health: Health,
}

#[derive(Debug)]
enum Source {
    Connector(Connector),
    Polling {
        lives: HashMap<u32, Life>,
    },
    /// Netlink was demanded and is not to be had.
    Nothing,
}

/// Counts reads of `/proc` in the current second.
#[derive(Debug, Default)]
struct Lookups {
    second: i64,
    done: u32,
}

impl Lookups {
    fn allow(&mut self, now: Timestamp) -> bool {
        if self.second != now.as_second() {
            *self = Self {
                second: now.as_second(),
                done: 0,
            };
        }
        self.done += 1;
        self.done <= LOOKUPS_PER_SECOND
    }
}

/// After events were dropped all of `/proc` is read again, at most this often: under a fork bomb they
/// are dropped all the time.
const LEARN_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Counts how often the kernel dropped events.
#[derive(Debug, Default)]
struct Overruns {
    count: u64,
    settled_at: Option<Timestamp>,
}

impl Overruns {
    /// How many there were, when it is time to do something about them.
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        let early = self
            .settled_at
            .is_some_and(|at| now >= at && now.duration_since(at) < LEARN_AGAIN_AFTER);
        if self.count == 0 || early {
            return None;
        }
        self.settled_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl Processes {
    pub(crate) fn new(machine: Machine, settings: &ProcessConfiguration) -> Self {
        let (source, health) = open_source(&machine, settings.mode);
        let mut collector = Self {
            users: table::user_names(&machine),
            machine,
            polling_interval: settings.polling_interval,
            source,
            programs: HashMap::new(),
            seen: Aggregate::new(settings.cache_size),
            lookups: Lookups::default(),
            overruns: Overruns::default(),
            health,
        };
        collector.learn_living();
        collector
    }

    /// Learns what runs already; that is no event.
    fn learn_living(&mut self) {
        let lives = match table::lives(&self.machine) {
            Ok(lives) => lives,
            Err(error) => {
                self.health = Health::failed(format!("cannot read /proc: {error}"));
                return;
            }
        };
        self.programs = lives
            .keys()
            .filter_map(|pid| Some((*pid, table::program(&self.machine, *pid)?)))
            .collect();
        if let Source::Polling { lives: known } = &mut self.source {
            *known = lives;
        }
    }

    fn read_connector(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        loop {
            let Source::Connector(connector) = &self.source else {
                return;
            };
            match connector.read() {
                Ok(Read::Event(event)) => self.on_event(now, event),
                Ok(Read::Other) => {}
                Ok(Read::Overrun) => {
                    self.overruns.count += 1;
                    self.settle_overruns(now);
                }
                Ok(Read::Empty) => return,
                Err(error) => {
                    self.health =
                        Health::degraded(format!("polling, because netlink broke: {error}"));
                    self.source = Source::Polling {
                        lives: HashMap::new(),
                    };
                    self.learn_living();
                    return;
                }
            }
            if self.seen.is_full() {
                self.flush(out);
            }
        }
    }

    /// Learns what lives now, since what began and ended meanwhile was not told.
    fn settle_overruns(&mut self, now: Timestamp) {
        if let Some(times) = self.overruns.take(now) {
            tracing::warn!(
                times,
                "the kernel dropped process events, because too many came at once"
            );
            self.learn_living();
        }
    }

    fn on_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Fork { parent, child } => {
                let known = self.programs.get(&parent).cloned();
                if let Some(program) = known.or_else(|| self.look_up(now, child)) {
                    let program = Program { parent, ..program };
                    self.programs.insert(child, program);
                    self.add(now, ProcessAction::Fork, child);
                }
            }
            Event::Exec { process } => {
                if let Some(program) = self.look_up(now, process) {
                    self.programs.insert(process, program);
                }
                self.add(now, ProcessAction::Exec, process);
            }
            Event::Exit { process } => {
                self.add(now, ProcessAction::Exit, process);
                self.programs.remove(&process);
            }
        }
    }

    fn poll(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let lives = match table::lives(&self.machine) {
            Ok(lives) => lives,
            Err(error) => {
                self.health = Health::failed(format!("cannot read /proc: {error}"));
                return;
            }
        };
        let Source::Polling { lives: before } = &mut self.source else {
            return;
        };
        let before = std::mem::replace(before, lives.clone());
        for pid in before.keys().filter(|pid| !lives.contains_key(*pid)) {
            self.add(now, ProcessAction::Exit, *pid);
            self.programs.remove(pid);
        }
        for (pid, life) in &lives {
            if before.get(pid) == Some(life) {
                continue;
            }
            if let Some(program) = self.look_up(now, *pid) {
                self.programs.insert(*pid, program);
                self.add(now, ProcessAction::Exec, *pid);
            }
            if self.seen.is_full() {
                self.flush(out);
            }
        }
    }

    fn look_up(&mut self, now: Timestamp, pid: u32) -> Option<Program> {
        if !self.lookups.allow(now) {
            return None;
        }
        table::program(&self.machine, pid)
    }

    /// Counts what happened to a process; one of which nothing is known was gone too soon.
    fn add(&mut self, now: Timestamp, action: ProcessAction, pid: u32) {
        let Some(program) = self.programs.get(&pid) else {
            return;
        };
        let activity = ProcessActivity {
            action,
            pid,
            parent_pid: program.parent,
            uid: program.uid,
            user: self.users.get(&program.uid).cloned(),
            executable: program.executable.clone(),
            command_line: program.command_line.clone(),
            hit_count: 1,
        };
        let key = (action, program.uid, program.command_line.clone());
        self.seen.add(now, key, activity);
    }
}

fn open_source(machine: &Machine, mode: ProcessMode) -> (Source, Health) {
    let polling = || Source::Polling {
        lives: HashMap::new(),
    };
    if mode == ProcessMode::Polling {
        return (polling(), Health::running());
    }
    let opened = if machine.is_this() {
        Connector::open()
    } else {
        Err(std::io::ErrorKind::Unsupported.into())
    };
    match (opened, mode) {
        (Ok(connector), _) => (Source::Connector(connector), Health::running()),
        (Err(error), ProcessMode::Auto | ProcessMode::Polling) => {
            let reason = format!("polling, because netlink is not to be had: {error}");
            (polling(), Health::degraded(reason))
        }
        (Err(error), ProcessMode::Netlink) => {
            let reason = format!("Process_Mode 2 wants netlink, which is not to be had: {error}");
            (Source::Nothing, Health::skipped(reason))
        }
    }
}

impl Collector for Processes {
    fn wakeup(&self) -> Wakeup {
        match &self.source {
            Source::Connector(connector) => connector
                .readiness()
                .map_or(Wakeup::Never, Wakeup::Readable),
            Source::Polling { .. } => Wakeup::Every(self.polling_interval),
            Source::Nothing => Wakeup::Never,
        }
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        match self.source {
            Source::Connector(_) => {
                self.read_connector(now, out);
                self.settle_overruns(now);
            }
            Source::Polling { .. } => self.poll(now, out),
            Source::Nothing => {}
        }
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        self.users = table::user_names(&self.machine);
        self.observe(now, out);
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<Observation>) {
        for entry in self.seen.drain() {
            let activity = ProcessActivity {
                hit_count: entry.hit_count,
                ..entry.first
            };
            out.push(Observation::routine(
                entry.first_at,
                EventPayload::ProcessActivity(activity),
            ));
        }
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use posture::event::CollectorState;

    use super::*;
    use crate::collectors::testing::{Fixture, at};

    #[test]
    fn dropped_events_are_made_good_now_and_then() {
        let mut overruns = Overruns::default();
        assert_eq!(overruns.take(at(0)), None);
        overruns.count = 1;
        assert_eq!(overruns.take(at(100)), Some(1));
        overruns.count = 70;
        assert_eq!(overruns.take(at(109)), None);
        assert_eq!(overruns.take(at(110)), Some(70));
        assert_eq!(overruns.take(at(999)), None);
        overruns.count = 1;
        assert_eq!(overruns.take(at(50)), Some(1), "the clock was set back");
    }

    fn settings(mode: ProcessMode) -> ProcessConfiguration {
        ProcessConfiguration {
            mode,
            ..ProcessConfiguration::default()
        }
    }

    fn activities(collector: &mut Processes, second: i64) -> Vec<ProcessActivity> {
        let mut out = Vec::new();
        collector.snapshot(at(second), &mut out);
        out.into_iter()
            .map(|seen| match seen.payload {
                EventPayload::ProcessActivity(activity) => activity,
                other => panic!("not a process: {other:?}"),
            })
            .collect()
    }

    /// Starts a real process and looks until both its start and its end were seen.
    fn check_sees_a_real_process(mode: ProcessMode, argument: &str) {
        let mut collector = Processes::new(Machine::this(), &settings(mode));
        let mut child = Command::new("sleep")
            .arg(argument)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        let line = format!("sleep {argument}");
        let has = |seen: &[ProcessActivity], action| {
            seen.iter()
                .any(|entry| entry.command_line == line && entry.action == action)
        };
        while !has(&seen, ProcessAction::Exec) {
            assert!(Instant::now() < deadline, "not seen: {seen:?}");
            seen.extend(activities(&mut collector, 1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while !has(&seen, ProcessAction::Exit) {
            assert!(Instant::now() < deadline, "its end was not seen");
            seen.extend(activities(&mut collector, 2));
        }
        let started = seen
            .iter()
            .find(|entry| entry.command_line == line)
            .unwrap();
        assert_eq!(
            (started.pid, started.parent_pid),
            (child.id(), std::process::id())
        );
        assert!(started.executable.contains("sleep") || started.executable.contains("coreutils"));
    }

    #[test]
    fn a_real_process_is_seen_by_polling() {
        check_sees_a_real_process(ProcessMode::Polling, "3601");
    }

    #[test]
    fn a_real_process_is_seen_by_netlink_where_the_kernel_allows_it() {
        if Connector::open().is_ok() {
            check_sees_a_real_process(ProcessMode::Netlink, "3602");
        } else {
            let collector = Processes::new(Machine::this(), &settings(ProcessMode::Netlink));
            assert_eq!(collector.health().state, CollectorState::Skipped);
        }
    }

    #[test]
    fn equal_starts_are_gathered_and_what_ran_before_is_no_event() {
        let machine = Fixture::new();
        let process = |pid: u32, started: u64| {
            machine.write(
                &format!("proc/{pid}/stat"),
                format!("{pid} (a (b) c) S 1 {}{started} 0", "0 ".repeat(17)),
            );
            machine.write(
                &format!("proc/{pid}/status"),
                "Name:\ta\nPPid:\t1\nUid:\t1000\t0\t0\t0\n",
            );
            machine.write(&format!("proc/{pid}/cmdline"), "tool\0--x\0");
        };
        machine.write("etc/passwd", "bob:x:1000:1000::/:/bin/sh\n");
        process(10, 5);
        let mut collector = Processes::new(machine.machine(), &settings(ProcessMode::Auto));
        assert_eq!(collector.health().state, CollectorState::Degraded);
        assert_eq!(activities(&mut collector, 1), []);
        process(11, 6);
        process(12, 7);
        // The same id lives a second time.
        process(10, 8);
        let found = activities(&mut collector, 2);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].action, found[0].hit_count),
            (ProcessAction::Exec, 3)
        );
        assert_eq!(found[0].command_line, "tool --x");
        assert_eq!(found[0].user.as_deref(), Some("bob"));
    }
}
