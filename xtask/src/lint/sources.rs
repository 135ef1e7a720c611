//! House rules about source files: how long, how named, and what must not be in them.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::command::Failure;

/// The most lines that a source file may have.
const LINES_MAX: usize = 600;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Names that say nothing: what is in such a file belongs to what it serves.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "misc", "manager", "managers", "shared"];

/// What must not be in a source file, and why. Split so that this file does not contain them.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("todo", "!("), "what is not built is absent, not announced"),
    (concat!("unimplemented", "!("), "what is not built is absent, not announced"),
    (concat!("#[ig", "nore"), "a test that does not run proves nothing: mend or remove it"),
];

/// Checks every source file and folder of the workspace.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let files = files_below(root)?;
    for path in &files {
        let shown = shown(root, path);
        findings.extend(check_name(&shown));
        if path.extension() == Some(OsStr::new("rs")) {
            let text = std::fs::read_to_string(path).map_err(Failure::at(path))?;
            findings.extend(check_length(&shown, &text, LONG_FILES));
            findings.extend(check_text(&shown, &text));
        }
        if path.file_name() == Some(OsStr::new("Cargo.toml")) && path.parent() != Some(root) {
            let text = std::fs::read_to_string(path).map_err(Failure::at(path))?;
            findings.extend(check_manifest(&shown, &text));
        }
    }
    for (path, _) in LONG_FILES {
        if !root.join(path).exists() {
            findings.push(finding(path, "is excepted from the length rule but not there any more"));
        }
    }
    Ok(findings)
}

/// Every file of the repository: build output and hidden folders left out, in order of name.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Failure::at(folder))? {
        entries.push(entry.map_err(Failure::at(folder))?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The path as people write it: from the root, with slashes.
pub(super) fn shown(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    inside.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
}

fn finding(place: &str, what: impl Into<String>) -> Finding {
    Finding { place: place.to_owned(), what: what.into() }
}

fn check_name(path: &str) -> Option<Finding> {
    let empty = path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        EMPTY_NAMES.contains(&stem)
    })?;
    Some(finding(path, format!("'{empty}' says nothing: name it for what is in it")))
}

fn check_length(path: &str, text: &str, excepted: &[(&str, &str)]) -> Option<Finding> {
    let lines = text.lines().count();
    let is_excepted = excepted.iter().any(|(excepted, _)| *excepted == path);
    match (lines > LINES_MAX, is_excepted) {
        (true, false) => {
            Some(finding(path, format!("{lines} lines, {LINES_MAX} is the limit: divide it")))
        }
        (false, true) => Some(finding(path, "is short enough again: take it off LONG_FILES")),
        _ => None,
    }
}

fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", number + 1);
        for (forbidden, why) in FORBIDDEN {
            if line.contains(forbidden) {
                findings.push(finding(&place, format!("'{forbidden}': {why}")));
            }
        }
    }
    findings
}

fn check_manifest(path: &str, text: &str) -> Option<Finding> {
    if text.contains("[lints]\nworkspace = true") {
        return None;
    }
    Some(finding(path, "does not take the workspace's lints: add `[lints]` `workspace = true`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found_as_folders_and_files() {
        assert!(check_name("crates/piton/src/common/a.rs").is_some());
        assert!(check_name("crates/piton/src/utils.rs").is_some());
        assert!(check_name("crates/piton/src/commonplace.rs").is_none());
    }

    #[test]
    fn a_long_file_needs_a_reason_and_a_reason_needs_a_long_file() {
        let long = "\n".repeat(LINES_MAX + 1);
        let excepted = [("a.rs", "a table")];
        assert!(check_length("a.rs", &long, &[]).is_some());
        assert!(check_length("a.rs", &long, &excepted).is_none());
        assert!(check_length("a.rs", "", &excepted).is_some());
        assert!(check_length("a.rs", &"\n".repeat(LINES_MAX), &[]).is_none());
    }

    #[test]
    fn forbidden_words_are_found_by_line() {
        let text = format!("fn a() {{\n    {})\n}}", FORBIDDEN[0].0);
        let found = check_text("a.rs", &text);
        assert_eq!(found.iter().map(|f| f.place.as_str()).collect::<Vec<_>>(), ["a.rs:2"]);
    }

    #[test]
    fn a_manifest_takes_the_lints() {
        assert!(check_manifest("Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n").is_none());
        assert!(check_manifest("Cargo.toml", "[package]\n").is_some());
    }
}
