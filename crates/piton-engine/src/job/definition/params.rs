//! Parameters: what a job may be given, and the name that its run gets from them.
//!
//! A run is known by the job's name and all its parameters in one canonical form, so that
//! `--param n=7` and `--param n=07`, or a value and the same value as default, are the same run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Body, Database, Job, Step,
    value::{Reference, Value},
};
use crate::config::nearest;

/// The longest value that is taken as a parameter, in bytes: it is part of a name.
const LONGEST: usize = 500;

/// The longest name of a pipeline in a store, in characters.
const LONGEST_NAME: usize = 2000;
/// The same in MySQL.
const LONGEST_IN_MYSQL: usize = 120;
/// What a record may add to the name of a pipeline that is run for it: `[123]`.
const RECORD: usize = 62;
/// What the number of a further run may add to a name: `#9999`.
const NUMBER: usize = 5;

/// A parameter that a job declares.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: ParamType,
    /// Its value when none is given; without one it has to be given.
    pub default: Option<Value>,
}

/// What the values of a parameter are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Any text.
    #[default]
    Text,
    /// A whole number from -9223372036854775808 to 9223372036854775807.
    Integer,
    /// A decimal number, kept exactly: `12.50`.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A day: `2026-11-20`.
    Date,
}

impl ParamType {
    /// Reads a value; an error says how such a value is written.
    pub(crate) fn read(self, text: &str) -> Result<Value, &'static str> {
        if text.len() > LONGEST {
            return Err("at most 500 bytes: a parameter is part of the run's name");
        }
        if text.contains('\0') {
            return Err("text without zero bytes");
        }
        match self {
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Integer => {
                let number = text.trim().parse().map(Value::Integer);
                number.map_err(|_| "a whole number such as 12 or -3")
            }
            Self::Number => decimal(text.trim()).map(Value::Number).ok_or("a number such as 12.5"),
            Self::Boolean => match text.trim() {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err("true or false"),
            },
            Self::Date => {
                let is_plain = text.trim().len() == "2026-11-20".len();
                let date = text.trim().parse::<Date>().ok().filter(|_| is_plain);
                date.map(Value::Date).ok_or("a day such as 2026-11-20")
            }
        }
    }
}

/// A decimal number without what does not change it: signs and zeros.
fn decimal(text: &str) -> Option<String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let mut number = String::new();
    if negative && !(whole.is_empty() && fraction.is_empty()) {
        number.push('-');
    }
    number.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        number.push('.');
        number.push_str(fraction);
    }
    Some(number)
}

/// A job with its parameters: what runs under a name of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// `crm-migration`, or with parameters `nightly(date=2026-11-20)`, sorted by name: the pipeline
    /// of its checkpoints.
    pub name: String,
    /// The value of each declared parameter.
    pub params: BTreeMap<String, Value>,
    /// The names of those that were given, and not left to their defaults.
    pub given: BTreeSet<String>,
}

impl Instance {
    /// The value of a reference to a parameter; `None` for any other reference.
    pub fn value(&self, reference: &Reference) -> Option<Value> {
        match reference {
            Reference::Param(name) => self.params.get(name).cloned(),
            _ => None,
        }
    }
}

/// Why a job cannot run with the parameters that were given. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ParamsError {
    /// All that is wrong.
    pub problems: Vec<ParamProblem>,
}

/// One thing that is wrong with the parameters of a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamProblem {
    /// The job declares no such parameter.
    #[error("{job} has no parameter '{name}'{}", hint(name, known))]
    Undeclared {
        /// The job.
        job: String,
        /// The name that was given.
        name: String,
        /// Those that it declares.
        known: Vec<String>,
    },
    /// The value does not fit the declared type.
    #[error("parameter '{name}' of {job}: '{value}' is not {wanted}")]
    WrongType {
        /// The job.
        job: String,
        /// The parameter.
        name: String,
        /// What was given.
        value: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// The name that follows from them is longer than the store can hold.
    #[error(
        "the run would be named {name}, and its steps up to {path} characters more: more than the \
         {most} that {} can hold. Give shorter names and values, or keep the job elsewhere",
        if *.most == LONGEST_IN_MYSQL { "MySQL" } else { "a store" }
    )]
    TooLong {
        /// The job.
        job: String,
        /// The name of the run.
        name: String,
        /// The most characters.
        most: usize,
        /// The characters of the longest path of a step.
        path: usize,
    },
    /// Nothing was given, and there is no default.
    #[error("{job} needs the parameter '{name}': add --param {name}=…, or declare a default")]
    NotGiven {
        /// The job.
        job: String,
        /// The parameter.
        name: String,
    },
}

