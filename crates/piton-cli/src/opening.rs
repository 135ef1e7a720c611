//! Which store and which pipeline a command speaks of.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use piton_core::{Owner, Store, StoreError};
use piton_engine::{
    config::{self, Config, Loaded, Period},
    job::definition::Job,
};
use piton_stores::Mode;

use crate::{
    args::{Named, StoreArgs},
    command::job,
    exit::{Failure, USAGE},
};

/// Only jobs have parameters.
pub(crate) fn no_params(given: &[String]) -> Result<(), Failure> {
    match given.first() {
        Some(param) => Err(Failure::usage(format!("--param {param}: only jobs have parameters"))),
        None => Ok(()),
    }
}

/// Loads the configuration of a pipeline or a job.
pub(crate) fn loaded(file: &Path) -> Result<Loaded, Failure> {
    config::load_any(file, &|name| env::var(name).ok())
        .map_err(|error| Failure::new(USAGE, format!("{error}{}", meant(file))))
}

/// The store that a job names.
pub(crate) fn store_of_job(job: &Job, mode: Mode) -> Result<Arc<dyn Store>, Failure> {
    open(&job.store, &job.dir, mode)
}

/// What a file that is no configuration was probably meant to be.
fn meant(file: &Path) -> String {
    const DATA: [&str; 9] = ["csv", "tsv", "jsonl", "ndjson", "json", "gz", "zst", "db", "sqlite"];
    let with_end = file.with_extension("yaml");
    let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
    if !file.exists() && with_end.is_file() {
        format!(". There is {}", with_end.display())
    } else if file.is_file() && DATA.contains(&end) {
        let file = file.display();
        format!("\n{file} looks like data: `piton init {file}` writes a configuration for it")
    } else {
        String::new()
    }
}

/// The store that a configuration names.
pub(crate) fn store_of(config: &Config, mode: Mode) -> Result<Arc<dyn Store>, Failure> {
    if config.store.strip_prefix("sqlite:").is_some_and(|path| Path::new(path).is_dir()) {
        homeless(config)?;
    }
    open(&config.store, &config.dir, mode)
}

/// Where the store is that a configuration names, as people are told.
pub(crate) fn location(config: &Config) -> String {
    piton_stores::location(&config.store, &config.dir).unwrap_or_default()
}

