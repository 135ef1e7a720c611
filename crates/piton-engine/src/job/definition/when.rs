//! `when:`: whether a step runs at all, as an expression over what is known when it would begin.

use std::sync::Arc;

use piton_connectors::batch::{Batch, Cell, Origin, Schema};
use piton_core::StoredPosition;
use serde_json::{Map, Value as Json};

use super::value::{Reference, Value, Values};
use crate::transform::Expression;

/// A condition of a step.
#[derive(Debug, Clone)]
pub struct When {
    expression: Expression,
    references: Vec<Reference>,
}

impl When {
    /// A condition and the values that it names.
    pub(crate) fn new(expression: Expression, references: Vec<Reference>) -> Self {
        Self { expression, references }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        self.expression.text()
    }

    /// The values that it names.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A value is none that the expression can take, in words.
    pub fn holds(&self, values: &Values<'_>) -> Result<bool, String> {
        let roots: Vec<&str> = self.expression.fields().collect();
        let start = StoredPosition { kind: "when".to_owned(), json: "null".to_owned() };
        let mut batch = Batch::empty(Arc::from(""), start);
        batch.schema = Arc::new(Schema::named(&roots));
        batch.begin_row(Origin { mark: 0, line: 0, ordinal: 0 });
        for root in roots {
            let members =
                self.references.iter().map(|reference| (reference, reference.to_string()));
            let mut object = Map::new();
            for (reference, name) in members {
                let member = name.split_once('.').filter(|(of, _)| *of == root);
                if let Some((_, member)) = member {
                    let value = values(reference).map_or(Json::Null, |value| json(&value));
                    object.insert(member.to_owned(), value);
                }
            }
            let span = batch.put(Json::Object(object).to_string().as_bytes());
            batch.push_cell(Cell::Json(span));
        }
        let columns = self.expression.bind(&batch.schema);
        let holds = self.expression.holds(&batch, 0, &columns);
        holds.map_err(|why| format!("when '{}': {why}", self.text()))
    }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Null | Value::Bytes(_) => Json::Null,
        Value::Boolean(value) => Json::from(*value),
        Value::Integer(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        // Text that reads as a number is one in an expression, with all its digits.
        Value::Number(text) | Value::Text(text) => Json::from(text.as_str()),
        Value::Date(date) => Json::from(date.to_string()),
        Value::Json(text) => serde_json::from_str(text).unwrap_or(Json::Null),
    }
}
