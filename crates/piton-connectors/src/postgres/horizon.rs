//! Which transactions are running, so that a poll passes no row that one of them may still add.
//!
//! A key is chosen before its row can be seen: by a sequence, say, while the transaction that took
//! the number commits later than another that took a higher one. So a key is passed only when no
//! transaction is running any more that was running when the key was seen. Whoever begins after
//! that takes a higher number. It is asked for every transaction of the database, not only for
//! those that have written: one may have taken its number and not have written yet. One that is
//! prepared for a commit in two phases goes on under another name.
//!
//! Numbers that a session keeps for later (`CACHE` of a sequence) would break the rule: such a key
//! is refused.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Error, types::Type};

/// Transactions of this database by their virtual ids, and prepared ones. The server's own workers
/// have no user and add no rows; replication senders only read. The locks are looked at before the
/// prepared ones: a transaction that is just being prepared is among the one or the other.
const RUNNING: &str = "\
SELECT v.virtualtransaction::text
FROM pg_locks v JOIN pg_stat_activity a ON a.pid = v.pid
WHERE v.locktype = 'virtualxid' AND v.granted AND a.datname = current_database()
  AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, '') NOT IN ('walsender', 'autovacuum worker')
UNION
SELECT 'prepared ' || transaction::text FROM pg_prepared_xacts
WHERE database = current_database()";

/// The sequence of a column and how many numbers a session takes from it at once, if several.
const KEPT: &str = "\
SELECT s.seqrelid::regclass::text, s.seqcache
FROM pg_depend d
JOIN pg_sequence s ON s.seqrelid = d.refobjid
JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE f.adrelid = to_regclass($1) AND a.attname = $2 AND s.seqcache > 1
UNION ALL
SELECT s.seqrelid::regclass::text, s.seqcache
FROM pg_sequence s
WHERE s.seqrelid = to_regclass(pg_get_serial_sequence($1, $2)) AND s.seqcache > 1
LIMIT 1";

/// One of them, for people.
const NAMED: &str = "\
SELECT 'session ' || a.pid || coalesce(', user ' || a.usename, '')
  || coalesce(', ' || quote_literal(nullif(a.application_name, '')), '')
  || coalesce(', ' || a.state, '') || coalesce(', since ' ||
    to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '')
  || ': `SELECT pg_terminate_backend(' || a.pid || ')` ends it'
FROM pg_locks v JOIN pg_stat_activity a ON a.pid = v.pid
WHERE v.locktype = 'virtualxid' AND v.virtualtransaction::text = ANY ($1)
UNION ALL
SELECT 'the prepared transaction ' || quote_literal(gid) || ' of ' || owner || ', since ' ||
  to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
  || ': `COMMIT PREPARED` or `ROLLBACK PREPARED` ends it'
FROM pg_prepared_xacts WHERE 'prepared ' || transaction::text = ANY ($1)
LIMIT 1";

/// What the names of prepared ones begin with.
const PREPARED: &str = "prepared ";

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
            self.follow(&now);
        }
        Ok(!self.0.is_empty())
    }

    /// One of them and how it is ended, as a sentence for people.
    pub(super) async fn holder(&self, client: &Client) -> Result<Option<String>, Error> {
        let ids: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let row = client.query_typed_opt(NAMED, &[(&ids as _, Type::TEXT_ARRAY)]).await?;
        let Some(row) = row else { return Ok(None) };
        let holder: &str = row.try_get(0)?;
        let others = match ids.len() {
            0 | 1 => String::new(),
            several => format!("one of {several} transactions, "),
        };
        Ok(Some(format!("new rows wait for {others}{holder}")))
    }

    /// Keeps those that are still there. One that is gone may have been prepared: nobody can say
    /// which of the prepared ones it is, so all of them count.
    fn follow(&mut self, now: &BTreeSet<String>) {
        let is_any_gone = !self.0.is_subset(now);
        let counts = |id: &String| self.0.contains(id) || is_any_gone && id.starts_with(PREPARED);
        self.0 = now.iter().filter(|id| counts(id)).cloned().collect();
    }
}

/// A sequence from which a session takes several numbers at once for a column of a table, and how
/// many. `name` is as it stands in a statement.
pub(super) async fn keeps_numbers(
    client: &Client,
    name: &str,
    column: &str,
) -> Result<Option<(String, i64)>, Error> {
    let of = [(&name as _, Type::TEXT), (&column as _, Type::TEXT)];
    let row = client.query_typed_opt(KEPT, &of).await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_gone_may_be_among_the_prepared() {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        for (before, now, wanted) in [
            (&["3/1", "4/1"][..], &["3/1", "5/1"][..], &["3/1"][..]),
            (&["3/1"], &["3/1", "prepared 7"], &["3/1"]),
            (&["3/1"], &["4/1", "prepared 7"], &["prepared 7"]),
            (&["prepared 7"], &["prepared 7", "prepared 8"], &["prepared 7"]),
            (&["3/1"], &["3/2"], &[]),
        ] {
            let mut running = Running(set(before));
            running.follow(&set(now));
            assert_eq!(running.0, set(wanted), "{before:?}, then {now:?}");
        }
    }
}
