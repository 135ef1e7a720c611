//! SQL, commands and conditions.

use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{
    file::{ActionFile, SqlFile},
    references::{Scope, argument, problem},
    sql,
    steps::{At, Reading},
};
use crate::{
    config::{
        check::resolve,
        error::{Condition, Problem, nearest},
        tree::{Node, Text, Value},
    },
    job::definition::{Action, Command, Database, Reference, Sql, Statement, When},
    transform::Expression,
};

impl Reading<'_> {
    /// An action of the job itself.
    pub(super) fn action(
        &mut self,
        root: &Node,
        key: &str,
        action: &ActionFile,
        scope: Scope<'_>,
    ) -> Option<Action> {
        let at = At { node: root, under: String::new(), path: String::new() };
        self.action_of(&at, key, action, scope)
    }

    /// An action of a step.
    pub(super) fn action_of(
        &mut self,
        at: &At<'_>,
        key: &str,
        action: &ActionFile,
        scope: Scope<'_>,
    ) -> Option<Action> {
        match action {
            ActionFile::Sql(file) => self.sql(at, &[key, "sql"], file, scope).map(Action::Sql),
            ActionFile::Run(_) => self.command(at, &[key, "run"], scope).map(Action::Run),
        }
    }

    pub(super) fn sql(
        &mut self,
        at: &At<'_>,
        path: &[&str],
        file: &SqlFile,
        scope: Scope<'_>,
    ) -> Option<Sql> {
        let node = at.node.find(path);
        let database = match database(&file.url, self.dir) {
            Ok(database) => database,
            Err(why) => {
                self.wrong(at, &[path, &["url"]].concat(), why);
                return None;
            }
        };
        if matches!(node.find(&["url"]).value, Value::Text(Text { ref live, .. }) if !live.is_empty())
        {
            let why = "a value at run time cannot be part of an address: write it out";
            self.wrong(at, &[path, &["url"]].concat(), why);
        }
        let statements = match (&file.statement, &file.statements) {
            (Some(_), None) => node.get("statement").into_iter().collect(),
            (None, Some(several)) if several.is_empty() => {
                self.wrong(at, &[path, &["statements"]].concat(), "there is none: at least one");
                return None;
            }
            (None, Some(_)) => match node.get("statements").map(|node| &node.value) {
                Some(Value::List(items)) => items.iter().collect(),
                _ => Vec::new(),
            },
            (Some(_), Some(_)) => {
                self.wrong(at, path, "either `statement` or `statements`");
                return None;
            }
            (None, None) => {
                self.wrong(at, path, "says nothing: write `statement`, or `statements`");
                return None;
            }
        };
        let system = database.placeholders();
        let (mut made, mut problems) = (Vec::<Statement>::new(), Vec::new());
        for node in statements {
            if let Value::Text(text) = &node.value {
                made.push(sql::statement(node, text, system, scope, &mut problems));
            }
        }
        let parts = [at.under.as_str()].into_iter().chain(path.iter().copied());
        let under = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        self.problems.extend(problems.into_iter().map(|problem| problem.under(&under)));
        Some(Sql { database, statements: made, at: node.at })
    }

    pub(super) fn command(
        &mut self,
        at: &At<'_>,
        path: &[&str],
        scope: Scope<'_>,
    ) -> Option<Command> {
        let node = at.node.find(path);
        let Value::List(items) = &node.value else { return None };
        let Some((program, args)) = items.split_first() else {
            self.wrong(at, path, "is empty: write [program, argument, …]");
            return None;
        };
        let made: Vec<_> =
            items.iter().map(|item| argument(item, scope, &mut self.problems)).collect();
        let named = match &program.value {
            Value::Text(text) if !text.live.is_empty() => {
                let why = "the program has to be known before anything runs: write it out";
                self.wrong(at, path, why);
                return None;
            }
            Value::Text(text) => text.value.clone(),
            _ => program.shown(),
        };
        let has_zero =
            |item: &&Node| matches!(&item.value, Value::Text(text) if text.value.contains('\0'));
        if items.iter().any(|item| has_zero(&item)) {
            self.wrong(at, path, "has an argument with a zero byte, which no program can be given");
            return None;
        }
        match self.programs.find(&named) {
            Ok(found) => Some(Command {
                program: found,
                named,
                args: made.into_iter().skip(1).take(args.len()).collect(),
                at: node.at,
            }),
            Err(_) if program.is_secret() => {
                self.wrong(at, path, "the program that is filled in is not there");
                None
            }
            Err(why) => {
                self.wrong(at, path, why);
                None
            }
        }
    }

    pub(super) fn when(&mut self, at: &At<'_>, text: &str, scope: Scope<'_>) -> Option<When> {
        let node = at.node.find(&["when"]);
        if let Value::Text(own) = &node.value
            && let Some(live) = own.live.first()
        {
            let written = &own.value[live.clone()];
            let name = &written[2..written.len() - 1];
            let why = format!("in an expression a value is written without braces: {name}");
            self.problems.push(problem(node, own, written, why));
            return None;
        }
        let path = format!("{}.when", at.under);
        let wrong = |why: String| Condition::Expression { path: path.clone(), why };
        let expression = match Expression::parse(text) {
            Ok(expression) => expression,
            Err(error) => {
                let why = if node.is_secret() {
                    "what is filled in is no expression".to_owned()
                } else {
                    error.what
                };
                let place = node.place_in_text(error.line, error.column);
                self.problems.push(Problem { at: place, what: wrong(why) });
                return None;
            }
        };
        match references(&expression, scope) {
            Ok(references) => Some(When::new(expression, references)),
            Err(why) => {
                let shown =
                    if node.is_secret() { "what is filled in is no condition" } else { &why };
                self.problems.push(Problem { at: node.at, what: wrong(shown.to_owned()) });
                None
            }
        }
    }
}

