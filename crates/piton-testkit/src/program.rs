//! The program under test, as a child process that is struck, stopped, and asked to finish.

use std::{
    fs::File,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use piton_core::fault::{POINTS, STEP_POINTS};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long a run may take before it counts as hung, where the caller does not say.
pub const PATIENCE: Duration = Duration::from_mins(2);
const SIGKILL: i32 = 9;

/// A program, the folder it works in, and its environment.
#[derive(Debug, Clone)]
pub struct Program {
    binary: PathBuf,
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

/// What went differently from what the test needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The operating system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What failed.
        error: std::io::Error,
    },
    /// A fault point is neither in [`POINTS`] nor in [`STEP_POINTS`].
    #[error("there is no fault point '{point}'; there are {POINTS:?} and {STEP_POINTS:?}")]
    NoSuchPoint {
        /// The name that was given.
        point: String,
    },
    /// The program was not killed where it should have been: the test would prove nothing.
    #[error("fault point '{point}' was not reached {hit} times: {ended}")]
    NeverReached {
        /// The fault point.
        point: String,
        /// On which hit it was to strike.
        hit: u64,
        /// How the program ended instead.
        ended: Box<Ended>,
    },
    /// The program ended before what was waited for.
    #[error("waited for {what}, but {ended}")]
    EndedEarly {
        /// What was waited for.
        what: String,
        /// How the program ended.
        ended: Box<Ended>,
    },
    /// It took too long. The program has been killed.
    #[error("waited {patience:?} for {what}; killed: {ended}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// What the program had said.
        ended: Box<Ended>,
    },
    /// It ended with another exit code.
    #[error("expected exit code {expected}: {ended}")]
    Code {
        /// The code that was expected.
        expected: i32,
        /// How the program ended.
        ended: Box<Ended>,
    },
}

impl Program {
    /// A program that works in a folder. Of the test's own environment, Piton's variables are
    /// left out.
    pub fn new(binary: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), folder: folder.into(), variables: Vec::new() }
    }

    /// The same with an environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`HarnessError::System`].
    pub fn start(&self, args: &[&str]) -> Result<Running, HarnessError> {
        let system = |error| system(&format!("starting {}", self.binary.display()), error);
        // Files, not pipes: a program that is stopped or killed blocks nobody, and what it says
        // can be read while it runs.
        let (stdout, stderr) =
            (NamedTempFile::new().map_err(system)?, NamedTempFile::new().map_err(system)?);
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PITON_")) {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(stdout.reopen().map_err(system)?);
        command.stderr(stderr.reopen().map_err(system)?);
        let child = command.spawn().map_err(system)?;
        Ok(Running {
            child,
            stdout,
            stderr,
            began: Instant::now(),
            peak_memory: None,
            status: None,
        })
    }

    /// Runs it to its end, for [`PATIENCE`].
    ///
    /// # Errors
    /// [`HarnessError::TimedOut`].
    pub fn run(&self, args: &[&str]) -> Result<Ended, HarnessError> {
        self.start(args)?.wait(PATIENCE)
    }

    /// Runs it to its end and demands an exit code.
    ///
    /// # Errors
    /// [`HarnessError::Code`], [`HarnessError::TimedOut`].
    pub fn run_to(&self, expected: i32, args: &[&str]) -> Result<Ended, HarnessError> {
        let ended = self.run(args)?;
        if ended.code == Some(expected) {
            return Ok(ended);
        }
        Err(HarnessError::Code { expected, ended: Box::new(ended) })
    }

    /// Runs it with a fault point armed and demands that it died there by SIGKILL.
    ///
    /// # Errors
    /// [`HarnessError::NeverReached`] when it ended in another way.
    pub fn strike(&self, args: &[&str], point: &str, hit: u64) -> Result<Ended, HarnessError> {
        if !POINTS.contains(&point) && !STEP_POINTS.contains(&point) {
            return Err(HarnessError::NoSuchPoint { point: point.to_owned() });
        }
        let armed = self.clone().with("PITON_FAULT", &format!("{point}:{hit}"));
        let ended = armed.run(args)?;
        if ended.signal == Some(SIGKILL) {
            return Ok(ended);
        }
        Err(HarnessError::NeverReached { point: point.to_owned(), hit, ended: Box::new(ended) })
    }
}

