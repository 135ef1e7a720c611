//! Rows on their way into tables: grouped into statements of about a mebibyte.
//!
//! Rows of one table that have the same fields go into one statement. Others between them wait in
//! statements of their own, so that a mixture of tables does not become a statement for each row;
//! only rows that may have the same key keep their order. Nothing waits when a write returns.

use std::{collections::HashMap, ops::Range};

use mysql::{Conn, Error, prelude::Queryable as _};

use super::{
    connect::{rows, run, text},
    create,
    errors::{described, failure},
    plan::{Plan, SHAPES_MAX, Unfit},
    settings::Target,
    stage::Stages,
    table::Table,
};
use crate::{batch::Batch, sink::SinkError};

/// Text of rows that is sent in one statement, in bytes, if the server takes that.
const CHUNK: usize = 1 << 20;

/// How many tables are remembered.
const TABLES_MAX: usize = 256;

/// A table and the fields of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    plan: usize,
    shape: usize,
}

/// Writes rows. Lives as long as its connection.
pub(super) struct Writer {
    plans: Vec<Plan>,
    /// By the table's name in a statement.
    by_table: HashMap<String, usize>,
    /// Whether rows were written since the sink was opened.
    has_written: bool,
    /// Whether a checkpoint speaks of the table that is configured: it is not made anew.
    pub(super) must_find: bool,
    /// The group of the last row.
    current: Option<Group>,
    /// Text that waits in all statements, in bytes.
    waiting: usize,
    /// How many bytes a statement may have.
    packet: usize,
    /// Where tables are created: the server commits the transaction of a session that does so.
    side: Option<Conn>,
    stages: Stages,
    /// What tells all characters apart.
    collation: &'static str,
    /// The name of a row's table.
    name: String,
}

/// Why rows were not written.
pub(super) enum Trouble {
    /// The server refused.
    Server(Error),
    /// A table has to be given columns first, by this statement, outside of any transaction.
    Grow(String),
    /// It is known without asking the server.
    Known(SinkError),
    /// The table is gone of which a checkpoint speaks.
    Gone,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<SinkError> for Trouble {
    fn from(error: SinkError) -> Self {
        Self::Known(error)
    }
}

/// A row that cannot be written.
pub(super) fn bad(row: usize, reason: impl Into<String>) -> SinkError {
    SinkError::BadRow { row, reason: reason.into() }
}

impl Writer {
    /// A writer for a connection.
    pub(super) fn new(conn: &mut Conn) -> Result<Self, Error> {
        let said = rows(conn, "SELECT @@max_allowed_packet, VERSION()")?.pop();
        let said = |column| said.as_ref().and_then(|row| text(row, column)).unwrap_or_default();
        let is_mariadb = said(1).contains("MariaDB");
        Ok(Self {
            plans: Vec::new(),
            by_table: HashMap::new(),
            has_written: false,
            must_find: false,
            current: None,
            waiting: 0,
            packet: said(0).parse().unwrap_or(CHUNK),
            side: None,
            stages: Stages::default(),
            collation: if is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" },
            name: String::new(),
        })
    }

    /// Makes ready, outside of any transaction, for a table that is known before its records are.
    pub(super) fn prepare(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        table: &Table,
    ) -> Result<(), Error> {
        let Some(name) = target.table.fixed() else { return Ok(()) };
        self.stages.of(conn, table, &name, target).map(drop)
    }

    /// Forgets rows that wait. What is known of tables stays: they were made outside of the
    /// transaction.
    pub(super) fn drop_rows(&mut self) {
        for shape in self.plans.iter_mut().flat_map(|plan| &mut plan.shapes) {
            shape.clear();
        }
        self.waiting = 0;
    }

    /// Whether a table is known to be there.
    pub(super) fn has_tables(&self) -> bool {
        !self.plans.is_empty()
    }

    /// Forgets all that is known of tables.
    pub(super) fn reset(&mut self) {
        (self.plans, self.current, self.waiting) = (Vec::new(), None, 0);
        self.by_table.clear();
    }

    /// Writes rows of a batch. A row that cannot be written ends it; those before it are written.
    pub(super) fn write(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        batch: &Batch,
        rows: Range<usize>,
    ) -> Result<(), Trouble> {
        for row in rows {
            if let Err(trouble) = self.write_row(conn, target, batch, row) {
                if matches!(trouble, Trouble::Known(SinkError::BadRow { .. })) {
                    self.send_all(conn)?;
                }
                return Err(trouble);
            }
        }
        Ok(self.send_all(conn)?)
    }

