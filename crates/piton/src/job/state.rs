//! How far a step is, as it is at rest: the position of the step's own checkpoint.

use std::cmp::Ordering;

use jiff::Timestamp;
use piton_core::Position;
use serde::{Deserialize, Serialize};

use super::{Start, Work};

/// How many attempts of a step may end without a word and without getting on, one after the other.
pub(super) const MOST_CRASHES: u32 = 100;

/// What a step that was begun has come to. A step without a checkpoint has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It has not begun: an operator has had it begin anew, or it is the job itself, whose row only
    /// says which run this is.
    Rewound,
    /// It runs, or whoever ran it died.
    Running,
    /// It ended with an error.
    Failed,
    /// It is done, and its children are.
    Done,
    /// An operator said that it counts as done.
    Skipped,
}

impl Stage {
    /// The word at rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rewound => "rewound",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Skipped => "skipped",
        }
    }

    /// Whether a restart passes it over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}

/// The checkpoint of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// What it has come to.
    #[serde(rename = "state")]
    pub stage: Stage,
    /// How often it was begun.
    pub attempt: u32,
    /// Below a step that runs its steps for each of many: for which of them this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Which beginning of the step this is: 0 for the first, and a larger number each time that it
    /// begins anew, which no other beginning has had, also where the store was restored meanwhile.
    #[serde(default, skip_serializing_if = "is_none")]
    pub generation: u64,
    /// It was over, and goes on because something below it begins anew: nothing of it is broken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopened: bool,
    /// What it does itself is done, and something below it or after it may not be: it is not done
    /// again, unless the step begins anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub body_done: bool,
    /// How many attempts in a row ended without a word and without getting on, up to the present
    /// one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// What it had come to when the present attempt began: any number that grows.
    #[serde(default, skip_serializing_if = "is_none")]
    pub progress: u64,
    /// When the present attempt began, by the clock of the machine that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it failed, or who skipped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// It starts a command, which may live on when whoever started it dies: nobody else may take
    /// over before that has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command: bool,
    /// Of the whole job alone: what tells its run from any other in any store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_none(n: &u64) -> bool {
    *n == 0
}

impl StepState {
    /// The state of a step that begins, after what it was.
    pub(super) fn begun(
        before: Option<&Self>,
        start: Start<'_>,
        progress: u64,
        now: Timestamp,
    ) -> Self {
        let before = before.filter(|before| before.parent.as_deref() == start.parent);
        let died = |before: &&Self| {
            let is_open = before.stage == Stage::Running && before.ended_at.is_none();
            is_open && before.progress == progress
        };
        Self {
            stage: Stage::Running,
            attempt: before.map_or(0, |before| before.attempt) + 1,
            generation: before.map_or(0, |before| before.generation),
            crashes: before.filter(died).map_or(0, |before| before.crashes + 1),
            parent: start.parent.map(ToOwned::to_owned),
            progress,
            reopened: false,
            body_done: before.is_some_and(|before| before.body_done),
            started_at: Some(now),
            ended_at: None,
            why: None,
            command: start.work == Work::Command,
            run: before.and_then(|before| before.run.clone()),
        }
    }

    /// The same attempt, ended.
    pub(super) fn ended(&self, stage: Stage, why: Option<String>, now: Timestamp) -> Self {
        Self {
            stage,
            ended_at: Some(now),
            why,
            command: false,
            crashes: 0,
            reopened: false,
            ..self.clone()
        }
    }

    /// Whether a command may be at work.
    pub fn is_running_command(&self) -> bool {
        self.stage == Stage::Running && self.command
    }

    /// How often it has died in a row without a word, if that is so often that it is not begun
    /// again unless it has got on elsewhere meanwhile.
    pub fn parked(&self) -> Option<u32> {
        let died = self.stage == Stage::Running && self.ended_at.is_none();
        let crashes = self.crashes + u32::from(died);
        (crashes >= MOST_CRASHES).then_some(crashes)
    }

    /// A step that is to go on, because something below it or after it begins anew.
    pub fn reopened(before: &Self, now: Timestamp) -> Self {
        Self {
            stage: Stage::Running,
            attempt: before.attempt + 1,
            ended_at: Some(now),
            why: None,
            command: false,
            reopened: true,
            body_done: before.body_done || before.stage.is_over(),
            ..before.clone()
        }
    }

    /// The whole job before anything of it has begun, with what tells its run from any other.
    pub(super) fn named(run: String) -> Self {
        Self {
            stage: Stage::Rewound,
            attempt: 0,
            parent: None,
            generation: 0,
            crashes: 0,
            reopened: false,
            body_done: false,
            progress: 0,
            started_at: None,
            ended_at: None,
            why: None,
            command: false,
            run: Some(run),
        }
    }

