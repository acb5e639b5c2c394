//! The stock cells against reference implementations, on every channel of every recorded set.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // counts and shares

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_test_support::{Row, all_data, cell, rows, skip, top};

/// Time in µs, value.
type Point = (u64, f64);

/// By channel: the readings in the order of the file.
type Channels = BTreeMap<String, Vec<Point>>;

/// By set, percent and channel.
type Forwarded = BTreeMap<[String; 3], Vec<Point>>;

fn channels(rows: Vec<Row>) -> Channels {
    let mut channels = Channels::new();
    for row in rows {
        channels.entry(row.channel).or_default().push((row.time_us, row.value));
    }
    channels
}

/// p99.5 − p0.5 of the values; the whole range where that is nothing. The reference's own definition.
fn span(readings: &[Point]) -> f64 {
    let mut values: Vec<_> = readings.iter().map(|(_, value)| *value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let rank = |share: f64| values[((values.len() as f64 * share) as usize).min(values.len() - 1)];
    match rank(0.995) - rank(0.005) {
        0.0 => values[values.len() - 1] - values[0],
        span => span,
    }
}

fn number(name: &str, value: f64) -> Param {
    Param { name: name.into(), value: Value::Number(value) }
}

/// All channels of a set through one instance of a cell, in batches that mix them, and the last word at the end. Gives what
/// came out by channel, or by channel and output (`channel/mean`).
fn run(name: &str, params: Vec<Param>, channels: &Channels, outputs: &[&str]) -> Channels {
    let mut names = Vec::new();
    let mut info = |name: String, params| {
        names.push(name.clone());
        let id = StreamId(u32::try_from(names.len() - 1).expect("few"));
        StreamInfo { id, name, unit: String::new(), params }
    };
    let with_span = |(name, readings): (&String, &Vec<_>)| (name.clone(), vec![number("span", span(readings))]);
    let streams: Vec<_> = channels.iter().map(with_span).map(|(name, params)| info(name, params)).collect();
    let outputs = channels.keys().flat_map(|channel| outputs.iter().map(move |output| format!("{channel}/{output}")));
    let outputs = outputs.map(|output| info(output, vec![])).collect();
    let setup = Setup { params, streams, outputs };
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), World::Filter, &limits).expect("it loads");
    let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");

    // Channel by channel in turn: each stream's own order is kept, and that is all that matters.
    let longest = channels.values().map(Vec::len).max().unwrap_or(0);
    let mut all = Vec::new();
    for index in 0..longest {
        for (id, readings) in (0..).zip(channels.values()) {
            if let Some((time, value)) = readings.get(index) {
                all.push(Reading { time: Unix(*time), value: *value, stream: StreamId(id), quality: Quality::GOOD });
            }
        }
    }
    let mut out: Vec<Reading> = Vec::new();
    for batch in all.chunks(64) {
        cell.process(batch, Unix(0), &mut out).expect("no fault");
    }
    cell.flush(&mut out).expect("no fault");
    let mut kept = Channels::new();
    for reading in out {
        let name = names[reading.stream.0 as usize].clone();
        kept.entry(name).or_default().push((reading.time.0, reading.value));
    }
    kept
}

/// What a script in `tests/reference` prints: lines of columns between tabs.
fn script(name: &str, args: &[&str], files: &[PathBuf]) -> Option<Vec<Vec<String>>> {
    let mut command = Command::new("python3");
    let output = command.arg(top().join("tests/reference").join(name)).args(args).args(files).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    Some(text.lines().map(|line| line.split('\t').map(String::from).collect()).collect())
}

/// What the reference implementation forwards, by set, percent and channel.
fn reference(files: &[PathBuf], class: &str, percents: &str) -> Option<Forwarded> {
    let folder = files.first()?.parent()?.join("reference");
    if !folder.join("cells.py").exists() {
        return None;
    }
    let reading = |text: &str| {
        let (time, value) = text.split_once(':').expect("time and value");
        (time.parse().expect("a time"), value.parse().expect("a value"))
    };
    let line = |columns: Vec<String>| {
        let [set, percent, channel, kept] = columns.try_into().expect("four columns");
        ([set, percent, channel], kept.split(' ').map(reading).collect())
    };
    let lines = script("reduction.py", &[&folder.to_string_lossy(), class, percents], files)?;
    Some(lines.into_iter().map(line).collect())
}

