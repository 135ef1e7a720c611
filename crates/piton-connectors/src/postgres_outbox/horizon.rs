//! Who keeps messages from being read.
//!
//! Messages are read below the oldest transaction in flight, of whatever database of the cluster:
//! a session that has forgotten to commit, a prepared transaction, even a migration next door
//! holds all of them back. That is right, and it has to be seen.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_postgres::Error;

use super::{OutboxPosition, statements::Statements};
use crate::postgres::wire::Wire;

/// How often to look whether messages are hidden, while nothing comes.
const LOOK: Duration = Duration::from_secs(1);
/// How long messages are hidden before it is said: short transactions are nobody's trouble.
const PATIENCE: Duration = Duration::from_secs(3);

/// What keeps a source from going on, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Option<String>>);

impl Notes {
    pub(super) fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Watches for messages that stay hidden.
#[derive(Debug)]
pub(super) struct Watch {
    looked: Instant,
    hidden_since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, hidden_since: None }
    }

    /// Messages came.
    pub(super) fn found(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Nothing came: looks, now and then, whether something is hidden. `None` if it did not look;
    /// otherwise whether there is, and what to tell people.
    pub(super) fn missed(
        &mut self,
        now: Instant,
        client: &Wire,
        statements: &Statements,
        after: &OutboxPosition,
    ) -> Result<Option<(bool, Option<String>)>, Error> {
        if now.saturating_duration_since(self.looked) < LOOK {
            return Ok(None);
        }
        self.looked = now;
        let transaction = after.transaction_id.to_string();
        let found = client.query_one(&statements.is_behind(), &[&transaction, &after.position])?;
        if !found.try_get::<_, bool>(0)? {
            self.hidden_since = None;
            return Ok(Some((false, None)));
        }
        let hidden = now.saturating_duration_since(*self.hidden_since.get_or_insert(now));
        if hidden < PATIENCE {
            return Ok(Some((true, None)));
        }
        Ok(Some((true, holder(client)?)))
    }
}

/// The transaction that messages wait for, in a sentence; `None` if it has just ended.
pub(super) fn holder(client: &Wire) -> Result<Option<String>, Error> {
    // A transaction holds a lock on its own id, which everybody may see.
    let found = client.query_opt(
        "SELECT h.id::text, l.pid, a.usename::text, a.datname::text, a.application_name, a.state, \
         to_char(coalesce(a.xact_start, p.prepared) AT TIME ZONE 'UTC', \
         'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), p.gid, p.owner::text, p.database::text \
         FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS id) h \
         JOIN pg_locks l ON l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' \
         AND l.granted AND l.transactionid = h.id::xid \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid LIMIT 1",
        &[],
    )?;
    let Some(row) = found else { return Ok(None) };
    let text = |column: usize| {
        let text = row.try_get::<_, Option<&str>>(column)?;
        Ok::<_, Error>(text.filter(|text| !text.is_empty()))
    };
    let since = text(6)?.map(|since| format!(", since {since}")).unwrap_or_default();
    let id: &str = row.try_get(0)?;
    if let Some(name) = text(7)? {
        let (owner, database) = (text(8)?.unwrap_or("?"), text(9)?.unwrap_or("?"));
        return Ok(Some(format!(
            "messages wait for transaction {id}, which {owner} has prepared as '{name}' in \
             database {database}{since}: `COMMIT PREPARED '{name}'` or `ROLLBACK PREPARED` there \
             ends it"
        )));
    }
    let pid: Option<i32> = row.try_get(1)?;
    let pid = pid.map_or("?".to_owned(), |pid| pid.to_string());
    let user = text(2)?.map(|user| format!(", user {user}")).unwrap_or_default();
    let database = text(3)?.map(|name| format!(", database {name}")).unwrap_or_default();
    let program = text(4)?.map(|name| format!(", '{name}'")).unwrap_or_default();
    let state = text(5)?.map(|state| format!(", {state}")).unwrap_or_default();
    Ok(Some(format!(
        "messages wait for transaction {id} of session {pid}{user}{database}{program}{state}\
         {since}: `SELECT pg_terminate_backend({pid})` ends it"
    )))
}
