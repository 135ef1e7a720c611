//! The store in one SQLite file.
//!
//! A dedicated thread owns the connection (the module `worker`); every method sends it a closure
//! and answers when that has run. The file is in WAL mode and every commit is synced before it is answered:
//! what the store says it has, it has. How a file is opened, refused or created is in `file`, its
//! tables in `schema`, how damage is noticed in `manifest`, whether owners live in `locks`.

mod claims;
mod file;
mod journal;
mod locks;
mod manifest;
mod rows;
mod saves;
mod schema;
mod snapshot;
mod state;
mod trouble;
mod worker;

use std::{
    path::{Component, Path, PathBuf},
    sync::mpsc::{self, Sender},
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
use rusqlite::Connection;

use self::{
    file::Identity,
    locks::Locks,
    trouble::{Result, Trouble},
    worker::{Command, Context, Done, Worker},
};
use crate::Mode;

/// Keeps everything in one SQLite file, which a person can read with `sqlite3` while it is used.
///
/// Several processes may use one file; each opens it for itself. The lock of a claim
/// ([`Claim::lock`]) is the open [`std::fs::File`] of its epoch.
pub struct SqliteStore {
    at: String,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the store at a path; [`Mode::Create`] makes it if there is none. A relative path is
    /// resolved against the working directory.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Foreign`],
    /// [`StoreError::Newer`], [`StoreError::Busy`] or [`StoreError::Unusable`].
    pub fn open(path: &Path, mode: Mode) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let at = path.display().to_string();
        let connection = file::open(&path, mode)?;
        // Two names of one file must find the same locks.
        let real = path.canonicalize().unwrap_or(path);
        let locks = Locks::beside(&real);
        let worker = Worker::new(at.clone(), connection, Identity::of(real), locks)?;
        let (commands, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("piton-store".into())
            .spawn(move || worker.serve(&receiver))
            .map_err(|error| Trouble::io("no thread could be started", error).at(&at))?;
        Ok(Self { at, commands: Some(commands), thread: Some(thread) })
    }

    /// Sends the thread a command and answers when it has run.
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<'_, T> {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |worker| {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(command(worker));
        });
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        Box::pin(async move {
            match receiver.await {
                Ok(result) if sent => result,
                _ => Err(StoreError::Unusable {
                    at: self.at.clone(),
                    what: "its thread has ended".to_owned(),
                }),
            }
        })
    }

    fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection, &mut Context) -> Result<T> + Send + 'static,
    ) -> Reply<'_, T> {
        self.ask(move |worker| worker.read(f))
    }

    fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Reply<'_, T> {
        self.ask(move |worker| worker.write(move |c, _| f(c).map(Done::Commit)))
    }
}

impl Drop for SqliteStore {
    /// Waits until the file is closed.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Trouble::io("its path cannot be made absolute", error).at(&path.display().to_string())
    })?;
    // Only the file system knows what `..` behind a link leads to.
    let climbs = absolute.components().any(|part| part == Component::ParentDir);
    let folder = absolute.parent().filter(|_| climbs).and_then(|f| f.canonicalize().ok());
    Ok(match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    })
}

/// Writes a snapshot as a new store file.
pub(crate) fn write_new(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    let path = absolute(path)?;
    let at = path.display().to_string();
    let taken = || StoreError::Refused {
        what: format!("there is something at {at} already: name another file"),
    };
    if path.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let placed = file::create(&path, |connection| {
        let transaction = connection.transaction()?;
        snapshot::restore(&transaction, snapshot, &at)?;
        Ok(transaction.commit()?)
    });
    if placed.map_err(|trouble| trouble.at(&at))? { Ok(()) } else { Err(taken()) }
}

