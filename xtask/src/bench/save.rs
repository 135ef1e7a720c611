//! One `Store::save` of many partitions in `SQLite`: time, transactions, syncs.
//!
//! They are counted by `strace`, outside the program: what a save causes is what twice as many
//! saves cause more, divided by how many more. So copying the log into the file, now and then, is
//! counted, too.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    CheckpointKey, Claim, ClaimAnswer, ClaimRequest, Epoch, Owner, Position, PositionError, Save,
    Saved, Store, StoreError, StoredPosition, claim::WHOLE, position::order_of,
};
use piton_stores::{Mode, SqlStore};

use super::{
    Promise, data, judge,
    measure::{median, range},
    table,
};
use crate::command::{Failure, run as run_to_end, succeeds};

const PARTITIONS: usize = 1_000;
const SAVES: u64 = 50;
/// The most syncs that one save may cause.
const SYNCS: f64 = 2.0;
/// What a transaction that writes does once, and nothing else does: it takes the writer's lock,
/// which is byte 120 of the file beside the log (SQLite's "WAL-mode file format").
const WRITER_LOCK: [&str; 3] = ["-shm>", "F_WRLCK", "l_start=120, l_len=1"];

pub(super) fn run() -> Result<Promise, Failure> {
    let path = data::folder()?.join("save.piton.db");
    let times: Vec<f64> = saves(&path, SAVES)?.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    let (low, high) = range(times.iter().copied());
    let mut row = vec![
        PARTITIONS.to_string(),
        format!("{:.1}", median(times)),
        format!("{low:.1}–{high:.1}"),
    ];
    let traced = count(&path)?;
    let header = ["partitions", "median, ms", "lowest–highest", "transactions", "syncs"];
    let Some((transactions, syncs)) = traced else {
        table::print(&header[..3], &[row]);
        println!("there is no strace here: transactions and syncs were not counted");
        return Ok(Promise::Kept);
    };
    row.extend([format!("{transactions:.2}"), format!("{syncs:.2}")]);
    table::print(&header, &[row]);
    let promise = format!("one transaction, at most {SYNCS} syncs");
    let found = format!("{transactions:.2} transactions, {syncs:.2} syncs");
    Ok(judge(&promise, &found, transactions <= 1.0 && syncs <= SYNCS))
}

/// `save-partitions STORE TIMES`: what is run under strace.
pub(super) fn main(args: &[&str]) -> Result<(), Failure> {
    let usage = || Failure::Usage("save-partitions STORE TIMES".to_owned());
    let [store, times] = args else { return Err(usage()) };
    saves(Path::new(store), times.parse().map_err(|_| usage())?).map(drop)
}

/// Saves all partitions again and again in a new store; returns how long each save took.
fn saves(path: &Path, times: u64) -> Result<Vec<Duration>, Failure> {
    data::remove(path)?;
    let failed = |error: StoreError| Failure::Found(error.to_string());
    let store = SqlStore::sqlite(path, Mode::Create).map_err(failed)?;
    let claim = claim(&store).map_err(failed)?;
    let mut took = Vec::new();
    for version in 0..=times {
        let saves = all(version).map_err(|error| Failure::Found(error.to_string()))?;
        let began = Instant::now();
        let saved = block_on(store.save(&claim, saves, Timestamp::now())).map_err(failed)?;
        took.push(began.elapsed());
        if !saved.iter().all(Saved::is_stored) {
            return Err(Failure::Found("a save was not stored".to_owned()));
        }
    }
    // The first makes the rows: that is done once.
    Ok(took.split_off(1))
}

fn claim(store: &SqlStore) -> Result<Claim, StoreError> {
    let request = ClaimRequest {
        pipeline: "bench".to_owned(),
        partition: WHOLE.to_owned(),
        owner: Owner { host: "bench".to_owned(), pid: std::process::id() },
        lease: Duration::from_mins(1),
        at_least: Epoch(1),
        silent: None,
        now: Timestamp::now(),
    };
    match block_on(store.claim(request))? {
        ClaimAnswer::Granted { claim, .. } => Ok(claim),
        ClaimAnswer::Held(holder) => {
            Err(StoreError::Refused { what: format!("the new store is held by {holder}") })
        }
    }
}

/// A save of every partition over the given version.
fn all(version: u64) -> Result<Vec<Save>, PositionError> {
    let at =
        |version: u64| StoredPosition::of(&Offset { offset: version * 4096, line: version * 100 });
    let expected = if version == 0 { None } else { Some(at(version)?) };
    let new = at(version + 1)?;
    let save = |partition: usize| Save {
        key: CheckpointKey::new("bench", format!("part-{partition:04}.csv"), "warehouse"),
        expected_version: version,
        expected: expected.clone(),
        position: Some(new.clone()),
        order: order_of::<Offset>,
        records: version * 100,
        schema_version: 0,
        sink_state: None,
        state: Vec::new(),
    };
    Ok((0..PARTITIONS).map(save).collect())
}

/// A position as that of a file.
#[derive(Debug, Clone, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize)]
struct Offset {
    offset: u64,
    line: u64,
}

impl Position for Offset {
    const KIND: &'static str = "bench";
}

/// Transactions and syncs per save; `None` without strace.
fn count(store: &Path) -> Result<Option<(f64, f64)>, Failure> {
    if !succeeds(Command::new("strace").arg("-V")) {
        return Ok(None);
    }
    let (few, many) = (syncs(store, SAVES)?, syncs(store, 2 * SAVES)?);
    let each = |few: usize, many: usize| many.saturating_sub(few) as f64 / SAVES as f64;
    Ok(Some((each(few.0, many.0), each(few.1, many.1))))
}

/// Transactions and syncs of a program that saves so often.
fn syncs(store: &Path, times: u64) -> Result<(usize, usize), Failure> {
    let itself = std::env::current_exe().map_err(Failure::at(Path::new("xtask")))?;
    let trace = store.with_extension("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fsync,fdatasync,fcntl", "-o"]).arg(&trace);
    strace.arg(itself).args(["bench", "save-partitions"]).arg(store).arg(times.to_string());
    run_to_end(strace.stdin(Stdio::null()))?;
    let trace = std::fs::read_to_string(&trace).map_err(Failure::at(&trace))?;
    Ok(count_calls(&trace))
}

fn count_calls(trace: &str) -> (usize, usize) {
    // A call that another thread interrupts is shown twice, the second time as `<... resumed>`.
    let calls = || trace.lines().filter(|line| !line.contains("<... "));
    let is_sync = |line: &&str| ["fsync(", "fdatasync("].iter().any(|call| line.contains(call));
    let is_transaction = |line: &&str| WRITER_LOCK.iter().all(|part| line.contains(part));
    (calls().filter(is_transaction).count(), calls().filter(is_sync).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_stored_over_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(saves(&folder.path().join("s.db"), 3).unwrap().len(), 3);
    }

    #[test]
    fn calls_are_counted_once() {
        let trace = "7 fcntl(5</x/s.db-shm>, F_SETLK, {l_type=F_WRLCK, l_whence=SEEK_SET, \
                     l_start=120, l_len=1}) = 0\n\
                     7 fcntl(5</x/s.db-shm>, F_SETLK, {l_type=F_UNLCK, l_whence=SEEK_SET, \
                     l_start=120, l_len=1}) = 0\n\
                     7 fdatasync(4</x/s.db-wal>) = 0\n7 fsync(3</x/s.db> <unfinished ...>\n\
                     7 <... fsync resumed>) = 0\n7 +++ exited with 0 +++\n";
        assert_eq!(count_calls(trace), (1, 2));
    }
}
