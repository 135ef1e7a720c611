//! An operator's orders: a reset removes checkpoints, a rewind replaces them, and both wait in the
//! store until an owner has applied them in the sinks.

use jiff::Timestamp;
use piton_core::{
    Claim, Event, Order, OrderKind, Output, StoreError, StoredPosition,
    checksum::{Checksum, Form, Manifest},
};

use super::{
    Row, Sql, Transaction, Write, claims,
    manifest::{self, Holds, Shelf},
    rows::{self, Change, Found},
    runs, saves, state,
    trouble::{Result, Trouble, altered},
    value::values,
    worker::{Done, Worker},
};
use crate::rules;

/// Who gave an order that a trigger wrote.
const SHELL: &str = "sql shell";

fn read(mut row: Row) -> Result<(Order, Option<Checksum>)> {
    let position = match (row.maybe_text(6)?, row.maybe_text(7)?) {
        (Some(kind), Some(json)) => Some(StoredPosition { kind, json }),
        _ => None,
    };
    let at = row.text(12)?;
    let order = Order {
        id: row.number(0)?,
        pipeline: row.text(1)?,
        partition: row.text(2)?,
        sink: row.text(3)?,
        kind: row.word(5, OrderKind::parse)?,
        position,
        records: row.number(8)?,
        sink_state: row.maybe_text(9)?,
        output: row.maybe_word(10, Output::parse)?,
        who: row.text(11)?,
        at: at.parse().map_err(|_| Trouble::Damage(format!("'{at}' is not a time")))?,
        applied_at: row.maybe_time(13)?,
    };
    let checksum = row.maybe_checksum(14)?;
    let vouched = match checksum {
        Some(checksum) => Form::of(checksum, |form| sealed_as(&order, form)).is_some(),
        // A trigger has no checksum function; what it writes is the same but for what the
        // summary says again.
        None => is_shell_reset(&order),
    };
    if !vouched || row.text(4)? != summary(&order, &at) {
        return Err(altered("orders", &order.id));
    }
    Ok((order, checksum))
}

fn is_shell_reset(order: &Order) -> bool {
    order.kind == OrderKind::Reset
        && order.who == SHELL
        && order.records == 0
        && (&order.position, &order.sink_state, order.output) == (&None, &None, None)
}

/// What a row says twice, so that one of both cannot be altered alone.
fn summary(order: &Order, at: &str) -> String {
    let Order { id, pipeline, partition, sink, kind, .. } = order;
    format!("{id}: {} {pipeline} / {partition} / {sink} at {at}", kind.as_str())
}

/// The checksum of an order's row: once it is applied, of that moment, too.
fn sealed(order: &Order) -> Checksum {
    sealed_as(order, Form::Native)
}

/// The same, where the moment was sealed in one of the forms.
fn sealed_as(order: &Order, form: Form) -> Checksum {
    let checksum = order.checksum();
    match order.applied_at {
        Some(at) => {
            Checksum::build_as(form).number(checksum.0 as u64).text(&at.to_string()).finish()
        }
        None => checksum,
    }
}

