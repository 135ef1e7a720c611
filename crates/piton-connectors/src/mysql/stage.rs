//! Upserts into a table with `UPDATE` triggers.
//!
//! `INSERT … ON DUPLICATE KEY UPDATE` runs the triggers of every row that is there, also where
//! nothing changes. So where there are such triggers, rows go by a stage: a temporary table of the
//! session with the columns of the target. From there go on only those that are new, or differ from
//! the row with their key in the last byte of a column. The stage is a table of the same database
//! and has the target's types and collations, so it is the server that says which keys are equal and
//! what a value becomes. Of rows with one key it keeps the last, in the place of the first.
//!
//! Who has no right to make triggers is not shown any. Then the stage is taken in any case, if the
//! user may make one.

use mysql::{Conn, Error, prelude::Queryable as _};

use super::{
    connect::{literal, rows, run},
    encode::Kind,
    errors::{described, says},
    name::{identifiers, quote},
    settings::Target,
    table::{Field, Table, place},
};
use crate::settings::Mode;

/// How many stages a session keeps.
const STAGES_MAX: usize = 64;

/// The column of the stage that has the rows in the order in which they came.
const PLACE: &str = "\"piton row\"";

/// Making a temporary table is not this user's right.
const DENIED: u16 = 1044;

/// The `UPDATE` triggers of a table, as far as this user is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Triggers {
    None,
    Some,
    /// It is not told of any.
    Hidden,
}

impl Triggers {
    fn of(conn: &mut Conn, name: &str) -> Result<Self, Error> {
        let at = place(name, ("event_object_schema", "event_object_table"));
        let sql = format!(
            "SELECT 1 FROM information_schema.triggers WHERE {at} \
             AND event_manipulation = 'UPDATE' LIMIT 1"
        );
        if !rows(conn, &sql)?.is_empty() {
            return Ok(Self::Some);
        }
        Ok(if may_see(conn, name)? { Self::None } else { Self::Hidden })
    }
}

/// Whether the server shows this user the triggers of a table. What a role grants is not seen here.
fn may_see(conn: &mut Conn, name: &str) -> Result<bool, Error> {
    let parts = identifiers(name);
    let (database, table) = match &parts[..] {
        [database, table] => (literal(database), literal(table)),
        parts => ("DATABASE()".into(), literal(parts.first().map_or("", String::as_str))),
    };
    // These show the grants of others, too, to those who may see them.
    let mine = "privilege_type = 'TRIGGER' AND REPLACE(grantee, '''', '') = CURRENT_USER()";
    let sql = format!(
        "SELECT 1 FROM information_schema.user_privileges WHERE {mine} \
         UNION ALL SELECT 1 FROM information_schema.schema_privileges WHERE {mine} \
         AND {database} LIKE table_schema ESCAPE '\\' \
         UNION ALL SELECT 1 FROM information_schema.table_privileges WHERE {mine} \
         AND table_schema = {database} AND table_name = {table} LIMIT 1"
    );
    Ok(!rows(conn, &sql)?.is_empty())
}

/// How upserts reach a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// At once: no trigger can run in vain.
    Straight,
    /// By a stage.
    Staged,
    /// At once, as neither the triggers are seen nor a stage can be made.
    Blind,
    /// By none: there are triggers and no stage can be made, says the server.
    Barred(String),
}

impl Way {
    /// The way into a table that is there.
    pub(super) fn into(conn: &mut Conn, name: &str, target: &Target) -> Result<Self, Error> {
        if target.mode != Mode::Upsert {
            return Ok(Self::Straight);
        }
        let triggers = Triggers::of(conn, name)?;
        if triggers == Triggers::None {
            return Ok(Self::Straight);
        }
        Ok(match may_make(conn)? {
            None => Self::Staged,
            Some(_) if triggers == Triggers::Hidden => Self::Blind,
            Some(said) => Self::Barred(said),
        })
    }

    /// What it means for triggers, for people, as the end of a sentence.
    pub(super) fn told(&self) -> &'static str {
        match self {
            Self::Straight | Self::Barred(_) => "",
            Self::Staged => {
                "; rows go by a temporary table, so that no UPDATE trigger runs for an unchanged one"
            }
            Self::Blind => {
                "; UPDATE triggers, if there are any, run for unchanged rows, too, as the user has \
                 neither the right TRIGGER, to see them, nor CREATE TEMPORARY TABLES"
            }
        }
    }
}

/// Finds why records cannot be written without running triggers in vain.
pub(super) fn refuse(
    conn: &mut Conn,
    name: &str,
    target: &Target,
) -> Result<Option<String>, Error> {
    let Way::Barred(said) = Way::into(conn, name, target)? else { return Ok(None) };
    Ok(Some(format!(
        "{name} in {at} has UPDATE triggers, and the user lacks the right to CREATE TEMPORARY \
         TABLES ({said}), without which they would run for rows in which nothing changes. GRANT \
         CREATE TEMPORARY TABLES on the database, or write with `mode: append`",
        at = target.server.location()
    )))
}

/// Whether this user may make a stage; else what the server says.
fn may_make(conn: &mut Conn) -> Result<Option<String>, Error> {
    let tried = "CREATE TEMPORARY TABLE piton_stage (id INT) ENGINE = InnoDB; \
                 DROP TEMPORARY TABLE piton_stage";
    match run(conn, tried) {
        Err(error) if says(&error, DENIED) => Ok(Some(described(&error))),
        tried => tried.map(|()| None),
    }
}

