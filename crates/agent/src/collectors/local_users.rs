//! Local accounts: a full list at each interval, and at once when an account file changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::Timestamp;
use posture::event::{LocalUser, LocalUsers as Snapshot};
use posture::{EventPayload, limits};

use super::machine::Machine;
use super::{Collector, Health, Observation, Wakeup, fit, text};

/// Two `stat` calls; how soon a new account is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// What changes when a file is written or replaced.
type Stamp = (u64, u64, i64, i64);

/// Follows `/etc/passwd` and `/etc/group`.
#[derive(Debug)]
pub(crate) struct LocalUsers {
    machine: Machine,
    stamps: Option<[Option<Stamp>; 2]>,
    reported: Option<Vec<LocalUser>>,
    health: Health,
}

impl LocalUsers {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            stamps: None,
            reported: None,
            health: Health::running(),
        }
    }

    fn read(&mut self) -> Option<Vec<LocalUser>> {
        let Some(passwd) = self.machine.text(PASSWD) else {
            self.health = Health::skipped("cannot read /etc/passwd");
            return None;
        };
        let groups = self.machine.text(GROUP);
        self.health = if groups.is_some() {
            Health::running()
        } else {
            Health::degraded("cannot read /etc/group, so group names are missing")
        };
        Some(parse(&passwd, groups.as_deref().unwrap_or_default()))
    }

    fn stamp(&self, relative: &str) -> Option<Stamp> {
        let found = std::fs::metadata(self.machine.path(relative)).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    }
}

impl Collector for LocalUsers {
    fn wakeup(&self) -> Wakeup {
        Wakeup::Every(POLL_INTERVAL)
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let stamps = Some([self.stamp(PASSWD), self.stamp(GROUP)]);
        if self.stamps == stamps {
            return;
        }
        self.stamps = stamps;
        let Some(users) = self.read() else { return };
        if self.reported.as_ref() != Some(&users) {
            self.reported = Some(users.clone());
            out.push(Observation::immediate(
                now,
                EventPayload::LocalUsers(Snapshot { users }),
            ));
        }
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let Some(users) = self.read() else { return };
        self.reported = Some(users.clone());
        out.push(Observation::routine(
            now,
            EventPayload::LocalUsers(Snapshot { users }),
        ));
    }

    fn flush(&mut self, _out: &mut Vec<Observation>) {}

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// Reads both files; a line that is none of an account is passed over.
fn parse(passwd: &str, group: &str) -> Vec<LocalUser> {
    let mut group_names: BTreeMap<u32, &str> = BTreeMap::new();
    let mut memberships: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else {
            continue;
        };
        let Ok(gid) = gid.parse() else { continue };
        group_names.entry(gid).or_insert(name);
        for member in members.split(',').filter(|member| !member.is_empty()) {
            memberships.entry(member).or_default().push(name);
        }
    }
    let mut users = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, _, shell] = fields[..] else {
            continue;
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            continue;
        };
        let Some(account) = text::name(name) else {
            continue;
        };
        let mut groups: Vec<String> = group_names
            .get(&gid)
            .into_iter()
            .chain(memberships.get(name).into_iter().flatten())
            .filter_map(|group| text::name(group))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(limits::USER_GROUPS_MAX);
        users.push(LocalUser {
            uid,
            name: account,
            gid,
            groups,
            shell: text::name(shell),
        });
    }
    users.sort_unstable();
    users.truncate(limits::LOCAL_USERS_MAX);
    fit::users(&mut users);
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::Urgency;
    use crate::collectors::testing::{Fixture, at};

    fn names(observation: &Observation) -> Vec<&str> {
        let EventPayload::LocalUsers(snapshot) = &observation.payload else {
            panic!("not a snapshot of users: {observation:?}");
        };
        snapshot
            .users
            .iter()
            .map(|user| user.name.as_str())
            .collect()
    }

    #[test]
    fn accounts_have_their_groups_and_lines_that_are_none_are_passed_over() {
        let passwd = "# comment\nroot:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:\nbad:x:y:0:::\n";
        let group = "root:x:0:\nbob:x:1000:\nsudo:x:27:bob,alice\n";
        let users = parse(passwd, group);
        assert_eq!(users.len(), 2);
        assert_eq!((users[0].name.as_str(), users[0].uid), ("root", 0));
        assert_eq!(users[0].shell.as_deref(), Some("/bin/bash"));
        assert_eq!(users[1].groups, ["bob", "sudo"]);
        assert_eq!(users[1].shell, None);
    }

    #[test]
    fn a_new_account_is_said_at_once() {
        let machine = Fixture::new();
        machine.write(PASSWD, "root:x:0:0:root:/root:/bin/bash\n");
        machine.write(GROUP, "root:x:0:\n");
        let mut collector = LocalUsers::new(machine.machine());
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        collector.observe(at(2), &mut out);
        assert_eq!(out.len(), 1);
        machine.write(
            PASSWD,
            "root:x:0:0:root:/root:/bin/bash\neve:x:0:0::/:/bin/sh\n",
        );
        collector.observe(at(3), &mut out);
        assert_eq!(names(&out[1]), ["eve", "root"]);
        assert_eq!(out[1].urgency, Urgency::Immediate);
    }

    #[test]
    fn the_accounts_of_this_machine_are_read() {
        let mut collector = LocalUsers::new(Machine::this());
        let mut out = Vec::new();
        collector.snapshot(at(1), &mut out);
        assert!(names(&out[0]).contains(&"root"));
        assert_eq!(collector.health(), Health::running());
    }

    #[test]
    fn without_an_account_file_the_collector_says_so() {
        let mut collector = LocalUsers::new(Fixture::new().machine());
        let mut out = Vec::new();
        collector.observe(at(1), &mut out);
        assert!(out.is_empty());
        assert_eq!(
            collector.health(),
            Health::skipped("cannot read /etc/passwd")
        );
    }
}
