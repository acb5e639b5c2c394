//! The loop's side of commits: when one begins, what belongs to it, what follows from its end.

use porin_core::{
    packet::AckToken,
    time::{Monotonic, Unix},
    update,
};
use tracing::{error, info};

use super::{Agent, Core, Source, Updating};
use crate::{
    pipeline::Pipeline,
    store::{Commit, Room, is_full},
};

/// A pause after a commit that failed.
pub(super) const COMMIT_RETRY_US: u64 = 5_000_000;

/// The longest pause: each failure doubles it. What is tried on a full disk is written to it.
pub(super) const MAX_RETRY_US: u64 = 320_000_000;

/// The time is noted when it is so much later: often enough for certificates, rarely enough for the card.
const FLOOR_EVERY_US: u64 = 3_600_000_000;

/// What the running commit will have made durable.
pub(super) struct Running {
    /// Whether steps of an update are among it.
    updates: bool,
    written: u64,
    names: usize,
    kinds: usize,
    tokens: Vec<AckToken>,
    clock_changes: u64,
    time_floor: Option<Unix>,
    began: Monotonic,
}

/// When what was decided becomes durable, and what of it is.
pub(super) struct Commits {
    pub(super) running: Option<Running>,
    pub(super) due: Monotonic,
    /// Names that are durable.
    names: usize,
    /// How many finds of what streams have had are durable.
    kinds: usize,
    /// How many changes of the clock are durable, and the time at which it was believed.
    clock_changes: u64,
    time_floor: Unix,
    /// Whether any packet was decided about since the last commit.
    dirty: bool,
    pub(super) commits: u64,
    pub(super) written: u64,
    /// Microseconds, together and at most.
    pub(super) took_us: u64,
    pub(super) slowest_us: u64,
    /// Why the last commit failed, if it did.
    pub(super) last_error: Option<String>,
    failures: u64,
    /// The disk is full: only what has left is deleted.
    full: bool,
}

impl Commits {
    /// At the start: the cells' outputs may have brought names that are not durable yet.
    pub(super) fn new(core: &Core) -> Self {
        let Core { pipeline, durable_names: durable, clock, room, .. } = core;
        let dirty = pipeline.names().len() > *durable || *room == Room::None;
        let kinds = pipeline.kinds().len();
        let due = Monotonic(0);
        Self {
            running: None,
            due,
            names: *durable,
            kinds,
            clock_changes: 0,
            time_floor: clock.floor(),
            dirty,
            commits: 0,
            written: 0,
            took_us: 0,
            slowest_us: 0,
            last_error: (*room == Room::None).then(|| "the disk is full".into()),
            failures: u64::from(*room == Room::None),
            full: *room == Room::None,
        }
    }

    fn end_of_failures(&mut self) {
        if self.failures > 0 {
            info!(failures = self.failures, "commits succeed again: what waited in memory is durable");
        }
        (self.failures, self.last_error) = (0, None);
    }

