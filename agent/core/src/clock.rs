//! What the machine's wall clock was worth, and when: times that it gave before it was right can be put right later.
//!
//! A gateway without a clock chip starts in 1970, or when it was switched off, and learns the time minutes or days later.
//! Packets carry the moment of a clock that never steps beside their time. When the wall clock is set, the difference of
//! the two changes, and every time of this life of the machine is wrong by exactly that much. No I/O: the clocks are
//! arguments.

use alloc::vec::Vec;

use crate::{
    status::JudgedBy,
    time::{Monotonic, Now, Unix},
};

/// A change of the wall clock by less than this is no step: it is followed, not corrected.
const STEP_US: u64 = 500_000;

/// A wall clock that says less has never been set: it is earlier than porin. 2025-01-01.
pub const NEVER_BEFORE: Unix = Unix(1_735_689_600_000_000);

/// What is less is no clock that had never been set, but one that somebody has set.
const DAY_US: u64 = 86_400_000_000;

/// Stretches that are remembered. A clock that is set more often than that makes the oldest times uncertain.
pub const MAX_SPANS: usize = 256;

/// When the wall clock is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// When it says at least what it said when it was last believed: for a machine with a clock chip.
    #[default]
    Plausible,
    /// Only when the kernel says that something keeps it right: for a machine without one, whose clock starts where it was
    /// switched off.
    Synchronised,
}

impl Trust {
    /// All of them, with their words in a configuration.
    pub const ALL: [(&str, Self); 2] = [("plausible", Self::Plausible), ("synchronised", Self::Synchronised)];
}

/// By which time certificates are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateTime {
    /// By the wall clock, but never by an earlier time than this one, at which it was believed.
    Clock(Unix),
    /// Nothing has set the clock since the machine's start: ends are judged by this time, at which it was last believed, and
    /// beginnings not at all.
    Floor(Unix),
}

impl CertificateTime {
    /// Which of the two it is.
    #[must_use]
    pub fn judged_by(self) -> JudgedBy {
        match self {
            Self::Clock(_) => JudgedBy::Clock,
            Self::Floor(_) => JudgedBy::Floor,
        }
    }
}

/// Whether the machine keeps the time while it is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Chip {
    Present,
    Missing,
}

/// Whether the kernel says that something, such as NTP, keeps the wall clock right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClockSync {
    Synchronised,
    Free,
}

/// A stretch of a life of the machine in which its wall clock went on steadily.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The life, by the count of the machine's starts.
    pub boot: u32,
    /// When it began.
    pub from: Monotonic,
    /// The wall clock less the clock that never steps, in microseconds.
    pub offset_us: i64,
    /// Whether the wall clock was right, as far as we know.
    pub trusted: bool,
}

/// The wall clock of this life, and of those before as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    boot: u32,
    trust: Trust,
    /// What the clock said when it was last believed.
    floor: Unix,
    /// In order.
    spans: Vec<Span>,
    changes: u64,
    /// Whether the kernel has said in this run that something keeps the clock right.
    was_kept: bool,
}

/// What [`Clock::observe`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The clock is not believed: it says less than it did when it was last believed, or nothing keeps it right.
    Unset,
    /// The clock is right from now on; by how many microseconds it was wrong.
    Set(i64),
    /// It was right, and somebody has set it; by how many microseconds.
    Stepped(i64),
}

impl Clock {
    /// `spans`: of lives whose packets still wait, in order. `floor`: what the clock said when it was last believed.
    #[must_use]
    pub fn new(boot: u32, trust: Trust, floor: Unix, spans: Vec<Span>) -> Self {
        Self { boot, trust, floor: floor.max(NEVER_BEFORE), spans, changes: 0, was_kept: false }
    }