/// What a condition refers to.
fn references(expression: &Expression, scope: Scope<'_>) -> Result<Vec<Reference>, String> {
    let members: Vec<(&str, &str)> = expression.members().collect();
    let roots = scope.roots();
    for field in expression.fields() {
        if !roots.contains(&field) {
            let known = roots.iter().copied();
            let hint = nearest(field, known)
                .map_or_else(|| ".".to_owned(), |nearest| format!(": did you mean '{nearest}'?"));
            let known: Vec<String> = roots.iter().map(|root| format!("{root}.NAME")).collect();
            return Err(format!(
                "nothing is called '{field}' here{hint} There is: {}",
                known.join(", ")
            ));
        }
        if !members.iter().any(|(root, _)| *root == field) {
            return Err(format!("name a value, as in {field}.NAME"));
        }
    }
    let mut found: Vec<Reference> = Vec::with_capacity(members.len());
    for (root, member) in members {
        let reference = scope.resolve(&format!("{root}.{member}"))?;
        if !found.contains(&reference) {
            found.push(reference);
        }
    }
    Ok(found)
}

/// The database of an address.
fn database(url: &str, dir: &Path) -> Result<Database, String> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() || path == ":memory:" {
                return Err("names no database file: write sqlite:PATH".to_owned());
            }
            Ok(Database::Sqlite(resolve(dir, path)))
        }
        "postgres" | "postgresql" if cfg!(feature = "postgres") => {
            Ok(Database::Postgres(url.to_owned()))
        }
        "mysql" | "mariadb" if cfg!(feature = "mysql") => Ok(Database::MySql(url.to_owned())),
        "postgres" | "postgresql" | "mysql" | "mariadb" => {
            Err(format!("{scheme} is not part of this program"))
        }
        _ => {
            Err("is no address of a database: write sqlite:PATH, postgres://… or mysql://…"
                .to_owned())
        }
    }
}

/// Finds programs.
pub(super) struct Programs<'a> {
    dir: &'a Path,
    /// The environment's `PATH`.
    path: String,
    found: HashMap<String, Result<PathBuf, String>>,
}

impl<'a> Programs<'a> {
    pub(super) fn new(dir: &'a Path, path: Option<String>) -> Self {
        Self { dir, path: path.unwrap_or_default(), found: HashMap::new() }
    }

    fn find(&mut self, name: &str) -> Result<PathBuf, String> {
        if let Some(found) = self.found.get(name) {
            return found.clone();
        }
        let found = self.look_for(name);
        self.found.insert(name.to_owned(), found.clone());
        found
    }

    fn look_for(&self, name: &str) -> Result<PathBuf, String> {
        if name.is_empty() {
            return Err("names no program: write [program, argument, …]".to_owned());
        }
        if name.contains('/') {
            let path = resolve(self.dir, name);
            return match runs(&path) {
                Some(true) => Ok(path),
                Some(false) => Err(format!("{0} cannot be executed: chmod +x {0}", path.display())),
                None => Err(format!("there is no program {}", path.display())),
            };
        }
        let folders = env::split_paths(OsStr::new(&self.path));
        let mut paths = folders.map(|folder| self.dir.join(folder).join(name));
        paths.find(|path| runs(path) == Some(true)).ok_or_else(|| {
            if runs(&self.dir.join(name)).is_some() {
                format!(
                    "there is no program '{name}' on PATH. The one beside this file is ./{name}"
                )
            } else {
                format!("there is no program '{name}' on PATH")
            }
        })
    }
}

/// Whether a file can be executed; `None` if there is none.
fn runs(path: &Path) -> Option<bool> {
    let file = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        Some(file.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Some(true)
    }
}
