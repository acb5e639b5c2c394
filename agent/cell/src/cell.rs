//! A running cell, of whatever world: the exports have the same names, and packets cross by their own kind.

use porin_core::{
    fault::{BadOutput, Fault},
    limits::CellLimits,
    setup::{Setup, StreamInfo, World},
    time::Unix,
};
use wasmi::{AsContext, Extern, Func, Instance, Memory, Store, TrapCode, TypedFunc, WasmParams, WasmResults};

use crate::{
    abi::{self, Guest},
    caps::{Host, HostFault, LogLine},
    error::StartError,
    loader::{Item, Lift, Plan},
    packet::{self, CellPacket},
};

/// What there is too much of when a state is larger than the slot allows: the cell itself is well then.
pub const STATE: &str = "bytes of state";

/// What a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Units of fuel: about one for each WebAssembly instruction, the same on every machine.
    pub fuel: u64,
}

/// One instance of a component, with memory and limits of its own.
///
/// After a [`Fault`] its state is unknown: drop it and make another.
#[derive(Debug)]
pub struct Cell {
    store: Store<Host>,
    memory: Memory,
    realloc: Realloc,
    init: Export<(u32, u32, u32, u32, u32, u32), u32>,
    streams_added: Export<(u32, u32, u32, u32), ()>,
    process: Export<(u32, u32), u32>,
    tick: Export<u64, u32>,
    flush: Export<(), u32>,
    save: Export<(), u32>,
    restore: Export<(u32, u32), u32>,
    world: World,
    /// By stream id: whether a packet may come out on it.
    declared: Vec<bool>,
    streams: usize,
    outputs: usize,
}

/// `cabi_realloc`: old pointer, old size, alignment, new size.
type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

#[derive(Debug)]
struct Export<Params, Results> {
    call: TypedFunc<Params, Results>,
    post_return: Option<TypedFunc<Results, ()>>,
}

impl Cell {
    /// Instantiates the component with what its slot grants, and initialises it.
    ///
    /// # Errors
    /// [`StartError::NotGranted`] before anything is instantiated; else what the component did wrong.
    pub fn start(plan: &Plan, grants: &[String], limits: CellLimits, setup: &Setup) -> Result<Self, StartError> {
        for capability in &plan.capabilities {
            if !grants.iter().any(|grant| grant == capability.grant) {
                return Err(StartError::NotGranted { import: capability.interface, grant: capability.grant });
            }
        }
        let mut cell = Self::instantiate(plan, limits).map_err(|Unlinked(message)| StartError::Instantiate(message))?;
        cell.declare(&setup.streams, &setup.outputs);
        cell.refuel(setup.streams.len())?;
        let params = abi::lower_params(&mut cell, &setup.params)?;
        let streams = abi::lower_streams(&mut cell, &setup.streams)?;
        let outputs = abi::lower_streams(&mut cell, &setup.outputs)?;
        let answer =
            cell.call(|cell| &cell.init, (params[0], params[1], streams[0], streams[1], outputs[0], outputs[1]))?;
        let verdict = cell.verdict(answer)?;
        cell.post_return(|cell| &cell.init, answer)?;
        verdict.map_err(StartError::Refused)?;
        Ok(cell)
    }

