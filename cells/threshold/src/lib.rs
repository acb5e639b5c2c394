//! Threshold: says when a value leaves its limits and when it is back.
//!
//! Sends one reading per change on the stream's output: 1 above `high`, −1 below `low`, 0 within. The first reading
//! of a stream sends its state, whatever it is, so that a consumer knows where it stands.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `high` | the stream's | alarm when the value is above it; this, `low`, or both |
//! | `low` | the stream's | alarm when the value is below it |
//! | `hysteresis` | the stream's | an alarm ends only when the value is back inside by this much; default 0 |
//! | `min_hold_s` | s | an alarm, once raised, is held at least this long; default 0 |
//! | `max_silence_s` | s | say the state again at the latest after this time; default: only changes are sent |
//!
//! The slot needs `outputs = ["{stream}/alarm"]` or another name. Raising is never delayed: a value that goes
//! straight from above `high` to below `low` changes the alarm at once. A value that is not a number decides nothing, so that with
//! `max_silence_s` whoever acts on the alarm notices when there are no values any more.
//! When the clock steps, in either direction, by `min_hold_s` or more, a hold is over; a smaller step back makes one
//! longer by as much. Not for noisy signals without
//! `hysteresis`: each crossing of the limit is a change.
//!
//! Source of the terms: ANSI/ISA-18.2-2016, "Management of Alarm Systems" (deadband, off-delay).
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// Where the value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    Off,
    High,
    Low,
}

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Threshold {
    high: f64,
    low: f64,
    hysteresis: f64,
    min_hold_us: u64,
    max_silence_us: Option<u64>,
    output: u32,
    /// The state that was sent last, and when it began.
    sent: Option<(Alarm, u64)>,
    /// When something was sent last. Not saved: after a start the state is said again at once, if it is to be said again at all.
    said: Option<u64>,
}

impl Threshold {
    /// The state that `value` asks for, given the present one.
    fn wanted(&self, value: f64, now: Alarm) -> Alarm {
        let margin = |alarm| if now == alarm { self.hysteresis } else { 0.0 };
        if value > self.high - margin(Alarm::High) {
            Alarm::High
        } else if value < self.low + margin(Alarm::Low) {
            Alarm::Low
        } else {
            Alarm::Off
        }
    }

    /// Whether it has said nothing for too long.
    fn is_silent(&self, time_us: u64) -> bool {
        let too_long = |silence| self.said.is_none_or(|said| time_us.abs_diff(said) >= silence);
        self.max_silence_us.is_some_and(too_long)
    }
}

impl Cell for Threshold {
    const PARAMS: &'static [&'static str] = &["high", "low", "hysteresis", "min_hold_s", "max_silence_s"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let (high, low) = (stream.number("high")?, stream.number("low")?);
        if high.is_none() && low.is_none() {
            return Err(stream.error("high", "missing; give it, `low`, or both"));
        }
        let (high, low) = (high.unwrap_or(f64::INFINITY), low.unwrap_or(f64::NEG_INFINITY));
        let hysteresis = stream.positive("hysteresis")?.unwrap_or(0.0);
        if high - hysteresis < low + hysteresis {
            return Err(stream.error("hysteresis", "leaves no room between `low` and `high`"));
        }
        let Some(output) = stream.outputs.first() else {
            return Err(String::from("the slot needs an output, such as outputs = [\"{stream}/alarm\"]"));
        };
        let min_hold_us = stream.seconds_as_us("min_hold_s")?.unwrap_or(0);
        let max_silence_us = match stream.seconds_as_us("max_silence_s")? {
            Some(0) => return Err(stream.error("max_silence_s", "must be above zero")),
            silence => silence,
        };
        Ok(Self { high, low, hysteresis, min_hold_us, max_silence_us, output: output.id, sent: None, said: None })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        if reading.value.is_nan() {
            return;
        }
        let (now, since) = self.sent.unwrap_or((Alarm::Off, 0));
        let wanted = self.wanted(reading.value, now);
        let held = wanted == Alarm::Off && reading.time_us.abs_diff(since) < self.min_hold_us;
        let changes = self.sent.is_none() || (wanted != now && !held);
        if changes {
            self.sent = Some((wanted, reading.time_us));
        }
        if changes || self.is_silent(reading.time_us) {
            self.said = Some(reading.time_us);
            let state = if changes { wanted } else { now };
            let value = match state {
                Alarm::Off => 0.0,
                Alarm::High => 1.0,
                Alarm::Low => -1.0,
            };
            out.push(Reading { value, stream: self.output, ..reading });
        }
    }

    fn save(&self, state: &mut StateWriter) {
        state.option(self.sent, |state, (alarm, since)| {
            state.u8(alarm as u8);
            state.u64(since);
        });
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        self.sent = state.option(|state| {
            let alarm = match state.u8()? {
                0 => Alarm::Off,
                1 => Alarm::High,
                2 => Alarm::Low,
                _ => return Err(Malformed),
            };
            Ok((alarm, state.u64()?))
        })?;
        Ok(())
    }
}

