//! The thread that owns a store's connection.
//!
//! Commands are closures that arrive over a channel and are run one after the other; each answers
//! its caller before the thread looks after its connection. One thread keeps its statements
//! prepared, needs no lock, and lets callers of any runtime, or none, wait.

use std::{
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use piton_core::{Claim, StoreError};

use super::{
    Lock, Scope, Transaction,
    manifest::Verified,
    store::{Guard, Link},
    trouble::Result,
};
#[cfg(feature = "server")]
use super::{Trouble, batch::Batch};
use crate::rules::HistoryClock;

/// What a database keeps for itself: its connection and how its transactions end.
pub(crate) trait Session {
    /// Where the store is, for people.
    fn at(&self) -> &str;

    /// Runs a transaction that only reads. It may be begun again, if the connection was lost.
    fn read(&mut self, f: &mut Reading<'_>) -> Result<(), StoreError>;

    /// Runs a transaction that writes: what it reads, nobody changes before it has ended. It may be
    /// begun again, if it certainly changed nothing.
    ///
    /// # Errors
    /// [`StoreError::InDoubt`] when it is not known whether its commit took effect, unless the same
    /// may be done [`again`](Write::again).
    fn write(&mut self, write: &Write<'_>, f: &mut Writing<'_>) -> Result<(), StoreError>;

    /// Whether it stores batches in one round trip.
    #[cfg(feature = "server")]
    fn saves_at_once(&self) -> bool {
        false
    }

    /// Decides a batch and stores it, all of it or nothing. False when it must not be stored as it
    /// is.
    #[cfg(feature = "server")]
    fn save(&mut self, _: &Batch<'_>) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Frees the lock of an epoch that counts no more. One that cannot be freed does no harm.
    fn free(&mut self, scope: &Scope);

    /// Opens a connection for commands, which holds the lock of an epoch, too.
    #[cfg(all(unix, feature = "server"))]
    fn hand_down(&mut self, _: &Scope) -> Result<Box<dyn super::Handed>, StoreError> {
        let what = "its locks are no sessions".to_owned();
        Err(StoreError::Unusable { at: self.at().to_owned(), what })
    }

    /// Looks after the connection, between commands.
    fn tend(&mut self);

    /// How long it may be left alone; `None`: until the next command.
    fn tended_every(&mut self) -> Option<Duration>;
}

pub(crate) type Reading<'a> = dyn FnMut(&mut dyn Transaction) -> Result<()> + 'a;
pub(crate) type Writing<'a> = dyn FnMut(&mut dyn Transaction) -> Result<End> + 'a;

/// How a transaction is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Rollback,
}

/// What a writing transaction may touch.
pub(crate) struct Write<'a> {
    /// The pipelines whose rows it reads or writes.
    pub(crate) pipelines: Vec<&'a str>,
    /// Whether doing it twice is as good as doing it once.
    #[cfg_attr(
        not(feature = "server"),
        expect(dead_code, reason = "SQLite says of every commit what became of it")
    )]
    pub(crate) again: bool,
    /// Whether it only renews a claim: that need not wait for whoever saves.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "SQLite has one writer"))]
    pub(crate) renewal: bool,
}

impl<'a> Write<'a> {
    /// A transaction of one pipeline.
    pub(crate) fn of(pipeline: &'a str) -> Self {
        Self { pipelines: vec![pipeline], again: false, renewal: false }
    }

    /// A transaction of several pipelines, in the order in which all of them are locked.
    pub(crate) fn of_all(pipelines: impl Iterator<Item = &'a str>) -> Self {
        let mut pipelines: Vec<&str> = pipelines.collect();
        pipelines.sort_unstable();
        pipelines.dedup();
        Self { pipelines, again: false, renewal: false }
    }

    /// Doing it twice is as good as doing it once.
    pub(crate) fn again(self) -> Self {
        Self { again: true, ..self }
    }

    /// It only renews a claim.
    pub(crate) fn renewal(self) -> Self {
        Self { renewal: true, ..self }
    }
}

pub(crate) type Command = Box<dyn FnOnce(&mut Worker) + Send>;

/// What the thread knows beside what its connection does.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) clock: HistoryClock,
    pub(crate) verified: Verified,
}

/// What a transaction came to.
pub(crate) enum Done<T> {
    /// Its changes stand.
    Commit(T),
    /// It was decided to change nothing.
    Rollback(T),
}

/// Runs commands in the session it owns.
pub(crate) struct Worker {
    session: Box<dyn Session>,
    pub(crate) known: Known,
    link: Weak<Link>,
    /// Claims under which a commit is in doubt: nothing more is done under them.
    doubted: Vec<(Scope, String, bool)>,
}

