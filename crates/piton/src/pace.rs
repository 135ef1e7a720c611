//! When a loop has to look up from its records: to save, or to show that it lives.
//!
//! Between two such moments a record costs one reading of the clock and a comparison.

use std::time::Duration;

use piton_core::interval::Interval;

use crate::clock::Moment;

/// An interval or a lease may be without a limit; a moment is not.
const LONGEST: Duration = Duration::from_hours(24);

/// The next moment at which there is something to do.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Interval,
    /// A save is due after this many records.
    records: u64,
    saved_at: Moment,
    renew_every: Duration,
    renewed_at: Moment,
    /// The earlier of the next save and the next renewal.
    wake: Moment,
}

impl Pace {
    /// A third of the lease passes between renewals, so that two may fail.
    pub(crate) fn new(interval: Interval, lease: Duration) -> Self {
        let now = Moment::now();
        let mut pace = Self {
            records: interval.records().unwrap_or(u64::MAX),
            interval,
            saved_at: now,
            renew_every: lease / 3,
            renewed_at: now,
            wake: now,
        };
        pace.set_alarm();
        pace
    }

    /// Whether there is something to do after this many records that are not saved.
    #[inline]
    pub(crate) fn is_time(&self, records: u64) -> bool {
        records >= self.records || Moment::now() >= self.wake
    }

    pub(crate) fn save_is_due(&self, records: u64) -> bool {
        self.interval.is_due(self.saved_at.elapsed(), records)
    }

    pub(crate) fn renewal_is_due(&self) -> bool {
        self.renewed_at.elapsed() >= self.renew_every
    }

    pub(crate) fn saved(&mut self, cost: Duration) {
        self.interval.saved(cost);
        self.saved_at = Moment::now();
        self.set_alarm();
    }

    /// Notes that a renewal asked for at `asked` was granted.
    pub(crate) fn renewed(&mut self, asked: Moment) {
        self.renewed_at = asked;
        self.set_alarm();
    }

    /// Makes the next record look up.
    pub(crate) fn hurry(&mut self) {
        self.wake = self.saved_at;
    }

    /// Decides when to look up next.
    pub(crate) fn set_alarm(&mut self) {
        let latest = Moment::now().checked_add(LONGEST);
        let save = self.saved_at.checked_add(self.interval.target());
        let renew = self.renewed_at.checked_add(self.renew_every);
        self.wake = [save, renew, latest].into_iter().flatten().min().unwrap_or(self.saved_at);
    }
}
