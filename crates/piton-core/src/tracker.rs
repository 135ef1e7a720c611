//! The tracker: completions that arrive out of order become one low-water mark.
//!
//! Work is started in order and finishes in any order. A checkpoint may only cover what is done
//! without a gap, so the tracker keeps a ring of flags, one per record in flight, and moves the
//! mark over the done prefix. Starting and finishing are O(1) (the mark moves over each record
//! once); nothing is allocated once the ring has its size; what is in flight is bounded.

use std::collections::VecDeque;

/// A record in flight. Given by [`Tracker::start`], handed back to [`Tracker::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "a ticket that is never finished holds the low-water mark back for ever"]
pub struct Ticket(u64);

/// Turns completions in any order into the position below which all is done.
#[derive(Debug, Clone)]
pub struct Tracker<P> {
    /// In flight, oldest first: the position and whether it is done.
    flight: VecDeque<(P, bool)>,
    /// The ticket of the oldest in flight.
    first: u64,
    /// The last position of the done prefix.
    low_water: Option<P>,
    limit: usize,
}

impl<P> Tracker<P> {
    /// A tracker that allows `limit` records in flight.
    pub fn bounded(limit: usize) -> Self {
        Self { flight: VecDeque::new(), first: 0, low_water: None, limit: limit.max(1) }
    }

    /// Notes that work on the record at `position` begins. Positions must be given in order.
    ///
    /// # Errors
    /// Gives the position back when `limit` records are in flight: finish one first.
    pub fn start(&mut self, position: P) -> Result<Ticket, P> {
        if self.flight.len() >= self.limit {
            return Err(position);
        }
        let ticket = Ticket(self.first + self.flight.len() as u64);
        self.flight.push_back((position, false));
        Ok(ticket)
    }

    /// Notes that the work is done and its effect durable. Returns whether the mark moved.
    /// A ticket that is finished already, or of another tracker, changes nothing.
    pub fn finish(&mut self, ticket: Ticket) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first) else { return false };
        let Some(slot) = self.flight.get_mut(index as usize) else { return false };
        slot.1 = true;
        if index != 0 {
            return false;
        }
        while let Some((_, true)) = self.flight.front() {
            if let Some((position, _)) = self.flight.pop_front() {
                self.low_water = Some(position);
                self.first += 1;
            }
        }
        true
    }

    /// The position up to which everything is done, without a gap.
    pub fn low_water(&self) -> Option<&P> {
        self.low_water.as_ref()
    }

    /// How many records are in flight: what a crash now would replay at most.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Whether another record may start.
    pub fn has_room(&self) -> bool {
        self.flight.len() < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_holds_the_mark_back() {
        // Invariant 1: a checkpoint never covers what is not done.
        let mut tracker = Tracker::bounded(10);
        let tickets: Vec<_> = (0..5_u64).map(|n| tracker.start(n).unwrap()).collect();
        assert!(!tracker.finish(tickets[1]));
        assert!(!tracker.finish(tickets[3]));
        assert_eq!(tracker.low_water(), None);
        assert!(tracker.finish(tickets[0]));
        assert_eq!(tracker.low_water(), Some(&1));
        assert_eq!(tracker.in_flight(), 3);
    }

    #[test]
    fn flight_is_bounded() {
        // Invariant 8: memory is bounded by configuration.
        let mut tracker = Tracker::bounded(2);
        let first = tracker.start(1).unwrap();
        let _second = tracker.start(2).unwrap();
        assert_eq!(tracker.start(3), Err(3));
        tracker.finish(first);
        assert!(tracker.start(3).is_ok());
    }

    #[test]
    fn a_finished_ticket_is_harmless() {
        let mut tracker = Tracker::bounded(2);
        let ticket = tracker.start(1).unwrap();
        assert!(tracker.finish(ticket));
        assert!(!tracker.finish(ticket));
    }

    proptest! {
        #[test]
        fn the_mark_is_the_longest_done_prefix(order in Just((0..50_usize).collect::<Vec<_>>()).prop_shuffle()) {
            let mut tracker = Tracker::bounded(50);
            let tickets: Vec<_> = (0..50_usize).map(|n| tracker.start(n).unwrap()).collect();
            let mut done = [false; 50];
            for n in order {
                done[n] = true;
                tracker.finish(tickets[n]);
                let prefix = done.iter().take_while(|d| **d).count();
                prop_assert_eq!(tracker.low_water().copied(), prefix.checked_sub(1));
            }
            prop_assert_eq!(tracker.in_flight(), 0);
        }
    }
}
