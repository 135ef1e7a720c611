//! Numbers as records carry them: typed, or as the text of a CSV field.
//!
//! Text is read as a number without losing a digit: what neither `i64` nor 15 decimal digits of an
//! `f64` hold stays text and is compared digit by digit. Two 20-digit account numbers that differ
//! in the last place are therefore different.

use std::cmp::Ordering;

use piton_connectors::batch::Value;

/// A decimal with at most this many digits survives the way through an `f64`.
const DIGITS_OF_F64: usize = 15;

/// A number, borrowed from where it was read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Num<'a> {
    Int(i64),
    Float(f64),
    /// Sign, digits and at most one point; more digits than the others hold.
    Exact(&'a str),
}

impl<'a> Num<'a> {
    /// Reads decimal text: `12`, `-0.5`, `1e6`. Blanks around it are ignored. `NaN`, `inf` and
    /// hexadecimal are not numbers here: in data they are words.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let text = text.trim_ascii();
        if let Some(int) = small_int(text.as_bytes()) {
            return Some(Self::Int(int));
        }
        let shape = Shape::of(text)?;
        if !shape.point && !shape.exponent {
            return Some(text.parse().map_or(Self::Exact(text), Self::Int));
        }
        if shape.digits > DIGITS_OF_F64 && !shape.exponent {
            return Some(Self::Exact(text));
        }
        text.parse().ok().filter(|x: &f64| x.is_finite()).map(Self::Float)
    }

    /// The nearest `f64`.
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::Float(x) => x,
            Self::Exact(text) => text.parse().unwrap_or(f64::NAN),
        }
    }

    /// Orders two numbers; `None` only when one is NaN.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Int(a), Self::Float(b)) => compare_int_float(a, b),
            (Self::Float(a), Self::Int(b)) => compare_int_float(b, a).map(Ordering::reverse),
            (Self::Exact(a), Self::Exact(b)) => Some(compare_decimals(a, b)),
            (Self::Exact(a), Self::Int(b)) => Some(compare_decimals(a, &b.to_string())),
            (Self::Int(a), Self::Exact(b)) => Some(compare_decimals(&a.to_string(), b)),
            (a, b) => a.to_f64().partial_cmp(&b.to_f64()),
        }
    }
}

/// Decimal text as the value that keeps every digit of it.
pub(crate) fn exact_number(text: &str) -> Value<'_> {
    match Num::read(text) {
        Some(Num::Int(int)) => Value::Int(int),
        Some(Num::Float(float)) => Value::Float(float),
        Some(Num::Exact(_)) | None => Value::Number(text),
    }
}

/// Whole numbers of up to 18 digits: nearly all of them, without any check for overflow.
fn small_int(text: &[u8]) -> Option<i64> {
    let negative = text.first() == Some(&b'-');
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut int = 0_i64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        int = int * 10 + i64::from(byte - b'0');
    }
    Some(if negative { -int } else { int })
}

/// What a decimal is made of.
struct Shape {
    digits: usize,
    point: bool,
    exponent: bool,
}

impl Shape {
    fn of(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = whole.len() + fraction.len();
        let power = exponent.map_or("0", |e| e.strip_prefix(['+', '-']).unwrap_or(e));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let sound = digits > 0 && !power.is_empty();
        (sound && all_digits(whole) && all_digits(fraction) && all_digits(power)).then(|| Self {
            digits,
            point: mantissa.contains('.'),
            exponent: exponent.is_some(),
        })
    }
}

/// Compares without rounding: 2^53 + 1 is not 2^53.
fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if float.is_nan() {
        return None;
    }
    if float >= LIMIT {
        return Some(Ordering::Less);
    }
    if float < -LIMIT {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    let by_whole = int.cmp(&(whole as i64));
    // Equal in the whole part: the fraction decides.
    Some(by_whole.then_with(|| whole.partial_cmp(&float).unwrap_or(Ordering::Equal)))
}

/// Compares decimals without an exponent, digit by digit.
fn compare_decimals(a: &str, b: &str) -> Ordering {
    let (a_negative, a) = sign(a);
    let (b_negative, b) = sign(b);
    match (a_negative, b_negative) {
        (false, false) => compare_magnitudes(a, b),
        (true, true) => compare_magnitudes(b, a),
        _ if is_zero(a) && is_zero(b) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn is_zero(magnitude: &str) -> bool {
    magnitude.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

fn compare_magnitudes(a: &str, b: &str) -> Ordering {
    let ((a_whole, a_fraction), (b_whole, b_fraction)) =
        (a.split_once('.').unwrap_or((a, "")), b.split_once('.').unwrap_or((b, "")));
    let (a_whole, b_whole) = (a_whole.trim_start_matches('0'), b_whole.trim_start_matches('0'));
    let (a_fraction, b_fraction) =
        (a_fraction.trim_end_matches('0'), b_fraction.trim_end_matches('0'));
    a_whole
        .len()
        .cmp(&b_whole.len())
        .then_with(|| a_whole.cmp(b_whole))
        .then_with(|| a_fraction.cmp(b_fraction))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(a: &str, b: &str) -> Option<Ordering> {
        Num::read(a)?.compare(Num::read(b)?)
    }

    #[test]
    fn words_are_not_numbers() {
        for word in ["", " ", "NA", "nan", "inf", "0x10", "1_000", "1e", "e5", ".", "-", "1.2.3"] {
            assert!(Num::read(word).is_none(), "{word:?}");
        }
    }

    #[test]
    fn no_digit_is_lost() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, expected) in [
            ("12", "9", Greater),
            (" -3 ", "+2", Less),
            ("1.0", "1", Equal),
            (".5", "5e-1", Equal),
            ("12345678901234567890", "12345678901234567891", Less),
            ("-12345678901234567890", "-12345678901234567891", Greater),
            ("9223372036854775807", "9223372036854775808", Less),
            ("-9223372036854775808", "-9223372036854775807.9999999999999", Less),
            ("0.1000000000000000000000001", "0.1000000000000000000000002", Less),
            ("000000000000000000000000000012.50", "12.5", Equal),
            ("-0.00000000000000000000", "0.000000000000000000000", Equal),
            ("9007199254740993", "9007199254740992.0", Greater),
        ] {
            assert_eq!(order(a, b), Some(expected), "{a} and {b}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_ordered_as_such(a: i64, b: i64) {
            prop_assert_eq!(order(&a.to_string(), &b.to_string()), Some(a.cmp(&b)));
            prop_assert_eq!(order(&format!("{a}.0"), &b.to_string()), Some(a.cmp(&b)));
        }

        #[test]
        fn a_comparison_turned_round_is_reversed(
            a in r"[-+]?[0-9]{0,25}(\.[0-9]{0,25})?",
            b in r"[-+]?[0-9]{0,25}(\.[0-9]{0,25})?",
        ) {
            prop_assert_eq!(order(&a, &b), order(&b, &a).map(Ordering::reverse));
        }
    }
}
