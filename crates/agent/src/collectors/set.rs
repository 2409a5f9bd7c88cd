//! Which collectors run under a configuration, and asking them together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use posture::Lane;
use posture::agent_config::{
    AgentConfiguration, CollectorSettings, FileSystemConfiguration, HeartbeatConfiguration,
    ListeningPortsConfiguration, LocalUsersConfiguration, LoginConfiguration, LoginSource,
    NetworkActivityConfiguration, ProcessConfiguration, SystemInformationConfiguration,
};
use service_kit::clock::SharedClock;
use service_kit::tasks::{OnFailure, Tasks};
use tokio::sync::mpsc;

use super::connections::Connections;
use super::driver::{Driver, Report, Request};
use super::file_system::FileSystem;
use super::heartbeat::Heartbeat;
use super::listening_ports::ListeningPorts;
use super::local_users::LocalUsers;
use super::logins::Logins;
use super::processes::Processes;
use super::system_information::SystemInformation;
use super::{Collector, Health, Machine};

/// Requests that may wait at one collector. The engine asks and waits, so one is the rule.
const REQUESTS_MAX: usize = 4;

/// Where the login collector keeps how far it read.
const LOGINS_FILE: &str = "logins.json";

/// What collectors need of the outside.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) machine: Machine,
    pub(crate) data_dir: PathBuf,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// The collectors.
#[derive(Debug)]
pub(crate) struct CollectorSet {
    surroundings: Surroundings,
    running: BTreeMap<&'static str, Running>,
    round: u64,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    requests: mpsc::Sender<(Request, u64)>,
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience<'a> {
    /// Every collector.
    All,
    /// Those whose events take a lane.
    Lane(Lane),
    /// Those named.
    Named(&'a [&'static str]),
}

/// A question that was put, and how many answers will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) answers: usize,
    /// Collectors that ended although they were wanted.
    pub(crate) dead: Vec<&'static str>,
}

/// What a new configuration changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Started, or started anew.
    pub(crate) started: Vec<&'static str>,
    /// No longer wanted, or never.
    pub(crate) disabled: Vec<&'static str>,
}

impl CollectorSet {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            running: BTreeMap::new(),
            round: 0,
        }
    }

    /// Starts, restarts and stops collectors until they are what the configuration wants. One whose
    /// settings did not change goes on undisturbed.
    pub(crate) fn apply(&mut self, configuration: &AgentConfiguration) -> Changes {
        let mut changes = Changes::default();
        for plan in plans(configuration) {
            let name = plan.name();
            if !plan.settings().enabled {
                self.running.remove(name);
                changes.disabled.push(name);
                continue;
            }
            if self
                .running
                .get(name)
                .is_some_and(|running| running.plan == plan && !running.requests.is_closed())
            {
                continue;
            }
            let running = self.start(plan);
            self.running.insert(name, running);
            changes.started.push(name);
        }
        changes
    }

    /// Asks collectors; the answers come as reports.
    pub(crate) fn ask(&mut self, audience: Audience<'_>, request: Request) -> Round {
        self.round += 1;
        let mut round = Round {
            number: self.round,
            answers: 0,
            dead: Vec::new(),
        };
        for (name, running) in &self.running {
            let addressed = match audience {
                Audience::All => true,
                Audience::Lane(lane) => running.plan.settings().lane == lane,
                Audience::Named(names) => names.contains(name),
            };
            if !addressed {
                continue;
            }
            match running.requests.try_send((request, round.number)) {
                Ok(()) => round.answers += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => round.dead.push(name),
                // It has not answered earlier ones either; it will hand out with those.
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        round
    }

    fn start(&self, plan: Plan) -> Running {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let driver = Driver {
            name: plan.name(),
            lane: plan.settings().lane,
            collector: plan.build(&self.surroundings),
            requests: receiver,
            reports: self.surroundings.reports.clone(),
            clock: self.surroundings.clock.clone(),
        };
        let task = format!("collector {}", plan.name());
        self.surroundings
            .tasks
            .spawn(task, OnFailure::Log, driver.run());
        Running { plan, requests }
    }
}

/// A collector with its settings. Equal plans need no restart.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    SystemInformation(SystemInformationConfiguration),
    Process(ProcessConfiguration),
    NetworkActivity(NetworkActivityConfiguration),
    ListeningPorts(ListeningPortsConfiguration),
    Login(LoginConfiguration),
    LocalUsers(LocalUsersConfiguration),
    Heartbeat(HeartbeatConfiguration),
    FileSystem(FileSystemConfiguration),
}

