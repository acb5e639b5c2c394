//! `make bench`: what a packet costs on its way through the pipeline, as ratios within one run.
//!
//! The pipeline: routing, counters, the call into the cell with all of the canonical ABI; no I/O. Against it the same
//! decision as a native function, and the bare typed call of wasmi: one instance, fuel on, the batch already in its
//! memory. Medians of many rounds that take turns, so that a slow moment of the machine hits all of them.

#![allow(clippy::print_stdout)] // the table is what it is for

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use deadband::Deadband;
use porin_core::{
    config::Config,
    ids::StreamId,
    packet::{PacketKind, Quality, Reading},
    time::{Now, Unix},
};
use porin_sdk::{Param, Setup, StreamInfo, Streams, Value};
use porin_test_support::{cell, target_dir};
use wasmi::{Instance, Memory, Module, Store, TypedFunc};

const STREAMS: u32 = 16;
const BOUND: f64 = 3.0;
const ROUNDS: usize = 400;
/// Packets of a round: enough for the clock, few enough to take turns often.
const PACKETS: usize = 8_192;

/// Sixteen sensors that walk at random; about one packet in twenty is forwarded.
fn readings() -> Vec<Reading> {
    let mut state = 42_u64;
    let mut values = [20.0; STREAMS as usize];
    let reading = |index: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss)]
        let step = (state >> 40) as f64 / f64::from(1 << 24) - 0.5;
        let stream = index % STREAMS as usize;
        values[stream] += step * 2.0;
        let stream = StreamId(u32::try_from(stream).unwrap_or_default());
        Reading { time: Unix(index as u64 * 1_000), value: values[stream.0 as usize], stream, quality: Quality::GOOD }
    };
    (0..PACKETS).map(reading).collect()
}

/// The pipeline as `porind` has it, with one route and one deadband.
fn pipeline() -> porind::Pipeline {
    let config = format!(
        "[gateway]\nid = \"bench\"\n[uplink]\nbroker = \"mqtt://127.0.0.1\"\n[slots.quiet]\ncell = \"{}/cells/deadband.wasm\"\n\
         params = {{ absolute = {BOUND:?} }}\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n",
        target_dir().display()
    );
    let config = Config::parse(&config).expect("a good configuration");
    let mut pipeline = porind::pipeline(&config).expect("the cell is built by `make bench`");
    for stream in 0..STREAMS {
        assert_eq!(pipeline.admit(&format!("s{stream}"), PacketKind::Readings), Ok(StreamId(stream)));
    }
    pipeline
}

/// The same decisions without a sandbox.
fn native() -> Streams<Deadband, porin_sdk::Reading, porin_sdk::Reading> {
    let mut cell = Streams::new("deadband");
    let stream = |id| StreamInfo { id, name: format!("s{id}"), unit: String::new(), params: vec![] };
    let params = vec![Param { name: "absolute".into(), value: Value::Number(BOUND) }];
    cell.init(Setup { params, streams: (0..STREAMS).map(stream).collect(), outputs: vec![] }).expect("good parameters");
    cell
}

/// The core module inside the component, called with nothing in between.
struct Bare {
    store: Store<()>,
    memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
    process: TypedFunc<(u32, u32), u32>,
    post_return: TypedFunc<u32, ()>,
}

