//! A connection to an outbox that has been looked at: the table is fit to be read, and the server
//! is the one that gave the position.

use std::{sync::Arc, time::Duration};

use piton::postgres::outbox::{Xid, hash_of};
use tokio_postgres::{Error, Statement, error::SqlState};

use super::{
    Fingerprint, OutboxPosition,
    ddl::WAKE_CHANNEL,
    guard,
    page::{Page, Taken, Whence, schema},
    passed::Mark,
    settings::OutboxSettings,
    shape::{self, Shape},
    statements::{SESSION, Statements},
};
use crate::{
    postgres::{
        connect::{ConnectError, Server, describe, is_lost},
        wire::Wire,
    },
    source::SourceError,
};

/// How much of a statement's rows is read in vain after its page has ended; a new connection costs
/// more than that.
const LEFT_BYTES: usize = 1 << 20;

/// What every connection to one outbox needs to know.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) settings: OutboxSettings,
    pub(super) server: Server,
    pub(super) statements: Statements,
    pub(super) record_limit: usize,
    /// Whether an operator accepts a server that is not the one that was.
    pub(super) accept_changes: bool,
}

/// Why a connection cannot be had or used, by what to do about it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server does not answer now: worth another try, by the reader itself.
    Away(String),
    /// Nothing that another try would mend.
    Lasting(SourceError),
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away(what) => Self::Failed {
                what: format!("{what}. Run the same command again when the server is there"),
            },
            Trouble::Lasting(error) => error,
        }
    }
}

impl Outbox {
    /// What the settings say, if they can work. `reader` is shown by the server.
    pub(super) fn of(
        settings: &OutboxSettings,
        reader: &str,
        record_limit: usize,
        accept_changes: bool,
    ) -> Result<Self, SourceError> {
        settings.check().map_err(|what| SourceError::Settings { what })?;
        let server = Server::parse(&settings.url)
            .map_err(|error| SourceError::Settings { what: error.to_string() })?
            .named(format!("piton {reader}").trim_end());
        Ok(Self {
            settings: settings.clone(),
            server,
            statements: Statements::of(settings, record_limit),
            record_limit,
            accept_changes,
        })
    }

    /// The name of its only partition.
    pub(super) fn partition(&self) -> &str {
        &self.settings.table
    }

    /// The outbox in an error for people.
    pub(super) fn place(&self) -> String {
        format!("{}, table {}", self.server.location(), self.statements.table)
    }

    /// Connects.
    pub(super) fn connect(&self) -> Result<Wire, Trouble> {
        let client = Wire::open(&self.server).map_err(|error| match error {
            ConnectError::Unavailable { what } => Trouble::Away(what),
            refused => Trouble::Lasting(SourceError::Settings { what: refused.to_string() }),
        })?;
        client.batch_execute(SESSION).map_err(|error| self.trouble(&error))?;
        Ok(client)
    }

    /// What a failed statement means.
    pub(super) fn trouble(&self, error: &Error) -> Trouble {
        let said = format!("{}: {}", self.place(), describe(error));
        let is_any = |codes: &[SqlState]| error.code().is_some_and(|code| codes.contains(code));
        let is_passing = is_lost(error)
            || is_any(&[
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::QUERY_CANCELED,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::TOO_MANY_CONNECTIONS,
                SqlState::OUT_OF_MEMORY,
            ]);
        if is_passing {
            return Trouble::Away(said);
        }
        let is_of_settings = is_any(&[
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
        ]);
        Trouble::Lasting(if is_of_settings {
            SourceError::Settings { what: said }
        } else {
            SourceError::Failed {
                what: format!("{said}. Run the same command again when that is mended"),
            }
        })
    }

    pub(super) fn missing(&self) -> SourceError {
        SourceError::Missing {
            what: format!(
                "there is no {}. Names are taken as they are, capitals too; `piton sql \
                 postgres-outbox` prints the table",
                self.place()
            ),
        }
    }
}

/// What a page gave.
pub(super) struct Paged {
    pub(super) taken: Taken,
    /// Where reading goes on; `None` if nothing came.
    pub(super) end: Option<OutboxPosition>,
    /// How many messages it has.
    pub(super) rows: usize,
    /// Whether it ended before the statement's rows did.
    pub(super) is_cut: bool,
    /// Whether the connection must not be used again, as what it has still to deliver may be
    /// gigabytes.
    pub(super) is_spent: bool,
}

/// A connection that reads.
pub(super) struct Session {
    pub(super) client: Wire,
    outbox: Arc<Outbox>,
    pub(super) shape: Shape,
    whence: Whence,
    page: Statement,
    mark: Mark,
}

impl Session {
    /// Connects and looks at the table.
    pub(super) fn open(outbox: &Arc<Outbox>) -> Result<Self, Trouble> {
        let client = outbox.connect()?;
        let failed = |error: Error| outbox.trouble(&error);
        let shape = shape::inspect(&client, &outbox.settings).map_err(failed)?;
        let shape = shape.ok_or_else(|| Trouble::Lasting(outbox.missing()))?;
        if !shape.misfits.is_empty() {
            let what = format!("{}: {}", outbox.place(), shape.misfits.join("; "));
            return Err(Trouble::Lasting(SourceError::Settings { what }));
        }
        let fingerprint = guard::look_at(&client).map_err(failed)?;
        let page = outbox.statements.page(shape.data);
        let page = client.prepare(&page).map_err(failed)?;
        if !shape.is_replica {
            client.batch_execute(&format!("LISTEN {WAKE_CHANNEL}")).map_err(failed)?;
        }
        let whence = Whence {
            partition: outbox.partition().into(),
            fingerprint,
            schema: Arc::new(schema(shape.data)),
            data: shape.data,
            record_limit: outbox.record_limit,
        };
        Ok(Self { client, outbox: Arc::clone(outbox), shape, whence, page, mark: Mark::default() })
    }

