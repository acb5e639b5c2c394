//! The outbox: packets kept until the broker has them.
//!
//! This module decides; `porind::store` reads and writes. Appends are numbered by one seq for all. A record leaves by
//! acknowledgement, by eviction, because it expired, or as a dead letter, each counted, never otherwise.
//!
//! The outbox is a set of queues, one for each priority and rule of overflow that routes have: within a queue the first
//! in is the first out, and between queues each priority has its share, so an alarm overtakes a backlog and the backlog
//! still moves. All queues share the bound of bytes and the window of publishes under way.

mod next;
mod queue;

use alloc::{collections::VecDeque, vec::Vec};

use self::{
    next::Topic,
    queue::{Queue, State},
};
pub use self::{
    next::{Publish, Rule},
    queue::{HEAD_RECORDS, Load, Loaded, QueueCommit},
};
use crate::{
    ids::{Overflow, Priority, QueueId, RouteId, Seq},
    record::Record,
    time::Monotonic,
};

/// Bytes of messages in memory, beyond which no more are taken from sources and none are read back ahead of need.
pub const MEMORY_BYTES: usize = 4 << 20;

/// Records that may wait for their commit, 2.6 MB. Beyond it the loop stops taking batches; sources have commits begin at half of
/// their windows, which are no larger.
pub const FRESH_RECORDS: usize = 32_768;

/// How much waits, and how fast it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// [`Record::size`] of everything that waits, together.
    pub bytes: u64,
    /// Packets a second at which what is on disk only leaves at most; `None`: as fast as the broker takes them.
    pub backlog_rate: Option<u32>,
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
    pub start: Start,
    /// In order.
    pub records: Vec<(Seq, Record)>,
}

/// From which seq on which start of the agent has given out seqs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The first seq that it gave out.
    pub from: Seq,
    /// The count of starts: part of the epoch.
    pub start: u32,
    /// Since which start of the machine its clock runs that never steps.
    pub boot: u32,
}

/// What became of the records. `appended` = `acknowledged` + `waiting` + `evicted` + `expired` + `dead_lettered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed over by the pipeline, or found on disk at the start.
    pub appended: u64,
    /// The broker has them.
    pub acknowledged: u64,
    /// Given up because the outbox was full: the oldest or the newest, as their routes say.
    pub evicted: u64,
    /// Given up because they were older than their routes want them.
    pub expired: u64,
    /// The broker refused them for good.
    pub dead_lettered: u64,
    /// Sent again after a lost connection: duplicates that the consumer may see.
    pub resent: u64,
}

/// A publish under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    ticket: Ticket,
    queue: QueueId,
    topic: Topic,
    first: Seq,
    last: Seq,
    /// Acknowledged, but an older one is not.
    done: bool,
}

/// All queues.
#[derive(Debug)]
pub struct Outbox {
    /// Highest priority first. One is made when its first record comes.
    queues: Vec<Queue>,
    bounds: Bounds,
    /// To be given out next.
    next: Seq,
    /// Oldest first; the last is this one.
    starts: Vec<Start>,
    /// Publishes under way, oldest first.
    flights: VecDeque<Flight>,
    next_ticket: u64,
    /// Before this the next publish of a backlog does not leave.
    backlog_after: Monotonic,
    counts: Counts,
}

/// The outbox as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Those that ever had a record.
    pub queues: Vec<StoredQueue>,
    /// Oldest first; the last is this one.
    pub starts: Vec<Start>,
}

/// A queue as the store has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredQueue {
    /// Which.
    pub id: QueueId,
    /// Everything before has left.
    pub acked_to: Seq,
    /// After its last record.
    pub end: Seq,
    /// How many records there are.
    pub records: u64,
    /// Their [`Record::size`] together.
    pub bytes: u64,
}

impl Outbox {
    /// The outbox as it is on disk.
    #[must_use]
    pub fn new(stored: Stored, bounds: Bounds) -> Self {
        let Stored { queues, starts } = stored;
        let next = queues.iter().map(|queue| queue.end).max().unwrap_or_default();
        let appended = queues.iter().map(|queue| queue.records).sum();
        let mut outbox = Self {
            queues: queues.into_iter().map(Queue::new).collect(),
            bounds,
            next,
            starts,
            flights: VecDeque::new(),
            next_ticket: 0,
            backlog_after: Monotonic(0),
            counts: Counts { appended, ..Counts::default() },
        };
        outbox.queues.sort_by_key(|queue| queue.id.order());
        outbox
    }

