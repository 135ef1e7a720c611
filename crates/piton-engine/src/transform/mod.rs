//! What happens to records between source and sinks: `filter`, `select`, `rename`, `flatten`.
//!
//! A transform is a pure function of one record: what it makes of a record does not depend on which
//! others came in the same batch, so a replay with other batch borders gives the same rows under
//! the same ids. A record may leave as no row, as one, or (through `flatten`) as several, which are
//! told apart by [`Origin::ordinal`](piton_connectors::batch::Origin::ordinal).
//!
//! A record that a transform cannot take does not spoil its batch: it is named in
//! [`Applied::bad`] together with how many of the batch's rows stand before it, so that the engine
//! can deliver everything before it and stop, or set it aside and go on.
//!
//! `flatten` can make much of little: a record of 16 MiB holds millions of list items. Its output
//! is therefore handed out in batches of bounded size, each ending between two records.

mod bad;
pub mod expression;
mod filter;
mod flatten;
mod rename;
mod select;

use std::{fmt, sync::Arc};

use piton_connectors::batch::{Batch, Cell, Schema};
use piton_core::fault;

pub use self::{
    bad::BadRow,
    expression::{Expression, ExpressionError},
};
use self::{bad::BadRows, filter::Filter, flatten::Flatten, rename::Rename, select::Select};

/// One transform, as configured.
#[derive(Debug, Clone)]
pub enum Transform {
    /// Keeps the records for which the expression is true.
    Filter(Expression),
    /// Keeps or computes columns, in this order.
    Select(Vec<Selected>),
    /// Gives fields other names, all at once: (old, new).
    Rename(Vec<(String, String)>),
    /// Spreads an object over columns, or a list over records.
    Flatten {
        /// The field that holds it.
        field: String,
        /// Stands between the field's name and an object's own: `_` gives `address_city`.
        separator: String,
    },
}

/// A column that `select` gives.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Its name.
    pub name: String,
    /// Its value. An expression that is only a field's name copies the field as it is.
    pub value: Taken,
}

/// Where a selected column comes from.
#[derive(Debug, Clone)]
pub enum Taken {
    /// The field of this name.
    Field(String),
    /// What an expression gives.
    Expression(Expression),
}

impl Transform {
    /// The name under which it is configured.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Filter(_) => "filter",
            Self::Select(_) => "select",
            Self::Rename(_) => "rename",
            Self::Flatten { .. } => "flatten",
        }
    }
}

/// What the transforms made of a batch, or of a part of it.
#[derive(Debug)]
pub struct Applied {
    /// The rows, in order. Its `end` and `records` cover this part of the batch.
    pub batch: Batch,
    /// The records that could not be taken, in order.
    pub bad: Vec<BadRow>,
}

/// Why the transforms do not fit the source. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// A field is named that the records do not have.
    #[error("{transform} names the field '{field}', which the records do not have{hint}")]
    UnknownField {
        /// Which transform, for example `transform 2 (filter)`.
        transform: String,
        /// The field.
        field: String,
        /// The nearest field and all that there are.
        hint: String,
    },
    /// Two fields would have one name.
    #[error(
        "{transform} would give two fields the name '{field}': rename or leave out one of them first"
    )]
    Collision {
        /// Which transform.
        transform: String,
        /// The name.
        field: String,
    },
}

/// The transforms of a pipeline, in order.
#[derive(Debug)]
pub struct Transforms {
    steps: Vec<Prepared>,
    /// Whether every record that comes out has the fields of its schema.
    gives_fixed: bool,
}

/// A transform, and where its fields are in the schema seen last.
#[derive(Debug)]
struct Prepared {
    step: Box<dyn Step>,
    about: About,
    schema: Option<Arc<Schema>>,
}

/// What a transform has to know to complain.
#[derive(Debug)]
struct About {
    /// For example `transform 2 (filter)`.
    name: String,
    /// Whether every record has the schema's fields, so that one that is not there is a mistake.
    fixed: bool,
}

