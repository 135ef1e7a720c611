//! The functions of the language: those of CEL's standard library and its text and math extensions
//! that make sense for records. Text is counted in characters.

use std::{borrow::Cow, ops::RangeInclusive};

use regex::{Regex, RegexBuilder};

use super::{
    eval::{Evaluated, Reason},
    number::Num,
    value::{Val, append, excerpt},
};

/// A pattern that needs more memory than this, compiled, is refused.
const PATTERN_SIZE: usize = 1 << 20;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Join,
    Substring,
    IndexOf,
    Int,
    Double,
    Text,
    Bool,
    Json,
    Greatest,
    Least,
    Abs,
    Round,
    Ceil,
    Floor,
}

/// Name, function, and how many values it takes, what it is called on included.
const TABLE: &[(&str, Function, RangeInclusive<usize>)] = &[
    ("size", Function::Size, 1..=1),
    ("contains", Function::Contains, 2..=2),
    ("startsWith", Function::StartsWith, 2..=2),
    ("endsWith", Function::EndsWith, 2..=2),
    ("matches", Function::Matches, 2..=2),
    ("lowerAscii", Function::LowerAscii, 1..=1),
    ("upperAscii", Function::UpperAscii, 1..=1),
    ("trim", Function::Trim, 1..=1),
    ("replace", Function::Replace, 3..=3),
    ("split", Function::Split, 2..=2),
    ("join", Function::Join, 1..=2),
    ("substring", Function::Substring, 2..=3),
    ("indexOf", Function::IndexOf, 2..=2),
    ("int", Function::Int, 1..=1),
    ("double", Function::Double, 1..=1),
    ("string", Function::Text, 1..=1),
    ("bool", Function::Bool, 1..=1),
    ("json", Function::Json, 1..=1),
    ("math.greatest", Function::Greatest, 1..=16),
    ("math.least", Function::Least, 1..=16),
    ("math.abs", Function::Abs, 1..=1),
    ("math.round", Function::Round, 1..=1),
    ("math.ceil", Function::Ceil, 1..=1),
    ("math.floor", Function::Floor, 1..=1),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<(Self, RangeInclusive<usize>)> {
        let (_, function, arity) = TABLE.iter().find(|(known, ..)| *known == name)?;
        Some((*function, arity.clone()))
    }

    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(name, ..)| *name)
    }

    fn name(self) -> &'static str {
        TABLE.iter().find(|(_, function, _)| *function == self).map_or("", |(name, ..)| name)
    }

    /// Calls it. Null gives null, and false where the answer is yes or no.
    pub(super) fn call(self, mut args: Vec<Val<'_>>) -> Evaluated<'_> {
        if args.iter().any(Val::is_null) {
            return Ok(if self.is_question() { Val::Bool(false) } else { Val::Null });
        }
        match self {
            Self::Size => self.size(&args[0]),
            Self::Contains | Self::StartsWith | Self::EndsWith | Self::Matches => self.ask(&args),
            Self::Split | Self::IndexOf | Self::Replace | Self::Substring => self.cut(&args),
            Self::Join => self.join(&args),
            Self::LowerAscii => Ok(owned(self.text(&args[0])?.to_ascii_lowercase())),
            Self::UpperAscii => Ok(owned(self.text(&args[0])?.to_ascii_uppercase())),
            Self::Trim => Ok(owned(self.text(&args[0])?.trim().to_owned())),
            Self::Text => Ok(owned(self.text(&args[0])?.into_owned())),
            Self::Json => match args.swap_remove(0) {
                Val::Text(Cow::Borrowed(text)) | Val::Quoted(text) => Val::from_json(text),
                Val::Text(Cow::Owned(text)) => owned_json(&text),
                read => Ok(read),
            },
            Self::Bool => match &args[0] {
                Val::Bool(b) => Ok(Val::Bool(*b)),
                other if other.equals(&Val::Bool(true)) => Ok(Val::Bool(true)),
                other if other.equals(&Val::Bool(false)) => Ok(Val::Bool(false)),
                other => Err(self.refuse(other)),
            },
            Self::Greatest | Self::Least => self.extreme(args),
            Self::Int | Self::Double | Self::Abs | Self::Round | Self::Ceil | Self::Floor => {
                self.number(&args[0])
            }
        }
    }

    fn is_question(self) -> bool {
        matches!(self, Self::Contains | Self::StartsWith | Self::EndsWith | Self::Matches)
    }

    fn size<'a>(self, value: &Val<'_>) -> Evaluated<'a> {
        let size = match value {
            Val::Text(text) => text.chars().count(),
            Val::Quoted(text) => text.chars().count(),
            Val::Bytes(bytes) => bytes.len(),
            Val::List(items) => items.len(),
            Val::Map(entries) => entries.len(),
            other => return Err(self.refuse(other)),
        };
        Ok(Val::Int(size as i64))
    }

    fn ask<'a>(self, args: &[Val<'_>]) -> Evaluated<'a> {
        let (text, part) = (self.text(&args[0])?, self.text(&args[1])?);
        Ok(Val::Bool(match self {
            Self::Contains => text.contains(&*part),
            Self::StartsWith => text.starts_with(&*part),
            Self::EndsWith => text.ends_with(&*part),
            _ => regex(&part)?.is_match(&text),
        }))
    }

    fn cut<'a>(self, args: &[Val<'_>]) -> Evaluated<'a> {
        let text = self.text(&args[0])?;
        match self {
            Self::Split => {
                let separator = self.text(&args[1])?;
                let parts = text.split(&*separator).map(|part| owned(part.to_owned()));
                Ok(Val::List(parts.collect()))
            }
            Self::IndexOf => {
                let found = text.find(&*self.text(&args[1])?);
                Ok(Val::Int(found.map_or(-1, |at| text[..at].chars().count() as i64)))
            }
            Self::Replace => {
                let (from, to) = (self.text(&args[1])?, self.text(&args[2])?);
                let grown = text.matches(&*from).count().saturating_mul(to.len());
                if grown.saturating_add(text.len()) > super::eval::LONGEST_TEXT {
                    return Err(Reason::TooMuch);
                }
                Ok(owned(text.replace(&*from, &to)))
            }
            _ => {
                let start = self.count(&args[1])?;
                let end = args.get(2).map_or(Ok(usize::MAX), |end| self.count(end))?;
                let part = text.chars().skip(start).take(end.saturating_sub(start));
                Ok(owned(part.collect()))
            }
        }
    }

    fn join<'a>(self, args: &[Val<'_>]) -> Evaluated<'a> {
        let Val::List(items) = &args[0] else { return Err(self.refuse(&args[0])) };
        let separator = args.get(1).map_or(Ok(Cow::Borrowed("")), |text| self.text(text))?;
        let mut joined = String::new();
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                joined.push_str(&separator);
            }
            append(item, &mut joined).ok_or_else(|| self.refuse(item))?;
            if joined.len() > super::eval::LONGEST_TEXT {
                return Err(Reason::TooMuch);
            }
        }
        Ok(owned(joined))
    }

    fn number<'a>(self, value: &Val<'_>) -> Evaluated<'a> {
        let number = match value {
            Val::Bool(b) => Num::Int(i64::from(*b)),
            other => other.number().ok_or_else(|| self.refuse(other))?,
        };
        let whole = |x: f64| {
            // 2^63 is the first that an `i64` cannot hold.
            let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&x);
            if fits { Ok(Val::Int(x as i64)) } else { Err(Reason::Overflow) }
        };
        match (self, number) {
            (Self::Double, number) => Ok(Val::Float(number.to_f64())),
            (Self::Abs, Num::Int(i)) => i.checked_abs().map(Val::Int).ok_or(Reason::Overflow),
            (Self::Abs, number) => Ok(Val::Float(number.to_f64().abs())),
            (_, Num::Int(i)) => Ok(Val::Int(i)),
            (Self::Round, number) => whole(number.to_f64().round()),
            (Self::Ceil, number) => whole(number.to_f64().ceil()),
            (Self::Floor, number) => whole(number.to_f64().floor()),
            (_, number) => whole(number.to_f64().trunc()),
        }
    }

    fn extreme<'a>(self, args: Vec<Val<'a>>) -> Evaluated<'a> {
        let wanted = if self == Self::Greatest {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Less
        };
        let values = match <[Val<'a>; 1]>::try_from(args) {
            Ok([Val::List(items)]) => items,
            Ok([value]) => vec![value],
            Err(args) => args,
        };
        let mut best: Option<Val<'a>> = None;
        for value in values {
            if value.number().is_none() {
                return Err(self.refuse(&value));
            }
            if best.as_ref().is_none_or(|best| value.compare(best) == Some(wanted)) {
                best = Some(value);
            }
        }
        // Text that reads as a number leaves as that number.
        best.map_or(Ok(Val::Null), |best| match best.number() {
            Some(Num::Int(i)) => Ok(Val::Int(i)),
            Some(Num::Float(x)) => Ok(Val::Float(x)),
            Some(Num::Exact(_)) | None => Ok(best),
        })
    }

    /// Text, or a number or truth value as text, so that a function answers alike for CSV and JSON.
    fn text<'v>(self, value: &'v Val<'_>) -> Result<Cow<'v, str>, Reason> {
        if let Some(text) = value.as_text() {
            return Ok(Cow::Borrowed(text));
        }
        let mut text = String::new();
        append(value, &mut text).ok_or_else(|| self.refuse(value))?;
        Ok(Cow::Owned(text))
    }

    fn count(self, value: &Val<'_>) -> Result<usize, Reason> {
        match value.number() {
            Some(Num::Int(i)) => Ok(usize::try_from(i).unwrap_or(0)),
            _ => Err(self.refuse(value)),
        }
    }

    fn refuse(self, value: &Val<'_>) -> Reason {
        Reason::Argument { function: self.name(), value: value.shown(), kind: value.kind() }
    }
}

