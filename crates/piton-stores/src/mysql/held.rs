//! The session that commands inherit: it holds the lock of a claim, and does nothing else.

use std::os::fd::{AsFd as _, OwnedFd};

use filedescriptor::FileDescriptor;
use mysql::{Conn, prelude::Queryable as _};

use super::{
    address::Address,
    connection::{CLAIM, COMMAND, name_of},
    errors,
};
use crate::sql::{Handed, Result, Scope, Setback, Trouble};

/// How long a server leaves it alone, in seconds: the most that every server takes, 24 days.
const IDLE: u64 = 2_147_483;

pub(super) struct Held {
    conn: Conn,
    /// The connection's socket, once more.
    socket: FileDescriptor,
    store: String,
}

impl Held {
    /// Connects to the server that knows the store's own lock of an epoch, and takes one, too.
    pub(super) fn open(address: &Address, store: &str, scope: &Scope) -> Result<Self> {
        let conn = address.connect(|options| options).map_err(|error| errors::of(&error))?;
        let socket = FileDescriptor::dup(&conn)
            .map_err(|error| Setback::Unusable(format!("its socket: {error}")))?;
        let mut held = Self { conn, socket, store: store.to_owned() };
        let set_up = held.conn.query_drop(format!("SET wait_timeout = {IDLE}"));
        set_up.map_err(|error| errors::of(&error))?;
        let own = name_of(CLAIM, store, scope);
        if held.says("SELECT IS_USED_LOCK(?)", &own)?.is_none() {
            let what = "the server that has answered does not know the claim's lock".to_owned();
            return Err(Setback::Lost(what).into());
        }
        held.lock(scope)?;
        Ok(held)
    }

    fn says(&mut self, sql: &str, name: &str) -> Result<Option<i64>> {
        let said: Result<Option<Option<i64>>, mysql::Error> = self.conn.exec_first(sql, (name,));
        Ok(said.map_err(|error| errors::of(&error))?.flatten())
    }
}

impl Handed for Held {
    fn is_open(&mut self) -> bool {
        self.conn.ping().is_ok()
    }

    fn lock(&mut self, scope: &Scope) -> Result<()> {
        let name = name_of(COMMAND, &self.store, scope);
        match self.says("SELECT GET_LOCK(?, 0)", &name)? {
            Some(1) => Ok(()),
            // A command of an earlier connection has it, and lives.
            _ => Err(Setback::Lost("a command has the lock of its claim still".to_owned()).into()),
        }
    }

    fn descriptor(&self) -> Result<OwnedFd> {
        let copy = self.socket.as_fd().try_clone_to_owned();
        copy.map_err(|e| Trouble::io("its socket cannot be handed down to a command", e))
    }
}
