//! Each way for a call to fail is its own fault, and ends within its limits.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use porin_cell::{Cell, Engine, Level, LogLine, Plan, StartError, World};
use porin_core::{
    fault::{BadOutput, Fault},
    ids::StreamId,
    limits::CellLimits,
    packet::{Quality, Reading},
    setup::{Setup, StreamInfo},
    time::Unix,
};
use porin_test_support::{CLOCK_IMPORT, LOG_IMPORT, PASS, WatCell};

const STREAM: u32 = 5;

fn setup() -> Setup {
    let stream = StreamInfo { id: StreamId(STREAM), name: "a".into(), unit: String::new(), params: vec![] };
    Setup { streams: vec![stream], ..Setup::default() }
}

fn start(cell: &WatCell) -> Result<Cell, StartError> {
    let limits = CellLimits {
        fuel_per_batch: 100_000,
        init_fuel: 100_000,
        fuel_per_packet: 0,
        state_bytes: 100,
        state_bytes_per_stream: 0,
        memory_bytes_per_stream: 0,
        ..CellLimits::default()
    };
    let plan = Plan::load(&Engine::new(&limits), &cell.build(), World::Filter, &limits).expect("its type is right");
    Cell::start(&plan, &["log".into(), "clock".into()], limits, &setup())
}

fn batch() -> Vec<Reading> {
    let reading = Reading { time: Unix(7), value: 1.5, stream: StreamId(STREAM), quality: Quality::GOOD };
    vec![reading; 3]
}

fn process(cell: &WatCell) -> Result<Vec<Reading>, Fault> {
    let mut out = batch();
    let outcome = start(cell).expect("it starts").process(&batch(), Unix(0), &mut out);
    match outcome {
        Ok(_) => Ok(out.split_off(3)),
        Err(fault) => {
            assert_eq!(out, batch(), "after a fault the output is as it was");
            Err(fault)
        }
    }
}

/// The fault of a cell whose `process` has this body.
fn fault(body: &str) -> Fault {
    process(&WatCell { process: body, ..WatCell::default() }).expect_err("a fault")
}

/// An answer of so many readings at a place.
fn answer(pointer: &str, len: &str) -> String {
    format!("(i32.store (i32.const 16) {pointer}) (i32.store (i32.const 20) {len}) i32.const 16")
}

#[test]
fn a_component_that_begins_with_too_much_memory_is_refused_with_both_numbers_and_a_remedy() {
    let with = |pages| start(&WatCell { pages, ..WatCell::default() }).map(drop);
    assert_eq!(with(16), Ok(()));
    let error = with(18).expect_err("18 of 16");
    assert_eq!(error, StartError::Memory { pages: 18, allowed: 16 });
    let text = error.to_string();
    assert!(text.contains("18 pages") && text.contains("allows 16 (limits.memory_pages)"), "{text}");
    assert!(text.contains("-z stack-size=16384"), "{text}");
}

#[test]
fn tables_share_what_there_is_of_elements() {
    let with = |items| start(&WatCell { items, ..WatCell::default() }).map(drop);
    assert_eq!(with("(table 512 funcref) (table 512 funcref)"), Ok(()));
    let error = with("(table 512 funcref) (table 513 funcref)").expect_err("1,025 of 1,024");
    assert!(matches!(error, StartError::Instantiate(_)), "{error}");
    // A table that has grown has used it up for the other one: `table.grow` answers -1, which this cell makes a trap.
    let grow = |by| {
        let process = format!(
            "(if (i32.lt_s (table.grow $a (ref.null func) (i32.const {by})) (i32.const 0)) (then unreachable))
             (if (i32.lt_s (table.grow $b (ref.null func) (i32.const 512)) (i32.const 0)) (then unreachable)) {PASS}"
        );
        process_with("(table $a 0 funcref) (table $b 0 funcref)", &process).map(drop)
    };
    assert_eq!(grow(512), Ok(()));
    assert!(matches!(grow(513), Err(Fault::OutOfMemory { .. })));
}

fn process_with(items: &str, body: &str) -> Result<Vec<Reading>, Fault> {
    process(&WatCell { items, process: body, ..WatCell::default() })
}

#[test]
fn the_default_cell_passes_everything_on() {
    assert_eq!(process(&WatCell::default()), Ok(batch()));
}

#[test]
fn traps_say_what_happened() {
    assert!(matches!(fault("unreachable"), Fault::Trap(text) if text.contains("unreachable")));
    assert!(matches!(fault("(i32.load (i32.const -1))"), Fault::Trap(text) if text.contains("out of bounds")));
    assert!(matches!(fault("(i32.div_s (i32.const 1) (i32.const 0))"), Fault::Trap(_)));
}

#[test]
fn a_loop_ends_with_its_fuel() {
    assert_eq!(fault("(loop $l br $l) i32.const 16"), Fault::OutOfFuel { budget: 100_000 });
}

