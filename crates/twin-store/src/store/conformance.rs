//! What every store must do, run on each implementation: the embedded one, the shared one on a real
//! PostgreSQL, and the plain model that other tests use in their place. A further store gives an
//! [`Opener`] and a few lines at the macro.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tempfile::TempDir;
use twin::{Revision, partition_of};

use super::maintain::{Maintain, verify};
use super::model::ModelStore;
use super::postgres::PostgresRows;
use super::postgres::testing::{open as open_postgres, settings as postgres_settings};
use super::sample::count;
use super::sqlite::{SqliteFiles, SqliteStore};
use super::{Commit, LogEntry, PartitionState, Store, Upsert};
use crate::record::Record;
use crate::testing::device;

mod audit;
mod damage;
mod ownership;
mod random;
mod records;
mod retention;
mod small;
mod trails;

/// Opens further handles on one and the same content, as another process would.
pub(super) struct Opener {
    open: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>>>,
    /// The content seen as rows; a store that tests only has none.
    maintain: Option<Arc<dyn Maintain>>,
    /// Changes rows behind the store's back, as a failing disk would.
    tamper: Option<Tamper>,
    folder: Option<TempDir>,
}

type Tamper = Box<dyn Fn(String) -> BoxFuture<'static, ()>>;

impl Opener {
    pub(super) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let maintain = Arc::new(SqliteFiles::new(&path));
        let file = path.clone();
        let tamper = move |sql: String| -> BoxFuture<'static, ()> {
            super::sqlite::tamper(&file, &sql, []);
            std::future::ready(()).boxed()
        };
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let store = Arc::new(SqliteStore::open(&path).expect("it opens"));
            async move { store as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            maintain: Some(maintain),
            tamper: Some(Box::new(tamper)),
            folder: Some(folder),
        }
    }

    async fn postgres() -> Self {
        let database = Arc::new(testkit::postgres::database().await);
        let tampered = database.clone();
        let tamper = move |sql: String| -> BoxFuture<'static, ()> {
            let database = tampered.clone();
            async move { database.execute(&sql).await }.boxed()
        };
        let rows = PostgresRows::new(postgres_settings(&database.url()));
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let url = database.url();
            async move { Arc::new(open_postgres(&url).await) as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            maintain: Some(Arc::new(rows)),
            tamper: Some(Box::new(tamper)),
            folder: None,
        }
    }

    fn model() -> Self {
        let model = ModelStore::new();
        let open = move || -> BoxFuture<'static, Arc<dyn Store>> {
            let model = model.clone();
            async move { Arc::new(model) as Arc<dyn Store> }.boxed()
        };
        Self {
            open: Box::new(open),
            maintain: None,
            tamper: None,
            folder: None,
        }
    }

    pub(super) async fn open(&self) -> Arc<dyn Store> {
        (self.open)().await
    }

    /// Changes rows behind the store's back.
    pub(super) async fn tamper(&self, sql: impl Into<String>) {
        let tamper = self.tamper.as_ref().expect("a store with rows");
        tamper(sql.into()).await;
    }

    /// Takes from the histories a column that they need.
    pub(super) async fn break_histories(&self) {
        let sql = "ALTER TABLE history RENAME COLUMN at TO gone";
        self.alter(sql).await;
    }

    /// Changes how a table is laid out.
    pub(super) async fn alter(&self, sql: &str) {
        if self.kind() == Some("sqlite") {
            let folder = self.folder.as_ref().expect("its folder");
            super::sqlite::alter(folder.path(), sql);
        } else {
            self.tamper(sql).await;
        }
    }

    fn kind(&self) -> Option<&'static str> {
        self.maintain.as_ref().map(|rows| rows.kind())
    }

    /// Bytes as this store's SQL has them.
    pub(super) fn bytes(&self, hex: &str) -> String {
        match self.kind() {
            Some("sqlite") => format!("x'{hex}'"),
            _ => format!("'\\x{hex}'::bytea"),
        }
    }

    /// What was counted along the way is what there is.
    pub(super) async fn is_counted(&self) {
        if let Some(rows) = &self.maintain {
            let problems = rows.check().await.expect("it can be read");
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    /// A check of every row finds nothing.
    pub(super) async fn is_sound(&self) {
        if let Some(rows) = &self.maintain {
            let report = verify(&**rows, |_, _| ()).await.expect("it can be read");
            assert!(report.is_sound(), "{report:?}");
        }
    }
}

/// Stories of rows that somebody may change; the model has none.
macro_rules! on_stores_with_rows {
    ($($file:ident::$story:ident)*) => {
        mod sqlite_rows {
            $(#[tokio::test] async fn $story() {
                super::$file::$story(super::Opener::sqlite()).await;
            })*
        }
        mod postgres_rows {
            $(#[tokio::test] async fn $story() {
                super::$file::$story(super::Opener::postgres().await).await;
            })*
        }
    };
}

