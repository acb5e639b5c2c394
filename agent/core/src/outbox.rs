//! The outbox: packets kept until the broker has them.
//!
//! This module decides; `porind::store` reads and writes. Appends are ordered by seq. A record leaves by
//! acknowledgement, by eviction or by a refusal of the broker, each counted, never otherwise.
//!
//! A queue is three stretches of seqs, oldest first:
//!
//! ```text
//!   acked_to          disk.start        disk.end             next
//!      │ head: in memory, │ on disk only   │ fresh: in memory,  │
//!      │ kept on disk too │ (a backlog)    │ not yet committed  │
//! ```
//!
//! As long as the broker keeps up the middle stretch is empty and nothing is ever read back. A record acknowledged
//! before its commit never touches the disk. When the broker is away, `head` and `fresh` stay small and the middle
//! grows: memory is flat.

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};

use crate::{
    ids::{RouteId, Seq, StreamId},
    record::Record,
    time::Monotonic,
};

/// Records that `head` holds: enough for a full window of full batches, 0.5 MB at the most.
pub const HEAD_RECORDS: usize = 8_192;

/// How many waiting records are looked through for the next publish, so that routes that alternate fill their batches.
const LOOK_AHEAD: usize = 1_024;

/// Bytes of messages in memory, beyond which no more are taken from sources and none are read back ahead of need.
pub const MEMORY_BYTES: usize = 4 << 20;

/// Records that may wait for their commit. At twice a source's window the loop stops taking batches.
pub const FRESH_RECORDS: usize = 65_536;

/// When consecutive records of a route become a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRule {
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

/// A publish under way, by the order of sending. Unique within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Records of one topic, in order, to be sent as one publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    /// Comes back with the acknowledgement.
    pub ticket: Ticket,
    /// Of all its records.
    pub route: RouteId,
    /// The start of the agent that numbered them: part of each packet's name.
    pub start: u32,
    /// In order.
    pub records: Vec<(Seq, Record)>,
}

/// What became of the records. `appended` = `acknowledged` + `waiting` + `evicted` + `refused`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed over by the pipeline, or found on disk at the start.
    pub appended: u64,
    /// The broker has them.
    pub acknowledged: u64,
    /// Given up for newer ones because the outbox was full.
    pub evicted: u64,
    /// The broker refused them for good.
    pub refused: u64,
    /// Sent again after a lost connection: duplicates that the consumer may see.
    pub resent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight(Ticket),
    Left,
}

#[derive(Clone, Debug)]
struct Entry {
    seq: Seq,
    record: Record,
    state: State,
    since: Monotonic,
}

/// A publish under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    ticket: Ticket,
    first: Seq,
    last: Seq,
    /// Acknowledged, but an older one is not.
    done: bool,
}

/// A stretch of seqs that is on disk and not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DiskOnly {
    start: Seq,
    end: Seq,
}

impl DiskOnly {
    fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// What a commit writes for a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueCommit {
    /// New records. Those that have left already are not among them.
    pub records: Vec<(Seq, Record)>,
    /// Everything before this seq has left and is deleted.
    pub acked_to: Seq,
    /// The next seq to be given out.
    pub next: Seq,
}

/// Ask the store for records, and give them to [`Queue::loaded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The first seq.
    pub from: Seq,
    /// Before this one.
    pub to: Seq,
    /// At most this many...
    pub count: usize,
    /// ...and no further one once their messages have this many bytes.
    pub bytes: usize,
}

/// One queue: first in, first out.
#[derive(Debug)]
pub struct Queue {
    head: VecDeque<Entry>,
    disk: DiskOnly,
    fresh: VecDeque<Entry>,
    /// To be given out next.
    next: Seq,
    /// `next` as of the last commit.
    durable_next: Seq,
    /// What has left as of the last commit.
    durable_acked_to: Seq,
    /// To be sent next. Before it everything is under way or has left.
    unsent: Seq,
    /// Publishes under way, oldest first.
    flights: VecDeque<Flight>,
    next_ticket: u64,
    /// How many of `fresh`, from the front, a running commit holds.
    committing: usize,
    /// Records within `disk` that have left: acknowledged out of order before a lost connection. At most a window.
    left_on_disk: BTreeSet<Seq>,
    waiting: usize,
    max_records: usize,
    /// Bytes of the messages in `head` and `fresh`.
    memory: usize,
    /// From which seq on which start of the agent has given out seqs, oldest first.
    starts: Vec<(Seq, u32)>,
    counts: Counts,
}

