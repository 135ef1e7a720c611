//! What every transactional sink must do, as checks that any implementation can run on itself.
//!
//! ```text
//! conformance::check(|| Box::new(MyTarget::empty())).unwrap();
//! ```

use std::{fmt::Debug, sync::Arc, thread, time::Duration};

use jiff::Timestamp;
use piton_core::{Checkpoint, Epoch, Order, OrderKind, Output, StoredPosition, claim::WHOLE};

use crate::{
    batch::{Batch, Column, ColumnType, Marks, Origin, Schema, Value},
    sink::{Advance, Fence, SinkError, Transaction, TransactionalSink},
};

/// A place that a sink writes to, empty at first, with an integer column `id` that is the key and
/// a text column `name`.
pub trait Target: Sync {
    /// A sink on it, as a new process would open it. It waits at least 5 s for an open
    /// transaction of another.
    fn sink(&self) -> Box<dyn TransactionalSink>;

    /// The rows that anybody can see, by id.
    fn rows(&self) -> Vec<(i64, String)>;
}

/// One check: its name, and what to run on an empty target.
pub type Check = (&'static str, fn(&dyn Target) -> Result<(), String>);

/// All checks.
pub const CHECKS: &[Check] = &[
    ("looking changes nothing", looking_changes_nothing),
    ("rows and checkpoint commit together (invariant 5)", commits_together),
    ("what is not committed leaves nothing (invariant 5)", leaves_nothing),
    ("an older claim has no effect (invariant 3)", fences),
    ("an heir reads after the last effect of the old owner (invariant 3)", heir_reads_last),
    ("a bad row leaves the others", bad_row_leaves_others),
    ("orders are applied before reading (invariant 2)", orders_are_applied),
    ("what is forgotten stays fenced", forgets),
];

/// Runs every check on a target of its own.
///
/// # Errors
/// Names the first check that failed, and what it found.
pub fn check(empty: impl Fn() -> Box<dyn Target>) -> Result<(), String> {
    for (name, run) in CHECKS {
        run(&*empty()).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// Records with these ids, each with the name `name ID`; a null id where there is `None`.
pub fn records(partition: &str, ids: &[Option<i64>]) -> Batch {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let columns = vec![column("id", ColumnType::Integer), column("name", ColumnType::Text)];
    let schema = Arc::new(Schema { columns });
    let mut batch = Batch::new(partition.into(), schema, at(ids.len() as u64), Arc::new(Numbers));
    batch.records = ids.len() as u64;
    for (mark, id) in ids.iter().enumerate() {
        batch.begin_row(Origin { mark: mark as u64, line: mark as u64 + 1, ordinal: 0 });
        batch.push(id.map_or(Value::Null, Value::Int));
        batch.push(Value::Text(&name(id.unwrap_or_default())));
    }
    batch
}

/// The position after some records.
pub fn at(records: u64) -> StoredPosition {
    StoredPosition { kind: "number".into(), json: records.to_string() }
}

struct Numbers;

impl Marks for Numbers {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        at(origin.mark)
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(&origin.mark.to_string());
    }

    fn place(&self, origin: Origin) -> String {
        format!("record {}", origin.line)
    }
}

const PARTITION: &str = "input";

fn looking_changes_nothing(target: &dyn Target) -> Result<(), String> {
    require(&ok(target.sink().peek("p", "s"))?, &Vec::new(), "checkpoints of an empty target")?;
    let begun = ok(target.sink().fence(&fence(1)))?;
    require(&positions(&begun), &vec![(1, None)], "the begun checkpoint")?;
    let seen = ok(target.sink().peek("p", "s"))?;
    require(&seen, &begun, "peek after fence")?;
    require(&ok(target.sink().peek("p", "other"))?, &Vec::new(), "another sink's checkpoints")
}

fn commits_together(target: &dyn Target) -> Result<(), String> {
    let mut sink = target.sink();
    let begun = ok(sink.fence(&fence(1)))?;
    let first = deliver(&mut *sink, &[1, 2], 2)?;
    require(&positions(&first), &vec![(begun[0].version + 1, Some(at(2)))], "the first commit")?;
    let second = deliver(&mut *sink, &[3], 3)?;
    require(&second[0].version, &(first[0].version + 1), "the second version")?;
    require(&second[0].epoch, &Epoch(1), "its epoch")?;
    require(&ok(target.sink().peek("p", "s"))?, &second, "what another sees")?;
    require(&target.rows(), &named(&[1, 2, 3]), "the rows")
}

fn leaves_nothing(target: &dyn Target) -> Result<(), String> {
    let mut sink = target.sink();
    ok(sink.fence(&fence(1)))?;
    let before = deliver(&mut *sink, &[1], 1)?;
    write(&mut *ok(sink.begin())?, &[2])?;
    require(&target.rows(), &named(&[1]), "rows after a transaction that was dropped")?;
    write(&mut *ok(sink.begin())?, &[2])?;
    drop(sink);
    require(&ok(target.sink().peek("p", "s"))?, &before, "checkpoints after a crash")?;
    let mut heir = target.sink();
    require(&positions(&ok(heir.fence(&fence(2)))?), &positions(&before), "what the heir reads")?;
    deliver(&mut *heir, &[2], 2)?;
    require(&target.rows(), &named(&[1, 2]), "rows after the replay")
}

fn fences(target: &dyn Target) -> Result<(), String> {
    let (mut old, mut heir) = (target.sink(), target.sink());
    ok(old.fence(&fence(1)))?;
    deliver(&mut *old, &[1], 1)?;
    ok(heir.fence(&fence(2)))?;
    fenced(old.begin().err(), 2)?;
    fenced(old.fence(&fence(1)).err(), 2)?;
    require(&old.begin().is_err(), &true, "whether it is still refused")?;
    require(&target.rows(), &named(&[1]), "rows")?;
    deliver(&mut *heir, &[2], 2)?;
    require(&target.rows(), &named(&[1, 2]), "rows of the heir")
}

fn heir_reads_last(target: &dyn Target) -> Result<(), String> {
    let mut old = target.sink();
    ok(old.fence(&fence(1)))?;
    deliver(&mut *old, &[1], 1)?;
    let mut open = ok(old.begin())?;
    write(&mut *open, &[2])?;
    let read = thread::scope(|scope| {
        let heir = scope.spawn(|| target.sink().fence(&fence(2)));
        thread::sleep(Duration::from_millis(300));
        let committed = open.commit(&[advance(2)]).is_ok();
        (committed, heir.join())
    });
    let (committed, Ok(read)) = read else { return Err("the heir panicked".into()) };
    let read = ok(read)?;
    let (reached, ids) = if committed { (2, &[1, 2][..]) } else { (1, &[1][..]) };
    require(&target.rows(), &named(ids), "rows")?;
    require(&read[0].position, &Some(at(reached)), "the position that the heir read")
}

fn bad_row_leaves_others(target: &dyn Target) -> Result<(), String> {
    let mut sink = target.sink();
    ok(sink.fence(&fence(1)))?;
    let mut open = ok(sink.begin())?;
    let batch = records(PARTITION, &[Some(1), Some(2), None, Some(4)]);
    match open.write(&batch, 0..4) {
        Err(SinkError::BadRow { row: 2, .. }) => {}
        other => return Err(format!("a row without a key gave {other:?}")),
    }
    ok(open.write(&batch, 3..4))?;
    let _ = ok(open.commit(&[advance(4)]))?;
    require(&target.rows(), &named(&[1, 2, 4]), "rows")
}

fn orders_are_applied(target: &dyn Target) -> Result<(), String> {
    let mut sink = target.sink();
    ok(sink.fence(&fence(1)))?;
    let done = deliver(&mut *sink, &[1, 2], 2)?;
    let rewind = Order { position: Some(at(1)), records: 1, ..order(OrderKind::Rewind) };
    let back = ok(target.sink().fence(&Fence { orders: vec![rewind], ..fence(2) }))?;
    let version = done[0].version;
    require(&positions(&back), &vec![(version + 1, Some(at(1)))], "after a rewind")?;
    require(&back[0].records, &1, "records after a rewind")?;
    let mut sink = target.sink();
    let fence = Fence { orders: vec![order(OrderKind::Reset)], ..fence(3) };
    let fresh = ok(sink.fence(&fence))?;
    require(&positions(&fresh), &vec![(version + 2, None)], "after a reset")?;
    require(&fresh[0].records, &0, "records after a reset")?;
    deliver(&mut *sink, &[1, 2], 2)?;
    require(&target.rows(), &named(&[1, 2]), "rows after everything was delivered again")
}

fn forgets(target: &dyn Target) -> Result<(), String> {
    let (mut old, mut heir) = (target.sink(), target.sink());
    ok(old.fence(&fence(1)))?;
    ok(heir.fence(&fence(2)))?;
    deliver(&mut *heir, &[1], 1)?;
    ok(heir.forget())?;
    require(&ok(target.sink().peek("p", "s"))?, &Vec::new(), "checkpoints")?;
    fenced(old.begin().err(), 2)?;
    fenced(old.forget().err(), 2)?;
    require(&target.rows(), &named(&[1]), "rows")
}

fn fence(epoch: u64) -> Fence {
    Fence {
        pipeline: "p".into(),
        sink: "s".into(),
        epoch: Epoch(epoch),
        partitions: vec![PARTITION.into()],
        orders: Vec::new(),
    }
}

fn order(kind: OrderKind) -> Order {
    Order {
        id: 1,
        pipeline: "p".into(),
        partition: WHOLE.into(),
        sink: "s".into(),
        kind,
        position: None,
        records: 0,
        sink_state: None,
        output: Some(Output::Keep),
        who: "conformance".into(),
        at: Timestamp::UNIX_EPOCH,
        applied_at: None,
    }
}

fn advance(records: u64) -> Advance {
    Advance { partition: PARTITION.into(), position: at(records), records }
}

fn deliver(
    sink: &mut dyn TransactionalSink,
    ids: &[i64],
    upto: u64,
) -> Result<Vec<Checkpoint>, String> {
    let mut open = ok(sink.begin())?;
    write(&mut *open, ids)?;
    Ok(ok(open.commit(&[advance(upto)]))?.checkpoints)
}

fn write(open: &mut dyn Transaction, ids: &[i64]) -> Result<(), String> {
    let ids: Vec<Option<i64>> = ids.iter().copied().map(Some).collect();
    ok(open.write(&records(PARTITION, &ids), 0..ids.len()))
}

fn name(id: i64) -> String {
    format!("name {id}")
}

fn named(ids: &[i64]) -> Vec<(i64, String)> {
    ids.iter().map(|id| (*id, name(*id))).collect()
}

fn positions(checkpoints: &[Checkpoint]) -> Vec<(u64, Option<StoredPosition>)> {
    checkpoints.iter().map(|c| (c.version, c.position.clone())).collect()
}

fn ok<T>(result: Result<T, SinkError>) -> Result<T, String> {
    result.map_err(|e| format!("unexpected: {e:?}"))
}

fn fenced(error: Option<SinkError>, by: u64) -> Result<(), String> {
    match error {
        Some(SinkError::Fenced { epoch: Epoch(epoch), .. }) if epoch == by => Ok(()),
        other => Err(format!("expected to be fenced by epoch {by}, got {other:?}")),
    }
}

fn require<T: PartialEq + Debug>(found: &T, wanted: &T, what: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, expected {wanted:?}")) }
}
