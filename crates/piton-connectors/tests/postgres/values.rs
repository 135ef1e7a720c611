//! Values keep their types.

use piton_connectors::{
    batch::{
        ColumnType::{Text as Declared, Unknown},
        Value,
    },
    source::{Read, Source as _},
};

use crate::place::{Place, batch, deliver};

#[test]
fn types_are_kept_in_a_table_that_is_there() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TYPE mood AS ENUM ('glad', 'sad');
         CREATE DOMAIN small AS int CHECK (value < 100);
         CREATE TABLE t (id int PRIMARY KEY, exact numeric(40, 20), at timestamptz, day date,
           raw bytea, doc jsonb, plain json, key uuid, numbers int[], words text[][], docs jsonb[],
           mood mood, small small, addr inet, flag bool, note text, took interval)",
    );
    let exact = "12345678901234567890.12345678901234567890";
    let cells: [(&str, Value<'_>, &str); 16] = [
        ("exact", Value::Number(exact), exact),
        ("at", Value::Text("2024-02-29T12:00:00.123456+02:00"), "2024-02-29 10:00:00.123456+00"),
        ("day", Value::Text("2024-02-29"), "2024-02-29"),
        ("raw", Value::Bytes(&[0, 92, 255]), "\\x005cff"),
        ("doc", Value::Json("{\"a\": \"t\\tb\\\\\"}"), "{\"a\": \"t\\tb\\\\\"}"),
        ("plain", Value::Json("{\"b\":1,\"a\":2}"), "{\"b\":1,\"a\":2}"),
        (
            "key",
            Value::Text("6f4b8e0a-0e0f-4b1c-8a3e-5d1a2b3c4d5e"),
            "6f4b8e0a-0e0f-4b1c-8a3e-5d1a2b3c4d5e",
        ),
        ("numbers", Value::Json("[1, null, -3]"), "{1,NULL,-3}"),
        (
            "words",
            Value::Json("[[\"a,b\", \"c\\\"\"], [\"\", \"NULL\"]]"),
            "{{\"a,b\",\"c\\\"\"},{\"\",\"NULL\"}}",
        ),
        ("docs", Value::Json("[{\"a\": [1]}, [2]]"), "{\"{\\\"a\\\": [1]}\",[2]}"),
        ("mood", Value::Text("glad"), "glad"),
        ("small", Value::Int(99), "99"),
        ("addr", Value::Text("10.0.0.0/8"), "10.0.0.0/8"),
        ("flag", Value::Bool(true), "true"),
        ("note", Value::Text("a\tb\\N\r\n\\."), "a\tb\\N\r\n\\."),
        ("took", Value::Text("1 day 02:00"), "1 day 02:00:00"),
    ];
    for (settings, clear) in [("table: t\nkey: [id]", "TRUNCATE t"), ("table: t", "SELECT 1")] {
        let mut columns = vec![("id", Unknown)];
        columns.extend(cells.iter().map(|(name, ..)| (*name, Unknown)));
        let mut row = vec![Value::Int(1)];
        row.extend(cells.iter().map(|(_, value, _)| *value));
        deliver(&mut place.open(settings), &batch(&columns, &[&row]), 1);
        for (name, _, wanted) in &cells {
            let shown = format!("SET TimeZone = 'UTC'; SELECT {name}::text FROM t");
            let found = place.client().simple_query(&shown).unwrap();
            let found = found.iter().find_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            assert_eq!(found.as_deref(), Some(*wanted), "{name}");
        }
        place.run(clear);
    }
}

/// Fields of a CSV file are text: the column decides what they mean.
#[test]
fn text_is_what_the_column_says_and_nothing_where_that_cannot_be_empty() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (n int, at timestamptz, doc jsonb, words text[], note text)");
    let columns = ["n", "at", "doc", "words", "note"].map(|name| (name, Declared));
    let rows = [
        ["7", "2024-01-01 00:00", "{\"a\": 1}", "{x,y}", ""].map(Value::Text),
        ["", "", "", "", ""].map(Value::Text),
    ];
    let rows = rows.each_ref().map(<[_; 5]>::as_slice);
    deliver(&mut place.open("table: t"), &batch(&columns, &rows), 2);
    let shown = "SELECT concat_ws('|', n, at AT TIME ZONE 'UTC', doc, words, '<' || note || '>') \
                 FROM t ORDER BY n";
    assert_eq!(place.column(shown), ["7|2024-01-01 00:00:00|{\"a\": 1}|{x,y}|<>", "<>"]);
}

/// A table that is made for the rows of another has its types, and its values.
#[test]
fn a_table_is_copied_with_its_types() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE source (id int PRIMARY KEY, exact numeric(40, 20), x float8, ok bool,
           at timestamptz, plain timestamp, day date, clock time, took interval, raw bytea,
           doc jsonb, key uuid, addr inet, name text, numbers int[], words text[], keys uuid[],
           ats timestamptz[], sums numeric[], raws bytea[], docs jsonb[], flags bool[]);
         INSERT INTO source VALUES
           (1, 12345678901234567890.12345678901234567890, 'Infinity', true,
            '2024-02-29 12:00:00.123456+02', '2024-02-29 12:00:00.5', '2024-02-29', '23:59:59.5',
            '1 mon -3 days 04:05:06.7', '\\x005cff', '{\"a\": [1, 2.50, \"x\\\\ty\"]}',
            '6f4b8e0a-0e0f-4b1c-8a3e-5d1a2b3c4d5e', '10.0.0.0/8', E'a\\tb\\\\N\\r\\n\"é',
            '{1,NULL,-3}', ARRAY[['a,b', 'c\"\\'], ['', 'NULL']],
            '{6f4b8e0a-0e0f-4b1c-8a3e-5d1a2b3c4d5e}', '{2024-02-29 12:00:00.123456+02,infinity}',
            '{1.50,NaN}', ARRAY['\\x00ff'::bytea], ARRAY['{\"a\": [1]}'::jsonb, '[2]'],
            '{t,f,NULL}'),
           (2, 'NaN', '-0', false, 'infinity', '-infinity', 'infinity', '00:00', '0', '', 'null',
            NULL, '::1', '', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
         INSERT INTO source (id) VALUES (3)",
    );
    let source = place.source("table: source");
    let Read::Batch(batch) = source.reader(&[]).unwrap().read(10).unwrap() else { panic!() };
    deliver(&mut place.open("table: copy\nkey: [id]"), &batch, 3);
    let types = |table: &str| {
        place.column(&format!(
            "SELECT attname || ' ' || format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = '{table}'::regclass AND attnum > 1 ORDER BY attnum"
        ))
    };
    assert_eq!(types("copy"), types("source"));
    let rows = |table: &str| place.column(&format!("SELECT t::text FROM {table} t ORDER BY id"));
    assert_eq!(rows("copy"), rows("source"));
}
