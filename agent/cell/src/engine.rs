//! The one wasmi engine: what WebAssembly a cell may be made of, and the limits that hold for all cells.

use wasmi::{CompilationMode, Config, EnforcedLimits};
use wasmparser::WasmFeatures;

/// Bytes of the interpreter's value stack. A cell's own stack of 16 KiB lies in its memory; this one holds locals.
const MAX_STACK_HEIGHT: usize = 1 << 17;

/// Calls within calls. The deepest of the stock cells needs 12.
const MAX_RECURSION_DEPTH: usize = 256;

/// Compiles and runs core modules. One for the whole process; cells share no more than its configuration.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) inner: wasmi::Engine,
}

impl Engine {
    /// An engine with the fixed configuration.
    #[must_use]
    pub fn new() -> Self {
        let mut config = Config::default();
        config
            .consume_fuel(true)
            .allow_start_fn(false)
            .ignore_custom_sections(true)
            .enforced_limits(EnforcedLimits::strict())
            // Errors and costs of translation belong to the load, never to the first packet.
            .compilation_mode(CompilationMode::Eager)
            .set_min_stack_height(1 << 12)
            .set_max_stack_height(MAX_STACK_HEIGHT)
            .set_max_recursion_depth(MAX_RECURSION_DEPTH)
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

impl Default for Engine {
    fn default() -> Self {
        Self::new()
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
