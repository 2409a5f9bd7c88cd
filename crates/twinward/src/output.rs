//! What the verbs print: one value, as a table for people or as JSON or YAML for programs.
//!
//! Results go to standard output, everything else (notes, errors) to standard error, so that a pipe
//! gets the result alone. A reader that goes away (`| head`) ends the program quietly.

#[cfg(test)]
pub(crate) mod golden;
pub(crate) mod leaves;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod time;

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; a watch prints one object per line.
    Json,
    /// For programs and people; a watch prints one document per change.
    Yaml,
}

/// What a table may use of the terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paper {
    /// Columns; none when the reader is a program, which wants every value whole.
    pub(crate) width: Option<u16>,
    /// Whether to use bold and colours.
    pub(crate) color: bool,
    /// The present, for ages.
    pub(crate) now: jiff::Timestamp,
}

impl Paper {
    /// Makes a heading stand out where that is possible.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Makes what matters less step back.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Good news.
    pub(crate) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bad news.
    pub(crate) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A result that can be shown.
pub(crate) trait View {
    /// What programs get.
    fn data(&self) -> impl Serialize;

    /// What people get, ending with a line break.
    fn text(&self, paper: &Paper) -> String;
}

/// Prints results in the format that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    paper: Paper,
}

impl Output {
    /// For the terminal (or pipe) that this process has.
    pub(crate) fn new(format: Format, environment: &Environment, now: jiff::Timestamp) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            format,
            paper: Paper {
                width: terminal.then(table::terminal_width).flatten(),
                // https://no-color.org; TERM=dumb is older and means the same.
                color: terminal
                    && environment.get("NO_COLOR").is_none()
                    && environment.get("TERM") != Some("dumb"),
                now,
            },
        }
    }

    /// The format that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The present, as every time that is counted back from it means it.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.paper.now
    }

    /// Prints one result.
    pub(crate) fn show<V: View>(&self, view: &V) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&view.text(&self.paper)),
            Format::Json => write(&(json(&view.data())? + "\n")),
            Format::Yaml => write(&yaml(&view.data())?),
        }
    }

    /// Prints one of a series: a line, or a document of its own.
    pub(crate) fn show_next<V: View>(&self, view: &V) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&view.text(&self.paper)),
            Format::Json => {
                let line = serde_json::to_string(&view.data()).map_err(not_printable)?;
                write(&(line + "\n"))
            }
            Format::Yaml => write(&format!("---\n{}", yaml(&view.data())?)),
        }
    }

    /// What a table may use of the terminal.
    pub(crate) fn paper(&self) -> &Paper {
        &self.paper
    }

    /// Tells a person something beside the result; programs do not get it.
    pub(crate) fn note(&self, text: &str) {
        match self.format {
            Format::Table => say(text),
            Format::Json | Format::Yaml => {}
        }
    }
}

/// Prints a number of things.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{number} {many}")
    }
}

/// Prints text as it is.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has seen enough. What other programs do here is to die of SIGPIPE, silently.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            Err(Failure::new(Kind::Failed, "cannot write to standard output").because(error))
        }
    }
}

/// Prints a line to standard error. If even that fails nobody is listening.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
}

fn json(data: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(data).map_err(not_printable)
}

fn yaml(data: &impl Serialize) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! {
        // A folded connection string is hard to copy.
        prefer_block_scalars: false,
    };
    let mut text = serde_saphyr::to_string_with_options(data, options).map_err(not_printable)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn not_printable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Internal, "cannot print the answer").because(error)
}
