//! Who holds the lock that an heir needs, and ending a session that is stuck with it.

use std::time::Duration;

use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};

/// The session that has locked the row of a manifest: `xmax` of a locked row is the transaction
/// that locked it. It is stuck if it has been in a `COPY` since before the heir came, waiting for
/// data: the server's own time limits do not end that.
const HOLDER: &str = "\
SELECT a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the server itself'),
  to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), coalesce(a.state, ''),
  coalesce(a.state = 'active' AND a.wait_event = 'ClientRead' AND a.query ILIKE 'COPY %'
    AND clock_timestamp() - a.query_start > $3 * interval '1 millisecond', false)
FROM piton_manifest m
JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = m.xmax
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE m.pipeline = $1 AND m.sink = $2";

/// A session that is in the way.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: i32,
    /// For people.
    pub(crate) name: String,
    /// Whether it waits for a client that says nothing.
    pub(super) is_stuck: bool,
}

impl Holder {
    /// Finds the session that has locked a pipeline's sink, if it can be known. `lease`: how long
    /// it may have waited for its client.
    pub(crate) async fn find(
        client: &Client,
        pipeline: &str,
        sink: &str,
        lease: Duration,
    ) -> Option<Self> {
        let lease = lease.as_millis() as f64;
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&pipeline, Type::TEXT), (&sink, Type::TEXT), (&lease, Type::FLOAT8)];
        let found = client.query_typed_opt(HOLDER, &parameters).await;
        found.ok().flatten().and_then(|row| Self::read(&row).ok())
    }

    fn read(row: &Row) -> Result<Self, Error> {
        let (pid, name, from): (i32, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (since, state): (Option<String>, String) = (row.try_get(3)?, row.try_get(4)?);
        let since = since.map(|at| format!(", in a transaction since {at}")).unwrap_or_default();
        let state = if state.is_empty() { String::new() } else { format!(" ({state})") };
        Ok(Self {
            pid,
            name: format!("session {pid} of '{name}' from {from}{state}{since}"),
            is_stuck: row.try_get(5)?,
        })
    }

    /// Ends the session, if this user may. Whether it is gone shows when the lock is tried again.
    pub(super) async fn end(&self, client: &Client) -> bool {
        let end = "SELECT pg_terminate_backend($1)";
        let ended = client.query_typed_one(end, &[(&self.pid as _, Type::INT4)]).await;
        ended.and_then(|row| row.try_get(0)).unwrap_or(false)
    }
}
