//! Swinging door: forwards the corners of a polyline that keeps within a bound of every reading.
//!
//! Straight lines between the forwarded readings rebuild the stream with an error of at most the bound at every
//! reading. Two doors hinge at the last forwarded reading, the bound above and below it; each reading closes them as far
//! as it must. A reading outside the doors means that the line ends at the reading *before* it, which is forwarded.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `absolute` | the stream's | the bound itself; this or `percent` |
//! | `percent` | % of `span` | the bound as a share of the stream's range; 1 is a good start (AVEVA PI: 1 to 2 %) |
//! | `span` | the stream's | the stream's range; a parameter of the stream, needed with `percent` |
//! | `max_silence_s` | s | a line spans at most this time; default: no limit |
//!
//! A corner is known only when the next reading has come, so a reading is forwarded late, and a stream that falls silent
//! keeps its last reading back until the source ends. For alarms use `threshold` beside it. A clock that repeats or steps
//! back, a change of quality, and a value that is not a number each end the line and begin another. A step forwards
//! counts as time that has passed: the line goes on across it unless the bound or `max_silence_s` ends it. Better than
//! `deadband` for slopes; on noise neither saves much. Not where a consumer holds the last value instead of drawing lines.
//!
//! Source: E. H. Bristol, "Swinging door trending: adaptive trend recording?", ISA National Conference 1990, pp. 749–753.
//! Source of the default: AVEVA PI System, "Compression testing".
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct SwingingDoor {
    stream: u32,
    bound: f64,
    max_silence_us: u64,
    line: Option<Line>,
}

/// The line being drawn.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The last forwarded reading.
    start: Point,
    quality: u32,
    /// The last reading, if it is not the start: where the line ends if the next one does not fit.
    end: Option<Point>,
    doors: Doors,
}

/// A reading's place.
#[derive(Clone, Copy, Debug)]
struct Point {
    time_us: u64,
    value: f64,
}

/// The slopes per microsecond between which the line may go on.
#[derive(Clone, Copy, Debug)]
struct Doors {
    upper: f64,
    lower: f64,
}

impl Doors {
    const OPEN: Self = Self { upper: f64::INFINITY, lower: f64::NEG_INFINITY };

    /// Closed as far as the line from `from` may pass `to` within the bound.
    fn closed(self, from: Point, to: Point, bound: f64) -> Self {
        let upper = slope(from, Point { value: to.value + bound, ..to });
        let lower = slope(from, Point { value: to.value - bound, ..to });
        Self {
            upper: if upper < self.upper { upper } else { self.upper },
            lower: if lower > self.lower { lower } else { self.lower },
        }
    }
}

/// Per microsecond; `to` is later than `from`.
#[allow(clippy::cast_precision_loss)] // 285 years of microseconds are exact
fn slope(from: Point, to: Point) -> f64 {
    (to.value - from.value) / (to.time_us - from.time_us) as f64
}

impl Line {
    fn from(reading: Reading) -> Self {
        let start = Point { time_us: reading.time_us, value: reading.value };
        Self { start, quality: reading.quality, end: None, doors: Doors::OPEN }
    }

    /// Whether the reading can only begin another line.
    fn ends_before(&self, reading: Reading) -> bool {
        let last = self.end.unwrap_or(self.start);
        reading.time_us <= last.time_us
            || reading.quality != self.quality
            || !reading.value.is_finite()
            || !self.start.value.is_finite()
    }

    /// Whether it says nothing new: a stream that gives no number says so once.
    fn repeats(&self, reading: Reading) -> bool {
        !reading.value.is_finite()
            && reading.value.to_bits() == self.start.value.to_bits()
            && reading.quality == self.quality
    }
}

impl SwingingDoor {
    fn reading(&self, point: Point, quality: u32) -> Reading {
        Reading { time_us: point.time_us, value: point.value, stream: self.stream, quality }
    }
}

