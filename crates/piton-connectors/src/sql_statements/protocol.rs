//! The order of things, the same for every database: fence, then read; execute; under the lock
//! compare, record, commit.
//!
//! The lock on the marks is taken after the statements, not before, where a database has locks
//! smaller than itself: branches of one job then do not wait for each other's statements. A
//! transaction of an older claim finds the newer epoch there and is rolled back, so that nothing of
//! it is ever seen.

use std::{collections::BTreeMap, convert::Infallible, fmt};

use jiff::Timestamp;
use piton_core::{Checkpoint, CheckpointKey, Epoch, fault};
use piton_stores::joined::{ledger::LedgerError, mark::Standing};

use super::{
    Executed, Limits, Mark, Statement, Statements, StatementsError, keywords,
    limits::{Over, Watch},
    statement::Place,
};
use crate::sink::Guarantee;

/// How statements go with their mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In one transaction.
    Together,
    /// Outside of one, and the mark after them.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "MySQL alone needs it"))]
    Before,
}

/// Where sessions come from.
pub(super) trait Database: Send {
    type Session: Session;

    fn location(&self) -> &str;

    /// What its transactions promise, for people.
    fn promise(&self) -> &'static str;

    /// How these go with their mark.
    fn way(&self, statements: &[Statement]) -> Result<Way, StatementsError> {
        let _ = statements;
        Ok(Way::Together)
    }

    fn connect(&mut self, pipeline: &str) -> Result<Self::Session, StatementsError>;
}

/// One connection.
pub(super) trait Session: Send {
    /// In a transaction of its own, under the lock: refuses an epoch that is not the newest, and
    /// writes it for all marks of the key's pipeline and sink.
    fn take_over(&mut self, key: &CheckpointKey, epoch: Epoch) -> Result<(), StatementsError>;

    /// Reads a mark, under no lock.
    fn standing(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError>;

    /// Begins a transaction, forgetting what earlier statements have set for the session, and reads
    /// a mark.
    fn begin(&mut self, key: &CheckpointKey, watch: &Watch) -> Result<Standing, StatementsError>;

    /// Executes one statement, and returns how many rows it changed or gave. Notices if the
    /// transaction has ended by it, if it is to be in one.
    fn run(&mut self, place: &Place<'_>, way: Way, watch: &Watch) -> Result<u64, StatementsError>;

    /// Reads a mark under the lock, which is kept until the transaction ends.
    fn lock(&mut self, key: &CheckpointKey) -> Result<Standing, StatementsError>;

    /// Removes checkpoints of a pipeline's sink.
    fn clear(
        &mut self,
        pipeline: &str,
        sink: &str,
        partitions: &[&str],
    ) -> Result<(), StatementsError>;

    /// Writes a mark over what stands there.
    fn mark(&mut self, standing: &Standing, new: &Checkpoint) -> Result<(), StatementsError>;

    /// Commits. Only [`StatementsError::InDoubt`] leaves open whether it is done.
    fn commit(&mut self) -> Result<(), StatementsError>;

    /// Ends a transaction without effect. `None` if the connection is of no further use; else what
    /// stays of it nevertheless, if the database says so.
    fn roll_back(&mut self) -> Option<Kept>;
}

/// What stays of a transaction that was rolled back, in a sentence; empty if nothing does.
pub(super) type Kept = &'static str;

/// Executes statements in one database.
pub(super) struct Executor<D: Database> {
    database: D,
    open: Option<Open<D::Session>>,
}

struct Open<S> {
    session: S,
    /// For which pipeline and sink this connection has fenced which epoch.
    fenced: BTreeMap<(String, String), Epoch>,
    /// Whether it has answered since it was opened, so that it may have been lost in between.
    is_used: bool,
}

/// What a mark that stands means for the one that is to be written.
enum Judged {
    Ready,
    WasDone(Checkpoint),
    Fenced(Epoch),
}

/// How an attempt ended, if not by an error.
enum Attempt {
    Ended(Executed),
    /// A `COMMIT` that was not answered, of so many rows.
    InDoubt {
        rows: u64,
        what: String,
    },
}

impl<D: Database> Executor<D> {
    pub(super) fn new(database: D) -> Self {
        Self { database, open: None }
    }

    /// The session, after it has fenced.
    fn fenced(
        &mut self,
        key: &CheckpointKey,
        epoch: Epoch,
    ) -> Result<&mut D::Session, StatementsError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open {
                session: self.database.connect(&key.pipeline)?,
                fenced: BTreeMap::new(),
                is_used: false,
            },
        };
        let of = (key.pipeline.clone(), key.sink.clone());
        if open.fenced.get(&of) != Some(&epoch) {
            // A session that fails here is not used again.
            open.session.take_over(key, epoch)?;
            open.fenced.insert(of, epoch);
        }
        Ok(&mut self.open.insert(open).session)
    }

