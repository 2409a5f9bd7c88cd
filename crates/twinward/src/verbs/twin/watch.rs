//! `twinward twin watch`: one line per change, until Ctrl-C or the service ends.

use std::collections::HashMap;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use service_kit::clock::{Clock as _, SystemClock};
use twin::IdentityKey;
use wire::twin::v1 as api;

use super::view::{TwinData, TwinView};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::identity_args::resolve;
use crate::output::leaves::differences;
use crate::output::{Format, Output, Paper, View, plural, table};

/// For so many twins the last state is kept, so that a line can say what changed in it. Beyond
/// them only the sections are named: a watch of a million twins must not hold a million documents.
const REMEMBERED_MAX: usize = 10_000;
/// Changed leaves named on a line.
const LEAVES_MAX: usize = 6;

/// Arguments of `twin watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward twin watch\n  \
    twinward twin watch cam-1 --security\n  \
    twinward twin watch --filter \"tags.site = 'hall-3'\" -o json | jq .twin.posture")]
pub(crate) struct WatchArgs {
    /// DEVICE or DEVICE/MODULE; without it, all twins
    #[arg(value_name = "IDENTITY", value_parser = crate::identity_args::identity)]
    identity: Option<IdentityKey>,
    /// The security module of DEVICE
    #[arg(short, long, requires = "identity")]
    security: bool,
    /// Only twins for which this condition holds (IoT Hub's query language, what follows WHERE)
    #[arg(long, value_name = "CONDITION", default_value_t)]
    filter: String,
    /// Leave out how things are now; begin with the first change
    #[arg(long)]
    changes_only: bool,
}

/// Does what was asked for.
pub(super) async fn run(
    args: WatchArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args
        .identity
        .as_ref()
        .map(|identity| resolve(identity, args.security));
    let request = api::WatchTwinsRequest {
        name: key
            .as_ref()
            .map(wire::names::identity_name)
            .unwrap_or_default(),
        filter: args.filter,
        skip_snapshot: args.changes_only,
        ..Default::default()
    };
    let mut stream = connection
        .twins()?
        .watch_twins(request)
        .await
        .map_err(|status| connection.refused("cannot watch twins", status))?
        .into_inner();
    let mut seen = Seen::default();
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| connection.refused("the watch ended", status))?;
        let Some(message) = message else {
            return Err(Failure::new(Kind::Unavailable, "the watch ended")
                .because("the service closed it")
                .advise("start it again; the present state comes first"));
        };
        if let Some(line) = seen.line(message, output)? {
            output.show_next(&line)?;
        }
    }
}

/// The last state of the twins that were seen.
#[derive(Default)]
struct Seen(HashMap<String, [Value; 4]>);

impl Seen {
    fn line(
        &mut self,
        message: api::WatchTwinsResponse,
        output: &Output,
    ) -> Result<Option<Line>, Failure> {
        let changes: Vec<_> = message
            .changes()
            .map(change)
            .filter(|name| !name.is_empty())
            .collect();
        match message.event {
            Some(api::watch_twins_response::Event::Twin(twin)) => {
                let twin = TwinView::read(twin)?;
                let what = self.compare(&twin, !changes.is_empty(), output.format());
                Ok(Some(Line::Twin {
                    twin: Box::new(twin),
                    changes,
                    what,
                    trace_parent: message.trace_parent,
                }))
            }
            Some(api::watch_twins_response::Event::DeletedName(name)) => {
                self.0.remove(&name);
                Ok(Some(Line::Deleted {
                    name,
                    at: clock_time(SystemClock.now()),
                }))
            }
            Some(api::watch_twins_response::Event::SnapshotComplete(snapshot)) => {
                output.note(&format!(
                    "{}; waiting for changes, Ctrl-C ends",
                    plural(snapshot.twin_count, "twin", "twins")
                ));
                Ok(None)
            }
            Some(api::watch_twins_response::Event::UnmatchedName(name)) => {
                self.0.remove(&name);
                Ok(None)
            }
            // A newer service may send what we do not know; the rest of the stream is still good.
            Some(api::watch_twins_response::Event::Bookmark(_)) | None => Ok(None),
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
        if let Some(before) = self.0.get(twin.name()).filter(|_| changed) {
            for (section, before) in now.iter().zip(before) {
                let found = differences(before, section.document, section.metadata);
                let named = found
                    .into_iter()
                    .map(|text| format!("{}.{text}", section.name));
                what.extend(named.filter(|text| !is_bookkeeping(text)));
            }
        }
        if self.0.len() < REMEMBERED_MAX || self.0.contains_key(twin.name()) {
            let sections = now.map(|section| section.document.clone());
            self.0.insert(twin.name().to_owned(), sections);
        }
        what
    }
}

/// What changes with every event or hop and would crowd out what a person looks for. Programs get
/// it all.
const BOOKKEEPING: [&str; 6] = [
    "posture.agent.sessionId",
    "posture.configuration.traceParent",
    "posture.delivery.",
    "posture.eventCount",
    "posture.eventsByKind.",
    "posture.version",
];

fn is_bookkeeping(text: &str) -> bool {
    let path = text.split(['=', ' ']).next().unwrap_or(text);
    // Times of all kinds: the line has one already.
    let last = path.rsplit('.').next().unwrap_or(path);
    let is_time = path.starts_with("posture.") && (last == "at" || last.ends_with("At"));
    is_time || BOOKKEEPING.iter().any(|start| path.starts_with(start))
}

fn change(change: api::Change) -> &'static str {
    match change {
        api::Change::Unspecified => "",
        api::Change::Created => "created",
        api::Change::Tags => "tags",
        api::Change::Desired => "desired",
        api::Change::Reported => "reported",
        api::Change::Posture => "posture",
        api::Change::ConfigurationState => "configuration",
        api::Change::Status => "status",
    }
}

/// One thing that happened.
enum Line {
    Twin {
        twin: Box<TwinView>,
        changes: Vec<&'static str>,
        what: Vec<String>,
        trace_parent: String,
    },
    Deleted {
        name: String,
        at: String,
    },
}

/// One thing that happened, as programs see it.
#[derive(Serialize)]
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
            },
            Line::Deleted { name, .. } => LineData {
                event: "deleted",
                name: Some(name),
                changes: &[],
                trace_parent: None,
                twin: None,
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
            Line::Deleted { name, .. } => (name.as_str(), "deleted".to_owned(), String::new()),
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
            Line::Deleted { at, .. } => at.clone(),
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
