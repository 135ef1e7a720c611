//! Who holds a database's write lock, as far as the operating system tells. For people only.

use std::path::Path;

/// Names the process that holds the write lock of a database, where that can be known.
#[cfg(target_os = "linux")]
pub(crate) fn name(path: &Path) -> Option<String> {
    use std::{ffi::OsString, os::unix::fs::MetadataExt};

    // In WAL mode the lock is byte 120 of the shared-memory file, otherwise the reserved byte of
    // the database itself: see the file format documentation of SQLite.
    const WAL_WRITE: u64 = 120;
    const RESERVED: u64 = 0x4000_0001;

    let mut shared = OsString::from(path);
    shared.push("-shm");
    let places = [(path.to_path_buf(), RESERVED), (shared.into(), WAL_WRITE)];
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    for (file, byte) in places {
        let Ok(inode) = file.metadata().map(|m| m.ino().to_string()) else { continue };
        let pid = locks.lines().find_map(|line| {
            let [_, _, _, kind, pid, file, from, to] =
                line.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
            let from: u64 = from.parse().ok()?;
            let to = to.parse().unwrap_or(u64::MAX);
            let is_it = kind == "WRITE"
                && file.rsplit(':').next() == Some(&inode)
                && (from..=to).contains(&byte);
            is_it.then_some(pid)
        });
        if let Some(pid) = pid {
            return Some(format!("process {pid}"));
        }
    }
    None
}

/// Elsewhere nobody tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn name(_: &Path) -> Option<String> {
    None
}