/// A queue as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Everything before has left.
    pub acked_to: Seq,
    /// To be given out next.
    pub next: Seq,
    /// How many records there are.
    pub records: usize,
    /// From which seq on which start of the agent has given out seqs, oldest first; the last is this one.
    pub starts: Vec<(Seq, u32)>,
}

impl Queue {
    /// A queue as it is on disk. Keeps at most `max_records`.
    #[must_use]
    pub fn new(stored: Stored, max_records: usize) -> Self {
        let Stored { acked_to, next, records, starts } = stored;
        Self {
            head: VecDeque::new(),
            disk: DiskOnly { start: acked_to, end: next },
            fresh: VecDeque::new(),
            next,
            durable_next: next,
            durable_acked_to: acked_to,
            unsent: acked_to,
            starts,
            flights: VecDeque::new(),
            next_ticket: 0,
            committing: 0,
            left_on_disk: BTreeSet::new(),
            waiting: records,
            max_records,
            memory: 0,
            counts: Counts { appended: records as u64, ..Counts::default() },
        }
    }

    /// Appends a record under the next seq.
    pub fn append(&mut self, record: Record, now: Monotonic) {
        let seq = self.next;
        self.next = seq.next();
        self.waiting += 1;
        self.counts.appended += 1;
        self.memory += record.packet.bytes();
        self.fresh.push_back(Entry { seq, record, state: State::Waiting, since: now });
    }

    /// The seq that the next record gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// The records appended from this seq on, as far as they are not committed.
    pub fn appended_from(&self, seq: Seq) -> impl Iterator<Item = &Record> {
        self.fresh.range(from(&self.fresh, seq)..).map(|entry| &entry.record)
    }

