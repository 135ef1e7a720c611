//! The database of a store: how it is found, made and brought up to date.
//!
//! MySQL commits with every table that is made, so that what was begun is marked as begun: `meta`
//! comes first and says format 0 until all is there. Of two who begin at the same moment one waits
//! for the other at a named lock.

use std::path::PathBuf;

use piton_core::StoreError;

use super::{address::Address, connection::Link};
use crate::{
    Mode,
    sql::{Result, Setback, Sql, Trouble, values},
};

/// What brings a database from each format to the next: the first makes it. Columns are only ever
/// added. Each statement may be run again, ends with `//`, and names a collation that tells all
/// characters apart, and spaces at the end.
const STEPS: &[&str] = &[include_str!("format_1.sql")];

/// The format of this program.
const FORMAT: u64 = STEPS.len() as u64;

/// How long somebody else who makes the store is waited for, in seconds.
const MAKING_SECONDS: u64 = 20;

const META: &str =
    "CREATE TABLE IF NOT EXISTS meta (format BIGINT NOT NULL, id VARCHAR(36) NOT NULL)
    ENGINE = InnoDB";

/// What was found on a server.
enum Found {
    /// There is no store, and nothing of that name; or one that was never finished.
    Nothing,
    /// There is a store.
    Store { format: u64, id: String },
}

/// Which of both servers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MySql,
    MariaDb,
}

impl Kind {
    /// What compares characters as they are.
    fn collation(self) -> &'static str {
        match self {
            Self::MySql => "utf8mb4_0900_bin",
            Self::MariaDb => "utf8mb4_nopad_bin",
        }
    }

    /// The oldest version that has what is used here.
    fn oldest(self) -> (u64, u64) {
        match self {
            Self::MySql => (8, 4),
            Self::MariaDb => (10, 11),
        }
    }
}

/// Looks for the store on a server, and makes it if the mode says so. Returns what identifies it.
pub(super) fn open(link: &mut Link, mode: Mode, address: &Address) -> Result<String> {
    let (kind, at) = (refuse_server(link)?, address.shown());
    let existing = mode == Mode::Existing;
    if !choose(link, address, existing)? {
        return Err(Trouble::Store(StoreError::Missing { path: PathBuf::from(at) }));
    }
    match look(link, &at)? {
        Found::Nothing if existing => {
            Err(Trouble::Store(StoreError::Missing { path: PathBuf::from(at) }))
        }
        Found::Store { format: FORMAT, id } => Ok(id),
        Found::Store { format, .. } if format > FORMAT => {
            Err(Trouble::Store(StoreError::Newer { at, found: format, known: FORMAT }))
        }
        Found::Store { format, .. } if existing => {
            let what = format!(
                "its format is {format}, that of an older piton: `piton run` brings it to \
                 {FORMAT}, for every program that uses it"
            );
            Err(Setback::Refused(what).into())
        }
        Found::Nothing | Found::Store { .. } => make(link, kind, address),
    }
}

/// Refuses a server that cannot have a store.
fn refuse_server(link: &mut Link) -> Result<Kind> {
    let mut found = link.query("SELECT VERSION(), @@global.read_only", values![])?;
    let Some(row) = found.first_mut() else {
        return Err(Setback::Unusable("the server does not say its version".to_owned()).into());
    };
    let version = row.text(0)?;
    let kind = if version.contains("MariaDB") { Kind::MariaDb } else { Kind::MySql };
    // MariaDB may put a version before its own, for old clients.
    let own = version.strip_prefix("5.5.5-").unwrap_or(&version);
    let mut numbers = own.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < kind.oldest() {
        let what = format!(
            "the server's version is {version}: a store needs MySQL 8.4 or MariaDB 10.11, or newer"
        );
        return Err(Setback::Refused(what).into());
    }
    if row.integer(1)? != 0 {
        let what = "the server only reads (read_only is on), as a replica: name the primary";
        return Err(Setback::Refused(what.to_owned()).into());
    }
    Ok(kind)
}

/// Makes the store's database that of the session. False when there is none.
fn choose(link: &mut Link, address: &Address, existing: bool) -> Result<bool> {
    let name = address.database.replace('"', "\"\"");
    if address.may_make_database {
        let there = "SELECT 1 FROM information_schema.schemata WHERE schema_name = ?";
        let is_there = link.says(there, values![&address.database])?.is_some();
        if !is_there && existing {
            return Ok(false);
        }
        if !is_there {
            link.run(&format!("CREATE DATABASE IF NOT EXISTS \"{name}\""))?;
        }
    }
    link.run(&format!("USE \"{name}\""))?;
    Ok(true)
}

