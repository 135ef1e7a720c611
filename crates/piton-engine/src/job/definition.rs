//! What a job's file becomes: a tree of steps, checked as far as that goes without running it.
//!
//! What is known only while it runs (`${param.date}`, `${customer.id}`, `${step.attempt}`) stays a
//! [`Reference`]. A statement is a list of pieces, text and references, and there is no function
//! that makes one text of both: whoever runs it binds the values as parameters. The same pieces
//! make an argument of a command, where a value is part of one argument and never two.
//!
//! A step that is a pipeline keeps its part of the file and becomes a [`Config`] when the values
//! are known; it has been checked once with stand-ins, so that what can be wrong without them is
//! said before anything runs.
//!
//! [`Config`]: crate::config::Config

mod difference;
mod params;
mod statement;
mod value;
mod when;

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use piton_core::interval::Policy;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::difference::new_steps;
pub use self::{
    difference::{Definition, difference},
    params::{Instance, Param, ParamProblem, ParamType, ParamsError},
    statement::{Argument, BindError, Piece, Placeholders, Statement},
    value::{Reference, StepFact, Value, Values},
    when::When,
};
pub use crate::config::job::Template;
use crate::config::{Claim, Place};

/// A job, as configured and checked.
#[derive(Debug)]
pub struct Job {
    /// Its name; with its parameters, the identity of its checkpoints.
    pub name: String,
    /// Where checkpoints are kept, as [`Config::store`](crate::config::Config::store).
    pub store: String,
    /// Where in the file the store is named; the file's beginning if it is not.
    pub store_at: Place,
    /// What it may be given, in the order of the file.
    pub params: Vec<Param>,
    /// How many steps may run at once.
    pub parallel: NonZeroUsize,
    /// Its steps, in the order of the file; at least one.
    pub steps: Vec<Step>,
    /// Who may run it.
    pub claim: Claim,
    /// How often to save where a step says nothing else.
    pub checkpoint: Policy,
    /// How long runs are remembered.
    pub keep_history: Duration,
    /// What to do once when the job has failed.
    pub on_failure: Option<Action>,
    /// What to do when all steps are done.
    pub on_complete: OnJobComplete,
    /// How old a checkpoint may be and still be resumed without being told so.
    pub max_age: Option<Duration>,
    /// What to do when what a step reads is no longer what it read before.
    pub on_source_change: OnSourceChange,
    /// How long a run of it may take, from its beginning to its end.
    pub timeout: Option<Duration>,
    /// What it does, for comparing with another run and for showing.
    pub definition: Definition,
    /// The file it was read from, as it was named.
    pub file: PathBuf,
    /// The file's folder, absolute: relative paths are resolved against it, commands run in it.
    pub dir: PathBuf,
}

/// What to do when all steps are done.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OnJobComplete {
    /// The checkpoints stay: a second run says that it is finished and does nothing.
    #[default]
    Keep,
    /// The checkpoints go: a second run starts over. Runs and audit stay.
    Delete,
    /// This is done, and the checkpoints stay.
    Action(Action),
}

/// What to do when what a step reads is no longer what it read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSourceChange {
    /// The run is refused with the difference.
    #[default]
    Fail,
    /// It goes on from its position all the same.
    Continue,
    /// It begins anew.
    Restart,
}

/// A step. It is done when its own body and then all of its `steps` are.
#[derive(Debug)]
pub struct Step {
    /// Its name, unique among its siblings; without `/`.
    pub name: String,
    /// The names from the top to it, joined by `/`: `customer/invoice`.
    pub path: String,
    /// Where in the file it stands.
    pub at: Place,
    /// Siblings that have to be done before it begins. Free of cycles.
    pub after: Vec<String>,
    /// It is passed over where this is false.
    pub when: Option<When>,
    /// What it does itself, before its `steps`.
    pub body: Body,
    /// The steps below it. Those of a [`Body::ForEach`] run once for each parent.
    pub steps: Vec<Step>,
    /// How it goes on when it had begun and not finished.
    pub restart: Restart,
    /// How often it is tried again after a failure, unless that is one of a step below it.
    pub retry: Retry,
    /// How long what it does itself may take, each time; of a group or a `for_each`, all below it.
    pub timeout: Option<Duration>,
    /// What to do before anything else of it when it had begun and not finished.
    pub on_recover: Option<Action>,
    /// What to do once when it has failed for good.
    pub on_failure: Option<Action>,
    /// What to do once when it is done.
    pub on_complete: Option<Action>,
}