    /// Does something that has no effect yet, and once more by a new connection if the old one was
    /// lost while nobody used it.
    fn begin_with<T>(
        &mut self,
        key: &CheckpointKey,
        epoch: Epoch,
        begin: impl Fn(&mut D::Session) -> Result<T, StatementsError>,
    ) -> Result<T, StatementsError> {
        let was_used = self.open.as_ref().is_some_and(|open| open.is_used);
        let mut begun = self.fenced(key, epoch).and_then(&begin);
        if was_used && matches!(begun, Err(StatementsError::Unavailable { .. })) {
            self.open = None;
            begun = self.fenced(key, epoch).and_then(&begin);
        }
        match &begun {
            Ok(_) => self.open.iter_mut().for_each(|open| open.is_used = true),
            Err(_) => self.open = None,
        }
        begun
    }

    /// Whether the statements of a mark are to be executed.
    fn judge(&self, standing: &Standing, mark: &Mark) -> Result<Judged, StatementsError> {
        let at = self.database.location();
        let (pipeline, partition) = (&mark.key.pipeline, &mark.key.partition);
        let altered = || StatementsError::Refused {
            what: format!(
                "the mark of '{partition}' of '{pipeline}' in {at} was changed or removed by \
                 another hand while it ran. Nothing was done; run it again to see where it stands"
            ),
        };
        match standing.admit::<Infallible>(mark.epoch) {
            Ok(()) => {}
            Err(LedgerError::Fenced { epoch }) => return Ok(Judged::Fenced(epoch)),
            Err(_) => return Err(altered()),
        }
        let version = standing.row.as_ref().map(|row| row.version);
        if version == mark.expected {
            return Ok(Judged::Ready);
        }
        match &standing.row {
            Some(row)
                if row.version == next_version(mark)
                    && row.position.as_ref() == Some(&mark.position) =>
            {
                Ok(Judged::WasDone(row.clone()))
            }
            _ => Err(altered()),
        }
    }

    fn attempt(
        &mut self,
        mark: &Mark,
        statements: &[Statement],
        watch: &Watch,
    ) -> Result<Attempt, StatementsError> {
        let way = self.database.way(statements)?;
        let rows;
        if let Some(ended) = self.begin(mark, watch)? {
            return Ok(Attempt::Ended(ended));
        }
        fault::point("sink.begin");
        match way {
            Way::Together => rows = self.run_all(statements, way, watch)?,
            Way::Before => {
                self.session()?.roll_back();
                rows = self.run_all(statements, way, watch)?;
                if let Some(ended) = self.begin(mark, watch)? {
                    return Ok(Attempt::Ended(ended));
                }
            }
        }
        self.record(mark, rows)
    }

    /// Begins a transaction, unless the mark says that there is nothing to do.
    fn begin(&mut self, mark: &Mark, watch: &Watch) -> Result<Option<Executed>, StatementsError> {
        let key = &mark.key;
        let standing = self.begin_with(key, mark.epoch, |session| session.begin(key, watch))?;
        let ended = self.ended(&standing, mark)?;
        if ended.is_some() && self.session()?.roll_back().is_none() {
            self.open = None;
        }
        Ok(ended)
    }

    fn ended(
        &mut self,
        standing: &Standing,
        mark: &Mark,
    ) -> Result<Option<Executed>, StatementsError> {
        let judged = self.judge(standing, mark).inspect_err(|_| self.open = None)?;
        Ok(match judged {
            Judged::Ready => None,
            Judged::WasDone(mark) => Some(Executed::WasDone { mark }),
            Judged::Fenced(epoch) => Some(Executed::Fenced { epoch }),
        })
    }

