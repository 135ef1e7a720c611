//! The source: what is read, in which order, and what is refused.

use piton_core::StoredPosition;

use super::*;
use crate::{
    source::{BadRecord, Read, Reader, Source, SourceError, Start},
    sqlite::{SqlSettings, SqlSource},
};

const MIB: usize = 1024 * 1024;

struct Input {
    folder: TempDir,
    settings: serde_json::Value,
    record_limit: usize,
}

impl Input {
    fn new(create: &str, mut settings: serde_json::Value) -> Self {
        settings["url"] = json!("sqlite:in.db");
        let input = Self { folder: tempfile::tempdir().unwrap(), settings, record_limit: 16 * MIB };
        input.sql().execute_batch(create).unwrap();
        input
    }

    fn table(create: &str) -> Self {
        Self::new(create, json!({"table": "t"}))
    }

    fn sql(&self) -> Connection {
        Connection::open(self.folder.path().join("in.db")).unwrap()
    }

    fn source(&self) -> SqlSource {
        let settings: SqlSettings = serde_json::from_value(self.settings.clone()).unwrap();
        SqlSource::new(&settings, self.folder.path(), self.record_limit).unwrap()
    }

    fn reader(&self, position: Option<&StoredPosition>) -> Result<Box<dyn Reader>, SourceError> {
        let partition = self.source().partitions().map_or("t".into(), |mut all| all.remove(0));
        self.source().reader(&[Start { partition, position: position.cloned() }])
    }

    /// Everything from a position, in pieces, as JSON.
    fn read(
        &self,
        position: Option<&StoredPosition>,
        limit: usize,
    ) -> Result<Vec<String>, SourceError> {
        let mut reader = self.reader(position)?;
        let mut all = Vec::new();
        loop {
            match reader.read(limit)? {
                Read::Batch(batch) => {
                    assert!((1..=limit).contains(&batch.rows()));
                    all.extend((0..batch.rows()).map(|row| line(&batch, row)));
                }
                Read::Bad(bad) => all.push(format!("bad: {}", bad.reason)),
                Read::Finished => return Ok(all),
                Read::Idle => panic!("a bounded source has no reason to wait"),
            }
        }
    }
}

