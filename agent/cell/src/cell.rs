//! A running cell, of whatever world: the exports have the same names, and packets cross by their own kind.

use porin_core::{
    fault::{BadOutput, Fault},
    limits::CellLimits,
    setup::{Setup, StreamInfo, World},
    time::Unix,
};

use crate::{
    abi,
    caps::LogLine,
    error::StartError,
    guest::{Export, Guest, Linker, Used},
    loader::Plan,
    packet::{self, CellPacket},
};

/// What there is too much of when a state is larger than the slot allows: the cell itself is well then.
pub const STATE: &str = "bytes of state";

/// One instance of a component, with memory and limits of its own.
///
/// After a [`Fault`] its state is unknown: drop it and make another.
#[derive(Debug)]
pub struct Cell {
    guest: Guest,
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

impl Cell {
    /// Instantiates the component with what its slot grants, and initialises it.
    ///
    /// # Errors
    /// [`StartError::NotGranted`] before anything is instantiated; else what the component did wrong.
    pub fn start(plan: &Plan, grants: &[String], limits: CellLimits, setup: &Setup) -> Result<Self, StartError> {
        let exports = |linker: &mut Linker<'_>| {
            Ok((
                linker.export("init")?,
                linker.export("streams-added")?,
                linker.export("process")?,
                linker.export("tick")?,
                linker.export("flush")?,
                linker.export("save")?,
                linker.export("restore")?,
            ))
        };
        let (guest, (init, streams_added, process, tick, flush, save, restore)) =
            Guest::start(&plan.component, grants, limits, "process", exports)?;
        let (world, declared) = (plan.world, Vec::new());
        let mut cell = Self {
            guest,
            init,
            streams_added,
            process,
            tick,
            flush,
            save,
            restore,
            world,
            declared,
            streams: 0,
            outputs: 0,
        };
        cell.declare(&setup.streams, &setup.outputs);
        cell.refuel_to_begin(setup.streams.len())?;
        let guest = &mut cell.guest;
        let params = abi::lower_params(guest, &setup.params)?;
        let streams = abi::lower_streams(guest, &setup.streams)?;
        let outputs = abi::lower_streams(guest, &setup.outputs)?;
        let answer = guest.call(cell.init, (params[0], params[1], streams[0], streams[1], outputs[0], outputs[1]))?;
        let verdict = guest.verdict(answer)?;
        guest.post_return(cell.init, answer)?;
        verdict.map_err(StartError::Refused)?;
        Ok(cell)
    }

    /// Tells the cell of streams that appeared, with their outputs in the order of [`Setup::outputs`].
    ///
    /// # Errors
    /// A [`Fault`] if the call fails.
    pub fn streams_added(&mut self, streams: &[StreamInfo], outputs: &[StreamInfo]) -> Result<(), Fault> {
        self.declare(streams, outputs);
        self.refuel_to_begin(streams.len())?;
        let streams = abi::lower_streams(&mut self.guest, streams)?;
        let outputs = abi::lower_streams(&mut self.guest, outputs)?;
        self.guest.call(self.streams_added, (streams[0], streams[1], outputs[0], outputs[1]))
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
        let limits = *self.guest.limits();
        self.guest.refuel(limits.fuel_per_batch.saturating_add(packet::fuel(batch, &limits)))?;
        self.guest.store.data_mut().now = now;
        let [pointer, len] = I::lower(&mut self.guest, batch)?;
        let answer = self.guest.call(self.process, (pointer, len))?;
        // A packet may bring something on each of its outputs.
        let each = limits.outputs_per_packet.max(self.outputs.div_ceil(self.streams.max(1)));
        let limit = batch.len().saturating_mul(each);
        self.packets(answer, limit, out, self.process)?;
        Ok(self.used())
    }

