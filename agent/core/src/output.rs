//! Which level an output line has: what was decided last, for as long as it counts, or else the safe one.

use crate::{
    config::{Level, OutputLine},
    packet::Quality,
    time::Monotonic,
};

/// An output line and what was decided about it.
#[derive(Clone, Debug)]
pub struct Output {
    config: OutputLine,
    decided: Option<(Level, Monotonic)>,
}

impl Output {
    /// Nothing is decided.
    #[must_use]
    pub const fn new(config: OutputLine) -> Self {
        Self { config, decided: None }
    }

    /// Takes a decision: the value of a reading. One that is of no value takes the last one back.
    pub fn decide(&mut self, value: f64, quality: Quality, now: Monotonic) {
        let OutputLine { on, .. } = self.config;
        let level = if value == 0.0 { on.other() } else { on };
        let counts = !value.is_nan() && !quality.has(Quality::BAD);
        self.decided = counts.then_some((level, now));
    }

    /// The level that the line is to have.
    #[must_use]
    pub fn level(&self, now: Monotonic) -> Level {
        match self.decided {
            Some((level, _)) if self.ends().is_none_or(|end| now < end) => level,
            _ => self.config.safe,
        }
    }

    /// When the last decision stops to count.
    #[must_use]
    pub fn ends(&self) -> Option<Monotonic> {
        let ((_, at), hold_us) = (self.decided?, self.config.hold_us?);
        Some(at.after(hold_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GpioLine;

    #[test]
    fn a_line_does_what_was_decided_while_that_counts_and_is_safe_else() {
        let line = GpioLine::Named("GPIO17".into());
        let config = OutputLine { line, on: Level::Low, safe: Level::High, hold_us: Some(10) };
        let mut output = Output::new(config.clone());
        let at = Monotonic;
        assert_eq!((output.level(at(0)), output.ends()), (Level::High, None));
        output.decide(1.0, Quality::GOOD, at(5));
        assert_eq!(
            (output.level(at(5)), output.level(at(14)), output.level(at(15))),
            (Level::Low, Level::Low, Level::High)
        );
        // An alarm that is too low is −1.
        output.decide(-1.0, Quality::OWN_CLOCK, at(20));
        assert_eq!((output.level(at(21)), output.ends()), (Level::Low, Some(at(30))));
        output.decide(0.0, Quality::GOOD, at(22));
        assert_eq!((output.level(at(22)), output.level(at(32))), (Level::High, Level::High));
        for (value, quality) in [(f64::NAN, Quality::GOOD), (1.0, Quality::BAD)] {
            output.decide(1.0, Quality::GOOD, at(40));
            output.decide(value, quality, at(41));
            assert_eq!((output.level(at(41)), output.ends()), (Level::High, None));
        }
        let mut forever = Output::new(OutputLine { hold_us: None, ..config });
        forever.decide(1.0, Quality::GOOD, at(1));
        assert_eq!((forever.level(Monotonic(u64::MAX)), forever.ends()), (Level::Low, None));
    }
}