fn hint(name: &str, known: &[String]) -> String {
    match nearest(name, known.iter().map(String::as_str)) {
        _ if known.is_empty() => ": it declares none under `params:`".to_owned(),
        Some(nearest) => format!(": did you mean '{nearest}'? Declared: {}", known.join(", ")),
        None => format!(". Declared: {}", known.join(", ")),
    }
}

impl Job {
    /// The job with parameters, given as text by their names.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn with(&self, given: &BTreeMap<String, String>) -> Result<Instance, ParamsError> {
        let job = || self.name.clone();
        let (mut problems, mut params) = (Vec::new(), BTreeMap::new());
        let is_declared = |name: &&String| self.params.iter().any(|param| param.name == **name);
        for name in given.keys().filter(|name| !is_declared(name)) {
            let known = self.params.iter().map(|param| param.name.clone()).collect();
            problems.push(ParamProblem::Undeclared { job: job(), name: name.clone(), known });
        }
        for param in &self.params {
            let name = param.name.clone();
            match (given.get(&name), &param.default) {
                (Some(text), _) => match param.kind.read(text) {
                    Ok(value) => drop(params.insert(name, value)),
                    Err(wanted) => {
                        let value: String = text.chars().take(60).collect();
                        problems.push(ParamProblem::WrongType { job: job(), name, value, wanted });
                    }
                },
                (None, Some(default)) => drop(params.insert(name, default.clone())),
                (None, None) => problems.push(ParamProblem::NotGiven { job: job(), name }),
            }
        }
        if problems.is_empty() {
            let name = named(&self.name, &params);
            self.fits(&name).map_err(|problem| ParamsError { problems: vec![problem] })?;
            Ok(Instance { name, params, given: given.keys().cloned().collect() })
        } else {
            Err(ParamsError { problems })
        }
    }
}

impl Job {
    /// Whether the store can hold the name of a run, and of all that runs below it.
    fn fits(&self, name: &str) -> Result<(), ParamProblem> {
        let is_mysql = self.store.starts_with("mysql:") || self.store.starts_with("mariadb:");
        // The name is kept beside what a step puts there, too.
        let is_mysql = is_mysql || are_in_mysql(&self.steps);
        let most = if is_mysql { LONGEST_IN_MYSQL } else { LONGEST_NAME };
        let path = longest(&self.steps, 0);
        if name.chars().count() + 1 + path + NUMBER <= most {
            return Ok(());
        }
        Err(ParamProblem::TooLong { job: self.name.clone(), name: name.to_owned(), most, path })
    }
}

/// The longest path among steps, in characters, which are all ASCII, and what is added to it for each of
/// many records.
fn longest(steps: &[Step], of_record: usize) -> usize {
    let below = |step: &Step| {
        let of_those_below = match step.body {
            Body::ForEach(_) => RECORD,
            _ => of_record,
        };
        let own = if matches!(step.body, Body::Pipeline(_)) { of_record } else { 0 };
        (step.path.len() + own).max(longest(&step.steps, of_those_below))
    };
    steps.iter().map(below).max().unwrap_or_default()
}

/// Whether a step puts something into MySQL or MariaDB.
fn are_in_mysql(steps: &[Step]) -> bool {
    let is_there = |step: &Step| match &step.body {
        Body::Pipeline(template) => template.has_mysql_sink,
        Body::Sql(sql) => matches!(sql.database, Database::MySql(_)),
        _ => false,
    };
    steps.iter().any(|step| is_there(step) || are_in_mysql(&step.steps))
}

/// The name of a job's run: never the same for different parameters.
fn named(job: &str, params: &BTreeMap<String, Value>) -> String {
    let mut name = job.to_owned();
    for (index, (param, value)) in params.iter().enumerate() {
        name.push_str(if index == 0 { "(" } else { ", " });
        let text = value.to_text().unwrap_or_default();
        let is_plain = |c: char| c.is_alphanumeric() || "._-+:@".contains(c);
        if !text.is_empty() && text.chars().all(is_plain) {
            let _ = write!(name, "{param}={text}");
        } else {
            // In quotes it cannot end early or be taken for another parameter; a step's path is
            // put behind the name with a `/`, which therefore is none of the name's.
            let quoted = serde_json::Value::from(&*text).to_string().replace('/', "\\u002f");
            let _ = write!(name, "{param}={quoted}");
        }
    }
    if !params.is_empty() {
        name.push(')');
    }
    name
}
