//! Values put where a part of a file refers to them, each so that it can be nothing but a value.
//!
//! | where | what becomes of a value |
//! |---|---|
//! | `path` of a file | text in a name; of a record never a folder or a pattern |
//! | `url` | as a path for `sqlite:`, else percent-encoded |
//! | `table` | part of one identifier |
//! | `query` | a bound parameter |
//! | `filter`, a computed `select` | a literal of the expression |
//! | `run`, `headers` | part of one argument, or of one header |
//!
//! Elsewhere there can be none. At load this is done with stand-ins, so that the rest of the part is
//! checked as it will be.

use std::ops::Range;

use piton_connectors::settings::{Bound, BoundValue};

use super::references::{Found, Scope, found, problem};
use crate::{
    config::{
        error::Problem,
        tree::{Node, Text, Value as Yaml},
    },
    job::definition::{Reference, Value, Values},
};

/// What stands at a place of a pipeline's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Path,
    Url,
    Table,
    Query,
    Expression,
    Argument,
    Header,
    Nowhere,
}

impl Stands {
    /// By the keys that lead there; an item of a list has `[]`.
    fn at(path: &[&str]) -> Self {
        match path {
            ["source" | "sinks", .., "path"] => Self::Path,
            ["source" | "sinks", .., "url"] => Self::Url,
            ["source", _, "table"] | ["sinks", _, _, "table"] => Self::Table,
            ["source", _, "query"] => Self::Query,
            ["transform", _, "filter"] => Self::Expression,
            ["transform", _, "select", name] if *name != "[]" => Self::Expression,
            ["source", _, "run", "[]"] | ["sinks", _, _, "run", "[]"] => Self::Argument,
            ["sinks", _, "http", "headers", _] => Self::Header,
            _ => Self::Nowhere,
        }
    }
}

/// Walks over all texts of a part.
pub(super) struct Filler<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) values: &'a Values<'a>,
    pub(super) problems: Vec<Problem>,
    /// The values for the source's query.
    pub(super) bound: Vec<Bound>,
}

impl Filler<'_> {
    /// Puts the values into a part and all that is below it.
    pub(super) fn fill(&mut self, node: &mut Node, path: &mut Vec<String>) {
        if matches!(&node.value, Yaml::Text(text) if !text.live.is_empty()) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.text(node, &path);
            return;
        }
        match &mut node.value {
            Yaml::Map(entries) => {
                for (key, value) in entries {
                    path.push(key.name.clone());
                    self.fill(value, path);
                    path.pop();
                }
            }
            Yaml::List(items) => {
                for item in items {
                    path.push("[]".to_owned());
                    self.fill(item, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, node: &mut Node, path: &[&str]) {
        let Yaml::Text(text) = &node.value else { return };
        let stands = Stands::at(path);
        let is_table_of_sink = stands == Stands::Table && path[0] == "sinks";
        let mut own = text.clone();
        if is_table_of_sink {
            // These are the sink's.
            own.live.retain(|range| !text.value[range.clone()].starts_with("${record."));
        }
        let found = found(node, &own, self.scope, &mut self.problems);
        let filled = match stands {
            Stands::Query => {
                self.bind(node, text, found);
                return;
            }
            _ => self.filled(node, text, found, stands),
        };
        if let Yaml::Text(text) = &mut node.value {
            text.value = filled;
            text.live.clear();
        }
    }

    /// The text with its values.
    fn filled(
        &mut self,
        node: &Node,
        text: &Text,
        found: Vec<Found<'_>>,
        stands: Stands,
    ) -> String {
        let (mut out, mut from) = (String::new(), 0);
        for Found { at, written, reference } in found {
            out.push_str(&text.value[from..at.start]);
            from = at.end;
            let put = self.put(&text.value, &at, &reference, stands);
            match put {
                Ok(value) => out.push_str(&value),
                Err(why) => self.problems.push(problem(node, text, written, why)),
            }
        }
        out.push_str(&text.value[from..]);
        out
    }

    fn put(
        &self,
        text: &str,
        at: &Range<usize>,
        reference: &Reference,
        stands: Stands,
    ) -> Result<String, String> {
        let value = self.value(reference)?;
        if stands == Stands::Expression {
            return if in_quotes(&text[..at.start]) {
                Err("stands in quotes, where it would be no value: drop the quotes".to_owned())
            } else {
                literal(&value)
            };
        }
        let plain = value.to_text().filter(|text| !text.contains('\0'));
        let plain = plain.ok_or("is bytes, and cannot be part of a text")?;
        match stands {
            Stands::Path => in_path(&plain, reference).map(str::to_owned),
            Stands::Url if text.starts_with("sqlite:") => {
                in_path(&plain, reference).map(str::to_owned)
            }
            Stands::Url => Ok(encoded(&plain)),
            Stands::Table => in_name(&plain).map(str::to_owned),
            Stands::Header if plain.contains(char::is_control) => {
                Err(format!("'{}' has a character that no header can hold", plain.escape_debug()))
            }
            Stands::Argument | Stands::Header => Ok(plain.into_owned()),
            Stands::Nowhere => Err("a value at run time cannot stand here: it can in `path`, \
                                    `url`, `table`, `query`, `run`, `headers` and in expressions"
                .to_owned()),
            Stands::Query | Stands::Expression => Ok(String::new()),
        }
    }

    fn value(&self, reference: &Reference) -> Result<Value, String> {
        (self.values)(reference)
            .ok_or_else(|| "has no value here: the record has no such field".to_owned())
    }

    fn bind(&mut self, node: &Node, text: &Text, found: Vec<Found<'_>>) {
        for Found { at, written, reference } in found {
            match self.value(&reference).and_then(|value| bound(&value)) {
                Ok(value) => self.bound.push(Bound { at, value }),
                Err(why) => self.problems.push(problem(node, text, written, why)),
            }
        }
    }
}

/// A value as part of a path. A parameter comes from whoever runs the job, and may be a whole path;
/// a record may not lead out of the folder, nor choose several files.
fn in_path<'v>(value: &'v str, reference: &Reference) -> Result<&'v str, String> {
    let leads_away =
        value.contains(['/', '\\', '*', '?', '[', ']']) || [".", ".."].contains(&value);
    if !matches!(reference, Reference::Param(_)) && (value.is_empty() || leads_away) {
        let shown = value.escape_debug();
        return Err(format!("'{shown}' cannot be part of a file's name"));
    }
    Ok(value)
}

