//! What a person is told while a relay runs.

use piton_testkit::{
    program::PATIENCE,
    service::{self, Postgres},
};

use crate::place::{Place, SINKS, stop};

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
    // A run tells the store about once a second how it is.
    let waiting = || place.status()["run"]["waiting"].to_string();
    running.until("status to tell", PATIENCE, |_| waiting() != "null").unwrap();
    let waiting = waiting();
    assert!(waiting.contains("'nightly'") && waiting.contains("idle in transaction"), "{waiting}");
    assert!(place.ends_with(0, &["status", "relay"]).stdout.contains("waiting: messages wait"));
    place.ends_with(1, &["status", "relay", "--check"]);
    old.batch_execute("COMMIT").unwrap();
    running.until("it to go on", PATIENCE, |r| r.stderr().contains("the source goes on")).unwrap();
    running.until("the messages", PATIENCE, |_| place.file().len() == 3).unwrap();
    let is_well = || {
        place.program.run(&["status", "relay", "--check"]).is_ok_and(|ended| ended.code == Some(0))
    };
    running.until("status to find it well", PATIENCE, |_| is_well()).unwrap();
    stop(running);
    place.exactly_once_in_order();
}

/// Whoever holds them back: a session next door, or nobody's session at all.
#[test]
fn status_names_a_session_of_another_database_and_a_prepared_transaction() {
    let options = Postgres::options().line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server);
    place.configure("", SINKS);
    let next_door = server.database().unwrap();
    let (_, database) = next_door.rsplit_once('/').unwrap();
    let mut holder = postgres::Client::connect(&next_door, postgres::NoTls).unwrap();
    holder.batch_execute("SET application_name = 'migration'; CREATE TABLE t (n int)").unwrap();
    place.append(1..=1);
    let mut running = place.start();
    running.until("the first message", PATIENCE, |_| place.file().len() == 1).unwrap();
    for (n, holds, ends, named) in [
        (2, "BEGIN; INSERT INTO t VALUES (1)", "COMMIT", "'migration'"),
        (
            3,
            "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'forgotten'",
            "ROLLBACK PREPARED 'forgotten'",
            "prepared as 'forgotten'",
        ),
    ] {
        holder.batch_execute(holds).unwrap();
        place.append(n..=n);
        let says = || {
            let waiting = place.status()["run"]["waiting"].to_string();
            waiting.contains(named) && waiting.contains(&format!("database {database}"))
        };
        running.until("status to name it", PATIENCE, |_| says()).unwrap();
        holder.batch_execute(ends).unwrap();
        running.until("the message", PATIENCE, |_| place.file().len() == n as usize).unwrap();
    }
    stop(running);
}
