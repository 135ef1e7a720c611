//! `rename`: other names for fields, all at once, so that two can swap theirs.
//!
//! Usually only the schema changes. Where records come with different fields (JSON), a batch can
//! hold both an old field and one that has the new name already: they become one column, and a
//! record that has a value in both is bad.

use std::sync::Arc;

use piton_connectors::batch::{Batch, Cell, Column, Schema};

use super::{About, Outcome, Step, TransformError, bad::BadRows, copy_cell, expression::Reason};

#[derive(Debug)]
pub(super) struct Rename {
    names: Vec<(String, Arc<str>)>,
    schema: Arc<Schema>,
    /// For each column the columns it is made of, where some are made of several.
    merged: Option<Vec<Vec<usize>>>,
}

impl Rename {
    pub(super) fn new(names: &[(String, String)]) -> Self {
        let names = names.iter().map(|(old, new)| (old.clone(), new.as_str().into())).collect();
        Self { names, schema: Arc::new(Schema::default()), merged: None }
    }

    fn merge(&self, batch: &Batch, sources: &[Vec<usize>], bad: &mut BadRows<'_>) -> Batch {
        let mut made = Batch::new(
            Arc::clone(&batch.partition),
            Arc::clone(&self.schema),
            batch.end.clone(),
            Arc::clone(&batch.marks),
        );
        for row in 0..batch.rows() {
            bad.reach(row, made.rows());
            made.begin_row_from(batch, row, batch.origin(row).ordinal);
            let cells = batch.row(row);
            let mut doubled = None;
            for (column, sources) in self.schema.columns.iter().zip(sources) {
                let mut there = sources
                    .iter()
                    .filter_map(|source| cells.get(*source))
                    .filter(|cell| **cell != Cell::Absent);
                let cell = there.next().copied().unwrap_or(Cell::Absent);
                doubled = doubled.or(there.next().map(|_| column));
                let cell = copy_cell(batch, cell, &mut made);
                made.push_cell(cell);
            }
            if let Some(column) = doubled {
                made.pop_row();
                let reason = Reason::TwoValues { name: column.name.to_string() };
                bad.refuse(batch, row, made.rows(), &reason);
            }
        }
        bad.finish(made.rows());
        made
    }
}

impl Step for Rename {
    fn bind(&mut self, schema: &Arc<Schema>, about: &About) -> Result<(), TransformError> {
        for (old, _) in &self.names {
            about.column(schema, old)?;
        }
        let mut columns: Vec<Column> = Vec::with_capacity(schema.columns.len());
        let mut sources: Vec<Vec<usize>> = Vec::with_capacity(schema.columns.len());
        for (index, column) in schema.columns.iter().enumerate() {
            let renamed = self.names.iter().find(|(old, _)| **old == *column.name);
            let name = renamed.map_or(&column.name, |(_, new)| new);
            match columns.iter().position(|made| made.name == *name) {
                Some(_) if about.fixed => {
                    let (transform, field) = (about.name.clone(), name.to_string());
                    return Err(TransformError::Collision { transform, field });
                }
                Some(made) => sources[made].push(index),
                None => {
                    columns.push(Column { name: Arc::clone(name), kind: column.kind });
                    sources.push(vec![index]);
                }
            }
        }
        self.merged = (columns.len() < schema.columns.len()).then_some(sources);
        self.schema = Arc::new(Schema { columns });
        Ok(())
    }

    fn apply(&self, batch: &mut Arc<Batch>, _: usize, bad: &mut BadRows<'_>) -> Outcome {
        if let Some(sources) = &self.merged {
            return Outcome::Made(self.merge(batch, sources, bad));
        }
        bad.stay();
        Arc::make_mut(batch).schema = Arc::clone(&self.schema);
        Outcome::Changed
    }
}
