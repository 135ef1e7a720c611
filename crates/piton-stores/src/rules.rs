//! What claims, mirrors, orders and thinning mean, once for every store of this crate.
//!
//! Everything here is a plain function of rows and requests, so that a store has only to put a
//! decision and its effect into one transaction.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use piton_core::{
    Checkpoint, CheckpointKey, Claim, ClaimRequest, Epoch, Holder, Order, Owner, Run, Save, Saved,
    Snapshot, StoreError, StoredPosition,
    checksum::{Checksum, Form},
    claim::WHOLE,
    snapshot::{EPOCH_JUMP, FORMAT},
};

/// A claim at rest. There is one row for each scope that was ever claimed, until a claim of the
/// whole pipeline sweeps those of its partitions away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimRow {
    pub(crate) pipeline: String,
    pub(crate) partition: String,
    pub(crate) holder: Holder,
    /// Given up, or superseded by a claim of another scope: its lock says nothing any more.
    pub(crate) released: bool,
    /// How its checksum is computed.
    pub(crate) form: Form,
}

impl ClaimRow {
    /// The row of a claim that is granted now. Leases are kept in milliseconds.
    pub(crate) fn granted(request: &ClaimRequest, epoch: Epoch) -> Self {
        Self {
            pipeline: request.pipeline.clone(),
            partition: request.partition.clone(),
            holder: Holder {
                owner: request.owner.clone(),
                since: request.now,
                epoch,
                renewals: 0,
                lease: Duration::from_millis(request.lease.as_millis() as u64),
            },
            released: false,
            form: Form::Native,
        }
    }

    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "memory needs no checksums"))]
    pub(crate) fn checksum(&self) -> Checksum {
        Checksum::build_as(self.form)
            .text(&self.pipeline)
            .text(&self.partition)
            .number(self.holder.epoch.0)
            .text(&self.holder.owner.host)
            .number(u64::from(self.holder.owner.pid))
            .text(&self.holder.since.to_string())
            .number(self.holder.renewals)
            .number(self.holder.lease.as_millis() as u64)
            .number(u64::from(self.released))
            .finish()
    }
}

/// Whether two claims of one pipeline speak of the same records.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    a == WHOLE || b == WHOLE || a == b
}

/// What becomes of a request for a claim.
pub(crate) enum Decision {
    Held(Holder),
    Grant { epoch: Epoch, died: Option<Holder> },
}

/// Decides a request against the rows that overlap it. `seen` is the highest epoch in checkpoints
/// of that scope; `alive` asks a row's lock.
pub(crate) fn decide<E>(
    request: &ClaimRequest,
    rivals: &[ClaimRow],
    seen: Epoch,
    mut alive: impl FnMut(&ClaimRow) -> Result<bool, E>,
) -> Result<Decision, E> {
    let mut died: Option<Holder> = None;
    for rival in rivals.iter().filter(|rival| !rival.released) {
        if alive(rival)? {
            // A silent holder is given up only if it has not stirred since it was watched.
            if request.silent.as_ref() != Some(&rival.holder) {
                return Ok(Decision::Held(rival.holder.clone()));
            }
        } else if died.as_ref().is_none_or(|died| died.epoch < rival.holder.epoch) {
            died = Some(rival.holder.clone());
        }
    }
    let highest = rivals.iter().map(|rival| rival.holder.epoch).max().unwrap_or_default().max(seen);
    let epoch = Epoch(highest.0.saturating_add(1)).max(request.at_least);
    Ok(Decision::Grant { epoch, died })
}

/// The epoch below which a claim is fenced: the highest of all that overlap its scope.
pub(crate) fn fence<'a>(rows: impl IntoIterator<Item = &'a ClaimRow>, partition: &str) -> Epoch {
    rows.into_iter()
        .filter(|row| overlap(&row.partition, partition))
        .map(|row| row.holder.epoch)
        .max()
        .unwrap_or_default()
}

/// Refuses what a claim gives no right to: other pipelines, other partitions, a key named twice.
pub(crate) fn check_scope<'a>(
    claim: &Claim,
    keys: impl IntoIterator<Item = &'a CheckpointKey>,
) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    for key in keys {
        let covered = claim.partition == WHOLE || claim.partition == key.partition;
        if key.pipeline != claim.pipeline || !covered {
            let what = format!(
                "checkpoint {key} is not covered by the claim of {} / {}",
                claim.pipeline, claim.partition
            );
            return Err(StoreError::Refused { what });
        }
        if !seen.insert(key) {
            return Err(StoreError::Refused { what: format!("checkpoint {key} is given twice") });
        }
    }
    Ok(())
}