/// Compares a cell with a reference on every channel of every set at 1, 2 and 5 % of span.
fn forwards_what_the_reference_forwards(
    test: &str,
    cell: &str,
    class: &str,
    bound_is_kept: fn(&[Point], &[Point], f64),
) {
    let Some(files) = all_data() else { return skip(test, "the recorded data is not there (PORIN_DATA)") };
    let Some(reference) = reference(&files, class, "1 2 5") else {
        return skip(test, "python3 or the reference implementation is not there (PORIN_DATA)");
    };
    let mut compared = 0;
    for file in &files {
        let channels = channels(rows(file));
        for percent in ["1", "2", "5"] {
            let share: f64 = percent.parse().expect("a number");
            let kept = run(cell, vec![number("percent", share)], &channels, &[]);
            for (channel, readings) in &channels {
                let key = [set(file), percent.into(), channel.clone()];
                assert_eq!(kept[channel], reference[&key], "{key:?}");
                bound_is_kept(readings, &kept[channel], span(readings) * (share / 100.0));
                compared += 1;
            }
        }
    }
    assert!(compared > 150, "only {compared} channels were compared");
}

#[test]
fn deadband_forwards_exactly_what_the_reference_forwards() {
    let test = "deadband_forwards_exactly_what_the_reference_forwards";
    forwards_what_the_reference_forwards(test, "deadband", "Deadband", holding_keeps_the_bound);
}

#[test]
fn swinging_door_forwards_exactly_what_the_reference_forwards() {
    let test = "swinging_door_forwards_exactly_what_the_reference_forwards";
    forwards_what_the_reference_forwards(test, "swinging-door", "SwingingDoor", drawing_keeps_the_bound);
}

#[test]
fn summary_equals_an_independent_computation() {
    let test = "summary_equals_an_independent_computation";
    let Some(files) = all_data() else { return skip(test, "the recorded data is not there (PORIN_DATA)") };
    let Some(lines) = script("summary.py", &["600"], &files) else { return skip(test, "python3 is not there") };
    let statistics = ["min", "max", "mean", "std", "count"];
    let all: BTreeMap<_, _> = files.iter().map(|file| (set(file), channels(rows(file)))).collect();
    let told: BTreeMap<_, _> = all
        .iter()
        .map(|(set, channels)| (set, run("summary", vec![number("window_s", 600.0)], channels, &statistics)))
        .collect();
    assert_eq!(lines.len(), all.values().map(BTreeMap::len).sum::<usize>());
    for columns in lines {
        let [set, channel, windows] = columns.try_into().expect("three columns");
        let readings = &all[&set][&channel];
        let size = readings.iter().map(|(_, value)| value.abs()).fold(1e-300, f64::max);
        for (index, statistic) in statistics.iter().enumerate() {
            let ours = &told[&set][&format!("{channel}/{statistic}")];
            assert_eq!(ours.len(), windows.split(' ').count(), "{set} {channel} {statistic}");
            for ((time, value), window) in ours.iter().zip(windows.split(' ')) {
                let numbers: Vec<&str> = window.split(':').collect();
                assert_eq!(*time, numbers[0].parse::<u64>().expect("a time"));
                let expected: f64 = numbers[index + 1].parse().expect("a number");
                // Extremes and counts are exact; sums are rounded in another order.
                let exact = !["mean", "std"].contains(statistic);
                let near = (value - expected).abs() <= if exact { 0.0 } else { size * 1e-9 };
                assert!(near, "{set} {channel} {statistic} at {time}: {value} is not {expected}");
            }
        }
    }
}

