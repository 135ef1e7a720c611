//! A run that is watched and then killed: how many records it had taken when it died.
//!
//! The program notes in `PITON_TRACE` what the sink is taking and what it has taken. So the last
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

/// What a sink had done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// Records that it had taken.
    pub(super) taken: u64,
    /// Records of the batch that it was taking.
    pub(super) taking: u64,
}

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
        while self.work().taken < records {
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

    /// Kills it and returns what it had done; `None` when it had ended well.
    pub(super) fn kill(mut self) -> Result<Option<Work>, Failure> {
        let failed = |error| Failure::Start(self.line.clone(), error);
        self.child.kill().map_err(failed)?;
        let status = self.child.wait().map_err(failed)?;
        match status.code() {
            None => Ok(Some(self.work())),
            Some(0) => Ok(None),
            Some(_) => Err(Failure::Program(self.line)),
        }
    }

    fn work(&self) -> Work {
        work(&std::fs::read_to_string(&self.trace).unwrap_or_default())
    }
}

/// What a trace says. Its sink is the only one.
fn work(trace: &str) -> Work {
    let mut work = Work { taken: 0, taking: 0 };
    for line in trace.lines() {
        let mut words = line.split(' ');
        let (what, records) = (words.next(), words.next_back().and_then(|n| n.parse().ok()));
        match (what, records) {
            (Some("taking"), Some(records)) => work.taking = records,
            (Some("taken"), Some(records)) => {
                work.taken += records;
                work.taking = 0;
            }
            _ => {}
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_added_up() {
        let trace = "read\ntaking s 1000\ntaken s 1000\nsink.after\ntaking s 20\ntaken s 20\n";
        assert_eq!(work(trace), Work { taken: 1020, taking: 0 });
        let trace = "taking s 7\ntaken s 7\ncommit.before\ntaking s 9\nsink.middle\n";
        assert_eq!(work(trace), Work { taken: 7, taking: 9 });
        assert_eq!(work("read\n"), Work { taken: 0, taking: 0 });
    }
}
