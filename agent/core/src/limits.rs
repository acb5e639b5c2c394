//! What a cell may use. Every number has its reason in `docs/defaults.md`, which a test compares with this file.

use core::ops::RangeInclusive;

/// Bytes of a page of linear memory.
pub const PAGE: usize = 65_536;

/// The limits of one cell in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLimits {
    /// Bytes of the component file.
    pub component_bytes: usize,
    /// Functions of all its core modules together, imports among them.
    pub functions: usize,
    /// Fuel for `init`, `streams-added` and `restore`, before what each stream adds. 10⁶ is about 1.6 ms of a loop on x86-64.
    pub init_fuel: u64,
    /// Fuel for any other call, before what its packets add.
    pub fuel_per_batch: u64,
    /// Fuel that each packet of a batch adds, or each stream where there is no batch.
    pub fuel_per_packet: u64,
    /// Fuel that each byte of a message adds.
    pub fuel_per_byte: u64,
    /// Bytes of linear memory.
    pub memory_bytes: usize,
    /// ...and for each stream on top.
    pub memory_bytes_per_stream: usize,
    /// Elements of all tables.
    pub table_elements: usize,
    /// Bytes of the interpreter's stack, on which locals lie. A cell's own stack lies in its memory.
    pub stack_bytes: usize,
    /// Calls within calls.
    pub call_depth: usize,
    /// Packets that one call may return for each packet it was given...
    pub outputs_per_packet: usize,
    /// ...and where there is no input, as in a tick or a flush, for each stream.
    pub outputs_per_stream: usize,
    /// Bytes of output a second beyond `outputs_per_packet` times what came in.
    pub output_bytes_per_s: u64,
    /// Bytes that `save` may return.
    pub state_bytes: usize,
    /// ...and for each stream on top.
    pub state_bytes_per_stream: usize,
    /// Lines that one call may log.
    pub log_lines_per_call: usize,
    /// Bytes that the cell may log in a second.
    pub log_bytes_per_s: u64,
    /// Bytes of any text that a cell gives: an error, a line of the log.
    pub text_bytes: usize,
}

impl Default for CellLimits {
    fn default() -> Self {
        Self {
            component_bytes: 51_200,
            functions: 1_000,
            init_fuel: 10_000_000,
            fuel_per_batch: 1_000_000,
            fuel_per_packet: 10_000,
            fuel_per_byte: 100,
            memory_bytes: 16 * PAGE,
            memory_bytes_per_stream: 2_048,
            table_elements: 1_024,
            stack_bytes: 1 << 17,
            call_depth: 256,
            outputs_per_packet: 8,
            outputs_per_stream: 8,
            output_bytes_per_s: 1 << 20,
            state_bytes: 1 << 18,
            state_bytes_per_stream: 1_024,
            log_lines_per_call: 16,
            log_bytes_per_s: 1_024,
            text_bytes: 1_024,
        }
    }
}

/// A limit that a configuration may set, and a policy bound.
pub struct Limit {
    /// Its key.
    pub name: &'static str,
    /// What it may be set to.
    pub bounds: RangeInclusive<u64>,
    /// Its value, in the unit of the key.
    pub get: fn(&CellLimits) -> u64,
    /// Sets it.
    pub set: fn(&mut CellLimits, u64),
}

impl core::fmt::Debug for Limit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! limit {
    ($field:ident, $bounds:expr) => {
        limit!(stringify!($field), $field, 1, $bounds)
    };
    ($name:expr, $field:ident, $unit:expr, $bounds:expr) => {
        Limit {
            name: $name,
            bounds: $bounds,
            #[allow(clippy::unnecessary_cast)]
            get: |limits| limits.$field as u64 / $unit,
            // Within the bounds, which are small.
            #[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]
            set: |limits, value| limits.$field = (value * $unit) as _,
        }
    };
}

/// Every limit that can be set, and between what. The largest of all of them together are more than a small gateway has: a policy
/// narrows them.
pub const LIMITS: [Limit; 19] = [
    limit!(component_bytes, 1..=51_200),
    limit!(functions, 1..=10_000),
    limit!(init_fuel, 1_000..=1_000_000_000),
    limit!(fuel_per_batch, 1_000..=100_000_000),
    limit!(fuel_per_packet, 0..=1_000_000),
    limit!(fuel_per_byte, 0..=10_000),
    limit!("memory_pages", memory_bytes, PAGE as u64, 1..=256),
    limit!(memory_bytes_per_stream, 0..=65_536),
    limit!(table_elements, 0..=10_000),
    limit!(stack_bytes, 4_096..=1_048_576),
    limit!(call_depth, 8..=1_000),
    limit!(outputs_per_packet, 1..=1_000),
    limit!(outputs_per_stream, 1..=1_000),
    limit!(output_bytes_per_s, 1..=1_000_000_000),
    limit!(state_bytes, 0..=4_194_304),
    limit!(state_bytes_per_stream, 0..=65_536),
    limit!(log_lines_per_call, 0..=1_000),
    limit!(log_bytes_per_s, 0..=1_000_000),
    limit!(text_bytes, 16..=65_536),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_bounds_and_every_limit_is_set_by_its_own_name() {
        for Limit { name, bounds, get, set } in LIMITS {
            let mut limits = CellLimits::default();
            assert!(bounds.contains(&get(&limits)), "{name}");
            for value in [*bounds.start(), *bounds.end()] {
                set(&mut limits, value);
                assert_eq!(get(&limits), value, "{name}");
            }
            for other in LIMITS.iter().filter(|other| other.name != name) {
                assert_eq!((other.get)(&limits), (other.get)(&CellLimits::default()), "{name} sets {}", other.name);
            }
        }
    }

    #[test]
    fn the_defaults_and_their_bounds_are_as_documented() {
        let text = include_str!("../../../docs/defaults.md");
        for Limit { name, bounds, get, .. } in LIMITS {
            let (default, start, end) = (get(&CellLimits::default()), bounds.start(), bounds.end());
            let row = std::format!("| `{name}` | {default} | {start} to {end} | ");
            assert!(text.contains(&row), "docs/defaults.md has no row {row:?}");
        }
    }
}
