//! A run that is watched and then killed: how many records it had taken when it died.
//!
//! The program notes in `PITON_TRACE` what each sink takes, when it has taken it. So the last
//! moment before a `SIGKILL` is known, which nothing else of a rolled-back transaction shows.

use std::{
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{data, pipeline::Pipeline};
use crate::command::{Failure, line};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_micros(500);
/// How long it may take to get anywhere.
const PATIENCE: Duration = Duration::from_mins(10);

/// A run under way.
pub(super) struct Doomed {
    child: Child,
    line: String,
    trace: PathBuf,
    /// When it was started.
    pub(super) began: Instant,
}

impl Doomed {
    /// Starts or resumes a pipeline whose output nobody reads.
    pub(super) fn start(pipeline: &Pipeline) -> Result<Self, Failure> {
        let trace = data::folder()?.join("trace");
        data::remove(&trace)?;
        let mut command = pipeline.command();
        command.env("PITON_TRACE", &trace).stdin(Stdio::null()).stdout(Stdio::null());
        let line = line(&command);
        let began = Instant::now();
        let child = command.stderr(Stdio::null()).spawn();
        let child = child.map_err(|error| Failure::Start(line.clone(), error))?;
        Ok(Self { child, line, trace, began })
    }

    /// Waits until it has taken so many records. False when it ended well before.
    pub(super) fn wait_for(&mut self, records: u64) -> Result<bool, Failure> {
        while self.taken() < records {
            if self.began.elapsed() > PATIENCE {
                return Err(Failure::Found(format!("`{}` does not get anywhere", self.line)));
            }
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LOOK),
                Ok(Some(status)) if status.success() => return Ok(false),
                _ => return Err(Failure::Program(self.line.clone())),
            }
        }
        Ok(true)
    }

    /// Kills it and returns how many records it had taken; `None` when it had ended well.
    pub(super) fn kill(mut self) -> Result<Option<u64>, Failure> {
        let failed = |error| Failure::Start(self.line.clone(), error);
        self.child.kill().map_err(failed)?;
        let status = self.child.wait().map_err(failed)?;
        match status.code() {
            None => Ok(Some(self.taken())),
            Some(0) => Ok(None),
            Some(_) => Err(Failure::Program(self.line)),
        }
    }

    fn taken(&self) -> u64 {
        taken(&std::fs::read_to_string(&self.trace).unwrap_or_default())
    }
}

/// The records that a trace says were taken.
fn taken(trace: &str) -> u64 {
    let taken = trace.lines().filter_map(|line| line.strip_prefix("taken "));
    taken.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_taken_is_added_up() {
        let trace = "read\ntaken warehouse 1000\nsink.after\ntaken warehouse 20\ncommit.before\n";
        assert_eq!(super::taken(trace), 1020);
        assert_eq!(super::taken("read\n"), 0);
    }
}
