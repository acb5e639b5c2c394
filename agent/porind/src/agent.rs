//! The one data path, in one loop.
//!
//! ```text
//! source → inbox → pipeline.process(batch, now) → outbox.append(kept) → outbox.take(window) → link
//!                                                                                              ↓
//!                                                           outbox.ack(ticket) ← Event::Acked
//! ```
//!
//! What a route keeps for local sinks goes to them at once, whether there is a connection or not.
//!
//! The loop runs on the pipeline's thread and owns everything that decides: the cells, the outbox, the counters. It
//! does no I/O of its own but to read a backlog. Sources and the link are tasks on the I/O thread, commits wait for the
//! disk on the committer's; all of them meet the loop only through the bounded queues of the inbox.

mod burying;
mod clock;
mod commits;
mod losses;
mod recording;
mod reloading;
mod sending;
mod sources;
mod telling;
mod updating;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use porin_core::{
    clock::{CertificateTime, Chip, Clock},
    config::{Config, LinkConfig},
    dead::DeadLetters,
    ids::RouteId,
    outbox::Outbox,
    packet::{Message, Packet, Reading},
    record::Record,
    status::Snapshot,
    time::{Monotonic, Now, Unix},
    update,
};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tracing::info;

use self::{
    clock::judge,
    commits::Commits,
    losses::Losses,
    sending::{Link, Patience},
    sources::{Source, admit_message, admit_reading},
};
pub(crate) use self::{telling::notify, updating::Updating};
use crate::{
    committer::Committer,
    files::Files,
    inbox::{Event, FromSource, Inbox, Question},
    link::{Incoming, Publish, Request},
    machine::{self, Uptime},
    pipeline::{Forwarded, Pipeline, Routed, To},
    sink::{Age, LAST_DRAIN, Sinks},
    source,
    store::{Room, Store},
    tap::Tap,
    trial::Trial,
};

/// Time for what waits to leave after a stop was asked for.
const DRAIN_US: u64 = 5_000_000;

/// The loop sleeps at most this long, so that nothing depends on a lost wake-up.
const MAX_SLEEP_US: u64 = 1_000_000;

/// Between two looks at what is too old, and at whether the kernel trusts its clock.
const LOOK_US: u64 = 1_000_000;

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

/// What decides, and remembers.
pub(crate) struct Core {
    pub(crate) pipeline: Pipeline,
    pub(crate) outbox: Outbox,
    pub(crate) dead: DeadLetters,
    pub(crate) clock: Clock,
    /// Names of routes by id, those of earlier configurations among them.
    pub(crate) route_names: Vec<String>,
    /// Names of streams that the store has.
    pub(crate) durable_names: usize,
    /// Whether anything new may be written.
    pub(crate) room: Room,
}

/// What the agent is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) until: Until,
    pub(crate) store: Arc<Store>,
    pub(crate) uptime: Uptime,
    pub(crate) inbox: Inbox,
    pub(crate) committer: Committer,
    /// Within which time the service manager wants to hear of progress, in microseconds.
    pub(crate) watchdog_us: Option<u64>,
    /// By source: up to which count its packets are settled.
    pub(crate) settled: Vec<watch::Sender<u64>>,
    pub(crate) link: mpsc::Sender<Request>,
    /// The time at which the clock was last believed: certificates are never judged by an earlier one.
    pub(crate) certificate_time: watch::Sender<CertificateTime>,
    /// What the link connects to next.
    pub(crate) uplink: watch::Sender<LinkConfig>,
    /// Sources to be started and ended.
    pub(crate) orders: mpsc::Sender<Vec<source::Order>>,
    pub(crate) stop_link: watch::Sender<bool>,
    /// `None`: nothing is taken from the uplink to run here.
    pub(crate) updating: Option<Updating>,
}

