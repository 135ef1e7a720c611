//! Running a command: in a process group of its own, so that all of it can be ended; with bounded
//! memory, whatever it prints; and with descriptors that it and its children keep open.
//!
//! A command may leave processes behind it in its group. They are ended when it ends: what it
//! started for good has to leave the group, as `setsid` does.

#[cfg(unix)]
use std::os::fd::{BorrowedFd, OwnedFd};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::lines::{Keeping, Listener, Tail, tell};

/// How long a command that is asked to end may take before it is killed.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long what was printed may still take to be told after the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The longest pause between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

/// Descriptors that a child is to inherit are open to every child that is started meanwhile.
static STARTING: Mutex<()> = Mutex::new(());

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The settings name none.
    #[error("`run` names no command: write [PROGRAM, ARGUMENT, …]")]
    Empty,
    /// A word that cannot be an argument.
    #[error("`run`: {word:?} has a zero byte in it, which no argument can have")]
    ZeroByte {
        /// The word.
        word: String,
    },
    /// It is not there, or cannot be executed.
    #[error("`run`: no command '{name}' {place}. Check its name, and that it may be executed")]
    NotFound {
        /// As it is written.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// It is there, and the system does not start it.
    #[error("the command '{name}' could not be started: {error}")]
    NotStarted {
        /// As it is written.
        name: String,
        /// What the system says.
        error: io::Error,
    },
}

/// A command, as it is written: a program and its arguments. Its folder is the one that it runs in,
/// and against which a relative path is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    words: Vec<String>,
    folder: PathBuf,
}

impl Program {
    /// Takes the words of a command. Looks at no file.
    ///
    /// # Errors
    /// [`ProcessError::Empty`], [`ProcessError::ZeroByte`].
    pub fn new(words: &[String], folder: &Path) -> Result<Self, ProcessError> {
        if words.first().is_none_or(String::is_empty) {
            return Err(ProcessError::Empty);
        }
        if let Some(word) = words.iter().find(|word| word.contains('\0')) {
            return Err(ProcessError::ZeroByte { word: word.clone() });
        }
        Ok(Self { words: words.to_vec(), folder: folder.to_owned() })
    }

    /// The program, as it is written.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The program's file: the path itself, or what the search path has under the name.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`].
    pub fn find(&self) -> Result<PathBuf, ProcessError> {
        let name = self.name();
        if name.contains(std::path::is_separator) {
            let path = self.folder.join(name);
            let place = format!("at {}", path.display());
            if is_executable(&path) {
                return Ok(path);
            }
            return Err(ProcessError::NotFound { name: name.to_owned(), place });
        }
        if cfg!(windows) {
            // The system knows which endings a program may have.
            return Ok(PathBuf::from(name));
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(name));
        paths.find(|path| is_executable(path)).ok_or_else(|| ProcessError::NotFound {
            name: name.to_owned(),
            place: "in any folder of PATH".to_owned(),
        })
    }
}

impl fmt::Display for Program {
    /// As it would be typed, more or less.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

fn is_executable(path: &Path) -> bool {
    #[cfg(unix)]
    let may = |about: &std::fs::Metadata| {
        use std::os::unix::fs::PermissionsExt as _;
        about.permissions().mode() & 0o111 != 0
    };
    #[cfg(not(unix))]
    let may = |_: &std::fs::Metadata| true;
    path.metadata().is_ok_and(|about| about.is_file() && may(&about))
}

/// How a command is to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    program: &'a Program,
    environment: Vec<(&'a str, Option<String>)>,
    reads: bool,
    grace: Duration,
    #[cfg(unix)]
    inherited: Vec<BorrowedFd<'a>>,
}

impl<'a> Launch<'a> {
    /// With the environment of this process and nothing to read.
    pub fn of(program: &'a Program) -> Self {
        Self {
            program,
            environment: Vec::new(),
            reads: false,
            grace: GRACE,
            #[cfg(unix)]
            inherited: Vec::new(),
        }
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.environment.push((name, Some(value.into())));
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn without(mut self, name: &'a str) -> Self {
        self.environment.push((name, None));
        self
    }

    /// Lets it read from [`Process::input`].
    #[must_use]
    pub fn reading(mut self) -> Self {
        self.reads = true;
        self
    }

    /// How long it may take to end when it is asked to, if not [`GRACE`].
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Leaves a descriptor open in it and in the children that it starts: a lock on an open file is
    /// held until the last of them has ended, also when this process dies. Its number is any.
    #[cfg(unix)]
    #[must_use]
    pub fn inheriting(mut self, descriptor: BorrowedFd<'a>) -> Self {
        self.inherited.push(descriptor);
        self
    }

    /// Starts it. `listener` is told what it prints on standard error, on a thread of its own.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::NotStarted`].
    pub fn start(&self, listener: impl Listener + 'static) -> Result<Process, ProcessError> {
        let program = self.program;
        let mut command = Command::new(program.find()?);
        command.args(&program.words[1..]).current_dir(&program.folder);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(if self.reads { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = self
            .spawn(&mut command)
            .map_err(|error| ProcessError::NotStarted { name: program.name().to_owned(), error })?;
        let tail = Tail::default();
        let stderr = child.stderr.take();
        let mut process = Process {
            child,
            end: None,
            tail: tail.clone(),
            listening: Vec::new(),
            grace: self.grace,
        };
        if let Some(stderr) = stderr {
            let mut listener = Keeping { tail, listener };
            process.listening.push(thread::spawn(move || tell(stderr, &mut listener)));
        }
        Ok(process)
    }

    #[cfg(unix)]
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        spawn(command, &self.inherited)
    }

    #[cfg(not(unix))]
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        spawn(command)
    }
}

/// Starts a command, which inherits these descriptors; nobody else who is started here does.
///
/// # Errors
/// What the system says.
#[cfg(unix)]
pub fn spawn(command: &mut Command, inherited: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut open: Vec<OwnedFd> = Vec::with_capacity(inherited.len());
    for descriptor in inherited {
        let copy = descriptor.try_clone_to_owned()?;
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
        open.push(copy);
    }
    command.spawn()
}

/// Starts a command.
///
/// # Errors
/// What the system says.
#[cfg(not(unix))]
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It is not known how, or whether at all: the system does not let go of it.
    Unknown,
}

impl End {
    /// Whether it did what it had to do.
    pub fn is_good(self) -> bool {
        self == Self::Code(0)
    }

