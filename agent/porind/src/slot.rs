//! A slot with the cell in it: calls that count only if they return.
//!
//! After a fault the cell's state is unknown, so it is dropped and made again: started, given the state of the last
//! `save`, and given the batches since then once more with their output discarded. Then the batch that faulted goes
//! in one packet at a time, and only a packet on which the cell faults alone gets the fault policy.

mod any;

use std::{fmt::Write as _, sync::Arc, time::Instant};

use porin_cell::{Cell, CellPacket, Level, LogLine, Plan, STATE, StartError, Used};
use porin_core::{
    config::Slot as Config,
    fault::{BadOutput, Fault, FaultPolicy},
    setup::{Setup, StreamInfo},
    status::SlotStatus,
    time::Unix,
};
use tracing::{debug, error, info, trace, warn};

pub(crate) use self::any::AnySlot;
use crate::store::Digest;

/// Packets kept since the last `save`, to be given again after a fault. When full, the slot saves: readings take 96 KB at
/// most.
const MAX_SINCE_SAVE: usize = 4_096;

/// And for each stream of the slot: a `save` tells of all of them, so the more there are, the rarer it has to be. Ten thousand
/// streams may keep 3.8 MB.
const MAX_SINCE_SAVE_PER_STREAM: usize = 16;

/// Bytes of messages kept since the last `save`.
const MAX_BYTES_SINCE_SAVE: usize = 1 << 20;

/// A place in a route with a cell in it that takes packets of one kind and gives packets of one kind.
pub(crate) struct Slot<I, O> {
    config: Config,
    plan: Arc<Plan>,
    digest: Digest,
    setup: Setup,
    /// `None` after a fault until it could be made again.
    cell: Option<Cell>,
    /// What the cell last saved.
    saved: Option<Vec<u8>>,
    /// Whether the store has something else.
    unwritten: bool,
    /// The batches since then, one after the other, and where each ends.
    since_save: Vec<I>,
    bytes_since_save: usize,
    batch_ends: Vec<(usize, Unix)>,
    /// When the cell was last told that time has passed, by the clock that ticks go by.
    last_tick_us: Option<u64>,
    /// What a rebuilt cell puts out about batches that it has answered before.
    discarded: Vec<O>,
    status: SlotStatus,
}

