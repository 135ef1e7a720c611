//! What a value is in the source is what it is in the table.

use piton_connectors::{
    batch::{
        ColumnType::{
            self, Boolean, Bytes, Float, Integer, Json, Number, Text, Timestamp, Unknown,
        },
        Value,
    },
    mysql::MySqlSource,
    source::{Read, Source as _},
};

use crate::place::{batch, both, deliver};

#[test]
fn types_are_kept_in_a_table_that_is_created() {
    for place in both() {
        let columns: [(&str, ColumnType); 11] = [
            ("id", Integer),
            ("text", Text),
            ("float", Float),
            ("exact", Number),
            ("bool", Boolean),
            ("bytes", Bytes),
            ("json", Json),
            ("at", Timestamp),
            ("guessed", Unknown),
            ("mixed", Unknown),
            ("key", Text),
        ];
        let rows: [&[Value<'_>]; 2] = [
            &[
                Value::Int(i64::MIN),
                Value::Text("it's \\ \"q\" ü 🧗\0"),
                Value::Float(0.1),
                Value::Number("12345678901234567890.000000000000000001"),
                Value::Bool(true),
                Value::Bytes(&[0, 39, 92, 255]),
                Value::Json(r#"{"a": [1, "\\u00fc"]}"#),
                Value::Text("2024-02-29T10:00:00.123456+02:00"),
                Value::Int(1),
                Value::Int(1),
                Value::Text("A"),
            ],
            &[
                Value::Int(i64::MAX),
                Value::Text(""),
                Value::Float(1e300),
                Value::Null,
                Value::Bool(false),
                Value::Bytes(&[]),
                Value::Json("[]"),
                Value::Null,
                Value::Null,
                Value::Float(0.5),
                Value::Text("a "),
            ],
        ];
        deliver(&mut place.open("table: t\nkey: [key, id]"), &batch(&columns, &rows), 2);
        let of = |column: &str| place.column(&format!("SELECT {column} FROM t ORDER BY id"));
        for (column, wanted) in [
            ("id", ["-9223372036854775808", "9223372036854775807"]),
            ("text", ["it's \\ \"q\" ü 🧗\0", ""]),
            ("`float`", ["0.1", "1e300"]),
            ("exact", ["12345678901234567890.000000000000000001000000000000", "NULL"]),
            ("bool", ["1", "0"]),
            ("HEX(bytes)", ["00275CFF", ""]),
            ("JSON_EXTRACT(json, '$.a[0]')", ["1", "NULL"]),
            ("at", ["2024-02-29 08:00:00.123456", "NULL"]),
            ("guessed", ["1", "NULL"]),
            ("mixed", ["1", "0.5"]),
            ("`key`", ["A", "a "]),
        ] {
            assert_eq!(of(column), wanted, "{column}");
        }
        let types = "SELECT data_type FROM information_schema.columns \
                     WHERE table_schema = DATABASE() AND table_name = 't' ORDER BY ordinal_position";
        let types = place.column(types);
        let json = if types[6] == "longtext" { "longtext" } else { "json" };
        assert_eq!(
            types,
            [
                "bigint", "longtext", "double", "decimal", "tinyint", "longblob", json, "datetime",
                "bigint", "double", "varchar"
            ]
        );
    }
}

/// A table that is made for the rows of another has the same types, as far as they are told.
#[test]
fn a_table_read_and_written_is_the_same() {
    for place in both() {
        place.run(&[
            "CREATE TABLE a (id BIGINT PRIMARY KEY, exact DECIMAL(20,5), x DOUBLE, ok BOOLEAN,
             raw LONGBLOB, day DATE, at DATETIME(6), doc JSON, text LONGTEXT)",
            "INSERT INTO a VALUES
             (1, 1.5, 0.1, TRUE, x'00ff', '2024-02-29', '2024-02-29 10:00:00.000001', '[1]', 'it''s'),
             (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        ]);
        let settings = format!("url: {}\ntable: a", place.url);
        let settings = serde_saphyr::from_str(&settings).unwrap();
        let source = MySqlSource::new(&settings, 1 << 20).unwrap();
        let read = source.reader(&[]).unwrap().read(10).unwrap();
        let Read::Batch(mut records) = read else { panic!("{read:?}") };
        records.partition = "input".into();
        records.end = piton_connectors::conformance::at(2);
        deliver(&mut place.open("table: b\nkey: [id]"), &records, 2);
        let types = |table: &str| {
            place.column(&format!(
                "SELECT CONCAT(column_name, ' ', data_type) FROM information_schema.columns \
                 WHERE table_schema = DATABASE() AND table_name = '{table}' \
                 ORDER BY ordinal_position"
            ))
        };
        assert_eq!(types("a"), types("b"));
        let same = "SELECT COUNT(*) FROM a JOIN b USING (id) WHERE a.exact <=> b.exact
            AND a.x <=> b.x AND a.ok <=> b.ok AND a.raw <=> b.raw AND a.day <=> b.day
            AND a.at <=> b.at AND a.text <=> b.text
            AND JSON_EXTRACT(a.doc, '$[0]') <=> JSON_EXTRACT(b.doc, '$[0]')";
        assert_eq!(place.column(same), ["2"]);
    }
}

#[test]
fn text_becomes_what_the_column_of_a_table_is() {
    for place in both() {
        place.run(&["CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, n DECIMAL(20,5), b BOOLEAN,
            d DATE, c TIME, at DATETIME(3), stamp TIMESTAMP NULL, j JSON, e ENUM('x', 'y'), f BIT(1),
            latin VARCHAR(10) CHARACTER SET latin1)"]);
        let names = ["id", "n", "b", "d", "c", "at", "stamp", "j", "e", "f", "latin"];
        let columns = names.map(|name| (name, Text));
        let text = |values: [&'static str; 11]| values.map(Value::Text);
        let cells = [
            text([
                "0",
                "1.50",
                "true",
                "2024-02-29",
                "10:00",
                "2024-02-29T10:00:00.5Z",
                "2024-02-29 10:00:00+02:00",
                "{\"a\":1}",
                "y",
                "1",
                "ü",
            ]),
            text(["7", "", "", "", "", "", "", "", "", "", ""]),
        ];
        let rows: Vec<&[Value<'_>]> = cells.iter().map(<[_; 11]>::as_slice).collect();
        let mut sink = place.open("table: t");
        deliver(&mut sink, &batch(&columns, &rows[..1]), 1);
        let mut open = piton_connectors::sink::TransactionalSink::begin(&mut sink).unwrap();
        let bad = crate::place::set_aside(&mut *open, &batch(&columns, &rows[1..]));
        assert_eq!(bad, [], "{bad:?}");
        let _ = open.commit(&[crate::place::advance(2)]).unwrap();
        let shown = "SELECT CONCAT_WS('|', id, n, b, d, c, at, stamp, \
                     JSON_EXTRACT(j, '$.a'), e, f + 0, latin) FROM t ORDER BY id";
        place.run(&["SET GLOBAL time_zone = '+00:00'"]);
        assert_eq!(
            place.column(shown),
            [
                "0|1.50000|1|2024-02-29|10:00:00|2024-02-29 10:00:00.500|2024-02-29 08:00:00|1|y|1|ü",
                "7|"
            ]
        );
    }
}
