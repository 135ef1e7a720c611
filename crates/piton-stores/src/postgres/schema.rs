//! The schema `piton`: how it is found, made and brought up to date.
//!
//! All of it happens in one transaction under an advisory lock, so that of two who begin at the same
//! moment one waits for the other, and nobody ever finds half a schema.

use std::path::PathBuf;

use piton_core::StoreError;

use super::connection::Link;
use crate::{
    Mode,
    sql::{Result, Setback, Sql, Trouble, values},
};

/// The schema's name.
pub(super) const NAME: &str = "piton";

/// What brings a schema from each format to the next: the first makes it. Columns are only ever
/// added.
const STEPS: &[&str] = &[concat!(include_str!("format_1.sql"), include_str!("processors.sql"))];

/// The format of this program.
const FORMAT: u64 = STEPS.len() as u64;

/// The advisory lock under which the schema is made and brought up to date: "piton".
const LOCK: i64 = 0x70_6974_6F6E;

/// The oldest PostgreSQL that has what is used here (`bit_xor`).
const OLDEST: u64 = 140_000;

/// What was found in a database.
enum Found {
    /// There is no store, and nothing of that name.
    Nothing,
    /// There is a store.
    Store { format: u64, id: String },
}

/// Looks for the store in a database, and makes it if the mode says so. Returns what identifies it.
pub(super) fn open(link: &mut Link, mode: Mode, at: &str) -> Result<String> {
    refuse_server(link)?;
    let found = look(link, at)?;
    let existing = mode == Mode::Existing;
    match found {
        Found::Nothing if existing => {
            Err(Trouble::Store(StoreError::Missing { path: PathBuf::from(at) }))
        }
        Found::Store { format: FORMAT, id } => Ok(id),
        Found::Store { format, .. } if format > FORMAT => {
            let (at, found, known) = (at.to_owned(), format, FORMAT);
            Err(Trouble::Store(StoreError::Newer { at, found, known }))
        }
        Found::Store { format, .. } if existing => {
            let what = format!(
                "its format is {format}, that of an older piton: `piton run` brings it to \
                 {FORMAT}, for every program that uses it"
            );
            Err(Setback::Refused(what).into())
        }
        Found::Nothing | Found::Store { .. } => make(link, at),
    }
}

/// Refuses a server that cannot have a store.
fn refuse_server(link: &mut Link) -> Result<()> {
    let sql = "SELECT current_setting('server_version_num')::bigint,
        pg_is_in_recovery(), current_setting('server_version')";
    let mut found = link.query(sql, values![])?;
    let Some(row) = found.first_mut() else { return Ok(()) };
    let (version, name) = (row.number(0)?, row.text(2)?);
    if version < OLDEST {
        let what = format!("the server is PostgreSQL {name}: a store needs 14 or newer");
        return Err(Setback::Refused(what).into());
    }
    if row.integer(1)? != 0 {
        let what = "the server only reads, as a replica: name the primary".to_owned();
        return Err(Setback::Refused(what).into());
    }
    Ok(())
}

fn look(link: &mut Link, at: &str) -> Result<Found> {
    let sql = "SELECT relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = ? AND relkind = 'r'";
    let mut tables = Vec::new();
    for mut row in link.query(sql, values![NAME])? {
        tables.push(row.text(0)?);
    }
    if tables.is_empty() {
        return Ok(Found::Nothing);
    }
    let has = |name: &str| tables.iter().any(|table| table == name);
    if !has("meta") {
        if has("manifest") {
            return Err(Trouble::damage("the table meta of the schema piton is missing"));
        }
        let what = "it has a schema 'piton' with tables of somebody else's".to_owned();
        return Err(Trouble::Store(StoreError::Foreign { at: at.to_owned(), what }));
    }
    let mut meta = link.query("SELECT format, id FROM piton.meta", values![])?;
    let [row] = &mut meta[..] else {
        return Err(Trouble::damage("the table meta does not have one row"));
    };
    let (format, id) = (row.number(0)?, row.text(1)?);
    if format == FORMAT {
        check(link)?;
    }
    Ok(Found::Store { format, id })
}