/// Refuses a store that can never be created: a folder stands there, or its folder is not there.
pub(crate) fn homeless(config: &Config) -> Result<(), Failure> {
    let path = config.store.strip_prefix("sqlite:").map(Path::new);
    let why = match (path, path.and_then(Path::parent)) {
        (Some(path), _) if path.is_dir() => format!("{} is a folder: name a file", path.display()),
        (_, Some(folder)) if !folder.is_dir() => {
            format!("the folder {} does not exist: create it, or name another", folder.display())
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(config.shown(config.store_at, &format!("store: {why}"))))
}

/// The store of a command without a configuration. Only reading, it is never created.
pub(crate) fn existing(args: &StoreArgs) -> Result<Arc<dyn Store>, Failure> {
    open(&url(args), &here()?, Mode::Existing)
}

/// The store of a command that may create it.
pub(crate) fn created(args: &StoreArgs) -> Result<Arc<dyn Store>, Failure> {
    open(&url(args), &here()?, Mode::Create)
}

fn open(url: &str, base: &Path, mode: Mode) -> Result<Arc<dyn Store>, Failure> {
    if (url, mode) == ("memory:", Mode::Existing) {
        return Err(Failure::usage(
            "a store in memory ends with its run: there is nothing to look at",
        ));
    }
    piton_stores::open(url, base, mode).map_err(|error| match error {
        // Not the state is refused here, but an address that names no store.
        StoreError::Refused { what } => Failure::usage(what),
        error => error.into(),
    })
}

fn url(args: &StoreArgs) -> String {
    let set = || env::var("PITON_STORE").ok().filter(|url| !url.is_empty());
    let named = args.store.clone().or_else(set);
    named.unwrap_or_else(|| "sqlite:piton.db".to_owned())
}

/// The same store for a command that is started elsewhere: a path is absolute.
pub(crate) fn url_of(args: &StoreArgs) -> Result<String, Failure> {
    let url = url(args);
    Ok(match url.strip_prefix("sqlite:") {
        Some(path) => format!("sqlite:{}", here()?.join(path).display()),
        None => url,
    })
}

fn here() -> Result<PathBuf, Failure> {
    env::current_dir().map_err(|e| Failure::failed(format!("the working directory: {e}")))
}

/// A pipeline or the newest run of a job by its name, in the store of the arguments, or by its
/// configuration file. A job of which the store has runs with one choice of parameters needs none.
pub(crate) fn named(args: &Named) -> Result<(Arc<dyn Store>, String), Failure> {
    let name = &args.name;
    let (store, mut names) = all_named(name, &args.param, &args.store)?;
    if names.len() > 1 {
        return Err(Failure::usage(format!(
            "'{name}' has run with several choices of parameters: name one of '{}', or say --param",
            names.join("', '")
        )));
    }
    let name = names.pop().unwrap_or_else(|| name.to_owned());
    Ok((store, name))
}

/// As [`named`]: the newest run for each choice of parameters, of those that have the given ones.
pub(crate) fn all_named(
    name: &str,
    params: &[String],
    args: &StoreArgs,
) -> Result<(Arc<dyn Store>, Vec<String>), Failure> {
    let given = job::params(params)?;
    if !is_file(name) {
        let store = existing(args)?;
        let names = runs(&*store, name, &given)?;
        return Ok((store, names));
    }
    let loaded = loaded(Path::new(name))?;
    let store = match (&args.store, &loaded) {
        (Some(_), _) => existing(args)?,
        (None, Loaded::Pipeline(config)) => store_of(config, Mode::Existing)?,
        (None, Loaded::Job(job)) => store_of_job(job, Mode::Existing)?,
    };
    let names = match loaded {
        Loaded::Pipeline(config) => {
            no_params(params)?;
            vec![config.pipeline.clone()]
        }
        Loaded::Job(job) => match job.with(&given) {
            Ok(instance) => {
                vec![piton::job::newest(&*store, &instance.name)?.unwrap_or(instance.name)]
            }
            // It cannot run with these alone.
            Err(_) => runs(&*store, &job.name, &given)?,
        },
    };
    Ok((store, names))
}

/// The newest run of exactly that name, or else those of the job with parameters; the name itself
/// if there is none. Of a step of a job the same, with its path behind the job's name.
fn runs(
    store: &dyn Store,
    name: &str,
    params: &BTreeMap<String, String>,
) -> Result<Vec<String>, Failure> {
    // In a run's name there is no `/`.
    if let Some((job, step)) = name.split_once('/') {
        let jobs = runs(store, job, params)?.into_iter();
        return Ok(jobs.map(|run| format!("{run}/{step}")).collect());
    }
    if !params.is_empty() {
        let given: Vec<(String, String)> =
            params.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let found = piton_engine::job::with_params(store, name, &given)?;
        return match &found[..] {
            [_, ..] => Ok(found),
            [] => {
                Err(Failure::usage(no_such_run(name, &piton_engine::job::instances(store, name)?)))
            }
        };
    }
    if let Some(newest) = piton::job::newest(store, name)? {
        return Ok(vec![newest]);
    }
    let instances = piton_engine::job::instances(store, name)?;
    Ok(if instances.is_empty() { vec![name.to_owned()] } else { instances })
}

fn no_such_run(name: &str, known: &[String]) -> String {
    match known {
        [] => format!("the store has no run of '{name}' with parameters"),
        known => {
            format!("'{name}' has not run with these parameters; it has '{}'", known.join("', '"))
        }
    }
}

fn is_file(name: &str) -> bool {
    let path = Path::new(name);
    let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    // The pipelines of a job are called 'job/step'.
    let is_relative = path.is_relative() && !name.starts_with('.');
    let is_path = name.contains(std::path::MAIN_SEPARATOR) && !is_relative;
    yaml || is_path || path.is_file()
}

/// A length of time from the command line, such as 5m.
pub(crate) fn period(text: &str) -> Result<Duration, Failure> {
    let period: Result<Period, _> = text.parse();
    period.map(Duration::from).map_err(|error| Failure::usage(format!("--max-lag: {error}")))
}

/// This process, as others are told.
pub(crate) fn owner() -> Owner {
    Owner { host: host(), pid: std::process::id() }
}

/// The person at the keyboard, for the audit.
pub(crate) fn who() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME"));
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host())
}

fn host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}
