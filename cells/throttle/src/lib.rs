//! Throttle: forwards every n-th reading, at most one in a time, or no repeats; each rule may be set alone.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `every` | 1 | forward the first of each so many readings; default 1: all |
//! | `min_interval_s` | s | forward a reading only so long after the last forwarded one; default 0 |
//! | `repeats` | flag | `false`: drop a reading whose value and quality are those of the last forwarded one; default `true` |
//! | `max_silence_s` | s | with `repeats = false`, forward one after this time all the same; default: no limit |
//!
//! A reading is forwarded if every rule lets it pass. Times are the readings' own; a clock that steps by at least
//! `min_interval_s` or `max_silence_s`, in either direction, ends that wait, and a smaller step back makes one wait
//! longer by as much; `every` counts readings and knows no time. Two values are the same if their bits are. Not for
//! keeping what matters: a sample misses what happens in between. Use `deadband`, `swinging-door` or `summary` first.
//!
//! Source of the terms: "sample" and "throttle" of the ReactiveX operators.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Throttle {
    every: u64,
    min_interval_us: u64,
    repeats: bool,
    max_silence_us: u64,
    /// Readings since the last n-th one.
    seen: u64,
    last: Option<Sent>,
}

/// The last forwarded reading.
#[derive(Clone, Copy, Debug)]
struct Sent {
    time_us: u64,
    value: f64,
    quality: u32,
}

impl Throttle {
    fn passes(&self, reading: Reading) -> bool {
        let Some(last) = self.last else { return true };
        let since = reading.time_us.abs_diff(last.time_us);
        let repeats = reading.value.to_bits() == last.value.to_bits() && reading.quality == last.quality;
        since >= self.min_interval_us && (self.repeats || !repeats || since >= self.max_silence_us)
    }
}

impl Cell for Throttle {
    const PARAMS: &'static [&'static str] = &["every", "min_interval_s", "repeats", "max_silence_s"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let every = stream.integer("every")?.unwrap_or(1);
        let every = u64::try_from(every).ok().filter(|every| *every > 0);
        Ok(Self {
            every: every.ok_or_else(|| stream.error("every", "must be above zero"))?,
            min_interval_us: stream.seconds_as_us("min_interval_s")?.unwrap_or(0),
            repeats: stream.flag("repeats")?.unwrap_or(true),
            max_silence_us: stream.seconds_as_us("max_silence_s")?.unwrap_or(u64::MAX),
            seen: 0,
            last: None,
        })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        let nth = self.seen == 0;
        self.seen = (self.seen + 1) % self.every;
        if nth && self.passes(reading) {
            let Reading { time_us, value, quality, .. } = reading;
            self.last = Some(Sent { time_us, value, quality });
            out.push(reading);
        }
    }

    fn save(&self, state: &mut StateWriter) {
        state.u64(self.seen);
        state.option(self.last, |state, last| {
            state.u64(last.time_us);
            state.f64(last.value);
            state.u32(last.quality);
        });
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        // `every` may be another one than when this was saved.
        self.seen = state.u64()? % self.every;
        self.last =
            state.option(|state| Ok(Sent { time_us: state.u64()?, value: state.f64()?, quality: state.u32()? }))?;
        Ok(())
    }
}

porin_sdk::export!(Throttle);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn throttle(params: &[(&str, Value)]) -> Result<Throttle, String> {
        let param = |(name, value): &(&str, Value)| Param { name: (*name).into(), value: value.clone() };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = StreamInfo { id: 1, name: "a".into(), unit: String::new(), params: vec![] };
        Throttle::new(&Stream { info: &info, params: &params, outputs: &[] })
    }

    fn forwarded(params: &[(&str, Value)], readings: &[(u64, f64)]) -> Vec<u64> {
        let mut cell = throttle(params).expect("good parameters");
        let mut out = Vec::new();
        for (second, value) in readings.iter().copied() {
            cell.process(Reading { time_us: second * 1_000_000, value, stream: 1, quality: 0 }, &mut out);
        }
        out.iter().map(|reading| reading.time_us / 1_000_000).collect()
    }

    const STEADY: [(u64, f64); 7] = [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0), (5, 1.0), (6, 1.0)];

    #[test]
    fn each_rule_works_alone() {
        assert_eq!(forwarded(&[], &STEADY), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(forwarded(&[("every", Value::Integer(3))], &STEADY), [0, 3, 6]);
        assert_eq!(forwarded(&[("min_interval_s", Value::Number(2.5))], &STEADY), [0, 3, 6]);
        assert_eq!(forwarded(&[("repeats", Value::Flag(false))], &STEADY), [0, 2, 5]);
        let silence = [("repeats", Value::Flag(false)), ("max_silence_s", Value::Integer(2))];
        assert_eq!(forwarded(&silence, &STEADY), [0, 2, 4, 5]);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_silence_the_stream() {
        assert_eq!(
            forwarded(&[("min_interval_s", Value::Integer(10))], &[(1_000, 0.0), (0, 0.0), (5, 0.0)]),
            [1_000, 0]
        );
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        assert!(throttle(&[("every", Value::Integer(0))]).expect_err("zero").contains("above zero"));
        assert!(throttle(&[("every", Value::Number(1.5))]).expect_err("a fraction").contains("integer"));
        assert!(throttle(&[("repeats", Value::Integer(1))]).expect_err("a number").contains("true or false"));
    }
}
