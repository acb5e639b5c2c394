//! What a gateway says of itself: counters for every fate of a packet, and whether they add up.
//!
//! Names and meaning are in `docs/status.md`. Version 1; a field may be added, none changes its meaning.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

#[cfg(feature = "read")]
use serde::Deserialize;
use serde::Serialize;

use crate::{
    config::Level,
    health::State,
    ids::{Overflow, Priority, QueueId},
    outbox::{Counts, Outbox},
    trust::reported::UpdateState,
    words::{self, Word},
};

/// Everything, at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct Snapshot {
    /// Version of this form: 1.
    pub v: u8,
    /// The gateway's id.
    pub gateway: String,
    /// porin's version.
    pub version: String,
    /// `<store>-<starts>`.
    pub epoch: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Whether the machine's clock is believed.
    pub clock_trusted: bool,
    /// By which time certificates are judged.
    #[serde(with = "words")]
    pub certificate_time: JudgedBy,
    /// The MQTT connection.
    pub uplink: UplinkStatus,
    /// In the order of the configuration.
    pub sources: Vec<SourceStatus>,
    /// By id.
    pub streams: Vec<StreamStatus>,
    /// In the order of the configuration.
    pub routes: Vec<RouteStatus>,
    /// Where packets wait.
    pub outbox: OutboxStatus,
    /// Where routes end besides the uplink, in the order of the configuration.
    pub sinks: Vec<SinkStatus>,
    /// Packets on which cells faulted, and that are kept.
    pub dead_letters: DeadLetterStatus,
    /// What comes over the uplink to run here; `None`: nothing is taken from there.
    pub update: Option<UpdateStatus>,
    /// What does not add up. Empty, or there is a defect in porin.
    pub imbalance: Vec<String>,
}

/// By which time certificates are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedBy {
    /// The wall clock.
    #[default]
    Clock,
    /// Only their ends, by the time at which the clock was last trusted, until something sets it.
    Floor,
}

impl Word for JudgedBy {
    const WORDS: &'static [(&'static str, Self)] = &[("clock", Self::Clock), ("floor", Self::Floor)];
}

/// Whether a gateway is connected, as it says itself, or the broker in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Presence {
    Online,
    Offline,
}

impl Word for Presence {
    const WORDS: &'static [(&'static str, Self)] = &[("online", Self::Online), ("offline", Self::Offline)];
}

/// What comes over the uplink to run here.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct UpdateStatus {
    /// Where routes, slots and their parameters come from: `configuration`, or a desired state.
    pub cells_from: String,
    /// What is being done about the desired state: as reported, see `docs/updates.md`.
    #[serde(with = "words")]
    pub state: UpdateState,
    /// Why that came to nothing, or why nothing goes on.
    pub reason: Option<String>,
    /// Why the last document that did not count did not.
    pub refused: Option<String>,
    /// The fleet of the root.
    pub fleet: String,
    /// The root that counts.
    pub root_version: u64,
}

/// The MQTT connection.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct UplinkStatus {
    /// Whether there is one now.
    pub connected: bool,
    /// Connections made since the start.
    pub connections: u64,
    /// Why the last one ended, or why there is none.
    pub last_error: Option<String>,
    /// Publishes sent, those sent again among them.
    pub publishes: u64,
    /// Publishes that the broker did not take for the moment, and that were sent again after a pause.
    pub put_off: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Publishes under way.
    pub in_flight: usize,
    /// The certificates in use.
    pub certificates: Vec<CertificateStatus>,
}

/// A file with certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct CertificateStatus {
    /// Its path.
    pub file: String,
    /// Seconds since 1970: when the first of them is not valid any more.
    pub not_after_s: u64,
}

/// One source.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct SourceStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Packets that it made.
    pub received: u64,
    /// Of them, those that no route wants.
    pub unrouted: u64,
    /// Of them, those on streams beyond `max_streams`.
    pub refused: u64,
    /// Of them, those that at least one route wants.
    pub routed: u64,
    /// Rows or publishes that could not be read.
    pub bad_rows: u64,
    /// The last of them: where and why.
    pub last_bad_row: Option<String>,
    /// Starts after a failure.
    pub restarts: u64,
    /// The last failure.
    pub last_error: Option<String>,
    /// Whether it has come to its end.
    pub ended: bool,
    /// What it asks: chips, files, devices. Empty for sources that are told.
    pub parts: Vec<PartStatus>,
    /// What it listens to: topic filters, a line, a file. Empty for sources that ask.
    pub inputs: Vec<InputStatus>,
}