    fn of(status: ExitStatus) -> Self {
        if let Some(code) = status.code() {
            return Self::Code(code);
        }
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Self::Signal(signal);
        }
        Self::Unknown
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unknown end"),
        }
    }
}

/// A command that was started. Dropped, it is ended.
#[derive(Debug)]
pub struct Process {
    child: Child,
    end: Option<End>,
    tail: Tail,
    listening: Vec<JoinHandle<()>>,
    grace: Duration,
}

impl Process {
    /// Its process id, which is its group's, too.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it reads, if it was launched so. Dropped, it is at its end.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it prints on standard output. Somebody has to read it: here or by
    /// [`listen`](Self::listen).
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Tells what it prints on standard output, on a thread of its own.
    pub fn listen(&mut self, mut listener: impl Listener + 'static) {
        if let Some(output) = self.output() {
            self.listening.push(thread::spawn(move || tell(output, &mut listener)));
        }
    }

    /// The last lines that it printed on standard error, abridged, on one line.
    pub fn last_words(&self) -> String {
        self.tail.shown()
    }

    /// Waits for its end; `None` when the time is over or `stop` says so, and it still runs. Once it
    /// has ended, nobody is left in its group, and what it printed has been told, unless somebody
    /// who left the group still holds its output.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Option<End>> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(end) = self.look()? {
                return Ok(Some(end));
            }
            let left = timeout.map_or(LOOK, |timeout| timeout.saturating_sub(began.elapsed()));
            if left.is_zero() || stop() {
                return Ok(None);
            }
            thread::sleep(pause.min(left));
            pause = (2 * pause).min(LOOK);
        }
    }

    /// Asks it and its children to end, kills them when they have not after the grace, and says how
    /// it ended.
    pub fn stop(&mut self) -> End {
        drop(self.child.stdin.take());
        let wait = |process: &mut Self| {
            let ended = process.wait(Some(process.grace), &|| false);
            ended.unwrap_or(Some(End::Unknown))
        };
        if let Ok(Some(end)) = self.look() {
            return end;
        }
        self.signal(Asked::ToEnd);
        if let Some(end) = wait(self) {
            return end;
        }
        self.signal(Asked::Nothing);
        // One that hangs in the system is not waited for longer.
        let end = wait(self).unwrap_or(End::Unknown);
        *self.end.get_or_insert(end)
    }

    /// How it ended, if it has.
    fn look(&mut self) -> io::Result<Option<End>> {
        if self.end.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.end = Some(End::of(status));
            self.end_the_rest();
            self.hear_the_rest();
        }
        Ok(self.end)
    }

    /// Ends what it left behind in its group.
    fn end_the_rest(&mut self) {
        if !self.signal(Asked::ToEnd) {
            return;
        }
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        while self.is_group_alive() {
            if began.elapsed() >= self.grace {
                self.signal(Asked::Nothing);
                return;
            }
            thread::sleep(pause);
            pause = (2 * pause).min(LOOK);
        }
    }

    /// Waits until all of what was printed was told. Somebody who left the group may hold the other
    /// end for ever.
    fn hear_the_rest(&mut self) {
        let began = Instant::now();
        while self.listening.iter().any(|thread| !thread.is_finished()) {
            if began.elapsed() >= LAST_WORDS {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What is asked of a process group.
#[derive(Clone, Copy)]
enum Asked {
    /// To end by itself.
    ToEnd,
    /// Nothing: it is killed.
    Nothing,
}

#[cfg(unix)]
impl Process {
    fn group(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.child.id() as i32)
    }

    /// Signals the whole group; false if nobody is in it.
    fn signal(&self, asked: Asked) -> bool {
        let signal = match asked {
            Asked::ToEnd => rustix::process::Signal::TERM,
            Asked::Nothing => rustix::process::Signal::KILL,
        };
        let sent = |group| rustix::process::kill_process_group(group, signal).is_ok();
        self.group().is_some_and(sent)
    }

    fn is_group_alive(&self) -> bool {
        let is_there = |group| rustix::process::test_kill_process_group(group).is_ok();
        self.group().is_some_and(is_there) && has_living(self.child.id())
    }
}

/// Whether a group has processes that are not only waiting for their parent to look at them, as some
/// do for long where the first process of a container takes its time.
#[cfg(target_os = "linux")]
fn has_living(group: u32) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return true };
    let is_living = |entry: std::fs::DirEntry| {
        let about = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may have anything in it: state, parent, group.
        let mut fields = about.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        Some(fields.nth(1)?.parse() == Ok(group) && !matches!(state, "Z" | "X"))
    };
    entries.flatten().any(|entry| is_living(entry).unwrap_or(false))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn has_living(_: u32) -> bool {
    true
}

#[cfg(not(unix))]
impl Process {
    /// Ends the process; false if it has ended. There are no groups.
    fn signal(&mut self, _: Asked) -> bool {
        self.end.is_none() && self.child.kill().is_ok()
    }

    fn is_group_alive(&self) -> bool {
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