    fn instantiate(plan: &Plan, limits: CellLimits) -> Result<Self, Unlinked> {
        let host = Host {
            limits,
            budget: limits.fuel_per_call,
            growth_refused: false,
            now: Unix(0),
            log: Vec::new(),
            log_lines_dropped: 0,
        };
        let mut store = Store::new(&plan.engine.inner, host);
        store.limiter(|host| host);
        store.set_fuel(limits.fuel_per_call).map_err(Unlinked::from)?;
        let mut instances = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let imports: Result<Vec<_>, _> =
                step.imports.iter().map(|item| resolve(item, &mut store, &instances)).collect();
            instances.push(Instance::new(&mut store, &step.module, &imports?).map_err(Unlinked::from)?);
        }
        let mut linker = Linker { plan, store: &mut store, instances: &instances };
        let process = linker.lift("process")?.clone();
        let memory = linker.memory(&process)?;
        let realloc = linker.realloc(&process)?;
        Ok(Self {
            memory,
            realloc,
            init: linker.export("init")?,
            streams_added: linker.export("streams-added")?,
            process: linker.export("process")?,
            tick: linker.export("tick")?,
            flush: linker.export("flush")?,
            save: linker.export("save")?,
            restore: linker.export("restore")?,
            world: plan.world,
            declared: Vec::new(),
            streams: 0,
            outputs: 0,
            store,
        })
    }

    /// Tells the cell of streams that appeared, with their outputs in the order of [`Setup::outputs`].
    ///
    /// # Errors
    /// A [`Fault`] if the call fails.
    pub fn streams_added(&mut self, streams: &[StreamInfo], outputs: &[StreamInfo]) -> Result<(), Fault> {
        self.declare(streams, outputs);
        self.refuel(streams.len())?;
        let streams = abi::lower_streams(self, streams)?;
        let outputs = abi::lower_streams(self, outputs)?;
        self.call(|cell| &cell.streams_added, (streams[0], streams[1], outputs[0], outputs[1]))
    }

    /// Decides about a batch: appends to `out` what goes on. On a fault, `out` is as it was. The kinds of packets are those of
    /// the cell's world.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn process<I: CellPacket, O: CellPacket>(
        &mut self,
        batch: &[I],
        now: Unix,
        out: &mut Vec<O>,
    ) -> Result<Used, Fault> {
        let limits = self.store.data().limits;
        let budget = self.refuel_with(packet::fuel(batch, &limits))?;
        self.store.data_mut().now = now;
        let [pointer, len] = I::lower(self, batch)?;
        let answer = self.call(|cell| &cell.process, (pointer, len))?;
        // A packet may bring something on each of its outputs.
        let each = limits.outputs_per_reading.max(self.outputs.div_ceil(self.streams.max(1)));
        let limit = batch.len().saturating_mul(each);
        self.packets(answer, limit, out, |cell| cell.post_return(|cell| &cell.process, answer))?;
        self.used(budget)
    }

    /// Tells the cell that time has passed.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn tick<O: CellPacket>(&mut self, now: Unix, out: &mut Vec<O>) -> Result<Used, Fault> {
        let budget = self.refuel(self.streams)?;
        self.store.data_mut().now = now;
        let answer = self.call(|cell| &cell.tick, now.0)?;
        self.packets(answer, self.outputs_without_input(), out, |cell| cell.post_return(|cell| &cell.tick, answer))?;
        self.used(budget)
    }

    /// Asks for the last word.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn flush<O: CellPacket>(&mut self, out: &mut Vec<O>) -> Result<Used, Fault> {
        let budget = self.refuel(self.streams)?;
        let answer = self.call(|cell| &cell.flush, ())?;
        self.packets(answer, self.outputs_without_input(), out, |cell| cell.post_return(|cell| &cell.flush, answer))?;
        self.used(budget)
    }

    /// The cell's whole state, in a format of its own.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or the state is larger than the slot allows.
    pub fn save(&mut self) -> Result<Vec<u8>, Fault> {
        self.refuel(self.streams)?;
        let answer = self.call(|cell| &cell.save, ())?;
        let memory = self.memory.data(&self.store);
        let (pointer, len) = abi::pointer_and_len(memory, "state", answer)?;
        let state = abi::bytes(memory, "state", pointer, len.into())?;
        let limit = self.store.data().limits.state_bytes;
        let outcome = if state.len() <= limit { Ok(state.to_vec()) } else { Err(state.len()) };
        // The cell gets its memory back either way: it goes on with a state that is too large to keep.
        self.post_return(|cell| &cell.save, answer)?;
        outcome.map_err(|len| Fault::BadOutput(BadOutput::TooMany { what: STATE, len, limit }))
    }

    /// Gives a state back. The inner error is the cell's refusal: it then is as after its start.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails.
    pub fn restore(&mut self, state: &[u8]) -> Result<Result<(), String>, Fault> {
        self.refuel(self.streams)?;
        let [pointer, len] = abi::lower_bytes(self, state, 1)?;
        let answer = self.call(|cell| &cell.restore, (pointer, len))?;
        let verdict = self.verdict(answer)?;
        self.post_return(|cell| &cell.restore, answer)?;
        Ok(verdict)
    }

    /// Takes what the cell has logged, and how many lines were dropped beyond the limit of a call.
    pub fn take_log(&mut self) -> (Vec<LogLine>, u64) {
        let host = self.store.data_mut();
        (std::mem::take(&mut host.log), std::mem::take(&mut host.log_lines_dropped))
    }

    /// Bytes of linear memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }

    fn declare(&mut self, streams: &[StreamInfo], outputs: &[StreamInfo]) {
        // A stream of messages has no readings: a decoder emits on its outputs only.
        let own = if self.world == World::Decoder { &[] } else { streams };
        for stream in own.iter().chain(outputs) {
            let index = stream.id.0 as usize;
            if index >= self.declared.len() {
                self.declared.resize(index + 1, false);
            }
            self.declared[index] = true;
        }
        self.streams += streams.len();
        let limits = &mut self.store.data_mut().limits;
        limits.memory_bytes += streams.len() * limits.memory_bytes_per_stream;
        limits.state_bytes += streams.len() * limits.state_bytes_per_stream;
        self.outputs += outputs.len();
    }

    fn outputs_without_input(&self) -> usize {
        self.streams.saturating_mul(self.store.data().limits.outputs_per_stream).max(self.outputs)
    }

    /// The budget of one call that is given `packets`.
    fn refuel(&mut self, packets: usize) -> Result<u64, Fault> {
        self.refuel_with(self.store.data().limits.fuel_per_packet.saturating_mul(packets as u64))
    }

    /// The budget of one call whose input adds `fuel`.
    fn refuel_with(&mut self, fuel: u64) -> Result<u64, Fault> {
        let budget = self.store.data().limits.fuel_per_call.saturating_add(fuel);
        let host = self.store.data_mut();
        host.growth_refused = false;
        host.budget = budget;
        self.store.set_fuel(budget).map_err(|error| Fault::Trap(error.to_string()))?;
        Ok(budget)
    }

    fn used(&self, budget: u64) -> Result<Used, Fault> {
        let left = self.store.get_fuel().map_err(|error| Fault::Trap(error.to_string()))?;
        Ok(Used { fuel: budget.saturating_sub(left) })
    }

    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        export: impl Fn(&Self) -> &Export<P, R>,
        params: P,
    ) -> Result<R, Fault> {
        let call = export(self).call;
        call.call(&mut self.store, params).map_err(|error| self.fault(&error))
    }

    fn post_return<P, R: WasmParams>(
        &mut self,
        export: impl Fn(&Self) -> &Export<P, R>,
        answer: R,
    ) -> Result<(), Fault> {
        let Some(post_return) = export(self).post_return else { return Ok(()) };
        post_return.call(&mut self.store, answer).map_err(|error| self.fault(&error))
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

    /// Reads a list of packets, calls `done` (the post-return), and checks what was read.
    fn packets<O: CellPacket>(
        &mut self,
        answer: u32,
        limit: usize,
        out: &mut Vec<O>,
        done: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let before = out.len();
        let outcome = self.read_packets(answer, limit, out).and_then(|()| done(self));
        if outcome.is_err() {
            out.truncate(before);
        }
        outcome
    }

    fn read_packets<O: CellPacket>(&self, answer: u32, limit: usize, out: &mut Vec<O>) -> Result<(), Fault> {
        let memory = self.memory.data(&self.store);
        let (pointer, len) = abi::pointer_and_len(memory, "packets", answer)?;
        if len as usize > limit {
            return Err(Fault::BadOutput(BadOutput::TooMany { what: "packets", len: len as usize, limit }));
        }
        let before = out.len();
        O::lift(memory, pointer, len, out)?;
        for packet in &out[before..] {
            let stream = packet.stream().0;
            if !self.declared.get(stream as usize).is_some_and(|declared| *declared) {
                return Err(Fault::BadOutput(BadOutput::UndeclaredStream { stream }));
            }
        }
        Ok(())
    }

    /// Reads `result<_, string>`.
    fn verdict(&self, answer: u32) -> Result<Result<(), String>, Fault> {
        let memory = self.memory.data(&self.store);
        let answer = abi::aligned("result", answer, 4)?;
        match abi::bytes(memory, "result", answer, 12)?[0] {
            0 => Ok(Ok(())),
            1 => {
                let (pointer, len) = abi::pointer_and_len(memory, "error", answer + 4)?;
                let limit = self.store.data().limits.text_bytes;
                Ok(Err(abi::text(memory, "error", pointer, len, limit)?.to_owned()))
            }
            value => Err(Fault::BadOutput(BadOutput::NoSuchCase { what: "result", value: value.into() })),
        }
    }
}