/// One thing that a source listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct InputStatus {
    /// The topic filter, or what is read.
    pub name: String,
    /// Whether anything has come from there.
    pub used: bool,
    /// What came and could be read, but gave no packet.
    pub empty: u64,
    /// The last of them.
    pub last_empty: Option<String>,
    /// Bytes that came after the last line or frame that ended.
    pub unended_bytes: u64,
    /// The beginning of the latest of them, where there are many.
    pub last_unended: Option<String>,
}

/// One thing that a source asks, each by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct PartStatus {
    /// What it is and where.
    pub name: String,
    /// Whether it answered when it was asked last.
    pub ok: bool,
    /// How often it was asked.
    pub polls: u64,
    /// Of them, how often it did not answer.
    pub failures: u64,
    /// Times at which it should have been asked and was not, because the last answer took so long.
    pub missed: u64,
    /// Why it did not answer the last time that it did not.
    pub last_error: Option<String>,
}

/// One stream.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// Packets that sources made on it.
    pub received: u64,
    /// Packets that came out of routes on it.
    pub forwarded: u64,
}

/// One route.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct RouteStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Packets that it wanted.
    pub received: u64,
    /// In order.
    pub slots: Vec<SlotStatus>,
    /// Packets that came out of it, for the outbox or for sinks.
    pub forwarded: u64,
    /// Of them, those that it appended to the outbox: all or, if it does not end at the uplink, none.
    pub appended: u64,
}

/// Where routes end besides the uplink. `taken` = `waiting` + `done` + `lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether it does what it is told.
    pub ok: bool,
    /// Packets that routes gave it.
    pub taken: u64,
    /// Of them, those that it has not come to yet.
    pub waiting: u64,
    /// Of them, those written, those by which a line went, or those that a local broker has.
    pub done: u64,
    /// Of them, those that could not be written or published, or that a line never went by because others came.
    pub lost: u64,
    /// The level of an output line. `None`: the sink is no output line, or the agent does not hold it.
    #[serde(with = "words::optional")]
    pub level: Option<Level>,
    /// Why it last did not do what it was told.
    pub last_error: Option<String>,
}

/// One slot and the cell in it.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct SlotStatus {
    /// Its name in the configuration.
    pub name: String,
    /// SHA-256 of the component, in hex.
    pub digest: String,
    /// Where the component comes from: a file of the owner's, or a release.
    pub from: String,
    /// Whether its cell is called.
    #[serde(with = "words")]
    pub state: State,
    /// Packets fed in, those given again among them.
    pub input: u64,
    /// Of them, dead letters that were given again.
    pub replayed: u64,
    /// Of them, those that the cell has decided about.
    pub processed: u64,
    /// Of them, those on which the cell faulted alone, whose stream it does not take, or that came while there was none.
    pub faulted: u64,
    /// Of the faulted, those whose stream the cell does not take.
    pub refused: u64,
    /// Of the faulted, those that went on as they came.
    pub passed: u64,
    /// Of the faulted, those given up.
    pub dropped: u64,
    /// Of the faulted, those kept as dead letters.
    pub dead_lettered: u64,
    /// Packets that came out.
    pub output: u64,
    /// Streams that the cell does not take.
    pub streams_refused: usize,
    /// The first few of them, and why.
    pub refused_streams: Vec<RefusedStream>,
    /// Calls of `process`.
    pub calls: u64,
    /// Calls of any export that failed.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<String>,
    /// Fuel used by `process`, in calls that count.
    pub fuel: u64,
    /// Fuel used by calls that failed and by making the cell again.
    pub lost_fuel: u64,
    /// Wall time of `process`, the way in and out of the cell included.
    pub nanoseconds: u64,
    /// Bytes of linear memory.
    pub memory_bytes: usize,
    /// Why its cell did not take the state that was kept for it, and began afresh, if it did.
    pub fresh: Option<String>,
    /// Lines that the cell logged beyond what it may log in a call or a second, or that could not be written.
    pub log_lines_dropped: u64,
    /// Of them, those that could not be written: nothing that the cell can help.
    pub log_lines_unwritten: u64,
}

