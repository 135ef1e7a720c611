//! The store, for whoever uses it: every method sends the thread a command and answers when that
//! has run.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_channel::oneshot;
use jiff::Timestamp;
use piton_core::{
    Checkpoint, CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Control, DeadLetter, Event,
    Holder, Order, PipelineRecord, Reply, Run, Save, Saved, Snapshot, StateEntry, Store,
    StoreError,
};

use super::{
    Scope, Session, Transaction, Write, claims, definitions, letters, orders, rows, runs, saves,
    snapshot, state,
    trouble::{Result, Trouble},
    worker::{Command, Done, Worker},
};

/// A store in a SQL database, used by a thread of its own.
///
/// Several processes may use one store; each opens it for itself.
pub struct SqlStore {
    at: String,
    link: Arc<Link>,
}

/// The way to the thread, which ends when nobody has it any more.
pub(crate) struct Link {
    commands: Option<Sender<Command>>,
    thread: OnceLock<JoinHandle<()>>,
}

impl Drop for Link {
    /// Waits until the connection is closed.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            // An answer that nobody waits for is dropped by the thread itself.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Link {
    fn send(&self, command: Command) -> bool {
        self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok())
    }

    fn is_of_this_thread(&self) -> bool {
        self.thread.get().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

/// How long a claim that is dropped waits for its lock to be free.
const FREED: Duration = Duration::from_secs(1);

/// A claim's part in a lock that the session keeps: dropping it frees the lock.
pub(crate) struct Guard {
    link: Arc<Link>,
    scope: Scope,
    is_free: AtomicBool,
    #[cfg(all(unix, feature = "server"))]
    pub(super) handed: std::sync::Mutex<super::handed::Slot>,
}

impl Guard {
    pub(crate) fn new(link: Arc<Link>, scope: Scope) -> Self {
        Self {
            link,
            scope,
            is_free: AtomicBool::new(false),
            #[cfg(all(unix, feature = "server"))]
            handed: std::sync::Mutex::default(),
        }
    }

    /// A connection for commands that holds the lock, too.
    #[cfg(all(unix, feature = "server"))]
    pub(super) fn hand_down(&self) -> Result<Box<dyn super::Handed>, StoreError> {
        let (sender, receiver) = mpsc::channel();
        let scope = self.scope.clone();
        let sent = self.link.send(Box::new(move |worker| {
            let _ = sender.send(worker.hand_down(&scope));
        }));
        let answer = if sent { receiver.recv().ok() } else { None };
        answer.unwrap_or_else(|| Err(ended("the store")))
    }

    #[cfg(all(unix, feature = "server"))]
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Notes that the lock is free already.
    pub(crate) fn is_free(&self) {
        self.is_free.store(true, Ordering::Relaxed);
    }
}

impl Drop for Guard {
    /// Waits, for a moment at most, until the lock is free: whoever dropped the claim may tell
    /// somebody else to take it.
    fn drop(&mut self) {
        if self.is_free.load(Ordering::Relaxed) {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        let scope = self.scope.clone();
        let sent = self.link.send(Box::new(move |worker| {
            worker.free(&scope);
            let _ = sender.send(());
        }));
        if sent && !self.link.is_of_this_thread() {
            let _ = receiver.recv_timeout(FREED);
        }
    }
}

impl SqlStore {
    /// Starts the thread of a store, which opens its session and answers when it has.
    pub(crate) fn start(
        at: String,
        open: impl FnOnce() -> Result<Box<dyn Session>, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (sender, commands) = mpsc::channel();
        let (opened, answer) = mpsc::channel();
        let link = Arc::new(Link { commands: Some(sender), thread: OnceLock::new() });
        let worker = Arc::downgrade(&link);
        let serve = move || match open() {
            Ok(session) => {
                let _ = opened.send(Ok(()));
                Worker::new(session, worker).serve(&commands);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        };
        let thread = thread::Builder::new()
            .name("piton-store".into())
            .spawn(serve)
            .map_err(|error| Trouble::io("no thread could be started", error).at(&at))?;
        let _ = link.thread.set(thread);
        answer.recv().unwrap_or_else(|_| Err(ended(&at)))?;
        Ok(Self { at, link })
    }

    /// Sends the thread a command and answers when it has run.
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<'_, T> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.link.send(Box::new(move |worker| {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(command(worker));
        }));
        Box::pin(async move {
            match receiver.await {
                Ok(result) if sent => result,
                _ => Err(ended(&self.at)),
            }
        })
    }

    fn read<T: Send + 'static>(
        &self,
        mut f: impl FnMut(&mut dyn Transaction) -> Result<T> + Send + 'static,
    ) -> Reply<'_, T> {
        self.ask(move |worker| worker.read(|c, _| f(c)))
    }

    /// Runs a transaction of one pipeline; `again`: doing it twice is as good as once.
    fn write<T: Send + 'static>(
        &self,
        pipeline: &str,
        again: bool,
        mut f: impl FnMut(&mut dyn Transaction) -> Result<T> + Send + 'static,
    ) -> Reply<'_, T> {
        let pipeline = pipeline.to_owned();
        self.ask(move |worker| {
            let write = Write { again, ..Write::of(&pipeline) };
            worker.write(&write, |c, _| f(c).map(Done::Commit))
        })
    }
}

fn ended(at: &str) -> StoreError {
    StoreError::Unusable { at: at.to_owned(), what: "its thread has ended".to_owned() }
}

impl Store for SqlStore {
    fn location(&self) -> String {
        self.at.clone()
    }