    fn write_row(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        batch: &Batch,
        row: usize,
    ) -> Result<(), Trouble> {
        // What is made for this row suits those after it, too.
        let rows = row..batch.rows();
        let mut plan = self.plan_of(conn, target, batch, &rows)?;
        match self.plans[plan].admit(batch, row) {
            Ok(()) => {}
            Err(Unfit::Bad(why)) => return Err(bad(row, why).into()),
            Err(Unfit::Grow) => {
                plan = self.make_plan(conn, target, batch, &rows)?;
                match self.plans[plan].admit(batch, row) {
                    Err(Unfit::Bad(why)) => return Err(bad(row, why).into()),
                    // A table that did not grow is asked no more.
                    Err(Unfit::Grow) => {
                        self.plans[plan].may_grow = false;
                        let why = self.plans[plan].homeless[0].1.clone();
                        return Err(bad(row, why).into());
                    }
                    Ok(()) => {}
                }
            }
        }
        let last = self.current.filter(|group| group.plan == plan).map_or(0, |group| group.shape);
        let shape = self.plans[plan].shape_of(batch, row, last);
        let group = Group { plan, shape };
        self.turn_to(conn, group)?;
        self.take(conn, group, batch, row)
    }

    /// Puts a row into the statement of its group.
    fn take(
        &mut self,
        conn: &mut Conn,
        group: Group,
        batch: &Batch,
        row: usize,
    ) -> Result<(), Trouble> {
        let before = self.plans[group.plan].shapes[group.shape].values.len();
        let encoded = self.plans[group.plan].encode(group.shape, batch, row, self.packet);
        encoded.map_err(|why| bad(row, why))?;
        let shape = &mut self.plans[group.plan].shapes[group.shape];
        let now = shape.values.len();
        self.waiting += now - before;
        if before > 0 && !shape.fits(now, self.packet) {
            // Those before it go without it.
            let last = shape.values.split_off(before);
            self.send_all(conn)?;
            self.waiting = last.len();
            let shape = &mut self.plans[group.plan].shapes[group.shape];
            (shape.values, shape.rows) = (last, 1);
        }
        let shape = &self.plans[group.plan].shapes[group.shape];
        if self.waiting >= CHUNK.min(self.packet / 2) || shape.is_full() {
            self.send_all(conn)?;
        }
        Ok(())
    }

    /// Turns from one group to another: rows that may have the same key keep their order.
    fn turn_to(&mut self, conn: &mut Conn, group: Group) -> Result<(), Error> {
        if self.current.replace(group) == Some(group) || !self.plans[group.plan].upserts {
            return Ok(());
        }
        for shape in 0..self.plans[group.plan].shapes.len() {
            if shape != group.shape {
                self.send(conn, Group { shape, ..group })?;
            }
        }
        Ok(())
    }

