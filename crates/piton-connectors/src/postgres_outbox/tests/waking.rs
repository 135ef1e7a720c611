//! NOTIFY wakes and never replaces looking.

use std::time::{Duration, Instant};

use piton_testkit::service::{self, Postgres, Server};
use serde_json::json;

use super::{Place, append, ids, nothing_comes};
use crate::{
    postgres_outbox::ddl,
    source::{Read, Reader},
};

/// Servers of their own: on a shared one other tests hold messages back.
fn server() -> Option<Server> {
    service::needed(Postgres::options().line("fsync = off").start())
}

/// From commit to the reader, for messages that come alone.
fn delays(place: &Place, reader: &mut dyn Reader, messages: usize) -> Vec<Duration> {
    let mut client = place.client();
    let mut delays = Vec::new();
    for n in 0..messages {
        let quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(100) {
            assert!(matches!(reader.read(10).unwrap(), Read::Idle));
        }
        append(&mut client, &n.to_string());
        let committed = Instant::now();
        assert_eq!(ids(reader, 1), [n.to_string()]);
        delays.push(committed.elapsed());
    }
    delays.sort();
    delays
}

#[test]
fn ten_messages_a_second_are_seen_in_time() {
    let Some(server) = server() else { return };
    let place = Place::on(&server, json!({}));
    let polled = delays(&place, &mut *place.reader(None), 30);
    assert!(polled[28] < Duration::from_millis(60), "without a trigger: {polled:?}");
    place.sql(&ddl(&place.settings(), true));
    let mut reader = place.reader(Some(place.read(None, 30).pop().unwrap().end));
    let woken = delays(&place, &mut *reader, 30);
    assert!(woken[15] < Duration::from_millis(10), "with one: {woken:?}");
}

/// The end of a transaction that appended nothing notifies nobody.
#[test]
fn word_of_a_message_that_is_hidden_is_not_the_last_look() {
    let Some(server) = server() else { return };
    let place = Place::on(&server, json!({}));
    place.sql(&ddl(&place.settings(), true));
    let (mut first, mut second) = (place.client(), place.client());
    let mut reader = place.reader(None);
    append(&mut second, "seen");
    assert_eq!(ids(&mut *reader, 1), ["seen"]);
    let mut old = first.transaction().unwrap();
    old.execute("SELECT pg_current_xact_id()", &[]).unwrap();
    append(&mut second, "hidden");
    nothing_comes(&mut *reader, Duration::from_millis(2500));
    old.rollback().unwrap();
    let ended = Instant::now();
    assert_eq!(ids(&mut *reader, 1), ["hidden"]);
    assert!(ended.elapsed() < Duration::from_millis(300), "{:?}", ended.elapsed());
}

#[test]
fn the_trigger_of_another_outbox_wakes_nobody_here() {
    let Some(server) = server() else { return };
    let mut place = Place::on(&server, json!({}));
    place.settings["table"] = json!("other");
    place.sql(&ddl(&place.settings(), true));
    place.settings["table"] = json!("outbox");
    let mut reader = place.reader(None);
    nothing_comes(&mut *reader, Duration::from_millis(200));
    for _ in 0..100 {
        place.sql("INSERT INTO other (message_id, message_type, data) VALUES ('x', 'T', '1')");
    }
    nothing_comes(&mut *reader, Duration::from_millis(200));
    append(&mut place.client(), "ours");
    assert_eq!(ids(&mut *reader, 1), ["ours"]);
}