    fn run_all(
        &mut self,
        statements: &[Statement],
        way: Way,
        watch: &Watch,
    ) -> Result<u64, StatementsError> {
        let at = self.database.location().to_owned();
        let session = self.session()?;
        let mut rows = 0;
        for place in Place::all(statements) {
            if place.number == 2 {
                fault::point("sink.middle");
            }
            rows += match watch.over() {
                Some(over) => Err(no_more_time(over, &place, &at)),
                None => session.run(&place, way, watch),
            }?;
        }
        fault::point("sink.after");
        Ok(rows)
    }

    /// Records the mark in the open transaction, and commits.
    fn record(&mut self, mark: &Mark, rows: u64) -> Result<Attempt, StatementsError> {
        let session = self.session()?;
        let mut standing = session.lock(&mark.key)?;
        if let Some(ended) = self.ended(&standing, mark)? {
            // What was executed twice, or too late, is undone.
            self.open = None;
            return Ok(Attempt::Ended(ended));
        }
        let new = Checkpoint {
            key: mark.key.clone(),
            position: Some(mark.position.clone()),
            records: rows,
            version: next_version(mark),
            epoch: mark.epoch,
            schema_version: 0,
            updated_at: Timestamp::now(),
            sink_state: None,
        };
        let session = self.session()?;
        if !mark.clears.is_empty() {
            for ((pipeline, sink), partitions) in by_sink(&mark.clears) {
                session.clear(pipeline, sink, &partitions)?;
            }
            standing = session.lock(&mark.key)?;
        }
        session.mark(&standing, &new)?;
        match session.commit() {
            Ok(()) => Ok(Attempt::Ended(Executed::Done { rows, mark: new })),
            Err(StatementsError::InDoubt { what, .. }) => Ok(Attempt::InDoubt { rows, what }),
            Err(error) => Err(error),
        }
    }

    /// Finds out what became of a `COMMIT`: by a new connection, under the lock.
    fn settle(&mut self, mark: &Mark, rows: u64, what: &str) -> Result<Executed, StatementsError> {
        self.open = None;
        let (key, epoch) = (&mark.key, mark.epoch);
        let at = self.database.location().to_owned();
        let standing = match self.begin_with(key, epoch, |session| session.standing(key)) {
            Err(StatementsError::Fenced { epoch, .. }) => return Ok(Executed::Fenced { epoch }),
            Err(error) => {
                let what = format!("{what}; and then: {error}");
                return Err(StatementsError::InDoubt { at, what });
            }
            Ok(standing) => standing,
        };
        match self.judge(&standing, mark)? {
            Judged::WasDone(mark) => Ok(Executed::Done { rows, mark }),
            Judged::Fenced(epoch) => Ok(Executed::Fenced { epoch }),
            Judged::Ready => Err(StatementsError::Unavailable {
                what: format!(
                    "the last commit to {at} did not take effect: {what}. It can be done again"
                ),
            }),
        }
    }

    /// The connection in use.
    fn session(&mut self) -> Result<&mut D::Session, StatementsError> {
        match &mut self.open {
            Some(open) => Ok(&mut open.session),
            None => Err(StatementsError::Unavailable {
                what: format!("the connection to {} is lost", self.database.location()),
            }),
        }
    }

    /// Undoes what was done, and says so if something stays.
    fn undo(&mut self, error: StatementsError) -> StatementsError {
        let kept = self.open.as_mut().and_then(|open| open.session.roll_back());
        if kept.is_none() {
            self.open = None;
        }
        match (error, kept.unwrap_or_default()) {
            (error, "") => error,
            (error, kept) => StatementsError::Committed { what: format!("{error}. But {kept}") },
        }
    }
}

impl<D: Database> Statements for Executor<D> {
    fn location(&self) -> String {
        self.database.location().to_owned()
    }

