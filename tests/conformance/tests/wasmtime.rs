//! Every stock cell over recorded streams on wasmi and on Wasmtime: the same output and the same saved state, bit by
//! bit. The component is the same file; nothing is compiled twice.

use porin_cell::{Cell, CellPacket, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Message, Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_test_support::{Row, cell, rows, top};
use wasmtime::{Config, Store, component::Component, component::Linker};

mod bindings {
    #![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
    wasmtime::component::bindgen!({ path: "../../wit", world: "filter" });
}
use bindings::{Filter, porin::cell::types};

/// What a run leaves: all readings that came out, bit by bit, and the state after every 16th batch.
#[derive(Default, PartialEq)]
struct Trace {
    output: Vec<(u64, u64, u32, u32)>,
    states: Vec<Vec<u8>>,
}

/// What a cell is to be tried with.
struct Case {
    cell: &'static str,
    params: Vec<Param>,
    outputs: &'static [&'static str],
}

/// Every stock cell, with parameters under which it does something on every set.
fn cases() -> Vec<Case> {
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

fn setup(case: &Case, channels: &[String]) -> Setup {
    let info = |id: usize, name: &str| {
        let id = StreamId(u32::try_from(id).expect("few"));
        let params = vec![Param { name: "span".into(), value: Value::Number(100.0) }];
        StreamInfo { id, name: name.into(), unit: "Cel".into(), params }
    };
    let streams: Vec<_> = channels.iter().enumerate().map(|(id, name)| info(id, name)).collect();
    let names =
        streams.iter().flat_map(|stream| case.outputs.iter().map(move |output| format!("{}/{output}", stream.name)));
    let outputs = (channels.len()..).zip(names).map(|(id, name)| info(id, &name)).collect();
    Setup { params: case.params.clone(), outputs, streams }
}

fn readings(rows: &[Row], channels: &[String]) -> Vec<Reading> {
    let mut readings: Vec<_> = rows
        .iter()
        .map(|row| Reading {
            time: Unix(row.time_us),
            value: row.value,
            stream: StreamId(
                u32::try_from(channels.iter().position(|name| *name == row.channel).expect("known")).expect("few"),
            ),
            quality: Quality::GOOD,
        })
        .collect();
    // What no recording has: values that are no numbers, and a signalling one.
    for (index, bits) in [(100, f64::NAN.to_bits()), (200, f64::INFINITY.to_bits()), (300, 0x7ff0_0000_0000_0001)] {
        readings[index].value = f64::from_bits(bits);
    }
    readings
}

fn on_wasmi(bytes: &[u8], setup: &Setup, readings: &[Reading]) -> Trace {
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

fn on_wasmtime(bytes: &[u8], setup: &Setup, readings: &[Reading]) -> Trace {
    let mut config = Config::new();
    config.cranelift_nan_canonicalization(true);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let component = Component::new(&engine, bytes).expect("a valid component");
    let mut store = Store::new(&engine, ());
    let filter = Filter::instantiate(&mut store, &component, &Linker::new(&engine)).expect("it imports nothing");
    let param = |param: &Param| types::Param {
        name: param.name.clone(),
        value: match &param.value {
            Value::Flag(value) => types::Value::Flag(*value),
            Value::Integer(value) => types::Value::Integer(*value),
            Value::Number(value) => types::Value::Number(*value),
            Value::Text(value) => types::Value::Text(value.clone()),
        },
    };
    let info = |info: &StreamInfo| types::StreamInfo {
        id: info.id.0,
        name: info.name.clone(),
        unit: info.unit.clone(),
        params: info.params.iter().map(param).collect(),
    };
    let setup = types::Setup {
        params: setup.params.iter().map(param).collect(),
        streams: setup.streams.iter().map(info).collect(),
        outputs: setup.outputs.iter().map(info).collect(),
    };
    filter.call_init(&mut store, &setup).expect("no trap").expect("it starts");
    let mut trace = Trace::default();
    for (index, batch) in readings.chunks(64).enumerate() {
        let reading = |r: &Reading| types::Reading {
            time_us: r.time.0,
            value: r.value,
            stream: r.stream.0,
            quality: r.quality.0,
        };
        let batch: Vec<_> = batch.iter().map(reading).collect();
        let out = filter.call_process(&mut store, &batch).expect("no trap");
        trace.output.extend(out.iter().map(|r| (r.time_us, r.value.to_bits(), r.stream, r.quality)));
        if index % 16 == 0 {
            trace.states.push(filter.call_save(&mut store).expect("no trap"));
        }
    }
    trace.states.push(filter.call_save(&mut store).expect("no trap"));
    trace
}

#[test]
fn every_cell_gives_the_same_bits_on_both_engines() {
    for case in cases() {
        let bytes = cell(case.cell);
        for set in ["buoy", "glucose", "vehicle_gps"] {
            let rows = rows(&top().join("tests/data").join(set).with_extension("csv.gz"));
            let mut channels: Vec<_> = rows.iter().map(|row| row.channel.clone()).collect();
            channels.sort_unstable();
            channels.dedup();
            let (setup, readings) = (setup(&case, &channels), readings(&rows, &channels));
            let (here, there) = (on_wasmi(&bytes, &setup, &readings), on_wasmtime(&bytes, &setup, &readings));
            assert!(here.output.len() > 10, "{} keeps too little of {set} to compare", case.cell);
            assert!(here.output == there.output, "{} on {set}: the output differs", case.cell);
            assert!(here.states == there.states, "{} on {set}: the state differs", case.cell);
        }
    }
}

/// Messages of every length up to some more than a frame, and some topics.
fn messages() -> Vec<Message> {
    let message = |index: u32| Message {
        time: Unix(u64::from(index) * 1_000_000),
        stream: StreamId(index % 3),
        quality: Quality(index % 2),
        topic: ["a/b", "a/c", "käse/#/+", ""][index as usize % 4].into(),
        payload: (0..index % 14).map(|byte| (byte * 37 + index * 11).to_le_bytes()[0]).collect(),
    };
    (0..500).map(message).collect()
}

fn message_setup(outputs: &[&str], params: Vec<Param>) -> Setup {
    let case = Case { cell: "", params, outputs: &[] };
    let names: Vec<_> = (0..3).map(|id| format!("s{id}")).collect();
    let mut setup = setup(&case, &names);
    setup.streams.iter_mut().for_each(|stream| stream.params.clear());
    let outputs = names.iter().flat_map(|name| outputs.iter().map(move |output| format!("{name}/{output}")));
    let info = |(id, name)| StreamInfo { id: StreamId(id), name, unit: String::new(), params: vec![] };
    setup.outputs = (3..).zip(outputs).map(info).collect();
    setup
}

mod message_filter {
    #![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
    wasmtime::component::bindgen!({ path: "../../wit", world: "message-filter" });
}

mod decoder {
    #![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
    wasmtime::component::bindgen!({ path: "../../wit", world: "decoder" });
}

/// What the bindings of each world call by the same names, in modules of their own.
macro_rules! on_wasmtime {
    ($module:ident, $world:ident, $cell:expr, $setup:expr, $messages:expr, $out:expr) => {{
        use $module::porin::cell::{messages, types};
        let mut config = Config::new();
        config.cranelift_nan_canonicalization(true);
        let engine = wasmtime::Engine::new(&config).expect("an engine");
        let component = Component::new(&engine, cell($cell)).expect("a valid component");
        let mut store = Store::new(&engine, ());
        let world = $module::$world::instantiate(&mut store, &component, &Linker::new(&engine)).expect("no imports");
        let param = |param: &Param| types::Param {
            name: param.name.clone(),
            value: match &param.value {
                Value::Flag(value) => types::Value::Flag(*value),
                Value::Integer(value) => types::Value::Integer(*value),
                Value::Number(value) => types::Value::Number(*value),
                Value::Text(value) => types::Value::Text(value.clone()),
            },
        };
        let info = |info: &StreamInfo| types::StreamInfo {
            id: info.id.0,
            name: info.name.clone(),
            unit: info.unit.clone(),
            params: info.params.iter().map(param).collect(),
        };
        let setup = types::Setup {
            params: $setup.params.iter().map(param).collect(),
            streams: $setup.streams.iter().map(info).collect(),
            outputs: $setup.outputs.iter().map(info).collect(),
        };
        world.call_init(&mut store, &setup).expect("no trap").expect("it starts");
        let message = |message: &Message| messages::Message {
            time_us: message.time.0,
            stream: message.stream.0,
            quality: message.quality.0,
            topic: message.topic.to_string(),
            payload: message.payload.to_vec(),
        };
        let batches = $messages.chunks(16).map(|batch| batch.iter().map(message).collect::<Vec<_>>());
        batches.flat_map(|batch| world.call_process(&mut store, &batch).expect("no trap")).map($out).collect::<Vec<_>>()
    }};
}

fn here<O: CellPacket>(name: &str, world: World, setup: &Setup, messages: &[Message]) -> Vec<O> {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), world, &limits).expect("it loads");
    let mut cell = Cell::start(&plan, &[], limits, setup).expect("it starts");
    let mut out = Vec::new();
    for batch in messages.chunks(16) {
        cell.process(batch, Unix(0), &mut out).expect("no fault");
    }
    out
}

