//! The one data path, in one loop.
//!
//! ```text
//! source → inbox → pipeline.process(batch, now) → outbox.append(kept) → outbox.take(window) → link
//!                                                                                              ↓
//!                                                           outbox.ack(ticket) ← Event::Acked
//! ```
//!
//! The loop runs on the pipeline's thread and owns everything that decides: the cells, the outbox, the counters. It
//! does no I/O of its own but to read a backlog. Sources and the link are tasks on the I/O thread, commits wait for the
//! disk on the committer's; all of them meet the loop only through the bounded queues of the inbox.

mod commits;
mod sending;
mod telling;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use porin_core::{
    config::Config,
    ids::{RouteId, StreamId},
    outbox::Queue,
    packet::{Kind, Message, Packet, Reading},
    record::Record,
    status::{Snapshot, SourceStatus},
    time::{Monotonic, Now, Unix},
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::{
    commits::Commits,
    sending::{Link, Patience},
};
use crate::{
    committer::Committer,
    inbox::{Event, FromSource, Inbox, Question},
    pipeline::{Kept, Pipeline, Routed},
    source,
    store::Store,
    tap::Tap,
    uplink::Publish,
};

/// Time for what waits to leave after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// The loop sleeps at most this long, so that nothing depends on a lost wake-up.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Readings of one call into a cell at most: 24 KB.
const CALL: usize = 1_024;

/// Where a run ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Somebody asks it to stop.
    Stopped,
    /// Every source has ended and the broker has everything.
    Drained,
}

/// What the agent is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) until: Until,
    pub(crate) store: Arc<Store>,
    pub(crate) pipeline: Pipeline,
    pub(crate) queue: Queue,
    /// Names of routes by id, those of earlier configurations among them.
    pub(crate) route_names: Vec<String>,
    /// Names of streams that the store has.
    pub(crate) durable_names: usize,
    pub(crate) inbox: Inbox,
    pub(crate) committer: Committer,
    /// By source: up to which count its packets are settled.
    pub(crate) settled: Vec<watch::Sender<u64>>,
    pub(crate) link: mpsc::Sender<Publish>,
    pub(crate) stop_link: watch::Sender<bool>,
}

struct Agent {
    parts: Parts,
    start: Instant,
    sources: Vec<Source>,
    link: Link,
    commit: Commits,
    found: u64,
    /// Whether cells live in the time of the packets.
    replay: bool,
    /// Who looks at packets as they pass.
    taps: Vec<Tap>,
    /// When the numbers are published next.
    tell_at: Monotonic,
    /// When a stop was asked for.
    stopping: Option<Instant>,
}

#[derive(Default)]
struct Source {
    status: SourceStatus,
    /// By the source's own number.
    streams: Vec<Option<StreamId>>,
    /// Decided about, and what the next commit settles.
    decided: u64,
    settled: u64,
    /// How much may be unsettled, in the source's own counts.
    window: u64,
}

/// Runs until it is stopped or drained, on the calling thread. Gives the last status.
pub(crate) fn run(parts: Parts) -> Snapshot {
    let found = parts.queue.counts().appended;
    let sources = parts.config.gateway.sources.iter().map(|source| Source {
        status: SourceStatus { name: source.name.clone(), ..SourceStatus::default() },
        window: source::window(&source.kind),
        ..Source::default()
    });
    let sources = sources.collect();
    let commit = Commits::new(parts.durable_names, &parts.pipeline);
    let start = Instant::now();
    let mut agent = Agent {
        replay: parts.config.gateway.is_replay(),
        parts,
        start,
        sources,
        link: Link::default(),
        commit,
        found,
        stopping: None,
        taps: Vec::new(),
        tell_at: Monotonic(0),
    };
    while !agent.link.closed {
        let event = agent.next();
        agent.step(event);
    }
    let last = agent.status();
    agent.parts.committer.stop();
    last
}

