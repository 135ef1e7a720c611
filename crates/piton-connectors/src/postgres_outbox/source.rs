//! The source `postgres_outbox`: one table, read by the pair (transaction, position).

use std::sync::{Arc, Mutex, PoisonError};

use piton_core::{PositionOrder, StoredPosition, position::order_of};
use serde_json::json;

use super::{
    OutboxPosition,
    horizon::Notes,
    page::{Taken, rebuilt},
    passed::Passed,
    reader::OutboxReader,
    session::{Outbox, Session, Trouble},
    settings::{Begin, OutboxSettings},
};
use crate::{
    batch::Batch,
    source::{Reader, Source, SourceError, Start},
};

/// Reads the messages of an outbox in PostgreSQL.
pub struct OutboxSource {
    outbox: Arc<Outbox>,
    notes: Arc<Notes>,
    /// A connection that was looked at and is free, for the next who needs one.
    idle: Mutex<Option<Session>>,
    /// Where a new pipeline begins, once that was decided: all its readers begin there.
    beginning: Mutex<Option<OutboxPosition>>,
    passed: Option<Passed>,
}

impl OutboxSource {
    /// A source for these settings. `reader` is the pipeline's name, by which it is known to others
    /// that read the same outbox. A message of more than `record_limit` bytes is a bad record.
    /// With `accept_changes` an operator says that the server is known not to be the one that was,
    /// and that its transaction ids go on from there. Touches nothing.
    ///
    /// # Errors
    /// [`SourceError::Settings`] when they cannot work.
    pub fn new(
        settings: &OutboxSettings,
        reader: &str,
        record_limit: usize,
        accept_changes: bool,
    ) -> Result<Self, SourceError> {
        let outbox = Arc::new(Outbox::of(settings, reader, record_limit, accept_changes)?);
        let passed = settings.delete_passed.then(|| Passed::new(Arc::clone(&outbox), reader));
        Ok(Self {
            outbox,
            notes: Arc::default(),
            idle: Mutex::default(),
            beginning: Mutex::default(),
            passed,
        })
    }

    /// A connection: the one that is free, or a new one.
    fn session(&self) -> Result<Session, Trouble> {
        let free = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        match free.filter(|session| !session.client.is_closed()) {
            Some(session) => Ok(session),
            None => Session::open(&self.outbox),
        }
    }

    fn put_back(&self, session: Session) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// Where to begin without a stored position; `None` for the first message.
    fn beginning(&self, session: &mut Session) -> Result<Option<OutboxPosition>, SourceError> {
        let mut decided = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if decided.is_none() {
            *decided = match &self.outbox.settings.start {
                Begin::Beginning => None,
                Begin::End => Some(session.end()?),
                Begin::After(after) => Some(after.position().clone()),
                Begin::Last => return Err(self.nothing_stored()),
            };
        }
        Ok(decided.clone())
    }

    fn nothing_stored(&self) -> SourceError {
        SourceError::Gap {
            partition: self.outbox.partition().to_owned(),
            position: "nowhere".to_owned(),
            what:
                "`start: last` goes on from a stored position, and none is stored. Name the store \
                   that has it; or say `start: beginning`, `end` or `{after: …}`"
                    .to_owned(),
        }
    }

    fn verify_with(
        &self,
        session: &mut Session,
        position: Option<&OutboxPosition>,
    ) -> Result<(), SourceError> {
        if position.is_none() && self.outbox.settings.start == Begin::Last {
            return Err(self.nothing_stored());
        }
        session.guard(position).map_err(SourceError::from)
    }
}

fn position_of(start: Option<&Start>) -> Result<Option<OutboxPosition>, SourceError> {
    let stored = start.and_then(|start| start.position.as_ref());
    Ok(stored.map(StoredPosition::read).transpose()?)
}

