//! When something that a broker does not take now is offered again, and when it is given up.
//!
//! A broker may refuse a publish for the moment: a queue behind it is full, a rule of it timed out. The sender pauses, each time
//! twice as long. A publish that is refused again and again while the broker takes others will never be taken.

use crate::time::Monotonic;

/// The first pause.
const PAUSE_US: u64 = 1_000_000;

/// The longest pause.
const MAX_PAUSE_US: u64 = 60_000_000;

/// A publish that was refused so often, while others were taken, is given up.
pub const MAX_REFUSALS: u32 = 20;

/// The pause of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Refusals since the broker last took something.
    refusals: u32,
    /// Nothing is sent before.
    at: Monotonic,
}

impl Retry {
    /// Nothing was refused.
    pub const ZERO: Self = Self { refusals: 0, at: Monotonic(0) };

    /// The broker has refused a publish for the moment. Publishes that were under way together make one pause.
    pub fn refused(&mut self, now: Monotonic) {
        if self.at > now {
            return;
        }
        let pause_us = PAUSE_US.saturating_mul(1 << self.refusals.min(16)).min(MAX_PAUSE_US);
        self.refusals += 1;
        self.at = now.after(pause_us);
    }

    /// The broker has taken a publish: the next pause is short again.
    pub fn accepted(&mut self) {
        self.refusals = 0;
    }

    /// A new connection: nothing is waited for.
    pub fn reset(&mut self) {
        *self = Self::ZERO;
    }

    /// Nothing is sent before.
    #[must_use]
    pub fn at(&self) -> Monotonic {
        self.at
    }
}

/// How often one publish was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    count: u32,
    /// Publishes that the broker had taken when it was refused first.
    taken_before: u64,
}

impl Refusals {
    /// Counts one more. `taken`: publishes or packets that the broker has taken so far. `true`: it is to be given up.
    pub fn add(&mut self, taken: u64) -> bool {
        if self.count == 0 {
            self.taken_before = taken;
        }
        self.count = self.count.saturating_add(1);
        self.count >= MAX_REFUSALS && taken > self.taken_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_success() {
        let (mut retry, mut now) = (Retry::ZERO, Monotonic(0));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            retry.refused(now);
            assert_eq!(retry.at(), now.after(seconds * S));
            // One that was under way with it does not make it longer.
            retry.refused(now.after(S / 2));
            assert_eq!(retry.at(), now.after(seconds * S));
            now = retry.at();
        }
        retry.accepted();
        retry.refused(now);
        assert_eq!(retry.at(), now.after(S));
        retry.reset();
        assert_eq!(retry.at(), Monotonic(0));
    }

    #[test]
    fn a_publish_is_given_up_only_while_others_are_taken() {
        let mut alone = Refusals::default();
        assert!((0..1_000).all(|_| !alone.add(7)), "the broker takes nothing: it is not this publish");
        assert!(alone.add(8));
        let mut among_others = Refusals::default();
        let given_up = (0..100).position(|taken| among_others.add(taken));
        assert_eq!(given_up, Some(MAX_REFUSALS as usize - 1));
    }
}
