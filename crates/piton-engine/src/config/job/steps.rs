//! The job and its tree of steps, read one by one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use piton_connectors::settings::Period;

use super::{
    actions::Programs,
    describe::described,
    file::{JobFile, ParamFile, RetryFile, StepFile},
    order::circle,
    outputs::{Output, clashes},
    references::Scope,
};
use crate::{
    config::{
        Claim,
        check::Check,
        error::{Condition, Place, Problem, nearest},
        forms::OnJobCompleteFile,
        interpolate::is_name,
        read,
        tree::{Key, Node, Text, Value},
    },
    job::definition::{Body, Definition, Job, OnJobComplete, Param, Restart, Retry, Step},
};

/// What a step hands down to those below it, unless they say otherwise.
const INHERITED: &[&str] =
    &["checkpoint", "commit", "on_error", "on_source_change", "claim", "limits"];

/// Reads and checks a job's file. `path` is the environment's `PATH`.
pub(in crate::config) fn job(
    root: &Node,
    name: &Path,
    dir: &Path,
    path: Option<String>,
) -> Result<Job, Vec<Problem>> {
    let file: JobFile = read::read(root).map_err(|problem| vec![problem])?;
    let mut check = Check::new(root);
    check.name(&["job"], "a job's name", &file.job);
    let store = check.store(&file.store, dir);
    let checkpoint = check.checkpoint(file.checkpoint);
    check.lease(file.claim.lease);
    check.history(file.history.keep);
    check.on_error(&file.on_error);
    check.limits(file.limits.record, file.limits.memory);
    let mut problems = check.problems;
    let params = params(root, file.params, &mut problems);
    let retry = retry(root, "", file.retry, Retry::default(), &mut problems);
    let at = root.place(&["store"]);
    let value = Value::Text(Text { value: store.clone(), ..Text::default() });
    let mut reading = Reading {
        file: name,
        dir,
        params: params.into(),
        store: (key("store", at), Node { at, value }),
        programs: Programs::new(dir, path),
        reported: problems.iter().map(|problem| problem.at).collect(),
        problems,
        outputs: Vec::new(),
    };
    let mut settings = taken(root, INHERITED);
    settings.extend(taken(root, &["history"]));
    let begins_anew = false;
    let above = Above { path: String::new(), records: Vec::new(), settings, retry, begins_anew };
    let steps = root.get("steps").map_or_else(Vec::new, |node| reading.steps(node, &above));
    let params = Arc::clone(&reading.params);
    let scope = Scope { params: &params, records: &[], in_step: false };
    let on_failure =
        file.on_failure.and_then(|action| reading.action(root, "on_failure", &action, scope));
    let on_complete = match file.on_complete {
        OnJobCompleteFile::Keep => OnJobComplete::Keep,
        OnJobCompleteFile::Delete => OnJobComplete::Delete,
        OnJobCompleteFile::Action(action) => reading
            .action(root, "on_complete", &action, scope)
            .map_or(OnJobComplete::Keep, OnJobComplete::Action),
    };
    if file.parallel.get() > 1 {
        reading.problems.extend(clashes(&steps, &reading.outputs));
    }
    if !reading.problems.is_empty() {
        reading.problems.sort_by_key(|problem| problem.at);
        return Err(reading.problems);
    }
    Ok(Job {
        name: file.job,
        store,
        store_at: at,
        params: params.to_vec(),
        parallel: file.parallel,
        steps,
        claim: Claim { lease: file.claim.lease.duration(), when_held: file.claim.when_held },
        checkpoint,
        keep_history: file.history.keep.duration(),
        on_failure,
        on_complete,
        max_age: file.max_age.map(Period::duration),
        on_source_change: file.on_source_change,
        timeout: file.timeout.map(Period::duration),
        definition: Definition::of(&described(root)),
        file: name.to_owned(),
        dir: dir.to_owned(),
    })
}

fn params(
    root: &Node,
    files: BTreeMap<String, ParamFile>,
    problems: &mut Vec<Problem>,
) -> Vec<Param> {
    let mut made = Vec::with_capacity(files.len());
    for (name, file) in files {
        let path = ["params", name.as_str(), "default"];
        let mut wrong = |path: &[&str], why: String| {
            let what = Condition::Invalid { path: path.join("."), why };
            problems.push(Problem { at: root.place(path), what });
        };
        if !is_name(&name) || name.len() > 50 {
            let why = "a parameter's name is made of at most 50 letters, digits and '_', and \
                       begins with none of the digits";
            wrong(&path[..2], why.to_owned());
        }
        let node = root.find(&path);
        if node.is_secret() {
            let why = "a parameter is part of the run's name, which everyone sees: write the \
                       secret where it is needed";
            wrong(&path, why.to_owned());
            continue;
        }
        let default = match file.default.map(|text| (file.kind.read(&text), text)) {
            Some((Ok(value), _)) => Some(value),
            Some((Err(wanted), text)) => {
                let text: String = text.chars().take(60).collect();
                wrong(&path, format!("'{text}' is not {wanted}"));
                None
            }
            None => None,
        };
        if matches!(&node.value, Value::Text(text) if !text.live.is_empty()) {
            wrong(&path, "a default is known before anything runs: write it out".to_owned());
        }
        made.push(Param { name, kind: file.kind, default });
    }
    made
}

