//! After a fault: which packet it was, what becomes of it, and the cell made again or called no more.

use porin_cell::{Cell, CellPacket, StartError, Used};
use porin_core::{
    dead::fault_text,
    fault::{Fault, FaultPolicy},
    health::State,
    packet::Packet,
    time::Now,
};
use tracing::{error, warn};

use super::Slot;
use crate::machine;

impl<I: CellPacket + Into<Packet>, O: CellPacket> Slot<I, O> {
    pub(super) fn one_by_one(&mut self, batch: &[I], now: Now, out: &mut Vec<O>) {
        self.make_again();
        for packet in batch {
            match self.call(std::slice::from_ref(packet), now, out) {
                Ok(()) => self.keep(std::slice::from_ref(packet), now.unix),
                // One that cannot be made again is tried once for a batch, not once for a packet.
                Err(fault @ Fault::NoCell(_)) => self.give_up(packet, &fault, out),
                Err(fault) => {
                    self.faulted(&fault);
                    self.give_up(packet, &fault, out);
                    self.make_again();
                }
            }
        }
    }

    /// The fault policy.
    pub(super) fn give_up(&mut self, packet: &I, fault: &Fault, out: &mut Vec<O>) {
        self.status.faulted += 1;
        match (self.config.fault, self.pass) {
            (FaultPolicy::Pass, Some(pass)) => {
                self.status.passed += 1;
                out.push(pass(packet));
            }
            (FaultPolicy::DeadLetter, _) => {
                self.status.dead_lettered += 1;
                self.dead.push((packet.clone().into(), fault_text(fault)));
            }
            // The configuration has `pass` only where a packet can.
            (FaultPolicy::Drop | FaultPolicy::Pass, _) => self.status.dropped += 1,
        }
    }

    /// Makes the cell again, if it may be called and it is not too soon.
    pub(super) fn make_again(&mut self) {
        self.write_log();
        self.cell = None;
        if self.health.state(self.now) != State::Running {
            return;
        }
        match self.rebuild() {
            Ok(()) => {
                self.health.rebuilt();
                for (stream, outputs) in std::mem::take(&mut self.undeclared) {
                    self.add_stream(stream, outputs);
                }
            }
            Err(error) => {
                // What it used before it failed died with it: at the most this.
                let streams = self.config.limits.fuel_per_packet.saturating_mul(self.setup.streams.len() as u64);
                self.lost(Used { fuel: self.config.limits.init_fuel.saturating_add(streams) });
                self.health.not_rebuilt(self.now);
                self.status.last_fault = Some(error.to_string());
                error!(slot = %self.config.name, %error, "the cell cannot be started again; its packets get the fault policy");
            }
        }
    }

    pub(super) fn rebuild(&mut self) -> Result<(), StartError> {
        self.write_log();
        self.cell = None;
        let mut cell = Cell::start(&self.plan, &self.config.grants, self.config.limits, &self.setup)?;
        self.lost(cell.used());
        if let Some(state) = &self.saved {
            if let Err(reason) = cell.restore(state)? {
                warn!(slot = %self.config.name, reason, "the cell refuses its own state and starts without");
            }
            self.lost(cell.used());
        }
        let mut start = 0;
        for (end, now) in &self.batch_ends {
            self.discarded.clear();
            let used = cell.process(&self.since_save[start..*end], *now, &mut self.discarded)?;
            self.status.lost_fuel += used.fuel;
            start = *end;
        }
        // What it has said of these batches was written the first time.
        cell.take_log();
        machine::release_zeroes(cell.memory());
        self.cell = Some(cell);
        Ok(())
    }

    /// A call failed: one too many, and the cell is called no more.
    pub(super) fn faulted(&mut self, fault: &Fault) {
        self.count_fault(fault);
        if self.health.faulted(self.now) {
            self.write_log();
            self.cell = None;
            error!(slot = %self.config.name, %fault, "the cell faulted too often and is in quarantine: its packets get the fault policy until a new configuration or a restart");
        }
    }

    pub(super) fn count_fault(&mut self, fault: &Fault) {
        self.status.faults += 1;
        self.status.last_fault = Some(fault.to_string());
        // A faulty cell faults on every packet: the counters tell, the log only begins to.
        if self.status.faults.is_power_of_two() {
            warn!(slot = %self.config.name, %fault, faults = self.status.faults, "the cell faulted");
        }
    }
}