/// The refusal where the answer has no room for [`Saved::Fenced`].
pub(crate) fn fenced(pipeline: &str, epoch: Epoch) -> StoreError {
    let what =
        format!("a newer claim (epoch {epoch}) has taken over '{pipeline}': nothing was changed");
    StoreError::Refused { what }
}

/// The refusal of a renewal after the claim was given up.
pub(crate) fn not_held(claim: &Claim) -> StoreError {
    let what = format!(
        "the claim of {} / {} (epoch {}) is not held any more: ask for a new one",
        claim.pipeline, claim.partition, claim.epoch
    );
    StoreError::Refused { what }
}

/// The checkpoint that a save makes, once it is judged to be stored.
pub(crate) fn saved(save: &Save, version: u64, epoch: Epoch, now: Timestamp) -> Checkpoint {
    Checkpoint {
        key: save.key.clone(),
        position: save.position.clone(),
        records: save.records,
        version,
        epoch,
        schema_version: save.schema_version,
        updated_at: now,
        sink_state: save.sink_state.clone(),
    }
}

/// Whether a mirrored checkpoint may replace the stored one: versions only grow, and one version
/// has one position.
pub(crate) fn judge_mirror(stored: Option<&Checkpoint>, new: &Checkpoint, mine: Epoch) -> Saved {
    let Some(stored) = stored else {
        return Saved::Stored { version: new.version };
    };
    if stored.epoch > mine {
        return Saved::Fenced { epoch: stored.epoch };
    }
    let altered = new.version == stored.version && new.position != stored.position;
    if new.version < stored.version || altered {
        return Saved::Mismatch { stored: stored.position.clone() };
    }
    if stored == new { Saved::Ignored } else { Saved::Stored { version: new.version } }
}

/// The one answer for several rows: the first refusal, else the highest version that was stored,
/// else that nothing had to change.
pub(crate) fn worst(outcomes: impl Iterator<Item = Saved>) -> Saved {
    let mut answer = Saved::Ignored;
    for outcome in outcomes {
        answer = match (answer, outcome) {
            (Saved::Stored { version: a }, Saved::Stored { version: b }) => {
                Saved::Stored { version: a.max(b) }
            }
            (answer, Saved::Ignored) => answer,
            (Saved::Ignored | Saved::Stored { .. }, outcome) => outcome,
            (refusal, _) => return refusal,
        };
    }
    answer
}

/// The checkpoint after a rewind.
pub(crate) fn rewound(stored: &Checkpoint, order: &Order) -> Checkpoint {
    Checkpoint {
        position: order.position.clone(),
        records: order.records,
        sink_state: order.sink_state.clone(),
        version: stored.version + 1,
        updated_at: order.at,
        ..stored.clone()
    }
}

/// The refusal of a rewind of a checkpoint that has state: of state only the present is kept.
pub(crate) fn has_state(key: &CheckpointKey) -> StoreError {
    let what = format!(
        "{key} has state of its own beside the position, and only its present value is kept: \
         going back would leave it ahead of the position. Reset it instead"
    );
    StoreError::Refused { what }
}

/// The refusal to steer what was never registered.
pub(crate) fn unregistered(pipeline: &str, at: &str) -> StoreError {
    let what =
        format!("no pipeline '{pipeline}' in the store {at}: `piton status` lists those there are");
    StoreError::Refused { what }
}

/// The refusal to update a run that is not there.
pub(crate) fn no_run(id: u64) -> StoreError {
    StoreError::Refused { what: format!("there is no run {id} to update: begin it first") }
}

/// The refusal to mark an order that is not there.
pub(crate) fn no_order(id: u64, pipeline: &str) -> StoreError {
    StoreError::Refused { what: format!("there is no order {id} for '{pipeline}'") }
}

/// Refuses a snapshot of a newer format, or a store that holds something.
pub(crate) fn check_restore(
    snapshot: &Snapshot,
    is_empty: bool,
    at: &str,
) -> Result<(), StoreError> {
    if snapshot.format > FORMAT {
        let (found, known) = (u64::from(snapshot.format), u64::from(FORMAT));
        return Err(StoreError::Newer { at: at.to_owned(), found, known });
    }
    if !is_empty {
        let what = format!("the store {at} is not empty: name a new one");
        return Err(StoreError::Refused { what });
    }
    Ok(())
}