porin_sdk::export!(Threshold);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn info(id: u32) -> StreamInfo {
        StreamInfo { id, name: "a".into(), unit: String::new(), params: vec![] }
    }

    fn threshold(params: &[(&str, f64)], outputs: &[StreamInfo]) -> Result<Threshold, String> {
        let param = |(name, value): &(&str, f64)| Param { name: (*name).into(), value: Value::Number(*value) };
        let params: Vec<_> = params.iter().map(param).collect();
        Threshold::new(&Stream { info: &info(1), params: &params, outputs })
    }

    /// Time in seconds and value; gives time and alarm of each change.
    fn alarms(params: &[(&str, f64)], readings: &[(u64, f64)]) -> Vec<(u64, f64)> {
        let mut cell = threshold(params, &[info(2)]).expect("good parameters");
        let mut out = Vec::new();
        for (time, value) in readings.iter().copied() {
            cell.process(Reading { time_us: time * 1_000_000, value, stream: 1, quality: 0 }, &mut out);
        }
        assert!(out.iter().all(|reading| reading.stream == 2));
        out.iter().map(|reading| (reading.time_us / 1_000_000, reading.value)).collect()
    }

    const LIMITS: [(&str, f64); 3] = [("high", 10.0), ("low", 0.0), ("hysteresis", 1.0)];

    #[test]
    fn an_alarm_begins_at_the_limit_and_ends_inside_it() {
        let readings = [(0, 5.0), (1, 10.0), (2, 10.1), (3, 9.5), (4, 9.0), (5, -0.1), (6, 0.5), (7, 1.0)];
        assert_eq!(alarms(&LIMITS, &readings), [(0, 0.0), (2, 1.0), (4, 0.0), (5, -1.0), (7, 0.0)]);
    }

    #[test]
    fn an_alarm_changes_sides_at_once_and_is_held_its_time() {
        let params = [LIMITS[0], LIMITS[1], ("min_hold_s", 60.0)];
        let readings = [(0, 11.0), (10, -1.0), (20, 5.0), (69, 5.0), (70, 5.0), (71, 11.0)];
        assert_eq!(alarms(&params, &readings), [(0, 1.0), (10, -1.0), (70, 0.0), (71, 1.0)]);
    }

    #[test]
    fn the_state_is_said_again_for_those_who_want_to_hear_it() {
        let params = [LIMITS[0], ("min_hold_s", 60.0), ("max_silence_s", 10.0)];
        let readings = [(0, 11.0), (9, 11.0), (10, 5.0), (15, f64::NAN), (21, 5.0), (30, 5.0), (61, 5.0), (70, 5.0)];
        assert_eq!(alarms(&params, &readings), [(0, 1.0), (10, 1.0), (21, 1.0), (61, 0.0)]);
        // After a start at once.
        let mut cell = threshold(&params, &[info(2)]).expect("good parameters");
        cell.sent = Some((Alarm::High, 0));
        let mut out = Vec::new();
        cell.process(Reading { time_us: 1, value: 11.0, stream: 1, quality: 0 }, &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn what_is_no_number_decides_nothing() {
        assert_eq!(alarms(&LIMITS, &[(0, f64::NAN), (1, 11.0), (2, f64::NAN), (3, 5.0)]), [(1, 1.0), (3, 0.0)]);
        assert_eq!(alarms(&LIMITS, &[(0, f64::INFINITY), (1, f64::NEG_INFINITY)]), [(0, 1.0), (1, -1.0)]);
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        let output = [info(2)];
        for (params, outputs, expected) in [
            (&[][..], &output[..], "`high` of stream `a`: missing"),
            (&[("high", 1.0), ("low", 0.0), ("hysteresis", 0.6)], &output, "no room between"),
            (&[("high", 1.0), ("max_silence_s", 0.0)], &output, "must be above zero"),
            (&[("high", 1.0)], &[], "needs an output"),
        ] {
            let error = threshold(params, outputs).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
