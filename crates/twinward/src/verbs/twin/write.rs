//! What all writes of a twin have in common: the conditions, who it is, and a look before the leap.

use clap::Args;
use twin::IdentityKey;
use uuid::Uuid;

use super::diff::view::{DiffView, Side, compare};
use super::get::read;
use super::view::TwinView;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

/// Options of every write of a twin.
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Only if the twin still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    pub(super) etag: String,
    /// Check everything and show what would change; write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// UUID of this request: repeating it within an hour answers the same and writes once
    #[arg(long, value_name = "UUID")]
    pub(super) request_id: Option<Uuid>,
    /// Who changes it, for the twin's metadata [default: your user name]
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// Options of a write that depends on what the twin holds.
#[derive(Debug, Args)]
pub(crate) struct ConditionArgs {
    /// Only if this condition holds for the twin as it is (IoT Hub's query language, what follows
    /// WHERE)
    #[arg(
        long = "if",
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    pub(super) only_if: String,
    /// Only if desired still has this version
    #[arg(
        long,
        value_name = "VERSION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) if_version: u64,
}

impl WriteArgs {
    /// Who it is.
    pub(super) fn operator(&self, connection: &Connection) -> String {
        self.operator
            .clone()
            .unwrap_or_else(|| connection.operator().to_owned())
    }

    /// The request's id, as messages have it.
    pub(super) fn request_id(&self) -> String {
        self.request_id.map(|id| id.to_string()).unwrap_or_default()
    }
}

/// Shows what a dry run would change, by the twin as it is and as it would be. Tags and desired
/// only: nothing else is written by operators.
pub(super) async fn show_proposed(
    key: &IdentityKey,
    proposed: &TwinView,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let present = TwinView::read(read(connection, key, None).await?)?;
    let mut differences = Vec::new();
    for (path, before, after) in [
        ("properties.desired", present.desired(), proposed.desired()),
        ("tags", present.tags(), proposed.tags()),
    ] {
        compare(path, Some(before), Some(after), &mut differences);
    }
    output.show(&DiffView {
        name: wire::names::identity_name(key),
        from: Side::Revision(present.twin().revision),
        to: Side::Proposed,
        differences,
    })?;
    output.note("nothing was written");
    Ok(())
}