fn set(file: &Path) -> String {
    file.file_name().expect("a file").to_string_lossy().replace(".csv.gz", "")
}

/// Holding what was forwarded rebuilds every reading to within the bound.
fn holding_keeps_the_bound(readings: &[Point], forwarded: &[Point], bound: f64) {
    let mut forwarded = forwarded.iter().peekable();
    let mut held = f64::NAN;
    for reading in readings {
        if forwarded.peek() == Some(&reading) {
            held = forwarded.next().expect("peeked").1;
        }
        // What the rounding of a difference adds is no move.
        let rounding = (held.abs() + reading.1.abs() + bound) * f64::EPSILON;
        assert!((held - reading.1).abs() <= bound + rounding, "{reading:?} held as {held}, bound {bound}");
    }
}

/// Drawing lines between what was forwarded rebuilds every reading to within the bound. Lines end where the clock repeats or
/// steps back; rounding moves a line by some of the last digits.
fn drawing_keeps_the_bound(readings: &[Point], forwarded: &[Point], bound: f64) {
    let mut next = 0;
    for (time, value) in readings {
        if forwarded.get(next) == Some(&(*time, *value)) {
            next += 1;
            continue;
        }
        let ((t0, v0), (t1, v1)) = (forwarded[next - 1], forwarded[next]);
        assert!(t0 < *time && *time < t1, "{time} is between no two forwarded readings");
        let drawn = v0 + (v1 - v0) * (time - t0) as f64 / (t1 - t0) as f64;
        assert!(
            (drawn - value).abs() <= bound + value.abs() * 1e-12,
            "{value} at {time} drawn as {drawn}, bound {bound}"
        );
    }
    assert_eq!(next, forwarded.len(), "everything forwarded is a reading");
}

/// The alarm as a plain loop over one stream: what the cell must do, written without regard to streams or state.
fn threshold(readings: &[(u64, f64)], low: f64, high: f64, hysteresis: f64, hold_us: u64) -> Vec<(u64, f64)> {
    let mut sent = Vec::new();
    let (mut alarm, mut since) = (0.0, 0);
    for (time, value) in readings {
        let high_now = *value > if alarm > 0.0 { high - hysteresis } else { high };
        let low_now = *value < if alarm < 0.0 { low + hysteresis } else { low };
        let wanted = if high_now {
            1.0
        } else if low_now {
            -1.0
        } else {
            0.0
        };
        if wanted == 0.0 && alarm != 0.0 && time.abs_diff(since) < hold_us {
            continue;
        }
        if wanted != alarm || sent.is_empty() {
            sent.push((*time, wanted));
            (alarm, since) = (wanted, *time);
        }
    }
    sent
}

#[test]
fn threshold_equals_a_plain_loop() {
    let carried =
        ["buoy", "glucose", "vehicle_gps"].map(|set| top().join("tests/data").join(set).with_extension("csv.gz"));
    for file in all_data().unwrap_or(carried.to_vec()) {
        let channels = channels(rows(&file));
        for (channel, readings) in &channels {
            let one = Channels::from([(channel.clone(), readings.clone())]);
            // Limits where the stream is at times: a quarter of its span around the middle.
            let mean = readings.iter().map(|(_, value)| value).sum::<f64>() / readings.len() as f64;
            let span = span(readings);
            for (width, hysteresis, hold_s) in [(0.25, 0.0, 0.0), (0.25, 0.02, 0.0), (0.1, 0.05, 900.0)] {
                let (low, high, hysteresis) = (mean - span * width, mean + span * width, span * hysteresis);
                let params = [("low", low), ("high", high), ("hysteresis", hysteresis), ("min_hold_s", hold_s)];
                let kept = run("threshold", params.map(|(name, value)| number(name, value)).to_vec(), &one, &["alarm"]);
                let expected = threshold(readings, low, high, hysteresis, (hold_s * 1e6) as u64);
                assert_eq!(kept[&format!("{channel}/alarm")], expected, "{} {channel}", set(&file));
            }
        }
    }
}
