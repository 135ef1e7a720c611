//! A target table as it is in the database.

use mysql::{Conn, Error, Row, prelude::Queryable as _};

use super::{
    connect::{literal, rows, text},
    encode::Kind,
    errors::{described, says},
    name::{identifiers, quote},
    settings::Target,
    stage,
};
use crate::settings::Mode;

/// What stands in the comment of a table that Piton created: such a one gets new columns.
pub(super) const OURS: &str = "created by piton";

/// A column of the target.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Its type, as SQL writes it.
    pub(super) declared: String,
    /// The character set and collation, where it has one.
    pub(super) collation: Option<(String, String)>,
    /// Computed by the database: cannot be written.
    pub(super) generated: bool,
    nullable: bool,
}

/// A unique index.
#[derive(Debug, Clone)]
struct Unique {
    name: String,
    /// In the order of the index; `None` for a part of a column, or an expression.
    columns: Vec<Option<String>>,
}

impl Unique {
    /// Whether it is on exactly these columns.
    fn is_on(&self, key: &[String]) -> bool {
        let has = |name: &String| {
            self.columns.iter().flatten().any(|column| column.eq_ignore_ascii_case(name))
        };
        self.columns.len() == key.len() && key.iter().all(has)
    }
}

/// A target table as it is.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) fields: Vec<Field>,
    /// `BASE TABLE`, `VIEW`, …
    sort: String,
    engine: String,
    /// Whether Piton created it.
    pub(super) is_ours: bool,
    unique: Vec<Unique>,
}

/// Where a table is, in a condition on the system's tables.
pub(super) fn place(name: &str, (schema, table): (&str, &str)) -> String {
    let parts = identifiers(name);
    match &parts[..] {
        [database, of] => {
            format!("{schema} = {} AND {table} = {}", literal(database), literal(of))
        }
        parts => {
            let of = parts.first().map(String::as_str).unwrap_or_default();
            format!("{schema} = DATABASE() AND {table} = {}", literal(of))
        }
    }
}

impl Table {
    /// Reads what a table is; `None` if there is none that this user may know of. `name` is as it
    /// stands in a statement.
    pub(super) fn inspect(conn: &mut Conn, name: &str) -> Result<Option<Self>, Error> {
        let at = place(name, ("table_schema", "table_name"));
        let sql = format!(
            "SELECT table_type, engine, table_comment FROM information_schema.tables WHERE {at}"
        );
        let Some(found) = rows(conn, &sql)?.pop() else { return Ok(None) };
        let sql = format!(
            "SELECT column_name, data_type, column_type, is_nullable, extra, \
             coalesce(generation_expression, ''), character_set_name, collation_name \
             FROM information_schema.columns WHERE {at} ORDER BY ordinal_position"
        );
        let json = json_columns(conn, name)?;
        let fields = rows(conn, &sql)?.iter().map(|row| Field::read(row, &json)).collect();
        let sql = format!(
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics \
             WHERE {at} AND non_unique = 0 ORDER BY index_name, seq_in_index"
        );
        let mut unique: Vec<Unique> = Vec::new();
        for row in rows(conn, &sql)? {
            let name = text(&row, 0).unwrap_or_default();
            let column = text(&row, 1).filter(|_| text(&row, 2).is_none());
            match unique.last_mut().filter(|last| last.name == name) {
                Some(last) => last.columns.push(column),
                None => unique.push(Unique { name, columns: vec![column] }),
            }
        }
        Ok(Some(Self {
            fields,
            sort: text(&found, 0).unwrap_or_default(),
            engine: text(&found, 1).unwrap_or_default(),
            is_ours: text(&found, 2).is_some_and(|comment| comment == OURS),
            unique,
        }))
    }

    /// The field that a record's column goes to. The server does not tell names of columns apart by
    /// their capitals.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// Finds why records with this key cannot be written into it; `at` names the database.
    pub(super) fn refuse(&self, name: &str, key: &[String], at: &str) -> Option<String> {
        // As a person types it in the server's own shell.
        let name = name.replace('"', "`");
        if !self.is_table() {
            return Some(format!(
                "{name} in {at} is a view or the like, not a table: name a table"
            ));
        }
        if !self.engine.eq_ignore_ascii_case("InnoDB") {
            return Some(format!(
                "{name} in {at} is kept by the engine {}, which has no transactions: its rows would \
                 not commit with the checkpoint. ALTER TABLE {name} ENGINE = InnoDB, or name another",
                self.engine
            ));
        }
        for column in key {
            let Some(field) = self.field(column) else {
                return Some(format!(
                    "the key column '{column}' is not a column of {name} in {at}{}",
                    self.suggestion(column)
                ));
            };
            if field.nullable {
                return Some(format!(
                    "the key column '{column}' of {name} in {at} may be NULL, and rows with NULL \
                     in their key are never the same: ALTER TABLE {name} MODIFY {} {} NOT NULL",
                    field.name, field.declared
                ));
            }
        }
        if key.is_empty() || self.unique.iter().any(|index| index.is_on(key)) {
            return None;
        }
        Some(format!(
            "{name} in {at} has no primary key or unique index on exactly ({columns}), which \
             `mode: upsert` needs. Create one and run again: ALTER TABLE {name} ADD UNIQUE \
             ({columns})",
            columns = key.join(", ")
        ))
    }

    /// Whether a row may clash with another by something else than this key.
    pub(super) fn may_clash_beside(&self, key: &[String]) -> bool {
        self.unique.iter().any(|index| !index.is_on(key))
    }

