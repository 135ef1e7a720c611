//! Which transactions are running, so that a poll passes no row that one of them may still add.
//!
//! A key is chosen before its row can be seen: by a sequence, say, while the transaction that took
//! the number commits later than another that took a higher one. So a key is passed only when no
//! transaction is running any more that was running when the key was seen. Whoever begins after
//! that takes a higher number. It is asked for every transaction of the database, not only for
//! those that have written: one may have taken its number and not have written yet.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Error};

/// Transactions of this database by their virtual ids, and prepared ones. The server's own workers
/// have no user and add no rows; replication senders only read.
const RUNNING: &str = "\
SELECT v.virtualtransaction::text
FROM pg_locks v JOIN pg_stat_activity a ON a.pid = v.pid
WHERE v.locktype = 'virtualxid' AND v.granted AND a.datname = current_database()
  AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, '') NOT IN ('walsender', 'autovacuum worker')
UNION
SELECT 'prepared ' || transaction::text FROM pg_prepared_xacts
WHERE database = current_database()";

/// Transactions that were running at one moment, as far as they still are.
#[derive(Debug, Default)]
pub(super) struct Running(BTreeSet<String>);

impl Running {
    /// Those that are running now.
    pub(super) async fn now(client: &Client) -> Result<Self, Error> {
        let rows = client.query_typed(RUNNING, &[]).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any of them still is.
    pub(super) async fn are_there(&mut self, client: &Client) -> Result<bool, Error> {
        if !self.0.is_empty() {
            let Self(now) = Self::now(client).await?;
            self.0.retain(|id| now.contains(id));
        }
        Ok(!self.0.is_empty())
    }
}
