//! The stock cells, as built, in the host that gateways use.

use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Param, Setup, StreamInfo, Value},
    time::Unix,
};
use porin_test_support::cell;

fn stream(id: u32, name: &str, params: Vec<Param>) -> StreamInfo {
    StreamInfo { id: StreamId(id), name: name.into(), unit: "Cel".into(), params }
}

fn number(name: &str, value: f64) -> Param {
    Param { name: name.into(), value: Value::Number(value) }
}

fn reading(time_us: u64, stream: u32, value: f64) -> Reading {
    Reading { time: Unix(time_us), value, stream: StreamId(stream), quality: Quality::GOOD }
}

fn start(name: &str, setup: &Setup) -> Cell {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), World::Filter, &limits).expect("a stock cell loads");
    Cell::start(&plan, &[], limits, setup).expect("a stock cell starts without grants")
}

fn deadband() -> Cell {
    let setup = Setup {
        params: vec![number("percent", 10.0)],
        streams: vec![stream(3, "a", vec![number("span", 10.0)]), stream(9, "b", vec![number("span", 100.0)])],
        outputs: vec![],
    };
    start("deadband", &setup)
}

fn kept(cell: &mut Cell, batch: &[Reading]) -> Vec<(u32, f64)> {
    let mut out: Vec<Reading> = Vec::new();
    let used = cell.process(batch, Unix(0), &mut out).expect("the call succeeds");
    assert!(used.fuel > 0);
    out.iter().map(|reading| (reading.stream.0, reading.value)).collect()
}

#[test]
fn stock_cells_are_small() {
    for name in porin_test_support::stock_cells() {
        let bytes = cell(&name).len();
        assert!(bytes <= 20_480, "{name}: {bytes}");
    }
}

#[test]
fn deadband_forwards_what_moves_by_more_than_the_bound_of_its_stream() {
    let mut cell = deadband();
    let batch = [reading(0, 3, 5.0), reading(0, 9, 5.0), reading(1, 3, 6.0), reading(1, 9, 7.0), reading(2, 3, 6.5)];
    assert_eq!(kept(&mut cell, &batch), [(3, 5.0), (9, 5.0), (3, 6.5)]);
}

#[test]
fn state_goes_over_into_a_new_instance() {
    let mut first = deadband();
    kept(&mut first, &[reading(0, 3, 5.0)]);
    let state = first.save().expect("it saves");
    let mut second = deadband();
    assert_eq!(second.restore(&state).expect("the call succeeds"), Ok(()));
    assert_eq!(second.save().expect("it saves"), state);
    assert_eq!(kept(&mut second, &[reading(1, 3, 5.5), reading(2, 3, 6.5)]), [(3, 6.5)]);
}

#[test]
fn damaged_state_is_refused_and_changes_nothing() {
    let mut cell = deadband();
    kept(&mut cell, &[reading(0, 3, 5.0), reading(0, 9, 5.0)]);
    let state = cell.save().expect("it saves");
    let fresh = deadband().save().expect("it saves");
    for cut in 0..state.len() {
        // A cut between two streams is a shorter list of streams, which is a state.
        if let Err(text) = {
            let mut cell = deadband();
            let answer = cell.restore(&state[..cut]).expect("no fault");
            answer.map_err(|text| (text, cell.save().expect("it saves")))
        } {
            assert_eq!(text.1, fresh, "cut at {cut}");
        }
    }
    assert!(deadband().restore(&[]).expect("no fault").is_err());
    assert!(deadband().restore(&[9, 9, 9]).expect("no fault").is_err());
    let other = start("threshold", &alarm()).save().expect("it saves");
    assert!(deadband().restore(&other).expect("no fault").is_err(), "another cell's state");
}

