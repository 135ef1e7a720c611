//! What of a job's file decides what it does, without secrets.

use serde_json::{Map, Value as Json};

use crate::config::{
    entry_json,
    tree::{Key, Node, Value},
    tree_json,
};

/// Keys that say how, and not what: they may be changed between two attempts of a run.
const HOW: &[&str] = &[
    "checkpoint",
    "claim",
    "commit",
    "concurrency",
    "history",
    "limits",
    "max_age",
    "on_error",
    "on_source_change",
    "parallel",
    "retry",
    "store",
    "timeout",
];
/// The same of a source.
const HOW_TO_READ: &[&str] = &["batch", "rate"];

/// A job, with its keys in order.
pub(super) fn described(root: &Node) -> Json {
    let mut job = Map::new();
    for (key, node) in sorted(root, HOW) {
        let json = if key.name == "steps" { steps(node) } else { tree_json(node) };
        job.insert(key.name.clone(), json);
    }
    Json::Object(job)
}

fn steps(node: &Node) -> Json {
    let Value::List(items) = &node.value else { return tree_json(node) };
    items.iter().map(step).collect()
}

fn step(node: &Node) -> Json {
    let mut step = Map::new();
    for entry in sorted(node, HOW) {
        let (key, value) = entry;
        let json = match key.name.as_str() {
            "steps" => steps(value),
            "source" => source(value),
            "for_each" => Json::Object(
                sorted(value, &[])
                    .map(|entry| match entry {
                        (key, node) if key.name == "source" => (key.name.clone(), source(node)),
                        other => entry_json(other),
                    })
                    .collect(),
            ),
            "after" => names(value),
            _ => tree_json(value),
        };
        step.insert(key.name.clone(), json);
    }
    Json::Object(step)
}

fn source(node: &Node) -> Json {
    let connector = |(key, settings): &(Key, Node)| {
        let kept = sorted(settings, HOW_TO_READ).map(entry_json).collect();
        (key.name.clone(), Json::Object(kept))
    };
    Json::Object(sorted(node, HOW_TO_READ).map(connector).collect())
}

/// A list of names whose order means nothing.
fn names(node: &Node) -> Json {
    let mut names = tree_json(node);
    if let Json::Array(names) = &mut names {
        names.sort_by_key(Json::to_string);
        names.dedup();
    }
    names
}

fn sorted<'n>(node: &'n Node, without: &'n [&str]) -> impl Iterator<Item = &'n (Key, Node)> {
    let mut entries: Vec<&(Key, Node)> = node.entries().iter().collect();
    entries.retain(|(key, _)| !without.contains(&key.name.as_str()));
    entries.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    entries.into_iter()
}
