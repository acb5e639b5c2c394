//! Two sets of cells on the same packets: the one that is kept, and the one that is to prove itself.
//!
//! In the **shadow** the new set's output is compared and thrown away. As a **canary** it is sent, and the old set has decided about every batch as
//! well: if a cell of the new one faults, what the old one made of that batch is sent instead, and the old one goes on. No packet is lost, none comes
//! twice, and what is sent of a batch is what one set made of it.
//!
//! A mark in a file that does not outlive a power cut says that a call is under way: an agent that ends then was ended by a cell.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use porin_core::{
    config::CellSet,
    health::State,
    packet::{Message, Reading},
    status::SlotStatus,
};
use tracing::warn;

use crate::pipeline::{Forwarded, Pipeline, To};

/// Whose output is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The old set's.
    Shadow,
    /// The new set's.
    Canary,
}

/// The set that runs beside the one whose output is sent, and which of them is which.
pub(crate) struct Trial {
    other: Pipeline,
    stage: Stage,
    /// The new set as it was asked for.
    pub(crate) cells: CellSet,
    mark: Mark,
    /// What the old set had done when the stage began: in the shadow its counters are those of its whole life.
    at_begin: Vec<SlotStatus>,
    /// What the old set has done as the one whose output is not sent, before its counters began anew.
    before: Vec<SlotStatus>,
    /// The slot of the new set that faulted where the old set did not, and how, as long as nobody was told.
    fault: Option<(String, String)>,
}

impl Trial {
    /// `pipeline` has the output that is sent; what is known of streams stays with it.
    pub(crate) fn begin(pipeline: &mut Pipeline, mut new: Pipeline, cells: CellSet, mark: Mark) -> Self {
        pipeline.exchange_names(&mut new);
        let at_begin = pipeline.slot_status();
        Self { other: new, stage: Stage::Shadow, cells, mark, at_begin, before: Vec::new(), fault: None }
    }

