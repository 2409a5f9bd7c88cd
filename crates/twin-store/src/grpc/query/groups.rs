//! Answers that are made of many twins: counts, groups, aggregates.

use serde_json::Value;
use twin::query::statement::ItemValue;
use twin::query::{Aggregator, Select};

use super::super::PAGE_BYTES;
use super::token::Place;
use super::{Answer, Call, Queries, Row};
use crate::error::Error;
use crate::record::Damaged;
use crate::search::{self, Next, Turn};

impl Queries<'_> {
    /// A page of what is made of many twins.
    pub(super) async fn aggregated(&self, call: &Call) -> Result<Answer, Error> {
        let mut rows = Answer::none();
        if let Some(row) = self.counted(call, &mut rows.damaged).await? {
            rows.rows.push(Row::Raw(Value::Object(row).to_string()));
            return Ok(rows);
        }
        let mut aggregator = Aggregator::new(&call.statement, call.token.now);
        let paths = call.statement.paths();
        rows.damaged = search::each(self.store, call.search(), &paths, |seen| {
            let added = aggregator.add(seen.twin);
            added.map(|()| Next::Go).map_err(Error::TooManyGroups)
        })
        .await?;
        let after = match &call.token.place {
            Place::Group(position) => Some(position),
            Place::Start | Place::Key(_) | Place::Position(_) => None,
        };
        let page = aggregator.into_page(call.wanted(), after);
        let (mut bytes, count) = (0, page.rows.len());
        for (index, (position, row)) in page.rows.into_iter().enumerate() {
            let row = Row::Raw(Value::Object(row).to_string());
            bytes += row.bytes();
            rows.rows.push(row);
            let last = index + 1 == count;
            if (last && page.more) || (!last && bytes >= PAGE_BYTES) {
                rows.next = Some(Place::Group(position));
            }
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(rows)
    }

    /// The row of a query that only counts, if the store can count.
    async fn counted(
        &self,
        call: &Call,
        damaged: &mut Vec<Damaged>,
    ) -> Result<Option<twin::Map>, Error> {
        let Select::Items(items) = call.statement.select() else {
            return Ok(None);
        };
        let counts_only = items.iter().all(|item| item.value == ItemValue::Count);
        if !counts_only || !call.statement.group_by().is_empty() {
            return Ok(None);
        }
        let search = call.search();
        let Some(count) = self.store.count(search.clone()).await? else {
            return Ok(None);
        };
        let mut total = count.decided;
        damaged.extend(count.undecided.damaged);
        let mut turn = Turn::begin();
        for record in &count.undecided.records {
            turn.share().await;
            match search::decide(&search, record) {
                Ok(holds) => total += u64::from(holds),
                Err(problem) => damaged.push(problem),
            }
        }
        let names = items.iter().map(|item| item.name.clone());
        Ok(Some(names.map(|name| (name, Value::from(total))).collect()))
    }
}