fn line(batch: &Batch, row: usize) -> String {
    let mut out = Vec::new();
    batch.write_json(row, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn failed(result: Result<impl Sized, SourceError>) -> String {
    match result {
        Err(SourceError::Failed { what }) => what,
        Err(other) => panic!("expected a failure, got {other:?}"),
        Ok(_) => panic!("expected a failure"),
    }
}

fn gap(result: Result<(), SourceError>) -> String {
    match result {
        Err(error @ SourceError::Gap { .. }) => error.to_string(),
        other => panic!("expected a gap, got {other:?}"),
    }
}

fn at_key(json: &str) -> StoredPosition {
    StoredPosition { kind: "sql".into(), json: json.into() }
}

/// Invariant 6: a replay from any record's position gives that record and all after it, each with
/// the id it had.
#[test]
fn reading_goes_on_exactly_with_the_record_of_a_position() {
    let input = Input::table(
        "CREATE TABLE t (land TEXT, year INT, n REAL, PRIMARY KEY (land, year));
         WITH RECURSIVE s(i) AS (SELECT 40 UNION ALL SELECT i - 1 FROM s WHERE i > 1)
         INSERT INTO t SELECT char(65 + i % 5), i, i / 4.0 FROM s",
    );
    let all = input.read(None, 1000).unwrap();
    assert_eq!(all.len(), 40);
    assert_eq!(all[0], r#"{"land":"A","year":5,"n":1.25}"#);
    for limit in [1, 7, 40, 41] {
        let mut reader = input.reader(None).unwrap();
        let mut seen = 0;
        while let Read::Batch(batch) = reader.read(limit).unwrap() {
            for row in 0..batch.rows() {
                let rest = input.read(Some(&batch.resume_at(row)), limit).unwrap();
                assert_eq!(rest, all[seen..]);
                seen += 1;
            }
            assert_eq!(input.read(Some(&batch.end), limit).unwrap(), all[seen..]);
            if seen == batch.rows() {
                assert_eq!(batch.id(0), "t@A,5");
                assert_eq!(batch.place(0), "in.db, table t, (land, year) = (A,5)");
            }
        }
        assert_eq!(seen, 40);
    }
}

#[test]
fn keys_of_every_kind_are_read_once() {
    let mut input = Input::table(
        "CREATE TABLE t (k UNIQUE NOT NULL);
         INSERT INTO t VALUES (1), (1.5), (9007199254740993), (9007199254740992.0), ('1'), ('a'),
           ('A'), (''), (x''), (x'00ff'), (-9e999), (9e999), (-3), ('é'), (9223372036854775807)",
    );
    input.settings["key"] = json!(["K"]);
    let all = input.read(None, 100).unwrap();
    assert_eq!(all.len(), 15);
    for limit in [1, 2, 3] {
        assert_eq!(input.read(None, limit).unwrap(), all);
    }
    assert_eq!(input.source().identity()["key"], json!(["K"]));
}

#[test]
fn a_collated_key_loses_no_row_that_differs_in_case() {
    let mut input = Input::table(
        "CREATE TABLE t (k TEXT COLLATE NOCASE NOT NULL);
         CREATE UNIQUE INDEX i ON t (k COLLATE BINARY);
         INSERT INTO t VALUES ('a'), ('A'), ('B'), ('b'), ('aB'), ('Ab')",
    );
    input.settings["key"] = json!(["k"]);
    let names = ["A", "Ab", "B", "a", "aB", "b"].map(|name| format!("{{\"k\":\"{name}\"}}"));
    for limit in [1, 2, 100] {
        assert_eq!(input.read(None, limit).unwrap(), names);
    }
}

#[test]
fn a_query_with_equal_keys_is_stopped_wherever_the_piece_ends() {
    let input = |rows: &str| {
        let create = format!("CREATE TABLE t (a, b); INSERT INTO t VALUES {rows}");
        Input::new(&create, json!({"query": "SELECT b, a FROM t;", "key": ["a"]}))
    };
    for limit in 1..=4 {
        let what = failed(input("(1, 1), (2, 2), (2, 3), (3, 4)").read(None, limit));
        assert!(what.contains("two rows have the key (a) = (2)"), "{what}");
        let good = input("(1, 1), (2, 2), (3, 3)").read(None, limit).unwrap();
        assert_eq!(good, [r#"{"b":1,"a":1}"#, r#"{"b":2,"a":2}"#, r#"{"b":3,"a":3}"#]);
    }
}

#[test]
fn rows_without_a_key_are_never_passed_over() {
    let create = "CREATE TABLE t (a, b, UNIQUE (a, b)); INSERT INTO t VALUES (1, 1), (2, 2)";
    let mut table = Input::table(create);
    table.settings["key"] = json!(["a", "b"]);
    let query = Input::new(create, json!({"query": "SELECT * FROM t", "key": ["a", "b"]}));
    for input in [&table, &query] {
        assert_eq!(input.read(None, 10).unwrap().len(), 2);
        let mut reader = input.reader(None).unwrap();
        assert!(matches!(reader.read(10), Ok(Read::Batch(_))));
        input.sql().execute_batch("INSERT INTO t VALUES (1, NULL)").unwrap();
        let what = failed(reader.read(10));
        assert!(what.contains("NULL in its key (a, b)"), "{what}");
        assert!(failed(input.read(None, 10)).contains("NULL"));
    }
}

#[test]
fn polling_yields_new_rows_and_hears_a_stop() {
    let mut input = Input::table("CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)");
    input.settings["poll"] = json!("300ms");
    assert!(!input.source().is_bounded());
    let mut reader = input.reader(None).unwrap();
    assert!(matches!(reader.read(10).unwrap(), Read::Idle));
    input.sql().execute_batch("INSERT INTO t VALUES (1, 'a'), (2, 'b')").unwrap();
    let since = Instant::now();
    let batch = loop {
        let read = Instant::now();
        match reader.read(10).unwrap() {
            Read::Batch(batch) => break batch,
            Read::Idle => assert!(read.elapsed() < Duration::from_millis(200)),
            other => panic!("{other:?}"),
        }
        assert!(since.elapsed() < Duration::from_secs(5), "it never looked again");
    };
    assert!(since.elapsed() > Duration::from_millis(150), "it looked before its time");
    assert_eq!(batch.rows(), 2);
    assert!(matches!(reader.read(10).unwrap(), Read::Idle));
}

/// A position of before, without a fingerprint, is gone on from.
#[test]
fn a_table_that_was_altered_is_a_gap_but_for_a_new_column_under_a_poll() {
    let mut input =
        Input::table("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    let end = match input.reader(None).unwrap().read(10).unwrap() {
        Read::Batch(batch) => batch.end,
        other => panic!("{other:?}"),
    };
    let verify = |input: &Input, position: &StoredPosition| {
        let start = Start { partition: "t".into(), position: Some(position.clone()) };
        input.source().verify(&start, false)
    };
    verify(&input, &end).unwrap();
    input.sql().execute_batch("ALTER TABLE t ADD COLUMN more TEXT").unwrap();
    let refused = gap(verify(&input, &end));
    assert!(refused.contains("column 'more' is new") && !refused.contains("fingerprint"));
    verify(&input, &at_key(r#"{"key":[1]}"#)).unwrap();
    input.settings["poll"] = json!("1s");
    verify(&input, &end).unwrap();
}

/// Invariant 4: what cannot be continued is a gap, never a silent start from somewhere else.
#[test]
fn a_source_that_is_not_what_it_was_is_a_gap() {
    let create = "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
    let verify = |input: &Input, partition: &str, json: &str| {
        let start = Start { partition: partition.into(), position: Some(at_key(json)) };
        input.source().verify(&start, true)
    };
    let input = Input::table(create);
    verify(&input, "t", r#"{"key":[1]}"#).unwrap();
    assert!(gap(verify(&input, "u", r#"{"key":[1]}"#)).contains("now reads 't'"));
    assert!(gap(verify(&input, "t", r#"{"key":[1,2]}"#)).contains("its key is now (id)"));
    for wrong in [r#"{"offset":5}"#, r#"{"key":[null]}"#, r#"{"key":[{"hex":"0g"}]}"#] {
        let result = verify(&input, "t", wrong);
        assert!(matches!(result, Err(SourceError::Position(_))), "{wrong}: {result:?}");
    }
    let foreign = StoredPosition { kind: "file".into(), json: r#"{"key":[1]}"#.into() };
    assert!(matches!(input.reader(Some(&foreign)).err(), Some(SourceError::Position(_))));
    input.sql().execute_batch("DROP TABLE t").unwrap();
    assert!(gap(verify(&input, "t", r#"{"key":[1]}"#)).contains("there is no table 't'"));
    input.sql().execute_batch("CREATE TABLE t (id INTEGER)").unwrap();
    assert!(gap(verify(&input, "t", r#"{"key":[1]}"#)).contains("no primary key"));
    fs::remove_file(input.folder.path().join("in.db")).unwrap();
    assert!(gap(verify(&input, "t", r#"{"key":[1]}"#)).contains("there is no database"));
    assert!(matches!(input.source().partitions(), Err(SourceError::Missing { .. })));
    assert!(input.folder.path().read_dir().unwrap().next().is_none(), "nothing was created");
}

#[test]
fn a_row_that_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    let create = "CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT);
        INSERT INTO t VALUES (1, 'a'), (2, CAST(x'61ff' AS TEXT)), (3, 'c'),
          (4, zeroblob(3000000)), (5, 'e'), (6, zeroblob(1200000)), (7, 'g')";
    let mut table = Input::table(create);
    // Without an index on its key, so that every row goes through a sort.
    let mut query =
        Input::new(create, json!({"query": "SELECT id + 0 AS id, n FROM t", "key": ["id"]}));
    for input in [&mut table, &mut query] {
        input.record_limit = MIB;
        for limit in [1, 3, 100] {
            let all = input.read(None, limit).unwrap();
            assert_eq!(all.len(), 7, "{all:?}");
            assert_eq!(all[0], r#"{"id":1,"n":"a"}"#);
            assert!(
                all[1].contains("column 'n': its text is not UTF-8: 'a\u{fffd}'"),
                "{}",
                all[1]
            );
            assert_eq!(all[2], r#"{"id":3,"n":"c"}"#);
            assert!(all[3].starts_with("bad: the row has"), "{}", all[3]);
            assert!(all[5].starts_with("bad: the row has"), "{}", all[5]);
            assert_eq!(all[6], r#"{"id":7,"n":"g"}"#);
        }
    }
    let mut reader = table.reader(Some(&at_key(r#"{"key":[3]}"#))).unwrap();
    let Read::Bad(bad) = reader.read(10).unwrap() else { panic!("row 4 is too large") };
    let BadRecord { id, place, record, end, .. } = bad;
    assert_eq!((id.as_str(), place.as_str()), ("t@4", "in.db, table t, (id) = (4)"));
    assert_eq!((record.as_str(), end), (r#"{"id":4}"#, at_key(r#"{"key":[4]}"#)));
}

/// Invariant 8: a piece is bounded in bytes, whatever is asked for.
#[test]
fn a_piece_of_large_rows_is_cut() {
    let input = Input::table(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n);
         WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40)
         INSERT INTO t SELECT i, zeroblob(1048576) FROM s",
    );
    let mut reader = input.reader(None).unwrap();
    let mut rows = 0;
    while let Read::Batch(batch) = reader.read(usize::MAX).unwrap() {
        assert!(batch.size() < 6 * MIB, "{} bytes", batch.size());
        rows += batch.rows();
    }
    assert_eq!(rows, 40);
}

/// A read is a statement of its own: it ends before the next, and no writer waits for a reader.
#[test]
fn a_reader_stands_in_nobodys_way() {
    let input =
        Input::table("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)");
    let mut reader = input.reader(None).unwrap();
    assert!(matches!(reader.read(2).unwrap(), Read::Batch(_)));
    let writer = input.sql();
    writer.busy_timeout(Duration::ZERO).unwrap();
    writer.execute_batch("INSERT INTO t VALUES (4); ALTER TABLE t ADD COLUMN n DEFAULT 7").unwrap();
    let Read::Batch(batch) = reader.read(10).unwrap() else { panic!("there are two more") };
    assert_eq!(line(&batch, 1), r#"{"id":4,"n":7}"#);
}

#[test]
fn progress_is_told_where_it_is_cheap() {
    let input = Input::table(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (11), (15), (20)",
    );
    let progress = |json: Option<&str>| {
        input.source().progress(&[Start { partition: "t".into(), position: json.map(at_key) }])
    };
    assert_eq!(progress(None), Some((0, 10)));
    assert_eq!(progress(Some(r#"{"key":[15]}"#)), Some((5, 10)));
    assert_eq!(progress(Some(r#"{"key":[99]}"#)), Some((10, 10)));
}

#[test]
fn a_dead_letter_is_read_again_from_its_row() {
    let input = Input::table(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 'mended')",
    );
    let parse = |raw: &str| input.source().parse("t", raw);
    let again = parse(r#"{"id":1,"n":"broken"}"#).unwrap();
    assert_eq!((line(&again, 0), again.id(0)), (r#"{"id":1,"n":"mended"}"#.into(), "t@1".into()));
    let kept = parse(r#"{"id":2,"n":"kept"}"#).unwrap();
    assert_eq!((line(&kept, 0), kept.id(0)), (r#"{"id":2,"n":"kept"}"#.into(), "t@2".into()));
    assert!(failed(parse(r#"{"id":2}"#)).contains("gone"));
    assert!(failed(parse(r#"{"n":2}"#)).contains("lacks the key"));
    assert!(failed(parse("[")).contains("dead letter"));
}

#[test]
fn a_row_number_can_be_the_key() {
    let mut input = Input::table("CREATE TABLE t (n); INSERT INTO t VALUES ('a'), ('b')");
    input.settings["key"] = json!(["rowid"]);
    assert_eq!(input.read(None, 1).unwrap(), [r#"{"n":"a","rowid":1}"#, r#"{"n":"b","rowid":2}"#]);
}

#[test]
fn settings_that_contradict_themselves_are_refused() {
    for (settings, wanted) in [
        (json!({"url": "sqlite:a.db"}), "either `table` or `query`"),
        (json!({"url": "sqlite:a.db", "table": "t", "query": "q"}), "either `table` or `query`"),
        (json!({"url": "sqlite:a.db", "query": "SELECT 1"}), "needs `key`"),
        (json!({"url": "sqlite:", "table": "t"}), "must name a database file"),
        (json!({"url": "a.db", "table": "t"}), "must be sqlite:PATH"),
        (json!({"url": "oracle://u:secret@h/d", "table": "t"}), "must be sqlite:PATH"),
    ] {
        let settings: SqlSettings = serde_json::from_value(settings).unwrap();
        match SqlSource::new(&settings, Path::new("."), MIB) {
            Err(SourceError::Settings { what }) => {
                assert!(what.contains(wanted) && !what.contains("secret"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    for wrong in [json!({"url": "sqlite:a", "batch": 0}), json!({"url": "sqlite:a", "tabel": "t"})]
    {
        assert!(serde_json::from_value::<SqlSettings>(wrong).is_err());
    }
}
