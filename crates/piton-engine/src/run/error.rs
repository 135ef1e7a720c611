//! Why a run ended badly, named by what the caller can do, with its exit code.

use piton_connectors::{sink::SinkError, source::SourceError};
use piton_core::{Holder, Saved, StoreError};

use crate::connect::brief;

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration cannot work. Exit code 2.
    #[error("{0}")]
    Settings(String),
    /// The state or the source cannot be trusted or does not match. Exit code 3.
    #[error("{0}")]
    Refused(String),
    /// Another owner holds the claim. Exit code 4.
    #[error(
        "'{pipeline}' is already running: held by {holder}. Wait for it, `piton cancel {}`, \
         or set `claim: {{when_held: wait}}`", whole(.pipeline)
    )]
    Held {
        /// The pipeline.
        pipeline: String,
        /// Who holds it.
        holder: Holder,
    },
    /// The store, or what a sink writes to, is locked by another process. Exit code 4.
    #[error("{0}")]
    Locked(String),
    /// A newer claim has taken over. Exit code 4.
    #[error("'{pipeline}' was taken over by a newer owner ({what}): this process did nothing more")]
    Fenced {
        /// The pipeline.
        pipeline: String,
        /// By which epoch, as far as known.
        what: String,
    },
    /// A record could not be read, transformed or delivered. Exit code 1.
    #[error(
        "{place}: {reason}. Everything before it is kept; mend the record and run the same command \
         again, or set `on_error: dead_letter` to put such records aside"
    )]
    BadRecord {
        /// Where it stands.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The connection to the store was lost while something was committed. A run claims anew, which
    /// fences what may still come, and goes on. Exit code 1 where it may not.
    #[error("{0}")]
    InDoubt(String),
    /// It failed. Exit code 1; the same command resumes.
    #[error("{0}")]
    Failed(String),
}

impl RunError {
    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::Refused(_) => 3,
            Self::Held { .. } | Self::Locked(_) | Self::Fenced { .. } => 4,
            Self::BadRecord { .. } | Self::InDoubt(_) | Self::Failed(_) => 1,
        }
    }
}

/// What a save that was not stored found, for people.
pub(crate) fn stored_instead(saved: &Saved) -> String {
    match saved {
        Saved::Stored { version } => format!("it was stored as version {version}"),
        Saved::Ignored => "it was stored before".to_owned(),
        Saved::Further { stored } | Saved::Older { stored } | Saved::Mismatch { stored } => {
            let position = stored.as_ref().map_or("no position".to_owned(), brief);
            format!("the store holds {position}")
        }
        Saved::Fenced { epoch } => format!("epoch {epoch}"),
    }
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Missing { .. } => Self::Settings(text),
            StoreError::Busy { .. } => Self::Locked(text),
            StoreError::InDoubt { lost: true, .. } => Self::InDoubt(text),
            StoreError::Damaged { .. }
            | StoreError::Foreign { .. }
            | StoreError::Newer { .. }
            | StoreError::Position(_)
            | StoreError::Refused { .. } => Self::Refused(text),
            _ => Self::Failed(text),
        }
    }
}

/// A connector does not know for which pipeline it works: commands that a person may type need it.
fn with_name(error: &impl ToString, pipeline: &str) -> String {
    error.to_string().replace("`piton reset`", &format!("`piton reset {pipeline}`"))
}

/// What is cancelled: of a step its job.
fn whole(pipeline: &str) -> std::borrow::Cow<'_, str> {
    piton::job::in_shell(pipeline.split('/').next().unwrap_or_default())
}

/// Has commands that reset a pipeline by its name say what begins a step of a job anew: its job does.
fn of_step(what: &str, pipeline: &str) -> String {
    let Some((job, path)) = pipeline.split_once('/') else { return what.to_owned() };
    // What is run for each of many begins anew with the step that runs it.
    let path = path.split(['#', '[']).next().unwrap_or_default();
    let rewind = format!("`piton rewind {} --to {path}", piton::job::in_shell(job));
    let reset = format!("`piton reset {pipeline}");
    let mut parts = what.split(&reset);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (options, rest) = part.split_once('`').unwrap_or(("", part));
        let options = options.split(" --sink").next().unwrap_or_default();
        text += &format!("{rewind}{options}`{rest}");
    }
    text
}

impl RunError {
    /// The same error, where the pipeline may be a step of a job.
    pub(crate) fn advising(self, pipeline: &str) -> Self {
        match self {
            Self::Refused(what) => Self::Refused(of_step(&what, pipeline)),
            Self::Failed(what) => Self::Failed(of_step(&what, pipeline)),
            other => other,
        }
    }

    /// What a source's error means for the run.
    pub fn of_source(pipeline: &str, error: &SourceError) -> Self {
        let text = format!("{pipeline}: {}", with_name(error, pipeline));
        match error {
            SourceError::Missing { .. } | SourceError::Settings { .. } => Self::Settings(text),
            SourceError::Gap { .. } | SourceError::Position(_) => Self::Refused(text),
            _ => Self::Failed(text),
        }
    }

    /// What a sink's error means for the run.
    pub fn of_sink(pipeline: &str, sink: &str, error: &SinkError) -> Self {
        let text = format!("{pipeline}, sink '{sink}': {}", with_name(error, pipeline));
        match error {
            SinkError::Settings { .. } => Self::Settings(text),
            SinkError::Refused { .. } => Self::Refused(text),
            SinkError::Held { .. } => Self::Locked(text),
            SinkError::Fenced { epoch, .. } => {
                Self::Fenced { pipeline: pipeline.to_owned(), what: format!("epoch {epoch}") }
            }
            _ => Self::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_to_begin_anew_by_its_job() {
        let told = |what: &str, name: &str| of_step(what, name);
        let what = "`piton reset p --sink s` or --adopt";
        assert_eq!(told(what, "p"), what);
        assert_eq!(
            told(
                "`piton reset j(a=1)/g/e --sink s`, or `piton reset j(a=1)/g/e --keep`.",
                "j(a=1)/g/e"
            ),
            "`piton rewind 'j(a=1)' --to g/e`, or `piton rewind 'j(a=1)' --to g/e --keep`."
        );
        assert_eq!(told("`piton reset j/c#1/x`", "j/c#1/x"), "`piton rewind j --to c`");
    }
}
