//! A bucket that refills with time: how much of something may pass in a second.

use crate::time::Monotonic;

/// Seconds' worth that may pass at once after a quiet time.
const BURST_S: u64 = 10;

/// How much may pass still.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_s: u64,
    /// In millionths.
    left: u128,
    at: Monotonic,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_s: u64) -> Self {
        Self { per_s, left: Self::most(per_s), at: Monotonic(0) }
    }

    fn most(per_s: u64) -> u128 {
        u128::from(per_s) * u128::from(BURST_S) * 1_000_000
    }

    /// Takes so much, if there is as much. The bucket is as it was if not.
    pub fn take(&mut self, amount: u64, now: Monotonic) -> bool {
        let gained = u128::from(now.since(self.at)) * u128::from(self.per_s);
        self.left = (self.left + gained).min(Self::most(self.per_s));
        self.at = self.at.max(now);
        let wanted = u128::from(amount) * 1_000_000;
        let enough = wanted <= self.left;
        if enough {
            self.left -= wanted;
        }
        enough
    }

    /// The most that may pass at once.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.per_s.saturating_mul(BURST_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_worth_passes_at_once_and_then_so_much_a_second() {
        let mut bucket = Bucket::new(100);
        let mut take = |amount, ms: u64| bucket.take(amount, Monotonic(ms * 1_000));
        assert!(take(900, 0) && !take(101, 0) && take(100, 0) && !take(1, 0));
        assert!(!take(51, 500) && take(50, 500) && !take(1, 500));
        // However long it was quiet, and whatever the clock does.
        assert!(!take(1_001, 1_000_000) && take(1_000, 1_000_000) && !take(1, 0));
    }
}
