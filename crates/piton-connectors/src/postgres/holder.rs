//! Who holds a lock, as far as the server tells. For people only.

use tokio_postgres::{Client, Error, Row};

/// Sessions that hold what a pipeline's owner has to lock first: the row of its manifest. `xmax` of
/// a locked row is the transaction that locked it.
const OF_MANIFEST: &str = "\
SELECT a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the server itself'),
  to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), coalesce(a.state, '')
FROM piton_manifest m
JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = m.xmax
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE m.pipeline = $1 AND m.sink = $2";

/// Names the session that has locked a pipeline's sink, if it can be known.
pub(super) async fn name(client: &Client, pipeline: &str, sink: &str) -> Option<String> {
    let parameters = [
        (
            &pipeline as &(dyn tokio_postgres::types::ToSql + Sync),
            tokio_postgres::types::Type::TEXT,
        ),
        (&sink, tokio_postgres::types::Type::TEXT),
    ];
    let found = client.query_typed_opt(OF_MANIFEST, &parameters).await;
    found.ok().flatten().and_then(|row| describe(&row).ok())
}

fn describe(row: &Row) -> Result<String, Error> {
    let (pid, name, from): (i32, String, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (since, state): (Option<String>, String) = (row.try_get(3)?, row.try_get(4)?);
    let since = since.map(|since| format!(", in a transaction since {since}")).unwrap_or_default();
    let state = if state.is_empty() { String::new() } else { format!(" ({state})") };
    Ok(format!("session {pid} of '{name}' from {from}{state}{since}"))
}
