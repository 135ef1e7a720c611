//! A PostgreSQL table copied into another, exactly once, against `COPY … TO` piped into
//! `COPY … FROM`, which does it in one transaction and begins anew if it fails.

use std::process::Command;

use super::{
    Promise,
    csv_postgres::{Database, columns, execute, server},
    csv_sqlite::{HEADER, compare},
    data, judge,
    measure::{self, Measured, alternate},
    pipeline::Pipeline,
    table,
};
use crate::command::Failure;

const ROWS: usize = 600_000;
const PAIRS: usize = 5;
/// The least share of the pipe's rate.
const SHARE: f64 = 0.7;
/// In one go, which is what is promised; and in ranges of the key, which is for a server that is far
/// away or has processors to spare: where two are shared by everything it is slower.
const WAYS: [(&str, &str, bool); 2] =
    [("in one go", "", true), ("4 ranges", ", partitions: 4", false)];

pub(super) fn run() -> Result<Promise, Failure> {
    let (server, url) = server()?;
    fill(&url)?;
    let database = Database { url: url.clone(), constraint: "" };
    let mut rows = Vec::new();
    let mut promise = Promise::Kept;
    for (way, settings, is_promised) in WAYS {
        let source = format!("sql: {{url: '{url}', table: source{settings}}}");
        let sink =
            format!("postgres: {{url: '{url}', table: target, create: false, mode: append}}");
        let piton = Pipeline::reading("copy-postgres", &source, &sink, "none", "")?;
        let pairs = alternate(
            PAIRS,
            || pipe(&database),
            || {
                database.empty()?;
                piton.run()
            },
        )?;
        let share = compare(way, ROWS, &pairs, &mut rows);
        if is_promised {
            let promised = format!("at least {SHARE} of the pipe's rate, median of {PAIRS} pairs");
            promise = judge(&promised, &format!("{share:.2}"), share >= SHARE);
        }
    }
    table::print(HEADER, &rows);
    drop(server);
    Ok(promise)
}

/// The table that is copied.
fn fill(url: &str) -> Result<(), Failure> {
    let input = data::flights(ROWS)?;
    execute(url, &format!("CREATE TABLE source ({})", columns("PRIMARY KEY")?))?;
    let copy =
        format!("\\copy source from '{}' with (format csv, header, null 'NA')", input.display());
    measure::run(Command::new("psql").arg(url).args(["-X", "-q", "-c", &copy]))?;
    execute(url, "VACUUM ANALYZE source")
}

fn pipe(database: &Database) -> Result<Measured, Failure> {
    database.empty()?;
    let psql = |sql: &str| format!("psql '{}' -X -q -v ON_ERROR_STOP=1 -c '{sql}'", database.url);
    let (from, to) = (psql("COPY source TO STDOUT"), psql("COPY target FROM STDIN"));
    let pipe = format!("set -o pipefail; {from} | {to}");
    measure::run(Command::new("bash").args(["-c", &pipe]))
}
