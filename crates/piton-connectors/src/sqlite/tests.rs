use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use piton_core::{Checkpoint, Epoch};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use super::{SqliteSettings, SqliteSink};
use crate::{
    batch::{Batch, Origin, Schema, Value},
    conformance::{self, at, records},
    sink::{Advance, Fence, SinkError, TransactionalSink},
};

mod damage;
mod orders;
mod rows;
mod source;

/// A folder with a database that may not exist yet.
struct Place {
    folder: TempDir,
    settings: serde_json::Value,
}

impl Place {
    fn new(settings: serde_json::Value) -> Self {
        let mut place = Self { folder: tempfile::tempdir().unwrap(), settings };
        place.settings["path"] = json!("out.db");
        place.settings["table"] = json!("people");
        place
    }

    fn upsert() -> Self {
        Self::new(json!({"key": ["id"]}))
    }

    fn append() -> Self {
        Self::new(json!({}))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("out.db")
    }

    fn open(&self, lease: Duration) -> SqliteSink {
        let settings: SqliteSettings = serde_json::from_value(self.settings.clone()).unwrap();
        SqliteSink::new(&settings, self.folder.path(), lease).unwrap()
    }

    fn fenced(&self, epoch: u64) -> SqliteSink {
        let mut sink = self.open(Duration::from_secs(5));
        sink.fence(&fence(epoch)).unwrap();
        sink
    }

