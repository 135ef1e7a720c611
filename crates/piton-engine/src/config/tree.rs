//! YAML as a tree in which each value knows its place.
//!
//! The file is read into this tree first and into the settings afterwards, because `${NAME}` is
//! filled in between: after parsing, so that no value can add structure, and before types are
//! decided, so that `records: ${N}` is a number.

use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, budget::BudgetBreach};

use super::error::{Condition, Place, Problem};

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// A value of YAML.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, and its text in the file.
    Int(i128, String),
    Float(f64, String),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Text.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    pub(super) value: String,
    /// The same in the file, quotes and all.
    pub(super) raw: String,
    /// What may be shown of it, if part of it came from outside the file.
    pub(super) filled: Option<Filled>,
    /// Where in `value` dotted names stand, `${param.date}`: values at run time.
    pub(super) live: Vec<Range<usize>>,
}

/// Text that was filled in.
#[derive(Debug, Clone)]
pub(super) struct Filled {
    /// As it stands in the file, with `${NAME}`.
    pub(super) written: String,
    /// Whether it may not be shown.
    pub(super) secret: bool,
}

/// A key of a map and its place.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) at: Place,
    pub(super) name: String,
}

impl Node {
    /// Reads YAML.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let spanned: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| problem(&error))?;
        node(spanned, text)
    }

    /// The entries, if it is a map.
    pub(super) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.entries().iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// The place of the deepest part of a path that is there. A number goes into a list.
    pub(super) fn place(&self, path: &[&str]) -> Place {
        self.find(path).at
    }

    /// The deepest part of a path that is there.
    pub(super) fn find(&self, path: &[&str]) -> &Node {
        let Some((first, rest)) = path.split_first() else { return self };
        let child = match &self.value {
            Value::List(items) => first.parse().ok().and_then(|index: usize| items.get(index)),
            _ => self.get(first),
        };
        child.map_or(self, |child| child.find(rest))
    }

    /// Whether it is text that may not be shown.
    pub(super) fn is_secret(&self) -> bool {
        matches!(&self.value, Value::Text(Text { filled: Some(filled), .. }) if filled.secret)
    }

    /// Whether a message would show a secret that is in or below it.
    pub(super) fn holds_secret_in(&self, message: &str) -> bool {
        match &self.value {
            Value::Text(text) => {
                self.is_secret() && !text.value.is_empty() && message.contains(&text.value)
            }
            Value::List(items) => items.iter().any(|item| item.holds_secret_in(message)),
            Value::Map(entries) => entries.iter().any(|(_, value)| value.holds_secret_in(message)),
            _ => false,
        }
    }

    /// What it is, in a message; text with `${NAME}` as it stands in the file.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(_, raw) | Value::Float(_, raw) => excerpt(raw),
            Value::Text(Text { filled: Some(filled), .. }) => excerpt(&filled.written),
            Value::Text(text) => format!("'{}'", excerpt(&text.value)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// Where a character of its text stands in the file, if it can be told.
    pub(super) fn place_in_text(&self, line: usize, column: usize) -> Place {
        let Value::Text(text) = &self.value else { return self.at };
        let place = || {
            let wanted = text.value.lines().nth(line - 1)?;
            let raw = text.raw.lines().nth(line - 1)?;
            let before = raw[..raw.find(wanted)?].chars().count();
            let first = if line == 1 { self.at.column } else { 1 };
            Some(Place { line: self.at.line + line - 1, column: first + before + column - 1 })
        };
        if text.filled.is_some() { self.at } else { place().unwrap_or(self.at) }
    }
}

/// The beginning of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(60).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

/// How deep steps may stand below each other.
const LEVELS: usize = 60;

/// The lists and maps that may be inside one another: two for each level, and what a step itself has. What
/// is stored of a job is read with no more.
const DEEPEST: usize = 2 * LEVELS + 6;

/// A job may have ten thousand steps, and a configuration no more: what is larger or refers to itself over and over is refused.
fn options() -> serde_saphyr::Options {
    let bounds = serde_saphyr::budget! {
        max_events: 500_000,
        max_nodes: 250_000,
        max_aliases: 1_000,
        max_anchors: 1_000,
        max_depth: DEEPEST,
        max_documents: 2,
        max_merge_keys: 100,
        max_total_scalar_bytes: 4 << 20,
    };
    serde_saphyr::options! {
        budget: bounds,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        // `no` and `on` are words; only `true` and `false` are not.
        strict_booleans: true,
        with_snippet: false,
    }
}

fn problem(error: &serde_saphyr::Error) -> Problem {
    let error = error.without_snippet();
    let at = error.location().map_or(Place { line: 1, column: 1 }, place);
    let what = match error {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            Condition::Duplicate { key: key.clone().unwrap_or_default() }
        }
        serde_saphyr::Error::MultipleDocuments { .. } => Condition::Yaml(
            "a second document begins here: one file describes one pipeline or job".to_owned(),
        ),
        serde_saphyr::Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Condition::Yaml(format!(
                "more than {DEEPEST} lists and maps inside one another: steps stand at most {LEVELS} \
                 levels deep"
            ))
        }
        serde_saphyr::Error::Budget { .. }
        | serde_saphyr::Error::AliasReplayLimitExceeded { .. }
        | serde_saphyr::Error::AliasReplayStackDepthExceeded { .. } => Condition::Yaml(
            "too many values, or too many inside one another, for a configuration".to_owned(),
        ),
        other => {
            let text = without_place(other);
            let hint = if text.contains("tab") {
                ": indent with spaces"
            } else if text.contains("mapping values are not allowed") {
                ": put the text in quotes, or a line end before the key"
            } else {
                ""
            };
            Condition::Yaml(format!("this is not YAML: {text}{hint}"))
        }
    };
    Problem { at, what }
}

/// The library's message says the place at its end, which the problem says at its beginning.
fn without_place(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    excerpt(&text[..end])
}

fn place(at: Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Place { line: number(at.line()), column: number(at.column()) }
}

/// The tree as the library gives it, before the text of the file is put beside the values.
enum Raw {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

fn node(spanned: Spanned<Raw>, file: &str) -> Result<Node, Problem> {
    let at = place(spanned.referenced);
    let raw = || written(spanned.defined, file);
    let value = match spanned.value {
        Raw::Null => Value::Null,
        Raw::Bool(b) => Value::Bool(b),
        Raw::Int(i) => Value::Int(i, raw()),
        Raw::Float(x) => Value::Float(x, raw()),
        Raw::Text(text) => {
            Value::Text(Text { value: text, raw: raw(), filled: None, live: Vec::new() })
        }
        Raw::List(items) => {
            let items = items.into_iter().map(|item| node(item, file));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Raw::Map(entries) => {
            let entry = |(name, value): (Spanned<Raw>, Spanned<Raw>)| {
                Ok((key(name, file)?, node(value, file)?))
            };
            Value::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
    };
    Ok(Node { at, value })
}

/// A key, also one that looks like another value: `null`, `1`, `true`.
fn key(spanned: Spanned<Raw>, file: &str) -> Result<Key, Problem> {
    let at = place(spanned.referenced);
    match spanned.value {
        Raw::Text(name) => Ok(Key { at, name }),
        Raw::List(_) | Raw::Map(_) => {
            let what = Condition::Yaml("a key is a word, not a list or a map".to_owned());
            Err(Problem { at, what })
        }
        _ => Ok(Key { at, name: written(spanned.defined, file) }),
    }
}

/// The text of a value in the file.
fn written(at: Location, file: &str) -> String {
    let span = at.span();
    let text = || {
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        file.get(start..end)
    };
    text().unwrap_or_default().to_owned()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
