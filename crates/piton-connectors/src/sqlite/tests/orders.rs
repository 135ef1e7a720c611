//! Reset and rewind, as the next owner applies them.

use jiff::Timestamp;
use piton_core::{Order, OrderKind, Output, claim::WHOLE};

use super::*;

fn order(kind: OrderKind, output: Output, to: Option<&Checkpoint>) -> Order {
    Order {
        id: 1,
        pipeline: "p".into(),
        partition: WHOLE.into(),
        sink: WHOLE.into(),
        kind,
        position: to.and_then(|c| c.position.clone()),
        records: to.map_or(0, |c| c.records),
        sink_state: to.and_then(|c| c.sink_state.clone()),
        output: Some(output),
        who: "me".into(),
        at: Timestamp::UNIX_EPOCH,
        applied_at: None,
    }
}

fn ordered(place: &Place, epoch: u64, order: Order) -> (SqliteSink, Vec<Checkpoint>) {
    let mut sink = place.open(Duration::ZERO);
    let read = sink.fence(&Fence { orders: vec![order], ..fence(epoch) }).unwrap();
    (sink, read)
}

#[test]
fn a_rewind_cuts_an_append_table_to_the_row_of_its_checkpoint() {
    let place = Place::append();
    let mut sink = place.fenced(1);
    let first = deliver(&mut sink, &ids(1..=3), 3).unwrap();
    deliver(&mut sink, &ids(4..=9), 9).unwrap();
    let rewind = order(OrderKind::Rewind, Output::Truncate, Some(&first[0]));
    let (mut sink, read) = ordered(&place, 2, rewind);
    assert_eq!((read[0].position.clone(), read[0].records), (Some(at(3)), 3));
    assert_eq!(place.names().len(), 3);
    deliver(&mut sink, &ids(4..=9), 9).unwrap();
    let ids: Vec<i64> = place.names().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_reset_cuts_to_what_was_there_before_and_not_further() {
    let place = Place::append();
    place
        .sql()
        .execute_batch("CREATE TABLE people (id, name); INSERT INTO people VALUES (0, 'old')")
        .unwrap();
    deliver(&mut place.fenced(1), &ids(1..=3), 3).unwrap();
    let (mut sink, read) = ordered(&place, 2, order(OrderKind::Reset, Output::Truncate, None));
    assert_eq!(read[0].position, None);
    assert_eq!(place.names(), [(0, "old".to_owned())]);
    deliver(&mut sink, &ids(1..=2), 2).unwrap();
    assert_eq!(place.names().len(), 3);
}

#[test]
fn what_was_kept_is_not_cut_later() {
    let place = Place::append();
    deliver(&mut place.fenced(1), &ids(1..=3), 3).unwrap();
    let (mut sink, _) = ordered(&place, 2, order(OrderKind::Reset, Output::Keep, None));
    deliver(&mut sink, &ids(1..=3), 3).unwrap();
    assert_eq!(place.names().len(), 6, "records repeat, as was asked");
    ordered(&place, 3, order(OrderKind::Reset, Output::Truncate, None));
    assert_eq!(place.names().len(), 3);
}

#[test]
fn rows_that_are_numbered_by_the_records_are_not_cut_by_number() {
    let place = Place::append();
    place.sql().execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)").unwrap();
    deliver(&mut place.fenced(1), &ids(5..=9), 5).unwrap();
    let orders = vec![order(OrderKind::Reset, Output::Truncate, None)];
    let refused = place.open(Duration::ZERO).fence(&Fence { orders, ..fence(2) });
    assert!(
        matches!(&refused, Err(SinkError::Refused { what }) if what.contains("--keep")),
        "{refused:?}"
    );
    assert_eq!(place.names().len(), 5);
    assert_eq!(place.open(Duration::ZERO).peek("p", "s").unwrap()[0].epoch, Epoch(1));
}

#[test]
fn an_upsert_table_is_written_over_not_cut() {
    let place = Place::upsert();
    deliver(&mut place.fenced(1), &ids(1..=3), 3).unwrap();
    let (mut sink, read) = ordered(&place, 2, order(OrderKind::Reset, Output::Truncate, None));
    assert_eq!((read[0].position.clone(), read[0].sink_state.clone()), (None, None));
    deliver(&mut sink, &ids(1..=4), 4).unwrap();
    assert_eq!(place.names().len(), 4);
}

#[test]
fn every_row_of_the_sink_gets_the_epoch() {
    let place = Place::upsert();
    let mut sink = place.open(Duration::ZERO);
    let partitions = vec!["a".to_owned(), "b".to_owned()];
    sink.fence(&Fence { partitions, ..fence(1) }).unwrap();
    let mut heir = place.open(Duration::ZERO);
    let read = heir.fence(&Fence { partitions: vec!["c".to_owned()], ..fence(2) }).unwrap();
    let epochs: Vec<_> = read.iter().map(|c| (c.key.partition.as_str(), c.epoch)).collect();
    assert_eq!(epochs, [("a", Epoch(2)), ("b", Epoch(2)), ("c", Epoch(2))]);
    let new = Advance { partition: "d".into(), position: at(1), records: 1 };
    let stored = heir.begin().unwrap().commit(&[new]).unwrap().checkpoints;
    assert_eq!((stored[0].version, stored[0].epoch), (2, Epoch(2)));
    assert_eq!(heir.peek("p", "s").unwrap().len(), 4);
}