    /// The configuration has changed.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Appends a record to a queue under the next seq, unless there is no room and it is the newest that its route gives up.
    pub fn append(&mut self, queue: QueueId, record: Record) {
        self.counts.appended += 1;
        if queue.overflow() == Overflow::DropNewest && self.bytes() + record.size() > self.bounds.bytes {
            self.counts.evicted += 1;
            return;
        }
        let seq = self.next;
        self.next = seq.next();
        self.queue(queue).append(seq, record);
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        let index = match self.queues.iter().position(|queue| queue.id == id) {
            Some(index) => index,
            None => {
                let after = self.queues.iter().position(|queue| queue.id.order() > id.order());
                let index = after.unwrap_or(self.queues.len());
                self.queues.insert(index, Queue::new(StoredQueue { id, ..StoredQueue::default() }));
                index
            }
        };
        &mut self.queues[index]
    }

    /// The seq that the next record gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// The records appended from this seq on, as far as they are not committed, queue by queue.
    pub fn appended_from(&self, seq: Seq) -> impl Iterator<Item = &Record> {
        self.queues.iter().flat_map(move |queue| queue.appended_from(seq))
    }

    /// Whether so much waits for its commit that no more should be decided before it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let fresh: usize = self.queues.iter().map(Queue::fresh).sum();
        fresh >= FRESH_RECORDS || (self.memory() >= MEMORY_BYTES && fresh > 0)
    }

    /// Whether routes that give up nothing have to wait.
    #[must_use]
    pub fn is_at_bound(&self) -> bool {
        self.bytes() >= self.bounds.bytes
    }

    /// Records that have not left, those under way among them.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.queues.iter().map(|queue| queue.waiting).sum()
    }

    /// [`Record::size`] of what waits, together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.bytes).sum()
    }

    fn memory(&self) -> usize {
        self.queues.iter().map(|queue| queue.memory).sum()
    }

    /// By queue, the highest priority first: how many records wait.
    pub fn waiting_by_queue(&self) -> impl Iterator<Item = (QueueId, u64)> {
        self.queues.iter().map(|queue| (queue.id, queue.waiting))
    }

    /// Everything before this seq has left.
    #[must_use]
    pub fn left_to(&self) -> Seq {
        let waiting = self.queues.iter().filter(|queue| queue.waiting > 0);
        waiting.map(Queue::acked_to).min().unwrap_or(self.next)
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

    /// Whether something urgent waits for its commit.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.queues.iter().any(|queue| queue.id.priority() == Priority::High && queue.has_new())
    }

    /// Whether there is anything that a commit would write.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.queues.iter().any(Queue::is_dirty)
    }

    /// Records to be read from the store before more can be sent, or given up.
    #[must_use]
    pub fn wants(&self) -> Option<Load> {
        // What is read back takes half of it at most: the other half is for what comes.
        let room = (MEMORY_BYTES / 2).saturating_sub(self.memory());
        self.queues.iter().find_map(|queue| queue.wants(room))
    }

    /// Takes what the store had for [`Outbox::wants`]. Fewer than asked for means that there are no more. What cannot be read is a
    /// dead letter.
    pub fn loaded(&mut self, asked: Load, loaded: Loaded) {
        let boot = self.starts.last().map_or(0, |start| start.boot);
        let Self { queues, starts, .. } = self;
        let Some(queue) = queues.iter_mut().find(|queue| queue.id == asked.queue) else { return };
        // What an earlier life of the machine appended is as old as this one at least; more nobody knows.
        let since = |seq, record: &Record| if start_of(starts, seq).boot == boot { record.at } else { Monotonic(0) };
        self.counts.dead_lettered += queue.loaded(asked, loaded, since);
    }

    /// The next publish, if one is due. `rule` tells each route's rule.
    pub fn take(&mut self, now: Monotonic, rule: impl Fn(RouteId) -> Rule) -> Option<Parcel> {
        let (index, run) = self.turn(now, &rule)?;
        let ticket = Ticket(self.next_ticket);
        let queue = &mut self.queues[index];
        let route = run.topic.route;
        let start = *start_of(&self.starts, run.first);
        let records = queue.take(&run, ticket);
        let (first, last) = (records.first()?.0, records.last()?.0);
        if let Some(rate) = self.bounds.backlog_rate.filter(|_| queue.has_backlog()) {
            let us = records.len() as u64 * 1_000_000 / u64::from(rate.max(1));
            self.backlog_after = self.backlog_after.max(now).after(us);
        }
        self.next_ticket += 1;
        self.flights.push_back(Flight { ticket, queue: queue.id, topic: run.topic, first, last, done: false });
        Some(Parcel { ticket, route, start, records })
    }

    /// The queue whose turn it is, with its next publish. A queue that has had its share waits for those below it.
    fn turn(&mut self, now: Monotonic, rule: &impl Fn(RouteId) -> Rule) -> Option<(usize, next::Run)> {
        let mut had_its_share = None;
        for index in 0..self.queues.len() {
            let Some(run) = self.run(index, rule).filter(|run| run.due <= now) else { continue };
            if self.queues[index].share > 0 {
                self.queues[index].share -= 1;
                return Some((index, run));
            }
            had_its_share = had_its_share.or(Some((index, run)));
        }
        let (index, run) = had_its_share?;
        for queue in &mut self.queues {
            queue.share = queue.id.priority().share();
        }
        self.queues[index].share -= 1;
        Some((index, run))
    }

    fn run(&mut self, queue: usize, rule: &impl Fn(RouteId) -> Rule) -> Option<next::Run> {
        let queue = &mut self.queues[queue];
        let mut run = queue.next_run(&self.starts, rule)?;
        run.due = run.due.max(queue.retry.at());
        if self.bounds.backlog_rate.is_some() && queue.has_backlog() {
            run.due = run.due.max(self.backlog_after);
        }
        Some(run)
    }

    /// When [`Outbox::take`] gives something, if nothing else happens.
    pub fn due(&mut self, rule: impl Fn(RouteId) -> Rule) -> Option<Monotonic> {
        (0..self.queues.len()).filter_map(|queue| self.run(queue, &rule)).map(|run| run.due).min()
    }

    /// Gives back all but the first `keep` records of the parcel taken last: they were too many for one publish.
    pub fn shorten(&mut self, ticket: Ticket, keep: usize) {
        let Some(flight) = self.flights.back_mut().filter(|flight| flight.ticket == ticket) else { return };
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == flight.queue) {
            flight.last = queue.shorten(flight.topic, ticket, flight.first..=flight.last, keep);
        }
    }

    /// The broker has the publish. Gives the number of records that left.
    pub fn ack(&mut self, ticket: Ticket) -> u64 {
        let flight = self.flight(ticket);
        let left = self.leave(ticket);
        self.counts.acknowledged += left;
        if let Some(Flight { queue, first, .. }) = flight
            && let Some(queue) = self.queues.iter_mut().find(|other| other.id == queue)
        {
            queue.accepted(first);
        }
        left
    }

    /// The broker does not take the publish now. Its records wait again, and their queue sends nothing for a while; other queues go on,
    /// and what else of this one is under way is answered by itself. Once it was refused [`crate::retry::MAX_REFUSALS`] times while the
    /// broker took others, it is a dead letter: gives the number of records that are lost then.
    pub fn refuse(&mut self, ticket: Ticket, now: Monotonic) -> u64 {
        let Some(Flight { queue: id, first, last, .. }) = self.flight(ticket) else { return 0 };
        let taken = self.counts.acknowledged;
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == id) else { return 0 };
        if queue.refused(first, now, taken) {
            return self.dead_letter(ticket);
        }
        self.counts.resent += queue.restate(ticket, first..=last, State::Waiting);
        self.land(ticket);
        0
    }

    fn flight(&self, ticket: Ticket) -> Option<Flight> {
        self.flights.iter().find(|flight| flight.ticket == ticket && !flight.done).copied()
    }

    /// A publish is not under way any more. Gives what was known of it.
    fn land(&mut self, ticket: Ticket) -> Option<Flight> {
        let flight = self.flights.iter_mut().find(|flight| flight.ticket == ticket && !flight.done)?;
        flight.done = true;
        let flight = *flight;
        while self.flights.pop_front_if(|flight| flight.done).is_some() {}
        Some(flight)
    }

    /// The broker refused the publish for good. Gives the number of records that are lost.
    pub fn dead_letter(&mut self, ticket: Ticket) -> u64 {
        let left = self.leave(ticket);
        self.counts.dead_lettered += left;
        left
    }

    fn leave(&mut self, ticket: Ticket) -> u64 {
        let Some(flight) = self.land(ticket) else { return 0 };
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == flight.queue) else { return 0 };
        let left = queue.restate(ticket, flight.first..=flight.last, State::Left);
        queue.forget_left();
        left
    }

    /// The connection is gone: everything under way will be sent again.
    pub fn rewind(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.retry.reset());
        for Flight { ticket, queue, first, last, done, .. } in core::mem::take(&mut self.flights) {
            let Some(queue) = self.queues.iter_mut().find(|other| other.id == queue) else { continue };
            if !done {
                self.counts.resent += queue.restate(ticket, first..=last, State::Waiting);
            }
        }
    }

    /// What the next commit writes. Until [`Outbox::committed`] no other may begin.
    pub fn commit(&mut self) -> Vec<QueueCommit> {
        self.queues.iter_mut().filter(|queue| queue.is_dirty()).map(Queue::commit).collect()
    }

    /// The same without anything new: what has left is deleted. For a disk that is full.
    pub fn commit_deletions(&mut self) -> Vec<QueueCommit> {
        self.queues.iter_mut().filter_map(Queue::commit_deletions).collect()
    }

    /// What [`Outbox::commit`] gave is durable.
    pub fn committed(&mut self) {
        let mut room = MEMORY_BYTES / 2;
        for queue in &mut self.queues {
            queue.committed(room);
            room = room.saturating_sub(queue.memory);
        }
    }

    /// Nothing was written; the records wait for the next attempt.
    pub fn commit_failed(&mut self) {
        self.queues.iter_mut().for_each(Queue::commit_failed);
    }

    /// Whether there is more than the bound allows, and something to give up for it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.bytes() > self.bounds.bytes && self.queues.iter().any(|queue| queue.may_drop_oldest() && queue.waiting > 0)
    }

    /// Gives up the oldest records of routes that allow it, of the lowest priority first, until the outbox is within its
    /// bound. Gives their number. Those under way stay.
    ///
    /// A record that is on disk only has to be loaded first: call again after [`Outbox::loaded`].
    pub fn evict(&mut self) -> u64 {
        let mut over = self.bytes().saturating_sub(self.bounds.bytes);
        let mut evicted = 0;
        for queue in self.queues.iter_mut().rev().filter(|queue| queue.may_drop_oldest()) {
            if over == 0 {
                break;
            }
            let (records, bytes) = queue.evict(over, &self.starts);
            evicted += records;
            over = over.saturating_sub(bytes);
            // What is on disk only goes before what more important queues have.
            if queue.has_backlog() {
                break;
            }
        }
        self.counts.evicted += evicted;
        evicted
    }

    /// The disk takes nothing: gives up the oldest of what is in memory only until there is room. Gives their number.
    pub fn evict_from_memory(&mut self) -> u64 {
        if !self.is_full() {
            return 0;
        }
        // A piece at a time: the search begins at the front.
        let queues = self.queues.iter_mut().rev().filter(|queue| queue.may_drop_oldest());
        let mut left = FRESH_RECORDS / 16;
        for queue in queues {
            left -= queue.evict_fresh(left, &self.starts);
        }
        let evicted = (FRESH_RECORDS / 16 - left) as u64;
        self.counts.evicted += evicted;
        evicted
    }

    /// Gives up what is in memory and older than its route wants it. Gives the number. To be called about once a second, and
    /// after [`Outbox::loaded`].
    pub fn expire(&mut self, now: Monotonic, rule: impl Fn(RouteId) -> Rule) -> u64 {
        let Self { queues, starts, .. } = self;
        let expired = queues.iter_mut().map(|queue| queue.expire(now, starts, &rule)).sum();
        self.counts.expired += expired;
        expired
    }
}

impl Priority {
    /// Publishes out of a round in which every queue has something to send.
    fn share(self) -> u32 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Low => 1,
        }
    }
}

/// The start that gave out a seq.
fn start_of(starts: &[Start], seq: Seq) -> &Start {
    let known = starts.partition_point(|start| start.from <= seq);
    starts.get(known.saturating_sub(1)).unwrap_or(&Start { from: Seq(0), start: 0, boot: 0 })
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