fn key(name: &str, at: Place) -> Key {
    Key { at, name: name.to_owned() }
}

/// Those of a node's entries.
fn taken(node: &Node, keys: &[&str]) -> Vec<(Key, Node)> {
    let wanted = |(key, _): &&(Key, Node)| keys.contains(&key.name.as_str());
    node.entries().iter().filter(wanted).cloned().collect()
}

fn retry(
    node: &Node,
    under: &str,
    file: Option<RetryFile>,
    above: Retry,
    problems: &mut Vec<Problem>,
) -> Retry {
    let Some(RetryFile { times, pause, max_pause }) = file else { return above };
    let pause = pause.map_or(above.pause, Period::duration);
    let longest = max_pause.map_or(above.max_pause.max(pause), Period::duration);
    if longest < pause {
        let path = if under.is_empty() { "retry".to_owned() } else { format!("{under}.retry") };
        let why = "`max_pause` is shorter than `pause`".to_owned();
        problems.push(Problem {
            at: node.place(&["retry", "max_pause"]),
            what: Condition::Invalid { path, why },
        });
    }
    Retry { times, pause, max_pause: longest }
}

/// What is known above a step.
pub(super) struct Above {
    /// The path of the step above; empty at the top.
    path: String,
    /// What the enclosing `for_each` call their records.
    pub(super) records: Vec<String>,
    /// What it inherits.
    pub(super) settings: Vec<(Key, Node)>,
    retry: Retry,
    /// Whether one of them begins anew when it restarts.
    pub(super) begins_anew: bool,
}

/// A job's file while it is read.
pub(super) struct Reading<'a> {
    pub(super) file: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) params: Arc<[Param]>,
    pub(super) store: (Key, Node),
    pub(super) programs: Programs<'a>,
    pub(super) problems: Vec<Problem>,
    /// Where something was found wrong: what is inherited is not reported with each step.
    pub(super) reported: BTreeSet<Place>,
    /// The files that steps write.
    pub(super) outputs: Vec<Output>,
}

/// A step while it is read.
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    /// `steps.customer/invoice`.
    pub(super) under: String,
    pub(super) path: String,
}