    /// The configuration has changed.
    pub fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// Compares the two clocks. `None`: nothing has changed.
    pub fn observe(&mut self, now: Now, kept: ClockSync) -> Option<Change> {
        let offset_us = offset(now);
        self.was_kept |= kept == ClockSync::Synchronised;
        // What keeps the clock right may also have found that it was once too far ahead.
        let trusted = match (self.trust, kept) {
            (_, ClockSync::Synchronised) => now.unix >= NEVER_BEFORE,
            (Trust::Plausible, ClockSync::Free) => now.unix >= self.floor || self.is_set_back(now),
            // Once right it stays so: a clock runs on for weeks without help.
            (Trust::Synchronised, ClockSync::Free) => {
                self.is_trusted() && (now.unix >= self.floor || self.is_set_back(now))
            }
        };
        if trusted {
            self.floor = now.unix;
        }
        let last = self.spans.last().filter(|last| last.boot == self.boot).copied();
        let steady = last.is_some_and(|last| last.offset_us.abs_diff(offset_us) < STEP_US && last.trusted == trusted);
        if steady {
            return None;
        }
        if self.spans.len() >= MAX_SPANS {
            self.spans.remove(0);
        }
        self.spans.push(Span { boot: self.boot, from: now.mono, offset_us, trusted });
        self.changes += 1;
        match last {
            None if trusted => None,
            None => Some(Change::Unset),
            Some(last) if last.trusted && trusted => Some(Change::Stepped(offset_us.saturating_sub(last.offset_us))),
            Some(last) if trusted => Some(Change::Set(offset_us.saturating_sub(last.offset_us))),
            Some(_) => Some(Change::Unset),
        }
    }

    /// While it is believed the clock may be set back by up to a day, as by hand.
    fn is_set_back(&self, now: Now) -> bool {
        self.is_trusted() && now.unix >= NEVER_BEFORE && now.unix.0.saturating_add(DAY_US) >= self.floor.0
    }

    /// Whether the wall clock is right, as far as we know.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.spans.last().is_some_and(|span| span.boot == self.boot && span.trusted)
    }

    /// Returns the time by which certificates are judged. A plausible time comes from a clock chip, from NTP or from a person. On a board
    /// without a chip whose clock has not been set since the start, it may be as old as the image.
    #[must_use]
    pub fn certificate_time(&self, chip: Chip) -> CertificateTime {
        let stretches = self.spans.iter().filter(|span| span.boot == self.boot).count();
        let is_set = chip == Chip::Present || self.was_kept || stretches > 1;
        if self.is_trusted() && is_set {
            CertificateTime::Clock(self.floor)
        } else {
            CertificateTime::Floor(self.floor)
        }
    }

    /// A time that the wall clock gave a moment ago, and whether it is to be believed. One from just before the clock was set is
    /// put right.
    #[must_use]
    pub fn judge(&self, time: Unix, now: Now) -> (Unix, bool) {
        let mut of_boot = self.spans.iter().rev().filter(|span| span.boot == self.boot);
        let (Some(last), before) = (of_boot.next(), of_boot.next()) else { return (time, false) };
        let distance = |span: &Span| now.mono.0.saturating_add_signed(span.offset_us).abs_diff(time.0);
        // One of before the step, as the clock was then.
        let is_before =
            |span: &Span| i64::try_from(time.0).unwrap_or(i64::MAX).saturating_sub(span.offset_us) < to_i64(last.from);
        match before.filter(|before| distance(before) < distance(last) && is_before(before)) {
            None => (time, last.trusted),
            Some(before) if last.trusted => {
                let by = last.offset_us.saturating_sub(before.offset_us);
                (Unix(time.0.saturating_add_signed(by)), true)
            }
            Some(_) => (time, false),
        }
    }

    /// A time that the wall clock gave when it was not trusted, put right; `None`: nobody knows. `at`: when, in the life `boot`.
    #[must_use]
    pub fn put_right(&self, boot: u32, at: Monotonic, time: Unix) -> Option<Unix> {
        let of_boot = || self.spans.iter().filter(|span| span.boot == boot);
        let then = of_boot().take_while(|span| span.from <= at).last().filter(|then| !then.trusted)?;
        // The next that was: so times stay in order with those that follow, whatever happens to the clock later.
        let right = of_boot().find(|span| span.trusted && span.from > at)?;
        time.0.checked_add_signed(right.offset_us.checked_sub(then.offset_us)?).map(Unix)
    }

    /// What the clock said when it was last believed.
    #[must_use]
    pub fn floor(&self) -> Unix {
        self.floor
    }

    /// How often the stretches have changed in this run.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All stretches, in order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

