//! The interval: what a run takes, how often it commits, and what a crash costs, for fixed numbers
//! of records and for the adaptive interval.
//!
//! The sink is transactional, so the interval is the transaction. The expensive record costs what
//! a trigger of the table computes. What a crash costs is not reckoned but seen: the program is
//! killed at random moments and resumed, and what it had taken when it died is compared with the
//! checkpoint in the sink's database. A batch that the sink was taking counts half in the mean, and
//! whole in what was replayed at most. After each kill the table must have exactly the rows that
//! the checkpoint speaks of.

use std::{path::Path, thread, time::Duration};

use rusqlite::Connection;

use super::{
    Promise, data, judge,
    killed::Doomed,
    measure::{median, range},
    pipeline::{Ended, Pipeline},
    table,
};
use crate::command::Failure;

/// How often the run of each setting is killed.
const CRASHES: usize = 9;
/// How often it is run to its end.
const RUNS: usize = 3;
/// The most work that a crash may cost at the adaptive interval: the default of `max_replay`.
const MAX_REPLAY: Duration = Duration::from_secs(10);

/// What a record costs.
struct Work {
    name: &'static str,
    /// What the table's trigger counts to for each record.
    steps: u32,
    /// Records of a run to its end, where each is committed by itself, and else.
    records: [usize; 2],
    /// Kills fall within so much time after the first records.
    within: Duration,
}

const WORKS: &[Work] = &[
    Work { name: "cheap", steps: 0, records: [5_000, 600_000], within: Duration::from_secs(2) },
    Work {
        name: "expensive",
        steps: 2_000,
        records: [5_000, 20_000],
        within: Duration::from_secs(4),
    },
];

/// Records between commits; `None` is the adaptive interval.
const SETTINGS: &[Option<u64>] = &[Some(1), Some(500), Some(1_000), Some(10_000), None];

/// Enough for any run to be killed in.
const PLENTY: usize = 2_400_000;

pub(super) fn run() -> Result<Promise, Failure> {
    let mut table = Vec::new();
    let mut broken = Vec::new();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for work in WORKS {
        for setting in SETTINGS {
            let found = measure(work, *setting, &mut dice)?;
            let named = setting.map_or("adaptive".to_owned(), |records| records.to_string());
            let most = setting.map_or(found.records_in(MAX_REPLAY), |records| records as f64);
            if found.replayed_at_most > most {
                broken.push(format!("{} {named}: {}", work.name, found.replayed_at_most));
            }
            table.push([vec![work.name.to_owned(), named], found.cells()].concat());
        }
    }
    table::print(HEADER, &table);
    let promise = "a crash repeats at most one interval, and the table has nothing twice";
    let found = if broken.is_empty() { "so it is".to_owned() } else { broken.join(", ") };
    Ok(judge(promise, &found, broken.is_empty()))
}

/// What was found of one setting.
struct Found {
    records: usize,
    ended: Ended,
    replayed: f64,
    replayed_at_most: f64,
}

const HEADER: &[&str] = &[
    "record",
    "interval",
    "records",
    "seconds",
    "µs/record",
    "commits",
    "replayed per crash",
    "at most",
    "ms lost per crash",
];

impl Found {
    fn seconds_each(&self) -> f64 {
        self.ended.seconds / self.records as f64
    }

    fn records_in(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.seconds_each()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.records.to_string(),
            format!("{:.2}", self.ended.seconds),
            format!("{:.1}", self.seconds_each() * 1e6),
            self.ended.checkpoints.to_string(),
            format!("{:.0}", self.replayed),
            format!("{:.0}", self.replayed_at_most),
            format!("{:.0}", self.replayed * self.seconds_each() * 1e3),
        ]
    }
}

fn measure(work: &Work, setting: Option<u64>, dice: &mut Dice) -> Result<Found, Failure> {
    let (records, ended) = to_the_end(work, setting)?;
    let crashes = crashes(work, setting, dice)?;
    let sum: f64 = crashes.iter().map(|(taken, taking)| taken + taking / 2.0).sum();
    let (_, replayed_at_most) = range(crashes.iter().map(|(taken, taking)| taken + taking));
    Ok(Found { records, ended, replayed: sum / crashes.len() as f64, replayed_at_most })
}

fn pipeline(setting: Option<u64>, records: usize) -> Result<Pipeline, Failure> {
    let input = data::flights(records)?;
    let sink = "sqlite: {path: interval.db, table: flights, key: [id]}";
    let checkpoint = setting.map_or(String::new(), |n| format!("checkpoint: {{records: {n}}}"));
    Pipeline::prepare("interval", &input, sink, "interval.db", &checkpoint)
}

/// The run of median length among some.
fn to_the_end(work: &Work, setting: Option<u64>) -> Result<(usize, Ended), Failure> {
    let records = work.records[usize::from(setting != Some(1))];
    let pipeline = pipeline(setting, records)?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        begin_anew(&pipeline, work)?;
        runs.push(pipeline.run_and_hear()?.1);
    }
    let middle = median(runs.iter().map(|run| run.seconds));
    let run = runs.into_iter().find(|run| run.seconds >= middle);
    run.map(|run| (records, run)).ok_or_else(|| Failure::Found("no run was measured".to_owned()))
}

/// How many records each of some crashes made to be read again: those that were taken, and those
/// of the batch that was being taken.
fn crashes(work: &Work, setting: Option<u64>, dice: &mut Dice) -> Result<Vec<(f64, f64)>, Failure> {
    let pipeline = pipeline(setting, PLENTY)?;
    let mut replayed = Vec::new();
    begin_anew(&pipeline, work)?;
    let mut saved = 0;
    while replayed.len() < CRASHES {
        let mut run = Doomed::start(&pipeline)?;
        if run.wait_for(1)? {
            thread::sleep(dice.up_to(work.within));
        }
        let Some(did) = run.kill()? else {
            // The file has been read to its end.
            begin_anew(&pipeline, work)?;
            saved = 0;
            continue;
        };
        let before = saved;
        saved = checkpoint(pipeline.output())?;
        let taken = (before + did.taken).saturating_sub(saved);
        replayed.push((taken as f64, did.taking as f64));
    }
    Ok(replayed)
}

/// The records that the checkpoint in the sink's database covers; the table must have as many.
fn checkpoint(path: &Path) -> Result<u64, Failure> {
    let query = "SELECT records, (SELECT count(*) FROM flights) FROM piton_checkpoints";
    let read = |db: Connection| db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (records, rows): (i64, i64) = Connection::open(path).and_then(read).map_err(|e| sql(&e))?;
    if rows == records {
        return Ok(records as u64);
    }
    Err(Failure::Found(format!("after a crash there are {rows} rows, and {records} are covered")))
}

/// Removes what earlier runs have left and makes the table, with its trigger.
fn begin_anew(pipeline: &Pipeline, work: &Work) -> Result<(), Failure> {
    pipeline.forget()?;
    let header = data::header()?;
    let columns = header.replace("id,", "id INTEGER PRIMARY KEY,");
    let mut create = format!("PRAGMA journal_mode = wal; CREATE TABLE flights ({columns});");
    if work.steps > 0 {
        create += &format!(
            "CREATE TRIGGER work BEFORE INSERT ON flights BEGIN SELECT ( \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
             SELECT sum(i) FROM n); END;",
            work.steps
        );
    }
    Connection::open(pipeline.output())
        .and_then(|db| db.execute_batch(&create))
        .map_err(|e| sql(&e))
}

fn sql(error: &rusqlite::Error) -> Failure {
    Failure::Found(format!("the sink's database: {error}"))
}

/// Chance with a seed: xorshift.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        most.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
