//! `cargo xtask bench`: what the project promises about speed, measured.
//!
//! Rates move by a factor of two with what else a machine does, so nothing here is compared with
//! a number from elsewhere: a benchmark runs what it compares with in the same run, in alternating
//! pairs, and prints medians and the ratio. The measuring code is built with the feature `bench`
//! and in release mode, by this program calling cargo on itself.

#[cfg(feature = "bench")]
mod baseline_csv_jsonl;
#[cfg(feature = "bench")]
mod baseline_csv_sqlite;
#[cfg(feature = "bench")]
mod copy_postgres;
#[cfg(feature = "bench")]
mod csv_jsonl;
#[cfg(feature = "bench")]
mod csv_postgres;
#[cfg(feature = "bench")]
mod csv_sqlite;
#[cfg(feature = "bench")]
mod data;
#[cfg(feature = "bench")]
mod interval;
#[cfg(feature = "bench")]
mod job;
#[cfg(feature = "bench")]
mod killed;
#[cfg(feature = "bench")]
mod measure;
#[cfg(feature = "bench")]
mod memory;
#[cfg(feature = "bench")]
mod outbox;
#[cfg(feature = "bench")]
mod overhead;
#[cfg(feature = "bench")]
mod pipeline;
#[cfg(feature = "bench")]
mod processor;
#[cfg(feature = "bench")]
mod save;
#[cfg(feature = "bench")]
mod spring_batch;
#[cfg(feature = "bench")]
mod start;
#[cfg(feature = "bench")]
mod table;
#[cfg(feature = "bench")]
mod tracker;

use crate::command::Failure;

/// A release build that measures takes this one's place.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    use crate::command::{cargo, run as run_to_end};
    let mut itself = cargo(["run", "--quiet", "--release", "--package", "xtask"]);
    run_to_end(itself.args(["--features", "bench", "--", "bench"]).args(args))
}

/// Whether a promise was kept. Printed, and the exit code of the whole.
#[cfg(feature = "bench")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Kept,
    Missed,
}

#[cfg(feature = "bench")]
type Bench = fn() -> Result<Promise, Failure>;

/// Every benchmark: its name, what it is about, and how it is run.
#[cfg(feature = "bench")]
const BENCHES: &[(&str, &str, Bench)] = &[
    ("csv-sqlite", "CSV to SQLite, exactly once, against a bare rusqlite program", csv_sqlite::run),
    (
        "csv-jsonl",
        "CSV to JSONL, checkpointed, against a bare csv and serde_json program",
        csv_jsonl::run,
    ),
    (
        "csv-postgres",
        "CSV to PostgreSQL, exactly once, against psql with the same transactions",
        csv_postgres::run,
    ),
    (
        "copy-postgres",
        "a PostgreSQL table into another, exactly once, against COPY piped into COPY",
        copy_postgres::run,
    ),
    (
        "spring-batch",
        "CSV to PostgreSQL beside Spring Batch 6: rate, CPU, memory, a start after SIGKILL",
        spring_batch::run,
    ),
    ("overhead", "what checkpointing costs at the default interval", overhead::run),
    ("interval", "time, commits, and records replayed per crash", interval::run),
    ("save", "one save of 1,000 partitions in SQLite", save::run),
    ("outbox", "an outbox in PostgreSQL: drained, trickling, idle", outbox::run),
    ("processor", "the library's processor of an outbox: drained, trickling, idle", processor::run),
    ("job", "small steps, a step for each parent, related tables", job::run),
    ("start", "the first record of a run and of a resumed run", start::run),
    ("memory", "peak memory on a small and on a large file", memory::run),
    ("tracker", "the tracker at 1 million records in flight", tracker::run),
];

#[cfg(feature = "bench")]
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for (name, about, _) in BENCHES {
                println!("{name:<14} {about}");
            }
            return Ok(());
        }
        // Programs to compare with, or to look at: this binary, so that they are built with the same flags.
        ["baseline-csv-sqlite", args @ ..] => return baseline_csv_sqlite::main(args),
        ["baseline-csv-jsonl", args @ ..] => return baseline_csv_jsonl::main(args),
        ["save-partitions", args @ ..] => return save::main(args),
        _ => {}
    }
    for word in &words {
        if !BENCHES.iter().any(|(name, ..)| name == word) {
            let what = format!("there is no benchmark '{word}'; `bench list` names them");
            return Err(Failure::Usage(what));
        }
    }
    let _alone = data::alone()?;
    let mut missed = Vec::new();
    for (name, about, bench) in BENCHES {
        if !words.is_empty() && !words.contains(name) {
            continue;
        }
        println!("== {name}: {about}");
        if bench()? == Promise::Missed {
            missed.push(*name);
        }
        println!();
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Found(format!("promises missed: {}", missed.join(", "))))
}

#[cfg(feature = "bench")]
impl Promise {
    /// Kept if both are.
    fn and(self, other: Self) -> Self {
        if self == Self::Kept { other } else { self }
    }
}

/// Prints what was promised and what was found, and whether that is enough.
#[cfg(feature = "bench")]
fn judge(promise: &str, found: &str, kept: bool) -> Promise {
    println!("promised: {promise}; found: {found}: {}", if kept { "kept" } else { "MISSED" });
    if kept { Promise::Kept } else { Promise::Missed }
}
