//! The tracker: completions that arrive out of order become one low-water mark.
//!
//! Work is started in order and finishes in any order. A checkpoint may only cover what is done
//! without a gap, so the tracker keeps the positions in flight in a ring, one bit for each beside
//! them, and moves the mark over the done prefix. Starting and finishing are O(1) (the mark moves
//! over each record once); nothing is allocated once the rings have their size; what is in flight
//! is bounded. Finishing touches the bits alone: those of a million records are 122 KiB, which a
//! processor keeps near however the order jumps about.

use std::collections::VecDeque;

/// Tickets whose bits share a word.
const BITS: u64 = u64::BITS as u64;

/// A record in flight. Given by [`Tracker::start`], handed back to [`Tracker::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "a ticket that is never finished holds the low-water mark back for ever"]
pub struct Ticket(u64);

/// Turns completions in any order into the position below which all is done.
#[derive(Debug, Clone)]
pub struct Tracker<P> {
    /// The positions in flight, oldest first.
    flight: VecDeque<P>,
    /// Whether they are done, a bit for each: ticket `n` is bit `n % 64` of its word. The first
    /// word is that of `first`; the bits of what is not in flight mean nothing below it and are
    /// clear above the newest.
    done: VecDeque<u64>,
    /// The ticket of the oldest in flight.
    first: u64,
    /// The last position of the done prefix.
    low_water: Option<P>,
    limit: usize,
}

impl<P> Tracker<P> {
    /// A tracker that allows `limit` records in flight.
    pub fn bounded(limit: usize) -> Self {
        let (flight, done) = (VecDeque::new(), VecDeque::new());
        Self { flight, done, first: 0, low_water: None, limit: limit.max(1) }
    }

    /// Notes that work on the record at `position` begins. Positions must be given in order.
    ///
    /// # Errors
    /// Gives the position back when `limit` records are in flight: finish one first.
    pub fn start(&mut self, position: P) -> Result<Ticket, P> {
        if self.flight.len() >= self.limit {
            return Err(position);
        }
        let ticket = self.first + self.flight.len() as u64;
        if ticket.is_multiple_of(BITS) {
            self.done.push_back(0);
        }
        self.flight.push_back(position);
        Ok(Ticket(ticket))
    }

    /// Notes that the work is done and its effect durable. Returns whether the mark moved.
    /// A ticket that is finished already, or of another tracker, changes nothing.
    pub fn finish(&mut self, ticket: Ticket) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first) else { return false };
        if index >= self.flight.len() as u64 {
            return false;
        }
        let word = ticket.0 / BITS - self.first / BITS;
        let Some(word) = self.done.get_mut(word as usize) else { return false };
        *word |= 1 << (ticket.0 % BITS);
        if index == 0 {
            self.advance();
        }
        index == 0
    }

    /// Moves the mark over the done prefix, at most a word at a time.
    fn advance(&mut self) {
        while let Some(word) = self.done.front() {
            let done = (word >> (self.first % BITS)).trailing_ones() as usize;
            if done == 0 {
                return;
            }
            if done > 1 {
                self.flight.drain(..done - 1);
            }
            self.low_water = self.flight.pop_front();
            self.first += done as u64;
            if !self.first.is_multiple_of(BITS) {
                return;
            }
            self.done.pop_front();
        }
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
        /// Invariant 1, over several words of bits and with the ring going round: what the mark
        /// covers is done, and nothing that could be covered is left out.
        #[test]
        fn the_mark_is_the_longest_done_prefix(
            picks in proptest::collection::vec((0..4_usize, any::<prop::sample::Index>()), 1..600),
        ) {
            let mut tracker = Tracker::bounded(150);
            let (mut open, mut done): (Vec<(u64, Ticket)>, Vec<bool>) = (Vec::new(), Vec::new());
            for (what, pick) in picks {
                if (what > 0 || open.is_empty()) && tracker.has_room() {
                    let n = done.len() as u64;
                    open.push((n, tracker.start(n).unwrap()));
                    done.push(false);
                } else if !open.is_empty() {
                    let (n, ticket) = open.swap_remove(pick.index(open.len()));
                    done[n as usize] = true;
                    tracker.finish(ticket);
                    prop_assert!(!tracker.finish(ticket), "a finished ticket is harmless");
                }
                let prefix = done.iter().take_while(|done| **done).count();
                prop_assert_eq!(tracker.low_water().copied(), prefix.checked_sub(1).map(|n| n as u64));
                prop_assert_eq!(tracker.in_flight(), done.len() - prefix);
            }
        }
    }
}
