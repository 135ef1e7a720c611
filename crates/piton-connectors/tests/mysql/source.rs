//! Reading tables and queries by their key.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mysql::prelude::Queryable as _;
use piton_connectors::{
    batch::Batch,
    mysql::MySqlSource,
    source::{Read, Source, SourceError, Start},
    sqlite::SqlSettings,
};
use piton_testkit::{Dice, service::Cut};

use crate::place::{Family, Place, both};

const LIMIT: usize = 1 << 20;

impl Place {
    fn source(&self, rest: &str) -> MySqlSource {
        self.try_source(rest).unwrap()
    }

    fn try_source(&self, rest: &str) -> Result<MySqlSource, SourceError> {
        let settings = format!("url: {}\n{rest}", self.url);
        let settings: SqlSettings = serde_saphyr::from_str(&settings).unwrap();
        MySqlSource::new(&settings, LIMIT)
    }

    /// A table of so many rows with a composite key, in ten groups.
    fn fill(&self, rows: u64) {
        let mut conn = self.conn();
        conn.query_drop(
            "CREATE TABLE t (a VARCHAR(9), b BIGINT, c VARCHAR(200), PRIMARY KEY (a, b))",
        )
        .unwrap();
        let row = |n: u64| format!("({}, {n}, REPEAT('x', 100))", n % 10);
        for from in (1..=rows).step_by(1000) {
            let values: Vec<String> = (from..=rows.min(from + 999)).map(row).collect();
            conn.query_drop(format!("INSERT INTO t VALUES {}", values.join(", "))).unwrap();
        }
    }
}

