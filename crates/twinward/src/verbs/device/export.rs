//! `twinward device export`: every device and module with its tags and desired section, a line each,
//! in a form that `device import` reads.
//!
//! The file is there whole or not at all: half an export must not be taken for all of it. It is not
//! a picture of one moment: what changes meanwhile is in it as it was when it was read.

mod sink;

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use wire::registry::v1 as api;
use wire::twin::v1 as twins;

use super::line::{Capabilities, Line, Properties, Status, authentication};
use super::{batch, ensure};
use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Output, Paper, View, plural};
use crate::patience;

use sink::Sink;

/// Devices read in one call.
const PAGE_SIZE: i32 = 500;
/// Modules read in one call; the service answers no more.
const MODULES_PAGE_SIZE: i32 = 1000;
/// Twins left out that are named.
const NAMED_MAX: usize = 20;

/// Arguments of `device export`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file of an export with keys is readable by its owner alone.\n\nExamples:\n  \
    twinward device export fleet.ndjson\n  \
    twinward device export fleet-with-keys.ndjson --with-keys\n  \
    twinward device export - --filter \"tags.site = 'hall-3'\" | jq -r .deviceId"
)]
pub(crate) struct ExportArgs {
    /// File to write; - writes standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only devices for whose twin this condition holds, with their modules (IoT Hub's query
    /// language, what follows WHERE)
    #[arg(
        long,
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    filter: String,
    /// Leave the modules out
    #[arg(long)]
    devices_only: bool,
    /// Write the keys, too: whoever reads the file can connect as every device in it
    #[arg(long)]
    with_keys: bool,
}

/// Does what was asked for.
pub(super) async fn run(
    args: ExportArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let total = if args.filter.is_empty() {
        ensure::total(connection).await
    } else {
        None
    };
    let mut sink = Sink::open(&args.file)?;
    let progress = Progress::begin("exporting", total, output.format());
    let mut export = Export {
        connection,
        args: &args,
        exported: Exported::default(),
        left_out: Vec::new(),
    };
    let result = export.all(&mut sink, progress, total).await;
    let (exported, left_out) = (export.exported, export.left_out);
    result?;
    let to_file = sink.finish()?;
    if to_file {
        output.show(&exported)?;
    }
    if left_out.is_empty() {
        return Ok(());
    }
    let count = plural(
        u64::try_from(left_out.len()).unwrap_or(u64::MAX),
        "identity",
        "identities",
    );
    let mut failure = Failure::new(
        Kind::Failed,
        format!(
            "{count} not exported whole, because what is stored is damaged or was deleted meanwhile"
        ),
    );
    for name in left_out.iter().take(NAMED_MAX) {
        failure = failure.detail(name);
    }
    Err(failure.advise("`twinward store verify` says what is damaged"))
}

struct Export<'a> {
    connection: &'a Connection,
    args: &'a ExportArgs,
    exported: Exported,
    left_out: Vec<String>,
}

