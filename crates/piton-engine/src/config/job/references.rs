//! `${param.date}`, `${step.attempt}`, `${customer.id}`: which names mean something where, and the
//! texts in which they stand.

use std::ops::Range;

use crate::{
    config::{
        error::{Condition, Problem, nearest},
        interpolate::place_of,
        tree::{Node, Text, Value},
    },
    job::definition::{Argument, Param, Piece, Reference, StepFact},
};

/// The names that mean something at a place of the file.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) params: &'a [Param],
    /// What enclosing `for_each` call their records.
    pub(super) records: &'a [String],
    /// Whether it is within a step.
    pub(super) in_step: bool,
}

impl Scope<'_> {
    /// What a dotted name refers to; an error says why to nothing.
    pub(super) fn resolve(&self, name: &str) -> Result<Reference, String> {
        let (root, member) = name.split_once('.').unwrap_or((name, ""));
        let is_plain = !member.is_empty() && !member.contains('.');
        match root {
            "param" if is_plain => self.param(member),
            "step" if is_plain && self.in_step => fact(member),
            "step" if is_plain => Err("there is no step here: the job itself does this".to_owned()),
            "record" => Err("`record.` means something in the `table` of a sink only".to_owned()),
            _ if self.records.iter().any(|record| record == root) && is_plain => {
                Ok(Reference::Record { name: root.to_owned(), field: member.to_owned() })
            }
            "param" | "step" => Err(format!("write {root}.NAME, with one dot")),
            _ if self.records.iter().any(|record| record == root) => {
                Err(format!("write {root}.FIELD, with one dot"))
            }
            _ => Err(self.unknown(root)),
        }
    }

    fn param(&self, name: &str) -> Result<Reference, String> {
        if self.params.iter().any(|param| param.name == name) {
            return Ok(Reference::Param(name.to_owned()));
        }
        let names = self.params.iter().map(|param| param.name.as_str());
        let hint = nearest(name, names)
            .map_or_else(String::new, |nearest| format!(": did you mean 'param.{nearest}'?"));
        Err(format!("the job declares no parameter '{name}' under `params:`{hint}"))
    }

    fn unknown(&self, root: &str) -> String {
        let names = self.roots();
        let hint = nearest(root, names.iter().copied())
            .map_or_else(|| ".".to_owned(), |nearest| format!(": did you mean '{nearest}'?"));
        format!("nothing is called '{root}' here{hint} There is: {}", names.join(", "))
    }

    /// The names that there are.
    pub(super) fn roots(&self) -> Vec<&str> {
        let step = self.in_step.then_some("step");
        let records = self.records.iter().map(String::as_str);
        ["param"].into_iter().chain(step).chain(records).collect()
    }
}

fn fact(name: &str) -> Result<Reference, String> {
    if let Some((_, fact)) = StepFact::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(Reference::Step(*fact));
    }
    let known: Vec<&str> = StepFact::ALL.iter().map(|(known, _)| *known).collect();
    Err(format!("of a step there is {}, and no '{name}'", known.join(", ")))
}

/// What is wrong with a reference, where it stands.
pub(super) fn problem(node: &Node, text: &Text, written: &str, why: String) -> Problem {
    let what = Condition::Interpolation { text: written.to_owned(), why };
    Problem { at: place_of(node.at, &text.raw, written), what }
}

/// A reference where it stands.
pub(super) struct Found<'t> {
    pub(super) at: Range<usize>,
    /// With its braces.
    pub(super) written: &'t str,
    pub(super) reference: Reference,
}

/// The references in a text: where each stands, and what it means.
pub(super) fn found<'t>(
    node: &Node,
    text: &'t Text,
    scope: Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Found<'t>> {
    let mut found = Vec::with_capacity(text.live.len());
    for range in &text.live {
        let written = &text.value[range.clone()];
        let name = &written[2..written.len() - 1];
        match scope.resolve(name) {
            Ok(reference) => found.push(Found { at: range.clone(), written, reference }),
            Err(why) => problems.push(problem(node, text, written, why)),
        }
    }
    found
}

/// A text cut where references stand.
pub(super) fn pieces(text: &str, found: Vec<Found<'_>>) -> Vec<Piece> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    for Found { at, reference, .. } in found {
        if at.start > from {
            pieces.push(Piece::Text(text[from..at.start].to_owned()));
        }
        pieces.push(Piece::Value(reference));
        from = at.end;
    }
    if from < text.len() || pieces.is_empty() {
        pieces.push(Piece::Text(text[from..].to_owned()));
    }
    pieces
}

/// A text of a list of arguments.
pub(super) fn argument(node: &Node, scope: Scope<'_>, problems: &mut Vec<Problem>) -> Argument {
    let pieces = match &node.value {
        Value::Text(text) => pieces(&text.value, found(node, text, scope, problems)),
        Value::Int(_, raw) | Value::Float(_, raw) => vec![Piece::Text(raw.clone())],
        Value::Bool(value) => vec![Piece::Text(value.to_string())],
        Value::Null | Value::List(_) | Value::Map(_) => Vec::new(),
    };
    Argument { pieces }
}
