//! The statements that are asked of an outbox, in one place.
//!
//! The page is the heart of it. Three things make it right: rows are compared with the whole pair,
//! never with the position alone; nothing at or above the oldest transaction in flight is read,
//! because a message of that transaction may still come before it; and both bounds are judged by
//! the one snapshot that the statement has. Both are conditions of the index, so a page costs the
//! same however deep the backlog is.

use super::{
    settings::{Columns, OutboxSettings},
    shape::DataType,
};

/// A table's name as it stands in a statement: quoted, with its schema if one was given.
pub(super) fn quoted_table(table: &str) -> String {
    table.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// An identifier as it stands in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Set once for each session that reads. The planner knows neither how many rows are behind a
/// parameter nor how the table will have grown when it uses a plan again, and one plan is always
/// right here: the index, in its order. A lock that somebody holds on the table is waited for
/// briefly, so that a request to stop is heard.
pub(super) const SESSION: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
    SET enable_sort = off; SET jit = off; SET default_transaction_isolation = 'read committed'; \
    SET lock_timeout = '2s'";

/// The statements of one outbox.
#[derive(Debug, Clone)]
pub(super) struct Statements {
    /// The table, quoted.
    pub(super) table: String,
    pair: String,
    order: String,
    backwards: String,
    columns: Columns,
    record_limit: usize,
}

impl Statements {
    pub(super) fn of(settings: &OutboxSettings, record_limit: usize) -> Self {
        let columns = settings.columns.clone();
        let (transaction, position) = (quote(&columns.transaction_id), quote(&columns.position));
        Self {
            table: quoted_table(&settings.table),
            pair: format!("({transaction}, {position})"),
            order: format!("{transaction}, {position}"),
            backwards: format!("{transaction} DESC, {position} DESC"),
            columns,
            record_limit,
        }
    }

    /// The next messages after `($1, $2)`, at most `$3`.
    pub(super) fn page(&self, data: DataType) -> String {
        let (pair, order, transaction) = (&self.pair, &self.order, self.transaction());
        format!(
            "{} WHERE {pair} > ($1::text::xid8, $2) \
             AND {transaction} < pg_snapshot_xmin(pg_current_snapshot()) \
             ORDER BY {order} LIMIT $3",
            self.select(data)
        )
    }

    /// The message at `($1, $2)`.
    pub(super) fn message(&self, data: DataType) -> String {
        format!("{} WHERE {} = ($1::text::xid8, $2)", self.select(data), self.pair)
    }

    /// The id of the message at `($1, $2)`.
    pub(super) fn message_id(&self) -> String {
        let id = quote(&self.columns.message_id);
        format!("SELECT {id}::text FROM {} WHERE {} = ($1::text::xid8, $2)", self.table, self.pair)
    }

    /// The last message that can be read.
    pub(super) fn last(&self) -> String {
        let Self { table, order, backwards, .. } = self;
        let (id, transaction) = (quote(&self.columns.message_id), self.transaction());
        format!(
            "SELECT {order}, {id}::text FROM {table} \
             WHERE {transaction} < pg_snapshot_xmin(pg_current_snapshot()) \
             ORDER BY {backwards} LIMIT 1"
        )
    }

    /// Whether any message after `($1, $2)` is there, readable or not.
    pub(super) fn is_behind(&self) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM {} WHERE {} > ($1::text::xid8, $2))",
            self.table, self.pair
        )
    }

    /// The transaction of the last message, and the first that the server has not come to yet,
    /// both of one snapshot.
    pub(super) fn newest(&self) -> String {
        format!(
            "SELECT (SELECT {} FROM {} ORDER BY {} LIMIT 1), \
             pg_snapshot_xmax(pg_current_snapshot())",
            self.transaction(),
            self.table,
            self.backwards
        )
    }

    /// The message with `$3` others before it, all of them below `($1, $2)`.
    pub(super) fn below(&self) -> String {
        let Self { table, pair, order, .. } = self;
        format!(
            "SELECT {order} FROM {table} WHERE {pair} < ($1::text::xid8, $2) \
             ORDER BY {order} OFFSET $3 LIMIT 1"
        )
    }

    /// Deletes all below `($1, $2)`.
    pub(super) fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {} < ($1::text::xid8, $2)", self.table, self.pair)
    }

    /// Gives what is not relayed to a transaction of this server, for a person to type.
    pub(super) fn renumber(&self) -> String {
        format!("UPDATE {} SET {} = pg_current_xact_id()", self.table, self.transaction())
    }

    fn transaction(&self) -> String {
        quote(&self.columns.transaction_id)
    }

    /// The columns of a record. Data that is larger than a record may be is not fetched: its size
    /// comes in its place. What is stored small is not measured: no compression makes it less than
    /// a 256th.
    fn select(&self, data_type: DataType) -> String {
        let (limit, table) = (self.record_limit, &self.table);
        let [transaction, position, id, kind, data, scheduled] = self.columns.all().map(quote);
        let size = match data_type {
            DataType::Json => format!("octet_length({data}::text)"),
            DataType::Text | DataType::Bytes => format!("octet_length({data})"),
        };
        let is_large =
            format!("pg_column_size({data}) > {small} AND {size} > {limit}", small = limit / 256);
        format!(
            "SELECT {transaction}, {position}, {id}::text, {kind}::text, \
             CASE WHEN {is_large} THEN NULL ELSE {data} END, {scheduled}, \
             CASE WHEN {is_large} THEN {size} END FROM {table}"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let settings = json!({
            "url": "postgres://h/d", "table": "shop.Out\"box",
            "columns": {"position": "id", "transaction_id": "x id", "message_id": "m\"id"},
        });
        let settings: OutboxSettings = serde_json::from_value(settings).unwrap();
        let statements = Statements::of(&settings, 1 << 20);
        let page = statements.page(DataType::Json);
        for wanted in [
            r#"FROM "shop"."Out""box" WHERE"#,
            r#"("x id", "id") > ($1::text::xid8, $2)"#,
            r#""x id" < pg_snapshot_xmin(pg_current_snapshot())"#,
            r#"ORDER BY "x id", "id" LIMIT $3"#,
            r#""m""id"::text"#,
        ] {
            assert!(page.contains(wanted), "{page}");
        }
        assert!(statements.newest().contains(r#"ORDER BY "x id" DESC, "id" DESC LIMIT 1"#));
    }
}
