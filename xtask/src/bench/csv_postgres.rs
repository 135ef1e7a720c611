//! CSV to PostgreSQL, exactly once, against `psql \copy` with transactions of the same size.
//!
//! What is compared with moves a position in each transaction, too: the least that a loader has to
//! do which wants to know how far it got. The server is a real one that waits for its disk.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use piton_testkit::service::{Options, Postgres, Server};
use postgres::{Client, NoTls};

use super::{
    Promise,
    csv_sqlite::{HEADER, compare},
    data, judge,
    measure::{self, Measured, alternate},
    pipeline::Pipeline,
    table,
};
use crate::command::Failure;

/// Rows in one transaction, on both sides.
const ROWS_PER_TRANSACTION: usize = 10_000;
const ROWS: usize = 600_000;
const PAIRS: usize = 5;
/// The least share of `psql`'s rate, for rows that are added and for rows written by their key.
const SHARES: [(&str, &str, &str, f64); 2] =
    [("append", "", "mode: append", 0.85), ("upsert", "PRIMARY KEY", "key: [id]", 0.5)];

pub(super) fn run() -> Result<Promise, Failure> {
    let input = data::flights(ROWS)?;
    let (server, url) = server()?;
    let mut rows = Vec::new();
    let mut promise = Promise::Kept;
    for (mode, constraint, sink, least) in SHARES {
        let database = Database { url: url.clone(), constraint };
        let script = script(&input, mode)?;
        let name = format!("csv-postgres-{mode}");
        let sink = format!("postgres: {{url: '{url}', table: target, create: false, {sink}}}");
        let checkpoint = format!("checkpoint: {{records: {ROWS_PER_TRANSACTION}}}");
        let file = input.file_name().unwrap_or_default().to_string_lossy();
        let source = format!("csv: {{path: {file}, \"null\": NA}}");
        let piton = Pipeline::reading(&name, &source, &sink, "none", &checkpoint)?;
        let pairs = alternate(
            PAIRS,
            || database.copy(&script),
            || {
                database.empty()?;
                piton.run()
            },
        )?;
        let share = compare(mode, ROWS, &pairs, &mut rows);
        let promised = format!("{mode}: at least {least} of psql's rate, median of {PAIRS} pairs");
        promise = promise.and(judge(&promised, &format!("{share:.2}"), share >= least));
    }
    table::print(HEADER, &rows);
    drop(server);
    Ok(promise)
}

/// A durable server with room for its log, and a database on it.
pub(super) fn server() -> Result<(Server, String), Failure> {
    let options: Options = Postgres::options().line("max_wal_size = 8GB");
    let server = options.start().map_err(|e| Failure::Found(e.to_string()))?;
    let url = server.database().map_err(|e| Failure::Found(e.to_string()))?;
    Ok((server, url))
}

/// The tables of one side after the other.
pub(super) struct Database {
    pub(super) url: String,
    /// What the key column is.
    pub(super) constraint: &'static str,
}

impl Database {
    /// Empty tables, and nothing left to write for the server.
    pub(super) fn empty(&self) -> Result<(), Failure> {
        let columns = columns(self.constraint)?;
        let sql = format!(
            "DROP TABLE IF EXISTS target, position, piton_checkpoints, piton_manifest;
             DROP FUNCTION IF EXISTS piton_checkpoints_deleted, piton_checkpoints_updated;
             CREATE TABLE target ({columns}); CREATE TABLE position (upto bigint);
             INSERT INTO position VALUES (0); CHECKPOINT"
        );
        let mut client =
            Client::connect(&self.url, NoTls).map_err(|e| Failure::Found(e.to_string()))?;
        for statement in sql.split(';') {
            client.batch_execute(statement).map_err(|e| Failure::Found(e.to_string()))?;
        }
        Ok(())
    }

    /// Loads everything with `psql`.
    fn copy(&self, script: &Path) -> Result<Measured, Failure> {
        self.empty()?;
        let mut psql = Command::new("psql");
        measure::run(
            psql.arg(&self.url).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script),
        )
    }
}

/// Runs statements, each by itself.
pub(super) fn execute(url: &str, sql: &str) -> Result<(), Failure> {
    let found = |e: postgres::Error| Failure::Found(e.to_string());
    let mut client = Client::connect(url, NoTls).map_err(found)?;
    sql.split(';').try_for_each(|statement| client.batch_execute(statement)).map_err(found)
}

/// The columns of the flights, as a table is made with them.
pub(super) fn columns(constraint: &str) -> Result<String, Failure> {
    let columns = data::header()?;
    let columns = columns.split(',').map(|column| match column {
        "id" => format!("\"id\" bigint {constraint}"),
        column => format!("\"{column}\" {}", type_of(column)),
    });
    Ok(columns.collect::<Vec<_>>().join(", "))
}

/// The type of a column of the flights.
fn type_of(column: &str) -> &'static str {
    match column {
        "carrier" | "tailnum" | "origin" | "dest" => "text",
        "time_hour" => "timestamptz",
        "id" | "flight" => "bigint",
        _ => "integer",
    }
}

/// The data cut into files, and a script that loads each in a transaction of its own.
fn script(input: &Path, mode: &str) -> Result<PathBuf, Failure> {
    let text = std::fs::read_to_string(input).map_err(Failure::at(input))?;
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let folder = data::folder()?.join("csv-postgres-parts");
    std::fs::create_dir_all(&folder).map_err(Failure::at(&folder))?;
    let mut script = String::new();
    for (number, part) in lines.chunks(ROWS_PER_TRANSACTION).enumerate() {
        let path = folder.join(format!("{number}.csv"));
        std::fs::write(&path, part.join("\n") + "\n").map_err(Failure::at(&path))?;
        let upto = (number + 1) * ROWS_PER_TRANSACTION;
        let _ = writeln!(
            script,
            "BEGIN;\n\\copy target from '{}' with (format csv, null 'NA')\n\
             UPDATE position SET upto = {upto};\nCOMMIT;",
            path.display()
        );
    }
    let path = folder.join(format!("{mode}.sql"));
    std::fs::write(&path, script).map_err(Failure::at(&path))?;
    Ok(path)
}
