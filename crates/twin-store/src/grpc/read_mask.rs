//! Which fields of a twin a caller wants (AIP-157). Masked fields are not even made where that
//! saves work.

use prost_types::FieldMask;
use wire::InvalidField;
use wire::twin::v1::Twin;

use crate::error::Error;

/// Empties one field.
type Clear = fn(&mut Twin);

/// What may be left out. `name`, `etag` and `revision` are always there: without them a caller
/// could neither tell twins apart nor write to them.
const FIELDS: [(&str, Clear); 26] = [
    ("device_id", |twin| twin.device_id.clear()),
    ("module_id", |twin| twin.module_id.clear()),
    ("version", |twin| twin.version = 0),
    ("tags_json", |twin| twin.tags_json.clear()),
    ("desired_json", |twin| twin.desired_json.clear()),
    ("desired_version", |twin| twin.desired_version = 0),
    (DESIRED_METADATA, |twin| twin.desired_metadata_json.clear()),
    ("reported_json", |twin| twin.reported_json.clear()),
    ("reported_version", |twin| twin.reported_version = 0),
    (REPORTED_METADATA, |twin| {
        twin.reported_metadata_json.clear();
    }),
    ("posture_json", |twin| twin.posture_json.clear()),
    ("posture_version", |twin| twin.posture_version = 0),
    ("update_time", |twin| twin.update_time = None),
    ("status", |twin| twin.status.clear()),
    ("device_etag", |twin| twin.device_etag.clear()),
    ("status_reason", |twin| twin.status_reason.clear()),
    ("status_update_time", |twin| twin.status_update_time = None),
    ("connected", |twin| twin.connected = false),
    ("last_activity_time", |twin| twin.last_activity_time = None),
    ("authentication_type", |twin| {
        twin.authentication_type.clear();
    }),
    ("primary_thumbprint", |twin| twin.primary_thumbprint.clear()),
    ("secondary_thumbprint", |twin| {
        twin.secondary_thumbprint.clear();
    }),
    ("model_id", |twin| twin.model_id.clear()),
    ("iot_edge", |twin| twin.iot_edge = false),
    ("configurations", |twin| twin.configurations.clear()),
    ("device_tags_json", |twin| twin.device_tags_json.clear()),
];
const DESIRED_METADATA: &str = "desired_metadata_json";
const REPORTED_METADATA: &str = "reported_metadata_json";
/// The fields that are always answered.
const ALWAYS: [&str; 3] = ["name", "etag", "revision"];

/// Which fields of a twin to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadMask {
    /// What is left out.
    clear: Vec<Clear>,
    without_desired_metadata: bool,
    without_reported_metadata: bool,
}

impl ReadMask {
    /// Reads a mask; absent, empty or `*` is everything.
    pub(super) fn parse(mask: Option<&FieldMask>) -> Result<ReadMask, Error> {
        let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
            return Ok(ReadMask::default());
        };
        for path in &mask.paths {
            let known = FIELDS.iter().any(|(name, _)| name == path);
            if !known && path != "*" && !ALWAYS.contains(&path.as_str()) {
                let problem = format!(
                    "{path:?} is no field of a twin; allowed are *, {}, {}",
                    ALWAYS.join(", "),
                    FIELDS.map(|(name, _)| name).join(", ")
                );
                return Err(InvalidField::new("read_mask", problem).into());
            }
        }
        if mask.paths.iter().any(|path| path == "*") {
            return Ok(ReadMask::default());
        }
        let wanted = |name: &str| mask.paths.iter().any(|path| path == name);
        let unwanted = FIELDS.iter().filter(|(name, _)| !wanted(name));
        Ok(ReadMask {
            clear: unwanted.map(|(_, clear)| *clear).collect(),
            without_desired_metadata: !wanted(DESIRED_METADATA),
            without_reported_metadata: !wanted(REPORTED_METADATA),
        })
    }

    /// Whether the metadata of desired are wanted.
    pub(super) fn desired_metadata(&self) -> bool {
        !self.without_desired_metadata
    }

    /// Whether the metadata of reported are wanted.
    pub(super) fn reported_metadata(&self) -> bool {
        !self.without_reported_metadata
    }

    /// Leaves out what is not wanted.
    pub(super) fn apply(&self, twin: &mut Twin) {
        for clear in &self.clear {
            clear(twin);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use service_kit::error::Classified as _;

    use super::*;

    /// A twin in which no field has its default value.
    fn full() -> Twin {
        let text = || "x".to_owned();
        let time = Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 0,
        });
        Twin {
            name: text(),
            device_id: text(),
            module_id: text(),
            etag: text(),
            version: 1,
            tags_json: text(),
            desired_json: text(),
            desired_version: 1,
            desired_metadata_json: text(),
            reported_json: text(),
            reported_version: 1,
            reported_metadata_json: text(),
            posture_json: text(),
            posture_version: 1,
            update_time: time,
            status: text(),
            revision: 1,
            device_etag: text(),
            status_reason: text(),
            status_update_time: time,
            connected: true,
            last_activity_time: time,
            authentication_type: text(),
            primary_thumbprint: text(),
            secondary_thumbprint: text(),
            model_id: text(),
            iot_edge: true,
            configurations: vec![wire::twin::v1::ConfigurationState::default()],
            device_tags_json: text(),
        }
    }

    fn mask(paths: &[&str]) -> ReadMask {
        let paths = paths.iter().map(ToString::to_string).collect();
        ReadMask::parse(Some(&FieldMask { paths })).expect("a good mask")
    }

    #[test]
    fn only_what_is_named_is_answered_and_who_it_is() {
        let mut bare = full();
        mask(&["name"]).apply(&mut bare);
        let expected = Twin {
            name: "x".to_owned(),
            etag: "x".to_owned(),
            revision: 1,
            ..Twin::default()
        };
        assert_eq!(bare, expected);
        for (name, _) in FIELDS {
            let mut twin = full();
            mask(&[name]).apply(&mut twin);
            assert!(twin.encoded_len() > bare.encoded_len(), "{name}");
        }
    }

    #[test]
    fn no_mask_and_a_star_leave_everything() {
        let empty = ReadMask::parse(Some(&FieldMask::default())).expect("everything");
        for mask in [
            ReadMask::default(),
            empty,
            mask(&["*"]),
            mask(&["status", "*"]),
        ] {
            let mut twin = full();
            mask.apply(&mut twin);
            assert_eq!(twin, full());
            assert!(mask.desired_metadata() && mask.reported_metadata());
        }
        let some = mask(&["desired_metadata_json"]);
        assert!(some.desired_metadata() && !some.reported_metadata());
    }

    #[test]
    fn an_unknown_path_is_refused_with_all_that_are_known() {
        let paths = vec!["status".to_owned(), "tags".to_owned()];
        let refused = ReadMask::parse(Some(&FieldMask { paths })).expect_err("unknown");
        let violations = refused.violations();
        assert_eq!(violations[0].subject, "read_mask");
        for allowed in [
            "\"tags\" is no field",
            "tags_json",
            "revision",
            "iot_edge",
            "*",
        ] {
            assert!(
                violations[0].description.contains(allowed),
                "{violations:?}"
            );
        }
    }
}
