//! Positions: where a record stands in its source.
//!
//! A source has its own typed position (a byte offset, a key, an LSN, a GTID set) that implements
//! [`Position`]. A store never sees the type: it keeps a [`StoredPosition`], JSON that a person can
//! read, and order is decided in Rust by the type that wrote it. That is why positions that are
//! only partially ordered work: [`PartialOrd::partial_cmp`] may answer `None`.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A typed position in one kind of source.
///
/// Two positions of one partition can be compared, or are known not to be comparable. Systems
/// whose deliveries have no such order (RabbitMQ, SQS, Pub/Sub) cannot implement this honestly and
/// therefore cannot be checkpointed by position.
pub trait Position:
    Serialize + DeserializeOwned + PartialOrd + Clone + Send + Sync + 'static
{
    /// Names the type at rest, for example `"file"`. Never changes once released.
    const KIND: &'static str;
}

/// A position at rest: its kind, and JSON that a person can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPosition {
    /// The [`Position::KIND`] that wrote it.
    pub kind: String,
    /// The position as JSON text.
    pub json: String,
}

impl StoredPosition {
    /// The form at rest of a typed position.
    ///
    /// # Errors
    /// [`PositionError::Unwritable`] if the type does not serialise to JSON.
    pub fn of<P: Position>(position: &P) -> Result<Self, PositionError> {
        let json = serde_json::to_string(position)
            .map_err(|e| PositionError::Unwritable { kind: P::KIND, why: e.to_string() })?;
        Ok(Self { kind: P::KIND.to_owned(), json })
    }

    /// The typed position that was stored.
    ///
    /// # Errors
    /// [`PositionError::Foreign`] if another kind of source wrote it, [`PositionError::Unreadable`]
    /// if the JSON is not of this type.
    pub fn read<P: Position>(&self) -> Result<P, PositionError> {
        if self.kind != P::KIND {
            return Err(PositionError::Foreign { found: self.kind.clone(), wanted: P::KIND });
        }
        serde_json::from_str(&self.json).map_err(|e| PositionError::Unreadable {
            kind: P::KIND,
            json: self.json.clone(),
            why: e.to_string(),
        })
    }
}

impl std::fmt::Display for StoredPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.json)
    }
}

/// Compares two stored positions by the type that wrote them; `None` when they are not comparable
/// or either cannot be read as that type.
pub type PositionOrder = fn(&StoredPosition, &StoredPosition) -> Option<Ordering>;

/// The [`PositionOrder`] of a typed position.
pub fn order_of<P: Position>(a: &StoredPosition, b: &StoredPosition) -> Option<Ordering> {
    let (a, b) = (a.read::<P>().ok()?, b.read::<P>().ok()?);
    a.partial_cmp(&b)
}

/// Why a stored position could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PositionError {
    /// Another kind of source wrote it.
    #[error(
        "the stored position is of kind '{found}', this source reads '{wanted}': another source wrote it; \
         use another pipeline name, or `piton reset` to begin anew"
    )]
    Foreign {
        /// The kind that was stored.
        found: String,
        /// The kind that this source reads.
        wanted: &'static str,
    },
    /// The JSON does not have the shape of this kind.
    #[error("the stored {kind} position {json} cannot be read: {why}")]
    Unreadable {
        /// The kind of the position.
        kind: &'static str,
        /// What is stored.
        json: String,
        /// What is wrong with it.
        why: String,
    },
    /// The position could not be turned into JSON.
    #[error("a {kind} position cannot be written as JSON: {why}")]
    Unwritable {
        /// The kind of the position.
        kind: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

macro_rules! number_position {
    ($($t:ty => $kind:literal),*) => {$(
        impl Position for $t {
            const KIND: &'static str = $kind;
        }
    )*};
}
// A program's own loop counts records with a plain number.
number_position!(u64 => "number", i64 => "signed_number", u32 => "small_number");

// Keys and names, compared byte by byte.
impl Position for String {
    const KIND: &'static str = "text";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_rest() {
        let at = StoredPosition::of(&42_u64).unwrap();
        assert_eq!((at.kind.as_str(), at.json.as_str()), ("number", "42"));
        assert_eq!(at.read::<u64>(), Ok(42));
    }

    #[test]
    fn another_kind_is_refused_by_name() {
        let at = StoredPosition { kind: "file".into(), json: "{}".into() };
        assert!(matches!(at.read::<u64>(), Err(PositionError::Foreign { .. })));
    }

    #[test]
    fn what_cannot_be_read_is_not_comparable() {
        let good = StoredPosition::of(&1_u64).unwrap();
        let bad = StoredPosition { kind: "number".into(), json: "\"x\"".into() };
        assert_eq!(order_of::<u64>(&good, &bad), None);
        assert_eq!(order_of::<u64>(&good, &good), Some(Ordering::Equal));
    }
}
