//! A job's file as it is written. What a step moves from where to where is read later, as a
//! pipeline of its own (`steps`), so the types here only say what forms it has.

use std::{collections::BTreeMap, num::NonZeroUsize};

use piton_connectors::settings::Period;
use schemars::JsonSchema;
use serde::{Deserialize, de::IgnoredAny};

use super::super::{
    file::{
        CheckpointFile, ClaimFile, Commit, HistoryFile, LimitsFile, OnErrorFile, SinkFile,
        SourceSettings, TransformFile, default_store,
    },
    forms::OnJobCompleteFile,
};
use crate::job::definition::{OnSourceChange, ParamType, Restart};

/// A job: steps that run in order, each done once, from where the last run stopped.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Job")]
pub(in crate::config) struct JobFile {
    /// The job's name: with its parameters, the identity of its checkpoints. Letters, digits, '.',
    /// '_' and '-'.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,100}$"))]
    pub(super) job: String,
    /// Where checkpoints are kept: `sqlite:PATH`, `postgres://…` or `mysql://…` for several machines,
    /// or `memory:`. A relative path is resolved against this file's folder.
    #[serde(default = "default_store")]
    #[schemars(regex(
        pattern = r"^(sqlite:.+|(postgres|postgresql|mysql|mariadb)://.*|memory:|.*\$\{.*)$"
    ))]
    pub(super) store: String,
    /// What it may be given by `--param NAME=VALUE`. Each is `${param.NAME}` in the steps.
    #[serde(default)]
    pub(super) params: BTreeMap<String, ParamFile>,
    /// How many steps may run at once.
    #[serde(default = "one")]
    pub(super) parallel: NonZeroUsize,
    /// The steps, in order.
    #[allow(dead_code, reason = "read one by one; here for editors")]
    #[schemars(with = "Vec<StepFile>", length(min = 1))]
    pub(super) steps: IgnoredAny,
    /// How often to save.
    #[serde(default)]
    pub(super) checkpoint: CheckpointFile,
    /// Which sinks of a step have to be durable before its source is told.
    #[allow(dead_code, reason = "read with each step; here for its form")]
    #[serde(default)]
    pub(super) commit: Commit,
    /// What happens to a record that cannot be read, transformed or written.
    #[serde(default)]
    pub(super) on_error: OnErrorFile,
    /// Who may run it.
    #[serde(default)]
    pub(super) claim: ClaimFile,
    /// Bounds on memory.
    #[serde(default)]
    pub(super) limits: LimitsFile,
    /// How long runs are remembered.
    #[serde(default)]
    pub(super) history: HistoryFile,
    /// What is done once when the job has failed.
    #[serde(default)]
    pub(super) on_failure: Option<ActionFile>,
    /// What happens when all steps are done.
    #[serde(default)]
    pub(super) on_complete: OnJobCompleteFile,
    /// How old a checkpoint may be and still be resumed; an older one needs `--accept-age`.
    #[serde(default)]
    pub(super) max_age: Option<Period>,
    /// What happens when what a step reads is not what it read before.
    #[serde(default)]
    pub(super) on_source_change: OnSourceChange,
    /// How often a step is tried again.
    #[serde(default)]
    pub(super) retry: Option<RetryFile>,
    /// How long a run may take.
    #[serde(default)]
    pub(super) timeout: Option<Period>,
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// A parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Param")]
pub(in crate::config) struct ParamFile {
    /// What its values are. Text if not said.
    #[serde(default, rename = "type")]
    pub(super) kind: ParamType,
    /// Its value when none is given. Without it, one has to be given.
    #[serde(default)]
    #[schemars(extend("type" = ["string", "number", "boolean", "null"]))]
    pub(super) default: Option<String>,
}

