//! Steering a pipeline from outside: forget, go back, pause, cancel; and looking at it.
//!
//! Nothing here touches a sink. An order is written into the store, with who gave it, and the next
//! owner applies it in the sink's own transaction before it reads. So an operator needs no access
//! to the target, and the order cannot half happen.

mod of_job;
mod rewind;
mod view;
mod within;

use futures_executor::block_on;
use jiff::Timestamp;
use piton::job::in_shell;
use piton_core::{
    Checkpoint, CheckpointKey, Control, Epoch, Event, Holder, Order, OrderKind, Output,
    PipelineRecord, Store, StoreError, claim::WHOLE,
};
use serde::{Deserialize, Serialize};

use crate::{connect::brief, run::resume};

pub use of_job::{letters, refuse_step};
pub use rewind::Target;
pub use view::{
    CheckpointView, Health, HistoryView, HolderView, PipelineView, State, history, look, look_at,
};
pub(crate) use within::begin_anew_within;

/// What a store remembers of a sink, so that steering can say what the next run does to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRecord {
    /// Its name in the pipeline.
    pub name: String,
    /// Its kind, as the configuration names it.
    pub kind: String,
    /// Where it is, without secrets.
    pub at: String,
    /// The table, if it writes to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What happens when records are delivered again.
    pub replay: Replay,
}

impl SinkRecord {
    /// Whether it stands for a program that keeps its own checkpoints: a job of the library.
    fn is_of_a_program(&self) -> bool {
        self.kind == "library"
    }

    /// Whether it stands for a processor, which a program keeps by SQL functions.
    fn is_of_a_processor(&self) -> bool {
        self.kind == "processor"
    }

    /// What it writes to, for people.
    pub(crate) fn output(&self) -> String {
        match &self.table {
            Some(table) => format!("{}, table '{table}'", self.kind),
            None => self.kind.clone(),
        }
    }
}

/// What happens in a sink when records are delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// Rows are written over; unchanged ones are left alone.
    Overwrites,
    /// Output can be cut to a position, or kept and repeated: the operator chooses.
    CutOrRepeat,
    /// Rows are added beside those of the first time, and nothing tells which those are: the
    /// operator has to agree.
    Repeats,
    /// Records are sent again, with the same ids.
    SendsAgain,
}

/// The sinks that a registered pipeline had.
pub fn sinks_of(record: &PipelineRecord) -> Vec<SinkRecord> {
    serde_json::from_str(&record.sinks).unwrap_or_default()
}

/// Why steering was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// No such pipeline. Exit code 2.
    #[error("the store {at} knows no pipeline '{name}'{}", those_known(.known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Which store.
        at: String,
        /// Those it knows.
        known: Vec<String>,
    },
    /// It is a step of a job, for which there is another command. Exit code 2.
    #[error("'{name}' is a step of the job '{job}': {remedy}")]
    OfJob {
        /// What was asked for.
        name: String,
        /// The job.
        job: String,
        /// What to do instead.
        remedy: String,
    },
    /// It runs. Exit code 4.
    #[error("'{name}' is running, held by {holder}: {remedy}")]
    Running {
        /// The pipeline.
        name: String,
        /// Who runs it.
        holder: Box<Holder>,
        /// What ends that.
        remedy: String,
    },
    /// The operator has to say more. Exit code 2.
    #[error("{0}")]
    Undecided(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn those_known(known: &[String]) -> String {
    match known {
        [] => "; it has none".to_owned(),
        names => format!("; it knows {}", names.join(", ")),
    }
}

/// A registered pipeline.
///
/// # Errors
/// [`SteerError::Unknown`].
pub fn find(store: &dyn Store, name: &str) -> Result<PipelineRecord, SteerError> {
    let mut pipelines = block_on(store.pipelines())?;
    match pipelines.iter().position(|record| record.pipeline == name) {
        Some(index) => Ok(pipelines.swap_remove(index)),
        None => Err(of_job::unknown_step(store, &pipelines, name)?.unwrap_or_else(|| {
            SteerError::Unknown {
                name: name.to_owned(),
                at: store.location(),
                known: pipelines.into_iter().map(|record| record.pipeline).collect(),
            }
        })),
    }
}

/// What a reset or rewind will do: orders, and a sentence for each sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Reset or rewind.
    pub kind: OrderKind,
    /// The pipeline.
    pub pipeline: String,
    /// What will be stored.
    pub orders: Vec<Order>,
    /// What the next run does, sink by sink.
    pub consequences: Vec<String>,
    /// Sinks for which the operator has to choose between `--truncate` and `--keep`.
    pub undecided: Vec<String>,
}