    fn retry_us(&self) -> u64 {
        let doublings = u32::try_from(self.failures.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
        (COMMIT_RETRY_US << doublings).min(MAX_RETRY_US)
    }

    /// Whether the disk takes nothing at the moment.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

impl Agent {
    /// Begins a commit if one is due and none is running.
    pub(super) fn commit(&mut self) {
        let now = self.now.mono;
        if self.commit.running.is_some() || !self.is_dirty() || (now < self.commit.due && !self.is_urgent()) {
            return;
        }
        if self.commit.full {
            return self.delete_only();
        }
        let update = self.updating.as_mut().map(Updating::update);
        let confirming = update.as_ref().is_some_and(|update| update.is_confirming());
        let (update, marker) = update.map_or_else(Default::default, |update| {
            let unsaved = update.unsaved();
            let marker = if unsaved.is_empty() { None } else { update.marker() };
            (unsaved, marker)
        });
        let Core { pipeline, outbox, dead, clock, .. } = &mut self.core;
        let states = match &mut self.trial {
            None => pipeline.save(),
            // What the old set has learnt, until it is written that the new one is kept.
            Some(trial) => match (trial.old_and_new(pipeline), confirming) {
                ((old, _), false) => old.save(),
                ((_, new), true) => new.save(),
            },
        };
        let durable = u32::try_from(self.commit.names).unwrap_or(u32::MAX);
        let names = pipeline.names()[self.commit.names..].to_vec();
        let tokens = self.sources.iter().enumerate().filter(|(_, source)| source.decided > source.settled);
        let tokens = tokens.map(|(index, source)| AckToken { source: index, upto: source.decided }).collect();
        let found = pipeline.kinds();
        let kinds = found[self.commit.kinds..].iter();
        let kinds = kinds.map(|(id, kind)| (*kind, id.0, pipeline.name(*id).to_owned())).collect();
        let found = found.len();
        let queues = outbox.commit();
        let written = queues.iter().map(|queue| queue.records.len() as u64).sum();
        let clock_changes = clock.changes();
        let changed = clock_changes != self.commit.clock_changes;
        let spans = if changed { clock.spans().to_vec() } else { Vec::new() };
        let later = clock.floor().0.abs_diff(self.commit.time_floor.0) >= FLOOR_EVERY_US;
        let time_floor = (changed || later).then(|| clock.floor());
        let names_after = self.commit.names + names.len();
        let updates = !update.is_empty();
        self.commit.running = Some(Running {
            updates,
            written,
            names: names_after,
            kinds: found,
            tokens,
            clock_changes,
            time_floor,
            began: now,
        });
        self.commit.dirty = false;
        self.parts.committer.begin(Commit {
            queues,
            streams: (durable, names),
            kinds,
            states,
            dead: dead.commit(),
            spans,
            time_floor,
            update,
            marker,
            deletes_only: false,
        });
    }

    /// Deletes what has left, in the room that was set aside. Nothing new is written before there is room for that again.
    fn delete_only(&mut self) {
        let began = self.now.mono;
        let (queues, dead) = (self.core.outbox.commit_deletions(), self.core.dead.commit_deletions());
        let Commits { names, kinds, clock_changes, .. } = self.commit;
        let (tokens, time_floor) = (Vec::new(), None);
        self.commit.running =
            Some(Running { updates: false, written: 0, names, kinds, tokens, clock_changes, time_floor, began });
        self.parts.committer.begin(Commit { queues, dead, deletes_only: true, ..Commit::default() });
    }

    pub(super) fn committed(&mut self, outcome: anyhow::Result<Room>) {
        let Some(Running { updates, written, names, kinds, tokens, clock_changes, time_floor, began }) =
            self.commit.running.take()
        else {
            return;
        };
        let now = self.now.mono;
        match outcome {
            Ok(room) if self.commit.full => {
                self.core.outbox.committed();
                self.core.dead.committed();
                self.commit.full = room == Room::None;
                self.commit.dirty = true;
                self.commit.due = if self.commit.full { now.after(self.commit.retry_us()) } else { now };
            }
            Ok(_) => {
                let took = now.since(began);
                self.commit.commits += 1;
                self.commit.took_us += took;
                self.commit.slowest_us = self.commit.slowest_us.max(took);
                self.commit.end_of_failures();
                self.commit.names = names;
                self.commit.kinds = kinds;
                self.commit.written += written;
                self.commit.due = now.after(self.parts.config.gateway.outbox.commit_every_us);
                self.commit.clock_changes = clock_changes;
                self.commit.time_floor = time_floor.unwrap_or(self.commit.time_floor);
                self.core.outbox.committed();
                self.core.dead.committed();
                for AckToken { source, upto } in tokens {
                    // More may have been settled while the disk took nothing.
                    let settled = &mut self.sources[source].settled;
                    *settled = upto.max(*settled);
                    self.parts.settled[source].send_replace(*settled);
                }
                if updates {
                    self.update_event(update::Event::Saved);
                }
            }
            Err(error) => {
                self.commit.failures += 1;
                self.commit.last_error = Some(format!("{error:#}"));
                if self.commit.failures.is_power_of_two() {
                    let (error, failures) = (format!("{error:#}"), self.commit.failures);
                    error!(
                        error,
                        failures, "the commit failed; packets wait in memory, and it is tried again, ever more rarely"
                    );
                }
                if is_full(&error) {
                    self.commit.full = true;
                    self.parts.store.use_reserve();
                }
                self.commit.due = now.after(self.commit.retry_us());
                self.commit.dirty = true;
                self.core.outbox.commit_failed();
                self.core.dead.commit_failed();
                self.core.pipeline.commit_failed();
                if let Some(trial) = &mut self.trial {
                    trial.with_other(&mut self.core.pipeline, Pipeline::commit_failed);
                }
                if let Some(updating) = &mut self.updating {
                    updating.update().not_saved();
                }
            }
        }
    }

    /// While the disk takes nothing, sources are told of what the broker has: it is safe there. What cells have learnt since the
    /// last commit is not.
    pub(super) fn settle_without_disk(&mut self) {
        if !self.commit.is_failing() {
            return;
        }
        let (left_to, next) = (self.core.outbox.left_to(), self.core.outbox.next_seq());
        for (source, settled) in self.sources.iter_mut().zip(&self.parts.settled) {
            if source.decided > source.settled && source.leaving.is_none() {
                source.leaving = Some((source.decided, next));
            }
            if let Some((upto, _)) = source.leaving.take_if(|(_, seq)| left_to >= *seq)
                && upto > source.settled
            {
                source.settled = upto;
                settled.send_replace(upto);
            }
        }
    }

    /// Something is about to be decided: it is to be durable within `commit_every`.
    pub(super) fn mark_dirty(&mut self) {
        if !self.is_dirty() && self.commit.running.is_none() {
            self.commit.due =
                self.commit.due.max(self.now.mono.after(self.parts.config.gateway.outbox.commit_every_us));
        }
        self.commit.dirty = true;
    }

    pub(super) fn is_dirty(&self) -> bool {
        let unsaved = self.updating.as_ref().is_some_and(Updating::has_unsaved);
        self.commit.dirty || unsaved || self.core.outbox.is_dirty() || self.core.dead.is_dirty()
    }

    /// Half of a source's window waits for the commit, or all of memory, or an alarm, or somebody waits for the end.
    pub(super) fn is_urgent(&self) -> bool {
        let half = |source: &Source| source.decided - source.settled >= (source.window / 2).max(1);
        let ended = self.sources.iter().all(|source| source.status.ended) && self.core.outbox.waiting() == 0;
        // After a failure the pause counts, whoever waits.
        self.commit.failures == 0
            && (self.stopping.is_some()
                || ended
                || self.core.outbox.is_full()
                || self.core.outbox.is_urgent()
                || self.sources.iter().any(half))
    }
}
