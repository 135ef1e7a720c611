//! A connection to be used from one thread: the asynchronous client, and the runtime that drives
//! it while somebody waits.
//!
//! The blocking client of others cannot hold a `COPY` open between two calls, because its writer
//! borrows it, and cannot give up a server that takes a connection and says nothing; the
//! asynchronous one can. Nothing happens on the connection while nobody waits.

use std::{pin::Pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{self, UnboundedReceiver},
};
use tokio_postgres::{
    Client, Error, Notification, Row, RowStream, Statement, ToStatement, types::ToSql,
};

use super::connect::{ConnectError, Server};

/// Values of a statement.
pub(crate) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection and what drives it.
pub(crate) struct Wire {
    runtime: Runtime,
    pub(crate) client: Client,
    /// What came by `LISTEN`, until it is asked for.
    heard: UnboundedReceiver<Notification>,
}

impl Wire {
    /// Connects.
    pub(crate) fn open(server: &Server) -> Result<Self, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| {
            let what = format!("cannot connect to {}: {e}", server.location());
            ConnectError::Unavailable { what }
        })?;
        let (hears, heard) = mpsc::unbounded_channel();
        let connecting = server.connect(move |word| {
            // Whoever has closed the connection does not listen any more.
            let _ = hears.send(word);
        });
        let (client, driver) = runtime.block_on(connecting)?;
        runtime.spawn(driver);
        Ok(Self { runtime, client, heard })
    }

    /// Waits for what the client does.
    pub(crate) fn wait<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements without values.
    pub(crate) fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.wait(self.client.batch_execute(sql))
    }

    pub(crate) fn execute(&self, sql: &str, values: Values<'_>) -> Result<u64, Error> {
        self.wait(self.client.execute(sql, values))
    }

    pub(crate) fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        self.wait(self.client.prepare(sql))
    }

    pub(crate) fn query(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Error> {
        self.wait(self.client.query(sql, values))
    }

    pub(crate) fn query_one(&self, sql: &str, values: Values<'_>) -> Result<Row, Error> {
        self.wait(self.client.query_one(sql, values))
    }

    pub(crate) fn query_opt(&self, sql: &str, values: Values<'_>) -> Result<Option<Row>, Error> {
        self.wait(self.client.query_opt(sql, values))
    }

    /// Rows as they come.
    pub(crate) fn rows(
        &self,
        statement: &(impl ToStatement + ?Sized),
        values: Values<'_>,
    ) -> Result<Rows<'_>, Error> {
        let values = values.iter().copied();
        let stream = self.wait(self.client.query_raw(statement, values))?;
        Ok(Rows { wire: self, stream: Box::pin(stream) })
    }

    /// Does all of it in one transaction, or nothing.
    pub(crate) fn in_transaction<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.batch_execute("BEGIN")?;
        let worked = work(self);
        match worked {
            Ok(done) => self.batch_execute("COMMIT").map(|()| done),
            Err(error) => {
                // If this fails too, the connection is gone and the transaction with it.
                let _ = self.batch_execute("ROLLBACK");
                Err(error)
            }
        }
    }

    /// A notification that came, or comes in that time.
    pub(crate) fn heard(&mut self, most: Duration) -> Option<Notification> {
        let Self { runtime, heard, .. } = self;
        runtime.block_on(async { tokio::time::timeout(most, heard.recv()).await.ok().flatten() })
    }
}

/// Rows on their way.
pub(crate) struct Rows<'a> {
    wire: &'a Wire,
    stream: Pin<Box<RowStream>>,
}

impl Rows<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<Row>, Error> {
        self.wire.wait(self.stream.next()).transpose()
    }
}