/// What the operator wants.
pub struct Wish<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// One sink, or all.
    pub sink: Option<&'a str>,
    /// What becomes of output past the position.
    pub output: Option<Output>,
    /// Who asks.
    pub who: &'a str,
}

/// Plans a reset.
///
/// # Errors
/// When the pipeline is unknown or runs.
pub fn propose_reset(store: &dyn Store, wish: &Wish<'_>) -> Result<Proposal, SteerError> {
    find(store, wish.pipeline)?;
    refuse_while_running(store, wish.pipeline)?;
    reset_of(store, wish)
}

fn reset_of(store: &dyn Store, wish: &Wish<'_>) -> Result<Proposal, SteerError> {
    let record = find(store, wish.pipeline)?;
    let history = block_on(store.history(wish.pipeline, u64::MAX >> 1))?;
    let checkpoints = block_on(store.load(wish.pipeline))?;
    let waiting = block_on(store.orders(wish.pipeline))?;
    let mut covered = checkpoints.clone();
    covered.extend(without_checkpoint(&waiting, &checkpoints));
    let target = |checkpoint: &Checkpoint| -> Option<Checkpoint> {
        let begun = |c: &&Checkpoint| c.key == checkpoint.key && c.position.is_none();
        // What has saved nothing yet is not in the history.
        let own = Some(checkpoint).filter(begun).filter(|c| c.sink_state.is_some());
        own.or_else(|| history.iter().rev().chain(&checkpoints).find(begun)).cloned()
    };
    propose(OrderKind::Reset, &record, wish, (&covered, &waiting), target)
}

/// Plans a rewind.
///
/// # Errors
/// When the pipeline is unknown or runs, or nothing in its history fits.
pub fn propose_rewind(
    store: &dyn Store,
    wish: &Wish<'_>,
    to: &Target,
) -> Result<Proposal, SteerError> {
    let record = find(store, wish.pipeline)?;
    refuse_while_running(store, wish.pipeline)?;
    let history = block_on(store.history(wish.pipeline, u64::MAX >> 1))?;
    let checkpoints = block_on(store.load(wish.pipeline))?;
    rewind::refuse_nowhere(wish, to, &checkpoints, &history)?;
    let target = |checkpoint: &Checkpoint| to.pick(checkpoint, &history);
    let waiting = block_on(store.orders(wish.pipeline))?;
    propose(OrderKind::Rewind, &record, wish, (&checkpoints, &waiting), target)
}

fn propose(
    kind: OrderKind,
    record: &PipelineRecord,
    wish: &Wish<'_>,
    (checkpoints, waiting): (&[Checkpoint], &[Order]),
    target: impl Fn(&Checkpoint) -> Option<Checkpoint>,
) -> Result<Proposal, SteerError> {
    let now = Timestamp::now();
    let mut proposal = Proposal {
        kind,
        pipeline: wish.pipeline.to_owned(),
        orders: Vec::new(),
        consequences: Vec::new(),
        undecided: Vec::new(),
    };
    let sinks = sinks_of(record);
    for checkpoint in checkpoints.iter().filter(|c| wish.sink.is_none_or(|s| s == c.key.sink)) {
        let target = target(checkpoint);
        let position = target.as_ref().and_then(|target| target.position.clone());
        let known = sinks.iter().find(|sink| sink.name == checkpoint.key.sink);
        let replay = known.map(|sink| sink.replay);
        let cuts = matches!(replay, Some(Replay::CutOrRepeat | Replay::Repeats));
        if replay == Some(Replay::Repeats) && wish.output == Some(Output::Truncate) {
            return Err(cannot_cut(wish.pipeline, &checkpoint.key.sink));
        }
        if cuts && wish.output.is_none() && !proposal.undecided.contains(&checkpoint.key.sink) {
            proposal.undecided.push(checkpoint.key.sink.clone());
        }
        proposal.consequences.push(consequence(checkpoint, known, position.as_ref(), wish.output));
        proposal.orders.push(Order {
            id: 0,
            pipeline: wish.pipeline.to_owned(),
            partition: checkpoint.key.partition.clone(),
            sink: checkpoint.key.sink.clone(),
            kind: if position.is_some() { kind } else { OrderKind::Reset },
            position,
            records: target.as_ref().map_or(0, |target| target.records),
            sink_state: target.and_then(|target| target.sink_state),
            output: wish.output.filter(|_| cuts),
            who: wish.who.to_owned(),
            at: now,
            applied_at: None,
        });
    }
    for sink in sinks.iter().filter(|sink| matches!(sink.kind.as_str(), "jsonl" | "csv")) {
        refuse_impossible(sink, checkpoints, waiting, &proposal)?;
    }
    Ok(proposal)
}

