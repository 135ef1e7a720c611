//! Reading tables and queries by their key.

use std::collections::BTreeMap;

use piton_connectors::{
    batch::Batch,
    postgres::PostgresSource,
    source::{Read, Source, SourceError, Start},
    sqlite::SqlSettings,
};
use piton_testkit::{
    Dice,
    service::{self, Cut, Postgres},
};

use crate::place::Place;

const LIMIT: usize = 1 << 20;

impl Place {
    pub(crate) fn source(&self, rest: &str) -> PostgresSource {
        self.try_source(rest).unwrap()
    }

    fn try_source(&self, rest: &str) -> Result<PostgresSource, SourceError> {
        let settings = format!("url: {}\n{rest}", self.url);
        let settings: SqlSettings = serde_saphyr::from_str(&settings).unwrap();
        PostgresSource::new(&settings, LIMIT)
    }
}

pub(crate) fn json(batch: &Batch) -> Vec<String> {
    let line = |row| {
        let mut out = Vec::new();
        batch.write_json(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (0..batch.rows()).map(line).collect()
}

/// Reads to the end, at most `limit` at once.
pub(crate) fn read_all(
    source: &PostgresSource,
    start: Option<&Start>,
    limit: usize,
) -> Vec<String> {
    let mut reader = source.reader(start.map(std::slice::from_ref).unwrap_or_default()).unwrap();
    let mut all = Vec::new();
    loop {
        match reader.read(limit).unwrap() {
            Read::Batch(batch) => all.extend(json(&batch)),
            Read::Bad(bad) => all.push(bad.reason),
            Read::Idle => {}
            Read::Finished => return all,
        }
    }
}

#[test]
fn rows_come_in_the_order_of_their_key_with_their_types() {
    let Some(place) = Place::new() else { return };
    let linguistic = "SELECT quote_ident(collname) FROM pg_collation \
                      WHERE collname IN ('en-x-icu', 'en_US.utf8') LIMIT 1";
    let collation = place.column(linguistic).pop().unwrap_or("\"C\"".into());
    place.run(&format!(
        "CREATE TYPE pair AS (a int, b text);
         CREATE TABLE t (region text COLLATE {collation}, id bigint, exact numeric, x float8,
           ok bool, raw bytea, at timestamptz, day date, doc json, tags text[], twin pair,
           PRIMARY KEY (region, id));
         INSERT INTO t VALUES
           ('b', 2, 1.50, 0.1, true, '\\x00ff', '2024-02-29 12:00+02', '2024-02-29',
             E'{{\"a\":\\n 1}}', '{{\"x,\",NULL}}', (1, 'y')),
           ('B', 1, 'NaN', 'Infinity', false, '', 'infinity', NULL, NULL, '{{}}', NULL),
           (E'a\\tb\\\\', 7, 12345678901234567890.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
    ));
    let rows = read_all(&place.source("table: t"), None, 2);
    assert_eq!(rows.len(), 3, "{rows:?}");
    let order = place.column("SELECT region FROM t ORDER BY region, id");
    let regions: Vec<String> = rows
        .iter()
        .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["region"].clone())
        .map(|region| region.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(regions, order, "as the server orders them");
    let wanted = r#"{"region":"b","id":2,"exact":1.50,"x":0.1,"ok":true,"raw":"\\x00ff","at":"2024-02-29T10:00:00Z","day":"2024-02-29","doc":{"a":  1},"tags":["x,",null],"twin":{"a":1,"b":"y"}}"#;
    assert!(rows.iter().any(|row| row == wanted), "{rows:#?}");
    assert!(rows.iter().any(|row| row.contains(r#""exact":"NaN","x":"Infinity""#)), "{rows:#?}");
    assert!(rows.iter().any(|row| row.contains(r#""exact":12345678901234567890.5"#)));
}

/// Invariant 2, and no row twice: from any position that was given, the rest comes.
#[test]
fn reading_goes_on_after_any_record() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE t (a int, b uuid, n int, PRIMARY KEY (a, b));
         INSERT INTO t SELECT n / 7, md5(n::text)::uuid, n FROM generate_series(1, 200) n",
    );
    let query = "query: 'SELECT * FROM t WHERE n > 3'\nkey: [a, b]\nbatch: 30";
    for settings in ["table: t\nbatch: 30", query] {
        let source = place.source(settings);
        let all = read_all(&source, None, 1000);
        assert_eq!(all.len(), if settings == query { 197 } else { 200 });
        let mut reader = source.reader(&[]).unwrap();
        let mut before = 0;
        while let Read::Batch(batch) = reader.read(11).unwrap() {
            for row in [0, batch.rows() - 1] {
                let partition = source.partitions().unwrap().remove(0);
                let position = Some(batch.resume_at(row));
                let start = Start { partition, position };
                source.verify(&start, true).unwrap();
                assert_eq!(read_all(&source, Some(&start), 1000), all[before + row..]);
            }
            before += batch.rows();
        }
        assert_eq!(before, all.len());
    }
}

/// However deep the table, a piece is found by the index, and nothing is sorted.
#[test]
fn a_piece_is_found_by_the_index_of_the_key() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE t (a text, b bigint, c text, PRIMARY KEY (a, b));
         INSERT INTO t SELECT n % 10, n, repeat('x', 100) FROM generate_series(1, 30000) n;
         ANALYZE t;
         LOAD 'auto_explain'",
    );
    let source = place.source("table: t\nbatch: 1000");
    let mut client = place.client();
    let database = place.url.rsplit('/').next().unwrap();
    client
        .batch_execute(&format!(
            "ALTER DATABASE {database} SET session_preload_libraries = 'auto_explain';
             ALTER DATABASE {database} SET auto_explain.log_min_duration = 0"
        ))
        .unwrap();
    assert_eq!(read_all(&source, None, 1000).len(), 30_000);
    let log = service::needed(Postgres::shared()).unwrap().log();
    let plans: Vec<&str> = log
        .split("duration:")
        .filter(|entry| entry.contains("plan:") && entry.contains("COPY (SELECT q.\"a\", q.\"b\""))
        .collect();
    assert!(plans.len() >= 30, "{} plans", plans.len());
    for plan in plans {
        let plan = plan.split("LOG:").next().unwrap();
        assert!(plan.contains("Index") && !plan.contains("Sort"), "{plan}");
    }
}

#[test]
fn a_bounded_read_sees_one_state_of_the_database() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)");
    let source = place.source("table: t\nbatch: 10");
    let mut reader = source.reader(&[]).unwrap();
    let Read::Batch(first) = reader.read(10).unwrap() else { panic!() };
    place.run("DELETE FROM t WHERE id > 50; INSERT INTO t SELECT generate_series(101, 200)");
    let mut rows = first.rows();
    while let Read::Batch(batch) = reader.read(1000).unwrap() {
        rows += batch.rows();
    }
    assert_eq!(rows, 100);
    assert_eq!(read_all(&source, None, 1000).len(), 150);
}

#[test]
fn a_connection_that_is_lost_is_made_again() {
    let Some(place) = Place::new() else { return };
    let server = service::needed(Postgres::shared()).unwrap();
    place.run(
        "CREATE TABLE t (id int PRIMARY KEY, pad text);
         INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 60000) n",
    );
    let cut = Cut::before(server.address()).unwrap();
    let through = Place { url: cut.url(&place.url) };
    let mut dice = Dice::new();
    for settings in ["table: t\nbatch: 2000", "table: t\npoll: 1s"] {
        let mut reader = through.source(settings).reader(&[]).unwrap();
        let mut counts: BTreeMap<i64, u32> = BTreeMap::new();
        let begun = cut.cuts();
        while counts.len() < 60_000 {
            if cut.cuts() - begun < 10 {
                cut.after_answered(dice.between(10_000, 700_000));
            }
            if let Read::Batch(batch) = reader.read(1000).unwrap() {
                for row in json(&batch) {
                    let row: serde_json::Value = serde_json::from_str(&row).unwrap();
                    *counts.entry(row["id"].as_i64().unwrap()).or_default() += 1;
                }
            }
        }
        assert!(counts.values().all(|count| *count == 1), "{settings}: a row came twice");
        assert!(cut.cuts() - begun >= 3, "{settings}: {} cuts", cut.cuts() - begun);
        cut.after_answered(u64::MAX >> 1);
    }
}

#[test]
fn what_cannot_be_read_in_order_is_refused() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, late int NOT NULL UNIQUE DEFERRABLE);
         CREATE TABLE bare (id int); INSERT INTO t VALUES (1, NULL, 1), (2, 'a', 2);
         CREATE VIEW seen AS SELECT * FROM t;
         CREATE TABLE kept (id int GENERATED ALWAYS AS IDENTITY (CACHE 5) PRIMARY KEY);
         CREATE SEQUENCE by_twenty CACHE 20;
         CREATE TABLE own (id bigint DEFAULT nextval('by_twenty') PRIMARY KEY)",
    );
    for (settings, word) in [
        ("table: none", "no table 'none'"),
        ("table: bare", "no primary key"),
        ("table: bare\nkey: [id]", "may be NULL"),
        ("table: t\nkey: [name]", "may be NULL"),
        ("table: t\nkey: [late]", "unique"),
        ("table: t\nkey: [nmae]", "did you mean 'name'"),
        ("table: seen", "`query`"),
        ("query: 'SELECT * FROM t'\nkey: [nix]", "it has: id, name, late"),
        ("query: 'SELECT * FROM nowhere'\nkey: [id]", "nowhere"),
        ("query: 'SELECT id FROM t WHERE id = $1'\nkey: [id]", "parameters"),
        ("query: 'SELECT id, name FROM t'\nkey: [name]", "NULL in its key"),
        ("query: 'SELECT 1 AS id UNION ALL SELECT 1'\nkey: [id]", "two rows have the key"),
        ("query: 'DELETE FROM t RETURNING id'\nkey: [id]", "`query` cannot be asked"),
        ("table: kept\npoll: 1s", "ALTER SEQUENCE kept_id_seq CACHE 1"),
        ("table: own\npoll: 1s", "takes 20 numbers at once"),
    ] {
        let refused = place.source(settings).reader(&[]).and_then(|mut reader| reader.read(10));
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(word), "{settings}: {error}");
    }
    for settings in [
        "table: ''",
        "query: SELECT 1",
        "table: t\nquery: SELECT 1\nkey: [a]",
        "table: t\npoll: 1s\npartitions: 2",
        "query: SELECT 1 AS id\nkey: [id]\npartitions: 2",
        "table: t\npartitions: 65",
    ] {
        assert!(place.try_source(settings).is_err(), "{settings}");
    }
}

#[test]
fn a_position_of_another_key_is_a_gap() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let source = place.source("table: t");
    let Read::Batch(batch) = source.reader(&[]).unwrap().read(1).unwrap() else { panic!() };
    let start = Start { partition: "t".into(), position: Some(batch.end.clone()) };
    source.verify(&start, false).unwrap();
    for change in [
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD COLUMN b int DEFAULT 1, ADD PRIMARY KEY (id, b)",
        "ALTER TABLE t DROP COLUMN b, ALTER id TYPE text, ADD PRIMARY KEY (id)",
        "DROP TABLE t",
    ] {
        place.run(change);
        let gap = source.verify(&start, false).unwrap_err();
        assert!(matches!(gap, SourceError::Gap { .. }), "{change}: {gap}");
    }
}
