//! `twinward status`: whether everything is serving, and how much there is.

mod view;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use wire::registry::v1 as api;

use crate::connection::{Connection, Setting};
use crate::env_file::variable;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Output, plural};
use crate::probe;
use crate::verbs::{guard, policy};

use view::{Part, State, StatusView};

/// Numbers of things, for programs and for people.
type Counted = Vec<(&'static str, u64, String)>;

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 when everything is serving, with 7 when the token is not accepted, \
    and with 1\nwhen a part is not serving for another reason.\n\nExamples:\n  \
    twinward status\n  \
    twinward status -o json | jq .serving"
)]
pub(crate) struct StatusArgs {}

/// A service, and where it is.
struct Service {
    name: &'static str,
    address: Option<Setting>,
    metrics: Option<Setting>,
}

/// What could be read of a service.
struct Seen {
    part: Part,
    metrics: BTreeMap<String, f64>,
}

/// Does what was asked for.
pub(crate) async fn run(
    _args: &StatusArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let within = connection.timeout();
    // A token that cannot even be sent is nothing that any service did.
    if let Some(unusable) = connection.registry().err().and_then(denied) {
        return Err(unusable);
    }
    let service = |name, address, metrics: &str| Service {
        name,
        address,
        metrics: connection.known(metrics),
    };
    let ingestion = service(
        "ingestion",
        connection.known(variable::AGENT_URL),
        variable::INGESTION_METRICS_URL,
    );
    let twin_store = service(
        "twin-store",
        Some(connection.twin_store()?),
        variable::TWIN_STORE_METRICS_URL,
    );
    let policies = service(
        "policy",
        Some(connection.policy()?),
        variable::POLICY_METRICS_URL,
    );
    let (mut ingestion, mut twin_store, mut policies, nats) = tokio::join!(
        look(&ingestion, within),
        look(&twin_store, within),
        look(&policies, within),
        look_at_nats(connection.known(variable::NATS_URL), within),
    );
    if let Some(sessions) = number(&ingestion.metrics, "twinward_ingestion_sessions") {
        let text = plural(sessions, "agent connected", "agents connected");
        ingestion.part.count("agentsConnected", sessions, text);
    }
    let devices = answers(&mut twin_store.part, count_devices(connection).await);
    if devices.is_none() {
        twin_store.part.scope(id_scope(connection).await);
    }
    let backlog = number(
        &twin_store.metrics,
        "twinward_twin_store_telemetry_backlog_messages",
    );
    // Beside a failure "no lag" would read as if all were well.
    if let Some(backlog) = backlog.filter(|_| !twin_store.part.is_bad()) {
        let text = match backlog {
            0 => "no lag".to_owned(),
            many => plural(many, "message behind", "messages behind"),
        };
        twin_store.part.count("backlogMessages", backlog, text);
    }
    let policy_answer = answers(&mut policies.part, count_policies(connection).await);
    let view = StatusView {
        parts: vec![ingestion.part, twin_store.part, policies.part, nats],
    };
    let serving = view.serving();
    output.show(&view)?;
    if let Some(refused) = devices.or(policy_answer) {
        return Err(refused);
    }
    if serving {
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, "not everything is serving")
        .advise("the log of `twinward up`, or of the service, says why"))
}

/// Looks at a service's health and numbers.
async fn look(service: &Service, within: Duration) -> Seen {
    let mut part = Part::new(service.name, service.address.as_ref());
    let Some(base) = &service.metrics else {
        return Seen {
            part,
            metrics: BTreeMap::new(),
        };
    };
    match probe::readiness(&base.value, within).await {
        Ok(readiness) => part.judge(&readiness),
        Err(error) => {
            part.set(State::Down);
            part.detail(Some(format!("{}: {error}", base.value)));
        }
    }
    // Numbers are an extra: when they are missing, the state has said why already.
    let metrics = probe::metrics(&base.value, within)
        .await
        .unwrap_or_default();
    Seen { part, metrics }
}