/// A value as part of one identifier.
fn in_name(value: &str) -> Result<&str, String> {
    let breaks = |c: char| c.is_control() || matches!(c, '"' | '`' | '.');
    if value.is_empty() || value.contains(breaks) || value.contains("${") {
        return Err(format!("'{}' cannot be part of a table's name", value.escape_debug()));
    }
    Ok(value)
}

fn encoded(value: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(value, KEPT).to_string()
}

/// Whether the end of an expression's beginning is within quotes.
fn in_quotes(before: &str) -> bool {
    let (mut quote, mut escaped) = (None, false);
    for c in before.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            _ => {}
        }
    }
    quote.is_some()
}

/// A value as the expression language writes it.
fn literal(value: &Value) -> Result<String, String> {
    let number = |text: String| if text.starts_with('-') { format!("({text})") } else { text };
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => number(value.to_string()),
        Value::Float(value) if value.is_finite() => number(format!("{value:?}")),
        Value::Float(_) => "null".to_owned(),
        Value::Number(text) if text.contains('.') || text.parse::<i64>().is_ok() => {
            number(text.clone())
        }
        Value::Number(text) => number(format!("{text}.0")),
        Value::Text(text) | Value::Json(text) => quoted(text),
        Value::Date(date) => quoted(&date.to_string()),
        Value::Bytes(_) => return Err("is bytes, for which an expression has no form".to_owned()),
    })
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A value as a database takes it.
fn bound(value: &Value) -> Result<BoundValue, String> {
    Ok(match value {
        Value::Null => BoundValue::Null,
        Value::Boolean(value) => BoundValue::Boolean(*value),
        Value::Integer(value) => BoundValue::Integer(*value),
        Value::Float(value) if value.is_finite() => BoundValue::Number(format!("{value:?}")),
        Value::Float(_) => return Err("is no finite number".to_owned()),
        Value::Number(text) => BoundValue::Number(text.clone()),
        Value::Text(text) | Value::Json(text) if text.contains('\0') => {
            return Err("has a zero byte, which no database takes as text".to_owned());
        }
        Value::Text(text) | Value::Json(text) => BoundValue::Text(text.clone()),
        Value::Date(date) => BoundValue::Text(date.to_string()),
        Value::Bytes(bytes) => BoundValue::Bytes(bytes.clone()),
    })
}
