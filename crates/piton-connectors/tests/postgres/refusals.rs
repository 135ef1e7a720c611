//! What cannot be written as configured is named before anything is written.

use piton_connectors::{
    batch::{ColumnType::Unknown, Value},
    postgres::PostgresSettings,
    sink::{SinkError, TransactionalSink},
};
use piton_testkit::service::{self, Postgres};

use crate::place::{Place, batch, deliver, fence, says};

/// Looks, as every run does before it writes, and demands a refusal with these words.
#[track_caller]
fn refused(place: &Place, settings: &str, words: &[&str]) -> SinkError {
    let error = says(place.sink(settings).peek("p", "s"), words);
    says(place.sink(settings).fence(&fence(1)), words);
    let made = "SELECT coalesce(to_regclass('piton_checkpoints')::text, 'none')";
    assert_eq!(place.column(made), ["none"], "nothing is written");
    error
}

#[test]
fn a_table_that_cannot_be_written_as_configured_is_refused() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE plain (id int, name text);
         CREATE TABLE part (id int NOT NULL, name text);
         CREATE UNIQUE INDEX ON part (id) WHERE name IS NOT NULL;
         CREATE TABLE late (id int NOT NULL UNIQUE DEFERRABLE);
         CREATE TABLE hollow (id int UNIQUE);
         CREATE UNLOGGED TABLE light (id int PRIMARY KEY);
         CREATE VIEW seen AS SELECT * FROM plain;",
    );
    for (settings, words) in [
        ("table: none\ncreate: false", &["no table \"none\"", "create: false"][..]),
        ("table: nowhere.t\ncreate: false", &["no table"]),
        ("table: part\nkey: [id]", &["no primary key or unique index on exactly (id)"]),
        ("table: late\nkey: [id]", &["no primary key or unique index"]),
        ("table: plain\nkey: [nmae]", &["did you mean 'name'"]),
        ("table: hollow\nkey: [id]", &["may be NULL", "SET NOT NULL"]),
        ("table: light\nkey: [id]", &["unlogged", "SET LOGGED"]),
        ("table: seen", &["not a table"]),
    ] {
        let error = refused(&place, settings, words);
        assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
    }
}

#[test]
fn records_that_do_not_fit_the_table_are_refused_before_the_first_is_written() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id int PRIMARY KEY, sum int GENERATED ALWAYS AS (id * 2) STORED)");
    for (column, words) in
        [("nmae", &["no column 'nmae'"][..]), ("sum", &["'sum' is computed by the database"])]
    {
        let mut sink = place.open("table: t\nkey: [id]");
        let mut open = sink.begin().unwrap();
        let columns = [("id", Unknown), (column, Unknown)];
        let rows: [&[Value<'_>]; 1] = [&[Value::Int(1), Value::Int(2)]];
        let error = says(open.write(&batch(&columns, &rows), 0..1), words);
        assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
    }
    let mut sink = place.open("table: t\nkey: [id]");
    let rows: [&[Value<'_>]; 1] = [&[Value::Int(2)]];
    let open = sink.begin().unwrap().write(&batch(&[("no", Unknown)], &rows), 0..1);
    says(open, &["key"]);
}

#[test]
fn a_user_without_rights_is_told_which() {
    let Some(place) = Place::new() else { return };
    let server = service::needed(Postgres::shared()).unwrap();
    place.run(
        "CREATE ROLE reader LOGIN; CREATE TABLE t (id int PRIMARY KEY);
         REVOKE CREATE ON SCHEMA public FROM public;",
    );
    let database = place.url.rsplit('/').next().unwrap();
    let url = server.url_as("reader", "");
    let url = format!("{}/{database}", url.rsplit_once('/').unwrap().0);
    let reader = Place { url: url.clone() };
    refused(&reader, "table: t", &["GRANT CREATE ON SCHEMA public"]);
    place.run("GRANT CREATE ON SCHEMA public TO reader");
    refused(&reader, "table: t", &["INSERT in \"t\"", "GRANT"]);
    place.run("GRANT INSERT ON t TO reader");
    refused(&reader, "table: t\nkey: [id]", &["UPDATE and SELECT in \"t\""]);
    place.run("GRANT UPDATE, SELECT ON t TO reader");
    let mut sink = reader.open("table: t\nkey: [id]");
    let rows: [&[Value<'_>]; 1] = [&[Value::Int(1)]];
    deliver(&mut sink, &batch(&[("id", Unknown)], &rows), 1);
}

#[test]
fn a_database_that_is_read_only_is_refused() {
    let Some(place) = Place::new() else { return };
    let database = place.url.rsplit('/').next().unwrap().to_owned();
    place.run(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let error = refused(&place, "table: t", &["read-only", "default_transaction_read_only"]);
    assert!(matches!(error, SinkError::Refused { .. }));
}

#[test]
fn a_wrong_password_is_named_and_never_shown() {
    let Some(server) = service::needed(Postgres::options().password("s3same").start()) else {
        return;
    };
    for (user, password, words) in [
        ("postgres", "s3sam", "password authentication failed"),
        ("nobody", "s3same", "password authentication failed"),
    ] {
        let place = Place { url: server.url_as(user, password) };
        let error = says(place.sink("table: t").peek("p", "s"), &[words, "URL"]);
        assert!(matches!(error, SinkError::Settings { .. }));
        assert!(!error.to_string().contains("s3sam"), "{error}");
    }
    let settings = Place { url: server.url() }.settings("table: t");
    assert!(!format!("{settings:?}").contains("s3same"));
    assert!(!settings.location().contains("s3same"));
    let _: &PostgresSettings = &settings;
}