/// What a step does itself.
#[derive(Debug)]
pub enum Body {
    /// Nothing: it is a group of the steps below it.
    Group,
    /// Moves records from a source with an end into sinks.
    Pipeline(Template),
    /// Statements in one transaction.
    Sql(Sql),
    /// A command.
    Run(Command),
    /// Runs the steps below it for each record of a source.
    ForEach(ForEach),
}

/// Runs the steps below it for each record of a source.
#[derive(Debug)]
pub struct ForEach {
    /// The parents. Its positions are keys of the parents, never a count.
    pub source: Template,
    /// By what name the steps below know the parent record: `${name.field}`.
    pub name: String,
    /// How many parents at once.
    pub concurrency: NonZeroUsize,
    /// How often it is saved.
    pub checkpoint: Policy,
}

/// How a step goes on when it had begun and not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// After its last position.
    #[default]
    FromPosition,
    /// Its checkpoint is cleared, and it begins anew.
    FromBeginning,
    /// It does not: an operator decides.
    Manual,
}

/// How often, and how patiently, a step is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often after the first attempt; 0 for never.
    pub times: u32,
    /// How long to wait before the first of these. Twice as long before each further one.
    pub pause: Duration,
    /// Never longer than this.
    pub max_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 0, pause: Duration::from_secs(1), max_pause: Duration::from_mins(5) }
    }
}

impl Retry {
    /// How long to wait before trying again, after so many failures in a row; `None` when that was
    /// the last attempt.
    pub fn pause_after(&self, failures: u32) -> Option<Duration> {
        if failures == 0 || failures > self.times {
            return None;
        }
        let doubled =
            2_u32.checked_pow(failures - 1).and_then(|factor| self.pause.checked_mul(factor));
        Some(doubled.unwrap_or(Duration::MAX).min(self.max_pause))
    }
}

/// What is done beside a step: to recover it, or because it failed or is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Statements in one transaction.
    Sql(Sql),
    /// A command.
    Run(Command),
}

/// Statements that run in one transaction of a database.
#[derive(Debug, Clone, PartialEq)]
pub struct Sql {
    /// Where.
    pub database: Database,
    /// What; at least one.
    pub statements: Vec<Statement>,
    /// Where in the file it stands.
    pub at: Place,
}

/// A database.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file, with an absolute path.
    Sqlite(PathBuf),
    /// A PostgreSQL server, with its whole address, which may have a password in it.
    Postgres(String),
    /// A MySQL or MariaDB server, likewise.
    MySql(String),
}

impl Database {
    /// How it wants a bound parameter to be written.
    pub fn placeholders(&self) -> Placeholders {
        match self {
            Self::Sqlite(_) => Placeholders::Question,
            Self::Postgres(_) => Placeholders::Dollar,
            Self::MySql(_) => Placeholders::Bare,
        }
    }
}

impl std::fmt::Debug for Database {
    // The address of a server may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(…)"),
            Self::MySql(_) => f.write_str("MySql(…)"),
        }
    }
}

/// A command: a program and its arguments, without a shell.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The program, found when the file was read: an absolute path.
    pub program: PathBuf,
    /// As it is written in the file.
    pub named: String,
    /// What it is given.
    pub args: Vec<Argument>,
    /// Where in the file it stands.
    pub at: Place,
}

impl Job {
    /// A step by its path.
    pub fn step(&self, path: &str) -> Option<&Step> {
        let mut names = path.split('/');
        let first = names.next()?;
        let mut step = self.steps.iter().find(|step| step.name == first)?;
        for name in names {
            step = step.steps.iter().find(|step| step.name == name)?;
        }
        Some(step)
    }
}

/// The path of the `for_each` below which a path stands: a step's, or that of a record's own pipeline,
/// which has a mark.
pub(super) fn for_each_above<'a>(steps: &'a [Step], path: &str) -> Option<&'a str> {
    let is_above = |step: &&Step| {
        path.strip_prefix(&*step.path).is_some_and(|rest| rest.starts_with(['/', '#']))
    };
    let step = steps.iter().find(is_above)?;
    match step.body {
        Body::ForEach(_) => Some(&step.path),
        _ => for_each_above(&step.steps, path),
    }
}
