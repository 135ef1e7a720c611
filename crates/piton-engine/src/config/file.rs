//! The file as it is written: the keys, their forms and their defaults. `schema` describes these
//! types to editors; `check` turns them into a [`Config`](super::Config).

use std::collections::BTreeMap;

use piton_connectors::settings::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

#[cfg(feature = "mysql")]
use super::connectors::MySqlSink;
#[cfg(feature = "postgres")]
use super::connectors::{OutboxSource, PostgresSink};
use super::{
    connectors::{
        CommandSink, CommandSource, CsvSink, CsvSource, HttpSink, JsonlSink, JsonlSource,
        SqlSource, SqliteSink, StdoutSink,
    },
    scalars::{Percent, Size},
};
use crate::job::definition::OnSourceChange;

/// A pipeline: records are read from a source, transformed, and written to sinks, from where the
/// last run stopped.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pipeline")]
pub(super) struct File {
    /// The pipeline's name: the identity of its checkpoints. Letters, digits, '.', '_' and '-'.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,100}$"))]
    pub(super) pipeline: String,
    /// Where checkpoints are kept: `sqlite:PATH`, `postgres://…` or `mysql://…` for several machines,
    /// or `memory:`. A relative path is resolved against this file's folder.
    #[serde(default = "default_store")]
    #[schemars(regex(
        pattern = r"^(sqlite:.+|(postgres|postgresql|mysql|mariadb)://.*|memory:|.*\$\{.*)$"
    ))]
    pub(super) store: String,
    /// What is read.
    pub(super) source: SourceSettings,
    /// What happens to records on their way, in order.
    #[serde(default)]
    pub(super) transform: Vec<TransformFile>,
    /// Where records go: one or more sinks, each with a name of its own.
    #[schemars(extend("minProperties" = 1))]
    pub(super) sinks: BTreeMap<String, SinkFile>,
    /// Which sinks have to be durable before the source is told.
    #[serde(default)]
    pub(super) commit: Commit,
    /// How often to save.
    #[serde(default)]
    pub(super) checkpoint: CheckpointFile,
    /// Who may run it.
    #[serde(default)]
    pub(super) claim: ClaimFile,
    /// What happens to a record that cannot be read, transformed or written.
    #[serde(default)]
    pub(super) on_error: OnErrorFile,
    /// Bounds on memory.
    #[serde(default)]
    pub(super) limits: LimitsFile,
    /// How long runs are remembered.
    #[serde(default)]
    pub(super) history: HistoryFile,
    /// What happens when a source with an end has been read.
    #[serde(default)]
    pub(super) on_complete: OnComplete,
    /// What happens when what is read is not what was read before: a rewritten file, an altered
    /// table.
    #[serde(default)]
    pub(super) on_source_change: OnSourceChange,
    /// How old the newest checkpoint may be and still be resumed; an older one needs
    /// `--accept-age`.
    #[serde(default)]
    pub(super) max_age: Option<Period>,
}

pub(super) fn default_store() -> String {
    "sqlite:piton.db".to_owned()
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SourceSettings {
    /// CSV files.
    Csv(CsvSource),
    /// Files with one JSON object in each line.
    Jsonl(JsonlSource),
    /// A table or a query.
    Sql(SqlSource),
    /// Messages that an application appends to a table in PostgreSQL.
    #[cfg(feature = "postgres")]
    PostgresOutbox(OutboxSource),
    /// What a command prints: one JSON object in each line.
    Command(CommandSource),
}

impl SourceSettings {
    /// The kind, as the file names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Jsonl(_) => "jsonl",
            Self::Sql(_) => "sql",
            #[cfg(feature = "postgres")]
            Self::PostgresOutbox(_) => "postgres_outbox",
            Self::Command(_) => "command",
        }
    }

    /// Whether every record has the fields that its schema names. JSON objects may have any.
    pub fn has_fixed_fields(&self) -> bool {
        !matches!(self, Self::Jsonl(_) | Self::Command(_))
    }
}

/// Where records go.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SinkSettings {
    /// A table in a SQLite database.
    Sqlite(SqliteSink),
    /// Tables of a PostgreSQL database.
    #[cfg(feature = "postgres")]
    Postgres(PostgresSink),
    /// Tables of a MySQL or MariaDB database.
    #[cfg(feature = "mysql")]
    Mysql(MySqlSink),
    /// A file with one JSON object in each line.
    Jsonl(JsonlSink),
    /// A CSV file.
    Csv(CsvSink),
    /// Standard output.
    Stdout(StdoutSink),
    /// JSON sent by POST.
    Http(HttpSink),
    /// JSON given to a command.
    Command(CommandSink),
}

impl SinkSettings {
    /// The kind, as the file names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "postgres",
            #[cfg(feature = "mysql")]
            Self::Mysql(_) => "mysql",
            Self::Jsonl(_) => "jsonl",
            Self::Csv(_) => "csv",
            Self::Stdout(_) => "stdout",
            Self::Http(_) => "http",
            Self::Command(_) => "command",
        }
    }
}

/// The kinds of sinks there are.
pub(super) const SINKS: &[&str] = &[
    "sqlite",
    #[cfg(feature = "postgres")]
    "postgres",
    #[cfg(feature = "mysql")]
    "mysql",
    "jsonl",
    "csv",
    "stdout",
    "http",
    "command",
];

/// For a schema: one of the kinds.
fn one_of() -> serde_json::Value {
    SINKS.iter().map(|kind| serde_json::json!({"required": [kind]})).collect()
}