/// The refusal to cut rows that have no order in their table.
fn cannot_cut(pipeline: &str, sink: &str) -> SteerError {
    SteerError::Undecided(format!(
        "{pipeline}, sink '{sink}': which rows came after a position is not known there. Delete \
         them yourself, and say --keep; or say --keep alone, and they will be there twice. Nothing \
         was changed"
    ))
}

/// What waits for a reset already, in the form of the checkpoint that it had: a second reset may
/// say what becomes of the output.
fn without_checkpoint(waiting: &[Order], checkpoints: &[Checkpoint]) -> Vec<Checkpoint> {
    let mut gone: Vec<Checkpoint> = Vec::new();
    for order in waiting.iter().filter(|order| order.partition != WHOLE && order.sink != WHOLE) {
        let key = CheckpointKey::new(&*order.pipeline, &*order.partition, &*order.sink);
        if checkpoints.iter().chain(&gone).any(|c| c.key == key) {
            continue;
        }
        gone.push(Checkpoint {
            key,
            position: None,
            records: 0,
            version: 0,
            epoch: Epoch(0),
            schema_version: 0,
            updated_at: order.at,
            sink_state: order.sink_state.clone(),
        });
    }
    gone
}

/// A file that cannot be cut as proposed is refused now, not by the next run.
fn refuse_impossible(
    sink: &SinkRecord,
    checkpoints: &[Checkpoint],
    waiting: &[Order],
    proposal: &Proposal,
) -> Result<(), SteerError> {
    let orders: Vec<Order> = waiting
        .iter()
        .chain(&proposal.orders)
        .filter(|order| order.sink == sink.name || order.sink == WHOLE)
        .cloned()
        .collect();
    if !proposal.orders.iter().any(|order| order.sink == sink.name && order.output.is_some()) {
        return Ok(());
    }
    let after = |checkpoint: &Checkpoint| -> Checkpoint {
        let covers = |order: &&Order| order.covers(&checkpoint.key.partition, &sink.name);
        let mut after = checkpoint.clone();
        if let Some(order) = proposal.orders.iter().rev().find(covers) {
            after.position.clone_from(&order.position);
            after.sink_state.clone_from(&order.sink_state);
        }
        after
    };
    let of_sink = checkpoints.iter().filter(|c| c.key.sink == sink.name);
    let after: Vec<Checkpoint> = of_sink.map(after).collect();
    match resume(&proposal.pipeline, Some(sink), &after, &orders, false) {
        Ok(_) => Ok(()),
        Err(why) => Err(SteerError::Undecided(format!(
            "{}, sink '{}': {why}. Nothing was changed",
            proposal.pipeline, sink.name
        ))),
    }
}

fn consequence(
    checkpoint: &Checkpoint,
    sink: Option<&SinkRecord>,
    position: Option<&piton_core::StoredPosition>,
    output: Option<Output>,
) -> String {
    let from = position.map_or("the beginning".to_owned(), brief);
    let what = match position {
        Some(_) => "its output to that position",
        None => "off what it has written",
    };
    let effect = match sink.map(|sink| sink.replay) {
        Some(Replay::SendsAgain) if sink.is_some_and(SinkRecord::is_of_a_program) => {
            "does its work again".to_owned()
        }
        Some(Replay::Overwrites) => {
            "writes its rows over; unchanged ones fire no trigger".to_owned()
        }
        Some(Replay::SendsAgain) => "sends the records again, with the same ids".to_owned(),
        Some(Replay::Repeats) if output.is_none() => {
            "needs --keep: records will be in it twice, unless their rows are deleted first".into()
        }
        Some(Replay::CutOrRepeat | Replay::Repeats) => match output {
            Some(Output::Truncate) => format!("first cuts {what}"),
            Some(Output::Keep) => "keeps its output: records will be in it twice".to_owned(),
            None => format!("needs --truncate (cut {what}) or --keep (records will repeat)"),
        },
        None => "is no longer in the configuration".to_owned(),
    };
    format!(
        "sink '{}', partition '{}': the next run reads from {from} and {effect}",
        checkpoint.key.sink, checkpoint.key.partition
    )
}

/// Gives the proposed orders.
///
/// # Errors
/// [`SteerError::Undecided`] when a choice is missing; [`SteerError::Running`] when it has started
/// in the meantime.
pub fn order(store: &dyn Store, proposal: Proposal, who: &str) -> Result<(), SteerError> {
    refuse_while_running(store, &proposal.pipeline)?;
    if !proposal.undecided.is_empty() {
        let names: Vec<String> = proposal.undecided.iter().map(|s| format!("'{s}'")).collect();
        let (sinks, write) = match names.len() {
            1 => ("sink", "writes"),
            _ => ("sinks", "write"),
        };
        return Err(SteerError::Undecided(format!(
            "{sinks} {} {write} output that cannot be written over: say --truncate to cut it to \
             that position, or --keep to leave it (records will repeat). Nothing was changed",
            names.join(" and ")
        )));
    }
    give(store, proposal, who)
}

