//! Rows and their checkpoint: together, once, and those that are refused.

use std::{
    thread,
    time::{Duration, Instant},
};

use mysql::prelude::Queryable as _;
use piton_connectors::{
    batch::{ColumnType::Unknown, Value},
    conformance::{self, records},
    mysql::MySqlSink,
    sink::{SinkError, TransactionalSink},
};
use piton_testkit::service::Cut;

use crate::place::{Family, Place, advance, batch, both, deliver, fence, says, set_aside};

fn conforms(family: Family) {
    let Some(server) = family.shared() else { return };
    conformance::check(|| Box::new(Place::on(server).unwrap())).unwrap();
}

#[test]
fn the_sink_does_what_every_transactional_sink_must_on_mysql() {
    conforms(Family::MySql);
}

#[test]
fn the_sink_does_what_every_transactional_sink_must_on_mariadb() {
    conforms(Family::MariaDb);
}

#[test]
fn of_the_records_with_one_key_the_last_is_written_and_an_unchanged_row_is_left_alone() {
    for place in both() {
        place.run(&["CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR(20), price DECIMAL(9,2),
            changed TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6))"]);
        let mut sink = place.open("table: t\nkey: [id]");
        let columns = [("id", Unknown), ("name", Unknown), ("price", Unknown)];
        let row = |id, name, price| [Value::Int(id), Value::Text(name), Value::Number(price)];
        let first = [row(1, "a", "1.0"), row(2, "b", "2.0"), row(3, "x", "1")];
        deliver(&mut sink, &batch(&columns, &first.each_ref().map(<[_; 3]>::as_slice)), 3);
        let second = [row(1, "a", "1.00"), row(2, "B", "2.0"), row(3, "y", "1"), row(3, "z", "1")];
        deliver(&mut sink, &batch(&columns, &second.each_ref().map(<[_; 3]>::as_slice)), 7);
        assert_eq!(
            place.column("SELECT CONCAT(id, name, price) FROM t ORDER BY id"),
            ["1a1.00", "2B2.00", "3z1.00"]
        );
        let changed = place.column("SELECT id FROM t WHERE changed IS NOT NULL ORDER BY id");
        assert_eq!(changed, ["2", "3"], "b and B are equal to the server, and not the same");
    }
}

/// A field that a record lacks is left as it is, whatever the records around it have.
#[test]
fn records_with_different_fields_are_written_in_their_order() {
    for place in both() {
        place.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, a INT DEFAULT 7, b INT DEFAULT 8)",
            "CREATE TABLE log (id INT, a INT DEFAULT 7, b INT DEFAULT 8)",
        ]);
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
        deliver(&mut place.open("table: t\nkey: [id]"), &batch, 5);
        let wanted = ["1 3 4", "2 7"];
        assert_eq!(place.column("SELECT CONCAT_WS(' ', id, a, b) FROM t ORDER BY id"), wanted);
        deliver(&mut place.open("table: log"), &batch, 10);
        let wanted = ["1 1 1", "1 2 8", "1 3 3", "1 7 4", "2 7"];
        let all = "SELECT CONCAT_WS(' ', id, a, b) FROM log ORDER BY id, a, b";
        assert_eq!(place.column(all), wanted);
    }
}

#[test]
fn a_record_chooses_its_table_and_one_commit_covers_all_of_them() {
    for place in both() {
        place.run(&["CREATE TABLE t_old (id INT PRIMARY KEY, name VARCHAR(20))"]);
        let mut sink = place.open("table: \"t_${record.kind}\"\nkey: [id]");
        let columns = [("kind", Unknown), ("id", Unknown), ("name", Unknown), ("size", Unknown)];
        let (old, new) = (Value::Text("old"), Value::Text("n\"e`w; --"));
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
        assert!(matches!(&bad[..], [(3, why)] if why.contains("has no 'kind'")), "{bad:?}");
        assert_eq!(place.column("SELECT name FROM t_old"), [""; 0], "nothing is committed yet");
        let _ = open.commit(&[advance(6)]).unwrap();
        assert_eq!(place.column("SELECT name FROM t_old ORDER BY id"), ["c", "b"]);
        assert_eq!(place.column("SELECT size FROM `t_n\"e``w; --` ORDER BY id"), ["0.5", "2"]);
    }
}

