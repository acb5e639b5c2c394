//! One queue of the outbox: first in, first out.
//!
//! A queue is three stretches of seqs, oldest first:
//!
//! ```text
//!   acked_to          disk.start        disk.end             end
//!      │ head: in memory, │ on disk only   │ fresh: in memory,  │
//!      │ kept on disk too │ (a backlog)    │ not yet committed  │
//! ```
//!
//! As long as the broker keeps up the middle stretch is empty and nothing is ever read back. A record acknowledged
//! before its commit never touches the disk. When the broker is away, `head` and `fresh` stay small and the middle
//! grows: memory is flat. Seqs have gaps where other queues have theirs.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use core::ops::RangeInclusive;

use super::{
    Rule, Start, StoredQueue, Ticket,
    next::{Lanes, Topic},
};
use crate::{
    ids::{Overflow, QueueId, RouteId, Seq},
    record::{RECORD_BYTES, Record},
    retry::{Refusals, Retry},
    time::Monotonic,
};

/// Records that `head` holds: enough for a full window of full batches, 0.6 MB at the most.
pub const HEAD_RECORDS: usize = 8_192;

/// Room for records that wait for their commit which is kept when they are gone.
pub(super) const SPARE_RECORDS: usize = 4_096;

/// Bytes of messages that are read back at a time at most...
const LOAD_BYTES: usize = 2 << 20;

/// ...and at least, whatever memory others take: a message, so that the queue goes on.
const MIN_LOAD_BYTES: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    InFlight(Ticket),
    Left,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) record: Record,
    pub(super) state: State,
    /// When it was appended, or how old it is at least.
    pub(super) since: Monotonic,
}

/// A stretch of seqs that is on disk and not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskOnly {
    pub(super) start: Seq,
    pub(super) end: Seq,
}

impl DiskOnly {
    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// What a commit writes for a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueCommit {
    /// Which.
    pub queue: QueueId,
    /// New records. Those that have left already are not among them.
    pub records: Vec<(Seq, Record)>,
    /// Everything before this seq has left and is deleted.
    pub acked_to: Seq,
    /// After its last record: no seq before it is given out again.
    pub end: Seq,
}

/// Ask the store for records, and give them to [`super::Outbox::loaded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which queue's.
    pub queue: QueueId,
    /// The first seq.
    pub from: Seq,
    /// Before this one.
    pub to: Seq,
    /// At most this many...
    pub count: usize,
    /// ...and no further one once their messages have this many bytes.
    pub bytes: usize,
}

/// What the store had.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Records that can be read, in order.
    pub records: Vec<(Seq, Record)>,
    /// How many cannot.
    pub unreadable: u64,
    /// After the last of either.
    pub to: Seq,
}

/// What a running commit will have made durable.
#[derive(Clone, Copy, Debug)]
struct Committing {
    /// How many of `fresh`, from the front, it holds.
    records: usize,
    acked_to: Seq,
    end: Seq,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) head: VecDeque<Entry>,
    /// How many in `head` have left, in the middle of others that have not.
    left_in_head: usize,
    pub(super) disk: DiskOnly,
    pub(super) fresh: VecDeque<Entry>,
    /// After its last record.
    pub(super) end: Seq,
    /// `end` as of the last commit.
    durable_end: Seq,
    /// What has left as of the last commit.
    durable_acked_to: Seq,
    committing: Option<Committing>,
    /// What waits in memory and may be sent, by topic.
    pub(super) lanes: Lanes,
    /// When it sends again after the broker has refused a publish for the moment.
    pub(super) retry: Retry,
    /// Publishes that it refused, by their first seq: no more than can be under way.
    refusals: BTreeMap<Seq, Refusals>,
    /// Records within `disk` that have left: acknowledged out of order before a lost connection. At most a window.
    left_on_disk: BTreeSet<Seq>,
    pub(super) waiting: u64,
    /// [`Record::size`] of those that wait.
    pub(super) bytes: u64,
    /// Bytes of the messages in `head` and `fresh`.
    pub(super) memory: usize,
    /// Publishes that it may send before others have their turn.
    pub(super) share: u32,
}

