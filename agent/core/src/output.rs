//! Which level an output line has, by what was decided of each stream that reaches it.
//!
//! `on` while any stream says so; else the safe one while of any stream nothing is known any more; else the other one.

use alloc::collections::BTreeMap;

use crate::{
    config::{Level, OutputLine},
    ids::{RouteId, StreamId},
    packet::Quality,
    time::Monotonic,
};

/// Whose decision it is.
pub type Decider = (RouteId, StreamId);

/// An output line and what was decided about it.
#[derive(Clone, Debug)]
pub struct Output {
    config: OutputLine,
    /// By who has decided: the last decision, `None` when it was taken back, and when it came.
    decided: BTreeMap<Decider, (Option<Level>, Monotonic)>,
}

impl Output {
    /// Nothing is decided.
    #[must_use]
    pub const fn new(config: OutputLine) -> Self {
        Self { config, decided: BTreeMap::new() }
    }

    /// Takes a decision: the value of a reading. One that is of no value takes the last one back.
    pub fn decide(&mut self, by: Decider, value: f64, quality: Quality, now: Monotonic) {
        let OutputLine { on, .. } = self.config;
        let level = if value == 0.0 { on.other() } else { on };
        let counts = !value.is_nan() && !quality.has(Quality::BAD);
        self.decided.insert(by, (counts.then_some(level), now));
    }

    /// Others decide from now on: nothing is decided.
    pub fn forget(&mut self) {
        self.decided.clear();
    }

    /// The level of a line about which nothing is known.
    #[must_use]
    pub const fn safe(&self) -> Level {
        self.config.safe
    }

    /// The level that the line is to have.
    #[must_use]
    pub fn level(&self, now: Monotonic) -> Level {
        let OutputLine { on, safe, .. } = self.config;
        let counting =
            |(level, at): &(Option<Level>, Monotonic)| level.filter(|_| self.end_of(*at).is_none_or(|end| now < end));
        let mut known = !self.decided.is_empty();
        for decision in self.decided.values() {
            match counting(decision) {
                Some(level) if level == on => return on,
                Some(_) => {}
                None => known = false,
            }
        }
        if known { on.other() } else { safe }
    }

    /// When the next decision stops to count.
    #[must_use]
    pub fn ends(&self, now: Monotonic) -> Option<Monotonic> {
        let ends = self.decided.values().filter(|(level, _)| level.is_some()).filter_map(|(_, at)| self.end_of(*at));
        ends.filter(|end| *end > now).min()
    }

    fn end_of(&self, at: Monotonic) -> Option<Monotonic> {
        self.config.hold_us.map(|hold_us| at.after(hold_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GpioLine;

    const ONE: Decider = (RouteId(0), StreamId(1));
    const TWO: Decider = (RouteId(0), StreamId(2));

    fn config(on: Level, safe: Level, hold_us: Option<u64>) -> OutputLine {
        OutputLine { line: GpioLine::Named("GPIO17".into()), on, safe, hold_us }
    }

    #[test]
    fn a_line_does_what_was_decided_while_that_counts_and_is_safe_else() {
        let mut output = Output::new(config(Level::Low, Level::High, Some(10)));
        let at = Monotonic;
        assert_eq!((output.level(at(0)), output.ends(at(0))), (Level::High, None));
        output.decide(ONE, 1.0, Quality::GOOD, at(5));
        assert_eq!(
            (output.level(at(5)), output.level(at(14)), output.level(at(15))),
            (Level::Low, Level::Low, Level::High)
        );
        // An alarm that is too low is −1.
        output.decide(ONE, -1.0, Quality::OWN_CLOCK, at(20));
        assert_eq!((output.level(at(21)), output.ends(at(21))), (Level::Low, Some(at(30))));
        output.decide(ONE, 0.0, Quality::GOOD, at(22));
        assert_eq!((output.level(at(22)), output.level(at(32))), (Level::High, Level::High));
        for (value, quality) in [(f64::NAN, Quality::GOOD), (1.0, Quality::BAD)] {
            output.decide(ONE, 1.0, Quality::GOOD, at(40));
            output.decide(ONE, value, quality, at(41));
            assert_eq!((output.level(at(41)), output.ends(at(41))), (Level::High, None));
        }
        let mut forever = Output::new(config(Level::Low, Level::High, None));
        forever.decide(ONE, 1.0, Quality::GOOD, at(1));
        assert_eq!((forever.level(Monotonic(u64::MAX)), forever.ends(at(1))), (Level::Low, None));
    }

    #[test]
    fn of_several_streams_one_that_says_on_is_enough_and_one_of_which_nothing_is_known_makes_it_safe() {
        // A pump that cools: it is to run when nothing is known.
        let mut pump = Output::new(config(Level::High, Level::High, Some(10)));
        let mut siren = Output::new(config(Level::High, Level::Low, Some(10)));
        let at = Monotonic;
        let mut decide = |by, value, quality, now| {
            pump.decide(by, value, quality, at(now));
            siren.decide(by, value, quality, at(now));
            (pump.level(at(now)), siren.level(at(now)))
        };
        assert_eq!(decide(ONE, 1.0, Quality::GOOD, 0), (Level::High, Level::High));
        // All is well with the other one, which changes nothing for the first.
        assert_eq!(decide(TWO, 0.0, Quality::GOOD, 1), (Level::High, Level::High));
        assert_eq!(decide(ONE, 0.0, Quality::GOOD, 2), (Level::Low, Level::Low));
        assert_eq!(decide(ONE, f64::NAN, Quality::BAD, 3), (Level::High, Level::Low));
        assert_eq!(decide(ONE, 0.0, Quality::GOOD, 4), (Level::Low, Level::Low));
        // The second one has been silent for too long, then the first.
        assert_eq!((pump.ends(at(4)), pump.level(at(11))), (Some(at(11)), Level::High));
        assert_eq!((pump.ends(at(11)), siren.level(at(11))), (Some(at(14)), Level::Low));
        siren.decide(ONE, 1.0, Quality::GOOD, at(20));
        siren.forget();
        assert_eq!((siren.level(at(20)), siren.ends(at(20))), (Level::Low, None));
    }
}
