//! Tables with triggers: none runs for a row in which nothing changes.

use piton_connectors::{
    batch::{Batch, ColumnType::Unknown, Value},
    sink::{SinkError, TransactionalSink},
};

use crate::place::{Place, advance, batch, both, deliver, fence, says, set_aside};

fn is_mariadb(place: &Place) -> bool {
    place.column("SELECT VERSION()")[0].contains("MariaDB")
}

/// A table of what its triggers did, and the triggers.
fn watch(place: &Place, table: &str, key: &str) {
    place.run(&["CREATE TABLE IF NOT EXISTS fired (n INT AUTO_INCREMENT PRIMARY KEY,
        what VARCHAR(40))"]);
    for (when, row) in [
        ("BEFORE INSERT", "NEW"),
        ("AFTER INSERT", "NEW"),
        ("BEFORE UPDATE", "OLD"),
        ("AFTER UPDATE", "OLD"),
    ] {
        let name = when.to_lowercase().replace(' ', "_");
        place.run(&[&format!(
            "CREATE TRIGGER {table}_{name} {when} ON {table} FOR EACH ROW
             INSERT INTO fired (what) VALUES (CONCAT('{when} ', {row}.{key}))"
        )]);
    }
}

/// What ran since the last time, in its order.
fn fired(place: &Place) -> Vec<String> {
    let fired = place.column("SELECT what FROM fired ORDER BY n");
    place.run(&["DELETE FROM fired"]);
    fired
}

/// That only updates ran, and for which keys.
#[track_caller]
fn updated(place: &Place) -> Vec<String> {
    let mut fired = fired(place);
    let before: Vec<String> = fired.extract_if(.., |what| what.starts_with("BEFORE UP")).collect();
    // `ON DUPLICATE KEY UPDATE` asks these for a row that is there, too.
    fired.retain(|what| !what.starts_with("BEFORE INSERT"));
    let keys = |all: &[String]| -> Vec<String> {
        all.iter().map(|what| what.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    assert!(fired.iter().all(|what| what.starts_with("AFTER UPDATE")), "{fired:?}");
    assert_eq!(keys(&before), keys(&fired));
    keys(&before)
}

fn named(rows: &[(i64, &str)]) -> Batch {
    let cells: Vec<[Value<'_>; 2]> =
        rows.iter().map(|(id, name)| [Value::Int(*id), Value::Text(name)]).collect();
    let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 2]>::as_slice).collect();
    batch(&[("id", Unknown), ("name", Unknown)], &rows)
}

#[test]
fn an_unchanged_row_runs_no_trigger_and_a_changed_one_each_once() {
    for place in both() {
        place.run(&["CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20), other INT DEFAULT 7,
            changed TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6))"]);
        watch(&place, "t", "id");
        let mut sink = place.open("table: t\nkey: [id]");
        deliver(&mut sink, &named(&[(3, "c"), (1, "a"), (2, "b")]), 3);
        let new = |id| [format!("BEFORE INSERT {id}"), format!("AFTER INSERT {id}")];
        let wanted = [new(3), new(1), new(2)].concat();
        assert_eq!(fired(&place), wanted, "in the order in which they came");
        deliver(&mut sink, &named(&[(3, "c"), (1, "a"), (2, "b")]), 6);
        assert_eq!(fired(&place), [""; 0]);
        // A capital, a trailing space; of rows with one key the last, also if it is as before. The
        // first batch of a transaction goes in two halves, hence the first row.
        let all = [
            (3, "c"),
            (3, "c"),
            (3, "c"),
            (3, "c"),
            (3, "c"),
            (3, "c"),
            (3, "x"),
            (2, "b "),
            (1, "A"),
            (3, "c"),
            (1, "A"),
            (2, "b "),
        ];
        deliver(&mut sink, &named(&all), 18);
        assert_eq!(updated(&place), ["2", "1"]);
        deliver(&mut sink, &named(&[(9, "z"), (9, "z"), (4, "y"), (4, "z")]), 22);
        assert_eq!(fired(&place), [new(9), new(4)].concat());
        let all = "SELECT CONCAT_WS(',', id, name, other) FROM t ORDER BY id";
        assert_eq!(place.column(all), ["1,A,7", "2,b ,7", "3,c,7", "4,z,7", "9,z,7"]);
        let changed = "SELECT id FROM t WHERE changed IS NOT NULL ORDER BY id";
        assert_eq!(place.column(changed), ["1", "2"]);
        // After a takeover, in a new session.
        let mut heir = place.sink("table: t\nkey: [id]");
        let _ = heir.fence(&fence(2)).unwrap();
        deliver(&mut heir, &named(&[(1, "A"), (2, "b ")]), 24);
        assert_eq!(fired(&place), [""; 0]);
    }
}

/// Triggers that are made while a sink is open count from the next takeover on.
#[test]
fn triggers_are_asked_for_again_after_a_takeover() {
    for place in both() {
        let mut sink = place.open("table: t\nkey: [id]");
        deliver(&mut sink, &named(&[(1, "a")]), 1);
        watch(&place, "t", "id");
        let _ = sink.fence(&fence(2)).unwrap();
        deliver(&mut sink, &named(&[(1, "a")]), 2);
        assert_eq!(fired(&place), [""; 0]);
    }
}

/// What a record does depends neither on the table's way nor on the fields of those around it.
#[test]
fn records_choose_tables_fields_and_whether_to_delete() {
    for place in both() {
        for table in ["t_a", "t_b"] {
            place.run(&[&format!(
                "CREATE TABLE {table} (a INT, b VARCHAR(5), x INT DEFAULT 1, y INT DEFAULT 2,
                 PRIMARY KEY (b, a))"
            )]);
        }
        watch(&place, "t_a", "a");
        let columns = ["kind", "a", "b", "x", "y", "op"].map(|name| (name, Unknown));
        let (absent, int) = (Value::Absent, Value::Int);
        let row = |kind, a, x, y, op| {
            [Value::Text(kind), int(a), Value::Text("k"), x, y, Value::Text(op)]
        };
        let cells = [
            row("a", 1, int(5), int(6), "u"),
            row("b", 1, int(5), absent, "u"),
            row("a", 2, absent, int(6), "u"),
            row("a", 1, absent, int(6), "u"),
            row("b", 1, absent, absent, "d"),
            row("a", 3, absent, absent, "u"),
            row("a", 4, absent, absent, "u"),
            row("a", 4, absent, absent, "d"),
            row("a", 2, absent, Value::Null, "u"),
        ];
        let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 6]>::as_slice).collect();
        let settings = "table: \"t_${record.kind}\"\nkey: [a, b]\ndelete: {op: d}";
        let mut sink = place.open(settings);
        deliver(&mut sink, &batch(&columns, &rows), 9);
        let all = "SELECT CONCAT_WS(' ', a, b, x, y) FROM t_a ORDER BY a";
        assert_eq!(place.column(all), ["1 k 5 6", "2 k 1", "3 k 1 2"]);
        assert_eq!(place.column("SELECT COUNT(*) FROM t_b"), ["0"]);
        let _ = fired(&place);
        deliver(&mut sink, &batch(&columns, &rows[5..6]), 10);
        deliver(&mut sink, &batch(&columns, &rows[3..4]), 11);
        assert_eq!(fired(&place), [""; 0]);
        deliver(&mut sink, &batch(&columns, &rows[2..3]), 12);
        assert_eq!(updated(&place), ["2"]);
    }
}

