//! CSV to JSONL with checkpoints, against the bare program without.

use super::{
    Promise,
    csv_sqlite::{HEADER, compare},
    data, judge,
    measure::alternate,
    pipeline::{Pipeline, baseline},
    table,
};
use crate::command::Failure;

const ROWS: usize = 600_000;
const PAIRS: usize = 5;
/// The least share of the bare program's rate.
const SHARE: f64 = 0.8;

pub(super) fn run() -> Result<Promise, Failure> {
    let input = data::flights(ROWS)?;
    let output = "csv-jsonl.jsonl";
    let sink = format!("jsonl: {{path: {output}}}");
    let piton = Pipeline::prepare("csv-jsonl", &input, &sink, output, "")?;
    let bare = || baseline("baseline-csv-jsonl", &input, "csv-jsonl-bare.jsonl", &[]);
    let mut rows = Vec::new();
    let share = compare("jsonl", ROWS, &alternate(PAIRS, bare, || piton.run())?, &mut rows);
    table::print(HEADER, &rows);
    let promise =
        format!("at least {SHARE} of the bare program's rate, median of {PAIRS} alternating pairs");
    Ok(judge(&promise, &format!("{share:.2}"), share >= SHARE))
}