/// One transform at work.
trait Step: fmt::Debug + Send {
    /// Finds its fields in a schema.
    fn bind(&mut self, schema: &Arc<Schema>, about: &About) -> Result<(), TransformError>;

    /// Takes rows from `from` on. Called after `bind` with the batch's schema.
    fn apply(&self, batch: &mut Arc<Batch>, from: usize, bad: &mut BadRows<'_>) -> Outcome;

    /// Whether it takes whatever comes.
    fn takes_everything(&self) -> bool {
        false
    }
}

/// What a transform made of rows.
enum Outcome {
    /// They were changed where they are.
    Changed,
    /// All of them became other rows.
    Made(Batch),
    /// Those before a row became other rows; the rest is for later.
    MadeUpTo(Batch, usize),
}

impl Transforms {
    /// Prepares transforms. `fixed` says that the source's schema names every field there can be
    /// (CSV with its header, a query) rather than those that happened to occur (JSON). Batches
    /// that `flatten` makes larger than `batch_bytes` are handed out in parts.
    pub fn new(transforms: &[Transform], fixed: bool, batch_bytes: usize) -> Self {
        let mut fixed = fixed;
        let mut steps = Vec::with_capacity(transforms.len());
        for (index, transform) in transforms.iter().enumerate() {
            let name = format!("transform {} ({})", index + 1, transform.kind());
            let step: Box<dyn Step> = match transform {
                Transform::Filter(expression) => Box::new(Filter::new(expression)),
                Transform::Select(columns) => Box::new(Select::new(columns)),
                Transform::Rename(names) => Box::new(Rename::new(names)),
                Transform::Flatten { field, separator } => {
                    Box::new(Flatten::new(field, separator, batch_bytes))
                }
            };
            steps.push(Prepared { step, about: About { name, fixed }, schema: None });
            fixed = match transform {
                Transform::Select(_) => true,
                Transform::Flatten { .. } => false,
                Transform::Filter(_) | Transform::Rename(_) => fixed,
            };
        }
        Self { steps, gives_fixed: fixed }
    }

    /// Whether every record that comes out has the fields of its schema, so that a field that is
    /// not there in the first never comes.
    pub fn gives_fixed_fields(&self) -> bool {
        self.gives_fixed
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Applies all of them. Without `flatten` the result is one part.
    pub fn apply(&mut self, batch: Batch) -> Pass<'_> {
        fault::point("transform");
        let schema = Arc::clone(&batch.schema);
        let (records, batch) = (batch.records, Arc::new(batch));
        let part = Part { step: 0, batch, from: 0, records, bad: Vec::new(), original: None };
        Pass { transforms: self, schema, parts: vec![part] }
    }
}

/// The parts of a batch on their way through the transforms. Ends after an error.
pub struct Pass<'t> {
    transforms: &'t mut Transforms,
    /// The fields as the source named them.
    schema: Arc<Schema>,
    /// What is left to do, the next part last.
    parts: Vec<Part>,
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("parts_left", &self.parts.len()).finish_non_exhaustive()
    }
}

/// Rows that have come as far as a step.
struct Part {
    step: usize,
    /// Shared only once it has become the `original` of later rows.
    batch: Arc<Batch>,
    /// The first row that the step has not seen.
    from: usize,
    /// The records read for the rows from there on.
    records: u64,
    bad: Vec<BadRow>,
    /// The rows as the source gave them, where the steps so far have made others of them.
    original: Option<Arc<Batch>>,
}

impl Iterator for Pass<'_> {
    type Item = Result<Applied, TransformError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut part = self.parts.pop()?;
        while part.step < self.transforms.steps.len() {
            if let Err(error) = self.advance(&mut part) {
                self.parts.clear();
                return Some(Err(error));
            }
        }
        let mut batch = Arc::unwrap_or_clone(part.batch);
        batch.records = part.records;
        Some(Ok(Applied { batch, bad: part.bad }))
    }
}

