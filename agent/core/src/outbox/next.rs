//! What leaves next: records of one topic in order, as many as a publish may have.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

use super::{
    Start, Ticket,
    queue::{Entry, Queue, SPARE_RECORDS, State, find, from},
    start_of,
};
use crate::{
    ids::{RouteId, Seq, StreamId},
    record::Record,
    time::Monotonic,
};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Topic {
    pub(super) route: RouteId,
    /// `None`: any.
    stream: Option<StreamId>,
    /// The count of starts.
    start: u32,
}

/// Records of one topic that wait and may be sent, oldest first, by seq and by when they were appended.
#[derive(Clone, Debug, Default)]
struct Lane {
    waiting: VecDeque<(Seq, Monotonic)>,
    /// Bytes of their messages.
    bytes: usize,
}

/// A queue's records in memory by topic, so that one topic that waits for more packets costs the others nothing.
///
/// Records are added when they are first asked for, since only the route's rule tells their topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    /// Empty ones stay for their room, up to a bound.
    lanes: BTreeMap<Topic, Lane>,
    /// Every record before this seq that may be sent is in a lane.
    added_to: Seq,
}

/// Lanes without a record that are kept for the next ones.
const SPARE_LANES: usize = 64;

/// What the next publish would be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) topic: Topic,
    pub(super) first: Seq,
    /// How many records may be sent, whatever fits into a publish.
    sendable: usize,
    pub(super) due: Monotonic,
    rule: Rule,
}

impl Lanes {
    /// Forgets everything: the records are added again when they are next asked for.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.added_to = Seq(0);
    }

    /// A record does not wait any more.
    pub(super) fn remove(&mut self, entry: &Entry, starts: &[Start]) {
        if entry.seq >= self.added_to {
            return;
        }
        let (route, start) = (entry.record.route, start_of(starts, entry.seq).start);
        for stream in [None, Some(entry.record.packet.stream())] {
            let Some(lane) = self.lanes.get_mut(&Topic { route, stream, start }) else { continue };
            let index = match lane.waiting.front() {
                Some((first, _)) if *first == entry.seq => Ok(0),
                _ => lane.waiting.binary_search_by_key(&entry.seq, |(seq, _)| *seq),
            };
            if let Ok(index) = index {
                lane.waiting.remove(index);
                lane.bytes -= entry.record.packet.bytes();
                return;
            }
        }
    }

    /// Records of a publish that were too many for it wait again.
    pub(super) fn put_back(&mut self, topic: Topic, entry: &Entry) {
        if entry.seq >= self.added_to {
            return;
        }
        let lane = self.lanes.entry(topic).or_default();
        let index = lane.waiting.partition_point(|(seq, _)| *seq < entry.seq);
        lane.waiting.insert(index, (entry.seq, entry.since));
        lane.bytes += entry.record.packet.bytes();
    }

    /// Adds what was appended or loaded since the last time. `to`: after the last of them.
    fn add<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
        to: Seq,
        starts: &[Start],
        rule: &impl Fn(RouteId) -> Rule,
    ) {
        let mut known: Option<(RouteId, bool)> = None;
        for entry in entries.filter(|entry| entry.state == State::Waiting) {
            let route = entry.record.route;
            let by_stream = match known {
                Some((known, by_stream)) if known == route => by_stream,
                _ => known.insert((route, rule(route).by_stream)).1,
            };
            let stream = by_stream.then(|| entry.record.packet.stream());
            let topic = Topic { route, stream, start: start_of(starts, entry.seq).start };
            let lane = self.lanes.entry(topic).or_default();
            lane.waiting.push_back((entry.seq, entry.since));
            lane.bytes += entry.record.packet.bytes();
        }
        self.added_to = to;
        if self.lanes.len() > 2 * SPARE_LANES {
            let empty = self.lanes.values().filter(|lane| lane.waiting.is_empty()).count();
            if empty > self.lanes.len() / 2 {
                self.lanes.retain(|_, lane| !lane.waiting.is_empty());
            }
        }
    }

    /// Whether a rule has changed since the records were added: topics name streams now and did not before, or the other way round.
    fn are_of_other_rules(&self, rule: &impl Fn(RouteId) -> Rule) -> bool {
        let mut known: Option<(RouteId, bool)> = None;
        self.lanes.iter().filter(|(_, lane)| !lane.waiting.is_empty()).any(|(topic, _)| {
            let by_stream = match known {
                Some((route, by_stream)) if route == topic.route => by_stream,
                _ => known.insert((topic.route, rule(topic.route).by_stream)).1,
            };
            topic.stream.is_some() != by_stream
        })
    }
}

