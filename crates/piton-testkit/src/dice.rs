//! Chance that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers by chance from a seed, which is printed: a test that failed is run again with the same
/// chances by setting `PITON_SEED` to it.
#[derive(Debug, Clone)]
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// Dice with the seed in `PITON_SEED`, or else with one of their own.
    pub fn new() -> Self {
        let given = std::env::var("PITON_SEED").ok().and_then(|seed| seed.parse().ok());
        let now =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
        let dice = Self::seeded(given.unwrap_or_else(now));
        eprintln!("PITON_SEED={}", dice.seed);
        dice
    }

    /// Dice with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number from `low` to `high`, both included; `low` if `high` is below it.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        match high.saturating_sub(low).checked_add(1) {
            Some(span) => low + z % span,
            None => z,
        }
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn the_same_seed_gives_the_same_numbers_within_bounds() {
        let (mut a, mut b) = (Dice::seeded(7), Dice::seeded(7));
        let numbers: Vec<u64> = (0..100).map(|_| a.between(3, 5)).collect();
        assert!(numbers.iter().all(|n| (3..=5).contains(n)));
        assert!((3..=5).all(|n| numbers.contains(&n)));
        assert_eq!(numbers, (0..100).map(|_| b.between(3, 5)).collect::<Vec<_>>());
        assert_eq!(a.between(9, 2), 9);
    }
}
