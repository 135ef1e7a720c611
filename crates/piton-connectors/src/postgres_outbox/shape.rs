//! An outbox as it is in the database, against what reading needs of it.
//!
//! What would lose messages or read them slowly is a misfit, and nothing is read: a key with holes
//! or doubles, a transaction id of 32 bits, rows that a policy hides, no index. What only may be
//! meant otherwise is a remark.

use tokio_postgres::{Error, Row};

use super::{
    ddl::{WAKE_FUNCTION, create_index},
    settings::OutboxSettings,
    statements::{quote, quoted_table},
};
use crate::postgres::wire::Wire;

/// What the column `data` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataType {
    Json,
    Text,
    Bytes,
}

/// A live outbox.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// The table's number in the catalog, which notifications carry.
    pub(super) oid: u32,
    /// Its schema, unquoted.
    pub(super) schema: String,
    /// Its whole name, quoted where it needs to be.
    pub(super) name: String,
    pub(super) data: DataType,
    /// Whether the server is a replica, which cannot be written to or listened to.
    pub(super) is_replica: bool,
    /// Why it cannot be read, each with what to do.
    pub(super) misfits: Vec<String>,
    /// What may be meant otherwise.
    pub(super) remarks: Vec<String>,
}

/// Looks at a table; `None` if it is not there.
pub(super) fn inspect(client: &Wire, settings: &OutboxSettings) -> Result<Option<Shape>, Error> {
    let table = quoted_table(&settings.table);
    let about = client.query_opt(
        "SELECT c.oid, c.relkind::text, c.relpersistence::text, row_security_active(c.oid), \
         has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'DELETE'), \
         pg_is_in_recovery(), current_user::text, current_setting('synchronous_commit'), \
         n.nspname::text, format('%I.%I', n.nspname, c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
        &[&table],
    )?;
    let Some(about) = about else { return Ok(None) };
    let about = About::of(&about)?;
    let oid = about.oid;
    let mut look = Look { settings, table, misfits: Vec::new(), remarks: Vec::new() };
    look.table(&about);
    let columns = client.query(
        "SELECT a.attname::text, a.attnotnull, pg_get_expr(d.adbin, d.adrelid), \
         (CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END)::regtype::text \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        &[&oid],
    )?;
    let columns: Vec<TableColumn> =
        columns.iter().map(TableColumn::of).collect::<Result<_, _>>()?;
    let data = look.columns(&columns);
    // Only whole indexes that can be used: neither of a part of the rows, nor half built.
    let indexes = client.query(
        "SELECT i.indisunique, m.amname = 'btree' AND NOT 0 < ANY (i.indoption), \
         ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey) WITH ORDINALITY AS k(n, o) \
         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n AND k.n <> 0 \
         WHERE k.o <= i.indnkeyatts ORDER BY k.o) \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam \
         WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL",
        &[&oid],
    )?;
    let indexes: Vec<Index> = indexes.iter().map(Index::of).collect::<Result<_, _>>()?;
    look.indexes(&indexes);
    let trigger = client.query_one(
        "SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
         WHERE t.tgrelid = $1 AND t.tgenabled IN ('O', 'A') AND p.proname = $2)",
        &[&oid, &WAKE_FUNCTION],
    )?;
    if !trigger.try_get::<_, bool>(0)? {
        look.remark("it has no trigger that wakes readers: they poll");
    }
    let Look { misfits, remarks, .. } = look;
    let About { schema, name, is_replica, .. } = about;
    Ok(Some(Shape { oid, schema, name, data, is_replica, misfits, remarks }))
}

/// What the catalog says of a table, for this user.
struct About {
    oid: u32,
    kind: String,
    persistence: String,
    has_policy: bool,
    can_read: bool,
    can_delete: bool,
    is_replica: bool,
    user: String,
    synchronous_commit: String,
    schema: String,
    name: String,
}

impl About {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            kind: row.try_get(1)?,
            persistence: row.try_get(2)?,
            has_policy: row.try_get(3)?,
            can_read: row.try_get(4)?,
            can_delete: row.try_get(5)?,
            is_replica: row.try_get(6)?,
            user: row.try_get(7)?,
            synchronous_commit: row.try_get(8)?,
            schema: row.try_get(9)?,
            name: row.try_get(10)?,
        })
    }
}

/// A column of a table.
struct TableColumn {
    name: String,
    is_never_null: bool,
    default: Option<String>,
    kind: String,
}

impl TableColumn {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            name: row.try_get(0)?,
            is_never_null: row.try_get(1)?,
            default: row.try_get(2)?,
            kind: row.try_get(3)?,
        })
    }
}

/// An index of a table.
struct Index {
    is_unique: bool,
    /// Whether it can be read in ascending order.
    has_order: bool,
    columns: Vec<String>,
}

impl Index {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            is_unique: row.try_get(0)?,
            has_order: row.try_get(1)?,
            columns: row.try_get(2)?,
        })
    }
}

/// What is being found out about a table.
struct Look<'a> {
    settings: &'a OutboxSettings,
    table: String,
    misfits: Vec<String>,
    remarks: Vec<String>,
}

