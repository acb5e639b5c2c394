//! What a slot promises, with cells in WebAssembly text.

use porin_cell::Engine;
use porin_core::{
    config::{LogTo, Provenance},
    fault::FaultPolicy,
    health::Quarantine,
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::World,
};
use porin_test_support::{LOG_IMPORT, OK, PASS, WatCell, counting_cell};

use super::*;

fn config() -> Config {
    Config {
        name: "s".into(),
        cell: Provenance::Local(String::new()),
        world: World::Filter,
        grants: vec![],
        params: vec![],
        outputs: vec![],
        tick_us: None,
        fault: FaultPolicy::Drop,
        quarantine: Quarantine::default(),
        log: LogTo::Journal,
        limits: CellLimits::default(),
    }
}

fn slot(stored: Option<Vec<u8>>) -> Slot<Reading, Reading> {
    slot_of(&counting_cell(), config(), stored)
}

fn slot_of(component: &[u8], config: Config, stored: Option<Vec<u8>>) -> Slot<Reading, Reading> {
    let plan =
        Plan::load(&Engine::new(&config.limits), component, config.world, &config.limits).expect("its type is right");
    let stream = StreamInfo { id: StreamId(0), name: "a".into(), unit: String::new(), params: vec![] };
    let setup = Setup { streams: vec![stream], ..Setup::default() };
    let mut slot = Slot::start(config, Arc::new(plan), [0; 32], setup, stored, Some(Clone::clone)).expect("it starts");
    slot.restore_stored();
    slot
}

fn batch(times: &[u64]) -> Vec<Reading> {
    let reading = |time| Reading { time: Unix(time), value: 0.0, stream: StreamId(0), quality: Quality::GOOD };
    times.iter().copied().map(reading).collect()
}

fn process(slot: &mut Slot<Reading, Reading>, times: &[u64]) -> Vec<(u64, f64)> {
    let mut out = Vec::new();
    slot.process(&batch(times), Now::default(), &mut out);
    out.iter().map(|reading| (reading.time.0, reading.value)).collect()
}

#[test]
fn only_the_packet_that_faults_alone_is_dropped_and_no_state_is_lost() {
    let mut slot = slot(None);
    assert_eq!(process(&mut slot, &[1, 2]), [(1, 1.0), (2, 2.0)]);
    slot.save();
    assert_eq!(process(&mut slot, &[3]), [(3, 3.0)]);
    // The cell traps in the middle of a batch: what it had counted of it does not count.
    assert_eq!(process(&mut slot, &[4, 13, 5, 13]), [(4, 4.0), (5, 5.0)]);
    assert_eq!(process(&mut slot, &[6]), [(6, 6.0)]);
    let status = slot.status();
    assert_eq!((status.input, status.processed, status.faulted, status.dropped, status.output), (8, 6, 2, 2, 6));
    // The batch, and each of the two packets alone.
    assert_eq!(status.faults, 3);
}

#[test]
fn what_is_saved_fits_what_was_put_out() {
    let mut first = slot(None);
    process(&mut first, &[1, 2, 13, 3]);
    let state = first.save().expect("it has changed").2.to_vec();
    assert!(first.save().is_none(), "nothing new");
    let mut second = slot(Some(state));
    assert_eq!(process(&mut second, &[4]), [(4, 4.0)]);
}

#[test]
fn a_failed_commit_gives_the_state_again() {
    let mut slot = slot(None);
    process(&mut slot, &[1]);
    let state = slot.save().expect("it has changed").2.to_vec();
    slot.commit_failed();
    assert_eq!(slot.save().expect("again").2, state);
}

#[test]
fn batches_since_the_last_save_are_bounded() {
    let mut slot = slot(None);
    let times: Vec<u64> = (100..164).collect();
    for _ in 0..1_000 {
        process(&mut slot, &times);
    }
    assert!(slot.since_save.len() < MAX_SINCE_SAVE);
    assert_eq!(process(&mut slot, &[1]), [(1, 64_001.0)]);
    assert!(slot.save().is_some(), "what was saved in between has still to be written");
}

const fn at(seconds: u64) -> Now {
    Now { unix: Unix(0), mono: Monotonic(seconds * 1_000_000) }
}