impl Cell for SwingingDoor {
    const PARAMS: &'static [&'static str] = &["absolute", "percent", "max_silence_s"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let max_silence_us = match stream.seconds_as_us("max_silence_s")? {
            Some(0) => return Err(stream.error("max_silence_s", "must be above zero")),
            other => other.unwrap_or(u64::MAX),
        };
        Ok(Self { stream: stream.info.id, bound: stream.error_bound()?, max_silence_us, line: None })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        let Some(line) = self.line else {
            self.line = Some(Line::from(reading));
            out.push(reading);
            return;
        };
        if line.repeats(reading) {
            return;
        }
        if line.ends_before(reading) {
            out.extend(line.end.map(|end| self.reading(end, line.quality)));
            self.line = Some(Line::from(reading));
            out.push(reading);
            return;
        }
        let now = Point { time_us: reading.time_us, value: reading.value };
        let mut line = line;
        line.doors = line.doors.closed(line.start, now, self.bound);
        let direct = slope(line.start, now);
        let outside = direct > line.doors.upper || direct < line.doors.lower;
        if let Some(end) = line.end
            && (outside || now.time_us - line.start.time_us > self.max_silence_us)
        {
            out.push(self.reading(end, line.quality));
            line.start = end;
            line.doors = Doors::OPEN.closed(end, now, self.bound);
        }
        line.end = Some(now);
        self.line = Some(line);
    }

    fn flush(&mut self, out: &mut Vec<Reading>) {
        let Some(line) = &mut self.line else { return };
        let (end, quality) = (line.end.take(), line.quality);
        if let Some(end) = end {
            line.start = end;
            line.doors = Doors::OPEN;
            out.push(self.reading(end, quality));
        }
    }

    fn save(&self, state: &mut StateWriter) {
        let point = |state: &mut StateWriter, point: Point| {
            state.u64(point.time_us);
            state.f64(point.value);
        };
        state.option(self.line, |state, line| {
            point(state, line.start);
            state.u32(line.quality);
            state.option(line.end, point);
            state.f64(line.doors.upper);
            state.f64(line.doors.lower);
        });
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        let point = |state: &mut StateReader| Ok(Point { time_us: state.u64()?, value: state.f64()? });
        self.line = state.option(|state| {
            let (start, quality, end) = (point(state)?, state.u32()?, state.option(point)?);
            Ok(Line { start, quality, end, doors: Doors { upper: state.f64()?, lower: state.f64()? } })
        })?;
        Ok(())
    }
}

porin_sdk::export!(SwingingDoor);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn forwarded(params: &[(&str, f64)], readings: &[(u64, f64, u32)]) -> Vec<(u64, f64)> {
        let param = |(name, value): &(&str, f64)| Param { name: (*name).into(), value: Value::Number(*value) };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = StreamInfo { id: 1, name: "a".into(), unit: String::new(), params: vec![] };
        let mut cell =
            SwingingDoor::new(&Stream { info: &info, params: &params, outputs: &[] }).expect("good parameters");
        let mut out = Vec::new();
        for (second, value, quality) in readings.iter().copied() {
            cell.process(Reading { time_us: second * 1_000_000, value, stream: 1, quality }, &mut out);
        }
        cell.flush(&mut out);
        assert!(out.iter().all(|reading| reading.stream == 1));
        out.iter().map(|reading| (reading.time_us / 1_000_000, reading.value)).collect()
    }

    const HALF: (&str, f64) = ("absolute", 0.5);

    #[test]
    fn a_straight_line_is_its_two_ends() {
        let line: Vec<_> = (0..100).map(|second| (second, second as f64 * 0.25, 0)).collect();
        assert_eq!(forwarded(&[HALF], &line), [(0, 0.0), (99, 24.75)]);
    }

    #[test]
    fn a_corner_is_the_reading_before_the_one_that_does_not_fit() {
        let readings = [(0, 0.0, 0), (1, 0.0, 0), (2, 0.0, 0), (3, 5.0, 0), (4, 10.0, 0), (5, 15.0, 0)];
        assert_eq!(forwarded(&[HALF], &readings), [(0, 0.0), (2, 0.0), (5, 15.0)]);
    }

    #[test]
    fn a_repeated_or_backward_clock_begins_another_line() {
        assert_eq!(forwarded(&[HALF], &[(5, 0.0, 0), (6, 0.0, 0), (6, 0.1, 0)]), [(5, 0.0), (6, 0.0), (6, 0.1)]);
        assert_eq!(forwarded(&[HALF], &[(5, 0.0, 0), (1, 0.0, 0), (2, 0.0, 0)]), [(5, 0.0), (1, 0.0), (2, 0.0)]);
    }

    #[test]
    fn a_line_has_a_longest_time() {
        let flat: Vec<_> = (0..10).map(|second| (second, 1.0, 0)).collect();
        let kept = forwarded(&[HALF, ("max_silence_s", 3.0)], &flat);
        assert_eq!(kept, [(0, 1.0), (3, 1.0), (6, 1.0), (9, 1.0)]);
    }

    #[test]
    fn what_is_no_number_is_said_once_and_quality_ends_a_line() {
        let nan = f64::NAN;
        let kept = forwarded(&[HALF], &[(0, 1.0, 0), (1, 1.0, 0), (2, nan, 0), (3, nan, 0), (4, 1.0, 0), (5, 1.0, 2)]);
        let times: Vec<_> = kept.iter().map(|(second, _)| *second).collect();
        assert_eq!(times, [0, 1, 2, 4, 5]);
    }

    #[test]
    fn a_stream_that_was_flushed_goes_on() {
        let readings = [(0, 0.0, 0), (1, 0.0, 0)];
        assert_eq!(forwarded(&[HALF], &readings), [(0, 0.0), (1, 0.0)]);
    }
}