    fn sql(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn names(&self) -> Vec<(i64, String)> {
        rows(&self.sql(), "SELECT id, name FROM people ORDER BY rowid")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl conformance::Target for Place {
    fn sink(&self) -> Box<dyn TransactionalSink> {
        Box::new(self.open(Duration::from_secs(5)))
    }

    fn rows(&self) -> Vec<(i64, String)> {
        let conn = self.sql();
        if !conn.table_exists(Some("main"), "people").unwrap() {
            return Vec::new();
        }
        rows(&conn, "SELECT id, name FROM people ORDER BY id")
    }
}

fn rows<T: rusqlite::types::FromSql, U: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &str,
) -> Vec<(T, U)> {
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn fence(epoch: u64) -> Fence {
    Fence {
        pipeline: "p".into(),
        sink: "s".into(),
        epoch: Epoch(epoch),
        partitions: vec!["input".into()],
        orders: Vec::new(),
    }
}

fn advance(upto: u64) -> Advance {
    Advance { partition: "input".into(), position: at(upto), records: upto }
}

fn ids(ids: std::ops::RangeInclusive<i64>) -> Batch {
    records("input", &ids.map(Some).collect::<Vec<_>>())
}

/// A batch with these columns; its rows as given.
fn table(columns: &[&str], rows: &[&[Value<'_>]]) -> Batch {
    let like = records("input", &[]);
    let schema = Arc::new(Schema::named(columns));
    let mut batch = Batch::new("input".into(), schema, at(rows.len() as u64), like.marks.clone());
    for (mark, row) in rows.iter().enumerate() {
        batch.begin_row(Origin { mark: mark as u64, line: mark as u64 + 1, ordinal: 0 });
        row.iter().for_each(|value| batch.push(*value));
    }
    batch
}

fn deliver(sink: &mut SqliteSink, batch: &Batch, upto: u64) -> Result<Vec<Checkpoint>, SinkError> {
    let mut open = sink.begin()?;
    open.write(batch, 0..batch.rows())?;
    Ok(open.commit(&[advance(upto)])?.checkpoints)
}

fn settings_error(result: Result<impl Sized, SinkError>) -> String {
    match result {
        Err(SinkError::Settings { what }) => what,
        Err(other) => panic!("expected a settings error, got {other:?}"),
        Ok(_) => panic!("expected a settings error"),
    }
}

#[test]
fn conforms() {
    conformance::check(|| Box::new(Place::upsert())).unwrap();
}

/// Invariant 4: nothing is written, created or left behind by looking.
#[test]
fn looking_leaves_the_folder_as_it_was() {
    let place = Place::upsert();
    let mut sink = place.open(Duration::ZERO);
    assert!(sink.peek("p", "s").unwrap().is_empty());
    assert_eq!(place.files(), Vec::<String>::new());

    let mut writer = place.fenced(1);
    let stored = deliver(&mut writer, &ids(1..=3), 3).unwrap();
    assert_eq!(sink.peek("p", "s").unwrap(), stored, "while it is written");
    drop(writer);
    assert_eq!(place.files(), ["out.db"]);
    assert_eq!(sink.peek("p", "s").unwrap(), stored, "when it is at rest");
    assert_eq!(place.files(), ["out.db"]);
}

/// Invariant 5, by the content of the files at the moment of a crash.
#[test]
fn a_crash_between_write_and_commit_leaves_nothing() {
    let (place, after) = (Place::append(), Place::append());
    let mut sink = place.fenced(1);
    let before = deliver(&mut sink, &ids(1..=2), 2).unwrap();
    // More than the cache holds, so that some of it is on disk already.
    sink.pragma("cache_size", 10);
    let mut open = sink.begin().unwrap();
    let many: Vec<Option<i64>> = (3..100_000).map(Some).collect();
    open.write(&records("input", &many), 0..many.len()).unwrap();
    for file in place.files() {
        fs::copy(place.folder.path().join(&file), after.folder.path().join(&file)).unwrap();
    }
    let log = fs::metadata(after.folder.path().join("out.db-wal")).unwrap().len();
    assert!(log > 1_000_000, "only {log} bytes were on disk at the crash");
    assert_eq!(after.open(Duration::ZERO).peek("p", "s").unwrap(), before);
    let read = after.open(Duration::ZERO).fence(&fence(2)).unwrap();
    assert_eq!(read[0].position, Some(at(2)));
    assert_eq!(after.names().len(), 2);
}

/// Invariant 3: an owner that stopped in the middle of a transaction is waited for, then named.
#[test]
fn a_lock_that_is_held_is_waited_for_and_named() {
    let place = Place::upsert();
    let mut old = place.fenced(1);
    let mut open = old.begin().unwrap();
    open.write(&ids(1..=1), 0..1).unwrap();
    let since = Instant::now();
    let lease = Duration::from_millis(700);
    match place.open(lease).fence(&fence(2)) {
        Err(SinkError::Held { what }) => {
            assert!(what.contains("out.db") && what.contains("write lock"), "{what}");
            if cfg!(target_os = "linux") {
                assert!(what.contains(&format!("process {}", std::process::id())), "{what}");
            }
        }
        other => panic!("{other:?}"),
    }
    assert!((lease..lease * 3).contains(&since.elapsed()), "{:?}", since.elapsed());
    let done = open.commit(&[advance(1)]).unwrap();
    assert_eq!(done.checkpoints[0].position, Some(at(1)), "the owner was not harmed");
    assert_eq!(place.fenced(2).peek("p", "s").unwrap()[0].epoch, Epoch(2));
}

#[test]
fn a_busy_database_is_tried_again() {
    let place = Place::upsert();
    let mut sink = place.fenced(1);
    let other = place.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(sink.begin().err(), Some(SinkError::Unavailable { .. })));
    other.execute_batch("COMMIT").unwrap();
    deliver(&mut sink, &ids(1..=1), 1).unwrap();
}

/// Invariant 7: nothing goes on by hope after a commit without an answer.
#[test]
fn a_file_that_was_replaced_is_noticed_before_the_commit() {
    let place = Place::upsert();
    let mut sink = place.fenced(1);
    deliver(&mut sink, &ids(1..=1), 1).unwrap();
    let mut open = sink.begin().unwrap();
    open.write(&ids(2..=2), 0..1).unwrap();
    fs::rename(place.path(), place.folder.path().join("moved.db")).unwrap();
    match open.commit(&[advance(2)]) {
        Err(SinkError::Failed { what }) => assert!(what.contains("moved, deleted"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_advances_nothing_and_goes_on_when_there_is_room() {
    let place = Place::append();
    let mut sink = place.fenced(1);
    deliver(&mut sink, &ids(1..=1), 1).unwrap();
    sink.pragma("max_page_count", 1);
    let many: Vec<Option<i64>> = (2..50_000).map(Some).collect();
    match deliver(&mut sink, &records("input", &many), 50_000) {
        Err(SinkError::Failed { what }) => assert!(what.contains("no room"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(place.names().len(), 1);
    sink.pragma("max_page_count", 1 << 20);
    deliver(&mut sink, &ids(2..=3), 3).unwrap();
    assert_eq!(place.names().len(), 3);
}

/// Invariant 4: every refusal is decided before anything is created.
#[test]
fn settings_that_cannot_work_are_refused_and_create_nothing() {
    let refused = |settings: serde_json::Value| {
        let folder = tempfile::tempdir().unwrap();
        let settings: SqliteSettings = serde_json::from_value(settings).unwrap();
        let what = settings_error(
            SqliteSink::new(&settings, folder.path(), Duration::ZERO)
                .and_then(|mut sink| sink.fence(&fence(1))),
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
        what
    };
    for (settings, what) in [
        (json!({"path": "o.db", "table": "t", "mode": "upsert"}), "needs `key`"),
        (json!({"path": "o.db", "table": "t", "mode": "append", "key": ["a"]}), "no use"),
        (json!({"path": "o.db", "table": "t", "key": ["a", "A"]}), "twice"),
        (json!({"path": "o.db", "table": ""}), "is not a name"),
        (json!({"path": "o.db", "table": "piton_checkpoints"}), "reserved"),
        (json!({"path": "no/o.db", "table": "t"}), "does not exist"),
        (json!({"path": ".", "table": "t"}), "is a folder"),
        (json!({"path": "o.db", "table": "t", "create": false}), "create: false"),
    ] {
        let found = refused(settings);
        assert!(found.contains(what), "{found}");
    }
    let unknown = json!({"path": "o.db", "table": "t", "keys": ["a"]});
    assert!(serde_json::from_value::<SqliteSettings>(unknown).is_err());
}

#[test]
fn a_target_without_the_unique_index_is_refused_with_the_statement_that_helps() {
    let place = Place::upsert();
    place.sql().execute_batch("CREATE TABLE people (id INTEGER, name TEXT)").unwrap();
    let before = fs::read(place.path()).unwrap();
    let what = settings_error(place.open(Duration::ZERO).fence(&fence(1)));
    assert_eq!(fs::read(place.path()).unwrap(), before, "nothing was written");
    let (_, statement) = what.split_once("run again: ").unwrap();
    place.sql().execute_batch(statement).unwrap();
    deliver(&mut place.fenced(1), &ids(1..=2), 2).unwrap();
    assert_eq!(place.names().len(), 2);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Place::upsert();
    fs::write(place.path(), "id,name\n1,a\n".repeat(100)).unwrap();
    let before = fs::read(place.path()).unwrap();
    let mut sink = place.open(Duration::ZERO);
    assert!(matches!(sink.peek("p", "s"), Err(SinkError::Refused { .. })));
    assert!(matches!(sink.fence(&fence(1)), Err(SinkError::Refused { .. })));
    assert_eq!(fs::read(place.path()).unwrap(), before);
}

#[test]
fn a_database_in_another_journal_mode_keeps_it_and_recovers_from_it() {
    let (place, after) = (Place::upsert(), Place::upsert());
    let mode = |path: &Path| -> String {
        let conn = Connection::open(path).unwrap();
        conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap()
    };
    place.sql().execute_batch("CREATE TABLE other (a)").unwrap();
    let mut sink = place.fenced(1);
    let stored = deliver(&mut sink, &ids(1..=2), 2).unwrap();
    assert_eq!(mode(&place.path()), "delete");
    sink.pragma("cache_size", 10);
    let mut open = sink.begin().unwrap();
    let many: Vec<Option<i64>> = (3..100_000).map(Some).collect();
    open.write(&records("input", &many), 0..many.len()).unwrap();
    for file in place.files() {
        fs::copy(place.folder.path().join(&file), after.folder.path().join(&file)).unwrap();
    }
    assert!(after.files().contains(&"out.db-journal".into()), "{:?}", after.files());
    let mut heir = after.open(Duration::ZERO);
    assert_eq!(heir.peek("p", "s").unwrap(), stored, "a hot journal is rolled back");
}
