//! What is refused, with its exit code; what is set aside.

use piton_testkit::{
    Ledger,
    service::{self, Postgres},
};

use crate::place::{Place, RUN, Sink};

/// Exit codes 2 and 3, and nothing written.
#[test]
fn a_database_that_cannot_be_written_ends_the_run_before_it_begins() {
    let Some(place) = Place::new(10) else { return };
    let url = &place.url;
    let wrong = url.replace("postgres@", "nobody@");
    let nowhere = format!("{}/nowhere", url.rsplit_once('/').unwrap().0);
    let yaml = |url: &str, rest: &str| format!("postgres: {{url: '{url}', {rest}}}");
    let tables = "CREATE TABLE hollow (id int UNIQUE); CREATE TABLE twice (id int NOT NULL);
                  CREATE TABLE numbers (id int, name int, value int)";
    place.client().batch_execute(tables).unwrap();
    for (code, sink, word) in [
        (2, yaml(&wrong, "table: t"), "role \"nobody\" does not exist"),
        (2, yaml(&nowhere, "table: t"), "database \"nowhere\" does not exist"),
        (2, yaml(&format!("{url}?sslmode=require"), "table: t"), "TLS"),
        (2, yaml(url, "table: t, create: false"), "no table"),
        (2, yaml(url, "table: numbers"), "column 'name'"),
        (2, yaml(url, "table: twice, key: [id]"), "unique"),
        (2, yaml(url, "table: hollow, key: [id]"), "NOT NULL"),
        (2, yaml("postgres://h/x?ssl=yes", "table: t"), "'ssl' that is not known"),
        (2, yaml(url, "table: a.b.c"), "schema.table"),
        (1, yaml("postgres://me@127.0.0.1:1/x", "table: t"), "refused"),
    ] {
        place.configure("", &format!("sinks: {{out: {{{sink}}}}}"));
        let ended = place.ends_with(code, RUN);
        assert!(ended.stderr.contains(word), "{sink}: {ended}");
        // What is wrong with the records is only known when they are read.
        let plan = place.program.run(&["plan", "p.yaml"]).unwrap();
        assert!(plan.code != Some(0) || code == 1 || sink.contains("numbers"), "{sink}: {plan}");
    }
    let held = "SELECT count(*) FROM numbers";
    assert_eq!(place.client().query_one(held, &[]).unwrap().get::<_, i64>(0), 0);
    place.client().batch_execute(FORGET).unwrap();
    let database = url.rsplit('/').next().unwrap();
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    place.client().batch_execute(&read_only).unwrap();
    place.configure("", &format!("sinks: {{out: {{{}}}}}", yaml(url, "table: t")));
    assert!(place.ends_with(3, RUN).stderr.contains("read-only"));
    let made = "SELECT to_regclass('piton_checkpoints') IS NULL AND to_regclass('t') IS NULL";
    assert!(place.client().query_one(made, &[]).unwrap().get::<_, bool>(0), "nothing is written");
}

/// What a run that got as far as the records has made.
const FORGET: &str = "DROP TABLE IF EXISTS piton_checkpoints, piton_manifest, piton_tables CASCADE";

/// Exit code 3: what is written there would be gone when the primary takes over, if it could be
/// written at all.
#[test]
fn a_hot_standby_is_refused_as_a_target_and_for_polling() {
    let Some(mut server) = service::needed(Postgres::start()) else { return };
    let place = Place::on(&server, 10);
    let make = "CREATE TABLE t (id text PRIMARY KEY); INSERT INTO t VALUES ('1'), ('2')";
    place.client().batch_execute(make).unwrap();
    let folder: String = place.client().query_one("SHOW data_directory", &[]).unwrap().get(0);
    server.stop().unwrap();
    // A standby without a primary: it has recovered all there is, and waits for more.
    std::fs::write(format!("{folder}/standby.signal"), "").unwrap();
    server.start_again().unwrap();
    let sink = format!("postgres: {{url: '{}', table: t}}", place.url);
    place.configure("", &format!("sinks: {{out: {{{sink}}}}}"));
    let refused = place.ends_with(3, RUN);
    assert!(refused.stderr.contains("read-only replica: name the primary"), "{refused}");

    let source = |rest: &str| {
        let source = format!("source: {{sql: {{url: '{}', table: t{rest}}}}}", place.url);
        place.write(
            "p.yaml",
            &format!("pipeline: q\n{source}\nsinks: {{out: {{jsonl: {{path: out.jsonl}}}}}}\n"),
        );
    };
    source(", poll: 1s");
    let refused = place.ends_with(2, RUN);
    assert!(refused.stderr.contains("`poll` the primary"), "{refused}");
    source(", partitions: 2");
    place.ends_with(0, RUN);
    let read = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert_eq!(read.lines().count(), 2, "a replica can be read to its end: {read}");
}

