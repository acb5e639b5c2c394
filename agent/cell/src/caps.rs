//! Capabilities: what a cell may import. The list is complete; there is no other way out of a cell.
//!
//! To import is to ask. A slot's grants answer, and a cell that asks for more is refused before it runs.

mod clock;
mod log;
mod logger;

pub(crate) use log::printable;
pub use log::{Level, LogLine};

use porin_core::{fault::Fault, limits::CellLimits, time::Unix};
use wasmi::{Memory, ResourceLimiter, Store};
use wasmi_core::LimiterError;

use crate::counts::MODULES;

/// One interface that a cell may import.
pub(crate) struct Capability {
    /// The name in a slot's `grants`.
    pub(crate) grant: &'static str,
    /// The import's name in the component.
    pub(crate) interface: &'static str,
    /// Makes the host's side of each function.
    pub(crate) functions: &'static [(&'static str, MakeFunc)],
}

/// Makes a host function over the memory that the import was lowered with.
pub(crate) type MakeFunc = fn(&mut Store<Host>, Option<Memory>) -> wasmi::Func;

/// Every capability that a cell can be granted.
pub(crate) static ALL: [Capability; 2] = [log::CAPABILITY, clock::CAPABILITY];

/// The one of the world `processing-unit`.
pub(crate) static LOGGER: [Capability; 1] = [logger::CAPABILITY];

/// What the host side of one cell holds: its limits, and what its imports read and write.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) limits: CellLimits,
    /// Fuel that the running call was given.
    pub(crate) budget: u64,
    /// Elements of all its tables.
    pub(crate) table_elements: usize,
    /// Whether memory or a table was refused since the call began: explains the trap that follows.
    pub(crate) growth_refused: bool,
    /// Whether the cell may call out: not while the host lays out its arguments or lets it tidy up (the canonical ABI's rule).
    pub(crate) may_leave: bool,
    /// What `clock` answers.
    pub(crate) now: Unix,
    /// What the cell logged since the lines were last taken.
    pub(crate) log: Vec<LogLine>,
    /// Lines beyond the limit, counted only.
    pub(crate) log_lines_dropped: u64,
}

impl Host {
    /// Whether an import may be called now.
    pub(crate) fn leave(&self) -> Result<(), wasmi::Error> {
        if self.may_leave {
            return Ok(());
        }
        Err(wasmi::Error::host(HostFault(Fault::Trap(
            "an import was called from the allocator or a post-return".into(),
        ))))
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool, LimiterError> {
        let allowed = desired <= self.limits.memory_bytes;
        self.growth_refused |= !allowed;
        Ok(allowed)
    }
    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool, LimiterError> {
        let all = self.table_elements.saturating_add(desired.saturating_sub(current));
        let allowed = all <= self.limits.table_elements;
        self.growth_refused |= !allowed;
        if allowed {
            self.table_elements = all;
        }
        Ok(allowed)
    }
    // A component needs three instances (cell, shim, fixup) and a table for the shim; twice that is plenty.
    fn instances(&self) -> usize {
        MODULES
    }
    fn tables(&self) -> usize {
        4
    }
    fn memories(&self) -> usize {
        1
    }
}

/// A fault found inside a host function, on its way through the interpreter.
#[derive(Debug)]
pub(crate) struct HostFault(pub(crate) Fault);

impl std::fmt::Display for HostFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl wasmi::errors::HostError for HostFault {}