#[test]
fn recursion_ends_with_the_stack() {
    let cell = WatCell { items: "(func $f (result i32) call $f)", process: "call $f", ..WatCell::default() };
    assert!(matches!(process(&cell), Err(Fault::Trap(_) | Fault::OutOfFuel { .. })));
}

#[test]
fn memory_ends_at_the_slots_limit() {
    let greedy = "(if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable)) i32.const 16";
    assert_eq!(fault(greedy), Fault::OutOfMemory { limit: 1 << 20 });
    let modest = format!("(drop (memory.grow (i32.const 1))) {PASS}");
    assert!(process(&WatCell { process: &modest, ..WatCell::default() }).is_ok());
}

#[test]
fn a_refused_growth_of_an_earlier_call_does_not_colour_a_later_trap() {
    let cell = WatCell {
        process: &format!("(drop (memory.grow (i32.const 100))) {PASS}"),
        save: "unreachable",
        ..WatCell::default()
    };
    let mut cell = start(&cell).expect("it starts");
    cell.process(&batch(), Unix(0), &mut Vec::<Reading>::new()).expect("a cell may live with less");
    assert!(matches!(cell.save(), Err(Fault::Trap(_))));
}

#[test]
fn answers_outside_the_memory_are_bad_output() {
    let bad = |fault: Fault| assert!(matches!(fault, Fault::BadOutput(BadOutput::OutOfBounds { .. })), "{fault}");
    bad(fault("i32.const -4"));
    bad(fault("i32.const 17"));
    bad(fault(&answer("(i32.const 65528)", "(i32.const 2)")));
    bad(fault(&answer("(i32.const 1028)", "(i32.const 1)")));
    bad(fault(&answer("(i32.const -8)", "(i32.const 1)")));
}

#[test]
fn too_many_packets_are_bad_output_even_where_their_size_wraps() {
    for len in ["(i32.const 25)", "(i32.const -1)", "(i32.const 178956971)"] {
        let fault = fault(&answer("(i32.const 1024)", len));
        assert!(matches!(fault, Fault::BadOutput(BadOutput::TooMany { what: "packets", limit: 24, .. })), "{fault}");
    }
}

#[test]
fn a_reading_on_an_undeclared_stream_is_bad_output() {
    let other = format!("(i32.store offset=16 (local.get $arg0) (i32.const 9)) {PASS}");
    assert_eq!(fault(&other), Fault::BadOutput(BadOutput::UndeclaredStream { stream: 9 }));
}

#[test]
fn an_allocator_that_lies_is_caught() {
    let refused = |realloc| {
        let cell = WatCell { realloc, ..WatCell::default() };
        match start(&cell) {
            Err(StartError::Fault(fault)) => fault,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
    };
    assert!(matches!(refused("i32.const 65530"), Fault::BadOutput(BadOutput::OutOfBounds { .. })));
    assert!(matches!(refused("i32.const -16"), Fault::BadOutput(BadOutput::OutOfBounds { .. })));
    assert!(matches!(refused("i32.const 1025"), Fault::BadOutput(BadOutput::OutOfBounds { .. })));
    assert!(matches!(refused("unreachable"), Fault::Trap(_)));
    assert!(matches!(refused("(loop $l br $l) i32.const 1024"), Fault::OutOfFuel { .. }));
}

#[test]
fn a_loop_in_the_post_return_is_a_fault_too() {
    let cell = WatCell { post_process: "(loop $l br $l)", ..WatCell::default() };
    assert!(matches!(process(&cell), Err(Fault::OutOfFuel { .. })));
}

#[test]
fn a_state_larger_than_allowed_is_bad_output() {
    let cell = WatCell { save: &answer("(i32.const 0)", "(i32.const 101)"), ..WatCell::default() };
    let fault = start(&cell).expect("it starts").save().expect_err("a fault");
    assert_eq!(fault, Fault::BadOutput(BadOutput::TooMany { what: "bytes of state", len: 101, limit: 100 }));
}

#[test]
fn an_init_that_says_no_is_no_fault() {
    let no = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const 12)) i32.const 16";
    let error = start(&WatCell { init: no, ..WatCell::default() }).expect_err("refused");
    assert_eq!(error, StartError::Refused("cell: a text".into()));
    let escape = format!("(i32.store8 (i32.const 68) (i32.const 27)) {no}");
    let error = start(&WatCell { init: &escape, ..WatCell::default() }).expect_err("refused");
    assert_eq!(error, StartError::Refused("cell  a text".into()), "an escape would move an operator's cursor");
    let neither = "(i32.store8 (i32.const 16) (i32.const 2)) i32.const 16";
    let error = start(&WatCell { init: neither, ..WatCell::default() }).expect_err("a fault");
    assert!(matches!(error, StartError::Fault(Fault::BadOutput(BadOutput::NoSuchCase { value: 2, .. }))), "{error}");
}

