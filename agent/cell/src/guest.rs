//! An instance of a component with its memory and its fuel: what calls of every world have in common.

use porin_core::{
    fault::{BadOutput, Fault},
    limits::{CellLimits, PAGE},
    time::Unix,
};
use wasmi::{AsContext, Extern, Func, Instance, Memory, Store, TrapCode, TypedFunc, WasmParams, WasmResults};

use crate::{
    abi,
    caps::{Host, HostFault, LogLine, printable},
    error::StartError,
    loader::{Component, Item, Lift},
};

/// What a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Units of fuel: about one for each WebAssembly instruction, the same on every machine.
    pub fuel: u64,
}

/// `cabi_realloc`: old pointer, old size, alignment, new size.
type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// A function of the component with what is to be called once its answer has been read.
#[derive(Debug)]
pub(crate) struct Export<Params, Results> {
    call: TypedFunc<Params, Results>,
    post_return: Option<TypedFunc<Results, ()>>,
}

impl<Params, Results> Clone for Export<Params, Results> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Params, Results> Copy for Export<Params, Results> {}

/// A running instance. After a [`Fault`] its state is unknown.
#[derive(Debug)]
pub struct Guest {
    pub(crate) store: Store<Host>,
    memory: Memory,
    realloc: Realloc,
}

