//! A session with a server on the network: connections break, and what was under way when they did
//! has to be known for what it is.
//!
//! - A transaction whose commit was not yet sent is certainly not done: it is begun again.
//! - A transaction whose commit was sent and not answered may be done, or may yet be. It is done
//!   again where that is harmless, and answered [`StoreError::InDoubt`] elsewhere: whoever owns the
//!   claim fences first, by a new claim, and reads then.
//! - The locks by which others see that owners of this process live belong to the connection. They
//!   are taken again on the next one, which is looked for at once, also when nobody asks for
//!   anything.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_core::StoreError;

use super::{
    Batch, End, Reading, Result, Scope, Session, Setback, Transaction, Trouble, Write, Writing,
};

/// How long a call waits for a server that does not answer before it gives up. Long enough for a
/// server to be restarted.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause after a failed attempt to connect, at first and at most. A server that has started
/// takes owners for living until they had the time to come back (see [`COMING_BACK`]).
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long after the start of a server a claim of the time before counts as held, though the lock
/// that its owner had went with the old server: owners need a moment to connect again.
pub(crate) const COMING_BACK: Duration = Duration::from_secs(10);

/// How often a connection that keeps locks is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often a transaction that the server took back, for a deadlock or a clash, is begun again.
const ATTEMPTS: u32 = 10;

/// How a server is reached.
pub(crate) trait Server {
    type Connection: Connection;

    /// Where the store is, for people.
    fn at(&self) -> &str;

    /// Connects to a store that is there and whole.
    ///
    /// # Errors
    /// [`Setback::Lost`] where trying again may help.
    fn connect(&mut self) -> Result<Self::Connection>;

    /// Opens a connection that holds the lock of an epoch beside the store's own, for commands.
    ///
    /// # Errors
    /// [`Setback::Lost`] where trying again may help, also when it has come to another server than
    /// the one that knows the lock.
    #[cfg(unix)]
    fn hand_down(&self, scope: &Scope) -> Result<Box<dyn super::Handed>>;
}

/// One connection to a server.
pub(crate) trait Connection: Transaction {
    /// Begins a transaction that reads what is there at one moment.
    fn begin_read(&mut self) -> Result<()>;

    /// Begins a transaction that may write rows of these pipelines, and waits until no other does.
    fn begin_write(&mut self, pipelines: &[&str]) -> Result<()>;

    /// Begins a transaction that only renews a claim: it waits for others that do, and for none
    /// that saves, where the database can tell them apart.
    fn begin_renewal(&mut self, pipelines: &[&str]) -> Result<()> {
        self.begin_write(pipelines)
    }

    /// Ends a transaction. What comes back other than [`Setback::Lost`] is certainly not done.
    fn commit(&mut self) -> Result<()>;

    /// Ends a transaction.
    fn rollback(&mut self) -> Result<()>;

    /// Decides and stores a batch in one round trip, or says that it must not be stored as it is.
    fn save(&mut self, batch: &Batch<'_>) -> Result<bool>;

    /// Whether the connection stands, as far as is known without asking a server that answered a
    /// moment ago.
    fn is_open(&mut self) -> bool;

    /// Whether the connection stands, looked at while nothing else is to be done.
    fn look(&mut self) -> bool {
        self.is_open()
    }

    /// Takes the lock of an epoch. False when another session has it.
    fn lock(&mut self, scope: &Scope) -> Result<bool>;

    /// Frees the lock of an epoch.
    fn unlock(&mut self, scope: &Scope) -> Result<()>;

    /// The locks that this connection has.
    fn locks(&mut self) -> &mut Vec<Scope>;
}

/// A session with a server, over one connection after another.
pub(crate) struct ServerSession<S: Server> {
    server: S,
    connection: Option<S::Connection>,
    /// Locks that went with a connection and are still to be had on this one.
    missing: Vec<Scope>,
    /// When, after a failed attempt, a connection is looked for next.
    pause: Duration,
    next: Instant,
    /// A call has waited in vain: until there is a connection again, the next ones do not wait.
    given_up: bool,
}

impl<S: Server> ServerSession<S> {
    pub(crate) fn new(server: S, connection: S::Connection) -> Self {
        let connection = Some(connection);
        let (missing, pause, next, given_up) = (Vec::new(), PAUSE, Instant::now(), false);
        Self { server, connection, missing, pause, next, given_up }
    }

