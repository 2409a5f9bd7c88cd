//! Sets everything up for the demo: tools, programs, a hub, this machine's agent, a policy. With
//! the real programs and their command lines alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::children::{Children, Output, Program, clear_variables};
use super::cli::Cli;
use super::events::{Event, Events};
use super::screen::Screen;
use super::twin::Twin;
use crate::programs::{self, Profile};
use crate::tools::{self, Tool};
use crate::workspace;

/// The policy that is shown.
pub(crate) const POLICY: &str = "unexpected-listener";
/// Its file, in the checkout.
const POLICY_FILE: &str = "deploy/samples/unexpected-listener.yaml";
/// `twinward up` allows itself two minutes.
const UP_WITHIN: Duration = Duration::from_secs(130);
/// How often the file is looked for that `up` writes when it is ready.
const LOOK: Duration = Duration::from_millis(20);
/// From the agent's start to its first snapshot in the twin.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(30);

/// Where the demo keeps its files.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) hub: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) env_file: PathBuf,
}

impl Places {
    /// Makes them anew; what an earlier demo left is removed.
    pub(crate) fn make(root: &Path) -> Result<Self> {
        let places = Self {
            hub: root.join("hub"),
            agent: root.join("agent"),
            logs: root.join("logs"),
            env_file: root.join("twinward.env"),
        };
        for directory in [&places.hub, &places.agent, &places.logs] {
            match fs::remove_dir_all(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot remove {}", directory.display()));
                }
            }
        }
        fs::create_dir_all(&places.logs)
            .with_context(|| format!("cannot make {}", places.logs.display()))?;
        Ok(places)
    }
}

/// A hub with this machine's agent.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) cli: Cli,
    pub(crate) device: String,
    pub(crate) twin: Twin,
}

/// Does all of it.
pub(crate) fn set_up(
    profile: Profile,
    places: &Places,
    children: &mut Children,
    events: &Events,
    screen: Screen,
) -> Result<Ready> {
    screen.heading("Setting up");
    let nats = tools::ensure(Tool::NatsServer)?;
    screen.fact("nats-server", &workspace::shown(&nats));
    let started = Instant::now();
    let built = programs::build(profile, &["twinward", "agent"])?;
    events.check()?;
    screen.fact(
        "build",
        &format!("{}, {}", profile.name(), seconds(started)),
    );

    let cli = Cli {
        program: built.get("twinward")?,
        env_file: places.env_file.clone(),
    };
    let started = Instant::now();
    start_hub(&cli, &nats, places, children, events)?;
    let hub = workspace::shown(&places.hub);
    screen.fact("hub", &format!("up in {}, data in {hub}", seconds(started)));

    let device = device_id();
    let agent = built.get("twinward-agent")?;
    let server = variable(&places.env_file, "TWINWARD_AGENT_URL")?;
    enrol(&agent, &cli, &device, &server, places)?;
    start_agent(&agent, &server, places, children, events)?;
    screen.fact(
        "agent",
        &format!("enrolled as {device} with a token, runs as {}", user()),
    );

    start_watch(&cli, &device, children, events)?;
    let twin = first_snapshot(events)?;
    let ports = twin.ports();
    screen.fact(
        "listening",
        &format!("TCP {}; allowed from now on", list(&ports)),
    );
    allow(&cli, &device, &ports)?;
    let policy = workspace::root().join(POLICY_FILE);
    let answer = cli.ask(&["policy", "apply", "--file", &policy.display().to_string()])?;
    screen.fact("policy", &describe_policy(&answer));
    Ok(Ready { cli, device, twin })
}

/// Writes which ports may listen.
pub(crate) fn allow(cli: &Cli, device: &str, ports: &BTreeSet<u16>) -> Result<()> {
    let tags = json!({ "allowedPorts": ports }).to_string();
    cli.ask(&[
        "twin",
        "patch",
        device,
        "--security",
        "--operator",
        "demo",
        "--tags",
        &tags,
    ])?;
    Ok(())
}

fn start_hub(
    cli: &Cli,
    nats: &Path,
    places: &Places,
    children: &mut Children,
    events: &Events,
) -> Result<()> {
    // It removes the file itself when it stops; after a crash it may have stayed.
    let _ = fs::remove_file(&places.env_file);
    let text = |path: &Path| path.display().to_string();
    let up = Program {
        name: "twinward",
        path: &cli.program,
        arguments: vec![
            "up".to_owned(),
            "--any-port".to_owned(),
            "--data-dir".to_owned(),
            text(&places.hub),
            "--env-file".to_owned(),
            text(&places.env_file),
            "--nats-server".to_owned(),
            text(nats),
        ],
        variables: Vec::new(),
        output: Output::Log,
    };
    children.start(up, events)?;
    let deadline = Instant::now() + UP_WITHIN;
    while !places.env_file.exists() {
        events.twin(Some(Instant::now() + LOOK))?;
        ensure!(
            Instant::now() < deadline,
            "the hub was not ready within {UP_WITHIN:?}"
        );
    }
    Ok(())
}

/// Enrols with a token of our own; the token is in a variable, where other users cannot see it.
fn enrol(agent: &Path, cli: &Cli, device: &str, server: &str, places: &Places) -> Result<()> {
    let answer = cli.ask(&["enrollment", "create", "--device", device])?;
    let token = answer["token"]
        .as_str()
        .context("`enrollment create` answered no token")?;
    let mut command = Command::new(agent);
    clear_variables(&mut command);
    let output = command
        .arg("enroll")
        .args(["--server", server, "--device-id", device, "--data-dir"])
        .arg(&places.agent)
        .env("TWINWARD_AGENT__ENROLLMENT_TOKEN", token)
        .stdin(Stdio::null())
        .output()
        .context("cannot start twinward-agent")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`twinward-agent enroll` failed: {}",
        said.trim()
    );
    Ok(())
}

