//! Files that describe a job.

use std::path::PathBuf;

use super::{Config, ConfigError, tree::Node};
use crate::job::definition::Values;

/// A part of a job's file that becomes a [`Config`] when the values that it refers to are known.
#[derive(Clone)]
pub struct Template {
    /// A pipeline's file without its name.
    tree: Node,
    file: PathBuf,
    dir: PathBuf,
}

impl std::fmt::Debug for Template {
    // The settings of connectors hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").finish_non_exhaustive()
    }
}
