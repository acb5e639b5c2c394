//! `porin-instructions CELL|native PACKETS`: decides about so many packets, in the deadband cell in that file or as the same code outside of it.
//!
//! `make instructions` runs it twice with different numbers under an emulator that counts: the difference is what packets cost.

use std::{fs, hint::black_box, process::ExitCode};

use deadband::Deadband;
use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_sdk::Streams;

const STREAMS: u32 = 16;
const BATCH: usize = 64;
const BOUND: f64 = 3.0;

/// Sensors that walk at random; about one packet in twenty is forwarded.
fn readings(packets: usize) -> Vec<Reading> {
    let mut state = 42_u64;
    let mut values = [20.0; STREAMS as usize];
    let reading = |index: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let stream = index % STREAMS as usize;
        #[allow(clippy::cast_precision_loss)] // 24 bits
        let step = (state >> 40) as f64 / f64::from(1 << 24) - 0.5;
        values[stream] += step * 2.0;
        let id = StreamId(u32::try_from(stream).unwrap_or_default());
        Reading { time: Unix(index as u64 * 1_000), value: values[stream], stream: id, quality: Quality::GOOD }
    };
    (0..packets).map(reading).collect()
}

fn in_the_cell(file: &str, readings: &[Reading]) -> usize {
    let limits = CellLimits::default();
    let bytes = fs::read(file).expect("the cell's file");
    let plan = Plan::load(&Engine::new(&limits), &bytes, World::Filter, &limits).expect("a cell");
    let stream = |id| StreamInfo { id: StreamId(id), name: format!("s{id}"), unit: String::new(), params: vec![] };
    let params = vec![Param { name: "absolute".into(), value: Value::Number(BOUND) }];
    let setup = Setup { params, streams: (0..STREAMS).map(stream).collect(), outputs: vec![] };
    let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");
    let mut out: Vec<Reading> = Vec::new();
    for batch in readings.chunks(BATCH) {
        cell.process(batch, Unix(0), &mut out).expect("no fault");
    }
    out.len()
}

fn native(readings: &[Reading]) -> usize {
    let mut cell: Streams<Deadband, porin_sdk::Reading, porin_sdk::Reading> = Streams::new("deadband");
    let stream = |id| porin_sdk::StreamInfo { id, name: format!("s{id}"), unit: String::new(), params: vec![] };
    let params = vec![porin_sdk::Param { name: "absolute".into(), value: porin_sdk::Value::Number(BOUND) }];
    let streams = (0..STREAMS).map(stream).collect();
    cell.init(porin_sdk::Setup { params, streams, outputs: vec![] }).expect("good parameters");
    let guest = |r: &Reading| porin_sdk::Reading {
        time_us: r.time.0,
        value: r.value,
        stream: r.stream.0,
        quality: r.quality.0,
    };
    readings.chunks(BATCH).map(|batch| cell.process(batch.iter().map(guest).collect()).len()).sum()
}

/// Neither: what making the packets costs.
fn nothing(readings: &[Reading]) -> usize {
    black_box(readings).len()
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, packets] = arguments.as_slice() else { return ExitCode::from(2) };
    let Ok(packets) = packets.parse() else { return ExitCode::from(2) };
    let readings = readings(packets);
    let kept = match what.as_str() {
        "native" => native(&readings),
        "nothing" => nothing(&readings),
        file => in_the_cell(file, &readings),
    };
    black_box(kept);
    ExitCode::SUCCESS
}