fn json(batch: &Batch) -> Vec<String> {
    let line = |row| {
        let mut out = Vec::new();
        batch.write_json(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (0..batch.rows()).map(line).collect()
}

/// Reads to the end, at most `limit` at once.
fn read_all(source: &MySqlSource, start: Option<&Start>, limit: usize) -> Vec<String> {
    let mut reader = source.reader(start.map(std::slice::from_ref).unwrap_or_default()).unwrap();
    let mut all = Vec::new();
    loop {
        match reader.read(limit).unwrap() {
            Read::Batch(batch) => {
                assert!(batch.rows() <= limit);
                all.extend(json(&batch));
            }
            Read::Bad(bad) => all.push(bad.reason),
            Read::Idle => {}
            Read::Finished => return all,
        }
    }
}

#[test]
fn rows_come_in_the_order_of_their_key_with_their_types() {
    for place in both() {
        place.run(&[
            "CREATE TABLE t (region VARCHAR(20), id BIGINT UNSIGNED, exact DECIMAL(30,10), x DOUBLE,
               f FLOAT, ok BOOLEAN, raw BLOB, stamp TIMESTAMP(3) NULL, at DATETIME, day DATE,
               doc JSON, bits BIT(9), bit1 BIT(1), e ENUM('y', 'z'), PRIMARY KEY (region, id))",
            "SET time_zone = '+02:00'",
            "INSERT INTO t VALUES
               ('b', 2, 1.5, 0.1, 0.1, TRUE, x'00ff', '2024-02-29 10:00:00.5', '2024-02-29 12:00',
                 '2024-02-29', '{\"a\": 1}', b'100000001', b'1', 'z'),
               ('C', 18446744073709551615, -12345678901234567890.5, 1e300, NULL, 2, '', NULL, NULL,
                 NULL, '[]', NULL, b'0', NULL),
               ('ä''\\\\', 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        ]);
        let rows = read_all(&place.source("table: t"), None, 2);
        let order = place.column("SELECT region FROM t ORDER BY region, id");
        let regions: Vec<String> = rows
            .iter()
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["region"].clone())
            .map(|region| region.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(regions, order, "as the server orders them");
        for wanted in [
            r#""id":2,"exact":1.5000000000,"x":0.1,"f":0.1,"ok":true,"raw":"\\x00ff""#,
            r#""at":"2024-02-29T12:00:00","day":"2024-02-29","doc":{"a": 1},"bits":257,"bit1":true,"e":"z""#,
            r#""id":18446744073709551615,"exact":-12345678901234567890.5000000000,"x":1e300,"f":null,"ok":2"#,
        ] {
            let wanted = wanted.replace("1e300", "1e+300");
            let is_there = |row: &String| row.replace("1e300", "1e+300").contains(&wanted);
            assert!(rows.iter().any(is_there), "{wanted}\n{rows:#?}");
        }
        let stamp = place.column(
            "SELECT DATE_FORMAT(CONVERT_TZ(stamp, @@session.time_zone, '+00:00'),
            '%Y-%m-%dT%H:%i:%s.500Z') FROM t WHERE region = 'b'",
        );
        assert!(rows.iter().any(|row| row.contains(&format!("\"stamp\":\"{}\"", stamp[0]))));
    }
}

/// Invariant 2, and no row twice: from any position that was given, the rest comes.
#[test]
fn reading_goes_on_after_any_record() {
    for place in both() {
        place.run(&[
            "CREATE TABLE t (a INT, b VARBINARY(16), d DATETIME(6), n INT, PRIMARY KEY (a, b, d))",
        ]);
        for n in 1..=200 {
            place.run(&[&format!(
                "INSERT INTO t VALUES ({n} DIV 7, UNHEX(LEFT(SHA2({n} % 3, 256), 32)), \
                 '2024-02-29' + INTERVAL {n} * 1001 MICROSECOND, {n})"
            )]);
        }
        let query =
            "query: 'SELECT * FROM t WHERE n > 3 AND \"x\" = \"x\"'\nkey: [a, b, d]\nbatch: 30";
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
}

/// However deep the table, a piece is found by the index: the server looks at little more than the
/// rows that it gives.
#[test]
fn a_piece_is_found_by_the_index_of_the_key() {
    for family in Family::BOTH {
        // Nobody else's reading must be counted.
        let Some(server) = piton_testkit::service::needed(family.options().start()) else { return };
        let place = Place::on(&server).unwrap();
        place.fill(20_000);
        place.run(&["ANALYZE TABLE t"]);
        let looked_at = || -> u64 {
            let sql = "SHOW GLOBAL STATUS LIKE 'Handler_read%'";
            let rows: Vec<(String, u64)> = place.conn().query(sql).unwrap();
            rows.into_iter().map(|(_, count)| count).sum()
        };
        let before = looked_at();
        assert_eq!(read_all(&place.source("table: t\nbatch: 1000"), None, 1000).len(), 20_000);
        let looked = looked_at() - before;
        assert!(looked < 40_000, "{family:?}: {looked} rows were looked at");
    }
}

/// A bounded read sees one state, however long it takes, and memory does not grow with the table.
#[test]
fn a_bounded_read_sees_one_state_of_the_database() {
    for place in both() {
        place.fill(3_000);
        let source = place.source("table: t\nbatch: 100");
        assert!(source.is_bounded());
        assert!(source.remarks()[0].contains("one state"), "{:?}", source.remarks());
        let mut reader = source.reader(&[]).unwrap();
        let mut count = 0;
        while let Read::Batch(batch) = reader.read(64).unwrap() {
            count += batch.rows();
            place.run(&[
                "DELETE FROM t ORDER BY a DESC, b DESC LIMIT 10",
                &format!("INSERT INTO t VALUES ('9', {}, 'new')", 1_000_000 + count),
            ]);
        }
        assert_eq!(count, 3_000);
        place.run(&["CREATE TABLE old (id INT PRIMARY KEY) ENGINE = MyISAM"]);
        assert!(place.source("table: old").remarks()[0].contains("MyISAM"));
    }
}

/// Transactions that commit out of the order of their keys, within `settle`.
#[test]
fn a_poll_skips_no_row_that_is_committed_within_the_time_to_settle() {
    for place in both() {
        place.run(&["CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, who INT)"]);
        let source = place.source("table: t\npoll: 20ms\nsettle: 1s");
        assert!(!source.is_bounded());
        let remark = source.remarks().remove(0);
        assert!(remark.contains("changed or deleted") && remark.contains("1s"), "{remark}");
        let mut reader = source.reader(&[]).unwrap();
        let writers: Vec<_> = (0..4)
            .map(|who| {
                let mut conn = place.conn();
                std::thread::spawn(move || {
                    let mut dice = Dice::new();
                    for _ in 0..15 {
                        conn.query_drop("START TRANSACTION").unwrap();
                        conn.query_drop(format!("INSERT INTO t (who) VALUES ({who})")).unwrap();
                        std::thread::sleep(Duration::from_millis(dice.between(0, 150)));
                        let end = if dice.between(0, 4) == 0 { "ROLLBACK" } else { "COMMIT" };
                        conn.query_drop(end).unwrap();
                    }
                })
            })
            .collect();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut quiet = None::<Instant>;
        loop {
            match reader.read(7).unwrap() {
                Read::Batch(batch) => {
                    quiet = None;
                    for line in json(&batch) {
                        *seen.entry(line).or_default() += 1;
                    }
                }
                Read::Idle if writers.iter().all(std::thread::JoinHandle::is_finished) => {
                    let since = *quiet.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(3) {
                        break;
                    }
                }
                Read::Idle => {}
                other => panic!("{other:?}"),
            }
        }
        let there = place.column("SELECT COUNT(*) FROM t")[0].parse::<usize>().unwrap();
        assert_eq!(seen.len(), there, "none is skipped");
        assert!(seen.values().all(|count| *count == 1), "none comes twice");
    }
}

#[test]
fn what_cannot_be_read_in_order_is_refused() {
    for place in both() {
        place.run(&[
            "CREATE TABLE plain (id INT, name VARCHAR(9))",
            "CREATE TABLE hollow (id INT UNIQUE)",
            "CREATE TABLE odd (e ENUM('b', 'a') PRIMARY KEY, f FLOAT NOT NULL UNIQUE)",
            "CREATE VIEW seen AS SELECT * FROM plain",
            "INSERT INTO plain VALUES (1, 'a'), (1, 'b'), (NULL, 'c')",
        ]);
        for (settings, words) in [
            ("table: none", &["no table 'none'"][..]),
            ("table: plain", &["no primary key", "`key`"]),
            ("table: plain\nkey: [id]", &["may be NULL"]),
            ("table: plain\nkey: [nmae]", &["no column 'nmae'", "did you mean 'name'"]),
            ("table: hollow\nkey: [id]", &["may be NULL"]),
            ("table: odd", &["'e'", "ENUM"]),
            ("table: odd\nkey: [f]", &["'f'", "FLOAT"]),
            ("table: seen\nkey: [id]", &["not a table", "`query`"]),
            ("query: SELECT nonsense\nkey: [id]", &["`query` cannot be asked"]),
            ("query: SELECT 1 AS a\nkey: [id]", &["no column 'id'", "it has: a"]),
        ] {
            let error = place.source(settings).partitions().unwrap_err();
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{settings}: {text}");
            assert!(
                matches!(error, SourceError::Settings { .. } | SourceError::Missing { .. }),
                "{error:?}"
            );
        }
        for (settings, words) in [
            ("table: t\npoll: 1s", &["`poll` needs `settle`"][..]),
            ("table: t\nsettle: 1s", &["`settle` is for `poll`"]),
            ("table: t\npartitions: 4", &["`partitions` is for PostgreSQL"]),
        ] {
            let error = place.try_source(settings).unwrap_err();
            assert!(matches!(error, SourceError::Settings { .. }), "{error:?}");
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{settings}: {text}");
        }
        let of_null =
            place.source("query: SELECT * FROM plain\nkey: [id]").reader(&[]).err().unwrap();
        assert!(of_null.to_string().contains("NULL in its key"), "{of_null}");
        let twice = place.source("query: SELECT * FROM plain WHERE id = 1\nkey: [id]");
        let twice = twice.reader(&[]).unwrap().read(10).unwrap_err();
        assert!(twice.to_string().contains("two rows have the key"), "{twice}");
    }
}

/// A row above the limit is bad, and those around it come.
#[test]
fn a_row_above_the_limit_is_bad() {
    for place in both() {
        place.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, text LONGTEXT)",
            "INSERT INTO t VALUES (1, 'a'), (2, REPEAT('x', 1100000)), (3, 'c')",
        ]);
        let rows = read_all(&place.source("table: t"), None, 10);
        assert!(rows[1].contains("`limits: record`"), "{}", &rows[1][..100]);
        assert_eq!(rows.len(), 3);
    }
}

/// Invariant 7: the connection is cut anywhere, and each row comes once.
#[test]
fn a_connection_that_is_cut_goes_on_after_the_last_row() {
    let mut dice = Dice::new();
    for place in both() {
        place.fill(20_000);
        let (_, address) = place.url.split_once('@').unwrap();
        let address = address.split_once('/').unwrap().0.parse().unwrap();
        let cut = Cut::before(address).unwrap();
        let through = Place { url: format!("{}?ssl-mode=disabled", cut.url(&place.url)) };
        let source = through.source("table: t\nbatch: 1500");
        let mut reader = source.reader(&[]).unwrap();
        let mut seen = Vec::new();
        let mut armed = 0;
        loop {
            if cut.cuts() >= armed {
                cut.after_answered(dice.between(1, 400_000));
                armed = cut.cuts() + 1;
            }
            match reader.read(100).unwrap() {
                Read::Batch(batch) => seen.extend(json(&batch)),
                Read::Idle => {}
                Read::Finished => break,
                Read::Bad(bad) => panic!("{bad:?}"),
            }
        }
        assert!(cut.cuts() >= 2, "{} cuts", cut.cuts());
        assert_eq!(seen, read_all(&place.source("table: t"), None, 1000));
    }
}
