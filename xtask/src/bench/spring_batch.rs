//! CSV to PostgreSQL beside Spring Batch 6: the same rows into the same table, each side keeping
//! its place in the transaction of its rows.
//!
//! Spring Batch is judged by its step alone, without the start of the JVM and of Spring, by the
//! clock and by the processor; Piton by its whole process.

mod program;
mod recovery;

use std::cell::{Cell, OnceCell};

use postgres::{Client, NoTls};

use self::{
    program::{Loaded, Program},
    recovery::{Again, kill_and_start_again},
};
use super::{
    Promise,
    csv_postgres::{Database, server},
    data, judge,
    measure::{Measured, alternate, median},
    pipeline::Pipeline,
    table,
};
use crate::command::Failure;

const ROWS: usize = 600_000;
const PAIRS: usize = 3;
/// Times its rate in the same chunks, and with the interval left to Piton.
const SAME_CHUNKS: f64 = 2.2;
const OWN_INTERVAL: f64 = 4.0;
/// The most of its processor time and of its memory.
const SHARE: f64 = 0.2;
/// What Piton is told to commit after: as many rows as a chunk has there.
const CHUNK: &str = "checkpoint: {records: 1000}";

/// One of Spring Batch, one of Piton in the same chunks, one with the interval left to it.
type Pair = (Loaded, (Measured, Measured));

pub(super) fn run() -> Result<Promise, Failure> {
    let input = data::flights(ROWS)?;
    let (server, url) = server()?;
    let spring = Program::prepare(&url, &input)?;
    let file = input.file_name().unwrap_or_default().to_string_lossy();
    let source = format!("csv: {{path: {file}, \"null\": NA}}");
    let sink = format!("postgres: {{url: '{url}', table: target, create: false, mode: append}}");
    let pipeline = |name, checkpoint| Pipeline::reading(name, &source, &sink, "none", checkpoint);
    let chunks = pipeline("spring-batch-chunks", CHUNK)?;
    let own = pipeline("spring-batch-own", "")?;
    let target = Target::new(url.clone());
    let instances = Cell::new(0);
    let pairs = alternate(
        PAIRS,
        || {
            instances.set(instances.get() + 1);
            target.filled(|| spring.run(&format!("run {}", instances.get())))
        },
        || Ok((target.filled(|| chunks.run())?, target.filled(|| own.run())?)),
    )?;
    let speed = compare(&pairs);
    let spring = kill_and_start_again(&target, spring.command("killed"))?;
    chunks.forget()?;
    let piton = kill_and_start_again(&target, chunks.command())?;
    drop(server);
    Ok(speed.and(recovered(&spring, &piton)))
}

fn found(error: &dyn std::fmt::Display) -> Failure {
    Failure::Found(error.to_string())
}

/// The table that both fill.
struct Target {
    database: Database,
    /// What is in it after a run that nothing disturbed.
    whole: OnceCell<String>,
}

impl Target {
    fn new(url: String) -> Self {
        Self { database: Database { url, constraint: "" }, whole: OnceCell::new() }
    }

    fn empty(&self) -> Result<(), Failure> {
        self.database.empty()
    }

    /// Has the empty table filled, and makes sure that it has every row.
    fn filled<T>(&self, fill: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.empty()?;
        let filled = fill()?;
        let rows = self.rows()?;
        if rows == ROWS && self.is_exact()? {
            return Ok(filled);
        }
        Err(found(&format!("the table has {rows} rows, and they are not those of {ROWS} flights")))
    }

    /// Whether it has the rows that the first run brought: each of them, and once.
    fn is_exact(&self) -> Result<bool, Failure> {
        let query = "SELECT sum(hashtextextended(t::text, 0))::text FROM target t";
        let rows: String = self.one(query)?;
        Ok(*self.whole.get_or_init(|| rows.clone()) == rows)
    }

    fn rows(&self) -> Result<usize, Failure> {
        let rows: i64 = self.one("SELECT count(*) FROM target")?;
        usize::try_from(rows).map_err(|error| found(&error))
    }

    /// Sessions of others on this database.
    fn sessions(&self) -> Result<i64, Failure> {
        self.one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
    }

