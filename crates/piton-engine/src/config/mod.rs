//! The file that describes a pipeline or a job: read, filled in, checked.
//!
//! A file goes through four hands, each of which can say where in it something is wrong: YAML
//! becomes a tree that knows its places (`tree`), `${NAME}` is filled into the tree's texts
//! (`interpolate`), the tree becomes settings (`read`, `file`), and what types cannot say is
//! checked on those (`check`), all problems at once. Nothing is created or opened on the way, so a
//! configuration that is wrong leaves no trace.
//!
//! Values from the environment that look like secrets, and all from `${file:…}`, are shown as they
//! are written in the file, in errors as well as in [`Described`].

mod check;
mod connectors;
mod error;
mod file;
mod files;
mod forms;
pub mod init;
mod interpolate;
pub mod job;
mod planned;
mod read;
pub mod scalars;
mod schema;
mod tree;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
    time::Duration,
};

pub use piton_connectors::settings::Period;
use piton_core::interval::Policy;
use serde_json::Value as Json;

#[cfg(feature = "mysql")]
pub use self::connectors::MySqlSink;
#[cfg(feature = "postgres")]
pub use self::connectors::{OutboxSource, PostgresSink};
pub(crate) use self::error::nearest;
use self::{
    check::Part,
    interpolate::Outside,
    scalars::Rate,
    tree::{Key, Node, Value},
};
pub use self::{
    connectors::{
        CommandSink, CommandSource, CsvSink, CsvSource, HttpSink, JsonlSink, JsonlSource,
        SqlSource, SqliteSink, StdoutSink,
    },
    error::{Condition, ConfigError, Place, Problem},
    file::{Commit, OnComplete, Refused, SinkSettings, SourceSettings, WhenHeld},
    schema::schema,
};
use crate::{
    job::definition::{Job, OnSourceChange},
    transform::Transform,
};

/// The largest file that is read as a configuration, in bytes.
const LARGEST_FILE: u64 = 4 << 20;

/// A pipeline, as configured and checked.
pub struct Config {
    /// Its name: the identity of its checkpoints.
    pub pipeline: String,
    /// Where checkpoints are kept: `memory:`, `sqlite:` and an absolute path, or the address of a server,
    /// which may have a password in it.
    pub store: String,
    /// Where in the file the store is named; the file's beginning if it is not.
    pub store_at: Place,
    /// What is read.
    pub source: Source,
    /// Where in the file that begins.
    pub transform_at: Place,
    /// What happens to records, in order.
    pub transform: Vec<Transform>,
    /// Where records go, in the order of the file; at least one, but for what a `for_each` reads.
    pub sinks: Vec<Sink>,
    /// Which sinks have to be durable before the source is told.
    pub commit: Commit,
    /// How often to save.
    pub checkpoint: Policy,
    /// Who may run it.
    pub claim: Claim,
    /// What happens to a record that cannot be taken.
    pub on_error: OnError,
    /// Bounds on memory.
    pub limits: Limits,
    /// How long runs are remembered.
    pub keep_history: Duration,
    /// What happens when a source with an end has been read.
    pub on_complete: OnComplete,
    /// What to do when what is read is not what was read before.
    pub on_source_change: OnSourceChange,
    /// Whether files are seen whole or not at all: of steps of a job that begin anew when they restart.
    pub whole_files: bool,
    /// How old a checkpoint may be and still be resumed without being told so.
    pub max_age: Option<Duration>,
    /// What it was made of, for comparing with another run and for showing.
    pub described: Described,
    /// The file it was read from, as it was named.
    pub file: PathBuf,
    /// The file's folder, absolute: relative paths are resolved against it.
    pub dir: PathBuf,
}

impl fmt::Debug for Config {
    // The settings of connectors hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("pipeline", &self.pipeline)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// What is read, and how fast at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The connector's settings.
    pub settings: SourceSettings,
    /// Spares what is read from.
    pub rate: Option<Rate>,
    /// Where in the file the connector is configured.
    pub at: Place,
}