impl Queue {
    pub(super) fn new(stored: StoredQueue) -> Self {
        let StoredQueue { id, acked_to, end, records, bytes } = stored;
        Self {
            id,
            head: VecDeque::new(),
            left_in_head: 0,
            disk: DiskOnly { start: acked_to, end },
            fresh: VecDeque::new(),
            end,
            durable_end: end,
            durable_acked_to: acked_to,
            committing: None,
            lanes: Lanes::default(),
            retry: Retry::ZERO,
            refusals: BTreeMap::new(),
            left_on_disk: BTreeSet::new(),
            waiting: records,
            bytes,
            memory: 0,
            share: id.priority().share(),
        }
    }

    pub(super) fn append(&mut self, seq: Seq, record: Record) {
        self.end = seq.next();
        self.waiting += 1;
        self.bytes += record.size();
        self.memory += record.packet.bytes();
        let since = record.at;
        self.fresh.push_back(Entry { seq, record, state: State::Waiting, since });
    }

    pub(super) fn appended_from(&self, seq: Seq) -> impl Iterator<Item = &Record> {
        self.fresh.range(from(&self.fresh, seq)..).map(|entry| &entry.record)
    }

    /// The record in memory with this seq.
    pub(super) fn entry(&self, seq: Seq) -> Option<&Entry> {
        let Self { head, fresh, .. } = self;
        find(head, seq).map(|at| &head[at]).or_else(|| find(fresh, seq).map(|at| &fresh[at]))
    }

