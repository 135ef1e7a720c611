//! How often to save a checkpoint.
//!
//! A save costs time; a crash costs the work since the last save. Young (1974) gives the interval
//! that balances them, T = √(2CM), with C the cost of a save and M the mean time between failures;
//! Daly (2006) refines it. Both are measured here while running: the price of one durable commit
//! differs twentyfold on one machine with what else runs on it.
//!
//! What is chosen is bounded: at least C(1−X)/X, so that saves take no more than the share X of
//! the time (`max_overhead`), and at most Y (`max_replay`), which wins over X.

use std::time::Duration;

/// The mean time between failures that is assumed before any was seen.
const FIRST_GUESS: Duration = Duration::from_hours(1);
/// The weight of the newest measurement in the moving average of the cost of a save.
const NEWEST: f64 = 0.2;

/// Young's interval, √(2CM).
pub fn young(cost: Duration, mean_between_failures: Duration) -> Duration {
    seconds((2.0 * cost.as_secs_f64() * mean_between_failures.as_secs_f64()).sqrt())
}

/// Daly's higher-order interval: √(2CM)·[1 + ⅓√(C/2M) + (C/2M)/9] − C for C < 2M, else M.
pub fn daly(cost: Duration, mean_between_failures: Duration) -> Duration {
    let (c, m) = (cost.as_secs_f64(), mean_between_failures.as_secs_f64());
    if c >= 2.0 * m {
        return mean_between_failures;
    }
    let x = c / (2.0 * m);
    seconds((2.0 * c * m).sqrt() * (1.0 + x.sqrt() / 3.0 + x / 9.0) - c)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// What a configuration asks of the interval.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// Chosen while running.
    Adaptive {
        /// The most work that a crash may cost.
        max_replay: Duration,
        /// The largest share of time spent saving, from 0 to 1.
        max_overhead: f64,
    },
    /// Whichever comes first.
    Fixed {
        /// Time between saves.
        every: Option<Duration>,
        /// Records between saves.
        records: Option<u64>,
    },
    /// Only at the end. For benchmarks: a crash replays everything. What has to end now and then
    /// anyway, such as a transaction, ends as it does by default, without a checkpoint in it.
    Off,
}

impl Default for Policy {
    fn default() -> Self {
        Self::Adaptive { max_replay: Duration::from_secs(10), max_overhead: 0.01 }
    }
}

/// Decides when the next save is due, from what saves have cost and how often runs have crashed.
#[derive(Debug, Clone)]
pub struct Interval {
    policy: Policy,
    /// By what an interval ends: the policy, unless that is off and something has to end.
    rhythm: Policy,
    mean_between_failures: Duration,
    cost: Option<f64>,
}

impl Interval {
    /// An interval for a pipeline that has run for `uptime` in all and crashed `crashes` times.
    pub fn new(policy: Policy, uptime: Duration, crashes: u32) -> Self {
        let mean_between_failures = (uptime + FIRST_GUESS) / (crashes + 1);
        Self { rhythm: policy.clone(), policy, mean_between_failures, cost: None }
    }

    /// An interval for what ends now and then even if no checkpoint is wanted: transactions.
    pub fn of_transactions(policy: Policy, uptime: Duration, crashes: u32) -> Self {
        let mut interval = Self::new(policy, uptime, crashes);
        if interval.is_off() {
            interval.rhythm = Policy::default();
        }
        interval
    }

    /// Whether checkpoints are wanted at the end only.
    pub fn is_off(&self) -> bool {
        self.policy == Policy::Off
    }

    /// Whether nothing but the rule itself may end an interval: a fixed number of records, or only
    /// the end.
    pub fn is_exact(&self) -> bool {
        matches!(self.rhythm, Policy::Fixed { records: Some(_), .. } | Policy::Off)
    }

    /// Notes what a save cost.
    pub fn saved(&mut self, cost: Duration) {
        let cost = cost.as_secs_f64();
        self.cost = Some(self.cost.map_or(cost, |old| old + NEWEST * (cost - old)));
    }

    /// Whether a save is due after this long and this many records.
    pub fn is_due(&self, since: Duration, records: u64) -> bool {
        match &self.rhythm {
            Policy::Adaptive { .. } => since >= self.target(),
            Policy::Fixed { every, records: limit } => {
                every.is_some_and(|every| since >= every)
                    || limit.is_some_and(|limit| records >= limit)
            }
            Policy::Off => false,
        }
    }

    /// Whether to save now because nothing more is coming, this long after the first record that
    /// is not saved: yes, if that keeps within the allowed overhead. A fixed interval stays fixed.
    pub fn is_worth_it_idle(&self, since: Duration) -> bool {
        match &self.rhythm {
            Policy::Adaptive { max_overhead, .. } => {
                let share = max_overhead.clamp(1e-6, 1.0);
                self.cost.is_none_or(|cost| since >= seconds(cost * (1.0 - share) / share))
            }
            Policy::Fixed { every, .. } => every.is_none_or(|every| since >= every),
            Policy::Off => false,
        }
    }

