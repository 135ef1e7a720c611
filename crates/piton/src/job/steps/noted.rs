//! Where steps stand: stored with whatever is stored next.

use piton_core::{
    CheckpointKey, Position, PositionOrder, Save, StoredPosition, position::order_of,
};

use super::{JobError, POSITION, Rows, Steps, position};

/// Where a step stands, and is not stored yet.
pub(super) struct Noted {
    pub(super) position: StoredPosition,
    pub(super) order: PositionOrder,
    /// Passed since the stored position.
    pub(super) records: u64,
}

impl Steps {
    /// Notes where a step stands: that is stored in one transaction with whatever is stored next,
    /// and within a second. `records` were passed since the last time.
    ///
    /// # Errors
    /// [`JobError::Position`] for a position that has no form at rest.
    pub fn note<P: Position>(&self, path: &str, at: &P, records: u64) -> Result<(), JobError> {
        let position = StoredPosition::of(at).map_err(|error| self.position(path, error))?;
        self.rows().note(path, Noted { position, order: order_of::<P>, records });
        Ok(())
    }
}

impl Rows {
    pub(super) fn is_stored(&self) -> bool {
        self.waiting.is_empty() && self.noted.is_empty()
    }

    /// Where a step stands, as far as that counts for the parent that it is done for.
    pub(super) fn kept(&self, path: &str, parent: Option<&str>) -> Option<StoredPosition> {
        position::of_parent(self.standing(path)?, parent)
    }

    fn standing(&self, path: &str) -> Option<&StoredPosition> {
        let noted = self.noted.get(path).map(|noted| &noted.position);
        noted.or_else(|| self.positions.get(path)?.position.as_ref())
    }

    pub(super) fn note(&mut self, path: &str, mut noted: Noted) {
        noted.records += self.noted.remove(path).map_or(0, |before| before.records);
        // The same once more would look as if the step had got on.
        if noted.records > 0 || self.standing(path) != Some(&noted.position) {
            self.noted.insert(path.to_owned(), noted);
        }
    }

    pub(super) fn advance(&self, job: &str, path: &str, noted: &Noted) -> Save {
        let old = self.positions.get(path);
        Save {
            key: CheckpointKey::new(job, path, POSITION),
            expected_version: old.map_or(0, |old| old.version),
            expected: old.and_then(|old| old.position.clone()),
            position: Some(noted.position.clone()),
            order: noted.order,
            records: old.map_or(0, |old| old.records) + noted.records,
            schema_version: 0,
            sink_state: None,
            state: Vec::new(),
        }
    }
}