struct Agent {
    core: Core,
    parts: Parts,
    /// Of the step at hand.
    now: Now,
    /// When the second's look is due.
    look_at: Monotonic,
    sources: Vec<Source>,
    link: Link,
    commit: Commits,
    found: u64,
    /// Appended by routes before the last change of the configuration.
    earlier: u64,
    losses: Losses,
    updating: Option<Updating>,
    /// The set of cells that is to prove itself, or the one that waits beside it.
    trial: Option<Trial>,
    /// Whether cells live in the time of the packets.
    replay: bool,
    /// Who looks at packets as they pass.
    taps: Vec<Tap>,
    /// When the numbers are published next.
    tell_at: Monotonic,
    /// What somebody asked for of what was recorded: topics and payloads, sent one after the other.
    recorded: VecDeque<Publish>,
    /// When certificates that end soon are told of next.
    warn_at: Monotonic,
    /// When the service manager hears of progress next.
    feed_at: Monotonic,
    /// Where routes end besides the uplink.
    sinks: Sinks,
    /// What they are to be given.
    for_sinks: Vec<(RouteId, Packet)>,
    /// Who writes what cells log, and files that are sinks.
    files: Files,
    /// A configuration that waits for the end of a commit.
    reload_next: Option<Config>,
    /// When a stop was asked for.
    stopping: Option<Monotonic>,
    /// Whether the machine has a clock chip.
    clock_chip: Chip,
}

/// Runs until it is stopped or drained, on the calling thread. Gives the last status.
pub(crate) fn run(core: Core, parts: Parts) -> Snapshot {
    let mut agent = Agent::new(core, parts);
    agent.sinks.exchange(&agent.parts.config.gateway.sinks, &agent.parts.certificate_time, &mut agent.files);
    while !agent.link.closed {
        let event = agent.next();
        agent.step(event);
    }
    agent.pass_on_logs();
    agent.sinks.drain(&mut agent.files, LAST_DRAIN);
    agent.files.stop();
    let last = agent.status();
    std::mem::take(&mut agent.sinks).hang_up();
    agent.parts.committer.stop();
    last
}

impl Agent {
    fn new(core: Core, mut parts: Parts) -> Self {
        let found = core.outbox.counts().appended;
        let sources = parts.config.gateway.sources.iter().map(Source::new).collect();
        let commit = Commits::new(&core);
        let now = Now { unix: machine::wall_clock(), mono: parts.uptime.now() };
        Self {
            replay: parts.config.gateway.is_replay(),
            updating: parts.updating.take(),
            trial: None,
            core,
            parts,
            now,
            look_at: Monotonic(0),
            sources,
            link: Link::default(),
            commit,
            found,
            earlier: 0,
            losses: Losses::default(),
            stopping: None,
            taps: Vec::new(),
            tell_at: Monotonic(0),
            recorded: VecDeque::new(),
            warn_at: Monotonic(0),
            feed_at: Monotonic(0),
            sinks: Sinks::default(),
            for_sinks: Vec::new(),
            files: Files::default(),
            reload_next: None,
            clock_chip: machine::clock_chip(),
        }
    }

    fn next(&mut self) -> Event {
        let patience = self.deadline().since(self.parts.uptime.now());
        let stopping = self.stopping.is_some();
        let Self { sources, core, parts: Parts { inbox, committer, .. }, .. } = self;
        let (full, at_bound) = (core.outbox.is_full(), core.outbox.is_at_bound());
        let takes = |source: usize| !(stopping || full || at_bound && sources[source].may_block);
        inbox.next(committer, takes, Duration::from_micros(patience.min(MAX_SLEEP_US)))
    }

