//! What people and programs see of a module.

use serde::Serialize;
use wire::registry::v1 as api;

use crate::output::{Paper, View, table, time};
use crate::verbs::device::{authentication, secret_line};

/// A module as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleData<'a> {
    name: &'a str,
    device_id: &'a str,
    module_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    authentication_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    managed_by: &'a str,
    connection_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_activity_time: Option<String>,
    generation_id: &'a str,
    etag: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_string: Option<&'a str>,
}

fn data<'a>(module: &'a api::Module, connection_string: Option<&'a str>) -> ModuleData<'a> {
    ModuleData {
        name: &module.name,
        device_id: &module.device_id,
        module_id: &module.module_id,
        authentication_type: authentication::name(module.authentication_type()),
        managed_by: &module.managed_by,
        connection_state: if module.connected {
            "connected"
        } else {
            "disconnected"
        },
        last_activity_time: time::precise(module.last_activity_time),
        generation_id: &module.generation_id,
        etag: &module.etag,
        create_time: time::precise(module.create_time),
        update_time: time::precise(module.update_time),
        connection_string,
    }
}

/// One module.
pub(super) struct ModuleView {
    pub(super) module: api::Module,
    pub(super) connection_string: Option<String>,
}

impl View for ModuleView {
    fn data(&self) -> impl Serialize {
        data(&self.module, self.connection_string.as_deref())
    }

    fn text(&self, paper: &Paper) -> String {
        let module = &self.module;
        table::pairs(
            paper,
            vec![
                ("device", module.device_id.clone()),
                ("module", module.module_id.clone()),
                (
                    "authentication",
                    authentication::name(module.authentication_type()).to_owned(),
                ),
                ("managed by", module.managed_by.clone()),
                (
                    "connected",
                    if module.connected { "yes" } else { "no" }.to_owned(),
                ),
                ("created", time::short(module.create_time)),
                ("updated", time::short(module.update_time)),
                ("generation", module.generation_id.clone()),
                ("etag", module.etag.clone()),
            ],
        ) + &secret_line("connection string", self.connection_string.as_deref())
    }
}

/// A module that was just created.
pub(super) struct Created(pub(super) ModuleView);

impl View for Created {
    fn data(&self) -> impl Serialize {
        self.0.data()
    }

    fn text(&self, paper: &Paper) -> String {
        let module = &self.0.module;
        let mut text = format!(
            "created module {} of device {}\n\n",
            module.module_id, module.device_id
        );
        text.push_str(&secret_line(
            "connection string",
            self.0.connection_string.as_deref(),
        ));
        text.push_str(&paper.dim("It holds a key: whoever has it can connect with it."));
        text.push('\n');
        text
    }
}

/// The modules of a device.
pub(super) struct Modules {
    pub(super) device: String,
    pub(super) modules: Vec<api::Module>,
}

impl View for Modules {
    fn data(&self) -> impl Serialize {
        self.modules
            .iter()
            .map(|module| data(module, None))
            .collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.modules.is_empty() {
            return format!(
                "device {0} has no modules; `twinward module create {0} {1}` makes its security \
                 module\n",
                self.device,
                twin::ModuleId::SECURITY
            );
        }
        let rows = self.modules.iter().map(|module| {
            vec![
                module.module_id.clone(),
                if module.connected { "yes" } else { "no" }.to_owned(),
                authentication::name(module.authentication_type()).to_owned(),
                time::age(paper.now, module.create_time),
                time::age(paper.now, module.update_time),
            ]
        });
        table::table(
            paper,
            &["MODULE", "CONNECTED", "AUTH", "AGE", "CHANGED"],
            rows.collect(),
        )
    }
}