/// A table is created outside of the transaction, and a column that comes later ends one.
#[test]
fn a_table_of_ours_gets_new_columns_and_no_other_does() {
    for place in both() {
        let mut sink = place.open("table: t\nkey: [id]");
        deliver(&mut sink, &records("input", &[Some(1)]), 1);
        let more = [("id", Unknown), ("name", Unknown), ("more", Unknown)];
        let rows: [&[Value<'_>]; 2] =
            [&[Value::Int(2), Value::Text("b")], &[Value::Int(3), Value::Text("c"), Value::Int(9)]];
        let batch = batch(&more, &rows);
        let mut open = sink.begin().unwrap();
        let again = says(open.write(&batch, 0..2), &["new columns", "written again"]);
        assert!(matches!(again, SinkError::Unavailable { .. }), "{again:?}");
        says(open.commit(&[advance(3)]), &["failed before"]);
        assert_eq!(place.column("SELECT id FROM t"), ["1"], "nothing of it is left");
        let _ = sink.fence(&fence(1)).unwrap();
        deliver(&mut sink, &batch, 3);
        let all = "SELECT CONCAT_WS(' ', id, name, more) FROM t ORDER BY id";
        assert_eq!(place.column(all), ["1 name 1", "2 b", "3 c 9"]);

        place.run(&["CREATE TABLE theirs (id INT PRIMARY KEY, name TEXT)"]);
        let mut sink = place.open("table: theirs\nkey: [id]");
        let mut open = sink.begin().unwrap();
        let bad = set_aside(&mut *open, &batch);
        assert!(matches!(&bad[..], [(1, why)] if why.contains("no column 'more'")), "{bad:?}");
    }
}

#[test]
fn a_row_that_the_server_refuses_is_found_among_many() {
    for place in both() {
        place.run(&[
            "CREATE TABLE parent (id INT PRIMARY KEY)",
            "CREATE TABLE t (id INT PRIMARY KEY, qty TINYINT, mail VARCHAR(20) UNIQUE,
                parent INT REFERENCES parent (id), CHECK (qty <> 13),
                FOREIGN KEY (parent) REFERENCES parent (id))",
            "INSERT INTO t VALUES (1000, 1, 'taken', NULL)",
        ]);
        let columns = [("id", Unknown), ("qty", Unknown), ("mail", Unknown), ("parent", Unknown)];
        let names: Vec<String> = (0..600).map(|id| format!("m{id}")).collect();
        let cells: Vec<[Value<'_>; 4]> = (0..600)
            .map(|id| {
                let qty = match id {
                    77 => Value::Int(300),
                    140 => Value::Int(13),
                    141 => Value::Text("many"),
                    142 => Value::Text("1.5"),
                    _ => Value::Int(1),
                };
                let mail = if id == 333 { "taken" } else { &names[id as usize] };
                let parent = if id == 599 { Value::Int(5) } else { Value::Null };
                [Value::Int(id), qty, Value::Text(mail), parent]
            })
            .collect();
        let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 4]>::as_slice).collect();
        let mut sink = place.open("table: t\nkey: [id]");
        let mut open = sink.begin().unwrap();
        let bad = set_aside(&mut *open, &batch(&columns, &rows));
        let _ = open.commit(&[advance(600)]).unwrap();
        let wanted: [(usize, &[&str]); 6] = [
            (77, &["'qty'", "300", "Out of range"]),
            (140, &["id = 140"]),
            (141, &["'qty'", "'many'"]),
            (142, &["'qty'", "'1.5'", "rounded"]),
            (333, &["unique index that is not the key", "id = 333"]),
            (599, &["foreign key"]),
        ];
        assert_eq!(bad.len(), wanted.len(), "{bad:?}");
        for ((row, why), (index, words)) in bad.iter().zip(wanted) {
            assert_eq!(*row, index, "{bad:?}");
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
        assert_eq!(place.column("SELECT COUNT(*) FROM t"), ["595"]);
        assert_eq!(place.column("SELECT mail FROM t WHERE id = 1000"), ["taken"]);
    }
}

/// Keys of every sort beside another unique index: the guard must not take an equal key for
/// another.
#[test]
fn a_key_beside_another_unique_index_is_known_again() {
    for place in both() {
        for (index, (of, value)) in [
            ("DATETIME(6)", Value::Text("2024-02-29 10:00:00.123456")),
            ("VARCHAR(20)", Value::Text("Ünit")),
            ("VARBINARY(20)", Value::Bytes(&[0, 255])),
            ("BIGINT UNSIGNED", Value::Number("18446744073709551615")),
            ("DECIMAL(40,20)", Value::Number("12345678901234567890.00000000000000000001")),
            ("DOUBLE", Value::Float(0.1)),
            ("ENUM('a', 'b')", Value::Text("b")),
            ("DATE", Value::Text("2024-02-29")),
        ]
        .into_iter()
        .enumerate()
        {
            let table = format!("t{index}");
            place.run(&[&format!("CREATE TABLE {table} (k {of} PRIMARY KEY, a INT UNIQUE)")]);
            let before = format!("SELECT HEX(k) FROM {table}");
            let mut sink = place.open(&format!("table: {table}\nkey: [k]"));
            for (upto, a) in [(1, 1), (2, 2)] {
                let rows: [&[Value<'_>]; 1] = [&[value, Value::Int(a)]];
                deliver(&mut sink, &batch(&[("k", Unknown), ("a", Unknown)], &rows), upto);
            }
            assert_eq!(place.column(&before).len(), 1, "{of}");
            assert_eq!(place.column(&format!("SELECT a FROM {table}")), ["2"], "{of}");
        }
    }
}

/// Statements stay below the server's limit, and a row above it is named.
#[test]
fn a_row_above_the_largest_packet_is_set_aside() {
    for family in Family::BOTH {
        let options = family.options().line("max_allowed_packet = 64K");
        let Some(server) = piton_testkit::service::needed(options.start()) else { return };
        let place = Place::on(&server).unwrap();
        let texts: Vec<String> = (0..40)
            .map(|id| "x".repeat(if id == 17 { 70_000 } else { 9_000 + id * 100 }))
            .collect();
        let cells: Vec<[Value<'_>; 2]> = texts
            .iter()
            .enumerate()
            .map(|(id, text)| [Value::Int(id as i64), Value::Text(text)])
            .collect();
        let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 2]>::as_slice).collect();
        let mut sink = place.open("table: t");
        let mut open = sink.begin().unwrap();
        let bad = set_aside(&mut *open, &batch(&[("id", Unknown), ("text", Unknown)], &rows));
        let _ = open.commit(&[advance(40)]).unwrap();
        assert!(
            matches!(&bad[..], [(17, why)] if why.contains("max_allowed_packet")),
            "{:?}",
            bad.iter().map(|(row, why)| (row, why.len())).collect::<Vec<_>>()
        );
        assert_eq!(place.column("SELECT COUNT(DISTINCT id) FROM t"), ["39"]);
    }
}

/// Invariant 3: an owner that hangs in the middle of a transaction has no effect after its heir
/// has read.
#[test]
fn an_owner_that_is_silent_in_a_transaction_loses_it() {
    for place in both() {
        let lease = Duration::from_secs(5);
        let settings = place.settings("table: t\nkey: [id]");
        let mut old = MySqlSink::new(&settings, lease).unwrap();
        let _ = old.fence(&fence(1)).unwrap();
        deliver(&mut old, &records("input", &[Some(1)]), 1);
        let mut open = old.begin().unwrap();
        open.write(&records("input", &[Some(2)]), 0..1).unwrap();
        let began = Instant::now();
        let mut heir = MySqlSink::new(&settings, lease).unwrap();
        let read = loop {
            match heir.fence(&fence(2)) {
                Ok(read) => break read,
                Err(SinkError::Held { what }) => {
                    assert!(what.contains("session"), "{what}");
                    assert!(began.elapsed() < 5 * lease, "{what}");
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(read[0].position, Some(conformance::at(1)));
        let late = open.commit(&[advance(2)]);
        assert!(late.is_err(), "{late:?}");
        says(old.fence(&fence(1)), &["newer claim (epoch 2)"]);
        assert_eq!(place.column("SELECT id FROM t"), ["1"]);
    }
}

/// Invariant 3: the server would wait for the old owner for an hour. Its heir ends it after the
/// lease.
#[test]
fn a_session_that_is_stuck_with_the_lock_is_ended() {
    for place in both() {
        let settings = place.settings("table: t\nkey: [id]");
        let mut old = MySqlSink::new(&settings, Duration::from_hours(1)).unwrap();
        let _ = old.fence(&fence(1)).unwrap();
        deliver(&mut old, &records("input", &[Some(1)]), 1);
        let mut open = old.begin().unwrap();
        open.write(&records("input", &[Some(2)]), 0..1).unwrap();
        let mut heir = MySqlSink::new(&settings, Duration::from_secs(2)).unwrap();
        let began = Instant::now();
        let read = loop {
            match heir.fence(&fence(2)) {
                Ok(read) => break read,
                // The server counts whole seconds.
                Err(SinkError::Held { what }) => {
                    assert!(what.contains("session"), "{what}");
                    assert!(began.elapsed() < Duration::from_secs(20), "{what}");
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(read[0].position, Some(conformance::at(1)));
        let late = open.commit(&[advance(2)]);
        assert!(late.is_err(), "{late:?}");
        assert_eq!(place.column("SELECT id FROM t"), ["1"]);
        deliver(&mut heir, &records("input", &[Some(3)]), 2);
        assert_eq!(place.column("SELECT id FROM t ORDER BY id"), ["1", "3"]);
    }
}

/// Invariant 7: the server commits, and nobody hears it.
#[test]
fn a_commit_without_an_answer_is_fenced_then_read() {
    for family in Family::BOTH {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server).unwrap();
        let cut = Cut::before(server.address()).unwrap();
        // Without encryption, so that the words can be found on the way.
        let through = Place { url: format!("{}?ssl-mode=disabled", cut.url(&place.url)) };
        for (upto, id) in [(1, 1), (2, 2)] {
            let mut sink = through.open("table: t\nkey: [id]");
            let mut open = sink.begin().unwrap();
            open.write(&records("input", &[Some(id)]), 0..1).unwrap();
            if id == 1 {
                cut.lose_answer("COMMIT", "");
            } else {
                cut.lose_request("COMMIT");
            }
            let doubt = open.commit(&[advance(upto)]).unwrap_err();
            assert!(matches!(doubt, SinkError::InDoubt { lost: true, .. }), "{doubt:?}");
            assert!(sink.begin().is_err(), "it is not gone on with by hope");
            let read = sink.fence(&fence(1)).unwrap();
            assert_eq!(read[0].position, Some(conformance::at(1)), "{family:?}, {id}");
        }
        assert_eq!(place.column("SELECT id FROM t"), ["1"]);
    }
}

/// A person with a SQL shell.
#[test]
fn a_checkpoint_deleted_by_hand_is_forgotten_and_one_changed_by_hand_is_refused() {
    for place in both() {
        deliver(&mut place.open("table: t\nkey: [id]"), &records("input", &[Some(1)]), 1);
        let change = "UPDATE piton_checkpoints SET position = '7'";
        let error = place.conn().query_drop(change).unwrap_err().to_string();
        assert!(error.contains("piton rewind"), "{error}");
        place.run(&["DELETE FROM piton_checkpoints"]);
        assert_eq!(place.sink("table: t").peek("p", "s").unwrap(), []);

        deliver(&mut place.open("table: t\nkey: [id]"), &records("input", &[Some(1)]), 1);
        place.run(&["UPDATE piton_checkpoints SET position = '7', checksum = checksum + 1"]);
        let error =
            says(place.sink("table: t").peek("p", "s"), &["damaged", "Nothing was written"]);
        assert!(matches!(error, SinkError::Refused { .. }), "{error:?}");
        place.run(&["DROP TABLE piton_checkpoints"]);
        says(place.sink("table: t").fence(&fence(2)), &["one of their two tables is missing"]);
    }
}

/// The session may be silent for longer than the lease where nothing is open.
#[test]
fn a_pause_between_transactions_ends_no_session() {
    let places: Vec<Place> = both().collect();
    for place in &places {
        let settings = place.settings("table: t\nkey: [id]");
        let mut sink = MySqlSink::new(&settings, Duration::from_secs(1)).unwrap();
        let _ = sink.fence(&fence(1)).unwrap();
        deliver(&mut sink, &records("input", &[Some(1)]), 1);
        thread::sleep(Duration::from_millis(2_500));
        deliver(&mut sink, &records("input", &[Some(2)]), 2);
        assert_eq!(place.column("SELECT COUNT(*) FROM t"), ["2"]);
    }
}

/// What a record does does not depend on what shares its transaction.
#[test]
fn records_write_and_delete_in_their_order() {
    let columns = [("op", Unknown), ("a", Unknown), ("b", Unknown), ("name", Unknown)];
    let row = |op, a, b, name| [Value::Text(op), Value::Text(a), Value::Text(b), name];
    let text = Value::Text;
    // Neighbours as floating-point numbers.
    let (large, next) = ("9007199254740993", "9007199254740992");
    let rows = [
        row("u", "1", "x", text("new")),
        row("d", "2", "x", Value::Absent),
        row("u", "3", "x", text("brief")),
        row("d", "3", "x", Value::Null),
        row("d", "4", "x", Value::Absent),
        row("u", "4", "x", Value::Absent),
        row("gone", "5", "x", text("whatever")),
        row("d", "9", "none", Value::Absent),
        row("d", large, "x", Value::Absent),
        row("u", "6", "it's", text("same")),
        row("d", "1", "y", Value::Absent),
    ];
    let rows: Vec<&[Value<'_>]> = rows.iter().map(<[_; 4]>::as_slice).collect();
    for together in [true, false] {
        for place in both() {
            place.run(&[
                "CREATE TABLE t (a BIGINT, b VARCHAR(9), name VARCHAR(9) DEFAULT 'default',
                 PRIMARY KEY (a, b))",
                &format!(
                    "INSERT INTO t VALUES (1, 'x', 'old'), (2, 'x', 'old'), (3, 'x', 'old'),
                     (4, 'x', 'old'), (5, 'x', 'old'), (6, 'it''s', 'same'), (1, 'y', 'old'),
                     ({large}, 'x', 'old'), ({next}, 'x', 'old')"
                ),
            ]);
            let mut sink = place.open("table: t\nkey: [a, b]\ndelete: {op: [d, gone]}");
            if together {
                deliver(&mut sink, &batch(&columns, &rows), 11);
            } else {
                for (number, row) in rows.iter().enumerate() {
                    deliver(&mut sink, &batch(&columns, &[row]), number as u64 + 1);
                }
            }
            let left = place.column("SELECT CONCAT_WS(' ', a, b, name) FROM t ORDER BY a, b");
            let kept = format!("{next} x old");
            assert_eq!(left, ["1 x new", "4 x default", "6 it's same", &kept], "{together}");
        }
    }
}

/// Exit code 2, not a heap of dead letters.
#[test]
fn records_of_which_none_fits_are_a_mistake_in_the_configuration() {
    for place in both() {
        place.run(&["CREATE TABLE t (id INT PRIMARY KEY, at DATETIME, n INT)"]);
        for (column, word) in [("at", "yesterday"), ("n", "many")] {
            let cells: Vec<[Value<'_>; 2]> =
                (0..30).map(|id| [Value::Int(id), Value::Text(word)]).collect();
            let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 2]>::as_slice).collect();
            let records = batch(&[("id", Unknown), (column, Unknown)], &rows);
            let mut sink = place.open("table: t\nkey: [id]");
            let mut open = sink.begin().unwrap();
            let error = says(open.write(&records, 0..30), &["do not fit", column, word]);
            assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
            drop(open);
            assert_eq!(place.column("SELECT COUNT(*) FROM t"), ["0"]);
        }
    }
}