/// A sink by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// The connector's settings.
    pub settings: SinkSettings,
    /// Whether the pipeline waits for it.
    pub required: bool,
    /// Where in the file it is configured.
    pub at: Place,
}

/// Who may run a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// How long a silent owner is waited for.
    pub lease: Duration,
    /// What to do while another owner runs it.
    pub when_held: WhenHeld,
}

/// What happens to a record that cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnError {
    /// How often to try again first.
    pub retries: u32,
    /// What then.
    pub then: Refused,
}

/// Bounds on memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest record.
    pub record: u64,
    /// What may be on its way between source and sinks.
    pub memory: u64,
}

/// Source, transforms and sinks as JSON, as the file has them but for the order of keys that means
/// nothing. Secrets stand as they are written
/// in the file (`${file:…}`), passwords in addresses as `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The source.
    pub source: Json,
    /// The transforms, in order; an empty list if there are none.
    pub transform: Json,
    /// The sinks by name.
    pub sinks: BTreeMap<String, Json>,
}

impl Described {
    fn of(root: &Node) -> Self {
        let json = |key| root.get(key).map_or(Json::Null, tree_json);
        let sinks = root.get("sinks").map_or(&[][..], Node::entries);
        Self {
            source: json("source"),
            transform: root.get("transform").map_or_else(|| Json::Array(Vec::new()), tree_json),
            sinks: sinks.iter().map(|(key, sink)| (key.name.clone(), tree_json(sink))).collect(),
        }
    }
}

impl Config {
    /// A place in the file, as errors name it.
    pub fn shown(&self, at: Place, what: &str) -> String {
        format!("{}:{}:{}: {what}", self.file.display(), at.line, at.column)
    }

    /// A path of the file, against the file's folder.
    pub fn resolve(&self, path: &str) -> PathBuf {
        check::resolve(&self.dir, path)
    }
}

/// What a file describes.
#[derive(Debug)]
pub enum Loaded {
    /// A pipeline.
    Pipeline(Box<Config>),
    /// A job.
    Job(Box<Job>),
}

/// Reads a configuration of a pipeline. `env` answers for the environment.
///
/// # Errors
/// All that is wrong with it, as far as it can be seen at once, each with line and column.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let (text, dir) = contents(path)?;
    load_str(&text, path, &dir, env)
}

/// Reads a configuration of a pipeline or a job. `env` answers for the environment; its `PATH` is
/// where commands are looked for.
///
/// # Errors
/// As [`load`].
pub fn load_any(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
    let (text, dir) = contents(path)?;
    load_any_str(&text, path, &dir, env)
}

/// The text of a file, and its folder.
fn contents(path: &Path) -> Result<(String, PathBuf), ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(ConfigError::TooLarge { path: path.to_owned(), most: LARGEST_FILE });
    }
    let dir = std::path::absolute(path).map_err(unreadable)?;
    let dir = dir.parent().unwrap_or(Path::new("/"));
    // Only the file system knows what `..` behind a link leads to.
    let climbs = dir.components().any(|part| part == Component::ParentDir);
    let real = if climbs { dir.canonicalize().map_err(unreadable)? } else { dir.to_owned() };
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, real)),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            let what = Condition::Yaml("this is not UTF-8: save the file as UTF-8".to_owned());
            let problem = Problem { at: Place { line, column: 1 }, what };
            Err(ConfigError::Invalid { file: path.display().to_string(), problems: vec![problem] })
        }
    }
}

/// As [`load`], of a text. `name` stands in errors; relative paths are resolved against `dir`.
///
/// # Errors
/// As [`load`].
pub fn load_str(
    text: &str,
    name: &Path,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let mut root = filled(text, name, dir, env)?;
    read_and_check(&mut root, name, dir).map_err(|problems| invalid(name, problems))
}

