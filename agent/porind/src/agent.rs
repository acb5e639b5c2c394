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

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use porin_core::{
    config::{Config, TopicTemplate},
    ids::{QueueId, RouteId, Seq, StreamId},
    outbox::{BatchRule, Parcel, Publish as PublishRule, Queue},
    packet::{AckToken, Reading},
    payload::{self, Packet},
    record::Record,
    status::{OutboxStatus, Snapshot, SourceStatus, UplinkStatus},
    time::{Monotonic, Now, Unix},
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::{
    committer::Committer,
    inbox::{Event, FromSource, Inbox, SOURCE_WINDOW},
    pipeline::Pipeline,
    store::{Commit, Store},
    uplink::{LinkEvent, Publish},
};

/// Time for what waits to leave after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// The loop sleeps at most this long, so that nothing depends on a lost wake-up.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// A pause after a commit that failed.
const COMMIT_RETRY_US: u64 = 5_000_000;

/// Bytes that one packet takes in a JSON payload at most: a name of 100 bytes and four numbers.
const MAX_PACKET_BYTES: usize = 256;

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
    commit: CommitState,
    found: u64,
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
}

#[derive(Default)]
struct Link {
    connection: Option<u64>,
    window: usize,
    max_bytes: usize,
    closed: bool,
    status: UplinkStatus,
}

/// What the running commit will have made durable.
struct Running {
    acked_to: Seq,
    next: Seq,
    names: usize,
    tokens: Vec<AckToken>,
}

struct CommitState {
    running: Option<Running>,
    due: Monotonic,
    /// Names that are durable.
    names: usize,
    /// Whether any packet was decided about since the last commit.
    dirty: bool,
    commits: u64,
    written: u64,
    failures: u64,
}

