//! Exit codes, and how a failure is told.

use std::process::ExitCode;

use piton_core::StoreError;
use piton_engine::{RunError, steer::SteerError};

use crate::output::note;

/// Finished, also when it was already; or an endless pipeline drained on request.
pub(crate) const FINISHED: u8 = 0;
/// Failed, or a bounded run stopped before its end; the same command resumes.
pub(crate) const FAILED: u8 = 1;
/// Bad usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// Refused: the state or the source cannot be trusted or does not match.
pub(crate) const REFUSED: u8 = 3;
/// Held by another owner, or fenced by one.
pub(crate) const HELD: u8 = 4;

/// Why a command ends with another code than 0.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    what: String,
}

impl Failure {
    pub(crate) fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into() }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(USAGE, what)
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(FAILED, what)
    }

    /// Tells a person, and gives the code.
    pub(crate) fn report(&self) -> ExitCode {
        note!("piton: {}", self.what);
        ExitCode::from(self.code)
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        RunError::from(error).into()
    }
}

impl From<SteerError> for Failure {
    fn from(error: SteerError) -> Self {
        let code = match &error {
            SteerError::Running { .. } => HELD,
            SteerError::Store(_) => {
                let SteerError::Store(error) = error else { return Self::failed("") };
                return error.into();
            }
            _ => USAGE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
