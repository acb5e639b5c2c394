//! Whether the cell in a slot may be called: back-off when it cannot be made again, quarantine when it fails too often.

use alloc::collections::VecDeque;

use crate::{time::Monotonic, words::Word};

/// The pause after a cell could not be made again; each failure doubles it.
const RETRY_US: u64 = 1_000_000;

/// The longest pause.
const MAX_RETRY_US: u64 = 300_000_000;

/// How often a cell may fail before it is called no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// So many failed calls... 0: it is never put into quarantine.
    pub faults: u32,
    /// ...within this time, in microseconds.
    pub within_us: u64,
}

impl Default for Quarantine {
    /// A sensor that brings something odd now and then is no reason; a cell that fails on everything is found within some batches.
    fn default() -> Self {
        Self { faults: 16, within_us: 60_000_000 }
    }
}

/// Whether a cell may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It may.
    #[default]
    Running,
    /// It could not be made again, and is tried later.
    BackOff,
    /// Not before somebody acts.
    Quarantined,
}

impl Word for State {
    const WORDS: &'static [(&'static str, Self)] =
        &[("running", Self::Running), ("back-off", Self::BackOff), ("quarantined", Self::Quarantined)];
}

/// What is known of a cell's failures.
#[derive(Clone, Debug, Default)]
pub struct Health {
    rule: Quarantine,
    /// When it failed last, at most as often as the rule allows.
    recent: VecDeque<Monotonic>,
    /// How often in turn it could not be made again, and when it is tried next.
    failed: u32,
    retry_at: Monotonic,
    quarantined: bool,
}

impl Health {
    /// Of a cell that has not failed yet.
    #[must_use]
    pub fn new(rule: Quarantine) -> Self {
        Self { rule, ..Self::default() }
    }

    /// Whether it may be called or made again.
    #[must_use]
    pub fn state(&self, now: Monotonic) -> State {
        if self.quarantined {
            State::Quarantined
        } else if self.failed > 0 && now < self.retry_at {
            State::BackOff
        } else {
            State::Running
        }
    }

    /// A call failed. Gives whether this was one too many.
    pub fn faulted(&mut self, now: Monotonic) -> bool {
        if self.quarantined || self.rule.faults == 0 {
            return false;
        }
        self.recent.retain(|at| now.since(*at) < self.rule.within_us);
        self.recent.push_back(now);
        self.quarantined = self.recent.len() >= self.rule.faults as usize;
        self.quarantined
    }

    /// It was made again.
    pub fn rebuilt(&mut self) {
        self.failed = 0;
    }

    /// It could not be made again.
    pub fn not_rebuilt(&mut self, now: Monotonic) {
        let pause = (RETRY_US << self.failed.min(9)).min(MAX_RETRY_US);
        self.failed = self.failed.saturating_add(1);
        self.retry_at = now.after(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000)
    }

    #[test]
    fn too_many_faults_within_the_time_are_the_end_and_the_same_number_in_a_longer_time_is_not() {
        let rule = Quarantine { faults: 3, within_us: 10_000_000 };
        let mut slow = Health::new(rule);
        assert!((0..100).all(|n| !slow.faulted(s(n * 5))));
        let mut fast = Health::new(rule);
        assert_eq!((fast.faulted(s(1)), fast.faulted(s(2)), fast.faulted(s(10))), (false, false, true));
        assert_eq!(fast.state(s(1_000_000)), State::Quarantined);
        let mut never = Health::new(Quarantine { faults: 0, ..rule });
        assert!((0..100).all(|_| !never.faulted(s(1))));
    }

    #[test]
    fn a_cell_that_cannot_be_made_again_is_tried_ever_more_rarely() {
        let mut health = Health::new(Quarantine::default());
        let mut pauses = alloc::vec![];
        let mut now = s(0);
        for _ in 0..80 {
            health.not_rebuilt(now);
            let due = (0..).map(|n| now.after(n * 1_000_000)).find(|at| health.state(*at) == State::Running);
            let due = due.expect("some time");
            pauses.push(due.since(now) / 1_000_000);
            now = due;
        }
        assert_eq!(pauses[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(pauses[9..].iter().all(|pause| *pause == 300), "{pauses:?}");
        health.rebuilt();
        assert_eq!(health.state(now), State::Running);
        health.not_rebuilt(now);
        assert_eq!(health.state(now.after(1_000_000)), State::Running);
    }
}