#[test]
fn a_packet_on_which_a_cell_faults_is_kept_passed_or_given_up_as_the_slot_says() {
    let run = |fault| {
        let mut slot = slot_of(&counting_cell(), Config { fault, ..config() }, None);
        let out = process(&mut slot, &[1, 13, 2]);
        let dead: Vec<_> = slot.take_dead().collect();
        let status = slot.status();
        assert_eq!((status.faulted, status.output), (1, out.len() as u64));
        (out, dead, [status.passed, status.dropped, status.dead_lettered])
    };
    let (out, dead, counts) = run(FaultPolicy::Pass);
    // As it came: the cell would have written its count.
    assert_eq!((out, dead.len(), counts), (vec![(1, 1.0), (13, 0.0), (2, 2.0)], 0, [1, 0, 0]));
    let (out, dead, counts) = run(FaultPolicy::Drop);
    assert_eq!((out, dead.len(), counts), (vec![(1, 1.0), (2, 2.0)], 0, [0, 1, 0]));
    let (out, dead, counts) = run(FaultPolicy::DeadLetter);
    assert_eq!((out, dead.len(), counts), (vec![(1, 1.0), (2, 2.0)], 1, [0, 0, 1]));
    assert_eq!(dead[0].0, Packet::Reading(batch(&[13])[0]));
    assert!(dead[0].1.contains("trap"), "{}", dead[0].1);
}

#[test]
fn a_cell_that_faults_too_often_is_called_no_more_and_costs_nothing_more() {
    let mut slot = slot_of(&counting_cell(), Config { fault: FaultPolicy::DeadLetter, ..config() }, None);
    process(&mut slot, &[1, 2]);
    slot.save();
    process(&mut slot, &[13; 100]);
    let status = slot.status();
    // The batch, and fifteen packets alone; nobody tries the other 85.
    assert_eq!((status.state, status.faults, status.faulted, status.dead_lettered), (State::Quarantined, 16, 100, 100));
    process(&mut slot, &[1, 2, 3]);
    slot.tick(0, at(1_000_000), &mut Vec::new());
    let later = slot.status();
    assert_eq!((later.lost_fuel, later.processed, later.faults), (status.lost_fuel, 2, 16));
    let reason = slot.take_dead().next_back().expect("a dead letter").1;
    assert!(reason.contains("quarantined") && reason.contains("trap"), "{reason}");
    // What it had learnt is still there for the next one.
    assert_eq!(slot.state().map(|(_, state)| state).as_deref(), Some(&2.0_f64.to_le_bytes()[..]));
}

#[test]
fn faults_that_are_far_apart_do_not_add_up() {
    let mut slot = slot(None);
    for minute in 0..100 {
        slot.process(&batch(&[13]), at(minute * 60), &mut Vec::new());
    }
    assert_eq!((slot.status().state, slot.status().faults), (State::Running, 200));
}

#[test]
fn a_cell_that_cannot_be_made_again_is_tried_later_and_its_packets_wait_for_nothing() {
    // It traps on its first packet, and in `restore` of whatever it has saved by then.
    let component = WatCell {
        process: &format!("(if (i64.eq (i64.load (local.get $arg0)) (i64.const 13)) (then unreachable)) {PASS}"),
        restore: "unreachable",
        ..WatCell::default()
    }
    .build();
    let mut slot = slot_of(&component, Config { fault: FaultPolicy::Pass, ..config() }, None);
    let mut feed = |seconds, times: &[u64]| {
        let mut out = Vec::new();
        slot.process(&batch(times), at(seconds), &mut out);
        assert_eq!(out.len(), times.len(), "every packet goes on");
        slot.save();
        (slot.status().state, slot.status().processed, slot.status().passed)
    };
    assert_eq!(feed(10, &[1, 2]), (State::Running, 2, 0));
    assert_eq!(feed(10, &[13, 3]), (State::BackOff, 2, 2));
    assert_eq!(feed(10, &[4, 5]), (State::BackOff, 2, 4));
    // It is tried again, in vain, and then after two seconds, not one.
    assert_eq!(feed(11, &[6]), (State::BackOff, 2, 5));
    assert_eq!(feed(12, &[7]), (State::BackOff, 2, 6));
    let fuel = slot.status().lost_fuel;
    slot.process(&batch(&[8]), at(12), &mut Vec::new());
    assert_eq!(slot.status().lost_fuel, fuel, "nothing is tried before it is time");
}

