//! Checksums over the columns of a stored row, and the manifest that notices a missing row.
//!
//! `SQLite`'s own integrity check misses about one flipped bit in eighty, so every row that a
//! decision depends on carries a 63-bit XXH3 of its columns. Row checksums are combined by XOR in
//! a manifest row that is written in the same transaction: a row that has gone without the
//! manifest agreeing is damage. XOR because a row can be taken out again without reading the
//! others, and because SQL can compute it (`(a | b) & ~(a & b)`), so that a trigger keeps the
//! manifest right when a person deletes rows by hand.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A checksum that fits the signed 64-bit integers of every SQL database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checksum(pub i64);

impl Checksum {
    /// Starts a checksum over the columns of a row.
    pub fn build() -> ChecksumBuilder {
        ChecksumBuilder(Xxh3::new())
    }

    /// Adds a row to a manifest, or takes it out again.
    #[must_use]
    pub fn combine(self, row: Self) -> Self {
        Self(self.0 ^ row.0)
    }
}

/// Collects columns; lengths are included, so that `("ab", "c")` differs from `("a", "bc")`.
pub struct ChecksumBuilder(Xxh3);

impl ChecksumBuilder {
    /// Adds a text column.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a nullable text column; NULL differs from the empty text.
    #[must_use]
    pub fn maybe(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1).text(text),
            None => self.number(0),
        }
    }

    /// Adds an integer column.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// The checksum, always positive so that it reads well.
    pub fn finish(self) -> Checksum {
        Checksum((self.0.digest() & (u64::MAX >> 1)) as i64)
    }
}

/// The manifest of one pipeline's checkpoint rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// How many rows there are.
    pub rows: u64,
    /// Their checksums, combined.
    pub checksum: Checksum,
}

impl Manifest {
    /// The manifest with one more row.
    #[must_use]
    pub fn with(self, row: Checksum) -> Self {
        Self { rows: self.rows + 1, checksum: self.checksum.combine(row) }
    }

    /// The manifest with a row's checksum replaced.
    #[must_use]
    pub fn replacing(self, old: Checksum, new: Checksum) -> Self {
        Self { rows: self.rows, checksum: self.checksum.combine(old).combine(new) }
    }

    /// The manifest with a row taken out.
    #[must_use]
    pub fn without(self, row: Checksum) -> Self {
        Self { rows: self.rows.saturating_sub(1), checksum: self.checksum.combine(row) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_borders_count() {
        let a = Checksum::build().text("ab").text("c").finish();
        let b = Checksum::build().text("a").text("bc").finish();
        assert_ne!(a, b);
        assert_ne!(
            Checksum::build().maybe(None).finish(),
            Checksum::build().maybe(Some("")).finish()
        );
    }

    #[test]
    fn the_manifest_follows_rows_in_any_order() {
        let (a, b, c) = (Checksum(5), Checksum(9), Checksum(12));
        let all = Manifest::default().with(a).with(b);
        assert_eq!(all.replacing(a, c).without(b), Manifest::default().with(c));
    }
}
