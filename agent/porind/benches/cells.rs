//! `make bench`: from a component's bytes to its first decision, what an instance alone costs, and how much memory a thousand live cells
//! take, each with a store, fuel and limits of its own.
//!
//! Times are medians of this machine in this moment; beside each stands its ratio to hashing the same bytes, which every gateway does
//! with a cell that it is sent.

#![allow(clippy::print_stdout, clippy::cast_precision_loss)] // the table is what it is for

use std::{fmt::Write as _, fs, hint::black_box, process::Command, time::Instant};

use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    config::Config,
    ids::StreamId,
    limits::CellLimits,
    packet::{PacketKind, Quality, Reading},
    setup::{Setup, StreamInfo},
    time::{Now, Unix},
};
use porin_test_support::{WatCell, cell};
use ring::digest::{SHA256, digest};

fn rounds() -> usize {
    if std::env::args().any(|argument| argument == "--bench") { 400 } else { 2 }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A cell of about so many bytes, all of them code: the smallest there is, and functions that it could call, of 300 bytes each as those
/// of the stock cells are (288 to 338 on average).
fn of_size(bytes: usize) -> Vec<u8> {
    let mut items = String::new();
    let mut component = WatCell::default().build();
    let mut number = 0;
    while component.len() < bytes {
        for _ in 0..((bytes - component.len()) / 300).max(1) {
            items.push_str("(func (param i32 f64) (result f64) (local i32)");
            for _ in 0..7 {
                number += 1;
                // Writing to a string cannot fail.
                let _ = write!(
                    items,
                    "(local.set 2 (i32.mul (local.get 0) (i32.const {number})))
                     (local.set 1 (if (result f64) (i32.gt_s (local.get 2) (i32.const 77))
                       (then (f64.mul (local.get 1) (f64.const 1.5)))
                       (else (f64.load (i32.and (local.get 2) (i32.const 65528))))))"
                );
            }
            items.push_str("(local.get 1))");
        }
        component = WatCell { items: &items, ..WatCell::default() }.build();
    }
    component
}

fn setup() -> Setup {
    let stream = StreamInfo { id: StreamId(0), name: "a".into(), unit: String::new(), params: vec![] };
    Setup { streams: vec![stream], ..Setup::default() }
}

const READING: Reading = Reading { time: Unix(1), value: 2.0, stream: StreamId(0), quality: Quality::GOOD };

fn cold(name: &str, bytes: &[u8]) {
    let (limits, setup) = (CellLimits::default(), setup());
    let engine = Engine::new(&limits);
    let (mut hash, mut load, mut start, mut first, mut again) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds() {
        let us = |from: Instant| from.elapsed().as_nanos() as f64 / 1_000.0;
        let begun = Instant::now();
        black_box(digest(&SHA256, bytes));
        hash.push(us(begun));
        let begun = Instant::now();
        let plan = Plan::load(&engine, bytes, World::Filter, &limits).expect("a cell");
        load.push(us(begun));
        let begun = Instant::now();
        let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");
        start.push(us(begun));
        let begun = Instant::now();
        let mut out: Vec<Reading> = Vec::new();
        cell.process(&[READING], Unix(0), &mut out).expect("no fault");
        first.push(us(begun));
        let begun = Instant::now();
        black_box(Cell::start(&plan, &[], limits, &setup).expect("it starts"));
        again.push(us(begun));
    }
    let (hash, load, start, first, again) = (median(hash), median(load), median(start), median(first), median(again));
    let (all, size) = (load + start + first, bytes.len());
    println!("{name:<22} {size:>6} {load:>6.0} {start:>7.1} {first:>7.1} {all:>9.0} {:>7.1} {again:>12.1}", all / hash);
}

fn resident_kb() -> f64 {
    let text = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("its size");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

/// A thousand instances of a component, alive and called once.
fn density(name: &str, bytes: &[u8]) {
    let limits = CellLimits::default();
    let plan = Plan::load(&Engine::new(&limits), bytes, World::Filter, &limits).expect("a cell");
    let setup = setup();
    let count = if rounds() > 2 { 1_000 } else { 10 };
    let before = resident_kb();
    let cells: Vec<_> = (0..count)
        .map(|_| {
            let mut cell = Cell::start(&plan, &[], limits, &setup).expect("it starts");
            cell.process(&[READING], Unix(0), &mut Vec::<Reading>::new()).expect("no fault");
            cell
        })
        .collect();
    let each = (resident_kb() - before) / cells.len() as f64;
    println!("{name:<22} {each:>8.1} KB for each of {count} instances");
}

/// The same as slots of a pipeline, which gives pages of zeroes back.
fn slots(name: &str, bytes: &[u8]) {
    let count = if rounds() > 2 { 1_000 } else { 10 };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cell.wasm");
    fs::write(&path, bytes).expect("written");
    let config = |slots: usize| {
        let mut text = String::from("[gateway]\nid = \"bench\"\n[uplink]\nbroker = \"mqtt://x\"\n");
        for slot in 0..slots {
            let path = path.display();
            let _ = write!(
                text,
                "[slots.s{slot}]\ncell = \"{path}\"\n[routes.r{slot}]\nstreams = [\"a\"]\nslots = [\"s{slot}\"]\n"
            );
        }
        Config::parse(&text).expect("a good configuration")
    };
    let config = config(count);
    let before = resident_kb();
    let mut pipeline = porind::pipeline(&config).expect("they start");
    let stream = pipeline.admit("a", PacketKind::Readings).expect("there is room");
    pipeline.process(&[Reading { stream, ..READING }], Now::default(), |_, _| {});
    let each = (resident_kb() - before) / count as f64;
    println!("{name:<22} {each:>8.1} KB for each of {count} slots with one component");
    drop(pipeline);
}

fn main() {
    // Memory is measured in processes of their own: what one part has freed the next would find.
    match std::env::var("PORIN_BENCH_PART").as_deref() {
        Ok("instances") => return density("5 KB", &of_size(5_000)),
        Ok("slots") => return slots("5 KB", &of_size(5_000)),
        Ok(_) | Err(_) => {}
    }
    println!(
        "µs. load: validate, check the types, read; start: instantiate, translate and call init; first: translate and call process\n"
    );
    println!(
        "{:<22} {:>6} {:>6} {:>7} {:>7} {:>9} {:>7} {:>12}",
        "cell", "bytes", "load", "start", "first", "together", "× hash", "start again"
    );
    cold("the smallest", &WatCell::default().build());
    cold("5 KB", &of_size(5_000));
    cold("40 KB", &of_size(40_000));
    cold("throttle", &cell("throttle"));
    println!();
    for part in ["instances", "slots"] {
        let program = std::env::current_exe().expect("this program");
        let ran = Command::new(program).args(std::env::args().skip(1)).env("PORIN_BENCH_PART", part).status();
        assert!(ran.is_ok_and(|status| status.success()), "{part}");
    }
}
