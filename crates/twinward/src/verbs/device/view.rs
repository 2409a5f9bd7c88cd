//! What people and programs see of a device. Never a key, but inside the connection string that
//! was asked for.

use std::fmt::Write as _;

use serde::Serialize;
use wire::registry::v1 as api;

use super::authentication;
use crate::output::{Paper, View, table, time};

/// A device as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceData<'a> {
    name: &'a str,
    device_id: &'a str,
    status: &'static str,
    status_reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    authentication_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thumbprints: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    iot_edge: bool,
    connection_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_activity_time: Option<String>,
    generation_id: &'a str,
    etag: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_string: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security_module: Option<SecurityModuleData<'a>>,
}

/// The security module that was created with a device.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecurityModuleData<'a> {
    name: &'a str,
    module_id: &'a str,
    connection_string: Option<&'a str>,
}

fn data<'a>(device: &'a api::Device, connection_string: Option<&'a str>) -> DeviceData<'a> {
    DeviceData {
        name: &device.name,
        device_id: &device.device_id,
        status: status(device.status()),
        status_reason: &device.status_reason,
        authentication_type: authentication::name(device.authentication_type()),
        thumbprints: thumbprints(device),
        iot_edge: device.iot_edge,
        connection_state: if device.connected {
            "connected"
        } else {
            "disconnected"
        },
        last_activity_time: time::precise(device.last_activity_time),
        generation_id: &device.generation_id,
        etag: &device.etag,
        create_time: time::precise(device.create_time),
        update_time: time::precise(device.update_time),
        connection_string,
        security_module: None,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

fn thumbprints(device: &api::Device) -> Vec<&str> {
    let both = device.thumbprints.as_ref();
    let both = both.map(|both| [both.primary.as_str(), both.secondary.as_str()]);
    let given = both.into_iter().flatten();
    given.filter(|thumbprint| !thumbprint.is_empty()).collect()
}

/// Whether and when it was there, in a few words.
fn connection(paper: &Paper, device: &api::Device) -> String {
    match (
        device.connected,
        time::age(paper.now, device.last_activity_time),
    ) {
        (true, _) => "connected".to_owned(),
        (false, age) if age.is_empty() => "never connected".to_owned(),
        (false, age) => format!("disconnected, last activity {age} ago"),
    }
}

fn status(status: api::Status) -> &'static str {
    match status {
        api::Status::Enabled => "enabled",
        api::Status::Disabled => "disabled",
        api::Status::Unspecified => "unknown",
    }
}

/// One device.
pub(super) struct DeviceView {
    pub(super) device: api::Device,
    pub(super) connection_string: Option<String>,
}

impl View for DeviceView {
    fn data(&self) -> impl Serialize {
        data(&self.device, self.connection_string.as_deref())
    }

    fn text(&self, paper: &Paper) -> String {
        let device = &self.device;
        table::pairs(
            paper,
            vec![
                ("device", device.device_id.clone()),
                ("status", status(device.status()).to_owned()),
                ("reason", device.status_reason.clone()),
                ("connection", connection(paper, device)),
                (
                    "authentication",
                    authentication::name(device.authentication_type()).to_owned(),
                ),
                ("thumbprints", thumbprints(device).join(" ")),
                (
                    "capabilities",
                    if device.iot_edge { "IoT Edge" } else { "" }.to_owned(),
                ),
                ("created", time::short(device.create_time)),
                ("updated", time::short(device.update_time)),
                ("generation", device.generation_id.clone()),
                ("etag", device.etag.clone()),
            ],
        ) + &secret_line("connection string", self.connection_string.as_deref())
    }
}

/// A device that was just created, with what its owner needs to connect it.
pub(super) struct Created {
    pub(super) device: api::Device,
    pub(super) device_connection: Option<String>,
    pub(super) module: Option<api::Module>,
    pub(super) module_connection: Option<String>,
    pub(super) agent_url: Option<String>,
}

impl View for Created {
    fn data(&self) -> impl Serialize {
        let mut data = data(&self.device, self.device_connection.as_deref());
        data.security_module = self.module.as_ref().map(|module| SecurityModuleData {
            name: &module.name,
            module_id: &module.module_id,
            connection_string: self.module_connection.as_deref(),
        });
        data
    }

    fn text(&self, paper: &Paper) -> String {
        let device = &self.device;
        let mut text = match &self.module {
            Some(module) => format!(
                "created device {} with its security module {}\n\n",
                device.device_id, module.module_id
            ),
            None => format!("created device {}\n\n", device.device_id),
        };
        if device.status() == api::Status::Disabled {
            text.push_str("it is disabled and may not connect\n\n");
        }
        text.push_str(&secret_line(
            "connection string",
            self.device_connection.as_deref(),
        ));
        text.push_str(&secret_line(
            "connection string of the security module, for twinward-agent",
            self.module_connection.as_deref(),
        ));
        text.push_str(&paper.dim("These hold keys: whoever has one can connect with it."));
        text.push('\n');
        if let (Some(_), Some(url)) = (&self.module_connection, &self.agent_url) {
            let _ = write!(
                text,
                "\nOn the device, with the second one in a file of mode 0600:\n  \
                 twinward-agent run --server {url} --connection-string-file FILE\n"
            );
        }
        text
    }
}

/// A connection string on a line of its own, whole however narrow the terminal is.
pub(crate) fn secret_line(name: &str, connection_string: Option<&str>) -> String {
    match connection_string {
        Some(text) => format!("{name}:\n  {text}\n"),
        None => String::new(),
    }
}

/// Several devices.
pub(super) struct Devices(pub(super) Vec<api::Device>);

impl View for Devices {
    fn data(&self) -> impl Serialize {
        self.0
            .iter()
            .map(|device| data(device, None))
            .collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no devices; `twinward device create DEVICE` makes one\n".to_owned();
        }
        let rows = self.0.iter().map(|device| {
            vec![
                device.device_id.clone(),
                status(device.status()).to_owned(),
                if device.connected { "yes" } else { "no" }.to_owned(),
                authentication::name(device.authentication_type()).to_owned(),
                time::age(paper.now, device.create_time),
                time::age(paper.now, device.update_time),
                device.status_reason.clone(),
            ]
        });
        table::table(
            paper,
            &[
                "DEVICE",
                "STATUS",
                "CONNECTED",
                "AUTH",
                "AGE",
                "CHANGED",
                "REASON",
            ],
            rows.collect(),
        )
    }
}

/// Something that leaves nothing to show.
#[derive(Serialize)]
pub(crate) struct Done {
    /// Resource name.
    pub(crate) name: String,
    /// Past participle, for instance `deleted`.
    pub(crate) done: &'static str,
}

impl View for Done {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        format!("{} {}\n", self.done, self.name)
    }
}

#[cfg(test)]
mod tests;