#[test]
fn a_stream_that_appears_while_there_is_no_cell_is_asked_for_when_it_is_made_again() {
    // It takes one stream and no other.
    let refuses = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const 12))";
    let init =
        format!("(if (result i32) (i32.gt_u (local.get 3) (i32.const 1)) (then {refuses} i32.const 16) (else {OK}))");
    let component = WatCell { init: &init, streams_added: "unreachable", ..WatCell::default() }.build();
    let mut slot = slot_of(&component, config(), None);
    let both = [0, 1].map(|stream| Reading { stream: StreamId(stream), ..batch(&[1])[0] });
    let feed = |slot: &mut Slot<Reading, Reading>, seconds| {
        slot.process(&both, at(seconds), &mut Vec::new());
        let status = slot.status();
        (status.state, status.processed, status.faulted, status.refused)
    };
    (slot.cell, slot.now) = (None, at(10).mono);
    slot.health.not_rebuilt(at(10).mono);
    let stream = StreamInfo { id: StreamId(1), name: "b".into(), unit: String::new(), params: vec![] };
    assert!(slot.add_stream(stream, vec![]), "there was no cell to ask");
    assert_eq!(feed(&mut slot, 10), (State::BackOff, 0, 2, 0));
    assert_eq!(feed(&mut slot, 12), (State::Running, 1, 3, 1));
    assert_eq!(feed(&mut slot, 13), (State::Running, 2, 4, 2));
    let status = slot.status();
    assert_eq!((status.streams_refused, status.refused_streams[0].reason.as_str()), (1, "cell: a text"));
    assert_eq!((status.input, status.faults), (6, 0));
}

#[test]
fn more_bytes_than_the_slot_allows_in_a_time_are_a_fault() {
    // Eight readings of stream 0 at each tick, of which nobody asked.
    let flood = "(i32.store (i32.const 16) (i32.const 32768)) (i32.store (i32.const 20) (i32.const 8)) i32.const 16";
    let component = WatCell { tick: flood, ..WatCell::default() }.build();
    let limits = CellLimits { output_bytes_per_s: 24, ..CellLimits::default() };
    let quarantine = Quarantine { faults: 0, ..Quarantine::default() };
    let ticking = Config { limits, quarantine, tick_us: Some(100_000), ..config() };
    let mut slot = slot_of(&component, ticking, None);
    let mut out = Vec::new();
    for tenth in 0..100 {
        let now = Now { unix: Unix(0), mono: Monotonic(tenth * 100_000) };
        slot.tick(now.mono.0, now, &mut out);
    }
    // Ten readings at once and one a second: the first eight, and again when there are as many.
    assert_eq!(out.len(), 16);
    assert!(slot.status().last_fault.is_some_and(|fault| fault.contains("bytes of output in ten seconds: 192")));
    // What passes on what came in is no flood.
    let mut slot = slot_of(&counting_cell(), Config { limits, ..config() }, None);
    (0..1_000).for_each(|_| assert_eq!(process(&mut slot, &[1, 2, 3]).len(), 3));
}

#[test]
fn a_log_is_bounded_by_the_second_and_goes_where_the_slot_says() {
    let line = format!("(call $log (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 12)) {PASS}");
    let component = WatCell { imports: LOG_IMPORT, process: &line, ..WatCell::default() }.build();
    let limits = CellLimits { log_bytes_per_s: 144, ..CellLimits::default() };
    let log = LogTo::Mqtt("a/b".into());
    let mut slot = slot_of(&component, Config { limits, log, grants: vec!["log".into()], ..config() }, None);
    let mut lines = |from: u64, to: u64| {
        (from..to).for_each(|second| slot.process(&batch(&[1]), at(second / 10), &mut Vec::new()));
        let mut lines = Vec::new();
        slot.take_log(|slot, to, line| {
            lines.push(format!("{slot} {to:?} {:?} {}: {}", line.level, line.context, line.message));
            true
        });
        (lines, slot.status().log_lines_dropped)
    };
    // Sixteen bytes a line and what stands around it: ten at once, and one a second.
    let (first, dropped) = lines(0, 20);
    assert_eq!((first.len(), dropped), (11, 9));
    assert_eq!(first[0], "s Mqtt(\"a/b\") Warn cell: cell: a text");
    let (second, dropped) = lines(20, 60);
    assert_eq!((second.len(), dropped), (4, 45));
}
