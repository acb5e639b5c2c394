//! Runs cells, WebAssembly components, inside their limits on wasmi.
//!
//! wasmi runs core modules and knows nothing of components. This crate is the thin part between: it checks that a
//! component is of a world we speak ([`Plan::load`]), links its core modules and instantiates them with what was
//! granted ([`Cell::start`]), and carries batches in and answers out by the canonical ABI ([`Cell::process`]).
//!
//! What it promises: nothing is instantiated that was not checked whole; every call ends, by its fuel at the latest;
//! whatever a cell returns, the host neither panics nor reads outside the cell's memory. What it does not do: threads,
//! files, clocks, async. The moment is an argument.
//!
//! The loader speaks the part of the component model that cells use. Everything else is refused by name: a start
//! function, nested components, resources, values, imported core modules, encodings other than UTF-8, async.

mod abi;
mod caps;
mod cell;
mod counts;
mod engine;
mod error;
mod guest;
mod loader;
mod packet;
mod typecheck;
mod unit;

pub use caps::{Level, LogLine};
pub use cell::{Cell, STATE};
pub use engine::Engine;
pub use error::{LoadError, StartError};
pub use guest::Used;
pub use loader::Plan;
pub use packet::CellPacket;
pub use porin_core::setup::World;
pub use unit::{ProcessingUnit, UnitError};
