//! `TwinQueryService`: statements of the query language over all twins.
//!
//! Rows in the order of keys are read page by page from where the last one ended. Other orders,
//! groups and aggregates go through all twins that the condition takes, for each page anew, and keep
//! one page of rows or one tally per group. Every call sees what was answered before it began; pages
//! are not a snapshot, but a twin that nobody touches in between is in exactly one of them.

use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use serde_json::Value;
use tonic::{Request, Response, Status};
use twin::IdentityKey;
use twin::query::{Scope, Select, Statement, Window};
use wire::InvalidField;
use wire::names::identity_name;
use wire::twin::v1 as proto;
use wire::twin::v1::twin_query_service_server::TwinQueryService;

use self::token::{Place, Token};
use super::{Api, PAGE_BYTES, has_room, page_size, refuse, report_damaged};
use crate::encode;
use crate::error::Error;
use crate::lookup;
use crate::record::{Damaged, Record};
use crate::search::{self, Next};
use crate::store::{Estimates, Search, Source, Store};

mod groups;
mod token;

#[cfg(test)]
mod tests;

/// What a query may take. A hub of a million twins is gone through in less; what takes longer needs
/// a condition that an index serves, and the caller should hear so.
pub(super) const QUERY_WITHIN: Duration = Duration::from_mins(1);
/// A page in the order of keys ends early after this, with what it has and a token.
const PAGE_WITHIN: Duration = Duration::from_secs(5);
/// One call, read.
struct Call {
    statement: Statement,
    size: usize,
    token: Token,
}

/// A row of an answer.
enum Row {
    Twin(Box<proto::Twin>),
    Raw(String),
}

/// Rows of an answer, and where the next page begins.
struct Answer {
    rows: Vec<Row>,
    next: Option<Place>,
    damaged: Vec<Damaged>,
}

/// What queries need.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// What is searched.
    pub store: &'a dyn Store,
    /// What `NOW()` stands for.
    pub now: Timestamp,
}

impl Queries<'_> {
    /// Answers a page.
    ///
    /// # Errors
    /// The request or its token cannot be used, the query takes too long, or the store failed.
    pub async fn query(
        &self,
        request: proto::QueryTwinsRequest,
    ) -> Result<proto::QueryTwinsResponse, Error> {
        let size = page_size(request.page_size)?;
        let statement = parse(&request.query)?;
        let token = match request.page_token.as_str() {
            "" => Token::first(&statement, self.now),
            text => Token::parse(text, &statement)
                .map_err(|problem| InvalidField::new("page_token", problem))?,
        };
        let call = Call {
            statement,
            size: usize::try_from(size).unwrap_or(usize::MAX),
            token,
        };
        let answer = tokio::time::timeout(QUERY_WITHIN, self.rows(&call)).await;
        let rows = answer.map_err(|_| Error::QueryTooSlow {
            seconds: QUERY_WITHIN.as_secs(),
        })??;
        report_damaged(&rows.damaged);
        Ok(call.response(rows))
    }

    async fn rows(&self, call: &Call) -> Result<Answer, Error> {
        if call.left() == Some(0) {
            return Ok(Answer::none());
        }
        if call.statement.is_aggregated() {
            return self.aggregated(call).await;
        }
        if call.statement.order_by().is_empty() {
            return self.by_key(call).await;
        }
        self.ordered(call).await
    }

    /// A page in the order of keys.
    async fn by_key(&self, call: &Call) -> Result<Answer, Error> {
        let mut search = call.search();
        search.limit = u32::try_from(call.wanted()).unwrap_or(u32::MAX);
        if let Place::Key(key) = &call.token.place {
            search.after = Some(key.clone());
        }
        let found = search::pages(self.store, search, PAGE_WITHIN).await?;
        let mut rows = Answer::none();
        rows.damaged = found.damaged;
        rows.next = found.next.map(Place::Key);
        let (mut bytes, mut behind) = (0, None);
        for record in found.records {
            match call.row(&record) {
                Ok(row) if !has_room(bytes, row.bytes()) => {
                    rows.next = behind.map(Place::Key);
                    break;
                }
                Ok(row) => {
                    bytes += row.bytes();
                    rows.rows.push(row);
                }
                Err(damaged) => rows.damaged.push(damaged),
            }
            if bytes >= PAGE_BYTES {
                rows.next = Some(Place::Key(record.key));
                break;
            }
            behind = Some(record.key);
        }
        Ok(rows)
    }

    /// A page in another order.
    async fn ordered(&self, call: &Call) -> Result<Answer, Error> {
        let after = match &call.token.place {
            Place::Position(position) => Some(position.clone()),
            Place::Start | Place::Key(_) | Place::Group(_) => None,
        };
        let mut window = Window::new(call.wanted(), after);
        let paths = call.statement.paths();
        let damaged = search::each(self.store, call.search(), &paths, |seen| {
            let key = seen.raw.key().clone();
            let position = call.statement.position(seen.twin, key, call.token.now);
            if window.wants(&position) {
                window.offer(position, seen.raw.clone());
            }
            Ok::<_, Error>(Next::Go)
        })
        .await?;
        let page = window.into_page();
        let mut rows = Answer::none();
        rows.damaged = damaged;
        let (mut bytes, count) = (0, page.rows.len());
        let mut behind = None;
        for (index, (position, raw)) in page.rows.into_iter().enumerate() {
            match raw.parse().and_then(|record| call.row(&record)) {
                Ok(row) if !has_room(bytes, row.bytes()) => {
                    rows.next = behind.map(Place::Position);
                    break;
                }
                Ok(row) => {
                    bytes += row.bytes();
                    rows.rows.push(row);
                }
                Err(damaged) => rows.damaged.push(damaged),
            }
            let last = index + 1 == count;
            if (last && page.more) || (!last && bytes >= PAGE_BYTES) {
                rows.next = Some(Place::Position(position));
                break;
            }
            behind = Some(position);
        }
        Ok(rows)
    }

    /// Tells how a query would be run.
    ///
    /// # Errors
    /// The query cannot be read, or the store failed.
    pub async fn explain(
        &self,
        request: proto::ExplainQueryRequest,
    ) -> Result<proto::ExplainQueryResponse, Error> {
        let statement = parse(&request.query)?;
        let token = Token::first(&statement, self.now);
        let call = Call {
            statement,
            size: usize::MAX,
            token,
        };
        let plan = self.store.explain(call.search()).await?;
        Ok(proto::ExplainQueryResponse {
            canonical_query: call.statement.to_string(),
            sql: plan.sql,
            compiled_condition: plan.compiled,
            residual_condition: plan.residual,
            indexes: plan.indexes,
            plan: plan.lines,
        })
    }
}

