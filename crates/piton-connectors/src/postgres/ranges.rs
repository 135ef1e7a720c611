//! Ranges of a key, each a partition of its own, so that the server reads several at once.
//!
//! Where to cut is asked of a sample of the table when a pipeline first runs. From then on the
//! names of the partitions say it: `customer up to [250]`, `customer after [250]`. So what is
//! stored fixes the ranges, and a table that has grown since changes nothing about them. Together
//! they cover every key, those that are not there yet included.

use std::fmt;

use tokio_postgres::{Client, Error, types::Type};

use super::{keyset::Keyset, position::KeyPart};

/// The longest name of a partition, in bytes. Stores have room for 250.
const LONGEST: usize = 200;

/// Pages of the table in the sample, about.
const SAMPLE_PAGES: f64 = 1000.0;

/// Keys after one, up to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Range {
    /// The last key before it; empty for the first range.
    pub(super) after: Vec<KeyPart>,
    /// The last key in it; empty for the last range.
    pub(super) upto: Vec<KeyPart>,
}

/// The name of a partition.
struct Name<'a>(&'a str, &'a Range);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(table, Range { after, upto }) = self;
        f.write_str(table)?;
        for (word, key) in [(" after ", after), (" up to ", upto)] {
            if !key.is_empty() {
                write!(f, "{word}{}", serde_json::json!(key))?;
            }
        }
        Ok(())
    }
}

impl Range {
    /// The name of a table's partition.
    pub(super) fn name(&self, table: &str) -> String {
        Name(table, self).to_string()
    }

    /// Reads the name of a table's partition; `None` if it is none.
    pub(super) fn read(table: &str, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(table)?;
        let (after, rest) = key_after(" after ", rest)?;
        let (upto, rest) = key_after(" up to ", rest)?;
        rest.is_empty().then_some(Self { after, upto })
    }

    /// Whether they cover every key once: each begins where another one ends, from the first to
    /// the last.
    pub(super) fn cover(ranges: &[Self]) -> bool {
        let mut left: Vec<&Self> = ranges.iter().collect();
        let mut end: &[KeyPart] = &[];
        while let Some(next) = left.iter().position(|range| range.after == end) {
            end = &left.swap_remove(next).upto;
            if end.is_empty() {
                return left.is_empty();
            }
        }
        false
    }

    /// Cuts a table into at most so many ranges of about as many rows.
    pub(super) async fn cut(
        client: &Client,
        keyset: &Keyset,
        name: &str,
        table: &str,
        count: usize,
    ) -> Result<Vec<Self>, Error> {
        let share = sample_percent(client, name).await?;
        let rows = client.query_typed(&keyset.cuts(name, share, count), &[]).await?;
        let mut ranges = vec![Self::default()];
        for row in rows {
            let part = |(index, part): (usize, &super::keyset::Part)| {
                Ok(KeyPart::read(row.try_get(index)?, part.is_integer))
            };
            let key: Vec<KeyPart> =
                keyset.key.iter().enumerate().map(part).collect::<Result<_, Error>>()?;
            let Some(last) = ranges.last_mut() else { break };
            let before = Self { after: last.after.clone(), upto: key.clone() };
            let is_short = before.name(table).len() <= LONGEST
                && serde_json::json!(key).to_string().len() < LONGEST / 3;
            if is_short && before.after != before.upto {
                *last = before;
                ranges.push(Self { after: key, upto: Vec::new() });
            }
        }
        Ok(ranges)
    }
}

/// Reads a word and the key behind it, if they stand there, and returns what follows them.
fn key_after<'a>(word: &str, text: &'a str) -> Option<(Vec<KeyPart>, &'a str)> {
    let Some(text) = text.strip_prefix(word) else { return Some((Vec::new(), text)) };
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Vec<KeyPart>>();
    let key = values.next()?.ok().filter(|key| !key.is_empty())?;
    Some((key, &text[values.byte_offset()..]))
}

/// How much of a table is looked at, in percent.
async fn sample_percent(client: &Client, name: &str) -> Result<f64, Error> {
    let sql = "SELECT coalesce((SELECT sum(pg_relation_size(relid)) \
                 FROM pg_partition_tree(to_regclass($1)) WHERE isleaf), \
                 pg_relation_size(to_regclass($1)))::float8 / 8192";
    let row = client.query_typed_one(sql, &[(&name as _, Type::TEXT)]).await?;
    let pages: f64 = row.try_get(0)?;
    Ok((100.0 * SAMPLE_PAGES / pages.max(1.0)).min(100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(after: &[i64], upto: &[i64]) -> Range {
        let key = |key: &[i64]| key.iter().map(|i| KeyPart::Integer(*i)).collect();
        Range { after: key(after), upto: key(upto) }
    }

    #[test]
    fn a_name_says_the_range_whatever_the_key_holds() {
        let text = KeyPart::Text(" up to [1]\"\n".into());
        let odd = Range { after: vec![text.clone(), KeyPart::Integer(-1)], upto: vec![text] };
        for range in [range(&[], &[]), range(&[], &[7]), range(&[7], &[9]), range(&[9], &[]), odd] {
            assert_eq!(Range::read("t after", &range.name("t after")), Some(range));
        }
        assert_eq!(range(&[7], &[9]).name("t"), "t after [7] up to [9]");
        for name in ["u", "tx", "t after", "t after []", "t up to [1] after [2]", "t after [1] "] {
            assert_eq!(Range::read("t", name), None, "{name}");
        }
    }

    #[test]
    fn ranges_cover_every_key_once_or_are_refused() {
        for (ranges, wanted) in [
            (vec![range(&[], &[])], true),
            (vec![range(&[5], &[]), range(&[], &[5])], true),
            (vec![range(&[], &[5]), range(&[5], &[7]), range(&[7], &[])], true),
            (vec![], false),
            (vec![range(&[], &[5])], false),
            (vec![range(&[], &[5]), range(&[7], &[])], false),
            (vec![range(&[], &[5]), range(&[5], &[]), range(&[], &[])], false),
            (vec![range(&[], &[5]), range(&[5], &[]), range(&[5], &[7])], false),
            (vec![range(&[], &[5]), range(&[5], &[]), range(&[8], &[9]), range(&[9], &[8])], false),
        ] {
            assert_eq!(Range::cover(&ranges), wanted, "{ranges:?}");
        }
    }
}