/// A program that runs. Dropped, it is killed, so that a failed test leaves nothing behind.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    began: Instant,
    peak_memory: Option<u64>,
    status: Option<ExitStatus>,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        text_of(self.stdout.path())
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        text_of(self.stderr.path())
    }

    /// The most memory it has had resident so far, in bytes, where the system tells.
    pub fn peak_memory(&self) -> Option<u64> {
        self.peak_memory.max(peak_memory_of(self.id()))
    }

    /// Asks it to stop: SIGTERM.
    ///
    /// # Errors
    /// [`HarnessError::System`], as in every call that sends a signal.
    pub fn terminate(&self) -> Result<(), HarnessError> {
        self.signal(Signal::TERM)
    }

    /// Asks it to stop as Ctrl-C does: SIGINT.
    ///
    /// # Errors
    /// [`HarnessError::System`].
    pub fn interrupt(&self) -> Result<(), HarnessError> {
        self.signal(Signal::INT)
    }

    /// Makes it hang: SIGSTOP.
    ///
    /// # Errors
    /// [`HarnessError::System`].
    pub fn freeze(&self) -> Result<(), HarnessError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze): SIGCONT.
    ///
    /// # Errors
    /// [`HarnessError::System`].
    pub fn thaw(&self) -> Result<(), HarnessError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| system("sending a signal", error.into()))
    }

    /// Waits until something is so. To strike a program that really works, ask the sink how far
    /// it has got, not the clock.
    ///
    /// # Errors
    /// [`HarnessError::EndedEarly`], [`HarnessError::TimedOut`].
    pub fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Result<(), HarnessError> {
        let began = Instant::now();
        while !is_so(self) {
            if self.has_ended()? {
                let ended = Box::new(self.ended());
                return Err(HarnessError::EndedEarly { what: what.to_owned(), ended });
            }
            if began.elapsed() > patience {
                return Err(self.give_up(what, patience));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Kills it at once: SIGKILL.
    ///
    /// # Errors
    /// [`HarnessError::EndedEarly`] when it had ended by itself: the test would prove nothing.
    pub fn kill(mut self) -> Result<Ended, HarnessError> {
        if self.has_ended()? {
            let ended = Box::new(self.ended());
            return Err(HarnessError::EndedEarly { what: "the kill".to_owned(), ended });
        }
        self.signal(Signal::KILL)?;
        self.reap()?;
        Ok(self.ended())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`HarnessError::TimedOut`].
    pub fn wait(mut self, patience: Duration) -> Result<Ended, HarnessError> {
        while !self.has_ended()? {
            if self.began.elapsed() > patience {
                return Err(self.give_up("its end", patience));
            }
            thread::sleep(LOOK);
        }
        Ok(self.ended())
    }

    fn has_ended(&mut self) -> Result<bool, HarnessError> {
        self.peak_memory = self.peak_memory();
        self.status = self.child.try_wait().map_err(|error| system("waiting", error))?;
        Ok(self.status.is_some())
    }

    fn reap(&mut self) -> Result<(), HarnessError> {
        self.status = Some(self.child.wait().map_err(|error| system("waiting", error))?);
        Ok(())
    }

    fn give_up(&mut self, what: &str, patience: Duration) -> HarnessError {
        if let Err(error) = self.signal(Signal::KILL).and_then(|()| self.reap()) {
            return error;
        }
        HarnessError::TimedOut { what: what.to_owned(), patience, ended: Box::new(self.ended()) }
    }

    fn ended(&self) -> Ended {
        Ended {
            code: self.status.and_then(|status| status.code()),
            signal: self.status.and_then(|status| status.signal()),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: self.began.elapsed(),
            peak_memory: self.peak_memory,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    /// The most memory it had resident, in bytes, as far as it was seen and the system tells.
    pub peak_memory: Option<u64>,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "it ended with code {code}")?,
            (None, Some(signal)) => write!(f, "signal {signal} ended it")?,
            (None, None) => write!(f, "it is not known how it ended")?,
        }
        write!(f, " after {:.1} s", self.took.as_secs_f64())?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n{name}:\n{text}")?;
            }
        }
        Ok(())
    }
}

