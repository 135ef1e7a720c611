//! Registration: what the words of a configuration stand for. A new connector is a line in each of
//! the matches here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(feature = "mysql")]
use piton_connectors::mysql::{History as MySqlHistory, MySqlPosition, MySqlSink, MySqlSource};
use piton_connectors::{
    command::{CommandPosition, CommandSink, CommandSource, Tries},
    file::{FilePosition, FileSink, FileSource},
    http::HttpSink,
    sink::{Sink, SinkError},
    source::{Source, SourceError},
    sqlite::{Mode, SqlPosition, SqlSource, SqliteSink, Turn},
    stdout::StreamSink,
};
#[cfg(feature = "postgres")]
use piton_connectors::{
    postgres::{History, PostgresPosition, PostgresSink, PostgresSource},
    postgres_outbox::{OutboxPosition, OutboxSource},
};
use piton_core::{
    Control, PipelineRecord, Position, PositionOrder, StoredPosition, position::order_of,
};

use crate::{
    config::{self, Config, Refused, SinkSettings, SourceSettings, WhenHeld},
    job::{definition::OnSourceChange, within::WithinPosition},
    pipeline::{Commit, OnComplete, OnError, Pipeline, SinkSpec},
    run::RunError,
    steer::{Replay, SinkRecord},
    transform::Transforms,
};

/// Output of one `flatten` at once, at most.
const TRANSFORMED_BYTES: usize = 1 << 20;

/// How stored positions of a kind are ordered; `None` for a kind that is not known.
pub fn order_of_kind(kind: &str) -> Option<PositionOrder> {
    match kind {
        FilePosition::KIND => Some(order_of::<FilePosition>),
        SqlPosition::KIND => Some(order_of::<SqlPosition>),
        #[cfg(feature = "postgres")]
        OutboxPosition::KIND => Some(order_of::<OutboxPosition>),
        #[cfg(feature = "postgres")]
        PostgresPosition::KIND => Some(order_of::<PostgresPosition>),
        #[cfg(feature = "mysql")]
        MySqlPosition::KIND => Some(order_of::<MySqlPosition>),
        CommandPosition::KIND => Some(order_of::<CommandPosition>),
        u64::KIND => Some(order_of::<u64>),
        WithinPosition::KIND => Some(order_of::<WithinPosition>),
        _ => None,
    }
}

/// A position of a kind as a person writes it, after what [`brief`] shows; `None` if it is none.
pub(crate) fn sought(kind: &str, json: &str) -> Option<StoredPosition> {
    match kind {
        FilePosition::KIND => FilePosition::sought(json).ok().map(|position| position.stored()),
        SqlPosition::KIND => readable::<SqlPosition>(kind, json),
        #[cfg(feature = "postgres")]
        OutboxPosition::KIND => readable::<OutboxPosition>(kind, json),
        #[cfg(feature = "postgres")]
        PostgresPosition::KIND => readable::<PostgresPosition>(kind, json),
        #[cfg(feature = "mysql")]
        MySqlPosition::KIND => readable::<MySqlPosition>(kind, json),
        CommandPosition::KIND => readable::<CommandPosition>(kind, json),
        u64::KIND => readable::<u64>(kind, json),
        _ => None,
    }
}

fn readable<P: Position>(kind: &str, json: &str) -> Option<StoredPosition> {
    let position = StoredPosition { kind: kind.to_owned(), json: json.to_owned() };
    position.read::<P>().is_ok().then_some(position)
}

/// What of a position only machines read: by what a file is recognised, which of several of its
/// name it is, and the types that were guessed from it.
const FOR_MACHINES: [&str; 3] = ["fingerprint", "file", "types"];

/// A stored position for people.
pub fn brief(position: &StoredPosition) -> String {
    let json = serde_json::from_str::<serde_json::Value>(&position.json);
    json.map_or_else(
        |_| position.json.clone(),
        |mut json| match json.get_mut("at") {
            Some(at) if position.kind == WithinPosition::KIND => brief_json(at.take()),
            _ => brief_json(json),
        },
    )
}

