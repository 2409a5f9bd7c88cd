//! How the demo looks: sober, aligned, the same on a terminal and in a file.
//!
//! Colours are used on a terminal only, and not when `NO_COLOR` is set or TERM is dumb.

use std::io::{self, IsTerminal as _, Write as _};

use jiff::SignedDuration;

use super::hops::{Passed, millis};
use super::twin::{Collector, Listener, Setting};

/// Width of the first column.
const NAME_WIDTH: usize = 14;
/// Width of a hop's description.
const WHAT_WIDTH: usize = 42;
/// Width of a duration with its unit.
const TIME_WIDTH: usize = 13;

/// Where the demo prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    to: To,
    colours: bool,
}

/// The stream that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// They are the only readers.
    Output,
    /// A program reads the output.
    Error,
}

impl Screen {
    pub(crate) fn new(to: To) -> Self {
        let terminal = match to {
            To::Output => io::stdout().is_terminal(),
            To::Error => io::stderr().is_terminal(),
        };
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            to,
            colours: terminal && !no_color && !dumb,
        }
    }

    /// Begins a part.
    pub(crate) fn heading(self, text: &str) {
        self.print(&format!("\n{}\n", self.bold(text)));
    }

    /// Sets what follows apart.
    pub(crate) fn gap(self) {
        self.print("\n");
    }

    /// Says what something is.
    pub(crate) fn fact(self, name: &str, value: &str) {
        self.print(&fact(name, value));
    }

    /// Says something in words.
    pub(crate) fn say(self, text: &str) {
        self.print(&format!("  {text}\n"));
    }

    /// Says something that matters less.
    pub(crate) fn aside(self, text: &str) {
        self.print(&format!("  {}\n", self.dim(text)));
    }

    /// Says something that has succeeded.
    pub(crate) fn success(self, text: &str) {
        self.print(&format!("  {}\n", self.paint("32", text)));
    }

    /// The head of a table of hops.
    pub(crate) fn hops_head(self) {
        let head = row("hop", "what has happened", "took", "since event");
        self.print(&format!("{}\n", self.dim(&head)));
    }

    /// One hop.
    pub(crate) fn hop(self, passed: &Passed) {
        let took = passed.took.map_or_else(|| "-".to_owned(), time);
        let line = row(
            passed.hop.name(),
            passed.hop.what(),
            &took,
            &time(passed.since_start),
        );
        self.print(&format!("{line}\n"));
    }

    /// A listener that came or went.
    pub(crate) fn listener(self, verb: &str, listener: &Listener, note: &str) {
        self.fact("port", &describe_listener(verb, listener, note));
    }

    /// A setting that is desired.
    pub(crate) fn setting(self, key: &str, setting: &Setting) {
        let by = self.dim(&format!("by {}", setting.by));
        self.fact("desired", &format!("{key} = {}  {by}", setting.value));
    }

    /// One collector of a list.
    pub(crate) fn collector(self, name: &str, collector: &Collector) {
        let width = NAME_WIDTH + 8;
        let state = self.state(&format!("{:<9}", collector.state));
        let line = format!("  {name:<width$}{state} {}", self.dim(&collector.reason));
        self.print(&format!("{}\n", line.trim_end()));
    }

    /// A collector that is in another state now.
    pub(crate) fn changed_collector(self, name: &str, collector: &Collector) {
        let state = self.state(&collector.state);
        let reason = match collector.reason.as_str() {
            "" => String::new(),
            reason => self.dim(&format!(", {reason}")),
        };
        self.fact("collector", &format!("{name} is {state}{reason}"));
    }

    fn state(self, state: &str) -> String {
        match state.trim_end() {
            "running" => self.paint("32", state),
            "skipped" | "degraded" => self.paint("33", state),
            "failed" => self.paint("31", state),
            _ => state.to_owned(),
        }
    }

    fn print(self, text: &str) {
        // A reader that went away has seen enough; what is shown decides nothing.
        let _ = match self.to {
            To::Output => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            To::Error => io::stderr().lock().write_all(text.as_bytes()),
        };
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

fn fact(name: &str, value: &str) -> String {
    format!("  {name:<NAME_WIDTH$}{value}\n")
}

fn row(hop: &str, what: &str, took: &str, since: &str) -> String {
    format!("  {hop:<NAME_WIDTH$}{what:<WHAT_WIDTH$}{took:>TIME_WIDTH$}{since:>TIME_WIDTH$}")
}

fn describe_listener(verb: &str, listener: &Listener, note: &str) -> String {
    let Listener {
        port,
        address,
        executable,
    } = listener;
    let owner = match executable.as_str() {
        "" => String::new(),
        path => format!(" ({})", path.rsplit('/').next().unwrap_or(path)),
    };
    let address = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.clone()
    };
    format!("{address}:{port}{owner} {verb}{note}")
}

/// A duration as people read it.
pub(crate) fn time(duration: SignedDuration) -> String {
    format!("{:.1} ms", millis(duration))
}

#[cfg(test)]
mod tests {
    use super::super::hops::Timeline;
    use super::super::twin::tests::applied;
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let head = row("hop", "what has happened", "took", "since event");
        let line = row(
            "acknowledged",
            "the agent's answer is in the twin",
            "1.5 ms",
            "12.0 ms",
        );
        assert_eq!(head.len(), line.len());
        assert!(head.ends_with("since event") && line.ends_with("12.0 ms"));
    }

    #[test]
    fn every_hop_fits_its_columns() {
        let timeline = Timeline::read(&applied()["posture"]["configuration"]["timeline"]);
        for passed in timeline.passed() {
            assert!(passed.hop.name().len() < NAME_WIDTH, "{:?}", passed.hop);
            assert!(passed.hop.what().len() < WHAT_WIDTH, "{:?}", passed.hop);
        }
    }

    #[test]
    fn a_listener_is_told_with_its_program_if_that_is_known() {
        let mut listener = Listener {
            port: 22,
            address: "::".to_owned(),
            executable: "/usr/sbin/sshd".to_owned(),
        };
        let told = describe_listener("listens", &listener, ", not allowed");
        assert_eq!(told, "[::]:22 (sshd) listens, not allowed");
        listener.executable.clear();
        assert_eq!(
            describe_listener("is closed", &listener, ""),
            "[::]:22 is closed"
        );
    }

    #[test]
    fn without_colours_there_are_no_escapes() {
        let screen = Screen {
            to: To::Error,
            colours: false,
        };
        assert_eq!(screen.bold("x"), "x");
        let screen = Screen {
            to: To::Error,
            colours: true,
        };
        assert_eq!(screen.bold("x"), "\u{1b}[1mx\u{1b}[0m");
        assert_eq!(screen.dim(""), "");
    }
}