/// A value is known again whatever its type; and what the server takes for equal may differ.
#[test]
fn every_type_is_compared_to_the_last_byte() {
    use Value::{Bytes, Float, Int, Json, Null, Number, Text};
    for place in both() {
        let is_mariadb = is_mariadb(&place);
        // The column, a value, and another that is near to it.
        let types: [(&str, Value<'_>, Value<'_>); 21] = [
            ("VARCHAR(20)", Text("Ünit"), Text("ünit")),
            ("CHAR(20)", Text("a"), Text("á")),
            ("VARCHAR(20) CHARACTER SET latin1", Text("ü"), Text("Ü")),
            ("LONGTEXT", Text("a"), Text("a ")),
            ("TEXT COLLATE utf8mb4_bin", Text("a"), Text("a ")),
            ("VARBINARY(20)", Bytes(&[0, 255]), Bytes(&[0, 255, 0])),
            ("LONGBLOB", Bytes(b"a"), Bytes(b"a ")),
            ("BIGINT UNSIGNED", Number("18446744073709551615"), Number("18446744073709551614")),
            ("BIGINT", Number("9007199254740993"), Number("9007199254740992")),
            ("DECIMAL(40,20)", Number("1.00000000000000000001"), Number("1")),
            ("DOUBLE", Float(0.1), Float(0.100_000_000_000_000_02)),
            ("FLOAT", Float(16_777_216.0), Float(16_777_218.0)),
            ("BOOLEAN", Value::Bool(true), Value::Bool(false)),
            ("BIT(9)", Int(257), Int(256)),
            ("DATE", Text("2024-02-29"), Text("2024-03-01")),
            ("TIME(6)", Text("10:00:00.000001"), Text("10:00:00.000002")),
            ("DATETIME(6)", Text("2024-02-29 10:00:00.123456"), Text("2024-02-29 10:00:00.123457")),
            ("TIMESTAMP(3) NULL", Text("2024-02-29T10:00:00.5Z"), Text("2024-02-29T10:00:00.501Z")),
            ("ENUM('b', 'B', '') COLLATE utf8mb4_bin", Text("b"), Text("B")),
            ("SET('a', 'c')", Text("a"), Text("a,c")),
            ("JSON", Json("{\"a\": 1}"), Json("{\"a\": 2}")),
        ];
        let columns: Vec<String> =
            types.iter().enumerate().map(|(index, (of, ..))| format!("c{index} {of}")).collect();
        place.run(&[&format!("CREATE TABLE t (id INT PRIMARY KEY, {})", columns.join(", "))]);
        watch(&place, "t", "id");
        let names: Vec<String> = (0..types.len()).map(|index| format!("c{index}")).collect();
        let mut columns = vec![("id", Unknown)];
        columns.extend(names.iter().map(|name| (name.as_str(), Unknown)));
        let mut first = vec![Int(1)];
        first.extend(types.iter().map(|(_, value, _)| *value));
        let mut sink = place.open("table: t\nkey: [id]");
        deliver(&mut sink, &batch(&columns, &[&first]), 1);
        let _ = fired(&place);
        deliver(&mut sink, &batch(&columns, &[&first]), 2);
        assert_eq!(fired(&place), [""; 0], "MariaDB: {is_mariadb}");
        let mut upto = 2;
        for (index, (of, value, near)) in types.iter().enumerate() {
            let columns = [("id", Unknown), (names[index].as_str(), Unknown)];
            for (value, runs) in [(*value, 0), (*near, 1), (*near, 0), (Null, 1), (Null, 0)] {
                upto += 1;
                deliver(&mut sink, &batch(&columns, &[&[Int(1), value]]), upto);
                let keys = updated(&place);
                assert_eq!(keys.len(), runs, "{of}, {value:?}, MariaDB: {is_mariadb}");
            }
            upto += 1;
            deliver(&mut sink, &batch(&columns, &[&[Int(1), *value]]), upto);
            assert_eq!(updated(&place).len(), 1, "{of}, from NULL, MariaDB: {is_mariadb}");
        }
    }
}

