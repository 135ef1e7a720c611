//! A part of a job's file that becomes a configuration when the values that it refers to are known.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{fill::Filler, references::Scope};
use crate::{
    config::{
        Config, ConfigError, SourceSettings,
        check::{self, Part},
        error::{Place, Problem},
        read, take_rate,
        tree::{Key, Node, Text, Value as Yaml},
    },
    job::definition::{Param, Reference, Value, Values},
};

/// A pipeline of a job, or the source of its `for_each`, with names in it whose values only a run
/// knows. Cheap to clone.
#[derive(Clone)]
pub struct Template {
    inner: Arc<Inner>,
    /// Whether one of its sinks is in MySQL or MariaDB.
    pub(crate) has_mysql_sink: bool,
}

struct Inner {
    /// A pipeline's file without its name.
    tree: Node,
    part: Part,
    /// Where it stands, before the paths in messages: `steps.customer`.
    under: String,
    params: Arc<[Param]>,
    records: Vec<String>,
    file: PathBuf,
    dir: PathBuf,
    whole_files: bool,
}

impl fmt::Debug for Template {
    // The settings of connectors hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("under", &self.inner.under).finish_non_exhaustive()
    }
}

/// Where a template stands in the file.
pub(super) struct Standing<'a> {
    pub(super) under: String,
    pub(super) params: &'a Arc<[Param]>,
    pub(super) records: &'a [String],
    pub(super) file: &'a Path,
    pub(super) dir: &'a Path,
    /// Whether its step, or one above, begins anew when it restarts.
    pub(super) begins_anew: bool,
}

impl Template {
    /// Of a pipeline's file without its name, checked with stand-ins for the values.
    pub(super) fn of(
        entries: Vec<(Key, Node)>,
        at: Place,
        part: Part,
        standing: Standing<'_>,
    ) -> (Self, Result<Config, Vec<Problem>>) {
        let inner = Arc::new(Inner {
            tree: Node { at, value: Yaml::Map(entries) },
            part,
            under: standing.under,
            params: Arc::clone(standing.params),
            records: standing.records.to_vec(),
            file: standing.file.to_owned(),
            dir: standing.dir.to_owned(),
            whole_files: standing.begins_anew,
        });
        let checked = inner.config("step", &|reference| Some(stand_in(reference)));
        let sinks = checked.as_ref().map_or(&[][..], |config| &config.sinks);
        let has_mysql_sink = sinks.iter().any(|sink| sink.settings.kind() == "mysql");
        (Self { inner, has_mysql_sink }, checked)
    }

    /// The configuration under a name: that of its checkpoints, `INSTANCE/PATH`. Of a `for_each` it
    /// has no sinks.
    ///
    /// # Errors
    /// A value is not known, or cannot stand where the file wants it; the message names the place.
    pub fn config(&self, name: &str, values: &Values<'_>) -> Result<Config, ConfigError> {
        self.inner.config(name, values).map_err(|problems| ConfigError::Invalid {
            file: self.inner.file.display().to_string(),
            problems,
        })
    }
}

impl Inner {
    fn config(&self, name: &str, values: &Values<'_>) -> Result<Config, Vec<Problem>> {
        let under = |problems: Vec<Problem>| -> Vec<Problem> {
            problems.into_iter().map(|problem| problem.under(&self.under)).collect()
        };
        let mut tree = self.tree.clone();
        let scope = Scope { params: &self.params, records: &self.records, in_step: true };
        let mut filler = Filler { scope, values, problems: Vec::new(), bound: Vec::new() };
        filler.fill(&mut tree, &mut Vec::new());
        let (problems, bound) = (filler.problems, filler.bound);
        if !problems.is_empty() {
            return Err(under(problems));
        }
        let key = Key { at: tree.at, name: "pipeline".to_owned() };
        let text = Text { value: name.to_owned(), ..Text::default() };
        if let Yaml::Map(entries) = &mut tree.value {
            entries.push((key, Node { at: self.tree.at, value: Yaml::Text(text) }));
        }
        let rate = take_rate(&mut tree).map_err(|problem| under(vec![problem]))?;
        let file = read::read(&tree).map_err(|problem| under(vec![problem]))?;
        let mut config =
            check::check(&tree, file, rate, &self.file, &self.dir, self.part).map_err(under)?;
        config.whole_files = self.whole_files;
        if let SourceSettings::Sql(sql) = &mut config.source.settings {
            sql.bound = bound;
        }
        Ok(config)
    }
}

/// What stands for a value while nothing runs.
fn stand_in(reference: &Reference) -> Value {
    Value::Text(reference.to_string().replace('.', "_"))
}
