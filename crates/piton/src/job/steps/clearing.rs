//! Steps that begin anew: what is stored of them is cleared, or counts no more.

use jiff::Timestamp;
use piton_core::{CheckpointKey, Event, Order};
use pollster::block_on;

use super::{JobError, POSITION, StepState, Steps, WHOLE_JOB};
use crate::job::state::next_generation;

impl Steps {
    /// Has a step that was begun begin anew, with steps below it: their positions are cleared, and
    /// nothing that was noted of them elsewhere counts any more. That is noted for people. The
    /// step's new [`generation`](StepState::generation).
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn begin_anew(
        &self,
        path: &str,
        below: &[String],
        parent: Option<&str>,
    ) -> Result<u64, JobError> {
        let is_meant = |step: &str| step == path || below.iter().any(|other| other == step);
        let (mut rows, now) = (self.rows(), Timestamp::now());
        for step in below {
            let rewound = StepState::rewound(rows.steps.get(step).map(|row| &row.state), now);
            let rewound = StepState { parent: parent.map(ToOwned::to_owned), ..rewound };
            rows.put(step, rewound);
        }
        let mut generation = 0;
        if let Some(mut state) = rows.steps.get(path).map(|row| row.state.clone()) {
            generation = next_generation(state.generation, now);
            state.generation = generation;
            state.body_done = false;
            rows.put(path, state);
        }
        self.write(&mut rows)?;
        drop(rows);
        // Last: after a crash before it, whoever recovers is told the same position.
        self.forget_positions(path, is_meant)?;
        Ok(generation)
    }

    /// Clears the position of a step.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn forget_position(&self, path: &str) -> Result<(), JobError> {
        self.forget_positions(path, |step| step == path)
    }

    fn forget_positions(
        &self,
        path: &str,
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<(), JobError> {
        let mut rows = self.rows();
        self.write(&mut rows)?;
        let kept = rows.positions.keys().filter(|step| is_meant(step));
        let gone: Vec<_> = kept.map(|step| (step.clone(), POSITION.to_owned())).collect();
        self.clear(&gone, "restart", format!("step '{path}' begins anew"))?;
        rows.positions.retain(|step, _| !is_meant(step));
        Ok(())
    }

    /// Removes what is stored of all steps of a job that is done. That it is done stays. Nothing
    /// of a step may be stored afterwards.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn remove_all(&self) -> Result<(), JobError> {
        let mut rows = self.rows();
        self.write(&mut rows)?;
        // Commands may have kept positions by other processes.
        let stored = block_on(self.session.store.load(self.job()))?;
        let keys = stored.into_iter().map(|stored| stored.key);
        let keys = keys.filter(|key| key.partition != WHOLE_JOB);
        let gone: Vec<_> = keys.map(|key| (key.partition, key.sink)).collect();
        self.clear(&gone, "complete", "checkpoints removed".to_owned())
    }

    /// Clears checkpoints, and notes that for people.
    fn clear(&self, gone: &[(String, String)], what: &str, detail: String) -> Result<(), JobError> {
        if gone.is_empty() {
            return Ok(());
        }
        let (who, at) = (piton_stores::this_process().to_string(), Timestamp::now());
        let order = |(partition, sink): &(String, String)| {
            let of = CheckpointKey::new(self.job(), partition.clone(), sink.clone());
            Order::reset(&of, &who, at)
        };
        let event = Event {
            id: 0,
            pipeline: self.job().to_owned(),
            at,
            who: who.clone(),
            what: what.to_owned(),
            detail,
        };
        let store = &self.session.store;
        Ok(block_on(async {
            store.order(gone.iter().map(order).collect(), event).await?;
            let orders = store.orders(self.job()).await?.into_iter().map(|order| order.id);
            store.applied(&self.held(), orders.collect(), at).await
        })?)
    }
}
