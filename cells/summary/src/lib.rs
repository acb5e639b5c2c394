//! Summary: minimum, maximum, mean, standard deviation and count of each window of time.
//!
//! Windows are `window_s` long and begin at multiples of it since 1970 (tumbling windows). When one has ended, each of
//! the slot's outputs gets one reading whose time is the window's beginning.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `window_s` | s | length of a window; required |
//! | `late_s` | s | a reading at most this much before the open window is counted in it; default 0 |
//! | `grace_s` | s | when time passes without readings (`tick`), how long after its end a window is closed; default 0 |
//!
//! | output ends with | unit | |
//! |---|---|---|
//! | `/min`, `/max`, `/mean` | the stream's | of the values |
//! | `/std` | the stream's | standard deviation of the population: √(Σ(x − mean)² ÷ n); 0 for one value |
//! | `/count` | 1 | how many values |
//!
//! The slot's `outputs` choose any of them, e.g. `outputs = ["{stream}/mean", "{stream}/max"]`, and its `tick` says how
//! often a window may be closed while no reading comes. Every finite value is in exactly one summary: a reading further
//! back than `late_s` closes the open window and opens its own, so after a step of the clock a window may be told in
//! two parts, whose counts say how much each is worth. A step forwards closes the open window, as time that passes does;
//! windows that it jumps over say nothing. After a step back `tick` closes the open window only when the clock has come
//! to its end again, if no reading has closed it before. Values that are no numbers are left out; a window without values
//! says nothing. The qualities of a window's readings are or-ed. Not for alarms: a window tells late. Not where single
//! values matter: use `deadband` or `swinging-door`.
//!
//! Source: B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4
//! (1962), pp. 419–420.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream, math};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Summary {
    window_us: u64,
    late_us: u64,
    grace_us: u64,
    outputs: Vec<(Statistic, u32)>,
    open: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
enum Statistic {
    Min,
    Max,
    Mean,
    Std,
    Count,
}

/// The names that outputs end with.
const STATISTICS: [(&str, Statistic); 5] = [
    ("min", Statistic::Min),
    ("max", Statistic::Max),
    ("mean", Statistic::Mean),
    ("std", Statistic::Std),
    ("count", Statistic::Count),
];

/// The window that readings go into.
#[derive(Clone, Copy, Debug)]
struct Window {
    start_us: u64,
    quality: u32,
    count: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// Σ(x − mean)².
    squares: f64,
}

impl Window {
    fn at(start_us: u64) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { start_us, quality: 0, count: 0, min, max, mean: 0.0, squares: 0.0 }
    }

    #[allow(clippy::cast_precision_loss)] // no window has 2^53 readings
    fn add(&mut self, reading: Reading) {
        let value = reading.value;
        self.quality |= reading.quality;
        self.count += 1;
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    #[allow(clippy::cast_precision_loss)] // as above
    fn statistic(&self, statistic: Statistic) -> f64 {
        match statistic {
            Statistic::Min => self.min,
            Statistic::Max => self.max,
            Statistic::Mean => self.mean,
            Statistic::Std => math::sqrt(self.squares / self.count as f64),
            Statistic::Count => self.count as f64,
        }
    }
}

impl Summary {
    fn close(&mut self, out: &mut Vec<Reading>) {
        let Some(window) = self.open.take() else { return };
        if window.count == 0 {
            return;
        }
        for (statistic, stream) in &self.outputs {
            let value = window.statistic(*statistic);
            out.push(Reading { time_us: window.start_us, value, stream: *stream, quality: window.quality });
        }
    }

    /// Whether a reading of this time belongs to the open window.
    fn is_open_for(&self, time_us: u64) -> bool {
        self.open.is_some_and(|window| {
            let end = window.start_us.saturating_add(self.window_us);
            time_us < end && time_us >= window.start_us.saturating_sub(self.late_us)
        })
    }
}

