//! The store in a PostgreSQL database, in its schema `piton`.
//!
//! One connection does everything; what happens when it breaks is the same for every server. Writing transactions run at READ COMMITTED and begin by locking the pipeline's
//! row in `anchors`, so that what they read afterwards is fresh and stays as it is; a save of any
//! number of partitions is one call of a function that does the same in the server. That an owner
//! lives is shown by a session's advisory lock, at which others look in `pg_locks` without touching
//! it.
//!
//! The connection must be the server's own, or a pooler's that gives a client one session for as
//! long as it stays: locks and settings belong to the session.

mod address;
mod attempt;
mod connection;
mod errors;
#[cfg(unix)]
mod held;
mod schema;
#[cfg(unix)]
mod socket;
mod tls;

use piton_core::StoreError;
use tokio_postgres::Notification;

use self::connection::Postgres;
pub use self::{
    address::{Address, Environment},
    attempt::{Driver, NoConnection, tls_error},
};
use crate::{
    Mode,
    sql::{ServerSession, Setback, SqlStore},
};

/// The SQL that makes the store in a PostgreSQL database, for `psql`: what [`SqlStore::postgres`]
/// makes by itself, and beside it, in the schema where it is run, the functions by which programs
/// in other languages keep checkpoints there (`store_processor_checkpoint`, `claim_processor`, …).
/// It may be run again.
pub fn schema_script() -> String {
    schema::script()
}

/// Connects to the database that a URL names, as [`SqlStore::postgres`] reads it: for programs
/// whose own tables are beside the store. What drives the connection is spawned on the runtime of
/// tokio that this is called in, and ends with the client.
///
/// # Errors
/// [`StoreError::Refused`] for a URL that cannot be used; [`StoreError::Unusable`], which names
/// what the server said.
pub async fn connect(url: &str) -> Result<tokio_postgres::Client, StoreError> {
    connect_and_hear(url, |_| {}).await
}

/// As [`connect`], and calls `heard` for each notification that comes by `LISTEN`. It is called
/// where the connection is driven: it must not block.
///
/// # Errors
/// As [`connect`].
pub async fn connect_and_hear(
    url: &str,
    mut heard: impl FnMut(&Notification) + Send + 'static,
) -> Result<tokio_postgres::Client, StoreError> {
    let address = Address::parse(url, &|name| std::env::var(name).ok())?;
    let connected = address.connect(move |notification| heard(&notification)).await;
    let (client, driver) = connected.map_err(|error| error.at(address.shown()))?;
    tokio::spawn(driver);
    Ok(client)
}

/// Whether an error means that the connection is gone, and with it what is known of the statement
/// that was under way. What the server says of others, such as a foreign server, does not.
pub fn is_lost(error: &tokio_postgres::Error) -> bool {
    matches!(errors::of(error, true), Setback::Lost(_))
}

/// Where the store is, as people are told.
pub(crate) fn location(url: &str) -> Result<String, StoreError> {
    let address = Address::parse(url, &|name| std::env::var(name).ok())?;
    Ok(address.shown().to_owned())
}

impl SqlStore {
    /// Opens the store in the PostgreSQL database that a URL names:
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full`, as `psql` takes it.
    /// [`Mode::Create`] makes the schema `piton` if there is none.
    ///
    /// What the URL leaves out is taken from the environment, as
    /// [`Address::parse`](crate::postgres::Address::parse) says.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that cannot be used; [`StoreError::Missing`],
    /// [`StoreError::Damaged`], [`StoreError::Foreign`], [`StoreError::Newer`] or
    /// [`StoreError::Unusable`], which names what the server said.
    pub fn postgres(url: &str, mode: Mode) -> Result<Self, StoreError> {
        let address = Address::parse(url, &|name| std::env::var(name).ok())?;
        let at = address.shown().to_owned();
        Self::start(at.clone(), move || {
            let mut server = Postgres::new(address);
            let connection = server.open(mode).map_err(|trouble| trouble.at(&at))?;
            Ok(Box::new(ServerSession::new(server, connection)))
        })
    }
}