/// The same for what is read: exit codes 2 and 3, and no output.
#[test]
fn a_table_that_cannot_be_read_ends_the_run_before_it_begins() {
    let Some(place) = Place::new(10) else { return };
    let (url, database) = (&place.url, place.url.rsplit('/').next().unwrap());
    place
        .client()
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bare (id int);
             CREATE ROLE stranger_{database} LOGIN"
        ))
        .unwrap();
    let stranger = url.replace("postgres@", &format!("stranger_{database}@"));
    let nowhere = format!("{}/nowhere", url.rsplit_once('/').unwrap().0);
    for (code, settings, word) in [
        (2, format!("url: '{nowhere}', table: t"), "does not exist"),
        (2, format!("url: '{url}?sslmode=verify-full', table: t"), "TLS"),
        (2, format!("url: '{stranger}', table: t"), "permission denied"),
        (2, format!("url: '{url}', table: none"), "no table 'none'"),
        (2, format!("url: '{url}', table: bare"), "no primary key"),
        (2, format!("url: '{url}', table: bare, key: [id]"), "may be NULL"),
        (2, format!("url: '{url}', table: t, poll: 1s, partitions: 3"), "to the end"),
        (1, "url: 'postgres://me@127.0.0.1:1/x', table: t".to_owned(), "refused"),
    ] {
        let source = format!("source: {{sql: {{{settings}}}}}");
        let sinks = "sinks: {out: {jsonl: {path: out.jsonl}}}";
        place.write("p.yaml", &format!("pipeline: p\n{source}\n{sinks}\n"));
        let ended = place.ends_with(code, RUN);
        assert!(ended.stderr.contains(word), "{settings}: {ended}");
        assert!(!place.path("out.jsonl").exists(), "{settings}");
    }
    let source = format!("source: {{sql: {{url: '{url}', table: t, poll: 1s}}}}");
    place.write("p.yaml", &format!("pipeline: p\n{source}\nsinks: {{out: {{stdout: {{}}}}}}\n"));
    let plan = place.ends_with(0, &["plan", "p.yaml"]);
    assert!(plan.stdout.contains("changed or deleted"), "updates are not seen: {plan}");
}

/// Invariants 1 and 5 with records that the server refuses: each is a dead letter, once, and all
/// others are there.
#[test]
fn a_refused_record_is_set_aside_and_the_rest_goes_on() {
    for sink in [Sink::Append, Sink::Upsert] {
        let Some(place) = Place::new(5_000) else { return };
        place
            .client()
            .batch_execute(&format!(
                "CREATE TABLE {} (id int PRIMARY KEY, name text, value int CHECK (value <> 37))",
                sink.table()
            ))
            .unwrap();
        let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&place.url));
        let rest = format!("{sinks}\ncheckpoint: {{records: 500}}");
        place.configure("", &rest);
        let stopped = place.ends_with(1, RUN);
        assert!(stopped.stderr.contains("line 3"), "id 1 is on line 3: {stopped}");
        assert_eq!(place.rows_in(sink), 1, "{sink:?}: those before it are kept");

        place.configure("", &format!("{rest}\non_error: dead_letter"));
        place.ends_with(0, RUN);
        let source = Ledger::of_csv(&place.path("data.csv"), &["id", "value"]).unwrap();
        let wanted = source.keeping(|fields| fields[1] != "037");
        let mut held = Ledger::default();
        let all = format!("SELECT id::text, lpad(value::text, 3, '0') FROM {}", sink.table());
        for row in place.client().query(&all, &[]).unwrap() {
            held.add((0..2).map(|column| row.get::<_, String>(column)));
        }
        assert_eq!(wanted.compare(&held).exactly_once(), Ok(()), "{sink:?}");
        let letters = place.ends_with(0, &["dead-letters", "list", "p", "--json"]).stdout;
        assert_eq!(letters.matches("check constraint").count(), 5, "{sink:?}: {letters}");
    }
}

/// Exit code 3, also where nothing new is to be read: what the checkpoint covers would be missing.
/// Invariants 1 and 4.
#[test]
fn a_table_that_is_gone_is_not_made_anew() {
    for sink in [Sink::Upsert, Sink::Append] {
        let Some(place) = Place::configured(10, sink) else { return };
        place.ends_with(0, RUN);
        place.client().batch_execute(&format!("DROP TABLE {}", sink.table())).unwrap();
        for args in [RUN, &["plan", "p.yaml"]] {
            let refused = place.ends_with(3, args);
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert!(
                said.contains("is gone") && said.contains("piton reset p --sink out"),
                "{said}"
            );
        }
        let none = format!("SELECT to_regclass('{}') IS NULL", sink.table());
        assert!(place.client().query_one(&none, &[]).unwrap().get::<_, bool>(0), "nothing is made");
        place.ends_with(0, &["reset", "p", "--sink", "out", "--keep", "--yes"]);
        place.ends_with(0, RUN);
        place.exactly_once(sink);
    }
}

/// `plan` and `run` agree, and a store that is there already changes nothing.
#[test]
fn a_field_that_the_records_never_have_is_named_before_anything_is_written() {
    let Some(place) = Place::configured(10, Sink::Append) else { return };
    place.ends_with(0, RUN);
    let store = "store: sqlite:piton.db";
    for (table, lacking) in [("t, key: [idd]", "'idd'"), ("\"${record.kk}\"", "'kk'")] {
        let sink = format!("sinks: {{b: {{postgres: {{url: '{}', table: {table}}}}}}}", place.url);
        let rest = format!("{store}\n{sink}\non_error: dead_letter");
        place.write(
            "q.yaml",
            &format!("pipeline: q\nsource: {{csv: {{path: data.csv}}}}\n{rest}\n"),
        );
        for command in ["plan", "run"] {
            let ended = place.ends_with(2, &[command, "q.yaml"]);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(
                said.contains(lacking) && said.contains("id, name, value"),
                "{command}: {said}"
            );
        }
    }
}
