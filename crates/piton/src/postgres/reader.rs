//! Reading an outbox in its order: pages of it, by the whole pair, below the snapshot's horizon.
//!
//! Nothing at or above the oldest transaction in flight is read, because a message of that
//! transaction may still come before it. Both bounds are conditions of the index, so a page costs
//! the same however deep the backlog is.
//!
//! It reads on a connection of its own: the next page comes while the handler is busy with the
//! one before (`ahead`), and what is set for reading is not set for the handler.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_core::Stream;
use tokio_postgres::{Client, Error, Row, Statement, error::SqlState, types::ToSql};

use super::{OutboxPosition, position::Xid};

/// The channel on which the trigger that `piton sql postgres-outbox` prints wakes readers.
pub(super) const WAKE_CHANNEL: &str = "piton_outbox";

/// The planner knows neither how many rows are behind a parameter nor how the table will have grown
/// when it uses a plan again, and one plan is always right here: the index, in its order.
const SESSION: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off;
    SET enable_sort = off; SET jit = off; SET default_transaction_isolation = 'read committed'";

/// A page ends when it has this many bytes, whatever was asked for.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

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

/// One outbox: its table, quoted.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    table: String,
}

/// An outbox on a connection that reads it.
pub(super) struct Pages {
    client: Arc<Client>,
    page: Statement,
    behind: Statement,
    deletions: Deletions,
    /// How many messages are expected to fit into a page.
    fitting: AtomicU64,
}

impl Reader {
    pub(super) fn of(table: &str) -> Self {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        Self { table: table.split('.').map(quoted).collect::<Vec<_>>().join(".") }
    }

    /// The transaction of the last message, and the first that the server has not come to yet.
    pub(super) fn newest(&self) -> String {
        format!(
            "SELECT (SELECT transaction_id FROM {} ORDER BY transaction_id DESC, position DESC
             LIMIT 1), pg_snapshot_xmax(pg_current_snapshot())",
            self.table
        )
    }

    /// Gives what is not handled to a transaction of this server, for a person to type.
    pub(super) fn renumber(&self) -> String {
        format!("UPDATE {} SET transaction_id = pg_current_xact_id() WHERE …", self.table)
    }

    /// The id of the message at a position, if it is there.
    pub(super) async fn message_id(
        &self,
        client: &Client,
        at: &OutboxPosition,
    ) -> Result<Option<String>, Error> {
        let sql = format!(
            "SELECT message_id FROM {} WHERE (transaction_id, position) = ($1::text::xid8, $2)",
            self.table
        );
        let found = client.query_opt(&sql, &[&at.transaction_id.to_string(), &at.position]).await?;
        found.map(|row| row.try_get(0)).transpose()
    }

    /// The table's number in the server, by which a notification names it.
    pub(super) async fn oid(&self, client: &Client) -> Result<String, Error> {
        let sql = "SELECT $1::text::regclass::oid::text";
        client.query_one(sql, &[&self.table]).await?.try_get(0)
    }

    /// Prepares a connection to read.
    pub(super) async fn pages(&self, client: Arc<Client>) -> Result<Pages, Error> {
        client.batch_execute(SESSION).await?;
        let page = client
            .prepare(&format!(
                "SELECT transaction_id, position, message_id, message_type, data::text
                FROM {} WHERE (transaction_id, position) > ($1::text::xid8, $2)
                AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
                ORDER BY transaction_id, position LIMIT $3",
                self.table
            ))
            .await?;
        let behind = client
            .prepare(&format!(
                "SELECT EXISTS (SELECT FROM {}
                WHERE (transaction_id, position) > ($1::text::xid8, $2))",
                self.table
            ))
            .await?;
        let deletions = Deletions::of(&client, &self.table).await?;
        client.batch_execute(&format!("LISTEN {WAKE_CHANNEL}")).await?;
        Ok(Pages { client, page, behind, deletions, fitting: AtomicU64::new(u64::MAX) })
    }
}

/// Messages that were read at once.
#[derive(Default)]
pub(super) struct Page {
    pub(super) messages: Vec<Message>,
    /// Whether there may be more.
    pub(super) is_full: bool,
    /// All messages below were deleted, as was known after these were read.
    pub(super) deleted: Option<OutboxPosition>,
}

impl Pages {
    /// The next messages, at most `limit`, and no more than fit.
    pub(super) async fn page(
        &self,
        after: Option<&OutboxPosition>,
        limit: u64,
    ) -> Result<Page, Error> {
        let (transaction, position) = pair(after);
        let limit = limit.min(self.fitting.load(Ordering::Relaxed)).max(1);
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        // One journey. The mark is asked for after the page: what was deleted before the page's
        // snapshot is known by then.
        let (taken, deleted) = tokio::join!(
            biased;
            self.take([&transaction, &position, &most], limit),
            self.deletions.mark(&self.client)
        );
        let (messages, is_cut) = taken?;
        self.size_up(messages.len() as u64, limit, is_cut);
        let is_full = is_cut || messages.len() as u64 >= limit;
        Ok(Page { messages, is_full, deleted: deleted? })
    }

