//! What goes wrong with a server.

use std::{io, path::Path};

/// Why there is no server, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// This machine has no such server, and none could be installed or fetched.
    #[error("{service} cannot be had here: {why}")]
    Unavailable {
        /// Which server.
        service: &'static str,
        /// What was tried, and what to do.
        why: String,
    },
    /// The server is there and did not do what it was asked.
    #[error("{service} failed {doing}: {why}")]
    Failed {
        /// Which server.
        service: &'static str,
        /// What it was doing.
        doing: &'static str,
        /// What it said.
        why: String,
    },
    /// The operating system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What failed.
        error: io::Error,
    },
}

impl ServiceError {
    /// Names the file that an error of the operating system is about.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::System { what: path.display().to_string(), error }
    }

    /// Names what was being done.
    pub(super) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what: what.into(), error }
    }
}
