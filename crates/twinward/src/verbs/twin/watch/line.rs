//! The lines of a watch: what happened, when, and what changed by it.

use std::collections::HashMap;
use std::fmt::Write as _;

use client::Event;
use serde::Serialize;
use serde_json::Value;
use service_kit::clock::{Clock as _, SystemClock};

use crate::failure::Failure;
use crate::output::leaves::differences;
use crate::output::{Format, Output, Paper, View, plural, table};
use crate::verbs::twin::changes;
use crate::verbs::twin::get::Field;
use crate::verbs::twin::view::{TwinData, TwinView};

/// For so many twins the last state is kept, so that a line can say what changed in it. Beyond
/// them only the sections are named: a watch of a million twins must not hold a million documents.
const REMEMBERED_MAX: usize = 10_000;
/// Changed leaves named on a line.
const LEAVES_MAX: usize = 6;

/// The last state of the twins that were seen.
pub(super) struct Seen {
    twins: HashMap<String, [Value; 4]>,
    fields: Vec<Field>,
}

impl Seen {
    /// Nothing yet; of the twins these parts are shown.
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self {
            twins: HashMap::new(),
            fields,
        }
    }

    /// What is to be printed about an event.
    pub(super) fn line(
        &mut self,
        event: Event,
        token: &str,
        output: &Output,
    ) -> Result<Option<Line>, Failure> {
        let line = match event {
            Event::Twin {
                twin,
                changes,
                trace_parent,
            } => {
                let changes = changes::names(changes.into_iter());
                let twin = TwinView::read(*twin)?.only(&self.fields);
                let what = self.compare(&twin, !changes.is_empty(), output.format());
                Line::Twin {
                    twin: Box::new(twin),
                    changes,
                    what,
                    trace_parent,
                }
            }
            Event::Deleted(name) => self.gone(name, Gone::Deleted),
            Event::Unmatched(name) => self.gone(name, Gone::Unmatched),
            Event::Synced(count) => {
                output.note(&format!(
                    "{}; waiting for changes, Ctrl-C ends",
                    plural(count, "twin", "twins")
                ));
                Line::Place {
                    event: "snapshotComplete",
                    twin_count: Some(count),
                    resume_token: token.to_owned(),
                }
            }
            Event::Bookmark => Line::Place {
                event: "bookmark",
                twin_count: None,
                resume_token: token.to_owned(),
            },
            Event::Begins(_) | Event::Interrupted { .. } => return Ok(None),
        };
        match (&line, output.format()) {
            // Nothing that a person could do anything with.
            (Line::Place { .. }, Format::Table) => Ok(None),
            (_, Format::Table | Format::Json | Format::Yaml) => Ok(Some(line)),
        }
    }

    fn gone(&mut self, name: String, how: Gone) -> Line {
        self.twins.remove(&name);
        Line::Gone {
            how,
            name,
            at: clock_time(SystemClock.now()),
        }
    }

    /// What changed in the documents since they were last seen.
    fn compare(&mut self, twin: &TwinView, changed: bool, format: Format) -> Vec<String> {
        match format {
            Format::Table => {}
            Format::Json | Format::Yaml => return Vec::new(),
        }
        let now = twin.sections();
        let mut what = Vec::new();
        if let Some(before) = self.twins.get(twin.name()).filter(|_| changed) {
            for (section, before) in now.iter().zip(before) {
                let found = differences(before, section.document, section.metadata);
                let named = found
                    .into_iter()
                    .map(|text| format!("{}.{text}", section.name));
                what.extend(named.filter(|text| !changes::is_bookkeeping(text)));
            }
        }
        if self.twins.len() < REMEMBERED_MAX || self.twins.contains_key(twin.name()) {
            let sections = now.map(|section| section.document.clone());
            self.twins.insert(twin.name().to_owned(), sections);
        }
        what
    }
}