fn give(store: &dyn Store, proposal: Proposal, who: &str) -> Result<(), SteerError> {
    let detail = proposal.consequences.join("; ");
    let event = event(&proposal.pipeline, who, proposal.kind.as_str(), detail);
    block_on(store.order(proposal.orders, event))?;
    Ok(())
}

/// Has a pipeline begin anew, and cuts what it has put into files.
///
/// # Errors
/// When the pipeline is unknown or runs.
pub(crate) fn begin_anew(store: &dyn Store, pipeline: &str, who: &str) -> Result<(), SteerError> {
    let wish = Wish { pipeline, sink: None, output: Some(Output::Truncate), who };
    order(store, propose_reset(store, &wish)?, who)
}

/// The same, by the owner of its claim.
///
/// # Errors
/// When what it wrote cannot be cut.
pub(crate) fn begin_own_anew(store: &dyn Store, name: &str, who: &str) -> Result<(), SteerError> {
    let wish = Wish { pipeline: name, sink: None, output: Some(Output::Truncate), who };
    let proposal = reset_of(store, &wish)?;
    give(store, proposal, who)
}

/// Pauses, resumes or cancels.
///
/// # Errors
/// When the pipeline is unknown, or a cancelled one is to be resumed.
pub fn control(
    store: &dyn Store,
    name: &str,
    control: Control,
    who: &str,
) -> Result<(), SteerError> {
    let record = find(store, name)?;
    if sinks_of(&record).iter().any(SinkRecord::is_of_a_program) {
        return Err(SteerError::Undecided(format!(
            "'{name}' is the job of a program, which does not listen for pause, resume and cancel: \
             stop the program; it resumes when it is started again"
        )));
    }
    let is_without_file = crate::job::is_without_file(&record);
    of_job::refuse_control(store, &record, control)?;
    let remedy = if is_without_file {
        format!("`piton resume {}` has it go on", in_shell(name))
    } else {
        "`piton run FILE --again` goes on from its checkpoint".to_owned()
    };
    match (control, record.control) {
        (Control::Run, Control::Cancel) if !is_without_file => {
            let what = format!("'{name}' was cancelled, not paused: {remedy}");
            return Err(SteerError::Undecided(what));
        }
        // Whoever lets it go on would lift the cancellation.
        (Control::Pause, Control::Cancel) => {
            let what = format!("'{name}' was cancelled, and cannot be paused: {remedy}");
            return Err(SteerError::Undecided(what));
        }
        _ => {}
    }
    let (what, detail) = match control {
        Control::Run => ("resume", "goes on"),
        Control::Pause => ("pause", "idles at the next record boundary"),
        Control::Cancel if is_without_file => ("cancel", "drains and ends; resume has it go on"),
        Control::Cancel => ("cancel", "drains and ends; a new run needs --again"),
    };
    block_on(store.set_control(name, control, event(name, who, what, detail.to_owned())))?;
    Ok(())
}

fn refuse_while_running(store: &dyn Store, name: &str) -> Result<(), SteerError> {
    match block_on(store.holders(name))?.into_iter().next() {
        Some(holder) => {
            let remedy = remedy(&find(store, name)?, &holder);
            Err(SteerError::Running { name: name.to_owned(), holder: Box::new(holder), remedy })
        }
        None => Ok(()),
    }
}

/// What ends the run of a pipeline, a processor or a program.
fn remedy(record: &PipelineRecord, holder: &Holder) -> String {
    let name = &record.pipeline;
    let sinks = sinks_of(record);
    let is_cancelled = record.control == Control::Cancel;
    let lease = holder.lease.as_secs_f64();
    if sinks.iter().any(SinkRecord::is_of_a_processor) {
        let when = format!(
            "it is told so when it renews its claim, and then gives it up; at the latest the claim              ends {lease} s after it was renewed last"
        );
        return if is_cancelled {
            format!("it was cancelled: {when}. Try again then")
        } else {
            format!("stop it or `piton cancel {}` first; {when}", in_shell(name))
        };
    }
    if sinks.iter().any(SinkRecord::is_of_a_program) {
        return "stop the program first".to_owned();
    }
    if is_cancelled {
        "it was cancelled and is about to end: try again when it has".to_owned()
    } else {
        format!("stop it or `piton cancel {}` first", in_shell(name))
    }
}

fn event(pipeline: &str, who: &str, what: &str, detail: String) -> Event {
    Event {
        id: 0,
        pipeline: pipeline.to_owned(),
        at: Timestamp::now(),
        who: who.to_owned(),
        what: what.to_owned(),
        detail,
    }
}