#[test]
fn a_log_is_bounded_and_cannot_move_the_cursor() {
    let line = "(call $log (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 12))";
    let twenty = line.repeat(20);
    let escape = format!("(i32.store8 (i32.const 69) (i32.const 27)) {twenty} {PASS}");
    let mut cell = start(&WatCell { imports: LOG_IMPORT, process: &escape, ..WatCell::default() }).expect("it starts");
    cell.process(&batch(), Unix(0), &mut Vec::<Reading>::new()).expect("no fault");
    let (lines, dropped) = cell.take_log();
    assert_eq!((lines.len(), dropped), (16, 4));
    // The escape character at 69 has become a space.
    let line = LogLine { level: Level::Warn, context: "cell".into(), message: "cell: a text".into() };
    assert!(lines.iter().all(|logged| *logged == line), "{lines:?}");
}

#[test]
fn a_log_call_that_lies_is_a_fault() {
    let call = |args: &str| {
        let body = format!("(call $log {args}) {PASS}");
        process(&WatCell { imports: LOG_IMPORT, process: &body, ..WatCell::default() }).expect_err("a fault")
    };
    let level = call("(i32.const 6) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1)");
    assert!(matches!(level, Fault::BadOutput(BadOutput::NoSuchCase { what: "log level", value: 6 })), "{level}");
    let bounds = call("(i32.const 0) (i32.const 65536) (i32.const 1) (i32.const 64) (i32.const 1)");
    assert!(matches!(bounds, Fault::BadOutput(BadOutput::OutOfBounds { what: "log context", .. })), "{bounds}");
    let long = call("(i32.const 0) (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 2000)");
    assert!(matches!(long, Fault::BadOutput(BadOutput::TooMany { what: "log message", .. })), "{long}");
}

#[test]
fn the_clock_is_what_the_host_says() {
    let body = format!("(i64.store (local.get $arg0) (call $now)) {PASS}");
    let mut cell = start(&WatCell { imports: CLOCK_IMPORT, process: &body, ..WatCell::default() }).expect("it starts");
    let mut out: Vec<Reading> = Vec::new();
    cell.process(&batch(), Unix(123_456), &mut out).expect("no fault");
    assert_eq!(out[0].time, Unix(123_456));
}

#[test]
fn a_long_loop_uses_no_native_stack() {
    // wasmi's fast dispatch is a chain of tail calls. Where the compiler does not make them so, each step of a loop
    // takes a piece of the native stack, and the process dies instead of the cell.
    let count = "(loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))";
    let process = format!("(local.set $i (i32.const 10000000)) {count} {PASS}");
    let limits = CellLimits { fuel_per_batch: u64::MAX / 2, ..CellLimits::default() };
    let component = WatCell { process: &process, ..WatCell::default() }.build();
    let plan = Plan::load(&Engine::new(&limits), &component, World::Filter, &limits).expect("its type is right");
    let mut cell = Cell::start(&plan, &[], limits, &setup()).expect("it starts");
    let used = cell.process(&batch(), Unix(0), &mut Vec::<Reading>::new()).expect("no fault");
    assert!(used.fuel >= 10_000_000, "{used:?}");
}

/// A state that is too large to keep costs the cell nothing: it may save again and again.
#[test]
fn a_state_that_is_too_large_is_given_back_to_the_cell() {
    use porin_core::{
        ids::StreamId,
        packet::Quality,
        setup::{Param, Setup, StreamInfo, Value},
    };
    let stream = |id| StreamInfo { id: StreamId(id), name: format!("s{id}"), unit: String::new(), params: vec![] };
    let params = vec![Param { name: "absolute".into(), value: Value::Number(1.0) }];
    let setup = Setup { params, streams: (0..100).map(stream).collect(), outputs: vec![] };
    let limits = CellLimits { state_bytes: 100, state_bytes_per_stream: 0, ..CellLimits::default() };
    let component = porin_test_support::cell("deadband");
    let plan = Plan::load(&Engine::new(&limits), &component, World::Filter, &limits).expect("a stock cell");
    let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");
    let batch: Vec<_> = (0..100)
        .map(|id| Reading { time: Unix(0), value: 1.0, stream: StreamId(id), quality: Quality::GOOD })
        .collect();
    let mut sizes = std::collections::BTreeSet::new();
    for _ in 0..500 {
        cell.process(&batch, Unix(0), &mut Vec::<Reading>::new()).expect("no fault");
        assert!(matches!(cell.save(), Err(Fault::BadOutput(BadOutput::TooMany { .. }))));
        sizes.insert(cell.memory().len());
    }
    assert_eq!(sizes.len(), 1, "its memory grows: {sizes:?}");
}
