//! How identities are shown to a caller: which of their fields, and whether with their keys.

use prost_types::FieldMask;
use service_kit::error::chain;
use tonic::{Request, Status};
use wire::InvalidField;
use wire::names::identity_name;
use wire::registry::v1::{Device, Module};

use super::{View, device_message, module_message};
use crate::error::Error;
use crate::grpc::refuse;
use crate::record::Record;
use crate::secrets::Sealer;

/// Empties one field.
type Clear<M> = fn(&mut M);

/// The field that needs a permission of its own, and work.
const KEYS: &str = "keys";
/// The fields that are always answered: without them a caller could neither tell identities apart nor
/// write to them.
const ALWAYS: [&str; 2] = ["name", "etag"];

/// A message of an identity.
pub(in crate::grpc) trait Identified: Sized + 'static {
    /// What it is, for people.
    const WHAT: &'static str;
    /// What may be left out (AIP-157).
    const FIELDS: &'static [(&'static str, Clear<Self>)];

    /// Of a record.
    fn of(sealer: &Sealer, record: &Record, view: View) -> Result<Self, Error>;
}

impl Identified for Device {
    const WHAT: &'static str = "device";
    const FIELDS: &'static [(&'static str, Clear<Device>)] = &[
        ("device_id", |it| it.device_id.clear()),
        ("generation_id", |it| it.generation_id.clear()),
        ("status", |it| it.status = 0),
        ("status_reason", |it| it.status_reason.clear()),
        (KEYS, |it| it.keys = None),
        ("create_time", |it| it.create_time = None),
        ("update_time", |it| it.update_time = None),
        ("authentication_type", |it| it.authentication_type = 0),
        ("thumbprints", |it| it.thumbprints = None),
        ("status_update_time", |it| it.status_update_time = None),
        ("iot_edge", |it| it.iot_edge = false),
        ("connected", |it| it.connected = false),
        ("connection_update_time", |it| {
            it.connection_update_time = None;
        }),
        ("last_activity_time", |it| it.last_activity_time = None),
    ];

    fn of(sealer: &Sealer, record: &Record, view: View) -> Result<Device, Error> {
        device_message(sealer, record, view)
    }
}

impl Identified for Module {
    const WHAT: &'static str = "module";
    const FIELDS: &'static [(&'static str, Clear<Module>)] = &[
        ("device_id", |it| it.device_id.clear()),
        ("module_id", |it| it.module_id.clear()),
        ("generation_id", |it| it.generation_id.clear()),
        (KEYS, |it| it.keys = None),
        ("create_time", |it| it.create_time = None),
        ("update_time", |it| it.update_time = None),
        ("authentication_type", |it| it.authentication_type = 0),
        ("thumbprints", |it| it.thumbprints = None),
        ("managed_by", |it| it.managed_by.clear()),
        ("connected", |it| it.connected = false),
        ("connection_update_time", |it| {
            it.connection_update_time = None;
        }),
        ("last_activity_time", |it| it.last_activity_time = None),
    ];

    fn of(sealer: &Sealer, record: &Record, view: View) -> Result<Module, Error> {
        module_message(sealer, record, view)
    }
}

/// How identities are shown.
pub(in crate::grpc) struct Show<M> {
    view: View,
    clear: Vec<Clear<M>>,
}

impl<M: Identified> Show<M> {
    /// What a call asks for, if its caller may see it.
    pub(in crate::grpc) fn permitted<T>(
        request: &Request<T>,
        view: i32,
        mask: Option<&FieldMask>,
    ) -> Result<Show<M>, Status> {
        let view = View::permitted(request, view)?;
        Show::new(view, mask).map_err(refuse)
    }

    /// The answer to a change, which shows what its maker may see.
    pub(in crate::grpc) fn new(view: View, mask: Option<&FieldMask>) -> Result<Show<M>, Error> {
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        for path in paths {
            let known = M::FIELDS.iter().any(|(name, _)| name == path);
            if !known && path != "*" && !ALWAYS.contains(&path.as_str()) {
                let fields: Vec<_> = M::FIELDS.iter().map(|(name, _)| *name).collect();
                let problem = format!(
                    "{path:?} is no field of a {}; allowed are *, {}, {}",
                    M::WHAT,
                    ALWAYS.join(", "),
                    fields.join(", ")
                );
                return Err(InvalidField::new("read_mask", problem).into());
            }
        }
        let whole = paths.is_empty() || paths.iter().any(|path| path == "*");
        let wanted = |name: &str| whole || paths.iter().any(|path| path == name);
        let unwanted = M::FIELDS.iter().filter(|(name, _)| !wanted(name));
        Ok(Show {
            view: if wanted(KEYS) { view } else { View::Basic },
            clear: unwanted.map(|(_, clear)| *clear).collect(),
        })
    }

    /// One identity.
    ///
    /// # Errors
    /// Its keys are asked for and cannot be opened.
    pub(in crate::grpc) fn one(&self, sealer: &Sealer, record: &Record) -> Result<M, Error> {
        Ok(self.masked(M::of(sealer, record, self.view)?))
    }

