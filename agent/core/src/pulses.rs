//! Pulses: how many edges a line has had, and how many a second.
//!
//! The kernel numbers the edges of a line, those among them for which there was no room: none is missing from the count.

use crate::time::Monotonic;

/// The count of a line.
#[derive(Clone, Copy, Debug)]
pub struct Pulses {
    total: u64,
    /// The kernel's number of the last edge.
    number: u32,
    /// The count, and when, at the last look.
    last: (u64, Monotonic),
}

impl Pulses {
    /// None yet.
    #[must_use]
    pub const fn new(now: Monotonic) -> Self {
        Self { total: 0, number: 0, last: (0, now) }
    }

    /// An edge, by the kernel's number, which begins at 1 when the line is taken. Gives how many were not told before it.
    pub fn edge(&mut self, number: u32) -> u32 {
        let new = number.wrapping_sub(self.number);
        self.number = number;
        self.total += u64::from(new);
        new.saturating_sub(1)
    }

    /// The line was let go: the kernel begins to count anew.
    pub fn begin_again(&mut self) {
        self.number = 0;
    }

    /// All so far.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many there were in a second since the last look.
    #[allow(clippy::cast_precision_loss)] // a pulse in nine thousand million million
    pub fn rate(&mut self, now: Monotonic) -> f64 {
        let (before, at) = core::mem::replace(&mut self.last, (self.total, now));
        let seconds = now.since(at) as f64 / 1e6;
        if seconds > 0.0 { (self.total - before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_that_were_not_told_are_counted_all_the_same() {
        let mut pulses = Pulses::new(Monotonic(0));
        assert_eq!((pulses.edge(1), pulses.edge(2), pulses.edge(7)), (0, 0, 4));
        assert_eq!(pulses.total(), 7);
        pulses.begin_again();
        assert_eq!((pulses.edge(1), pulses.total()), (0, 8));
        // The number goes round.
        let mut old = Pulses { number: u32::MAX, ..pulses };
        assert_eq!((old.edge(1), old.total()), (1, 10));
    }

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        let mut pulses = Pulses::new(Monotonic(1_000_000));
        for number in 1..=30 {
            pulses.edge(number);
        }
        let near = |rate: f64, expected: f64| assert!((rate - expected).abs() < 1e-9, "{rate}");
        near(pulses.rate(Monotonic(3_000_000)), 15.0);
        near(pulses.rate(Monotonic(3_000_000)), 0.0);
        near(pulses.rate(Monotonic(4_000_000)), 0.0);
    }
}
