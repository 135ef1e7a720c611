//! Rows on their way into tables: grouped, poured into `COPY`, merged.
//!
//! Rows of one table that have the same fields go through one `COPY`. Where nothing forbids it,
//! other rows between them wait in buffers of their own, so that a mixture of tables or of fields
//! does not become a statement for each row.
//!
//! Rows with a key are sent into the table as if none of the keys were there, which is the server's
//! fastest way; if one is, that is undone and the rows go by way of a temporary table, the *stage*,
//! and so do those of the next transactions. Where order matters ([`Writer::strict`]; two sorts of
//! rows that may have the same key) one group is done with before the next begins.

use std::{
    collections::HashMap,
    mem,
    ops::Range,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, future};
use tokio_postgres::{Client, CopyInSink, Error, error::SqlState};

use super::{
    plan::{Plan, SHAPES_MAX, Unfit, bad},
    settings::Target,
    table::{self, Table},
};
use crate::{batch::Batch, settings::Mode, sink::SinkError};

/// Text that is sent at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Text that may wait in all buffers together, in bytes.
const WAITING: usize = 1 << 20;

/// Text that is kept until the server has taken it, in bytes.
const KEPT: usize = 16 << 20;

/// Before rows are sent as if none of their keys were there.
const SAVE: &str = "SAVEPOINT piton_copy";
/// The same, when those before them were taken.
const NEXT: &str = "RELEASE SAVEPOINT piton_copy; SAVEPOINT piton_copy";
/// When some keys were there.
const UNDO: &str = "ROLLBACK TO SAVEPOINT piton_copy; RELEASE SAVEPOINT piton_copy";

/// How many tables are remembered.
const TABLES_MAX: usize = 256;

/// A table and the fields of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    plan: usize,
    shape: usize,
}

/// Writes rows. Lives as long as its connection; what it holds of a transaction goes with that.
#[derive(Default)]
pub(super) struct Writer {
    plans: Vec<Plan>,
    /// By the table's name in a statement.
    by_table: HashMap<String, usize>,
    /// Whether rows are sent in exactly their order, and nothing waits when a write returns.
    pub(super) strict: bool,
    /// An heir takes a session for stuck that has been in one `COPY` for so long.
    lease: Duration,
    /// Whether rows were written since the sink was opened.
    has_written: bool,
    /// Whether a checkpoint speaks of the table that is configured: it is not made anew.
    pub(super) must_find: bool,
    /// The group of the last row.
    current: Option<Group>,
    copying: Option<Copying>,
    /// Text that waits in all buffers, in bytes.
    waiting: usize,
    /// Whether rows with a key are sent as if none of their keys were there.
    pub(super) direct: bool,
    /// Whether some of them were.
    pub(super) met_known: bool,
    /// Whether rows that may have the same key were sent out of their order.
    is_mixed: bool,
    /// Whether there is a savepoint before the last rows that were sent so.
    is_saved: bool,
    /// The rows of the last `COPY`, where they are sent strictly.
    lines: Vec<usize>,
    /// The name of a row's table.
    name: String,
}

/// An open `COPY`.
struct Copying {
    group: Group,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    since: Instant,
    /// Whether rows with a key are sent into the table itself. Then they are kept until it is
    /// known that no key was there.
    is_direct: bool,
    kept: Vec<Bytes>,
    kept_bytes: usize,
}

