//! The sink: records to a command's standard input, and its answers.
//!
//! A record is durable when the command has printed its id. Three threads hang on a command: one
//! gives it what was built, one takes its answers, one passes on what it prints on standard error.
//! So a command that does not read, or does not answer, is noticed by the clock and not waited for
//! for ever.
//!
//! A command that fails takes with it what it had not answered. Where `on_error` says `retry`, it is
//! begun anew that often, and what no checkpoint covers is read and given to it again.

use std::{
    fmt,
    io::Write as _,
    ops::{ControlFlow, Range},
    path::Path,
    process::ChildStdin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use piton_core::{Output, fault};

use super::{
    answers::{AT_LEAST, Answers, Halt, Id, id_of},
    lines::{CHUNK, PassOn, Piece, pieces},
    process::{End, GRACE, Launch, Process, ProcessError, Program},
    settings::CommandSinkSettings,
};
use crate::{
    batch::Batch,
    file::JsonRows,
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, SinkError},
};

/// Buffers that may wait to be read by the command.
const WAITING: usize = 2;

/// How long the last of its output may still take to be read after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

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

/// Gives records to a command, at least once. Memory: the records of some 64 KiB, three times.
pub struct CommandSink {
    program: Program,
    /// Its words without secrets.
    shown: String,
    /// What its lines on standard error begin with.
    name: String,
    in_flight: usize,
    timeout: Duration,
    tries: Arc<Tries>,
    rows: JsonRows,
    gathered: Gathered,
    given_to: Option<GivenTo>,
    /// Why what was taken is lost: read again from the checkpoint.
    lost: Option<Failure>,
}

/// Records that were built and not given yet.
#[derive(Default)]
struct Gathered {
    text: Vec<u8>,
    ids: Vec<Id>,
    /// Where each ends in the text.
    ends: Vec<usize>,
    id: String,
}

/// A command that runs.
struct GivenTo {
    input: Sender<Vec<u8>>,
    command: Arc<Running>,
    /// How many of the records that it was given count as taken.
    accepted: u64,
}

/// What the sink and its promises share.
struct Running {
    name: String,
    process: Mutex<Process>,
    answers: Answers,
    timeout: Duration,
    tries: Arc<Tries>,
    failure: OnceLock<Failure>,
}

/// Why a command is of no use any more, and whether another may be tried.
#[derive(Debug, Clone)]
struct Failure {
    what: String,
    again: bool,
}

impl Failure {
    fn error(&self) -> SinkError {
        let what = self.what.clone();
        if self.again { SinkError::Unavailable { what } } else { SinkError::Failed { what } }
    }
}

impl fmt::Debug for CommandSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSink").field("run", &self.shown).finish_non_exhaustive()
    }
}

impl CommandSink {
    /// A command that runs in `dir`, for one pipeline's sink. Looks at no file, starts nothing: it is
    /// started for the first record.
    ///
    /// # Errors
    /// [`SinkError::Settings`] for a command that names no program.
    pub fn new(
        settings: &CommandSinkSettings,
        dir: &Path,
        pipeline: &str,
        sink: &str,
    ) -> Result<Self, SinkError> {
        let program = Program::new(&settings.run, dir).map_err(of_process)?;
        Ok(Self {
            shown: program.to_string(),
            program,
            name: format!("{pipeline}, {sink}"),
            in_flight: settings.in_flight.get(),
            timeout: settings.timeout.duration(),
            tries: Arc::default(),
            rows: JsonRows::default(),
            gathered: Gathered::default(),
            given_to: None,
            lost: None,
        })
    }

    /// The same, whose words have secrets in them: what is shown in their place.
    #[must_use]
    pub fn shown(mut self, shown: String) -> Self {
        self.shown = shown;
        self
    }

    /// The same, which may begin its command anew.
    #[must_use]
    pub fn trying(mut self, tries: Arc<Tries>) -> Self {
        self.tries = tries;
        self
    }