/// Compares what there is with what was made, by name: what decides is guarded by checksums and
/// manifests, and a trigger that is gone or off guards nobody.
fn check(link: &mut Link) -> Result<()> {
    let sql = "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'piton'::regnamespace AND relkind IN ('r', 'i', 'v')
        UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'piton'::regnamespace
        UNION ALL SELECT tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
            WHERE relnamespace = 'piton'::regnamespace AND tgenabled IN ('O', 'A')";
    let mut names = Vec::new();
    for mut row in link.query(sql, values![])? {
        names.push(row.text(0)?);
    }
    match made().find(|name| !names.iter().any(|there| there == name)) {
        Some(name) => Err(Trouble::damage(format!("'{name}' of the schema piton is missing"))),
        None => Ok(()),
    }
}

/// The names of all that the steps make.
fn made() -> impl Iterator<Item = &'static str> {
    let lines = STEPS.iter().flat_map(|step| step.lines());
    lines.filter_map(|line| {
        let mut words = line.strip_prefix("CREATE ")?.split_whitespace();
        let kind =
            words.find(|word| ["TABLE", "INDEX", "VIEW", "FUNCTION", "TRIGGER"].contains(word))?;
        let name = words.next()?;
        Some(if kind == "FUNCTION" { name.split('(').next()? } else { name })
    })
}

/// Makes the schema, or brings it up to date.
fn make(link: &mut Link, at: &str) -> Result<String> {
    link.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
    match make_in_transaction(link, at) {
        Ok(id) => {
            link.run("COMMIT")?;
            Ok(id)
        }
        Err(trouble) => {
            if !trouble.is_lost() {
                let _ = link.run("ROLLBACK");
            }
            Err(trouble)
        }
    }
}

fn make_in_transaction(link: &mut Link, at: &str) -> Result<String> {
    link.query("SELECT pg_advisory_xact_lock(?)", values![LOCK])?;
    let (from, id) = match look(link, at)? {
        // Somebody else was quicker.
        Found::Store { format: FORMAT, id } => return Ok(id),
        Found::Store { format, id } => (format, Some(id)),
        Found::Nothing => (0, None),
    };
    let there = "SELECT FROM pg_namespace WHERE nspname = ?";
    if link.query(there, values![NAME])?.is_empty() {
        link.run(&format!("CREATE SCHEMA {NAME}"))?;
    }
    link.run(&format!("SET LOCAL search_path = {NAME}, pg_temp"))?;
    for step in &STEPS[from as usize..] {
        link.run(step)?;
    }
    if let Some(id) = id {
        link.execute("UPDATE meta SET format = ?", values![FORMAT])?;
        return Ok(id);
    }
    let sql = "INSERT INTO meta (format, id) VALUES (?, gen_random_uuid()::text) RETURNING id";
    let mut made = link.query(sql, values![FORMAT])?;
    made.first_mut().map_or_else(|| Err(Trouble::damage("meta is empty")), |row| row.text(0))
}

/// What makes the schema, for a person to run: as a program would make it, with the functions for
/// programs in other languages under their plain names. It may be run again.
pub(super) fn script() -> String {
    let steps = STEPS.concat();
    let shell = include_str!("shell.sql");
    format!(
        "-- The schema of a Piton store, format {FORMAT}: psql -f FILE, as often as you like.
BEGIN;
DO $piton_do$
DECLARE
  path text := current_setting('search_path');
BEGIN
  PERFORM pg_advisory_xact_lock({LOCK});
  IF to_regclass('{NAME}.meta') IS NULL THEN
    CREATE SCHEMA IF NOT EXISTS {NAME};
    PERFORM set_config('search_path', '{NAME}, pg_temp', true);
    EXECUTE $piton_sql$
{steps}
$piton_sql$;
    INSERT INTO meta (format, id) VALUES ({FORMAT}, gen_random_uuid()::text);
    PERFORM set_config('search_path', path, true);
  ELSIF (SELECT format FROM {NAME}.meta) <> {FORMAT} THEN
    RAISE EXCEPTION 'the schema {NAME} is of another format: `piton run` brings it up to date';
  END IF;
END $piton_do$;
{shell}
COMMIT;
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_known_by_name() {
        let names: Vec<&str> = made().collect();
        for name in ["meta", "checkpoints", "history_by_pipeline", "save", "checkpoint_deleted"] {
            assert!(names.contains(&name), "{name} of {names:?}");
        }
    }
}
