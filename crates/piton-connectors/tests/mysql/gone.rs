//! A table that is gone is never made anew behind the back of its checkpoint.

use std::sync::Arc;

use piton_connectors::{
    batch::{Batch, ColumnType::Unknown, Value},
    mysql::{History, MySqlSink},
    sink::{Fence, SinkError, TransactionalSink},
};
use piton_core::{Order, OrderKind, Output, claim::WHOLE};

use crate::place::{LEASE, Place, advance, batch, both, deliver, fence, says};

const SETTINGS: [&str; 2] = ["table: t\nkey: [id]", "table: t"];

/// What a refusal says: where, and each of the choices.
const WORDS: [&str; 4] = ["table 't' in", "is gone", "piton reset p --sink s", "--adopt"];

fn row(id: i64) -> Batch {
    batch(&[("id", Unknown)], &[&[Value::Int(id)]])
}

/// Tries to write and save one more row.
fn write(sink: &mut dyn TransactionalSink, id: u64) -> Result<(), SinkError> {
    let mut open = sink.begin()?;
    open.write(&row(id as i64), 0..1)?;
    open.commit(&[advance(id)]).map(drop)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(place: &Place, result: Result<T, SinkError>) {
    let error = says(result, &WORDS);
    assert!(matches!(error, SinkError::Refused { .. }), "{error:?}");
    assert!(!is_there(place), "nothing is made");
}

fn is_there(place: &Place) -> bool {
    place.has_table("t")
}

fn drop_table(place: &Place) {
    place.run(&["DROP TABLE t"]);
}

fn each(test: impl Fn(&Place, &str)) {
    for settings in SETTINGS {
        both().for_each(|place| test(&place, settings));
    }
}

fn reset() -> Order {
    Order {
        id: 1,
        pipeline: "p".into(),
        partition: WHOLE.into(),
        sink: "s".into(),
        kind: OrderKind::Reset,
        position: None,
        records: 0,
        sink_state: None,
        output: Some(Output::Keep),
        who: "me".into(),
        at: jiff::Timestamp::UNIX_EPOCH,
        applied_at: None,
    }
}

/// Invariants 1 and 4: before a run, whoever takes over; in both modes, whoever made the table.
#[test]
fn a_table_that_is_gone_is_refused_until_an_operator_decides() {
    each(|place, settings| {
        let made = ["CREATE TABLE t (id BIGINT PRIMARY KEY)", "SELECT 1"];
        for (round, statement) in made.into_iter().enumerate() {
            let epoch = 10 * round as u64;
            place.run(&[statement]);
            let mut sink = place.sink(settings);
            let orders = vec![reset()];
            let _ = sink.fence(&Fence { orders: orders.clone(), ..fence(epoch + 1) }).unwrap();
            deliver(&mut sink, &row(1), 1);
            place.sink(settings).inspect("p", "s", &[]).unwrap();
            drop_table(place);
            refused(place, place.sink(settings).inspect("p", "s", &[]));
            refused(place, place.sink(settings).fence(&fence(epoch + 2)));
            refused(place, place.sink(settings).fence(&fence(epoch + 3)));

            place.sink(settings).inspect("p", "s", &orders).unwrap();
            let mut sink = place.sink(settings);
            let _ = sink.fence(&Fence { orders, ..fence(epoch + 4) }).unwrap();
            deliver(&mut sink, &row(1), 1);
            drop_table(place);
            let mut sink = place.sink(settings);
            sink.adopt();
            let _ = sink.fence(&fence(epoch + 5)).unwrap();
            deliver(&mut sink, &row(2), 2);
            assert_eq!(place.column("SELECT CAST(id AS CHAR(1)) FROM t"), ["2"]);
            drop_table(place);
        }
    });
}

/// Also one that was adopted, and by whatever connection.
#[test]
fn a_table_that_is_dropped_while_it_is_written_is_refused() {
    each(|place, settings| {
        let history = Arc::new(History::default());
        let make = || {
            let sink = MySqlSink::new(&place.settings(settings), LEASE).unwrap();
            sink.after(Arc::clone(&history))
        };
        let mut sink = make();
        let _ = sink.fence(&fence(1)).unwrap();
        deliver(&mut sink, &row(1), 1);
        drop_table(place);
        refused(place, write(&mut sink, 2));
        refused(place, write(&mut sink, 2));
        let mut sink = make();
        sink.adopt();
        refused(place, sink.fence(&fence(1)));
        let held: Vec<u64> = sink.peek("p", "s").unwrap().iter().map(|c| c.records).collect();
        assert_eq!(held, [1], "nothing advanced");
    });
}

#[test]
fn where_nothing_was_written_no_table_is_missed() {
    each(|place, settings| {
        let mut sink = place.open(settings);
        let _ = sink.begin().unwrap().commit(&[advance(5)]).unwrap();
        let mut sink = place.sink(settings);
        sink.inspect("p", "s", &[]).unwrap();
        let _ = sink.fence(&fence(2)).unwrap();
        deliver(&mut sink, &row(6), 6);
        assert!(is_there(place));
    });
}
