//! What a rotated file's earlier generations are called, and in which order they were written.
//!
//! `app.log` becomes `app.log.1` and that `app.log.2`; or `app.log-20260131`, or
//! `app-20260131.log`; any of them may be compressed. Other names (`app.log.old`) may hide the file
//! that was being read, but say nothing of its place in the order.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::identity::FileId;

/// What a name says of a generation's age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    /// Nothing.
    Unknown,
    /// When it was rotated away.
    Dated(String),
    /// How many were rotated away since. The order of this type is that of writing.
    Sequence(std::cmp::Reverse<u32>),
}

/// A file beside the one that is followed, which may be a generation of it.
#[derive(Debug, Clone)]
pub(super) struct Sibling {
    pub(super) path: PathBuf,
    pub(super) age: Age,
    pub(super) id: Option<FileId>,
}

/// The files beside this one whose names begin as its does, in the order of writing.
pub(super) fn siblings(path: &Path) -> io::Result<Vec<Sibling>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Ok(Vec::new());
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(age) = file_name.to_str().and_then(|other| age(name, other)) else { continue };
        // One that is compressed or removed just now is looked for again later.
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        if about.is_file() {
            found.push(Sibling { path: entry.path(), age, id: FileId::of(&about) });
        }
    }
    found.sort_by(|a, b| (&a.age, &a.path).cmp(&(&b.age, &b.path)));
    Ok(found)
}

/// Whether `other` is called as an earlier generation of `name`.
pub(super) fn is_generation_of(name: &Path, other: &Path) -> bool {
    let names =
        (name.file_name().and_then(|n| n.to_str()), other.file_name().and_then(|n| n.to_str()));
    match names {
        (Some(name_text), Some(other_text)) if name.parent() == other.parent() => {
            age(name_text, other_text).is_some_and(|age| age != Age::Unknown)
        }
        _ => false,
    }
}

/// What a file's name says of its age, if it may be a generation of `name` at all.
fn age(name: &str, other: &str) -> Option<Age> {
    let unpacked = [".gz", ".zst"].iter().find_map(|end| other.strip_suffix(end)).unwrap_or(other);
    if unpacked == name {
        return (other != name).then_some(Age::Unknown);
    }
    let after = unpacked.strip_prefix(name).filter(|after| !after.is_empty());
    let between = || {
        let (stem, extension) = name.rsplit_once('.')?;
        unpacked.strip_prefix(stem)?.strip_suffix(extension)?.strip_suffix('.')
    };
    let mark = after.or_else(between)?;
    let Some(mark) = mark.strip_prefix(['.', '-', '_']) else {
        return after.map(|_| Age::Unknown);
    };
    let digits = mark.bytes().filter(u8::is_ascii_digit).count();
    let others = mark.bytes().all(|b| b.is_ascii_digit() || b"-_.:T+Z".contains(&b));
    match mark.parse() {
        Ok(number) if digits == mark.len() && digits <= 3 => {
            Some(Age::Sequence(std::cmp::Reverse(number)))
        }
        _ if others && digits >= 4 => Some(Age::Dated(mark.to_owned())),
        _ => after.map(|_| Age::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_generations() {
        let dated = |text: &str| Some(Age::Dated(text.into()));
        let sequence = |n| Some(Age::Sequence(std::cmp::Reverse(n)));
        for (other, expected) in [
            ("app.log", None),
            ("app.log.1", sequence(1)),
            ("app.log.12.gz", sequence(12)),
            ("app.log-20260131", dated("20260131")),
            ("app.log-20260131.zst", dated("20260131")),
            ("app-2026-01-31.log", dated("2026-01-31")),
            ("app.1.log", sequence(1)),
            ("app.log.gz", Some(Age::Unknown)),
            ("app.log.old", Some(Age::Unknown)),
            ("app.log~", Some(Age::Unknown)),
            ("app-errors.log", None),
            ("apples.log", None),
            ("other.log.1", None),
        ] {
            assert_eq!(age("app.log", other), expected, "{other}");
        }
        assert!(is_generation_of(Path::new("d/app.log"), Path::new("d/app.log.1")));
        assert!(!is_generation_of(Path::new("d/app.log"), Path::new("e/app.log.1")));
        assert!(!is_generation_of(Path::new("d/app.log"), Path::new("d/app.log.old")));
    }

    #[test]
    fn siblings_come_in_the_order_of_writing() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["app.log.10", "app.log.2", "app.log", "app.log.1.gz", "app.log.old", "b.log"];
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("app.log.3")).unwrap();
        let found = siblings(&folder.path().join("app.log")).unwrap();
        let found: Vec<_> =
            found.iter().map(|s| s.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(found, ["app.log.old", "app.log.10", "app.log.2", "app.log.1.gz"]);
    }
}