/// A sink: one kind, and whether the pipeline waits for it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = one_of()))]
pub(super) struct SinkFile {
    /// A table in a SQLite database: exactly once.
    #[serde(default)]
    sqlite: Option<SqliteSink>,
    /// Tables of a PostgreSQL database: exactly once.
    #[cfg(feature = "postgres")]
    #[serde(default)]
    postgres: Option<PostgresSink>,
    /// Tables of a MySQL or MariaDB database: exactly once.
    #[cfg(feature = "mysql")]
    #[serde(default)]
    mysql: Option<MySqlSink>,
    /// A file with one JSON object in each line.
    #[serde(default)]
    jsonl: Option<JsonlSink>,
    /// A CSV file.
    #[serde(default)]
    csv: Option<CsvSink>,
    /// Standard output.
    #[serde(default, deserialize_with = "even_if_empty")]
    stdout: Option<StdoutSink>,
    /// JSON batches sent by POST: at least once.
    #[serde(default)]
    http: Option<HttpSink>,
    /// JSON lines given to a command: at least once.
    #[serde(default)]
    command: Option<CommandSink>,
    /// Whether the pipeline waits for this sink. One that is not required may lag behind.
    #[serde(default = "yes")]
    pub(super) required: bool,
}

impl SinkFile {
    /// Its kinds: there should be one.
    pub(super) fn kinds(self) -> Vec<SinkSettings> {
        [
            self.sqlite.map(SinkSettings::Sqlite),
            #[cfg(feature = "postgres")]
            self.postgres.map(SinkSettings::Postgres),
            #[cfg(feature = "mysql")]
            self.mysql.map(SinkSettings::Mysql),
            self.jsonl.map(SinkSettings::Jsonl),
            self.csv.map(SinkSettings::Csv),
            self.stdout.map(SinkSettings::Stdout),
            self.http.map(SinkSettings::Http),
            self.command.map(SinkSettings::Command),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn yes() -> bool {
    true
}

/// `stdout:` with nothing behind it is a sink, too.
fn even_if_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<StdoutSink>, D::Error> {
    Option::deserialize(from).map(|settings| Some(settings.unwrap_or_default()))
}

/// One transform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum TransformFile {
    /// Keeps the records for which this expression is true.
    Filter(String),
    /// Keeps these fields, in this order, or computes columns: `{name: expression}`.
    Select(SelectFile),
    /// Gives fields other names: `{old: new}`.
    Rename(Pairs),
    /// Spreads an object over columns, or a list over records.
    Flatten(FlattenFile),
}

/// A list of names, or names with expressions.
#[derive(Debug)]
pub(super) enum SelectFile {
    Names(Vec<String>),
    Computed(Pairs),
}

/// A map of texts, in the order of the file.
#[derive(Debug)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

/// A field, or a field and a separator.
#[derive(Debug)]
pub(super) struct FlattenFile {
    pub(super) field: String,
    pub(super) separator: String,
}

/// Which sinks have to be durable before the source is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// Those that are required.
    #[default]
    Required,
    /// All of them.
    All,
    /// Any so many of them.
    Quorum(usize),
}

/// `off`, or how often.
#[derive(Debug, Default)]
pub(super) enum CheckpointFile {
    #[default]
    Default,
    Off,
    Set(CheckpointMap),
}

/// Chosen while running within bounds (`max_replay`, `max_overhead`), or fixed (`every`,
/// `records`, whichever comes first).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointMap {
    /// The most work that a crash may cost. 10s if not said.
    pub(super) max_replay: Option<Period>,
    /// The largest share of the time that saving may take. 1% if not said.
    pub(super) max_overhead: Option<Percent>,
    /// Saves this often.
    pub(super) every: Option<Period>,
    /// Saves after so many records.
    #[schemars(range(min = 1))]
    pub(super) records: Option<u64>,
}

/// Who may run it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClaimFile {
    /// How long a silent owner is waited for.
    pub(super) lease: Period,
    /// What to do while another owner runs it.
    pub(super) when_held: WhenHeld,
}

impl Default for ClaimFile {
    fn default() -> Self {
        let lease = Period::seconds(30);
        Self { lease, when_held: WhenHeld::default() }
    }
}

/// What to do while another owner runs the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenHeld {
    /// Say who it is and exit with code 4.
    #[default]
    Exit,
    /// Wait for it to end.
    Wait,
}

/// What happens to a record that cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The run stops and names it.
    #[default]
    Stop,
    /// It is set aside, and the run goes on.
    DeadLetter,
}

/// `stop`, `dead_letter`, or how often to try again and what then.
#[derive(Debug, Default)]
pub(super) enum OnErrorFile {
    #[default]
    Default,
    At(Refused),
    Retry(RetryMap),
}

/// Tries again, waiting longer each time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryMap {
    /// How often.
    #[schemars(range(min = 1))]
    pub(super) retry: u32,
    /// What happens if that was in vain.
    #[serde(default)]
    pub(super) then: Refused,
}

/// Bounds on memory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsFile {
    /// The largest record; a larger one is bad.
    pub(super) record: Size,
    /// What may be on its way between source and sinks.
    pub(super) memory: Size,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self { record: Size(16 << 20), memory: Size(256 << 20) }
    }
}

/// How long runs are remembered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HistoryFile {
    /// Runs older than this are thinned out; never what a resume or rewind needs.
    pub(super) keep: Period,
}

impl Default for HistoryFile {
    fn default() -> Self {
        Self { keep: Period::seconds(30 * 24 * 60 * 60) }
    }
}

/// What happens when a source with an end has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnComplete {
    /// The checkpoint stays: a second run says that it is finished and does nothing.
    #[default]
    Keep,
    /// The checkpoint goes: a second run starts over. Runs and audit stay.
    Delete,
}