    /// One of several identities: keys that cannot be opened do not keep the others from being read.
    /// It is shown without them, and named.
    pub(in crate::grpc) fn listed(
        &self,
        sealer: &Sealer,
        record: &Record,
        unreadable_keys: &mut Vec<String>,
    ) -> Result<M, Error> {
        match M::of(sealer, record, self.view) {
            Ok(message) => Ok(self.masked(message)),
            Err(error) => {
                let name = identity_name(&record.key);
                tracing::error!(
                    identity = name,
                    error = chain(&error),
                    "the keys of an identity cannot be opened; it is listed without them"
                );
                unreadable_keys.push(name);
                Ok(self.masked(M::of(sealer, record, View::Basic)?))
            }
        }
    }

    fn masked(&self, mut message: M) -> M {
        for clear in &self.clear {
            clear(&mut message);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use prost::Message as _;
    use service_kit::error::Classified as _;
    use service_kit::secret::Secret;

    use super::*;
    use crate::secrets::MasterKeys;
    use crate::testing::record;

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    /// The names of the fields of a message, as its contract has them.
    fn declared(message: &str) -> Vec<String> {
        let all = prost_types::FileDescriptorSet::decode(wire::FILE_DESCRIPTOR_SET).unwrap();
        let mut messages = all.file.iter().flat_map(|file| &file.message_type);
        let found = messages.find(|it| it.name() == message).expect("a message");
        let fields = found.field.iter().map(|field| field.name().to_owned());
        fields
            .filter(|name| !ALWAYS.contains(&name.as_str()))
            .collect()
    }

    #[test]
    fn every_field_can_be_asked_for_alone() {
        let names = |fields: &[&str]| fields.iter().map(|name| (*name).to_owned()).collect();
        let device: Vec<String> = names(&Device::FIELDS.iter().map(|it| it.0).collect::<Vec<_>>());
        assert_eq!(device, declared("Device"));
        let module: Vec<String> = names(&Module::FIELDS.iter().map(|it| it.0).collect::<Vec<_>>());
        assert_eq!(module, declared("Module"));
        let full = Device {
            name: "devices/d".to_owned(),
            device_id: "d".to_owned(),
            generation_id: "g".to_owned(),
            etag: "MQ==".to_owned(),
            status: 1,
            status_reason: "r".to_owned(),
            keys: Some(wire::registry::v1::SymmetricKeys::default()),
            create_time: Some(prost_types::Timestamp::default()),
            update_time: Some(prost_types::Timestamp::default()),
            authentication_type: 1,
            thumbprints: Some(wire::registry::v1::Thumbprints::default()),
            status_update_time: Some(prost_types::Timestamp::default()),
            iot_edge: true,
            connected: true,
            connection_update_time: Some(prost_types::Timestamp::default()),
            last_activity_time: Some(prost_types::Timestamp::default()),
        };
        let length = |paths: &[&str]| {
            let show = Show::<Device>::new(View::Full, Some(&mask(paths))).unwrap();
            show.masked(full.clone()).encoded_len()
        };
        let bare = length(&["name"]);
        assert_eq!(bare, "devices/d".len() + "MQ==".len() + 4);
        for name in declared("Device") {
            assert!(length(&[&name]) > bare, "{name}");
        }
        assert_eq!(length(&[]), full.encoded_len());
        assert_eq!(length(&["status", "*"]), full.encoded_len());
    }

    #[test]
    fn keys_are_opened_only_if_they_are_shown() {
        let view = |paths: &[&str]| {
            let mask = Some(mask(paths)).filter(|mask| !mask.paths.is_empty());
            Show::<Module>::new(View::Full, mask.as_ref()).unwrap().view
        };
        assert_eq!(view(&["managed_by"]), View::Basic);
        assert_eq!(view(&["keys"]), View::Full);
        assert_eq!(view(&[]), View::Full);
    }

    #[test]
    fn an_unknown_field_is_refused_with_all_that_are_known() {
        let mask = mask(&["status", "tags_json"]);
        let refused = Show::<Device>::new(View::Basic, Some(&mask)).err().unwrap();
        let violation = &refused.violations()[0];
        assert_eq!(violation.subject, "read_mask");
        for text in ["\"tags_json\" is no field of a device", "iot_edge", "etag"] {
            assert!(violation.description.contains(text), "{violation:?}");
        }
    }

    #[test]
    fn keys_that_nothing_opens_are_named_and_left_out() {
        // The record's keys were sealed by nobody.
        let keys = MasterKeys {
            present: Secret::new(BASE64_STANDARD.encode([1_u8; 32])),
            ..MasterKeys::default()
        };
        let sealer = Sealer::open(&keys).unwrap();
        let (record, mut named) = (record("d", "g"), Vec::new());
        let show = Show::<Device>::new(View::Full, None).unwrap();
        assert!(show.one(&sealer, &record).is_err());
        let listed = show.listed(&sealer, &record, &mut named).unwrap();
        assert_eq!((listed.device_id.as_str(), listed.keys), ("d", None));
        assert_eq!(named, ["devices/d"]);
    }
}
