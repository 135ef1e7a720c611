//! What checkpointing costs at the default interval: as the program says, and as a clock says.
//!
//! The same pipeline runs with the default and with `checkpoint: off`, in alternating pairs. A
//! share of one part in a hundred is less than what runs of the same program differ by on most
//! machines, so the clock can only contradict it: a default that were slower in every one of seven
//! pairs would be so by chance once in 128 times.

use super::{
    Promise, data, judge,
    measure::{Measured, alternate, median, range},
    pipeline::{Ended, Pipeline},
    table,
};
use crate::command::Failure;

const ROWS: usize = 2_400_000;
const PAIRS: usize = 7;
/// The largest share of a run that saves may take.
const LIMIT: f64 = 0.01;

const SINKS: &[(&str, &str, &str)] = &[
    ("sqlite", "sqlite: {path: overhead.db, table: flights, mode: append}", "overhead.db"),
    ("jsonl", "jsonl: {path: overhead.jsonl}", "overhead.jsonl"),
];

type Run = (Measured, Ended);

pub(super) fn run() -> Result<Promise, Failure> {
    let mut table = Vec::new();
    let mut promises = Vec::new();
    for (kind, sink, output) in SINKS {
        let input = data::flights(ROWS)?;
        let named = |more: &str, checkpoint: &str| {
            Pipeline::prepare(&format!("overhead-{kind}{more}"), &input, sink, output, checkpoint)
        };
        let (off, default) = (named("-off", "checkpoint: off")?, named("", "")?);
        let pairs = alternate(PAIRS, || afresh(&off), || afresh(&default))?;
        table.push(row(kind, &pairs));
        promises.push((*kind, share(&pairs), ratios(&pairs)));
    }
    table::print(
        &["", "off, s", "default, s", "default/off", "lowest–highest", "saves", "in saves, %"],
        &table,
    );
    let promise = format!("at most {}% of the run spent in saves, as the run says", LIMIT * 100.0);
    let mut all = Promise::Kept;
    for (kind, share, ratios) in promises {
        let found = format!("{kind}: {:.2}%", share * 100.0);
        let told = judge(&promise, &found, share <= LIMIT);
        let (middle, (low, high)) = (median(ratios.clone()), range(ratios));
        let promise = "no slower than `checkpoint: off`, but for noise";
        let found = format!("{kind}: {middle:.3} times as long ({low:.3}–{high:.3})");
        let clocked = judge(promise, &found, middle <= 1.0 + LIMIT || low <= 1.0);
        all = all.and(told).and(clocked);
    }
    Ok(all)
}

fn afresh(pipeline: &Pipeline) -> Result<Run, Failure> {
    pipeline.forget()?;
    pipeline.run_and_hear()
}

/// The share of a run at the default interval that its work spent in saves.
fn share(pairs: &[(Run, Run)]) -> f64 {
    median(pairs.iter().map(|(_, (_, default))| default.saving_seconds / default.seconds))
}

/// How long a run at the default interval took, in runs without checkpoints.
fn ratios(pairs: &[(Run, Run)]) -> Vec<f64> {
    let ratio = |((off, _), (default, _)): &(Run, Run)| default.wall.div_duration_f64(off.wall);
    pairs.iter().map(ratio).collect()
}

fn row(kind: &str, pairs: &[(Run, Run)]) -> Vec<String> {
    let seconds =
        |of: fn(&(Run, Run)) -> Run| median(pairs.iter().map(|p| of(p).0.wall.as_secs_f64()));
    let (low, high) = range(ratios(pairs));
    vec![
        kind.to_owned(),
        format!("{:.2}", seconds(|pair| pair.0)),
        format!("{:.2}", seconds(|pair| pair.1)),
        format!("{:.3}", median(ratios(pairs))),
        format!("{low:.3}–{high:.3}"),
        format!("{:.0}", median(pairs.iter().map(|(_, (_, run))| run.checkpoints as f64))),
        format!("{:.2}", share(pairs) * 100.0),
    ]
}