fn system(what: &str, error: std::io::Error) -> HarnessError {
    HarnessError::System { what: what.to_owned(), error }
}

fn text_of(path: &Path) -> String {
    let mut bytes = Vec::new();
    // A file of ours that cannot be read is shown as empty: it is only ever shown.
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn peak_memory_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> (tempfile::TempDir, Program) {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new("/bin/sh", folder.path());
        (folder, program)
    }

    #[test]
    fn a_strike_must_kill() {
        let (_folder, sh) = shell();
        let obeys = "[ \"$PITON_FAULT\" = commit.before:2 ] && kill -9 $$; exit 0";
        let ended = sh.strike(&["-c", obeys], "commit.before", 2).unwrap();
        assert_eq!((ended.code, ended.signal), (None, Some(9)));

        let missed = sh.strike(&["-c", obeys], "commit.after", 1).unwrap_err();
        assert!(matches!(missed, HarnessError::NeverReached { .. }));
        assert!(missed.to_string().contains("'commit.after' was not reached 1 times"));
        let unknown = sh.strike(&["-c", obeys], "comit.after", 1);
        assert!(matches!(unknown, Err(HarnessError::NoSuchPoint { .. })));
    }

    #[test]
    fn a_kill_waits_for_progress() {
        let (folder, sh) = shell();
        let out = folder.path().join("out");
        let mut running = sh.start(&["-c", "while :; do echo x >>out; sleep 0.01; done"]).unwrap();
        running.until("3 lines", PATIENCE, |_| crate::ledger::lines_in(&out) >= 3).unwrap();
        assert_eq!(running.kill().unwrap().signal, Some(9));

        let mut short = sh.start(&["-c", "echo said >&2; exit 3"]).unwrap();
        let early = short.until("9 lines", PATIENCE, |_| false).unwrap_err();
        assert!(early.to_string().contains("code 3") && early.to_string().contains("said"));
        assert!(short.kill().is_err());
    }

    #[test]
    fn signals_arrive_and_codes_are_demanded() {
        let (_folder, sh) = shell();
        let drains = "trap 'echo drained; exit 1' TERM; echo ready; while :; do sleep 0.01; done";
        let mut running = sh.start(&["-c", drains]).unwrap();
        running.until("it to be ready", PATIENCE, |sh| sh.stdout().contains("ready")).unwrap();
        running.freeze().unwrap();
        running.terminate().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!running.has_ended().unwrap(), "a frozen program hears nothing");
        running.thaw().unwrap();
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!((ended.code, ended.stdout.contains("drained")), (Some(1), true));

        assert!(sh.run_to(0, &["-c", "exit 0"]).is_ok());
        assert!(matches!(sh.run_to(0, &["-c", "exit 3"]), Err(HarnessError::Code { .. })));
    }

    #[test]
    fn a_hung_program_is_killed_and_named() {
        let (_folder, sh) = shell();
        let running = sh.start(&["-c", "echo begun; exec sleep 60"]).unwrap();
        let late = running.wait(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(&late, HarnessError::TimedOut { ended, .. } if ended.signal == Some(9)));
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let (_folder, sh) = shell();
        let running = sh.start(&["-c", "exec sleep 60"]).unwrap();
        let process = format!("/proc/{}", running.id());
        drop(running);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn the_environment_is_clean_and_peak_memory_is_seen() {
        let (_folder, sh) = shell();
        let ended = sh
            .with("PITON_STORE", "s")
            .run(&["-c", "echo ${PITON_STORE}${PITON_FAULT}; sleep 0.05"]);
        let ended = ended.unwrap();
        assert_eq!(ended.stdout, "s\n");
        if cfg!(target_os = "linux") {
            assert!(ended.peak_memory.is_some_and(|bytes| bytes > 100_000));
        }
    }
}
