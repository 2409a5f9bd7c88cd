//! What `/proc` says about processes.

use std::collections::HashMap;
use std::fs;

use super::super::{Machine, text};

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) parent: u32,
    pub(super) uid: u32,
    pub(super) executable: String,
    pub(super) command_line: String,
}

/// Tells one life of a process id from the next, and one program in it from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    started: u64,
    name: String,
}

/// Reads a process; `None` when it is gone.
pub(super) fn program(machine: &Machine, pid: u32) -> Option<Program> {
    let status = fs::read(machine.path(&format!("proc/{pid}/status"))).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let arguments = fs::read(machine.path(&format!("proc/{pid}/cmdline"))).unwrap_or_default();
    let mut command_line = String::from_utf8_lossy(&arguments).replace('\0', " ");
    command_line.truncate(command_line.trim_end().len());
    let executable = fs::read_link(machine.path(&format!("proc/{pid}/exe")))
        .map(|path| text::path(&path))
        .unwrap_or_default();
    Some(Program {
        parent: field("PPid:")?,
        uid: field("Uid:")?,
        executable,
        command_line: text::command_line(command_line),
    })
}

/// Reads all process ids and what tells their lives apart.
pub(super) fn lives(machine: &Machine) -> std::io::Result<HashMap<u32, Life>> {
    let mut lives = HashMap::new();
    for entry in fs::read_dir(machine.path("proc"))? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Gone since it was listed: not there.
        if let Some(life) = life(machine, pid) {
            lives.insert(pid, life);
        }
    }
    Ok(lives)
}

fn life(machine: &Machine, pid: u32) -> Option<Life> {
    let stat = fs::read(machine.path(&format!("proc/{pid}/stat"))).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name stands in parentheses and may hold any character, so its end is the last one.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    // The start time is field 22; the state behind the name is field 3.
    let started = rest.split_whitespace().nth(22 - 3)?.parse().ok()?;
    Some(Life {
        started,
        name: name.to_owned(),
    })
}

/// Names of accounts by user id.
pub(super) fn user_names(machine: &Machine) -> HashMap<u32, String> {
    let passwd = machine.text("etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = text::name(fields.next()?)?;
            Some((fields.nth(1)?.parse().ok()?, name))
        })
        .collect()
}
