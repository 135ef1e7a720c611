//! Running `piton` on a configuration in the benchmarks' folder: to its end, or until it is killed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{
    data,
    measure::{Measured, run, run_and_hear},
};
use crate::command::{Failure, cargo, piton_binary, run as run_to_end};

/// What `piton run --json` said at the end of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// How long the run lasted, as it says itself.
    pub(super) seconds: f64,
    /// Time that its work spent in saves and in waiting for them.
    pub(super) saving_seconds: f64,
    /// Checkpoints stored.
    pub(super) checkpoints: u64,
}

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
        let input = input.file_name().unwrap_or_default().to_string_lossy();
        Self::reading(name, &format!("csv: {{path: {input}}}"), sink, output, more)
    }

    /// The same with another source: `source` is its YAML.
    pub(super) fn reading(
        name: &str,
        source: &str,
        sink: &str,
        output: &str,
        more: &str,
    ) -> Result<Self, Failure> {
        let piton = build()?;
        let folder = data::folder()?;
        let configuration = folder.join(format!("{name}.yaml"));
        let store = format!("{name}.piton.db");
        let text = format!(
            "pipeline: {name}\nstore: sqlite:{store}\nsource:\n  {source}\n\
             sinks:\n  target:\n    {sink}\n{more}\n"
        );
        std::fs::write(&configuration, text).map_err(Failure::at(&configuration))?;
        let written = vec![folder.join(output), folder.join(store)];
        Ok(Self { piton, configuration, written })
    }

    /// Runs it from its beginning to its end.
    pub(super) fn run(&self) -> Result<Measured, Failure> {
        self.forget()?;
        run(&mut self.command())
    }

    /// Runs it to its end, from wherever it stands, and hears what it says of itself.
    pub(super) fn run_and_hear(&self) -> Result<(Measured, Ended), Failure> {
        let (measured, told) = run_and_hear(self.command().arg("--json"))?;
        let told = String::from_utf8_lossy(&told);
        let ended = told.lines().last().and_then(ended_of);
        let unheard = || Failure::Found(format!("piton did not say how it ended: {told}"));
        Ok((measured, ended.ok_or_else(unheard)?))
    }

    /// Removes all that earlier runs have left.
    pub(super) fn forget(&self) -> Result<(), Failure> {
        self.written.iter().try_for_each(|path| data::remove(path))
    }

    /// The command that runs or resumes it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.piton);
        command.arg("run").arg(&self.configuration);
        command
    }

    /// The file that its sink writes.
    pub(super) fn output(&self) -> &Path {
        &self.written[0]
    }
}

/// Builds `piton`, the first time that it is asked for, and returns where it is.
pub(super) fn build() -> Result<PathBuf, Failure> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    run_to_end(&mut cargo(["build", "--release", "--package", "piton-cli", "--bin", "piton"]))?;
    let piton = piton_binary("release")?;
    Ok(BUILT.get_or_init(|| piton).clone())
}

fn ended_of(line: &str) -> Option<Ended> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let report = &line["report"];
    let sink = &report["sinks"][0];
    Some(Ended {
        seconds: report["seconds"].as_f64()?,
        saving_seconds: sink["saving_seconds"].as_f64()?,
        checkpoints: sink["checkpoints"].as_u64()?,
    })
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_line_says_how_it_ended() {
        let line = r#"{"event":"ended","report":{"seconds":2.5,"sinks":[{"saving_seconds":0.5,
            "checkpoints":7}]}}"#;
        let ended = super::ended_of(line).unwrap();
        assert_eq!((ended.seconds, ended.saving_seconds, ended.checkpoints), (2.5, 0.5, 7));
        assert!(super::ended_of("finished").is_none());
    }
}