    fn claim(&self, request: ClaimRequest) -> Reply<'_, ClaimAnswer> {
        self.ask(move |worker| claims::claim(worker, &request))
    }

    fn renew(&self, claim: &Claim) -> Reply<'_, Saved> {
        let claim = claim.clone();
        self.ask(move |worker| claims::renew(worker, &claim))
    }

    fn release(&self, claim: &Claim) -> Reply<'_, ()> {
        let claim = claim.clone();
        self.ask(move |worker| claims::release(worker, &claim))
    }

    fn holders(&self, pipeline: &str) -> Reply<'_, Vec<Holder>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| claims::holders(c, &pipeline))
    }

    fn save(&self, claim: &Claim, saves: Vec<Save>, now: Timestamp) -> Reply<'_, Vec<Saved>> {
        let claim = claim.clone();
        self.ask(move |worker| saves::save(worker, &claim, &saves, now))
    }

    fn mirror(&self, claim: &Claim, checkpoints: Vec<Checkpoint>) -> Reply<'_, Saved> {
        let claim = claim.clone();
        self.ask(move |worker| saves::mirror(worker, &claim, &checkpoints))
    }

    fn load(&self, pipeline: &str) -> Reply<'_, Vec<Checkpoint>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| rows::load(c, &pipeline))
    }

    fn state(&self, of: &CheckpointKey, key: Option<&str>) -> Reply<'_, Vec<StateEntry>> {
        let (of, key) = (of.clone(), key.map(str::to_owned));
        self.ask(move |worker| {
            worker.read(|c, known| state::read(c, &mut known.verified, &of, key.as_deref()))
        })
    }

    fn complete(&self, claim: &Claim, sink: Option<&str>) -> Reply<'_, Saved> {
        let (claim, sink) = (claim.clone(), sink.map(str::to_owned));
        self.ask(move |worker| saves::complete(worker, &claim, sink.as_deref()))
    }

    fn history(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Checkpoint>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| {
            let found = rows::history(c, &pipeline, limit)?;
            Ok(found.into_iter().map(|(_, checkpoint)| checkpoint).collect())
        })
    }

    fn thin(&self, pipeline: &str, keep: Duration, now: Timestamp) -> Reply<'_, ()> {
        let name = pipeline.to_owned();
        self.write(pipeline, true, move |c| snapshot::thin(c, &name, keep, now))
    }

    fn pipelines(&self) -> Reply<'_, Vec<PipelineRecord>> {
        self.read(|c| definitions::all(c))
    }

    fn register(&self, record: PipelineRecord) -> Reply<'_, ()> {
        let name = record.pipeline.clone();
        self.write(&name, true, move |c| definitions::register(c, &record))
    }

    fn control(&self, pipeline: &str) -> Reply<'_, Control> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| {
            let record = definitions::find(c, &pipeline)?;
            Ok(record.map(|record| record.control).unwrap_or_default())
        })
    }

    fn set_control(&self, pipeline: &str, control: Control, event: Event) -> Reply<'_, ()> {
        let (name, at) = (pipeline.to_owned(), self.at.clone());
        self.write(pipeline, false, move |c| {
            definitions::set_control(c, &name, control, &event, &at)
        })
    }

    fn order(&self, orders: Vec<Order>, event: Event) -> Reply<'_, ()> {
        self.ask(move |worker| orders::order(worker, &orders, &event))
    }

    fn orders(&self, pipeline: &str) -> Reply<'_, Vec<Order>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| orders::pending(c, &pipeline))
    }

    fn applied(&self, claim: &Claim, orders: Vec<u64>, now: Timestamp) -> Reply<'_, ()> {
        let claim = claim.clone();
        self.ask(move |worker| orders::applied(worker, &claim, &orders, now))
    }

    fn begin_run(&self, run: Run) -> Reply<'_, u64> {
        let name = run.pipeline.clone();
        self.write(&name, false, move |c| runs::begin(c, &run))
    }

    fn update_run(&self, run: Run) -> Reply<'_, ()> {
        let name = run.pipeline.clone();
        self.write(&name, true, move |c| runs::update(c, &run))
    }

    fn runs(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Run>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| runs::all(c, &pipeline, limit))
    }

    fn record(&self, event: Event) -> Reply<'_, ()> {
        let name = event.pipeline.clone();
        // Better an event that is told twice than one that is not told.
        self.write(&name, true, move |c| runs::record(c, &event))
    }

    fn events(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Event>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| runs::events(c, &pipeline, limit))
    }

    fn set_aside(&self, letters: Vec<DeadLetter>) -> Reply<'_, u64> {
        self.ask(move |worker| letters::set_aside(worker, &letters))
    }

    fn dead_letters(&self, pipeline: &str) -> Reply<'_, Vec<DeadLetter>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c| letters::all(c, &pipeline))
    }

    fn drop_letters(&self, pipeline: &str, ids: Vec<(String, String)>) -> Reply<'_, u64> {
        let name = pipeline.to_owned();
        self.write(pipeline, true, move |c| letters::drop_all(c, &name, &ids))
    }

    fn snapshot(&self) -> Reply<'_, Snapshot> {
        self.read(|c| snapshot::take(c))
    }

    fn restore(&self, snapshot: Snapshot) -> Reply<'_, ()> {
        let at = self.at.clone();
        self.ask(move |worker| {
            let write = Write::of_all(snapshot::names_in(&snapshot));
            worker.write(&write, |c, _| snapshot::restore(c, &snapshot, &at).map(Done::Commit))
        })
    }
}
