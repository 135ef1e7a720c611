//! The records that transforms could not take, and where they stand among those they could.

use std::{collections::VecDeque, sync::Arc};

use piton_connectors::batch::{Batch, Origin, Schema, Value, write_json_value};

use super::expression::Reason;

/// A record that a transform could not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// How many rows of [`Applied::batch`](super::Applied::batch) stand before it.
    pub before: usize,
    /// How many records of the read came before it.
    pub records_before: u64,
    /// Where it came from. `batch.marks.resume_at` of it is where to stop, if one stops.
    pub origin: Origin,
    /// Its stable id.
    pub id: String,
    /// Where a person finds it.
    pub place: String,
    /// The field that is to blame, where one is.
    pub field: Option<String>,
    /// What is wrong, with the transform and the value.
    pub reason: String,
    /// The record as the source gave it, as JSON. Shared by the rows that came from one record.
    pub record: Arc<str>,
}

/// Collects bad rows during one step, and moves along those of the steps before: a step that drops
/// or makes rows changes how many stand before each.
pub(super) struct BadRows<'a> {
    /// Of earlier steps, with `before` counting this step's input.
    waiting: VecDeque<BadRow>,
    /// With `before` counting this step's output.
    done: Vec<BadRow>,
    original: Option<Arc<Batch>>,
    schema: &'a Schema,
    step: &'a str,
    /// Where the last original was found, and its JSON.
    last: Option<(usize, Origin, Arc<str>)>,
}

impl<'a> BadRows<'a> {
    pub(super) fn new(
        waiting: Vec<BadRow>,
        original: Option<Arc<Batch>>,
        schema: &'a Schema,
        step: &'a str,
    ) -> Self {
        Self { waiting: waiting.into(), done: Vec::new(), original, schema, step, last: None }
    }

    /// The step comes to a row of its input, with so many rows made before.
    pub(super) fn reach(&mut self, row: usize, made: usize) {
        while self.waiting.front().is_some_and(|bad| bad.before <= row) {
            self.done.extend(self.waiting.pop_front().map(|bad| BadRow { before: made, ..bad }));
        }
    }

    /// The step leaves every row where it is.
    pub(super) fn stay(&mut self) {
        self.done.extend(self.waiting.drain(..));
    }

    /// The step has taken all of its input.
    pub(super) fn finish(&mut self, made: usize) {
        self.reach(usize::MAX, made);
    }

    /// The step cannot take a row, which it has reached.
    pub(super) fn refuse(&mut self, batch: &Batch, row: usize, made: usize, reason: &Reason) {
        let bad = BadRow {
            before: made,
            records_before: batch.records_before(row),
            origin: batch.origin(row),
            id: batch.id(row),
            place: batch.place(row),
            field: reason.field().map(str::to_owned),
            reason: match reason.field() {
                Some(field) => format!("{}: {field}: {reason}", self.step),
                None => format!("{}: {reason}", self.step),
            },
            record: self.record(batch, row),
        };
        self.done.push(bad);
    }

    /// What was collected, and what belongs to rows that the step has not reached.
    pub(super) fn done(self) -> (Vec<BadRow>, Vec<BadRow>) {
        (self.done, self.waiting.into())
    }

    fn record(&mut self, batch: &Batch, row: usize) -> Arc<str> {
        let origin = batch.origin(row);
        let same = |other: Origin| (other.mark, other.line) == (origin.mark, origin.line);
        if let Some((_, last, json)) = &self.last
            && same(*last)
        {
            return Arc::clone(json);
        }
        let original = self.original.as_deref().unwrap_or(batch);
        // Rows keep their order, so the next original comes after the last.
        let from = self.last.as_ref().map_or(0, |(at, ..)| *at);
        let at = (from..original.rows()).find(|at| same(original.origin(*at))).unwrap_or(row);
        let json: Arc<str> = json_of(original, at, self.schema).into();
        self.last = Some((at, origin, Arc::clone(&json)));
        json
    }
}

/// A row as JSON, with the field names that the source gave.
fn json_of(batch: &Batch, row: usize, schema: &Schema) -> String {
    let mut out = vec![b'{'];
    for (column, cell) in schema.columns.iter().zip(batch.row(row)) {
        let value = batch.value(*cell);
        if value == Value::Absent {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        // Writing to memory does not fail.
        let _ = write_json_value(Value::Text(&column.name), &mut out);
        out.push(b':');
        let _ = write_json_value(value, &mut out);
    }
    out.push(b'}');
    String::from_utf8_lossy(&out).into_owned()
}