impl Look<'_> {
    fn misfit(&mut self, what: impl Into<String>) {
        self.misfits.push(what.into());
    }

    fn remark(&mut self, what: impl Into<String>) {
        self.remarks.push(what.into());
    }

    fn table(&mut self, about: &About) {
        let (table, user) = (self.table.clone(), &about.user);
        if !matches!(about.kind.as_str(), "r" | "p") {
            self.misfit("it is not a table, and only a table has the index that reading needs");
        }
        if !about.can_read {
            self.misfit(format!("{user} may not read it: GRANT SELECT ON {table} TO {user}"));
        }
        if about.has_policy {
            self.misfit(format!(
                "row-level security may hide messages from {user}, and what is hidden now would \
                 be passed over: ALTER ROLE {user} BYPASSRLS, or read as the table's owner"
            ));
        }
        if self.settings.delete_passed {
            self.can_delete(about);
        }
        if about.persistence == "u" {
            self.remark("it is UNLOGGED: a crash of the server empties it");
        }
        if about.synchronous_commit == "off" {
            self.remark(
                "`synchronous_commit` is off: a crash of the server can take back messages that \
                 were relayed, and new ones can then get a place that was passed. Transactions \
                 that append to an outbox need it on",
            );
        }
    }

    fn can_delete(&mut self, about: &About) {
        if about.is_replica {
            self.misfit("`delete_passed` needs the primary, and this server is a replica");
        } else if !about.can_delete {
            let (table, user) = (self.table.clone(), &about.user);
            self.misfit(format!(
                "`delete_passed` needs the right to delete: GRANT DELETE ON {table} TO {user}"
            ));
        }
    }

    fn columns(&mut self, columns: &[TableColumn]) -> DataType {
        let names = &self.settings.columns.clone();
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        let kind = |name: &str| find(name).map(|column| column.kind.as_str());
        for (name, wanted) in [
            (&names.position, "bigint"),
            (&names.transaction_id, "xid8"),
            (&names.scheduled, "timestamp with time zone"),
        ] {
            if let Some(kind) = kind(name).filter(|kind| *kind != wanted) {
                self.misfit(format!("its column {} is {kind}: it must be {wanted}", quote(name)));
            }
        }
        let missing = names.all().into_iter().filter(|name| find(name).is_none());
        let missing: Vec<String> = missing.map(quote).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            self.misfit(format!(
                "it has no column {missing}: `columns` names them where the table has other names"
            ));
        }
        for name in [&names.position, &names.transaction_id, &names.message_id] {
            if find(name).is_some_and(|column| !column.is_never_null) {
                let (table, name) = (&self.table, quote(name));
                self.misfit(format!(
                    "its column {name} may be null: ALTER TABLE {table} ALTER {name} SET NOT NULL"
                ));
            }
        }
        let default = find(&names.transaction_id).and_then(|c| c.default.as_deref());
        if default.is_none_or(|default| !default.contains("pg_current_xact_id()")) {
            self.remark(format!(
                "its column {} has not the default pg_current_xact_id(): what is appended must \
                 bring it, of its own transaction, or it can be passed over",
                quote(&names.transaction_id)
            ));
        }
        match kind(&names.data) {
            None | Some("jsonb" | "json") => DataType::Json,
            Some("text" | "character varying") => DataType::Text,
            Some("bytea") => DataType::Bytes,
            Some(other) => {
                let name = quote(&names.data);
                self.misfit(format!(
                    "its column {name} is {other}: it must be jsonb, json, text or bytea"
                ));
                DataType::Text
            }
        }
    }

    fn indexes(&mut self, indexes: &[Index]) {
        let columns = &self.settings.columns;
        let pair = [columns.transaction_id.as_str(), columns.position.as_str()];
        let id = [columns.message_id.as_str()];
        let is_unique_over = |of: &[&str]| {
            indexes.iter().any(|index| {
                let over = &index.columns;
                index.is_unique
                    && !over.is_empty()
                    && over.iter().all(|column| of.contains(&column.as_str()))
            })
        };
        let has_order = indexes.iter().any(|index| {
            let over = index.columns.iter().take(2);
            index.has_order && over.map(String::as_str).eq(pair)
        });
        let (is_unique, has_own_id) = (is_unique_over(&pair), is_unique_over(&id));
        let (transaction, position, id) = (quote(pair[0]), quote(pair[1]), quote(id[0]));
        if !has_order {
            let create = create_index(self.settings);
            let create = create.lines().last().unwrap_or_default().trim_end_matches(';');
            self.misfit(format!("it has no index in the order in which it is read: {create}"));
        }
        if !is_unique {
            let table = &self.table;
            self.misfit(format!(
                "({transaction}, {position}) need not be unique, so a message could be lost at the \
                 end of a batch: ALTER TABLE {table} ADD UNIQUE ({position})"
            ));
        }
        if !has_own_id {
            self.remark(format!(
                "{id} need not be unique: two messages with one id are the same to a receiver"
            ));
        }
    }
}