/// Compiles a pattern, with a bound on its size.
pub(super) fn regex(pattern: &str) -> Result<Regex, Reason> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build();
    compiled
        .map_err(|e| Reason::Pattern { pattern: excerpt(pattern), why: last_line(&e.to_string()) })
}

/// The regex crate draws the pattern first and says what is wrong in the last line.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ").to_owned()
}

fn owned<'a>(text: String) -> Val<'a> {
    Val::Text(Cow::Owned(text))
}

fn owned_json<'a>(text: &str) -> Evaluated<'a> {
    Ok(into_owned(Val::from_json(text)?))
}

/// Cuts a value loose from the text that it was read from.
fn into_owned<'a>(value: Val<'_>) -> Val<'a> {
    match value {
        Val::Null => Val::Null,
        Val::Bool(b) => Val::Bool(b),
        Val::Int(i) => Val::Int(i),
        Val::Float(x) => Val::Float(x),
        Val::Number(text) => Val::Number(Cow::Owned(text.into_owned())),
        Val::Text(text) => owned(text.into_owned()),
        Val::Quoted(text) => owned(text.to_owned()),
        Val::Bytes(bytes) => Val::Bytes(Cow::Owned(bytes.into_owned())),
        Val::List(items) => Val::List(items.into_iter().map(into_owned).collect()),
        Val::Map(entries) => Val::Map(
            entries
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name.into_owned()), into_owned(value)))
                .collect(),
        ),
    }
}