impl Export<'_> {
    async fn all(
        &mut self,
        sink: &mut Sink,
        mut progress: Progress,
        total: Option<u64>,
    ) -> Result<(), Failure> {
        let mut page_token = String::new();
        loop {
            let page = patience::call(self.connection, "cannot list devices", async || {
                let request = api::ListDevicesRequest {
                    page_size: PAGE_SIZE,
                    page_token: page_token.clone(),
                    filter: self.args.filter.clone(),
                    view: self.view().into(),
                    read_mask: None,
                };
                self.connection
                    .registry()?
                    .list_devices(request)
                    .await
                    .map_err(Into::into)
            })
            .await?;
            page_token = page.next_page_token;
            self.left_out.extend(page.damaged);
            self.without_keys(page.unreadable_keys);
            self.page(page.devices, sink).await?;
            progress.at(self.exported.devices, total, "");
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }

    fn view(&self) -> api::IdentityView {
        if self.args.with_keys {
            api::IdentityView::Full
        } else {
            api::IdentityView::Basic
        }
    }

    async fn page(&mut self, devices: Vec<api::Device>, sink: &mut Sink) -> Result<(), Failure> {
        let mut modules = if self.args.devices_only {
            HashMap::new()
        } else {
            self.modules(&devices).await?
        };
        let mut names = Vec::new();
        for device in &devices {
            names.push(device.name.clone());
            let modules = modules.get(&device.device_id).into_iter().flatten();
            names.extend(modules.map(|module| module.name.clone()));
        }
        let twins = batch::twins(self.connection, names, &["tags_json", "desired_json"]).await?;
        for device in devices {
            let modules = modules.remove(&device.device_id).unwrap_or_default();
            let Some(twin) = twins.get(&device.name) else {
                self.left_out.push(device.name);
                continue;
            };
            sink.write(&device_line(&device, twin)?)?;
            self.exported.devices += 1;
            for module in modules {
                let Some(twin) = twins.get(&module.name) else {
                    self.left_out.push(module.name);
                    continue;
                };
                sink.write(&module_line(&module, twin)?)?;
                self.exported.modules += 1;
            }
        }
        Ok(())
    }

    /// Notes identities that are exported without the keys that were asked for.
    fn without_keys(&mut self, names: Vec<String>) {
        let told = |name| format!("{name}, without its keys: no known master key opens them");
        self.left_out.extend(names.into_iter().map(told));
    }

    /// The modules of these devices, by the devices' ids.
    async fn modules(
        &mut self,
        devices: &[api::Device],
    ) -> Result<HashMap<String, Vec<api::Module>>, Failure> {
        let names: Vec<_> = devices.iter().map(|device| device.name.clone()).collect();
        let mut found: HashMap<String, Vec<api::Module>> = HashMap::new();
        let mut page_token = String::new();
        // Of no devices in particular would be of all.
        while !names.is_empty() {
            let page = patience::call(self.connection, "cannot list modules", async || {
                let request = api::ListModulesRequest {
                    devices: names.clone(),
                    view: self.view().into(),
                    page_size: MODULES_PAGE_SIZE,
                    page_token: page_token.clone(),
                    ..Default::default()
                };
                self.connection
                    .registry()?
                    .list_modules(request)
                    .await
                    .map_err(Into::into)
            })
            .await?;
            self.left_out.extend(page.damaged);
            self.without_keys(page.unreadable_keys);
            for module in page.modules {
                let id = module.device_id.clone();
                found.entry(id).or_default().push(module);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(found)
    }
}

fn device_line(device: &api::Device, twin: &twins::Twin) -> Result<Line, Failure> {
    Ok(Line {
        device_id: device.device_id.clone(),
        status: match device.status() {
            api::Status::Enabled => Some(Status::Enabled),
            api::Status::Disabled => Some(Status::Disabled),
            api::Status::Unspecified => None,
        },
        status_reason: Some(device.status_reason.clone()).filter(|reason| !reason.is_empty()),
        authentication: Some(authentication(
            device.authentication_type(),
            device.keys.as_ref(),
            device.thumbprints.as_ref(),
        )),
        capabilities: device.iot_edge.then_some(Capabilities { iot_edge: true }),
        tags: Some(object(twin, "tags_json", &twin.tags_json)?),
        properties: Some(Properties::desired(object(
            twin,
            "desired_json",
            &twin.desired_json,
        )?)),
        ..Line::default()
    })
}

fn module_line(module: &api::Module, twin: &twins::Twin) -> Result<Line, Failure> {
    Ok(Line {
        device_id: module.device_id.clone(),
        module_id: Some(module.module_id.clone()),
        authentication: Some(authentication(
            module.authentication_type(),
            module.keys.as_ref(),
            module.thumbprints.as_ref(),
        )),
        managed_by: Some(module.managed_by.clone()).filter(|by| !by.is_empty()),
        tags: Some(object(twin, "tags_json", &twin.tags_json)?),
        properties: Some(Properties::desired(object(
            twin,
            "desired_json",
            &twin.desired_json,
        )?)),
        ..Line::default()
    })
}

fn object(twin: &twins::Twin, field: &str, text: &str) -> Result<Map<String, Value>, Failure> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| {
        let what = format!("the answer for {} is damaged", twin.name);
        Failure::new(Kind::Internal, what).because(format!("{field}: {error}"))
    })
}

/// What was written.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    devices: u64,
    modules: u64,
}

impl View for Exported {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        format!(
            "exported {} and {}\n",
            plural(self.devices, "device", "devices"),
            plural(self.modules, "module", "modules")
        )
    }
}
