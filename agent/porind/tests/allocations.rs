//! A numeric packet costs no allocation in steady state.

#![allow(unsafe_code)] // a global allocator is unsafe by its nature; this one passes everything on to the system's

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};

use porin_core::{
    config::Config,
    packet::{PacketKind, Quality, Reading},
    time::{Now, Unix},
};
use porin_test_support::target_dir;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_packet_costs_no_allocation() {
    let config = format!(
        "[gateway]\nid = \"test\"\n[uplink]\nbroker = \"mqtt://127.0.0.1\"\n[slots.quiet]\ncell = \"{}/cells/deadband.wasm\"\n\
         params = {{ absolute = 0.5 }}\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n",
        target_dir().display()
    );
    let mut pipeline =
        porind::pipeline(&Config::parse(&config).expect("good")).expect("the cell is built by `make test`");
    let stream = pipeline.admit("a", PacketKind::Readings).expect("room");
    let reading = |time: u64| Reading { time: Unix(time), value: (time % 7) as f64, stream, quality: Quality::GOOD };
    let batch: Vec<_> = (0..64).map(reading).collect();
    let mut run = |batches: u64| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut kept = 0;
        for _ in 0..batches {
            pipeline.process(&batch, Now::default(), |_, packets| kept += packets.len() as u64);
        }
        assert!(kept >= batches, "something is kept, so that the way out is counted, too");
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    // The first rounds grow the buffers.
    run(1_000);
    let batches = 10_000;
    let allocations = run(batches);
    // Every 4,096 packets the slot takes over the cell's state: a handful for 64 batches. None per packet, none per batch.
    let saves = batches * 64 / 4_096;
    assert!(allocations <= saves * 4, "{allocations} allocations for {batches} batches and {saves} saves");
}
