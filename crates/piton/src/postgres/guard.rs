//! Whether messages can be read on from a checkpoint: that the server is the one that it is of.
//!
//! Transaction ids mean something on one server only. A dump that is restored elsewhere brings
//! rows of transactions that the new server has yet to come to: they are hidden until it does, and
//! what is appended meanwhile sorts below them and below the checkpoint. All of that would be
//! passed over without a word, so it is looked for whenever a connection is made.
//!
//! A failover or a recovery to an earlier moment is another matter here than for readers whose
//! checkpoint is elsewhere: outbox, effects and checkpoint go back together, so whatever the
//! timeline, nothing lies between them. Only a message that is another one at the place of the
//! checkpoint says that they did not.

use tokio_postgres::{Client, Error, error::SqlState};

use super::{
    OutboxPosition,
    position::{Fingerprint, Xid, hash_of},
    reader::Reader,
};

/// What a server says of itself, as far as the user may know.
pub(super) async fn look_at(client: &Client) -> Result<Option<Fingerprint>, Error> {
    let found = client
        .query_one(
            "SELECT system_identifier::text,
             ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
             FROM pg_control_system()",
            &[],
        )
        .await;
    match found {
        Ok(row) => Ok(Some(Fingerprint {
            system: row.try_get(0)?,
            timeline: row.try_get::<_, i32>(1)? as u32,
            message: None,
        })),
        // Some operators take these functions away; then there is nothing to compare.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why reading cannot go on after a position, if messages up to a mark were deleted. Pipelines
/// that delete wait for each other, and not for processors.
pub(super) fn deleted(after: &OutboxPosition, mark: &OutboxPosition) -> Option<String> {
    after.is_below_deleted(mark).then(|| {
        format!(
            "it is at {after}, and messages up to {mark} were deleted by pipelines with \
             `delete_passed`, which had passed them. Reset the processor to go on with what is \
             left; and unset `delete_passed`, or keep a row for the processor in \
             piton_outbox_readers, so that it is waited for"
        )
    })
}

/// Why reading cannot go on after a position, with the choices; `None` if it can.
pub(super) async fn objection(
    client: &Client,
    reader: &Reader,
    seen: Option<&Fingerprint>,
    after: Option<&OutboxPosition>,
) -> Result<Option<String>, Error> {
    let row = client.query_one(&reader.newest(), &[]).await?;
    let (newest, Xid(next)) = (row.try_get::<_, Option<Xid>>(0)?, row.try_get(1)?);
    if let Some(Xid(newest)) = newest.filter(|newest| newest.0 >= next) {
        return Ok(Some(format!(
            "the outbox has messages of transaction {newest}, and this server has only come to \
             {next}: it was restored from a dump, and what is appended now would come before \
             them. Give those that were not handled to a transaction of this server ({}), and \
             reset the processor",
            reader.renumber()
        )));
    }
    let Some(after) = after else { return Ok(None) };
    if after.transaction_id >= next {
        return Ok(Some(format!(
            "its checkpoint is at {after}, and this server has only come to {next}: it is another \
             server, or an older state of it. Connect to the right one, or rewind or reset the \
             processor"
        )));
    }
    let (Some(known), Some(seen)) = (&after.fingerprint, seen) else { return Ok(None) };
    if known.system != seen.system {
        return Ok(Some(format!(
            "its checkpoint is of the server {}, and this one is {}. Transaction ids mean nothing \
             elsewhere: messages that were appended here may be below the checkpoint. Connect to \
             the right server; or reset the processor; or, if ids have gone on from there \
             (`pg_upgrade` keeps them), accept it (`Processor::accept_server`)",
            known.system, seen.system
        )));
    }
    let Some(known) = &known.message else { return Ok(None) };
    let here = reader.message_id(client, after).await?;
    Ok(here.filter(|here| hash_of(here) != *known).map(|_| {
        format!(
            "another message stands at its checkpoint, {after}: the outbox was set back without \
             it, and has used the place again. What came since may lie below. Rewind the \
             processor to a position from before, or reset it"
        )
    }))
}