    /// Gives a connection up, and remembers which locks go with it.
    fn lose(&mut self) {
        if let Some(mut lost) = self.connection.take() {
            self.missing.append(lost.locks());
        }
    }

    /// Connects, and takes the locks again that were lost.
    fn connect(&mut self) -> Result<()> {
        match self.server.connect() {
            Ok(connection) => self.connection = Some(connection),
            Err(trouble) => {
                self.next = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                return Err(trouble);
            }
        }
        (self.pause, self.given_up) = (PAUSE, false);
        self.lock_again();
        Ok(())
    }

    /// Takes locks again. One that the server still keeps for the lost connection is had later.
    fn lock_again(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        self.missing.retain(|scope| match connection.lock(scope) {
            Ok(true) => {
                connection.locks().push(scope.clone());
                false
            }
            Ok(false) | Err(_) => true,
        });
    }

    /// Sees to it that there is a connection, for as long as there is patience.
    fn connected(&mut self, until: Instant) -> Result<&mut S::Connection> {
        if self.connection.as_mut().is_some_and(|connection| !connection.is_open()) {
            self.lose();
        }
        while self.connection.is_none() {
            match self.connect() {
                Ok(()) => {}
                Err(trouble) if trouble.is_lost() && self.next < until && !self.given_up => {
                    thread::sleep(self.next.saturating_duration_since(Instant::now()));
                }
                Err(trouble) => {
                    self.given_up = trouble.is_lost();
                    return Err(trouble);
                }
            }
        }
        self.connection.as_mut().ok_or_else(|| Trouble::from(Setback::Lost("no connection".into())))
    }

    /// What is to be done about an attempt that failed without having done anything: nothing, if it
    /// may be begun again.
    fn again(&mut self, trouble: Trouble, attempt: u32, until: Instant) -> Result<()> {
        match &trouble {
            Trouble::Server(Setback::Lost(_)) => {
                self.lose();
                if Instant::now() < until { Ok(()) } else { Err(trouble) }
            }
            Trouble::Server(Setback::TakenBack(_) | Setback::Clash(_)) if attempt < ATTEMPTS => {
                Ok(())
            }
            _ => Err(trouble),
        }
    }
}

/// How an attempt at a transaction failed.
enum Failed {
    /// It is certainly not done.
    Undone(Trouble),
    /// The answer to its commit did not come.
    Unknown(String),
}

fn attempt<C: Connection>(
    connection: &mut C,
    write: &Write<'_>,
    f: &mut Writing<'_>,
) -> Result<(), Failed> {
    let begun = if write.renewal {
        connection.begin_renewal(&write.pipelines)
    } else {
        connection.begin_write(&write.pipelines)
    };
    begun.map_err(Failed::Undone)?;
    match f(connection) {
        Ok(End::Commit) => connection.commit().map_err(|trouble| match trouble {
            Trouble::Server(Setback::Lost(why)) => Failed::Unknown(why),
            trouble => Failed::Undone(trouble),
        }),
        // Nothing is written: that its end is not heard of does no harm.
        Ok(End::Rollback) => {
            let _ = connection.rollback();
            Ok(())
        }
        Err(trouble) => {
            if !trouble.is_lost() {
                let _ = connection.rollback();
            }
            Err(Failed::Undone(trouble))
        }
    }
}

impl<S: Server> Session for ServerSession<S> {
    fn at(&self) -> &str {
        self.server.at()
    }

    fn read(&mut self, f: &mut Reading<'_>) -> Result<(), StoreError> {
        let until = Instant::now() + PATIENCE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = self.connected(until).and_then(|connection| {
                connection.begin_read()?;
                let answer = f(connection);
                if !answer.as_ref().is_err_and(Trouble::is_lost) {
                    let _ = connection.rollback();
                }
                answer
            });
            let Err(trouble) = answer else { return Ok(()) };
            self.again(trouble, attempts, until).map_err(|trouble| trouble.at(self.at()))?;
        }
    }

