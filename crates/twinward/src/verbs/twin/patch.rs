//! `twinward twin patch`: merges into tags and desired, in one commit.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Deserialize;
use serde_json::{Map, Value};
use wire::twin::v1 as api;

use super::view::TwinView;
use super::write::{ConditionArgs, WriteArgs, show_proposed};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::identity_args::IdentityArg;
use crate::object::ObjectArg;
use crate::output::Output;

/// Arguments of `twin patch`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("patch").args(["desired", "tags", "file"]).required(true).multiple(true),
    after_help = "A patch is merged (RFC 7396): objects member by member, everything else \
    replaced, null removed.\nA file holds `tags` and `desired` (or `properties.desired`), in JSON \
    or YAML.\n\nExamples:\n  \
    twinward twin patch cam-1 --tags '{\"site\": \"hall-3\"}'\n  \
    twinward twin patch cam-1 --security --desired '{\"processFrequency\": \"PT1M\"}'\n  \
    twinward twin patch cam-1 --security --desired '{\"processFrequency\": null}' --dry-run\n  \
    twinward twin patch cam-1 --tags '{\"lost\": true}' --if \"tags.site = 'hall-3'\"\n  \
    twinward twin patch cam-1 --file cam-1.yaml"
)]
pub(crate) struct PatchArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// JSON object to merge into desired, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    desired: Option<ObjectArg>,
    /// JSON object to merge into tags, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    tags: Option<ObjectArg>,
    /// File with the patch of both; - reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["desired", "tags"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// What a patch file holds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchFile {
    tags: Option<Map<String, Value>>,
    desired: Option<Map<String, Value>>,
    properties: Option<PropertiesFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PropertiesFile {
    desired: Option<Map<String, Value>>,
}

/// Does what was asked for.
pub(super) async fn run(
    args: PatchArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let (tags_patch_json, desired_patch_json) = match &args.file {
        Some(path) => {
            let (tags, desired) = read(path)?;
            (print(tags), print(desired))
        }
        None => (
            ObjectArg::print(args.tags)?,
            ObjectArg::print(args.desired)?,
        ),
    };
    let request = api::PatchTwinRequest {
        name: wire::names::identity_name(&key),
        tags_patch_json,
        desired_patch_json,
        operator: args.write.operator(connection),
        expected_desired_version: args.condition.if_version,
        only_if: args.condition.only_if,
        validate_only: args.write.dry_run,
        request_id: args.write.request_id(),
        etag: args.write.etag,
        read_mask: None,
    };
    let twin = connection
        .twins()?
        .patch_twin(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot patch the twin of {key}"), status))?
        .into_inner();
    let twin = TwinView::read(twin)?;
    if args.write.dry_run {
        return show_proposed(&key, &twin, connection, output).await;
    }
    output.show(&twin)
}

/// Tags and desired, each as far as it is there.
pub(super) type Patches = (Option<Map<String, Value>>, Option<Map<String, Value>>);

/// Reads a file with tags and desired.
pub(super) fn read(path: &std::path::Path) -> Result<Patches, Failure> {
    let text = files::read(path)?;
    let file: PatchFile = serde_saphyr::from_str(&text).map_err(|error| {
        Failure::new(Kind::Invalid, format!("{} is not a patch", path.display()))
            .because(error.without_snippet().to_string())
            .advise("a patch holds `tags` and `desired` (or `properties.desired`)")
    })?;
    let nested = file.properties.unwrap_or_default().desired;
    match (file.tags, file.desired, nested) {
        (None, None, None) => Err(Failure::new(
            Kind::Invalid,
            format!("{} holds no patch", path.display()),
        )
        .advise("a patch holds `tags` and `desired` (or `properties.desired`)")),
        (_, Some(_), Some(_)) => Err(Failure::new(
            Kind::Invalid,
            format!(
                "{} holds both `desired` and `properties.desired`",
                path.display()
            ),
        )),
        (tags, desired, nested) => Ok((tags, desired.or(nested))),
    }
}

/// As messages have it; empty when there is none.
pub(super) fn print(patch: Option<Map<String, Value>>) -> String {
    patch
        .map(|patch| Value::Object(patch).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_have_either_form_of_desired_in_yaml_or_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patch");
        for text in [
            "tags: {site: x}\ndesired:\n  a: null\n",
            r#"{"tags": {"site": "x"}, "properties": {"desired": {"a": null}}}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let (tags, desired) = read(&path).unwrap();
            assert_eq!(print(tags), r#"{"site":"x"}"#);
            assert_eq!(print(desired), r#"{"a":null}"#);
        }
    }

    #[test]
    fn a_file_that_is_no_patch_says_what_one_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patch");
        for (text, words) in [
            ("reported: {}", "unknown field"),
            ("{}", "holds no patch"),
            ("desired: {}\nproperties: {desired: {}}", "both"),
            ("desired: [1]", "line 1"),
            ("tags:\n  a: 1\n  a: 2\n", "duplicate"),
            (r#"{"tags": {"a": {"b": 1, "b": 2}}}"#, "duplicate"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = read(&path).unwrap_err();
            assert_eq!(failure.kind(), Kind::Invalid);
            assert!(
                failure.render().contains(words),
                "{text}: {}",
                failure.render()
            );
        }
    }
}
