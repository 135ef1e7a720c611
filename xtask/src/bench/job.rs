//! Jobs: many small steps beside as many bare commits, a step for each of many parents, and a
//! migration of related tables beside the same copy written by hand.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::{Job, JobError};
use piton_core::{
    CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Epoch, Owner, Save, Store, StoreError,
    StoredPosition, claim::WHOLE, position::order_of,
};
use rusqlite::Connection;

use super::{
    Promise, data, judge,
    measure::{Measured, alternate, median, run as measure},
    pipeline, table,
};
use crate::command::Failure;

const STEPS: usize = 10_000;
/// The most time of as many bare commits.
const COMMITS: f64 = 1.3;
const RESUMED: Duration = Duration::from_secs(1);

const PARENTS: u32 = 100_000;
const CPU_OF_A_PARENT: Duration = Duration::from_micros(50);

/// Parents, children of each, children of each of those.
const SIZE: (u32, u32, u32) = (2_000, 5, 4);
const PAIRS: usize = 3;
/// The least share of the rate of the copy written by hand.
const COPIED: f64 = 0.8;

pub(super) fn run() -> Result<Promise, Failure> {
    let small = small_steps()?;
    let parents = parents()?;
    Ok(small.and(parents).and(migration()?))
}

fn found(error: &dyn std::fmt::Display) -> Failure {
    Failure::Found(error.to_string())
}

fn small_steps() -> Result<Promise, Failure> {
    let folder = data::folder()?;
    let path = folder.join("job.piton.db");
    let open = || {
        let url = format!("sqlite:{}", path.display());
        piton::open(&url).map_err(|error| found(&error))
    };
    let bare = || {
        data::remove(&path)?;
        let store = open()?;
        let began = Instant::now();
        commits(&*store).map_err(|error| found(&error))?;
        Ok(began.elapsed())
    };
    let steps = || {
        data::remove(&path)?;
        let store = open()?;
        let began = Instant::now();
        let mut job = Job::open(&store, "small").map_err(|error| found(&error))?;
        all_steps(&mut job, STEPS - 1).map_err(|error| found(&error))?;
        job.stop().map_err(|error| found(&error))?;
        Ok(began.elapsed())
    };
    let pairs = alternate(PAIRS, bare, steps)?;
    let ratio = median(pairs.iter().map(|(bare, steps)| steps.div_duration_f64(*bare)));
    let store = open()?;
    let began = Instant::now();
    let mut job = Job::open(&store, "small").map_err(|error| found(&error))?;
    all_steps(&mut job, STEPS).map_err(|error| found(&error))?;
    let resumed = began.elapsed();
    job.finish().map_err(|error| found(&error))?;
    let seconds = |of: fn(&(Duration, Duration)) -> Duration| {
        format!("{:.2}", median(pairs.iter().map(|pair| of(pair).as_secs_f64())))
    };
    table::print(
        &["10,000 small steps", "s"],
        &[
            vec!["bare commits".to_owned(), seconds(|pair| pair.0)],
            vec!["Job".to_owned(), seconds(|pair| pair.1)],
            vec!["resumed, 9,999 done".to_owned(), format!("{:.2}", resumed.as_secs_f64())],
        ],
    );
    let promise = format!("at most {COMMITS} times the bare commits, resumed in under 1 s");
    let told = format!("{ratio:.2} times, {:.2} s", resumed.as_secs_f64());
    Ok(judge(&promise, &told, ratio <= COMMITS && resumed < RESUMED))
}

fn all_steps(job: &mut Job, steps: usize) -> Result<(), JobError> {
    for n in 0..steps {
        job.step(&n.to_string(), |_| Ok(()))?;
    }
    Ok(())
}