impl Guest {
    /// Instantiates the component with what is granted. `export`: whose memory and allocator arguments are laid out with.
    pub(crate) fn start<E>(
        component: &Component,
        grants: &[String],
        limits: CellLimits,
        export: &str,
        exports: impl FnOnce(&mut Linker<'_>) -> Result<E, Unlinked>,
    ) -> Result<(Self, E), StartError> {
        for capability in &component.capabilities {
            if !grants.iter().any(|grant| grant == capability.grant) {
                return Err(StartError::NotGranted { import: capability.interface, grant: capability.grant });
            }
        }
        let allowed = (limits.memory_bytes / PAGE) as u64;
        if component.pages > allowed {
            return Err(StartError::Memory { pages: component.pages, allowed });
        }
        Self::instantiate(component, limits, export, exports)
            .map_err(|Unlinked(message)| StartError::Instantiate(message))
    }

    fn instantiate<E>(
        component: &Component,
        limits: CellLimits,
        export: &str,
        exports: impl FnOnce(&mut Linker<'_>) -> Result<E, Unlinked>,
    ) -> Result<(Self, E), Unlinked> {
        let host = Host {
            limits,
            budget: limits.init_fuel,
            table_elements: 0,
            growth_refused: false,
            may_leave: true,
            now: Unix(0),
            log: Vec::new(),
            log_lines_dropped: 0,
        };
        let mut store = Store::new(&component.engine.inner, host);
        store.limiter(|host| host);
        store.set_fuel(limits.init_fuel).map_err(Unlinked::from)?;
        let mut instances = Vec::with_capacity(component.steps.len());
        for step in &component.steps {
            let imports: Result<Vec<_>, _> =
                step.imports.iter().map(|item| resolve(item, &mut store, &instances)).collect();
            instances.push(Instance::new(&mut store, &step.module, &imports?).map_err(Unlinked::from)?);
        }
        let mut linker = Linker { component, store: &mut store, instances: &instances };
        let lift = linker.lift(export)?.clone();
        let memory = linker.memory(&lift)?;
        let realloc = linker.realloc(&lift)?;
        let exports = exports(&mut linker)?;
        Ok((Self { store, memory, realloc }, exports))
    }

    /// Gives the next calls so much fuel together.
    pub(crate) fn refuel(&mut self, budget: u64) -> Result<(), Fault> {
        let host = self.store.data_mut();
        host.growth_refused = false;
        host.budget = budget;
        self.store.set_fuel(budget).map_err(|error| Fault::Trap(error.to_string()))
    }

    /// What has been used since then.
    pub(crate) fn used(&self) -> Used {
        let left = self.store.get_fuel().unwrap_or(0);
        Used { fuel: self.store.data().budget.saturating_sub(left) }
    }

    pub(crate) fn call<P: WasmParams, R: WasmResults>(&mut self, export: Export<P, R>, params: P) -> Result<R, Fault> {
        export.call.call(&mut self.store, params).map_err(|error| self.fault(&error))
    }

    pub(crate) fn post_return<P, R: WasmParams>(&mut self, export: Export<P, R>, answer: R) -> Result<(), Fault> {
        let Some(post_return) = export.post_return else { return Ok(()) };
        self.store.data_mut().may_leave = false;
        let outcome = post_return.call(&mut self.store, answer);
        self.store.data_mut().may_leave = true;
        outcome.map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &wasmi::Error) -> Fault {
        let host = self.store.data();
        if let Some(HostFault(fault)) = error.downcast_ref::<HostFault>() {
            return fault.clone();
        }
        match error.as_trap_code() {
            Some(TrapCode::OutOfFuel) => Fault::OutOfFuel { budget: host.budget },
            // A cell cannot see why it got no memory: it panics. The limiter knows.
            _ if host.growth_refused => Fault::OutOfMemory { limit: host.limits.memory_bytes },
            _ => Fault::Trap(error.to_string()),
        }
    }

    /// Its memory, which may move whenever it runs.
    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    pub(crate) fn limits(&self) -> &CellLimits {
        &self.store.data().limits
    }

    /// Room for `size` bytes, checked to be aligned and inside the memory.
    pub(crate) fn allocate(&mut self, size: u32, align: u32) -> Result<u32, Fault> {
        self.store.data_mut().may_leave = false;
        let outcome = self.realloc.call(&mut self.store, (0, 0, align, size));
        self.store.data_mut().may_leave = true;
        let pointer = outcome.map_err(|error| self.fault(&error))?;
        abi::bytes(self.memory(), "an allocation", pointer, size.into())?;
        abi::aligned("an allocation", pointer, align)
    }

    /// Copies into room that `allocate` gave.
    pub(crate) fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Fault> {
        let memory = self.memory.data_mut(&mut self.store);
        abi::bytes_mut(memory, "an allocation", pointer, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Reads `result<_, string>`.
    pub(crate) fn verdict(&self, answer: u32) -> Result<Result<(), String>, Fault> {
        let memory = self.memory();
        let answer = abi::aligned("result", answer, 4)?;
        match abi::bytes(memory, "result", answer, 12)?[0] {
            0 => Ok(Ok(())),
            1 => {
                let (pointer, len) = abi::pointer_and_len(memory, "error", answer + 4)?;
                Ok(Err(abi::text(memory, "error", pointer, len, self.limits().text_bytes).map(printable)?))
            }
            value => Err(Fault::BadOutput(BadOutput::NoSuchCase { what: "result", value: value.into() })),
        }
    }

    /// Takes what was logged, and how many lines were dropped beyond the limit of a call.
    pub(crate) fn take_log(&mut self) -> (Vec<LogLine>, u64) {
        let host = self.store.data_mut();
        (std::mem::take(&mut host.log), std::mem::take(&mut host.log_lines_dropped))
    }
}

/// Why an instance cannot be put together. Texts, since a valid component of our world never gets here.
pub(crate) struct Unlinked(String);

impl From<wasmi::Error> for Unlinked {
    fn from(error: wasmi::Error) -> Self {
        Self(error.to_string())
    }
}

/// Finds exports among the core instances.
pub(crate) struct Linker<'a> {
    component: &'a Component,
    store: &'a mut Store<Host>,
    instances: &'a [Instance],
}

impl Linker<'_> {
    fn lift(&self, name: &str) -> Result<&Lift, Unlinked> {
        let found = self.component.exports.iter().find(|(n, _)| n == name);
        found.map(|(_, lift)| lift).ok_or_else(|| Unlinked(format!("`{name}` is not a function of its own")))
    }

    pub(crate) fn export<P: WasmParams, R: WasmParams + WasmResults>(
        &mut self,
        name: &str,
    ) -> Result<Export<P, R>, Unlinked> {
        let lift = self.lift(name)?.clone();
        let call = self.function(&lift.function)?.typed(&*self.store)?;
        let post_return = lift.post_return.as_ref().map(|item| self.function(item)).transpose()?;
        let post_return = post_return.map(|function| function.typed(&*self.store)).transpose()?;
        Ok(Export { call, post_return })
    }

    fn memory(&mut self, lift: &Lift) -> Result<Memory, Unlinked> {
        let item = lift.memory.as_ref().map(|item| resolve(item, self.store, self.instances)).transpose()?;
        item.and_then(Extern::into_memory).ok_or_else(|| Unlinked("it has no memory".into()))
    }

    fn realloc(&mut self, lift: &Lift) -> Result<Realloc, Unlinked> {
        let item = lift.realloc.as_ref().ok_or_else(|| Unlinked("it has no allocator".into()))?;
        Ok(self.function(item)?.typed(&*self.store)?)
    }

    fn function(&mut self, item: &Item) -> Result<Func, Unlinked> {
        resolve(item, self.store, self.instances)?
            .into_func()
            .ok_or_else(|| Unlinked("an export is not a function".into()))
    }
}

fn resolve(item: &Item, store: &mut Store<Host>, instances: &[Instance]) -> Result<Extern, Unlinked> {
    match item {
        Item::Export { step, name } => instances
            .get(*step)
            .and_then(|instance| instance.get_export(store.as_context(), name))
            .ok_or_else(|| Unlinked(format!("`{name}` is not there yet"))),
        Item::Host { capability, function, memory } => {
            let memory = memory.as_ref().map(|item| resolve(item, store, instances)).transpose()?;
            let (_, make) = capability.functions[*function];
            Ok(Extern::Func(make(store, memory.and_then(Extern::into_memory))))
        }
    }
}
