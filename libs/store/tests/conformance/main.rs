//! One suite for every store: each case runs on redb and on etcd. What only an embedded store promises (reopening after a
//! crash, a full disk) follows in `embedded`, snapshots and migrations in `backup`.

mod backup;
mod cases;
mod embedded;
mod fixture;
mod members;

use fixture::{Etcd, Redb};

macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod redb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { let it = super::Redb::new(); super::cases::$case(it.store.clone()).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let Some(it) = super::Etcd::start().await else { return };
                super::cases::$case(it.store.clone()).await;
            })*
        }
    };
}

on_every_store!(
    a_put_is_read_back_with_its_revisions,
    revisions_grow_by_one_a_transaction,
    compare_and_set_lets_one_writer_win,
    a_transaction_applies_all_or_nothing,
    a_range_is_ordered_limited_and_counts_the_rest,
    a_range_reads_an_older_revision,
    a_future_revision_is_refused,
    a_watch_replays_and_goes_on_without_gap,
    a_watch_from_zero_sees_only_what_comes,
    a_watch_sees_previous_values_and_deletions,
    watchers_under_concurrent_writers_see_every_revision_in_order,
    compaction_forgets_history_but_not_what_is_live,
    a_watch_before_the_compaction_is_told_so,
    progress_reaches_the_newest_revision,
    progress_never_overtakes_a_change,
    a_key_with_a_time_to_live_goes_and_watchers_see_it,
    a_put_renews_the_time_to_live,
    random_histories_equal_the_model,
    an_export_is_one_moment_under_writers,
);