/// A stream that a cell does not take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct RefusedStream {
    /// Its name.
    pub stream: String,
    /// In the cell's words.
    pub reason: String,
}

/// Packets on which cells faulted. `found` + `added` = `waiting` + `replayed` + `discarded` + `evicted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct DeadLetterStatus {
    /// Found on disk at the start.
    pub found: u64,
    /// Came since.
    pub added: u64,
    /// Kept.
    pub waiting: u64,
    /// In bytes, as they are counted.
    pub bytes: u64,
    /// Given to a cell again.
    pub replayed: u64,
    /// Thrown away because somebody said so.
    pub discarded: u64,
    /// Thrown away because others came.
    pub evicted: u64,
}

/// Where packets wait.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct OutboxStatus {
    /// Handed over by the pipeline, or found on disk at the start.
    pub appended: u64,
    /// Found on disk at the start.
    pub found: u64,
    /// Appended by routes before the last change of the configuration: their counters began anew with it.
    pub earlier: u64,
    /// The broker has them.
    pub acknowledged: u64,
    /// Waiting, those under way among them.
    pub waiting: u64,
    /// Of them, in bytes as the outbox counts them.
    pub waiting_bytes: u64,
    /// Given up because the outbox was full.
    pub evicted: u64,
    /// Given up because they were older than their routes want them.
    pub expired: u64,
    /// Refused by the broker for good.
    pub dead_lettered: u64,
    /// Of them, by the broker's reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// By queue, the most urgent first.
    pub queues: Vec<QueueStatus>,
    /// Sent again after a lost connection.
    pub resent: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Microseconds that they took together, the wait for the disk included.
    pub commit_us: u64,
    /// Microseconds that the slowest took.
    pub slowest_commit_us: u64,
    /// Why the last commit failed: packets are in memory only. `None`: it did not.
    pub disk_error: Option<String>,
    /// Records that commits wrote: those acknowledged before their commit are never written.
    pub written: u64,
}

/// What waits in one queue.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "read", derive(Deserialize), serde(default))]
pub struct QueueStatus {
    /// The routes' priority.
    #[serde(with = "words")]
    pub priority: Priority,
    /// The routes' rule of overflow.
    #[serde(with = "words")]
    pub overflow: Overflow,
    /// Packets.
    pub waiting: u64,
}

impl OutboxStatus {
    /// What the outbox itself knows.
    #[must_use]
    pub fn of(outbox: &Outbox) -> Self {
        let Counts { appended, acknowledged, evicted, expired, dead_lettered, resent } = outbox.counts();
        let (waiting, waiting_bytes) = (outbox.waiting(), outbox.bytes());
        let queue =
            |(id, waiting): (QueueId, u64)| QueueStatus { priority: id.priority(), overflow: id.overflow(), waiting };
        let queues = outbox.waiting_by_queue().map(queue).collect();
        let known = Self { appended, acknowledged, waiting, waiting_bytes, queues, ..Self::default() };
        Self { evicted, expired, dead_lettered, resent, ..known }
    }
}