/// A position for people: without what only machines read.
pub fn brief_json(mut position: serde_json::Value) -> String {
    if position.get("fingerprint").is_some()
        && let Some(fields) = position.as_object_mut()
    {
        fields.retain(|name, _| !FOR_MACHINES.contains(&name.as_str()));
    }
    position.to_string()
}

/// Makes a pipeline of a checked configuration. `accept_changes` says that an operator accepts a
/// source that was changed.
///
/// # Errors
/// Settings that a connector cannot work with.
pub fn pipeline(config: &Config, accept_changes: bool) -> Result<Pipeline, RunError> {
    let of_source = |error| RunError::of_source(&config.pipeline, &error);
    let goes_on = accept_changes || config.on_source_change == OnSourceChange::Continue;
    let of = |accepts| source(config, accepts).map_err(of_source);
    // What an operator has accepted is not looked at.
    let strict = (goes_on && !accept_changes).then(|| of(false)).transpose()?;
    let source = of(goes_on)?;
    let records: Vec<SinkRecord> = config.sinks.iter().map(|sink| record(config, sink)).collect();
    let record = PipelineRecord {
        pipeline: config.pipeline.clone(),
        source: source.identity().to_string(),
        transforms: config.described.transform.to_string(),
        sinks: serde_json::to_string(&records).unwrap_or_default(),
        control: Control::Run,
        file: Some(config.dir.join(&config.file).display().to_string()),
    };
    let transforms = config.transform.clone();
    let fixed = config.source.settings.has_fixed_fields();
    let turns = turns(config);
    let sinks: Result<Vec<SinkSpec>, RunError> =
        config.sinks.iter().map(|sink| sink_spec(config, sink, &turns)).collect();
    Ok(Pipeline {
        name: config.pipeline.clone(),
        source,
        strict,
        on_source_change: config.on_source_change,
        max_age: config.max_age,
        source_at: config
            .shown(config.source.at, &format!("source.{}", config.source.settings.kind())),
        transforms_at: config.shown(config.transform_at, "transform"),
        transforms: Box::new(move || Transforms::new(&transforms, fixed, TRANSFORMED_BYTES)),
        sinks: sinks?,
        commit: match config.commit {
            config::Commit::Required => Commit::Required,
            config::Commit::All => Commit::All,
            config::Commit::Quorum(n) => Commit::Quorum(n),
        },
        interval: config.checkpoint.clone(),
        lease: config.claim.lease,
        wait_when_held: config.claim.when_held == WhenHeld::Wait,
        on_error: match (config.on_error.retries, config.on_error.then) {
            (0, Refused::Stop) => OnError::Stop,
            (0, Refused::DeadLetter) => OnError::DeadLetter,
            (times, then) => {
                OnError::Retry { times, then_dead_letter: then == Refused::DeadLetter }
            }
        },
        on_complete: match config.on_complete {
            config::OnComplete::Keep => OnComplete::Keep,
            config::OnComplete::Delete => OnComplete::Delete,
        },
        rate: config.source.rate.map(|rate| rate.per_second()),
        memory_bytes: usize::try_from(config.limits.memory).unwrap_or(usize::MAX),
        record_bytes: usize::try_from(config.limits.record).unwrap_or(usize::MAX),
        keep_history: config.keep_history,
        parent: None,
        record,
    })
}