    fn guarantee(&self, statements: &[Statement]) -> Result<Guarantee, StatementsError> {
        refuse_transactions(statements)?;
        Ok(match self.database.way(statements)? {
            Way::Together => Guarantee {
                what: "exactly once",
                why: format!(
                    "the statements and the mark that they are done commit in one {}, which also \
                     compares the epoch of the claim",
                    self.database.promise()
                ),
            },
            Way::Before => Guarantee {
                what: "at least once",
                why: "MySQL commits such statements by itself, so that they are recorded after \
                      they are done, and a crash between the two repeats them: write them so that \
                      this does no harm, as with IF NOT EXISTS"
                    .into(),
            },
        })
    }

    fn fence(
        &mut self,
        key: &CheckpointKey,
        epoch: Epoch,
    ) -> Result<Option<Checkpoint>, StatementsError> {
        let standing = self.begin_with(key, epoch, |session| session.standing(key))?;
        match standing.admit::<Infallible>(epoch) {
            Ok(()) => Ok(standing.row),
            Err(LedgerError::Fenced { epoch }) => {
                Err(StatementsError::Fenced { epoch, at: self.location() })
            }
            Err(error) => Err(StatementsError::Refused {
                what: format!("{}: {error}. Nothing was done", self.location()),
            }),
        }
    }

    fn execute(
        &mut self,
        mark: &Mark,
        statements: &[Statement],
        limits: &Limits,
    ) -> Result<Executed, StatementsError> {
        refuse_transactions(statements)?;
        let watch = Watch::begin(limits);
        match self.attempt(mark, statements, &watch) {
            Ok(Attempt::Ended(executed)) => Ok(executed),
            Ok(Attempt::InDoubt { rows, what }) => self.settle(mark, rows, &what),
            Err(StatementsError::Fenced { epoch, .. }) => {
                self.open = None;
                Ok(Executed::Fenced { epoch })
            }
            Err(error) => Err(self.undo(error)),
        }
    }
}

/// Why no more time is given to a statement, or to what is waited for.
pub(super) fn no_more_time(over: Over, place: &dyn fmt::Display, at: &str) -> StatementsError {
    match over {
        Over::Stopped => StatementsError::Stopped {
            what: format!("stopped, as was asked, at {place} in {at}. Nothing was recorded"),
        },
        Over::TimedOut(most) => StatementsError::TimedOut {
            what: format!(
                "{place} in {at} was not done when the time limit of {most:?} was over. Nothing \
                 was recorded; give it a longer `timeout`, or see what it waits for"
            ),
        },
    }
}

/// What ended a transaction, and what stands.
pub(super) fn committed(place: &Place<'_>, at: &str, advice: &str) -> StatementsError {
    let before = match place.number {
        1 => String::new(),
        _ => format!(" and of those before it ({})", place.number - 1),
    };
    let after = match place.of - place.number {
        0 => String::new(),
        after => format!("; those after it ({after}) were not executed"),
    };
    StatementsError::Committed {
        what: format!(
            "{place} ended the transaction in {at}. What it committed of itself{before} \
             stands{after}, and nothing is recorded: executed again, all of it is repeated. {advice}"
        ),
    }
}

/// Refuses statements that say that they begin or end a transaction.
fn refuse_transactions(statements: &[Statement]) -> Result<(), StatementsError> {
    let found = Place::all(statements).find(|p| keywords::is_of_transactions(p.statement));
    found.map_or(Ok(()), |place| Err(of_transactions(&place)))
}

/// A statement begins or ends a transaction, and was not executed.
pub(super) fn of_transactions(place: &Place<'_>) -> StatementsError {
    StatementsError::Settings {
        what: format!(
            "{place} begins or ends a transaction, and all statements of a step are in one, with \
             the mark that they are done. Nothing was done; leave BEGIN, COMMIT and ROLLBACK out"
        ),
    }
}

/// Checkpoints by pipeline and sink, in an order that is the same for everybody who locks them.
fn by_sink(keys: &[CheckpointKey]) -> BTreeMap<(&str, &str), Vec<&str>> {
    let mut sinks: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for CheckpointKey { pipeline, partition, sink } in keys {
        sinks.entry((&**pipeline, &**sink)).or_default().push(partition);
    }
    sinks
}

fn next_version(mark: &Mark) -> u64 {
    mark.expected.map_or(1, |version| version + 1)
}
