//! Decimal numbers as text: which of them an `i64` or an `f64` holds without loss.
//!
//! A float *holds* a decimal if the shortest text that reads back as that float is the same
//! number. So `0.1` and `1.50` are floats, and `0.1000000000000000055` or `1e400` are kept as text.

/// A decimal number, in the smallest form that holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decimal {
    /// An integer of 64 bits.
    Int(i64),
    /// A number that a float holds.
    Float(f64),
    /// Neither: the text is the number.
    Exact,
}

/// Reads a number as JSON writes them. `None` if it is not one.
pub(super) fn decimal(text: &str) -> Option<Decimal> {
    is_json(text).then(|| number(text))
}

/// Reads what is known to be a number in JSON.
pub(super) fn number(text: &str) -> Decimal {
    let integral = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if integral && text != "-0" {
        return text.parse().map_or(Decimal::Exact, Decimal::Int);
    }
    match text.parse::<f64>() {
        Ok(float) if holds(float, text) => Decimal::Float(float),
        _ => Decimal::Exact,
    }
}

/// Whether a float holds a number in JSON, an integer too.
pub(super) fn fits_float(text: &str) -> bool {
    text.parse().is_ok_and(|float| holds(float, text))
}

/// Whether an integer is written just as it would be printed: no plus, no leading zeros. Looks at
/// the beginning only.
pub(super) fn is_as_printed(integer: &str) -> bool {
    matches!(integer.as_bytes(), [b'0'] | [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..])
}

/// Whether this is a number by JSON's grammar.
pub(super) fn is_json(text: &str) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = text.strip_prefix('-').unwrap_or(text).as_bytes();
    match (digits(rest), rest.first()) {
        (0, _) => return false,
        (n, Some(b'0')) if n > 1 => return false,
        (n, _) => rest = &rest[n..],
    }
    if let [b'.', fraction @ ..] = rest {
        match digits(fraction) {
            0 => return false,
            n => rest = &fraction[n..],
        }
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let sign = exponent.first().is_some_and(|sign| matches!(sign, b'+' | b'-'));
        let exponent = &exponent[usize::from(sign)..];
        match digits(exponent) {
            0 => return false,
            n => rest = &exponent[n..],
        }
    }
    rest.is_empty()
}

/// Digits that every float tells apart, within its ordinary range.
const SAFE_DIGITS: usize = 15;

fn holds(float: f64, text: &str) -> bool {
    if !float.is_finite() {
        return false;
    }
    let plain = !text.bytes().any(|b| matches!(b, b'e' | b'E'));
    if plain && text.len() <= SAFE_DIGITS {
        return true;
    }
    Parts::of(&format!("{float:e}")) == Parts::of(text)
}

/// A number as sign, digits without outer zeros, and the power of ten of the last digit.
#[derive(PartialEq)]
struct Parts {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Parts {
    fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let mut exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        exponent = exponent.checked_sub(fraction.len() as i64)?;
        let mut digits: Vec<u8> =
            whole.bytes().chain(fraction.bytes()).filter(u8::is_ascii_digit).collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            exponent = 0;
        }
        Some(Self { negative: text.starts_with('-'), digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_number_gets_the_smallest_form_that_holds_it() {
        let exact = Decimal::Exact;
        for (text, expected) in [
            ("0", Decimal::Int(0)),
            ("-12", Decimal::Int(-12)),
            ("9223372036854775807", Decimal::Int(i64::MAX)),
            ("9223372036854775808", exact),
            ("0.1", Decimal::Float(0.1)),
            ("1.50", Decimal::Float(1.5)),
            ("0.30000000000000004", Decimal::Float(0.300_000_000_000_000_04)),
            ("0.1000000000000000055", exact),
            ("1e5", Decimal::Float(1e5)),
            ("1e-400", exact),
            ("1e400", exact),
            ("0e99999999999999999999", exact),
            ("0.000", Decimal::Float(0.0)),
            ("123456789012345678.5", exact),
        ] {
            assert_eq!(decimal(text), Some(expected), "{text}");
        }
        for wrong in ["", "-", "01", "+1", ".5", "5.", "1e", "1e+", "NaN", "0x1", "1 ", "--1"] {
            assert_eq!(decimal(wrong), None, "{wrong}");
        }
        for (text, expected) in
            [("-7", true), ("0", true), ("-0", false), ("007", false), ("+7", false)]
        {
            assert_eq!(is_as_printed(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_in_json_is_what_serde_json_takes(text in "-?[0-9]{1,3}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,2})?") {
            prop_assert_eq!(is_json(&text), serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok());
        }

        #[test]
        fn every_float_holds_its_own_text(float in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
            prop_assert!(fits_float(&serde_json::to_string(&float).unwrap()));
        }
    }
}
