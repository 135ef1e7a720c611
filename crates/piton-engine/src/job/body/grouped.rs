//! A `for_each` below which there is nothing but statements of one database: many parents are done
//! in one transaction, and how far they are done is its mark. That is exactly once at the price of
//! few commits.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use piton::job::Begun;
use piton_connectors::{
    batch::Batch,
    sql_statements::{Executed, Statement, StatementsError},
};
use piton_core::{CheckpointKey, StoredPosition};

use super::{
    Purpose,
    marks::Done,
    passed::At,
    progress,
    sql::{bind, execute, of_statements, url_of},
};
use crate::{
    job::{
        definition::{Body, ForEach, Step, Value},
        run::Course,
        stepping::{Parent, Scope},
    },
    run::RunError,
};

/// How many parents are done in one transaction, at first and at most.
const FIRST: usize = 16;
const MOST: usize = 1000;

/// How long a transaction may be open, about: others may want to write, too.
const OPEN: Duration = Duration::from_millis(300);

/// The statements below a `for_each`, and where they are executed.
pub(super) struct Grouped<'a> {
    course: &'a Course<'a>,
    step: &'a Step,
    key: CheckpointKey,
    url: String,
    /// What every mark of it says.
    done: Done,
    size: usize,
}

impl<'a> Grouped<'a> {
    /// `None` if there is something else below the step than statements of one database.
    pub(super) fn of(course: &'a Course<'a>, step: &'a Step, done: &Done) -> Option<Self> {
        let url = database(step)?;
        let (key, done) = (progress::key_of(course, step), done.clone());
        Some(Self { course, step, key, url, done, size: FIRST })
    }

    /// How many parents the next transaction has.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Executes the statements of these parents, up to a position. `passed`: how many were done
    /// before them. A parent that cannot be done is
    /// found by doing each alone.
    pub(super) fn execute(
        &mut self,
        batch: &Batch,
        (rows, passed): (Range<usize>, u64),
        upto: &dyn Fn(usize) -> StoredPosition,
        (name, scope, begun): (&str, &Scope<'_>, &Begun),
    ) -> Result<(), RunError> {
        let began = Instant::now();
        let mut bound = Vec::new();
        for row in rows.clone() {
            let parent = parent(name, &self.step.path, batch, row);
            let scope = scope.below(&parent);
            for step in &self.step.steps {
                statements(step, &scope, begun, &mut bound)?;
            }
        }
        let done = Done {
            passed: Some(passed + rows.len() as u64),
            at: Some(At::of(&upto(rows.end))),
            ..self.done.clone()
        };
        let (course, step) = (self.course, self.step);
        match execute(course, step, &self.url, (&self.key, &done, &[]), &bound)? {
            Ok(Executed::Done { .. } | Executed::WasDone { .. }) => {}
            Ok(Executed::Fenced { epoch }) => return Err(course.fenced_by(epoch.0)),
            Err(StatementsError::Failed { .. }) if rows.len() > 1 => {
                for (nth, row) in (0..).zip(rows) {
                    let one = (row..row + 1, passed + nth);
                    self.execute(batch, one, upto, (name, scope, begun))?;
                }
                return Ok(());
            }
            Err(error) => {
                let error = of_statements(&step.path, Purpose::Body, &error);
                let parent = parent(name, &step.path, batch, rows.start);
                return Err(super::for_each::named(error, &parent));
            }
        }
        self.size = match began.elapsed() {
            long if long > OPEN => (self.size / 2).max(1),
            short if short < OPEN / 3 => (self.size * 2).min(MOST),
            _ => self.size,
        };
        Ok(())
    }
}

/// Whether a `for_each` that begins does many parents in one transaction. `SQLite` has one writer, so
/// that parents beside each other would only wait: there it does so whatever `concurrency` says.
pub(in crate::job) fn is_quickest(step: &Step, for_each: &ForEach) -> bool {
    let is_alone = |url: String| for_each.concurrency.get() == 1 || url.starts_with("sqlite:");
    database(step).is_some_and(is_alone) && !is_timed(&step.steps)
}

/// The database of the statements below a step, if there is nothing else.
fn database(step: &Step) -> Option<String> {
    let mut url = None;
    if step.steps.iter().all(|step| is_plain(step, &mut url)) { url } else { None }
}

/// Whether one of the steps may take so long only: it is a transaction of its own then.
fn is_timed(steps: &[Step]) -> bool {
    steps.iter().any(|step| step.timeout.is_some() || is_timed(&step.steps))
}

/// Whether a step is statements of the same database as those before, and nothing else.
fn is_plain(step: &Step, url: &mut Option<String>) -> bool {
    let acts = [&step.on_recover, &step.on_failure, &step.on_complete];
    let is_bare = acts.iter().all(|action| action.is_none()) && step.when.is_none();
    let is_here = match &step.body {
        Body::Group => true,
        Body::Sql(sql) => {
            *url.get_or_insert_with(|| url_of(&sql.database)) == url_of(&sql.database)
        }
        _ => false,
    };
    is_bare && is_here && step.steps.iter().all(|step| is_plain(step, url))
}

/// A parent as the steps below see it.
pub(super) fn parent<'p>(name: &'p str, at: &'p str, batch: &Batch, row: usize) -> Parent<'p> {
    let columns = batch.schema.columns.iter().enumerate();
    Parent {
        name,
        fields: columns
            .map(|(column, of)| (of.name.to_string(), Value::of(batch.get(row, column))))
            .collect(),
        id: batch.id(row),
        generation: 0,
        at,
        slot: 0,
        marks: std::sync::Mutex::default(),
    }
}

/// The statements of a step and of those below it, in their order.
fn statements(
    step: &Step,
    scope: &Scope<'_>,
    begun: &Begun,
    bound: &mut Vec<Statement>,
) -> Result<(), RunError> {
    if let Body::Sql(sql) = &step.body {
        for statement in &sql.statements {
            let statement = bind(statement, scope, begun);
            bound.push(statement.map_err(|what| {
                RunError::Settings(format!("step '{}': sql: {what}", step.path))
            })?);
        }
    }
    in_order(&step.steps).try_for_each(|step| statements(step, scope, begun, bound))
}

/// Steps beside each other, each after those that it names.
fn in_order(steps: &[Step]) -> impl Iterator<Item = &Step> {
    let mut waiting: Vec<&Step> = steps.iter().collect();
    let mut done: Vec<&str> = Vec::new();
    std::iter::from_fn(move || {
        let step = waiting.remove(crate::job::walk::ready(&waiting, &done)?);
        done.push(&step.name);
        Some(step)
    })
}
