//! Which files a path or glob names, and what their partitions are called.

use std::path::{Component, Path, PathBuf};

use super::{partition::Found, rotation::is_generation_of};
use crate::source::SourceError;

/// The files that a configured path names, in the order of their partitions' names. Paths are
/// relative to `base`, and so are the names. A file of just that name goes before a glob.
pub(super) fn find(path: &str, base: &Path) -> Result<Vec<Found>, SourceError> {
    let literal = base.join(path);
    if literal.exists() || !is_glob(path) {
        return Ok(Vec::from_iter(literal.exists().then(|| named(literal, base)).transpose()?));
    }
    let wrong = |what: String| SourceError::Settings { what };
    let Some(folder) = base.to_str() else {
        return Err(wrong(format!(
            "{}: a glob needs a folder whose name is UTF-8",
            base.display()
        )));
    };
    let pattern = absolute(path, folder);
    let matches = glob::glob(&pattern.to_string_lossy())
        .map_err(|error| wrong(format!("path: '{path}' is not a glob: {error}")))?;
    let mut found = Vec::new();
    for entry in matches {
        let path = entry.map_err(|error| SourceError::Io {
            path: error.path().to_owned(),
            error: error.into(),
        })?;
        if path.is_file() {
            found.push(named(path, base)?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn absolute(glob: &str, folder: &str) -> PathBuf {
    Path::new(&glob::Pattern::escape(folder)).join(glob).components().collect()
}

/// Whether a partition is one of those that a configured path names, whether or not its file is
/// there. One that was read under another path is not.
pub(super) fn names(path: &str, base: &Path, partition: &str) -> bool {
    if named(base.join(path), base).is_ok_and(|found| *found.name == *partition) {
        return true;
    }
    let pattern = base.to_str().filter(|_| is_glob(path)).map(|folder| absolute(path, folder));
    pattern.is_some_and(|pattern| matches(&pattern, &base.join(partition)))
}

/// Whether a configured path names this file, or would if it were there. `file` is a path without
/// links.
pub fn is_named_by(path: &str, base: &Path, file: &Path) -> bool {
    let literal = base.join(path);
    if literal.canonicalize().is_ok_and(|literal| literal == file) || literal == file {
        return true;
    }
    let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
    let Some(folder) = base.to_str().filter(|_| is_glob(path) && !literal.exists()) else {
        return false;
    };
    matches(&absolute(path, folder), file)
}

fn matches(pattern: &Path, file: &Path) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    glob::Pattern::new(&pattern.to_string_lossy())
        .is_ok_and(|pattern| pattern.matches_path_with(file, options))
}

/// Whether a path is a glob, which may name no file yet.
pub(super) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files that are followed: not those that a rotation left behind.
pub(super) fn find_followed(path: &str, base: &Path) -> Result<Vec<Found>, SourceError> {
    let mut found = find(path, base)?;
    let paths: Vec<PathBuf> = found.iter().map(|found| found.path.clone()).collect();
    found.retain(|found| !paths.iter().any(|path| is_generation_of(path, &found.path)));
    Ok(found)
}

fn named(path: PathBuf, base: &Path) -> Result<Found, SourceError> {
    let relative = path.strip_prefix(base).unwrap_or(&path);
    let plain: PathBuf = relative.components().filter(|part| *part != Component::CurDir).collect();
    match plain.to_str() {
        Some(name) => Ok(Found { name: name.into(), path }),
        None => Err(SourceError::Settings {
            what: format!(
                "{}: the name of a file to be read must be UTF-8, for it names a partition",
                path.display()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_by_its_path_or_glob() {
        let base = Path::new("/data/[x]");
        for (path, partition, expected) in [
            ("in.csv", "in.csv", true),
            ("./in.csv", "in.csv", true),
            ("/data/[x]/in.csv", "in.csv", true),
            ("/other/in.csv", "/other/in.csv", true),
            ("in2.csv", "in.csv", false),
            ("sub/in.csv", "in.csv", false),
            ("*.csv", "in.csv", true),
            ("./*.csv", "in.csv", true),
            ("*.csv", "sub/in.csv", false),
            ("**/*.csv", "sub/in.csv", true),
            ("/other/*.csv", "/other/in.csv", true),
            ("d*.csv", "in.csv", false),
        ] {
            assert_eq!(names(path, base, partition), expected, "{path} and {partition}");
        }
    }
}