impl Queue {
    /// Returns the next publish, of the topic whose batch is due first. A full batch is due at once. While records wait on disk only, every
    /// batch is due at once: it has to leave before more records are read.
    pub(super) fn next_run(&mut self, starts: &[Start], rule: &impl Fn(RouteId) -> Rule) -> Option<Run> {
        self.add_to_lanes(starts, rule);
        if self.lanes.are_of_other_rules(rule) {
            self.lanes.clear();
            self.add_to_lanes(starts, rule);
        }
        let backlog = self.has_backlog();
        let durable_to = self.fresh.front().map_or(self.end, |entry| entry.seq);
        let (mut known, mut next): (Option<(RouteId, Rule)>, Option<Run>) = (None, None);
        for (topic, lane) in &self.lanes.lanes {
            let Some((first, since)) = lane.waiting.front().copied() else { continue };
            let rule = match known {
                Some((route, rule)) if route == topic.route => rule,
                _ => known.insert((topic.route, rule(topic.route))).1,
            };
            let sendable = match rule.publish {
                Publish::AtOnce => lane.waiting.len(),
                // On such a route a record leaves after its commit only.
                Publish::AfterCommit => lane.waiting.partition_point(|(seq, _)| *seq < durable_to),
            };
            if sendable == 0 {
                continue;
            }
            let has_bytes = lane.bytes >= rule.bytes && {
                let bytes =
                    |(seq, _): &(Seq, Monotonic)| self.entry(*seq).map_or(0, |entry| entry.record.packet.bytes());
                sendable == lane.waiting.len()
                    || lane.waiting.iter().take(sendable).map(bytes).sum::<usize>() >= rule.bytes
            };
            let is_due = backlog || sendable >= rule.packets || has_bytes;
            let due = if is_due { since } else { since.after(rule.wait_us) };
            if next.is_none_or(|next| (due, first) < (next.due, next.first)) {
                next = Some(Run { topic: *topic, first, sendable, due, rule });
            }
        }
        next
    }

    fn add_to_lanes(&mut self, starts: &[Start], rule: &impl Fn(RouteId) -> Rule) {
        let Self { lanes, head, fresh, disk, .. } = self;
        let (backlog, from_seq) = (!disk.is_empty(), lanes.added_to);
        // Records that are younger than a backlog on disk wait for it.
        let to = if backlog { disk.start } else { self.end };
        let fresh = fresh.range(from(fresh, from_seq)..).filter(|_| !backlog);
        lanes.add(head.range(from(head, from_seq)..).chain(fresh), to, starts, rule);
    }

    /// Takes the records of a run. They are under way from now on.
    pub(super) fn take(&mut self, run: &Run, ticket: Ticket) -> Vec<(Seq, Record)> {
        let Self { head, fresh, lanes, .. } = self;
        let Some(lane) = lanes.lanes.get_mut(&run.topic) else { return Vec::new() };
        let most = run.sendable.min(run.rule.packets.max(1));
        let (mut records, mut bytes) = (Vec::with_capacity(most), 0);
        while records.len() < most
            && (records.is_empty() || bytes < run.rule.bytes)
            && let Some((seq, _)) = lane.waiting.pop_front()
        {
            let Some(entry) =
                find(head, seq).map(|at| &mut head[at]).or_else(|| find(fresh, seq).map(|at| &mut fresh[at]))
            else {
                continue;
            };
            entry.state = State::InFlight(ticket);
            bytes += entry.record.packet.bytes();
            records.push((seq, entry.record.clone()));
        }
        lane.bytes -= bytes;
        // A burst does not keep its memory.
        if lane.waiting.is_empty() && lane.waiting.capacity() > SPARE_RECORDS {
            lane.waiting = VecDeque::new();
        }
        records
    }
}