    #[cfg(test)]
    pub(super) fn left_in_head(&self) -> usize {
        self.left_in_head
    }

    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.disk.is_empty()
    }

    pub(super) fn may_drop_oldest(&self) -> bool {
        self.id.overflow() == Overflow::DropOldest
    }

    /// `room`: bytes of messages that there is memory for. What is needed to go on is read whatever it takes.
    pub(super) fn wants(&self, room: usize) -> Option<Load> {
        let held = self.head.len() - self.left_in_head;
        let starved = held == 0 || (held < HEAD_RECORDS / 2 && room >= LOAD_BYTES / 2);
        let count = HEAD_RECORDS.saturating_sub(held);
        let DiskOnly { start: from, end: to } = self.disk;
        (starved && self.has_backlog()).then_some(Load {
            queue: self.id,
            from,
            to,
            count,
            bytes: room.clamp(MIN_LOAD_BYTES, LOAD_BYTES),
        })
    }

    pub(super) fn loaded(
        &mut self,
        asked: Load,
        Loaded { records, unreadable, to }: Loaded,
        since: impl Fn(Seq, &Record) -> Monotonic,
    ) -> u64 {
        let bytes: usize = records.iter().map(|(_, record)| record.packet.bytes()).sum();
        let complete = (records.len() as u64 + unreadable) < asked.count as u64 && bytes < asked.bytes;
        let unreadable = unreadable.min(self.waiting);
        // What they count for nobody knows either: the least.
        self.forget(unreadable, unreadable * RECORD_BYTES);
        for (seq, record) in records {
            if !self.left_on_disk.remove(&seq) {
                self.memory += record.packet.bytes();
                let since = since(seq, &record);
                self.head.push_back(Entry { seq, record, state: State::Waiting, since });
            }
        }
        self.disk.start = if complete { self.disk.end } else { self.disk.start.max(to) };
        // Those that never got as far as the disk are not found there.
        self.left_on_disk = self.left_on_disk.split_off(&self.disk.start);
        unreadable
    }

    /// Gives the last seq that stays under way.
    pub(super) fn shorten(&mut self, topic: Topic, ticket: Ticket, seqs: RangeInclusive<Seq>, keep: usize) -> Seq {
        let mut left = keep;
        let mut stays = *seqs.start();
        let Self { head, fresh, lanes, .. } = self;
        for entries in [head, fresh] {
            let entries = from_mut(entries, *seqs.start()).take_while(|entry| entry.seq <= *seqs.end());
            for entry in entries.filter(|entry| entry.state == State::InFlight(ticket)) {
                if left == 0 {
                    entry.state = State::Waiting;
                    lanes.put_back(topic, entry);
                } else {
                    left -= 1;
                    stays = entry.seq;
                }
            }
        }
        stays
    }

    /// Gives the publish's records another state, and their number.
    pub(super) fn restate(&mut self, ticket: Ticket, seqs: RangeInclusive<Seq>, state: State) -> u64 {
        let (mut count, mut bytes) = (0, 0);
        for (entries, left) in [(&mut self.head, &mut self.left_in_head), (&mut self.fresh, &mut 0)] {
            for entry in from_mut(entries, *seqs.start()).take_while(|entry| entry.seq <= *seqs.end()) {
                if entry.state == State::InFlight(ticket) {
                    entry.state = state;
                    count += 1;
                    bytes += entry.record.size();
                    *left += usize::from(state == State::Left);
                }
            }
        }
        match state {
            State::Left => self.forget(count, bytes),
            // They are older than what waits of their topics.
            State::Waiting => self.lanes.clear(),
            State::InFlight(_) => {}
        }
        count
    }

    /// The broker has refused for the moment the publish that begins with this seq. `taken`: records that it has taken so far.
    /// `true`: it is to be given up.
    pub(super) fn refused(&mut self, first: Seq, now: Monotonic, taken: u64) -> bool {
        self.retry.refused(now);
        let gives_up = self.refusals.entry(first).or_default().add(taken);
        if gives_up {
            self.refusals.remove(&first);
        }
        gives_up
    }

    /// The broker has the publish that begins with this seq.
    pub(super) fn accepted(&mut self, first: Seq) {
        self.retry.accepted();
        if !self.refusals.is_empty() {
            self.refusals.remove(&first);
            // The broker will never accept records that were evicted or expired meanwhile.
            self.refusals = self.refusals.split_off(&self.acked_to());
        }
    }

    fn forget(&mut self, records: u64, bytes: u64) {
        self.waiting = self.waiting.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Drops what has left from memory: at the front at once, in the middle when it is worth it.
    pub(super) fn forget_left(&mut self) {
        let Self { head, left_in_head, memory, .. } = self;
        while let Some(entry) = head.pop_front_if(|entry| entry.state == State::Left) {
            *memory -= entry.record.packet.bytes();
            *left_in_head -= 1;
        }
        if *left_in_head > head.len() / 2 || (*left_in_head > 0 && *memory > 0) {
            *left_in_head = 0;
            head.retain(|entry| {
                let stays = entry.state != State::Left;
                *memory -= if stays { 0 } else { entry.record.packet.bytes() };
                stays
            });
        }
        // What a running commit holds stays until it ends.
        while self.committing.is_none()
            && let Some(entry) = self.fresh.pop_front_if(|entry| entry.state == State::Left)
        {
            self.memory -= entry.record.packet.bytes();
        }
    }

    /// Whether something that has not left waits for a commit to begin.
    pub(super) fn has_new(&self) -> bool {
        let held = self.committing.map_or(0, |committing| committing.records);
        self.fresh.iter().skip(held).any(|entry| entry.state != State::Left)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.end != self.durable_end || self.acked_to() != self.durable_acked_to
    }

    pub(super) fn commit(&mut self) -> QueueCommit {
        let (acked_to, end) = (self.acked_to(), self.end);
        self.committing = Some(Committing { records: self.fresh.len(), acked_to, end });
        let kept = self.fresh.iter().filter(|entry| entry.state != State::Left);
        let records = kept.map(|entry| (entry.seq, entry.record.clone())).collect();
        QueueCommit { queue: self.id, records, acked_to, end }
    }

    pub(super) fn commit_deletions(&mut self) -> Option<QueueCommit> {
        let (acked_to, end) = (self.acked_to().min(self.durable_end), self.durable_end);
        if acked_to == self.durable_acked_to {
            return None;
        }
        self.committing = Some(Committing { records: 0, acked_to, end });
        Some(QueueCommit { queue: self.id, records: Vec::new(), acked_to, end })
    }

    /// The first seq that has not left.
    pub(super) fn acked_to(&self) -> Seq {
        let waits =
            |entries: &VecDeque<Entry>| entries.iter().find(|entry| entry.state != State::Left).map(|entry| entry.seq);
        let on_disk = self.has_backlog().then_some(self.disk.start);
        waits(&self.head).or(on_disk).or_else(|| waits(&self.fresh)).unwrap_or(self.end)
    }

    /// `room`: bytes of messages that may stay in memory.
    pub(super) fn committed(&mut self, room: usize) {
        let Some(Committing { records, acked_to, end }) = self.committing.take() else { return };
        self.durable_end = end;
        self.durable_acked_to = acked_to;
        // What is under way stays in memory for its acknowledgement to find, and so does all before it: `head` is
        // older than what is on disk only.
        let under_way = self.fresh.iter().rposition(|entry| matches!(entry.state, State::InFlight(_)));
        let mut to_head = under_way.map_or(0, |index| index + 1);
        for _ in 0..records {
            let Some(entry) = self.fresh.pop_front() else { break };
            let fits = self.head.len() < HEAD_RECORDS && self.memory < room;
            let backlog = self.has_backlog() || !fits;
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
                // Younger records wait for the backlog from now on.
                self.lanes.clear();
            }
            self.disk.end = entry.seq.next();
            if entry.state == State::Left {
                self.left_on_disk.insert(entry.seq);
            }
        }
        // A burst does not keep its memory.
        if self.fresh.capacity() > SPARE_RECORDS.max(self.fresh.len() * 4) {
            self.fresh.shrink_to(SPARE_RECORDS.max(self.fresh.len() * 2));
        }
    }

    pub(super) fn commit_failed(&mut self) {
        self.committing = None;
        self.forget_left();
    }

    /// Gives up the oldest until `over` bytes are gone, or nothing is in memory before what is on disk only. Gives the
    /// records and their bytes.
    pub(super) fn evict(&mut self, over: u64, starts: &[Start]) -> (u64, u64) {
        let (mut records, mut bytes) = (0, 0);
        let backlog = self.has_backlog();
        let Self { head, fresh, left_in_head, lanes, .. } = self;
        let in_head = head.iter_mut().map(|entry| (entry, 1));
        for (entry, left) in in_head.chain(fresh.iter_mut().filter(|_| !backlog).map(|entry| (entry, 0))) {
            if bytes >= over {
                break;
            }
            if entry.state == State::Waiting {
                entry.state = State::Left;
                lanes.remove(entry, starts);
                *left_in_head += left;
                records += 1;
                bytes += entry.record.size();
            }
        }
        self.forget(records, bytes);
        self.forget_left();
        (records, bytes)
    }

    /// Gives up the oldest of what is in memory only, at most so many. Gives their number.
    pub(super) fn evict_fresh(&mut self, most: usize, starts: &[Start]) -> usize {
        if self.committing.is_some() {
            return 0;
        }
        let (mut records, mut bytes) = (0, 0);
        let Self { fresh, memory, lanes, .. } = self;
        fresh.retain(|entry| {
            let stays = entry.state != State::Waiting || records == most;
            if !stays {
                lanes.remove(entry, starts);
                records += 1;
                bytes += entry.record.size();
                *memory -= entry.record.packet.bytes();
            }
            stays
        });
        self.forget(records as u64, bytes);
        records
    }

    pub(super) fn expire(&mut self, now: Monotonic, starts: &[Start], rule: &impl Fn(RouteId) -> Rule) -> u64 {
        let (mut records, mut bytes) = (0, 0);
        let Self { head, fresh, left_in_head, lanes, .. } = self;
        let mut known: Option<(RouteId, u64)> = None;
        let in_head = head.iter_mut().map(|entry| (entry, 1));
        for (entry, left) in in_head.chain(fresh.iter_mut().map(|entry| (entry, 0))) {
            let route = entry.record.route;
            let expire_us = match known {
                Some((known, expire_us)) if known == route => expire_us,
                _ => known.insert((route, rule(route).expire_us)).1,
            };
            if entry.state == State::Waiting && now.since(entry.since) > expire_us {
                entry.state = State::Left;
                lanes.remove(entry, starts);
                *left_in_head += left;
                records += 1;
                bytes += entry.record.size();
            }
        }
        self.forget(records, bytes);
        self.forget_left();
        records
    }
}

/// The position of the entry with this seq.
pub(super) fn find(entries: &VecDeque<Entry>, seq: Seq) -> Option<usize> {
    entries.binary_search_by_key(&seq, |entry| entry.seq).ok()
}

/// The position of the first entry from `seq` on.
pub(super) fn from(entries: &VecDeque<Entry>, seq: Seq) -> usize {
    entries.partition_point(|entry| entry.seq < seq)
}

fn from_mut(entries: &mut VecDeque<Entry>, seq: Seq) -> impl Iterator<Item = &mut Entry> {
    let start = from(entries, seq);
    entries.range_mut(start..)
}
