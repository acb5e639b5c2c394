//! A hundred thousand components through staging: real cells damaged, and such as a generator makes. None makes the host panic, and none
//! makes it take more memory than is said here.
//!
//! One test, in a process of its own: it counts what is allocated.

use arbitrary::Unstructured;
use porin_fuzz::{
    counting::{self, Counting},
    staging,
};
use porin_test_support::{STOCK_CELLS, WatCell, cell, component, generated_cell};
use wasm_smith::{Component, Config, Module};

/// Damaged copies of each real cell: the rest of the hundred thousand is made.
const COPIES: usize = 8_500;
const MADE: usize = 5_000;

/// Bytes that staging may take at most, whatever it is given: a cell's memory here is 256 KB, a component 50 KB.
const MOST: usize = 4 << 20;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256).to_le_bytes()[0]).collect()
    }
}

/// As large as they come, with what cells may have.
fn config() -> Config {
    let mut config = Config::default();
    (config.simd_enabled, config.relaxed_simd_enabled, config.threads_enabled) = (false, false, false);
    (config.gc_enabled, config.exceptions_enabled, config.tail_call_enabled) = (false, false, false);
    (config.memory64_enabled, config.multi_value_enabled, config.wide_arithmetic_enabled) = (false, true, false);
    (config.max_imports, config.max_memories, config.max_tables) = (0, 1, 2);
    (config.max_instructions, config.allow_start_export) = (400, false);
    config
}

#[test]
fn a_hundred_thousand_components_are_staged_without_a_panic_in_bounded_memory() {
    let (mut staged, mut most) = (0, 0);
    let mut try_it = |bytes: &[u8]| {
        staged += 1;
        most = most.max(counting::most(|| staging(bytes)));
    };
    let mut random = Random(7);
    let generated = [generated_cell(1), generated_cell(2)];
    let cells = STOCK_CELLS.iter().map(|name| cell(name)).chain(generated);
    for bytes in cells {
        for _ in 0..COPIES / 11 * 9 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(3) {
                let (at, len) = (random.below(damaged.len()), random.below(12));
                match random.below(4) {
                    0 => drop(damaged.drain(at..(at + len).min(damaged.len()))),
                    1 => damaged[at] = random.below(256).to_le_bytes()[0],
                    2 => damaged.insert(at, random.below(256).to_le_bytes()[0]),
                    _ => damaged[at] ^= 1 << random.below(8),
                }
            }
            try_it(&damaged);
        }
    }
    let mut cells = 0;
    // With the exports of a cell, so that they are cells by type: these run.
    let exports = WatCell::default().module();
    for _ in 0..MADE {
        let bytes = random.bytes(4_096);
        let config = Config { exports: Some(exports.clone()), ..config() };
        let Ok(module) = Module::new(config, &mut Unstructured::new(&bytes)) else { continue };
        let Ok(made) = component(&module.to_bytes()) else { continue };
        cells += 1;
        try_it(&made);
    }
    assert!(cells > MADE / 2, "only {cells} of {MADE} were cells");
    for _ in 0..2 * MADE {
        let bytes = random.bytes(2_048);
        if let Ok(module) = Module::new(config(), &mut Unstructured::new(&bytes)) {
            try_it(&module.to_bytes());
        }
        if let Ok(component) = Component::new(config(), &mut Unstructured::new(&bytes)) {
            try_it(&component.to_bytes());
        }
    }
    println!("{staged} staged, {cells} of them generated cells; {most} bytes at the most");
    assert!(staged >= 100_000, "{staged}");
    assert!(most <= MOST, "staging took {most} bytes");
}