#[test]
fn cells_of_messages_give_the_same_bits_on_both_engines() {
    let messages = messages();
    let text = |name: &str, value: &str| Param { name: name.into(), value: Value::Text(value.into()) };
    let setup = message_setup(&[], vec![text("only", "a/+"), text("except", "+/c")]);
    let ours: Vec<Message> = here("topics", World::MessageFilter, &setup, &messages);
    let ours: Vec<_> =
        ours.iter().map(|m| (m.time.0, m.stream.0, m.quality.0, m.topic.to_string(), m.payload.to_vec())).collect();
    let theirs = on_wasmtime!(message_filter, MessageFilter, "topics", setup, messages, |m| (
        m.time_us, m.stream, m.quality, m.topic, m.payload
    ));
    assert!(ours.len() > 50 && ours == theirs);

    let setup = message_setup(&["battery", "temperature", "humidity", "probe"], vec![]);
    let ours: Vec<Reading> = here("lht65", World::Decoder, &setup, &messages);
    let ours: Vec<_> = ours.iter().map(|r| (r.time.0, r.value.to_bits(), r.stream.0, r.quality.0)).collect();
    let theirs = on_wasmtime!(decoder, Decoder, "lht65", setup, messages, |r| (
        r.time_us,
        r.value.to_bits(),
        r.stream,
        r.quality
    ));
    assert!(ours.len() > 50 && ours == theirs);
}
