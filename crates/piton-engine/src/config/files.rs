//! Which files a pipeline reads and writes, so that none is two things at once: a sink that appended
//! to the store, or to what is read, would destroy it.

use std::path::{Path, PathBuf};

use piton_connectors::file::is_named_by;

use super::{Sink, SinkSettings, SourceSettings, check::resolve};
use crate::connect::real;

/// What SQLite keeps beside a database, and the store's locks.
const BESIDE: [&str; 5] = ["", "-wal", "-shm", "-journal", "-locks"];

/// A file that is two things at once.
pub(super) struct Clash<'a> {
    /// The sink that writes it; `None` for the store.
    pub(super) sink: Option<&'a str>,
    /// What else it is.
    pub(super) why: String,
}

/// The clashes between what is read, what is written, and the store.
pub(super) fn clashes<'a>(
    source: &SourceSettings,
    sinks: &'a [Sink],
    store: &str,
    dir: &Path,
) -> Vec<Clash<'a>> {
    let mut clashes = Vec::new();
    let store = store.strip_prefix("sqlite:").map(|path| real(Path::new(path)));
    let is_store = |path: &Path| store.as_ref().is_some_and(|store| is_of(path, store));
    if store.as_ref().is_some_and(|store| reads_file(source, dir, store)) {
        let why = "is the file that the source reads: name another".to_owned();
        clashes.push(Clash { sink: None, why });
    }
    for (index, sink) in sinks.iter().enumerate() {
        let mut clash = |why: String| clashes.push(Clash { sink: Some(&sink.name), why });
        let file = match written(sink, dir) {
            Some(Written::Database(database)) if is_store(&database) => {
                clash(
                    "is the store: name another database for the rows, or another `store:`".into(),
                );
                continue;
            }
            Some(Written::File(file)) => file,
            _ => continue,
        };
        if is_store(&file) {
            clash("writes the file of the store: name another".into());
        }
        if reads_file(source, dir, &file) || reads_database(source, dir, &file) {
            clash("writes a file that the source reads".into());
        }
        for (other, before) in sinks.iter().zip(0..).map(|(other, at)| (other, at < index)) {
            match written(other, dir) {
                Some(Written::File(of_other)) if before && of_other == file => {
                    clash(format!("writes the same file as the sink {}", other.name));
                }
                Some(Written::Database(database)) if is_of(&file, &database) => {
                    clash(format!("writes the database of the sink {}", other.name));
                }
                _ => {}
            }
        }
    }
    clashes
}

/// The files that sinks write, each with its sink. Databases have writers beside each other.
pub(super) fn outputs(sinks: &[Sink], dir: &Path) -> Vec<(String, PathBuf)> {
    let file = |sink: &Sink| match written(sink, dir)? {
        Written::File(file) => Some((sink.name.clone(), file)),
        Written::Database(_) => None,
    };
    sinks.iter().filter_map(file).collect()
}

enum Written {
    File(PathBuf),
    Database(PathBuf),
}

fn written(sink: &Sink, dir: &Path) -> Option<Written> {
    match &sink.settings {
        SinkSettings::Jsonl(jsonl) => Some(Written::File(real(&resolve(dir, &jsonl.path)))),
        SinkSettings::Csv(csv) => Some(Written::File(real(&resolve(dir, &csv.path)))),
        SinkSettings::Sqlite(sqlite) => Some(Written::Database(real(&dir.join(&sqlite.path)))),
        #[cfg(feature = "postgres")]
        SinkSettings::Postgres(_) => None,
        #[cfg(feature = "mysql")]
        SinkSettings::Mysql(_) => None,
        SinkSettings::Stdout(_) | SinkSettings::Http(_) | SinkSettings::Command(_) => None,
    }
}

fn reads_file(source: &SourceSettings, dir: &Path, file: &Path) -> bool {
    match source {
        SourceSettings::Csv(csv) => is_named_by(&csv.path, dir, file),
        SourceSettings::Jsonl(jsonl) => is_named_by(&jsonl.path, dir, file),
        _ => false,
    }
}

fn reads_database(source: &SourceSettings, dir: &Path, file: &Path) -> bool {
    let SourceSettings::Sql(sql) = source else { return false };
    let database = sql.url.strip_prefix("sqlite:");
    let database = database.map(|path| path.strip_prefix("//").unwrap_or(path));
    database.is_some_and(|path| is_of(file, &real(&resolve(dir, path))))
}

/// Whether a path is that of a database, or of something that is kept beside it.
fn is_of(path: &Path, database: &Path) -> bool {
    let beside = |end: &&str| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        path == Path::new(&name)
    };
    BESIDE.iter().any(beside)
}