    /// What is asked of this outbox.
    #[cfg(test)]
    pub(super) fn statements(&self) -> &Statements {
        &self.outbox.statements
    }

    /// Refuses to read on after a position that this server did not give, or has lost.
    pub(super) fn guard(&mut self, position: Option<&OutboxPosition>) -> Result<(), Trouble> {
        let Outbox { statements, accept_changes, .. } = &*self.outbox;
        if !accept_changes {
            let seen = self.whence.fingerprint.as_ref();
            let objection = guard::objection(&self.client, statements, seen, position);
            if let Some(what) = objection.map_err(|error| self.outbox.trouble(&error))? {
                return Err(self.gap(position, what));
            }
        }
        position.map_or(Ok(()), |position| self.has_all_after(position))
    }

    /// Refuses to have read on after a position if messages above it were deleted: to be asked
    /// after a page was read, because what was deleted before is then known.
    pub(super) fn has_all_after(&mut self, position: &OutboxPosition) -> Result<(), Trouble> {
        let mark = self.deleted()?;
        match mark.and_then(|mark| guard::deleted(position, &mark)) {
            None => Ok(()),
            Some(what) => Err(self.gap(Some(position), what)),
        }
    }

    /// Up to where messages were deleted, as far as this was ever done.
    pub(super) fn deleted(&mut self) -> Result<Option<OutboxPosition>, Trouble> {
        let deleted = self.mark.look(&self.client, &self.shape);
        deleted.map_err(|error| self.outbox.trouble(&error))
    }

    fn gap(&self, position: Option<&OutboxPosition>, what: String) -> Trouble {
        Trouble::Lasting(SourceError::Gap {
            partition: self.outbox.partition().to_owned(),
            position: position
                .filter(|position| **position != OutboxPosition::BEGINNING)
                .map_or("the beginning".into(), OutboxPosition::shown),
            what,
        })
    }

    /// The position after all that can be read now, and before all that is appended later or is
    /// being appended: what is visible of transactions above it comes again.
    ///
    /// It is a message's, never a mere transaction id: a crash of the server forgets ids that have
    /// left nothing on its disk, and gives them to other transactions.
    pub(super) fn end(&mut self) -> Result<OutboxPosition, Trouble> {
        let fingerprint = self.whence.fingerprint.clone();
        let position_of = |row: tokio_postgres::Row| {
            let (Xid(transaction_id), position) = (row.try_get(0)?, row.try_get(1)?);
            let message = Some(hash_of(row.try_get(2)?));
            let fingerprint = fingerprint.map(|seen| Fingerprint { message, ..seen });
            Ok(OutboxPosition { transaction_id, position, fingerprint })
        };
        let last = self.client.query_opt(&self.outbox.statements.last(), &[]);
        let last = last.and_then(|row| row.map(position_of).transpose());
        match last.map_err(|error| self.outbox.trouble(&error))? {
            Some(last) => Ok(last),
            None => Ok(self.deleted()?.unwrap_or(OutboxPosition::BEGINNING)),
        }
    }

    /// The next messages after a position.
    pub(super) fn page(&mut self, after: &OutboxPosition, limit: usize) -> Result<Paged, Trouble> {
        let transaction = after.transaction_id.to_string();
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&transaction, &after.position, &most];
        let mut page = Page::after(&self.whence, after);
        let (mut has_ended, mut left) = (false, 0);
        let mut fill = || {
            let mut rows = self.client.rows(&self.page, &parameters)?;
            while let Some(row) = rows.next()? {
                if !has_ended {
                    has_ended = !page.take(&row)?;
                } else if left < LEFT_BYTES {
                    left += row.raw_size_bytes();
                } else {
                    break;
                }
            }
            Ok(())
        };
        fill().map_err(|error| self.outbox.trouble(&error))?;
        let rows = page.rows();
        let (taken, end) = page.finish();
        Ok(Paged { taken, end, rows, is_cut: left > 0, is_spent: left >= LEFT_BYTES })
    }

    /// The message at a position, if it is there.
    pub(super) fn message(&mut self, at: &OutboxPosition) -> Result<Taken, Trouble> {
        let statement = self.outbox.statements.message(self.shape.data);
        let transaction = at.transaction_id.to_string();
        let look = || {
            let row = self.client.query_opt(&statement, &[&transaction, &at.position])?;
            let mut page = Page::after(&self.whence, at);
            if let Some(row) = row {
                page.take(&row)?;
            }
            Ok(page.finish().0)
        };
        look().map_err(|error| self.outbox.trouble(&error))
    }

    /// Waits for word of a message, at most so long. True if it came.
    pub(super) fn wait(&mut self, most: Duration) -> Result<bool, Trouble> {
        let table = self.shape.oid.to_string();
        let is_ours = |payload: &str| payload.is_empty() || payload == table;
        let mut word = self.client.heard(most);
        let mut heard = false;
        // Several are one word.
        while let Some(came) = word {
            heard |= is_ours(came.payload());
            word = self.client.heard(Duration::ZERO);
        }
        if self.client.is_closed() {
            let what = format!("{}: the connection was closed", self.outbox.place());
            return Err(Trouble::Away(what));
        }
        Ok(heard)
    }
}
