//! What a component may have too much of: counted before anything is compiled.
//!
//! A component of 50 KB can hold thousands of functions, or a function with fifty thousand locals. wasmi's own strict limits bound
//! each module; these bound all of them together, by what the slot allows.

#![allow(clippy::wildcard_enum_match_arm)] // wasmparser's enums: most of what they list is of no concern

use porin_core::limits::CellLimits;
use wasmparser::{Parser, Payload, TypeRef};

use crate::{error::LoadError, typecheck::malformed};

/// Core modules of a component, and instances of them. wit-component makes three at the most, with as many bundles.
pub(crate) const MODULES: usize = 8;

/// Locals of a function, parameters not counted. The largest function of the stock cells has 60.
const LOCALS: usize = 1_000;

/// Segments of data and of elements, and globals.
const SEGMENTS: usize = 1_000;

/// What was counted so far.
#[derive(Default)]
pub(crate) struct Counts {
    modules: usize,
    functions: usize,
    segments: usize,
    globals: usize,
    /// Pages of linear memory with which all modules begin.
    pub(crate) pages: u64,
}

impl Counts {
    /// Counts a core module, and refuses it if it is one too many or has too much.
    pub(crate) fn add(&mut self, module: &[u8], limits: &CellLimits) -> Result<(), LoadError> {
        self.modules += 1;
        within("core modules", self.modules, MODULES)?;
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(malformed)? {
                Payload::StartSection { .. } => return Err(LoadError::StartFunction),
                Payload::ImportSection(imports) => {
                    for import in imports {
                        self.functions += usize::from(matches!(import.map_err(malformed)?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(functions) => self.functions += functions.count() as usize,
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        self.pages = self.pages.saturating_add(memory.map_err(malformed)?.initial);
                    }
                }
                Payload::GlobalSection(globals) => self.globals += globals.count() as usize,
                Payload::DataSection(segments) => self.segments += segments.count() as usize,
                Payload::ElementSection(segments) => self.segments += segments.count() as usize,
                Payload::CodeSectionEntry(body) => {
                    let mut locals = 0_usize;
                    for local in body.get_locals_reader().map_err(malformed)? {
                        locals = locals.saturating_add(local.map_err(malformed)?.0 as usize);
                    }
                    within("locals in a function", locals, LOCALS)?;
                }
                _ => {}
            }
        }
        within("functions", self.functions, limits.functions)?;
        within("globals", self.globals, SEGMENTS)?;
        within("segments", self.segments, SEGMENTS)
    }
}

fn within(what: &'static str, count: usize, limit: usize) -> Result<(), LoadError> {
    if count > limit { Err(LoadError::TooMany { what, count, limit }) } else { Ok(()) }
}
