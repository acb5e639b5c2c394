//! A slot with the cell in it: calls that count only if they return.
//!
//! After a fault the cell's state is unknown, so it is dropped and made again: started, given the state of the last
//! `save`, and given the batches since then once more with their output discarded. Then the batch that faulted goes
//! in one packet at a time, and only a packet on which the cell faults alone gets the fault policy. A cell that faults too often is
//! called no more, and its packets get the policy at once: what a bad cell costs others is bounded.

mod any;
mod log;
mod recovery;
mod refused;

use std::{fmt::Write as _, sync::Arc, time::Instant};

use porin_cell::{Cell, CellPacket, Plan, STATE, StartError, Used};
use porin_core::{
    config::{LogTo, Slot as Config},
    fault::{BadOutput, Fault},
    health::{Health, State},
    ids::StreamId,
    packet::Packet,
    rate::Bucket,
    setup::{Setup, StreamInfo},
    status::SlotStatus,
    time::{Monotonic, Now, Unix},
    words::Word,
};
use tracing::{error, warn};

pub(crate) use self::any::AnySlot;
pub(crate) use self::log::LogEntry;
use self::{log::SlotLog, refused::RefusedStreams};
use crate::{machine, store::Digest};

/// Packets kept since the last `save`, to be given again after a fault. When full, the slot saves: readings take 96 KB at
/// most.
const MAX_SINCE_SAVE: usize = 4_096;

/// And for each stream of the slot: a `save` tells of all of them, so the more there are, the rarer it has to be. Ten thousand
/// streams may keep 3.8 MB.
const MAX_SINCE_SAVE_PER_STREAM: usize = 16;

/// Bytes of messages kept since the last `save`.
const MAX_BYTES_SINCE_SAVE: usize = 1 << 20;

/// Fuel used since the last `save`: what it costs at most to decide all of it again. 16 ms of a loop on x86-64.
const MAX_FUEL_SINCE_SAVE: u64 = 10_000_000;

/// What a packet counts for where output is bounded by bytes, besides those of a message's topic and payload.
const PACKET_BYTES: u64 = 24;

/// How a packet of the slot's input goes on as one of its output, where it can.
pub(crate) type Pass<I, O> = Option<fn(&I) -> O>;

/// A place in a route with a cell in it that takes packets of one kind and gives packets of one kind.
pub(crate) struct Slot<I, O> {
    config: Config,
    plan: Arc<Plan>,
    digest: Digest,
    setup: Setup,
    refused: RefusedStreams,
    /// Streams that appeared while there was no cell that could be asked, with their outputs.
    undeclared: Vec<(StreamInfo, Vec<StreamInfo>)>,
    /// `None` after a fault until it could be made again.
    cell: Option<Cell>,
    /// What the cell last saved.
    saved: Option<Vec<u8>>,
    /// Whether the store has something else.
    unwritten: bool,
    /// The batches since then, one after the other, and where each ends.
    since_save: Vec<I>,
    bytes_since_save: usize,
    fuel_since_save: u64,
    batch_ends: Vec<(usize, Unix)>,
    /// When the cell was last told that time has passed, by the clock that ticks go by.
    last_tick_us: Option<u64>,
    /// What a rebuilt cell puts out about batches that it has answered before.
    discarded: Vec<O>,
    health: Health,
    /// When something was last asked of it.
    now: Monotonic,
    output_rate: Bucket,
    pass: Pass<I, O>,
    /// Packets that are to be kept as dead letters, and why.
    dead: Vec<(Packet, String)>,
    log: SlotLog,
    status: SlotStatus,
}

