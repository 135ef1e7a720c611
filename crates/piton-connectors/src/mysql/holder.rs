//! Who holds the lock that an heir needs, and ending a session that is stuck with it.
//!
//! Which session has locked a row is told only to administrators. So a session that has fenced a
//! sink also takes a named lock, with the epoch in its name, and who holds that is told to
//! everybody. It excludes nobody and decides nothing.

use std::time::Duration;

use mysql::{Conn, prelude::Queryable as _};
use piton_core::{Epoch, checksum::Checksum};

use super::connect::{literal, rows, text};

/// A session that is in the way.
#[derive(Debug)]
pub(super) struct Holder {
    id: u64,
    /// For people.
    pub(super) name: String,
    /// Whether it has waited for a client that says nothing for too long.
    pub(super) is_stuck: bool,
}

/// The name of the lock of one epoch: names are shorter than 64 characters, and one for all
/// databases of a server.
pub(super) fn name_of(database: &str, pipeline: &str, sink: &str, epoch: Epoch) -> String {
    let hash = Checksum::build().text(database).text(pipeline).text(sink).finish();
    format!("piton sink {:016x} {epoch}", hash.0)
}

/// Takes the lock of an epoch, if it is free.
pub(super) fn mark(conn: &mut Conn, name: &str) {
    let _ = conn.query_drop(format!("SELECT GET_LOCK({}, 0)", literal(name)));
}

/// The session that holds the lock.
pub(super) fn marked(conn: &mut Conn, name: &str) -> Option<u64> {
    let sql = format!("SELECT IS_USED_LOCK({})", literal(name));
    rows(conn, &sql).ok()?.first().and_then(|row| text(row, 0))?.parse().ok()
}

/// Ends a session, if this user may. Whether it is gone shows when the lock is tried again.
pub(super) fn end(conn: &mut Conn, id: u64) -> bool {
    conn.query_drop(format!("KILL {id}")).is_ok()
}

impl Holder {
    /// Finds the session of the epoch that was stored last, if it can be known. `lease`: how long
    /// it may have waited for its client.
    pub(super) fn find(conn: &mut Conn, name: &str, lease: Duration) -> Option<Self> {
        let id = marked(conn, name)?;
        let sql = format!(
            "SELECT user, host, command, time FROM information_schema.processlist WHERE id = {id}"
        );
        let found = rows(conn, &sql).ok().and_then(|mut rows| rows.pop());
        let Some(row) = found else {
            return Some(Self { id, name: format!("session {id}"), is_stuck: false });
        };
        let [user, host, command, time] =
            [0, 1, 2, 3].map(|column| text(&row, column).unwrap_or_default());
        let silent: u64 = time.parse().unwrap_or(0);
        Some(Self {
            id,
            name: format!("session {id} of '{user}' from {host} ({command} for {silent} s)"),
            is_stuck: command == "Sleep" && silent >= lease.as_secs(),
        })
    }

    pub(super) fn end(&self, conn: &mut Conn) -> bool {
        end(conn, self.id)
    }
}
