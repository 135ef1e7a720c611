//! Fields of parents that the steps below a `for_each` refer to: one that the source does not have is
//! a mistake, and not an empty value.

use std::sync::Mutex;

use piton_connectors::batch::Schema;

use crate::{
    config::nearest,
    job::definition::{Action, Body, ForEach, Piece, Reference, Step, Template, Value, When},
    run::RunError,
};

/// Refuses a field that a source does not have whose columns are known.
///
/// # Errors
/// [`RunError::Settings`] with the nearest field that there is.
pub(super) fn refuse_unknown(
    step: &Step,
    for_each: &ForEach,
    schema: &Schema,
) -> Result<(), RunError> {
    let mut unknown = None;
    let mut look = |path: &str, reference: &Reference| {
        if let Reference::Record { name, field } = reference
            && *name == for_each.name
            && schema.index_of(field).is_none()
        {
            unknown.get_or_insert_with(|| (path.to_owned(), field.clone()));
        }
    };
    step.steps.iter().for_each(|step| references(step, &for_each.name, &mut look));
    let Some((path, field)) = unknown else { return Ok(()) };
    let name = &for_each.name;
    let fields = schema.columns.iter().map(|column| &*column.name);
    let hint = nearest(&field, fields.clone())
        .map_or_else(String::new, |nearest| format!(": did you mean '{name}.{nearest}'?"));
    let fields: Vec<&str> = fields.collect();
    Err(RunError::Settings(format!(
        "step '{path}': ${{{name}.{field}}}: the source of '{}' has no field '{field}'{hint} It has: \
         {}",
        step.path,
        fields.join(", ")
    )))
}

/// Tells what a step refers to, and those below it as far as `name` means the same there.
fn references(step: &Step, name: &str, look: &mut dyn FnMut(&str, &Reference)) {
    let path = step.path.as_str();
    let when = step.when.iter().flat_map(When::references);
    when.for_each(|reference| look(path, reference));
    for action in [&step.on_recover, &step.on_failure, &step.on_complete].into_iter().flatten() {
        match action {
            Action::Sql(sql) => sql.statements.iter().for_each(|of| pieces(path, &of.pieces, look)),
            Action::Run(command) => {
                command.args.iter().for_each(|of| pieces(path, &of.pieces, look));
            }
        }
    }
    match &step.body {
        Body::Group => {}
        Body::Sql(sql) => sql.statements.iter().for_each(|of| pieces(path, &of.pieces, look)),
        Body::Run(command) => command.args.iter().for_each(|of| pieces(path, &of.pieces, look)),
        Body::Pipeline(template) => of_template(path, template, look),
        Body::ForEach(each) => of_template(path, &each.source, look),
    }
    if !matches!(&step.body, Body::ForEach(each) if each.name == name) {
        step.steps.iter().for_each(|step| references(step, name, look));
    }
}

fn pieces(path: &str, pieces: &[Piece], look: &mut dyn FnMut(&str, &Reference)) {
    for piece in pieces {
        if let Piece::Value(reference) = piece {
            look(path, reference);
        }
    }
}

/// A template asks for the values that it refers to when it is filled.
fn of_template(path: &str, template: &Template, look: &mut dyn FnMut(&str, &Reference)) {
    let asked = Mutex::new(Vec::new());
    let value = |reference: &Reference| {
        if let Ok(mut asked) = asked.lock() {
            asked.push(reference.clone());
        }
        Some(Value::Text("1".to_owned()))
    };
    // Whether it can be filled with these is not asked.
    drop(template.config("fields", &value));
    asked.into_inner().into_iter().flatten().for_each(|reference| look(path, &reference));
}
