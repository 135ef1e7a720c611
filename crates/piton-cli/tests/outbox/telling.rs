//! What a person is told while a relay runs.

use piton_testkit::{
    program::PATIENCE,
    service::{self, Postgres},
};

use crate::place::{Place, SINKS};

#[test]
fn who_holds_messages_back_is_told_by_run_and_status() {
    let options = Postgres::options().line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server);
    place.configure("", SINKS);
    let mut running = place.start();
    let mut old = place.client();
    old.batch_execute("SET application_name = 'nightly'; BEGIN; SELECT pg_current_xact_id()")
        .unwrap();
    place.append(1..=3);
    let tells = |running: &piton_testkit::Running| running.stderr().contains("messages wait for");
    running.until("it to tell", PATIENCE, tells).unwrap();
    let waiting = place.status()["run"]["waiting"].to_string();
    assert!(waiting.contains("'nightly'") && waiting.contains("idle in transaction"), "{waiting}");
    assert!(place.ends_with(0, &["status", "relay"]).stdout.contains("waiting: messages wait"));
    place.ends_with(1, &["status", "relay", "--check"]);
    old.batch_execute("COMMIT").unwrap();
    running.until("it to go on", PATIENCE, |r| r.stderr().contains("the source goes on")).unwrap();
    running.until("the messages", PATIENCE, |_| place.file().len() == 3).unwrap();
    place.ends_with(0, &["status", "relay", "--check"]);
    running.terminate().unwrap();
    assert_eq!(running.wait(PATIENCE).unwrap().code, Some(0));
    place.exactly_once_in_order();
}
