//! A source of numbers, a plain sink that misbehaves on request, and a pipeline of them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use piton_connectors::{
    batch::{Batch, Marks, Origin, Schema, Value},
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, Sink, SinkError},
    source::{BadRecord, Read, Reader, Source, SourceError, Start},
    sqlite::{Mode, SqliteSettings, SqliteSink},
};
use piton_core::{
    Control, Owner, PipelineRecord, PositionOrder, Store, StoredPosition, interval::Policy,
    position::order_of,
};
use piton_engine::{
    Commit, OnComplete, OnError, Pipeline, RunError, RunOptions, SinkSpec, Summary,
    job::definition::OnSourceChange,
    run::{self, Figures, Signal},
    transform::Transforms,
};

/// The numbers from 0 to `count`, in one partition; those in `bad` cannot be read.
#[derive(Clone, Default)]
pub(crate) struct Numbers {
    pub(crate) count: u64,
    pub(crate) bad: Vec<u64>,
    pub(crate) endless: bool,
    pub(crate) pause: Duration,
    pub(crate) acknowledged: Arc<AtomicU64>,
    /// How often a reader was opened.
    pub(crate) readers: Arc<AtomicU32>,
}

struct NumberMarks;

fn at(n: u64) -> StoredPosition {
    StoredPosition::of(&n).unwrap()
}

impl Marks for NumberMarks {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        at(origin.mark)
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(&origin.mark.to_string());
    }

    fn place(&self, origin: Origin) -> String {
        format!("number {}", origin.mark)
    }
}

impl Source for Numbers {
    fn kind(&self) -> &'static str {
        "numbers"
    }

    fn identity(&self) -> serde_json::Value {
        serde_json::json!({ "numbers": true })
    }

    fn order(&self) -> PositionOrder {
        order_of::<u64>
    }

    fn is_bounded(&self) -> bool {
        !self.endless
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        Ok(vec!["numbers".to_owned()])
    }

    fn verify(&self, _: &Start, _: bool) -> Result<(), SourceError> {
        Ok(())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let position = starts.iter().find_map(|start| start.position.clone());
        let next = position.map_or(0, |position| position.read().unwrap());
        Ok(Box::new(NumberReader { numbers: self.clone(), next }))
    }

    fn progress(&self, _: &[Start]) -> Option<(u64, u64)> {
        None
    }

    fn acknowledge(&self, _: &str, position: &StoredPosition) {
        self.acknowledged.store(position.read().unwrap(), Ordering::Relaxed);
    }

    fn parse(&self, _: &str, raw: &str) -> Result<Batch, SourceError> {
        Err(SourceError::Failed { what: format!("'{raw}' is still bad") })
    }
}

struct NumberReader {
    numbers: Numbers,
    next: u64,
}

impl Reader for NumberReader {
    fn read(&mut self, limit: usize) -> Result<Read, SourceError> {
        std::thread::sleep(self.numbers.pause);
        if self.next >= self.numbers.count {
            std::thread::sleep(Duration::from_millis(5));
            return Ok(if self.numbers.endless { Read::Idle } else { Read::Finished });
        }
        if self.numbers.bad.contains(&self.next) {
            self.next += 1;
            return Ok(Read::Bad(BadRecord {
                partition: "numbers".to_owned(),
                id: format!("numbers@{}", self.next - 1),
                place: format!("number {}", self.next - 1),
                reason: "is bad".to_owned(),
                record: "?".to_owned(),
                end: at(self.next),
            }));
        }
        let schema = Arc::new(Schema::named(["n"]));
        let mut batch = Batch::new("numbers".into(), schema, at(self.next), Arc::new(NumberMarks));
        while batch.rows() < limit.min(100)
            && self.next < self.numbers.count
            && !self.numbers.bad.contains(&self.next)
        {
            batch.begin_row(Origin { mark: self.next, line: 0, ordinal: 0 });
            batch.push(Value::Int(self.next as i64));
            self.next += 1;
        }
        batch.records = batch.rows() as u64;
        batch.end = at(self.next);
        Ok(Read::Batch(batch))
    }
}

/// What a [`Fickle`] sink was given and how it is to behave. Survives the sink, as a server does.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) taken: Mutex<Vec<u64>>,
    /// Answers with "unavailable".
    pub(crate) down: AtomicBool,
    /// Takes this long for a write.
    pub(crate) slow_ms: AtomicU64,
    /// Fails for good.
    pub(crate) broken: AtomicBool,
    /// Refuses this number, this many times.
    pub(crate) refuses: Mutex<Option<(u64, u32)>>,
    /// A number lost between accepted and durable would be seen here: only what was promised.
    pub(crate) promised: AtomicU64,
}

impl Server {
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers = self.taken.lock().unwrap().clone();
        numbers.sort_unstable();
        numbers
    }
}

/// A plain sink that behaves as its server is told to.
struct Fickle(Arc<Server>);

