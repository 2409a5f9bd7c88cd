//! Logins, logouts and refused logins, from the machine's own records: `wtmp` and `btmp`.
//!
//! How far each file was read is kept on disk as inode and offset, and only after what was read
//! is safe in the spool (see [`Checkpoint`]). So a record is read once; a crash in between reads at
//! most a handful twice, and never skips one.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use posture::EventPayload;
use posture::event::{LoginActivity, LoginOperation};
use serde::{Deserialize, Serialize};

use self::utmp::{DEAD_PROCESS, LOGIN_PROCESS, RECORD_BYTES, Record, USER_PROCESS};
use super::machine::Machine;
use super::{Checkpoint, Collector, Health, Observation, Urgency, Wakeup, text};

mod utmp;

/// Two `stat` calls; how soon a login is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Records of each file that the first look of a new agent reports: enough to see who is logged in,
/// without shipping years of history.
const FIRST_LOOK_RECORDS: u64 = 64;

/// Records read of one file in one look; the rest follows in the next.
const RECORDS_PER_LOOK: u64 = 512;

const RECORD_LENGTH: u64 = 384;

/// Follows the login records.
#[derive(Debug)]
pub(crate) struct Logins {
    checkpoint_path: PathBuf,
    sources: [Source; 2],
}

/// One file of records.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    meaning: Meaning,
    position: Option<Position>,
    problem: Option<String>,
}

/// What a record in a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// `wtmp`: sessions that began and ended.
    Sessions,
    /// `btmp`: logins that were refused.
    Refusals,
}

/// How far a file was read. The inode tells a rotated file from a grown one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    inode: u64,
    offset: u64,
}

/// The checkpoint's form on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct CheckpointFile {
    wtmp: Option<Position>,
    btmp: Option<Position>,
}

impl Logins {
    /// Goes on where the checkpoint says, if there is a readable one.
    pub(crate) fn new(machine: &Machine, checkpoint_path: PathBuf) -> Self {
        let kept: CheckpointFile = std::fs::read(&checkpoint_path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let source = |name, meaning, position| Source {
            path: machine.path("var/log").join(name),
            meaning,
            position,
            problem: None,
        };
        Self {
            checkpoint_path,
            sources: [
                source("wtmp", Meaning::Sessions, kept.wtmp),
                source("btmp", Meaning::Refusals, kept.btmp),
            ],
        }
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let [wtmp, btmp] = &self.sources;
        let file = CheckpointFile {
            wtmp: wtmp.position,
            btmp: btmp.position,
        };
        let content = serde_json::to_vec(&file).ok()?;
        Some(Checkpoint {
            path: self.checkpoint_path.clone(),
            content,
        })
    }
}

impl Source {
    /// Reads new records. A record being written at this moment is left for the next look.
    fn read(&mut self, now: Timestamp, out: &mut Vec<Observation>) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let found = file.metadata()?;
        let whole = found.size() - found.size() % RECORD_LENGTH;
        let mut offset = match self.position {
            Some(position) if position.inode == found.ino() && position.offset <= whole => {
                position.offset
            }
            // Rotated or cut: everything in it is new.
            Some(_) => 0,
            None => whole.saturating_sub(FIRST_LOOK_RECORDS * RECORD_LENGTH),
        };
        let end = whole.min(offset + RECORDS_PER_LOOK * RECORD_LENGTH);
        let mut bytes = [0; RECORD_BYTES];
        while offset < end {
            file.read_exact_at(&mut bytes, offset)?;
            offset += RECORD_LENGTH;
            out.extend(self.observation(now, Record::parse(&bytes)));
        }
        self.position = Some(Position {
            inode: found.ino(),
            offset,
        });
        Ok(())
    }

    fn observation(&self, now: Timestamp, record: Record) -> Option<Observation> {
        let operation = match (self.meaning, record.kind) {
            (Meaning::Sessions, USER_PROCESS) => LoginOperation::Login,
            (Meaning::Sessions, DEAD_PROCESS) => LoginOperation::Logout,
            (Meaning::Refusals, LOGIN_PROCESS | USER_PROCESS) => LoginOperation::LoginFailed,
            (Meaning::Sessions | Meaning::Refusals, _) => return None,
        };
        let urgency = match operation {
            LoginOperation::LoginFailed => Urgency::Immediate,
            LoginOperation::Login | LoginOperation::Logout => Urgency::Routine,
        };
        let payload = EventPayload::LoginActivity(LoginActivity {
            operation,
            user: record.user,
            pid: u32::try_from(record.pid).ok().filter(|pid| *pid > 0),
            terminal: text::name(&record.line),
            remote_address: text::name(&record.host),
        });
        let observed_at = record.at.filter(|at| *at <= now).unwrap_or(now);
        Some(Observation {
            observed_at,
            payload,
            urgency,
            checkpoint: None,
        })
    }
}