impl Pass<'_> {
    /// Takes rows through one step. What a `flatten` leaves for later goes back to the pile.
    fn advance(&mut self, part: &mut Part) -> Result<(), TransformError> {
        let steps = &mut self.transforms.steps;
        let later = steps[part.step + 1..].iter().any(|later| !later.step.takes_everything());
        let prepared = &mut steps[part.step];
        prepared.bind(&part.batch.schema)?;
        let mut bad = BadRows::new(
            std::mem::take(&mut part.bad),
            part.original.clone(),
            &self.schema,
            &prepared.about.name,
        );
        let outcome = prepared.step.apply(&mut part.batch, part.from, &mut bad);
        let (made, rest) = match outcome {
            Outcome::Changed => (None, None),
            Outcome::Made(made) => (Some(made), None),
            Outcome::MadeUpTo(made, row) => (Some(made), Some(row)),
        };
        let (bad, waiting) = bad.done();
        part.bad = bad;
        if let Some(row) = rest {
            let taken = distinct_records(&part.batch, part.from, row).min(part.records);
            self.parts.push(Part {
                step: part.step,
                batch: Arc::clone(&part.batch),
                from: row,
                records: part.records - taken,
                bad: waiting,
                original: part.original.clone(),
            });
            part.records = taken;
        }
        if let Some(made) = made {
            let input = std::mem::replace(&mut part.batch, Arc::new(made));
            if later {
                part.original.get_or_insert(input);
            }
        }
        (part.step, part.from) = (part.step + 1, 0);
        Ok(())
    }
}

impl Prepared {
    fn bind(&mut self, schema: &Arc<Schema>) -> Result<(), TransformError> {
        let seen = self.schema.as_ref();
        if seen.is_some_and(|seen| Arc::ptr_eq(seen, schema) || seen == schema) {
            return Ok(());
        }
        self.schema = None;
        self.step.bind(schema, &self.about)?;
        self.schema = Some(Arc::clone(schema));
        Ok(())
    }
}

impl About {
    /// The column of a field; `None` where fields may come and go and it is not there now.
    fn column(&self, schema: &Schema, field: &str) -> Result<Option<usize>, TransformError> {
        match schema.index_of(field) {
            None if self.fixed => Err(self.unknown(schema, field)),
            column => Ok(column),
        }
    }

    /// Where the fields of an expression are.
    fn columns(
        &self,
        schema: &Schema,
        expression: &Expression,
    ) -> Result<Vec<Option<usize>>, TransformError> {
        match expression.missing_field(schema) {
            Some(field) if self.fixed => Err(self.unknown(schema, field)),
            _ => Ok(expression.bind(schema)),
        }
    }

    fn unknown(&self, schema: &Schema, field: &str) -> TransformError {
        let names: Vec<&str> = schema.columns.iter().map(|column| &*column.name).collect();
        let nearest = crate::config::nearest(field, names.iter().copied());
        let hint =
            nearest.map_or_else(|| ".".to_owned(), |name| format!(": did you mean '{name}'?"));
        let hint = format!("{hint} Known: {}", names.join(", "));
        TransformError::UnknownField { transform: self.name.clone(), field: field.to_owned(), hint }
    }
}

/// How many records rows came from.
fn distinct_records(batch: &Batch, from: usize, to: usize) -> u64 {
    let starts = (from..to)
        .filter(|row| *row == from || batch.origin(*row).mark != batch.origin(*row - 1).mark);
    starts.count() as u64
}

/// Copies a cell, with its text, into another batch's buffer.
fn copy_cell(from: &Batch, cell: Cell, to: &mut Batch) -> Cell {
    let mut put = |span| to.put(from.span(span));
    match cell {
        Cell::Number(span) => Cell::Number(put(span)),
        Cell::Text(span) => Cell::Text(put(span)),
        Cell::Bytes(span) => Cell::Bytes(put(span)),
        Cell::Json(span) => Cell::Json(put(span)),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests;
