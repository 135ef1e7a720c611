//! The JSON Schema of the file, for editors: `piton schema`.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{file::File, job::file::JobFile, scalars::Rate};

/// The JSON Schema of a configuration, of a pipeline or a job: keys, forms, defaults and what they
/// mean. Describes only what is built.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let forms = [generator.subschema_for::<File>(), generator.subschema_for::<JobFile>()];
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline or a job of Piton",
        "anyOf": forms,
        "$defs": generator.take_definitions(true),
    });
    let rate = json!({"description": "At most so many records, to spare what is read from."});
    let mut rate = rate;
    if let (Value::Object(rate), Value::Object(form)) =
        (&mut rate, schemars::schema_for!(Rate).to_value())
    {
        rate.extend(form.into_iter().filter(|(key, _)| key != "$schema" && key != "title"));
    }
    allow_rate(&mut schema, &rate);
    schema
}

/// `rate` is allowed beside a source's connector and among its settings.
fn allow_rate(schema: &mut Value, rate: &Value) {
    let mut connectors = Vec::new();
    let variants = schema.pointer_mut("/$defs/SourceSettings/oneOf").and_then(Value::as_array_mut);
    for variant in variants.into_iter().flatten() {
        let Some(properties) = variant["properties"].as_object_mut() else { continue };
        for connector in properties.values() {
            let name = connector["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/"));
            connectors.extend(name.map(str::to_owned));
        }
        properties.insert("rate".to_owned(), rate.clone());
    }
    for name in connectors {
        schema["$defs"][&name]["properties"]["rate"] = rate.clone();
    }
}
