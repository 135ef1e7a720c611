//! Sizes, shares and rates as a person writes them: `16MiB`, `1%`, `5000/s`.
//!
//! Each carries its unit, so that no number in a file has to be looked up, and is never negative.
//! Lengths of time are the connectors' own [`Period`](piton_connectors::settings::Period).

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// Why a text is not one of these values. Says what it was and how such a value is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}: {hint}")]
pub struct ScalarError {
    text: String,
    what: &'static str,
    hint: String,
}

/// A number of bytes: `16MiB`, `64KB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(
    /// In bytes.
    pub u64,
);

/// A share: `1%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(
    /// From 0 to 1.
    pub f64,
);

/// Records in a length of time: `5000/s`, `100/m`, `10/h`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// How many records.
    pub records: u64,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

/// Units of size, in bytes.
const SIZE: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl Rate {
    /// Records in a second.
    pub fn per_second(&self) -> f64 {
        self.records as f64 / self.per.as_secs_f64()
    }
}

impl FromStr for Size {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let fail = |hint: &str| fail(text, "a size", hint);
        let (number, unit) = split(text);
        let unit = if unit.is_empty() { "B" } else { unit };
        let bytes = unit_of(SIZE, unit).ok_or_else(|| fail("write it like 64KB, 16MiB or 1GiB"))?;
        scaled(number, bytes).map(Self).map_err(fail)
    }
}

impl FromStr for Percent {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let fail = |hint: &str| fail(text, "a share", hint);
        let Some(number) = text.trim().strip_suffix('%') else {
            return Err(fail("write it like 1% or 0.5%"));
        };
        let percent = decimal(number.trim()).map_err(fail)?;
        if percent > 100.0 {
            return Err(fail("a share is at most 100%"));
        }
        Ok(Self(percent / 100.0))
    }
}

impl FromStr for Rate {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let hint = "write it like 5000/s, 100/m or 10/h, in whole records";
        let fail = |hint: &str| fail(text, "a rate", hint);
        let (number, unit) = text.split_once('/').ok_or_else(|| fail(hint))?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(fail(hint)),
        };
        match number.trim().parse() {
            Ok(0) => Err(fail("at no records at all nothing would ever be read")),
            Ok(records) => Ok(Self { records, per: Duration::from_secs(seconds) }),
            Err(_) => Err(fail(hint)),
        }
    }
}

fn fail(text: &str, what: &'static str, hint: &str) -> ScalarError {
    ScalarError { text: text.chars().take(40).collect(), what, hint: hint.to_owned() }
}

/// The number in front and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..unit].trim_end(), &text[unit..])
}

fn unit_of(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn decimal(number: &str) -> Result<f64, &'static str> {
    if number.starts_with('-') {
        return Err("it cannot be negative");
    }
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let parsed = if plain { number.parse().ok() } else { None };
    parsed.filter(|x: &f64| x.is_finite()).ok_or("it begins with a number")
}

/// A number of units; whole numbers without rounding.
fn scaled(number: &str, unit: u64) -> Result<u64, &'static str> {
    const TOO_LARGE: &str = "it is too large";
    if let Ok(whole) = number.parse::<u64>()
        && !number.starts_with('+')
    {
        return whole.checked_mul(unit).ok_or(TOO_LARGE);
    }
    let scaled = decimal(number)? * unit as f64;
    if scaled < u64::MAX as f64 { Ok(scaled.round() as u64) } else { Err(TOO_LARGE) }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*bytes);
        let largest = SIZE.iter().filter(fits).max_by_key(|(_, bytes)| *bytes);
        let (name, bytes) = largest.unwrap_or(&SIZE[0]);
        write!(f, "{}{name}", self.0 / bytes)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.records)
    }
}

/// Reads and writes a type as the text that a person would write, and describes that text.
macro_rules! written_as_text {
    ($type:ident, $expecting:literal, $json:tt, $pattern:literal, $($example:literal),+) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Written::<Self>::new($expecting))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": $json,
                    "pattern": $pattern,
                    "examples": [$($example),+],
                })
            }
        }
    };
}

written_as_text!(
    Size,
    "a size such as 16MiB",
    ["string", "integer"],
    r"^\s*[0-9.]+\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*$",
    "16MiB",
    "64KB"
);
written_as_text!(Percent, "a share such as 1%", "string", r"^\s*[0-9.]+\s*%\s*$", "1%");
written_as_text!(Rate, "a rate such as 5000/s", "string", r"^\s*[0-9]+\s*/\s*[smh]\s*$", "5000/s");

struct Written<T>(&'static str, std::marker::PhantomData<T>);

impl<T> Written<T> {
    fn new(expecting: &'static str) -> Self {
        Self(expecting, std::marker::PhantomData)
    }
}

impl<T: FromStr<Err = ScalarError>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    // A number without a unit: let the parser say what is missing.
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_writes_is_read_and_written_back() {
        for (text, bytes) in [("16MiB", 16 << 20), ("64KB", 64_000), ("7", 7), ("0.5KiB", 512)] {
            assert_eq!(text.parse::<Size>().unwrap().0, bytes);
        }
        assert_eq!(Size(16 << 20).to_string(), "16MiB");
        let percent: Percent = "0.5%".parse().unwrap();
        assert!((percent.0 - 0.005).abs() < 1e-12);
        let rate: Rate = "120/m".parse().unwrap();
        assert_eq!((rate.records, rate.per), (120, Duration::from_mins(1)));
        assert!((rate.per_second() - 2.0).abs() < 1e-12);
        assert_eq!((percent.to_string(), rate.to_string()), ("0.5%".into(), "120/m".into()));
    }

    #[test]
    fn what_cannot_be_meant_says_how_it_is_written() {
        let mut shown: Vec<String> = Vec::new();
        for text in ["16 MiBs", "-1", "x", "", "1e3KB", "99999999999999999999GB"] {
            shown.push(text.parse::<Size>().unwrap_err().to_string());
        }
        for text in ["0.01", "101%", "-1%"] {
            shown.push(text.parse::<Percent>().unwrap_err().to_string());
        }
        for text in ["5000", "0/s", "-1/s", "1.5/s", "5/d"] {
            shown.push(text.parse::<Rate>().unwrap_err().to_string());
        }
        insta::assert_snapshot!(shown.join("\n"));
    }
}
