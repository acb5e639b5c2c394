//! Hampel: removes or marks spikes, values out of range and values that are missing.
//!
//! A value is a spike if it is further from the median of the last values than `threshold` × 1.4826 × their median absolute
//! deviation, which for a normal distribution is that many standard deviations. Neither a spike nor its neighbours
//! move the median much, so one does not hide another.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `window` | readings | how many of the last values are looked at, 5 to 101; default 15 |
//! | `threshold` | 1 | how many deviations are too many; default 3 |
//! | `min_deviation` | the stream's | a deviation is at least this much, for signals that stand still; default 10⁻⁶ |
//! | `low`, `high` | the stream's | a value outside is out of range; default no limit |
//! | `mark` | flag | `true`: forward what is wrong with quality bit 2 (bad) set; `false`: drop it; default `false` |
//!
//! Until a quarter of the window has come, nothing is a spike. A value out of range, or that is not a number, does not enter
//! the window; a spike does, so that a step is taken for spikes only until it is the median. Not for signals that really
//! jump, and not before `threshold`: what an alarm waits for may look like a spike. Windows are counted in readings, and times
//! are not looked at: a step of the clock changes nothing.
//!
//! Source: F. R. Hampel, "The influence curve and its role in robust estimation", J. Am. Stat. Assoc. 69 (1974), pp. 383–393.
//! Source of the default: R. K. Pearson, "Outliers in process modeling and identification", IEEE Trans. Control Syst.
//! Technol. 10 (2002), pp. 55–63.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{collections::VecDeque, string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// Of a normal distribution: its standard deviation ÷ its median absolute deviation.
const NORMAL: f64 = 1.4826;

/// The quality bit of a reading that is known to be wrong.
const BAD: u32 = 2;

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Hampel {
    window: usize,
    threshold: f64,
    min_deviation: f64,
    low: f64,
    high: f64,
    mark: bool,
    /// The last values as they came, and sorted.
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Hampel {
    fn is_wrong(&self, value: f64) -> bool {
        !value.is_finite() || value < self.low || value > self.high || self.is_spike(value)
    }

    fn is_spike(&self, value: f64) -> bool {
        if self.sorted.len() < self.window.div_ceil(4) {
            return false;
        }
        let median = self.sorted[self.sorted.len() / 2];
        let deviation = NORMAL * self.median_deviation(median);
        let deviation = if deviation > self.min_deviation { deviation } else { self.min_deviation };
        (value - median).abs() > self.threshold * deviation
    }

    /// The median of the distances from the median: the sorted values lie on both sides of it in rising distance, so
    /// walking outwards meets them in order.
    fn median_deviation(&self, median: f64) -> f64 {
        let values = &self.sorted;
        let (mut below, mut above) = (values.len() / 2, values.len() / 2);
        let mut distance = 0.0;
        // The first is the median itself, at distance 0.
        for _ in 0..values.len() / 2 {
            let down = below.checked_sub(1).map(|index| median - values[index]);
            let up = values.get(above + 1).map(|value| value - median);
            match (down, up) {
                (Some(down), Some(up)) if down <= up => (distance, below) = (down, below - 1),
                (Some(down), None) => (distance, below) = (down, below - 1),
                (_, Some(up)) => (distance, above) = (up, above + 1),
                (None, None) => break,
            }
        }
        distance
    }

    fn remember(&mut self, value: f64) {
        if self.recent.len() == self.window
            && let Some(oldest) = self.recent.pop_front()
        {
            let at = self.sorted.partition_point(|other| *other < oldest);
            self.sorted.remove(at);
        }
        self.recent.push_back(value);
        let at = self.sorted.partition_point(|other| *other < value);
        self.sorted.insert(at, value);
    }
}

impl Cell for Hampel {
    const PARAMS: &'static [&'static str] = &["window", "threshold", "min_deviation", "low", "high", "mark"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let window = usize::try_from(stream.integer("window")?.unwrap_or(15)).unwrap_or(0);
        if !(5..=101).contains(&window) {
            return Err(stream.error("window", "must be 5 to 101"));
        }
        let low = stream.number("low")?.unwrap_or(f64::NEG_INFINITY);
        let high = stream.number("high")?.unwrap_or(f64::INFINITY);
        if low > high {
            return Err(stream.error("low", "must not be above `high`"));
        }
        Ok(Self {
            window,
            threshold: stream.positive("threshold")?.unwrap_or(3.0),
            min_deviation: stream.positive("min_deviation")?.unwrap_or(1e-6),
            low,
            high,
            mark: stream.flag("mark")?.unwrap_or(false),
            recent: VecDeque::with_capacity(window),
            sorted: Vec::with_capacity(window),
        })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        let value = reading.value;
        if !self.is_wrong(value) {
            out.push(reading);
        } else if self.mark {
            out.push(Reading { quality: reading.quality | BAD, ..reading });
        }
        if value.is_finite() && value >= self.low && value <= self.high {
            self.remember(value);
        }
    }

    fn save(&self, state: &mut StateWriter) {
        // At most 101.
        state.u8(u8::try_from(self.recent.len()).unwrap_or(u8::MAX));
        self.recent.iter().for_each(|value| state.f64(*value));
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        self.recent.clear();
        self.sorted.clear();
        for _ in 0..state.u8()? {
            let value = state.f64()?;
            if !value.is_finite() {
                return Err(Malformed);
            }
            self.remember(value);
        }
        Ok(())
    }
}