    fn one<T: postgres::types::FromSqlOwned>(&self, query: &str) -> Result<T, Failure> {
        let mut client =
            Client::connect(&self.database.url, NoTls).map_err(|error| found(&error))?;
        let row = client.query_one(query, &[]).map_err(|error| found(&error))?;
        row.try_get(0).map_err(|error| found(&error))
    }
}

/// Prints what both took, and judges it.
fn compare(pairs: &[Pair]) -> Promise {
    let over = |of: fn(&Pair) -> f64| median(pairs.iter().map(of));
    let row = |name: &str, seconds: f64, cpu: f64, peak: f64| {
        let rate = format!("{:.0}", ROWS as f64 / seconds);
        let cpu = format!("{:.2}", cpu * 1e6 / ROWS as f64);
        vec![name.to_owned(), rate, cpu, format!("{:.1}", peak / f64::from(1 << 20))]
    };
    let whole = |name: &str, of: fn(&Pair) -> Measured| {
        let over = |figure: fn(Measured) -> f64| median(pairs.iter().map(|pair| figure(of(pair))));
        row(name, over(seconds), over(cpu), over(peak))
    };
    let spring_peak = over(|(spring, _)| peak(spring.whole));
    let step_seconds = over(|(spring, _)| spring.step_seconds);
    let step_cpu = over(|(spring, _)| spring.step_cpu_seconds);
    table::print(
        &["CSV to PostgreSQL", "rows/s", "CPU µs/row", "peak MiB"],
        &[
            whole("Spring Batch, chunks of 1,000", |(spring, _)| spring.whole),
            row("  its step alone", step_seconds, step_cpu, spring_peak),
            whole("piton, records: 1000", |(_, (chunks, _))| *chunks),
            whole("piton, its own interval", |(_, (_, own))| *own),
        ],
    );
    let times = over(|(spring, (chunks, _))| spring.step_seconds / seconds(*chunks));
    let own = over(|(spring, (_, own))| spring.step_seconds / seconds(*own));
    let of_cpu = over(|(spring, (chunks, _))| cpu(*chunks) / spring.step_cpu_seconds);
    let of_memory = over(|(spring, (chunks, _))| peak(*chunks) / peak(spring.whole));
    let chunks = judge(
        &format!(
            "in chunks of 1,000 at least {SAME_CHUNKS} times the rate of its step, with at most \
             {SHARE} of its CPU and of its memory, median of {PAIRS} pairs"
        ),
        &format!("{times:.2} times, {of_cpu:.2}, {of_memory:.2}"),
        times >= SAME_CHUNKS && of_cpu <= SHARE && of_memory <= SHARE,
    );
    let promised = format!("with its own interval at least {OWN_INTERVAL} times");
    chunks.and(judge(&promised, &format!("{own:.2} times"), own >= OWN_INTERVAL))
}

fn seconds(measured: Measured) -> f64 {
    measured.wall.as_secs_f64()
}

fn cpu(measured: Measured) -> f64 {
    measured.cpu.as_secs_f64()
}

/// In bytes; not a number where the system does not tell, which keeps no promise.
fn peak(measured: Measured) -> f64 {
    measured.peak.map_or(f64::NAN, |peak| peak as f64)
}

/// Prints what a second start did after SIGKILL, and judges Piton's.
fn recovered(spring: &Again, piton: &Again) -> Promise {
    let row = |name: &str, again: &Again| {
        let went_on = again.refusal.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"));
        let exact = if again.is_exact { "yes" } else { "no" };
        let (killed_at, rows) = (again.killed_at.to_string(), again.rows.to_string());
        vec![name.to_owned(), killed_at, went_on, rows, exact.to_owned()]
    };
    table::print(
        &["SIGKILL, then started again", "rows", "goes on by itself", "rows then", "exact"],
        &[row("Spring Batch", spring), row("piton, records: 1000", piton)],
    );
    let kept = piton.refusal.is_none() && piton.is_exact;
    let told = if kept { "it went on, and the table is exact" } else { "see the table" };
    judge("a start after SIGKILL needs no person", told, kept)
}