/// What is equal to the server and looks otherwise ends as it does in a table without triggers.
/// MySQL leaves a document in which a number has the same value.
#[test]
fn what_is_equal_and_looks_otherwise_ends_as_without_triggers() {
    for place in both() {
        for table in ["t", "plain"] {
            place.run(&[&format!(
                "CREATE TABLE {table} (id INT PRIMARY KEY, j JSON, d DOUBLE, f FLOAT)"
            )]);
        }
        watch(&place, "t", "id");
        let columns = ["id", "j", "d", "f"].map(|name| (name, Unknown));
        let mut ends = Vec::new();
        for (table, upto) in [("t", 0), ("plain", 4)] {
            let mut sink = place.open(&format!("table: {table}\nkey: [id]"));
            for (text, zero, more) in
                [("1", "0", 1), ("1.0", "-0.0", 2), ("1.0", "-0.0", 3), ("1.00", "-0", 4)]
            {
                let zero = Value::Number(zero);
                let rows: [&[Value<'_>]; 1] = [&[Value::Int(1), Value::Json(text), zero, zero]];
                deliver(&mut sink, &batch(&columns, &rows), upto + more);
                if more == 3 && table == "t" {
                    let mut fired = fired(&place);
                    fired.retain(|what| what.starts_with("AFTER UPDATE"));
                    assert_eq!(fired.len(), 1, "{fired:?}");
                }
            }
            ends.push(place.column(&format!("SELECT CONCAT_WS(' ', j, d, f) FROM {table}")));
        }
        assert_eq!(ends[0], ends[1]);
    }
}

#[test]
fn a_row_that_the_server_or_a_trigger_refuses_is_found_among_many() {
    for place in both() {
        place.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, qty TINYINT, mail VARCHAR(20) UNIQUE,
                CHECK (qty <> 13))",
            "INSERT INTO t VALUES (1000, 1, 'taken'), (1, 7, 'm1'), (2, 7, 'm2'), (3, 1, 'm3'),
                (500, 1, 'm3x')",
            "CREATE TRIGGER bu BEFORE UPDATE ON t FOR EACH ROW
                IF OLD.qty = 7 AND NEW.id = 2 THEN
                    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one';
                END IF",
        ]);
        watch(&place, "t", "id");
        let columns = [("id", Unknown), ("qty", Unknown), ("mail", Unknown)];
        let names: Vec<String> = (0..300).map(|id| format!("m{id}")).collect();
        let cells: Vec<[Value<'_>; 3]> = (0..300)
            .map(|id| {
                let qty = Value::Int(match id {
                    77 => 300,
                    140 => 13,
                    _ => 1,
                });
                let mail = if id == 222 { "taken" } else { &names[id as usize] };
                [Value::Int(id), qty, Value::Text(mail)]
            })
            .collect();
        let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 3]>::as_slice).collect();
        let records = batch(&columns, &rows);
        let mut sink = place.open("table: t\nkey: [id]");
        let mut open = sink.begin().unwrap();
        let bad = set_aside(&mut *open, &records);
        let _ = open.commit(&[advance(300)]).unwrap();
        let wanted: [(usize, &[&str]); 4] = [
            (2, &["not this one", "id = 2"]),
            (77, &["'qty'", "300", "Out of range"]),
            (140, &["id = 140"]),
            (222, &["unique index that is not the key", "id = 222"]),
        ];
        assert_eq!(bad.len(), wanted.len(), "{bad:?}");
        for ((row, why), (index, words)) in bad.iter().zip(wanted) {
            assert_eq!(*row, index, "{bad:?}");
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
        let ran = fired(&place);
        let of = |what: &str| ran.iter().filter(|ran| *ran == what).count();
        assert_eq!([of("AFTER UPDATE 1"), of("AFTER UPDATE 3"), of("AFTER UPDATE 2")], [1, 0, 0]);
        let inserted = ran.iter().filter(|ran| ran.starts_with("AFTER INSERT")).count();
        assert_eq!(inserted, 300 - 3 - 3, "all but those there and those refused");
        // A value that moves from one row to another, in the order in which they came.
        let rows: [&[Value<'_>]; 2] = [
            &[Value::Int(1000), Value::Int(1), Value::Text("free")],
            &[Value::Int(1), Value::Int(1), Value::Text("taken")],
        ];
        deliver(&mut sink, &batch(&columns, &rows), 302);
        assert_eq!(updated(&place), ["1000", "1"]);
    }
}