porin_sdk::export!(Hampel);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn hampel(params: &[(&str, Value)]) -> Result<Hampel, String> {
        let param = |(name, value): &(&str, Value)| Param { name: (*name).into(), value: value.clone() };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = StreamInfo { id: 1, name: "a".into(), unit: String::new(), params: vec![] };
        Hampel::new(&Stream { info: &info, params: &params, outputs: &[] })
    }

    fn forwarded(params: &[(&str, Value)], values: &[f64]) -> Vec<(f64, u32)> {
        let mut cell = hampel(params).expect("good parameters");
        let mut out = Vec::new();
        for (time_us, value) in (0..).zip(values) {
            cell.process(Reading { time_us, value: *value, stream: 1, quality: 0 }, &mut out);
        }
        out.iter().map(|reading| (reading.value, reading.quality)).collect()
    }

    const SPIKE: [f64; 8] = [1.0, 1.1, 0.9, 1.0, 1.1, 50.0, 0.9, 1.0];

    #[test]
    fn a_spike_is_removed_or_marked_and_its_neighbours_stay() {
        let clean: Vec<_> = SPIKE.iter().filter(|value| **value < 10.0).map(|value| (*value, 0)).collect();
        assert_eq!(forwarded(&[("window", Value::Integer(5))], &SPIKE), clean);
        let marked = forwarded(&[("window", Value::Integer(5)), ("mark", Value::Flag(true))], &SPIKE);
        assert_eq!(marked.len(), SPIKE.len());
        assert_eq!(marked[5], (50.0, BAD));
        assert!(marked.iter().filter(|(_, quality)| *quality != 0).count() == 1);
    }

    #[test]
    fn a_step_is_a_spike_only_until_it_is_the_median() {
        let mut values = vec![1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0];
        values.extend([5.0, 5.1, 4.9, 5.0, 5.1, 4.9, 5.0, 5.1]);
        let kept = forwarded(&[("window", Value::Integer(7))], &values);
        assert!(kept.contains(&(5.1, 0)) && kept.len() < values.len(), "{kept:?}");
    }

    #[test]
    fn what_is_out_of_range_or_no_number_is_wrong_and_does_not_enter_the_window() {
        let params = [("low", Value::Integer(0)), ("high", Value::Integer(2))];
        let kept = forwarded(&params, &[1.0, -1.0, f64::NAN, 3.0, f64::INFINITY, 1.0, 2.0]);
        assert_eq!(kept, [(1.0, 0), (1.0, 0), (2.0, 0)]);
    }

    #[test]
    fn the_median_deviation_is_that_of_a_sort() {
        let mut cell = hampel(&[("window", Value::Integer(31))]).expect("good");
        let mut number = 1u32;
        for _ in 0..500 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            cell.remember(f64::from(number >> 24));
            let median = cell.sorted[cell.sorted.len() / 2];
            let mut distances: Vec<_> = cell.recent.iter().map(|value| (value - median).abs()).collect();
            distances.sort_unstable_by(f64::total_cmp);
            assert_eq!(cell.median_deviation(median), distances[distances.len() / 2]);
        }
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        assert!(hampel(&[("window", Value::Integer(4))]).expect_err("small").contains("5 to 101"));
        assert!(hampel(&[("low", Value::Integer(2)), ("high", Value::Integer(1))]).is_err());
    }
}
