//! Names of tables: as they are written in a configuration, and as they stand in a statement.
//!
//! A name is one identifier or two, `schema.table`, in double quotes where it stands in a statement
//! (MySQL takes those when its session is told to). A field of a record may stand in an identifier
//! (`${record.kind}`); its value is a part of that identifier whatever it holds, so a record can
//! choose among tables, and never leave the schema or add to a statement.

use std::fmt::Write as _;

use crate::batch::{Batch, Schema, Value};

/// The longest identifier that a database takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Longest {
    #[cfg(feature = "postgres")]
    /// So many bytes. PostgreSQL would cut a longer one short, and take two for one.
    Bytes(usize),
    /// So many characters.
    #[cfg(feature = "mysql")]
    Characters(usize),
}

/// In PostgreSQL.
#[cfg(feature = "postgres")]
pub(crate) const POSTGRES: Longest = Longest::Bytes(63);
/// In MySQL and MariaDB.
#[cfg(feature = "mysql")]
pub(crate) const MYSQL: Longest = Longest::Characters(64);

/// A name that may depend on the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// One for each identifier.
    identifiers: Vec<Vec<Piece>>,
    written: String,
    longest: Longest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl Pattern {
    /// Reads a name. Double quotes are around an identifier with a dot in it.
    pub(crate) fn parse(written: &str, longest: Longest) -> Result<Self, String> {
        let wrong = |why: &str| format!("`table: {}` {why}", written.escape_debug());
        let mut identifiers = vec![Vec::new()];
        let (mut rest, mut quoted) = (written, false);
        while let Some(c) = rest.chars().next() {
            let last = identifiers.len() - 1;
            if let Some(inner) = rest.strip_prefix("${") {
                let (field, after) =
                    inner.split_once('}').ok_or_else(|| wrong("has a ${ that is never closed"))?;
                let field = field.strip_prefix("record.").filter(|f| !f.is_empty());
                let field = field.ok_or_else(|| wrong("can only refer to ${record.FIELD}"))?;
                identifiers[last].push(Piece::Field(field.to_owned()));
                rest = after;
                continue;
            }
            rest = &rest[c.len_utf8()..];
            match c {
                '"' if quoted && rest.starts_with('"') => {
                    rest = &rest[1..];
                    append(&mut identifiers[last], '"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => identifiers.push(Vec::new()),
                c => append(&mut identifiers[last], c),
            }
        }
        if quoted || identifiers.len() > 2 || identifiers.iter().any(Vec::is_empty) {
            return Err(wrong("is not the name of a table: write table or schema.table"));
        }
        let pattern = Self { identifiers, written: written.to_owned(), longest };
        if pattern.is_fixed() {
            pattern.write(None, 0, &mut String::new()).map_err(|why| wrong(&why))?;
        }
        Ok(pattern)
    }

    /// As it is written in the configuration.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// Whether it is the same for every record.
    pub(crate) fn is_fixed(&self) -> bool {
        self.identifiers.iter().flatten().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// The name in a statement, if it is the same for every record.
    pub(crate) fn fixed(&self) -> Option<String> {
        let mut name = String::new();
        self.write(None, 0, &mut name).ok()?;
        Some(name)
    }

    /// The fields of the record that it depends on.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.identifiers.iter().flatten().filter_map(|piece| match piece {
            Piece::Field(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// Writes the name for a record as it stands in a statement, in quotes.
    pub(crate) fn write(
        &self,
        batch: Option<&Batch>,
        row: usize,
        out: &mut String,
    ) -> Result<(), String> {
        for (index, pieces) in self.identifiers.iter().enumerate() {
            out.push_str(if index > 0 { ".\"" } else { "\"" });
            let start = out.len();
            for piece in pieces {
                match (piece, batch) {
                    (Piece::Text(text), _) => out.push_str(text),
                    (Piece::Field(field), Some(batch)) => write_field(field, batch, row, out)?,
                    (Piece::Field(field), None) => {
                        return Err(format!("depends on the field '{field}' of the record"));
                    }
                }
            }
            let identifier = &out[start..];
            check(identifier, self.longest)?;
            if index + 1 == self.identifiers.len() && identifier.starts_with("piton_") {
                return Err(format!("names '{identifier}', and names with piton_ are reserved"));
            }
            if identifier.contains('"') {
                let doubled = identifier.replace('"', "\"\"");
                out.truncate(start);
                out.push_str(&doubled);
            }
            out.push('"');
        }
        Ok(())
    }
}

fn append(pieces: &mut Vec<Piece>, c: char) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push(c),
        _ => pieces.push(Piece::Text(c.into())),
    }
}

fn write_field(field: &str, batch: &Batch, row: usize, out: &mut String) -> Result<(), String> {
    let column = column_of(&batch.schema, field);
    match column.map_or(Value::Absent, |column| batch.get(row, column)) {
        Value::Text(text) | Value::Number(text) => out.push_str(text),
        Value::Int(i) => {
            let _ = write!(out, "{i}");
        }
        Value::Absent | Value::Null => {
            return Err(format!("the record has no '{field}', which names its table"));
        }
        _ => return Err(format!("'{field}', which names the record's table, is not text")),
    }
    Ok(())
}

fn column_of(schema: &Schema, field: &str) -> Option<usize> {
    schema.index_of(field)
}

/// Finds why a text cannot be an identifier.
pub(crate) fn check(identifier: &str, longest: Longest) -> Result<(), String> {
    if identifier.is_empty() {
        return Err("a name is empty".into());
    }
    if identifier.contains('\0') {
        return Err(format!("'{}' is not a name", identifier.escape_debug()));
    }
    let too_long = match longest {
        #[cfg(feature = "postgres")]
        Longest::Bytes(most) => (identifier.len() > most).then(|| format!("{most} bytes")),
        #[cfg(feature = "mysql")]
        Longest::Characters(most) => {
            (identifier.chars().count() > most).then(|| format!("{most} characters"))
        }
    };
    match too_long {
        Some(most) => Err(format!("the name '{identifier}' is longer than {most}")),
        None => Ok(()),
    }
}

/// An identifier as it stands in a statement.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The identifiers of a name as it stands in a statement, without their quotes.
#[cfg(feature = "mysql")]
pub(crate) fn identifiers(name: &str) -> Vec<String> {
    let mut identifiers = Vec::new();
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix('"') {
        let mut identifier = String::new();
        let mut chars = inner.char_indices().peekable();
        let mut end = inner.len();
        while let Some((at, c)) = chars.next() {
            if c == '"' && chars.next_if(|(_, next)| *next == '"').is_none() {
                end = at + 1;
                break;
            }
            identifier.push(c);
        }
        identifiers.push(identifier);
        rest = inner[end..].strip_prefix('.').unwrap_or_default();
    }
    identifiers
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    fn of(pattern: &str, name: &str) -> Result<String, String> {
        let mut batch = conformance::records("p", &[Some(7)]);
        batch.schema = Arc::new(Schema::named(["id", "name"]));
        batch.set(0, 1, Value::Text(name));
        let mut out = String::new();
        Pattern::parse(pattern, POSTGRES)?.write(Some(&batch), 0, &mut out).map(|()| out)
    }

    #[test]
    fn names_are_identifiers_whatever_they_hold() {
        for (pattern, name, wanted) in [
            ("flights", "", r#""flights""#),
            ("sales.orders", "", r#""sales"."orders""#),
            (r#"sales."my.orders""#, "", r#""sales"."my.orders""#),
            (r#""a""b""#, "", r#""a""b""#),
            ("crm.${record.name}", "customer", r#""crm"."customer""#),
            ("t_${record.id}_x", "", r#""t_7_x""#),
            ("crm.${record.name}", r#"x"; DROP TABLE y; --"#, r#""crm"."x""; DROP TABLE y; --""#),
            ("crm.${record.name}", "other.secret", r#""crm"."other.secret""#),
        ] {
            assert_eq!(of(pattern, name).as_deref(), Ok(wanted));
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn a_name_in_a_statement_is_taken_apart_again() {
        for (pattern, wanted) in [
            ("flights", &["flights"][..]),
            ("sales.\"my.\"\"orders\"\"\"", &["sales", "my.\"orders\""]),
        ] {
            let name = Pattern::parse(pattern, MYSQL).unwrap().fixed().unwrap();
            assert_eq!(identifiers(&name), wanted, "{name}");
        }
        assert!(check(&"ü".repeat(64), MYSQL).is_ok() && check(&"ü".repeat(65), MYSQL).is_err());
    }

    #[test]
    fn what_cannot_be_a_name_says_why() {
        for (pattern, name, why) in [
            ("", "", "write table or schema.table"),
            ("a.b.c", "", "write table or schema.table"),
            ("a.", "", "write table or schema.table"),
            ("\"a", "", "write table or schema.table"),
            ("${record.name", "", "never closed"),
            ("${param.x}", "", "${record.FIELD}"),
            ("piton_checkpoints", "", "reserved"),
            ("x.${record.name}", "piton_manifest", "reserved"),
            ("${record.name}", "", "empty"),
            ("${record.table}", "", "has no 'table'"),
            ("${record.name}", "a\0b", "is not a name"),
            ("${record.name}", &"x".repeat(64), "longer than 63"),
        ] {
            let error = of(pattern, name).unwrap_err();
            assert!(error.contains(why), "{pattern}: {error}");
        }
    }
}