/// The stages of a session. Between statements they are empty; tables with the same columns share
/// one.
#[derive(Default)]
pub(super) struct Stages {
    /// What each was made of.
    made: Vec<String>,
}

impl Stages {
    /// The name of the stage for a target, which is made if need be; `None` where rows need none.
    /// Making a temporary table commits nothing, and what is made stays after a rollback.
    pub(super) fn of(
        &mut self,
        conn: &mut Conn,
        table: &Table,
        name: &str,
        target: &Target,
    ) -> Result<Option<String>, Error> {
        if matches!(Way::into(conn, name, target)?, Way::Straight | Way::Blind) {
            return Ok(None);
        }
        let columns = columns(table, &target.key);
        if let Some(known) = self.made.iter().position(|made| *made == columns) {
            return Ok(Some(stage(known)));
        }
        let new = stage(self.made.len());
        conn.query_drop(format!("CREATE TEMPORARY TABLE {new} ({columns}) ENGINE = InnoDB"))?;
        self.made.push(columns);
        Ok(Some(new))
    }

    /// Whether there are more than should be kept.
    pub(super) fn are_many(&self) -> bool {
        self.made.len() >= STAGES_MAX
    }

    pub(super) fn drop_all(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let all: Vec<String> = (0..self.made.len()).map(stage).collect();
        self.made.clear();
        if all.is_empty() {
            return Ok(());
        }
        conn.query_drop(format!("DROP TEMPORARY TABLE {}", all.join(", ")))
    }
}

fn stage(number: usize) -> String {
    quote(&format!("piton_stage_{number}"))
}

/// The columns of a stage, as a table is made with them. All but the key may be NULL: what a column
/// of the target takes, its triggers may still decide.
fn columns(table: &Table, key: &[String]) -> String {
    let mut all = vec![format!("{PLACE} BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY")];
    let mut keys = Vec::new();
    for field in table.fields.iter().filter(|field| !field.generated) {
        let Field { name, declared, collation, .. } = field;
        let is_key = key.iter().any(|k| k.eq_ignore_ascii_case(name));
        if is_key {
            keys.push(quote(name));
        }
        let of_text = collation.as_ref().map_or_else(String::new, |(set, collation)| {
            format!(" CHARACTER SET {set} COLLATE {collation}")
        });
        let null = if is_key { "NOT NULL" } else { "NULL" };
        all.push(format!("{} {declared}{of_text} {null}", quote(name)));
    }
    all.push(format!("UNIQUE ({})", keys.join(", ")));
    all.join(", ")
}

/// A column on its way through a stage.
pub(super) struct Staged<'a> {
    pub(super) quoted: &'a str,
    pub(super) kind: Kind,
    pub(super) declared: &'a str,
    pub(super) is_key: bool,
}

/// What stands before and behind the rows: statements that fill a stage, write what is new or
/// changed, and empty it. `update` is what becomes of the row with the same key.
pub(super) fn statements(
    stage: &str,
    table: &str,
    staged: &[Staged<'_>],
    update: &str,
) -> (String, String) {
    let names: Vec<&str> = staged.iter().map(|column| column.quoted).collect();
    let (keys, others): (Vec<&Staged<'_>>, Vec<&Staged<'_>>) =
        staged.iter().partition(|column| column.is_key);
    let mut last: Vec<String> =
        others.iter().map(|other| format!("{0} = VALUES({0})", other.quoted)).collect();
    if last.is_empty() {
        last.push(format!("{PLACE} = {PLACE}"));
    }
    let on: Vec<String> = keys.iter().map(|k| format!("old.{0} = new.{0}", k.quoted)).collect();
    let mut what = vec![format!("old.{} IS NULL", keys.first().map_or("", |key| key.quoted))];
    what.extend(others.iter().map(|other| format!("NOT ({})", same(other))));
    let values: Vec<String> = names.iter().map(|name| format!("new.{name}")).collect();
    let (names, values) = (names.join(", "), values.join(", "));
    let fill = format!("INSERT INTO {stage} ({names}) VALUES ");
    let merge = format!(
        " ON DUPLICATE KEY UPDATE {}; \
         INSERT INTO {table} ({names}) SELECT {values} FROM {stage} AS new \
         LEFT JOIN {table} AS old ON {} WHERE {} ORDER BY new.{PLACE}{update}; \
         DELETE FROM {stage}",
        last.join(", "),
        on.join(" AND "),
        what.join(" OR ")
    );
    (fill, merge)
}

/// The condition that a value in the stage is that of the target, to the last byte.
fn same(column: &Staged<'_>) -> String {
    let (old, new) = (format!("old.{}", column.quoted), format!("new.{}", column.quoted));
    let equal = format!("{old} <=> {new}");
    let as_bytes = |of: &str| format!("CAST({of} AS BINARY)");
    let as_text = |of: &str| as_bytes(&format!("CAST({of} AS CHAR)"));
    match column.kind {
        Kind::Integer | Kind::Decimal | Kind::Boolean | Kind::Bits | Kind::Time | Kind::Bytes => {
            equal
        }
        // Zero and minus zero are equal, and a text of few digits is not all of a number.
        Kind::Float => format!("{equal} AND {} <=> {}", as_text(&old), as_text(&new)),
        // The server leaves a document that it takes for equal.
        Kind::Json if column.declared == "json" => equal,
        Kind::Text | Kind::Json | Kind::Other => {
            format!("{} <=> {}", as_bytes(&old), as_bytes(&new))
        }
    }
}