/// All orders of a pipeline, oldest first; those that are pending compared with the manifest.
pub(crate) fn all(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<Order>> {
    let sql = r#"SELECT id, pipeline, "partition", sink, summary, kind, position_kind, position,
        records, sink_state, output, who, at, applied_at, checksum FROM orders WHERE pipeline = ?
        ORDER BY id"#;
    let (mut orders, mut pending) = (Vec::new(), Manifest::default());
    for row in c.query(sql, values![pipeline])? {
        let (order, checksum) = read(row)?;
        if order.applied_at.is_none() {
            pending = pending.with(checksum.unwrap_or_default());
        }
        orders.push(order);
    }
    manifest::check(c, Shelf::of(Holds::Orders, pipeline), pending)?;
    Ok(orders)
}

/// The orders that are not applied yet.
pub(crate) fn pending(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<Order>> {
    let mut orders = all(c, pipeline)?;
    orders.retain(|order| order.applied_at.is_none());
    Ok(orders)
}

/// Gives orders: a reset removes what it covers, a rewind replaces it.
pub(crate) fn order(
    worker: &mut Worker,
    orders: &[Order],
    event: &Event,
) -> Result<(), StoreError> {
    let named = orders.iter().map(|order| &*order.pipeline);
    let write = Write::of_all(named.chain([&*event.pipeline]));
    worker.write(&write, |c, _| {
        for order in orders {
            refuse_rewind_of_state(c, order)?;
        }
        for order in orders {
            let covered = covered(c, order)?;
            match order.kind {
                OrderKind::Reset => saves::forget(c, &order.pipeline, covered)?,
                OrderKind::Rewind => rewind(c, order, covered)?,
            }
            give(c, order)?;
        }
        runs::record(c, event)?;
        Ok(Done::Commit(()))
    })
}

fn covered(c: &mut dyn Sql, order: &Order) -> Result<Vec<Found>> {
    let mut covered = rows::all(c, &order.pipeline)?;
    covered.retain(|row| order.covers(&row.checkpoint.key.partition, &row.checkpoint.key.sink));
    Ok(covered)
}

fn refuse_rewind_of_state(c: &mut dyn Sql, order: &Order) -> Result<()> {
    if order.kind == OrderKind::Rewind {
        for row in covered(c, order)? {
            let key = &row.checkpoint.key;
            if state::exists(c, key)? {
                return Err(Trouble::Store(rules::has_state(key)));
            }
        }
    }
    Ok(())
}

fn rewind(c: &mut dyn Transaction, order: &Order, covered: Vec<Found>) -> Result<()> {
    let change = |old: Found| {
        let new = rules::rewound(&old.checkpoint, order);
        Change { old: Some(old), new: Some(new) }
    };
    let changes: Vec<Change> = covered.into_iter().map(change).collect();
    rows::change(c, &order.pipeline, &changes, true)
}

/// Writes a new order. Its number is above all before: sinks remember which they have applied.
fn give(c: &mut dyn Sql, order: &Order) -> Result<()> {
    let mut next = c.query("SELECT coalesce(max(id), 0) + 1 FROM orders", values![])?;
    let id = next.first_mut().map_or(Ok(1), |row| row.number(0))?;
    put(c, &Order { id, applied_at: None, ..order.clone() })
}

/// Writes an order with its number.
pub(crate) fn put(c: &mut dyn Sql, order: &Order) -> Result<()> {
    let sql = r#"INSERT INTO orders (id, pipeline, "partition", sink, summary, kind, position_kind,
        position, records, sink_state, output, who, at, applied_at, checksum)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"#;
    let (checksum, at) = (sealed(order), order.at.to_string());
    c.execute(
        sql,
        values![
            order.id,
            &order.pipeline,
            &order.partition,
            &order.sink,
            &summary(order, &at),
            order.kind.as_str(),
            order.position.as_ref().map(|position| &position.kind),
            order.position.as_ref().map(|position| &position.json),
            order.records,
            &order.sink_state,
            order.output.map(Output::as_str),
            &order.who,
            &at,
            &order.applied_at.map(|at| at.to_string()),
            checksum,
        ],
    )?;
    if order.applied_at.is_some() {
        return Ok(());
    }
    let shelf = Shelf::of(Holds::Orders, &order.pipeline);
    manifest::change(c, shelf, |manifest| manifest.with(checksum))
}

pub(crate) fn applied(
    worker: &mut Worker,
    claim: &Claim,
    ids: &[u64],
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = &claim.pipeline;
    worker.write_under(claim, &Write::of(name).again(), |c, _| {
        let fence = claims::fence(c, claim)?;
        if fence > claim.epoch {
            return Err(Trouble::Store(rules::fenced(name, fence)));
        }
        let there = all(c, name)?;
        for id in ids {
            let order = there.iter().find(|order| order.id == *id);
            let order = order.ok_or_else(|| rules::no_order(*id, name))?;
            if order.applied_at.is_none() {
                mark_applied(c, order, now)?;
            }
        }
        Ok(Done::Commit(()))
    })
}

fn mark_applied(c: &mut dyn Sql, order: &Order, now: Timestamp) -> Result<()> {
    let mut pending = c.query("SELECT checksum FROM orders WHERE id = ?", values![order.id])?;
    let pending = match pending.first_mut() {
        Some(row) => row.maybe_checksum(0)?.unwrap_or_default(),
        None => Checksum::default(),
    };
    let sealed = sealed(&Order { applied_at: Some(now), ..order.clone() });
    let sql = "UPDATE orders SET applied_at = ?, checksum = ? WHERE id = ?";
    c.execute(sql, values![&now.to_string(), sealed, order.id])?;
    let shelf = Shelf::of(Holds::Orders, &order.pipeline);
    manifest::change(c, shelf, |manifest| manifest.without(pending))
}
