//! `make bench`: a row for each cell, each encoding, and for growth: many streams, many slots. Ratios within one run.

#![allow(clippy::print_stdout, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // the tables are what it is for

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use porin_cell::{CellPacket, Engine, Plan, World};
use porin_core::{
    config::Config,
    ids::{Epoch, Seq, StreamId},
    limits::CellLimits,
    packet::{Message, PacketKind, Quality, Reading},
    payload::{Encoding, Packet, decode, encode},
    setup::{Param, Setup, StreamInfo, Value},
    time::{Now, Unix},
};
use porin_sdk::Streams;
use porin_test_support::{cell, target_dir};

/// Rounds of `--bench`; `cargo test --benches` only has to run.
fn rounds() -> usize {
    if std::env::args().any(|argument| argument == "--bench") { 60 } else { 1 }
}

/// Packets of a round.
const PACKETS: usize = 8_192;
const BATCH: usize = 64;
const STREAMS: u32 = 16;

/// Streams in turn that walk; some values in between are spikes.
fn readings(streams: u32) -> Vec<Reading> {
    let mut values = vec![20.0; streams as usize];
    let mut number = 1u64;
    let reading = |index: usize| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let stream = index % values.len();
        values[stream] += ((number >> 40) as f64 / (1u64 << 24) as f64 - 0.5) * 2.0;
        let spike = if number >> 33 & 255 == 0 { 40.0 } else { 0.0 };
        let value = ((values[stream] + spike) * 100.0).round() / 100.0;
        let stream = StreamId(u32::try_from(stream).unwrap_or_default());
        let time = Unix(1_700_000_000_000_000 + (index as u64 / u64::from(streams)) * 1_000_000);
        Reading { time, value, stream, quality: Quality::GOOD }
    };
    (0..PACKETS.max(streams as usize)).map(reading).collect()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64
}

fn info(id: u32, name: String) -> StreamInfo {
    StreamInfo { id: StreamId(id), name, unit: String::new(), params: vec![] }
}

/// A cell in the sandbox and as native code, over the same batches in turns.
fn row<C: porin_sdk::Cell>(name: &'static str, params: &[(&str, Value)], outputs: &[&str]) {
    let params: Vec<_> =
        params.iter().map(|(name, value)| Param { name: (*name).into(), value: value.clone() }).collect();
    let streams: Vec<_> = (0..STREAMS).map(|id| info(id, format!("s{id}"))).collect();
    let outputs =
        streams.iter().flat_map(|stream| outputs.iter().map(move |output| format!("{}/{output}", stream.name)));
    let outputs = (STREAMS..).zip(outputs).map(|(id, name)| info(id, name)).collect();
    let setup = Setup { params, streams, outputs };
    let mut native: Streams<C, porin_sdk::Reading, porin_sdk::Reading> = Streams::new(name);
    native.init(guest_setup(&setup)).expect("good parameters");
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), World::Filter, &limits).expect("`make bench` builds it");
    let mut sandbox = porin_cell::Cell::start(&plan, &[], limits, &setup).expect("it starts");

    let readings = readings(STREAMS);
    let guest = |r: &Reading| porin_sdk::Reading { time_us: r.time.0, value: r.value, stream: r.stream.0, quality: 0 };
    let guests: Vec<porin_sdk::Reading> = readings.iter().map(guest).collect();
    let (mut of_native, mut of_sandbox) = (vec![], vec![]);
    let mut out: Vec<Reading> = Vec::new();
    for _ in 0..rounds() {
        let start = Instant::now();
        guests.chunks(BATCH).for_each(|batch| drop(black_box(native.process(batch.to_vec()))));
        of_native.push(start.elapsed());
        let start = Instant::now();
        for batch in readings.chunks(BATCH) {
            out.clear();
            sandbox.process(batch, Unix(0), &mut out).expect("no fault");
            black_box(&out);
        }
        of_sandbox.push(start.elapsed());
    }
    let (native, sandbox) = (median(of_native) / PACKETS as f64, median(of_sandbox) / PACKETS as f64);
    println!("{name:<16} {native:>9.1} {sandbox:>9.1} {:>9.1}", sandbox / native);
}

