//! The tree of a job's steps, as the store knows it: from the definition that was registered, or,
//! where a program or a script made the steps, from their checkpoints.

use std::collections::HashSet;

use serde_json::Value;

/// A step's path and what it waits for, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    /// Paths of the siblings that it comes after.
    pub(super) after: Vec<String>,
    /// What is below it is done for each of many records, and is nothing by itself.
    pub(super) is_each: bool,
}

impl Entry {
    /// A step of a program or a script.
    pub(super) fn alone(path: String) -> Self {
        Self { path, after: Vec::new(), is_each: false }
    }

    /// Whether a path is of a step that is done for each of this one's records.
    pub(super) fn has_each(&self, path: &str) -> bool {
        let rest = path.strip_prefix(&self.path).filter(|_| self.is_each);
        rest.is_some_and(|rest| rest.starts_with(['/', '#']))
    }
}

/// The steps of a registered definition; empty if it names none.
pub(super) fn of(definition: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Ok(job) = serde_json::from_str::<Value>(definition) {
        below("", &job, &mut entries);
    }
    entries
}

fn below(parent: &str, of: &Value, entries: &mut Vec<Entry>) {
    let path = |name: &str| match parent {
        "" => name.to_owned(),
        parent => format!("{parent}/{name}"),
    };
    for step in of["steps"].as_array().into_iter().flatten() {
        let Some(name) = step["step"].as_str() else { continue };
        let after = step["after"].as_array().into_iter().flatten();
        let after = after.filter_map(Value::as_str).map(path).collect();
        let is_each = !step["for_each"].is_null();
        entries.push(Entry { path: path(name), after, is_each });
        if !is_each {
            below(&path(name), step, entries);
        }
    }
}

/// The step, what is below it, and what comes after it: later in the file, or waiting for it.
pub(super) fn from(entries: &[Entry], path: &str) -> Vec<String> {
    let Some(first) = entries.iter().position(|entry| entry.path == path) else {
        return Vec::new();
    };
    let mut chosen: Vec<String> = entries[first..].iter().map(|entry| entry.path.clone()).collect();
    let mut known: HashSet<&str> = entries[first..].iter().map(|entry| &*entry.path).collect();
    // What waits for a chosen step may stand before it in the file.
    loop {
        let waits = |entry: &&Entry| {
            let mut above = entry.path.match_indices('/').map(|(end, _)| &entry.path[..end]);
            !known.contains(&*entry.path)
                && (entry.after.iter().any(|other| known.contains(&**other))
                    || above.any(|of| known.contains(of)))
        };
        let Some(next) = entries[..first].iter().find(waits) else { return chosen };
        chosen.push(next.path.clone());
        known.insert(&next.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_step_is_later_in_the_file_or_waits_for_it() {
        let entries = of(r#"{"job":"j","steps":[
            {"step":"last","after":["b"]},
            {"step":"a","steps":[{"step":"x"},{"step":"y"}]},
            {"step":"b"},{"step":"c","for_each":{},"steps":[{"step":"z"}]}]}"#);
        let paths: Vec<&str> = entries.iter().map(|entry| &*entry.path).collect();
        assert_eq!(paths, ["last", "a", "a/x", "a/y", "b", "c"]);
        assert_eq!(from(&entries, "a/y"), ["a/y", "b", "c", "last"]);
        assert_eq!(from(&entries, "c"), ["c"]);
        assert_eq!(from(&entries, "none"), [] as [&str; 0]);
        assert!(entries[5].has_each("c/z") && entries[5].has_each("c#1/z"));
        assert!(!entries[1].has_each("a/x") && !entries[5].has_each("c2"));
        assert_eq!(of("no JSON"), []);
    }
}