impl Reading<'_> {
    /// Notes what is wrong at a place of a step.
    pub(super) fn wrong(&mut self, at: &At<'_>, path: &[&str], why: impl Into<String>) {
        let node = at.node.find(path);
        let why = match why.into() {
            why if node.holds_secret_in(&why) => "what is filled in cannot be used here".to_owned(),
            why => why,
        };
        let parts = [at.under.as_str()].into_iter().chain(path.iter().copied());
        let whole: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        let what = Condition::Invalid { path: whole.join("."), why };
        self.problems.push(Problem { at: node.at, what });
    }

    /// The steps of a list.
    fn steps(&mut self, node: &Node, above: &Above) -> Vec<Step> {
        let path = if above.path.is_empty() {
            "steps".to_owned()
        } else {
            format!("steps.{}.steps", above.path)
        };
        let Value::List(items) = &node.value else {
            let (expected, found) = ("a list of steps".to_owned(), node.shown());
            let what = Condition::WrongType { path, expected, found };
            self.problems.push(Problem { at: node.at, what });
            return Vec::new();
        };
        if items.is_empty() {
            let why = "there is none: at least one".to_owned();
            self.problems.push(Problem { at: node.at, what: Condition::Invalid { path, why } });
        }
        let names: Vec<Option<&str>> = items.iter().map(name_of).collect();
        let mut made = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let own = names[index].map_or_else(|| (index + 1).to_string(), str::to_owned);
            let path = match above.path.as_str() {
                "" => own,
                above => format!("{above}/{own}"),
            };
            let at = At { node: item, under: format!("steps.{path}"), path };
            made.extend(self.step(&at, above));
        }
        self.in_order(items, &names, &above.path);
        made
    }

    /// Names are unique, and `after` leads nowhere in a circle.
    fn in_order(&mut self, items: &[Node], names: &[Option<&str>], above: &str) {
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            let Some(name) = name else { continue };
            if places.insert(name, index).is_some() {
                let place = items[index].place(&["step"]);
                let what = Condition::Invalid {
                    path: joined(above, name),
                    why: "two steps beside each other are called so".to_owned(),
                };
                self.problems.push(Problem { at: place, what });
            }
        }
        let mut after = vec![Vec::new(); items.len()];
        for (index, item) in items.iter().enumerate() {
            let Some(Node { value: Value::List(named), .. }) = item.get("after") else { continue };
            for node in named {
                let Value::Text(text) = &node.value else { continue };
                if let Some(earlier) = places.get(text.value.as_str()) {
                    after[index].push(*earlier);
                    continue;
                }
                let hint = nearest(&text.value, places.keys().copied()).map_or_else(
                    || ": `after` names steps of the same list".to_owned(),
                    |nearest| format!(": did you mean '{nearest}'?"),
                );
                let path = format!("{}.after", joined(above, names[index].unwrap_or("?")));
                let why = format!("there is no step {} beside it{hint}", node.shown());
                self.problems.push(Problem { at: node.at, what: Condition::Invalid { path, why } });
            }
        }
        let Some(circle) = circle(&after) else { return };
        let name = |step: &usize| names[*step].unwrap_or("?");
        let first = name(&circle[0]);
        let shown: Vec<&str> = circle.iter().take(20).map(name).collect();
        let dots = if circle.len() > 20 { "… after " } else { "" };
        let why = format!(
            "leads in a circle, so that none could begin: {} after {dots}{first}",
            shown.join(" after ")
        );
        let path = format!("{}.after", joined(above, first));
        let at = items[circle[0]].place(&["after"]);
        self.problems.push(Problem { at, what: Condition::Invalid { path, why } });
    }

    fn step(&mut self, at: &At<'_>, above: &Above) -> Option<Step> {
        let node = at.node;
        let file: StepFile = match read::read(node) {
            Ok(file) => file,
            Err(Problem { at: place, what }) => {
                self.problems.push(Problem { at: place, what: what.under(&at.under) });
                return None;
            }
        };
        let mut check = Check::new(node);
        check.name(&["step"], "a step's name", &file.step);
        let found = check.problems.into_iter();
        let under = found
            .map(|Problem { at: place, what }| Problem { at: place, what: what.under(&at.under) });
        self.problems.extend(under);
        if node.find(&["step"]).is_secret() {
            self.wrong(at, &["step"], "a step's name is seen by everyone, and no secret");
            return None;
        }
        let settings = inherited(node, &above.settings);
        let retry = retry(node, &at.under, file.retry, above.retry, &mut self.problems);
        let (path, records) = (at.path.clone(), above.records.clone());
        let begins_anew = above.begins_anew || file.restart == Restart::FromBeginning;
        let mut below = Above { path, records, settings, retry, begins_anew };
        let body = self.body(at, &file, &below);
        if let Some(Body::ForEach(for_each)) = &body {
            below.records.push(for_each.name.clone());
        } else if let Some(for_each) = &file.for_each {
            below.records.push(for_each.name.clone());
        }
        let steps = node.get("steps").map_or_else(Vec::new, |node| self.steps(node, &below));
        let params = Arc::clone(&self.params);
        let scope = Scope { params: &params, records: &above.records, in_step: true };
        let when = file.when.as_deref().and_then(|text| self.when(at, text, scope));
        let mut action = |key, action: Option<_>| {
            action.and_then(|action| self.action_of(at, key, &action, scope))
        };
        let on_recover = action("on_recover", file.on_recover);
        let on_failure = action("on_failure", file.on_failure);
        let on_complete = action("on_complete", file.on_complete);
        let body = body?;
        if let (Body::Group | Body::ForEach(_), Some(_), Some(record)) =
            (&body, &file.timeout, above.records.last())
        {
            let why = format!(
                "below a `for_each` (of {record}) it is for steps that do something themselves: \
                 give it to them, or to the outermost `for_each`"
            );
            self.wrong(at, &["timeout"], why);
        }
        Some(Step {
            name: file.step,
            path: at.path.clone(),
            at: node.at,
            after: file.after,
            when,
            body,
            steps,
            restart: file.restart,
            retry,
            timeout: file.timeout.map(Period::duration),
            on_recover,
            on_failure,
            on_complete,
        })
    }
}

fn joined(above: &str, name: &str) -> String {
    if above.is_empty() { format!("steps.{name}") } else { format!("steps.{above}/{name}") }
}

/// The name by which messages know a step.
fn name_of(item: &Node) -> Option<&str> {
    let node = item.get("step").filter(|node| !node.is_secret())?;
    match &node.value {
        Value::Text(text) if text.value.is_empty() => None,
        Value::Text(text) => Some(&text.value),
        Value::Int(_, raw) | Value::Float(_, raw) => Some(raw),
        _ => None,
    }
}

/// What holds for a step: its own settings, else those from above.
fn inherited(node: &Node, above: &[(Key, Node)]) -> Vec<(Key, Node)> {
    let mut settings = taken(node, INHERITED);
    let is_own = |name: &str| node.get(name).is_some();
    settings.extend(above.iter().filter(|(key, _)| !is_own(&key.name)).cloned());
    settings
}
