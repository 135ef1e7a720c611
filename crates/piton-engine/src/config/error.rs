//! What is wrong with a configuration, where, and what to write instead.

use std::{fmt, io, path::PathBuf};

/// Why a configuration cannot be used. Exit code 2; nothing has been created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("{}: larger than {most} bytes: that is not a configuration", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        most: u64,
    },
    /// What is in the file cannot be used.
    #[error("{}", Listed { file, problems })]
    Invalid {
        /// The file, as it was named.
        file: String,
        /// What is wrong; all of it, as far as it could be seen at once.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// What is wrong in the file.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            Self::Unreadable { .. } | Self::TooLarge { .. } => &[],
        }
    }
}

struct Listed<'a> {
    file: &'a str,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            let Place { line, column } = problem.at;
            write!(f, "{end}{}:{line}:{column}: {}", self.file, problem.what)?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub at: Place,
    /// What.
    pub what: Condition,
}

impl Problem {
    /// Puts a key, or a path of keys, before the path.
    pub(super) fn under(self, key: &str) -> Self {
        Self { at: self.at, what: self.what.under(key) }
    }
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Condition {
    /// It is not YAML, or more of it than a configuration can be.
    #[error("{0}")]
    Yaml(String),
    /// A key that means nothing here.
    #[error(
        "unknown key '{key}'{}{}{}",
        under(path),
        suggestion(key, known),
        nameless(path, known)
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands, for example `sinks.warehouse.sqlite`; empty for the top.
        path: String,
        /// The keys there are.
        known: Vec<String>,
    },
    /// A word that is none of those that may stand here.
    #[error("{path}: unknown value '{value}'{}", suggestion(value, known))]
    UnknownValue {
        /// Where.
        path: String,
        /// The word.
        value: String,
        /// The words there are.
        known: Vec<String>,
    },
    /// A key that has to be there.
    #[error("'{key}' is missing{}", under(path))]
    Missing {
        /// The key.
        key: String,
        /// Where it should stand.
        path: String,
    },
    /// A key that is there twice.
    #[error("'{key}' is there twice")]
    Duplicate {
        /// The key.
        key: String,
    },
    /// Another kind of value than is needed.
    #[error("{}: needs {expected}, found {found}{}", named(path), right_form(path, found))]
    WrongType {
        /// Where.
        path: String,
        /// What is needed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An environment variable that is not set and has no default.
    #[error(
        "the environment variable {name} is not set: set it, or give a default as in \
         ${{{name}:-default}}; $${{ is a literal ${{"
    )]
    Unset {
        /// Its name.
        name: String,
    },
    /// A `${…}` that cannot be understood or read.
    #[error("{text}: {why}")]
    Interpolation {
        /// As it is written.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// An expression that cannot be used.
    #[error("{path}: {why}")]
    Expression {
        /// Where.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Something that is planned and not there yet.
    #[error("{what} not built yet: {hint}")]
    NotBuilt {
        /// What, with its verb.
        what: String,
        /// What to do now.
        hint: String,
    },
    /// A value that makes no sense here.
    #[error("{path}: {why}")]
    Invalid {
        /// Where.
        path: String,
        /// What is wrong and how to mend it.
        why: String,
    },
}

impl Condition {
    /// Puts a key, or a path of keys, before the path.
    pub(super) fn under(mut self, key: &str) -> Self {
        if let Self::UnknownKey { path, .. }
        | Self::UnknownValue { path, .. }
        | Self::Missing { path, .. }
        | Self::WrongType { path, .. }
        | Self::Expression { path, .. }
        | Self::Invalid { path, .. } = &mut self
        {
            *path = if path.is_empty() { key.to_owned() } else { format!("{key}.{path}") };
        }
        self
    }
}

fn named(path: &str) -> &str {
    if path.is_empty() { "the file" } else { path }
}

fn under(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" under {path}") }
}

/// A sink's name was left out: its kind stands in the place of it.
fn nameless(path: &str, known: &[String]) -> String {
    match path.rsplit_once("sinks.") {
        Some((_, kind)) if known.iter().any(|known| known == kind) => {
            format!(". A sink has a name of your choice: write sinks: {{NAME: {{{kind}: …}}}}")
        }
        _ => String::new(),
    }
}

/// How to write what is often written otherwise.
fn right_form(path: &str, found: &str) -> String {
    let kind = path.rsplit('.').next().unwrap_or_default();
    let text = found.strip_prefix('\'').and_then(|found| found.strip_suffix('\''));
    match (kind, text) {
        ("sinks", _) => {
            ". A sink has a name of your choice: write sinks: {NAME: {jsonl: …}}".to_owned()
        }
        ("csv" | "jsonl", Some(file)) => format!(". Write {kind}: {{path: {file}}}"),
        _ => String::new(),
    }
}

fn suggestion(word: &str, known: &[String]) -> String {
    let all = known.join(", ");
    match nearest(word, known.iter().map(String::as_str)) {
        Some(nearest) => format!(": did you mean '{nearest}'? Known: {all}"),
        None if known.is_empty() => String::new(),
        None => format!(". Known: {all}"),
    }
}

/// The known word that was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer word is no slip of the finger, and comparing takes the product of the lengths.
    let word: String = word.chars().take(64).collect::<String>().to_lowercase();
    let distance = |known: &str| {
        let known = known.to_lowercase();
        let length = word.chars().count().min(known.chars().count());
        let slips = strsim::damerau_levenshtein(&word, &known);
        let is_part = length >= 3 && (known.contains(&word) || word.contains(&known));
        (slips <= (length / 2).max(1) || is_part).then_some(slips)
    };
    known
        .into_iter()
        .filter_map(|known| distance(known).map(|distance| (distance, known)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