pub(crate) fn source(
    config: &Config,
    accept_changes: bool,
) -> Result<Arc<dyn Source>, SourceError> {
    let (dir, limit) = (&config.dir, config.limits.record);
    let file = |source: FileSource| Arc::new(source.accepting_changes(accept_changes));
    Ok(match config.source.settings.clone() {
        SourceSettings::Csv(csv) => file(FileSource::new(csv, dir, limit)?),
        SourceSettings::Jsonl(jsonl) => file(FileSource::new(jsonl, dir, limit)?),
        #[cfg(feature = "postgres")]
        SourceSettings::PostgresOutbox(outbox) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Arc::new(OutboxSource::new(&outbox, &config.pipeline, limit, accept_changes)?)
        }
        #[cfg(feature = "postgres")]
        SourceSettings::Sql(sql) if sql.is_for_postgres() => {
            Arc::new(PostgresSource::new(&sql, usize::try_from(limit).unwrap_or(usize::MAX))?)
        }
        #[cfg(feature = "mysql")]
        SourceSettings::Sql(sql) if sql.is_for_mysql() => {
            Arc::new(MySqlSource::new(&sql, usize::try_from(limit).unwrap_or(usize::MAX))?)
        }
        SourceSettings::Command(command) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let source = CommandSource::new(&command, dir, &config.pipeline, limit)?;
            Arc::new(source.shown(config.described.source["command"]["run"].clone()))
        }
        SourceSettings::Sql(sql) => {
            Arc::new(SqlSource::new(&sql, dir, usize::try_from(limit).unwrap_or(usize::MAX))?)
        }
    })
}

/// For each SQLite database that several sinks write, the queue in which they do.
fn turns(config: &Config) -> HashMap<PathBuf, Arc<Turn>> {
    let mut counts: HashMap<PathBuf, usize> = HashMap::new();
    for sink in &config.sinks {
        if let SinkSettings::Sqlite(sqlite) = &sink.settings {
            *counts.entry(real(&config.dir.join(&sqlite.path))).or_default() += 1;
        }
    }
    let shared = counts.into_iter().filter(|(_, count)| *count > 1);
    shared.map(|(path, _)| (path, Arc::default())).collect()
}

fn sink_spec(
    config: &Config,
    sink: &config::Sink,
    turns: &HashMap<PathBuf, Arc<Turn>>,
) -> Result<SinkSpec, RunError> {
    let turn = match &sink.settings {
        SinkSettings::Sqlite(sqlite) => turns.get(&real(&config.dir.join(&sqlite.path))).cloned(),
        _ => None,
    };
    let shares = turn.is_some();
    let (dir, lease) = (config.dir.clone(), config.claim.lease);
    let (pipeline, name) = (config.pipeline.clone(), sink.name.clone());
    let settings = sink.settings.clone();
    let tries = Arc::new(Tries::at_most(config.on_error.retries));
    let shown = command_line(config, &name);
    #[cfg(feature = "postgres")]
    let history = Arc::<History>::default();
    #[cfg(feature = "mysql")]
    let of_mysql = Arc::<MySqlHistory>::default();
    let whole = config.whole_files;
    let file = move |sink: FileSink| Sink::Plain(Box::new(if whole { sink.whole() } else { sink }));
    let make = move || -> Result<Sink, SinkError> {
        Ok(match &settings {
            SinkSettings::Sqlite(sqlite) => {
                let sink = SqliteSink::new(sqlite, &dir, lease)?;
                Sink::Transactional(Box::new(match &turn {
                    Some(turn) => sink.sharing(Arc::clone(turn)),
                    None => sink,
                }))
            }
            #[cfg(feature = "postgres")]
            SinkSettings::Postgres(postgres) => {
                let sink = PostgresSink::new(postgres, lease)?.after(Arc::clone(&history));
                Sink::Transactional(Box::new(sink))
            }
            #[cfg(feature = "mysql")]
            SinkSettings::Mysql(mysql) => {
                let sink = MySqlSink::new(mysql, lease)?.after(Arc::clone(&of_mysql));
                Sink::Transactional(Box::new(sink))
            }
            SinkSettings::Jsonl(jsonl) => file(FileSink::jsonl(jsonl, &dir)?),
            SinkSettings::Csv(csv) => file(FileSink::csv(csv, &dir)?),
            SinkSettings::Stdout(_) => Sink::Plain(Box::new(StreamSink::standard())),
            SinkSettings::Http(http) => {
                Sink::Plain(Box::new(HttpSink::new(http, &pipeline, &name)?))
            }
            SinkSettings::Command(command) => {
                let sink = CommandSink::new(command, &dir, &pipeline, &name)?;
                let sink = sink.shown(shown.clone()).trying(Arc::clone(&tries));
                Sink::Plain(Box::new(sink))
            }
        })
    };
    let at = config.shown(sink.at, &format!("sinks.{}.{}", sink.name, sink.settings.kind()));
    // Settings that cannot work are found before anything else is done.
    make().map_err(|error| match error {
        SinkError::Settings { what } => RunError::Settings(format!("{at}: {what}")),
        other => RunError::of_sink(&config.pipeline, &sink.name, &other),
    })?;
    let key = match &sink.settings {
        SinkSettings::Sqlite(sqlite) => sqlite.key.clone(),
        #[cfg(feature = "postgres")]
        SinkSettings::Postgres(postgres) => postgres.key.clone(),
        #[cfg(feature = "mysql")]
        SinkSettings::Mysql(mysql) => mysql.key.clone(),
        _ => Vec::new(),
    };
    Ok(SinkSpec {
        name: sink.name.clone(),
        required: sink.required,
        at,
        key,
        shares,
        make: Box::new(make),
    })
}

