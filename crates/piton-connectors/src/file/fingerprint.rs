//! What was consumed, in three hashes: so that a file that was rewritten is noticed.
//!
//! Every consumed byte is hashed once, as it goes by, in chunks of 64 KiB that are aligned to the
//! stream's beginning. The *head* is the hash of the first chunk. The *tail* combines the hashes of
//! the last whole chunk and of the part of a chunk after it, so it covers the last 64 to 128 KiB.
//! *All* chains the hashes of the whole chunks, each with what came before. That chain is a plain
//! number: it can be stored and gone on with after any number of resumes, which the inner state
//! of a streaming hash cannot. Head and tail are checked on every resume, at the price of reading
//! at most 192 KiB; the chain only when all is asked for. XXH3 recognises accidents and edits, not
//! an adversary.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes in a chunk.
pub(super) const CHUNK: usize = 64 * 1024;

/// A 64-bit hash, written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(hash) if digits => Ok(Self(hash)),
            _ => Err(de::Error::custom("a hash has 16 hexadecimal digits")),
        }
    }
}

/// The hashes of the first `upto` bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// How many bytes were consumed when the hashes were taken: the end of the batch before.
    pub upto: u64,
    /// Of the first 64 KiB, or of all if there is less.
    pub head: Digest,
    /// Of the last 64 to 128 KiB.
    pub tail: Digest,
    /// Of every whole chunk, chained. With the tail it covers every byte.
    pub all: Digest,
}

/// Hashes what is consumed.
#[derive(Clone)]
pub(super) struct Fingerprinter {
    /// Of the chunk that is not whole yet.
    partial: Xxh3,
    /// Bytes in it.
    filled: usize,
    upto: u64,
    /// Of the first chunk, once it is whole.
    head: Option<Digest>,
    /// Of the last whole chunk; 0 before there is one.
    last: u64,
    /// Of all whole chunks.
    chain: u64,
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprinter").field(&self.fingerprint()).finish()
    }
}

impl Fingerprinter {
    /// At the beginning of a stream.
    pub(super) fn new() -> Self {
        Self { partial: Xxh3::new(), filled: 0, upto: 0, head: None, last: 0, chain: 0 }
    }

    /// Goes on after `known`, of which `recent` are the bytes from [`recent_from`] on. The caller
    /// compares the fingerprint with `known`: here the head and the chain are taken on trust.
    pub(super) fn after(known: &Fingerprint, recent: &[u8]) -> Self {
        let mut hasher = Self::new();
        hasher.upto = recent_from(known.upto);
        hasher.update(recent);
        hasher.chain = known.all.0;
        hasher.head = (known.upto >= CHUNK as u64).then_some(known.head);
        hasher
    }

    /// How many bytes were hashed.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }

    /// Hashes consumed bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.upto += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
            self.partial.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == CHUNK {
                self.close_chunk();
            }
        }
    }

    fn close_chunk(&mut self) {
        self.last = self.partial.digest();
        self.head.get_or_insert(Digest(self.last));
        self.chain = pair(self.chain, self.last);
        self.partial.reset();
        self.filled = 0;
    }

    /// The fingerprint of what was hashed.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let partial = self.partial.digest();
        Fingerprint {
            upto: self.upto,
            head: self.head.unwrap_or(Digest(partial)),
            tail: Digest(pair(self.last, partial)),
            all: Digest(self.chain),
        }
    }
}

/// Where the bytes begin that the tail of a fingerprint covers.
pub(super) fn recent_from(upto: u64) -> u64 {
    let chunk = CHUNK as u64;
    (upto / chunk * chunk).saturating_sub(chunk)
}

/// The hash of a stream's first bytes, at most a chunk.
pub(super) fn head_of(bytes: &[u8]) -> Digest {
    Digest(xxh3_64(bytes))
}

fn pair(before: u64, hash: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&before.to_le_bytes());
    bytes[8..].copy_from_slice(&hash.to_le_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn of(bytes: &[u8]) -> Fingerprint {
        let mut hasher = Fingerprinter::new();
        hasher.update(bytes);
        hasher.fingerprint()
    }

    #[test]
    fn how_the_bytes_are_cut_does_not_matter() {
        let bytes = noise(3 * CHUNK + 1234);
        for step in [1000, CHUNK - 1, CHUNK, CHUNK + 1] {
            let mut hasher = Fingerprinter::new();
            bytes.chunks(step).for_each(|part| hasher.update(part));
            assert_eq!(hasher.fingerprint(), of(&bytes));
        }
    }

    #[test]
    fn a_resumed_chain_equals_one_that_never_stopped() {
        let bytes = noise(5 * CHUNK);
        for upto in
            [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 4 * CHUNK + 77, 5 * CHUNK]
        {
            let known = of(&bytes[..upto]);
            let from = recent_from(upto as u64) as usize;
            let mut resumed = Fingerprinter::after(&known, &bytes[from..upto]);
            assert_eq!(resumed.fingerprint(), known, "at {upto}");
            resumed.update(&bytes[upto..]);
            assert_eq!(resumed.fingerprint(), of(&bytes), "at {upto}");
        }
    }

    #[test]
    fn a_changed_byte_changes_what_covers_it() {
        let bytes = noise(4 * CHUNK + 10);
        let whole = of(&bytes);
        for at in (0..bytes.len()).step_by(997) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let seen = of(&changed);
            assert_eq!(seen.head != whole.head, at < CHUNK, "head at {at}");
            assert_eq!(seen.tail != whole.tail, at >= 3 * CHUNK, "tail at {at}");
            assert_eq!(seen.all != whole.all, at < 4 * CHUNK, "all at {at}");
        }
    }

    #[test]
    fn a_hash_is_read_strictly() {
        assert_eq!(serde_json::from_str::<Digest>("\"00000000000000ff\"").unwrap(), Digest(255));
        for wrong in ["\"ff\"", "\"+0000000000000ff\"", "\"00000000000000fg\"", "255"] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
    }
}