/// As many saves of one checkpoint.
fn commits(store: &dyn Store) -> Result<(), StoreError> {
    let owner = Owner { host: "bench".to_owned(), pid: std::process::id() };
    let request = ClaimRequest {
        pipeline: "bare".to_owned(),
        partition: WHOLE.to_owned(),
        owner,
        lease: Duration::from_mins(1),
        at_least: Epoch(0),
        silent: None,
        now: Timestamp::now(),
    };
    let ClaimAnswer::Granted { claim, .. } = block_on(store.claim(request))? else {
        return Ok(());
    };
    let mut before: Option<StoredPosition> = None;
    for n in 0..STEPS as u64 {
        before = Some(commit(store, &claim, n, before)?);
    }
    block_on(store.release(&claim))
}

fn commit(
    store: &dyn Store,
    claim: &Claim,
    version: u64,
    expected: Option<StoredPosition>,
) -> Result<StoredPosition, StoreError> {
    let position = StoredPosition::of(&version)?;
    let save = Save {
        key: CheckpointKey::new("bare", "main", "main"),
        expected_version: version,
        expected,
        position: Some(position.clone()),
        order: order_of::<u64>,
        records: version,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    let _ = block_on(store.save(claim, vec![save], Timestamp::now()))?;
    Ok(position)
}

/// A job's file in the benchmarks' folder.
struct JobFile {
    file: PathBuf,
    written: Vec<PathBuf>,
}

impl JobFile {
    fn new(name: &str, text: &str, written: &[&str]) -> Result<Self, Failure> {
        let folder = data::folder()?;
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text).map_err(Failure::at(&file))?;
        Ok(Self { file, written: written.iter().map(|name| folder.join(name)).collect() })
    }

    fn run(&self) -> Result<Measured, Failure> {
        self.written.iter().try_for_each(|path| data::remove(path))?;
        measure(Command::new(pipeline::build()?).arg("run").arg(&self.file))
    }
}

fn sql(path: &Path, statements: &str) -> Result<(), Failure> {
    let failed = |error: rusqlite::Error| found(&error);
    let db = Connection::open(path).map_err(failed)?;
    db.execute_batch(statements).map_err(failed)
}

fn parents() -> Result<Promise, Failure> {
    let source = data::folder()?.join("parents.db");
    data::remove(&source)?;
    sql(
        &source,
        &format!(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER);
             CREATE INDEX by_parent ON child (parent);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PARENTS})
             INSERT INTO parent SELECT i, 'parent ' || i FROM n;
             INSERT INTO child SELECT id, id FROM parent"
        ),
    )?;
    let job = JobFile::new(
        "parents",
        "job: parents
store: sqlite:parents.piton.db
steps:
  - step: each
    for_each: {source: {sql: {url: 'sqlite:parents.db', table: parent, key: [id]}}, as: parent}
    steps:
      - step: one
        sql: {url: 'sqlite:parents.out.db', statement: 'INSERT INTO t VALUES (${parent.id}, ${parent.name})'}
",
        &["parents.piton.db"],
    )?;
    let out = data::folder()?.join("parents.out.db");
    data::remove(&out)?;
    sql(&out, "PRAGMA journal_mode = wal; CREATE TABLE t (id INTEGER, name TEXT)")?;
    let measured = job.run()?;
    let each = measured.cpu / PARENTS;
    table::print(
        &["100,000 parents, a statement for each", "s", "CPU, s", "CPU a parent, µs"],
        &[vec![
            "for_each".to_owned(),
            format!("{:.2}", measured.wall.as_secs_f64()),
            format!("{:.2}", measured.cpu.as_secs_f64()),
            format!("{:.1}", each.as_secs_f64() * 1e6),
        ]],
    );
    let told = format!("{:.1} µs", each.as_secs_f64() * 1e6);
    Ok(judge("at most 50 µs of CPU a parent", &told, each <= CPU_OF_A_PARENT))
}

const TABLES: [(&str, &str); 6] = [
    ("customer", ""),
    ("invoice", "customer"),
    ("invoice_line", "invoice"),
    ("supplier", ""),
    ("purchase_order", "supplier"),
    ("order_line", "purchase_order"),
];

fn tables() -> String {
    let table = |(table, parent): (&str, &str)| {
        let parent = match parent {
            "" => String::new(),
            parent => format!(", parent INTEGER NOT NULL REFERENCES {parent} (id)"),
        };
        format!(
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY{parent}, name TEXT NOT NULL, amount TEXT);"
        )
    };
    TABLES.map(table).concat()
}