#[test]
fn the_first_cell_of_a_component_pays_no_more_than_the_second() {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell("deadband"), World::Filter, &limits).expect("it loads");
    let setup = Setup { params: vec![number("absolute", 1.0)], streams: vec![stream(0, "a", vec![])], outputs: vec![] };
    let used = || {
        let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");
        let start = cell.used();
        cell.process(&[reading(0, 0, 1.0)], Unix(0), &mut Vec::<Reading>::new()).expect("no fault");
        (start, cell.used())
    };
    // The second finds every function translated.
    assert_eq!(used(), used());
}

#[test]
fn parameters_that_do_not_fit_are_refused_in_words() {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell("deadband"), World::Filter, &limits).expect("it loads");
    let check = |params: Vec<Param>, expected: &str| {
        let setup = Setup { params, streams: vec![stream(1, "boiler/temp", vec![])], outputs: vec![] };
        let error = Cell::start(&plan, &[], limits, &setup).expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(vec![], "`absolute` of stream `boiler/temp`: missing");
    check(vec![number("percnt", 1.0)], "unknown parameter `percnt`; known: absolute, percent, max_silence_s");
    check(vec![number("percent", 1.0)], "`span` of stream `boiler/temp`: missing");
    check(vec![number("absolute", -1.0)], "must not be negative");
    check(vec![number("absolute", f64::NAN)], "must be a finite number");
}

#[test]
fn a_stream_that_appears_later_is_decided_about() {
    let mut cell = deadband();
    cell.streams_added(&[stream(4, "c", vec![number("absolute", 0.0), number("span", 1.0)])], &[])
        .expect_err("two bounds trap");
    let mut cell = deadband();
    cell.streams_added(&[stream(4, "c", vec![number("span", 1.0)])], &[]).expect("added");
    assert_eq!(kept(&mut cell, &[reading(0, 4, 1.0), reading(0, 4, 1.05), reading(0, 4, 1.2)]), [(4, 1.0), (4, 1.2)]);
}

fn alarm() -> Setup {
    Setup {
        params: vec![number("high", 180.0), number("low", 70.0), number("hysteresis", 5.0)],
        streams: vec![stream(0, "glucose", vec![])],
        outputs: vec![stream(1, "glucose/alarm", vec![])],
    }
}

#[test]
fn threshold_sends_changes_on_its_output() {
    let mut cell = start("threshold", &alarm());
    let values = [100.0, 181.0, 178.0, 175.0, 60.0, 74.0, 75.0];
    let batch: Vec<_> = (0..).zip(values).map(|(time, value)| reading(time, 0, value)).collect();
    assert_eq!(kept(&mut cell, &batch), [(1, 0.0), (1, 1.0), (1, 0.0), (1, -1.0), (1, 0.0)]);
}

#[test]
fn memory_stays_at_one_page_over_many_batches() {
    let mut cell = deadband();
    for time in 0..10_000 {
        let batch: Vec<_> =
            (0..64).map(|index| reading(time, if index % 2 == 0 { 3 } else { 9 }, index as f64)).collect();
        kept(&mut cell, &batch);
    }
    assert_eq!(cell.memory().len(), 65_536);
}

/// Room grows with the streams: ten thousand of them decide, save and come back.
#[test]
fn ten_thousand_streams_fit() {
    let streams = || (0..10_000).map(|id| stream(id, &format!("s{id}"), vec![])).collect();
    for (name, params) in [("deadband", vec![number("absolute", 1.0)]), ("hampel", vec![])] {
        let setup = Setup { params, streams: streams(), outputs: vec![] };
        let mut cell = start(name, &setup);
        let mut out: Vec<Reading> = Vec::new();
        for round in 0..20 {
            for first in (0..10_000).step_by(100) {
                let batch: Vec<_> = (first..first + 100).map(|id| reading(round, id, f64::from(id))).collect();
                cell.process(&batch, Unix(0), &mut out).expect("no fault");
            }
        }
        let state = cell.save().expect("it fits");
        start(name, &setup).restore(&state).expect("no fault").expect("it takes its own state");
    }
}
