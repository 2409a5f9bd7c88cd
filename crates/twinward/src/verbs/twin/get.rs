//! `twinward twin get`: one twin, now or at a revision or time.

use clap::{Args, ValueEnum};
use prost_types::FieldMask;
use twin::IdentityKey;
use wire::twin::v1 as api;

use super::view::{AsOf, TwinView};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;
use crate::when::Moment;

/// Arguments of `twin get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward twin get cam-1\n  \
    twinward twin get cam-1 --security --fields desired,posture\n  \
    twinward twin get cam-1 --at '2h ago'\n  \
    twinward twin get cam-1 --at 1042 -o json | jq .properties.desired")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// As it was then: a revision, or a time like `2h ago`, `2026-11-23` or RFC 3339
    #[arg(long, value_name = "TIME|REVISION", value_parser = Moment::parse)]
    at: Option<Moment>,
    /// Only these parts of it, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    fields: Vec<Field>,
}

/// A part of a twin that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    /// Whether it may connect, and why
    Status,
    /// Whether it is connected, and when it was active
    Connection,
    /// How it proves itself
    Authentication,
    /// What operators know
    Tags,
    /// What it should be
    Desired,
    /// What it says it is
    Reported,
    /// What was concluded from its telemetry
    Posture,
}

impl Field {
    /// All of them, in the order in which they are shown.
    pub(super) const ALL: [Field; 7] = [
        Field::Status,
        Field::Connection,
        Field::Authentication,
        Field::Tags,
        Field::Desired,
        Field::Reported,
        Field::Posture,
    ];

    /// The fields of the message that hold it.
    fn paths(self) -> &'static [&'static str] {
        match self {
            Field::Status => &["status", "status_reason", "status_update_time"],
            Field::Connection => &["connected", "last_activity_time"],
            Field::Authentication => &[
                "authentication_type",
                "primary_thumbprint",
                "secondary_thumbprint",
                "device_etag",
            ],
            Field::Tags => &["tags_json"],
            Field::Desired => &["desired_json", "desired_version", "desired_metadata_json"],
            Field::Reported => &[
                "reported_json",
                "reported_version",
                "reported_metadata_json",
            ],
            Field::Posture => &["posture_json", "posture_version"],
        }
    }
}

/// What every answer holds, whatever was asked for.
const ALWAYS: [&str; 7] = [
    "name",
    "device_id",
    "module_id",
    "etag",
    "version",
    "revision",
    "update_time",
];

/// The read mask of some parts; none for everything.
pub(super) fn mask(fields: &[Field]) -> Option<FieldMask> {
    if fields.is_empty() {
        return None;
    }
    let asked = fields.iter().flat_map(|field| field.paths());
    let paths = ALWAYS.iter().chain(asked);
    Some(FieldMask {
        paths: paths.map(|path| (*path).to_owned()).collect(),
    })
}

/// Does what was asked for.
pub(super) async fn run(
    args: &GetArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let view = match args.at {
        None => {
            let twin = read(connection, &key, mask(&args.fields)).await?;
            TwinView::read(twin)?
        }
        Some(moment) => at(connection, &key, moment, output).await?,
    };
    output.show(&view.only(&args.fields))
}

/// Reads a twin as it is.
pub(super) async fn read(
    connection: &Connection,
    key: &IdentityKey,
    read_mask: Option<FieldMask>,
) -> Result<api::Twin, Failure> {
    let request = api::GetTwinRequest {
        name: wire::names::identity_name(key),
        read_mask,
    };
    Ok(connection
        .twins()?
        .get_twin(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot get the twin of {key}"), status))?
        .into_inner())
}

async fn at(
    connection: &Connection,
    key: &IdentityKey,
    moment: Moment,
    output: &Output,
) -> Result<TwinView, Failure> {
    let request = api::GetTwinRevisionRequest {
        name: wire::names::identity_name(key),
        moment: Some(moment.to_wire(output.now())?),
        read_mask: None,
    };
    let what = format!("cannot get the twin of {key} as it was");
    let answer = connection
        .histories()?
        .get_twin_revision(request)
        .await
        .map_err(|status| explain(connection.refused(&what, status), key))?
        .into_inner();
    match (answer.twin, answer.revision) {
        (Some(twin), Some(revision)) => Ok(TwinView::read(twin)?.with_as_of(AsOf::read(&revision))),
        (_, _) => Err(Failure::new(Kind::Internal, what).because("the answer is incomplete")),
    }
}

/// Adds where to look when a moment is not there.
pub(super) fn explain(failure: Failure, key: &IdentityKey) -> Failure {
    let codes = ["HISTORY_TRIMMED", "REVISION_NOT_YET", "TIME_NOT_YET"];
    let is_none = failure.code().is_some_and(|code| codes.contains(&code));
    if failure.kind() == Kind::NotFound || is_none {
        return failure.advise(format!("`twinward twin history {key}` lists what is kept"));
    }
    failure
}
