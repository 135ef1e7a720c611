//! What becomes of records in the table.

use Value::{Absent, Bool, Bytes, Float, Int, Json, Null, Number, Text};

use super::*;

fn bad_row(result: Result<Vec<Checkpoint>, SinkError>) -> (usize, String) {
    match result {
        Err(SinkError::BadRow { row, reason }) => (row, reason),
        other => panic!("expected a bad row, got {other:?}"),
    }
}

fn columns(place: &Place) -> Vec<(String, String)> {
    rows(&place.sql(), "SELECT name, type FROM pragma_table_info('people')")
}

#[test]
fn an_unchanged_row_fires_no_trigger() {
    let place = Place::upsert();
    place
        .sql()
        .execute_batch(
            "CREATE TABLE people (id TEXT PRIMARY KEY, n INTEGER, x REAL, t TEXT COLLATE NOCASE);
             CREATE TABLE audit (what TEXT, id TEXT);
             CREATE TRIGGER i AFTER INSERT ON people BEGIN
               INSERT INTO audit VALUES ('insert', new.id); END;
             CREATE TRIGGER u AFTER UPDATE ON people BEGIN
               INSERT INTO audit VALUES ('update', new.id); END;",
        )
        .unwrap();
    let mut sink = place.fenced(1);
    // The second has numbers as text, as a CSV file gives them; the third differs in one letter.
    let names = ["id", "n", "x", "t"];
    let typed = table(&names, &[&[Text("a"), Int(1), Float(2.0), Text("abc")]]);
    let text = table(&names, &[&[Text("a"), Text("1"), Text("2"), Text("abc")]]);
    let other = table(&names, &[&[Text("a"), Int(1), Float(2.0), Text("aBc")]]);
    let null = table(&names, &[&[Text("a"), Null, Float(2.0), Text("aBc")]]);
    for (upto, batch) in [&typed, &typed, &text, &other, &other, &null, &null].iter().enumerate() {
        deliver(&mut sink, batch, upto as u64).unwrap();
    }
    let audit: Vec<(String, String)> = rows(&place.sql(), "SELECT what, id FROM audit");
    let whats: Vec<&str> = audit.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(whats, ["insert", "update", "update"]);
}

#[test]
fn the_last_of_one_key_wins_in_a_batch() {
    let place = Place::upsert();
    let batch = table(&["id", "name"], &[&[Int(1), Text("a")], &[Int(1), Text("b")]]);
    deliver(&mut place.fenced(1), &batch, 2).unwrap();
    assert_eq!(place.names(), [(1, "b".to_owned())]);
}

#[test]
fn a_key_alone_is_enough() {
    let place = Place::upsert();
    let batch = table(&["id"], &[&[Int(1)], &[Int(1)], &[Int(2)]]);
    deliver(&mut place.fenced(1), &batch, 3).unwrap();
    let count: i64 =
        place.sql().query_row("SELECT count(*) FROM people", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2);
}

#[test]
fn values_are_kept_as_they_are_in_a_table_that_is_created() {
    let place = Place::append();
    let names = ["csv", "whole", "part", "yes", "raw", "doc", "exact", "mixed", "a \"b\" c"];
    let big = "12345678901234567890.123456789";
    let batch = table(
        &names,
        &[
            &[
                Text("007"),
                Int(i64::MAX),
                Float(0.1),
                Bool(true),
                Bytes(&[0, 255]),
                Json("{\"a\":1}"),
                Number(big),
                Int(1),
                Text("x"),
            ],
            &[Text(""), Null, Null, Bool(false), Null, Null, Null, Text("1"), Null],
        ],
    );
    deliver(&mut place.fenced(1), &batch, 2).unwrap();
    let types: Vec<String> = columns(&place).into_iter().map(|(_, declared)| declared).collect();
    assert_eq!(types, ["TEXT", "INTEGER", "REAL", "BOOLEAN", "BLOB", "TEXT", "", "", "TEXT"]);
    let list = "quote(csv), quote(whole), quote(part), quote(yes), quote(raw), quote(doc), \
                quote(exact), quote(mixed), quote(\"a \"\"b\"\" c\")";
    let sql = format!("SELECT rowid, concat_ws('|', {list}) FROM people");
    let stored: Vec<(i64, String)> = rows(&place.sql(), &sql);
    let first = format!("'007'|{}|0.1|1|X'00FF'|'{{\"a\":1}}'|'{big}'|1|'x'", i64::MAX);
    assert_eq!(stored[0].1, first);
    assert_eq!(stored[1].1, "''|NULL|NULL|0|NULL|NULL|NULL|'1'|NULL");
}

