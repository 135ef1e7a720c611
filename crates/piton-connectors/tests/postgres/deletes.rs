//! Records that delete the row with their key.

use piton_connectors::{
    batch::{ColumnType::Unknown, Value},
    postgres::PostgresSink,
    sink::{SinkError, TransactionalSink as _},
};

use crate::place::{LEASE, Place, advance, batch, deliver, says, set_aside};

const COLUMNS: [(&str, piton_connectors::batch::ColumnType); 4] =
    [("op", Unknown), ("a", Unknown), ("b", Unknown), ("name", Unknown)];

fn row<'a>(op: &'a str, a: i64, b: &'a str, name: Value<'a>) -> [Value<'a>; 4] {
    [Value::Text(op), Value::Int(a), Value::Text(b), name]
}

/// What a record does does not depend on what shares its transaction: one by one, all together, and
/// batch by batch after a refusal the same rows are left.
#[test]
fn records_write_and_delete_in_their_order() {
    let text = Value::Text;
    let rows = [
        row("u", 1, "x", text("new")),
        row("d", 2, "x", Value::Absent),
        row("u", 3, "x", text("brief")),
        row("d", 3, "x", Value::Null),
        row("d", 4, "x", Value::Absent),
        row("u", 4, "x", Value::Absent),
        row("gone", 5, "x", text("whatever")),
        row("d", 9, "none", Value::Absent),
        row("u", 6, "x", text("same")),
        row("d", 1, "y", Value::Absent),
    ];
    let wanted = ["1 x new", "4 x default", "6 x same", "7 x old"];
    for way in ["together", "one by one", "carefully"] {
        let Some(place) = Place::new() else { return };
        place.run(
            "CREATE TABLE t (a int, b text, name text DEFAULT 'default', PRIMARY KEY (a, b));
             INSERT INTO t SELECT n, 'x', CASE n WHEN 6 THEN 'same' ELSE 'old' END
             FROM generate_series(1, 7) n;
             INSERT INTO t VALUES (1, 'y', 'old');
             CREATE TABLE touched (a int);
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO touched VALUES (new.a); RETURN new; END';
             CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()",
        );
        let settings = "table: t\nkey: [a, b]\ndelete: {op: [d, gone]}";
        let rows: Vec<&[Value<'_>]> = rows.iter().map(<[_; 4]>::as_slice).collect();
        match way {
            "one by one" => {
                let mut sink = place.open(settings);
                for (number, row) in rows.iter().enumerate() {
                    deliver(&mut sink, &batch(&COLUMNS, &[row]), number as u64 + 1);
                }
            }
            "carefully" => {
                let mut sink = place.open_carefully(settings);
                let mut open = sink.begin().unwrap();
                assert_eq!(set_aside(&mut *open, &batch(&COLUMNS, &rows)), []);
                let _ = open.commit(&[advance(10)]).unwrap();
            }
            _ => deliver(&mut place.open(settings), &batch(&COLUMNS, &rows), 10),
        }
        let left = place.column("SELECT concat_ws(' ', a, b, name) FROM t ORDER BY a, b");
        assert_eq!(left, wanted, "{way}");
        let touched = place.column("SELECT a::text FROM touched WHERE a <> 3 ORDER BY a");
        assert_eq!(touched, ["1"], "{way}: 6 is as it was, 3 is deleted at last");
    }
}

/// The field that decides is no column of a table that is made for the records, and the table may
/// be chosen by them, too.
#[test]
fn tables_are_created_without_the_field_that_decides() {
    let Some(place) = Place::new() else { return };
    let mut sink = place.open("table: \"${record.kind}\"\nkey: [id]\ndelete: {deleted: true}");
    let columns = [("kind", Unknown), ("deleted", Unknown), ("id", Unknown), ("name", Unknown)];
    let record = |kind, deleted, id, name| [Value::Text(kind), deleted, Value::Int(id), name];
    let (yes, no, text) = (Value::Bool(true), Value::Bool(false), Value::Text);
    let rows = [
        record("one", yes, 1, Value::Absent),
        record("two", Value::Absent, 1, text("a")),
        record("one", no, 2, text("b")),
        record("two", text("true"), 1, Value::Absent),
        record("one", no, 1, text("c")),
    ];
    let rows: Vec<&[Value<'_>]> = rows.iter().map(<[_; 4]>::as_slice).collect();
    deliver(&mut sink, &batch(&columns, &rows), 5);
    assert_eq!(place.column("SELECT id || name FROM one ORDER BY id"), ["1c", "2b"]);
    assert_eq!(place.column("SELECT count(*)::text FROM two"), ["0"]);
    let made = "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) \
                FROM information_schema.columns WHERE table_name IN ('one', 'two')
                GROUP BY table_name";
    assert_eq!(place.column(made), ["id name", "id name"]);
}

#[test]
fn deleting_needs_a_key_and_the_right_to() {
    let Some(place) = Place::new() else { return };
    let settings = place.settings("table: t\ndelete: {op: d}");
    let refused = says(PostgresSink::new(&settings, LEASE).map(drop), &["`delete` needs `key`"]);
    assert!(matches!(refused, SinkError::Settings { .. }));

    place.run(
        "CREATE ROLE writer LOGIN; CREATE TABLE t (id int PRIMARY KEY);
         GRANT INSERT, UPDATE, SELECT ON t TO writer; GRANT CREATE ON SCHEMA public TO writer",
    );
    let writer = Place { url: place.url.replace("postgres@", "writer@") };
    writer.sink("table: t\nkey: [id]").peek("p", "s").unwrap();
    let mut deleting = writer.sink("table: t\nkey: [id]\ndelete: {op: d}");
    says(deleting.peek("p", "s"), &["lacks the right to DELETE", "GRANT"]);
}