fn record(config: &Config, sink: &config::Sink) -> SinkRecord {
    let at = |path: &dyn AsRef<std::path::Path>| config.dir.join(path).display().to_string();
    let (at, replay) = match &sink.settings {
        SinkSettings::Sqlite(sqlite) => {
            let appends = sqlite.mode().is_ok_and(|mode| mode == Mode::Append);
            let replay = if appends { Replay::CutOrRepeat } else { Replay::Overwrites };
            (at(&sqlite.path), replay)
        }
        #[cfg(feature = "postgres")]
        SinkSettings::Postgres(postgres) => {
            let appends = postgres.mode().is_ok_and(|mode| mode == Mode::Append);
            let replay = if appends { Replay::Repeats } else { Replay::Overwrites };
            (postgres.location(), replay)
        }
        #[cfg(feature = "mysql")]
        SinkSettings::Mysql(mysql) => {
            let appends = mysql.mode().is_ok_and(|mode| mode == Mode::Append);
            let replay = if appends { Replay::Repeats } else { Replay::Overwrites };
            (mysql.location(), replay)
        }
        SinkSettings::Jsonl(jsonl) => (at(&jsonl.path), Replay::CutOrRepeat),
        SinkSettings::Csv(csv) => (at(&csv.path), Replay::CutOrRepeat),
        SinkSettings::Stdout(_) => ("standard output".to_owned(), Replay::SendsAgain),
        SinkSettings::Http(_) => ("http".to_owned(), Replay::SendsAgain),
        SinkSettings::Command(_) => (command_line(config, &sink.name), Replay::SendsAgain),
    };
    let table = match &sink.settings {
        SinkSettings::Sqlite(sqlite) => Some(sqlite.table.clone()),
        #[cfg(feature = "postgres")]
        SinkSettings::Postgres(postgres) => Some(postgres.table.clone()),
        #[cfg(feature = "mysql")]
        SinkSettings::Mysql(mysql) => Some(mysql.table.clone()),
        _ => None,
    };
    let (name, kind) = (sink.name.clone(), sink.settings.kind().to_owned());
    SinkRecord { name, kind, at, table, replay }
}

/// The words of a sink's command, without secrets.
fn command_line(config: &Config, sink: &str) -> String {
    let described = config.described.sinks.get(sink);
    let words = described.and_then(|sink| sink["command"]["run"].as_array());
    let words = words.into_iter().flatten().filter_map(serde_json::Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

/// A path without links, also of a file that is not there yet.
pub(crate) fn real(path: &Path) -> PathBuf {
    let whole = path.canonicalize().ok();
    let folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    whole.or_else(folder).unwrap_or_else(|| path.to_owned())
}