/// The right to make temporary tables is needed where there are triggers only. Who is not shown
/// the triggers goes by a stage in any case, if that is allowed.
#[test]
fn a_user_without_temporary_tables_is_refused_where_there_are_triggers() {
    for place in both() {
        let database = place.database();
        let user = format!("u{database}");
        place.run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))",
            &format!("CREATE USER '{user}' IDENTIFIED BY 's3cret'"),
            &format!("GRANT SELECT, INSERT, UPDATE, CREATE, TRIGGER ON {database}.* TO '{user}'"),
        ]);
        let other = place.as_user(&format!("{user}:s3cret"));
        let mut sink = other.open("table: t\nkey: [id]");
        deliver(&mut sink, &named(&[(1, "a")]), 1);
        watch(&place, "t", "id");
        for error in [
            says(other.sink("table: t\nkey: [id]").peek("p", "s"), &["CREATE TEMPORARY TABLES"]),
            says(sink.fence(&fence(2)), &["UPDATE triggers", "CREATE TEMPORARY TABLES", "GRANT"]),
        ] {
            assert!(matches!(error, SinkError::Settings { .. }), "{error:?}");
        }
        other.sink("table: t").peek("p", "s").unwrap();
        place.run(&[
            &format!("GRANT CREATE TEMPORARY TABLES, DELETE ON {database}.* TO '{user}'"),
            &format!("REVOKE TRIGGER ON {database}.* FROM '{user}'"),
        ]);
        let seen = other.column("SELECT trigger_name FROM information_schema.triggers");
        // MariaDB shows them all the same.
        if !is_mariadb(&place) {
            assert_eq!(seen, [""; 0]);
        }
        let mut sink = other.sink("table: t\nkey: [id]");
        let _ = sink.fence(&fence(2)).unwrap();
        deliver(&mut sink, &named(&[(1, "a")]), 2);
        assert_eq!(fired(&place), [""; 0]);
        let planned = |words: &str| {
            let mut sink = other.sink("table: t\nkey: [id]");
            sink.peek("p", "s").unwrap();
            let why = sink.guarantee().why;
            assert!(why.contains(words), "{why}");
        };
        planned("no UPDATE trigger runs for an unchanged");
        if !is_mariadb(&place) {
            let revoke = format!("REVOKE CREATE TEMPORARY TABLES ON {database}.* FROM '{user}'");
            place.run(&[&revoke]);
            planned("run for unchanged rows, too");
        }
    }
}