    fn step(&mut self, event: Event) {
        self.now = Now { unix: machine::wall_clock(), mono: self.parts.uptime.now() };
        self.feed_the_watchdog();
        if self.now.mono >= self.look_at {
            self.look_at = self.now.mono.after(LOOK_US);
            self.look_at_the_clock();
            self.judge_certificates();
            self.expire();
            self.warn_of_certificates();
        }
        match event {
            Event::Source(source, FromSource::Batch { readings, messages, upto }) => {
                self.decide(source, readings, messages, upto);
            }
            Event::Source(source, FromSource::Stream { local, name, kind }) => self.admit(source, local, &name, kind),
            Event::Source(source, FromSource::BadRow(place)) => self.bad_row(source, place),
            Event::Source(source, FromSource::Input(index, status)) => self.input(source, index, status),
            Event::Source(source, FromSource::Part(index, status)) => self.part(source, index, status),
            Event::Source(source, FromSource::Restart(reason)) => self.restarted(source, reason),
            Event::Source(source, FromSource::Ended) => self.ended(source),
            Event::Link(event) => self.link_event(event),
            Event::Came(Incoming { topic, payload }) => {
                self.update_event(update::Event::Came { topic: &topic, payload: &payload });
            }
            Event::Committed(outcome) => self.committed(outcome),
            Event::Question(Question::Status(reply)) => drop(reply.send(self.status())),
            Event::Question(Question::Tap(tap)) => self.look(tap),
            Event::Question(Question::Dead(what, reply)) => drop(reply.send(self.dead(&what))),
            Event::Reload(config) => self.reload_next = Some(*config),
            Event::Stop => self.stop(),
            Event::Deadline => {}
        }
        // The store is asked for names of routes, and must not make the loop wait for the commit that runs.
        if self.commit.running.is_none()
            && let Some(config) = self.reload_next.take()
        {
            self.reload(config);
        }
        if !self.replay {
            self.tick(self.now.mono.0, self.now);
        }
        self.bury();
        self.make_room();
        self.settle_without_disk();
        self.go_on_with_updates();
        self.load();
        self.tell();
        self.send();
        self.pass_on_logs();
        self.sinks.write(&mut self.files);
        self.commit();
        self.finish();
    }

    /// The heart: a batch goes through the cells, and what they keep into the outbox.
    fn decide(&mut self, source: usize, mut readings: Vec<Reading>, mut messages: Vec<Message>, upto: u64) {
        let state = &mut self.sources[source];
        let came = readings.len() + messages.len();
        readings.retain_mut(|reading| admit_reading(&state.streams, reading));
        messages.retain_mut(|message| admit_message(&state.streams, message));
        state.status.received += came as u64;
        state.status.refused += (came - readings.len() - messages.len()) as u64;
        let now = self.now;
        let clock = &self.core.clock;
        readings.iter_mut().for_each(|Reading { time, quality, .. }| judge(clock, now, time, quality));
        messages.iter_mut().for_each(|Message { time, quality, .. }| judge(clock, now, time, quality));
        let cells = self.time_of_cells(readings.last().map_or(now.unix, |reading| reading.time));
        self.mark_dirty();
        for tap in &mut self.taps {
            readings.iter().for_each(|reading| tap.reading(&self.core.pipeline, None, reading));
            messages.iter().for_each(|message| tap.message(&self.core.pipeline, None, message));
        }
        let from = self.core.outbox.next_seq();
        let mut sum = Routed::default();
        // One publish may have become many readings: a cell gets no more at a time than it can hold.
        for readings in readings.chunks(CALL) {
            sum += self.through(|pipeline, keep| pipeline.process(readings, cells, keep));
        }
        sum += self.through(|pipeline, keep| pipeline.process_messages(&messages, cells, keep));
        let status = &mut self.sources[source].status;
        status.routed += sum.routed;
        status.unrouted += sum.unrouted;
        let state = &mut self.sources[source];
        state.decided = upto;
        self.show_kept(from);
        if self.replay {
            self.tick(cells.unix.0, cells);
        }
    }

