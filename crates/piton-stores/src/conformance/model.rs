//! A model of a store, and random sequences of what owners and operators do, run against both.
//!
//! The model knows grants as a list that only grows, and rows as numbers. It shares no code with
//! the stores. Three owners claim, save, mirror, renew, fall silent, give up and crash, an operator
//! resets and rewinds; after every step the store must have answered as the model did and hold what
//! the model holds. That is invariants 2, 3 and 9: positions go back by orders only, only the newest
//! claim advances, and no clock takes part (it stands still throughout).

use std::{collections::BTreeMap, sync::Arc};

use piton_core::{
    Checkpoint, Claim, ClaimAnswer, ClaimRequest, OrderKind, Owner, Save, Saved, Store, StoreError,
    claim::WHOLE,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use super::{Harness, ask, at, event, key, number, order, request, step};

/// Runs this many random sequences of up to 30 steps.
pub fn run<H: Harness>(cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let steps = Model::sequential_strategy(1..30);
    let outcome = TestRunner::new(config.clone()).run(&steps, |(model, steps, seen)| {
        Driven::<H>::test_sequential(config.clone(), model, steps, seen);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

const OWNERS: usize = 3;
const PARTITIONS: [&str; 2] = ["0", "1"];
const SCOPES: [&str; 3] = [WHOLE, "0", "1"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim { owner: usize, scope: usize, replace_silent: bool },
    Renew { owner: usize },
    Release { owner: usize },
    Crash { owner: usize },
    Save { owner: usize, partition: usize, known: Known, to: Option<u64> },
    Mirror { owner: usize, partition: usize, ahead: i64, to: u64 },
    Complete { owner: usize },
    Rewind { partition: usize, to: u64 },
    Reset { partition: Option<usize> },
}

/// What the owner that saves believes to be stored.
#[derive(Debug, Clone, Copy)]
enum Known {
    Right,
    Behind,
    Nothing,
}

/// What the store must have answered.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Granted { epoch: u64, died: Option<u64> },
    Held,
    Stored(u64),
    Ignored,
    Further,
    Older,
    Mismatch,
    Fenced(u64),
    Refused,
    Done,
}

impl Answer {
    fn of(saved: &Saved) -> Self {
        match saved {
            Saved::Stored { version } => Self::Stored(*version),
            Saved::Ignored => Self::Ignored,
            Saved::Further { .. } => Self::Further,
            Saved::Older { .. } => Self::Older,
            Saved::Mismatch { .. } => Self::Mismatch,
            Saved::Fenced { epoch } => Self::Fenced(epoch.0),
        }
    }

    fn of_result(result: &Result<Saved, StoreError>) -> Self {
        match result {
            Ok(saved) => Self::of(saved),
            Err(StoreError::Refused { .. }) => Self::Refused,
            Err(error) => panic!("{error}"),
        }
    }
}

#[derive(Debug, Clone)]
struct Grant {
    scope: &'static str,
    epoch: u64,
    released: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Row {
    position: Option<u64>,
    version: u64,
    epoch: u64,
}

#[derive(Debug, Clone)]
struct Model {
    /// Every claim ever granted, in order.
    grants: Vec<Grant>,
    /// Which grant each owner holds.
    holds: [Option<usize>; OWNERS],
    rows: BTreeMap<&'static str, Row>,
    orders: usize,
    answer: Answer,
}

fn overlap(a: &str, b: &str) -> bool {
    a == b || a == WHOLE || b == WHOLE
}

impl Model {
    fn fence(&self, scope: &str) -> u64 {
        let of = self.grants.iter().filter(|grant| overlap(grant.scope, scope));
        of.map(|grant| grant.epoch).max().unwrap_or(0)
    }

    fn is_superseded(&self, grant: usize) -> bool {
        let scope = self.grants[grant].scope;
        self.grants[grant + 1..].iter().any(|later| overlap(later.scope, scope))
    }

    /// The grants that stand in the way of a scope: those alive, and those whose owner died.
    fn rivals(&self, scope: &str) -> (Vec<usize>, Vec<usize>) {
        let all = 0..self.grants.len();
        all.filter(|grant| overlap(self.grants[*grant].scope, scope))
            .filter(|grant| !self.grants[*grant].released && !self.is_superseded(*grant))
            .partition(|grant| self.holds.contains(&Some(*grant)))
    }

    fn claim(&mut self, owner: usize, scope: &'static str, replace_silent: bool) -> Answer {
        let (alive, dead) = self.rivals(scope);
        if alive.len() > usize::from(replace_silent) {
            return Answer::Held;
        }
        let died = dead.iter().map(|grant| self.grants[*grant].epoch).max();
        let epoch = self.fence(scope) + 1;
        self.holds[owner] = Some(self.grants.len());
        self.grants.push(Grant { scope, epoch, released: false });
        Answer::Granted { epoch, died }
    }

    /// The scope and epoch of an owner's claim, or why it counts no more.
    fn under(&self, owner: usize) -> Result<(&'static str, u64), Answer> {
        let grant = &self.grants[self.holds[owner].expect("steps need a claim")];
        let fence = self.fence(grant.scope);
        if fence > grant.epoch {
            Err(Answer::Fenced(fence))
        } else {
            Ok((grant.scope, grant.epoch))
        }
    }

    fn save(&mut self, owner: usize, save: &Step) -> Result<Answer, Answer> {
        let Step::Save { partition, known, to, .. } = save else { return Ok(Answer::Done) };
        let name = PARTITIONS[*partition];
        let scope = self.grants[self.holds[owner].expect("steps need a claim")].scope;
        if !overlap(scope, name) {
            return Err(Answer::Refused);
        }
        let (_, epoch) = self.under(owner)?;
        let row = self.rows.get(name).copied().unwrap_or_default();
        let (version, position) = known.of(row);
        if (version, position) == (row.version, row.position) {
            if *to < row.position {
                return Err(Answer::Older);
            }
            self.rows.insert(name, Row { position: *to, version: version + 1, epoch });
            return Ok(Answer::Stored(version + 1));
        }
        Err(match () {
            () if *to == row.position => Answer::Ignored,
            () if row.position > position => Answer::Further,
            () => Answer::Mismatch,
        })
    }

    fn mirror(
        &mut self,
        owner: usize,
        partition: usize,
        ahead: i64,
        to: u64,
    ) -> Result<Answer, Answer> {
        let name = PARTITIONS[partition];
        let scope = self.grants[self.holds[owner].expect("steps need a claim")].scope;
        if !overlap(scope, name) {
            return Err(Answer::Refused);
        }
        let (_, epoch) = self.under(owner)?;
        let version = self.mirrored_version(name, ahead);
        if ahead < 0 && self.rows.contains_key(name) {
            return Err(Answer::Mismatch);
        }
        self.rows.insert(name, Row { position: Some(to), version, epoch });
        Ok(Answer::Stored(version))
    }

    fn mirrored_version(&self, name: &str, ahead: i64) -> u64 {
        let version = self.rows.get(name).map_or(1, |row| row.version);
        version.saturating_add_signed(ahead)
    }

    fn complete(&mut self, owner: usize) -> Result<Answer, Answer> {
        let (scope, _) = self.under(owner)?;
        let covered: Vec<_> = self.rows.keys().copied().filter(|row| overlap(row, scope)).collect();
        let removed = covered.iter().filter_map(|name| self.rows.remove(name));
        Ok(removed.map(|row| row.version).max().map_or(Answer::Ignored, Answer::Stored))
    }

    fn renew(&self, owner: usize) -> Result<Answer, Answer> {
        self.under(owner)?;
        Ok(Answer::Ignored)
    }

    fn take(&mut self, step: &Step) -> Result<Answer, Answer> {
        match *step {
            Step::Claim { owner, scope, replace_silent } => {
                Ok(self.claim(owner, SCOPES[scope], replace_silent))
            }
            Step::Renew { owner } => self.renew(owner),
            Step::Release { owner } => {
                if let Some(grant) = self.holds[owner].take() {
                    self.grants[grant].released = true;
                }
                Ok(Answer::Done)
            }
            Step::Crash { owner } => {
                self.holds[owner] = None;
                Ok(Answer::Done)
            }
            Step::Save { owner, .. } => self.save(owner, step),
            Step::Mirror { owner, partition, ahead, to } => {
                self.mirror(owner, partition, ahead, to)
            }
            Step::Complete { owner } => self.complete(owner),
            Step::Rewind { partition, to } => {
                if let Some(row) = self.rows.get_mut(PARTITIONS[partition]) {
                    (row.position, row.version) = (Some(to), row.version + 1);
                }
                self.orders += 1;
                Ok(Answer::Done)
            }
            Step::Reset { partition } => {
                let scope = partition.map_or(WHOLE, |partition| PARTITIONS[partition]);
                self.rows.retain(|name, _| !overlap(name, scope));
                self.orders += 1;
                Ok(Answer::Done)
            }
        }
    }
}

impl Known {
    fn of(self, row: Row) -> (u64, Option<u64>) {
        match self {
            Self::Right => (row.version, row.position),
            Self::Behind => {
                (row.version.saturating_sub(1), row.position.and_then(|at| at.checked_sub(1)))
            }
            Self::Nothing => (0, None),
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let rows = BTreeMap::new();
        let (grants, holds) = (Vec::new(), [None; OWNERS]);
        Just(Self { grants, holds, rows, orders: 0, answer: Answer::Done }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let (owner, partition, to) = (0..OWNERS, 0..PARTITIONS.len(), 0..9_u64);
        let known = prop_oneof![
            4 => Just(Known::Right), 1 => Just(Known::Behind), 1 => Just(Known::Nothing)
        ];
        let save =
            (owner.clone(), partition.clone(), known, proptest::option::weighted(0.9, 0..9_u64));
        let ahead = prop_oneof![Just(-1_i64), Just(1), Just(3)];
        let mirror = (owner.clone(), partition.clone(), ahead, to.clone());
        prop_oneof![
            6 => (owner.clone(), 0..SCOPES.len(), any::<bool>()).prop_map(
                |(owner, scope, replace_silent)| Step::Claim { owner, scope, replace_silent }
            ),
            1 => owner.clone().prop_map(|owner| Step::Renew { owner }),
            1 => owner.clone().prop_map(|owner| Step::Release { owner }),
            2 => owner.clone().prop_map(|owner| Step::Crash { owner }),
            9 => save.prop_map(
                |(owner, partition, known, to)| Step::Save { owner, partition, known, to }
            ),
            3 => mirror.prop_map(
                |(owner, partition, ahead, to)| Step::Mirror { owner, partition, ahead, to }
            ),
            1 => owner.prop_map(|owner| Step::Complete { owner }),
            1 => (partition.clone(), to).prop_map(|(partition, to)| Step::Rewind { partition, to }),
            1 => proptest::option::of(partition).prop_map(|partition| Step::Reset { partition }),
        ]
        .boxed()
    }

    /// Who has no claim can only ask for one, and crash; who has one asks for no second.
    fn preconditions(model: &Self, step: &Step) -> bool {
        match *step {
            Step::Claim { owner, .. } => model.holds[owner].is_none(),
            Step::Renew { owner }
            | Step::Release { owner }
            | Step::Save { owner, .. }
            | Step::Complete { owner } => model.holds[owner].is_some(),
            Step::Mirror { owner, partition, ahead, .. } => {
                let version = model.mirrored_version(PARTITIONS[partition], ahead);
                model.holds[owner].is_some() && version > 0
            }
            Step::Crash { .. } | Step::Rewind { .. } | Step::Reset { .. } => true,
        }
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.answer = model.take(step).unwrap_or_else(|refusal| refusal);
        model
    }
}

/// The store, as three processes have it.
struct Driven<H: Harness> {
    place: H,
    owners: [(Arc<dyn Store>, Option<Claim>); OWNERS],
}

impl<H: Harness> StateMachineTest for Driven<H> {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let place = H::fresh();
        let owners = [(); OWNERS].map(|()| (place.open(), None));
        Self { place, owners }
    }

    fn apply(mut driven: Self, model: &Model, step: Step) -> Self {
        let told = format!("{step:?}");
        assert_eq!(driven.take(step), model.answer, "{told}");
        driven
    }

    fn check_invariants(driven: &Self, model: &Model) {
        let (store, _) = &driven.owners[0];
        let found: BTreeMap<_, _> = ask(store.load("orders"))
            .into_iter()
            .map(|Checkpoint { key, position, version, epoch, .. }| {
                let position = position.map(|at| at.read::<u64>().unwrap());
                (key.partition, Row { position, version, epoch: epoch.0 })
            })
            .collect();
        let wanted: BTreeMap<_, _> =
            model.rows.iter().map(|(name, row)| ((*name).to_owned(), *row)).collect();
        assert_eq!(found, wanted);
        let mut holders: Vec<_> =
            ask(store.holders("orders")).into_iter().map(|holder| holder.epoch.0).collect();
        let (alive, _) = model.rivals(WHOLE);
        let mut wanted: Vec<_> = alive.into_iter().map(|grant| model.grants[grant].epoch).collect();
        holders.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(holders, wanted);
        assert_eq!(ask(store.orders("orders")).len(), model.orders);
    }
}

impl<H: Harness> Driven<H> {
    fn take(&mut self, step: Step) -> Answer {
        match step {
            Step::Claim { owner, scope, replace_silent } => {
                self.claim(owner, SCOPES[scope], replace_silent)
            }
            Step::Renew { owner } => {
                let (store, claim) = self.under(owner);
                Answer::of(&ask(store.renew(&claim)))
            }
            Step::Release { owner } => {
                let (store, claim) = self.under(owner);
                ask(store.release(&claim));
                self.owners[owner].1 = None;
                Answer::Done
            }
            Step::Crash { owner } => {
                self.owners[owner].1 = None;
                self.owners[owner].0 = self.place.open();
                Answer::Done
            }
            Step::Save { owner, partition, known, to } => self.save(owner, partition, known, to),
            Step::Mirror { owner, partition, ahead, to } => {
                self.mirror(owner, partition, ahead, to)
            }
            Step::Complete { owner } => {
                let (store, claim) = self.under(owner);
                Answer::of(&ask(store.complete(&claim, None)))
            }
            Step::Rewind { partition, to } => {
                let order = order(OrderKind::Rewind, PARTITIONS[partition], "out", Some(to));
                ask(self.owners[1].0.order(vec![order], event("rewind")));
                Answer::Done
            }
            Step::Reset { partition } => {
                let scope = partition.map_or(WHOLE, |partition| PARTITIONS[partition]);
                let order = order(OrderKind::Reset, scope, "out", None);
                ask(self.owners[1].0.order(vec![order], event("reset")));
                Answer::Done
            }
        }
    }

    fn under(&self, owner: usize) -> (Arc<dyn Store>, Claim) {
        let (store, claim) = &self.owners[owner];
        (Arc::clone(store), claim.clone().expect("steps need a claim"))
    }

    fn claim(&mut self, owner: usize, scope: &str, replace_silent: bool) -> Answer {
        let (store, mine) = &mut self.owners[owner];
        let who = Owner { host: "here".to_owned(), pid: owner as u32 };
        let asked = ClaimRequest { owner: who, ..request(scope) };
        let answer = match ask(store.claim(asked.clone())) {
            ClaimAnswer::Held(holder) if replace_silent => {
                ask(store.claim(ClaimRequest { silent: Some(holder), ..asked }))
            }
            answer => answer,
        };
        match answer {
            ClaimAnswer::Granted { claim, died } => {
                let (epoch, died) = (claim.epoch.0, died.map(|died| died.epoch.0));
                *mine = Some(claim);
                Answer::Granted { epoch, died }
            }
            ClaimAnswer::Held(_) => Answer::Held,
        }
    }

    fn save(&self, owner: usize, partition: usize, known: Known, to: Option<u64>) -> Answer {
        let (store, claim) = self.under(owner);
        let right = step(&*store, &key(PARTITIONS[partition], "out"), to);
        let position = right.expected.as_ref().map(|at| at.read().unwrap());
        let (version, position) =
            known.of(Row { position, version: right.expected_version, epoch: 0 });
        let expected = position.map(number);
        let save = Save { expected_version: version, expected, ..right };
        let saved = futures_executor::block_on(store.save(&claim, vec![save], at(0)));
        Answer::of_result(&saved.map(|saved| saved[0].clone()))
    }

    fn mirror(&self, owner: usize, partition: usize, ahead: i64, to: u64) -> Answer {
        let (store, claim) = self.under(owner);
        let key = key(PARTITIONS[partition], "out");
        let stored = ask(store.load("orders")).into_iter().find(|row| row.key == key);
        let version = stored.map_or(1, |row| row.version).saturating_add_signed(ahead);
        let row = Checkpoint {
            key,
            position: Some(number(to)),
            records: to,
            version,
            epoch: claim.epoch,
            schema_version: 0,
            updated_at: at(0),
            sink_state: None,
        };
        Answer::of_result(&futures_executor::block_on(store.mirror(&claim, vec![row])))
    }
}