/// Why rows were not written.
pub(super) enum Trouble {
    /// The server refused.
    Server(Error),
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

impl Copying {
    async fn send(&mut self, chunk: Bytes) -> Result<(), Error> {
        if self.is_direct {
            self.kept_bytes += chunk.len();
            self.kept.push(chunk.clone());
        }
        self.sink.send(chunk).await?;
        // Lets the connection take it to the socket, so that the server has it while the next one
        // is made.
        tokio::task::yield_now().await;
        Ok(())
    }
}

impl Writer {
    /// A writer for a connection. `lease`: see there.
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, ..Self::default() }
    }

    /// Forgets what a transaction left that was rolled back: also tables and columns that it made.
    pub(super) fn reset(&mut self) {
        self.plans.clear();
        self.by_table.clear();
        self.begin();
    }

    /// Whether a table is known to be there.
    pub(super) fn has_tables(&self) -> bool {
        !self.plans.is_empty()
    }

    /// Begins another transaction.
    pub(super) fn begin(&mut self) {
        (self.current, self.copying) = (None, None);
        (self.waiting, self.met_known) = (0, false);
        (self.is_mixed, self.is_saved) = (false, false);
        self.lines.clear();
    }

    /// Takes rows of a batch. A row that cannot be written ends it; those before it are taken.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        target: &Target,
        batch: &Batch,
        rows: Range<usize>,
    ) -> Result<(), Trouble> {
        for row in rows {
            if self.write_another(target, batch, row) {
                continue;
            }
            if let Err(trouble) = self.write_row(client, target, batch, row).await {
                if self.strict && matches!(trouble, Trouble::Known(SinkError::BadRow { .. })) {
                    self.settle_all(client).await?;
                }
                return Err(trouble);
            }
        }
        if self.strict {
            self.settle_all(client).await?;
        }
        Ok(())
    }

    /// Takes a row that goes the way of the one before it, if that is possible at once.
    fn write_another(&mut self, target: &Target, batch: &Batch, row: usize) -> bool {
        let Some(group) = self.current.filter(|_| target.table.is_fixed()) else { return false };
        let plan = &mut self.plans[group.plan];
        if !plan.is_for(&batch.schema)
            || plan.admit(batch, row).is_err()
            || plan.shape_of(batch, row, group.shape) != group.shape
        {
            return false;
        }
        let before = plan.shapes[group.shape].buffer.len();
        if before >= CHUNK || plan.encode(group.shape, batch, row).is_err() {
            return false;
        }
        self.waiting += plan.shapes[group.shape].buffer.len() - before;
        if self.strict {
            self.lines.push(row);
        }
        true
    }

    /// Takes a row.
    async fn write_row(
        &mut self,
        client: &Client,
        target: &Target,
        batch: &Batch,
        row: usize,
    ) -> Result<(), Trouble> {
        // What is made for this row suits those after it, too.
        let rows = row..batch.rows();
        let mut plan = self.plan_of(client, target, batch, &rows).await?;
        match self.plans[plan].admit(batch, row) {
            Ok(()) => {}
            Err(Unfit::Bad(why)) => return Err(bad(row, why).into()),
            Err(Unfit::Grow) => {
                plan = self.make_plan(client, target, batch, &rows).await?;
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
        let group = self.group_of(plan, batch, row);
        self.turn_to(client, group).await?;
        let before = self.buffered(group);
        let encoded = self.plans[plan].encode(group.shape, batch, row);
        encoded.map_err(|why| bad(row, why))?;
        if self.strict {
            self.lines.push(row);
        }
        let now = self.buffered(group);
        self.waiting += now - before;
        if now >= CHUNK {
            self.pour(client, group).await?;
        } else if self.waiting >= WAITING {
            self.pour_all(client).await?;
        }
        Ok(())
    }

    fn group_of(&mut self, plan: usize, batch: &Batch, row: usize) -> Group {
        let last = self.current.filter(|group| group.plan == plan).map_or(0, |group| group.shape);
        let shape = self.plans[plan].shape_of(batch, row, last);
        Group { plan, shape }
    }

    fn buffered(&self, group: Group) -> usize {
        self.plans[group.plan].shapes[group.shape].buffer.len()
    }

    /// Finds the plan for the first of these rows, or makes it.
    async fn plan_of(
        &mut self,
        client: &Client,
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
        self.make_plan(client, target, batch, rows).await
    }

    /// Makes a plan for the table of the first row, which is created or given new columns for the
    /// first of their kind.
    async fn make_plan(
        &mut self,
        client: &Client,
        target: &Target,
        batch: &Batch,
        rows: &Range<usize>,
    ) -> Result<usize, Trouble> {
        self.settle_all(client).await?;
        if self.plans.len() >= TABLES_MAX {
            self.plans.clear();
            self.by_table.clear();
        }
        if target.table.is_fixed() {
            self.name.clear();
            let _ = target.table.write(None, 0, &mut self.name);
        }
        let name = self.name.clone();
        let same = rows_of(target, batch, rows, &name);
        let left_out: Vec<usize> =
            target.fields().filter_map(|field| batch.schema.index_of(field)).collect();
        let (found, is_ours) = self.table(client, target, &name, (batch, &same, &left_out)).await?;
        let at = target.server.location();
        let settings = |what: String| Trouble::Known(SinkError::Settings { what });
        if let Some(why) = found.refuse(&name, &target.key, at) {
            return Err(unusable(target, rows.start, why));
        }
        let index = self.by_table.get(&name).copied().unwrap_or(self.plans.len());
        let stage = (target.mode == Mode::Upsert).then(|| format!("pg_temp.piton_stage_{index}"));
        let mut plan =
            Plan::new(&batch.schema, &name, &found, target, &left_out, stage).map_err(settings)?;
        plan.may_grow = target.create && is_ours;
        if let (false, Some(why)) = (self.has_written, plan.homeless_in_all(batch, &same)) {
            return Err(settings(format!(
                "the records do not fit {name} in {at}: {why}. Leave the column out with \
                 `select`, rename it with `rename`, or add it to the table"
            )));
        }
        self.has_written = true;
        self.current = None;
        match self.plans.get_mut(index) {
            Some(old) => *old = plan,
            None => self.plans.push(plan),
        }
        self.by_table.insert(name, index);
        Ok(index)
    }

    /// The table, created or grown if need be, and whether Piton created it.
    async fn table(
        &self,
        client: &Client,
        target: &Target,
        name: &str,
        (batch, rows, left_out): (&Batch, &[usize], &[usize]),
    ) -> Result<(Table, bool), Trouble> {
        let rights = target.rights();
        let mut found = Table::inspect(client, name, rights).await?;
        let row = rows.first().copied().unwrap_or_default();
        if found.is_none() && self.must_find {
            return Err(Trouble::Gone);
        }
        if found.is_none() && target.create {
            let is_there = |key: &&String| {
                let column = batch.schema.index_of(key);
                column.is_some_and(|column| table::is_in_any(batch, rows, column))
            };
            if let Some(key) = target.key.iter().find(|key| !is_there(key)) {
                return Err(lacking(batch, row, key));
            }
            table::create(client, name, &target.key, (batch, rows, left_out)).await?;
            found = Table::inspect(client, name, rights).await?;
        }
        let Some(present) = found else {
            let why = format!(
                "there is no table {name} in {}, and `create: false` forbids to create it",
                target.server.location()
            );
            return Err(unusable(target, row, why));
        };
        let is_ours = target.create && table::is_ours(client, name).await?;
        let columns = batch.schema.columns.iter().enumerate();
        let new: Vec<usize> = columns
            .filter(|(_, column)| present.field(&column.name).is_none())
            .map(|(index, _)| index)
            .filter(|index| !left_out.contains(index) && table::is_in_any(batch, rows, *index))
            .collect();
        if new.is_empty() || !is_ours {
            return Ok((present, is_ours));
        }
        for column in new {
            table::add_column(client, name, column, batch, rows).await?;
        }
        let grown = Table::inspect(client, name, rights).await?;
        Ok((grown.unwrap_or(present), is_ours))
    }

    /// Turns from one group to another: settles the old one where order matters.
    async fn turn_to(&mut self, client: &Client, group: Group) -> Result<(), Error> {
        if let Some(last) = self.current.replace(group)
            && last != group
        {
            // Two shapes of one table may hold the same key.
            let may_meet = last.plan == group.plan && self.plans[group.plan].stage.is_some();
            self.is_mixed |= may_meet;
            if self.strict || (may_meet && !self.direct) {
                self.settle(client, last.plan).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits in a group's buffer.
    async fn pour(&mut self, client: &Client, group: Group) -> Result<(), Error> {
        let shape = &mut self.plans[group.plan].shapes[group.shape];
        if shape.buffer.is_empty() {
            return Ok(());
        }
        let chunk = mem::replace(&mut shape.buffer, Vec::with_capacity(CHUNK + CHUNK / 8));
        self.waiting = self.waiting.saturating_sub(chunk.len());
        let is_open = self.copying.as_ref().is_some_and(|copying| {
            // Where lines are counted a batch is in one `COPY`, and done with soon.
            let is_old = !self.strict && copying.since.elapsed() > self.lease / 3;
            copying.group == group && !is_old && copying.kept_bytes < KEPT
        });
        if !is_open {
            self.finish(client).await?;
            self.copying = Some(self.start(client, group).await?);
        }
        if let Some(copying) = &mut self.copying {
            copying.send(Bytes::from(chunk)).await?;
        }
        Ok(())
    }

    async fn start(&mut self, client: &Client, group: Group) -> Result<Copying, Error> {
        let plan = &mut self.plans[group.plan];
        let is_direct = plan.stage.is_some() && self.direct;
        let is_staged = plan.stage.is_some() && !self.direct;
        if let (true, false, Some(stage)) = (is_staged, plan.has_stage, &plan.stage) {
            client.batch_execute(&plan.create_stage(stage)).await?;
            plan.has_stage = true;
        }
        let shape = &mut plan.shapes[group.shape];
        shape.is_staged |= is_staged;
        let copy = &mut shape.copy[usize::from(is_staged)];
        let statement = match &copy.statement {
            Some(statement) => statement.clone(),
            None => copy.statement.insert(client.prepare(&copy.sql).await?).clone(),
        };
        let sink = if is_direct {
            // Sent together: the second follows the first on the connection.
            let save = if mem::replace(&mut self.is_saved, true) { NEXT } else { SAVE };
            let save = client.batch_execute(save);
            let (saved, sink) = future::join(save, client.copy_in(&statement)).await;
            saved?;
            sink?
        } else {
            client.copy_in(&statement).await?
        };
        let (kept, kept_bytes) = (Vec::new(), 0);
        let since = Instant::now();
        Ok(Copying { group, sink: Box::pin(sink), since, is_direct, kept, kept_bytes })
    }

    /// Ends the open `COPY`: now the server says whether it took all rows.
    async fn finish(&mut self, client: &Client) -> Result<(), Error> {
        let Some(mut copying) = self.copying.take() else { return Ok(()) };
        match copying.sink.as_mut().finish().await {
            Err(error)
                if copying.is_direct && error.code() == Some(&SqlState::UNIQUE_VIOLATION) =>
            {
                self.met_known = true;
                if self.is_mixed {
                    return Err(error);
                }
                self.send_again(client, copying).await?;
            }
            finished => {
                finished?;
            }
        }
        self.lines.clear();
        Ok(())
    }

    /// Some keys were there: undoes what was sent as if they were not, and sends it into the stage.
    async fn send_again(&mut self, client: &Client, copying: Copying) -> Result<(), Error> {
        (self.direct, self.is_saved) = (false, false);
        client.batch_execute(UNDO).await?;
        let mut again = self.start(client, copying.group).await?;
        for chunk in copying.kept {
            again.send(chunk).await?;
        }
        again.sink.as_mut().finish().await?;
        self.merge(client, copying.group.plan).await
    }

    async fn pour_all(&mut self, client: &Client) -> Result<(), Error> {
        for plan in 0..self.plans.len() {
            for shape in 0..self.plans[plan].shapes.len() {
                self.pour(client, Group { plan, shape }).await?;
            }
        }
        Ok(())
    }

    /// Brings everything of one table to where it is going.
    async fn settle(&mut self, client: &Client, plan: usize) -> Result<(), Error> {
        for shape in 0..self.plans[plan].shapes.len() {
            self.pour(client, Group { plan, shape }).await?;
        }
        self.finish(client).await?;
        self.merge(client, plan).await
    }

    /// Writes the rows of a table's stage over those in the table.
    async fn merge(&mut self, client: &Client, plan: usize) -> Result<(), Error> {
        let Plan { stage: Some(stage), shapes, .. } = &mut self.plans[plan] else { return Ok(()) };
        for shape in shapes.iter_mut().filter(|shape| shape.is_staged) {
            shape.is_staged = false;
            client.batch_execute(&format!("{}; TRUNCATE {stage}", shape.merge)).await?;
        }
        Ok(())
    }

    /// Brings everything to where it is going, tables in the order in which they came first.
    pub(super) async fn settle_all(&mut self, client: &Client) -> Result<(), Error> {
        self.pour_all(client).await?;
        self.finish(client).await?;
        for plan in 0..self.plans.len() {
            self.merge(client, plan).await?;
        }
        Ok(())
    }

    /// The plan by which a row was written last, to say what was wrong with it.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.current.map(|group| &self.plans[group.plan])
    }

    /// The row of which an error of the last `COPY` speaks, as far as it says.
    pub(super) fn line(&self, error: &Error) -> Option<usize> {
        let context = error.as_db_error()?.where_()?;
        let (_, after) = context.strip_prefix("COPY ")?.split_once(", line ")?;
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let line: usize = after[..digits].parse().ok()?;
        self.lines.get(line.checked_sub(1)?).copied()
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