async fn look_at_nats(url: Option<Setting>, within: Duration) -> Part {
    let Some(url) = url else {
        return Part::new("nats", None);
    };
    // The address in the file holds the password.
    let shown = match url.value.rsplit_once('@') {
        Some((_, host)) => format!("nats://{host}"),
        None => url.value.clone(),
    };
    let mut part = Part::at("nats", shown);
    match probe::nats(&url.value, within).await {
        Ok(greeting) => {
            part.set(if greeting.jetstream {
                State::Serving
            } else {
                State::Degraded
            });
            let jetstream = if greeting.jetstream {
                ""
            } else {
                ", JetStream is off"
            };
            part.detail(Some(format!("version {}{jetstream}", greeting.version)));
        }
        Err(error) => {
            part.set(State::Down);
            part.detail(Some(error.to_string()));
        }
    }
    part
}

/// Takes an answer of the service's own API into account: a service that is healthy but refuses
/// us (a wrong token) is not serving us. Gives that refusal back, because it says what to do.
fn answers(part: &mut Part, answer: Result<Counted, Failure>) -> Option<Failure> {
    match answer {
        Ok(counted) => {
            part.set_if_unknown(State::Serving);
            for (name, number, detail) in counted {
                part.count(name, number, detail);
            }
            None
        }
        Err(failure) => {
            part.set(if failure.kind() == Kind::Denied {
                State::Refused
            } else {
                State::Down
            });
            part.detail_if_none(failure.reason());
            denied(failure)
        }
    }
}

/// The failure, if it is about the token.
fn denied(failure: Failure) -> Option<Failure> {
    (failure.kind() == Kind::Denied).then_some(failure)
}

async fn count_devices(connection: &Connection) -> Result<Counted, Failure> {
    let statistics = connection
        .registry()?
        .get_registry_statistics(api::GetRegistryStatisticsRequest {})
        .await
        .map_err(|status| connection.refused("cannot count devices", status))?
        .into_inner();
    let mut devices = plural(statistics.devices, "device", "devices");
    if statistics.disabled_devices > 0 {
        let _ = write!(devices, " ({} disabled)", statistics.disabled_devices);
    }
    Ok(vec![
        ("devices", statistics.devices, devices),
        (
            "modules",
            statistics.modules,
            plural(statistics.modules, "module", "modules"),
        ),
    ])
}

/// What devices that register themselves have to be told; none if it cannot be read, which the part's
/// state says already.
async fn id_scope(connection: &Connection) -> Option<String> {
    let request = api::GetProvisioningRequest {};
    let answer = connection
        .enrollments()
        .ok()?
        .get_provisioning(request)
        .await;
    let scope = answer.ok()?.into_inner().id_scope;
    (!scope.is_empty()).then_some(scope)
}

async fn count_policies(connection: &Connection) -> Result<Counted, Failure> {
    let policies = policy::all(connection).await?;
    let count = policies.len() as u64;
    let evaluating = policies
        .iter()
        .filter(|policy| {
            policy
                .evaluation
                .as_ref()
                .is_some_and(|state| !state.complete)
        })
        .count();
    let mut text = plural(count, "policy", "policies");
    if evaluating > 0 {
        let _ = write!(text, ", {evaluating} still looking at all twins");
    }
    let mut counted = vec![("policies", count, text)];
    // A policy service from before it had a guard does not answer this.
    let (frozen, some) = guard::some(connection).await.unwrap_or_default();
    if frozen > 0 {
        let lines: Vec<String> = some.iter().map(guard::line).collect();
        let text = plural(frozen, "frozen path", "frozen paths");
        let text = format!("{text} ({})", lines.join("; "));
        counted.push(("frozenPaths", frozen, text));
    }
    Ok(counted)
}

/// A metric that counts things. A gauge may be negative for a moment; that is none.
fn number(metrics: &BTreeMap<String, f64>, name: &str) -> Option<u64> {
    let value = metrics.get(name)?;
    // By way of text: a float has no checked conversion, and a count prints as a whole number.
    Some(format!("{:.0}", value.max(0.0)).parse().unwrap_or(0))
}