/// One thing that happened.
pub(super) enum Line {
    Twin {
        twin: Box<TwinView>,
        changes: Vec<&'static str>,
        what: Vec<String>,
        trace_parent: String,
    },
    Gone {
        how: Gone,
        name: String,
        at: String,
    },
    /// A place to resume from, for programs.
    Place {
        event: &'static str,
        twin_count: Option<u64>,
        resume_token: String,
    },
}

/// Why a twin is no longer watched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gone {
    /// Its identity was deleted.
    Deleted,
    /// The filter no longer holds for it.
    Unmatched,
}

impl Gone {
    fn name(self) -> &'static str {
        match self {
            Gone::Deleted => "deleted",
            Gone::Unmatched => "unmatched",
        }
    }
}

/// One thing that happened, as programs see it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct LineData<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    changes: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    twin: Option<TwinData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    twin_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume_token: Option<&'a str>,
}

impl View for Line {
    fn data(&self) -> impl Serialize {
        match self {
            Line::Twin {
                twin,
                changes,
                what: _,
                trace_parent,
            } => LineData {
                event: if changes.is_empty() {
                    "present"
                } else {
                    "changed"
                },
                name: Some(twin.name()),
                changes,
                trace_parent: Some(trace_parent.as_str()).filter(|text| !text.is_empty()),
                twin: Some(twin.document()),
                ..LineData::default()
            },
            Line::Gone { how, name, .. } => LineData {
                event: how.name(),
                name: Some(name),
                ..LineData::default()
            },
            Line::Place {
                event,
                twin_count,
                resume_token,
            } => LineData {
                event,
                twin_count: *twin_count,
                resume_token: Some(resume_token),
                ..LineData::default()
            },
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let (name, happened, what) = match self {
            Line::Twin {
                twin,
                changes,
                what,
                ..
            } if changes.is_empty() => {
                let twin = twin.twin();
                let versions = format!(
                    "desired {}, reported {}, posture {}",
                    twin.desired_version, twin.reported_version, twin.posture_version
                );
                debug_assert!(
                    what.is_empty(),
                    "the present state has nothing to compare with"
                );
                (twin.name.as_str(), "present".to_owned(), versions)
            }
            Line::Twin {
                twin,
                changes,
                what,
                ..
            } => (twin.name(), changes.join("+"), shorten(what)),
            Line::Gone { how, name, .. } => (name.as_str(), how.name().to_owned(), String::new()),
            Line::Place { .. } => return String::new(),
        };
        let short = name.replace("devices/", "").replace("/modules/", "/");
        let line = format!(
            "{}  {}  {}  {}",
            self.time(),
            table::one_line(&short),
            happened,
            table::one_line(&what)
        );
        let line = line.trim_end();
        match paper.width {
            Some(width) => table::cut(line, usize::from(width)) + "\n",
            None => format!("{line}\n"),
        }
    }
}

impl Line {
    /// When it happened, to the millisecond: that is what a watch is for. By the service's clock,
    /// or by ours for what no longer has a time.
    fn time(&self) -> String {
        match self {
            Line::Twin { twin, .. } => {
                let at = wire::time::optional("update_time", twin.twin().update_time);
                at.ok().flatten().map_or_else(|| "-".to_owned(), clock_time)
            }
            Line::Gone { at, .. } => at.clone(),
            Line::Place { .. } => String::new(),
        }
    }
}

/// The time of the day, in UTC.
fn clock_time(at: jiff::Timestamp) -> String {
    let text = format!("{at:.3}");
    text.split_once('T')
        .map_or(text.as_str(), |(_, time)| time)
        .trim_end_matches('Z')
        .to_owned()
}

fn shorten(what: &[String]) -> String {
    let mut text = what
        .iter()
        .take(LEAVES_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join("  ");
    if what.len() > LEAVES_MAX {
        let _ = write!(text, "  and {} more", what.len() - LEAVES_MAX);
    }
    text
}