impl Worker {
    pub(crate) fn new(session: Box<dyn Session>, link: Weak<Link>) -> Self {
        Self { session, known: Known::default(), link, doubted: Vec::new() }
    }

    /// Runs commands until every handle is gone.
    pub(crate) fn serve(mut self, commands: &Receiver<Command>) {
        loop {
            let next = match self.session.tended_every() {
                Some(rest) => commands.recv_timeout(rest),
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(command) => command(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.session.tend();
        }
    }

    /// Runs a transaction that only reads.
    pub(crate) fn read<T>(
        &mut self,
        mut f: impl FnMut(&mut dyn Transaction, &mut Known) -> Result<T>,
    ) -> Result<T, StoreError> {
        let (known, mut answer) = (&mut self.known, None);
        self.session.read(&mut |c| {
            answer = Some(f(c, known)?);
            Ok(())
        })?;
        answer.ok_or_else(|| self.silent())
    }

    /// Runs a transaction that writes.
    pub(crate) fn write<T>(
        &mut self,
        write: &Write<'_>,
        mut f: impl FnMut(&mut dyn Transaction, &mut Known) -> Result<Done<T>>,
    ) -> Result<T, StoreError> {
        let (known, mut answer) = (&mut self.known, None);
        self.session.write(write, &mut |c| {
            let (done, end) = match f(c, known)? {
                Done::Commit(done) => (done, End::Commit),
                Done::Rollback(done) => (done, End::Rollback),
            };
            answer = Some(done);
            Ok(end)
        })?;
        answer.ok_or_else(|| self.silent())
    }

    /// Whether batches are stored in one round trip.
    #[cfg(feature = "server")]
    pub(crate) fn saves_at_once(&self) -> bool {
        self.session.saves_at_once()
    }

    /// Stores a batch of one claim.
    #[cfg(feature = "server")]
    pub(crate) fn save(&mut self, batch: &Batch<'_>) -> Result<bool, StoreError> {
        self.refuse_doubted(batch.claim)?;
        let answer = self.session.save(batch);
        self.note_doubt(batch.claim, answer.as_ref().err());
        answer
    }

    /// Runs a transaction that writes under a claim. Once a commit under it is in doubt, nothing
    /// more is done under it: a new claim fences what may still be under way, and reads then.
    pub(crate) fn write_under<T>(
        &mut self,
        claim: &Claim,
        write: &Write<'_>,
        f: impl FnMut(&mut dyn Transaction, &mut Known) -> Result<Done<T>>,
    ) -> Result<T, StoreError> {
        self.refuse_doubted(claim)?;
        let answer = self.write(write, f);
        self.note_doubt(claim, answer.as_ref().err());
        answer
    }

    fn refuse_doubted(&self, claim: &Claim) -> Result<(), StoreError> {
        let scope = Scope::of(claim);
        match self.doubted.iter().find(|(of, ..)| *of == scope) {
            Some((_, what, lost)) => {
                let what = format!("of an earlier commit under the same claim ({what})");
                Err(StoreError::InDoubt { at: self.session.at().to_owned(), what, lost: *lost })
            }
            None => Ok(()),
        }
    }

    fn note_doubt(&mut self, claim: &Claim, error: Option<&StoreError>) {
        if let Some(StoreError::InDoubt { what, lost, .. }) = error {
            self.doubted.push((Scope::of(claim), what.clone(), *lost));
        }
    }

    /// Frees the lock of an epoch that counts no more.
    pub(crate) fn free(&mut self, scope: &Scope) {
        self.doubted.retain(|(of, ..)| of != scope);
        self.session.free(scope);
    }

    /// Frees the lock of a claim that was given up.
    pub(crate) fn let_go(&mut self, claim: &Claim) {
        self.free(&Scope::of(claim));
        let guard = claim.lock.as_ref().and_then(|lock| lock.downcast_ref::<Guard>());
        if let Some(guard) = guard {
            guard.is_free();
        }
    }

    /// Opens a connection for commands.
    #[cfg(all(unix, feature = "server"))]
    pub(crate) fn hand_down(
        &mut self,
        scope: &Scope,
    ) -> Result<Box<dyn super::Handed>, StoreError> {
        self.session.hand_down(scope)
    }

    /// What a claim holds whose lock the session keeps.
    pub(crate) fn guard(&self, scope: Scope) -> Option<Lock> {
        let link = self.link.upgrade()?;
        Some(Arc::new(Guard::new(link, scope)))
    }

    /// The error that a caller of this store sees.
    #[cfg(feature = "server")]
    pub(crate) fn name(&self, trouble: Trouble) -> StoreError {
        trouble.at(self.session.at())
    }

    fn silent(&self) -> StoreError {
        let what = "a transaction ended without an answer".to_owned();
        StoreError::Unusable { at: self.session.at().to_owned(), what }
    }
}
