//! The API of configurations: reads what is asked, has it checked and kept, and prints it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use service_kit::auth::{self, Permission, principal};
use service_kit::clock::SharedClock;
use service_kit::status::to_status;
use tonic::{Request, Response, Status};
use twin::Map;
use wire::InvalidField;
use wire::policy::v1 as proto;
use wire::policy::v1::configuration_service_server::ConfigurationService;
use wire::time::to_wire;

use super::by;
use crate::configuration_doc::{self, ConfigurationId, ConfigurationSpec};
use crate::counts::Counts;
use crate::policies::Policies;
use crate::schedule::Gate;
use crate::store::{By, ConfigurationError, Store, StoredConfiguration};
use crate::touch::Touch;

mod error;
mod touched;

use error::Error;

/// How names begin.
const PREFIX: &str = "configurations/";
/// Longest name of an operator: it is kept with every leaf.
const OPERATOR_MAX: usize = 128;

/// The API over the store.
#[derive(Debug, Clone)]
pub(crate) struct ConfigurationApi {
    store: Store,
    policies: Policies,
    counts: Counts,
    touch: Touch,
    clock: SharedClock,
}

impl ConfigurationApi {
    /// Serves what the store keeps, and puts it in force among these policies.
    pub(crate) fn new(
        store: Store,
        policies: Policies,
        counts: Counts,
        touch: Touch,
        clock: SharedClock,
    ) -> Self {
        Self {
            store,
            policies,
            counts,
            touch,
            clock,
        }
    }

    /// A configuration with on how many twins it stands.
    fn shown(&self, stored: &StoredConfiguration) -> proto::Configuration {
        proto::Configuration {
            counts: self.counts.of_configuration(stored),
            ..print(stored)
        }
    }

    async fn create(
        &self,
        request: proto::CreateConfigurationRequest,
        by: By,
    ) -> Result<proto::Configuration, Error> {
        let (id, spec) = read(request.configuration)?;
        check(&spec)?;
        self.check_touched(&id, Some(&spec)).await?;
        let when = (self.clock.now(), by);
        let then = self.policies.follow_configurations();
        let stored = self.store.create_configuration(id, spec, when, then);
        let stored = stored.await?;
        changed(&stored.id, "created");
        Ok(print(&stored))
    }

    async fn update(
        &self,
        request: proto::UpdateConfigurationRequest,
        by: By,
    ) -> Result<proto::Configuration, Error> {
        let (id, spec) = read(request.configuration)?;
        let expected = revision(&id, &request.etag)?;
        check(&spec)?;
        self.check_touched(&id, Some(&spec)).await?;
        let when = (self.clock.now(), by);
        let then = self.policies.follow_configurations();
        let stored = self
            .store
            .update_configuration(id, spec, expected, when, then)
            .await?;
        changed(&stored.id, "updated");
        Ok(print(&stored))
    }

    async fn delete(
        &self,
        request: proto::DeleteConfigurationRequest,
        by: By,
    ) -> Result<(), Error> {
        let id = parse_name("name", &request.name)?;
        let expected = revision(&id, &request.etag)?;
        // It would be taken out of every device; an update waits for the end by itself.
        if let Gate::Closed(why) = self.policies.gate_of_configuration(&id) {
            return Err(Error::Frozen { id, why });
        }
        self.check_touched(&id, None).await?;
        let when = (self.clock.now(), by);
        let then = self.policies.follow_configurations();
        self.store
            .delete_configuration(id.clone(), expected, when, then)
            .await?;
        changed(&id, "deleted");
        Ok(())
    }
}

fn changed(id: &ConfigurationId, what: &str) {
    tracing::info!(configuration_id = %id, change = what, "configuration changed");
}

#[tonic::async_trait]
impl ConfigurationService for ConfigurationApi {
    async fn create_configuration(
        &self,
        request: Request<proto::CreateConfigurationRequest>,
    ) -> Result<Response<proto::Configuration>, Status> {
        let by = on_behalf(&request, &request.get_ref().operator)?;
        answer(self.create(request.into_inner(), by).await)
    }

    async fn update_configuration(
        &self,
        request: Request<proto::UpdateConfigurationRequest>,
    ) -> Result<Response<proto::Configuration>, Status> {
        let by = on_behalf(&request, &request.get_ref().operator)?;
        answer(self.update(request.into_inner(), by).await)
    }

    async fn get_configuration(
        &self,
        request: Request<proto::GetConfigurationRequest>,
    ) -> Result<Response<proto::Configuration>, Status> {
        let get = async {
            let id = parse_name("name", &request.get_ref().name)?;
            let found = self.policies.configuration(&id);
            Ok(self.shown(&found.ok_or(ConfigurationError::NotFound(id))?))
        };
        answer(get.await)
    }

    async fn list_configurations(
        &self,
        _: Request<proto::ListConfigurationsRequest>,
    ) -> Result<Response<proto::ListConfigurationsResponse>, Status> {
        let list = async {
            let found = self.policies.configurations();
            let configurations = found.iter().map(|one| self.shown(one)).collect();
            Ok(proto::ListConfigurationsResponse { configurations })
        };
        answer(list.await)
    }

    async fn delete_configuration(
        &self,
        request: Request<proto::DeleteConfigurationRequest>,
    ) -> Result<Response<()>, Status> {
        let by = on_behalf(&request, &request.get_ref().operator)?;
        answer(self.delete(request.into_inner(), by).await)
    }

