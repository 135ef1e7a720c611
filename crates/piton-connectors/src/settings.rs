//! Values that the settings of several connectors share.
//!
//! What a user types is parsed here into types that cannot hold nonsense, so that a connector
//! never has to ask again.

mod bound;

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use jiff::{
    Span, SpanRelativeTo,
    fmt::friendly::{Designator, Spacing, SpanPrinter},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::bound::{Bound, BoundValue};
pub(crate) use self::bound::{Dialect, with_values};

/// A length of time as a user types it: `30s`, `500ms`, `5m`, `1h 30m`, `30d`. Longer than zero.
///
/// A day is 24 hours. Months and years have no fixed length and are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// Why a text is not a [`Period`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {WANTED}: {why}")]
pub struct PeriodError {
    text: String,
    why: String,
}

const WANTED: &str = "a length of time such as 30s, 500ms, 5m, 2h or 30d";
const DAY_S: u64 = 24 * 60 * 60;

impl Period {
    /// A period of some seconds, at least one.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(if seconds == 0 { 1 } else { seconds }))
    }

    /// How long it is.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let wrong = |why: String| PeriodError { text: text.to_owned(), why };
        if text.trim().parse::<f64>().is_ok() {
            return Err(wrong(format!("the unit is missing, write {}s for seconds", text.trim())));
        }
        let span: Span =
            text.trim().parse().map_err(|_| wrong("write a number with its unit".into()))?;
        let length = span
            .to_duration(SpanRelativeTo::days_are_24_hours())
            .map_err(|_| wrong("months and years have no fixed length, use days".into()))?;
        match Duration::try_from(length) {
            Ok(length) if !length.is_zero() => Ok(Self(length)),
            _ => Err(wrong("it must be longer than zero".into())),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printer =
            SpanPrinter::new().designator(Designator::Compact).spacing(Spacing::BetweenUnits);
        let days = self.0.as_secs() / DAY_S;
        let rest = self.0.saturating_sub(Duration::from_secs(days * DAY_S));
        match (days, rest.is_zero()) {
            (0, _) => f.write_str(&printer.unsigned_duration_to_string(&rest)),
            (_, true) => write!(f, "{days}d"),
            (_, false) => write!(f, "{days}d {}", printer.unsigned_duration_to_string(&rest)),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WANTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A length of time: 30s, 500ms, 5m, 1h 30m, 30d",
            "pattern": "^\\s*[0-9.]+ *[a-zµ]",
            "examples": ["30s", "500ms", "5m"],
        })
    }
}

/// What becomes of a record whose key is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It replaces the row; a row that is already equal is left alone and fires no trigger.
    Upsert,
    /// It is added beside it.
    Append,
}

impl Mode {
    /// The mode in force: without one, a key means `upsert`.
    ///
    /// # Errors
    /// Says what is missing or contradicts itself.
    pub(crate) fn of(mode: Option<Self>, key: &[String]) -> Result<Self, String> {
        match (mode, key.is_empty()) {
            (Some(Self::Upsert), true) => Err("`mode: upsert` needs `key`, the columns that \
                 identify a row; without one, use `mode: append`"
                .into()),
            (Some(Self::Append), false) => Err("`mode: append` adds every record and has no use \
                 for `key`: leave `key` out, or use `mode: upsert`"
                .into()),
            (None | Some(Self::Append), true) => Ok(Self::Append),
            (None | Some(Self::Upsert), false) => Ok(Self::Upsert),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for (typed, ms, shown) in [
            ("30s", 30_000, "30s"),
            ("500ms", 500, "500ms"),
            ("5m", 300_000, "5m"),
            ("90m", 5_400_000, "1h 30m"),
            ("1h30m", 5_400_000, "1h 30m"),
            ("1.5s", 1_500, "1s 500ms"),
            ("30d", 30 * 86_400_000, "30d"),
            ("36h", 36 * 3_600_000, "1d 12h"),
        ] {
            let period: Period = typed.parse().unwrap();
            assert_eq!((period.duration().as_millis(), period.to_string()), (ms, shown.into()));
            assert_eq!(shown.parse(), Ok(period), "{shown} reads back");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (typed, why) in [
            ("30", "write 30s"),
            ("0s", "longer than zero"),
            ("-5s", "longer than zero"),
            ("2 months", "use days"),
            ("soon", "not a length of time"),
            ("", "not a length of time"),
        ] {
            let error = typed.parse::<Period>().unwrap_err().to_string();
            assert!(error.contains(why), "{typed}: {error}");
        }
    }

    #[test]
    fn a_bare_number_is_the_wrong_type() {
        let error = serde_json::from_str::<Period>("30").unwrap_err().to_string();
        assert!(error.contains("expected a length of time such as 30s"), "{error}");
    }
}
