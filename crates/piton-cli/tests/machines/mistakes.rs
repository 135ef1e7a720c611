//! What is wrong with a store's address or its server is named, with the exit code that it has,
//! and no password is ever told.

use piton_testkit::service;

use crate::place::{Place, RUN, System, each};

const SECRET: &str = "hunter2";

#[test]
fn whoever_only_asks_creates_no_store() {
    each(|system| {
        let Some(place) = Place::new(system, 10) else { return };
        for command in [&["status"][..], &["history", "p"], &["export"], &["backup", "b.db"]] {
            let ended = place.ends_with(2, &[command, &["--store", &place.store]].concat());
            assert!(ended.stderr.contains("there is no store at"), "{system:?}: {ended}");
        }
        place.configure(&place.store, "", "");
        let plan = place.ends_with(0, &["plan", "p.yaml"]);
        assert!(plan.stdout.contains("not there yet"), "{system:?}: {plan}");
        place.ends_with(2, &["status", "p.yaml"]);
    });
}

#[test]
fn a_password_is_asked_for_and_never_told() {
    each(|system| {
        let Some(server) = service::needed(system.options().password(SECRET).start()) else {
            return;
        };
        let place = Place::on(&server, 10);
        assert!(place.store.contains(SECRET), "{system:?}");
        place.configure(&place.store.replace(SECRET, "swordfish"), "", "");
        let refused = place.ends_with(2, RUN);
        let words = if system == System::Postgres { "password" } else { "denied" };
        assert!(refused.stderr.contains(words), "{system:?}: {refused}");
        assert!(!refused.stderr.contains("swordfish"), "{system:?}: {refused}");
        // From the environment, as the server's own programs take it.
        let without = place.store.replace(&format!(":{SECRET}@"), "@");
        let variable = if system == System::Postgres { "PGPASSWORD" } else { "MYSQL_PWD" };
        place.configure(&without, "", "");
        place.program.clone().with(variable, SECRET).run_to(0, RUN).unwrap();
        place.configure(&place.store, "", "");
        for args in [
            &["run", "p.yaml"][..],
            &["plan", "p.yaml", "--json"],
            &["status"],
            &["status", "--json"],
            &["history", "p"],
            &["export"],
        ] {
            let asked = place.program.clone().with("PITON_STORE", &place.store);
            let ended = asked.run_to(0, args).unwrap();
            let told = format!("{}{}", ended.stdout, ended.stderr);
            assert!(!told.contains(SECRET), "{system:?}: {args:?}: {told}");
        }
    });
}

#[test]
fn an_address_that_cannot_be_read_is_told_with_its_line() {
    let Some(place) = Place::new(System::Postgres, 10) else { return };
    for (address, words) in [
        ("postgres://ann:s3cret@h/db?frob=1", "a setting 'frob' that is not known"),
        ("mysql://ann:s3cret@h/db?frob=1", "a setting 'frob' that is not known"),
        ("mysql://ann:s3cret@h:port/db", "cannot be read"),
        ("redis://ann:s3cret@h", "is not an address of a store"),
    ] {
        place.configure(address, "", "");
        for command in [RUN, &["plan", "p.yaml"]] {
            let ended = place.ends_with(2, command);
            assert!(ended.stderr.contains("p.yaml:2:8: "), "{address}: {ended}");
            assert!(ended.stderr.contains(words), "{address}: {ended}");
            assert!(!ended.stderr.contains("s3cret"), "{address}: {ended}");
        }
    }
}

#[test]
fn a_server_that_is_not_there_fails_the_run_before_anything_is_written() {
    let Some(place) = Place::new(System::Postgres, 10) else { return };
    for address in ["postgres://ann:s3cret@127.0.0.1:9/db", "mysql://ann:s3cret@127.0.0.1:9/db"] {
        place.configure(address, "", "");
        let ended = place.ends_with(1, RUN);
        assert!(ended.stderr.contains("127.0.0.1:9/db"), "{ended}");
        assert!(ended.stderr.contains("refused"), "{ended}");
        assert!(!ended.stderr.contains("s3cret"), "{ended}");
        assert!(!place.path("out.db").exists() && !place.path("out.jsonl").exists());
    }
}

#[test]
fn who_may_not_create_the_store_is_told_which_right_is_missing() {
    let Some(server) = service::needed(System::Postgres.options().start()) else { return };
    let place = Place::on(&server, 10);
    server.administer("CREATE ROLE reader LOGIN PASSWORD 'reader'").unwrap();
    let (_, rest) = place.store.split_once('@').unwrap();
    place.configure(&format!("postgres://reader:reader@{rest}"), "", "");
    let ended = place.ends_with(2, RUN);
    assert!(ended.stderr.contains("permission denied"), "{ended}");
    assert!(!place.path("out.db").exists());
}
