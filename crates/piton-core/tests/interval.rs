//! The interval that tunes itself, simulated: crashes at random, saves of a known cost, and the time
//! that the work takes in all, beside the best of many fixed intervals.

use std::time::Duration;

use piton_core::interval::{Interval, Policy};

/// A record takes so long.
const RECORD: f64 = 0.002;
/// The records of a job: half an hour of work.
const RECORDS: u64 = 900_000;
/// From a crash to the first record after it.
const RECOVERY: f64 = 1.0;

/// Numbers that look random, the same in each run: `SplitMix64` (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Until the next crash, where crashes come at random, `mean` apart.
    fn life(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// One life of a process: it works until it has done all or dies. What is saved, and how long it
/// lived.
fn live(interval: &mut Interval, mut saved: u64, cost: f64, life: f64) -> (u64, f64) {
    let (mut at, mut passed, mut since) = (0.0, saved, 0.0);
    loop {
        if at + RECORD > life {
            return (saved, life);
        }
        at += RECORD;
        since += RECORD;
        passed += 1;
        let is_due = interval.is_due(Duration::from_secs_f64(since), passed - saved);
        if !is_due && passed < RECORDS {
            continue;
        }
        if at + cost > life {
            return (saved, life);
        }
        at += cost;
        (since, saved) = (0.0, passed);
        interval.saved(Duration::from_secs_f64(cost));
        if saved == RECORDS {
            return (saved, at);
        }
    }
}

/// How long the job takes in all, in seconds.
fn total(policy: &Policy, cost: f64, mean: f64, seed: u64) -> f64 {
    let mut dice = Dice(seed);
    let (mut saved, mut uptime, mut crashes) = (0, 0.0, 0);
    loop {
        let past = Duration::from_secs_f64(uptime);
        let mut interval = Interval::new(policy.clone(), past, crashes);
        let (reached, lived) = live(&mut interval, saved, cost, dice.life(mean));
        (saved, uptime) = (reached, uptime + lived);
        if saved == RECORDS {
            return uptime + RECOVERY * f64::from(crashes);
        }
        crashes += 1;
    }
}

/// The mean over several seeds: each policy meets the same crashes.
fn mean_total(policy: &Policy, cost: f64, mean: f64) -> f64 {
    (0..2).map(|seed| total(policy, cost, mean, seed)).sum::<f64>() / 2.0
}

#[test]
fn what_tunes_itself_is_within_a_tenth_of_the_best_fixed_interval() {
    for cost in [0.005, 0.05, 0.5] {
        for minutes in [1.0, 3.0, 10.0] {
            let mean = minutes * 60.0;
            let ours = mean_total(&Policy::default(), cost, mean);
            let fixed = (0..8).map(|n| 0.25 * 2_f64.powi(n)).map(|every| {
                let every = Some(Duration::from_secs_f64(every));
                mean_total(&Policy::Fixed { every, records: None }, cost, mean)
            });
            let best = fixed.fold(f64::INFINITY, f64::min);
            assert!(
                ours <= best * 1.1,
                "a save of {cost} s, a crash in {minutes} min: {ours:.0} s, best fixed {best:.0} s"
            );
            println!("{cost} s, {minutes} min: {:.3} of the best fixed interval", ours / best);
        }
    }
}
