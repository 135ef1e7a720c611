//! Running `piton` on a configuration in the benchmarks' folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    data,
    measure::{Measured, run},
};
use crate::command::{Failure, cargo, piton_binary, run as run_to_end};

/// A pipeline to be measured, each time from its beginning.
pub(super) struct Pipeline {
    piton: PathBuf,
    configuration: PathBuf,
    /// Removed before each run.
    written: Vec<PathBuf>,
}

impl Pipeline {
    /// Builds `piton` and writes the configuration. `sink` is its YAML below the sink's name,
    /// `more` any further keys, and `output` the file that the sink writes.
    pub(super) fn prepare(
        name: &str,
        input: &Path,
        sink: &str,
        output: &str,
        more: &str,
    ) -> Result<Self, Failure> {
        run_to_end(&mut cargo(["build", "--release", "--package", "piton-cli", "--bin", "piton"]))?;
        let folder = data::folder()?;
        let configuration = folder.join(format!("{name}.yaml"));
        let store = format!("{name}.piton.db");
        let input = input.file_name().unwrap_or_default().to_string_lossy();
        let text = format!(
            "pipeline: {name}\nstore: sqlite:{store}\nsource:\n  csv: {{path: {input}}}\n\
             sinks:\n  target:\n    {sink}\n{more}\n"
        );
        std::fs::write(&configuration, text).map_err(Failure::at(&configuration))?;
        let written = vec![folder.join(output), folder.join(store)];
        Ok(Self { piton: piton_binary("release")?, configuration, written })
    }

    /// Runs it from its beginning to its end.
    pub(super) fn run(&self) -> Result<Measured, Failure> {
        for path in &self.written {
            data::remove(path)?;
        }
        run(Command::new(&self.piton).arg("run").arg(&self.configuration))
    }
}

/// This program as a baseline: `baseline-… IN OUT …`, writing to a file in the benchmarks' folder.
pub(super) fn baseline(
    name: &str,
    input: &Path,
    output: &str,
    more: &[&str],
) -> Result<Measured, Failure> {
    let itself = std::env::current_exe().map_err(Failure::at(Path::new("xtask")))?;
    let output = data::folder()?.join(output);
    data::remove(&output)?;
    run(Command::new(itself).args(["bench", name]).arg(input).arg(output).args(more))
}
