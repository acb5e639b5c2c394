//! A slot with the cell in it: calls that count only if they return.
//!
//! After a fault the cell's state is unknown, so it is dropped and made again: started, given the state of the last
//! `save`, and given the batches since then once more with their output discarded. Then the batch that faulted goes
//! in one packet at a time, and only a packet on which the cell faults alone gets the fault policy.

use std::time::Instant;

use porin_cell::{Cell, Level, LogLine, Plan, StartError};
use porin_core::{
    config::Slot as Config,
    fault::{Fault, FaultPolicy},
    packet::Reading,
    setup::{Setup, StreamInfo},
    status::SlotStatus,
    time::Unix,
};
use tracing::{debug, error, info, trace, warn};

/// Readings kept since the last `save`, to be given again after a fault. When full, the slot saves: 96 KB at most.
const MAX_SINCE_SAVE: usize = 4_096;

/// A place in a route with a cell in it.
pub(crate) struct Slot {
    config: Config,
    plan: Plan,
    setup: Setup,
    /// `None` after a fault until it could be made again.
    cell: Option<Cell>,
    /// What the cell last saved.
    saved: Option<Vec<u8>>,
    /// Whether the store has something else.
    unwritten: bool,
    /// The batches since then, one after the other, and where each ends.
    since_save: Vec<Reading>,
    batch_ends: Vec<(usize, Unix)>,
    /// What a rebuilt cell puts out about batches that it has answered before.
    discarded: Vec<Reading>,
    status: SlotStatus,
}

impl Slot {
    /// Starts the cell with the streams known so far, and offers it the state that was stored.
    pub(crate) fn start(
        config: Config,
        plan: Plan,
        digest: String,
        setup: Setup,
        stored: Option<Vec<u8>>,
    ) -> Result<Self, StartError> {
        let mut cell = Cell::start(&plan, &config.grants, config.limits, &setup)?;
        let mut saved = None;
        if let Some(state) = stored {
            match cell.restore(&state)? {
                Ok(()) => saved = Some(state),
                Err(reason) => {
                    warn!(slot = %config.name, reason, "the cell refuses the stored state and starts afresh")
                }
            }
        }
        let status = SlotStatus { name: config.name.clone(), digest, ..SlotStatus::default() };
        let (since_save, batch_ends, discarded) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            config,
            plan,
            setup,
            cell: Some(cell),
            saved,
            unwritten: false,
            since_save,
            batch_ends,
            discarded,
            status,
        })
    }

    /// The slot's further streams for a stream fed in.
    pub(crate) fn outputs(&self) -> &[String] {
        &self.config.outputs
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
    pub(crate) fn process(&mut self, batch: &[Reading], now: Unix, out: &mut Vec<Reading>) {
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
    pub(crate) fn flush(&mut self, out: &mut Vec<Reading>) {
        let before = out.len();
        let Some(cell) = &mut self.cell else { return };
        if let Err(fault) = cell.flush(out) {
            self.faulted(&fault);
            self.try_rebuild();
        }
        self.status.output += (out.len() - before) as u64;
        // A flush cannot be given again after a fault, so its effect is kept at once.
        self.save_in_memory();
    }

    /// The state to be stored, if it has changed since the last time.
    pub(crate) fn save(&mut self) -> Option<(&str, &[u8])> {
        if !self.batch_ends.is_empty() {
            self.save_in_memory();
        }
        if !std::mem::take(&mut self.unwritten) {
            return None;
        }
        Some((&self.config.name, self.saved.as_deref()?))
    }

    /// Nothing was written: the next `save` gives the state again.
    pub(crate) fn commit_failed(&mut self) {
        self.unwritten = self.saved.is_some();
    }

    /// Numbers for the status.
    pub(crate) fn status(&self) -> SlotStatus {
        SlotStatus { memory_bytes: self.cell.as_ref().map_or(0, Cell::memory_bytes), ..self.status.clone() }
    }

    fn call(&mut self, batch: &[Reading], now: Unix, out: &mut Vec<Reading>) -> Result<(), Fault> {
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
    fn keep(&mut self, batch: &[Reading], now: Unix) {
        self.since_save.extend_from_slice(batch);
        self.batch_ends.push((self.since_save.len(), now));
        if self.since_save.len() >= MAX_SINCE_SAVE {
            self.save_in_memory();
        }
    }

    /// Takes the cell's state over. What was decided until now need not be given again.
    fn save_in_memory(&mut self) {
        let outcome = self.cell.as_mut().map(Cell::save);
        self.since_save.clear();
        self.batch_ends.clear();
        match outcome {
            Some(Ok(state)) => {
                self.unwritten |= self.saved.as_ref() != Some(&state);
                self.saved = Some(state);
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

    fn one_by_one(&mut self, batch: &[Reading], now: Unix, out: &mut Vec<Reading>) {
        self.try_rebuild();
        for packet in batch {
            let packet = std::slice::from_ref(packet);
            match self.call(packet, now, out) {
                Ok(()) => self.keep(packet, now),
                Err(fault) => {
                    self.faulted(&fault);
                    self.status.faulted += 1;
                    match self.config.fault {
                        FaultPolicy::Drop => self.status.dropped += 1,
                    }
                    self.try_rebuild();
                }
            }
        }
    }

    fn try_rebuild(&mut self) {
        if let Err(error) = self.rebuild() {
            error!(slot = %self.config.name, %error, "the cell cannot be made again; its packets get the fault policy");
        }
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
