//! The stock cells against reference implementations, on every channel of every recorded set.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // counts and shares

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use porin_cell::{Cell, Engine, Plan};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_test_support::{Row, all_data, cell, rows, skip, top};

/// By channel: the readings in the order of the file.
type Channels = BTreeMap<String, Vec<(u64, f64)>>;

fn channels(rows: Vec<Row>) -> Channels {
    let mut channels = Channels::new();
    for row in rows {
        channels.entry(row.channel).or_default().push((row.time_us, row.value));
    }
    channels
}

/// p99.5 − p0.5 of the values; the whole range where that is nothing. The reference's own definition.
fn span(readings: &[(u64, f64)]) -> f64 {
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

/// All channels of a set through one instance of a cell, in batches that mix them.
fn run(name: &str, params: Vec<Param>, channels: &Channels, outputs: bool) -> BTreeMap<String, Vec<(u64, f64)>> {
    let info = |id: usize, name: &str, params| StreamInfo {
        id: StreamId(u32::try_from(id).expect("few")),
        name: name.into(),
        unit: String::new(),
        params,
    };
    let streams: Vec<_> = (0..)
        .zip(channels)
        .map(|(id, (name, readings))| info(id, name, vec![number("span", span(readings))]))
        .collect();
    let outputs_of =
        |stream: &StreamInfo| info(stream.id.0 as usize + channels.len(), &format!("{}/alarm", stream.name), vec![]);
    let outputs = if outputs { streams.iter().map(outputs_of).collect() } else { vec![] };
    let setup = Setup { params, streams, outputs };
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(), &cell(name), &limits).expect("it loads");
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
    let mut out = Vec::new();
    for batch in all.chunks(64) {
        cell.process(batch, Unix(0), &mut out).expect("no fault");
    }
    let names: Vec<_> = channels.keys().collect();
    let mut kept = BTreeMap::new();
    for reading in out {
        let name = names[reading.stream.0 as usize % names.len()].clone();
        kept.entry(name).or_insert_with(Vec::new).push((reading.time.0, reading.value));
    }
    kept
}

/// What the reference implementation forwards: by set, percent and channel, the positions of the readings.
fn reference(files: &[PathBuf], percents: &[f64]) -> Option<BTreeMap<(String, String, String), Vec<usize>>> {
    let folder = files.first()?.parent()?.join("reference");
    if !folder.join("cells.py").exists() {
        return None;
    }
    let mut percent_list = String::new();
    percents.iter().for_each(|percent| write!(percent_list, "{percent} ").expect("a string"));
    let output = Command::new("python3")
        .arg(top().join("tests/reference/deadband.py"))
        .arg(folder)
        .arg(percent_list.trim())
        .args(files)
        .output()
        .ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| {
        let mut columns = line.split('\t').map(String::from);
        let key = (columns.next()?, columns.next()?, columns.next()?);
        let positions = columns.next()?.split(' ').filter_map(|position| position.parse().ok()).collect();
        Some((key, positions))
    };
    Some(text.lines().map(|text| line(text).expect("four columns")).collect())
}

#[test]
fn deadband_forwards_exactly_what_the_reference_forwards() {
    let test = "deadband_forwards_exactly_what_the_reference_forwards";
    let Some(files) = all_data() else { return skip(test, "the recorded data is not there (PORIN_DATA)") };
    let percents = [1.0, 2.0, 5.0];
    let Some(reference) = reference(&files, &percents) else {
        return skip(test, "python3 or the reference implementation is not there (PORIN_DATA)");
    };
    let mut compared = 0;
    for file in &files {
        let channels = channels(rows(file));
        for percent in percents {
            let kept = run("deadband", vec![number("percent", percent)], &channels, false);
            for (channel, readings) in &channels {
                let key = (set(file), percent.to_string(), channel.clone());
                let expected: Vec<_> = reference[&key].iter().map(|position| readings[*position]).collect();
                assert_eq!(kept[channel], expected, "{key:?}");
                bound_is_kept(readings, &expected, span(readings) * (percent / 100.0));
                compared += 1;
            }
        }
    }
    assert!(compared > 150, "only {compared} channels were compared");
}

fn set(file: &Path) -> String {
    file.file_name().expect("a file").to_string_lossy().replace(".csv.gz", "")
}

/// Holding what was forwarded rebuilds every reading to within the bound.
fn bound_is_kept(readings: &[(u64, f64)], forwarded: &[(u64, f64)], bound: f64) {
    let mut forwarded = forwarded.iter().peekable();
    let mut held = f64::NAN;
    for reading in readings {
        if forwarded.peek() == Some(&reading) {
            held = forwarded.next().expect("peeked").1;
        }
        assert!((held - reading.1).abs() <= bound, "{reading:?} held as {held}, bound {bound}");
    }
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
                let kept = run("threshold", params.map(|(name, value)| number(name, value)).to_vec(), &one, true);
                let expected = threshold(readings, low, high, hysteresis, (hold_s * 1e6) as u64);
                assert_eq!(kept[channel], expected, "{} {channel}", set(&file));
            }
        }
    }
}
