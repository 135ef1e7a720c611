//! Records as dead letters kept them: JSON, into a batch again.

use std::sync::Arc;

use piton_core::StoredPosition;
use serde_json::{Map, Value as Json};

use crate::batch::{Batch, Marks, Origin, Schema, Value};

/// One record of these fields.
pub(crate) fn batch(
    partition: Arc<str>,
    fields: &Map<String, Json>,
    end: StoredPosition,
    marks: Arc<dyn Marks>,
) -> Batch {
    let schema = Arc::new(Schema::named(fields.keys()));
    let mut batch = Batch::new(partition, schema, end, marks);
    batch.records = 1;
    batch.begin_row(Origin { mark: 0, line: 0, ordinal: 0 });
    for value in fields.values() {
        match value {
            Json::Null => batch.push(Value::Null),
            Json::Bool(b) => batch.push(Value::Bool(*b)),
            Json::String(text) => batch.push(Value::Text(text)),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => batch.push(Value::Int(i)),
                (None, Some(x)) => batch.push(Value::Float(x)),
                (None, None) => batch.push(Value::Number(&n.to_string())),
            },
            Json::Array(_) | Json::Object(_) => batch.push(Value::Json(&value.to_string())),
        }
    }
    batch
}