#[test]
fn text_becomes_what_an_existing_column_holds_or_a_bad_row() {
    let place = Place::append();
    place.sql().execute_batch("CREATE TABLE people (i INTEGER, r REAL, d DATE, t TEXT)").unwrap();
    let mut sink = place.fenced(1);
    let names = ["I", "r", "D", "t"];
    let good = table(&names, &[&[Text("42"), Text("2.5"), Text("2024-01-01"), Text("")]]);
    deliver(&mut sink, &good, 1).unwrap();
    let empty = table(&names, &[&[Text(""), Text(""), Text(""), Text("NA")]]);
    deliver(&mut sink, &empty, 2).unwrap();
    let sql = "SELECT rowid, concat_ws('|', quote(i), quote(r), quote(d), quote(t)) FROM people";
    let stored: Vec<(i64, String)> = rows(&place.sql(), sql);
    assert_eq!(stored[0].1, "42|2.5|'2024-01-01'|''");
    assert_eq!(stored[1].1, "NULL|NULL|NULL|'NA'");
    let bad = |columns: &[Value<'_>]| table(&names, &[&[Text("1")], columns]);
    for (columns, wanted) in [
        (&[Text("NA")][..], "column 'i': 'NA' is not a number"),
        (&[Text("99999999999999999999")], "does not fit in 64 bits"),
        (&[Text("1"), Text("1,5")], "column 'r': '1,5' is not a number"),
    ] {
        let (row, reason) = bad_row(deliver(&mut sink, &bad(columns), 3));
        assert_eq!(row, 1);
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn a_violated_constraint_names_column_and_value() {
    for (constraint, values, wanted) in [
        ("NOT NULL", &[Int(1), Null][..], "NOT NULL constraint failed: people.n (n = NULL"),
        ("CHECK (n > 0)", &[Int(1), Int(-5)], "n > 0 (n = -5"),
        ("UNIQUE", &[Int(1), Int(7)], "UNIQUE constraint failed: people.n (n = 7"),
        ("REFERENCES place(id)", &[Int(1), Int(9)], "FOREIGN KEY constraint failed"),
    ] {
        let place = Place::append();
        let create = format!(
            "CREATE TABLE place (id INTEGER PRIMARY KEY); INSERT INTO place VALUES (7);
             CREATE TABLE people (id INTEGER, n INTEGER {constraint})"
        );
        place.sql().execute_batch(&create).unwrap();
        let mut sink = place.fenced(1);
        let batch = table(&["id", "n"], &[&[Int(0), Int(7)], values]);
        let (row, reason) = bad_row(deliver(&mut sink, &batch, 2));
        assert_eq!(row, 1);
        assert!(reason.contains(wanted), "{reason}");
        // The row before it is still in the transaction.
        let mut open = sink.begin().unwrap();
        assert!(open.write(&batch, 0..2).is_err());
        let _ = open.commit(&[advance(2)]).unwrap();
        assert_eq!(rows::<i64, i64>(&place.sql(), "SELECT id, n FROM people"), [(0, 7)]);
    }
}

#[test]
fn a_strict_table_is_as_strict_as_it_says() {
    let place = Place::append();
    place.sql().execute_batch("CREATE TABLE people (id INT, name TEXT, raw BLOB) STRICT").unwrap();
    let mut sink = place.fenced(1);
    let batch = table(&["id", "name", "raw"], &[&[Int(1), Text("a"), Text("b")]]);
    let (_, reason) = bad_row(deliver(&mut sink, &batch, 1));
    assert!(reason.contains("people.raw") && reason.contains("raw = 'b'"), "{reason}");
}

#[test]
fn a_trigger_that_rolls_back_is_not_taken_for_a_bad_row() {
    let place = Place::append();
    place
        .sql()
        .execute_batch(
            "CREATE TABLE people (id, name);
             CREATE TRIGGER t BEFORE INSERT ON people WHEN new.id = 2 BEGIN
               SELECT raise(ROLLBACK, 'no twos'); END",
        )
        .unwrap();
    let mut sink = place.fenced(1);
    let result = deliver(&mut sink, &ids(1..=3), 3);
    assert!(matches!(&result, Err(SinkError::Failed { what }) if what.contains("no twos")));
    assert_eq!(place.names(), []);
    assert_eq!(sink.peek("p", "s").unwrap()[0].position, None);
}

#[test]
fn a_column_that_the_table_lacks_is_named_with_the_nearest() {
    let place = Place::upsert();
    place
        .sql()
        .execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, name, twice AS (id * 2))")
        .unwrap();
    let mut sink = place.fenced(1);
    for (columns, wanted) in [
        (["id", "nmae"], "no column 'nmae'; did you mean 'name'?"),
        (["id", "twice"], "'twice' is computed"),
        (["ident", "name"], "`key` names"),
    ] {
        let what = settings_error(deliver(&mut sink, &table(&columns, &[&[Int(1), Int(2)]]), 1));
        assert!(what.contains(wanted), "{what}");
    }
    let twice = table(&["id", "name", "NAME"], &[&[Int(1), Int(2), Int(3)]]);
    let mut sink = Place::upsert().fenced(1);
    let what = settings_error(deliver(&mut sink, &twice, 1));
    assert!(what.contains("duplicate column name"), "{what}");
}

#[test]
fn a_rare_column_that_the_table_lacks_is_a_bad_row() {
    let place = Place::upsert();
    place.sql().execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, name)").unwrap();
    let mut sink = place.fenced(1);
    let batch = table(
        &["id", "name", "note"],
        &[&[Int(1), Text("a")], &[Int(2), Text("b"), Text("rare")], &[Int(3), Text("c")]],
    );
    let mut open = sink.begin().unwrap();
    match open.write(&batch, 0..3) {
        Err(SinkError::BadRow { row: 1, reason }) => {
            assert!(reason.contains("no column 'note'") && reason.contains("'rare'"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    open.write(&batch, 2..3).unwrap();
    let _ = open.commit(&[advance(3)]).unwrap();
    assert_eq!(place.names(), [(1, "a".to_owned()), (3, "c".to_owned())]);
}

#[test]
fn a_table_of_our_own_is_given_new_columns_unless_forbidden() {
    let mut place = Place::upsert();
    let mut sink = place.fenced(1);
    deliver(&mut sink, &table(&["id", "name"], &[&[Int(1), Text("a")]]), 1).unwrap();
    let wider = table(&["id", "name", "size"], &[&[Int(2), Text("b"), Int(5)]]);
    // A column that was added in a transaction that did not commit is added again.
    sink.begin().unwrap().write(&wider, 0..1).unwrap();
    assert_eq!(columns(&place).len(), 2);
    deliver(&mut sink, &wider, 2).unwrap();
    assert_eq!(columns(&place)[2], ("size".to_owned(), "INTEGER".to_owned()));
    drop(sink);
    place.settings["create"] = json!(false);
    let widest = table(&["id", "more"], &[&[Int(2), Text("b")]]);
    let what = settings_error(deliver(&mut place.fenced(2), &widest, 3));
    assert!(what.contains("no column 'more'"), "{what}");
}

/// What a record does must not depend on which records share its batch, or a replay would differ.
#[test]
fn a_field_that_is_absent_is_left_as_it_is() {
    let wide = table(&["id", "name", "size"], &[&[Int(1), Text("a"), Int(1)]]);
    let apart = [
        table(&["id", "size"], &[&[Int(1), Int(2)]]),
        table(&["id", "name"], &[&[Int(2), Text("b")]]),
    ];
    let together =
        [table(&["id", "name", "size"], &[&[Int(1), Absent, Int(2)], &[Int(2), Text("b")]])];
    for batches in [&apart[..], &together[..]] {
        let place = Place::upsert();
        let mut sink = place.fenced(1);
        deliver(&mut sink, &wide, 1).unwrap();
        for batch in batches {
            deliver(&mut sink, batch, 2).unwrap();
        }
        let sql = "SELECT id, concat_ws('|', quote(name), quote(size)) FROM people ORDER BY id";
        let stored: Vec<(i64, String)> = rows(&place.sql(), sql);
        assert_eq!(stored, [(1, "'a'|2".to_owned()), (2, "'b'|NULL".to_owned())]);
    }
    let lacking = table(&["id", "name"], &[&[Absent, Text("x")], &[Null, Text("x")]]);
    let place = Place::upsert();
    let (row, reason) = bad_row(deliver(&mut place.fenced(1), &lacking, 1));
    assert_eq!(row, 0);
    assert!(reason.contains("'id'"), "{reason}");
}

#[test]
fn a_composite_key_matches_an_index_in_any_order() {
    let mut place = Place::upsert();
    place.settings["key"] = json!(["Id", "name"]);
    place
        .sql()
        .execute_batch("CREATE TABLE people (id INT, name TEXT, n INT, UNIQUE (name, id))")
        .unwrap();
    let mut sink = place.fenced(1);
    let row = |n| table(&["id", "name", "n"], &[&[Int(1), Text("a"), Int(n)]]);
    deliver(&mut sink, &row(1), 1).unwrap();
    deliver(&mut sink, &row(2), 2).unwrap();
    assert_eq!(rows::<i64, i64>(&place.sql(), "SELECT id, n FROM people"), [(1, 2)]);
}
