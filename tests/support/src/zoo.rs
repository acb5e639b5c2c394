//! The zoo: cells that do what no cell should, each in one way, in WebAssembly text.

use crate::{CLOCK_IMPORT, EMPTY, LOG_IMPORT, OK, PASS, WatCell};

/// A cell that does what none should.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// What it does.
    pub name: &'static str,
    /// It.
    pub component: Vec<u8>,
    /// What becomes of it.
    pub ends: Ends,
}

/// What becomes of a hostile cell, sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It is not loaded, with these words.
    Refused(&'static str),
    /// It does not start, with a fault of this kind.
    NotStarted(&'static str),
    /// A call fails with a fault of this kind.
    Faulted(&'static str),
    /// Nothing: what it does harms nobody, and what is too much of it is cut off.
    Bounded,
}

/// Loops for ever.
const LOOP: &str = "(loop $for_ever br $for_ever)";

/// An answer of so many readings at a place.
fn answer(pointer: &str, len: &str) -> String {
    format!("(i32.store (i32.const 16) {pointer}) (i32.store (i32.const 20) {len}) i32.const 16")
}

/// All of them.
#[must_use]
#[allow(clippy::too_many_lines)] // a list
pub fn zoo() -> Vec<Hostile> {
    let mut zoo = Vec::new();
    let mut add = |name, ends, cell: WatCell<'_>| zoo.push(Hostile { name, component: cell.build(), ends });
    let plain = WatCell::default();
    let (fuel, memory, trap, output) = (
        Ends::Faulted("out-of-fuel"),
        Ends::Faulted("out-of-memory"),
        Ends::Faulted("trap"),
        Ends::Faulted("bad-output"),
    );

    let with_answer = |what: &str, answer: &str| format!("{what} {answer}");
    let (loop_ok, loop_empty, loop_pass) = (with_answer(LOOP, OK), with_answer(LOOP, EMPTY), with_answer(LOOP, PASS));
    add("loops in process", fuel, WatCell { process: &loop_pass, ..plain });
    add("loops in init", Ends::NotStarted("out-of-fuel"), WatCell { init: &loop_ok, ..plain });
    add("loops in tick", fuel, WatCell { tick: &loop_empty, ..plain });
    add("loops in flush", fuel, WatCell { flush: &loop_empty, ..plain });
    add("loops in save", fuel, WatCell { save: &loop_empty, ..plain });
    add("loops in restore", fuel, WatCell { restore: &loop_ok, ..plain });
    add("loops in streams-added", fuel, WatCell { streams_added: LOOP, ..plain });
    add("loops in post-return", fuel, WatCell { post_process: LOOP, ..plain });
    let realloc = format!("{LOOP} i32.const 1024");
    add("loops in realloc", Ends::NotStarted("out-of-fuel"), WatCell { realloc: &realloc, ..plain });
    // Init asks for room three times; the loop begins after that.
    let realloc = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.gt_u (global.get $calls) (i32.const 20)) (then (loop $l br $l))) i32.const 1024";
    let items = "(global $calls (mut i32) (i32.const 0))";
    add("loops in realloc later on", fuel, WatCell { realloc, items, ..plain });

    let greedy = format!("(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)) {PASS}");
    add("grows its memory at once", memory, WatCell { process: &greedy, ..plain });
    let leak = format!("(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) {PASS}");
    add("leaks a page a batch", memory, WatCell { process: &leak, ..plain });
    let all = format!("(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {PASS}");
    add("takes all the memory there is and goes on", Ends::Bounded, WatCell { process: &all, ..plain });
    let table = format!(
        "(if (i32.eq (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1)) (then unreachable)) {PASS}"
    );
    add("grows a table", memory, WatCell { items: "(table $t 1 funcref)", process: &table, ..plain });

    let items = "(func $f (result i32) (i32.add (call $f) (i32.const 1)))";
    add("calls itself", trap, WatCell { items, process: "call $f", ..plain });
    let items = "(func $f (param i64 i64 i64 i64) (result i32) (local i64 i64 i64 i64 i64 i64 i64 i64)
        (i32.add (call $g (local.get 0) (local.get 1) (local.get 2) (local.get 3)) (i32.const 1)))
        (func $g (param i64 i64 i64 i64) (result i32) (local i64 i64 i64 i64 i64 i64 i64 i64)
        (i32.add (call $f (local.get 3) (local.get 2) (local.get 1) (local.get 0)) (i32.const 1)))";
    let process = "(call $f (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))";
    add("two functions call each other", trap, WatCell { items, process, ..plain });
    let items = "(table $t 1 1 funcref) (elem (i32.const 0) $f) (type $f (func (result i32)))
        (func $f (result i32) (i32.add (call_indirect $t (type $f) (i32.const 0)) (i32.const 1)))";
    add("calls itself through a table", trap, WatCell { items, process: "call $f", ..plain });

    let log = "(call $log (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 12))";
    let realloc = format!("{log} i32.const 1024");
    let not_started = Ends::NotStarted("trap");
    add("logs from realloc", not_started, WatCell { imports: LOG_IMPORT, realloc: &realloc, ..plain });
    add("logs from post-return", trap, WatCell { imports: LOG_IMPORT, post_process: log, ..plain });
    let clock = "(drop (call $now))";
    add("asks for the time from post-return", trap, WatCell { imports: CLOCK_IMPORT, post_process: clock, ..plain });

    let lies = Ends::NotStarted("bad-output");
    add("realloc gives room that ends outside", lies, WatCell { realloc: "i32.const 65530", ..plain });
    add("realloc gives room at the end of all addresses", lies, WatCell { realloc: "i32.const -16", ..plain });
    add("realloc gives crooked room", lies, WatCell { realloc: "i32.const 1025", ..plain });
    add("realloc gives the same room again and again", Ends::Bounded, WatCell { realloc: "i32.const 1024", ..plain });
    add("realloc gives room where its answers lie", output, WatCell { realloc: "i32.const 0", ..plain });
    add("realloc traps", not_started, WatCell { realloc: "unreachable", ..plain });

    for (name, pointer, len) in [
        ("answers with more than came in", "(i32.const 1024)", "(i32.const 100000)"),
        ("answers with all there can be", "(i32.const 1024)", "(i32.const -1)"),
        ("answers with a length whose bytes wrap to a few", "(i32.const 1024)", "(i32.const 178956971)"),
        ("answers with a list that ends outside", "(i32.const 65528)", "(i32.const 2)"),
        ("answers with a crooked list", "(i32.const 1028)", "(i32.const 1)"),
        ("answers with a list at the end of all addresses", "(i32.const -8)", "(i32.const 1)"),
    ] {
        add(name, output, WatCell { process: &answer(pointer, len), ..plain });
    }
    add("answers outside its memory", output, WatCell { process: "i32.const -4", ..plain });
    add("answers at a crooked place", output, WatCell { process: "i32.const 17", ..plain });
    let other = format!("(i32.store offset=16 (local.get $arg0) (i32.const 77)) {PASS}");
    add("sends on a stream of somebody else", output, WatCell { process: &other, ..plain });
    let signalling = format!("(i64.store offset=8 (local.get $arg0) (i64.const 0x7ff0000000000001)) {PASS}");
    add("sends a signalling NaN", Ends::Bounded, WatCell { process: &signalling, ..plain });
    let nan = format!("(f64.store offset=8 (local.get $arg0) (f64.div (f64.const 0) (f64.const 0))) {PASS}");
    add("sends what it cannot compute", Ends::Bounded, WatCell { process: &nan, ..plain });
    add("sends nothing, ever", Ends::Bounded, WatCell { process: EMPTY, ..plain });
    let flood = answer("(i32.const 0)", "(i32.const 2000)");
    add("floods at each tick", output, WatCell { tick: &flood, ..plain });

    let hundred = format!("{} {PASS}", log.repeat(100));
    add("floods the log", Ends::Bounded, WatCell { imports: LOG_IMPORT, process: &hundred, ..plain });
    let mut call = |name, arguments: &str, before: &str| {
        let process = format!("{before} (call $log {arguments}) {PASS}");
        let ends = if name == "writes terminal escapes into the log" { Ends::Bounded } else { output };
        add(name, ends, WatCell { imports: LOG_IMPORT, process: &process, ..plain });
    };
    let at_64 = "(i32.const 3) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 12)";
    let escape = "(i64.store (i32.const 64) (i64.const 0x6d31335b1b0a0d07))";
    call("writes terminal escapes into the log", at_64, escape);
    call("logs what is not text", at_64, "(i32.store (i32.const 64) (i32.const 0xfffefdfc))");
    call("logs a whole page", "(i32.const 3) (i32.const 64) (i32.const 4) (i32.const 0) (i32.const 65536)", "");
    call(
        "logs from outside its memory",
        "(i32.const 3) (i32.const 64) (i32.const 4) (i32.const 65530) (i32.const 100)",
        "",
    );
    call(
        "logs at a level that there is not",
        "(i32.const 6) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 1)",
        "",
    );

    let (large, outside) =
        (answer("(i32.const 0)", "(i32.const 60000)"), answer("(i32.const 65000)", "(i32.const 1000)"));
    add("saves a state that is too large", output, WatCell { save: &large, ..plain });
    add("saves from outside its memory", output, WatCell { save: &outside, ..plain });
    let no_text = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 28)) (i32.store (i32.const 24) (i32.const 4))
        (i32.store (i32.const 28) (i32.const -1)) i32.const 16";
    add("refuses with what is not text", lies, WatCell { init: no_text, ..plain });
    let neither = "(i32.store8 (i32.const 16) (i32.const 9)) i32.const 16";
    add("says neither yes nor no", lies, WatCell { init: neither, ..plain });

    for (name, body) in [
        ("traps", "unreachable"),
        ("divides by zero", "(i32.div_s (i32.const 1) (i32.const 0))"),
        ("makes an integer of what is not a number", "(i32.trunc_f64_s (f64.const nan))"),
        ("reads past the end", "(i32.load (i32.const -1))"),
        ("fills past the end", "(memory.fill (i32.const 65000) (i32.const 1) (i32.const 1000)) i32.const 16"),
    ] {
        add(name, trap, WatCell { process: body, ..plain });
    }
    let items =
        "(table $t 2 2 funcref) (elem (i32.const 0) $other) (func $other (param i64)) (type $f (func (result i32)))";
    let wrong = "(call_indirect $t (type $f) (i32.const 0))";
    add("calls a function as another", trap, WatCell { items, process: wrong, ..plain });
    let empty = "(call_indirect $t (type $f) (i32.const 1))";
    add("calls where no function is", trap, WatCell { items, process: empty, ..plain });

    let many = "(func (result i32) (i32.const 1) (i32.const 2) (i32.add) (drop) (i32.const 3))".repeat(1_001);
    add(
        "has a thousand functions",
        Ends::Refused("functions, a cell may have 1000"),
        WatCell { items: &many, ..plain },
    );
    let locals = format!("(func (local {}))", "i64 ".repeat(1_001));
    let words = Ends::Refused("locals in a function, a cell may have 1000");
    add("has a function with a thousand locals", words, WatCell { items: &locals, ..plain });
    let globals = "(global i32 (i32.const 0))".repeat(1_001);
    add("has a thousand globals", Ends::Refused("globals"), WatCell { items: &globals, ..plain });
    let data = "(data (i32.const 0) \"\")".repeat(1_001);
    add("has a thousand segments", Ends::Refused("segments"), WatCell { items: &data, ..plain });
    let start = Ends::Refused("it has a start function");
    add("begins before it is called", start, WatCell { items: "(func $s) (start $s)", ..plain });
    zoo
}
