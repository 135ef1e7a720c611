//! What Piton is to have and has not yet. Using it is an error that says so, instead of a guess at
//! what was misspelt; nothing else speaks of it.

use super::{
    error::{Condition, Problem},
    file::SINKS,
    tree::{Key, Node},
};

/// Keys of a job, which only a job's file has.
const OF_JOBS: &[&str] = &["job", "steps"];
/// Systems that are not read from or written to yet.
const SYSTEMS: &[&str] =
    &["postgres", "postgresql", "mysql", "mariadb", "kafka", "parquet", "arrow"];
#[cfg(feature = "postgres")]
const SOURCES: &[&str] = &["csv", "jsonl", "sql", "postgres_outbox", "command"];
#[cfg(not(feature = "postgres"))]
const SOURCES: &[&str] = &["csv", "jsonl", "sql", "command"];

/// Names what the file uses of it.
pub(super) fn find(root: &Node) -> Vec<Problem> {
    let mut found = Vec::new();
    let of_job = root.entries().iter().find(|(key, _)| OF_JOBS.contains(&key.name.as_str()));
    found.extend(of_job.map(|(key, _)| {
        let hint = "describe one pipeline with `pipeline: NAME`, `source:` and `sinks:`";
        not_built(key, "jobs are".to_owned(), hint.to_owned())
    }));
    if let Some(source) = root.get("source") {
        found.extend(systems(source, "source", SOURCES));
    }
    for (_, sink) in root.get("sinks").map_or(&[][..], Node::entries) {
        found.extend(systems(sink, "sink", SINKS));
    }
    found
}

fn systems(node: &Node, role: &str, there: &[&str]) -> Vec<Problem> {
    let is_planned = |name: &str| SYSTEMS.contains(&name) && !there.contains(&name);
    let planned = node.entries().iter().filter(|(key, _)| is_planned(&key.name));
    let there = there.join(", ");
    planned
        .map(|(key, _)| {
            not_built(key, format!("the {role} `{}` is", key.name), format!("use one of {there}"))
        })
        .collect()
}

fn not_built(key: &Key, what: String, hint: String) -> Problem {
    Problem { at: key.at, what: Condition::NotBuilt { what, hint } }
}