/// The claims of a restored store: nobody holds them, and their epochs have jumped past every
/// owner of the time before. A pipeline whose snapshot names no epoch gets one from its checkpoints.
pub(crate) fn restored_claims(snapshot: &Snapshot) -> Vec<ClaimRow> {
    let mut epochs: BTreeMap<(&str, &str), Epoch> = BTreeMap::new();
    for (pipeline, partition, epoch) in &snapshot.epochs {
        epochs.insert((pipeline, partition), *epoch);
    }
    for row in &snapshot.checkpoints {
        let whole = epochs.entry((&row.key.pipeline, WHOLE)).or_default();
        *whole = row.epoch.max(*whole);
    }
    let row = |((pipeline, partition), epoch): ((&str, &str), Epoch)| ClaimRow {
        pipeline: pipeline.to_owned(),
        partition: partition.to_owned(),
        holder: Holder {
            owner: Owner { host: "(restored)".to_owned(), pid: 0 },
            since: Timestamp::UNIX_EPOCH,
            epoch: Epoch(epoch.0.saturating_add(EPOCH_JUMP)),
            renewals: 0,
            lease: Duration::ZERO,
        },
        released: true,
        form: Form::Native,
    };
    epochs.into_iter().map(row).collect()
}

/// How many rows of history one pipeline's saves leave in a second, about.
const HISTORY_ROWS_PER_SECOND: u32 = 16;

/// Chooses which replaced checkpoints history keeps: about one a second of each key, fewer where
/// very many are saved together, and the "begun" one always. What was new less than a second ago
/// is not kept: a job of many short steps would leave a row for each.
#[derive(Default)]
pub(crate) struct HistoryClock(HashMap<CheckpointKey, Timestamp>);

impl HistoryClock {
    /// Whether the rows that one save replaces are kept: all of them or none, so that history can
    /// go back to what was stored together. `new` are those that it stores for the first time.
    pub(crate) fn due<'a>(
        &mut self,
        replaced: impl Iterator<Item = Replaced<'a>> + Clone,
        new: impl Iterator<Item = &'a CheckpointKey>,
        now: Timestamp,
    ) -> bool {
        self.0.extend(new.map(|key| (key.clone(), now)));
        let rows = replaced.clone().count() as u32;
        let interval = SignedDuration::from_secs(1)
            .max(SignedDuration::from_secs(i64::from(rows)) / HISTORY_ROWS_PER_SECOND as i32);
        let due = replaced.clone().any(|row| {
            let last = self.0.get(row.key);
            row.is_begun || last.is_none_or(|last| now.duration_since(*last).abs() >= interval)
        });
        if due {
            self.0.extend(replaced.map(|row| (row.key.clone(), now)));
        }
        due
    }
}

/// A checkpoint that is about to be replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replaced<'a> {
    key: &'a CheckpointKey,
    /// It has no position yet.
    is_begun: bool,
}

impl<'a> Replaced<'a> {
    pub(crate) fn of(row: &'a Checkpoint) -> Self {
        Self { key: &row.key, is_begun: row.position.is_none() }
    }

    /// What a save replaces, if what it expects is there.
    #[cfg(feature = "server")]
    pub(crate) fn by(save: &'a Save) -> Option<Self> {
        let is_begun = save.expected.is_none();
        (save.expected_version > 0).then_some(Self { key: &save.key, is_begun })
    }
}

/// A row of history, as thinning sees it.
pub(crate) struct Past {
    pub(crate) key: CheckpointKey,
    pub(crate) at: Timestamp,
    pub(crate) position: Option<StoredPosition>,
}

const MINUTE: SignedDuration = SignedDuration::from_secs(60);
const HOUR: SignedDuration = SignedDuration::from_secs(3600);
const DAY: SignedDuration = SignedDuration::from_secs(86_400);

/// Says of each row (oldest first) whether it stays: all of the last hour, then one a minute for a
/// day, then one an hour up to `keep`. The newest row of each key stays whatever its age, and what
/// a pending order goes back to; and the newest "begun" one, for only that one knows what was in
/// the sink before the first record.
pub(crate) fn kept(rows: &[Past], pending: &[Order], keep: Duration, now: Timestamp) -> Vec<bool> {
    let keep = signed(keep);
    let mut newest_slot: HashMap<&CheckpointKey, (i64, i64)> = HashMap::new();
    let mut has_begun: HashSet<&CheckpointKey> = HashSet::new();
    let mut kept = vec![false; rows.len()];
    for (row, kept) in rows.iter().zip(&mut kept).rev() {
        let age = now.duration_since(row.at);
        let slot = slot(row.at, age);
        let last = newest_slot.insert(&row.key, slot);
        let needed = pending.iter().any(|order| {
            order.covers(&row.key.partition, &row.key.sink) && order.position == row.position
        });
        let begun = row.position.is_none() && has_begun.insert(&row.key);
        let fresh = age <= HOUR || last != Some(slot);
        *kept = last.is_none() || needed || begun || (age <= keep && fresh);
    }
    kept
}