    /// The command that runs; started, if none does.
    fn begun(&mut self) -> Result<&mut GivenTo, SinkError> {
        if let Some(failure) = &self.lost {
            return Err(failure.error());
        }
        if self.given_to.is_none() {
            self.given_to = Some(self.start().map_err(of_process)?);
        }
        let none = || SinkError::Failed { what: format!("{}: it was not started", self.name) };
        self.given_to.as_mut().ok_or_else(none)
    }

    fn start(&self) -> Result<GivenTo, ProcessError> {
        let launch = Launch::of(&self.program).without("PITON_POSITION").reading();
        let mut process = launch.start(PassOn::named(self.name.clone()))?;
        let (stdin, stdout) = (process.input(), process.output());
        let command = Arc::new(Running {
            name: format!("the command '{}'", self.program.name()),
            process: Mutex::new(process),
            answers: Answers::bounded(self.in_flight),
            timeout: self.timeout,
            tries: Arc::clone(&self.tries),
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
        Ok(GivenTo { input, command, accepted: 0 })
    }

    /// Builds the line of a row.
    fn gather(&mut self, batch: &Batch, row: usize) -> Result<(), SinkError> {
        let Gathered { text, ids, ends, id } = &mut self.gathered;
        id.clear();
        batch.write_id(row, id);
        let bad = |reason: String| SinkError::BadRow { row, reason };
        if id.contains(['\n', '\r']) {
            return Err(bad(format!("its id {id:?} has a line end, and ids are answered by line")));
        }
        let begin = text.len();
        let mut write = || {
            text.extend_from_slice(b"{\"id\":");
            serde_json::to_writer(&mut *text, id)?;
            text.extend_from_slice(b",\"record\":");
            self.rows.write(batch, row, text)?;
            // The row has a line end of its own.
            text.pop();
            text.extend_from_slice(b"}\n");
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = write() {
            text.truncate(begin);
            return Err(bad(format!("it is not JSON: {error}")));
        }
        ids.push(id_of(id.as_bytes()));
        ends.push(text.len());
        Ok(())
    }

    /// Gives the command what was built, as fast as it answers.
    fn give(&mut self) -> Result<(), SinkError> {
        let timeout = self.timeout;
        let gathered = std::mem::take(&mut self.gathered);
        let GivenTo { input, command, .. } = self.begun()?;
        let (mut given, mut sent) = (0, 0);
        while given < gathered.ids.len() {
            let more = command.answers.give(&gathered.ids[given..], timeout);
            given += more.map_err(|halt| command.fail(&halt).error())?;
            let end = gathered.ends[given - 1];
            let part = gathered.text[sent..end].to_vec();
            send(input, part, timeout).map_err(|error| {
                let halt = match error {
                    SendTimeoutError::Timeout(_) => Halt::Silent,
                    SendTimeoutError::Disconnected(_) => Halt::Closed,
                };
                command.fail(&halt).error()
            })?;
            sent = end;
        }
        self.gathered = gathered.emptied();
        Ok(())
    }

    /// Gives all rows, up to the first that no command could be given.
    fn give_all(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        self.begun()?;
        for row in rows {
            if let Err(bad) = self.gather(batch, row) {
                self.give()?;
                return Err(bad);
            }
            if self.gathered.text.len() >= CHUNK || self.gathered.ids.len() >= self.in_flight {
                self.give()?;
                fault::point("sink.middle");
            }
        }
        self.give()
    }

    /// The command has failed. What it had taken may be lost with it.
    fn note_failure(&mut self, error: &SinkError) {
        self.gathered = Gathered::default();
        let Some(GivenTo { command, accepted, .. }) = self.given_to.take() else { return };
        if command.answers.answered() < accepted {
            let again = matches!(error, SinkError::Unavailable { .. });
            self.lost = Some(Failure { what: error.to_string(), again });
        }
        command.end();
    }
}

impl Gathered {
    /// Empty, with the room that it has.
    fn emptied(mut self) -> Self {
        self.text.clear();
        self.text.shrink_to(2 * CHUNK);
        self.ids.clear();
        self.ends.clear();
        self
    }
}

impl Running {
    /// Why it has failed, and whether it may be begun anew. It is ended. Whoever asks again is told
    /// the same.
    fn fail(&self, halt: &Halt) -> &Failure {
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

    fn said(&self) -> String {
        match self.process().last_words() {
            said if said.is_empty() => said,
            said => format!(", and said: {said}"),
        }
    }

    fn wait(&self, timeout: Duration) -> Option<End> {
        self.process().wait(Some(timeout), &|| false).ok().flatten()
    }

    fn end(&self) {
        self.process().stop();
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the first so many records are durable.
    fn keep(&self, count: u64) -> Result<Durable, SinkError> {
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

fn of_process(error: ProcessError) -> SinkError {
    match error {
        ProcessError::NotStarted { .. } => SinkError::Failed { what: error.to_string() },
        error => SinkError::Settings { what: error.to_string() },
    }
}

fn send(
    input: &Sender<Vec<u8>>,
    part: Vec<u8>,
    timeout: Duration,
) -> Result<(), SendTimeoutError<Vec<u8>>> {
    match input.send_timeout(part, timeout) {
        // Whoever slept past the time tries once more.
        Err(SendTimeoutError::Timeout(part)) => input.send_timeout(part, AT_LEAST),
        sent => sent,
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

impl PlainSink for CommandSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "at least once",
            why:
                "a record counts when the command has printed its id. A crash repeats what it had \
                  not printed, and what it printed since the last checkpoint, with the same ids: a \
                  command that recognises them makes it exactly once"
                    .into(),
        }
    }

    fn location(&self) -> String {
        self.shown.clone()
    }

    fn inspect(&mut self, resume: &Resume) -> Result<(), SinkError> {
        self.program.find().map_err(of_process)?;
        if resume.output == Some(Output::Truncate) {
            return Err(SinkError::Refused {
                what: format!(
                    "what was given to '{}' cannot be taken back: use --keep, and records will \
                     repeat, with the same ids",
                    self.program.name()
                ),
            });
        }
        Ok(())
    }

    fn open(&mut self, resume: &Resume) -> Result<Durable, SinkError> {
        self.inspect(resume)?;
        Ok(Durable { state: None })
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Accepted, SinkError> {
        let accepted = Accepted { rows: rows.len() as u64 };
        if rows.is_empty() {
            return Ok(accepted);
        }
        let given = self.give_all(batch, rows);
        match &given {
            Ok(()) | Err(SinkError::BadRow { .. }) => {
                if let Some(given_to) = &mut self.given_to {
                    given_to.accepted = given_to.command.answers.given();
                }
            }
            Err(error) => self.note_failure(error),
        }
        given.map(|()| accepted)
    }

    fn present(&mut self) -> Result<Durable, SinkError> {
        Ok(Durable { state: None })
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        if let Some(failure) = &self.lost {
            return Err(failure.error());
        }
        let Some(GivenTo { command, accepted, .. }) = &self.given_to else {
            return Ok(Promise::kept(Durable { state: None }));
        };
        let (command, accepted) = (Arc::clone(command), *accepted);
        Ok(Promise::by(move || command.keep(accepted)))
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let Some(GivenTo { input, command, .. }) = self.given_to.take() else { return Ok(()) };
        drop(input);
        let failed = |how: String| {
            let said = command.said();
            let what = format!(
                "{} {how}{said}. Every record was answered, and is not given to it again",
                command.name
            );
            Err(SinkError::Failed { what })
        };
        let Some(end) = command.wait(self.timeout) else {
            command.end();
            let seconds = self.timeout.as_secs_f64();
            return failed(format!("has not ended {seconds} s after the end of its input"));
        };
        if let Some(halt @ Halt::Unknown(_)) = command.answers.last(LAST_WORDS) {
            return Err(SinkError::Failed { what: command.fail(&halt).what.clone() });
        }
        if end.is_good() { Ok(()) } else { failed(format!("ended with {end}")) }
    }
}

impl Drop for CommandSink {
    fn drop(&mut self) {
        if let Some(GivenTo { input, command, .. }) = self.given_to.take() {
            drop(input);
            command.end();
        }
    }
}
