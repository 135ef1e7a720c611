//! How soon the first record comes: after the program was started, with nothing there yet and in
//! the middle of a large file after a crash.
//!
//! A resumed run parses the configuration, opens the store, takes the claim of the run that was
//! killed, verifies that the file is the one it was, and takes the sink over before it reads.

use std::{
    io::Read,
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    Promise, data, judge, killed::Doomed, measure::median, measure::range, pipeline::Pipeline,
    table,
};
use crate::command::{Failure, line};

const ROWS: usize = 2_400_000;
const STARTS: usize = 15;
const LIMIT_MS: f64 = 100.0;

const SINKS: &[(&str, &str, &str)] = &[
    ("stdout", "stdout: {}", "start.none"),
    ("jsonl", "jsonl: {path: start.jsonl}", "start.jsonl"),
    ("sqlite", "sqlite: {path: start.db, table: flights, mode: append}", "start.db"),
];

pub(super) fn run() -> Result<Promise, Failure> {
    let input = data::flights(ROWS)?;
    let mut table = Vec::new();
    let mut slowest = 0.0_f64;
    for (kind, sink, output) in SINKS {
        let pipeline = Pipeline::prepare(&format!("start-{kind}"), &input, sink, output, "")?;
        let first = if *kind == "stdout" { first_byte } else { first_taken };
        let cold = starts(|| pipeline.forget().and_then(|()| first(&pipeline)))?;
        table.push(row(&format!("to {kind}, from the beginning"), &cold));
        get_to_the_middle(&pipeline)?;
        let resumed = starts(|| first(&pipeline))?;
        table.push(row(&format!("to {kind}, resumed in the middle"), &resumed));
        slowest = slowest.max(median(resumed));
    }
    table::print(&["first record", "median, ms", "lowest–highest"], &table);
    let promise = format!("within {LIMIT_MS} ms of the start of a resumed run, median");
    Ok(judge(&promise, &format!("{slowest:.0} ms"), slowest <= LIMIT_MS))
}

fn starts(mut first: impl FnMut() -> Result<Duration, Failure>) -> Result<Vec<f64>, Failure> {
    (0..STARTS).map(|_| Ok(first()?.as_secs_f64() * 1e3)).collect()
}

fn row(what: &str, starts: &[f64]) -> Vec<String> {
    let (low, high) = range(starts.iter().copied());
    let middle = median(starts.iter().copied());
    vec![what.to_owned(), format!("{middle:.1}"), format!("{low:.1}–{high:.1}")]
}

/// Kills a run when it has done half of its work.
fn get_to_the_middle(pipeline: &Pipeline) -> Result<(), Failure> {
    pipeline.forget()?;
    let mut run = Doomed::start(pipeline)?;
    run.wait_for(ROWS as u64 / 2)?;
    match run.kill()? {
        Some(_) => Ok(()),
        None => Err(Failure::Found("a run ended before it could be killed in the middle".into())),
    }
}

/// From the start to the first byte on standard output. The run is killed then.
fn first_byte(pipeline: &Pipeline) -> Result<Duration, Failure> {
    let mut command = pipeline.command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |error| Failure::Start(line(&pipeline.command()), error);
    let began = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    let read = child.stdout.take().map(|mut out| out.read_exact(&mut [0]));
    let took = began.elapsed();
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    match read {
        Some(Ok(())) => Ok(took),
        _ => Err(Failure::Program(line(&command))),
    }
}

/// From the start until the sink has taken the first records. The run is killed then.
fn first_taken(pipeline: &Pipeline) -> Result<Duration, Failure> {
    let mut run = Doomed::start(pipeline)?;
    run.wait_for(1)?;
    let took = run.began.elapsed();
    run.kill()?;
    Ok(took)
}