    /// Takes something through the cells into the outbox: through those of both sets while one is on probation.
    fn through<R>(&mut self, call: impl Fn(&mut Pipeline, &mut dyn FnMut(To, Forwarded<'_>)) -> R) -> R {
        let Core { pipeline, outbox, .. } = &mut self.core;
        let (at, for_sinks) = (self.now.mono, &mut self.for_sinks);
        let mut keep = |to: To, kept: Forwarded<'_>| hand_out(outbox, for_sinks, to, kept, at);
        let outcome = match &mut self.trial {
            None => call(pipeline, &mut keep),
            Some(trial) => {
                let stage = trial.stage();
                let outcome = trial.both(pipeline, call, &mut keep, &mut self.earlier);
                // With the set whose output was sent, before the next call may be the other's.
                let fell_back = trial.stage() != stage;
                self.bury();
                if fell_back {
                    self.others_decide();
                }
                outcome
            }
        };
        self.give_to_sinks(Age::Now);
        outcome
    }

    /// What the pipeline goes by: in a replay the packets' time alone, so that it does the same however fast it is; else this machine's.
    fn time_of_cells(&self, packet: Unix) -> Now {
        if self.replay { Now { unix: packet, mono: Monotonic(packet.0) } } else { self.now }
    }

    /// Tells the cells that want to know that time has passed: by the clock of the packets in a replay, else by the clock
    /// that never steps.
    fn tick(&mut self, clock_us: u64, now: Now) {
        if self.next_tick_us(clock_us).is_none_or(|due| clock_us < due) {
            return;
        }
        let from = self.core.outbox.next_seq();
        self.through(|pipeline, keep| pipeline.tick(clock_us, now, keep));
        let changed = self.core.outbox.next_seq() != from || self.core.pipeline.has_unwritten();
        self.show_kept(from);
        if changed {
            self.mark_dirty();
        }
    }

    fn next_tick_us(&mut self, clock_us: u64) -> Option<u64> {
        let beside = self.trial.as_mut().and_then(|trial| trial.next_tick_us(clock_us));
        self.core.pipeline.next_tick_us(clock_us).into_iter().chain(beside).min()
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            notify(&[NotifyState::Stopping]);
            info!(waiting = self.core.outbox.waiting(), "stopping: sending what waits and making the rest durable");
            self.stopping = Some(self.now.mono);
            self.sinks.stop_lines();
            self.commit.due = self.now.mono;
        }
    }

    /// Ends the run when there is nothing left to do, or no time left to do it.
    fn finish(&mut self) {
        let drained = self.core.outbox.waiting() == 0 && self.commit.running.is_none() && !self.is_dirty();
        let ended = self.sources.iter().all(|source| source.status.ended);
        if self.parts.until == Until::Drained && ended && drained {
            self.stop();
        }
        let Some(since) = self.stopping else { return };
        let durable = self.commit.running.is_none() && !self.is_dirty();
        let sent = self.core.outbox.waiting() == 0 || self.link.connection.is_none();
        let late = self.now.mono.since(since) >= DRAIN_US;
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
        let mut deadline = self.now.mono.after(MAX_SLEEP_US);
        if self.parts.watchdog_us.is_some() {
            deadline = deadline.min(self.feed_at);
        }
        if self.commit.running.is_none() && self.is_dirty() {
            deadline = deadline.min(self.commit.due);
        }
        if self.core.outbox.is_over() && self.core.outbox.wants().is_some() {
            deadline = deadline.min(self.now.mono.max(self.link.load_after));
        }
        if !self.replay
            && let Some(tick) = self.next_tick_us(self.now.mono.0)
        {
            deadline = deadline.min(Monotonic(tick));
        }
        if let Some(due) = self.updates_due() {
            deadline = deadline.min(due);
        }
        let patience = self.patience();
        let Core { outbox, pipeline, .. } = &mut self.core;
        let tells = self.parts.config.gateway.publish_metrics_us.is_some();
        if tells && self.link.connection.is_some() && self.parts.link.capacity() > 0 {
            deadline = deadline.min(self.tell_at);
        }
        let room = outbox.window() < self.link.window && self.parts.link.capacity() > 0;
        if self.link.connection.is_some() && room {
            let due = outbox.due(self.link.rules(pipeline, patience));
            deadline = due.map_or(deadline, |due| deadline.min(due));
        }
        deadline
    }
}

/// To where the route ends.
fn hand_out(outbox: &mut Outbox, for_sinks: &mut Vec<(RouteId, Packet)>, to: To, kept: Forwarded<'_>, at: Monotonic) {
    let To { route, queue, sinks } = to;
    let mut hand_out = |packet: Packet| {
        if sinks > 0 {
            for_sinks.push((route, packet.clone()));
        }
        if let Some(queue) = queue {
            outbox.append(queue, Record { route, packet, at });
        }
    };
    match kept {
        Forwarded::Readings(readings) => readings.iter().for_each(|reading| hand_out(Packet::Reading(*reading))),
        Forwarded::Messages(messages) => {
            messages.iter().for_each(|message| hand_out(Packet::Message(Arc::new(message.clone()))));
        }
    }
}

#[cfg(test)]
mod tests;