    /// Takes something through both sets, and gives what counts. `earlier`: what the set that is sent no more has put out is added to it.
    pub(crate) fn both<R>(
        &mut self,
        pipeline: &mut Pipeline,
        call: impl Fn(&mut Pipeline, &mut dyn FnMut(To, Forwarded<'_>)) -> R,
        keep: &mut dyn FnMut(To, Forwarded<'_>),
        earlier: &mut u64,
    ) -> R {
        self.mark.set(true);
        let outcome = match self.stage {
            Stage::Shadow => {
                let outcome = call(pipeline, keep);
                call(&mut self.other, &mut |_, _| {});
                outcome
            }
            Stage::Canary => {
                let (mut new, mut old) = (Held::default(), Held::default());
                // What it has counted before was the new set's to count.
                let new_before = pipeline.slot_status();
                self.before = sum(std::mem::take(&mut self.before), self.other.slot_status());
                self.other.begin_counts();
                let before = pipeline.appended();
                let outcome = call(pipeline, &mut |to, kept| new.push(to, kept));
                let instead = call(&mut self.other, &mut |to, kept| old.push(to, kept));
                self.fault = worse(&new_before, &pipeline.slot_status(), &self.other.slot_status());
                if self.fault.is_none() {
                    new.give(keep);
                    outcome
                } else {
                    warn!("a new cell failed: the old cells' output of the batch is sent, and they go on");
                    *earlier += before;
                    self.swap(pipeline, Stage::Shadow);
                    old.give(keep);
                    instead
                }
            }
        };
        self.mark.set(false);
        outcome
    }

    fn swap(&mut self, pipeline: &mut Pipeline, stage: Stage) {
        std::mem::swap(pipeline, &mut self.other);
        pipeline.exchange_names(&mut self.other);
        self.stage = stage;
    }

    /// From now on the output of the new set is sent, as of a canary, or that of the old one. Its counters begin anew.
    pub(crate) fn switch_to(&mut self, stage: Stage, pipeline: &mut Pipeline) {
        if self.stage != stage {
            self.swap(pipeline, stage);
            pipeline.begin_counts();
            // Both are compared on the packets of this stage.
            self.other.begin_counts();
            (self.at_begin, self.before) = (pipeline.slot_status(), Vec::new());
        }
    }

    /// The new set, whose output is sent, alone runs on.
    pub(crate) fn confirm(mut self, pipeline: &mut Pipeline) -> CellSet {
        pipeline.take_recordings(&mut self.other);
        self.cells
    }

    /// The slot that has made the old set go on, and how. Told once.
    pub(crate) fn take_fault(&mut self) -> Option<(String, String)> {
        self.fault.take()
    }

    /// Whose output is sent.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// What the slots have done since the stage began: the new set's and the old one's.
    pub(crate) fn compare(&self, pipeline: &Pipeline) -> (Vec<SlotStatus>, Vec<SlotStatus>) {
        let (sent, other) = (pipeline.slot_status(), self.other.slot_status());
        match self.stage {
            Stage::Shadow => (other, since(&self.at_begin, sent)),
            Stage::Canary => (sent, sum(self.before.clone(), other)),
        }
    }

    /// The old set and the new one.
    pub(crate) fn old_and_new<'a>(&'a mut self, pipeline: &'a mut Pipeline) -> (&'a mut Pipeline, &'a mut Pipeline) {
        match self.stage {
            Stage::Shadow => (pipeline, &mut self.other),
            Stage::Canary => (&mut self.other, pipeline),
        }
    }

    /// The set whose output is not sent, with what is known of streams lent to it.
    pub(crate) fn with_other<R>(&mut self, pipeline: &mut Pipeline, what: impl FnOnce(&mut Pipeline) -> R) -> R {
        self.other.exchange_names(pipeline);
        let outcome = what(&mut self.other);
        self.other.exchange_names(pipeline);
        outcome
    }

    /// Dead letters and log lines of the set whose output is not sent are nobody's.
    pub(crate) fn forget_side_effects(&mut self) {
        self.other.take_dead(porin_core::time::Unix(0), drop);
        self.other.take_log(|_, _, _| true);
    }

    /// When the set whose output is not sent wants to hear of the time.
    pub(crate) fn next_tick_us(&mut self, clock_us: u64) -> Option<u64> {
        self.other.next_tick_us(clock_us)
    }
}

/// The slot of the new set that did worse on a call than the one of the same name in the old set, and how. One whose old cell is called no more is not
/// compared: it is no worse. `old`: since the call began.
fn worse(before: &[SlotStatus], after: &[SlotStatus], old: &[SlotStatus]) -> Option<(String, String)> {
    // Calls that failed, and packets that were given up.
    let troubles = |slot: &SlotStatus| (slot.faults, slot.faulted);
    let found = before.iter().zip(after).find(|(before, after)| {
        let (faults, faulted) = (after.faults - before.faults, after.faulted - before.faulted);
        match old.iter().find(|old| old.name == after.name) {
            Some(old) if old.state == State::Quarantined => false,
            Some(old) => faults > troubles(old).0 || faulted > troubles(old).1,
            None => faults > 0 || faulted > 0,
        }
    });
    found.map(|(_, slot)| (slot.name.clone(), slot.last_fault.clone().unwrap_or_default()))
}

/// What slots did after a moment, in the numbers that are compared.
fn since(moment: &[SlotStatus], mut now: Vec<SlotStatus>) -> Vec<SlotStatus> {
    for (now, before) in now.iter_mut().zip(moment) {
        now.input = now.input.saturating_sub(before.input);
        now.processed = now.processed.saturating_sub(before.processed);
        now.output = now.output.saturating_sub(before.output);
        now.fuel = now.fuel.saturating_sub(before.fuel);
    }
    now
}

/// What slots did in two stretches of time, in the numbers that are compared.
fn sum(before: Vec<SlotStatus>, mut now: Vec<SlotStatus>) -> Vec<SlotStatus> {
    for (now, before) in now.iter_mut().zip(before) {
        now.input += before.input;
        now.processed += before.processed;
        now.output += before.output;
        now.fuel += before.fuel;
    }
    now
}

/// What a set has kept of a batch, until it is known whether it counts.
#[derive(Default)]
struct Held(Vec<(To, Packets)>);

enum Packets {
    Readings(Vec<Reading>),
    Messages(Vec<Message>),
}

impl Held {
    fn push(&mut self, to: To, kept: Forwarded<'_>) {
        let packets = match kept {
            Forwarded::Readings(readings) => Packets::Readings(readings.to_vec()),
            Forwarded::Messages(messages) => Packets::Messages(messages.to_vec()),
        };
        self.0.push((to, packets));
    }

    fn give(&self, keep: &mut dyn FnMut(To, Forwarded<'_>)) {
        for (to, packets) in &self.0 {
            match packets {
                Packets::Readings(readings) => keep(*to, Forwarded::Readings(readings)),
                Packets::Messages(messages) => keep(*to, Forwarded::Messages(messages)),
            }
        }
    }
}

/// A byte in a file beside the agent's socket: whether a call into a set on probation is under way. In memory, so that a power cut takes it away.
#[derive(Debug)]
pub(crate) struct Mark(Option<File>);

impl Mark {
    fn path(socket: &str) -> PathBuf {
        Path::new(socket).with_extension("probation")
    }

    /// `None` where the file cannot be made: then an agent that ends is nobody's fault.
    pub(crate) fn open(socket: &str) -> Self {
        let path = Self::path(socket);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        if let Err(error) = &file {
            warn!(path = %path.display(), %error, "cannot write the marker of calls on probation");
        }
        Self(file.ok())
    }

    /// Whether the last agent ended within a call. Asked once: the mark is taken away.
    pub(crate) fn was_left(socket: &str) -> bool {
        let path = Self::path(socket);
        let left = std::fs::read(&path).is_ok_and(|bytes| bytes.first() == Some(&1));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %path.display(), %error, "cannot remove the marker of calls on probation");
            }
            Ok(()) | Err(_) => {}
        }
        left
    }

    /// Says whether a call is under way.
    pub(crate) fn set(&self, under_way: bool) {
        // Without the mark an agent that ends is nobody's fault.
        let _ = self.0.as_ref().map(|file| file.write_at(&[u8::from(under_way)], 0));
    }
}