impl PlainSink for Fickle {
    fn guarantee(&self) -> Guarantee {
        Guarantee { what: "at least once", why: "it is a test".to_owned() }
    }

    fn location(&self) -> String {
        "a server in this process".to_owned()
    }

    fn inspect(&mut self, _: &Resume) -> Result<(), SinkError> {
        Ok(())
    }

    fn present(&mut self) -> Result<Durable, SinkError> {
        Ok(Durable { state: None })
    }

    fn open(&mut self, _: &Resume) -> Result<Durable, SinkError> {
        self.present()
    }

    fn write(
        &mut self,
        batch: &Batch,
        rows: std::ops::Range<usize>,
    ) -> Result<Accepted, SinkError> {
        let server = &self.0;
        std::thread::sleep(Duration::from_millis(server.slow_ms.load(Ordering::Relaxed)));
        if server.down.load(Ordering::Relaxed) {
            return Err(SinkError::Unavailable { what: "the server is down".to_owned() });
        }
        if server.broken.load(Ordering::Relaxed) {
            return Err(SinkError::Failed { what: "the server is broken".to_owned() });
        }
        let mut accepted = Accepted { rows: 0 };
        for row in rows {
            let Value::Int(n) = batch.get(row, 0) else { panic!("not a number") };
            if let Some((bad, times)) = server.refuses.lock().unwrap().as_mut()
                && *bad == n as u64
                && *times > 0
            {
                *times -= 1;
                return Err(SinkError::BadRow { row, reason: format!("{n} is refused") });
            }
            server.taken.lock().unwrap().push(n as u64);
            accepted.rows += 1;
        }
        Ok(accepted)
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        self.0.promised.fetch_add(1, Ordering::Relaxed);
        Ok(Promise::kept(Durable { state: None }))
    }
}

/// A sink that speaks to a server.
pub(crate) fn fickle(name: &str, required: bool, server: &Arc<Server>) -> SinkSpec {
    let server = Arc::clone(server);
    SinkSpec {
        name: name.to_owned(),
        required,
        at: name.to_owned(),
        key: Vec::new(),
        shares: false,
        make: Box::new(move || Ok(Sink::Plain(Box::new(Fickle(Arc::clone(&server)))))),
    }
}

/// A `SQLite` sink in a folder.
pub(crate) fn sqlite(name: &str, folder: &Path) -> SinkSpec {
    let folder = folder.to_owned();
    SinkSpec {
        name: name.to_owned(),
        required: true,
        at: name.to_owned(),
        key: Vec::new(),
        shares: false,
        make: Box::new(move || {
            let settings = SqliteSettings {
                path: "out.db".into(),
                table: "numbers".to_owned(),
                mode: Some(Mode::Append),
                key: Vec::new(),
                create: true,
            };
            let sink = SqliteSink::new(&settings, &folder, Duration::from_secs(2))?;
            Ok(Sink::Transactional(Box::new(sink)))
        }),
    }
}

/// A pipeline from numbers to sinks, saved often.
pub(crate) fn pipeline(numbers: &Numbers, sinks: Vec<SinkSpec>) -> Pipeline {
    Pipeline {
        name: "p".to_owned(),
        source: Arc::new(numbers.clone()),
        strict: None,
        on_source_change: OnSourceChange::Fail,
        max_age: None,
        source_at: "numbers".to_owned(),
        transforms_at: "no transforms".to_owned(),
        transforms: Box::new(|| Transforms::new(&[], true, 1 << 20)),
        sinks,
        commit: Commit::Required,
        interval: Policy::Fixed { every: Some(Duration::from_millis(50)), records: Some(500) },
        lease: Duration::from_secs(2),
        wait_when_held: false,
        on_error: OnError::Stop,
        on_complete: OnComplete::Keep,
        rate: None,
        memory_bytes: 1 << 28,
        record_bytes: 1 << 24,
        keep_history: Duration::from_hours(1),
        parent: None,
        record: PipelineRecord {
            pipeline: "p".to_owned(),
            source: "numbers".to_owned(),
            transforms: "[]".to_owned(),
            sinks: "[]".to_owned(),
            control: Control::Run,
            file: None,
        },
    }
}

pub(crate) fn options() -> RunOptions {
    RunOptions::plain(Owner { host: "test".to_owned(), pid: 1 })
}

pub(crate) fn run(pipeline: &Pipeline, store: &Arc<dyn Store>) -> Result<Summary, RunError> {
    run_until(pipeline, store, &Signal::default())
}

pub(crate) fn run_until(
    pipeline: &Pipeline,
    store: &Arc<dyn Store>,
    signal: &Signal,
) -> Result<Summary, RunError> {
    let figures = Figures::new(pipeline.sinks.iter().map(|sink| sink.name.as_str()));
    run::run(pipeline, store, &options(), signal, &figures)
}

/// Waits for something that other threads bring about.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
