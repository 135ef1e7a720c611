//! Deleting what every reader has passed, and nothing else.

use std::time::Duration;

use serde_json::json;

use super::{Place, append, gap, ids, ids_in, until};
use crate::source::{Reader, Source, Start};

fn place() -> Option<Place> {
    let mut place = Place::new()?;
    place.settings["delete_passed"] = json!(true);
    let mut client = place.client();
    for n in 1..=9 {
        append(&mut client, &n.to_string());
    }
    Some(place)
}

fn left(place: &Place) -> Vec<String> {
    let rows = place
        .client()
        .query("SELECT message_id FROM outbox ORDER BY transaction_id, position", &[])
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn begun(source: &dyn Source, position: Option<piton_core::StoredPosition>) -> Box<dyn Reader> {
    source.reader(&[Start { partition: "outbox".into(), position }]).unwrap()
}

#[test]
fn what_all_readers_have_passed_is_deleted_but_for_the_message_they_stand_at() {
    let Some(place) = place() else { return };
    let (relay, mailer) = (place.source_of("relay"), place.source_of("mailer"));
    let (mut first, _second) = (begun(&relay, None), begun(&mailer, None));
    let batch = &super::batches(&mut *first, 9)[0];
    let after = |n: usize| batch.resume_at(n);
    relay.acknowledge("outbox", &after(8));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(left(&place).len(), 9, "the mailer has passed nothing");
    mailer.acknowledge("outbox", &after(3));
    until("what the mailer has passed to be deleted", || left(&place).len() == 7);
    assert_eq!(left(&place), ["3", "4", "5", "6", "7", "8", "9"]);
    mailer.acknowledge("outbox", &after(8));
    until("the rest", || left(&place) == ["8", "9"]);
    // What was said last is noted although the run is over.
    relay.acknowledge("outbox", &batch.end);
    mailer.acknowledge("outbox", &batch.end);
    drop((relay, mailer));
    assert_eq!(left(&place), ["9"]);
}

#[test]
fn a_reader_that_was_not_waited_for_finds_a_gap() {
    let Some(mut place) = place() else { return };
    let relay = place.source_of("relay");
    let mut reader = begun(&relay, None);
    let batch = &super::batches(&mut *reader, 9)[0];
    place.settings["delete_passed"] = json!(false);
    place.verify(Some(batch.resume_at(2))).unwrap();
    relay.acknowledge("outbox", &batch.resume_at(6));
    drop((reader, relay));
    assert_eq!(left(&place), ["6", "7", "8", "9"]);
    let what = gap(place.verify(Some(batch.resume_at(2))));
    assert!(what.contains("were deleted") && what.contains("piton reset"), "{what}");
    assert!(gap(place.try_from(Some(batch.resume_at(2)))).contains("were deleted"));
    place.verify(Some(batch.resume_at(6))).unwrap();
    assert_eq!(ids_in(&place.read(None, 4)), ["6", "7", "8", "9"]);
}

/// A rewind that still finds its messages holds them from then on.
#[test]
fn a_reader_that_goes_back_is_waited_for_again() {
    let Some(place) = place() else { return };
    let (relay, mailer) = (place.source_of("relay"), place.source_of("mailer"));
    let (mut first, second) = (begun(&relay, None), begun(&mailer, None));
    let batch = &super::batches(&mut *first, 9)[0];
    relay.acknowledge("outbox", &batch.resume_at(8));
    mailer.acknowledge("outbox", &batch.resume_at(4));
    drop((first, relay, second, mailer));
    assert_eq!(left(&place).len(), 6);
    let relay = place.source_of("relay");
    let mut reader = begun(&relay, Some(batch.resume_at(5)));
    let mailer = place.source_of("mailer");
    let _second = begun(&mailer, Some(batch.resume_at(4)));
    mailer.acknowledge("outbox", &batch.end);
    drop(mailer);
    assert_eq!(left(&place), ["5", "6", "7", "8", "9"]);
    assert_eq!(ids(&mut *reader, 4), ["6", "7", "8", "9"]);
}

#[test]
fn a_look_registers_nobody() {
    let Some(place) = place() else { return };
    let source = place.source();
    let mut reader = source.reader(&[]).unwrap();
    assert_eq!(ids(&mut *reader, 9).len(), 9);
    let there = place.client().query_one("SELECT to_regclass('piton_outbox_readers') IS NULL", &[]);
    assert!(there.unwrap().get::<_, bool>(0));
}

#[test]
fn many_messages_are_deleted_in_short_transactions() {
    let Some(place) = place() else { return };
    place.sql(
        "INSERT INTO outbox (message_id, message_type, data)
         SELECT 'm' || n, 'T', '{}' FROM generate_series(1, 5000) n",
    );
    let relay = place.source();
    let mut reader = begun(&relay, None);
    let batches = super::batches(&mut *reader, 5009);
    relay.acknowledge("outbox", &batches[batches.len() - 1].end);
    until("all to be deleted", || left(&place) == ["m5000"]);
    let largest = place
        .client()
        .query_one("SELECT max(n) FROM (SELECT count(*) AS n FROM outbox GROUP BY xmax) AS t", &[]);
    assert_eq!(largest.unwrap().get::<_, i64>(0), 1);
    assert_eq!(relay.trouble(), None);
}

/// Invariant 4: what is deleted in front of a reader that runs is no silent loss either.
#[test]
fn a_running_reader_that_was_not_waited_for_finds_a_gap() {
    let Some(mut place) = place() else { return };
    let relay = place.source_of("relay");
    let mut reader = begun(&relay, None);
    let batch = &super::batches(&mut *reader, 9)[0];
    place.settings["delete_passed"] = json!(false);
    let late = place.source_of("late");
    let mut lagging = begun(&late, Some(batch.resume_at(2)));
    let mut ahead = begun(&late, Some(batch.resume_at(6)));
    let mut new = begun(&late, None);
    relay.acknowledge("outbox", &batch.resume_at(6));
    drop((reader, relay));
    assert_eq!(left(&place), ["6", "7", "8", "9"]);
    let what = gap(lagging.read(1000));
    assert!(what.contains("were deleted"), "{what}");
    assert_eq!(ids(&mut *ahead, 3), ["7", "8", "9"]);
    assert_eq!(ids(&mut *new, 4), ["6", "7", "8", "9"], "what is left is where it begins");
}

/// The same where the page is so large that its connection is given up.
#[test]
fn a_large_page_is_not_given_before_a_gap_in_front_of_it_is_seen() {
    let Some(mut place) = place() else { return };
    place.sql(
        "INSERT INTO outbox (message_id, message_type, data)
         SELECT 'm' || n, 'T', to_jsonb(repeat('x', 1048576)) FROM generate_series(1, 12) n",
    );
    let relay = place.source_of("relay");
    let mut reader = begun(&relay, None);
    let batches = super::batches(&mut *reader, 21);
    place.settings["delete_passed"] = json!(false);
    let late = place.source_of("late");
    let mut lagging = begun(&late, Some(batches[0].resume_at(2)));
    let mut ahead = begun(&late, Some(batches[0].resume_at(8)));
    relay.acknowledge("outbox", &batches[0].resume_at(8));
    drop((reader, relay));
    assert_eq!(left(&place).len(), 14);
    let refused = (0..1000).find_map(|_| match lagging.read(1000) {
        Ok(crate::source::Read::Idle) => None,
        other => Some(gap(other)),
    });
    assert!(refused.unwrap().contains("were deleted"));
    assert_eq!(ids(&mut *ahead, 13).len(), 13);
}

/// People remove rows of pipelines that are no more, and may be wrong.
#[test]
fn a_reader_whose_row_was_removed_is_waited_for_again() {
    let Some(place) = place() else { return };
    let (relay, mailer) = (place.source_of("relay"), place.source_of("mailer"));
    let (mut first, _second) = (begun(&relay, None), begun(&mailer, None));
    let batch = &super::batches(&mut *first, 9)[0];
    place.sql("DELETE FROM piton_outbox_readers WHERE reader IN ('mailer', '')");
    mailer.acknowledge("outbox", &batch.resume_at(3));
    drop(mailer);
    relay.acknowledge("outbox", &batch.resume_at(8));
    drop(relay);
    assert_eq!(left(&place), ["3", "4", "5", "6", "7", "8", "9"]);
    assert!(gap(place.verify(Some(batch.resume_at(1)))).contains("were deleted"));
}

#[test]
fn a_table_of_readers_of_another_shape_is_an_error() {
    let Some(place) = place() else { return };
    place.sql(
        "CREATE TABLE piton_outbox_readers
         (outbox text, reader text, transaction_id text, position text);
         INSERT INTO piton_outbox_readers VALUES ('public.outbox', '', '7', '7')",
    );
    assert!(place.verify(Some(super::at(1, 1))).is_err());
}
