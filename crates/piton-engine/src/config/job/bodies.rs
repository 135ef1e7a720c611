//! What a step does: exactly one thing.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use super::{
    file::StepFile,
    outputs::Output,
    references::Scope,
    sql,
    steps::{Above, At, Reading},
    template::{Standing, Template},
};
use crate::{
    config::{
        Config, SourceSettings,
        check::Part,
        files,
        interpolate::is_name,
        tree::{Key, Node, Value},
    },
    job::definition::{Body, ForEach, Placeholders},
};

/// Settings of what moves records, which mean nothing elsewhere.
const OF_RECORDS: &[&str] =
    &["checkpoint", "commit", "on_error", "on_source_change", "claim", "limits"];
/// Names that a `for_each` cannot give.
const TAKEN: &[&str] = &["param", "step", "record"];

impl Reading<'_> {
    pub(super) fn body(&mut self, at: &At<'_>, file: &StepFile, above: &Above) -> Option<Body> {
        let has = |key: &&str| at.node.get(key).is_some();
        let moves = ["source", "sinks", "transform"].into_iter().find(|key| has(key));
        let others = ["sql", "run", "for_each"].into_iter().filter(|key| has(key));
        let bodies: Vec<&str> = moves.into_iter().chain(others).collect();
        if file.concurrency.is_some() && !bodies.contains(&"for_each") {
            self.wrong(at, &["concurrency"], "is for a `for_each`: leave it out");
        }
        if !has(&"steps") && !bodies.iter().any(|body| moves == Some(body) || *body == "for_each") {
            for key in OF_RECORDS.iter().filter(|key| has(key)) {
                let why = "means something only where records are moved: leave it out";
                self.wrong(at, &[key], why);
            }
        }
        match bodies.as_slice() {
            [] if has(&"steps") => Some(Body::Group),
            [] => {
                let why = "does nothing: give it `source` and `sinks`, `sql`, `run`, `for_each` or \
                           `steps`";
                self.wrong(at, &[], why);
                None
            }
            ["sql"] => {
                let scope = Scope {
                    params: &Arc::clone(&self.params),
                    records: &above.records,
                    in_step: true,
                };
                self.sql(at, &["sql"], file.sql.as_ref()?, scope).map(Body::Sql)
            }
            ["run"] => {
                let scope = Scope {
                    params: &Arc::clone(&self.params),
                    records: &above.records,
                    in_step: true,
                };
                self.command(at, &["run"], scope).map(Body::Run)
            }
            ["for_each"] => self.for_each(at, file, above).map(Body::ForEach),
            [_] => self.pipeline(at, above).map(Body::Pipeline),
            several => {
                let several: Vec<String> = several.iter().map(|body| format!("`{body}`")).collect();
                let why = format!(
                    "has {}: a step does one thing, so make steps of them",
                    several.join(" and ")
                );
                self.wrong(at, &[], why);
                None
            }
        }
    }

    fn pipeline(&mut self, at: &At<'_>, above: &Above) -> Option<Template> {
        let own = ["source", "transform", "sinks"];
        let entries = at.node.entries().iter().filter(|(key, _)| own.contains(&key.name.as_str()));
        let mut entries: Vec<(Key, Node)> = entries.cloned().collect();
        entries.extend(above.settings.iter().cloned());
        let (template, config) = self.template(at, &["source"], entries, Part::Pipeline, above)?;
        let outputs = files::outputs(&config.sinks, self.dir).into_iter();
        let output = |(sink, file): (String, PathBuf)| {
            let place = at.node.place(&["sinks", &sink]);
            Output { file, step: at.path.clone(), sink, at: place }
        };
        self.outputs.extend(outputs.map(output));
        Some(template)
    }

    fn for_each(&mut self, at: &At<'_>, file: &StepFile, above: &Above) -> Option<ForEach> {
        let name = &file.for_each.as_ref()?.name;
        let path = ["for_each", "as"];
        if at.node.find(&path).is_secret() || !is_name(name) {
            self.wrong(
                at,
                &path,
                "is a name of letters, digits and '_', not beginning with a digit",
            );
        } else if TAKEN.contains(&name.as_str()) {
            let why = format!("'{name}' has a meaning of its own: use another name");
            self.wrong(at, &path, why);
        } else if above.records.contains(name) {
            let why =
                format!("an enclosing `for_each` calls its records '{name}': use another name");
            self.wrong(at, &path, why);
        }
        if at.node.get("steps").is_none() {
            self.wrong(at, &["for_each"], "has no `steps` to run for each record: add them");
        }
        let source = at.node.find(&["for_each", "source"]);
        let key = |name: &str| Key { at: source.at, name: name.to_owned() };
        let mut entries = vec![
            (key("source"), source.clone()),
            (key("sinks"), Node { at: source.at, value: Value::Map(Vec::new()) }),
        ];
        let settings = above.settings.iter().filter(|(key, _)| key.name != "commit");
        entries.extend(settings.cloned());
        let (source, config) =
            self.template(at, &["for_each", "source"], entries, Part::Parents, above)?;
        let concurrency = file.concurrency.unwrap_or(NonZeroUsize::MIN);
        Some(ForEach { source, name: name.clone(), concurrency, checkpoint: config.checkpoint })
    }

    /// A part that moves records, if nothing is wrong with it.
    fn template(
        &mut self,
        at: &At<'_>,
        source: &[&str],
        mut entries: Vec<(Key, Node)>,
        part: Part,
        above: &Above,
    ) -> Option<(Template, Config)> {
        entries.push(self.store.clone());
        self.query(at, source, above);
        let under = match part {
            Part::Parents => format!("{}.for_each", at.under),
            _ => at.under.clone(),
        };
        let standing = Standing {
            under,
            params: &self.params,
            records: &above.records,
            file: self.file,
            dir: self.dir,
            begins_anew: above.begins_anew,
        };
        let (template, checked) = Template::of(entries, at.node.at, part, standing);
        let config = match checked {
            Ok(config) => config,
            Err(found) => {
                // What is inherited is wrong once.
                let new: Vec<_> =
                    found.into_iter().filter(|found| !self.reported.contains(&found.at)).collect();
                self.reported.extend(new.iter().map(|problem| problem.at));
                self.problems.extend(new);
                return None;
            }
        };
        if let Some((path, why)) = endless(&config.source.settings) {
            self.wrong(at, &[source, path].concat(), why);
        }
        Some((template, config))
    }

    /// Where values stand in a query.
    fn query(&mut self, at: &At<'_>, source: &[&str], above: &Above) {
        let text = |node: Option<&Node>| match node.map(|node| &node.value) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let Some(sql) = at.node.find(source).get("sql") else { return };
        let query = text(sql.get("query")).filter(|query| !query.live.is_empty());
        let (Some(node), Some(query)) = (sql.get("query"), query) else { return };
        let url = text(sql.get("url")).map(|url| url.value).unwrap_or_default();
        let system = match url.split(':').next() {
            Some("postgres" | "postgresql") => Placeholders::Dollar,
            Some("mysql" | "mariadb") => Placeholders::Bare,
            _ => Placeholders::Question,
        };
        let params = Arc::clone(&self.params);
        let scope = Scope { params: &params, records: &above.records, in_step: true };
        let under = format!("{}.{}.sql.query", at.under, source.join("."));
        let mut problems = Vec::new();
        sql::statement(node, &query, system, scope, &mut problems);
        self.reported.extend(problems.iter().map(|problem| problem.at));
        self.problems.extend(problems.into_iter().map(|problem| problem.under(&under)));
    }
}

/// Why a source has no end, and the setting that makes it so.
fn endless(source: &SourceSettings) -> Option<(&'static [&'static str], &'static str)> {
    match source {
        SourceSettings::Csv(csv) if csv.follow => Some((&["csv", "follow"], ENDLESS)),
        SourceSettings::Jsonl(jsonl) if jsonl.follow => Some((&["jsonl", "follow"], ENDLESS)),
        SourceSettings::Sql(sql) if sql.poll.is_some() => Some((&["sql", "poll"], ENDLESS)),
        #[cfg(feature = "postgres")]
        SourceSettings::PostgresOutbox(_) => {
            let why = "has no end, and a step has one: run it as a pipeline of its own";
            Some((&["postgres_outbox"], why))
        }
        _ => None,
    }
}

const ENDLESS: &str = "makes a source without an end, and a step has one: leave it out";
