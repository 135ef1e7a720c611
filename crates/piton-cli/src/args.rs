//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Checkpointing for everything that reads data in order: work that must not start over.
#[derive(Debug, Parser)]
#[command(name = "piton", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 finished; 1 failed or stopped early, run again to resume; \
    2 bad usage or configuration; 3 refused, the state or source does not match; \
    4 held by another owner.")]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline or a job, or resume it where it stopped
    Run(Run),
    /// Say what a run would do and which guarantee holds, without running
    Plan(Plan),
    /// Write a commented configuration for a data file
    Init(Init),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print the tables that programs and databases share with Piton
    #[cfg(feature = "postgres")]
    Sql(Sql),
    /// Show pipelines and jobs, their checkpoints and steps
    Status(Status),
    /// Show a pipeline's checkpoints, runs and events over time
    History(History),
    /// Forget a pipeline's checkpoints: the next run begins anew
    Reset(Reset),
    /// Go back to an earlier checkpoint
    Rewind(Rewind),
    /// Make a pipeline idle at the next record boundary
    Pause(Named),
    /// Let a paused pipeline go on
    Resume(Named),
    /// Drain a pipeline and end it; a new run needs --again
    Cancel(Named),
    /// Note that a step of a job counts as done
    MarkDone(MarkDone),
    /// Run a command as a step of a job, unless it is done: checkpoints for shell scripts
    Step(Step),
    /// Print or keep the position of a script's step
    Position(Position),
    /// List, show, count, replay or drop records that were set aside
    DeadLetters(DeadLetters),
    /// Copy the state into a file, consistently, while pipelines run
    Backup(Backup),
    /// Print the state as JSON
    Export(Export),
    /// Fill an empty store from an export
    Import(Import),
    /// Print shell completions
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

const STORE_HELP: &str =
    "The store: sqlite:PATH, postgres://…, mysql://… [default: $PITON_STORE, else sqlite:piton.db]";

/// Which store a command speaks of.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    // As `help`, for a variable in a doc comment wants backticks.
    #[arg(long, value_name = "URL", help = STORE_HELP)]
    pub(crate) store: Option<String>,
}

/// A pipeline by name or by its configuration.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The pipeline's or job's name, or its configuration file
    #[arg(value_name = "NAME|FILE")]
    pub(crate) name: String,
    /// A parameter of the job's run that is meant; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Ctrl-C saves and stops, and the same command goes on from there. \
    --accept-changes, --accept-age, --adopt and --again answer a refusal: see `piton plan FILE` first.")]
pub(crate) struct Run {
    /// The configuration of a pipeline or a job
    pub(crate) file: PathBuf,
    /// A parameter of a job; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,
    /// Go on although the definition or the source has changed
    #[arg(long)]
    pub(crate) accept_changes: bool,
    /// Take over output that the store knows nothing of
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Check all of what was consumed before, not only its ends
    #[arg(long)]
    pub(crate) verify: bool,
    /// Resume although the newest checkpoint is older than `max_age`
    #[arg(long)]
    pub(crate) accept_age: bool,
    /// Run although it was cancelled; of a job that has finished, begin a new run
    #[arg(long)]
    pub(crate) again: bool,
    /// Print transformed records and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: how many records to print
    #[arg(long, value_name = "N", default_value_t = 10, requires = "dry_run")]
    pub(crate) limit: u64,
    /// Print JSON lines: started, progress, and the result
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The configuration of a pipeline or a job
    pub(crate) file: PathBuf,
    /// A parameter of a job; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// A data file: CSV, JSON lines, or a SQLite database
    pub(crate) data: PathBuf,
    /// Where to write the configuration [default: NAME.yaml beside the data]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "postgres")]
#[derive(Debug, Args)]
pub(crate) struct Sql {
    #[command(subcommand)]
    pub(crate) command: SqlCommand,
}

#[cfg(feature = "postgres")]
#[derive(Debug, Subcommand)]
pub(crate) enum SqlCommand {
    /// A store in PostgreSQL, with functions by which programs in any language keep checkpoints
    Postgres,
    /// An outbox in PostgreSQL: its table, its index, and a trigger that wakes readers
    PostgresOutbox(OutboxSql),
}

#[cfg(feature = "postgres")]
#[derive(Debug, Args)]
pub(crate) struct OutboxSql {
    /// The table: NAME or SCHEMA.NAME
    #[arg(long, value_name = "TABLE", default_value = "outbox")]
    pub(crate) table: String,
    /// A column that has another name in the table, such as data=payload; may be given again
    #[arg(long, value_name = "COLUMN=NAME")]
    pub(crate) column: Vec<String>,
    /// Print the trigger as a statement, not as a comment
    #[arg(long, conflicts_with = "check")]
    pub(crate) trigger: bool,
    /// Compare the table in this database with what would be printed; exit with 1 if it differs
    #[arg(long, value_name = "URL")]
    pub(crate) check: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// A pipeline's name or configuration file [default: all]
    #[arg(value_name = "NAME|FILE")]
    pub(crate) name: Option<String>,
    /// A parameter of the job's run that is meant; may be given again
    #[arg(long, value_name = "NAME=VALUE", requires = "name")]
    pub(crate) param: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 1 if a pipeline failed, crashed, or is behind
    #[arg(long)]
    pub(crate) check: bool,
    /// With --check: how old the checkpoint of one with more to do may be, such as 5m
    #[arg(long, value_name = "TIME", requires = "check")]
    pub(crate) max_lag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) named: Named,
    /// How many checkpoints, runs and events to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u64,
}

