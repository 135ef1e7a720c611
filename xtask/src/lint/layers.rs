//! House rule: arrows between crates go one way.

use serde_json::Value;

use super::Finding;
use crate::command::{Failure, cargo, output};

/// The crates from the bottom up. A crate may depend on those before it, never on those after.
const LAYERS: &[&str] = &[
    "piton-core",
    "piton-stores",
    "piton",
    "piton-connectors",
    "piton-engine",
    "piton-server",
    "piton-cli",
];

/// For tests alone: others have it as a dev-dependency, and of the house it sees the core, which
/// names the fault points.
const TESTKIT: &str = "piton-testkit";

/// May depend on every crate; no crate depends on it.
const XTASK: &str = "xtask";

/// Reads the dependencies between the workspace's crates from cargo.
pub(super) fn check() -> Result<Vec<Finding>, Failure> {
    let metadata = output(&mut cargo(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_slice(&metadata)
        .map_err(|error| Failure::Found(format!("cargo metadata is not JSON: {error}")))?;
    Ok(check_metadata(&metadata))
}

fn check_metadata(metadata: &Value) -> Vec<Finding> {
    let packages = list(&metadata["packages"]);
    let names: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if !LAYERS.contains(&name) && name != TESTKIT && name != XTASK {
            let what = "has no place in the house: add it to LAYERS in xtask/src/lint/layers.rs";
            findings.push(Finding { place: name.to_owned(), what: what.to_owned() });
        }
        for dependency in list(&package["dependencies"]) {
            let on = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            if names.contains(&on) && !is_allowed(name, on, dev) {
                let what =
                    format!("must not depend on {on}: arrows go down ({})", LAYERS.join(" < "));
                findings.push(Finding { place: name.to_owned(), what });
            }
        }
    }
    findings
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_allowed(from: &str, on: &str, dev: bool) -> bool {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (from, on) {
        (XTASK, _) => true,
        (_, XTASK) => false,
        (_, TESTKIT) => dev,
        (TESTKIT, _) => on == LAYERS[0],
        // A crate's tests may turn on a feature of its own.
        _ if from == on => dev,
        _ => matches!((layer(from), layer(on)), (Some(from), Some(on)) if on < from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(from: &str, on: &str, kind: Option<&str>) -> usize {
        let metadata = json!({"packages": [
            {"name": from, "dependencies": [{"name": on, "kind": kind}, {"name": "serde", "kind": null}]},
            {"name": on, "dependencies": []},
        ]});
        check_metadata(&metadata).len()
    }

    #[test]
    fn arrows_go_down_only() {
        assert_eq!(found("piton-cli", "piton-core", None), 0);
        assert_eq!(found("piton-core", "piton-stores", None), 1);
        assert_eq!(found("piton-stores", "piton-stores", Some("dev")), 0);
        assert_eq!(found("piton-core", "piton-stores", Some("dev")), 1);
    }

    #[test]
    fn the_testkit_is_for_tests() {
        assert_eq!(found("piton-cli", "piton-testkit", Some("dev")), 0);
        assert_eq!(found("piton-cli", "piton-testkit", None), 1);
        assert_eq!(found("piton-testkit", "piton-engine", None), 1);
    }

    #[test]
    fn a_new_crate_is_asked_for_its_place() {
        assert_eq!(found("piton-new", "piton-core", None), 2);
    }
}
