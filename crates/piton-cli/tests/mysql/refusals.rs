//! What is refused, with its exit code; what is set aside; what is foretold.

use crate::place::{Family, Place, RUN, Sink};

/// Exit codes 2 and 3, and nothing written.
#[test]
fn a_database_that_cannot_be_written_ends_the_run_before_it_begins() {
    for family in Family::BOTH {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 10);
        let url = &place.url;
        let wrong = url.replace("piton:piton@", "piton:s3cret@");
        let yaml = |url: &str, rest: &str| format!("mysql: {{url: '{url}', {rest}}}");
        place.run_sql("CREATE TABLE hollow (id INT UNIQUE)");
        place.run_sql("CREATE TABLE old (id INT PRIMARY KEY) ENGINE = MyISAM");
        place.run_sql("CREATE TABLE typed (id INT PRIMARY KEY, name INT, value INT)");
        for (code, sink, word) in [
            (2, yaml(&wrong, "table: t"), "MYSQL_PWD"),
            (2, yaml(&format!("{url}_not"), "table: t"), "Unknown database"),
            (2, yaml(url, "table: t, create: false"), "no table"),
            (2, yaml(url, "table: hollow, key: [id]"), "NOT NULL"),
            (2, yaml(url, "table: old"), "MyISAM"),
            (2, yaml(url, "table: typed, key: [id]"), "do not fit"),
            (2, yaml("mysql://h", "table: t"), "names no database"),
            (2, yaml("postgres://h/x", "table: t"), "mysql://"),
            (2, yaml(url, "table: a.b.c"), "schema.table"),
            (1, yaml("mysql://me@127.0.0.1:1/x", "table: t"), "refused"),
        ] {
            place.configure("", &format!("sinks: {{out: {{{sink}}}}}"));
            let ended = place.ends_with(code, RUN);
            assert!(ended.stderr.contains(word), "{sink}: {ended}");
            assert!(!ended.stderr.contains("s3cret"), "{ended}");
            let plan = place.program.run(&["plan", "p.yaml"]).unwrap();
            // What only the records show is found when they are written.
            let is_foretold = !sink.contains("typed") && code != 1;
            assert!(plan.code != Some(0) || !is_foretold, "{sink}: {plan}");
        }
        for table in ["hollow", "old", "typed"] {
            assert_eq!(place.ledger(&format!("SELECT * FROM {table}")).len(), 0, "{table}");
        }
        assert!(!place.has_table("t"), "nothing is written");
    }
}

#[test]
fn a_server_that_only_reads_is_refused() {
    for family in Family::BOTH {
        let Some(server) = piton_testkit::service::needed(family.start()) else { return };
        let place = Place::on(&server, 10);
        server.administer("SET GLOBAL read_only = 1").unwrap();
        place.configure_to(Sink::Append, "");
        assert!(place.ends_with(3, RUN).stderr.contains("only reads"));
        assert!(!place.has_table("appended") && !place.has_table("piton_checkpoints"));
    }
}

#[test]
fn the_plan_says_what_is_promised() {
    for family in Family::BOTH {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 10);
        place.configure_to(Sink::Upsert, "");
        let plan = place.ends_with(0, &["plan", "p.yaml"]);
        for word in ["exactly once", "InnoDB", "table upserted"] {
            assert!(plan.stdout.contains(word), "{plan}");
        }
        assert!(!plan.stdout.contains("piton:piton"), "{plan}");
        assert!(!place.has_table("upserted"), "looking writes nothing");

        // What a source does not see.
        place.run_sql("CREATE TABLE source (id INT PRIMARY KEY)");
        for (rest, code, words) in [
            ("", 0, &["one state of the database"][..]),
            (", poll: 1s, settle: 5s", 0, &["changed or deleted", "more than 5s"]),
            (", poll: 1s", 2, &["`poll` needs `settle`"]),
        ] {
            let source = format!("source: {{sql: {{url: '{}', table: source{rest}}}}}", place.url);
            let sinks = format!("sinks: {{out: {{{}}}}}", Sink::Append.yaml(&place.url));
            place.write("p.yaml", &format!("pipeline: q\n{source}\n{sinks}\n"));
            let plan = place.ends_with(code, &["plan", "p.yaml"]);
            let said = format!("{}{}", plan.stdout, plan.stderr);
            assert!(words.iter().all(|word| said.contains(word)), "{rest}: {plan}");
        }
    }
}

/// Invariants 1 and 5 with records that the server refuses: each is a dead letter, once, and all
/// others are there.
#[test]
fn a_refused_record_is_set_aside_and_the_rest_goes_on() {
    for family in Family::BOTH {
        for sink in Sink::BOTH {
            let Some(server) = family.shared() else { return };
            let place = Place::on(server, 5_000);
            place.run_sql(&format!(
                "CREATE TABLE {} (id INT PRIMARY KEY, name TEXT, value INT, CHECK (value <> 37))",
                sink.table()
            ));
            place.configure_to(sink, "");
            let stopped = place.ends_with(1, RUN);
            assert!(stopped.stderr.contains("line 3"), "id 1 is on line 3: {stopped}");
            assert_eq!(place.rows_in(sink), 1, "{sink:?}: those before it are kept");

            place.configure_to(sink, "on_error: dead_letter");
            place.ends_with(0, RUN);
            let all = format!(
                "SELECT COUNT(*), COUNT(DISTINCT id), MAX(value = 37) FROM {}",
                sink.table()
            );
            let mut wanted = piton_testkit::Ledger::default();
            wanted.add(["4995", "4995", "0"]);
            assert_eq!(wanted.compare(&place.ledger(&all)).exactly_once(), Ok(()), "{sink:?}");
            let letters = place.ends_with(0, &["dead-letters", "list", "p", "--json"]).stdout;
            assert_eq!(letters.matches("\"reason\"").count(), 5, "{sink:?}: {letters}");
            assert!(letters.to_lowercase().contains("constraint"), "{sink:?}: {letters}");
        }
    }
}

/// Exit code 3, also where nothing new is to be read: what the checkpoint covers would be missing.
/// Invariants 1 and 4.
#[test]
fn a_table_that_is_gone_is_not_made_anew() {
    for (family, sink) in [(Family::MySql, Sink::Upsert), (Family::MariaDb, Sink::Append)] {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 10);
        place.configure_to(sink, "");
        place.ends_with(0, RUN);
        place.run_sql(&format!("DROP TABLE {}", sink.table()));
        for args in [RUN, &["plan", "p.yaml"]] {
            let refused = place.ends_with(3, args);
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert!(
                said.contains("is gone") && said.contains("piton reset p --sink out"),
                "{said}"
            );
        }
        assert!(!place.has_table(sink.table()), "nothing is made");
        place.ends_with(0, &["reset", "p", "--sink", "out", "--keep", "--yes"]);
        place.ends_with(0, RUN);
        place.exactly_once(sink);
    }
}
