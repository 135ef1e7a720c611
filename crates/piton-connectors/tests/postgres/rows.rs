//! Rows and their checkpoint: together, once, and those that are refused.

use std::time::{Duration, Instant};

use piton_connectors::{
    batch::{ColumnType::Unknown, Value},
    conformance::{self, records},
    postgres::PostgresSink,
    sink::{SinkError, TransactionalSink},
};
use piton_testkit::service::{self, Cut, Postgres};

use crate::place::{LEASE, Place, advance, batch, deliver, fence, says, set_aside};

#[test]
fn the_sink_does_what_every_transactional_sink_must() {
    if service::needed(Postgres::shared()).is_none() {
        return;
    }
    conformance::check(|| Box::new(Place::new().unwrap())).unwrap();
}

#[test]
fn of_the_records_with_one_key_the_last_is_written_and_an_unchanged_row_is_left_alone() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE t (id bigint PRIMARY KEY, name text, price numeric);
         CREATE TABLE touched (id bigint);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO touched VALUES (new.id); RETURN new; END';
         CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();",
    );
    let mut sink = place.open("table: t\nkey: [id]");
    let columns = [("id", Unknown), ("name", Unknown), ("price", Unknown)];
    let row = |id, name, price| [Value::Int(id), Value::Text(name), Value::Number(price)];
    let first = [row(1, "a", "1.0"), row(2, "b", "2.0"), row(1, "c", "3.0")];
    deliver(&mut sink, &batch(&columns, &first.each_ref().map(<[_; 3]>::as_slice)), 3);
    let second = [row(1, "c", "3.0"), row(2, "b", "2.00")];
    deliver(&mut sink, &batch(&columns, &second.each_ref().map(<[_; 3]>::as_slice)), 5);
    assert_eq!(
        place.column("SELECT id || name || price FROM t ORDER BY id"),
        ["1c3.0", "2b2.00"],
        "2.0 and 2.00 are equal, and not the same"
    );
    assert_eq!(place.column("SELECT id::text FROM touched"), ["2"]);
}

/// A field that a record lacks is left as it is, whatever the records around it have.
#[test]
fn records_with_different_fields_are_written_in_their_order() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 7, b int DEFAULT 8)");
    let mut sink = place.open("table: t\nkey: [id]");
    let columns = [("id", Unknown), ("a", Unknown), ("b", Unknown)];
    let (one, absent) = (Value::Int(1), Value::Absent);
    let rows: [&[Value<'_>]; 5] = [
        &[one, Value::Int(1), Value::Int(1)],
        &[one, Value::Int(2), absent],
        &[one, Value::Int(3), Value::Int(3)],
        &[one, absent, Value::Int(4)],
        &[Value::Int(2), absent, Value::Null],
    ];
    let batch = batch(&columns, &rows);
    let mut open = sink.begin().unwrap();
    open.write(&batch, 0..5).unwrap();
    let again = says(open.commit(&[advance(5)]), &["same keys", "written again"]);
    assert!(matches!(again, SinkError::Unavailable { .. }));
    let _ = sink.fence(&fence(1)).unwrap();
    deliver(&mut sink, &batch, 5);
    let wanted = ["1 3 4", "2 7"];
    assert_eq!(place.column("SELECT concat_ws(' ', id, a, b) FROM t ORDER BY id"), wanted);

    place.run("CREATE TABLE log (id int, a int DEFAULT 7, b int DEFAULT 8)");
    let mut sink = place.open("table: log");
    deliver(&mut sink, &batch, 5);
    let wanted = ["1 1 1", "1 2 8", "1 3 3", "1 7 4", "2 7"];
    assert_eq!(place.column("SELECT concat_ws(' ', id, a, b) FROM log ORDER BY id, a, b"), wanted);
}

#[test]
fn a_record_chooses_its_table_and_one_commit_covers_all_of_them() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE SCHEMA crm; CREATE TABLE crm.old (id int PRIMARY KEY, name text)");
    let mut sink = place.open("table: \"crm.${record.kind}\"\nkey: [id]");
    let columns = [("kind", Unknown), ("id", Unknown), ("name", Unknown), ("size", Unknown)];
    let (old, new) = (Value::Text("old"), Value::Text("new; --"));
    let absent = Value::Absent;
    let rows: [&[Value<'_>]; 6] = [
        &[old, Value::Int(1), Value::Text("a"), absent],
        &[new, Value::Int(1), absent, Value::Float(0.5)],
        &[old, Value::Int(2), Value::Text("b"), absent],
        &[absent, Value::Int(3), absent, absent],
        &[new, Value::Int(2), absent, Value::Int(2)],
        &[old, Value::Int(1), Value::Text("c"), absent],
    ];
    let batch = batch(&columns, &rows);
    let mut open = sink.begin().unwrap();
    let bad = set_aside(&mut *open, &batch);
    let _ = open.commit(&[advance(6)]).unwrap();
    assert!(matches!(&bad[..], [(3, why)] if why.contains("has no 'kind'")), "{bad:?}");
    assert_eq!(place.column("SELECT id || name FROM crm.old ORDER BY id"), ["1c", "2b"]);
    let sizes = "SELECT id || ' ' || size FROM crm.\"new; --\" ORDER BY id";
    assert_eq!(place.column(sizes), ["1 0.5", "2 2"]);
}

