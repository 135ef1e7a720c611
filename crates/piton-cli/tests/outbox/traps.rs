//! What goes wrong in other relays, each by the name of what happens there.

use std::{thread, time::Duration};

use piton_testkit::{
    Running,
    program::PATIENCE,
    service::{self, Postgres},
};

use crate::place::{Place, SINKS, Target, same, stop, with_appenders};

/// An outbox and a table beside it, relayed with these further lines.
fn beside(rest: &str) -> Option<(Place, Target)> {
    let place = Place::new()?;
    let target = Target::at(&place.url);
    place.configure("", &format!("sinks:\n  out: {}\n{rest}", target.sink()));
    Some((place, target))
}

/// Waits until a table holds so many messages.
#[track_caller]
fn until_it_holds(running: &mut Running, target: &Target, messages: u64) {
    running
        .until("messages", PATIENCE, |_| target.rows() >= messages)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_tail_shorter_than_the_batch_is_written() {
    let Some((place, target)) = beside("checkpoint: {records: 1000}") else { return };
    let mut running = place.start();
    for (from, to) in [(1, 7), (8, 8)] {
        place.append(from..=to);
        until_it_holds(&mut running, &target, to.into());
    }
    running.kill().unwrap();
    same("target", &target.messages(), &place.outbox());
}

/// A position that moved before a COMMIT that failed would skip the batch.
#[test]
fn a_commit_that_fails_neither_moves_the_position_nor_ends_in_silence() {
    let Some((place, target)) = beside("checkpoint: {records: 100}") else { return };
    place.fill(250);
    place.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE 'not while the books are closed'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW WHEN (new.position = 150) EXECUTE FUNCTION refuse()",
    );
    for _ in 0..2 {
        let ended = place.ends_with(1, &["run", "p.yaml"]);
        assert!(ended.stderr.contains("not while the books are closed"), "{ended}");
        assert!(ended.stderr.contains("sink 'out'"), "{ended}");
        same("target", &target.messages(), &place.outbox()[..100]);
    }
    let status = place.status();
    assert!(status["error"].to_string().contains("books are closed"), "{status:#}");
    place.sql("DROP TRIGGER refuse ON kept");
    place.relay_until(|| target.rows() >= 250);
    same("target", &target.messages(), &place.outbox());
}

/// A claim that only checkpoints renew is lost by an owner to whom nothing comes.
#[test]
fn an_idle_relay_keeps_its_claim() {
    let Some((place, target)) = beside("claim: {lease: 1s}") else { return };
    let mut running = place.start();
    place.append(1..=1);
    until_it_holds(&mut running, &target, 1);
    thread::sleep(Duration::from_secs(3));
    let second = place.ends_with(4, &["run", "p.yaml"]);
    assert!(second.stderr.contains(&format!("process {}", running.id())), "{second}");
    place.append(2..=2);
    until_it_holds(&mut running, &target, 2);
    stop(running);
    same("target", &target.messages(), &place.outbox());
}

/// Invariant 3.
#[test]
fn a_relay_that_slept_through_a_takeover_is_fenced() {
    let rest = "checkpoint: {records: 100}\nclaim: {lease: 1s}";
    let Some((place, target)) = beside(rest) else { return };
    place.fill(1000);
    let trace = place.path("trace");
    let program = place.program.clone().with("PITON_TRACE", &trace.to_string_lossy());
    let sleeper = program.with("PITON_FAULT", "commit.after:3=stop");
    let mut sleeper = sleeper.start(&["run", "p.yaml"]).unwrap();
    let sleeps = |_: &Running| {
        let trace = std::fs::read_to_string(&trace).unwrap_or_default();
        trace.lines().filter(|line| *line == "commit.after").count() >= 3
    };
    sleeper.until("it to sleep", PATIENCE, sleeps).unwrap();
    assert_eq!(target.rows(), 300);
    let mut heir = place.start();
    until_it_holds(&mut heir, &target, 1000);
    place.append(1..=5);
    sleeper.thaw().unwrap();
    let woken = sleeper.wait(PATIENCE).unwrap();
    assert_eq!(woken.code, Some(4), "{woken}");
    until_it_holds(&mut heir, &target, 1005);
    stop(heir);
    same("target", &target.messages(), &place.outbox());
}

/// A message is parked before a checkpoint passes it, or a crash between the two loses it.
#[test]
fn a_message_that_cannot_be_taken_is_set_aside_before_the_rest_goes_on() {
    let Some((place, target)) = beside("on_error: dead_letter\ncheckpoint: {records: 10}") else {
        return;
    };
    place.sql("ALTER TABLE kept ADD CHECK (message_id <> '13')");
    place.append(1..=30);
    let mut running = place.start();
    until_it_holds(&mut running, &target, 29);
    running.kill().unwrap();
    let mut outbox = place.outbox();
    let poison = outbox.remove(12);
    same("target", &target.messages(), &outbox);
    let letters = place.ends_with(0, &["dead-letters", "list", "relay"]).stdout;
    assert!(letters.contains(&poison.2), "{letters}");
    place.sql("ALTER TABLE kept DROP CONSTRAINT kept_message_id_check");
}

/// Each rebuild begins anew, and what it writes is there at its end.
#[test]
fn a_rebuild_that_is_run_twice_leaves_everything_there_once() {
    let Some(place) = Place::new() else { return };
    let target = Target::at(&place.url);
    place.sql("ALTER TABLE kept ADD PRIMARY KEY (message_id)");
    let by_key = target.sink().replace("mode: append", "key: [message_id]");
    place.configure("", &format!("sinks:\n  out: {by_key}"));
    place.fill(300);
    for _ in 0..3 {
        place.relay_until(|| target.rows() == 300 && place.status()["records"] == 300);
        same("target", &target.messages(), &place.outbox());
        place.ends_with(0, &["reset", "relay", "--keep", "--yes"]);
    }
    place.ends_with(0, &["reset", "relay", "--truncate", "--yes"]);
    place.relay_until(|| target.rows() == 300 && place.status()["records"] == 300);
    same("target", &target.messages(), &place.outbox());
}

/// Invariant 1: what is deleted has been relayed, whoever is killed.
#[test]
fn what_every_reader_has_passed_is_deleted_and_nothing_else() {
    let options = Postgres::options().line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server);
    place.sql(
        "CREATE TABLE ledger (LIKE outbox);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO ledger VALUES (new.*); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note()",
    );
    place.configure(", delete_passed: true", &format!("{SINKS}\ncheckpoint: {{every: 50ms}}"));
    place.fill(5000);
    with_appenders(&place.url, || {
        for kill in 1..=5 {
            let begin = place.rows();
            let mut running = place.start();
            running
                .until("progress", PATIENCE, |_| place.rows() >= begin + 300)
                .unwrap_or_else(|error| panic!("kill {kill}: {error}"));
            thread::sleep(Duration::from_millis(300 * kill));
            running.kill().unwrap();
        }
    });
    let appended = "SELECT transaction_id::text::bigint, position, message_id FROM ledger \
                    ORDER BY transaction_id, position";
    let appended = crate::place::messages(&mut place.client(), appended);
    place.relay_until(|| place.file().len() >= appended.len() && place.outbox().len() == 1);
    same("file", &place.file(), &appended);
    same("table", &place.table(), &appended);
    same("outbox", &place.outbox(), &appended[appended.len() - 1..]);
}
