//! The statements that read in pieces: after a key, in the order of the key, at most so many.
//!
//! Comparison and order must be the same, and the same as in [`SqlPosition`]: text by its bytes.
//! Where a column is collated otherwise, or nobody knows (the columns of a query),
//! `COLLATE BINARY` says so; an index serves it if it is collated so as well. The first column of
//! such a key is compared a second time on its own, because `SQLite` finds no index for a
//! comparison of rows with collations.
//!
//! [`SqlPosition`]: super::position::SqlPosition

use rusqlite::Connection;

use super::{quote, settings::Input, table::Table};
use crate::shape::Shape;

/// How a table or query is read by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyset {
    /// The columns of the key.
    pub(super) key: Vec<String>,
    /// What stands after FROM; its alias is `q`.
    from: String,
    /// The columns of the key as they are compared.
    terms: Vec<String>,
    is_collated: bool,
    /// Whether the key is the row number, which is not among the table's columns.
    is_row_number: bool,
    /// The columns of the key that may be NULL.
    nullable: Vec<String>,
    pub(super) shape: Shape,
}

/// Why something cannot be read by a key.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The table is not there.
    Missing(String),
    /// It is there, but not so that it can be read as configured.
    Unfit(String),
    /// The database failed.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl Keyset {
    /// Finds out how to read something by its key; without a `key`, by its primary key.
    pub(super) fn of(conn: &Connection, input: &Input, key: &[String]) -> Result<Self, Unreadable> {
        let encoding: String = conn.pragma_query_value(None, "encoding", |row| row.get(0))?;
        if encoding != "UTF-8" {
            return Err(Unreadable::Unfit(format!(
                "its text is {encoding}, which sorts otherwise: only UTF-8 can be read by key"
            )));
        }
        match input {
            Input::Table(name) => Self::of_table(conn, name, key),
            Input::Query(query) => Self::of_query(conn, query, key),
        }
    }

    fn of_table(conn: &Connection, name: &str, key: &[String]) -> Result<Self, Unreadable> {
        let Some(table) = Table::inspect(conn, name)? else {
            return Err(Unreadable::Missing(format!("there is no table '{name}'")));
        };
        if !table.is_table() {
            return Err(Unreadable::Unfit(format!(
                "'{name}' is not a table, so it has no unique key: read it with `query` and `key`"
            )));
        }
        let key = if key.is_empty() { table.primary.clone() } else { key.to_vec() };
        if key.is_empty() {
            return Err(Unreadable::Unfit(format!(
                "table '{name}' has no primary key: name unique columns with `key`, or use \
                 `key: [rowid]` for the row number, which is stable while nobody runs VACUUM"
            )));
        }
        let is_row_number = key.len() == 1
            && key[0].eq_ignore_ascii_case("rowid")
            && table.field("rowid").is_none()
            && !table.without_rowid;
        let mut keyset = Self {
            key,
            from: format!("{} AS q", quote(name)),
            terms: Vec::new(),
            is_collated: false,
            is_row_number,
            nullable: Vec::new(),
            shape: Shape::new(Vec::new(), Vec::new()),
        };
        if is_row_number {
            keyset.terms = keyset.columns().collect();
            keyset.shape = Shape::new(table.types(), keyset.key.clone());
            return Ok(keyset);
        }
        for column in &mut keyset.key {
            let Some(field) = table.field(column) else {
                return Err(Unreadable::Unfit(format!(
                    "table '{name}' has no column '{column}', which `key` names{}",
                    table.suggestion(column)
                )));
            };
            column.clone_from(&field.name);
            if field.nullable {
                keyset.nullable.push(field.name.clone());
            }
            let (_, collation, ..) = conn.column_metadata(Some("main"), name, &*field.name)?;
            let is_binary = collation.is_none_or(|c| c.to_bytes().eq_ignore_ascii_case(b"BINARY"));
            keyset.is_collated |= !is_binary;
        }
        if !table.is_unique(&keyset.key) {
            return Err(Unreadable::Unfit(format!(
                "no primary key or unique index says that ({}) is unique in table '{name}', and \
                 rows with equal keys would be lost: name other columns with `key`, or create one",
                keyset.key.join(", ")
            )));
        }
        keyset.shape = Shape::new(table.types(), keyset.key.clone());
        Ok(keyset.with_terms())
    }

    fn of_query(conn: &Connection, query: &str, key: &[String]) -> Result<Self, Unreadable> {
        let statement = conn.prepare(query).map_err(|e| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::Unknown) | None => Unreadable::Unfit(format!("`query`: {e}")),
            _ => Unreadable::Database(e),
        })?;
        if statement.column_count() == 0 || !statement.readonly() {
            return Err(Unreadable::Unfit("`query` must be a SELECT".into()));
        }
        if statement.parameter_count() > 0 {
            return Err(Unreadable::Unfit(
                "`query` has parameters (?), for which there are no values: write them out".into(),
            ));
        }
        let columns: Vec<&str> = statement.column_names().collect();
        let find = |k: &String| columns.iter().find(|c| c.eq_ignore_ascii_case(k));
        let mut found = Vec::new();
        for name in key {
            let Some(column) = find(name) else {
                return Err(Unreadable::Unfit(format!(
                    "the query has no column '{name}', which `key` names; it has: {}",
                    columns.join(", ")
                )));
            };
            found.push((*column).to_owned());
        }
        let names = columns.iter().map(|name| ((*name).to_owned(), String::new()));
        let keyset = Self {
            shape: Shape::new(names.collect(), found.clone()),
            nullable: found.clone(),
            key: found,
            // The line end closes a comment at the end of the query.
            from: format!("({query}\n) AS q"),
            terms: Vec::new(),
            is_collated: true,
            is_row_number: false,
        };
        Ok(keyset.with_terms())
    }

    fn with_terms(mut self) -> Self {
        let collate = if self.is_collated { " COLLATE BINARY" } else { "" };
        self.terms = self.columns().map(|column| format!("{column}{collate}")).collect();
        self
    }

    /// The statement for the next rows: all columns, then those of the key. Its parameters are the
    /// key to begin after, unless it is for the beginning, and the number of rows.
    pub(super) fn page(&self, from_beginning: bool) -> String {
        let (columns, terms) = (self.all(), self.terms.join(", "));
        let condition = if from_beginning { String::new() } else { self.after() };
        format!("SELECT {columns} FROM {} {condition} ORDER BY {terms} LIMIT ?", self.from)
    }

    /// The statement for the key of the next row and how many bytes the row has.
    pub(super) fn next_key(&self, from_beginning: bool, columns: &[&str]) -> String {
        let lengths: Vec<String> = columns
            .iter()
            .map(|column| format!("coalesce(octet_length(q.{}), 0)", quote(column)))
            .collect();
        let condition = if from_beginning { String::new() } else { self.after() };
        format!(
            "SELECT {}, {} FROM {} {condition} ORDER BY {} LIMIT 1",
            lengths.join(" + "),
            self.list(),
            self.from,
            self.terms.join(", ")
        )
    }

    /// The statement for the row with a key.
    pub(super) fn row(&self) -> String {
        let equal: Vec<String> = self.terms.iter().map(|term| format!("{term} = ?")).collect();
        let (columns, from) = (self.all(), &self.from);
        format!("SELECT {columns} FROM {from} WHERE {} LIMIT 1", equal.join(" AND "))
    }

    /// The statement that tells whether a key is NULL somewhere; rows with one would never be read.
    pub(super) fn has_null(&self) -> Option<String> {
        let exists = |column: &String| {
            format!("EXISTS (SELECT 1 FROM {} WHERE q.{} IS NULL)", self.from, quote(column))
        };
        let tests: Vec<String> = self.nullable.iter().map(exists).collect();
        (!tests.is_empty()).then(|| format!("SELECT {}", tests.join(" OR ")))
    }

    /// The statement for the least and the greatest key, for progress; only where an index has it.
    pub(super) fn ends(&self) -> Option<String> {
        let ([_], false) = (self.key.as_slice(), self.is_collated) else { return None };
        let (column, from) = (self.list(), &self.from);
        Some(format!(
            "SELECT (SELECT min({column}) FROM {from}), (SELECT max({column}) FROM {from})"
        ))
    }

    fn after(&self) -> String {
        // Numbered, as the first is used twice.
        let marks: Vec<String> = (1..=self.terms.len()).map(|n| format!("?{n}")).collect();
        match (self.terms.as_slice(), self.is_collated) {
            ([term], _) => format!("WHERE {term} > ?1"),
            (terms, false) => format!("WHERE ({}) > ({})", terms.join(", "), marks.join(", ")),
            (terms, true) => format!(
                "WHERE {} >= ?1 AND ({}) > ({})",
                terms[0],
                terms.join(", "),
                marks.join(", ")
            ),
        }
    }

    /// What is selected: the record, then the key.
    fn all(&self) -> String {
        let rowid = if self.is_row_number { ", q.rowid AS rowid" } else { "" };
        format!("q.*{rowid}, {}", self.list())
    }

    fn columns(&self) -> impl Iterator<Item = String> {
        self.key.iter().map(|column| format!("q.{}", quote(column)))
    }

    fn list(&self) -> String {
        self.columns().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(create: &str, input: &Input, key: &[&str]) -> String {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(create).unwrap();
        let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
        let keyset = Keyset::of(&conn, input, &key).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", keyset.page(false));
        let mut statement = conn.prepare(&sql).unwrap();
        let mut lines = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get::<_, String>(3).unwrap());
        }
        lines.join("; ")
    }

    /// Never OFFSET, never a scan of what was read before.
    #[test]
    fn every_piece_is_found_by_an_index() {
        let table = |name: &str| Input::Table(name.into());
        let query = |sql: &str| Input::Query(sql.into());
        let composite = "CREATE TABLE t (a TEXT, b INT, c, PRIMARY KEY (a, b))";
        for (create, input, key, index) in [
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, c)", table("t"), &[][..], "(rowid>?)"),
            ("CREATE TABLE t (c)", table("t"), &["rowid"], "(rowid>?)"),
            ("CREATE TABLE t (a TEXT PRIMARY KEY) WITHOUT ROWID", table("t"), &[], "(a>?)"),
            (composite, table("t"), &[], "((a,b)>(?,?))"),
            (composite, query("SELECT * FROM t WHERE c > 1 -- all"), &["a", "b"], "(a>?)"),
            (
                "CREATE TABLE t (a TEXT COLLATE NOCASE UNIQUE); CREATE INDEX i ON t (a COLLATE BINARY)",
                table("t"),
                &["a"],
                "(a>?)",
            ),
        ] {
            let plan = plan(create, &input, key);
            assert!(plan.starts_with("SEARCH") && plan.contains(index), "{create}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{create}: {plan}");
        }
    }

    #[test]
    fn a_key_that_cannot_serve_is_refused_with_the_reason() {
        let refused = |create: &str, input: Input, key: &[&str]| {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(create).unwrap();
            let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
            match Keyset::of(&conn, &input, &key) {
                Err(Unreadable::Unfit(what) | Unreadable::Missing(what)) => what,
                other => panic!("{other:?}"),
            }
        };
        let table = || Input::Table("t".into());
        let query = |sql: &str| Input::Query(sql.into());
        let create =
            "CREATE TABLE t (ident INT, n INT); CREATE UNIQUE INDEX i ON t (n) WHERE n > 1";
        for (input, key, wanted) in [
            (table(), &[][..], "no primary key"),
            (table(), &["n"], "is unique"),
            (table(), &["idnet"], "did you mean 'ident'?"),
            (Input::Table("u".into()), &[], "no table 'u'"),
            (query("SELECT n FROM t"), &["ident"], "it has: n"),
            (query("SELECT n FROM t WHERE n = ?"), &["n"], "parameters"),
            (query("DELETE FROM t"), &["n"], "must be a SELECT"),
            (query("SELECT n FROM nowhere"), &["n"], "no such table"),
            (query("SELECT n FROM t; SELECT 2"), &["n"], "`query`"),
        ] {
            let what = refused(create, input, key);
            assert!(what.contains(wanted), "{what}");
        }
        let utf16 = "PRAGMA encoding = 'UTF-16'; CREATE TABLE t (id INTEGER PRIMARY KEY)";
        assert!(refused(utf16, table(), &[]).contains("UTF-16"));
        let view = "CREATE VIEW t AS SELECT 1 AS id";
        assert!(refused(view, table(), &["id"]).contains("`query`"));
    }
}