/// A cell of messages in the sandbox and as native code: frames of 11 bytes.
fn message_row<C, O, H>(name: &'static str, world: World, outputs: &[&str])
where
    C: porin_sdk::Cell<porin_sdk::Message, O>,
    H: CellPacket,
{
    let streams: Vec<_> = (0..STREAMS).map(|id| info(id, format!("s{id}"))).collect();
    let outputs =
        streams.iter().flat_map(|stream| outputs.iter().map(move |output| format!("{}/{output}", stream.name)));
    let outputs = (STREAMS..).zip(outputs).map(|(id, name)| info(id, name)).collect();
    let setup = Setup { params: vec![], streams, outputs };
    let mut native: Streams<C, porin_sdk::Message, O> = Streams::new(name);
    native.init(guest_setup(&setup)).expect("good parameters");
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), world, &limits).expect("`make bench` builds it");
    let mut sandbox = porin_cell::Cell::start(&plan, &[], limits, &setup).expect("it starts");

    let frame = [0xcb, 0xa4, 0x07, 0xc6, 0x01, 0xb8, 0x01, 0x08, 0x66, 0x7f, 0xff];
    let message = |index: u32| Message {
        time: Unix(index.into()),
        stream: StreamId(index % STREAMS),
        quality: Quality::GOOD,
        topic: "application/1/device/2/event/up".into(),
        payload: frame.into(),
    };
    let messages: Vec<_> = (0..u32::try_from(PACKETS).unwrap_or(0)).map(message).collect();
    let guest = |m: &Message| porin_sdk::Message {
        time_us: m.time.0,
        stream: m.stream.0,
        quality: 0,
        topic: m.topic.to_string(),
        payload: m.payload.to_vec(),
    };
    let (mut of_native, mut of_sandbox) = (vec![], vec![]);
    let mut out: Vec<H> = Vec::new();
    for _ in 0..rounds() {
        // Made before the clock starts: a native cell takes what it is given, too.
        let guests: Vec<Vec<_>> = messages.chunks(BATCH).map(|batch| batch.iter().map(guest).collect()).collect();
        let start = Instant::now();
        guests.into_iter().for_each(|batch| drop(black_box(native.process(batch))));
        of_native.push(start.elapsed());
        let start = Instant::now();
        for batch in messages.chunks(BATCH) {
            out.clear();
            sandbox.process(batch, Unix(0), &mut out).expect("no fault");
            black_box(out.len());
        }
        of_sandbox.push(start.elapsed());
    }
    let (native, sandbox) = (median(of_native) / PACKETS as f64, median(of_sandbox) / PACKETS as f64);
    println!("{name:<16} {native:>9.1} {sandbox:>9.1} {:>9.1}", sandbox / native);
}

fn guest_setup(setup: &Setup) -> porin_sdk::Setup {
    let param = |param: &Param| porin_sdk::Param {
        name: param.name.clone(),
        value: match &param.value {
            Value::Flag(value) => porin_sdk::Value::Flag(*value),
            Value::Integer(value) => porin_sdk::Value::Integer(*value),
            Value::Number(value) => porin_sdk::Value::Number(*value),
            Value::Text(value) => porin_sdk::Value::Text(value.clone()),
        },
    };
    let stream = |info: &StreamInfo| porin_sdk::StreamInfo {
        id: info.id.0,
        name: info.name.clone(),
        unit: String::new(),
        params: vec![],
    };
    porin_sdk::Setup {
        params: setup.params.iter().map(param).collect(),
        streams: setup.streams.iter().map(stream).collect(),
        outputs: setup.outputs.iter().map(stream).collect(),
    }
}

fn cells() {
    println!("\nns per packet in batches of {BATCH}, {STREAMS} streams\n");
    println!("{:<16} {:>9} {:>9} {:>9}", "cell", "native", "sandbox", "×");
    let number = Value::Number;
    row::<deadband::Deadband>("deadband", &[("absolute", number(3.0))], &[]);
    row::<hampel::Hampel>("hampel", &[], &[]);
    row::<scale::Scale>("scale", &[("gain", number(1.1))], &[]);
    row::<summary::Summary>("summary", &[("window_s", number(60.0))], &["min", "max", "mean", "std", "count"]);
    row::<swinging_door::SwingingDoor>("swinging-door", &[("absolute", number(3.0))], &[]);
    row::<threshold::Threshold>("threshold", &[("high", number(30.0))], &["alarm"]);
    row::<throttle::Throttle>("throttle", &[("every", Value::Integer(10))], &[]);
    let all = ["battery", "temperature", "humidity", "probe"];
    message_row::<lht65::Lht65, porin_sdk::Reading, Reading>("lht65", World::Decoder, &all);
    message_row::<topics::Topics, porin_sdk::Message, Message>("topics", World::MessageFilter, &[]);
}

