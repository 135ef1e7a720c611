//! What a job does, in a form that can be kept, compared and told.
//!
//! Only what decides the outcome is part of it: the steps, their order and what each does. How
//! fast, how often, how long and by whom it is run is not, so that a timeout can be raised or
//! a password be changed between two attempts of one run.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The definition of a job without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// JSON that a person can read, with its keys in order. Secrets stand as they are written in
    /// the file (`${file:…}`), passwords in addresses as `***`.
    pub json: String,
    /// SHA-256 of that, as hexadecimal digits.
    pub digest: String,
}

impl Definition {
    pub(crate) fn of(described: &Value) -> Self {
        let json = described.to_string();
        let digest = Sha256::digest(json.as_bytes());
        let hex = digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Self { json, digest: hex }
    }
}

/// What differs between two definitions, each in one sentence; nothing if they are the same.
/// `before` may be anything that was stored.
pub fn difference(before: &str, now: &str) -> Vec<String> {
    found(before, now).said
}

/// The paths of the topmost steps that are there only now.
pub(in crate::job) fn new_steps(before: &str, now: &str) -> Vec<String> {
    found(before, now).new
}

#[derive(Default)]
struct Found {
    said: Vec<String>,
    /// Paths of steps.
    new: Vec<String>,
}

fn found(before: &str, now: &str) -> Found {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let (before, now) = (parse(before), parse(now));
    let mut found = Found::default();
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned();
    let (was, is) = (map(&before).unwrap_or_else(|| empty.clone()), map(&now).unwrap_or(empty));
    keys("", &without_steps(&was), &without_steps(&is), &mut found.said);
    steps("", was.get("steps"), is.get("steps"), &mut found);
    found
}

fn without_steps(map: &Map<String, Value>) -> Map<String, Value> {
    let rest = map.iter().filter(|(key, _)| *key != "steps" && *key != "step");
    rest.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The steps of a list by their names.
fn by_name(steps: Option<&Value>) -> Vec<(&str, &Map<String, Value>)> {
    let steps = steps.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let maps = steps.iter().filter_map(Value::as_object);
    maps.filter_map(|step| Some((step.get("step")?.as_str()?, step))).collect()
}

fn steps(under: &str, before: Option<&Value>, now: Option<&Value>, found: &mut Found) {
    let (before, now) = (by_name(before), by_name(now));
    let path =
        |name: &str| if under.is_empty() { name.to_owned() } else { format!("{under}/{name}") };
    let find = |list: &[(&str, &Map<String, Value>)], wanted: &str| {
        list.iter().find(|(name, _)| *name == wanted).map(|(_, step)| (*step).clone())
    };
    for (name, _) in before.iter().filter(|(name, _)| find(&now, name).is_none()) {
        found.said.push(format!("step {} is gone", path(name)));
    }
    for (name, step) in &now {
        let path = path(name);
        let Some(was) = find(&before, name) else {
            found.said.push(format!("step {path} is new"));
            found.new.push(path);
            continue;
        };
        let at = format!("step {path}: ");
        keys(&at, &without_steps(&was), &without_steps(step), &mut found.said);
        steps(&path, was.get("steps"), step.get("steps"), found);
    }
    let order = |list: &[(&str, _)], other: &[(&str, _)]| -> Vec<String> {
        let stays = |name: &&str| other.iter().any(|(other, _)| other == name);
        list.iter().map(|(name, _)| *name).filter(stays).map(str::to_owned).collect()
    };
    let (was, is) = (order(&before, &now), order(&now, &before));
    if was != is {
        let under = if under.is_empty() { String::new() } else { format!(" under {under}") };
        found.said.push(format!(
            "the order of the steps{under} was {}, and is now {}",
            was.join(", "),
            is.join(", ")
        ));
    }
}

/// The keys that differ, each by its whole path.
fn keys(at: &str, before: &Map<String, Value>, now: &Map<String, Value>, found: &mut Vec<String>) {
    let names = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    for name in names {
        match (before.get(name), now.get(name)) {
            (was, is) if was == is => {}
            (Some(Value::Object(was)), Some(Value::Object(is))) => {
                keys(&format!("{at}{name}."), was, is, found);
            }
            (Some(was), Some(is)) => {
                found.push(format!("{at}{name} was {}, and is now {}", shown(was), shown(is)));
            }
            (None, Some(is)) => found.push(format!("{at}{name} is new: {}", shown(is))),
            (Some(was), None) => found.push(format!("{at}{name} is gone, it was {}", shown(was))),
            (None, None) => {}
        }
    }
}

/// The beginning of a value, on one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 120 {
        return text;
    }
    text.chars().take(119).chain(['…']).collect()
}
