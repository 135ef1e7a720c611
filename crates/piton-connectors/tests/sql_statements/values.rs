//! Values are parameters.

use piton_connectors::sql_statements::{Limits, StatementsError, Value};

use super::place::{Family, all, is_done, mark, says, with};

const TEXT: &str = "O'Neil\\ \"; DROP TABLE kept; -- $1 ? :name";
const DECIMAL: &str = "12345678901234567890.123456789";

#[test]
fn values_arrive_as_they_are() {
    for place in all() {
        let types = match place.family {
            Family::Sqlite => "b INT, i INT, d TEXT, t TEXT, j TEXT, x BLOB, at TEXT, no TEXT",
            Family::Postgres => {
                "b bool, i bigint, d numeric(40,9), t text, j jsonb, x bytea, at timestamptz, \
                 no int"
            }
            _ => {
                "b BOOL, i BIGINT, d DECIMAL(40,9), t TEXT, j JSON, x VARBINARY(9), \
                 at DATETIME(3), no INT"
            }
        };
        place.run(&format!("CREATE TABLE kept ({types})"));
        let values = [
            Value::Boolean(true),
            Value::Integer(i64::MIN),
            Value::Number(DECIMAL.into()),
            Value::Text(TEXT.into()),
            Value::Json("{\"a\": [1, \"ä\"]}".into()),
            Value::Bytes(vec![0, 255, 39]),
            Value::Text("2026-11-20 08:30:00".into()),
            Value::Null,
        ];
        let insert = with("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?)", &values);
        // A decimal is compared digit by digit: this one differs in the last.
        let other = Value::Number("12345678901234567890.123456788".into());
        let never = with("DELETE FROM kept WHERE d = ?", &[other]);
        let twice = with(
            "UPDATE kept SET i = i + ? WHERE i = ? AND t = ? AND d = ?",
            &[Value::Integer(1), values[1].clone(), values[3].clone(), values[2].clone()],
        );
        let mut database = place.open();
        is_done(&database.execute(&mark("a", 1), &[insert, never, twice], &Limits::default()));

        let shown = match place.family {
            Family::Sqlite => "b || '|' || i || '|' || d || '|' || hex(x) || '|' || at",
            Family::Postgres => {
                "concat_ws('|', b::int, i, d, upper(encode(x, 'hex')), \
                 to_char(at, 'YYYY-MM-DD HH24:MI:SS'))"
            }
            _ => "CONCAT_WS('|', b, i, d, HEX(x), DATE_FORMAT(at, '%Y-%m-%d %H:%i:%s'))",
        };
        let row = format!("1|{}|{DECIMAL}|00FF27|2026-11-20 08:30:00", i64::MIN + 1);
        assert_eq!(place.column(&format!("SELECT {shown} FROM kept")), [row], "{:?}", place.family);
        assert_eq!(place.column("SELECT t FROM kept"), [TEXT]);
        assert_eq!(place.column("SELECT t FROM kept WHERE no IS NULL"), [TEXT]);
        let json = if place.family == Family::Postgres { "j->'a'->>1" } else { "j" };
        let json = place.column(&format!("SELECT {json} FROM kept"));
        assert!(json[0].contains('ä'), "{json:?}");
    }
}

/// A name of the configuration goes where the database takes no text of itself, by a cast.
#[test]
fn a_text_is_cast_by_the_statement() {
    for place in all() {
        place.run("CREATE TABLE kept (t VARCHAR(40))");
        let day = Value::Text("2026-11-20".into());
        let next = match place.family {
            Family::Sqlite => "date(?, '+1 day')",
            Family::Postgres => "?::date + 1",
            _ => "DATE_ADD(CAST(? AS DATE), INTERVAL 1 DAY)",
        };
        let insert = with(&format!("INSERT INTO kept SELECT {next}"), &[day]);
        is_done(&place.open().execute(&mark("a", 1), &[insert], &Limits::default()));
        assert_eq!(place.column("SELECT t FROM kept"), ["2026-11-21"]);
    }
}

#[test]
fn a_value_that_is_none_is_named() {
    for place in all() {
        place.run("CREATE TABLE kept (t VARCHAR(40), u VARCHAR(40))");
        let one = [Value::Text("x".into())];
        let two = [Value::Text("x".into()), Value::Text("y".into())];
        let mut database = place.open();
        for (statement, words) in [
            (with("INSERT INTO kept (t) VALUES ('?')", &one), "quotes"),
            (with("INSERT INTO kept VALUES (?, '?')", &two), "quotes"),
            (with("INSERT INTO kept (t) VALUES (?); DELETE FROM kept", &one), "stands alone"),
        ] {
            let mut statement = statement;
            statement.pieces.push(piton_connectors::sql_statements::Piece::Text(" ".into()));
            let refused = database.execute(&mark("a", 1), &[statement], &Limits::default());
            assert!(
                matches!(
                    refused,
                    Err(StatementsError::Settings { .. } | StatementsError::Failed { .. })
                ),
                "{refused:?}"
            );
            says(&refused, &["the statement `INSERT INTO kept", words, "Nothing was done"]);
            assert_eq!(place.count("kept"), 0);
        }
    }
}

/// A parameter without a value would be NULL, or another's.
#[test]
fn a_parameter_of_ones_own_is_refused() {
    for place in all() {
        place.run("CREATE TABLE kept (t VARCHAR(40))");
        let mut database = place.open();
        let own = match place.family {
            Family::Sqlite => ":name",
            Family::Postgres => "$1",
            _ => "?",
        };
        let alone = super::place::texts(&[&format!("INSERT INTO kept VALUES ({own})")]);
        let refused = database.execute(&mark("a", 1), &alone, &Limits::default());
        assert!(refused.is_err(), "{refused:?}");
        let mut beside = with("INSERT INTO kept SELECT ? WHERE 1 = ", &[Value::Integer(1)]);
        beside.pieces.push(piton_connectors::sql_statements::Piece::Text(own.into()));
        let refused = database.execute(&mark("a", 1), &[beside], &Limits::default());
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(place.count("kept"), 0);
    }
}