    fn write(&mut self, write: &Write<'_>, f: &mut Writing<'_>) -> Result<(), StoreError> {
        let until = Instant::now() + PATIENCE;
        let (mut attempts, mut doubt) = (0, None);
        loop {
            attempts += 1;
            let answer = match self.connected(until) {
                Ok(connection) => attempt(connection, write, f),
                Err(trouble) => Err(Failed::Undone(trouble)),
            };
            let trouble = match answer {
                Ok(()) => return Ok(()),
                Err(Failed::Unknown(why)) => {
                    self.lose();
                    doubt = Some(why);
                    None
                }
                Err(Failed::Undone(trouble)) => self.again(trouble, attempts, until).err(),
            };
            // What is harmless to repeat is repeated until it is known to be done.
            let over = Instant::now() >= until || !write.again;
            match (trouble, &doubt) {
                (Some(Trouble::Server(Setback::Lost(_))) | None, Some(why)) if over => {
                    return Err(self.in_doubt(why));
                }
                (Some(trouble), _) => return Err(trouble.at(self.at())),
                (None, _) => {}
            }
        }
    }

    fn saves_at_once(&self) -> bool {
        true
    }

    /// In one statement that commits by itself: where the answer does not come, it is in doubt.
    fn save(&mut self, batch: &Batch<'_>) -> Result<bool, StoreError> {
        let until = Instant::now() + PATIENCE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = self.connected(until).map(|connection| connection.save(batch));
            match answer.map_err(|trouble| trouble.at(self.at()))? {
                Ok(stored) => return Ok(stored),
                Err(Trouble::Server(Setback::Lost(why))) => {
                    self.lose();
                    return Err(self.in_doubt(&why));
                }
                Err(trouble) => {
                    self.again(trouble, attempts, until)
                        .map_err(|trouble| trouble.at(self.at()))?;
                }
            }
        }
    }

    fn free(&mut self, scope: &Scope) {
        self.missing.retain(|missing| missing != scope);
        let Some(connection) = &mut self.connection else { return };
        let before = connection.locks().len();
        connection.locks().retain(|lock| lock != scope);
        if connection.locks().len() < before && connection.unlock(scope).is_err() {
            // The lock goes with the connection.
            self.lose();
        }
    }

    #[cfg(unix)]
    fn hand_down(&mut self, scope: &Scope) -> Result<Box<dyn super::Handed>, StoreError> {
        let until = Instant::now() + PATIENCE;
        loop {
            // The store's own lock has to be there: it tells which server it is.
            let connected = self.connected(until).map(|_| ());
            self.lock_again();
            match connected.and_then(|()| self.server.hand_down(scope)) {
                Ok(handed) => return Ok(handed),
                Err(trouble) if trouble.is_lost() && !self.given_up && Instant::now() < until => {
                    thread::sleep(PAUSE);
                }
                Err(trouble) => return Err(trouble.at(self.at())),
            }
        }
    }

    fn tend(&mut self) {
        let has_locks = self.has_locks();
        if self.connection.as_mut().is_some_and(|connection| has_locks && !connection.look()) {
            self.lose();
        }
        if self.missing.is_empty() || Instant::now() < self.next {
            return;
        }
        if self.connection.is_some() {
            self.lock_again();
        } else {
            // What is wrong is told to whoever asks next.
            let _ = self.connect();
        }
    }

    fn tended_every(&mut self) -> Option<Duration> {
        self.has_locks().then_some(LOOK)
    }
}

impl<S: Server> ServerSession<S> {
    /// Whether there are locks to keep, or to be had again.
    fn has_locks(&mut self) -> bool {
        let connected = self.connection.as_mut();
        !self.missing.is_empty() || connected.is_some_and(|c| !c.locks().is_empty())
    }

    fn in_doubt(&self, why: &str) -> StoreError {
        StoreError::InDoubt { at: self.server.at().to_owned(), what: why.to_owned(), lost: true }
    }
}