    /// Tells the cell that time has passed.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn tick<O: CellPacket>(&mut self, now: Unix, out: &mut Vec<O>) -> Result<Used, Fault> {
        self.refuel()?;
        self.guest.store.data_mut().now = now;
        let answer = self.guest.call(self.tick, now.0)?;
        self.packets(answer, self.outputs_without_input(), out, self.tick)?;
        Ok(self.used())
    }

    /// Asks for the last word.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or its answer breaks the interface.
    pub fn flush<O: CellPacket>(&mut self, out: &mut Vec<O>) -> Result<Used, Fault> {
        self.refuel()?;
        let answer = self.guest.call(self.flush, ())?;
        self.packets(answer, self.outputs_without_input(), out, self.flush)?;
        Ok(self.used())
    }

    /// The cell's whole state, in a format of its own.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails or the state is larger than the slot allows.
    pub fn save(&mut self) -> Result<Vec<u8>, Fault> {
        self.refuel()?;
        let answer = self.guest.call(self.save, ())?;
        let memory = self.guest.memory();
        let (pointer, len) = abi::pointer_and_len(memory, "state", answer)?;
        let state = abi::bytes(memory, "state", pointer, len.into())?;
        let limit = self.guest.limits().state_bytes;
        let outcome = if state.len() <= limit { Ok(state.to_vec()) } else { Err(state.len()) };
        // The cell gets its memory back either way: it goes on with a state that is too large to keep.
        self.guest.post_return(self.save, answer)?;
        outcome.map_err(|len| Fault::BadOutput(BadOutput::TooMany { what: STATE, len, limit }))
    }

    /// Gives a state back. The inner error is the cell's refusal: it then is as after its start.
    ///
    /// # Errors
    /// A [`Fault`] if the call fails.
    pub fn restore(&mut self, state: &[u8]) -> Result<Result<(), String>, Fault> {
        self.refuel_to_begin(self.streams)?;
        let [pointer, len] = abi::lower_bytes(&mut self.guest, state, 1)?;
        let answer = self.guest.call(self.restore, (pointer, len))?;
        let verdict = self.guest.verdict(answer)?;
        self.guest.post_return(self.restore, answer)?;
        Ok(verdict)
    }

    /// Takes what the cell has logged, and how many lines were dropped beyond the limit of a call.
    pub fn take_log(&mut self) -> (Vec<LogLine>, u64) {
        self.guest.take_log()
    }

    /// What the last call has used, whether it counts or not.
    #[must_use]
    pub fn used(&self) -> Used {
        self.guest.used()
    }

    /// Its linear memory.
    #[must_use]
    pub fn memory(&self) -> &[u8] {
        self.guest.memory()
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
        let limits = &mut self.guest.store.data_mut().limits;
        limits.memory_bytes =
            limits.memory_bytes.saturating_add(streams.len().saturating_mul(limits.memory_bytes_per_stream));
        limits.state_bytes =
            limits.state_bytes.saturating_add(streams.len().saturating_mul(limits.state_bytes_per_stream));
        self.outputs += outputs.len();
    }

    fn outputs_without_input(&self) -> usize {
        self.streams.saturating_mul(self.guest.limits().outputs_per_stream).max(self.outputs)
    }

    /// The budget of a call that makes it ready for so many streams.
    fn refuel_to_begin(&mut self, streams: usize) -> Result<(), Fault> {
        let limits = self.guest.limits();
        self.guest.refuel(limits.init_fuel.saturating_add(limits.fuel_per_packet.saturating_mul(streams as u64)))
    }

    /// The budget of a call that is given no packets, and may look at every stream.
    fn refuel(&mut self) -> Result<(), Fault> {
        let limits = self.guest.limits();
        let streams = limits.fuel_per_packet.saturating_mul(self.streams as u64);
        self.guest.refuel(limits.fuel_per_batch.saturating_add(streams))
    }

    /// Reads a list of packets, tells the export so (its post-return), and checks what was read.
    fn packets<P, O: CellPacket>(
        &mut self,
        answer: u32,
        limit: usize,
        out: &mut Vec<O>,
        export: Export<P, u32>,
    ) -> Result<(), Fault> {
        let before = out.len();
        let outcome = self.read_packets(answer, limit, out);
        let outcome = outcome.and_then(|()| self.guest.post_return(export, answer));
        if outcome.is_err() {
            out.truncate(before);
        }
        outcome
    }

    fn read_packets<O: CellPacket>(&self, answer: u32, limit: usize, out: &mut Vec<O>) -> Result<(), Fault> {
        let memory = self.guest.memory();
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
}
