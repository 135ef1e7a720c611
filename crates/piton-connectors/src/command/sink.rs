//! The sink: records to a command's standard input, and its answers.
//!
//! A record is durable when the command has printed its id. Three threads hang on a command: one
//! gives it what was built, one takes its answers, one passes on what it prints on standard error.
//! So a command that does not read, or does not answer, is noticed by the clock and not waited for
//! for ever.
//!
//! A command that fails takes with it what it had not answered. Where `on_error` says `retry`, it is
//! begun anew that often, and what no checkpoint covers is read and given to it again.

use std::{fmt, ops::Range, path::Path, sync::Arc, time::Duration};

use piton_core::{Output, fault};

use super::{
    answers::{Halt, Id, id_of},
    lines::CHUNK,
    process::{ProcessError, Program},
    running::{Failure, GivenTo, Tries},
    settings::CommandSinkSettings,
};
use crate::{
    batch::Batch,
    file::JsonRows,
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, SinkError},
};

/// How long the last of its output may still take to be read after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Gives records to a command, at least once. Memory: the records of some 64 KiB, three times.
pub struct CommandSink {
    program: Program,
    /// Its words without secrets.
    shown: String,
    /// What its lines on standard error begin with.
    name: String,
    settings: CommandSinkSettings,
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
            settings: settings.clone(),
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
            let (settings, tries) = (&self.settings, Arc::clone(&self.tries));
            let started = GivenTo::start(&self.program, &self.name, settings, tries);
            self.given_to = Some(started.map_err(of_process)?);
        }
        let none = || SinkError::Failed { what: format!("{}: it was not started", self.name) };
        self.given_to.as_mut().ok_or_else(none)
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
        let gathered = std::mem::take(&mut self.gathered);
        let given_to = self.begun()?;
        let (mut given, mut sent) = (0, 0);
        while given < gathered.ids.len() {
            given += given_to.may_give(&gathered.ids[given..])?;
            let end = gathered.ends[given - 1];
            given_to.give(gathered.text[sent..end].to_vec())?;
            sent = end;
        }
        self.gathered = gathered.emptied();
        Ok(())
    }

    /// Gives all rows, up to the first that no command could be given.
    fn give_all(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        let in_flight = self.settings.in_flight.get();
        self.begun()?;
        for row in rows {
            if let Err(bad) = self.gather(batch, row) {
                self.give()?;
                return Err(bad);
            }
            if self.gathered.text.len() >= CHUNK || self.gathered.ids.len() >= in_flight {
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

fn of_process(error: ProcessError) -> SinkError {
    match error {
        ProcessError::NotStarted { .. } => SinkError::Failed { what: error.to_string() },
        error => SinkError::Settings { what: error.to_string() },
    }
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
        let Some(end) = command.wait(command.timeout) else {
            command.end();
            let seconds = command.timeout.as_secs_f64();
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
