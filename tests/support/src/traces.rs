//! What a cell makes of recorded streams, as something to compare: engine with engine, processor with processor.

use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use sha2::{Digest, Sha256};

use crate::Row;

/// What a run leaves: all readings that came out, bit by bit, and the state after every 16th batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Time, value, stream, quality.
    pub output: Vec<(u64, u64, u32, u32)>,
    /// As saved.
    pub states: Vec<Vec<u8>>,
}

impl Trace {
    /// SHA-256 of all of it, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for (time, value, stream, quality) in &self.output {
            digest.update(time.to_le_bytes());
            digest.update(value.to_le_bytes());
            digest.update(stream.to_le_bytes());
            digest.update(quality.to_le_bytes());
        }
        for state in &self.states {
            digest.update(u64::try_from(state.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(state);
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a cell is to be tried with.
#[derive(Clone, Debug)]
pub struct Case {
    /// A stock cell's name.
    pub cell: &'static str,
    /// Of its slot.
    pub params: Vec<Param>,
    /// For each stream.
    pub outputs: &'static [&'static str],
}

/// Every stock cell of readings, with parameters under which it does something on every set.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |cell, params: &[(&str, Value)], outputs| {
        let param = |(name, value): &(&str, Value)| Param { name: (*name).into(), value: value.clone() };
        Case { cell, params: params.iter().map(param).collect(), outputs }
    };
    let number = Value::Number;
    vec![
        case("deadband", &[("percent", number(1.0)), ("max_silence_s", number(3_600.0))], &[]),
        case("hampel", &[("window", Value::Integer(31)), ("mark", Value::Flag(true))], &[]),
        case("scale", &[("gain", number(1.1)), ("convert", Value::Text("degF_to_Cel".into()))], &[]),
        case("summary", &[("window_s", number(1_800.0))], &["min", "max", "mean", "std", "count"]),
        case("swinging-door", &[("percent", number(1.0)), ("max_silence_s", number(3_600.0))], &[]),
        case("threshold", &[("high", number(150.0)), ("low", number(10.0)), ("min_hold_s", number(900.0))], &["alarm"]),
        case("throttle", &[("every", Value::Integer(2)), ("repeats", Value::Flag(false))], &[]),
    ]
}

/// The channels of a recorded set, each once.
#[must_use]
pub fn channels(rows: &[Row]) -> Vec<String> {
    let mut channels: Vec<_> = rows.iter().map(|row| row.channel.clone()).collect();
    channels.sort_unstable();
    channels.dedup();
    channels
}

/// Streams for the channels, and the outputs of each.
///
/// # Panics
/// If there are more than fit in 32 bits.
#[must_use]
pub fn setup(params: &[Param], outputs: &[&str], channels: &[String]) -> Setup {
    let info = |id: usize, name: &str| {
        let id = StreamId(u32::try_from(id).expect("few"));
        let params = vec![Param { name: "span".into(), value: Value::Number(100.0) }];
        StreamInfo { id, name: name.into(), unit: "Cel".into(), params }
    };
    let streams: Vec<_> = channels.iter().enumerate().map(|(id, name)| info(id, name)).collect();
    let names = streams.iter().flat_map(|stream| outputs.iter().map(move |output| format!("{}/{output}", stream.name)));
    let outputs = (channels.len()..).zip(names).map(|(id, name)| info(id, &name)).collect();
    Setup { params: params.to_vec(), outputs, streams }
}

/// The rows as readings, and a few that no recording has: values that are no numbers, one of them signalling.
///
/// # Panics
/// If a row's channel is not among them, or there are few rows.
#[must_use]
pub fn readings(rows: &[Row], channels: &[String]) -> Vec<Reading> {
    let id = |row: &Row| channels.iter().position(|name| *name == row.channel).expect("known");
    let reading = |row: &Row| Reading {
        time: Unix(row.time_us),
        value: row.value,
        stream: StreamId(u32::try_from(id(row)).expect("few")),
        quality: Quality::GOOD,
    };
    let mut readings: Vec<_> = rows.iter().map(reading).collect();
    for (index, bits) in [(100, f64::NAN.to_bits()), (200, f64::INFINITY.to_bits()), (300, 0x7ff0_0000_0000_0001)] {
        readings[index].value = f64::from_bits(bits);
    }
    readings
}

/// Runs a cell on the gateway's engine.
///
/// # Panics
/// If it does not load or start, or faults.
#[must_use]
pub fn on_wasmi(bytes: &[u8], setup: &Setup, readings: &[Reading]) -> Trace {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), bytes, World::Filter, &limits).expect("it loads");
    let mut cell = Cell::start(&plan, &[], limits, setup).expect("it starts");
    let mut trace = Trace::default();
    let mut out: Vec<Reading> = Vec::new();
    for (index, batch) in readings.chunks(64).enumerate() {
        cell.process(batch, Unix(0), &mut out).expect("no fault");
        if index % 16 == 0 {
            trace.states.push(cell.save().expect("it saves"));
        }
    }
    trace.states.push(cell.save().expect("it saves"));
    trace.output = out.iter().map(|r| (r.time.0, r.value.to_bits(), r.stream.0, r.quality.0)).collect();
    trace
}