/// What becomes of output past a position.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct OutputArgs {
    /// Cut the output of file and append sinks to that position
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Keep the output of file and append sinks: records will repeat
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Only this sink
    #[arg(long, value_name = "SINK")]
    pub(crate) sink: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rewind {
    #[command(flatten)]
    pub(crate) reset: Reset,
    /// A version (12), a time (2026-11-20T10:00:00Z) or a position ({"offset":4096}); of a job, a
    /// step
    #[arg(long, value_name = "WHERE")]
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct MarkDone {
    #[command(flatten)]
    pub(crate) named: Named,
    /// The step's path, such as customer/invoice
    pub(crate) step: String,
    /// Why, for those who look at its history
    #[arg(long, value_name = "REASON")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: the command's; 122 bad usage, 123 refused, 124 held by another \
    owner, 125 another failure of piton itself. The command finds PITON_JOB, PITON_STEP, \
    PITON_ATTEMPT (1, 2, …), PITON_RECOVERING (1 after an attempt that did not finish), \
    PITON_STARTED_AT (of that attempt) and PITON_POSITION in its environment."
)]
pub(crate) struct Step {
    /// The job that the step belongs to
    #[arg(long, value_name = "JOB", env = "PITON_JOB")]
    pub(crate) job: String,
    /// The step's name
    #[arg(long, value_name = "STEP", required_unless_present = "finish")]
    pub(crate) name: Option<String>,
    /// Close the job's run, all steps of which are done: its next step begins a new one
    #[arg(long, conflicts_with_all = ["name", "command"])]
    pub(crate) finish: bool,
    /// Close it although steps have failed or not ended, which is recorded
    #[arg(long, requires = "finish")]
    pub(crate) accept_undone: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The command and its arguments, behind `--`
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "finish")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Position {
    #[command(subcommand)]
    pub(crate) command: PositionCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PositionCommand {
    /// Print the position that a step has kept; nothing if it has kept none
    Get(PositionOf),
    /// Keep a position, which the next attempt finds in its environment
    Set(SetPosition),
}

#[derive(Debug, Args)]
pub(crate) struct PositionOf {
    /// The job; within a command of a step, that one's
    #[arg(long, value_name = "JOB")]
    pub(crate) job: Option<String>,
    /// The step's name, or its path; within a command of a step, that one
    #[arg(long, value_name = "STEP")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetPosition {
    #[command(flatten)]
    pub(crate) of: PositionOf,
    /// What the step understands as its position
    pub(crate) value: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) command: DeadLetterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// List records that were set aside
    List(Named),
    /// Print how many there are
    Count(Named),
    /// Show one with its record
    Show(Letter),
    /// Deliver them again, by the configuration file; those that are taken are dropped
    Replay(Chosen),
    /// Drop them for good
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(crate) struct Letter {
    #[command(flatten)]
    pub(crate) named: Named,
    /// The record's id, as `list` shows it
    pub(crate) id: String,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Ids, as `list` shows them
    pub(crate) ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drop {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write; it must not exist
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The export; `-` is standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
