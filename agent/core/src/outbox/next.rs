//! What leaves next: consecutive records of one topic, as many as a publish may have.

use alloc::vec::Vec;

use super::{
    Start,
    queue::{Entry, Queue, State, from},
    start_of,
};
use crate::{
    ids::{RouteId, Seq, StreamId},
    time::Monotonic,
};

/// How many waiting records are looked through for the next publish, so that routes that alternate fill their batches.
pub(super) const LOOK_AHEAD: usize = 1_024;

/// When consecutive records of a route become a publish, and when they are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// At most this many packets in a publish...
    pub packets: usize,
    /// ...and no further one once its messages have this many bytes.
    pub bytes: usize,
    /// An incomplete publish waits this long for more packets. 0: it leaves at once.
    pub wait_us: u64,
    /// Whether a packet may leave before its commit.
    pub publish: Publish,
    /// Whether each stream has publishes of its own, because the topic names it.
    pub by_stream: bool,
    /// A packet that has waited for longer is given up. [`u64::MAX`]: never.
    pub expire_us: u64,
}

/// Whether a packet may leave before what was decided about it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// It may leave at once. After a power cut up to `commit_every` of input is decided again, under a new epoch.
    #[default]
    AtOnce,
    /// It leaves after its commit: what the cloud has seen is never decided again.
    AfterCommit,
}

/// What records of one publish have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) route: RouteId,
    /// `None`: any.
    stream: Option<StreamId>,
    /// The count of starts.
    start: u32,
}

impl Topic {
    pub(super) fn is_of(&self, entry: &Entry, starts: &[Start]) -> bool {
        self.route == entry.record.route
            && self.stream.is_none_or(|stream| stream == entry.record.packet.stream())
            && self.start == start_of(starts, entry.seq).start
    }
}

/// What the next publish would be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The first seq that waits, of whatever topic.
    pub(super) first: Seq,
    pub(super) topic: Topic,
    pub(super) first_of_topic: Seq,
    pub(super) count: usize,
    bytes: usize,
    pub(super) due: Monotonic,
    rule: Rule,
}

impl Queue {
    /// The next publish: the first topic with a full batch, else the one whose oldest record has waited longest.
    pub(super) fn next_run(&self, starts: &[Start], rule: &impl Fn(RouteId) -> Rule) -> Option<Run> {
        // What is not durable may leave early, but not before an older backlog.
        let fresh = self.fresh.range(from(&self.fresh, self.unsent)..).filter(|_| !self.has_backlog());
        let durable = self.head.range(from(&self.head, self.unsent)..).map(|entry| (entry, true));
        let sendable = durable.chain(fresh.map(|entry| (entry, false)));
        let waiting = sendable.filter(|(entry, _)| entry.state == State::Waiting);
        let mut first = None;
        let mut runs: Vec<Run> = Vec::new();
        for (entry, durable) in waiting.take(LOOK_AHEAD) {
            let first = *first.get_or_insert(entry.seq);
            let index = match runs.iter().position(|run| run.topic.is_of(entry, starts)) {
                Some(index) => index,
                None => {
                    let route = entry.record.route;
                    let rule =
                        runs.iter().find(|run| run.topic.route == route).map_or_else(|| rule(route), |run| run.rule);
                    if !durable && rule.publish == Publish::AfterCommit {
                        continue;
                    }
                    let stream = rule.by_stream.then(|| entry.record.packet.stream());
                    let topic = Topic { route, stream, start: start_of(starts, entry.seq).start };
                    let due = entry.since.after(rule.wait_us);
                    runs.push(Run { first, topic, first_of_topic: entry.seq, count: 0, bytes: 0, due, rule });
                    runs.len() - 1
                }
            };
            let run = &mut runs[index];
            if !durable && run.rule.publish == Publish::AfterCommit {
                continue;
            }
            run.count += 1;
            run.bytes += entry.record.packet.bytes();
            if run.count >= run.rule.packets || run.bytes >= run.rule.bytes {
                return Some(Run { due: entry.since, ..*run });
            }
        }
        runs.into_iter().min_by_key(|run| run.due)
    }
}
