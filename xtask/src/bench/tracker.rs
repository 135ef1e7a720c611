//! The tracker with a million records in flight: what one record costs, from start to finish.

use std::{hint::black_box, time::Instant};

use piton_core::tracker::{Ticket, Tracker};

use super::{Promise, judge, measure::median, table};
use crate::command::Failure;

const IN_FLIGHT: usize = 1_000_000;
const ROUNDS: usize = 9;
const LIMIT_NS: f64 = 20.0;

/// In which order a full flight is finished.
type Reorder = fn(&mut [Ticket]);

const ORDERS: &[(&str, Reorder)] = &[
    ("in order", |_| {}),
    ("last first", <[Ticket]>::reverse),
    ("shuffled by 1,000", |tickets| tickets.chunks_mut(1_000).for_each(shuffle)),
    ("shuffled", shuffle),
];

pub(super) fn run() -> Result<Promise, Failure> {
    let mut table = Vec::new();
    let mut slowest = 0.0_f64;
    for (name, reorder) in ORDERS {
        let mut tracker = Tracker::bounded(IN_FLIGHT);
        // The first round grows the ring and is not counted.
        round(&mut tracker, *reorder)?;
        let costs: Result<Vec<f64>, Failure> =
            (0..ROUNDS).map(|_| round(&mut tracker, *reorder)).collect();
        let cost = median(costs?);
        slowest = slowest.max(cost);
        table.push(vec![(*name).to_owned(), format!("{cost:.1}")]);
    }
    table::print(&["finished", "ns/record"], &table);
    let promise = format!("at most {LIMIT_NS} ns a record at 1 million in flight");
    Ok(judge(&promise, &format!("{slowest:.1} ns"), slowest <= LIMIT_NS))
}

/// Starts a full flight and finishes it; returns nanoseconds a record. Choosing the order and
/// making room for the tickets, which are the caller's, is not counted.
fn round(tracker: &mut Tracker<u64>, reorder: Reorder) -> Result<f64, Failure> {
    let full = |n| Failure::Found(format!("the tracker has no room for record {n}"));
    let mut tickets: Vec<Ticket> = Vec::with_capacity(IN_FLIGHT);
    let began = Instant::now();
    for n in 0..IN_FLIGHT as u64 {
        tickets.push(tracker.start(black_box(n)).map_err(full)?);
    }
    let starting = began.elapsed();
    reorder(&mut tickets);
    let began = Instant::now();
    for ticket in tickets {
        black_box(tracker.finish(ticket));
    }
    let finishing = began.elapsed();
    black_box(tracker.low_water());
    Ok((starting + finishing).as_nanos() as f64 / IN_FLIGHT as f64)
}

/// Fisher–Yates with a fixed xorshift: the same order in every run.
fn shuffle(tickets: &mut [Ticket]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for last in (1..tickets.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        tickets.swap(last, (state % (last as u64 + 1)) as usize);
    }
}
