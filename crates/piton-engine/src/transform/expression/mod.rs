//! The language of `filter` and computed `select`: CEL, read for records.
//!
//! The syntax is CEL's, parsed by the `cel` crate. The evaluator is ours, because the crate's cannot
//! be bent to what this language promises: its operators are chosen by the left value's type and
//! its own numbers know nothing of text, so `0 < dep_delay` cannot be taught that the text `12` is
//! a number, whatever type of value a field is given. It also allocates for each comparison, even
//! one of numbers (172 ns beside 62 ns here for `dep_delay > 0` on a 19-column batch, with the field
//! found and read), and has no `matches` without compiling the pattern for each record.
//!
//! What differs from CEL is written down in `docs/expressions.md`, whose examples are tests: text
//! that reads as a number counts as one, a missing field is null, and null compares as false.

mod compile;
mod eval;
mod functions;
mod number;
mod value;

use std::sync::Arc;

use piton_connectors::batch::{Batch, Cell, ColumnType, Schema};

use self::{
    compile::{Compiled, FieldName, Node},
    eval::{Evaluation, Row},
    value::Val,
};
pub(crate) use self::{eval::Reason, number::exact_number};

/// An expression, parsed and compiled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Expression {
    text: Arc<str>,
    node: Arc<Node>,
    fields: Arc<[FieldName]>,
    members: Arc<[(String, String)]>,
}

/// Why an expression cannot be used, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (line {line}, column {column} of the expression)")]
pub struct ExpressionError {
    /// What is wrong and how to mend it.
    pub what: String,
    /// The line within the expression, from 1.
    pub line: usize,
    /// The column within that line, in characters, from 1.
    pub column: usize,
}

impl Expression {
    /// Parses and compiles an expression.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let Compiled { node, fields, members } = compile::compile(text)?;
        let (node, fields, members) = (Arc::new(node), fields.into(), members.into());
        Ok(Self { text: text.into(), node, fields, members })
    }

    /// The text that it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The fields of a record that it reads, in the order in which it names them.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    /// The members of fields that it names, as in `param.date`: field and member.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|(field, member)| (field.as_str(), member.as_str()))
    }

    /// The field, if the expression is nothing but its name.
    pub(crate) fn plain_field(&self) -> Option<&str> {
        match (&*self.node, &*self.fields) {
            (Node::Field(_), [field]) => Some(&field.name),
            _ => None,
        }
    }

    /// Where its fields are in a schema.
    pub(crate) fn bind(&self, schema: &Schema) -> Vec<Option<usize>> {
        self.fields.iter().map(|field| schema.index_of(&field.name)).collect()
    }

    /// The first field that it cannot do without and that a schema lacks.
    pub(crate) fn missing_field(&self, schema: &Schema) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.needed && schema.index_of(&field.name).is_none())
            .map(|field| field.name.as_str())
    }

    /// Evaluates it to true or false. `columns` is what [`bind`](Self::bind) gave for the schema.
    pub(crate) fn holds(
        &self,
        batch: &Batch,
        row: usize,
        columns: &[Option<usize>],
    ) -> Result<bool, Reason> {
        Evaluation::of(self.row(batch, row, columns)).truth(&self.node)
    }

    /// Evaluates it and appends the value to the row of `out` that was begun last. `scratch` is
    /// any buffer, used again and again.
    pub(crate) fn append_to(
        &self,
        batch: &Batch,
        row: usize,
        columns: &[Option<usize>],
        out: &mut Batch,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        match Evaluation::of(self.row(batch, row, columns)).value(&self.node)? {
            value @ (Val::List(_) | Val::Map(_)) => {
                scratch.clear();
                value.write_json(scratch);
                let span = out.put(scratch);
                out.push_cell(Cell::Json(span));
            }
            scalar => out.push(scalar.as_scalar()),
        }
        Ok(())
    }

    /// What its values are, as far as that can be known without a record.
    pub(crate) fn kind(&self) -> ColumnType {
        match &*self.node {
            Node::Compare(..)
            | Node::Equal { .. }
            | Node::In(_)
            | Node::Has(_)
            | Node::Not(_)
            | Node::Either { .. }
            | Node::Matches(..) => ColumnType::Boolean,
            Node::Quoted(_) => ColumnType::Text,
            _ => ColumnType::Unknown,
        }
    }

    fn row<'a>(&'a self, batch: &'a Batch, row: usize, columns: &'a [Option<usize>]) -> Row<'a> {
        Row { batch, index: row, columns, names: &self.fields }
    }
}

#[cfg(test)]
mod tests;