    async fn check_configuration_queries(
        &self,
        request: Request<proto::CheckConfigurationQueriesRequest>,
    ) -> Result<Response<proto::CheckConfigurationQueriesResponse>, Status> {
        let request = request.into_inner();
        let target = configuration_doc::target(&request.target_condition);
        let metric_query_errors = request
            .metric_queries
            .into_iter()
            .filter_map(|(name, query)| {
                let problem = configuration_doc::metric(&name, &query).err()?;
                Some((name, problem))
            })
            .collect();
        Ok(Response::new(proto::CheckConfigurationQueriesResponse {
            target_condition_error: target.err().unwrap_or_default(),
            metric_query_errors,
        }))
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Who makes a change: the caller, or, if it is a service, whom it names.
fn on_behalf<T>(request: &Request<T>, operator: &str) -> Result<By, Status> {
    let mut by = by(request);
    let caller = principal(request);
    if operator.is_empty() || operator == caller.name {
        return Ok(by);
    }
    if operator.len() > OPERATOR_MAX {
        let problem = format!(
            "has {} bytes; at most {OPERATOR_MAX} are allowed",
            operator.len()
        );
        return Err(to_status(&Error::Field(InvalidField::new(
            "operator", problem,
        ))));
    }
    let action = format!("change configurations in the name of {operator}");
    auth::check(&caller, Permission::TwinsWriteAs, &action).map_err(|error| to_status(&error))?;
    by.actor = format!("operator:{operator}");
    Ok(by)
}

fn parse_name(field: &str, name: &str) -> Result<ConfigurationId, Error> {
    let id = name.strip_prefix(PREFIX).ok_or_else(|| {
        let problem = format!("{name:?} is not of the form \"{PREFIX}{{configuration}}\"");
        InvalidField::new(field, problem)
    })?;
    ConfigurationId::parse(id)
        .map_err(|problem| InvalidField::new(field, format!("the id {problem}")).into())
}

/// The etag of a revision, in the form that IoT Hub gives.
fn etag(revision: u64) -> String {
    STANDARD.encode(revision.to_string())
}

/// The revision that an etag stands for; none of an empty one. What we never gave fits nothing.
fn revision(id: &ConfigurationId, etag: &str) -> Result<Option<u64>, Error> {
    if etag.is_empty() {
        return Ok(None);
    }
    let digits = STANDARD.decode(etag).ok();
    let digits = digits.and_then(|digits| String::from_utf8(digits).ok());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(revision) => Ok(Some(revision)),
        None => Err(Error::Etag(id.clone())),
    }
}

fn read(
    configuration: Option<proto::Configuration>,
) -> Result<(ConfigurationId, ConfigurationSpec), Error> {
    let sent = configuration.ok_or_else(|| InvalidField::new("configuration", "is required"))?;
    let id = parse_name("configuration.name", &sent.name)?;
    let spec = ConfigurationSpec {
        schema_version: sent.schema_version,
        labels: object("configuration.labels_json", &sent.labels_json)?,
        content: object("configuration.content_json", &sent.content_json)?,
        content_type: sent.content_type,
        target_condition: sent.target_condition,
        priority: sent.priority,
        metric_queries: sent.metric_queries.into_iter().collect(),
    };
    Ok((id, spec))
}

fn object(field: &str, json: &str) -> Result<Option<Map>, Error> {
    if json.is_empty() {
        return Ok(None);
    }
    if let Some(path) = twin::duplicate_key(json) {
        let problem =
            format!("{path}: the key is there a second time; an object has each key once");
        return Err(InvalidField::new(field, problem).into());
    }
    serde_json::from_str(json)
        .map(Some)
        .map_err(|error| InvalidField::new(field, format!("must be a JSON object: {error}")).into())
}

fn check(spec: &ConfigurationSpec) -> Result<(), Error> {
    let problems = spec.problems();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Configuration(problems))
    }
}

fn print(stored: &StoredConfiguration) -> proto::Configuration {
    let text = |object: &Option<Map>| {
        let object = object.clone().map(serde_json::Value::Object);
        object.map(|object| object.to_string()).unwrap_or_default()
    };
    let spec = &stored.spec;
    let queries = spec.metric_queries.clone();
    proto::Configuration {
        name: format!("{PREFIX}{}", stored.id),
        etag: etag(stored.revision),
        schema_version: spec.schema_version.clone(),
        labels_json: text(&spec.labels),
        content_json: text(&spec.content),
        content_type: spec.content_type.clone(),
        target_condition: spec.target_condition.clone(),
        priority: spec.priority,
        metric_queries: queries.into_iter().collect::<HashMap<_, _>>(),
        create_time: Some(to_wire(stored.created_at)),
        update_time: Some(to_wire(stored.updated_at)),
        counts: None,
    }
}

#[cfg(test)]
mod tests {
    use service_kit::error::Classified as _;

    use super::*;

    #[test]
    fn an_etag_is_a_decimal_number_in_base64() {
        let id = ConfigurationId::parse("c").unwrap();
        assert_eq!(etag(1), "MQ==");
        assert_eq!(revision(&id, "Mg==").unwrap(), Some(2));
        assert_eq!(revision(&id, "").unwrap(), None);
        for wrong in ["1", "x", "AAAA", "LTE="] {
            let error = revision(&id, wrong).expect_err(wrong);
            assert_eq!(error.iot_hub().number(), 412_001, "{wrong}");
        }
    }
}