    /// Finds why this user may not write it, without writing: the server says so to a statement
    /// that it is to prepare.
    pub(super) fn refuse_user(
        &self,
        conn: &mut Conn,
        name: &str,
        target: &Target,
    ) -> Result<Option<String>, Error> {
        let Some(field) = self.fields.iter().find(|field| !field.generated) else {
            return Ok(None);
        };
        let column = quote(&field.name);
        let insert = format!("INSERT INTO {name} ({column}) VALUES (?)");
        let update = format!("{insert} ON DUPLICATE KEY UPDATE {column} = VALUES({column})");
        let delete = format!("DELETE FROM {name} WHERE {column} = ?");
        let mut needed = vec![("INSERT", insert)];
        if target.mode == Mode::Upsert {
            needed.push(("UPDATE and SELECT", update));
        }
        if !target.delete.is_empty() {
            needed.push(("DELETE", delete));
        }
        for (right, statement) in needed {
            match conn.prep(statement) {
                Ok(prepared) => conn.close(prepared)?,
                Err(error) if says(&error, 1142) || says(&error, 1143) => {
                    return Ok(Some(format!(
                        "the user of {} lacks the right to {right} in {name}: GRANT it ({})",
                        target.server.location(),
                        described(&error)
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        stage::refuse(conn, name, target)
    }

    /// Its columns with their types.
    pub(super) fn types(&self) -> Vec<(String, String)> {
        let of = |field: &Field| without_width(&field.declared);
        self.fields.iter().map(|field| (field.name.clone(), of(field))).collect()
    }

    /// Whether it is a table, of which the indexes say what is unique.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.sort.as_str(), "BASE TABLE" | "SYSTEM VERSIONED")
    }

    /// The engine that keeps it, if that has no transactions.
    pub(super) fn foreign_engine(&self) -> Option<&str> {
        (!self.engine.eq_ignore_ascii_case("InnoDB")).then_some(&*self.engine)
    }

    /// The columns of the primary key.
    pub(super) fn primary(&self) -> Option<Vec<String>> {
        let primary = self.unique.iter().find(|index| index.name == "PRIMARY")?;
        primary.columns.iter().cloned().collect()
    }

    /// Finds why a key does not identify and order its rows.
    pub(super) fn refuse_order(&self, name: &str, key: &[String]) -> Option<String> {
        for column in key {
            match self.field(column) {
                None => {
                    let near = self.suggestion(column);
                    return Some(format!("'{name}' has no column '{column}'{near}"));
                }
                Some(field) if field.nullable => {
                    return Some(format!(
                        "'{column}' of '{name}' may be NULL, and such a row has no place in an \
                         order: make it NOT NULL, or name another `key`"
                    ));
                }
                Some(_) => {}
            }
        }
        let names = |column: &String| key.iter().any(|k| k.eq_ignore_ascii_case(column));
        let is_unique =
            |index: &Unique| index.columns.iter().all(|column| column.as_ref().is_some_and(names));
        if self.unique.iter().any(is_unique) {
            return None;
        }
        Some(format!(
            "nothing says that ({}) is unique in '{name}': name columns with `key` of which some \
             are a primary key or unique index",
            key.join(", ")
        ))
    }

    /// Finds why a record's column cannot be written.
    pub(super) fn refuse_column(&self, column: &str) -> Option<String> {
        match self.field(column) {
            None => Some(format!("it has no column '{column}'{}", self.suggestion(column))),
            Some(field) if field.generated => {
                Some(format!("its column '{column}' is computed by the database"))
            }
            Some(_) => None,
        }
    }

    /// The field with the nearest name, as the end of a sentence.
    fn suggestion(&self, name: &str) -> String {
        let lower = |name: &str| name.to_ascii_lowercase();
        let close = |field: &&Field| strsim::jaro_winkler(&lower(name), &lower(&field.name));
        let best = self.fields.iter().map(|field| (close(&field), field));
        match best.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((score, field)) if score > 0.8 => format!("; did you mean '{}'?", field.name),
            _ => String::new(),
        }
    }
}

impl Field {
    fn read(row: &Row, json: &[String]) -> Self {
        let [name, of, declared, nullable, extra, expression] =
            [0, 1, 2, 3, 4, 5].map(|column| text(row, column).unwrap_or_default());
        let kind = if json.contains(&name) { Kind::Json } else { Kind::of(&of, &declared) };
        Self {
            kind,
            collation: text(row, 6).zip(text(row, 7)),
            generated: !expression.is_empty() && !extra.contains("DEFAULT_GENERATED"),
            nullable: nullable == "YES",
            name,
            declared,
        }
    }
}

/// A type without the width for display, which newer servers no longer tell: `int(11)`.
fn without_width(declared: &str) -> String {
    match declared.split_once('(') {
        Some((integer, rest)) if integer.ends_with("int") => {
            let after = rest.split_once(')').map_or("", |(_, after)| after);
            format!("{integer}{after}")
        }
        _ => declared.to_owned(),
    }
}

/// Columns that MariaDB takes for JSON: text with a condition.
pub(super) fn json_columns(conn: &mut Conn, name: &str) -> Result<Vec<String>, Error> {
    let is_mariadb = rows(conn, "SELECT VERSION()")?
        .first()
        .and_then(|row| text(row, 0))
        .is_some_and(|version| version.contains("MariaDB"));
    if !is_mariadb {
        return Ok(Vec::new());
    }
    let at = place(name, ("constraint_schema", "table_name"));
    let sql = format!("SELECT check_clause FROM information_schema.check_constraints WHERE {at}");
    let column = |row: &Row| {
        let clause = text(row, 0)?;
        // The session has names in double quotes.
        let inner = clause.strip_prefix("json_valid(")?.strip_suffix(')')?;
        let name = inner.strip_prefix(['`', '"'])?.strip_suffix(['`', '"'])?;
        Some(name.replace("``", "`").replace("\"\"", "\""))
    };
    Ok(rows(conn, &sql)?.iter().filter_map(column).collect())
}
