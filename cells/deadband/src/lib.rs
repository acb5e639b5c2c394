//! Deadband (send on delta): forwards a reading when it differs from the last forwarded one by more than a bound.
//!
//! Holding each forwarded value until the next one rebuilds the stream with an error of at most the bound at every
//! reading: `|value − last forwarded| > bound` is forwarded, all else is dropped.
//!
//! A move of exactly the bound is dropped. Most decimal numbers are not exact in binary: 20.1 − 20.0 comes out above 0.1, and 0.3 − 0.2
//! below it. So a move counts only if it exceeds the bound by more than this rounding: (|value| + |last| + bound) × 2⁻⁵².
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `absolute` | the stream's | the bound itself; this or `percent` |
//! | `percent` | % of `span` | the bound as a share of the stream's range; 1 is a good start (AVEVA PI's default for exception reporting) |
//! | `span` | the stream's | the stream's range; a parameter of the stream, needed with `percent` |
//! | `max_silence_s` | s | forward at the latest after this time; default: no limit |
//!
//! A first reading is forwarded, and so is one whose quality differs from the last forwarded one's, and a change to
//! or from "not a number". When the clock steps by `max_silence_s` or more, in either direction, the next reading
//! is forwarded; a smaller step back makes one silence longer by as much. Not for finding faults: a signal that moves a lot is forwarded a lot, whether it matters or not.
//!
//! Source of the defaults: AVEVA PI System, "Exception reporting": exception deviation 1 % of span.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Deadband {
    bound: f64,
    max_silence_us: u64,
    last: Option<Sent>,
}

/// What a consumer knows of the stream.
#[derive(Clone, Copy, Debug)]
struct Sent {
    time_us: u64,
    value: f64,
    quality: u32,
}

impl Deadband {
    /// Whether a move is at most the bound, but for what rounding adds. A difference that is not a number is not.
    fn is_within(&self, distance: f64, value: f64, last: f64) -> bool {
        let rounding = (value.abs() + last.abs() + self.bound) * f64::EPSILON;
        distance <= self.bound || (rounding.is_finite() && distance - self.bound <= rounding)
    }

    fn forwards(&self, reading: Reading) -> bool {
        let Some(last) = self.last else { return true };
        let same_bits = reading.value.to_bits() == last.value.to_bits();
        let moved = !same_bits && !(self.is_within((reading.value - last.value).abs(), reading.value, last.value));
        moved || reading.quality != last.quality || reading.time_us.abs_diff(last.time_us) >= self.max_silence_us
    }
}

impl Cell for Deadband {
    const PARAMS: &'static [&'static str] = &["absolute", "percent", "max_silence_s"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let max_silence_us = match stream.seconds_as_us("max_silence_s")? {
            Some(0) => return Err(stream.error("max_silence_s", "must be above zero")),
            other => other.unwrap_or(u64::MAX),
        };
        Ok(Self { bound: stream.error_bound()?, max_silence_us, last: None })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        if self.forwards(reading) {
            let Reading { time_us, value, quality, .. } = reading;
            self.last = Some(Sent { time_us, value, quality });
            out.push(reading);
        }
    }

    fn save(&self, state: &mut StateWriter) {
        state.option(self.last, |state, last| {
            state.u64(last.time_us);
            state.f64(last.value);
            state.u32(last.quality);
        });
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        self.last =
            state.option(|state| Ok(Sent { time_us: state.u64()?, value: state.f64()?, quality: state.u32()? }))?;
        Ok(())
    }
}

porin_sdk::export!(Deadband);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn param(name: &str, value: f64) -> Param {
        Param { name: name.into(), value: Value::Number(value) }
    }

    fn deadband(params: &[Param]) -> Result<Deadband, String> {
        let info = StreamInfo { id: 1, name: "a".into(), unit: "Cel".into(), params: vec![param("span", 50.0)] };
        Deadband::new(&Stream { info: &info, params, outputs: &[] })
    }

    /// Time in seconds, value, quality; gives the times of what is forwarded.
    fn forwarded(params: &[Param], readings: &[(u64, f64, u32)]) -> Vec<u64> {
        let mut cell = deadband(params).expect("good parameters");
        let mut out = Vec::new();
        for (time, value, quality) in readings.iter().copied() {
            cell.process(Reading { time_us: time * 1_000_000, value, stream: 1, quality }, &mut out);
        }
        out.iter().map(|reading| reading.time_us / 1_000_000).collect()
    }

    #[test]
    fn a_reading_is_forwarded_when_it_moves_by_more_than_the_bound() {
        let readings = [(0, 10.0, 0), (1, 10.5, 0), (2, 10.6, 0), (3, 10.0, 0), (4, 10.2, 0)];
        assert_eq!(forwarded(&[param("absolute", 0.5)], &readings), [0, 2, 3]);
        assert_eq!(forwarded(&[param("percent", 1.0)], &readings), [0, 2, 3], "1 % of 50 is 0.5");
    }

    /// Steps of 0.1 with a bound of 0.1, up and down, from any tenth: none is forwarded, whatever its binary rounding; 0.11 always is.
    #[test]
    fn a_move_of_exactly_the_bound_is_dropped_whatever_its_rounding() {
        let bound = [param("absolute", 0.1)];
        for tenth in -2_000_i32..2_000 {
            let value = |hundredths: i32| f64::from(hundredths) / 100.0;
            for (step, expected) in [(10, 1), (-10, 1), (11, 2), (-11, 2)] {
                let readings = [(0, value(tenth * 10), 0), (1, value(tenth * 10 + step), 0)];
                assert_eq!(forwarded(&bound, &readings).len(), expected, "{} {step}", value(tenth * 10));
            }
        }
        let infinite = [(0, 1.0, 0), (1, f64::INFINITY, 0), (2, f64::MAX, 0), (3, f64::MIN, 0)];
        assert_eq!(forwarded(&bound, &infinite), [0, 1, 2, 3]);
    }

    #[test]
    fn silence_has_an_end_and_so_has_a_clock_that_steps() {
        let params = [param("absolute", 1.0), param("max_silence_s", 60.0)];
        assert_eq!(forwarded(&params, &[(100, 0.0, 0), (159, 0.0, 0), (160, 0.0, 0), (161, 0.0, 0)]), [100, 160]);
        assert_eq!(forwarded(&params, &[(1_000, 0.0, 0), (0, 0.0, 0), (1, 0.0, 0)]), [1_000, 0]);
    }

    #[test]
    fn what_is_no_number_is_forwarded_once_and_never_silences_the_stream() {
        let readings = [
            (0, 1.0, 0),
            (1, f64::NAN, 0),
            (2, f64::NAN, 0),
            (3, 1.0, 0),
            (4, f64::INFINITY, 0),
            (5, f64::INFINITY, 0),
        ];
        assert_eq!(forwarded(&[param("absolute", 0.5)], &readings), [0, 1, 3, 4]);
    }

    #[test]
    fn a_change_of_quality_is_forwarded() {
        assert_eq!(
            forwarded(&[param("absolute", 0.5)], &[(0, 1.0, 0), (1, 1.0, 2), (2, 1.0, 2), (3, 1.0, 0)]),
            [0, 1, 3]
        );
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        for (params, expected) in [
            (&[][..], "`absolute` of stream `a`: missing"),
            (&[param("absolute", 1.0), param("percent", 1.0)], "not both"),
            (&[param("absolute", -1.0)], "must not be negative"),
            (&[param("absolute", 1.0), param("max_silence_s", 0.0)], "must be above zero"),
        ] {
            let error = deadband(params).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
