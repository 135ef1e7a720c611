//! What is refused, with its exit code; what is set aside.

use piton_testkit::Ledger;

use crate::place::{Place, RUN, Sink};

/// Exit codes 2 and 3, and nothing written.
#[test]
fn a_database_that_cannot_be_written_ends_the_run_before_it_begins() {
    let Some(place) = Place::new(10) else { return };
    let url = &place.url;
    let wrong = url.replace("postgres@", "nobody@");
    let yaml = |url: &str, rest: &str| format!("postgres: {{url: '{url}', {rest}}}");
    place.client().batch_execute("CREATE TABLE hollow (id int UNIQUE)").unwrap();
    for (code, sink, word) in [
        (2, yaml(&wrong, "table: t"), "role \"nobody\" does not exist"),
        (2, yaml(url, "table: t, create: false"), "no table"),
        (2, yaml(url, "table: hollow, key: [id]"), "NOT NULL"),
        (2, yaml("postgres:///x", "table: t"), "names no host"),
        (2, yaml(url, "table: a.b.c"), "schema.table"),
        (1, yaml("postgres://me@127.0.0.1:1/x", "table: t"), "refused"),
    ] {
        place.configure("", &format!("sinks: {{out: {{{sink}}}}}"));
        let ended = place.ends_with(code, RUN);
        assert!(ended.stderr.contains(word), "{sink}: {ended}");
        let plan = place.program.run(&["plan", "p.yaml"]).unwrap();
        assert!(plan.code != Some(0) || code == 1, "{sink}: {plan}");
    }
    let database = url.rsplit('/').next().unwrap();
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    place.client().batch_execute(&read_only).unwrap();
    place.configure("", &format!("sinks: {{out: {{{}}}}}", yaml(url, "table: t")));
    assert!(place.ends_with(3, RUN).stderr.contains("read-only"));
    let made = "SELECT to_regclass('piton_checkpoints') IS NULL AND to_regclass('t') IS NULL";
    assert!(place.client().query_one(made, &[]).unwrap().get::<_, bool>(0), "nothing is written");
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