impl Source for OutboxSource {
    fn kind(&self) -> &'static str {
        "postgres_outbox"
    }

    /// Not the host: after a failover the same outbox is elsewhere. What tells one server from
    /// another stands in each position.
    fn identity(&self) -> serde_json::Value {
        let OutboxSettings { table, columns, .. } = &self.outbox.settings;
        let database = self.outbox.server.location().rsplit('/').next().unwrap_or_default();
        let key = [&columns.transaction_id, &columns.position];
        json!({"kind": "postgres_outbox", "database": database, "table": table, "key": key})
    }

    fn order(&self) -> PositionOrder {
        order_of::<OutboxPosition>
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        let mut session = self.session()?;
        session.guard(None)?;
        self.put_back(session);
        Ok(vec![self.outbox.partition().to_owned()])
    }

    /// What was consumed may be gone, so `thorough` has nothing more to look at.
    fn verify(&self, start: &Start, _thorough: bool) -> Result<(), SourceError> {
        let outbox = &self.outbox;
        if start.partition != outbox.partition() {
            let position = start.position.as_ref();
            return Err(SourceError::Gap {
                partition: start.partition.clone(),
                position: position.map_or("the beginning".into(), |p| p.json.clone()),
                what: format!(
                    "the source now reads '{}'. Use another pipeline name for it, or `piton \
                     reset` to begin anew",
                    outbox.partition()
                ),
            });
        }
        let position = position_of(Some(start))?;
        let mut session = self.session()?;
        self.verify_with(&mut session, position.as_ref())?;
        self.put_back(session);
        Ok(())
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let start = starts.iter().find(|start| start.partition == self.outbox.partition());
        let stored = position_of(start)?;
        let mut session = self.session()?;
        self.verify_with(&mut session, stored.as_ref())?;
        let is_stored = stored.is_some();
        let begin = match stored {
            Some(stored) => Some(stored),
            None => self.beginning(&mut session)?,
        };
        if !is_stored && begin.is_some() {
            self.verify_with(&mut session, begin.as_ref())?;
        }
        // Without a start nobody means to go on from here: it is only a look.
        if let (Some(passed), Some(_)) = (&self.passed, start) {
            passed.register(&mut session, begin.as_ref())?;
        }
        let begins = !is_stored && begin.is_some();
        let at = begin.unwrap_or(OutboxPosition::BEGINNING);
        let (outbox, notes) = (Arc::clone(&self.outbox), Arc::clone(&self.notes));
        Ok(Box::new(OutboxReader::new(outbox, notes, session, at, begins)))
    }

    fn acknowledge(&self, partition: &str, position: &StoredPosition) {
        if let (Some(passed), Ok(position)) = (&self.passed, position.read())
            && partition == self.outbox.partition()
        {
            passed.advance(position);
        }
    }

    fn trouble(&self) -> Option<String> {
        self.notes.get().or_else(|| self.passed.as_ref()?.trouble())
    }

    /// How many messages there are is not cheap to know.
    fn progress(&self, _: &[Start]) -> Option<(u64, u64)> {
        None
    }

    /// Reads the message again at the place that the dead letter has; if it is gone, takes it as
    /// it was kept.
    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let wrong = |what: &str| SourceError::Failed {
            what: format!("a dead letter of {partition} cannot be read: {what}: {raw}"),
        };
        let kept: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(raw).map_err(|error| wrong(&error.to_string()))?;
        let place = ["transaction_id", "position"].map(|key| (key, kept.get(key).cloned()));
        let place: serde_json::Map<String, serde_json::Value> =
            place.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        let place: OutboxPosition = serde_json::from_value(place.into())
            .map_err(|_| wrong("it lacks `transaction_id` and `position`"))?;
        let mut session = self.session()?;
        let taken = session.message(&place)?;
        self.put_back(session);
        match taken {
            Taken::Batch(batch) => Ok(batch),
            Taken::Bad(bad) => Err(wrong(&bad.reason)),
            Taken::Nothing if kept.contains_key("data") => Ok(rebuilt(partition, &place, &kept)),
            Taken::Nothing => Err(wrong("the message is gone from the outbox")),
        }
    }
}
