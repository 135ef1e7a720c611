//! What the two formats have in common: what cutting a record gives, and how a bad one is shown.

use crate::batch::Origin;

use super::window::Window;

/// What cutting the next record gave.
pub(super) enum Cut {
    /// It was appended to the batch, and consumed.
    Record,
    /// It cannot be read. Nothing was consumed.
    Bad(Box<Flaw>),
    /// The end of the stream has come, for now if the stream is growing.
    End,
}

/// A record that cannot be read.
#[derive(Debug)]
pub(super) struct Flaw {
    /// Where it begins.
    pub(super) origin: Origin,
    /// Where in it, for example `column 3 (dep_delay)`. May be empty.
    pub(super) within: String,
    /// What is wrong.
    pub(super) reason: String,
    /// The record as it was read, abridged.
    pub(super) raw: String,
    /// The bytes and line ends to pass over, so that reading goes on after it.
    pub(super) pass: (usize, u64),
    /// Whether the rest of the line must be passed over, too: it has not been read yet.
    pub(super) rest_of_line: bool,
}

/// The most of a bad record that is kept, in bytes.
const RAW_LIMIT: usize = 4096;

/// What ends a bad record that was abridged.
const ABRIDGED: &str = " … [abridged]";

/// The most of a value that is shown in a reason, in characters.
const SHOWN: usize = 80;

impl Flaw {
    /// A flaw in the next record of a window, which has so many bytes and line ends.
    pub(super) fn new(window: &Window, pass: (usize, u64), reason: String) -> Self {
        let raw = &window.bytes()[..pass.0];
        Self {
            origin: origin(window),
            within: String::new(),
            reason,
            raw: shown_raw(raw),
            pass,
            rest_of_line: false,
        }
    }

    /// The same, with the place inside of the record.
    pub(super) fn within(mut self, place: String) -> Self {
        self.within = place;
        self
    }

    /// The next record is longer than the limit. Only its first line is passed over: if the cause
    /// is a quote that is never closed, the lines after it are records.
    pub(super) fn too_long(window: &Window, limit: usize, advice: &str) -> Self {
        let reason = format!(
            "the record is longer than `limits: {{record: {limit}}}` bytes; {advice}its first line \
             was passed over"
        );
        Self::first_line(window, reason)
    }

    /// A flaw after which reading goes on with the next line.
    pub(super) fn first_line(window: &Window, reason: String) -> Self {
        match memchr::memchr(b'\n', window.bytes()) {
            Some(at) => Self::new(window, (at + 1, 1), reason),
            None => {
                Self { rest_of_line: true, ..Self::new(window, (window.bytes().len(), 0), reason) }
            }
        }
    }
}

/// Where the next record of a window begins.
pub(super) fn origin(window: &Window) -> Origin {
    Origin { mark: window.offset(), line: window.line_number(), ordinal: 0 }
}

/// Whether a bad record's text is not all of it.
pub(super) fn is_abridged(raw: &str) -> bool {
    raw.ends_with(ABRIDGED)
}

fn shown_raw(raw: &[u8]) -> String {
    let kept = &raw[..raw.len().min(RAW_LIMIT)];
    let text = String::from_utf8_lossy(kept);
    let text = text.trim_end_matches(['\r', '\n']);
    if raw.len() > RAW_LIMIT { format!("{text}{ABRIDGED}") } else { text.to_owned() }
}

/// A value as it stands in a reason.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("'{}…'", &value[..at]),
        None => format!("'{value}'"),
    }
}

/// Says where bytes cease to be UTF-8.
pub(super) fn not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> String {
    let at = error.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or_default();
    format!("not UTF-8: byte {} of the record is 0x{byte:02x}", at + 1)
}