/// Whatever refuses a row, only that row is set aside, and its column and value are named.
#[test]
fn a_row_that_the_server_refuses_is_found() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1)");
    let columns = [("id", Unknown), ("qty", Unknown), ("parent", Unknown)];
    let good = |id| vec![Value::Int(id), Value::Int(5), Value::Int(1)];
    let bad = [
        (vec![Value::Int(10), Value::Text("many"), Value::Int(1)], ["'qty'", "'many'"]),
        (vec![Value::Int(11), Value::Int(-1), Value::Int(1)], ["check", "-1"]),
        (vec![Value::Int(12), Value::Int(5), Value::Int(9)], ["foreign key", "(9)"]),
        (vec![Value::Int(13), Value::Null, Value::Int(1)], ["'qty'", "NULL"]),
        (vec![Value::Int(14), Value::Int(1 << 40), Value::Int(1)], ["'qty'", "1099511627776"]),
    ];
    for (table, settings) in [("a", "table: a"), ("u", "table: u\nkey: [id]")] {
        place.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, qty int NOT NULL CHECK (qty > 0),
               parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        ));
        let mut rows: Vec<Vec<Value<'_>>> = (100..150).map(good).collect();
        for (at, (row, _)) in [0, 7, 20, 21, 54].into_iter().zip(&bad) {
            rows.insert(at, row.clone());
        }
        let rows: Vec<&[Value<'_>]> = rows.iter().map(Vec::as_slice).collect();
        let batch = batch(&columns, &rows);
        let mut sink = place.open_carefully(settings);
        let mut open = sink.begin().unwrap();
        let found = set_aside(&mut *open, &batch);
        let _ = open.commit(&[advance(55)]).unwrap();
        let at: Vec<usize> = found.iter().map(|(row, _)| *row).collect();
        assert_eq!(at, [0, 7, 20, 21, 54], "{found:?}");
        for ((_, why), (_, words)) in found.iter().zip(&bad) {
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
        assert_eq!(place.column(&format!("SELECT count(*)::text FROM {table}")), ["50"]);
    }
}

/// Invariant 5: what was sent before the refusal goes with it, and comes again.
#[test]
fn a_refusal_undoes_the_transaction_and_the_next_sink_looks_for_the_row() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id bigint PRIMARY KEY, name text)");
    let settings = place.settings("table: t");
    let history = std::sync::Arc::default();
    let sink = || {
        let sink = PostgresSink::new(&settings, LEASE).unwrap();
        sink.after(std::sync::Arc::clone(&history))
    };
    let twice = records("input", &[Some(1), Some(2), Some(1), Some(3)]);
    let mut first = sink();
    let before = first.fence(&fence(1)).unwrap();
    let mut open = first.begin().unwrap();
    open.write(&twice, 0..4).unwrap();
    let refused = says(open.commit(&[advance(4)]), &["refused a row", "duplicate key"]);
    assert!(matches!(refused, SinkError::Unavailable { .. }));
    assert_eq!(place.column("SELECT id::text FROM t"), [""; 0]);

    let mut second = sink();
    assert_eq!(second.fence(&fence(1)).unwrap()[0].position, before[0].position);
    let mut open = second.begin().unwrap();
    let bad = set_aside(&mut *open, &twice);
    let _ = open.commit(&[advance(4)]).unwrap();
    assert!(matches!(&bad[..], [(2, why)] if why.contains("(id)=(1)")), "{bad:?}");
    assert_eq!(place.column("SELECT id::text FROM t ORDER BY id"), ["1", "2", "3"]);
}

