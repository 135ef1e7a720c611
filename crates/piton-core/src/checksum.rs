//! Checksums over the columns of a stored row, and the manifest that notices a missing row.
//!
//! `SQLite`'s own integrity check misses about one flipped bit in eighty, so every row that a
//! decision depends on carries a 63-bit XXH3 of its columns. Row checksums are combined by XOR in
//! a manifest row that is written in the same transaction: a row that has gone without the
//! manifest agreeing is damage. XOR because a row can be taken out again without reading the
//! others, and because SQL can compute it (`(a | b) & ~(a & b)`), so that a trigger keeps the
//! manifest right when a person deletes rows by hand.
//!
//! A server that writes rows by functions of its own has no XXH3. What it can compute is a second
//! form ([`Form::Sql`], feature `sha256`): 63 bits of SHA-256 over the same columns as text, each
//! with its length. A row is whole when it adds up in either form; the manifest combines whatever
//! the rows carry.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A checksum that fits the signed 64-bit integers of every SQL database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checksum(pub i64);

/// How a row's checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Form {
    /// XXH3, which is quick: of every row that a program writes.
    #[default]
    Native,
    /// SHA-256, which a database server has: of rows that its own functions write.
    #[cfg(feature = "sha256")]
    Sql,
}

impl Form {
    /// The form in which a row adds up to the checksum it carries; `None`: it was altered.
    pub fn of(carried: Checksum, row: impl Fn(Self) -> Checksum) -> Option<Self> {
        let forms = [
            Self::Native,
            #[cfg(feature = "sha256")]
            Self::Sql,
        ];
        forms.into_iter().find(|form| row(*form) == carried)
    }
}

impl Checksum {
    /// Starts a checksum over the columns of a row.
    pub fn build() -> ChecksumBuilder {
        Self::build_as(Form::Native)
    }

    /// Starts a checksum over the columns of a row, in one of the forms.
    pub fn build_as(form: Form) -> ChecksumBuilder {
        ChecksumBuilder(match form {
            Form::Native => State::Native(Xxh3::new()),
            #[cfg(feature = "sha256")]
            Form::Sql => State::Sql(sha2::Sha256::default()),
        })
    }

    /// Adds a row to a manifest, or takes it out again.
    #[must_use]
    pub fn combine(self, row: Self) -> Self {
        Self(self.0 ^ row.0)
    }
}

/// Collects columns; lengths are included, so that `("ab", "c")` differs from `("a", "bc")`.
pub struct ChecksumBuilder(State);

#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack, never moved far")]
enum State {
    Native(Xxh3),
    #[cfg(feature = "sha256")]
    Sql(sha2::Sha256),
}

impl ChecksumBuilder {
    /// Adds a text column.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        match &mut self.0 {
            State::Native(state) => {
                state.update(&(text.len() as u64).to_le_bytes());
                state.update(text.as_bytes());
            }
            #[cfg(feature = "sha256")]
            State::Sql(state) => {
                sha2::Digest::update(state, format!("{}:", text.len()));
                sha2::Digest::update(state, text);
            }
        }
        self
    }

    /// Adds a nullable text column; NULL differs from the empty text.
    #[must_use]
    pub fn maybe(self, text: Option<&str>) -> Self {
        match (text, self) {
            #[cfg(feature = "sha256")]
            (None, Self(State::Sql(mut state))) => {
                sha2::Digest::update(&mut state, "-");
                Self(State::Sql(state))
            }
            #[cfg(feature = "sha256")]
            (Some(text), sum @ Self(State::Sql(_))) => sum.text(text),
            (Some(text), sum) => sum.number(1).text(text),
            (None, sum) => sum.number(0),
        }
    }

    /// Adds an integer column.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        match &mut self.0 {
            State::Native(state) => state.update(&number.to_le_bytes()),
            // As a database has it, where every integer is signed.
            #[cfg(feature = "sha256")]
            State::Sql(_) => return self.text(&(number as i64).to_string()),
        }
        self
    }

    /// The checksum, always positive so that it reads well.
    pub fn finish(self) -> Checksum {
        let sum = match self.0 {
            State::Native(state) => state.digest(),
            #[cfg(feature = "sha256")]
            State::Sql(state) => {
                let bytes = sha2::Digest::finalize(state);
                bytes.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
            }
        };
        Checksum((sum & (u64::MAX >> 1)) as i64)
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
