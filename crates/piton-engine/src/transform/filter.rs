//! `filter`: keeps the records for which an expression is true.

use std::sync::Arc;

use piton_connectors::batch::{Batch, Schema};

use super::{About, Expression, Outcome, Step, TransformError, bad::BadRows};

#[derive(Debug)]
pub(super) struct Filter {
    expression: Expression,
    columns: Vec<Option<usize>>,
}

impl Filter {
    pub(super) fn new(expression: &Expression) -> Self {
        Self { expression: expression.clone(), columns: Vec::new() }
    }
}

impl Step for Filter {
    fn bind(&mut self, schema: &Arc<Schema>, about: &About) -> Result<(), TransformError> {
        self.columns = about.columns(schema, &self.expression)?;
        Ok(())
    }

    fn apply(&self, batch: &mut Arc<Batch>, _: usize, bad: &mut BadRows<'_>) -> Outcome {
        let mut kept = 0;
        // Not shared: a batch that is kept as the original has been replaced by another.
        Arc::make_mut(batch).retain(|batch, row| {
            bad.reach(row, kept);
            let holds = self.expression.holds(batch, row, &self.columns).unwrap_or_else(|reason| {
                bad.refuse(batch, row, kept, &reason);
                false
            });
            kept += usize::from(holds);
            holds
        });
        bad.finish(kept);
        Outcome::Changed
    }
}