/// A step: one thing to do (`source` and `sinks`, `sql`, `run` or `for_each`), then its own `steps`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Step")]
pub(in crate::config) struct StepFile {
    /// Its name, unique among the steps beside it. Letters, digits, '.', '_' and '-'.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,100}$"))]
    pub(super) step: String,
    /// Steps beside it that have to be done first.
    #[serde(default)]
    pub(super) after: Vec<String>,
    /// An expression over `param.` and `step.`: the step is passed over where it is false.
    #[serde(default)]
    pub(super) when: Option<String>,
    /// What is read; it has an end.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "Option<SourceSettings>")]
    source: Option<IgnoredAny>,
    /// What happens to records on their way, in order.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "Vec<TransformFile>")]
    transform: Option<IgnoredAny>,
    /// Where records go: one or more sinks, each with a name of its own.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SinkFile>", extend("minProperties" = 1))]
    sinks: Option<IgnoredAny>,
    /// Statements of SQL in one transaction.
    #[serde(default)]
    pub(super) sql: Option<SqlFile>,
    /// A command: the program and its arguments, without a shell.
    #[allow(dead_code, reason = "read from the tree; here for its form")]
    #[serde(default)]
    #[schemars(length(min = 1))]
    run: Option<Vec<String>>,
    /// Runs its `steps` for each record of a source.
    #[serde(default)]
    pub(super) for_each: Option<ForEachFile>,
    /// With `for_each`: how many records at once. 1 if not said.
    #[serde(default)]
    pub(super) concurrency: Option<NonZeroUsize>,
    /// The steps below it, done after it.
    #[allow(dead_code, reason = "read one by one; here for editors")]
    #[serde(default)]
    #[schemars(with = "Vec<StepFile>", length(min = 1))]
    steps: Option<IgnoredAny>,
    /// How it goes on when it had begun and not finished.
    #[serde(default)]
    pub(super) restart: Restart,
    /// How often it is tried again; what is said here holds for the steps below it, too.
    #[serde(default)]
    pub(super) retry: Option<RetryFile>,
    /// How long it may take, its steps included.
    #[serde(default)]
    pub(super) timeout: Option<Period>,
    /// What is done first when it had begun and not finished.
    #[serde(default)]
    pub(super) on_recover: Option<ActionFile>,
    /// What is done once when it has failed.
    #[serde(default)]
    pub(super) on_failure: Option<ActionFile>,
    /// What is done once when it is done.
    #[serde(default)]
    pub(super) on_complete: Option<ActionFile>,
    /// How often to save; for it and the steps below it.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "CheckpointFile")]
    checkpoint: Option<IgnoredAny>,
    /// Which sinks have to be durable before the source is told.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "Commit")]
    commit: Option<IgnoredAny>,
    /// What happens to a record that cannot be read, transformed or written.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "OnErrorFile")]
    on_error: Option<IgnoredAny>,
    /// What happens when what it reads is not what it read before; for it and the steps below it.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "OnSourceChange")]
    on_source_change: Option<IgnoredAny>,
    /// Who may run it.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "ClaimFile")]
    claim: Option<IgnoredAny>,
    /// Bounds on memory.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[serde(default)]
    #[schemars(with = "LimitsFile")]
    limits: Option<IgnoredAny>,
}

/// Statements of SQL in one transaction. A value such as `${param.date}` is bound as a parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Sql", extend("oneOf" = [{"required": ["statement"]}, {"required": ["statements"]}]))]
pub(in crate::config) struct SqlFile {
    /// The database: `sqlite:PATH`, `postgres://…` or `mysql://…`.
    pub(super) url: String,
    /// One statement.
    #[serde(default)]
    pub(super) statement: Option<String>,
    /// Several, in order.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) statements: Option<Vec<String>>,
}

/// Something that is done once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Action")]
pub(in crate::config) enum ActionFile {
    /// Statements of SQL in one transaction.
    Sql(SqlFile),
    /// A command: the program and its arguments, without a shell.
    Run(
        #[allow(dead_code, reason = "read from the tree; here for its form")]
        #[schemars(length(min = 1))]
        Vec<String>,
    ),
}

/// For each record of a source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ForEach")]
pub(in crate::config) struct ForEachFile {
    /// The parent records; the source has an end.
    #[allow(dead_code, reason = "read as a pipeline; here for editors")]
    #[schemars(with = "SourceSettings")]
    source: IgnoredAny,
    /// By what name the steps below know the record: `${name.field}`.
    #[serde(rename = "as")]
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub(super) name: String,
}

/// How often a step is tried again, waiting longer each time.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StepRetry")]
pub(in crate::config) struct RetryFile {
    /// How often after the first attempt.
    pub(super) times: u32,
    /// How long to wait first; twice as long before each further attempt. 1s if not said.
    #[serde(default)]
    pub(super) pause: Option<Period>,
    /// The longest wait. 5m if not said.
    #[serde(default)]
    pub(super) max_pause: Option<Period>,
}