on_stores_with_rows! {
    damage::a_flipped_byte_is_reported_for_its_twin_alone
    damage::a_row_does_not_pass_for_another_one
    damage::a_damaged_twin_is_noted_once_and_forgotten_when_it_is_written_anew
    damage::what_a_decision_needs_is_damaged_by_itself
    damage::a_note_goes_with_its_row
    damage::a_damaged_revision_leaves_a_hole_in_its_place
    damage::what_cannot_be_read_stays_between_what_is_put_together
    damage::a_lost_revision_stays_a_hole_between_what_is_put_together
    damage::a_damaged_key_of_a_revision_stops_no_trim
    damage::what_cannot_be_noted_is_noted_the_next_time
    damage::histories_that_cannot_be_looked_at_keep_nothing_else
    retention::where_age_and_thinning_meet_nothing_is_noted
    damage::a_damaged_change_leaves_a_hole_in_the_log
    retention::what_was_looked_at_is_not_looked_at_again_after_a_start
    damage::a_damaged_audit_entry_leaves_a_hole_in_its_chain
    audit::a_damaged_entry_stands_in_its_place_in_time
    damage::damaged_operations_and_results_do_not_stop_a_list
    damage::rows_of_an_older_program_have_no_checksum_and_are_read
}

macro_rules! on_every_store {
    ($($file:ident::$story:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $story() {
                super::$file::$story(super::Opener::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test] async fn $story() {
                super::$file::$story(super::Opener::postgres().await).await;
            })*
        }
        mod model {
            $(#[tokio::test] async fn $story() {
                super::$file::$story(super::Opener::model()).await;
            })*
        }
    };
}

on_every_store! {
    records::a_record_is_read_as_it_was_written
    records::every_form_of_an_identity_is_kept
    records::lists_are_in_order_and_paged_without_loss
    records::a_commit_is_whole_or_nothing
    records::a_reopened_store_has_kept_everything
    records::identities_are_counted_as_they_come_and_go
    ownership::a_stale_owner_cannot_commit_anything
    ownership::another_number_of_partitions_is_refused
    ownership::claiming_again_changes_nothing
    ownership::what_is_released_can_be_taken_at_once
    ownership::heads_are_those_of_the_last_commits
    trails::the_log_keeps_its_order_and_forgets_what_is_trimmed
    trails::the_history_is_read_newest_first_within_its_bounds
    trails::routine_revisions_are_put_together_and_others_are_not
    trails::old_routine_revisions_become_one_for_each_span
    trails::the_chain_of_audit_entries_is_kept_in_order
    audit::entries_are_found_by_time_and_by_what_they_say
    audit::filters_that_find_much_and_little_find_the_same_as_the_plain_rule
    trails::the_history_of_a_removed_identity_stays
    small::a_token_counts_its_uses_and_knows_its_nonces
    small::a_token_is_not_used_more_often_than_it_may
    small::an_answer_is_remembered_and_replaced
    small::enrolments_are_listed_by_id_replaced_and_removed
    small::operations_are_listed_newest_first_and_their_results_by_key
    retention::a_trim_forgets_tokens_an_hour_after_they_expired
    retention::a_trim_forgets_old_answers_and_ended_operations
    retention::a_trim_takes_the_oldest_revisions_only
    retention::what_may_not_go_yet_keeps_nobody_else
    retention::one_step_back_of_a_clock_puts_nothing_together_twice
    retention::a_trim_keeps_the_newest_revisions_of_each_identity
    retention::what_a_device_reports_often_drives_out_nobody_else
    retention::each_routine_revision_is_put_together_once
    retention::a_trim_does_no_more_than_it_may_at_once
    retention::a_trim_by_count_does_no_more_than_it_may_at_once
    retention::a_trim_forgets_results_before_their_operation
    random::whatever_is_done_every_store_answers_as_the_model
}

/// A standing for the partition of a device, with another revision.
pub(super) fn standing(states: &[PartitionState], id: &str, revision: u64) -> PartitionState {
    let partition = partition_of(&device(id), count());
    let state = states.iter().find(|state| state.partition == partition);
    PartitionState {
        revision: Revision::new(revision),
        ..*state.expect("all partitions are there")
    }
}

/// Upserts without anything in the index.
pub(super) fn upserts(records: &[Record]) -> Vec<Upsert> {
    let upsert = |record: &Record| Upsert {
        record: Arc::new(record.clone()),
        index_remove: Vec::new(),
        index_add: Vec::new(),
    };
    records.iter().map(upsert).collect()
}

/// A change of the log.
pub(super) fn change(state: PartitionState, revision: u64) -> LogEntry {
    LogEntry {
        partition: state.partition,
        revision: Revision::new(revision),
        change: vec![u8::try_from(revision).expect("small"); 3],
    }
}

/// Commits something that needs no partition of its own.
pub(super) async fn commit(store: &dyn Store, states: &[PartitionState], commit: Commit) {
    let commit = Commit {
        partitions: states.to_vec(),
        ..commit
    };
    store.commit(commit).await.expect("committed");
}
