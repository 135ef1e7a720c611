//! Where a record stands in a file, and what of the file was consumed to get there.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use piton_core::{Position, PositionError, StoredPosition};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IgnoredAny};

use super::{
    fingerprint::{Fingerprint, Fingerprinter},
    identity::FileId,
    settings::FieldType,
};
use crate::batch::{Marks, Origin};

/// A place in a file, or in the succession of files that a rotated log is.
///
/// Ordered by rotation, then offset; the rest describes the place and does not decide. Offsets
/// count the bytes of the decompressed stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePosition {
    /// How often the file was rotated since the pipeline began to follow it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotation: u64,
    /// The byte at which reading goes on.
    pub offset: u64,
    /// The line of that byte, from 1.
    pub line: u64,
    /// What was consumed, as of the end of the batch before: at most `offset` bytes.
    pub fingerprint: Fingerprint,
    /// Which file it is, where it is followed through rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileId>,
    /// The column types that were guessed from the first rows, so that they stay what they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Guessed>,
}

/// Guessed column types, by name; columns that are not named are text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guessed(pub Arc<BTreeMap<String, FieldType>>);

impl Serialize for Guessed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Guessed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|types| Self(Arc::new(types)))
    }
}

impl PartialEq for FilePosition {
    fn eq(&self, other: &Self) -> bool {
        (self.rotation, self.offset) == (other.rotation, other.offset)
    }
}

impl PartialOrd for FilePosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some((self.rotation, self.offset).cmp(&(other.rotation, other.offset)))
    }
}

impl Position for FilePosition {
    const KIND: &'static str = "file";
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (byte {})", self.line, self.offset)
    }
}

impl FilePosition {
    /// The form at rest.
    pub fn stored(&self) -> StoredPosition {
        // Numbers and hexadecimal text always serialise. Were it otherwise, an empty text is
        // refused when it is read again: it never means the beginning.
        StoredPosition::of(self)
            .unwrap_or_else(|_| StoredPosition { kind: Self::KIND.to_owned(), json: String::new() })
    }

    /// A place as a person writes it: `offset`, with `rotation` where there was one. What else a
    /// position shows does not decide and may be left out.
    ///
    /// # Errors
    /// [`PositionError`] when it says no offset, or something that no position has.
    pub fn sought(json: &str) -> Result<Self, PositionError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sought {
            #[serde(default)]
            rotation: u64,
            offset: u64,
            #[serde(default)]
            line: Option<u64>,
            #[serde(default, rename = "fingerprint")]
            _fingerprint: IgnoredAny,
            #[serde(default, rename = "file")]
            _file: IgnoredAny,
            #[serde(default, rename = "types")]
            _types: IgnoredAny,
        }
        let unreadable = |e: serde_json::Error| PositionError::Unreadable {
            kind: Self::KIND,
            json: json.to_owned(),
            why: e.to_string(),
        };
        let Sought { rotation, offset, line, .. } =
            serde_json::from_str(json).map_err(unreadable)?;
        let fingerprint = Fingerprinter::new().fingerprint();
        let line = line.unwrap_or(1);
        Ok(Self { rotation, offset, line, fingerprint, file: None, types: None })
    }

    /// The position that was stored, if it can be one.
    ///
    /// # Errors
    /// [`PositionError`] when another kind of source wrote it or it contradicts itself.
    pub fn restore(stored: &StoredPosition) -> Result<Self, PositionError> {
        let position: Self = stored.read()?;
        let wrong = |why: &str| PositionError::Unreadable {
            kind: Self::KIND,
            json: stored.json.clone(),
            why: why.to_owned(),
        };
        if position.fingerprint.upto > position.offset {
            return Err(wrong("its fingerprint reaches past its offset"));
        }
        if position.line == 0 {
            return Err(wrong("lines count from 1"));
        }
        Ok(position)
    }
}

/// Reads the marks of a batch: its rows share what was consumed before the batch, or up to a step
/// within it.
#[derive(Debug)]
pub(super) struct FileMarks {
    pub(super) partition: Arc<str>,
    /// Where the batch begins.
    pub(super) begin: FilePosition,
    /// What was consumed at some places within it, in order.
    pub(super) steps: Vec<Fingerprint>,
}

impl Marks for FileMarks {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        let before = self.steps.partition_point(|step| step.upto <= origin.mark);
        let fingerprint = match before.checked_sub(1) {
            Some(last) => self.steps[last],
            None => self.begin.fingerprint,
        };
        let (offset, line) = (origin.mark, origin.line);
        FilePosition { offset, line, fingerprint, ..self.begin.clone() }.stored()
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        write_id(self.begin.rotation, origin.mark, out);
    }

    fn place(&self, origin: Origin) -> String {
        format!("{}, line {}", self.partition, origin.line)
    }
}

/// The part of a stable id that follows the partition: the offset, with the rotation before it
/// once there was one.
pub(super) fn write_id(rotation: u64, offset: u64, out: &mut String) {
    use fmt::Write as _;
    if rotation > 0 {
        let _ = write!(out, "{rotation}.");
    }
    let _ = write!(out, "{offset}");
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rotation: u64, offset: u64) -> FilePosition {
        let mut hasher = Fingerprinter::new();
        hasher.update(&[b'x'; 100][..(offset as usize).min(100)]);
        let fingerprint = hasher.fingerprint();
        FilePosition { rotation, offset, line: 7, fingerprint, file: None, types: None }
    }

    #[test]
    fn rotation_counts_before_offset() {
        assert!(at(0, 900) < at(1, 0));
        assert!(at(1, 5) < at(1, 6));
        assert_eq!(at(1, 5).partial_cmp(&at(1, 5)), Some(Ordering::Equal));
    }

    #[test]
    fn a_person_can_write_one() {
        let sought = |json: &str| FilePosition::sought(json);
        assert_eq!(sought("{\"offset\":50}").unwrap(), at(0, 50));
        assert_eq!(sought("{\"rotation\":1,\"offset\":50,\"line\":3}").unwrap(), at(1, 50));
        let stored = at(0, 50).stored().json;
        assert_eq!(sought(&stored).unwrap(), at(0, 50));
        for wrong in ["{}", "{\"lsn\":5}", "{\"offset\":-1}", "{\"offset\":1,\"lsn\":5}"] {
            assert!(sought(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let stored = at(0, 0).stored();
        assert_eq!(
            stored.json,
            r#"{"offset":0,"line":7,"fingerprint":{"upto":0,"head":"2d06800538d394c2","tail":"854121d5f7000a9d","all":"0000000000000000"}}"#
        );
        assert_eq!(FilePosition::restore(&stored).unwrap(), at(0, 0));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        // Invariant 4: damaged state is never read as something else.
        let good = at(0, 50).stored();
        for (from, to) in [
            ("\"upto\":50", "\"upto\":51"),
            ("\"line\":7", "\"line\":0"),
            ("\"offset\":50", "\"offset\":-50"),
            ("{\"offset\"", "{\"new\":1,\"offset\""),
        ] {
            let json = good.json.replacen(from, to, 1);
            assert_ne!(json, good.json);
            let stored = StoredPosition { json, ..good.clone() };
            assert!(matches!(
                FilePosition::restore(&stored),
                Err(PositionError::Unreadable { .. })
            ));
        }
    }
}
