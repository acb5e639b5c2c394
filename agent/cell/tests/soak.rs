//! Packets without end through each stock cell: neither the cell's memory nor the process's grows.
//!
//! One test, in a process of its own: it looks at how much memory that has. `make soak` sends ten million through each cell.

use std::fs;

use porin_cell::{Cell, CellPacket, Engine, Plan, World};
use porin_core::{
    ids::StreamId,
    limits::CellLimits,
    packet::{Message, Reading},
    setup::{Setup, StreamInfo},
    time::Unix,
};
use porin_test_support::{
    cell, rows, top,
    traces::{Case, cases, channels, readings, setup},
};

/// Packets through each cell.
fn packets() -> usize {
    std::env::var("PORIN_SOAK").ok().and_then(|packets| packets.parse().ok()).unwrap_or(100_000)
}

fn resident_kb() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("its size");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

/// Feeds the same packets again and again, `later` each time, and gives the cell's memory and the process's after a tenth and at the end.
fn soak<I: CellPacket, O: CellPacket>(
    name: &str,
    world: World,
    setup: &Setup,
    packets_of_a_round: &mut [I],
    later: impl Fn(&mut I),
) -> [(usize, u64); 2] {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), &cell(name), world, &limits).expect("a stock cell");
    let mut cell = Cell::start(&plan, &[], limits, setup).expect("it starts");
    let mut out: Vec<O> = Vec::new();
    let (mut fed, mut early) = (0, None);
    while fed < packets() {
        for batch in packets_of_a_round.chunks(64) {
            out.clear();
            cell.process(batch, Unix(0), &mut out).expect("no fault");
            fed += batch.len();
        }
        out.clear();
        cell.tick(Unix(0), &mut out).expect("no fault");
        cell.save().expect("it saves");
        packets_of_a_round.iter_mut().for_each(&later);
        if early.is_none() && fed >= packets() / 10 {
            early = Some((cell.memory().len(), resident_kb()));
        }
    }
    [early.expect("a tenth is less than the whole"), (cell.memory().len(), resident_kb())]
}

#[test]
fn packets_without_end_leave_a_cells_memory_and_the_processs_as_they_were() {
    let rows = rows(&top().join("tests/data/vehicle_gps.csv.gz"));
    let channels = channels(&rows);
    let mut readings = readings(&rows, &channels);
    let mut ends = Vec::new();
    for Case { cell: name, params, outputs } in cases() {
        let setup = setup(&params, outputs, &channels);
        // An hour for a recording of less.
        let later = |reading: &mut Reading| reading.time.0 += 3_600_000_000;
        ends.push((name, soak::<Reading, Reading>(name, World::Filter, &setup, &mut readings, later)));
    }
    let stream =
        |id, name: &str| StreamInfo { id: StreamId(id), name: name.into(), unit: String::new(), params: vec![] };
    let message = |number: u32| Message {
        time: Unix(u64::from(number)),
        stream: StreamId(0),
        quality: porin_core::packet::Quality::GOOD,
        topic: ["a/b", "a/c"][number as usize % 2].into(),
        payload: (0..number % 14).map(|byte| (byte * 37 + number).to_le_bytes()[0]).collect(),
    };
    let mut messages: Vec<_> = (0..2_000).map(message).collect();
    let setup = Setup { streams: vec![stream(0, "m")], ..Setup::default() };
    ends.push(("topics", soak::<Message, Message>("topics", World::MessageFilter, &setup, &mut messages, |_| {})));
    let outputs = ["battery", "temperature", "humidity", "probe"].iter().zip(1..).map(|(name, id)| stream(id, name));
    let setup = Setup { outputs: outputs.collect(), ..setup };
    ends.push(("lht65", soak::<Message, Reading>("lht65", World::Decoder, &setup, &mut messages, |_| {})));
    assert_eq!(ends.len(), porin_test_support::stock_cells().len(), "a stock cell is left out");
    for (name, [(memory, resident), (memory_then, resident_then)]) in ends {
        println!(
            "{name:<15} {memory_then:>8} bytes of its own, the process + {} KB",
            resident_then.saturating_sub(resident)
        );
        assert_eq!(memory, memory_then, "{name}: its memory grows");
        assert!(resident_then < resident + 1_024, "{name}: {resident} KB after a tenth, {resident_then} KB at the end");
    }
}