impl Store for SqliteStore {
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
        self.read(move |c, context| claims::holders(c, context, &pipeline))
    }

    fn save(&self, claim: &Claim, saves: Vec<Save>, now: Timestamp) -> Reply<'_, Vec<Saved>> {
        let claim = claim.clone();
        self.ask(move |worker| saves::save(worker, &claim, &saves, now))
    }

    fn mirror(&self, claim: &Claim, checkpoints: Vec<Checkpoint>) -> Reply<'_, Saved> {
        let claim = claim.clone();
        self.ask(move |worker| saves::mirror(worker, &claim, checkpoints))
    }

    fn load(&self, pipeline: &str) -> Reply<'_, Vec<Checkpoint>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| rows::load(c, &pipeline))
    }

    fn state(&self, of: &CheckpointKey, key: Option<&str>) -> Reply<'_, Vec<StateEntry>> {
        let (of, key) = (of.clone(), key.map(str::to_owned));
        self.read(move |c, context| state::read(c, &mut context.verified, &of, key.as_deref()))
    }

    fn complete(&self, claim: &Claim, sink: Option<&str>) -> Reply<'_, Saved> {
        let (claim, sink) = (claim.clone(), sink.map(str::to_owned));
        self.ask(move |worker| saves::complete(worker, &claim, sink.as_deref()))
    }

    fn history(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Checkpoint>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| {
            let found = rows::history(c, &pipeline, limit)?;
            Ok(found.into_iter().map(|found| found.checkpoint).collect())
        })
    }

    fn thin(&self, pipeline: &str, keep: Duration, now: Timestamp) -> Reply<'_, ()> {
        let pipeline = pipeline.to_owned();
        self.write(move |c| snapshot::thin(c, &pipeline, keep, now))
    }

    fn pipelines(&self) -> Reply<'_, Vec<PipelineRecord>> {
        self.read(|c, _| journal::pipelines(c))
    }

    fn register(&self, record: PipelineRecord) -> Reply<'_, ()> {
        self.ask(move |worker| journal::register(worker, record))
    }

    fn control(&self, pipeline: &str) -> Reply<'_, Control> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| {
            Ok(journal::pipeline(c, &pipeline)?.map(|record| record.control).unwrap_or_default())
        })
    }

    fn set_control(&self, pipeline: &str, control: Control, event: Event) -> Reply<'_, ()> {
        let (pipeline, at) = (pipeline.to_owned(), self.at.clone());
        self.ask(move |worker| journal::set_control(worker, &pipeline, control, &event, &at))
    }

    fn order(&self, orders: Vec<Order>, event: Event) -> Reply<'_, ()> {
        self.ask(move |worker| saves::order(worker, orders, &event))
    }

    fn orders(&self, pipeline: &str) -> Reply<'_, Vec<Order>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| journal::orders(c, &pipeline))
    }

    fn applied(&self, claim: &Claim, orders: Vec<u64>, now: Timestamp) -> Reply<'_, ()> {
        let claim = claim.clone();
        self.ask(move |worker| journal::applied(worker, &claim, &orders, now))
    }

    fn begin_run(&self, run: Run) -> Reply<'_, u64> {
        self.write(move |c| journal::begin_run(c, &run))
    }

    fn update_run(&self, run: Run) -> Reply<'_, ()> {
        self.write(move |c| journal::update_run(c, &run))
    }

    fn runs(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Run>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| journal::runs(c, &pipeline, limit))
    }

    fn record(&self, event: Event) -> Reply<'_, ()> {
        self.write(move |c| journal::record_event(c, &event))
    }

    fn events(&self, pipeline: &str, limit: u64) -> Reply<'_, Vec<Event>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| journal::events(c, &pipeline, limit))
    }

    fn set_aside(&self, letters: Vec<DeadLetter>) -> Reply<'_, u64> {
        self.write(move |c| journal::set_aside(c, &letters))
    }

    fn dead_letters(&self, pipeline: &str) -> Reply<'_, Vec<DeadLetter>> {
        let pipeline = pipeline.to_owned();
        self.read(move |c, _| journal::dead_letters(c, &pipeline))
    }

    fn drop_letters(&self, pipeline: &str, ids: Vec<(String, String)>) -> Reply<'_, u64> {
        let pipeline = pipeline.to_owned();
        self.write(move |c| journal::drop_letters(c, &pipeline, &ids))
    }

    fn snapshot(&self) -> Reply<'_, Snapshot> {
        self.read(|c, _| snapshot::take(c))
    }

    fn restore(&self, snapshot: Snapshot) -> Reply<'_, ()> {
        let at = self.at.clone();
        self.write(move |c| snapshot::restore(c, &snapshot, &at))
    }
}
