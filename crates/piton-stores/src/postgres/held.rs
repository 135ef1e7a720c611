//! The session that commands inherit: it holds the lock of a claim, and does nothing else.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_postgres::Client;

use super::{
    address::Address,
    connection::{halves, number_of, silent, within},
    errors,
    socket::Place,
};
use crate::sql::{Handed, Result, Scope, Setback, Trouble};

/// How long a server may take over one statement here.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the goodbye may take.
const MOMENT: Duration = Duration::from_millis(50);

/// Whether a session of this server holds a lock.
const IS_HELD: &str = "SELECT EXISTS (SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND classid::bigint = $1 AND objid::bigint = $2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// It may be idle for as long as a command takes. A machine that is gone is noticed by the server.
const SET_UP: &str = "SET statement_timeout = 0;
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'";

pub(super) struct Held {
    runtime: Runtime,
    /// Gone when the connection is being closed.
    client: Option<Client>,
    driver: JoinHandle<()>,
    socket: OwnedFd,
}

impl Held {
    /// Connects to the server that knows the store's own lock of an epoch, and takes it, too.
    pub(super) fn open(address: &Address, scope: &Scope) -> Result<Self> {
        let mut trouble = Setback::Lost("the address names no server".to_owned()).into();
        for place in address.places() {
            match Self::open_at(address, &place, scope) {
                Ok(held) => return Ok(held),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    fn open_at(address: &Address, place: &Place, scope: &Scope) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Trouble::io("no connection could be prepared", e))?;
        let (client, driver, socket) = runtime.block_on(address.connect_to(place))?;
        let driver = runtime.spawn(async move {
            // Whoever asks over it hears what went wrong.
            let _ = driver.await;
        });
        let client = Some(client);
        let mut held = Self { runtime, client, driver, socket };
        held.ask(async |client| client.batch_execute(SET_UP).await)?;
        let (high, low) = halves(scope);
        let is_held = held.ask(async |client| client.query_one(IS_HELD, &[&high, &low]).await)?;
        if !is_held.get::<_, bool>(0) {
            let what = "the server that has answered does not know the claim's lock".to_owned();
            return Err(Setback::Lost(what).into());
        }
        held.lock(scope)?;
        Ok(held)
    }

    fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let Some(client) = &self.client else {
            return Err(Setback::Lost("it was closed".to_owned()).into());
        };
        let answer = self.runtime.block_on(within(ANSWER, question(client)));
        match answer {
            Some(answer) => answer.map_err(|error| errors::of(&error, false).into()),
            None => Err(silent(ANSWER)),
        }
    }
}

impl Handed for Held {
    fn is_open(&mut self) -> bool {
        self.ask(async |c| c.batch_execute("").await).is_ok()
    }

    fn lock(&mut self, scope: &Scope) -> Result<()> {
        let number = number_of(scope);
        let sql = "SELECT pg_try_advisory_lock_shared($1)";
        let had = self.ask(async |client| client.query_one(sql, &[&number]).await)?;
        if had.get(0) {
            return Ok(());
        }
        Err(Setback::Lost("the lock of a claim is taken by another session".to_owned()).into())
    }

    fn descriptor(&self) -> Result<OwnedFd> {
        let copy = self.socket.try_clone();
        copy.map_err(|e| Trouble::io("its socket cannot be handed down to a command", e))
    }
}

impl Drop for Held {
    /// Says goodbye: a process that a command has left behind may have the socket for long.
    fn drop(&mut self) {
        self.client = None;
        let _ = self.runtime.block_on(within(MOMENT, &mut self.driver));
    }
}
