//! Which records a sink's command was given, and which it has answered.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use piton_core::tracker::{Ticket, Tracker};
use xxhash_rust::xxh3::xxh3_128;

use super::lines::each;

/// The most of an unknown id that is shown, in characters.
const SHOWN: usize = 200;

/// How long is waited in any case.
pub(super) const AT_LEAST: Duration = Duration::from_millis(500);

/// What stands for an id while it is not answered: so that none has to be kept.
pub(super) type Id = u128;

/// What stands for an id.
pub(super) fn id_of(id: &[u8]) -> Id {
    xxh3_128(id)
}

/// Why no answer comes any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// The command has closed its output.
    Closed,
    /// It answered an id that it was not given, or twice.
    Unknown(String),
    /// It has not answered for as long as it may.
    Silent,
}

/// What was given and answered. Records are counted from 1 in the order in which they were given.
#[derive(Debug)]
pub(super) struct Answers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    tracker: Tracker<u64>,
    waiting: HashMap<Id, Ticket>,
    given: u64,
    halted: Option<Halt>,
    /// When the last answer came, or the first record was given after all were answered.
    heard: Instant,
}

impl Answers {
    /// With so many records that may wait for an answer.
    pub(super) fn bounded(in_flight: usize) -> Self {
        let state = State {
            tracker: Tracker::bounded(in_flight),
            waiting: HashMap::new(),
            given: 0,
            halted: None,
            heard: Instant::now(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Notes that as many records are given as may be now, at least one, and says how many. Waits
    /// for that until no answer has come for `patience`. Of two records with one id the second
    /// waits until the first is answered.
    pub(super) fn give(&self, ids: &[Id], patience: Duration) -> Result<usize, Halt> {
        let mut state = self.lock();
        loop {
            if let Some(halt) = &state.halted {
                return Err(halt.clone());
            }
            let given = state.give(ids);
            if given > 0 || ids.is_empty() {
                return Ok(given);
            }
            state = self.wait(state, patience)?;
        }
    }

    /// Waits until the first so many records are answered, or no answer has come for `patience`.
    pub(super) fn wait_for(&self, count: u64, patience: Duration) -> Result<(), Halt> {
        let mut state = self.lock();
        while state.answered() < count {
            if let Some(halt) = &state.halted {
                return Err(halt.clone());
            }
            state = self.wait(state, patience)?;
        }
        Ok(())
    }

    /// Notes the ids on some lines. Blank ones are passed over.
    pub(super) fn note(&self, lines: &[u8]) {
        let mut state = self.lock();
        for line in each(lines).filter(|line| !line.is_empty()) {
            let Some(ticket) = state.waiting.remove(&id_of(line)) else {
                let shown = String::from_utf8_lossy(line).chars().take(SHOWN).collect();
                state.halted.get_or_insert(Halt::Unknown(shown));
                break;
            };
            state.tracker.finish(ticket);
            state.heard = Instant::now();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that no more will come.
    pub(super) fn close(&self) {
        self.lock().halted.get_or_insert(Halt::Closed);
        self.changed.notify_all();
    }

    /// How many were given.
    pub(super) fn given(&self) -> u64 {
        self.lock().given
    }

    /// How many of the first ones are answered, without a gap.
    pub(super) fn answered(&self) -> u64 {
        self.lock().answered()
    }

    /// How many wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Why no more answers come, once that is known; waits for it so long.
    pub(super) fn last(&self, patience: Duration) -> Option<Halt> {
        let waited =
            self.changed.wait_timeout_while(self.lock(), patience, |state| state.halted.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.halted.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        patience: Duration,
    ) -> Result<MutexGuard<'a, State>, Halt> {
        let left = patience.saturating_sub(state.heard.elapsed());
        if !left.is_zero() {
            let waited = self.changed.wait_timeout(state, left);
            return Ok(waited.unwrap_or_else(PoisonError::into_inner).0);
        }
        // Whoever slept past the time first hears what came meanwhile.
        let heard = state.heard;
        let is_silent = |state: &mut State| state.heard == heard && state.halted.is_none();
        let waited = self.changed.wait_timeout_while(state, AT_LEAST, is_silent);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { Err(Halt::Silent) } else { Ok(state) }
    }
}

impl State {
    fn answered(&self) -> u64 {
        self.tracker.low_water().copied().unwrap_or(0)
    }

    fn give(&mut self, ids: &[Id]) -> usize {
        if self.waiting.is_empty() {
            self.heard = Instant::now();
        }
        for (count, id) in ids.iter().enumerate() {
            let Entry::Vacant(vacant) = self.waiting.entry(*id) else { return count };
            let Ok(ticket) = self.tracker.start(self.given + 1) else { return count };
            vacant.insert(ticket);
            self.given += 1;
        }
        ids.len()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn ids(names: &[&str]) -> Vec<Id> {
        names.iter().map(|name| id_of(name.as_bytes())).collect()
    }

    #[test]
    fn only_what_is_answered_without_a_gap_counts() {
        // Invariant 1: a checkpoint never covers a record that is not durable.
        let answers = Answers::bounded(10);
        assert_eq!(answers.give(&ids(&["a", "b", "c"]), SOON), Ok(3));
        answers.note(b"c\nb\n");
        assert_eq!(answers.wait_for(1, SOON), Err(Halt::Silent));
        assert_eq!((answers.answered(), answers.waiting()), (0, 1));
        answers.note(b"a\r\n");
        assert_eq!(answers.wait_for(3, SOON), Ok(()));
    }

    #[test]
    fn what_waits_is_bounded_and_an_id_waits_for_its_own_answer() {
        // Invariant 8: memory is bounded by configuration.
        let answers = Answers::bounded(2);
        assert_eq!(answers.give(&ids(&["a", "b", "c"]), SOON), Ok(2));
        assert_eq!(answers.give(&ids(&["c"]), SOON), Err(Halt::Silent));
        answers.note(b"a\n");
        assert_eq!(answers.give(&ids(&["b"]), SOON), Err(Halt::Silent));
        assert_eq!(answers.give(&ids(&["c", "a"]), SOON), Ok(1));
        answers.note(b"b\nc\n");
        assert_eq!(answers.give(&ids(&["a", "a"]), SOON), Ok(1), "one after the other");
    }

    #[test]
    fn whoever_slept_past_the_time_hears_what_came_meanwhile() {
        let answers = Answers::bounded(2);
        assert_eq!(answers.give(&ids(&["a"]), SOON), Ok(1));
        thread::sleep(2 * SOON);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(2 * SOON);
                answers.note(b"\na\n");
            });
            assert_eq!(answers.wait_for(1, SOON), Ok(()));
        });
    }

    #[test]
    fn an_answer_to_nothing_halts() {
        let answers = Answers::bounded(2);
        assert_eq!(answers.give(&ids(&["a", "b"]), SOON), Ok(2));
        answers.note(b"a\na\n");
        assert_eq!(answers.wait_for(1, SOON), Ok(()));
        assert_eq!(answers.wait_for(2, SOON), Err(Halt::Unknown("a".into())), "answered twice");
        assert_eq!(answers.give(&ids(&["c"]), SOON), Err(Halt::Unknown("a".into())));
        let closed = Answers::bounded(2);
        closed.close();
        assert_eq!(closed.give(&ids(&["a"]), SOON), Err(Halt::Closed));
    }
}
