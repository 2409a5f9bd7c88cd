//! A fleet to search in and to evaluate: twins of some 3 KiB, as a hub has them after a while.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use posture::Posture;
use serde_json::{Map, Value, json};
use twin::{DeviceId, IdentityKey, PartitionCount, Revision, Stamp, Twin, Writer};
use twin_store::index;
use twin_store::record::{Authentication, Identity, IdentityEtag, Record, Status, TwinText};
use twin_store::store::{Commit, Replica, ReplicaId, Store, Upsert};

/// Twins in a commit: few enough to keep memory small, many enough to make syncing cheap.
const BATCH: u32 = 20_000;
/// Twins of one site.
const SITE: u32 = 200;

/// How many sites a fleet has.
pub fn sites(twins: u32) -> u32 {
    (twins / SITE).max(1)
}

/// The id of a device.
pub fn device_id(number: u32) -> String {
    format!(
        "plant{:02}-line{:02}-{number:07}",
        number % 40,
        number / 40 % 25
    )
}

/// Writes the fleet, each twin as `shape` makes it, and tells how far it is.
pub async fn fill(
    store: &dyn Store,
    twins: u32,
    now: Timestamp,
    shape: impl Fn(Record) -> Result<Record>,
    told: impl Fn(&str),
) -> Result<()> {
    let replica = Replica {
        id: ReplicaId(uuid::Uuid::new_v4().to_string()),
        address: "http://127.0.0.1:1".to_owned(),
        count: PartitionCount::DEFAULT,
        lease: Duration::from_hours(1),
    };
    let states = store.claim(replica).await?.owned;
    // In the order of keys, which is how a store is loaded best.
    let mut ids: Vec<(String, u32)> = (0..twins).map(|n| (device_id(n), n)).collect();
    ids.sort();
    let template = Template::new(now)?;
    for batch in ids.chunks(usize::try_from(BATCH)?) {
        let upserts: Result<Vec<_>> = batch
            .iter()
            .map(|(id, number)| {
                let record = shape(template.record(id, *number, twins)?)?;
                let (index_remove, index_add) = index::changes(None, Some(&record))?;
                Ok(Upsert {
                    record: Arc::new(record),
                    index_remove,
                    index_add,
                })
            })
            .collect();
        let commit = Commit {
            partitions: states.clone(),
            upserts: upserts?,
            ..Commit::default()
        };
        store.commit(commit).await?;
        if let Some((id, _)) = batch.last() {
            told(id);
        }
    }
    Ok(())
}

/// A twin whose metadata fits every document that is made of it.
#[derive(Debug)]
pub struct Template {
    twin: TwinText,
    posture: Posture,
    now: Timestamp,
}

impl Template {
    /// As of this time.
    pub fn new(now: Timestamp) -> Result<Template> {
        let twin = Twin::new(now);
        let stamp = Stamp {
            at: now,
            by: Writer::Operator("fleet".to_owned()),
        };
        let patch = twin::TwinPatch {
            tags: Some(object(tags(0, 1))),
            desired: Some(object(desired())),
        };
        let written = twin.patch(&patch, &stamp, None)?;
        let twin = written.context("nothing was written")?.twin;
        let twin = twin.patch_reported(&object(reported(0)), now, None)?;
        let ports: Vec<Value> = [22, 80, 443, 5353, 8080, 9100]
            .iter()
            .map(|port| {
                json!({"protocol": "tcp", "address": "0.0.0.0", "port": port, "pid": 812,
                               "process": "service", "executable": "/usr/sbin/service"})
            })
            .collect();
        let posture = json!({
            "version": 1000, "eventCount": 5000,
            "agent": {"version": "0.4.0", "connected": true, "connectedAt": now.to_string(),
                      "lastSeenAt": now.to_string(), "sessionId": "3f0c", "collectors": {}},
            "listeningPorts": ports,
            "configuration": {"state": "applied"},
        });
        Ok(Template {
            twin: TwinText::print(&twin),
            posture: serde_json::from_value(posture).context("a posture")?,
            now,
        })
    }

    /// The twin with a number, of so many.
    pub fn record(&self, id: &str, number: u32, twins: u32) -> Result<Record> {
        let mut twin = self.twin.clone();
        twin.tags.document = tags(number, sites(twins)).to_string();
        twin.reported.document = reported(number).to_string();
        let mut posture = self.posture.clone();
        posture.agent.connected = !number.is_multiple_of(10);
        if number % 1000 == 13 {
            let hours = jiff::SignedDuration::from_hours(5);
            let silent = self.now.checked_sub(hours)?;
            posture.agent.connected_at = Some(silent);
            posture.agent.last_seen_at = Some(silent);
        }
        if number % 1000 == 7
            && let Some(port) = posture.listening_ports.first_mut()
        {
            port.port = 23;
        }
        Ok(Record {
            key: IdentityKey::new_device(DeviceId::parse(id)?),
            identity: Identity {
                generation_id: format!("{number:032x}"),
                etag: IdentityEtag::from_number(1),
                status: if number % 100 == 3 {
                    Status::Disabled
                } else {
                    Status::Enabled
                },
                status_reason: String::new(),
                status_updated_at: None,
                authentication: Authentication::SelfSigned {
                    primary: "AB".repeat(32),
                    secondary: None,
                },
                iot_edge: false,
                managed_by: String::new(),
                model_id: String::new(),
                provisioned: None,
                created_at: self.now,
                updated_at: self.now,
            },
            configurations: std::collections::BTreeMap::new(),
            device_tags: None,
            twin,
            posture,
            revision: Revision::new(u64::from(number) + 1),
            updated_at: self.now,
        })
    }
}

fn tags(number: u32, sites: u32) -> Value {
    let site = number % sites;
    let region = match site % 3 {
        0 => "EU",
        1 => "US",
        _ => "APAC",
    };
    json!({
        "site": format!("site-{site:04}"),
        "location": {"country": format!("c{:02}", site % 50), "region": region},
        "ring": if number % 100 < 2 { "canary" } else { "broad" },
        "env": if number.is_multiple_of(2) { "prod" } else { "test" },
        "floor": number / sites % 12,
        "number": number,
        "owner": format!("team-{:03}@example.com", number % 300),
    })
}

fn desired() -> Value {
    json!({"telemetry": {"intervalSeconds": 30, "batch": 100}, "allowedPorts": [22, 80, 443],
           "agent": {"logLevel": "info", "lowSeconds": 10, "highSeconds": 1}})
}

fn reported(number: u32) -> Value {
    json!({
        "fw": {"version": format!("1.{}.{}", number % 9, number % 100), "channel": "stable"},
        "uptime": number.wrapping_mul(2_654_435_761) % 10_000_000,
        "os": {"name": "Debian GNU/Linux", "version": "12", "kernel": "6.1.0-18-amd64"},
        "network": {"eth0": {"mac": format!("02:00:{number:08x}"), "mtu": 1500, "speed": 1000}},
        "notes": "x".repeat(300),
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