/// Runs until it is stopped or drained, on the calling thread. Gives the last status.
pub(crate) fn run(parts: Parts) -> Snapshot {
    let names = parts.pipeline.names().len();
    let found = parts.queue.counts().appended;
    let sources = parts.config.gateway.sources.iter().map(|source| Source {
        status: SourceStatus { name: source.name.clone(), ..SourceStatus::default() },
        ..Source::default()
    });
    let sources = sources.collect();
    let due = Monotonic(0);
    let commit = CommitState { running: None, due, names, dirty: false, commits: 0, written: 0, failures: 0 };
    let start = Instant::now();
    let mut agent = Agent { parts, start, sources, link: Link::default(), commit, found, stopping: None };
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
            Event::Source(source, FromSource::Batch { readings, upto }) => self.decide(source, readings, upto),
            Event::Source(source, FromSource::Stream { local, name }) => self.admit(source, local, &name),
            Event::Source(source, FromSource::BadRow(place)) => self.bad_row(source, place),
            Event::Source(source, FromSource::Restart(reason)) => self.restarted(source, reason),
            Event::Source(source, FromSource::Ended) => self.ended(source),
            Event::Link(event) => self.link_event(event),
            Event::Committed(outcome) => self.committed(outcome),
            Event::Status(reply) => drop(reply.send(self.status())),
            Event::Stop => self.stop(),
            Event::Deadline => {}
        }
        self.load();
        self.send();
        self.commit();
        self.finish();
    }

    /// The heart: a batch goes through the cells, and what they keep into the outbox.
    fn decide(&mut self, source: usize, mut batch: Vec<Reading>, upto: u64) {
        let state = &mut self.sources[source];
        state.status.received += batch.len() as u64;
        let before = batch.len();
        batch.retain_mut(|reading| match state.streams.get(reading.stream.0 as usize).copied().flatten() {
            Some(stream) => {
                reading.stream = stream;
                true
            }
            None => false,
        });
        state.status.refused += (before - batch.len()) as u64;
        // A replay's cells live in recorded time.
        let unix = batch.last().map_or(Unix(0), |reading| reading.time);
        let now = Now { unix, ..self.now() };
        self.mark_dirty(now.mono);
        let Parts { pipeline, queue, .. } = &mut self.parts;
        let routed = pipeline.process(&batch, now, |route, kept| append(queue, route, kept, now.mono));
        let state = &mut self.sources[source];
        state.status.routed += routed.routed;
        state.status.unrouted += routed.unrouted;
        state.decided = upto;
    }

    fn admit(&mut self, source: usize, local: u32, name: &str) {
        let stream = self.parts.pipeline.admit(name).ok();
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
            pipeline.flush(now, |route, kept| append(queue, route, kept, now.mono));
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { connection, window, max_bytes } => {
                self.link.connection = Some(connection);
                (self.link.window, self.link.max_bytes) = (window, max_bytes);
                self.link.status.connections += 1;
            }
            LinkEvent::Acked(ticket) => {
                self.parts.queue.ack(ticket);
            }
            LinkEvent::Refused(ticket, reason) => {
                let packets = self.parts.queue.refuse(ticket);
                error!(packets, reason, "the broker refused a publish for good; its packets are lost");
                self.link.status.last_error = Some(reason);
            }
            LinkEvent::Down(reason) => {
                self.link.connection = None;
                self.link.status.last_error = Some(reason);
                self.parts.queue.rewind();
            }
            LinkEvent::Closed => self.link.closed = true,
        }
    }

    /// Reads a piece of the backlog when the broker has taken most of the last one.
    fn load(&mut self) {
        let now = self.start_to(Instant::now());
        let Parts { queue, store, .. } = &mut self.parts;
        queue.evict();
        let needed = self.link.connection.is_some() || queue.is_over();
        let Some(load) = queue.wants().filter(|_| needed) else { return };
        match store.load(QueueId::UPLINK, load) {
            Ok(records) => queue.loaded(load, records, now),
            Err(error) => error!(error = format!("{error:#}"), "cannot read the outbox"),
        }
    }

    /// Sends what the window has room for.
    fn send(&mut self) {
        let Some(connection) = self.link.connection else { return };
        let now = self.start_to(Instant::now());
        while self.parts.queue.window() < self.link.window {
            let Parts { queue, pipeline, .. } = &mut self.parts;
            let max_packets = (self.link.max_bytes / MAX_PACKET_BYTES).max(1);
            let Some(parcel) = queue.take(now, |route| rule(pipeline, route, max_packets)) else { return };
            let (topic, payload) = self.publish(&parcel);
            self.link.status.publishes += 1;
            // There is room for a window; when the link is gone, its `Down` is on the way and rewinds.
            let _ = self.parts.link.try_send(Publish { connection, ticket: parcel.ticket, topic, payload });
        }
    }

    /// Topic and payload of a parcel.
    fn publish(&self, parcel: &Parcel) -> (String, Vec<u8>) {
        let Parts { pipeline, config, store, .. } = &self.parts;
        let packet = |(seq, record): &(Seq, Record)| {
            let Reading { time, value, stream, quality } = record.reading;
            Packet { seq: *seq, stream: pipeline.name(stream), time_us: time.0, value, quality: quality.0 }
        };
        let packets: Vec<_> = parcel.records.iter().map(packet).collect();
        let gateway = &config.gateway.id;
        let stream = packets.first().map_or("", |packet| packet.stream);
        let topic = match pipeline.route(parcel.route) {
            Some(route) => route.topic.fill(gateway, &route.name, stream),
            // Kept under a configuration that had another route.
            None => {
                let name = self.parts.route_names.get(parcel.route.0 as usize).map_or("unknown", String::as_str);
                TopicTemplate::default().fill(gateway, name, stream)
            }
        };
        (topic, payload::encode(gateway, store.epoch, &packets))
    }

    /// Begins a commit if one is due and none is running.
    fn commit(&mut self) {
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
        let queue = queue.commit();
        let names_after = self.commit.names + names.len();
        self.commit.running = Some(Running { acked_to: queue.acked_to, next: queue.next, names: names_after, tokens });
        self.commit.written += queue.records.len() as u64;
        self.commit.dirty = false;
        committer.begin(Commit { queue: Some(queue), streams: (durable, names), states });
    }

    fn committed(&mut self, outcome: anyhow::Result<()>) {
        let Some(Running { acked_to, next, names, tokens }) = self.commit.running.take() else { return };
        let now = self.start_to(Instant::now());
        match outcome {
            Ok(()) => {
                self.commit.commits += 1;
                self.commit.failures = 0;
                self.commit.names = names;
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
    fn mark_dirty(&mut self, now: Monotonic) {
        if !self.is_dirty() && self.commit.running.is_none() {
            self.commit.due = self.commit.due.max(now.after(self.parts.config.gateway.outbox.commit_every_us));
        }
        self.commit.dirty = true;
    }

    fn is_dirty(&self) -> bool {
        self.commit.dirty || self.parts.queue.is_dirty()
    }

    /// Half of a source's window waits for the commit, or somebody waits for the end.
    fn is_urgent(&self) -> bool {
        let half = |source: &Source| source.decided - source.settled >= SOURCE_WINDOW / 2;
        let ended = self.sources.iter().all(|source| source.status.ended) && self.parts.queue.waiting() == 0;
        // After a failure the pause counts, whoever waits.
        self.commit.failures == 0 && (self.stopping.is_some() || ended || self.sources.iter().any(half))
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

    /// When something is to be done although nothing happens.
    fn deadline(&self) -> Monotonic {
        let mut deadline = self.now().mono.after(u64::try_from(MAX_SLEEP.as_micros()).unwrap_or(u64::MAX));
        if self.commit.running.is_none() && self.is_dirty() {
            deadline = deadline.min(self.commit.due);
        }
        let Parts { queue, pipeline, .. } = &self.parts;
        if self.link.connection.is_some() && queue.window() < self.link.window {
            deadline = queue.due(|route| rule(pipeline, route, usize::MAX)).map_or(deadline, |due| deadline.min(due));
        }
        deadline
    }

    fn status(&self) -> Snapshot {
        let Parts { config, store, pipeline, queue, .. } = &self.parts;
        let (routes, streams) = pipeline.status();
        let CommitState { commits, written, .. } = self.commit;
        let link = &self.link;
        let connected = link.connection.is_some();
        Snapshot {
            gateway: config.gateway.id.clone(),
            epoch: store.epoch.to_string(),
            uptime_s: self.start.elapsed().as_secs(),
            uplink: UplinkStatus { connected, in_flight: queue.window(), ..link.status.clone() },
            sources: self.sources.iter().map(|source| source.status.clone()).collect(),
            streams,
            routes,
            outbox: OutboxStatus::new(queue.counts(), queue.waiting(), self.found, commits, written),
            ..Snapshot::default()
        }
        .finish()
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

fn append(queue: &mut Queue, route: RouteId, kept: &[Reading], now: Monotonic) {
    for reading in kept {
        queue.append(Record { route, reading: *reading }, now);
    }
}

fn rule(pipeline: &Pipeline, route: RouteId, max_packets: usize) -> BatchRule {
    match pipeline.route(route) {
        Some(route) => BatchRule {
            packets: route.batch_packets.min(max_packets),
            wait_us: route.batch_wait_us,
            publish: route.publish,
            by_stream: route.topic.by_stream(),
        },
        None => BatchRule { packets: 1, wait_us: 0, publish: PublishRule::AtOnce, by_stream: true },
    }
}
