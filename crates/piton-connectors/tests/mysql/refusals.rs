//! What cannot be written as configured is named before anything is written.

use piton_connectors::{
    batch::{ColumnType::Unknown, Value},
    sink::{SinkError, TransactionalSink},
};
use piton_testkit::service;

use crate::place::{Family, Place, batch, both, deliver, fence, says};

/// Looks, as every run does before it writes, and demands a refusal with these words.
#[track_caller]
fn refused(place: &Place, settings: &str, words: &[&str]) -> SinkError {
    let error = says(place.sink(settings).peek("p", "s"), words);
    says(place.sink(settings).fence(&fence(1)), words);
    error
}

#[test]
fn a_table_that_cannot_be_written_as_configured_is_refused() {
    for place in both() {
        place.run(&[
            "CREATE TABLE plain (id INT, name VARCHAR(20))",
            "CREATE TABLE part (id VARCHAR(20) NOT NULL, UNIQUE (id(5)))",
            "CREATE TABLE wide (id INT NOT NULL, other INT NOT NULL, UNIQUE (id, other))",
            "CREATE TABLE hollow (id INT UNIQUE)",
            "CREATE TABLE old (id INT PRIMARY KEY) ENGINE = MyISAM",
            "CREATE VIEW seen AS SELECT * FROM plain",
        ]);
        for (settings, words) in [
            ("table: none\ncreate: false", &["no table \"none\"", "create: false"][..]),
            ("table: nowhere.t\ncreate: false", &["no table"]),
            ("table: part\nkey: [id]", &["no primary key or unique index on exactly (id)"]),
            ("table: wide\nkey: [id]", &["no primary key or unique index on exactly (id)"]),
            ("table: plain\nkey: [nmae]", &["did you mean 'name'"]),
            ("table: hollow\nkey: [id]", &["may be NULL", "NOT NULL"]),
            ("table: old", &["MyISAM", "ENGINE = InnoDB"]),
            ("table: seen", &["not a table"]),
        ] {
            let error = refused(&place, settings, words);
            assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
        }
        assert!(!place.has_table("piton_checkpoints"), "nothing is written");
    }
}

#[test]
fn records_that_do_not_fit_the_table_are_refused_before_the_first_is_written() {
    for place in both() {
        place.run(&["CREATE TABLE t (id INT PRIMARY KEY, twice INT AS (id * 2) STORED,
            made DATETIME DEFAULT CURRENT_TIMESTAMP)"]);
        for (column, words) in [
            ("mde", &["no column 'mde'", "did you mean 'made'"][..]),
            ("twice", &["'twice' is computed by the database"]),
        ] {
            let mut sink = place.open("table: t\nkey: [id]");
            let mut open = sink.begin().unwrap();
            let columns = [("id", Unknown), (column, Unknown)];
            let rows: [&[Value<'_>]; 1] = [&[Value::Int(1), Value::Int(2)]];
            let error = says(open.write(&batch(&columns, &rows), 0..1), words);
            assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
        }
        let mut sink = place.open("table: t\nkey: [id]");
        let rows: [&[Value<'_>]; 1] = [&[Value::Int(2)]];
        let written = sink.begin().unwrap().write(&batch(&[("no", Unknown)], &rows), 0..1);
        says(written, &["key"]);
        let rows: [&[Value<'_>]; 1] = [&[Value::Int(2), Value::Text("2024-02-29")]];
        deliver(&mut sink, &batch(&[("ID", Unknown), ("made", Unknown)], &rows), 1);
        assert_eq!(place.column("SELECT made FROM t"), ["2024-02-29 00:00:00"]);
    }
}

#[test]
fn a_user_without_rights_is_told_which() {
    for place in both() {
        let database = place.database();
        place.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, n INT)",
            &format!("CREATE USER 'r{database}' IDENTIFIED BY 's3cret'"),
            &format!("GRANT SELECT ON {database}.* TO 'r{database}'"),
        ]);
        let reader = place.as_user(&format!("r{database}:s3cret"));
        refused(&reader, "table: t", &["INSERT", "GRANT"]);
        place.run(&[&format!("GRANT INSERT ON {database}.t TO 'r{database}'")]);
        refused(&reader, "table: t\nkey: [id]", &["UPDATE", "GRANT"]);
        place.run(&[&format!("GRANT UPDATE ON {database}.t TO 'r{database}'")]);
        let error = says(
            reader.sink("table: t\nkey: [id]").fence(&fence(1)),
            &["create piton_checkpoints", "Grant"],
        );
        assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
        assert!(!place.has_table("piton_checkpoints"), "nothing is written");
        // Without the right to make triggers it works as well.
        place.run(&[&format!(
            "GRANT CREATE, INSERT, UPDATE, DELETE ON {database}.* TO 'r{database}'"
        )]);
        let mut sink = reader.open("table: t\nkey: [id]");
        let rows: [&[Value<'_>]; 1] = [&[Value::Int(1)]];
        deliver(&mut sink, &batch(&[("id", Unknown)], &rows), 1);
    }
}

#[test]
fn a_server_that_only_reads_is_refused() {
    for family in Family::BOTH {
        let Some(server) = service::needed(family.options().start()) else { return };
        let place = Place::on(&server).unwrap();
        server.administer("SET GLOBAL read_only = 1").unwrap();
        let error = refused(&place, "table: t", &["only reads", "primary"]);
        assert!(matches!(error, SinkError::Refused { .. }), "{error:?}");
        server.administer("SET GLOBAL read_only = 0").unwrap();
        assert!(!place.has_table("piton_checkpoints"), "nothing is written");
        // It is made to read only while it is written to.
        let mut sink = place.open("table: t");
        let mut open = sink.begin().unwrap();
        let rows: [&[Value<'_>]; 1] = [&[Value::Int(1)]];
        open.write(&batch(&[("id", Unknown)], &rows), 0..1).unwrap();
        drop(open);
    }
}

#[test]
fn a_wrong_password_or_database_is_named_and_no_password_is_shown() {
    for place in both() {
        let wrong = place.as_user("piton:s3cret");
        let error = says(wrong.sink("table: t").peek("p", "s"), &["denied", "MYSQL_PWD"]);
        assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let settings = wrong.settings("table: t");
        assert!(!format!("{settings:?} {}", settings.location()).contains("s3cret"));
        let elsewhere = Place { url: format!("{}_not", place.url) };
        let error = says(elsewhere.sink("table: t").peek("p", "s"), &["Unknown database"]);
        assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
    }
}