impl Call {
    /// What the store is asked.
    fn search(&self) -> Search {
        Search {
            source: match self.statement.source() {
                twin::query::Source::Devices => Source::Devices,
                twin::query::Source::Modules => Source::Modules,
            },
            condition: match self.statement.condition() {
                Some(expr) => Scope::Where(expr.clone()),
                None => Scope::Everything,
            },
            now: self.token.now,
            after: None,
            limit: search::CHUNK,
            estimates: Estimates::default(),
        }
    }

    /// Rows that `TOP` still allows.
    fn left(&self) -> Option<u64> {
        let top = self.statement.top()?;
        Some(top.saturating_sub(self.token.given))
    }

    /// Rows for this page.
    fn wanted(&self) -> usize {
        let left = self.left().and_then(|left| usize::try_from(left).ok());
        left.unwrap_or(usize::MAX).min(self.size)
    }

    fn row(&self, record: &Record) -> Result<Row, Damaged> {
        match self.statement.select() {
            Select::All => Ok(Row::Twin(Box::new(encode::twin(record)?))),
            Select::Items(_) => {
                let twin = lookup::of_record(record);
                let row = self.statement.project(&twin, self.token.now);
                search::whole(record, &twin)?;
                Ok(Row::Raw(Value::Object(row).to_string()))
            }
        }
    }

    fn response(&self, answer: Answer) -> proto::QueryTwinsResponse {
        let count = u64::try_from(answer.rows.len()).unwrap_or(u64::MAX);
        let given = self.token.given.saturating_add(count);
        let is_over = self.statement.top().is_some_and(|top| given >= top);
        let next = answer.next.filter(|_| !is_over);
        let kind = match self.statement.select() {
            Select::All => proto::RowKind::Twin,
            Select::Items(_) => proto::RowKind::Raw,
        };
        let (mut twins, mut rows_json) = (Vec::new(), Vec::new());
        for row in answer.rows {
            match row {
                Row::Twin(twin) => twins.push(*twin),
                Row::Raw(json) => rows_json.push(json),
            }
        }
        let mut damaged: Vec<_> = answer.damaged.iter().map(damaged_name).collect();
        damaged.dedup();
        proto::QueryTwinsResponse {
            kind: kind.into(),
            twins,
            rows_json,
            next_page_token: next
                .map(|place| self.token.next(place, given).print())
                .unwrap_or_default(),
            damaged,
        }
    }
}

fn parse(query: &str) -> Result<Statement, Error> {
    Statement::parse(query).map_err(|error| Error::query("query", error))
}

/// The name of a damaged twin, or what is left of it.
fn damaged_name(damaged: &Damaged) -> String {
    match IdentityKey::parse_path(&damaged.key) {
        Ok(key) => identity_name(&key),
        Err(_) => damaged.key.clone(),
    }
}

impl Answer {
    fn none() -> Answer {
        Answer {
            rows: Vec::new(),
            next: None,
            damaged: Vec::new(),
        }
    }
}

impl Row {
    fn bytes(&self) -> usize {
        match self {
            Row::Twin(twin) => twin.encoded_len(),
            Row::Raw(json) => json.len(),
        }
    }
}

impl Api {
    fn queries(&self) -> Queries<'_> {
        Queries {
            store: self.store.as_ref(),
            now: self.clock.now(),
        }
    }
}

#[tonic::async_trait]
impl TwinQueryService for Api {
    async fn query_twins(
        &self,
        request: Request<proto::QueryTwinsRequest>,
    ) -> Result<Response<proto::QueryTwinsResponse>, Status> {
        let answer = self.queries().query(request.into_inner()).await;
        answer.map(Response::new).map_err(refuse)
    }

    async fn explain_query(
        &self,
        request: Request<proto::ExplainQueryRequest>,
    ) -> Result<Response<proto::ExplainQueryResponse>, Status> {
        let answer = self.queries().explain(request.into_inner()).await;
        answer.map(Response::new).map_err(refuse)
    }
}