impl Snapshot {
    /// Adds everything up. Gives what does not: the three balances of the architecture's first invariant.
    #[must_use]
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: &str, left: u64, right: u64| {
            if left != right {
                found.push(format!("{what}: {left} is not {right}"));
            }
        };
        for source in &self.sources {
            let what = format!("source `{}`: received = unrouted + refused + routed", source.name);
            check(&what, source.received, source.unrouted + source.refused + source.routed);
        }
        let mut appended = self.outbox.found + self.outbox.earlier;
        for route in &self.routes {
            let mut flowing = route.received;
            for slot in &route.slots {
                check(&format!("slot `{}`: input = what came before", slot.name), slot.input, flowing + slot.replayed);
                check(
                    &format!("slot `{}`: input = processed + faulted", slot.name),
                    slot.input,
                    slot.processed + slot.faulted,
                );
                check(
                    &format!("slot `{}`: faulted = passed + dropped + dead-lettered", slot.name),
                    slot.faulted,
                    slot.passed + slot.dropped + slot.dead_lettered,
                );
                flowing = slot.output;
            }
            check(&format!("route `{}`: forwarded = what came out last", route.name), route.forwarded, flowing);
            appended += route.appended;
        }
        for SinkStatus { name, taken, waiting, done, lost, .. } in &self.sinks {
            check(&format!("sink `{name}`: taken = waiting + done + lost"), *taken, waiting + done + lost);
        }
        let outbox = &self.outbox;
        check("outbox: appended = found + earlier + appended by routes", outbox.appended, appended);
        let fates = outbox.acknowledged + outbox.waiting + outbox.evicted + outbox.expired + outbox.dead_lettered;
        check("outbox: appended = acknowledged + waiting + evicted + expired + dead-lettered", outbox.appended, fates);
        let dead = &self.dead_letters;
        let fates = dead.waiting + dead.replayed + dead.discarded + dead.evicted;
        check("dead letters: found + added = waiting + replayed + discarded + evicted", dead.found + dead.added, fates);
        found
    }

    /// With version, and with what does not add up.
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.v = 1;
        self.version = env!("CARGO_PKG_VERSION").to_string();
        self.imbalance = self.imbalances();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn balanced() -> Snapshot {
        let slot = SlotStatus {
            input: 11,
            replayed: 1,
            processed: 7,
            faulted: 4,
            passed: 1,
            dropped: 1,
            dead_lettered: 2,
            output: 3,
            ..SlotStatus::default()
        };
        Snapshot {
            sources: vec![SourceStatus {
                received: 12,
                unrouted: 1,
                refused: 1,
                routed: 10,
                ..SourceStatus::default()
            }],
            routes: vec![RouteStatus {
                received: 10,
                slots: vec![slot],
                forwarded: 3,
                appended: 3,
                ..RouteStatus::default()
            }],
            sinks: vec![SinkStatus { taken: 6, waiting: 1, done: 2, lost: 3, ..SinkStatus::default() }],
            outbox: OutboxStatus {
                appended: 6,
                found: 3,
                acknowledged: 1,
                waiting: 2,
                evicted: 1,
                expired: 1,
                dead_lettered: 1,
                ..OutboxStatus::default()
            },
            dead_letters: DeadLetterStatus {
                found: 1,
                added: 3,
                waiting: 1,
                replayed: 1,
                discarded: 1,
                evicted: 1,
                ..DeadLetterStatus::default()
            },
            ..Snapshot::default()
        }
    }

    #[test]
    fn every_packet_has_one_fate() {
        assert_eq!(balanced().imbalances(), Vec::<String>::new());
    }

    #[test]
    fn a_packet_without_a_fate_is_found_wherever_it_is_missing() {
        let check = |spoil: fn(&mut Snapshot)| {
            let mut snapshot = balanced();
            spoil(&mut snapshot);
            assert!(!snapshot.imbalances().is_empty());
        };
        check(|snapshot| snapshot.sources[0].unrouted += 1);
        check(|snapshot| snapshot.routes[0].received += 1);
        check(|snapshot| snapshot.routes[0].slots[0].faulted += 1);
        check(|snapshot| snapshot.routes[0].slots[0].dropped += 1);
        check(|snapshot| snapshot.routes[0].slots[0].passed += 1);
        check(|snapshot| snapshot.routes[0].slots[0].dead_lettered += 1);
        check(|snapshot| snapshot.routes[0].slots[0].replayed += 1);
        check(|snapshot| snapshot.dead_letters.evicted += 1);
        check(|snapshot| snapshot.routes[0].slots[0].output += 1);
        check(|snapshot| snapshot.routes[0].appended += 1);
        check(|snapshot| snapshot.sinks[0].lost += 1);
        check(|snapshot| snapshot.outbox.appended += 1);
        check(|snapshot| snapshot.outbox.waiting -= 1);
        check(|snapshot| snapshot.outbox.expired += 1);
        check(|snapshot| snapshot.outbox.dead_lettered -= 1);
    }
}