    /// How long after the last save the next is due, as far as time decides.
    pub fn target(&self) -> Duration {
        match &self.rhythm {
            Policy::Adaptive { max_replay, max_overhead } => {
                // Before the first measurement, save soon: it is a measurement.
                let Some(cost) = self.cost else {
                    return (*max_replay).min(Duration::from_secs(1));
                };
                let share = max_overhead.clamp(1e-6, 1.0);
                let floor = seconds(cost * (1.0 - share) / share);
                young(seconds(cost), self.mean_between_failures).max(floor).min(*max_replay)
            }
            Policy::Fixed { every, .. } => every.unwrap_or(Duration::MAX),
            Policy::Off => Duration::MAX,
        }
    }

    /// The largest number of records between saves, where one is fixed.
    pub fn records(&self) -> Option<u64> {
        match self.policy {
            Policy::Fixed { records, .. } => records,
            _ => None,
        }
    }

    /// The measured cost of a save, where there was one.
    pub fn cost(&self) -> Option<Duration> {
        self.cost.map(seconds)
    }

    /// Why the interval is what it is, as a sentence.
    pub fn why(&self) -> String {
        match &self.policy {
            Policy::Off => "checkpoint: off, saved only at the end".to_owned(),
            Policy::Fixed { every, records } => match (every, records) {
                (Some(every), Some(records)) => {
                    format!("fixed: every {every:?} or {}, whichever comes first", many(*records))
                }
                (Some(every), None) => format!("fixed: every {every:?}"),
                (None, Some(records)) => format!("fixed: every {}", many(*records)),
                (None, None) => "fixed: only at the end".to_owned(),
            },
            Policy::Adaptive { max_replay, max_overhead } => {
                let Some(cost) = self.cost() else {
                    return "adaptive: no save measured yet".to_owned();
                };
                let young = young(cost, self.mean_between_failures);
                let by = if self.target() >= *max_replay {
                    "bounded by max_replay"
                } else if self.target() > young {
                    "raised to keep max_overhead"
                } else {
                    "Young's balance"
                };
                format!(
                    "adaptive: a save costs {:.1} ms, one crash in {:.0} min expected, at most {:.1}% overhead: {by}",
                    cost.as_secs_f64() * 1e3,
                    self.mean_between_failures.as_secs_f64() / 60.0,
                    max_overhead * 100.0,
                )
            }
        }
    }
}

fn many(records: u64) -> String {
    if records == 1 { "record".to_owned() } else { format!("{records} records") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(m: f64) -> Duration {
        Duration::from_secs_f64(m * 60.0)
    }

    #[test]
    fn daly_agrees_with_the_published_values() {
        for (mtbf, published) in [(24.0 * 60.0, 116.7), (6.0 * 60.0, 56.7), (15.0, 9.14)] {
            let got = daly(minutes(5.0), minutes(mtbf)).as_secs_f64() / 60.0;
            assert!((got - published).abs() < 0.05, "M = {mtbf} min: {got} min");
        }
        assert_eq!(daly(minutes(40.0), minutes(15.0)), minutes(15.0));
    }

    #[test]
    fn the_bounds_hold_and_max_replay_wins() {
        let policy = Policy::Adaptive { max_replay: Duration::from_secs(10), max_overhead: 0.01 };
        let mut interval = Interval::new(policy, Duration::ZERO, 0);
        interval.saved(Duration::from_millis(1));
        // Young: √(2 · 1 ms · 1 h) = 2.68 s.
        assert!((interval.target().as_secs_f64() - 2.683).abs() < 0.01);
        for _ in 0..100 {
            interval.saved(Duration::from_millis(500));
        }
        assert_eq!(interval.target(), Duration::from_secs(10));
        assert!(interval.why().contains("max_replay"));
    }

    #[test]
    fn crashes_shorten_it() {
        let at = |crashes| {
            let mut interval = Interval::new(Policy::default(), Duration::ZERO, crashes);
            interval.saved(Duration::from_millis(1));
            interval.target()
        };
        assert!(at(10) < at(0));
    }

    #[test]
    fn off_never_saves_but_transactions_end_as_by_default() {
        let (long, hour) = (Duration::from_hours(1000), Duration::from_hours(1));
        let plain = Interval::new(Policy::Off, hour, 0);
        assert!(plain.is_off() && plain.is_exact());
        assert!(!plain.is_due(long, u64::MAX) && !plain.is_worth_it_idle(long));
        let mut off = Interval::of_transactions(Policy::Off, hour, 3);
        let mut on = Interval::of_transactions(Policy::default(), hour, 3);
        for cost in [None, Some(Duration::from_millis(3))] {
            for interval in [&mut off, &mut on] {
                cost.into_iter().for_each(|cost| interval.saved(cost));
            }
            assert_eq!(off.target(), on.target());
            assert_eq!(off.is_exact(), on.is_exact());
        }
        assert!(off.is_off() && off.why().contains("off") && !on.is_off());
    }

    #[test]
    fn fixed_is_whichever_comes_first() {
        let policy = Policy::Fixed { every: Some(Duration::from_secs(5)), records: Some(100) };
        let interval = Interval::new(policy, Duration::ZERO, 0);
        assert!(interval.is_due(Duration::ZERO, 100));
        assert!(interval.is_due(Duration::from_secs(5), 1));
        assert!(!interval.is_due(Duration::from_secs(4), 99));
    }
}
