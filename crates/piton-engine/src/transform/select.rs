//! `select`: keeps or computes columns, in a given order.
//!
//! A column that is only a field is copied as it lies, without being looked at. A field that a
//! record lacks stays absent; an expression over it gives null.

use std::sync::Arc;

use piton_connectors::batch::{Batch, Cell, Column, ColumnType, Schema};

use super::{
    About, Expression, Outcome, Selected, Step, Taken, TransformError, bad::BadRows, copy_cell,
    expression::Reason,
};

#[derive(Debug)]
pub(super) struct Select {
    columns: Vec<(Arc<str>, Source)>,
    schema: Arc<Schema>,
}

#[derive(Debug)]
enum Source {
    Field { name: String, column: Option<usize> },
    Expression { expression: Expression, columns: Vec<Option<usize>> },
}

impl Select {
    pub(super) fn new(selected: &[Selected]) -> Self {
        let column = |selected: &Selected| {
            let field = |name: &str| Source::Field { name: name.to_owned(), column: None };
            let source = match &selected.value {
                Taken::Field(name) => field(name),
                Taken::Expression(expression) => match expression.plain_field() {
                    Some(name) => field(name),
                    None => {
                        Source::Expression { expression: expression.clone(), columns: Vec::new() }
                    }
                },
            };
            (Arc::from(selected.name.as_str()), source)
        };
        let columns = selected.iter().map(column).collect();
        Self { columns, schema: Arc::new(Schema::default()) }
    }

    fn take(
        &self,
        batch: &Batch,
        row: usize,
        made: &mut Batch,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let cells = batch.row(row);
        for (_, source) in &self.columns {
            match source {
                Source::Field { column, .. } => {
                    let cell = column.and_then(|column| cells.get(column));
                    let cell = copy_cell(batch, cell.copied().unwrap_or(Cell::Absent), made);
                    made.push_cell(cell);
                }
                Source::Expression { expression, columns } => {
                    expression.append_to(batch, row, columns, made, scratch)?;
                }
            }
        }
        Ok(())
    }
}

impl Step for Select {
    fn bind(&mut self, schema: &Arc<Schema>, about: &About) -> Result<(), TransformError> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (name, source) in &mut self.columns {
            let kind = match source {
                Source::Field { name, column } => {
                    *column = about.column(schema, name)?;
                    column.map_or(ColumnType::Unknown, |column| schema.columns[column].kind)
                }
                Source::Expression { expression, columns } => {
                    *columns = about.columns(schema, expression)?;
                    expression.kind()
                }
            };
            columns.push(Column { name: Arc::clone(name), kind });
        }
        self.schema = Arc::new(Schema { columns });
        Ok(())
    }

    fn apply(&self, batch: &mut Arc<Batch>, _: usize, bad: &mut BadRows<'_>) -> Outcome {
        let mut made = Batch::new(
            Arc::clone(&batch.partition),
            Arc::clone(&self.schema),
            batch.end.clone(),
            Arc::clone(&batch.marks),
        );
        let mut scratch = Vec::new();
        for row in 0..batch.rows() {
            bad.reach(row, made.rows());
            made.begin_row_from(batch, row, batch.origin(row).ordinal);
            if let Err(reason) = self.take(batch, row, &mut made, &mut scratch) {
                made.pop_row();
                bad.refuse(batch, row, made.rows(), &reason);
            }
        }
        bad.finish(made.rows());
        Outcome::Made(made)
    }

    fn takes_everything(&self) -> bool {
        self.columns.iter().all(|(_, source)| matches!(source, Source::Field { .. }))
    }
}
