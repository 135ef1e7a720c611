//! What CSV to `SQLite` is compared with: the program that one would write for it by hand, without
//! anything that lets it go on after a crash. As durable as Piton's sink: WAL, synchronous=FULL.

use std::path::Path;

use rusqlite::{Connection, params_from_iter};

use super::csv_sqlite::ROWS_PER_TRANSACTION;
use crate::command::Failure;

/// `baseline-csv-sqlite IN OUT [KEY]`: appends, or writes over the row with the same key.
pub(super) fn main(args: &[&str]) -> Result<(), Failure> {
    let (input, output, key) = match args {
        [input, output] => (input, output, None),
        [input, output, key] => (input, output, Some(*key)),
        _ => return Err(Failure::Usage("baseline-csv-sqlite IN OUT [KEY]".to_owned())),
    };
    copy(Path::new(input), Path::new(output), key)
        .map_err(|error| Failure::Found(error.to_string()))
}

fn copy(input: &Path, output: &Path, key: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let mut reader = csv::Reader::from_path(input)?;
    let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let mut db = Connection::open(output)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    let (create, insert) = statements(&columns, key);
    db.execute(&create, [])?;

    let mut record = csv::StringRecord::new();
    let mut more = true;
    while more {
        let transaction = db.transaction()?;
        let mut statement = transaction.prepare_cached(&insert)?;
        for _ in 0..ROWS_PER_TRANSACTION {
            more = reader.read_record(&mut record)?;
            if !more {
                break;
            }
            statement.execute(params_from_iter(record.iter()))?;
        }
        drop(statement);
        transaction.commit()?;
    }
    Ok(())
}

fn statements(columns: &[String], key: Option<&str>) -> (String, String) {
    let quoted: Vec<String> = columns.iter().map(|name| format!("\"{name}\"")).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    let names = quoted.join(", ");
    let insert = format!("INSERT INTO flights ({names}) VALUES ({marks})");
    let Some(key) = key else {
        return (format!("CREATE TABLE flights ({names})"), insert);
    };
    let set: Vec<String> = quoted.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    (
        format!("CREATE TABLE flights ({names}, PRIMARY KEY (\"{key}\"))"),
        format!("{insert} ON CONFLICT (\"{key}\") DO UPDATE SET {}", set.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.db"));
        std::fs::write(&input, "id,a\n1,x\n2,y\n").unwrap();
        for (key, times) in [(None, 4), (Some("id"), 2)] {
            super::super::data::remove(&output).unwrap();
            copy(&input, &output, key).unwrap();
            let db = Connection::open(&output).unwrap();
            db.execute("DROP TABLE IF EXISTS once", []).unwrap();
            let (_, insert) = statements(&["id".into(), "a".into()], key);
            db.execute(&insert, ["1", "z"]).unwrap();
            db.execute(&insert, ["2", "y"]).unwrap();
            let count: i64 =
                db.query_row("SELECT count(*) FROM flights", [], |row| row.get(0)).unwrap();
            assert_eq!(count, times);
        }
    }
}
