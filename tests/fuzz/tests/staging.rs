//! Thousands of components through staging: damaged copies of real cells, and generated ones. None makes the host panic, or take more
//! memory than the bound below. `make soak` tries a hundred thousand (`PORIN_STAGED`).
//!
//! One test, in a process of its own: it counts what is allocated.

use arbitrary::Unstructured;
use porin_fuzz::{
    counting::{self, Counting},
    staging,
};
use porin_test_support::{WatCell, cell, component, generated_cell, stock_cells};
use wasm_smith::{Component, Config, Module};

/// Components that are tried at least, unless `PORIN_STAGED` names another number. Nine of ten are damaged copies of real cells.
const STAGED: usize = 20_000;

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
fn damaged_and_generated_components_are_staged_without_a_panic_in_bounded_memory() {
    let wanted = std::env::var("PORIN_STAGED").map_or(STAGED, |number| number.parse().expect("a number"));
    let (mut staged, mut most) = (0, 0);
    let mut try_it = |bytes: &[u8]| {
        staged += 1;
        most = most.max(counting::most(|| staging(bytes)));
    };
    let mut random = Random(7);
    let generated = [generated_cell(1), generated_cell(2)];
    let cells: Vec<_> = stock_cells().iter().map(|name| cell(name)).chain(generated).collect();
    let copies = wanted * 9 / 10 / cells.len();
    for bytes in &cells {
        for _ in 0..copies {
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
    let made = wanted / 20;
    let mut cells = 0;
    // With the exports of a cell, so that they are cells by type: these run.
    let exports = WatCell::default().module();
    for _ in 0..made {
        let bytes = random.bytes(4_096);
        let config = Config { exports: Some(exports.clone()), ..config() };
        let Ok(module) = Module::new(config, &mut Unstructured::new(&bytes)) else { continue };
        let Ok(made) = component(&module.to_bytes()) else { continue };
        cells += 1;
        try_it(&made);
    }
    assert!(cells > made / 2, "only {cells} of {made} were cells");
    for _ in 0..2 * made {
        let bytes = random.bytes(2_048);
        if let Ok(module) = Module::new(config(), &mut Unstructured::new(&bytes)) {
            try_it(&module.to_bytes());
        }
        if let Ok(component) = Component::new(config(), &mut Unstructured::new(&bytes)) {
            try_it(&component.to_bytes());
        }
    }
    println!("{staged} staged, {cells} of them generated cells; {most} bytes at the most");
    assert!(staged >= wanted, "{staged} of {wanted}");
    assert!(most <= MOST, "staging took {most} bytes");
}
