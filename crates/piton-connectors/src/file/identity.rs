//! Which file a file is, whatever it is called.

use std::fs::Metadata;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A file's identity on its machine, which a rename does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileId {
    /// The device.
    pub device: u64,
    /// The inode. It is given to another file soon after this one is deleted.
    pub inode: u64,
    /// When it was created, where the file system keeps that: tells files apart that had the same
    /// inode one after the other. Only ever compared for being the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

impl FileId {
    /// The identity, where the system has such a thing.
    #[cfg(unix)]
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
    pub(super) fn of(about: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let created = about.created().ok().and_then(|time| Timestamp::try_from(time).ok());
        Some(Self { device: about.dev(), inode: about.ino(), created })
    }

    /// The identity, where the system has such a thing.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Option<Self> {
        None
    }
}
