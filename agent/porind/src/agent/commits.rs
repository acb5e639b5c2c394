//! The loop's side of commits: when one begins, what belongs to it, what follows from its end.

use std::time::Instant;

use porin_core::{ids::Seq, packet::AckToken, time::Monotonic};
use tracing::error;

use super::{Agent, Parts, Source};
use crate::{pipeline::Pipeline, store::Commit};

/// A pause after a commit that failed.
const COMMIT_RETRY_US: u64 = 5_000_000;

/// What the running commit will have made durable.
pub(super) struct Running {
    acked_to: Seq,
    next: Seq,
    written: u64,
    names: usize,
    kinds: usize,
    tokens: Vec<AckToken>,
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
    /// Whether any packet was decided about since the last commit.
    dirty: bool,
    pub(super) commits: u64,
    pub(super) written: u64,
    /// Microseconds, together and at most.
    pub(super) took_us: u64,
    pub(super) slowest_us: u64,
    failures: u64,
}

impl Commits {
    /// At the start: the cells' outputs may have brought names that are not durable yet.
    pub(super) fn new(durable: usize, pipeline: &Pipeline) -> Self {
        let dirty = pipeline.names().len() > durable;
        let kinds = pipeline.kinds().len();
        let due = Monotonic(0);
        Self {
            running: None,
            due,
            names: durable,
            kinds,
            dirty,
            commits: 0,
            written: 0,
            took_us: 0,
            slowest_us: 0,
            failures: 0,
        }
    }
}

impl Agent {
    /// Begins a commit if one is due and none is running.
    pub(super) fn commit(&mut self) {
        let now = self.start_to(Instant::now());
        if self.commit.running.is_some() || !self.is_dirty() || (now < self.commit.due && !self.is_urgent()) {
            return;
        }
        let Parts { pipeline, queue, committer, .. } = &mut self.parts;
        let states = pipeline.save();
        let durable = u32::try_from(self.commit.names).unwrap_or(u32::MAX);
        let names = pipeline.names()[self.commit.names..].to_vec();
        let tokens = self.sources.iter().enumerate().filter(|(_, source)| source.decided > source.settled);
        let tokens = tokens.map(|(index, source)| AckToken { source: index, upto: source.decided }).collect();
        let found = pipeline.kinds();
        let kinds = found[self.commit.kinds..].iter();
        let kinds = kinds.map(|(id, kind)| (*kind, id.0, pipeline.name(*id).to_owned())).collect();
        let found = found.len();
        let queue = queue.commit();
        let names_after = self.commit.names + names.len();
        let (acked_to, next, written) = (queue.acked_to, queue.next, queue.records.len() as u64);
        self.commit.running =
            Some(Running { acked_to, next, written, names: names_after, kinds: found, tokens, began: now });
        self.commit.dirty = false;
        committer.begin(Commit { queue: Some(queue), streams: (durable, names), kinds, states });
    }

    pub(super) fn committed(&mut self, outcome: anyhow::Result<()>) {
        let Some(Running { acked_to, next, written, names, kinds, tokens, began }) = self.commit.running.take() else {
            return;
        };
        let now = self.start_to(Instant::now());
        match outcome {
            Ok(()) => {
                let took = now.since(began);
                self.commit.commits += 1;
                self.commit.took_us += took;
                self.commit.slowest_us = self.commit.slowest_us.max(took);
                self.commit.failures = 0;
                self.commit.names = names;
                self.commit.kinds = kinds;
                self.commit.written += written;
                self.commit.due = now.after(self.parts.config.gateway.outbox.commit_every_us);
                self.parts.queue.committed(acked_to, next);
                for AckToken { source, upto } in tokens {
                    self.sources[source].settled = upto;
                    self.parts.settled[source].send_replace(upto);
                }
            }
            Err(error) => {
                self.commit.failures += 1;
                error!(error = format!("{error:#}"), "the commit failed; packets wait in memory");
                self.commit.due = now.after(COMMIT_RETRY_US);
                self.commit.dirty = true;
                self.parts.queue.commit_failed();
                self.parts.pipeline.commit_failed();
            }
        }
    }

    /// Something is about to be decided: it is to be durable within `commit_every`.
    pub(super) fn mark_dirty(&mut self, now: Monotonic) {
        if !self.is_dirty() && self.commit.running.is_none() {
            self.commit.due = self.commit.due.max(now.after(self.parts.config.gateway.outbox.commit_every_us));
        }
        self.commit.dirty = true;
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.commit.dirty || self.parts.queue.is_dirty()
    }

    /// Half of a source's window waits for the commit, or all of memory, or somebody waits for the end.
    pub(super) fn is_urgent(&self) -> bool {
        let half = |source: &Source| source.decided - source.settled >= (source.window / 2).max(1);
        let ended = self.sources.iter().all(|source| source.status.ended) && self.parts.queue.waiting() == 0;
        // After a failure the pause counts, whoever waits.
        self.commit.failures == 0
            && (self.stopping.is_some() || ended || self.parts.queue.is_full() || self.sources.iter().any(half))
    }
}
