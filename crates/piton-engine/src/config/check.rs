//! What types cannot say: names, counts and how settings fit one another.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "mysql")]
use piton_connectors::mysql::{MySqlSink, MySqlSource};
use piton_connectors::{
    command::{CommandSink, CommandSource},
    file::{FileSink, FileSource},
    http::HttpSink,
    settings::Period,
    sqlite::{SqlSource, SqliteSink},
};
#[cfg(feature = "postgres")]
use piton_connectors::{
    postgres::{PostgresSink, PostgresSource},
    postgres_outbox::OutboxSource,
};
use piton_core::interval::Policy;

use super::{
    Claim, Config, Described, Limits, OnError, Sink, SinkSettings, Source, SourceSettings,
    error::{Condition, Problem},
    file::{
        CheckpointFile, CheckpointMap, Commit, File, OnErrorFile, SINKS, SelectFile, SinkFile,
        TransformFile,
    },
    files::{self, Clash},
    scalars::{Rate, Size},
    tree::Node,
};
use crate::transform::{Expression, Selected, Taken, Transform};

/// The longest name of a pipeline or a sink.
const LONGEST_NAME: usize = 100;
const DAY: Duration = Duration::from_hours(24);

/// What a file, or a part of one, describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A pipeline that stands on its own.
    Whole,
    /// A pipeline that is a step of a job, which names it.
    Pipeline,
    /// What a `for_each` reads: there are no sinks.
    Parents,
}

/// Checks a file and makes a configuration of it, or names all that is wrong.
pub(super) fn check(
    root: &Node,
    file: File,
    rate: Option<Rate>,
    name: &Path,
    dir: &Path,
    part: Part,
) -> Result<Config, Vec<Problem>> {
    let mut check = Check::new(root);
    if part == Part::Whole {
        check.name(&["pipeline"], "a pipeline's name", &file.pipeline);
    }
    let store = check.store(&file.store, dir);
    let transform = check.transforms(file.transform);
    let optional: HashSet<String> =
        file.sinks.iter().filter(|(_, s)| !s.required).map(|(name, _)| name.clone()).collect();
    if file.sinks.is_empty() && part != Part::Parents {
        check.wrong(&["sinks"], "there is none: a pipeline writes to at least one");
    }
    let sinks = check.sinks(file.sinks);
    check.commit(file.commit, &sinks, &optional);
    #[cfg(feature = "postgres")]
    check.passed(&file.source, file.commit, &sinks);
    let checkpoint = check.checkpoint(file.checkpoint);
    check.lease(file.claim.lease);
    check.history(file.history.keep);
    let on_error = check.on_error(&file.on_error);
    let limits = Limits { record: file.limits.record.0, memory: file.limits.memory.0 };
    check.limits(file.limits.record, file.limits.memory);
    check.connectors(&file.source, &sinks, limits, dir);
    check.files(&file.source, &sinks, &store, dir);
    if !check.problems.is_empty() {
        check.problems.sort_by_key(|problem| problem.at);
        return Err(check.problems);
    }
    Ok(Config {
        pipeline: file.pipeline,
        store,
        store_at: root.place(&["store"]),
        source: Source {
            at: root.place(&["source", file.source.kind()]),
            settings: file.source,
            rate,
        },
        transform_at: root.place(&["transform", "0"]),
        transform,
        sinks,
        commit: file.commit,
        checkpoint,
        claim: Claim { lease: file.claim.lease.duration(), when_held: file.claim.when_held },
        on_error,
        limits,
        keep_history: file.history.keep.duration(),
        on_complete: file.on_complete,
        on_source_change: file.on_source_change,
        whole_files: false,
        max_age: file.max_age.map(Period::duration),
        described: Described::of(root),
        file: name.to_owned(),
        dir: dir.to_owned(),
    })
}