#[test]
fn a_table_is_created_from_the_data_and_grows_with_it() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open("table: t\nkey: [id]");
    let columns = [("id", Unknown), ("price", Unknown), ("tags", Unknown), ("on", Unknown)];
    let first: [&[Value<'_>]; 2] = [
        &[Value::Int(1), Value::Int(2), Value::Json("[1]"), Value::Absent],
        &[Value::Int(2), Value::Float(0.5), Value::Null, Value::Absent],
    ];
    deliver(&mut sink, &batch(&columns, &first), 2);
    let second: [&[Value<'_>]; 1] = [&[Value::Int(3), Value::Null, Value::Null, Value::Bool(true)]];
    deliver(&mut sink, &batch(&columns, &second), 3);
    let types = "SELECT column_name || ' ' || data_type || ' ' || is_nullable \
                 FROM information_schema.columns WHERE table_name = 't' ORDER BY ordinal_position";
    let wanted = ["id bigint NO", "price numeric YES", "tags jsonb YES", "on boolean YES"];
    assert_eq!(place.column(types), wanted);
    assert_eq!(
        place.column("SELECT concat_ws(' ', id, price) FROM t ORDER BY id"),
        ["1 2", "2 0.5", "3"]
    );
}

/// Invariant 7: whether the commit took effect is found out, and it is the truth.
#[test]
fn a_lost_commit_is_looked_up() {
    let Some(place) = Place::new() else { return };
    let server = service::needed(Postgres::shared()).unwrap();
    for is_lost_on_the_way in [true, false] {
        let cut = Cut::before(server.address()).unwrap();
        let through = Place { url: cut.url(&place.url) };
        let name = if is_lost_on_the_way { "asked" } else { "answered" };
        let settings = format!("table: {name}\nkey: [id]");
        let mut sink = through.sink(&settings);
        let fence = piton_connectors::sink::Fence { sink: name.into(), ..fence(1) };
        let _ = sink.fence(&fence).unwrap();
        deliver(&mut sink, &records("input", &[Some(1)]), 1);
        let mut open = sink.begin().unwrap();
        open.write(&records("input", &[Some(2)]), 0..1).unwrap();
        if is_lost_on_the_way {
            cut.lose_request("COMMIT");
        } else {
            cut.lose_answer("COMMIT", "COMMIT");
        }
        let doubt = says(open.commit(&[advance(2)]), &["not known"]);
        assert!(matches!(doubt, SinkError::InDoubt { .. }));
        assert!(sink.begin().is_err(), "it is not used again");

        let held = place.sink(&settings).fence(&fence).unwrap();
        let (reached, ids) = if is_lost_on_the_way { (1, vec!["1"]) } else { (2, vec!["1", "2"]) };
        assert_eq!(held[0].position, Some(conformance::at(reached)), "{name}");
        let rows = place.column(&format!("SELECT id::text FROM {name} ORDER BY id"));
        assert_eq!(rows, ids, "{name}");
    }
}

/// Invariant 3: an owner that is silent in the middle of a transaction loses it, when its lease is
/// over, and one that still works is waited for and then named.
#[test]
fn an_heir_waits_for_the_lease_and_no_longer() {
    let Some(place) = Place::new() else { return };
    let lease = Duration::from_secs(2);
    let settings = place.settings("table: t\nkey: [id]");
    let sink = |lease| PostgresSink::new(&settings, lease).unwrap();
    let mut old = sink(lease);
    let _ = old.fence(&fence(1)).unwrap();
    deliver(&mut old, &records("input", &[Some(1)]), 1);
    // Idle for the server, or in the middle of a COPY.
    for (epoch, rows) in [(2, 1), (3, 8_000)] {
        let many: Vec<Option<i64>> = (2..2 + rows).map(Some).collect();
        let mut open = old.begin().unwrap();
        open.write(&records("input", &many), 0..many.len()).unwrap();
        let asked = Instant::now();
        let mut heir = sink(lease);
        let held = heir.fence(&fence(epoch)).unwrap();
        let waited = asked.elapsed();
        assert!(waited >= lease / 2 && waited < LEASE, "{rows} rows: {waited:?}");
        assert_eq!(held[0].position, Some(conformance::at(1)));
        assert!(open.commit(&[advance(1 + rows as u64)]).is_err());
        assert_eq!(place.column("SELECT id::text FROM t"), ["1"]);
        old = heir;
    }

    let mut busy = sink(LEASE);
    let _ = busy.fence(&fence(4)).unwrap();
    let open = busy.begin().unwrap();
    let who = says(sink(lease).fence(&fence(5)), &["session", "'piton p'", "within 2 s"]);
    assert!(matches!(who, SinkError::Held { .. }));
    drop(open);
    assert!(sink(lease).fence(&fence(5)).is_ok());
}