fn migration() -> Result<Promise, Failure> {
    let folder = data::folder()?;
    let (source, target) = (folder.join("crm.db"), folder.join("crm.out.db"));
    data::remove(&source)?;
    let (a, b, c) = SIZE;
    let fill = |(n, (table, parent)): (usize, (&str, &str))| {
        let (rows, parents) = [(a, 0), (a * b, a), (a * b * c, a * b)][n % 3];
        let parent = if parent.is_empty() { String::new() } else { format!("i % {parents} + 1, ") };
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO {table} SELECT i, {parent}'name of ' || i, '12.50' FROM n;"
        )
    };
    let filled: String = TABLES.into_iter().enumerate().map(fill).collect();
    sql(&source, &(tables() + &filled))?;
    let step = |(table, _): (&str, &str)| {
        format!(
            "  - step: {table}\n    source: {{sql: {{url: 'sqlite:crm.db', table: {table}, key: [id]}}}}\n    \
             sinks: {{target: {{sqlite: {{path: crm.out.db, table: {table}, key: [id]}}}}}}\n"
        )
    };
    let text =
        format!("job: crm\nstore: sqlite:crm.piton.db\nsteps:\n{}", TABLES.map(step).concat());
    let job = JobFile::new("crm", &text, &["crm.piton.db"])?;
    let empty = || {
        data::remove(&target)?;
        sql(&target, &format!("PRAGMA journal_mode = wal; {}", tables()))
    };
    let by_hand = || {
        empty()?;
        let began = Instant::now();
        copy(&source, &target).map_err(|error| found(&error))?;
        Ok(began.elapsed())
    };
    let ours = || {
        empty()?;
        Ok(job.run()?.wall)
    };
    let pairs = alternate(PAIRS, by_hand, ours)?;
    let share = median(pairs.iter().map(|(hand, ours)| hand.div_duration_f64(*ours)));
    let seconds = |of: fn(&(Duration, Duration)) -> Duration| {
        format!("{:.2}", median(pairs.iter().map(|pair| of(pair).as_secs_f64())))
    };
    table::print(
        &["six related tables", "s"],
        &[
            vec!["written by hand".to_owned(), seconds(|pair| pair.0)],
            vec!["piton run".to_owned(), seconds(|pair| pair.1)],
        ],
    );
    let promise = format!("at least {COPIED} of the copy written by hand");
    Ok(judge(&promise, &format!("{share:.2}"), share >= COPIED))
}

/// What one would write: upserts in transactions of 1,000 rows, parents first, no checkpoints.
fn copy(source: &Path, target: &Path) -> Result<(), rusqlite::Error> {
    let source = Connection::open(source)?;
    let mut target = Connection::open(target)?;
    target.pragma_update(None, "synchronous", "full")?;
    for (table, parent) in TABLES {
        let (columns, marks) = match parent {
            "" => ("id, name, amount", "?1, ?2, ?3"),
            _ => ("id, parent, name, amount", "?1, ?2, ?3, ?4"),
        };
        let width = marks.split(", ").count();
        let set = columns.split(", ").map(|column| format!("{column} = excluded.{column}"));
        let set = set.collect::<Vec<_>>().join(", ");
        let upsert = format!(
            "INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {set}"
        );
        let mut rows = source.prepare(&format!("SELECT {columns} FROM {table} ORDER BY id"))?;
        let mut rows = rows.query([])?;
        let mut more = true;
        while more {
            let transaction = target.transaction()?;
            let mut statement = transaction.prepare_cached(&upsert)?;
            for _ in 0..1000 {
                let Some(row) = rows.next()? else {
                    more = false;
                    break;
                };
                for column in 0..width {
                    let value: rusqlite::types::Value = row.get(column)?;
                    statement.raw_bind_parameter(column + 1, value)?;
                }
                statement.raw_execute()?;
            }
            drop(statement);
            transaction.commit()?;
        }
    }
    Ok(())
}