impl Collector for Logins {
    fn wakeup(&self) -> Wakeup {
        Wakeup::Every(POLL_INTERVAL)
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let before = out.len();
        for source in &mut self.sources {
            source.problem = match source.read(now, out) {
                Ok(()) => None,
                Err(error) => Some(format!(
                    "cannot read {}: {}",
                    source.path.display(),
                    error.kind()
                )),
            };
        }
        // With the last one, because the spool makes them durable in this order.
        if out.len() > before
            && let Some(last) = out.last_mut()
        {
            last.checkpoint = self.checkpoint();
        }
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        self.observe(now, out);
    }

    fn flush(&mut self, _out: &mut Vec<Observation>) {}

    fn health(&self) -> Health {
        let problems: Vec<&str> = self
            .sources
            .iter()
            .filter_map(|source| source.problem.as_deref())
            .collect();
        match (problems.len(), self.sources.len()) {
            (0, _) => Health::running(),
            (broken, all) if broken == all => Health::skipped(problems.join("; ")),
            _ => Health::degraded(problems.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use posture::event::CollectorState;

    use super::utmp::record;
    use super::*;
    use crate::collectors::testing::{Fixture, at};
    use crate::files::{self, Readers};

    const BOOT_TIME: i16 = 2;

    fn machine() -> Fixture {
        let machine = Fixture::new();
        machine.write("var/log/wtmp", record(BOOT_TIME, 0, "~", "reboot", "", 50));
        machine.write("var/log/btmp", "");
        machine
    }

    fn append(machine: &Fixture, path: &str, bytes: &[u8]) {
        let mut content = std::fs::read(machine.path(path)).unwrap();
        content.extend_from_slice(bytes);
        machine.write(path, content);
    }

    fn seen(out: &[Observation]) -> Vec<(LoginOperation, &str)> {
        out.iter()
            .map(|observation| match &observation.payload {
                EventPayload::LoginActivity(login) => (login.operation, login.user.as_str()),
                other => panic!("not a login: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_record_is_read_once_even_by_the_next_agent() {
        let machine = machine();
        let kept = machine.path("logins.json");
        let mut collector = Logins::new(&machine.machine(), kept.clone());
        let mut out = Vec::new();
        append(
            &machine,
            "var/log/wtmp",
            &record(USER_PROCESS, 42, "pts/0", "bob", "192.0.2.7", 100),
        );
        append(
            &machine,
            "var/log/btmp",
            &record(LOGIN_PROCESS, 43, "ssh:notty", "eve", "192.0.2.8", 101),
        );
        collector.observe(at(200), &mut out);
        assert_eq!(
            seen(&out),
            [
                (LoginOperation::Login, "bob"),
                (LoginOperation::LoginFailed, "eve")
            ]
        );
        assert_eq!(
            out[0].observed_at,
            "1970-01-01T00:01:40.25Z".parse().unwrap()
        );
        assert_eq!(out[1].urgency, Urgency::Immediate);
        let checkpoint = out[1].checkpoint.clone().unwrap();
        files::replace(&checkpoint.path, &checkpoint.content, Readers::Everyone).unwrap();

        let mut collector = Logins::new(&machine.machine(), kept);
        out.clear();
        collector.observe(at(300), &mut out);
        assert!(out.is_empty());
        append(
            &machine,
            "var/log/wtmp",
            &record(DEAD_PROCESS, 42, "pts/0", "", "", 250),
        );
        collector.observe(at(301), &mut out);
        assert_eq!(seen(&out), [(LoginOperation::Logout, "")]);
    }

    #[test]
    fn a_rotated_file_is_read_from_its_beginning_and_half_a_record_waits() {
        let machine = machine();
        let mut collector = Logins::new(&machine.machine(), machine.path("logins.json"));
        let mut out = Vec::new();
        collector.observe(at(100), &mut out);
        let fresh = record(USER_PROCESS, 1, "tty1", "ann", "", 90);
        machine.write("var/log/new", &fresh[..200]);
        std::fs::rename(machine.path("var/log/new"), machine.path("var/log/wtmp")).unwrap();
        collector.observe(at(101), &mut out);
        assert!(out.is_empty());
        machine.write("var/log/wtmp", &fresh);
        collector.observe(at(102), &mut out);
        assert_eq!(seen(&out), [(LoginOperation::Login, "ann")]);
    }

    #[test]
    fn a_missing_file_degrades_and_two_skip() {
        let machine = machine();
        std::fs::remove_file(machine.path("var/log/btmp")).unwrap();
        let mut collector = Logins::new(&machine.machine(), machine.path("logins.json"));
        collector.observe(at(1), &mut Vec::new());
        assert_eq!(collector.health().state, CollectorState::Degraded);
        assert!(collector.health().reason.unwrap().contains("btmp"));
        std::fs::remove_file(machine.path("var/log/wtmp")).unwrap();
        collector.observe(at(2), &mut Vec::new());
        assert_eq!(collector.health().state, CollectorState::Skipped);
    }

    #[test]
    fn a_new_agent_does_not_ship_years_of_history() {
        let machine = machine();
        let one = record(USER_PROCESS, 1, "tty1", "ann", "", 90);
        machine.write("var/log/wtmp", one.repeat(1000));
        let mut collector = Logins::new(&machine.machine(), machine.path("logins.json"));
        let mut out = Vec::new();
        collector.observe(at(100), &mut out);
        assert_eq!(out.len(), 64);
    }
}