/// Which slot a row of history is in: the slot's width in seconds, and its number.
fn slot(at: Timestamp, age: SignedDuration) -> (i64, i64) {
    let width = if age <= DAY { MINUTE } else { HOUR }.as_secs();
    (width, at.as_second().div_euclid(width))
}

/// How many of the newest runs stay whatever their age: the crash history that the interval needs.
pub(crate) const RUNS_KEPT: usize = 20;

/// Whether a run is old enough to go. `newer` is how many runs of the pipeline are newer.
pub(crate) fn run_is_old(run: &Run, newer: usize, keep: Duration, now: Timestamp) -> bool {
    newer >= RUNS_KEPT && run.ended_at.is_some_and(|ended| is_old(ended, keep, now))
}

/// Whether something is older than is kept.
pub(crate) fn is_old(at: Timestamp, keep: Duration, now: Timestamp) -> bool {
    now.duration_since(at) > signed(keep)
}

fn signed(keep: Duration) -> SignedDuration {
    SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(sink: &str, at: i64) -> Past {
        let position = Some(StoredPosition::of(&(at as u64)).unwrap());
        let at = Timestamp::from_second(at).unwrap();
        Past { key: CheckpointKey::new("p", "0", sink), at, position }
    }

    #[test]
    fn history_thins_with_age_but_never_loses_the_newest_of_a_key() {
        let day = 86_400;
        let now = 100 * day;
        let mut rows = vec![past("old", 0)];
        // One every 30 s for the last two days.
        rows.extend((now - 2 * day..now).step_by(30).map(|at| past("s", at)));
        let keep = Duration::from_secs(7 * day as u64);
        let kept = kept(&rows, &[], keep, Timestamp::from_second(now).unwrap());
        let left = |from: i64, to: i64| {
            let within = |at: Timestamp| (from..to).contains(&at.as_second());
            rows.iter().zip(&kept).filter(|(row, kept)| **kept && within(row.at)).count()
        };
        assert_eq!(left(0, day), 1, "the newest of its key, though far too old");
        assert_eq!(left(now - 3600, now), 120, "all of the last hour");
        assert_eq!(left(now - day, now - 3600), 23 * 60, "one a minute for a day");
        assert_eq!(left(now - 2 * day, now - day), 24, "one an hour before that");
    }

    #[test]
    fn what_was_there_before_the_first_record_is_never_forgotten() {
        let begun = Past { position: None, ..past("s", 0) };
        let rows = [begun, past("s", 1), past("s", 2)];
        let now = Timestamp::from_second(100 * 86_400).unwrap();
        assert_eq!(kept(&rows, &[], Duration::from_mins(1), now), [true, false, true]);
    }

    #[test]
    fn history_is_written_once_a_second_and_less_often_for_very_many() {
        let begun = Checkpoint {
            key: CheckpointKey::new("p", "0", "s"),
            position: None,
            records: 0,
            version: 1,
            epoch: Epoch(1),
            schema_version: 0,
            updated_at: Timestamp::UNIX_EPOCH,
            sink_state: None,
        };
        let moved = Checkpoint { position: StoredPosition::of(&1_u64).ok(), ..begun.clone() };
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let mut clock = HistoryClock::default();
        let none = || std::iter::empty::<&CheckpointKey>();
        assert!(
            clock.due([Replaced::of(&begun)].into_iter(), none(), at(0)),
            "begun is always kept"
        );
        assert!(!clock.due([Replaced::of(&moved)].into_iter(), none(), at(999)));
        assert!(clock.due([Replaced::of(&moved)].into_iter(), none(), at(1000)));
        assert!(
            clock.due([Replaced::of(&moved)].into_iter(), none(), at(0)),
            "the clock went back: written, not lost"
        );

        let replaced = || [Replaced::of(&moved)].into_iter();
        let mut short = HistoryClock::default();
        assert!(!short.due(std::iter::empty(), [&moved.key].into_iter(), at(0)));
        assert!(!short.due(replaced(), none(), at(999)), "new a moment ago");
        assert!(short.due(replaced(), none(), at(1000)), "new a second ago");
        assert!(
            HistoryClock::default().due(replaced(), none(), at(0)),
            "stored by another process"
        );

        let many: Vec<Checkpoint> = (0..160)
            .map(|n| Checkpoint {
                key: CheckpointKey::new("p", format!("{n}"), "t"),
                ..moved.clone()
            })
            .collect();
        assert!(clock.due(many.iter().map(Replaced::of), none(), at(0)));
        assert!(!clock.due(many.iter().map(Replaced::of), none(), at(9_999)));
        assert!(clock.due(many.iter().map(Replaced::of), none(), at(10_000)));
    }
}