impl Guest for Cell {
    fn allocate(&mut self, size: u32, align: u32) -> Result<u32, Fault> {
        let pointer = self.realloc.call(&mut self.store, (0, 0, align, size)).map_err(|error| self.fault(&error))?;
        abi::bytes(self.memory.data(&self.store), "an allocation", pointer, size.into())?;
        abi::aligned("an allocation", pointer, align)
    }
    fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Fault> {
        let memory = self.memory.data_mut(&mut self.store);
        abi::bytes_mut(memory, "an allocation", pointer, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// Why an instance cannot be put together. Texts, since a valid component of our world never gets here.
struct Unlinked(String);

impl From<wasmi::Error> for Unlinked {
    fn from(error: wasmi::Error) -> Self {
        Self(error.to_string())
    }
}

/// Finds exports among the core instances.
struct Linker<'a> {
    plan: &'a Plan,
    store: &'a mut Store<Host>,
    instances: &'a [Instance],
}

impl Linker<'_> {
    fn lift(&self, name: &str) -> Result<&Lift, Unlinked> {
        let found = self.plan.exports.iter().find(|(n, _)| n == name);
        found.map(|(_, lift)| lift).ok_or_else(|| Unlinked(format!("`{name}` is not a function of its own")))
    }

    fn export<P: WasmParams, R: WasmParams + WasmResults>(&mut self, name: &str) -> Result<Export<P, R>, Unlinked> {
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
            .ok_or_else(|| Unlinked("an export is no function".into()))
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
