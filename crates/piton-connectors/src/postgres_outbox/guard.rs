//! Whether a server can be read on from a position: that it is the one that gave it, and knows it.
//!
//! Transaction ids mean something on one server only. A dump that is restored brings rows of
//! transactions that the new server has yet to come to: they are hidden until it does, and what is
//! appended meanwhile sorts below them. A replica that is promoted, or a backup that is recovered,
//! may lack what was relayed, and gives its ids to other transactions. All of that would be passed
//! over without a word, so it is looked for whenever a connection is made.

use piton::postgres::outbox::{Xid, hash_of};
use tokio_postgres::{Error, Row, error::SqlState};

use super::{Fingerprint, OutboxPosition, statements::Statements};
use crate::postgres::wire::Wire;

/// What a server says of itself, as far as the user may know.
pub(super) fn look_at(client: &Wire) -> Result<Option<Fingerprint>, Error> {
    // A replica has no timeline of its own that it writes to.
    let found = client.query_one(
        "SELECT system_identifier::text, CASE WHEN pg_is_in_recovery() \
         THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
         ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END \
         FROM pg_control_system()",
        &[],
    );
    let fingerprint = |row: &Row| {
        let timeline = row.try_get::<_, i32>(1)? as u32;
        Ok(Fingerprint { system: row.try_get(0)?, timeline, message: None })
    };
    match found {
        Ok(row) => fingerprint(&row).map(Some),
        // Some operators take these functions away; then there is nothing to compare.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why reading cannot go on after a position, with the choices; `None` if it can.
pub(super) fn objection(
    client: &Wire,
    statements: &Statements,
    seen: Option<&Fingerprint>,
    position: Option<&OutboxPosition>,
) -> Result<Option<String>, Error> {
    let newest = client.query_one(&statements.newest(), &[])?;
    let (last, next): (Option<Xid>, Xid) = (newest.try_get(0)?, newest.try_get(1)?);
    if let Some(last) = last.filter(|last| *last >= next) {
        return Ok(Some(restored(statements, last, next)));
    }
    let Some(position) = position else { return Ok(None) };
    if position.transaction_id >= next.0 {
        return Ok(Some(format!(
            "the server is behind it: it has never come to transaction {}, and the next one is {}. \
             It was restored from a backup, or a replica that had not received everything took \
             over. Put the right server back; or `piton rewind` to a position that it has, so that \
             what it gives now is read again",
            position.transaction_id, next.0
        )));
    }
    let (Some(known), Some(seen)) = (&position.fingerprint, seen) else { return Ok(None) };
    if known.system != seen.system {
        return Ok(Some(format!(
            "another server stored it: that one is {}, this one {}. Transaction ids mean nothing \
             elsewhere. Name the right server; `piton reset` to read all that is here; or, if ids \
             have gone on from there (`pg_upgrade` keeps them), run with --accept-changes",
            known.system, seen.system
        )));
    }
    let transaction = position.transaction_id.to_string();
    let message =
        client.query_opt(&statements.message_id(), &[&transaction, &position.position])?;
    let hash = |row: &Row| Ok(hash_of(row.try_get::<_, Option<&str>>(0)?.unwrap_or_default()));
    let message = message.as_ref().map(hash).transpose()?;
    Ok(match (message, &known.message) {
        (Some(here), Some(known)) if here != *known => Some(
            "another message stands there now: the server was set back, and has used the place \
             again. What it got since may lie below. `piton rewind` to a position from before, so \
             that it is read; what was relayed from there is then relayed again"
                .to_owned(),
        ),
        (Some(_), Some(_)) => None,
        // On one timeline nothing is lost; whoever keeps the table small has deleted it.
        _ if known.timeline == seen.timeline => None,
        _ => Some(format!(
            "the server has gone from timeline {} to {} since, by a failover or a recovery, and the \
             message at that place is not there by which it could be seen that nothing is missing. \
             If the server had received everything before, run with --accept-changes; if not, or \
             if nobody knows, `piton rewind` to a position from before, so that it is read again",
            known.timeline, seen.timeline
        )),
    })
}

/// Why reading cannot go on after a position, if messages up to a mark were deleted.
pub(super) fn deleted(position: &OutboxPosition, mark: &OutboxPosition) -> Option<String> {
    position.is_below_deleted(mark).then(|| {
        format!(
            "messages up to {} were deleted, because every pipeline with `delete_passed` had \
             passed them. `piton reset` reads what is left; with `delete_passed` set for this \
             pipeline too, nothing is deleted any more that it has not passed",
            mark.shown()
        )
    })
}

fn restored(statements: &Statements, last: Xid, next: Xid) -> String {
    let (table, advance) = (&statements.table, statements.renumber());
    format!(
        "{table} has messages of transaction {}, and this server has only come to {}: it was \
         restored from a dump of another server, with its transaction ids. Those messages would \
         stay hidden, and new ones be passed over. Either give what is not relayed yet to a \
         transaction of this server, after deleting what is ({advance}), then `piton reset`; or \
         stop the server and let its ids go on from there (`pg_resetwal --next-transaction-id`)",
        last.0, next.0
    )
}