/// Names of a kind that the database has.
fn names(link: &mut Link, sql: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for mut row in link.query(sql, values![])? {
        names.push(row.text(0)?);
    }
    Ok(names)
}

const TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";

fn look(link: &mut Link, at: &str) -> Result<Found> {
    let tables = names(link, TABLES)?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    let foreign = |table: &str| {
        let what = format!("it has a table '{table}' of somebody else's");
        Err(Trouble::Store(StoreError::Foreign { at: at.to_owned(), what }))
    };
    if !has("meta") {
        if has("manifest") && has("anchors") {
            return Err(Trouble::damage("its table meta is missing"));
        }
        return match made("TABLE").find(|name| has(name)) {
            Some(table) => foreign(table),
            None => Ok(Found::Nothing),
        };
    }
    let columns = "SELECT COUNT(*) FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'meta' AND column_name IN ('format', 'id')";
    if link.says(columns, values![])? != Some(2) {
        return foreign("meta");
    }
    let mut meta = link.query("SELECT format, id FROM meta", values![])?;
    match &mut meta[..] {
        [row] => match (row.number(0)?, row.text(1)?) {
            (0, _) => Ok(Found::Nothing),
            (format, id) => {
                if format == FORMAT {
                    check(link)?;
                }
                Ok(Found::Store { format, id })
            }
        },
        // Nothing but the mark that it is being made.
        [] if !has("anchors") => Ok(Found::Nothing),
        _ => Err(Trouble::damage("the table meta does not have one row")),
    }
}

/// Compares what there is with what was made, by name: what decides is guarded by checksums and
/// manifests, and a trigger that is gone guards nobody.
fn check(link: &mut Link) -> Result<()> {
    for (kind, sql) in [
        ("TABLE", TABLES),
        (
            "PROCEDURE",
            "SELECT routine_name FROM information_schema.routines
            WHERE routine_schema = DATABASE()",
        ),
        (
            "TRIGGER",
            "SELECT trigger_name FROM information_schema.triggers
            WHERE trigger_schema = DATABASE()",
        ),
    ] {
        let there = names(link, sql)?;
        if let Some(name) = made(kind).find(|name| !there.iter().any(|there| there == name)) {
            return Err(Trouble::damage(format!(
                "its {} '{name}' is missing",
                kind.to_lowercase()
            )));
        }
    }
    Ok(())
}

/// The names of all of one kind that the steps make.
fn made(kind: &str) -> impl Iterator<Item = &'static str> {
    let begin = format!("CREATE {kind} IF NOT EXISTS ");
    let lines = STEPS.iter().flat_map(|step| step.lines());
    lines.filter_map(move |line| line.strip_prefix(begin.as_str())?.split([' ', '(']).next())
}

/// Makes the store, or brings it up to date.
fn make(link: &mut Link, kind: Kind, address: &Address) -> Result<String> {
    let lock = format!("piton making {}", address.database);
    let lock: String = lock.chars().take(60).collect();
    if link.says("SELECT GET_LOCK(?, ?)", values![&lock, MAKING_SECONDS])? != Some(1) {
        let what = "somebody else is making it".to_owned();
        return Err(Setback::Busy(what).into());
    }
    let made = make_locked(link, kind, &address.shown());
    if !made.as_ref().is_err_and(Trouble::is_lost) {
        let _ = link.says("SELECT RELEASE_LOCK(?)", values![&lock]);
    }
    made
}

fn make_locked(link: &mut Link, kind: Kind, at: &str) -> Result<String> {
    let from = match look(link, at)? {
        // Somebody else was quicker.
        Found::Store { format: FORMAT, id } => return Ok(id),
        Found::Store { format, .. } => format,
        Found::Nothing => 0,
    };
    link.run(META)?;
    link.run("INSERT INTO meta SELECT 0, UUID() FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM meta)")?;
    for step in &STEPS[from as usize..] {
        for statement in step.split("//\n").map(str::trim).filter(|text| !text.is_empty()) {
            link.run(&statement.replace("{collation}", kind.collation()))?;
        }
    }
    link.execute("UPDATE meta SET format = ?", values![FORMAT])?;
    let mut meta = link.query("SELECT id FROM meta", values![])?;
    meta.first_mut().map_or_else(|| Err(Trouble::damage("meta is empty")), |row| row.text(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_known_by_name() {
        for (kind, name) in
            [("TABLE", "checkpoints"), ("PROCEDURE", "save"), ("TRIGGER", "checkpoint_deleted")]
        {
            assert!(made(kind).any(|made| made == name), "{kind} {name}");
        }
    }
}