fn to_i64(time: Monotonic) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn offset(now: Now) -> i64 {
    i64::try_from(now.unix.0).unwrap_or(i64::MAX).saturating_sub(to_i64(now.mono))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const FREE: ClockSync = ClockSync::Free;

    const S: u64 = 1_000_000;
    const HOUR: u64 = 3_600 * S;
    /// 2026-01-01.
    const NEW_YEAR: u64 = 1_767_225_600 * S;

    fn now(unix: u64, mono: u64) -> Now {
        Now { unix: Unix(unix), mono: Monotonic(mono) }
    }

    #[test]
    fn a_start_in_1970_is_put_right_when_the_clock_is_set_an_hour_later() {
        let mut clock = Clock::new(7, Trust::Plausible, Unix(0), vec![]);
        assert_eq!(clock.observe(now(10 * S, 10 * S), FREE), Some(Change::Unset));
        assert!(!clock.is_trusted());
        assert_eq!(clock.observe(now(HOUR, HOUR), FREE), None);
        assert_eq!(clock.put_right(7, Monotonic(20 * S), Unix(20 * S)), None, "not yet");
        let by = i64::try_from(NEW_YEAR).expect("it fits");
        assert_eq!(clock.observe(now(NEW_YEAR + HOUR + S, HOUR + S), FREE), Some(Change::Set(by)));
        assert!(clock.is_trusted());
        for seconds in [10, 20, 3_600] {
            let right = clock.put_right(7, Monotonic(seconds * S), Unix((seconds - 1) * S));
            assert_eq!(right, Some(Unix(NEW_YEAR + (seconds - 1) * S)));
        }
        assert_eq!(clock.put_right(6, Monotonic(20 * S), Unix(20 * S)), None, "an earlier life that was never right");
    }

    #[test]
    fn a_time_from_just_before_the_clock_was_set_is_put_right_at_once() {
        let mut clock = Clock::new(1, Trust::Plausible, Unix(0), vec![]);
        assert_eq!(clock.judge(Unix(S), now(S, S)), (Unix(S), false), "nothing is known yet");
        clock.observe(now(9 * S, 9 * S), FREE);
        assert_eq!(clock.judge(Unix(9 * S), now(9 * S, 9 * S)), (Unix(9 * S), false));
        clock.observe(now(NEW_YEAR, 10 * S), FREE);
        assert_eq!(clock.judge(Unix(9 * S), now(NEW_YEAR, 10 * S)), (Unix(NEW_YEAR - S), true));
        assert_eq!(clock.judge(Unix(NEW_YEAR), now(NEW_YEAR, 10 * S)), (Unix(NEW_YEAR), true));
        // A small step long ago, and a packet that has waited: its time is right.
        clock.observe(now(NEW_YEAR + 12 * S, 20 * S), FREE);
        let later = now(NEW_YEAR + HOUR, HOUR + 8 * S);
        assert_eq!(clock.judge(Unix(NEW_YEAR + HOUR - 3 * S), later), (Unix(NEW_YEAR + HOUR - 3 * S), true));
        // What was right then stays, whatever happens to the clock later.
        assert_eq!(clock.put_right(1, Monotonic(11 * S), Unix(S)), None);
    }

    #[test]
    fn steps_in_between_are_taken_into_account_and_an_earlier_life_that_became_right_is_put_right_too() {
        let mut clock = Clock::new(1, Trust::Plausible, Unix(0), vec![]);
        clock.observe(now(0, 0), FREE);
        clock.observe(now(HOUR, 10 * S), FREE);
        clock.observe(now(NEW_YEAR, 20 * S), FREE);
        let again = Clock::new(2, Trust::Plausible, Unix(NEW_YEAR), clock.spans().to_vec());
        let right = |at: u64, time: u64| again.put_right(1, Monotonic(at * S), Unix(time));
        assert_eq!(right(5, 5 * S), Some(Unix(NEW_YEAR - 15 * S)));
        assert_eq!(right(15, HOUR + 5 * S), Some(Unix(NEW_YEAR - 5 * S)));
        assert!(!again.is_trusted(), "this life has not begun");
    }

    #[test]
    fn a_clock_that_is_right_and_set_back_a_little_stays_trusted_and_one_behind_the_floor_does_not() {
        let mut clock = Clock::new(1, Trust::Plausible, Unix(NEW_YEAR), vec![]);
        assert_eq!(clock.observe(now(NEW_YEAR + HOUR, S), FREE), None);
        assert_eq!(clock.observe(now(NEW_YEAR + HOUR + S / 4, S), FREE), None, "followed");
        assert_eq!(clock.observe(now(NEW_YEAR + HOUR - 60 * S, S), FREE), Some(Change::Stepped(-60_000_000)));
        assert!(clock.is_trusted());
        assert_eq!(clock.observe(now(NEW_YEAR - 2 * DAY_US, 2 * S), FREE), Some(Change::Unset));
        // The kernel knows better.
        assert_eq!(clock.observe(now(NEW_YEAR - 2 * DAY_US, 2 * S), ClockSync::Synchronised), Some(Change::Set(0)));
        assert_eq!(clock.floor(), Unix(NEW_YEAR - 2 * DAY_US));
    }

    #[test]
    fn a_clock_that_starts_where_it_was_switched_off_is_believed_when_something_keeps_it_right() {
        let mut clock = Clock::new(1, Trust::Synchronised, Unix(NEW_YEAR), vec![]);
        assert_eq!(clock.observe(now(NEW_YEAR + S, S), FREE), Some(Change::Unset));
        assert_eq!(
            clock.observe(now(NEW_YEAR + HOUR, 2 * S), ClockSync::Synchronised),
            Some(Change::Set(3_598_000_000))
        );
        assert_eq!(clock.put_right(1, Monotonic(S), Unix(NEW_YEAR)), Some(Unix(NEW_YEAR + 3_598 * S)));
        assert_eq!(clock.observe(now(NEW_YEAR + HOUR + S, 3 * S), FREE), None, "it runs on without help");
    }

    #[test]
    fn a_clock_that_nothing_has_set_since_the_start_judges_no_beginning_of_a_certificate() {
        let floor = |time| CertificateTime::Floor(Unix(time));
        let clock_of = |trust| Clock::new(1, trust, Unix(NEW_YEAR), vec![]);
        // Switched off for long: it goes on where it was.
        let mut clock = clock_of(Trust::Synchronised);
        clock.observe(now(NEW_YEAR + S, S), FREE);
        assert_eq!(clock.certificate_time(Chip::Missing), floor(NEW_YEAR));
        clock.observe(now(NEW_YEAR + HOUR, 2 * S), ClockSync::Synchronised);
        assert_eq!(clock.certificate_time(Chip::Missing), CertificateTime::Clock(Unix(NEW_YEAR + HOUR)));
        // Plausible is not enough without a chip, until it is set by hand.
        let mut clock = clock_of(Trust::Plausible);
        clock.observe(now(NEW_YEAR + S, S), FREE);
        assert!(clock.is_trusted());
        assert_eq!(clock.certificate_time(Chip::Missing), floor(NEW_YEAR + S));
        assert_eq!(clock.certificate_time(Chip::Present), CertificateTime::Clock(Unix(NEW_YEAR + S)));
        clock.observe(now(NEW_YEAR + HOUR, 2 * S), FREE);
        assert_eq!(clock.certificate_time(Chip::Missing), CertificateTime::Clock(Unix(NEW_YEAR + HOUR)));
        // A chip with an empty battery says less than the floor.
        let mut clock = clock_of(Trust::Plausible);
        clock.observe(now(10 * S, 10 * S), FREE);
        assert_eq!(clock.certificate_time(Chip::Present), floor(NEW_YEAR));
    }

    #[test]
    fn a_clock_that_is_set_again_and_again_is_remembered_within_a_bound() {
        let mut clock = Clock::new(1, Trust::Plausible, Unix(NEW_YEAR), vec![]);
        for hour in 0..1_000 {
            clock.observe(now(NEW_YEAR + hour * HOUR, hour), FREE);
        }
        assert_eq!((clock.spans().len(), clock.changes()), (MAX_SPANS, 1_000));
    }

    #[test]
    fn no_clock_however_strange_makes_it_panic() {
        let mut clock = Clock::new(1, Trust::Plausible, Unix(u64::MAX), vec![]);
        for (unix, mono) in [(0, 0), (u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (NEW_YEAR, 1)] {
            clock.observe(now(unix, mono), FREE);
            let _ = clock.put_right(1, Monotonic(mono), Unix(unix));
        }
    }
}
