//! Everything an operator does, on a store that is on a server.

use std::fs;

use piton_testkit::program::PATIENCE;

use crate::place::{Place, RUN, each};

const ROWS: u64 = 6_000;

#[test]
fn a_run_is_paused_resumed_cancelled_and_looked_at_from_elsewhere() {
    each(|system| {
        let Some(place) = Place::new(system, ROWS) else { return };
        place.configure(&place.store, ", rate: 2000/s", "");
        let mut running = place.at_work();
        let elsewhere = ["p", "--store", place.store.as_str()];
        place.ends_with(0, &[&["pause"], &elsewhere[..]].concat());
        let status = || place.ends_with(0, &[&["status"], &elsewhere[..]].concat()).stdout;
        running.until("the pause", PATIENCE, |_| status().contains("p: paused")).unwrap();
        place.ends_with(0, &[&["resume"], &elsewhere[..]].concat());
        let before = place.written();
        running.until("more", PATIENCE, |_| place.written() > before).unwrap();
        place.ends_with(0, &[&["cancel"], &elsewhere[..]].concat());
        assert_eq!(running.wait(PATIENCE).unwrap().code, Some(1), "{system:?}");
        place.ends_with(3, RUN);
        place.ends_with(0, &["run", "p.yaml", "--again"]);
        place.exactly_once();
        let history = place.ends_with(0, &[&["history"], &elsewhere[..]].concat());
        for word in ["pause", "resume", "cancel", "finished"] {
            assert!(history.stdout.contains(word), "{system:?}: {word}: {history}");
        }
    });
}

#[test]
fn a_reset_and_a_rewind_are_orders_that_the_next_run_applies() {
    each(|system| {
        let Some(place) = Place::new(system, ROWS) else { return };
        place.configure(&place.store, "", "");
        place.ends_with(0, RUN);
        place.ends_with(2, &["reset", "p.yaml"]);
        place.ends_with(0, &["rewind", "p.yaml", "--to", "3", "--truncate", "--yes"]);
        place.ends_with(0, RUN);
        place.exactly_once();
    });
}

/// The state moves between a server and a file, and a backup of a server's store works.
#[test]
fn the_state_moves_between_stores() {
    each(|system| {
        let Some(place) = Place::new(system, ROWS) else { return };
        place.configure(&place.store, "", "on_error: dead_letter");
        fs::write(place.path("data.csv"), "id,name\n1,a\n2,b,too many\n3,c\n").unwrap();
        place.ends_with(0, RUN);
        let store = place.store.as_str();
        let letters = place.ends_with(0, &["dead-letters", "list", "p", "--store", store]);
        assert!(letters.stdout.contains("data.csv"), "{system:?}: {letters}");
        place.ends_with(0, &["export", "--store", store, "-o", "state.json"]);
        place.ends_with(0, &["import", "state.json", "--store", "sqlite:moved.db"]);
        place.ends_with(0, &["backup", "backup.db", "--store", store]);
        for url in ["sqlite:moved.db", "sqlite:backup.db"] {
            place.configure(url, "", "on_error: dead_letter");
            let again = place.ends_with(0, RUN);
            assert!(again.stderr.contains("had finished already"), "{system:?}, {url}: {again}");
        }
    });
}
