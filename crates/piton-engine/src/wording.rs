//! Numbers as people read them.

/// 1234567 as 1,234,567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 1 record, 2 records, 1,234 records.
pub fn records(number: u64) -> String {
    many(number, "record")
}

/// A number of things whose name takes an s.
pub fn many(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A length of time as people say it: 850 ms, 12 s, 3 min 5 s, 2 h 4 min, 3 d 2 h.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0 if seconds < 0.9995 => format!("{:.0} ms", seconds.max(0.0) * 1e3),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(span(0.85), "850 ms");
        assert_eq!(span(185.0), "3 min 5 s");
        assert_eq!(span(90_000.0), "1 d 1 h");
        assert_eq!((records(1), records(0)), ("1 record".to_owned(), "0 records".to_owned()));
    }
}