impl<I: CellPacket + Into<Packet>, O: CellPacket> Slot<I, O> {
    /// Starts the cell with the streams known so far. `stored` is for [`Slot::restore_stored`].
    pub(crate) fn start(
        config: Config,
        plan: Arc<Plan>,
        digest: Digest,
        setup: Setup,
        stored: Option<Vec<u8>>,
        pass: Pass<I, O>,
    ) -> Result<Self, StartError> {
        let cell = Cell::start(&plan, &config.grants, config.limits, &setup)?;
        machine::release_zeroes(cell.memory());
        let (health, log) = (Health::new(config.quarantine), SlotLog::new(&config));
        let output_rate = Bucket::new(config.limits.output_bytes_per_s);
        let (name, digest_text, from) = (config.name.clone(), hex(&digest), config.cell.to_string());
        let status = SlotStatus { name, digest: digest_text, from, ..SlotStatus::default() };
        let (since_save, batch_ends, discarded) = (Vec::new(), Vec::new(), Vec::new());
        let (cell, saved, unwritten, last_tick_us) = (Some(cell), stored, false, None);
        Ok(Self {
            config,
            plan,
            digest,
            setup,
            refused: RefusedStreams::default(),
            undeclared: Vec::new(),
            cell,
            saved,
            unwritten,
            since_save,
            bytes_since_save: 0,
            fuel_since_save: 0,
            batch_ends,
            last_tick_us,
            discarded,
            health,
            now: Monotonic(0),
            output_rate,
            pass,
            dead: Vec::new(),
            log,
            status,
        })
    }

    /// Offers the cell the state that was stored, once it knows its streams. A cell that does not take it starts afresh.
    pub(crate) fn restore_stored(&mut self) {
        let (Some(cell), Some(state)) = (&mut self.cell, &self.saved) else { return };
        let reason = match cell.restore(state) {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(fault) => fault.to_string(),
        };
        warn!(slot = %self.config.name, reason, "the cell does not accept the stored state and starts without");
        self.status.fresh = Some(reason);
        self.saved = None;
        self.make_again();
    }

    /// Declares a stream that appeared. `false`: the cell does not take it, and its packets get the fault policy.
    pub(crate) fn add_stream(&mut self, stream: StreamInfo, outputs: Vec<StreamInfo>) -> bool {
        if self.cell.is_none() && self.health.state(self.now) != State::Running {
            // It is asked when it is made again.
            self.undeclared.push((stream, outputs));
            return true;
        }
        let (id, name) = (stream.id, stream.name.clone());
        match self.ask(stream, outputs) {
            Ok(()) => true,
            Err(error) => {
                self.refuse(id, name, &error.to_string());
                false
            }
        }
    }

    /// Asks the cell whether it takes a stream. If not, it goes on without it.
    fn ask(&mut self, stream: StreamInfo, outputs: Vec<StreamInfo>) -> Result<(), StartError> {
        let (streams_before, outputs_before) = (self.setup.streams.len(), self.setup.outputs.len());
        self.setup.streams.push(stream);
        self.setup.outputs.extend(outputs);
        let (streams, outputs) = (&self.setup.streams[streams_before..], &self.setup.outputs[outputs_before..]);
        if let Some(cell) = &mut self.cell
            && cell.streams_added(streams, outputs).is_ok()
        {
            return Ok(());
        }
        // `streams-added` cannot say why; `init` can.
        let outcome = self.rebuild();
        if outcome.is_err() {
            self.setup.streams.truncate(streams_before);
            self.setup.outputs.truncate(outputs_before);
            self.make_again();
        }
        outcome
    }

    /// The packets of a stream get the fault policy from now on.
    pub(crate) fn refuse(&mut self, id: StreamId, stream: String, reason: &str) {
        self.refused.add(id, stream.clone(), reason);
        // Names come from outside, as many as there are.
        if self.refused.len().is_power_of_two() {
            let (slot, streams) = (&self.config.name, self.refused.len());
            error!(
                slot,
                stream, reason, streams, "the cell does not take the stream; its packets get the fault policy"
            );
        }
    }

    /// Decides about a batch: appends to `out` what goes on.
    pub(crate) fn process(&mut self, batch: &[I], now: Now, out: &mut Vec<O>) {
        self.now = now.mono;
        self.status.input += batch.len() as u64;
        let before = out.len();
        if self.cell.is_none() {
            self.make_again();
        }
        if self.refused.is_empty() {
            self.decide(batch, now, out);
        } else {
            let refused = |packet: &I| self.refused.contains(packet.stream());
            let (refused, taken): (Vec<_>, Vec<_>) = batch.iter().cloned().partition(refused);
            for packet in &refused {
                self.status.refused += 1;
                self.give_up(packet, &self.refused.fault(packet.stream()), out);
            }
            self.decide(&taken, now, out);
        }
        self.status.output += (out.len() - before) as u64;
    }