/// As [`load_any`], of a text.
///
/// # Errors
/// As [`load`].
pub fn load_any_str(
    text: &str,
    name: &Path,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigError> {
    let mut root = filled(text, name, dir, env)?;
    let is_job =
        root.get("job").is_some() || root.get("steps").is_some() && root.get("pipeline").is_none();
    let loaded = if is_job {
        job::job(&root, name, dir, env("PATH")).map(|job| Loaded::Job(Box::new(job)))
    } else {
        let config = read_and_check(&mut root, name, dir);
        config.map(|config| Loaded::Pipeline(Box::new(config)))
    };
    loaded.map_err(|problems| invalid(name, problems))
}

fn invalid(name: &Path, problems: Vec<Problem>) -> ConfigError {
    ConfigError::Invalid { file: name.display().to_string(), problems }
}

/// A file's tree with all that comes from outside of it.
fn filled(
    text: &str,
    name: &Path,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Node, ConfigError> {
    let mut root = Node::parse(text).map_err(|problem| invalid(name, vec![problem]))?;
    let mut problems = Vec::new();
    Outside { env, dir }.fill(&mut root, &mut problems);
    if problems.is_empty() { Ok(root) } else { Err(invalid(name, problems)) }
}

fn read_and_check(root: &mut Node, name: &Path, dir: &Path) -> Result<Config, Vec<Problem>> {
    let planned = planned::find(root);
    if !planned.is_empty() {
        return Err(planned);
    }
    if matches!(root.value, Value::Null) {
        let what = Condition::Yaml("the file is empty; `piton init DATA` writes one".to_owned());
        return Err(vec![Problem { at: root.at, what }]);
    }
    let rate = take_rate(root).map_err(|problem| vec![problem])?;
    let file = read::read(root).map_err(|problem| vec![problem])?;
    check::check(root, file, rate, name, dir, Part::Whole)
}

/// `rate` may stand beside the connector or, as is natural to write, among its settings, of which
/// it is none: the engine slows the source down.
fn take_rate(root: &mut Node) -> Result<Option<Rate>, Problem> {
    let mut found: Vec<(Key, Node)> = Vec::new();
    let source = match &mut root.value {
        Value::Map(entries) => entries.iter_mut().find(|(key, _)| key.name == "source"),
        _ => None,
    };
    let mut take = |node: &mut Node| {
        if let Value::Map(entries) = &mut node.value {
            found.extend(entries.extract_if(.., |(key, _)| key.name == "rate"));
        }
    };
    if let Some((_, source)) = source {
        take(source);
        if let Value::Map(connectors) = &mut source.value {
            for (_, settings) in connectors {
                take(settings);
            }
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [(_, rate)] => read::read_under(&["source", "rate"], rate).map(Some),
        [_, (key, _), ..] => {
            let what = Condition::Duplicate { key: key.name.clone() };
            Err(Problem { at: key.at, what })
        }
    }
}

fn tree_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(int, raw) => {
            i64::try_from(*int).map_or_else(|_| raw.as_str().into(), Json::from)
        }
        Value::Float(float, _) => Json::from(*float),
        Value::Text(_) if node.is_secret() => Json::String(node.shown()),
        Value::Text(text) => Json::String(without_password(&text.value)),
        Value::List(items) => items.iter().map(tree_json).collect(),
        Value::Map(entries) => {
            let mut sorted: Vec<&(Key, Node)> = entries.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
            sorted.into_iter().map(entry_json).collect()
        }
    }
}

fn entry_json((key, node): &(Key, Node)) -> (String, Json) {
    // Only `select` gives a meaning to the order of keys.
    let json = match &node.value {
        Value::Map(columns) if key.name == "select" => columns.iter().map(entry_json).collect(),
        _ => tree_json(node),
    };
    (key.name.clone(), json)
}

/// `scheme://user:password@host` with `***` for the password.
fn without_password(text: &str) -> String {
    let masked = || {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (userinfo, _) = rest[..end].rsplit_once('@')?;
        let (user, _) = userinfo.split_once(':')?;
        Some(format!("{scheme}://{user}:***{}", &rest[userinfo.len()..]))
    };
    masked().unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests;