fn start_agent(
    agent: &Path,
    server: &str,
    places: &Places,
    children: &mut Children,
    events: &Events,
) -> Result<()> {
    let arguments = ["run", "--server", server, "--data-dir"].map(str::to_owned);
    let mut arguments = arguments.to_vec();
    arguments.push(places.agent.display().to_string());
    let program = Program {
        name: "twinward-agent",
        path: agent,
        arguments,
        variables: Vec::new(),
        output: Output::Log,
    };
    children.start(program, events)?;
    Ok(())
}

fn start_watch(cli: &Cli, device: &str, children: &mut Children, events: &Events) -> Result<()> {
    let mut arguments = ["twin", "watch", device, "--security"]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(cli.options());
    let program = Program {
        name: "twin-watch",
        path: &cli.program,
        arguments,
        variables: Vec::new(),
        output: Output::Ours,
    };
    let output = children
        .start(program, events)?
        .context("the watch has no output")?;
    follow(output, events);
    Ok(())
}

/// Makes every line of a watch an event.
fn follow(output: ChildStdout, events: &Events) {
    let sender = events.sender();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let read = line.map_err(|error| error.to_string());
            let read = read.and_then(|line| {
                Twin::from_line(&line).map_err(|error| format!("{error} in {line:.200}"))
            });
            let event = match read {
                Ok(Some(twin)) => Event::Twin(Box::new(twin)),
                Ok(None) => continue,
                Err(error) => Event::Unreadable(error),
            };
            // Nobody listens only when we are about to end.
            if sender.send(event).is_err() {
                break;
            }
        }
    });
}

fn first_snapshot(events: &Events) -> Result<Twin> {
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    while let Some(twin) = events.twin(Some(deadline))? {
        if twin.listening.is_some() {
            return Ok(*twin);
        }
    }
    bail!("the agent's first snapshot was not in the twin within {SNAPSHOT_WITHIN:?}")
}

/// Reads one variable of the file that `up` writes; the values in question have no quotes.
fn variable(env_file: &Path, name: &str) -> Result<String> {
    let text = fs::read_to_string(env_file)
        .with_context(|| format!("cannot read {}", env_file.display()))?;
    let value = text.lines().find_map(|line| {
        let value = line
            .strip_prefix("export ")?
            .strip_prefix(name)?
            .strip_prefix("='")?;
        value.strip_suffix('\'')
    });
    let value = value.with_context(|| format!("{} has no {name}", env_file.display()))?;
    Ok(value.to_owned())
}

/// The host's name as a device id.
fn device_id() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    to_device_id(&name)
}

/// Keeps what a device id may hold everywhere.
fn to_device_id(host: &str) -> String {
    const LONGEST: usize = 128;
    let kept = host
        .chars()
        .filter(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '.'));
    let id: String = kept.take(LONGEST).collect();
    if id.is_empty() {
        "this-machine".to_owned()
    } else {
        id
    }
}

fn user() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "root"
    } else {
        "a user without root's rights"
    }
}

fn describe_policy(answer: &Value) -> String {
    match answer["revision"].as_u64() {
        Some(revision) => format!("{POLICY}, revision {revision} ({POLICY_FILE})"),
        None => format!("{POLICY} ({POLICY_FILE})"),
    }
}

/// Ports in a sentence.
pub(crate) fn list(ports: &BTreeSet<u16>) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<_> = ports.iter().take(SHOWN).map(u16::to_string).collect();
    match (ports.len(), ports.len().saturating_sub(SHOWN)) {
        (0, _) => "no port".to_owned(),
        (1, _) => format!("port {}", shown.join(", ")),
        (_, 0) => format!("ports {}", shown.join(", ")),
        (_, more) => format!("ports {} and {more} more", shown.join(", ")),
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_device_id() {
        assert_eq!(to_device_id("cam-1.example.net\n"), "cam-1.example.net");
        assert_eq!(to_device_id("büro pc/1"), "bropc1");
        assert_eq!(to_device_id("\n"), "this-machine");
        assert_eq!(to_device_id(&"x".repeat(300)).len(), 128);
    }

    #[test]
    fn ports_are_listed_but_not_endlessly() {
        assert_eq!(list(&BTreeSet::new()), "no port");
        assert_eq!(list(&BTreeSet::from([22])), "port 22");
        assert_eq!(list(&BTreeSet::from([22, 80])), "ports 22, 80");
        let many = list(&(1..=20).collect());
        assert!(many.ends_with("6 and 14 more"), "{many}");
    }

    #[test]
    fn a_variable_is_found_in_the_file_that_up_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# x\nexport A_URL='http://a'\nexport A='b'\n").unwrap();
        assert_eq!(variable(file.path(), "A").unwrap(), "b");
        assert!(variable(file.path(), "B").is_err());
    }

    #[test]
    fn the_sample_is_the_policy_that_is_shown() {
        let text = fs::read_to_string(workspace::root().join(POLICY_FILE)).unwrap();
        assert!(text.lines().any(|line| line == format!("name: {POLICY}")));
    }
}