    /// A step that begins anew.
    pub fn rewound(before: Option<&Self>, now: Timestamp) -> Self {
        Self {
            stage: Stage::Rewound,
            attempt: 0,
            parent: None,
            generation: next_generation(before.map_or(0, |before| before.generation), now),
            crashes: 0,
            reopened: false,
            body_done: false,
            progress: 0,
            started_at: None,
            ended_at: Some(now),
            why: None,
            command: false,
            run: before.and_then(|before| before.run.clone()),
        }
    }

    /// A step that an operator has marked done: a later one than any of its attempts.
    pub fn skipped(before: Option<&Self>, by: &str, now: Timestamp) -> Self {
        Self {
            stage: Stage::Skipped,
            attempt: before.map_or(0, |before| before.attempt),
            parent: None,
            generation: before.map_or(0, |before| before.generation),
            crashes: 0,
            reopened: false,
            body_done: false,
            progress: 0,
            started_at: before.and_then(|before| before.started_at),
            ended_at: Some(now),
            why: Some(format!("by {by}")),
            command: false,
            run: before.and_then(|before| before.run.clone()),
        }
    }
}

/// The number of a new beginning. A counter would give the same one twice where an older store was
/// put back in between; the time in microseconds does not.
pub(super) fn next_generation(before: u64, now: Timestamp) -> u64 {
    let time = u64::try_from(now.as_microsecond()).unwrap_or(0);
    time.max(before.saturating_add(1))
}

impl PartialOrd for StepState {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self.parent != other.parent {
            // Parents come in the order of their source, which this does not know.
            return Some(Ordering::Greater);
        }
        let place = |state: &Self| (state.generation, state.attempt, state.stage);
        Some(place(self).cmp(&place(other)))
    }
}

impl Position for StepState {
    const KIND: &'static str = "step";
}

#[cfg(test)]
mod tests {
    use piton_core::StoredPosition;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_person_can_read_it_and_an_attempt_is_later_than_those_before() {
        let any = Start::default();
        let command = Start { work: Work::Command, ..any };
        let first = StepState::begun(None, command, 0, at(0));
        let json = StoredPosition::of(&first).unwrap().json;
        assert_eq!(
            json,
            r#"{"state":"running","attempt":1,"started_at":"1970-01-01T00:00:00Z","command":true}"#
        );
        let failed = first.ended(Stage::Failed, Some("no disk".into()), at(1));
        let second = StepState::begun(Some(&failed), any, 0, at(2));
        let died = StepState::begun(Some(&second), any, 0, at(3));
        let done = died.ended(Stage::Done, None, at(4));
        assert!(first < failed && failed < second && second < died && died < done);
        let got_on = StepState::begun(Some(&died), any, 1, at(3));
        assert_eq!((second.crashes, died.crashes, died.attempt), (0, 1, 3));
        assert_eq!((got_on.crashes, got_on.attempt), (0, 4));
        let skipped = StepState::skipped(Some(&done), "me", at(5));
        let rewound = StepState::rewound(Some(&skipped), at(6));
        let anew = StepState::begun(Some(&rewound), any, 0, at(7));
        assert!(done < skipped && skipped < rewound && rewound < anew);
        assert_eq!((anew.attempt, anew.generation), (1, 6_000_000));
        let sooner = StepState::rewound(Some(&anew), at(5));
        assert_eq!(sooner.generation, 6_000_001, "a clock that goes back does not repeat one");
    }

    #[test]
    fn what_a_step_does_itself_stays_done_until_the_step_begins_anew() {
        let begun = StepState::begun(None, Start::default(), 0, at(0));
        let with_body = StepState { body_done: true, ..begun.clone() };
        let failed = with_body.ended(Stage::Failed, Some("below".into()), at(1));
        assert!(StepState::begun(Some(&failed), Start::default(), 0, at(2)).body_done);
        assert!(!StepState::begun(Some(&begun), Start::default(), 0, at(2)).body_done);
        let done = begun.ended(Stage::Done, None, at(3));
        assert!(StepState::reopened(&done, at(4)).body_done, "it was, with all the rest");
        assert!(!StepState::rewound(Some(&failed), at(4)).body_done);
        let other = Start { parent: Some("7"), ..Start::default() };
        assert!(!StepState::begun(Some(&failed), other, 0, at(5)).body_done, "of another parent");
    }
}
