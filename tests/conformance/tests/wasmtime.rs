//! Every stock cell over recorded streams on wasmi and on Wasmtime: the same output and the same saved state, bit by
//! bit. The component is the same file; nothing is compiled twice.

use std::collections::BTreeMap;

use porin_cell::{Cell, CellPacket, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Message, Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_test_support::{
    Row, all_data, cell, generated_cell, rows, skip, top,
    traces::{Case, Trace, cases, channels, on_wasmi, readings, setup},
};
use wasmtime::{Config, Store, component::Component, component::Linker};

mod bindings {
    #![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
    wasmtime::component::bindgen!({ path: "../../wit", world: "filter" });
}
use bindings::{Filter, porin::cell::types};

fn compiled(bytes: &[u8]) -> Component {
    let mut config = Config::new();
    config.cranelift_nan_canonicalization(true);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    Component::new(&engine, bytes).expect("a valid component")
}

fn on_wasmtime(component: &Component, setup: &Setup, readings: &[Reading]) -> Trace {
    let engine = component.engine();
    let mut store = Store::new(engine, ());
    let filter = Filter::instantiate(&mut store, component, &Linker::new(engine)).expect("it imports nothing");
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

/// Every recorded set that is there.
fn sets() -> Vec<(String, Vec<Row>)> {
    let carried =
        ["buoy", "glucose", "vehicle_gps"].map(|set| top().join("tests/data").join(set).with_extension("csv.gz"));
    let files = all_data().unwrap_or_else(|| {
        skip("every_cell_gives_the_same_bits_on_both_engines", "only the sets that the project carries are there");
        carried.to_vec()
    });
    files.iter().map(|path| (path.display().to_string(), rows(path))).collect()
}

#[test]
fn every_cell_gives_the_same_bits_on_both_engines() {
    let mut kept = BTreeMap::new();
    // Wasmtime compiles a cell once, and runs it on every set.
    let compiled: BTreeMap<_, _> = cases().iter().map(|case| (case.cell, compiled(&cell(case.cell)))).collect();
    for (set, rows) in sets() {
        let channels = channels(&rows);
        let readings = readings(&rows, &channels);
        for Case { cell: name, params, outputs } in cases() {
            let (bytes, setup) = (cell(name), setup(&params, outputs, &channels));
            let (here, there) = (on_wasmi(&bytes, &setup, &readings), on_wasmtime(&compiled[name], &setup, &readings));
            *kept.entry(name).or_insert(0) += here.output.len();
            assert!(here.output == there.output, "{name} on {set}: the output differs");
            assert!(here.states == there.states, "{name} on {set}: the state differs");
        }
    }
    assert!(kept.values().all(|kept| *kept > 100), "too little to compare: {kept:?}");
}

#[test]
fn generated_cells_give_the_same_bits_on_both_engines() {
    let rows = rows(&top().join("tests/data/vehicle_gps.csv.gz"));
    let channels = channels(&rows);
    let readings = readings(&rows, &channels);
    let setup = setup(&[], &[], &channels);
    let mut kept = 0;
    for seed in 0..200 {
        let bytes = generated_cell(seed);
        let part = &readings[..2_000];
        let (here, there) = (on_wasmi(&bytes, &setup, part), on_wasmtime(&compiled(&bytes), &setup, part));
        kept += here.output.len();
        assert!(here == there, "seed {seed}");
    }
    assert!(kept > 100_000, "the cells keep too little to compare: {kept}");
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
    (0..500).map(message).map(of_a_known_type).collect()
}

/// Gives messages with the length of an LHT65's frame each of its types in turn.
fn of_a_known_type(mut message: Message) -> Message {
    const TYPES: [u8; 11] = [0, 1, 4, 5, 6, 7, 8, 9, 0x41, 0x81, 0x0f];
    let mut payload = message.payload.to_vec();
    if payload.len() == 11 {
        payload[6] = TYPES[(message.time.0 / 14_000_000) as usize % TYPES.len()];
        message.payload = payload.into();
    }
    message
}

fn message_setup(outputs: &[&str], params: &[Param]) -> Setup {
    let names: Vec<_> = (0..3).map(|id| format!("s{id}")).collect();
    let mut setup = setup(params, &[], &names);
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
        let component = compiled(&cell($cell));
        let engine = component.engine();
        let mut store = Store::new(engine, ());
        let world = $module::$world::instantiate(&mut store, &component, &Linker::new(engine)).expect("no imports");
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
    let setup = message_setup(&[], &[text("only", "a/+"), text("except", "+/c")]);
    let ours: Vec<Message> = here("topics", World::MessageFilter, &setup, &messages);
    let ours: Vec<_> =
        ours.iter().map(|m| (m.time.0, m.stream.0, m.quality.0, m.topic.to_string(), m.payload.to_vec())).collect();
    let theirs = on_wasmtime!(message_filter, MessageFilter, "topics", setup, messages, |m| (
        m.time_us, m.stream, m.quality, m.topic, m.payload
    ));
    assert!(ours.len() > 50 && ours == theirs);

    let setup = message_setup(&["battery", "temperature", "humidity", "probe", "illuminance", "voltage", "count"], &[]);
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