    fn decide(&mut self, batch: &[I], now: Now, out: &mut Vec<O>) {
        if batch.is_empty() {
            return;
        }
        match self.call(batch, now, out) {
            Ok(()) => self.keep(batch, now.unix),
            Err(fault @ Fault::NoCell(_)) => batch.iter().for_each(|packet| self.give_up(packet, &fault, out)),
            Err(fault) => {
                self.faulted(&fault);
                self.one_by_one(batch, now, out);
            }
        }
    }

    /// Whether its cell may be called at this time.
    pub(crate) fn is_called(&self, now: Now) -> bool {
        self.health.state(now.mono) == State::Running
    }

    /// The next packet is a dead letter that is given again.
    pub(crate) fn count_replayed(&mut self) {
        self.status.replayed += 1;
    }

    /// Gives packets to be kept as dead letters, and why.
    pub(crate) fn take_dead(&mut self) -> std::vec::Drain<'_, (Packet, String)> {
        self.dead.drain(..)
    }

    /// Asks for the last word: the sources have ended.
    pub(crate) fn flush(&mut self, now: Now, out: &mut Vec<O>) {
        self.now = now.mono;
        self.unasked(out, |cell, out| cell.flush(out));
    }

    /// Tells the cell that time has passed, if its interval has. `clock_us` is the clock that ticks go by.
    pub(crate) fn tick(&mut self, clock_us: u64, now: Now, out: &mut Vec<O>) {
        self.now = now.mono;
        if self.next_tick_us(clock_us).is_none_or(|due| clock_us < due) {
            return;
        }
        self.last_tick_us = Some(clock_us);
        self.unasked(out, |cell, out| cell.tick(now.unix, out));
    }

    /// When the next tick is due. The first one is an interval after the start; a clock that steps back starts again.
    pub(crate) fn next_tick_us(&mut self, clock_us: u64) -> Option<u64> {
        let interval = self.config.tick_us?;
        let last = self.last_tick_us.filter(|last| *last <= clock_us);
        let last = *self.last_tick_us.insert(last.unwrap_or(clock_us));
        Some(last.saturating_add(interval))
    }

    /// A call that no packet asked for.
    fn unasked(&mut self, out: &mut Vec<O>, call: impl FnOnce(&mut Cell, &mut Vec<O>) -> Result<Used, Fault>) {
        let before = out.len();
        let Some(cell) = &mut self.cell else { return };
        let outcome = call(cell, out);
        let used = cell.used();
        if let Err(fault) = outcome.and_then(|_| self.within_rate(0, &out[before..])) {
            out.truncate(before);
            self.lost(used);
            self.faulted(&fault);
            self.make_again();
        }
        self.status.output += (out.len() - before) as u64;
        // It cannot be given again after a fault, so its effect is kept at once.
        self.save_in_memory();
    }

    /// The state to be stored, if it has changed since the last time.
    pub(crate) fn save(&mut self) -> Option<(&str, Digest, &[u8])> {
        if !self.batch_ends.is_empty() {
            self.save_in_memory();
        }
        if !std::mem::take(&mut self.unwritten) {
            return None;
        }
        Some((&self.config.name, self.digest, self.saved.as_deref()?))
    }

    /// What the cell has learnt until now.
    fn state(&mut self) -> Option<(String, Vec<u8>)> {
        if !self.batch_ends.is_empty() {
            self.save_in_memory();
        }
        Some((self.config.name.clone(), self.saved.clone()?))
    }

    /// Nothing was written: the next `save` gives the state again.
    pub(crate) fn commit_failed(&mut self) {
        self.unwritten = self.saved.is_some();
    }

    /// The counters begin anew.
    fn begin_counts(&mut self) {
        let SlotStatus { name, digest, from, fresh, last_fault, .. } = std::mem::take(&mut self.status);
        self.status = SlotStatus { name, digest, from, fresh, last_fault, ..SlotStatus::default() };
        (self.log.dropped, self.log.unwritten) = (0, 0);
    }

    /// Numbers for the status.
    pub(crate) fn status(&self) -> SlotStatus {
        let memory_bytes = self.cell.as_ref().map_or(0, |cell| cell.memory().len());
        let state = self.health.state(self.now);
        let (log_lines_dropped, log_lines_unwritten) = (self.log.dropped, self.log.unwritten);
        let (streams_refused, refused_streams) = (self.refused.len(), self.refused.shown());
        SlotStatus {
            memory_bytes,
            state,
            log_lines_dropped,
            log_lines_unwritten,
            streams_refused,
            refused_streams,
            ..self.status.clone()
        }
    }

    fn call(&mut self, batch: &[I], now: Now, out: &mut Vec<O>) -> Result<(), Fault> {
        let Some(cell) = &mut self.cell else {
            let last = self.status.last_fault.as_deref().unwrap_or("it could not be made again");
            return Err(Fault::NoCell(format!("{}, last: {last}", self.health.state(self.now).word())));
        };
        let before = out.len();
        let start = Instant::now();
        let outcome = cell.process(batch, now.unix, out);
        let used = cell.used();
        let came = batch.iter().map(size).sum();
        if let Err(fault) = outcome.and_then(|_| self.within_rate(came, &out[before..])) {
            out.truncate(before);
            self.lost(used);
            return Err(fault);
        }
        self.status.nanoseconds += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.status.fuel += used.fuel;
        self.fuel_since_save += used.fuel;
        self.status.calls += 1;
        self.status.processed += batch.len() as u64;
        self.write_log();
        Ok(())
    }

    /// Whether no more came out than may in this time: so many times what came in, and what the slot allows besides.
    fn within_rate(&mut self, came: u64, out: &[O]) -> Result<(), Fault> {
        let free = came.saturating_mul(self.config.limits.outputs_per_packet as u64);
        let more = out.iter().map(size).sum::<u64>().saturating_sub(free);
        if more == 0 || self.output_rate.take(more, self.now) {
            return Ok(());
        }
        let (len, limit) = (usize::try_from(more).unwrap_or(usize::MAX), self.output_rate.burst());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Err(Fault::BadOutput(BadOutput::TooMany { what: "bytes of output in ten seconds", len, limit }))
    }

    fn lost(&mut self, Used { fuel }: Used) {
        self.status.lost_fuel += fuel;
    }

    /// Remembers what the cell has decided about, in case it must be made again.
    fn keep(&mut self, batch: &[I], now: Unix) {
        self.since_save.extend_from_slice(batch);
        self.bytes_since_save += batch.iter().map(CellPacket::bytes).sum::<usize>();
        self.batch_ends.push((self.since_save.len(), now));
        let most = MAX_SINCE_SAVE.max(self.setup.streams.len() * MAX_SINCE_SAVE_PER_STREAM);
        if self.since_save.len() >= most
            || self.bytes_since_save >= MAX_BYTES_SINCE_SAVE
            || self.fuel_since_save >= MAX_FUEL_SINCE_SAVE
        {
            self.save_in_memory();
        }
    }

    /// Takes the cell's state over. What was decided until now need not be given again.
    fn save_in_memory(&mut self) {
        // While there is no cell, what it is to be given again is all that there is of it.
        let Some(cell) = &mut self.cell else { return };
        let outcome = cell.save();
        self.since_save.clear();
        (self.bytes_since_save, self.fuel_since_save) = (0, 0);
        self.batch_ends.clear();
        match outcome {
            Ok(state) => {
                self.unwritten |= self.saved.as_ref() != Some(&state);
                self.saved = Some(state);
            }
            Err(fault @ Fault::BadOutput(BadOutput::TooMany { what: STATE, .. })) => {
                // The cell is well, and goes on; only what is kept of it grows old.
                self.count_fault(&fault);
                if self.status.faults.is_power_of_two() {
                    error!(slot = %self.config.name, %fault, "the cell's state is too large to be saved: a restart would lose it; give the slot fewer streams");
                }
            }
            Err(fault) => {
                // The decisions stand; what the cell learnt since its last good state is gone.
                self.lost(self.cell.as_ref().map(Cell::used).unwrap_or_default());
                self.faulted(&fault);
                self.make_again();
            }
        }
        self.write_log();
    }

    fn write_log(&mut self) {
        let Some(cell) = &mut self.cell else { return };
        let (lines, dropped) = cell.take_log();
        self.log.write(lines, dropped, self.now);
    }

    /// What it has logged that is not for the journal; lines that `take` does not take stay.
    pub(crate) fn take_log(&mut self, take: impl FnMut(&str, &LogTo, &LogEntry) -> bool) {
        self.log.take(take);
    }
}

/// What a packet counts for where output is bounded by bytes.
fn size<P: CellPacket>(packet: &P) -> u64 {
    PACKET_BYTES + packet.bytes() as u64
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