fn plans(configuration: &AgentConfiguration) -> [Plan; 8] {
    let it = configuration.clone();
    [
        Plan::SystemInformation(it.system_information),
        Plan::Process(it.process),
        Plan::NetworkActivity(it.network_activity),
        Plan::ListeningPorts(it.listening_ports),
        Plan::Login(it.login),
        Plan::LocalUsers(it.local_users),
        Plan::Heartbeat(it.heartbeat),
        Plan::FileSystem(it.file_system),
    ]
}

impl Plan {
    /// The name, as in the configuration's keys.
    fn name(&self) -> &'static str {
        match self {
            Self::SystemInformation(_) => "SystemInformation",
            Self::Process(_) => "Process",
            Self::NetworkActivity(_) => "NetworkActivity",
            Self::ListeningPorts(_) => "ListeningPorts",
            Self::Login(_) => "Login",
            Self::LocalUsers(_) => "LocalUsers",
            Self::Heartbeat(_) => "Heartbeat",
            Self::FileSystem(_) => "FileSystem",
        }
    }

    fn settings(&self) -> CollectorSettings {
        match self {
            Self::SystemInformation(it) => it.collector,
            Self::Process(it) => it.collector,
            Self::NetworkActivity(it) => it.collector,
            Self::ListeningPorts(it) => it.collector,
            Self::Login(it) => it.collector,
            Self::LocalUsers(it) => it.collector,
            Self::Heartbeat(it) => it.collector,
            Self::FileSystem(it) => it.collector,
        }
    }

    fn build(&self, surroundings: &Surroundings) -> Box<dyn Collector> {
        let machine = surroundings.machine.clone();
        match self {
            Self::SystemInformation(it) => Box::new(SystemInformation::new(machine, it.clone())),
            Self::Process(it) => Box::new(Processes::new(machine, it)),
            Self::NetworkActivity(it) => Box::new(Connections::new(machine, it)),
            Self::ListeningPorts(_) => Box::new(ListeningPorts::new(machine)),
            Self::Login(it) => match it.source {
                LoginSource::Utmp => {
                    let checkpoint = surroundings.data_dir.join(LOGINS_FILE);
                    Box::new(Logins::new(&machine, checkpoint))
                }
                LoginSource::Pam => Box::new(Unavailable(
                    "Login_UsePAM is true, but this agent cannot read the PAM hook's log yet",
                )),
            },
            Self::LocalUsers(_) => Box::new(LocalUsers::new(machine)),
            Self::Heartbeat(_) => Box::new(Heartbeat),
            Self::FileSystem(it) => Box::new(FileSystem::new(it, surroundings.data_dir.clone())),
        }
    }
}

/// Stands for a source that this agent cannot read, and says so.
#[derive(Debug)]
struct Unavailable(&'static str);

impl Collector for Unavailable {
    fn observe(&mut self, _now: jiff::Timestamp, _out: &mut Vec<super::Observation>) {}

    fn snapshot(&mut self, _now: jiff::Timestamp, _out: &mut Vec<super::Observation>) {}

    fn flush(&mut self, _out: &mut Vec<super::Observation>) {}

    fn health(&self) -> Health {
        Health::skipped(self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use service_kit::clock::SystemClock;

    use super::*;
    use crate::collectors::testing::Fixture;

    fn configuration(desired: &serde_json::Value) -> AgentConfiguration {
        AgentConfiguration::parse(desired.as_object().unwrap()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_what_changed_is_started_anew() {
        let machine = Fixture::new();
        let (reports, _receiver) = mpsc::channel(1000);
        let mut set = CollectorSet::new(Surroundings {
            machine: machine.machine(),
            data_dir: machine.path("data"),
            clock: SystemClock::shared(),
            tasks: Tasks::default(),
            reports,
        });
        let first = set.apply(&configuration(&json!({ "FileSystem_Disabled": true })));
        assert_eq!(first.started.len(), 7);
        assert_eq!(first.disabled, ["FileSystem"]);

        let second = set.apply(&configuration(&json!({
            "FileSystem_Disabled": false,
            "Heartbeat_Disabled": true,
            "Process_MessageFrequency": "High",
        })));
        assert_eq!(second.started, ["Process", "FileSystem"]);
        assert_eq!(second.disabled, ["Heartbeat"]);

        assert_eq!(set.ask(Audience::All, Request::Flush).answers, 7);
        // Listening ports and local users are high by default.
        assert_eq!(
            set.ask(Audience::Lane(Lane::High), Request::Flush).answers,
            3
        );
        assert_eq!(
            set.ask(Audience::Named(&["Login"]), Request::Flush).answers,
            1
        );
    }
}
