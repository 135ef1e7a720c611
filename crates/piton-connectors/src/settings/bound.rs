//! Values that a query refers to, put into it as literals.
//!
//! A query is read in pieces by statements made around it, on PostgreSQL by `COPY`, which takes no
//! parameters. So a value becomes a literal here, the way keys do: a text of one token, whose end
//! nothing in the value can bring about. Where a server may read backslashes in two ways, the form
//! chosen has one reading.

use std::{fmt::Write as _, ops::Range};

/// A value that a query refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where in the query the reference to it stands, in bytes. Never within quotes.
    pub at: Range<usize>,
    /// The value.
    pub value: BoundValue,
}

/// What is bound to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundValue {
    /// None.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Another number, in digits.
    Number(String),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Whose literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

/// A query with its values.
pub(crate) fn with_values(
    query: &str,
    bound: &[Bound],
    dialect: Dialect,
) -> Result<String, String> {
    let (mut out, mut from) = (String::with_capacity(query.len()), 0);
    for Bound { at, value } in bound {
        let before = query.get(from..at.start).filter(|_| at.start <= at.end);
        let (Some(before), Some(_)) = (before, query.get(at.end..)) else {
            return Err("`query` has a value beyond its text".to_owned());
        };
        out.push_str(before);
        write_literal(value, dialect, &mut out)?;
        from = at.end;
    }
    out.push_str(&query[from..]);
    Ok(out)
}

fn write_literal(value: &BoundValue, dialect: Dialect, out: &mut String) -> Result<(), String> {
    match value {
        BoundValue::Null => out.push_str("NULL"),
        BoundValue::Boolean(value) => out.push_str(match (dialect, value) {
            // SQLite has no other truth than numbers, in any version.
            (Dialect::Sqlite, true) => "1",
            (Dialect::Sqlite, false) => "0",
            (_, true) => "TRUE",
            (_, false) => "FALSE",
        }),
        // In parentheses, so that a minus in front of it makes no comment of two.
        BoundValue::Integer(value) => drop(write!(out, "({value})")),
        BoundValue::Number(digits) => {
            let is_number = digits.parse::<f64>().is_ok_and(f64::is_finite)
                && digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            if !is_number {
                return Err(format!("'{}' is not a number", digits.escape_debug()));
            }
            let _ = write!(out, "({digits})");
        }
        BoundValue::Text(text) if text.contains('\0') => {
            return Err("a value has a zero byte, which no database takes as text".to_owned());
        }
        BoundValue::Text(text) => write_text(text, dialect, out),
        BoundValue::Bytes(bytes) => match dialect {
            Dialect::Postgres => {
                out.push_str("decode('");
                write_hex(bytes, out);
                out.push_str("', 'hex')");
            }
            Dialect::Sqlite | Dialect::MySql => {
                out.push_str(" X'");
                write_hex(bytes, out);
                out.push_str("' ");
            }
        },
    }
    Ok(())
}

fn write_text(text: &str, dialect: Dialect, out: &mut String) {
    match dialect {
        // Its quotes mean what they are told to mean (backslashes, ANSI_QUOTES); digits do not.
        Dialect::MySql => {
            out.push_str(" _utf8mb4 X'");
            write_hex(text.as_bytes(), out);
            out.push_str("' ");
        }
        // A backslash is plain or not, after `standard_conforming_strings`; after E it never is.
        Dialect::Postgres if text.contains('\\') => {
            let escaped = text.replace('\\', "\\\\").replace('\'', "''");
            let _ = write!(out, " E'{escaped}' ");
        }
        Dialect::Sqlite | Dialect::Postgres => {
            let _ = write!(out, " '{}' ", text.replace('\'', "''"));
        }
    }
}

fn write_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: BoundValue, dialect: Dialect) -> String {
        let query = "SELECT * FROM t WHERE a = ${x.y} AND b";
        let at = query.find('$').unwrap()..query.find(" AND").unwrap();
        let put = with_values(query, &[Bound { at, value }], dialect).unwrap();
        let value = put.strip_prefix("SELECT * FROM t WHERE a = ").unwrap();
        value.strip_suffix(" AND b").unwrap().to_owned()
    }

    #[test]
    fn a_value_is_one_literal_whatever_it_holds() {
        let evil = || BoundValue::Text("x' OR '1'='1".to_owned());
        assert_eq!(put(evil(), Dialect::Sqlite), " 'x'' OR ''1''=''1' ");
        assert_eq!(put(evil(), Dialect::Postgres), " 'x'' OR ''1''=''1' ");
        assert_eq!(put(evil(), Dialect::MySql), " _utf8mb4 X'7827204f52202731273d2731' ");
        let back = || BoundValue::Text(r"\' OR 1=1 --".to_owned());
        assert_eq!(put(back(), Dialect::Postgres), r" E'\\'' OR 1=1 --' ");
        assert_eq!(put(back(), Dialect::Sqlite), r" '\'' OR 1=1 --' ");
        assert_eq!(put(BoundValue::Integer(-3), Dialect::Sqlite), "(-3)");
        assert_eq!(
            put(BoundValue::Bytes(vec![0, 255]), Dialect::Postgres),
            "decode('00ff', 'hex')"
        );
        assert_eq!(put(BoundValue::Null, Dialect::MySql), "NULL");
        let not = [Bound { at: 0..0, value: BoundValue::Number("1); DROP".to_owned()) }];
        assert!(with_values("", &not, Dialect::Sqlite).is_err());
        let beyond = [Bound { at: 5..9, value: BoundValue::Null }];
        assert!(with_values("é", &beyond, Dialect::Sqlite).is_err());
    }

    #[test]
    fn sqlite_reads_back_what_was_put() {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        for text in ["", "'", "''", r"\'", "a\nb", "é\u{1f9d7}", "${x}", "-- '", "/*"] {
            let value = BoundValue::Text(text.to_owned());
            let query = with_values("SELECT ?", &[Bound { at: 7..8, value }], Dialect::Sqlite);
            let read: String = conn.query_row(&query.unwrap(), [], |row| row.get(0)).unwrap();
            assert_eq!(read, text);
        }
    }
}
