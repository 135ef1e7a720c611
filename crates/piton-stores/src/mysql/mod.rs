//! The store in a database on a MySQL or MariaDB server.
//!
//! One connection does everything; what happens when it breaks is the same for every server
//! (`crate::sql`). Writing transactions run at READ COMMITTED and begin by locking the pipeline's
//! row in `anchors`, so that what they read afterwards is fresh and stays as it is; a save of any
//! number of partitions is one call of a procedure that does the same in the server. That an owner
//! lives is shown by a named lock of its session, at which others look without touching it.
//!
//! Named locks are one server's: in a cluster of several servers that all write (Galera, Group
//! Replication with several primaries), every program has to use the same one.

pub mod address;
mod connection;
mod errors;
#[cfg(unix)]
mod held;
mod schema;
mod statements;

use piton_core::StoreError;

use self::connection::MySql;
pub use self::{address::Address, statements::run};
use crate::{
    Mode,
    sql::{ServerSession, SqlStore},
};

/// Where the store is, as people are told.
pub(crate) fn location(url: &str) -> Result<String, StoreError> {
    Address::parse(url, &|name| std::env::var(name).ok()).map(|address| address.shown())
}

impl SqlStore {
    /// Opens the store on the MySQL or MariaDB server that a URL names:
    /// `mysql://USER:PASSWORD@HOST:PORT/DATABASE?ssl-mode=verify_identity`. The database is `piton`
    /// where the URL names none, and [`Mode::Create`] makes that one; another has to be there.
    ///
    /// What the URL leaves out is taken from the environment: `MYSQL_PWD`, `MYSQL_HOST`,
    /// `MYSQL_TCP_PORT`, and `USER`. `ssl-mode` is one of `disabled`, `preferred` (the default),
    /// `required` and `verify_identity`, as it is to the program `mysql`; `ssl-ca` is a file of
    /// authorities' certificates, trusted beside the public ones.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that cannot be used; [`StoreError::Missing`],
    /// [`StoreError::Damaged`], [`StoreError::Foreign`], [`StoreError::Newer`] or
    /// [`StoreError::Unusable`], which names what the server said.
    pub fn mysql(url: &str, mode: Mode) -> Result<Self, StoreError> {
        let address = Address::parse(url, &|name| std::env::var(name).ok())?;
        let at = address.shown();
        Self::start(at.clone(), move || {
            let mut server = MySql::new(address);
            let connection = server.open(mode).map_err(|trouble| trouble.at(&at))?;
            Ok(Box::new(ServerSession::new(server, connection)))
        })
    }
}
