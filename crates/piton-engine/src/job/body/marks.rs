//! What a mark in a database says, and what it means to whoever finds it.
//!
//! A mark says of which run it is and of which beginning of its step. A run is known by a random
//! identity that its store keeps, because another store may have a job of the same name, and this
//! one may have been restored or lost. So a mark is never taken for one of this run that is not.

use piton::job::StepState;
use piton_connectors::sql_statements::{self, StatementsError};
use piton_core::{Checkpoint, CheckpointKey, Epoch, StoredPosition};
use serde::{Deserialize, Serialize};

use super::{
    passed::At,
    sql::{SINK, url_of},
};
use crate::job::definition::{Job, Sql, Step};

/// What a mark says was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    /// The identity of the run.
    pub(super) run: String,
    /// Which beginning of the step.
    pub(super) done: u64,
    /// Of what recovers or follows up: in which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u32>,
    /// Of a `for_each`: how many parents, from the first on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) passed: Option<u64>,
    /// Where its source stands behind them.
    #[serde(flatten)]
    pub(super) at: Option<At>,
}

/// What a mark means.
#[derive(Debug, PartialEq)]
pub(super) enum Judged {
    /// Nothing: there is none, or it is of an older beginning.
    Nothing,
    /// It is of this run, and of this beginning of the step.
    Own(Done),
    /// The store knows nothing of it, and it counts all the same (`--adopt`). What cannot be read
    /// says nothing more.
    Adopted(Option<Done>),
}

impl Done {
    pub(super) fn stored(&self) -> StoredPosition {
        let json = serde_json::to_string(self).unwrap_or_default();
        StoredPosition { kind: "mark".to_owned(), json }
    }

    fn read(found: &Checkpoint) -> Option<Self> {
        serde_json::from_str(&found.position.as_ref()?.json).ok()
    }

    /// What a mark means that was found where this one belongs.
    ///
    /// # Errors
    /// [`StatementsError::Refused`] for one that the store knows nothing of, unless it is adopted.
    pub(super) fn judge(
        &self,
        found: Option<&Checkpoint>,
        adopts: bool,
        at: &str,
    ) -> Result<Judged, StatementsError> {
        let Some(found) = found else { return Ok(Judged::Nothing) };
        let done = Self::read(found);
        match done {
            Some(done) if done.run == self.run && done.done == self.done => Ok(Judged::Own(done)),
            Some(done) if done.run == self.run && done.done < self.done => Ok(Judged::Nothing),
            done if adopts => Ok(Judged::Adopted(done)),
            done => {
                let is_own = done.is_some_and(|done| done.run == self.run);
                Err(StatementsError::Refused { what: unknown(found, is_own, at) })
            }
        }
    }
}

/// Says which mark the store knows nothing of, and what to do.
fn unknown(found: &Checkpoint, is_own: bool, at: &str) -> String {
    let CheckpointKey { pipeline, partition, .. } = &found.key;
    let since = found.updated_at;
    if is_own {
        return format!(
            "{at} says since {since} that '{partition}' of '{pipeline}' is done, and it had begun \
             anew for that, of which the store knows nothing: the store is older than the \
             database. Restore the newer store, or run with --adopt, and it counts as done, or \
             have it done once more: `piton rewind {pipeline} --to STEP`"
        );
    }
    format!(
        "{at} says since {since} that '{partition}' of '{pipeline}' is done, and it was done by a \
         run that the store knows nothing of: the store was deleted or restored, or another job \
         has the same name. Restore the store, or give this job another name, or run with --adopt, \
         and what is marked counts as done. To have it done once more, delete what the database has \
         of it: {}",
        deletion(pipeline)
    )
}

/// What removes all marks of a run by hand.
fn deletion(pipeline: &str) -> String {
    let of = format!("WHERE pipeline = '{}'", pipeline.replace('\'', "''"));
    format!("DELETE FROM piton_checkpoints {of}; DELETE FROM piton_manifest {of}")
}

/// Says that a newer claim than any that the store has given has been in a database.
pub(super) fn unknown_claim(key: &CheckpointKey, epoch: u64, at: &str) -> String {
    let pipeline = &key.pipeline;
    format!(
        "{at} has marks of '{pipeline}' by a claim (epoch {epoch}) that the store has never given: \
         the store was deleted or restored, or another job has the same name. Restore the store, or \
         give this job another name, or run with --adopt, and what is marked counts as done. To have \
         it done once more, delete what the database has of it: {}",
        deletion(pipeline)
    )
}

/// What a run would be refused for, as far as that is seen without touching the database: a step's
/// mark that the store knows nothing of.
pub(in crate::job) fn foreseen(
    job: (&Job, &str),
    (step, sql): (&Step, &Sql),
    (whole, generation): (Option<&StepState>, u64),
    newest: Epoch,
) -> Option<String> {
    let (definition, run) = job;
    let (url, key) = (url_of(&sql.database), CheckpointKey::new(run, step.path.clone(), SINK));
    let seen = sql_statements::look(&url, &definition.dir, &key)?;
    let at = url.strip_prefix("sqlite:").unwrap_or_default();
    // A run has a newer claim than any that the store has given.
    if seen.epoch.0 > newest.0.saturating_add(1) {
        return Some(unknown_claim(&key, seen.epoch.0, at));
    }
    let run = whole.and_then(|whole| whole.run.clone()).unwrap_or_default();
    let mine = Done { run, done: generation, attempt: None, passed: None, at: None };
    mine.judge(seen.mark.as_ref(), false, at).err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn done(run: &str, generation: u64) -> Done {
        Done { run: run.to_owned(), done: generation, attempt: None, passed: None, at: None }
    }

    fn found(json: &str) -> Checkpoint {
        Checkpoint {
            key: CheckpointKey::new("job", "step", "sql"),
            position: Some(StoredPosition { kind: "mark".to_owned(), json: json.to_owned() }),
            records: 0,
            version: 1,
            epoch: Epoch(1),
            schema_version: 0,
            updated_at: Timestamp::UNIX_EPOCH,
            sink_state: None,
        }
    }

    #[test]
    fn a_mark_counts_for_its_run_and_beginning_alone() {
        let mine = done("a", 5);
        assert_eq!(mine.stored().json, r#"{"run":"a","done":5}"#);
        let judge = |json: &str, adopts| mine.judge(Some(&found(json)), adopts, "t.db");
        let own = judge(r#"{"run":"a","done":5}"#, false).unwrap();
        assert_eq!(own, Judged::Own(mine.clone()));
        assert_eq!(judge(r#"{"run":"a","done":4}"#, false).unwrap(), Judged::Nothing);
        for other in [r#"{"run":"a","done":6}"#, r#"{"run":"b","done":5}"#, r#"{"done":5}"#] {
            let refused = judge(other, false).unwrap_err().to_string();
            assert!(refused.contains("--adopt") && refused.contains("t.db"), "{refused}");
            assert!(matches!(judge(other, true).unwrap(), Judged::Adopted(_)), "{other}");
        }
    }
}