impl Cell for Summary {
    const PARAMS: &'static [&'static str] = &["window_s", "late_s", "grace_s"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let window_us = match stream.seconds_as_us("window_s")? {
            None => return Err(stream.error("window_s", "missing")),
            Some(0) => return Err(stream.error("window_s", "must be above zero")),
            Some(window_us) => window_us,
        };
        let late_us = stream.seconds_as_us("late_s")?.unwrap_or(0);
        let grace_us = stream.seconds_as_us("grace_s")?.unwrap_or(0);
        let mut outputs = Vec::new();
        for output in stream.outputs {
            let level = output.name.rsplit('/').next().unwrap_or_default();
            let Some((_, statistic)) = STATISTICS.iter().find(|(name, _)| *name == level) else {
                return Err(["output `", &output.name, "` must end with /min, /max, /mean, /std or /count"].concat());
            };
            outputs.push((*statistic, output.id));
        }
        if outputs.is_empty() {
            return Err("the slot names no outputs, e.g. outputs = [\"{stream}/mean\"]".into());
        }
        Ok(Self { window_us, late_us, grace_us, outputs, open: None })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        if !reading.value.is_finite() {
            return;
        }
        if !self.is_open_for(reading.time_us) {
            self.close(out);
            self.open = Some(Window::at(reading.time_us - reading.time_us % self.window_us));
        }
        if let Some(window) = &mut self.open {
            window.add(reading);
        }
    }

    fn tick(&mut self, now_us: u64, out: &mut Vec<Reading>) {
        let end = self.open.map(|window| window.start_us.saturating_add(self.window_us).saturating_add(self.grace_us));
        if end.is_some_and(|end| now_us >= end) {
            self.close(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<Reading>) {
        self.close(out);
    }

    fn save(&self, state: &mut StateWriter) {
        state.option(self.open, |state, window| {
            state.u64(window.start_us);
            state.u32(window.quality);
            state.u64(window.count);
            for number in [window.min, window.max, window.mean, window.squares] {
                state.f64(number);
            }
        });
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        self.open = state.option(|state| {
            let (start_us, quality, count) = (state.u64()?, state.u32()?, state.u64()?);
            let (min, max, mean, squares) = (state.f64()?, state.f64()?, state.f64()?, state.f64()?);
            Ok(Window { start_us, quality, count, min, max, mean, squares })
        })?;
        Ok(())
    }
}

porin_sdk::export!(Summary);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn summary(params: &[(&str, f64)]) -> Result<Summary, String> {
        let param = |(name, value): &(&str, f64)| Param { name: (*name).into(), value: Value::Number(*value) };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = |id, name: &str| StreamInfo { id, name: name.into(), unit: String::new(), params: vec![] };
        let outputs: Vec<_> = (10..).zip(STATISTICS).map(|(id, (name, _))| info(id, &format!("a/{name}"))).collect();
        Summary::new(&Stream { info: &info(1, "a"), params: &params, outputs: &outputs })
    }

    /// Seconds and values; gives (beginning, min, max, mean, std, count) of each window.
    fn windows(cell: &mut Summary, readings: &[(u64, f64)]) -> Vec<(u64, [f64; 5])> {
        let mut out = Vec::new();
        for (second, value) in readings {
            let reading = Reading { time_us: second * 1_000_000, value: *value, stream: 1, quality: 0 };
            cell.process(reading, &mut out);
        }
        parts(&out)
    }

    fn parts(out: &[Reading]) -> Vec<(u64, [f64; 5])> {
        let window = |five: &[Reading]| {
            assert!(five.iter().zip(10..).all(|(reading, id)| reading.stream == id));
            (five[0].time_us / 1_000_000, core::array::from_fn(|index| five[index].value))
        };
        out.chunks(5).map(window).collect()
    }

    #[test]
    fn a_window_is_told_when_the_next_one_begins() {
        let mut cell = summary(&[("window_s", 10.0)]).expect("good");
        let told = windows(&mut cell, &[(100, 2.0), (104, 4.0), (104, 4.0), (109, 6.0), (110, 9.0)]);
        assert_eq!(told, [(100, [2.0, 6.0, 4.0, 2f64.sqrt(), 4.0])]);
        let mut out = Vec::new();
        cell.flush(&mut out);
        assert_eq!(parts(&out), [(110, [9.0, 9.0, 9.0, 0.0, 1.0])]);
    }

    #[test]
    fn time_that_passes_closes_a_window_after_its_grace() {
        let mut cell = summary(&[("window_s", 10.0), ("grace_s", 5.0)]).expect("good");
        assert_eq!(windows(&mut cell, &[(100, 2.0)]), []);
        let mut out = Vec::new();
        cell.tick(114_999_999, &mut out);
        assert!(out.is_empty());
        cell.tick(115_000_000, &mut out);
        assert_eq!(parts(&out), [(100, [2.0, 2.0, 2.0, 0.0, 1.0])]);
    }

    #[test]
    fn a_late_reading_is_counted_in_the_open_window_and_a_step_back_opens_its_own() {
        let mut cell = summary(&[("window_s", 10.0), ("late_s", 3.0)]).expect("good");
        assert_eq!(windows(&mut cell, &[(110, 1.0), (107, 3.0)]), []);
        assert_eq!(windows(&mut cell, &[(106, 5.0)]), [(110, [1.0, 3.0, 2.0, 1.0, 2.0])]);
        assert_eq!(windows(&mut cell, &[(500, 0.0)]), [(100, [5.0, 5.0, 5.0, 0.0, 1.0])]);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let mut cell = summary(&[("window_s", 10.0)]).expect("good");
        let told =
            windows(&mut cell, &[(100, f64::NAN), (101, 3.0), (102, f64::INFINITY), (110, 0.0), (120, f64::NAN)]);
        assert_eq!(told, [(100, [3.0, 3.0, 3.0, 0.0, 1.0])]);
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        assert!(summary(&[]).expect_err("no window").contains("`window_s` of stream `a`: missing"));
        assert!(summary(&[("window_s", 0.0)]).expect_err("no window").contains("above zero"));
    }
}
