//! House rules about documents: every page can be found, and every link leads somewhere.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

use super::{
    Finding,
    sources::{files_below, shown},
};
use crate::command::Failure;

/// Checks every Markdown file of the repository.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut linked = BTreeSet::new();
    let mut pages = Vec::new();
    for page in files_below(root)? {
        if page.extension() != Some(OsStr::new("md")) {
            continue;
        }
        let text = std::fs::read_to_string(&page).map_err(Failure::at(&page))?;
        let folder = page.parent().unwrap_or(root);
        for (line, link) in links(&text) {
            let target = resolve(folder, &link);
            if !target.exists() {
                let place = format!("{}:{line}", shown(root, &page));
                findings.push(Finding { place, what: format!("the link '{link}' leads nowhere") });
            }
            if target != page {
                linked.insert(target);
            }
        }
        pages.push(page);
    }
    for page in pages.into_iter().filter(|page| page.starts_with(root.join("docs"))) {
        if !linked.contains(&page) {
            let what = "no page links here: link it from README.md or another page of docs/";
            findings.push(Finding { place: shown(root, &page), what: what.to_owned() });
        }
    }
    Ok(findings)
}

/// The links into the repository, each with its line: `[text](target)` outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second piece between backticks is code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        for piece in prose.join("").split("](").skip(1) {
            let target = piece.split([')', '#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, target.to_owned()));
            }
        }
    }
    found
}

/// The path that a link from a folder leads to, without `.` and `..`.
fn resolve(folder: &Path, link: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_code_and_to_other_sites_are_left_alone() {
        let text =
            "[a](b.md#c) `[x](y.md)`\n```\n[x](y.md)\n```\n[web](https://example.org) [d](../e.md)";
        assert_eq!(links(text), [(1, "b.md".to_owned()), (5, "../e.md".to_owned())]);
    }

    #[test]
    fn orphans_and_dead_links_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("docs")).unwrap();
        std::fs::write(root.join("README.md"), "[one](docs/one.md) [gone](docs/gone.md)").unwrap();
        std::fs::write(root.join("docs/one.md"), "[itself](one.md)").unwrap();
        std::fs::write(root.join("docs/two.md"), "[itself](two.md)").unwrap();
        let places: Vec<_> = check(root).unwrap().into_iter().map(|f| f.place).collect();
        assert_eq!(places, ["README.md:1", "docs/two.md"]);
    }
}