/// Gathers what is wrong with the settings below a node.
pub(super) struct Check<'a> {
    root: &'a Node,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(root: &'a Node) -> Self {
        Self { root, problems: Vec::new() }
    }

    fn wrong(&mut self, path: &[&str], why: impl Into<String>) {
        let node = self.root.find(path);
        let why = match why.into() {
            why if node.holds_secret_in(&why) => "what is filled in cannot be used here".to_owned(),
            why => why,
        };
        let what = Condition::Invalid { path: shown(path), why };
        self.problems.push(Problem { at: node.at, what });
    }

    pub(super) fn name(&mut self, path: &[&str], what: &str, name: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() {
            self.wrong(path, format!("{what} cannot be empty"));
        } else if name.len() > LONGEST_NAME {
            self.wrong(path, format!("{what} has at most {LONGEST_NAME} characters"));
        } else if !name.chars().all(fits) {
            let why = format!("{what} is made of letters, digits, '.', '_' and '-'");
            self.wrong(path, why);
        }
    }

    /// The store's address with an absolute path.
    pub(super) fn store(&mut self, store: &str, dir: &Path) -> String {
        let path = ["store"];
        if let Some(file) = store.strip_prefix("sqlite:") {
            if file.is_empty() || file.starts_with("//") && !file.starts_with("///") {
                self.wrong(&path, "names no file: write sqlite:PATH");
            }
            return format!("sqlite:{}", resolve(dir, file).display());
        }
        let systems = ["memory:", "postgres:", "postgresql:", "mysql:", "mariadb:"];
        if !systems.iter().any(|system| store.starts_with(system)) {
            self.wrong(
                &path,
                "is not an address of a store: write sqlite:PATH, postgres://…, mysql://… or memory:",
            );
        } else if let Err(error) = piton_stores::location(store, dir) {
            self.wrong(&path, error.to_string());
        }
        store.to_owned()
    }

    fn transforms(&mut self, transforms: Vec<TransformFile>) -> Vec<Transform> {
        let mut made = Vec::with_capacity(transforms.len());
        for (index, transform) in transforms.into_iter().enumerate() {
            let index = index.to_string();
            let path = |kind| ["transform", index.as_str(), kind];
            made.extend(match transform {
                TransformFile::Filter(text) => {
                    self.expression(&path("filter"), &text).map(Transform::Filter)
                }
                TransformFile::Select(select) => Some(self.select(&path("select"), select)),
                TransformFile::Rename(names) => {
                    let path = path("rename");
                    if names.0.is_empty() {
                        self.wrong(&path, "renames nothing");
                    }
                    self.distinct(&path, names.0.iter().map(|(_, new)| new.as_str()));
                    Some(Transform::Rename(names.0))
                }
                TransformFile::Flatten(flatten) => {
                    if flatten.field.is_empty() {
                        self.wrong(&path("flatten"), "names no field");
                    }
                    Some(Transform::Flatten { field: flatten.field, separator: flatten.separator })
                }
            });
        }
        made
    }

    fn select(&mut self, path: &[&str], select: SelectFile) -> Transform {
        let columns: Vec<Selected> = match select {
            SelectFile::Names(names) => names
                .into_iter()
                .map(|name| Selected { name: name.clone(), value: Taken::Field(name) })
                .collect(),
            SelectFile::Computed(pairs) => {
                let mut columns = Vec::with_capacity(pairs.0.len());
                for (name, text) in pairs.0 {
                    let path = [path, &[name.as_str()]].concat();
                    let value = self.expression(&path, &text).map(Taken::Expression);
                    columns.extend(value.map(|value| Selected { name, value }));
                }
                columns
            }
        };
        if columns.is_empty() && self.problems.is_empty() {
            self.wrong(path, "selects nothing");
        }
        self.distinct(path, columns.iter().map(|column| column.name.as_str()));
        Transform::Select(columns)
    }

    fn distinct<'n>(&mut self, path: &[&str], names: impl Iterator<Item = &'n str>) {
        let mut seen = HashSet::new();
        for name in names {
            if name.is_empty() {
                self.wrong(path, "a name is empty");
            } else if !seen.insert(name) {
                self.wrong(path, format!("two fields would be called '{name}'"));
            }
        }
    }

    fn expression(&mut self, path: &[&str], text: &str) -> Option<Expression> {
        match Expression::parse(text) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let node = self.root.find(path);
                let at = node.place_in_text(error.line, error.column);
                let why = if node.is_secret() {
                    format!("what {} stands for cannot be used here", node.shown())
                } else {
                    error.what
                };
                let path = shown(path);
                self.problems.push(Problem { at, what: Condition::Expression { path, why } });
                None
            }
        }
    }

    /// The sinks, in the order of the file.
    fn sinks(&mut self, mut sinks: std::collections::BTreeMap<String, SinkFile>) -> Vec<Sink> {
        let root = self.root;
        let order = root.find(&["sinks"]).entries().iter().map(|(key, _)| key.name.as_str());
        let mut made = Vec::with_capacity(sinks.len());
        for name in order {
            let path = ["sinks", name];
            self.name(&path, "a sink's name", name);
            let Some(sink) = sinks.remove(name) else { continue };
            let required = sink.required;
            match <[_; 1]>::try_from(sink.kinds()) {
                Ok([settings]) => {
                    let at = root.place(&["sinks", name, settings.kind()]);
                    made.push(Sink { name: name.to_owned(), settings, required, at });
                }
                Err(kinds) if kinds.is_empty() => {
                    self.wrong(&path, format!("needs one of {}", SINKS.join(", ")));
                }
                Err(kinds) => {
                    let kinds: Vec<_> = kinds.iter().map(super::SinkSettings::kind).collect();
                    let why = format!("{} are several sinks: name each", kinds.join(" and "));
                    self.wrong(&path, why);
                }
            }
        }
        made
    }

    fn commit(&mut self, commit: Commit, sinks: &[Sink], optional: &HashSet<String>) {
        let first_optional = sinks.iter().find(|sink| optional.contains(&sink.name));
        match commit {
            Commit::Quorum(0) => {
                self.wrong(&["commit", "quorum"], "0 would wait for no sink: at least 1");
            }
            Commit::Quorum(quorum) if quorum > sinks.len() && !sinks.is_empty() => {
                let why = format!("{quorum} are more than there are: {}", counted(sinks.len()));
                self.wrong(&["commit", "quorum"], why);
            }
            Commit::All => {
                if let Some(sink) = first_optional {
                    let path = ["sinks", sink.name.as_str(), "required"];
                    let why = "`commit: all` waits for every sink: leave this out, or write \
                               `commit: required`";
                    self.wrong(&path, why);
                }
            }
            Commit::Required if !sinks.is_empty() && optional.len() == sinks.len() => {
                let why = "no sink is required, so nothing would ever be waited for: require \
                           one, or write `commit: {quorum: 1}`";
                self.wrong(&["sinks"], why);
            }
            Commit::Required | Commit::Quorum(_) => {}
        }
    }

    /// Deleting goes by the commit policy, so that has to wait for every sink.
    #[cfg(feature = "postgres")]
    fn passed(&mut self, source: &SourceSettings, commit: Commit, sinks: &[Sink]) {
        let SourceSettings::PostgresOutbox(outbox) = source else { return };
        let waits_for_all = match commit {
            Commit::All => true,
            Commit::Required => sinks.iter().all(|sink| sink.required),
            Commit::Quorum(quorum) => quorum >= sinks.len(),
        };
        if outbox.delete_passed && !waits_for_all {
            let why = "deletes what the commit policy lets go, and one of the sinks may not have \
                       it by then: leave this out, or write `commit: all`";
            self.wrong(&["source", "postgres_outbox", "delete_passed"], why);
        }
    }

    /// What the connectors themselves find in their settings. None touches what it is about.
    fn connectors(&mut self, source: &SourceSettings, sinks: &[Sink], limits: Limits, dir: &Path) {
        let record = limits.record.clamp(1024, 1 << 30);
        let made = match source.clone() {
            SourceSettings::Csv(csv) => FileSource::new(csv, dir, record).map(drop),
            SourceSettings::Jsonl(jsonl) => FileSource::new(jsonl, dir, record).map(drop),
            #[cfg(feature = "postgres")]
            SourceSettings::Sql(sql) if sql.is_for_postgres() => {
                PostgresSource::new(&sql, record as usize).map(drop)
            }
            #[cfg(feature = "mysql")]
            SourceSettings::Sql(sql) if sql.is_for_mysql() => {
                MySqlSource::new(&sql, record as usize).map(drop)
            }
            SourceSettings::Sql(sql) => SqlSource::new(&sql, dir, record as usize).map(drop),
            #[cfg(feature = "postgres")]
            SourceSettings::PostgresOutbox(outbox) => {
                OutboxSource::new(&outbox, "", record as usize, false).map(drop)
            }
            SourceSettings::Command(command) => {
                CommandSource::new(&command, dir, "", record as usize).map(drop)
            }
        };
        if let Err(error) = made {
            self.wrong(&["source", source.kind()], error.to_string());
        }
        for sink in sinks {
            let made = match &sink.settings {
                SinkSettings::Sqlite(sqlite) => {
                    SqliteSink::new(sqlite, dir, Duration::ZERO).map(drop)
                }
                #[cfg(feature = "postgres")]
                SinkSettings::Postgres(postgres) => {
                    PostgresSink::new(postgres, Duration::ZERO).map(drop)
                }
                #[cfg(feature = "mysql")]
                SinkSettings::Mysql(mysql) => MySqlSink::new(mysql, Duration::ZERO).map(drop),
                SinkSettings::Jsonl(jsonl) => FileSink::jsonl(jsonl, dir).map(drop),
                SinkSettings::Csv(csv) => FileSink::csv(csv, dir).map(drop),
                SinkSettings::Http(http) => HttpSink::new(http, "", &sink.name).map(drop),
                SinkSettings::Command(command) => {
                    CommandSink::new(command, dir, "", &sink.name).map(drop)
                }
                SinkSettings::Stdout(_) => Ok(()),
            };
            if let Err(error) = made {
                self.wrong(&["sinks", &sink.name, sink.settings.kind()], error.to_string());
            }
        }
    }

    /// No file is written twice, or is two things at once.
    fn files(&mut self, source: &SourceSettings, sinks: &[Sink], store: &str, dir: &Path) {
        for Clash { sink, why } in files::clashes(source, sinks, store, dir) {
            match sink {
                Some(sink) => self.wrong(&["sinks", sink], why),
                None => self.wrong(&["store"], why),
            }
        }
    }

    pub(super) fn checkpoint(&mut self, checkpoint: CheckpointFile) -> Policy {
        let set = match checkpoint {
            CheckpointFile::Default => return Policy::default(),
            CheckpointFile::Off => return Policy::Off,
            CheckpointFile::Set(set) => set,
        };
        let CheckpointMap { max_replay, max_overhead, every, records } = set;
        let adaptive = max_replay.is_some() || max_overhead.is_some();
        if adaptive && (every.is_some() || records.is_some()) {
            let why = "either chosen within bounds (max_replay, max_overhead) or fixed (every, \
                       records)";
            self.wrong(&["checkpoint"], why);
        }
        let shortest = Duration::from_millis(1);
        for (key, period) in [("max_replay", max_replay), ("every", every)] {
            if let Some(period) = period {
                self.between(&["checkpoint", key], period.duration(), shortest, DAY);
            }
        }
        if max_overhead.is_some_and(|share| share.0 <= 0.0) {
            self.wrong(&["checkpoint", "max_overhead"], "with 0% nothing could ever be saved");
        }
        if records == Some(0) {
            self.wrong(&["checkpoint", "records"], "at least 1");
        }
        if every.is_some() || records.is_some() {
            return Policy::Fixed { every: every.map(Period::duration), records };
        }
        let Policy::Adaptive { max_replay: replay, max_overhead: overhead } = Policy::default()
        else {
            return Policy::default();
        };
        Policy::Adaptive {
            max_replay: max_replay.map_or(replay, Period::duration),
            max_overhead: max_overhead.map_or(overhead, |share| share.0),
        }
    }

    pub(super) fn on_error(&mut self, on_error: &OnErrorFile) -> OnError {
        match on_error {
            OnErrorFile::Default => OnError::default(),
            OnErrorFile::At(refused) => OnError { retries: 0, then: *refused },
            OnErrorFile::Retry(map) => {
                if map.retry == 0 {
                    let why = "0 tries are none: write `on_error: stop` or `on_error: dead_letter`";
                    self.wrong(&["on_error", "retry"], why);
                }
                OnError { retries: map.retry, then: map.then }
            }
        }
    }

    pub(super) fn lease(&mut self, lease: Period) {
        self.between(&["claim", "lease"], lease.duration(), Duration::from_secs(1), DAY);
    }

    pub(super) fn history(&mut self, keep: Period) {
        let most = 36_500 * DAY;
        self.between(&["history", "keep"], keep.duration(), Duration::from_mins(1), most);
    }

    pub(super) fn limits(&mut self, record: Size, memory: Size) {
        if record.0 < 1024 {
            self.wrong(&["limits", "record"], "at least 1KiB");
        } else if record.0 > 1 << 30 {
            self.wrong(&["limits", "record"], "at most 1GiB");
        }
        if memory.0 < record.0.saturating_mul(2) {
            let why = "at least twice limits.record, so that a record can be read while another is \
                       written";
            self.wrong(&["limits", "memory"], why);
        }
    }

    fn between(&mut self, path: &[&str], value: Duration, least: Duration, most: Duration) {
        if value < least {
            self.wrong(path, format!("at least {least:?}"));
        } else if value > most {
            self.wrong(path, format!("at most {} days", most.as_secs() / DAY.as_secs()));
        }
    }
}

/// A path for people, who count transforms from 1.
fn shown(path: &[&str]) -> String {
    let mut parts: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    if let ["transform", index, ..] = path
        && let Ok(index) = index.parse::<usize>()
    {
        parts[1] = (index + 1).to_string();
    }
    parts.join(".")
}

fn counted(sinks: usize) -> String {
    if sinks == 1 { "1 sink".to_owned() } else { format!("{sinks} sinks") }
}

/// A path of the file, against the file's folder.
pub(super) fn resolve(dir: &Path, path: &str) -> PathBuf {
    let mut resolved = dir.to_path_buf();
    for part in Path::new(path).components() {
        if part != std::path::Component::CurDir {
            resolved.push(part);
        }
    }
    resolved
}
