//! What a draft would do to a twin, on the wire.

use twin::Writer;
use wire::policy::v1 as proto;

use super::{print_overruled, print_violations};
use crate::preview::{End, Forecast, LeafChange};

/// What there is to say of a twin; none: nothing happens to it.
pub(super) fn print_forecast(
    name: String,
    forecast: Forecast,
    actions: Vec<String>,
) -> Option<proto::TwinPreview> {
    let (violations, unsettled) = match &forecast.end {
        End::Settled => (Vec::new(), false),
        End::Breaks(violations) => (print_violations(violations), false),
        End::Unsettled => (Vec::new(), true),
    };
    let incomplete = forecast.incomplete.as_ref();
    let incomplete = incomplete.map(ToString::to_string).unwrap_or_default();
    let quiet =
        forecast.changes.is_empty() && forecast.overruled.is_empty() && incomplete.is_empty();
    if quiet && violations.is_empty() && actions.is_empty() && !unsettled {
        return None;
    }
    Some(proto::TwinPreview {
        name,
        applies: forecast.applies,
        changes: forecast.changes.into_iter().map(print_change).collect(),
        overruled: forecast.overruled.iter().map(print_overruled).collect(),
        violations,
        unsettled,
        incomplete,
        actions,
    })
}

fn print_change(change: LeafChange) -> proto::SettingChange {
    let side = |side: Option<(serde_json::Value, Writer)>| match side {
        Some((value, writer)) => (value.to_string(), writer.to_string()),
        None => (String::new(), String::new()),
    };
    let (old_json, old_writer) = side(change.old);
    let (new_json, new_writer) = side(change.new);
    proto::SettingChange {
        path: change.path.join("."),
        old_json,
        old_writer,
        new_json,
        new_writer,
    }
}
