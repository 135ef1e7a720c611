//! Where a relay begins, and that it stays there.

use piton_testkit::program::PATIENCE;

use crate::place::{Place, SINKS};

fn has_begun(place: &Place) -> bool {
    let store = place.path("piton.db");
    let begun = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = rusqlite::Connection::open_with_flags(store, flags)?;
        let count = "SELECT count(*) FROM checkpoints WHERE position IS NOT NULL";
        db.query_row(count, [], |row| row.get::<_, i64>(0))
    };
    begun().unwrap_or(0) == 2
}

/// The end is where the first run began, not where the next one does.
#[test]
fn a_relay_that_began_at_the_end_goes_on_from_there_after_a_crash() {
    let Some(place) = Place::new() else { return };
    place.configure(", start: end", SINKS);
    place.append(1..=5);
    let mut running = place.start();
    running.until("its beginning to be kept", PATIENCE, |_| has_begun(&place)).unwrap();
    running.kill().unwrap();
    place.append(6..=9);
    let mut running = place.start();
    let has_9 = |_: &_| place.file().iter().any(|(.., id)| id == "9");
    running.until("what came meanwhile", PATIENCE, has_9).unwrap();
    running.terminate().unwrap();
    running.wait(PATIENCE).unwrap();
    let came: Vec<String> = place.file().into_iter().map(|(.., id)| id).collect();
    // Transactions of other tests may have kept what was there before from counting as past.
    assert!(came.ends_with(&["6", "7", "8", "9"].map(String::from)), "{came:?}");
    assert_eq!(place.table().len(), came.len());
}

#[test]
fn a_relay_that_is_to_go_on_refuses_to_begin() {
    let Some(place) = Place::new() else { return };
    place.append(1..=3);
    place.configure(", start: last", SINKS);
    let ended = place.ends_with(3, &["run", "p.yaml"]);
    assert!(ended.stderr.contains("`start: last`") && ended.stderr.contains("none is stored"));
    place.nothing_was_written();
    place.configure("", SINKS);
    place.relay_all();
    place.append(4..=6);
    place.configure(", start: last", SINKS);
    place.relay_all();
    place.exactly_once_in_order();
    // After a reset nothing is stored again.
    place.ends_with(0, &["reset", "relay", "--keep", "--yes"]);
    let ended = place.ends_with(3, &["run", "p.yaml"]);
    assert!(ended.stderr.contains("none is stored"), "{ended}");
}

#[test]
fn a_relay_can_begin_after_a_message() {
    let Some(place) = Place::new() else { return };
    place.append(1..=4);
    let (transaction, position, _) = place.outbox()[1].clone();
    let after = format!("{{after: {{transaction_id: {transaction}, position: {position}}}}}");
    place.configure(&format!(", start: {after}"), SINKS);
    let mut running = place.start();
    running.until("both", PATIENCE, |_| place.file().len() == 2).unwrap();
    running.terminate().unwrap();
    running.wait(PATIENCE).unwrap();
    assert_eq!(place.file(), place.outbox()[2..]);
    let status = place.status();
    let at = &status["checkpoints"][0]["position"];
    assert_eq!(at["position"], serde_json::json!(4), "{status:#}");
    assert!(at["transaction_id"].is_string(), "{status:#}");
}