    /// Finds the plan for the first of these rows, or makes it.
    fn plan_of(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> Result<usize, Trouble> {
        let is_same = target.table.is_fixed() && self.current.is_some();
        if !is_same {
            self.name.clear();
            let named = target.table.write(Some(batch), rows.start, &mut self.name);
            named.map_err(|why| bad(rows.start, why))?;
        }
        let known = match self.current {
            Some(group) if is_same || self.plans[group.plan].table == self.name => Some(group.plan),
            _ => self.by_table.get(&self.name).copied(),
        };
        if let Some(index) = known {
            let plan = &mut self.plans[index];
            if plan.is_for(&batch.schema) && plan.shapes.len() <= SHAPES_MAX {
                return Ok(index);
            }
        }
        self.make_plan(conn, target, batch, rows)
    }

    /// Makes a plan for the table of the first row, which is created or given new columns for the
    /// first of their kind.
    fn make_plan(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> Result<usize, Trouble> {
        self.send_all(conn)?;
        if self.plans.len() >= TABLES_MAX || self.stages.are_many() {
            self.plans.clear();
            self.by_table.clear();
            self.stages.drop_all(conn)?;
        }
        if target.table.is_fixed() {
            self.name.clear();
            let _ = target.table.write(None, 0, &mut self.name);
        }
        let name = self.name.clone();
        let same = rows_of(target, batch, rows, &name);
        let left_out: Vec<usize> =
            target.fields().filter_map(|field| batch.schema.index_of(field)).collect();
        let found = self.table(conn, target, &name, (batch, &same, &left_out))?;
        let at = target.server.location();
        let settings = |what: String| Trouble::Known(SinkError::Settings { what });
        let why = match found.refuse(&name, &target.key, at) {
            Some(why) => Some(why),
            None => found.refuse_user(conn, &name, target)?,
        };
        if let Some(why) = why {
            return Err(unusable(target, rows.start, why));
        }
        let mut plan =
            Plan::new(&batch.schema, &name, &found, target, &left_out).map_err(settings)?;
        plan.may_grow = target.create && found.is_ours;
        plan.stage = self.stages.of(conn, &found, &name, target)?;
        if let (false, Some(why)) = (self.has_written, plan.homeless_in_all(batch, &same)) {
            return Err(settings(format!(
                "the records do not fit {name} in {at}: {why}. Leave the column out with \
                 `select`, rename it with `rename`, or add it to the table"
            )));
        }
        self.has_written = true;
        self.current = None;
        let index = self.by_table.get(&name).copied().unwrap_or(self.plans.len());
        match self.plans.get_mut(index) {
            Some(old) => *old = plan,
            None => self.plans.push(plan),
        }
        self.by_table.insert(name, index);
        Ok(index)
    }

    /// The table, created if need be.
    fn table(
        &mut self,
        conn: &mut Conn,
        target: &Target,
        name: &str,
        of: (&Batch, &[usize], &[usize]),
    ) -> Result<Table, Trouble> {
        let (batch, same, left_out) = of;
        let mut found = Table::inspect(conn, name)?;
        let row = same.first().copied().unwrap_or_default();
        if found.is_none() && self.must_find {
            return Err(Trouble::Gone);
        }
        if found.is_none() && target.create {
            let is_there = |key: &&String| {
                let column = batch.schema.index_of(key);
                column.is_some_and(|column| create::is_in_any(batch, same, column))
            };
            if let Some(key) = target.key.iter().find(|key| !is_there(key)) {
                return Err(lacking(batch, row, key));
            }
            self.create(target, &create::table(name, &target.key, of, self.collation))?;
            found = Table::inspect(conn, name)?;
        }
        let Some(present) = found else {
            let at = target.server.location();
            let why = format!(
                "there is no table {name} in {at}, and `create: false` forbids to create it"
            );
            return Err(unusable(target, row, why));
        };
        let columns = batch.schema.columns.iter().enumerate();
        let new: Vec<usize> = columns
            .filter(|(_, column)| present.field(&column.name).is_none())
            .map(|(index, _)| index)
            .filter(|index| !left_out.contains(index) && create::is_in_any(batch, same, *index))
            .collect();
        if new.is_empty() || !present.is_ours || !target.create {
            return Ok(present);
        }
        Err(Trouble::Grow(create::columns(name, &new, batch, same)))
    }

    /// Creates a table, by a connection of its own.
    fn create(&mut self, target: &Target, statement: &str) -> Result<(), Trouble> {
        let at = target.server.location();
        let mut side = match self.side.take() {
            Some(side) => side,
            None => target.server.connect(super::sink::PATIENCE).map_err(SinkError::from)?,
        };
        match side.query_drop(statement) {
            Ok(()) => {
                self.side = Some(side);
                Ok(())
            }
            // What is made in vain is the configuration's fault, not that of a row.
            Err(error) => Err(match failure(at, "create a table", &error) {
                SinkError::Failed { .. } => SinkError::Settings {
                    what: format!("cannot create a table in {at}: {}", described(&error)),
                },
                failure => failure,
            }
            .into()),
        }
    }

    /// Sends the rows of a group.
    fn send(&mut self, conn: &mut Conn, group: Group) -> Result<(), Error> {
        let shape = &mut self.plans[group.plan].shapes[group.shape];
        if shape.values.is_empty() {
            return Ok(());
        }
        let statement = shape.statement();
        self.waiting = self.waiting.saturating_sub(shape.values.len());
        shape.clear();
        run(conn, &statement)
    }

    /// Sends all rows, tables in the order in which they came first.
    fn send_all(&mut self, conn: &mut Conn) -> Result<(), Error> {
        for plan in 0..self.plans.len() {
            for shape in 0..self.plans[plan].shapes.len() {
                self.send(conn, Group { plan, shape })?;
            }
        }
        Ok(())
    }

    /// The plan by which a row was written last, to say what was wrong with it.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.current.map(|group| &self.plans[group.plan])
    }
}

/// A key without values: the configuration's fault if the records do not even know the column.
fn lacking(batch: &Batch, row: usize, key: &str) -> Trouble {
    if batch.schema.index_of(key).is_some() {
        return bad(row, format!("it has no '{key}', a column of the key")).into();
    }
    let columns: Vec<&str> = batch.schema.columns.iter().map(|c| &*c.name).collect();
    let what = format!(
        "the records have no column '{key}', which `key` names; they have: {}",
        columns.join(", ")
    );
    Trouble::Known(SinkError::Settings { what })
}

/// A table that cannot be written: the configuration's fault if it names the table, the
/// record's if that does.
fn unusable(target: &Target, row: usize, why: String) -> Trouble {
    if target.table.is_fixed() {
        return Trouble::Known(SinkError::Settings { what: why });
    }
    bad(row, why).into()
}

/// The rows that go to the same table as the first.
fn rows_of(target: &Target, batch: &Batch, rows: &Range<usize>, name: &str) -> Vec<usize> {
    if target.table.is_fixed() {
        return rows.clone().collect();
    }
    let mut other = String::new();
    let is_same = |row: &usize| {
        other.clear();
        target.table.write(Some(batch), *row, &mut other).is_ok() && other == name
    };
    rows.clone().filter(is_same).collect()
}
