//! When something is asked next: without drift, and less often while it does not answer.
//!
//! Polls lie on a grid from the first one on: one that comes late moves no other, and those that were missed are counted, not made
//! up for. While it fails the pauses double, up to a minute (or its own rhythm, if that is slower), and stay on the grid.

use crate::time::Monotonic;

/// The longest pause after failures.
const MAX_PAUSE_US: u64 = 60_000_000;

/// The rhythm of one thing that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    every_us: u64,
    /// A point of the grid.
    due: Monotonic,
    /// In a row.
    failures: u32,
    missed: u64,
}

impl Schedule {
    /// First due at `start`, then every `every_us`.
    #[must_use]
    pub fn new(start: Monotonic, every_us: u64) -> Self {
        Self { every_us: every_us.max(1), due: start, failures: 0, missed: 0 }
    }

    /// When it is asked next.
    #[must_use]
    pub fn due(&self) -> Monotonic {
        self.due
    }

    /// Points of the grid that passed while it was still being asked.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// It has answered, or not, and it is now.
    pub fn asked(&mut self, now: Monotonic, answered: bool) {
        self.failures = if answered { 0 } else { self.failures.saturating_add(1) };
        let next = self.due.after(self.every_us.saturating_mul(self.periods()));
        let late = now.since(next).div_ceil(self.every_us);
        self.missed = self.missed.saturating_add(late);
        self.due = next.after(late.saturating_mul(self.every_us));
    }

    /// Periods until the next poll.
    fn periods(&self) -> u64 {
        let doubled = 1_u64 << self.failures.saturating_sub(1).min(32);
        doubled.min((MAX_PAUSE_US / self.every_us).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn polls_do_not_drift_however_late_they_end() {
        let mut schedule = Schedule::new(Monotonic(500), SECOND);
        for hour in 0..3_600 {
            assert_eq!(schedule.due(), Monotonic(500 + hour * SECOND));
            // Each takes some time, now and then nearly all of it.
            schedule.asked(schedule.due().after(hour * 7_919 % SECOND), true);
        }
        assert_eq!(schedule.missed(), 0);
    }

    #[test]
    fn what_was_missed_is_counted_and_not_made_up_for() {
        let mut schedule = Schedule::new(Monotonic(0), SECOND);
        schedule.asked(Monotonic(3 * SECOND + 1), true);
        assert_eq!((schedule.due(), schedule.missed()), (Monotonic(4 * SECOND), 3));
        schedule.asked(Monotonic(4 * SECOND + 1), true);
        assert_eq!((schedule.due(), schedule.missed()), (Monotonic(5 * SECOND), 3));
    }

    #[test]
    fn what_fails_is_asked_less_often_up_to_a_minute_until_it_answers() {
        let mut schedule = Schedule::new(Monotonic(0), 10 * SECOND);
        let mut pauses = Vec::new();
        for answered in [false, false, false, false, false, true] {
            let before = schedule.due();
            schedule.asked(before.after(1), answered);
            pauses.push(schedule.due().since(before) / SECOND);
        }
        assert_eq!((pauses, schedule.missed()), (vec![10, 20, 40, 60, 60, 10], 0));
    }

    #[test]
    fn what_is_slower_than_a_minute_stays_so() {
        let mut schedule = Schedule::new(Monotonic(0), 3_600 * SECOND);
        schedule.asked(Monotonic(1), false);
        schedule.asked(Monotonic(3_600 * SECOND + 1), false);
        assert_eq!(schedule.due(), Monotonic(2 * 3_600 * SECOND));
        let mut never = Schedule::new(Monotonic(u64::MAX - 1), u64::MAX);
        never.asked(Monotonic(u64::MAX), false);
        assert_eq!(never.due(), Monotonic(u64::MAX));
    }
}