impl Bare {
    fn new() -> Self {
        let component = cell("deadband");
        let module = wasmparser::Parser::new(0).parse_all(&component).find_map(|payload| match payload {
            Ok(wasmparser::Payload::ModuleSection { unchecked_range, .. }) => Some(component[unchecked_range].to_vec()),
            _ => None,
        });
        let mut config = wasmi::Config::default();
        config.consume_fuel(true).compilation_mode(wasmi::CompilationMode::Eager);
        let engine = wasmi::Engine::new(&config);
        let module = Module::new(&engine, module.expect("a component has a core module")).expect("it compiles");
        let mut store = Store::new(&engine, ());
        store.set_fuel(u64::MAX / 2).expect("fuel is on");
        let instance = Instance::new(&mut store, &module, &[]).expect("it imports nothing");
        let memory = instance.get_memory(&store, "memory").expect("a memory");
        let function = "the world's function";
        let mut bare = Self {
            realloc: instance.get_typed_func(&store, "cabi_realloc").expect(function),
            process: instance.get_typed_func(&store, "process").expect(function),
            post_return: instance.get_typed_func(&store, "cabi_post_process").expect(function),
            memory,
            store,
        };
        let init: TypedFunc<(u32, u32, u32, u32, u32, u32), u32> =
            instance.get_typed_func(&bare.store, "init").expect(function);
        // One param: name "absolute", case 2 (number). Sixteen streams without names.
        let name = bare.put(b"absolute", 1);
        let mut param = [0; 24];
        param[..4].copy_from_slice(&name.to_le_bytes());
        param[4] = 8;
        param[8] = 2;
        param[16..].copy_from_slice(&BOUND.to_le_bytes());
        let params = bare.put(&param, 8);
        let mut streams = Vec::new();
        for id in 0..STREAMS {
            streams.extend_from_slice(&id.to_le_bytes());
            // Name, unit and params: each empty, at an aligned place.
            streams.extend([8, 0, 8, 0, 8, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
        }
        let streams = bare.put(&streams, 4);
        let answer = init.call(&mut bare.store, (params, 1, streams, STREAMS, 8, 0)).expect("no trap");
        assert_eq!(bare.memory.data(&bare.store)[answer as usize], 0, "init accepts");
        bare
    }

    fn put(&mut self, bytes: &[u8], align: u32) -> u32 {
        let len = u32::try_from(bytes.len()).expect("small");
        let pointer = self.realloc.call(&mut self.store, (0, 0, align, len)).expect("no trap");
        self.memory.data_mut(&mut self.store)[pointer as usize..][..bytes.len()].copy_from_slice(bytes);
        pointer
    }

    /// Only the call itself is timed.
    fn process(&mut self, batch: &[u8], packets: u32) -> Duration {
        let pointer = self.put(batch, 8);
        let start = Instant::now();
        let answer = self.process.call(&mut self.store, (pointer, packets)).expect("no trap");
        let time = start.elapsed();
        self.post_return.call(&mut self.store, black_box(answer)).expect("no trap");
        time
    }
}

fn bytes(batch: &[Reading]) -> Vec<u8> {
    let fields = |r: &Reading| {
        [
            r.time.0.to_le_bytes(),
            r.value.to_le_bytes(),
            (u64::from(r.stream.0) | u64::from(r.quality.0) << 32).to_le_bytes(),
        ]
    };
    batch.iter().flat_map(|reading| fields(reading).concat()).collect()
}

/// A reading as the cell's own code sees it.
fn guest(r: &Reading) -> porin_sdk::Reading {
    porin_sdk::Reading { time_us: r.time.0, value: r.value, stream: r.stream.0, quality: r.quality.0 }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let per_packet = times[times.len() / 2].as_nanos() as f64 / PACKETS as f64;
    per_packet
}

fn main() {
    // `cargo test --benches` calls it, too: then it only has to run.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 2 };
    let readings = readings();
    println!("ns per packet, {STREAMS} streams, one deadband; median of {rounds} rounds of {PACKETS} packets\n");
    println!(
        "{:>6} {:>9} {:>9} {:>9} {:>18} {:>16}",
        "batch", "native", "bare call", "pipeline", "pipeline / native", "pipeline / bare"
    );
    for size in [1, 8, 64] {
        let (mut native, mut bare, mut pipeline) = (native(), Bare::new(), pipeline());
        let guests: Vec<_> = readings.iter().map(guest).collect();
        let guests: Vec<_> = guests.chunks(size).collect();
        let batches: Vec<_> = readings.chunks(size).map(|batch| (batch, bytes(batch))).collect();
        let packets = u32::try_from(size).expect("small");
        let (mut of_native, mut of_bare, mut of_pipeline) = (vec![], vec![], vec![]);
        let clock = {
            let start = Instant::now();
            (0..1_000).for_each(|_| {
                black_box(Instant::now());
            });
            start.elapsed() / 1_000
        };
        for _ in 0..rounds {
            let start = Instant::now();
            guests.iter().for_each(|batch| drop(black_box(native.process(batch.to_vec()))));
            of_native.push(start.elapsed());
            let mut call = Duration::ZERO;
            for (_, batch) in &batches {
                call += bare.process(batch, packets).saturating_sub(clock);
            }
            of_bare.push(call);
            let start = Instant::now();
            for (batch, _) in &batches {
                let routed = pipeline.process(batch, Now::default(), |_, kept| {
                    black_box(kept.len());
                });
                assert_eq!(routed.routed, batch.len() as u64);
            }
            of_pipeline.push(start.elapsed());
        }
        let (native, bare, pipeline) = (median(of_native), median(of_bare), median(of_pipeline));
        println!(
            "{size:>6} {native:>9.1} {bare:>9.1} {pipeline:>9.1} {:>18.1} {:>16.2}",
            pipeline / native,
            pipeline / bare
        );
    }
}