fn encodings() {
    println!("\nns per reading, a publish of 200 readings of {STREAMS} streams\n");
    println!("{:<16} {:>9} {:>9} {:>14} {:>9}", "encoding", "encode", "decode", "bytes/reading", "× json");
    let readings = readings(STREAMS);
    let names: Vec<_> = (0..STREAMS).map(|id| format!("boiler/s{id}")).collect();
    let packet =
        |(seq, r): (u64, &Reading)| -> (u64, usize, u64, f64) { (seq, r.stream.0 as usize, r.time.0, r.value) };
    let rows: Vec<_> = (0..).zip(&readings[..200]).map(packet).collect();
    let packets: Vec<_> = rows
        .iter()
        .map(|(seq, stream, time_us, value)| Packet {
            seq: Seq(*seq),
            stream: &names[*stream],
            unit: "Cel",
            time_us: *time_us,
            value: *value,
            quality: 0,
        })
        .collect();
    let epoch = Epoch { store: 1, starts: 1 };
    let mut of_json = 0.0;
    for (name, encoding) in Encoding::ALL {
        let (mut encoding_times, mut decoding_times) = (vec![], vec![]);
        let mut bytes = Vec::new();
        for _ in 0..rounds() * 20 {
            let start = Instant::now();
            bytes = black_box(encode(encoding, "kitchen", epoch, &packets));
            encoding_times.push(start.elapsed());
            let start = Instant::now();
            black_box(decode(&bytes).expect("our own"));
            decoding_times.push(start.elapsed());
        }
        let each = |times| median(times) / packets.len() as f64;
        let (encoded, decoded) = (each(encoding_times), each(decoding_times));
        of_json = if encoding == Encoding::Json { encoded } else { of_json };
        let size = bytes.len() as f64 / packets.len() as f64;
        println!("{name:<16} {encoded:>9.1} {decoded:>9.1} {size:>14.1} {:>9.2}", encoded / of_json);
    }
}

/// A pipeline with so many routes of one deadband each, and so many streams in each.
fn pipeline(routes: u32, streams: u32) -> porind::Pipeline {
    let mut config = format!(
        "[gateway]\nid = \"bench\"\n[uplink]\nbroker = \"mqtt://127.0.0.1\"\n[limits]\nmax_streams = {}\n",
        routes * streams + 1
    );
    for route in 0..routes {
        config += &format!(
            "[slots.q{route}]\ncell = \"{}/cells/deadband.wasm\"\nparams = {{ absolute = 3.0 }}\n[routes.r{route}]\nstreams = [\"r{route}/#\"]\n\
             slots = [\"q{route}\"]\n",
            target_dir().display()
        );
    }
    let mut pipeline = porind::pipeline(&Config::parse(&config).expect("good")).expect("`make bench` builds it");
    for route in 0..routes {
        for stream in 0..streams {
            pipeline.admit(&format!("r{route}/s{stream}"), PacketKind::Readings).expect("room");
        }
    }
    pipeline
}

/// ns per packet; a batch has the packets of one route, and routes take turns.
fn per_packet(routes: u32, streams: u32) -> f64 {
    let mut pipeline = pipeline(routes, streams);
    let readings = readings(streams);
    let batches: Vec<Vec<Reading>> = (0..)
        .zip(readings.chunks(BATCH))
        .map(|(index, batch): (u32, _)| {
            let first = (index % routes) * streams;
            batch.iter().map(|r| Reading { stream: StreamId(first + r.stream.0), ..*r }).collect()
        })
        .collect();
    let mut times = vec![];
    for _ in 0..rounds() {
        let start = Instant::now();
        for batch in &batches {
            pipeline.process(batch, Now::default(), |_, kept| {
                black_box(kept.len());
            });
        }
        times.push(start.elapsed());
    }
    median(times) / readings.len() as f64
}

fn growth() {
    println!("\nns per packet through the pipeline\n\n{:<28} {:>9} {:>9}", "", "ns", "×");
    let one = per_packet(1, 10);
    for streams in [10, 100, 1_000, 10_000] {
        let ns = per_packet(1, streams);
        println!("{:<28} {ns:>9.1} {:>9.2}", format!("{streams} streams, 1 slot"), ns / one);
    }
    for slots in [1, 10, 50] {
        let ns = per_packet(slots, 10);
        println!("{:<28} {ns:>9.1} {:>9.2}", format!("10 streams in each of {slots}"), ns / one);
    }
}

fn main() {
    cells();
    encodings();
    growth();
}