    /// Whether so much waits for its commit that no more should be decided before it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.fresh.len() >= FRESH_RECORDS || (self.memory >= MEMORY_BYTES && !self.fresh.is_empty())
    }

    /// Records that have not left, those under way among them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Publishes from the oldest without acknowledgement to the newest.
    #[must_use]
    pub fn window(&self) -> usize {
        self.flights.len()
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether there is anything that a commit would write.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.next != self.durable_next || self.acked_to() != self.durable_acked_to
    }

    /// Records to be read from the store before more can be sent.
    #[must_use]
    pub fn wants(&self) -> Option<Load> {
        let starved = self.head.len() < HEAD_RECORDS / 2 && (self.memory < MEMORY_BYTES / 2 || self.head.is_empty());
        let count = HEAD_RECORDS.saturating_sub(self.head.len());
        let bytes = MEMORY_BYTES / 2;
        (starved && !self.disk.is_empty()).then_some(Load { from: self.disk.start, to: self.disk.end, count, bytes })
    }

    /// Takes what the store had for [`Queue::wants`]. Fewer than asked for means that there are no more.
    pub fn loaded(&mut self, asked: Load, records: Vec<(Seq, Record)>, now: Monotonic) {
        let bytes: usize = records.iter().map(|(_, record)| record.packet.bytes()).sum();
        let complete = records.len() < asked.count && bytes < asked.bytes;
        for (seq, record) in records {
            self.disk.start = seq.next();
            if !self.left_on_disk.remove(&seq) {
                self.memory += record.packet.bytes();
                self.head.push_back(Entry { seq, record, state: State::Waiting, since: now });
            }
        }
        if complete || self.disk.is_empty() {
            self.disk.start = self.disk.end;
            self.left_on_disk.clear();
        }
    }

    /// The next publish, if one is due. `rule` tells each route's rule.
    pub fn take(&mut self, now: Monotonic, rule: impl Fn(RouteId) -> BatchRule) -> Option<Parcel> {
        let run = self.next_run(&rule)?;
        if now < run.due {
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.unsent = run.first;
        let backlog = !self.disk.is_empty();
        let Self { head, fresh, unsent, starts, .. } = self;
        let sendable = from_mut(head, *unsent).chain(from_mut(fresh, *unsent).filter(|_| !backlog));
        let topic = |entry: &Entry| Topic::of(entry, starts, &rule);
        let same = |entry: &&mut Entry| entry.state == State::Waiting && topic(entry) == run.topic;
        let mut records = Vec::with_capacity(run.count);
        for entry in sendable.filter(same).take(run.count) {
            entry.state = State::InFlight(ticket);
            records.push((entry.seq, entry.record.clone()));
        }
        let (first, last) = (records.first()?.0, records.last()?.0);
        self.flights.push_back(Flight { ticket, first, last, done: false });
        Some(Parcel { ticket, route: run.topic.route, start: run.topic.start, records })
    }

    /// Gives back all but the first `keep` records of the parcel taken last: they were too many for one publish.
    pub fn shorten(&mut self, ticket: Ticket, keep: usize) {
        let Some(flight) = self.flights.back_mut().filter(|flight| flight.ticket == ticket) else { return };
        let last = flight.last;
        let mut left = keep;
        for entries in [&mut self.head, &mut self.fresh] {
            let entries = from_mut(entries, flight.first).take_while(|entry| entry.seq <= last);
            for entry in entries.filter(|entry| entry.state == State::InFlight(ticket)) {
                if left == 0 {
                    entry.state = State::Waiting;
                } else {
                    left -= 1;
                    flight.last = entry.seq;
                }
            }
        }
    }

    /// When [`Queue::take`] gives something, if nothing else happens.
    pub fn due(&self, rule: impl Fn(RouteId) -> BatchRule) -> Option<Monotonic> {
        self.next_run(&rule).map(|run| run.due)
    }

    /// The next publish: the first topic with a full batch, else the one whose oldest record has waited longest.
    fn next_run(&self, rule: &impl Fn(RouteId) -> BatchRule) -> Option<Run> {
        // What is not durable may leave early, but not before an older backlog.
        let fresh = self.fresh.range(from(&self.fresh, self.unsent)..).filter(|_| self.disk.is_empty());
        let durable = self.head.range(from(&self.head, self.unsent)..).map(|entry| (entry, true));
        let sendable = durable.chain(fresh.map(|entry| (entry, false)));
        let waiting = sendable.filter(|(entry, _)| entry.state == State::Waiting);
        let mut first = None;
        let mut runs: Vec<Run> = Vec::new();
        for (entry, durable) in waiting.take(LOOK_AHEAD) {
            let first = *first.get_or_insert(entry.seq);
            let BatchRule { packets, bytes, wait_us, publish, .. } = rule(entry.record.route);
            if !durable && publish == Publish::AfterCommit {
                continue;
            }
            let topic = Topic::of(entry, &self.starts, rule);
            let index = runs.iter().position(|run| run.topic == topic).unwrap_or_else(|| {
                runs.push(Run { first, topic, count: 0, bytes: 0, due: entry.since.after(wait_us) });
                runs.len() - 1
            });
            runs[index].count += 1;
            runs[index].bytes += entry.record.packet.bytes();
            if runs[index].count == packets || runs[index].bytes >= bytes {
                return Some(Run { due: entry.since, ..runs.swap_remove(index) });
            }
        }
        runs.into_iter().min_by_key(|run| run.due)
    }

    /// The broker has the publish. Gives the number of records that left.
    pub fn ack(&mut self, ticket: Ticket) -> u64 {
        let left = self.leave(ticket);
        self.counts.acknowledged += left;
        left
    }

    /// The broker refused the publish for good. Gives the number of records that are lost.
    pub fn refuse(&mut self, ticket: Ticket) -> u64 {
        let left = self.leave(ticket);
        self.counts.refused += left;
        left
    }

    fn leave(&mut self, ticket: Ticket) -> u64 {
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket && !flight.done) else {
            return 0;
        };
        flight.done = true;
        let flight = *flight;
        let left = self.restate(flight, State::Left);
        while self.flights.front().is_some_and(|flight| flight.done) {
            self.flights.pop_front();
        }
        self.waiting = self.waiting.saturating_sub(left);
        self.forget_left();
        // What a running commit holds stays until it ends.
        while self.committing == 0
            && let Some(entry) = self.fresh.pop_front_if(|entry| entry.state == State::Left)
        {
            self.memory -= entry.record.packet.bytes();
        }
        left as u64
    }

    /// Drops what has left from the front stretch.
    fn forget_left(&mut self) {
        let Self { head, memory, .. } = self;
        head.retain(|entry| {
            let stays = entry.state != State::Left;
            *memory -= if stays { 0 } else { entry.record.packet.bytes() };
            stays
        });
    }

    /// The connection is gone: everything under way will be sent again.
    pub fn rewind(&mut self) {
        for flight in core::mem::take(&mut self.flights) {
            self.unsent = self.unsent.min(flight.first);
            if !flight.done {
                self.counts.resent += self.restate(flight, State::Waiting) as u64;
            }
        }
    }

    /// Gives the flight's records another state, and their number.
    fn restate(&mut self, Flight { ticket, first, last, .. }: Flight, state: State) -> usize {
        let mut count = 0;
        for entries in [&mut self.head, &mut self.fresh] {
            for entry in from_mut(entries, first).take_while(|entry| entry.seq <= last) {
                if entry.state == State::InFlight(ticket) {
                    entry.state = state;
                    count += 1;
                }
            }
        }
        count
    }

    /// What the next commit writes. Until [`Queue::committed`] no other may begin.
    pub fn commit(&mut self) -> QueueCommit {
        self.committing = self.fresh.len();
        let kept = self.fresh.iter().filter(|entry| entry.state != State::Left);
        let records = kept.map(|entry| (entry.seq, entry.record.clone())).collect();
        QueueCommit { records, acked_to: self.acked_to(), next: self.next }
    }

    /// The first seq that has not left.
    fn acked_to(&self) -> Seq {
        let in_head = self.head.front().map(|entry| entry.seq);
        let on_disk = (!self.disk.is_empty()).then_some(self.disk.start);
        let in_fresh = || self.fresh.iter().find(|entry| entry.state != State::Left).map(|entry| entry.seq);
        in_head.or(on_disk).or_else(in_fresh).unwrap_or(self.next)
    }

    /// What [`Queue::commit`] gave is durable.
    pub fn committed(&mut self, acked_to: Seq, next: Seq) {
        self.durable_next = next;
        self.durable_acked_to = acked_to;
        // What is under way stays in memory for its acknowledgement to find, and so does all before it: `head` is
        // older than what is on disk only.
        let under_way = self.fresh.iter().rposition(|entry| matches!(entry.state, State::InFlight(_)));
        let mut to_head = under_way.map_or(0, |index| index + 1);
        for _ in 0..core::mem::take(&mut self.committing) {
            let Some(entry) = self.fresh.pop_front() else { break };
            let room = self.head.len() < HEAD_RECORDS && self.memory < MEMORY_BYTES / 2;
            let backlog = !self.disk.is_empty() || !room;
            if to_head > 0 || !backlog {
                to_head = to_head.saturating_sub(1);
                if entry.state == State::Left {
                    self.memory -= entry.record.packet.bytes();
                    continue;
                }
                self.head.push_back(entry);
                continue;
            }
            self.memory -= entry.record.packet.bytes();
            if self.disk.is_empty() {
                self.disk.start = entry.seq;
            }
            self.disk.end = entry.seq.next();
            if entry.state == State::Left {
                self.left_on_disk.insert(entry.seq);
            }
        }
    }

    /// Nothing was written; the records wait for the next attempt.
    pub fn commit_failed(&mut self) {
        self.committing = 0;
    }

    /// Whether there is more than the bound allows.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting > self.max_records
    }

    /// Gives up the oldest records that are not under way until the queue is within its bound. Gives their number.
    ///
    /// A record that is on disk only has to be loaded first: call again after [`Queue::loaded`].
    pub fn evict(&mut self) -> u64 {
        let over = self.waiting.saturating_sub(self.max_records);
        let mut evicted = 0;
        for entry in self.head.iter_mut().filter(|entry| entry.state == State::Waiting).take(over) {
            entry.state = State::Left;
            evicted += 1;
        }
        self.forget_left();
        self.waiting -= evicted;
        self.counts.evicted += evicted as u64;
        evicted as u64
    }
}

/// What records of one publish have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Topic {
    route: RouteId,
    stream: Option<StreamId>,
    start: u32,
}

impl Topic {
    fn of(entry: &Entry, starts: &[(Seq, u32)], rule: &impl Fn(RouteId) -> BatchRule) -> Self {
        let Record { route, packet } = &entry.record;
        let route = *route;
        let stream = rule(route).by_stream.then(|| packet.stream());
        let start = starts.iter().rev().find(|(from, _)| *from <= entry.seq).map_or(0, |(_, start)| *start);
        Self { route, stream, start }
    }
}

/// What the next publish would be.
struct Run {
    /// The first seq that waits, of whatever topic.
    first: Seq,
    topic: Topic,
    count: usize,
    bytes: usize,
    due: Monotonic,
}

/// The position of the first entry from `seq` on.
fn from(entries: &VecDeque<Entry>, seq: Seq) -> usize {
    entries.partition_point(|entry| entry.seq < seq)
}

fn from_mut(entries: &mut VecDeque<Entry>, seq: Seq) -> impl Iterator<Item = &mut Entry> {
    let start = from(entries, seq);
    entries.range_mut(start..)
}

#[cfg(test)]
mod tests;
