//! Durations, sizes, shares and rates as a person writes them: `30s`, `16MiB`, `1%`, `5000/s`.
//!
//! Each carries its unit, so that no number in a file has to be looked up, and is never negative.

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

/// A length of time: `500ms`, `30s`, `5m`, `1h`, `30d`. Decimals are allowed: `1.5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(
    /// The same as a [`Duration`].
    pub Duration,
);

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

/// Units of time, the smallest first, in nanoseconds.
const TIME: &[(&str, u64)] = &[
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

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

impl FromStr for Period {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let fail = |hint: &str| fail(text, "a duration", hint);
        let (number, unit) = split(text);
        let nanos =
            unit_of(TIME, unit).ok_or_else(|| fail("write it like 500ms, 30s, 5m, 1h or 30d"))?;
        let nanos = scaled(number, nanos).map_err(fail)?;
        Ok(Self(Duration::from_nanos(nanos)))
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

/// The largest unit that divides a number of the smallest.
fn shown(f: &mut fmt::Formatter<'_>, units: &[(&str, u64)], amount: u64) -> fmt::Result {
    let fits = |(_, factor): &&(&str, u64)| amount > 0 && amount.is_multiple_of(*factor);
    match units.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => write!(f, "{}{name}", amount / factor),
        None => {
            let (name, factor) = units[0];
            write!(f, "{}{name}", amount as f64 / factor as f64)
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(f, TIME, u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(f, SIZE, self.0)
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
    Period,
    "a duration such as 30s",
    "string",
    r"^\s*[0-9.]+\s*(ms|s|m|h|d)\s*$",
    "500ms",
    "30s",
    "5m"
);
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
        let period = |text: &str| text.parse::<Period>().unwrap();
        assert_eq!(period("500ms").0, Duration::from_millis(500));
        assert_eq!(period(" 1.5 s ").0, Duration::from_millis(1500));
        assert_eq!(period("30d").0, Duration::from_hours(720));
        for text in ["500ms", "30s", "5m", "1h", "30d", "1500ms", "0ms"] {
            assert_eq!(period(text).to_string(), text);
        }
        for (text, bytes) in [("16MiB", 16 << 20), ("64KB", 64_000), ("7", 7), ("0.5KiB", 512)] {
            assert_eq!(text.parse::<Size>().unwrap().0, bytes);
        }
        assert_eq!(Size(16 << 20).to_string(), "16MiB");
        assert_eq!("1%".parse::<Percent>().unwrap().0, 0.01);
        let rate: Rate = "120/m".parse().unwrap();
        assert_eq!((rate.per_second(), rate.to_string()), (2.0, "120/m".to_owned()));
    }

    #[test]
    fn what_cannot_be_meant_says_how_it_is_written() {
        let mut shown: Vec<String> = Vec::new();
        for text in ["30", "-5s", "s", "5 weeks", "99999999999999999999d", "1e3s", ""] {
            shown.push(text.parse::<Period>().unwrap_err().to_string());
        }
        for text in ["16 MiBs", "-1", "x"] {
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
