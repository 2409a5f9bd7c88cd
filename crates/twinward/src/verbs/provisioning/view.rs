//! What people and programs see of enrolments.

use serde::Serialize;
use wire::registry::v1 as api;

use crate::output::{Paper, View, table, time};

/// The hub's id scope.
pub(super) struct Scope(pub(super) String);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeData<'a> {
    id_scope: &'a str,
}

impl View for Scope {
    fn data(&self) -> impl Serialize {
        ScopeData { id_scope: &self.0 }
    }

    fn text(&self, _paper: &Paper) -> String {
        format!("{}\n", self.0)
    }
}

/// An enrolment as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnrollmentData<'a> {
    name: &'a str,
    status: &'static str,
    attestation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secondary_key: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    device_id: &'a str,
    iot_edge: bool,
    security_module: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    tags_json: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    desired_json: &'a str,
    reprovision: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    adopts: &'a [String],
    etag: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
}

fn data(enrollment: &api::Enrollment) -> EnrollmentData<'_> {
    let keys = enrollment.keys.as_ref();
    EnrollmentData {
        name: &enrollment.name,
        status: status(enrollment),
        attestation: attestation(enrollment),
        primary_key: keys.map(|keys| keys.primary.as_str()),
        secondary_key: keys.map(|keys| keys.secondary.as_str()),
        device_id: &enrollment.device_id,
        iot_edge: enrollment.iot_edge,
        security_module: !enrollment.without_security_module,
        tags_json: &enrollment.tags_json,
        desired_json: &enrollment.desired_json,
        reprovision: reprovision(enrollment),
        adopts: &enrollment.adopts,
        etag: &enrollment.etag,
        create_time: time::precise(enrollment.create_time),
        update_time: time::precise(enrollment.update_time),
    }
}

fn status(enrollment: &api::Enrollment) -> &'static str {
    match enrollment.status() {
        api::Status::Enabled => "enabled",
        api::Status::Disabled | api::Status::Unspecified => "disabled",
    }
}

fn attestation(enrollment: &api::Enrollment) -> &'static str {
    match enrollment.attestation_type() {
        api::AttestationType::SymmetricKey | api::AttestationType::Unspecified => "symmetricKey",
        api::AttestationType::X509 => "x509",
    }
}

fn reprovision(enrollment: &api::Enrollment) -> &'static str {
    match enrollment.reprovision_policy() {
        api::ReprovisionPolicy::Keep | api::ReprovisionPolicy::Unspecified => "keep",
        api::ReprovisionPolicy::Reset => "reset",
        api::ReprovisionPolicy::Never => "never",
    }
}

/// One enrolment, with its keys if they are there.
pub(super) struct One(pub(super) api::Enrollment);

impl View for One {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let one = &self.0;
        let keys = one.keys.clone().unwrap_or_default();
        table::pairs(
            paper,
            vec![
                ("enrolment", one.name.clone()),
                ("status", status(one).to_owned()),
                ("attestation", attestation(one).to_owned()),
                ("primary key", keys.primary),
                ("secondary key", keys.secondary),
                ("device", one.device_id.clone()),
                ("tags", one.tags_json.clone()),
                ("desired", one.desired_json.clone()),
                ("reprovision", reprovision(one).to_owned()),
                ("adopts", one.adopts.join(", ")),
                ("changed", time::short(one.update_time)),
            ],
        )
    }
}

/// Some enrolments.
pub(super) struct Enrollments(pub(super) Vec<api::Enrollment>);

impl View for Enrollments {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no enrolments\n".to_owned();
        }
        let rows = self.0.iter().map(|one| {
            vec![
                one.name.clone(),
                status(one).to_owned(),
                attestation(one).to_owned(),
                one.device_id.clone(),
                time::short(one.update_time),
            ]
        });
        let header = ["ENROLMENT", "STATUS", "ATTESTATION", "DEVICE", "CHANGED"];
        table::table(paper, &header, rows.collect())
    }
}

/// The keys of a device.
pub(super) struct Keys(pub(super) api::SymmetricKeys);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeysData<'a> {
    primary_key: &'a str,
    secondary_key: &'a str,
}

impl View for Keys {
    fn data(&self) -> impl Serialize {
        KeysData {
            primary_key: &self.0.primary,
            secondary_key: &self.0.secondary,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let pairs = vec![
            ("primary key", self.0.primary.clone()),
            ("secondary key", self.0.secondary.clone()),
        ];
        table::pairs(paper, pairs)
    }
}
