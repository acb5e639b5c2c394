//! The world `processing-unit` of `wit/cloud-demo`: a text in, a text out. The example that porin began with; no slot takes it.

use porin_core::{fault::Fault, limits::CellLimits};

use crate::{
    Engine, abi,
    caps::LogLine,
    error::{LoadError, StartError},
    guest::{Export, Guest, Linker},
    loader::Component,
    typecheck::PROCESSING_UNIT,
};

/// A running processing unit.
#[derive(Debug)]
pub struct ProcessingUnit {
    guest: Guest,
    handle_request: Export<(u32, u32), u32>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum UnitError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl ProcessingUnit {
    /// Checks, compiles and instantiates a component.
    ///
    /// # Errors
    /// What is wrong with it, or what it asks for that is not granted.
    pub fn start(bytes: &[u8], grants: &[String], limits: CellLimits) -> Result<Self, UnitError> {
        const EXPORT: &str = "handle-request";
        let component = Component::load(&Engine::new(&limits), bytes, &PROCESSING_UNIT, &limits)?;
        let export = |linker: &mut Linker<'_>| linker.export(EXPORT);
        let (guest, handle_request) = Guest::start(&component, grants, limits, EXPORT, export)?;
        Ok(Self { guest, handle_request })
    }

    /// Calls its one export.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn handle_request(&mut self, input: &str) -> Result<String, Fault> {
        let limits = *self.guest.limits();
        let bytes = limits.fuel_per_byte.saturating_mul(input.len() as u64);
        self.guest.refuel(limits.fuel_per_batch.saturating_add(bytes))?;
        let [pointer, len] = abi::lower_string(&mut self.guest, input)?;
        let answer = self.guest.call(self.handle_request, (pointer, len))?;
        let memory = self.guest.memory();
        let (pointer, len) = abi::pointer_and_len(memory, "answer", answer)?;
        // As long as it likes, within its memory.
        let text = abi::text(memory, "answer", pointer, len, memory.len())?.to_owned();
        self.guest.post_return(self.handle_request, answer)?;
        Ok(text)
    }

    /// Takes what it has logged, and how many lines were dropped beyond the limit of a call.
    pub fn take_log(&mut self) -> (Vec<LogLine>, u64) {
        self.guest.take_log()
    }
}
