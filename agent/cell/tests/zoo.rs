//! Each cell of the zoo ends as it is said to end, within its fuel and its memory.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use porin_cell::{Cell, Engine, Plan, StartError, World};
use porin_core::{
    fault::Fault,
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Setup, StreamInfo},
    time::Unix,
};
use porin_test_support::{Ends, Hostile, zoo};

/// Small, so that what loops ends soon.
fn limits() -> CellLimits {
    CellLimits { fuel_per_batch: 200_000, init_fuel: 200_000, state_bytes: 10_000, ..CellLimits::default() }
}

/// As the zoo names them.
fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::Trap(_) => "trap",
        Fault::OutOfFuel { .. } => "out-of-fuel",
        Fault::OutOfMemory { .. } => "out-of-memory",
        Fault::BadOutput(_) => "bad-output",
        Fault::NoCell(_) => "no-cell",
        Fault::Refused(_) => "refused",
    }
}

fn stream(id: u32) -> StreamInfo {
    StreamInfo { id: StreamId(id), name: format!("s{id}"), unit: String::new(), params: vec![] }
}

/// Everything that a host asks of a cell, some times over, until something fails.
fn live(bytes: &[u8]) -> Ends {
    let limits = limits();
    let plan = match Plan::load(&Engine::new(&limits), bytes, World::Filter, &limits) {
        Ok(plan) => plan,
        // Compared by its words.
        Err(error) => return Ends::Refused(error.to_string().leak()),
    };
    let setup = Setup { streams: vec![stream(5)], ..Setup::default() };
    let mut cell = match Cell::start(&plan, &["log".into(), "clock".into()], limits, &setup) {
        Ok(cell) => cell,
        Err(StartError::Fault(fault)) => return Ends::NotStarted(kind(&fault)),
        Err(other) => panic!("{other}"),
    };
    match calls(&mut cell, &limits) {
        Ok(()) => Ends::Bounded,
        Err(fault) => Ends::Faulted(kind(&fault)),
    }
}

fn calls(cell: &mut Cell, limits: &CellLimits) -> Result<(), Fault> {
    let reading = Reading { time: Unix(7), value: 1.5, stream: StreamId(5), quality: Quality::GOOD };
    let most = limits.fuel_per_batch.max(limits.init_fuel) + 64 * limits.fuel_per_packet;
    let mut out: Vec<Reading> = Vec::new();
    // Whatever a call ends with, it ends within its fuel and its memory.
    let within = |cell: &mut Cell, outcome: Result<(), Fault>| {
        assert!(cell.used().fuel <= most, "{:?} of {most}", cell.used());
        assert!(cell.memory().len() <= limits.memory_bytes + 2 * limits.memory_bytes_per_stream);
        let (lines, _) = cell.take_log();
        assert!(lines.len() <= limits.log_lines_per_call);
        assert!(lines.iter().all(|line| !line.message.contains(char::is_control)), "{lines:?}");
        outcome
    };
    for round in 0..20 {
        let outcome = cell.process(&[reading; 3], Unix(round), &mut out).map(drop);
        within(cell, outcome)?;
        let outcome = cell.tick(Unix(round), &mut out).map(drop);
        within(cell, outcome)?;
        let state = cell.save();
        within(cell, state.as_ref().map(drop).map_err(Clone::clone))?;
        let outcome = cell.restore(&state?).map(drop);
        within(cell, outcome)?;
    }
    let outcome = cell.streams_added(&[stream(6)], &[]);
    within(cell, outcome)?;
    let outcome = cell.flush(&mut out).map(drop);
    within(cell, outcome)
}

#[test]
fn every_hostile_cell_ends_as_it_is_said_to_end_within_its_fuel_and_its_memory() {
    let zoo = zoo();
    assert!(zoo.len() >= 30);
    for Hostile { name, component, ends } in zoo {
        match (ends, live(&component)) {
            (Ends::Refused(words), Ends::Refused(error)) => assert!(error.contains(words), "{name}: {error}"),
            (ends, came) => assert_eq!(came, ends, "{name}"),
        }
    }
}
