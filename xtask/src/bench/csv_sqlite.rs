//! CSV to `SQLite`, exactly once, against the bare program with transactions of the same size.

use super::{
    Promise, data, judge,
    measure::{Measured, alternate, median, range},
    pipeline::{Pipeline, baseline},
    table,
};
use crate::command::Failure;

/// Rows in one transaction, on both sides.
pub(super) const ROWS_PER_TRANSACTION: u64 = 10_000;
const ROWS: usize = 600_000;
const PAIRS: usize = 5;
/// The least share of the bare program's rate.
const SHARE: f64 = 0.8;

pub(super) fn run() -> Result<Promise, Failure> {
    let input = data::flights(ROWS)?;
    let checkpoint = format!("checkpoint: {{records: {ROWS_PER_TRANSACTION}}}");
    let mut rows = Vec::new();
    let mut shares = Vec::new();
    for (mode, sink, key) in
        [("append", "mode: append", &[][..]), ("upsert", "mode: upsert, key: [id]", &["id"][..])]
    {
        let output = format!("csv-sqlite-{mode}.db");
        let sink = format!("sqlite: {{path: {output}, table: flights, {sink}}}");
        let name = format!("csv-sqlite-{mode}");
        let piton = Pipeline::prepare(&name, &input, &sink, &output, &checkpoint)?;
        let bare = || baseline("baseline-csv-sqlite", &input, "csv-sqlite-bare.db", key);
        let pairs = alternate(PAIRS, bare, || piton.run())?;
        shares.push(compare(mode, ROWS, &pairs, &mut rows));
    }
    table::print(HEADER, &rows);
    let least = shares.into_iter().fold(f64::INFINITY, f64::min);
    let promise =
        format!("at least {SHARE} of the bare program's rate, median of {PAIRS} alternating pairs");
    Ok(judge(&promise, &format!("{least:.2}"), least >= SHARE))
}

/// The columns of [`compare`].
pub(super) const HEADER: &[&str] = &[
    "",
    "bare rows/s",
    "piton rows/s",
    "share",
    "lowest–highest",
    "bare CPU µs/row",
    "piton CPU µs/row",
    "piton peak MiB",
];

/// Adds a row of medians over (bare, Piton) pairs and returns Piton's share of the bare rate: the
/// median of the pairs' shares.
pub(super) fn compare(
    what: &str,
    records: usize,
    pairs: &[(Measured, Measured)],
    rows: &mut Vec<Vec<String>>,
) -> f64 {
    let records = records as f64;
    let rate = |of: fn(&(Measured, Measured)) -> Measured| {
        median(pairs.iter().map(|pair| records / of(pair).wall.as_secs_f64()))
    };
    let cpu = |of: fn(&(Measured, Measured)) -> Measured| {
        median(pairs.iter().map(|pair| of(pair).cpu.as_secs_f64() * 1e6 / records))
    };
    let shares = || pairs.iter().map(|(bare, piton)| bare.wall.div_duration_f64(piton.wall));
    let (share, (low, high)) = (median(shares()), range(shares()));
    let peak = pairs.iter().filter_map(|(_, piton)| piton.peak).max().unwrap_or(0);
    rows.push(vec![
        what.to_owned(),
        format!("{:.0}", rate(|pair| pair.0)),
        format!("{:.0}", rate(|pair| pair.1)),
        format!("{share:.2}"),
        format!("{low:.2}–{high:.2}"),
        format!("{:.2}", cpu(|pair| pair.0)),
        format!("{:.2}", cpu(|pair| pair.1)),
        format!("{:.1}", peak as f64 / f64::from(1 << 20)),
    ]);
    share
}
