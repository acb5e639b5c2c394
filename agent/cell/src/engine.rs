//! The wasmi engine: what WebAssembly a cell may be made of, and the limits that hold for all its cells.

use porin_core::limits::CellLimits;
use wasmi::{CompilationMode, Config, CustomFuelCosts, EnforcedLimits};
use wasmparser::WasmFeatures;

/// Bytes of the interpreter's stack that are there from the start.
const MIN_STACK_HEIGHT: usize = 1 << 12;

/// wasmi's own, but that translation is free: else a cell paid for what another instance of it finds translated, and the same packets cost
/// different fuel. What it takes is bounded by the component's size, and is taken once.
const FUEL: CustomFuelCosts =
    CustomFuelCosts { bytes_copied_per_fuel: 64, fuel_per_bytes_translated: 0, fuel_per_bytes_validated: 0 };

/// Compiles and runs core modules. Cells that share one share no more than its configuration and its stack, one after the other.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) inner: wasmi::Engine,
}

impl Engine {
    /// An engine for cells with these limits: how deep and how high they may pile is the engine's to bound.
    #[must_use]
    pub fn new(limits: &CellLimits) -> Self {
        let mut config = Config::default();
        config
            .consume_fuel(true)
            .allow_start_fn(false)
            .ignore_custom_sections(true)
            .enforced_limits(EnforcedLimits::strict())
            // Validated at the load, translated at the first call: many functions of a cell are never called.
            .compilation_mode(CompilationMode::LazyTranslation)
            .fuel_cost(FUEL)
            .set_min_stack_height(MIN_STACK_HEIGHT)
            .set_max_stack_height(limits.stack_bytes.max(MIN_STACK_HEIGHT))
            .set_max_recursion_depth(limits.call_depth)
            // Cells run one after the other on one thread.
            .set_max_cached_stacks(1)
            // What no compiler of cells emits by default is off: less to get wrong.
            .wasm_multi_memory(false)
            .wasm_tail_call(false)
            .wasm_wide_arithmetic(false)
            .wasm_custom_page_sizes(false);
        Self { inner: wasmi::Engine::new(&config) }
    }
}

/// What the component as a whole is validated with: the component model, and the same core features as the engine.
pub(crate) fn features() -> WasmFeatures {
    WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::GC_TYPES // wasmparser: required by reference types, adds nothing by itself
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::FLOATS
}
