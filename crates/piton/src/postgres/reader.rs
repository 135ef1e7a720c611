//! Reading an outbox in its order: pages of it, by the whole pair, below the snapshot's horizon.
//!
//! Nothing at or above the oldest transaction in flight is read, because a message of that
//! transaction may still come before it. Both bounds are conditions of the index, so a page costs
//! the same however deep the backlog is.

use tokio_postgres::{Client, Error, Row};

use super::OutboxPosition;

/// Where a processor begins that has no checkpoint. A checkpoint always wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message.
    #[default]
    Beginning,
    /// After what is committed now. A transaction that is still in flight is not passed over.
    End,
    /// After a position.
    After(OutboxPosition),
}

/// A message of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it stands.
    pub at: OutboxPosition,
    /// Its stable id, by which a receiver recognises a repeat.
    pub id: String,
    /// What kind of message it is.
    pub kind: String,
    /// Its data, as JSON text.
    pub data: String,
}

/// The statements that are asked of one outbox.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    page: String,
    newest: String,
}

impl Reader {
    pub(super) fn of(table: &str) -> Self {
        let table: Vec<String> =
            table.split('.').map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
        let table = table.join(".");
        Self {
            page: format!(
                "SELECT transaction_id::text, position, message_id, message_type, data::text
                FROM {table} WHERE (transaction_id, position) > ($1::text::xid8, $2)
                AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
                ORDER BY transaction_id, position LIMIT $3"
            ),
            newest: format!(
                "SELECT (SELECT transaction_id::text FROM {table}
                    ORDER BY transaction_id DESC, position DESC LIMIT 1),
                pg_snapshot_xmin(pg_current_snapshot())::text,
                pg_snapshot_xmax(pg_current_snapshot())::text"
            ),
        }
    }

    /// The next messages, at most `limit`.
    pub(super) async fn page(
        &self,
        client: &Client,
        after: Option<&OutboxPosition>,
        limit: i64,
    ) -> Result<Vec<Message>, Error> {
        let (transaction, position) =
            after.map_or((0, i64::MIN), |at| (at.transaction_id, at.position));
        let rows = client.query(&self.page, &[&transaction.to_string(), &position, &limit]).await?;
        rows.iter().map(message).collect()
    }

    /// Where `Start::End` is: below every transaction that is still in flight.
    pub(super) async fn end(&self, client: &Client) -> Result<OutboxPosition, Error> {
        let horizon = self.look(client).await?.1;
        Ok(OutboxPosition::new(horizon.saturating_sub(1), i64::MAX))
    }

    /// Why reading cannot go on after a position: transaction ids are those of one server, and a
    /// dump that was restored brings rows that it has yet to come to.
    pub(super) async fn objection(
        &self,
        client: &Client,
        after: Option<&OutboxPosition>,
    ) -> Result<Option<String>, Error> {
        let (newest, _, next) = self.look(client).await?;
        if let Some(newest) = newest.filter(|newest| *newest >= next) {
            return Ok(Some(format!(
                "the outbox has messages of transaction {newest}, and this server has only come \
                 to {next}: it was restored from a dump, and what is appended now would come \
                 before them. Give those that were not handled to a transaction of this server \
                 (UPDATE … SET transaction_id = pg_current_xact_id()), and reset the processor"
            )));
        }
        Ok(after.filter(|at| at.transaction_id >= next).map(|at| {
            format!(
                "its checkpoint is at transaction {}, and this server has only come to {next}: it \
                 is another server, or an older state of it. Connect to the right one, or rewind \
                 or reset the processor",
                at.transaction_id
            )
        }))
    }

    /// The newest message's transaction, the horizon, and the first transaction yet to come.
    async fn look(&self, client: &Client) -> Result<(Option<u64>, u64, u64), Error> {
        let row = client.query_one(&self.newest, &[]).await?;
        let number = |text: String| text.parse().unwrap_or(0);
        let newest: Option<String> = row.try_get(0)?;
        Ok((newest.map(number), number(row.try_get(1)?), number(row.try_get(2)?)))
    }
}

fn message(row: &Row) -> Result<Message, Error> {
    let transaction: String = row.try_get(0)?;
    Ok(Message {
        // It is a number by its type in the database.
        at: OutboxPosition::new(transaction.parse().unwrap_or(0), row.try_get(1)?),
        id: row.try_get(2)?,
        kind: row.try_get(3)?,
        data: row.try_get(4)?,
    })
}
