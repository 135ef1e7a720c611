//! Files: sources and sinks of CSV and JSON lines.
//!
//! A file is read by offset. What was consumed is hashed on the way, and the hashes are part of the
//! position, so that a resume notices a file that is not the one that was read and refuses to go on
//! in it ([`FilePosition`]). Compressed files are read as the stream that is in them. A file can be
//! followed as it grows: then the position also counts the rotations that it went through.
//!
//! A file is written by one process, which holds the system's lock on it. Its length is what the
//! checkpoint remembers: whatever was written past that is cut off before writing goes on, so no
//! record is there twice and none by half. One that is to be seen whole or not at all
//! ([`FileSink::whole`]) is written under a temporary name.

mod columns;
mod csv;
mod csv_rows;
mod fields;
mod fingerprint;
mod follow;
mod identity;
mod input;
mod json;
mod json_rows;
mod jsonl;
mod locate;
mod null_key;
mod number;
mod output;
mod partition;
mod paths;
mod position;
mod reader;
mod record;
mod resume;
mod rotation;
mod settings;
mod sink;
mod source;
mod whole;
mod window;

pub use fingerprint::{Digest, Fingerprint};
pub use identity::FileId;
pub(crate) use json::{Columns, NotARecord, object};
pub(crate) use json_rows::JsonRows;
pub use paths::is_named_by;
pub use position::{FilePosition, Guessed};
pub use settings::{
    Compression, CsvSettings, CsvSinkSettings, FieldType, FileSettings, Header, JsonlSettings,
    JsonlSinkSettings, Types,
};
pub use sink::FileSink;
pub use source::FileSource;