impl Agent {
    fn next(&mut self) -> Event {
        let patience = self.deadline().since(self.now().mono);
        let take_sources = self.stopping.is_none() && !self.parts.queue.is_full();
        let Parts { inbox, committer, .. } = &mut self.parts;
        inbox.next(committer, take_sources, Duration::from_micros(patience).min(MAX_SLEEP))
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Source(source, FromSource::Batch { readings, messages, upto }) => {
                self.decide(source, readings, messages, upto);
            }
            Event::Source(source, FromSource::Stream { local, name, kind }) => self.admit(source, local, &name, kind),
            Event::Source(source, FromSource::BadRow(place)) => self.bad_row(source, place),
            Event::Source(source, FromSource::Restart(reason)) => self.restarted(source, reason),
            Event::Source(source, FromSource::Ended) => self.ended(source),
            Event::Link(event) => self.link_event(event),
            Event::Committed(outcome) => self.committed(outcome),
            Event::Question(Question::Status(reply)) => drop(reply.send(self.status())),
            Event::Question(Question::Tap(tap)) => self.look(tap),
            Event::Stop => self.stop(),
            Event::Deadline => {}
        }
        if !self.replay {
            let now = self.now();
            self.tick(now.mono.0, now);
        }
        self.load();
        self.tell();
        self.send();
        self.commit();
        self.finish();
    }

    /// The heart: a batch goes through the cells, and what they keep into the outbox.
    fn decide(&mut self, source: usize, mut readings: Vec<Reading>, mut messages: Vec<Message>, upto: u64) {
        let state = &mut self.sources[source];
        let came = readings.len() + messages.len();
        readings.retain_mut(|reading| admitted(&state.streams, &mut reading.stream));
        messages.retain_mut(|message| admitted(&state.streams, &mut message.stream));
        state.status.received += came as u64;
        state.status.refused += (came - readings.len() - messages.len()) as u64;
        let mut now = self.now();
        if self.replay {
            now.unix = readings.last().map_or(now.unix, |reading| reading.time);
        }
        self.mark_dirty(now.mono);
        for tap in &mut self.taps {
            readings.iter().for_each(|reading| tap.reading(&self.parts.pipeline, None, reading));
            messages.iter().for_each(|message| tap.message(&self.parts.pipeline, None, message));
        }
        let from = self.parts.queue.next_seq();
        let Parts { pipeline, queue, .. } = &mut self.parts;
        let mut count = |routed: Routed| {
            let status = &mut self.sources[source].status;
            status.routed += routed.routed;
            status.unrouted += routed.unrouted;
        };
        // One publish may have become many readings: a cell gets no more at a time than it can hold.
        for readings in readings.chunks(CALL) {
            count(pipeline.process(readings, now, |route, kept| append(queue, route, kept, now.mono)));
        }
        count(pipeline.process_messages(&messages, now, |route, kept| append(queue, route, kept, now.mono)));
        let state = &mut self.sources[source];
        state.decided = upto;
        self.show_kept(from);
        if self.replay {
            self.tick(now.unix.0, now);
        }
    }

    /// Tells the cells that want to know that time has passed: by the clock of the packets in a replay, else by the clock
    /// that never steps.
    fn tick(&mut self, clock_us: u64, now: Now) {
        let Parts { pipeline, queue, .. } = &mut self.parts;
        if pipeline.next_tick_us(clock_us).is_none_or(|due| clock_us < due) {
            return;
        }
        let from = queue.next_seq();
        pipeline.tick(clock_us, now, |route, kept| append(queue, route, kept, now.mono));
        let changed = queue.next_seq() != from || pipeline.has_unwritten();
        self.show_kept(from);
        if changed {
            self.mark_dirty(now.mono);
        }
    }

    fn admit(&mut self, source: usize, local: u32, name: &str, kind: Kind) {
        let stream = self.parts.pipeline.admit(name, kind).ok();
        let source = &mut self.sources[source];
        if stream.is_none() {
            error!(
                source = source.status.name,
                stream = name,
                "no room for the stream: `max_streams` is reached; its packets are refused"
            );
        }
        // A source counts its streams from 0 without gaps.
        let index = local as usize;
        source.streams.resize(source.streams.len().max(index + 1), None);
        source.streams[index] = stream;
    }

    fn bad_row(&mut self, source: usize, place: String) {
        let status = &mut self.sources[source].status;
        status.bad_rows += 1;
        if status.bad_rows.is_power_of_two() {
            warn!(source = status.name, bad_rows = status.bad_rows, "{place}");
        }
        status.last_bad_row = Some(place);
    }

    fn restarted(&mut self, source: usize, reason: String) {
        let status = &mut self.sources[source].status;
        status.restarts += 1;
        status.last_error = Some(reason);
    }

    fn ended(&mut self, source: usize) {
        self.sources[source].status.ended = true;
        info!(
            source = self.sources[source].status.name,
            packets = self.sources[source].status.received,
            "the source has ended"
        );
        if self.sources.iter().all(|source| source.status.ended) {
            let now = self.now();
            self.mark_dirty(now.mono);
            let Parts { pipeline, queue, .. } = &mut self.parts;
            let from = queue.next_seq();
            pipeline.flush(now, |route, kept| append(queue, route, kept, now.mono));
            self.show_kept(from);
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            info!(waiting = self.parts.queue.waiting(), "stopping: what waits is sent and made durable");
            self.stopping = Some(Instant::now());
            self.commit.due = self.start_to(Instant::now());
        }
    }

    /// Ends the run when there is nothing left to do, or no time left to do it.
    fn finish(&mut self) {
        let drained = self.parts.queue.waiting() == 0 && self.commit.running.is_none() && !self.is_dirty();
        let ended = self.sources.iter().all(|source| source.status.ended);
        if self.parts.until == Until::Drained && ended && drained {
            self.stop();
        }
        let Some(since) = self.stopping else { return };
        let durable = self.commit.running.is_none() && !self.is_dirty();
        let sent = self.parts.queue.waiting() == 0 || self.link.connection.is_none();
        let late = since.elapsed() >= DRAIN;
        if (durable && sent) || late {
            self.parts.stop_link.send_replace(true);
        }
    }

    /// Once nothing more will come, incomplete publishes need not wait for it.
    fn patience(&self) -> Patience {
        let ended = !self.sources.is_empty() && self.sources.iter().all(|source| source.status.ended);
        if ended || self.stopping.is_some() { Patience::None } else { Patience::AsConfigured }
    }

    /// When something is to be done although nothing happens.
    fn deadline(&mut self) -> Monotonic {
        let mut deadline = self.now().mono.after(u64::try_from(MAX_SLEEP.as_micros()).unwrap_or(u64::MAX));
        if self.commit.running.is_none() && self.is_dirty() {
            deadline = deadline.min(self.commit.due);
        }
        if !self.replay
            && let Some(tick) = self.parts.pipeline.next_tick_us(self.now().mono.0)
        {
            deadline = deadline.min(Monotonic(tick));
        }
        let Parts { queue, pipeline, .. } = &self.parts;
        let tells = self.parts.config.gateway.publish_metrics;
        if tells && self.link.connection.is_some() && self.parts.link.capacity() > 0 {
            deadline = deadline.min(self.tell_at);
        }
        let room = queue.window() < self.link.window && self.parts.link.capacity() > 0;
        if self.link.connection.is_some() && room {
            let due = queue.due(self.link.rules(pipeline, self.patience()));
            deadline = due.map_or(deadline, |due| deadline.min(due));
        }
        deadline
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = Unix(u64::try_from(unix.as_micros()).unwrap_or(u64::MAX));
        Now { unix, mono: self.start_to(Instant::now()) }
    }

    fn start_to(&self, now: Instant) -> Monotonic {
        Monotonic(u64::try_from(now.duration_since(self.start).as_micros()).unwrap_or(u64::MAX))
    }
}

/// Replaces a source's own number of a stream by the durable one; `false` if it was refused one.
fn admitted(streams: &[Option<StreamId>], stream: &mut StreamId) -> bool {
    let durable = streams.get(stream.0 as usize).copied().flatten();
    *stream = durable.unwrap_or_default();
    durable.is_some()
}

fn append(queue: &mut Queue, route: RouteId, kept: Kept<'_>, now: Monotonic) {
    let mut append = |packet| queue.append(Record { route, packet }, now);
    match kept {
        Kept::Readings(readings) => readings.iter().for_each(|reading| append(Packet::Reading(*reading))),
        Kept::Messages(messages) => {
            messages.iter().for_each(|message| append(Packet::Message(Arc::new(message.clone()))));
        }
    }
}
