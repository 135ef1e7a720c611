//! A command that runs as a sink: three threads, and why it has failed.

use std::{
    io::Write as _,
    ops::ControlFlow,
    process::ChildStdin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};

use super::{
    answers::{AT_LEAST, Answers, Halt, Id},
    lines::{PassOn, Piece, pieces},
    process::{End, GRACE, Launch, Process, ProcessError, Program},
    settings::CommandSinkSettings,
};
use crate::sink::{Durable, SinkError};

/// Buffers that may wait to be read by the command.
const WAITING: usize = 2;

/// The longest answer, in bytes.
const ANSWER: usize = 64 * 1024;

/// How often a command that failed may be begun anew before something is durable again. Shared by
/// the sinks that are made one after the other.
#[derive(Debug, Default)]
pub struct Tries {
    most: u32,
    used: AtomicU32,
}

impl Tries {
    /// At most so many.
    pub fn at_most(most: u32) -> Self {
        Self { most, used: AtomicU32::new(0) }
    }

    fn take(&self) -> bool {
        self.used.fetch_add(1, Ordering::Relaxed) < self.most
    }

    fn give_back(&self) {
        self.used.store(0, Ordering::Relaxed);
    }
}

/// A command that runs.
pub(super) struct GivenTo {
    pub(super) input: Sender<Vec<u8>>,
    pub(super) command: Arc<Running>,
    /// How many of the records that it was given count as taken.
    pub(super) accepted: u64,
}

/// What the sink and its promises share.
pub(super) struct Running {
    pub(super) name: String,
    process: Mutex<Process>,
    pub(super) answers: Answers,
    pub(super) timeout: Duration,
    tries: Arc<Tries>,
    failure: OnceLock<Failure>,
}

/// Why a command is of no use any more, and whether another may be tried.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) again: bool,
}

impl Failure {
    pub(super) fn error(&self) -> SinkError {
        let what = self.what.clone();
        if self.again { SinkError::Unavailable { what } } else { SinkError::Failed { what } }
    }
}

impl GivenTo {
    /// Starts it. `name` is what its lines on standard error begin with.
    pub(super) fn start(
        program: &Program,
        name: &str,
        settings: &CommandSinkSettings,
        tries: Arc<Tries>,
    ) -> Result<Self, ProcessError> {
        let launch = Launch::of(program).without("PITON_POSITION").reading();
        let mut process = launch.start(PassOn::named(name))?;
        let (stdin, stdout) = (process.input(), process.output());
        let command = Arc::new(Running {
            name: format!("the command '{}'", program.name()),
            process: Mutex::new(process),
            answers: Answers::bounded(settings.in_flight.get()),
            timeout: settings.timeout.duration(),
            tries,
            failure: OnceLock::new(),
        });
        let (input, given) = bounded(WAITING);
        thread::spawn(move || feed(stdin, &given));
        let hears = Arc::clone(&command);
        thread::spawn(move || {
            if let Some(stdout) = stdout {
                hear(stdout, &hears.answers);
            }
            hears.answers.close();
        });
        Ok(Self { input, command, accepted: 0 })
    }

    /// How many of the next records may be given now, at least one. Waits for answers until then.
    pub(super) fn may_give(&self, ids: &[Id]) -> Result<usize, SinkError> {
        let command = &self.command;
        let may = command.answers.give(ids, command.timeout);
        may.map_err(|halt| command.fail(&halt).error())
    }

    /// Gives it records.
    pub(super) fn give(&self, lines: Vec<u8>) -> Result<(), SinkError> {
        let command = &self.command;
        let sent = match self.input.send_timeout(lines, command.timeout) {
            // Whoever slept past the time tries once more.
            Err(SendTimeoutError::Timeout(lines)) => self.input.send_timeout(lines, AT_LEAST),
            sent => sent,
        };
        let halt = match sent {
            Ok(()) => return Ok(()),
            Err(SendTimeoutError::Timeout(_)) => Halt::Silent,
            Err(SendTimeoutError::Disconnected(_)) => Halt::Closed,
        };
        Err(command.fail(&halt).error())
    }
}

impl Running {
    /// Why it has failed, and whether it may be begun anew. It is ended. Whoever asks again is told
    /// the same.
    pub(super) fn fail(&self, halt: &Halt) -> &Failure {
        self.failure.get_or_init(|| {
            let unanswered = self.answers.waiting();
            let how = match halt {
                Halt::Silent => {
                    let seconds = self.timeout.as_secs_f64();
                    format!(
                        "has answered nothing for {seconds} s. It has to print the id of each \
                         record that is durable, without waiting for more, and to flush its output"
                    )
                }
                Halt::Unknown(id) => format!(
                    "answered '{id}', which is the id of no record that it was given and has not \
                     answered. On standard output it has to print ids only, each once"
                ),
                // It may have closed its output before it ends.
                Halt::Closed => match self.wait(GRACE) {
                    Some(end) => format!("ended with {end} while there was more to come"),
                    None => "closed its input or output while there was more to come".to_owned(),
                },
            };
            self.end();
            let said = self.said();
            let what = format!(
                "{} {how}{said}. {} not answered, and will be given to it again",
                self.name,
                counted(unanswered)
            );
            Failure { what, again: self.tries.take() }
        })
    }

    pub(super) fn said(&self) -> String {
        match self.process().last_words() {
            said if said.is_empty() => said,
            said => format!(", and said: {said}"),
        }
    }

    pub(super) fn wait(&self, timeout: Duration) -> Option<End> {
        self.process().wait(Some(timeout), &|| false).ok().flatten()
    }

    pub(super) fn end(&self) {
        self.process().stop();
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the first so many records are durable.
    pub(super) fn keep(&self, count: u64) -> Result<Durable, SinkError> {
        let kept = self.answers.wait_for(count, self.timeout);
        kept.map_err(|halt| self.fail(&halt).error())?;
        if count > 0 {
            self.tries.give_back();
        }
        Ok(Durable { state: None })
    }
}

fn counted(records: usize) -> String {
    match records {
        1 => "1 record was".to_owned(),
        _ => format!("{records} records were"),
    }
}

/// Writes what is given to a command, until nothing more is or it does not read any more.
fn feed(input: Option<ChildStdin>, given: &Receiver<Vec<u8>>) {
    let Some(mut input) = input else { return };
    for part in given {
        if input.write_all(&part).is_err() {
            return;
        }
    }
}

/// Notes a command's answers to the end.
fn hear(output: impl std::io::Read, answers: &Answers) {
    let _ = pieces(output, ANSWER, |piece| {
        match piece {
            Piece::Lines(lines) | Piece::Long(lines) => answers.note(lines),
            // Half of an id, should it be killed meanwhile, is none.
            Piece::Open(_) => {}
        }
        ControlFlow::Continue(())
    });
}
