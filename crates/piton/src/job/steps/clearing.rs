//! Steps that begin anew: what is stored of them is cleared, or counts no more.

use jiff::Timestamp;
use piton_core::{Event, Order, OrderKind};
use pollster::block_on;

use super::{JobError, POSITION, StepState, Steps};

impl Steps {
    /// Has a step that was begun begin anew, with steps below it: their positions are cleared, and
    /// nothing that was noted of them elsewhere counts any more. That is noted for people.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn begin_anew(
        &self,
        path: &str,
        below: &[String],
        parent: Option<&str>,
    ) -> Result<(), JobError> {
        let is_meant = |step: &str| step == path || below.iter().any(|other| other == step);
        let (mut rows, now) = (self.rows(), Timestamp::now());
        for step in below {
            let rewound = StepState::rewound(rows.steps.get(step).map(|row| &row.state), now);
            let rewound = StepState { parent: parent.map(ToOwned::to_owned), ..rewound };
            rows.put(step, rewound);
        }
        if let Some(mut state) = rows.steps.get(path).map(|row| row.state.clone()) {
            state.generation += 1;
            state.body_done = false;
            rows.put(path, state);
        }
        self.write(&mut rows)?;
        drop(rows);
        // Last: after a crash before it, whoever recovers is told the same position.
        self.forget_positions(path, is_meant)
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
        let gone: Vec<String> = kept.cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let (who, at) = (piton_stores::this_process().to_string(), Timestamp::now());
        let order = |partition: &String| Order {
            id: 0,
            pipeline: self.job().to_owned(),
            partition: partition.clone(),
            sink: POSITION.to_owned(),
            kind: OrderKind::Reset,
            position: None,
            records: 0,
            sink_state: None,
            output: None,
            who: who.clone(),
            at,
            applied_at: None,
        };
        let event = Event {
            id: 0,
            pipeline: self.job().to_owned(),
            at,
            who: who.clone(),
            what: "restart".to_owned(),
            detail: format!("step '{path}' begins anew"),
        };
        let store = &self.session.store;
        block_on(async {
            store.order(gone.iter().map(order).collect(), event).await?;
            let orders = store.orders(self.job()).await?.into_iter().map(|order| order.id);
            store.applied(&self.held(), orders.collect(), at).await
        })?;
        rows.positions.retain(|step, _| !is_meant(step));
        Ok(())
    }
}