impl<I: CellPacket, O: CellPacket> Slot<I, O> {
    /// Starts the cell with the streams known so far. `stored` is for [`Slot::restore_stored`].
    pub(crate) fn start(
        config: Config,
        plan: Arc<Plan>,
        digest: Digest,
        setup: Setup,
        stored: Option<Vec<u8>>,
    ) -> Result<Self, StartError> {
        let cell = Cell::start(&plan, &config.grants, config.limits, &setup)?;
        let status = SlotStatus { name: config.name.clone(), digest: hex(&digest), ..SlotStatus::default() };
        let (since_save, batch_ends, discarded) = (Vec::new(), Vec::new(), Vec::new());
        let (cell, saved, unwritten, last_tick_us) = (Some(cell), stored, false, None);
        Ok(Self {
            config,
            plan,
            digest,
            setup,
            cell,
            saved,
            unwritten,
            since_save,
            bytes_since_save: 0,
            batch_ends,
            last_tick_us,
            discarded,
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
        warn!(slot = %self.config.name, reason, "the cell does not take the stored state and starts afresh");
        self.saved = None;
        self.try_rebuild();
    }

    /// Declares streams that appeared.
    ///
    /// # Errors
    /// The cell's reason not to take them; then it goes on without them.
    pub(crate) fn add_stream(&mut self, stream: StreamInfo, outputs: Vec<StreamInfo>) -> Result<(), StartError> {
        let (streams_before, outputs_before) = (self.setup.streams.len(), self.setup.outputs.len());
        self.setup.streams.push(stream);
        self.setup.outputs.extend(outputs);
        let (streams, outputs) = (&self.setup.streams[streams_before..], &self.setup.outputs[outputs_before..]);
        if self.cell.as_mut().is_some_and(|cell| cell.streams_added(streams, outputs).is_ok()) {
            return Ok(());
        }
        // `streams-added` cannot say why; `init` can.
        let outcome = self.rebuild();
        if outcome.is_err() {
            self.setup.streams.truncate(streams_before);
            self.setup.outputs.truncate(outputs_before);
            if let Err(error) = self.rebuild() {
                error!(slot = %self.config.name, %error, "the cell cannot be made again");
            }
        }
        outcome
    }

    /// Decides about a batch: appends to `out` what goes on.
    pub(crate) fn process(&mut self, batch: &[I], now: Unix, out: &mut Vec<O>) {
        self.status.input += batch.len() as u64;
        let before = out.len();
        match self.call(batch, now, out) {
            Ok(()) => self.keep(batch, now),
            Err(fault) => {
                self.faulted(&fault);
                self.one_by_one(batch, now, out);
            }
        }
        self.status.output += (out.len() - before) as u64;
    }

    /// Asks for the last word: the sources have ended.
    pub(crate) fn flush(&mut self, out: &mut Vec<O>) {
        self.unasked(out, |cell, out| cell.flush(out));
    }

    /// Tells the cell that time has passed, if its interval has. `clock_us` is the clock that ticks go by.
    pub(crate) fn tick(&mut self, clock_us: u64, now: Unix, out: &mut Vec<O>) {
        if self.next_tick_us(clock_us).is_none_or(|due| clock_us < due) {
            return;
        }
        self.last_tick_us = Some(clock_us);
        self.unasked(out, |cell, out| cell.tick(now, out));
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
        if let Err(fault) = call(cell, out) {
            self.faulted(&fault);
            self.try_rebuild();
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

    /// Numbers for the status.
    pub(crate) fn status(&self) -> SlotStatus {
        SlotStatus { memory_bytes: self.cell.as_ref().map_or(0, Cell::memory_bytes), ..self.status.clone() }
    }

    fn call(&mut self, batch: &[I], now: Unix, out: &mut Vec<O>) -> Result<(), Fault> {
        let Some(cell) = &mut self.cell else {
            return Err(Fault::Trap("there is no cell: it could not be made again after a fault".into()));
        };
        let start = Instant::now();
        let used = cell.process(batch, now, out)?;
        self.status.nanoseconds += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.status.fuel += used.fuel;
        self.status.calls += 1;
        self.status.processed += batch.len() as u64;
        self.log();
        Ok(())
    }

    /// Remembers what the cell has decided about, in case it must be made again.
    fn keep(&mut self, batch: &[I], now: Unix) {
        self.since_save.extend_from_slice(batch);
        self.bytes_since_save += batch.iter().map(CellPacket::bytes).sum::<usize>();
        self.batch_ends.push((self.since_save.len(), now));
        let most = MAX_SINCE_SAVE.max(self.setup.streams.len() * MAX_SINCE_SAVE_PER_STREAM);
        if self.since_save.len() >= most || self.bytes_since_save >= MAX_BYTES_SINCE_SAVE {
            self.save_in_memory();
        }
    }

    /// Takes the cell's state over. What was decided until now need not be given again.
    fn save_in_memory(&mut self) {
        let outcome = self.cell.as_mut().map(Cell::save);
        self.since_save.clear();
        self.bytes_since_save = 0;
        self.batch_ends.clear();
        match outcome {
            Some(Ok(state)) => {
                self.unwritten |= self.saved.as_ref() != Some(&state);
                self.saved = Some(state);
            }
            Some(Err(fault @ Fault::BadOutput(BadOutput::TooMany { what: STATE, .. }))) => {
                // The cell is well, and goes on; only what is kept of it grows old.
                self.faulted(&fault);
                if self.status.faults.is_power_of_two() {
                    error!(slot = %self.config.name, %fault, "the cell's state is too large to be kept: a restart would lose what it learns; give the slot fewer streams");
                }
            }
            Some(Err(fault)) => {
                // The decisions stand; what the cell learnt since its last good state is gone.
                self.faulted(&fault);
                self.try_rebuild();
            }
            None => {}
        }
        self.log();
    }

    fn one_by_one(&mut self, batch: &[I], now: Unix, out: &mut Vec<O>) {
        // A cell that cannot be made again is tried once for a batch, not once for a packet.
        let mut alive = self.try_rebuild();
        for packet in batch {
            let packet = std::slice::from_ref(packet);
            let outcome = self.call(packet, now, out);
            let Err(fault) = outcome else {
                self.keep(packet, now);
                continue;
            };
            self.faulted(&fault);
            self.status.faulted += 1;
            match self.config.fault {
                FaultPolicy::Drop => self.status.dropped += 1,
            }
            alive = alive && self.try_rebuild();
        }
    }

    fn try_rebuild(&mut self) -> bool {
        let outcome = self.rebuild();
        if let Err(error) = &outcome {
            error!(slot = %self.config.name, %error, "the cell cannot be made again; its packets get the fault policy");
        }
        outcome.is_ok()
    }

    fn rebuild(&mut self) -> Result<(), StartError> {
        self.log();
        self.cell = None;
        let mut cell = Cell::start(&self.plan, &self.config.grants, self.config.limits, &self.setup)?;
        if let Some(state) = &self.saved
            && let Err(reason) = cell.restore(state)?
        {
            warn!(slot = %self.config.name, reason, "the cell refuses its own state and starts afresh");
        }
        let mut start = 0;
        for (end, now) in &self.batch_ends {
            self.discarded.clear();
            cell.process(&self.since_save[start..*end], *now, &mut self.discarded)?;
            start = *end;
        }
        self.cell = Some(cell);
        Ok(())
    }

    fn faulted(&mut self, fault: &Fault) {
        self.status.faults += 1;
        self.status.last_fault = Some(fault.to_string());
        // A faulty cell faults on every packet: the counters tell, the log only begins to.
        if self.status.faults.is_power_of_two() {
            warn!(slot = %self.config.name, %fault, faults = self.status.faults, "the cell faulted");
        }
    }

    fn log(&mut self) {
        let Some(cell) = &mut self.cell else { return };
        let (lines, dropped) = cell.take_log();
        self.status.log_lines_dropped += dropped;
        for LogLine { level, context, message } in lines {
            let slot = &self.config.name;
            match level {
                Level::Trace => trace!(slot, context, "{message}"),
                Level::Debug => debug!(slot, context, "{message}"),
                Level::Info => info!(slot, context, "{message}"),
                Level::Warn => warn!(slot, context, "{message}"),
                Level::Error | Level::Critical => error!(slot, context, "{message}"),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use porin_cell::Engine;
    use porin_core::{
        config::Provenance,
        ids::StreamId,
        limits::CellLimits,
        packet::{Quality, Reading},
        setup::World,
    };
    use porin_test_support::counting_cell;

    use super::*;

    fn slot(stored: Option<Vec<u8>>) -> Slot<Reading, Reading> {
        let config = Config {
            name: "s".into(),
            cell: Provenance::Local(String::new()),
            world: World::Filter,
            grants: vec![],
            params: vec![],
            outputs: vec![],
            tick_us: None,
            fault: FaultPolicy::Drop,
            limits: CellLimits::default(),
        };
        let plan =
            Plan::load(&Engine::new(), &counting_cell(), config.world, &config.limits).expect("its type is right");
        let stream = StreamInfo { id: StreamId(0), name: "a".into(), unit: String::new(), params: vec![] };
        let setup = Setup { streams: vec![stream], ..Setup::default() };
        let mut slot = Slot::start(config, Arc::new(plan), [0; 32], setup, stored).expect("it starts");
        slot.restore_stored();
        slot
    }

    fn batch(times: &[u64]) -> Vec<Reading> {
        let reading = |time| Reading { time: Unix(time), value: 0.0, stream: StreamId(0), quality: Quality::GOOD };
        times.iter().copied().map(reading).collect()
    }

    fn process(slot: &mut Slot<Reading, Reading>, times: &[u64]) -> Vec<(u64, f64)> {
        let mut out = Vec::new();
        slot.process(&batch(times), Unix(0), &mut out);
        out.iter().map(|reading| (reading.time.0, reading.value)).collect()
    }

    #[test]
    fn only_the_packet_that_faults_alone_is_dropped_and_no_state_is_lost() {
        let mut slot = slot(None);
        assert_eq!(process(&mut slot, &[1, 2]), [(1, 1.0), (2, 2.0)]);
        slot.save();
        assert_eq!(process(&mut slot, &[3]), [(3, 3.0)]);
        // The cell traps in the middle of a batch: what it had counted of it does not count.
        assert_eq!(process(&mut slot, &[4, 13, 5, 13]), [(4, 4.0), (5, 5.0)]);
        assert_eq!(process(&mut slot, &[6]), [(6, 6.0)]);
        let status = slot.status();
        assert_eq!((status.input, status.processed, status.faulted, status.dropped, status.output), (8, 6, 2, 2, 6));
        // The batch, and each of the two packets alone.
        assert_eq!(status.faults, 3);
    }

    #[test]
    fn what_is_saved_fits_what_was_put_out() {
        let mut first = slot(None);
        process(&mut first, &[1, 2, 13, 3]);
        let state = first.save().expect("it has changed").2.to_vec();
        assert!(first.save().is_none(), "nothing new");
        let mut second = slot(Some(state));
        assert_eq!(process(&mut second, &[4]), [(4, 4.0)]);
    }

    #[test]
    fn a_failed_commit_gives_the_state_again() {
        let mut slot = slot(None);
        process(&mut slot, &[1]);
        let state = slot.save().expect("it has changed").2.to_vec();
        slot.commit_failed();
        assert_eq!(slot.save().expect("again").2, state);
    }

    #[test]
    fn batches_since_the_last_save_are_bounded() {
        let mut slot = slot(None);
        let times: Vec<u64> = (100..164).collect();
        for _ in 0..1_000 {
            process(&mut slot, &times);
        }
        assert!(slot.since_save.len() < MAX_SINCE_SAVE);
        assert_eq!(process(&mut slot, &[1]), [(1, 64_001.0)]);
        assert!(slot.save().is_some(), "what was saved in between has still to be written");
    }
}