    /// Takes what fits of a page, and whether that is less than was asked for.
    async fn take(
        &self,
        parameters: [&(dyn ToSql + Sync); 3],
        limit: u64,
    ) -> Result<(Vec<Message>, bool), Error> {
        let mut rows = pin!(self.client.query_raw(&self.page, parameters).await?);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some(row) = poll_fn(|cx| rows.as_mut().poll_next(cx)).await {
            let row = row?;
            bytes += row.raw_size_bytes();
            messages.push(message(&row)?);
            if bytes >= PAGE_BYTES && (messages.len() as u64) < limit {
                return Ok((messages, true));
            }
        }
        Ok((messages, false))
    }

    /// Asks for fewer messages where a page was too large to be taken whole, and for more again
    /// as long as pages are taken whole: what is asked for and not taken is sent in vain.
    fn size_up(&self, got: u64, limit: u64, is_cut: bool) {
        let fitting = self.fitting.load(Ordering::Relaxed);
        if is_cut {
            self.fitting.store((got / 2).max(1), Ordering::Relaxed);
        } else if got == limit {
            let more = fitting.saturating_add(fitting / 4).saturating_add(1);
            self.fitting.store(more, Ordering::Relaxed);
        }
    }

    /// Whether any message is there, readable or not.
    pub(super) async fn is_behind(&self, after: Option<&OutboxPosition>) -> Result<bool, Error> {
        let (transaction, position) = pair(after);
        self.client.query_one(&self.behind, &[&transaction, &position]).await?.try_get(0)
    }

    /// Where [`Start::End`] is: below every transaction that is still in flight.
    pub(super) async fn end(&self) -> Result<OutboxPosition, Error> {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())";
        let Xid(horizon) = self.client.query_one(sql, &[]).await?.try_get(0)?;
        Ok(OutboxPosition::new(horizon.saturating_sub(1), i64::MAX))
    }
}

/// What pipelines with `delete_passed` have deleted of an outbox, as they say in a table beside it.
struct Deletions {
    /// The table, quoted, and the outbox as it is named there.
    table: String,
    outbox: String,
    is_there: Statement,
    /// Only while the table is there.
    statement: Mutex<Option<Statement>>,
}

impl Deletions {
    async fn of(client: &Client, outbox: &str) -> Result<Self, Error> {
        let sql = "SELECT quote_ident(n.nspname) || '.piton_outbox_readers',
            format('%I.%I', n.nspname, c.relname)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = $1::text::regclass";
        let row = client.query_one(sql, &[&outbox]).await?;
        let (table, outbox) = (row.try_get(0)?, row.try_get(1)?);
        let is_there = client.prepare("SELECT to_regclass($1) IS NOT NULL").await?;
        Ok(Self { table, outbox, is_there, statement: Mutex::default() })
    }

    /// All messages below it were deleted; `None` if this was never done.
    async fn mark(&self, client: &Client) -> Result<Option<OutboxPosition>, Error> {
        let known = self.known().clone();
        let statement = match known {
            Some(statement) => statement,
            None => match self.prepare(client).await? {
                Some(statement) => statement,
                None => return Ok(None),
            },
        };
        match client.query_opt(&statement, &[&self.outbox]).await {
            Ok(found) => {
                let position_of = |row: Row| {
                    let Xid(transaction) = row.try_get(0)?;
                    Ok(OutboxPosition::new(transaction, row.try_get(1)?))
                };
                found.map(position_of).transpose()
            }
            // Somebody has dropped the table.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                *self.known() = None;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, client: &Client) -> Result<Option<Statement>, Error> {
        if !client.query_one(&self.is_there, &[&self.table]).await?.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        let sql = format!(
            "SELECT transaction_id, position FROM {} WHERE outbox = $1 AND reader = ''",
            self.table
        );
        let statement = client.prepare(&sql).await?;
        *self.known() = Some(statement.clone());
        Ok(Some(statement))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Statement>> {
        self.statement.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pair(after: Option<&OutboxPosition>) -> (String, i64) {
    after.map_or_else(
        || ("0".to_owned(), i64::MIN),
        |at| (at.transaction_id.to_string(), at.position),
    )
}

fn message(row: &Row) -> Result<Message, Error> {
    let Xid(transaction) = row.try_get(0)?;
    Ok(Message {
        at: OutboxPosition::new(transaction, row.try_get(1)?),
        id: row.try_get(2)?,
        kind: row.try_get(3)?,
        data: row.try_get(4)?,
    })
}
