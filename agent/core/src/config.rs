//! The configuration, parsed once into types that cannot be wrong.
//!
//! `docs/config.md` says which page documents which key; a test checks that each key is there. Whatever is wrong is one error with the line, the
//! value and the nearest name that would have been right, and nothing is started.

mod board;
mod broker;
mod check;
mod desired;
mod nearest;
mod policy;
mod quantity;
mod raw;
mod sink;
mod source;

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use core::{fmt, net::SocketAddr};

pub use self::{
    board::{Board, Bus, Pin},
    broker::{Broker, Identity, Login, Protocol, Tls, address},
    desired::{DesiredSet, Probation, Releases, Wanted, wanted},
    nearest::nearest,
    policy::Policy,
    quantity::microseconds,
    sink::{GpioLine, Level, LocalBroker, LocalPayload, OutputLine, RotatedFile, Sink, SinkKind, UPLINK},
    source::{
        Bias, Edge, Edges, GpioInput, GpioSource, LinesFrom, LinesSource, ModbusLine, ModbusSource, MqttSource, Parity,
        Replay, SensorSource, SerialLine, SimulatorSource, Slave, Source, SourceKind, SysfsInput, SysfsPlace,
        SysfsSource, WiredChip,
    },
};
use crate::{
    calibration::Calibration,
    clock::Trust,
    fault::FaultPolicy,
    health::Quarantine,
    ids::QueueId,
    limits::CellLimits,
    outbox::{Bounds, Publish},
    packet::PacketKind,
    payload::Encoding,
    setup::{Param, World},
    stream::Pattern,
    topic::DATA_TEMPLATE,
    trust::{Release, Verified},
};

/// What a gateway is and does. `gateway` is always local; `cells` is replaced whole by an accepted desired state.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who this is, where packets come from and where they go.
    pub gateway: GatewayConfig,
    /// What is decided about them.
    pub cells: CellSet,
    /// What a slot may be given at most. From a file of its own; everything unless that is read.
    pub policy: Policy,
}

/// The local part: never changed from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// `[a-z0-9][a-z0-9-]{0,62}`.
    pub id: String,
    /// The MQTT connection to the cloud side.
    pub uplink: LinkConfig,
    /// Where routes publish that do not say.
    pub topic: TopicTemplate,
    /// From whom updates are taken; `None`: from nobody.
    pub updates: Option<Updates>,
    /// When the machine's clock is believed.
    pub clock: Trust,
    /// Where `porind status` asks: a Unix socket.
    pub socket: String,
    /// Where `/metrics` is to be had, on loopback; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Microseconds between two publishes of the same numbers; `None`: they are not published.
    pub publish_metrics_us: Option<u64>,
    /// Where packets wait.
    pub outbox: OutboxConfig,
    /// Bytes of packets on which cells faulted that are kept at most.
    pub dead_letter_bytes: u64,
    /// Names of streams that are ever given an id.
    pub max_streams: usize,
    /// Where packets come from.
    pub sources: Vec<Source>,
    /// Where routes may end besides the uplink.
    pub sinks: Vec<Sink>,
    /// What is known of streams besides their names.
    pub streams: BTreeMap<String, StreamConfig>,
}

/// An MQTT connection on which the agent publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where it is, and how to be let in.
    pub broker: Broker,
    /// Which MQTT it speaks.
    pub protocol: Protocol,
    /// Two clients with one id throw each other out.
    pub client_id: String,
    /// Seconds without traffic after which the connection is probed.
    pub keep_alive_s: u16,
    /// Publishes under way at most, from the oldest unacknowledged to the newest.
    pub in_flight: u16,
    /// Bytes of a publish at most, besides what the broker tells.
    pub max_publish_bytes: usize,
    /// The shortest pause between two attempts to connect, in microseconds.
    pub reconnect_us: u64,
    /// The longest one, in microseconds: what is in between grows, and is up to chance.
    pub max_pause_us: u64,
}

/// From whom updates are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates {
    /// The file with the root that the owner trusts.
    pub root: String,
    /// The groups that this gateway counts itself to, the one whose desired state wins first.
    pub groups: Vec<String>,
    /// The hardware it runs on.
    pub board: Option<String>,
}

/// Where packets wait until the broker has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// The redb file.
    pub path: String,
    /// How much waits at most, and how fast a backlog leaves.
    pub bounds: Bounds,
    /// What a power cut may cost, in microseconds.
    pub commit_every_us: u64,
}

/// What is known of a stream besides its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamConfig {
    /// SenML unit symbol, or empty.
    pub unit: String,
    /// What corrects what a source reads.
    pub calibration: Option<Calibration>,
    /// Its own parameters, such as `span`: they win over a slot's.
    pub params: Vec<Param>,
}

/// What is decided: routes and their slots, as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSet {
    /// Which streams go through which slots.
    pub routes: Vec<Route>,
    /// `[routes]` and `[slots]` as they were written; the owner's own components stand as `local`.
    pub text: String,
}

impl CellSet {
    /// The slots of all routes, in order.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.routes.iter().flat_map(|route| &route.slots)
    }
}

/// Which streams go through which slots, in order, and where they end.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name in the configuration.
    pub name: String,
    /// A stream belongs if one of them matches.
    pub streams: Vec<Pattern>,
    /// What enters it: readings, or messages. Only a decoding slot changes that.
    pub input: PacketKind,
    /// In order. A slot is in one route, at one place; each takes what the one before it gives.
    pub slots: Vec<Slot>,
    /// Whether it ends at the uplink.
    pub uplink: bool,
    /// The sinks at which it ends.
    pub sinks: Vec<String>,
    /// Where its publishes go.
    pub topic: TopicTemplate,
    /// Whether a packet may leave before its commit.
    pub publish: Publish,
    /// How urgent its packets are, and what it gives up when the outbox is full.
    pub queue: QueueId,
    /// A packet that has waited for longer is given up, in microseconds. [`u64::MAX`]: never.
    pub expire_us: u64,
    /// How its packets are written.
    pub encoding: Encoding,
    /// Bytes of a payload at most, unless a single packet has more.
    pub batch_bytes: usize,
    /// Packets in a publish at most.
    pub batch_packets: usize,
    /// How long an incomplete publish waits for more packets, in microseconds.
    pub batch_wait_us: u64,
    /// How much of what enters it is kept in memory, for new cells to be tried on; `None`: nothing.
    pub record: Option<Recording>,
}

/// What is kept of what enters a route. The older end is given up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Nothing older, in microseconds.
    pub us: u64,
    /// No more, as packets lie in memory.
    pub bytes: usize,
}

/// A place for a cell in a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its name in the configuration.
    pub name: String,
    /// Which component, and who vouches for it.
    pub cell: Provenance,
    /// The interface that it speaks.
    pub world: World,
    /// What the component may import.
    pub grants: Vec<String>,
    /// The cell's parameters.
    pub params: Vec<Param>,
    /// Further streams for each stream fed in: `{stream}/alarm`.
    pub outputs: Vec<String>,
    /// How often the cell is told that time has passed, in microseconds; `None`: never.
    pub tick_us: Option<u64>,
    /// What happens to a packet on which the cell faults alone.
    pub fault: FaultPolicy,
    /// How often it may fault before it is called no more.
    pub quarantine: Quarantine,
    /// What becomes of the lines that it logs.
    pub log: LogTo,
    /// What the cell may use.
    pub limits: CellLimits,
}

/// What becomes of the lines that a cell logs. The cell cannot tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTo {
    /// They stand in the agent's own log.
    #[default]
    Journal,
    /// A file; when it is full, it is renamed and another begins.
    File(RotatedFile),
    /// A topic of the uplink's broker. Lines are not kept while there is no connection.
    Mqtt(String),
}

/// Who vouches for a component. Staging takes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The owner's own file, named in the local configuration.
    Local(String),
    /// A publisher's release. Its bytes are in the store.
    Signed(Arc<Verified<Release>>),
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(path),
            Self::Signed(release) => write!(f, "release {} {}, number {}", release.cell, release.semver, release.seq),
        }
    }
}

/// A topic with `{gw}`, `{route}` and `{stream}` to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate(String);

impl Default for TopicTemplate {
    fn default() -> Self {
        Self(DATA_TEMPLATE.to_string())
    }
}

impl TopicTemplate {
    /// The topic of a route's publish, of one stream if [`TopicTemplate::by_stream`].
    #[must_use]
    pub fn fill(&self, gateway: &str, route: &str, stream: &str) -> String {
        self.0.replace("{gw}", gateway).replace("{route}", route).replace("{stream}", stream)
    }

    /// Whether each stream has a topic of its own.
    #[must_use]
    pub fn by_stream(&self) -> bool {
        self.0.contains("{stream}")
    }

    /// The same for one gateway.
    pub(crate) fn of(self, gateway: &str) -> Self {
        Self(self.0.replace("{gw}", gateway))
    }
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConfigError {
    /// From 1.
    pub line: usize,
    /// What, with the value.
    pub message: String,
}

/// Where packets wait when the configuration does not say.
pub const DEFAULT_PATH: &str = "/var/lib/porin/porin.redb";

/// Where the status is to be had when the configuration does not say.
pub const DEFAULT_SOCKET: &str = "/run/porin/porind.sock";

/// The grants there are. The host knows how to honour them: `agent/cell/src/caps.rs`.
pub const GRANTS: [&str; 2] = ["log", "clock"];

impl GatewayConfig {
    /// Whether time is that of recordings: cells, windows and ticks then see the time of packets, else wall time.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(|source| source.kind.is_replay())
    }

    /// Every broker that is connected to, and whose it is.
    pub fn brokers(&self) -> impl Iterator<Item = (String, &Broker)> {
        let sources =
            self.sources.iter().filter_map(|source| Some((format!("source `{}`", source.name), source.kind.broker()?)));
        let sinks = self.sinks.iter().filter_map(|sink| Some((format!("sink `{}`", sink.name), sink.kind.broker()?)));
        core::iter::once(("the uplink".to_string(), &self.uplink.broker)).chain(sources).chain(sinks)
    }
}

/// What holds where a configuration says nothing; without it, what a gateway has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults<'a> {
    /// The uplink's broker: `mqtt://HOST:PORT`. Without it a configuration must name one.
    pub broker: Option<&'a str>,
    /// Instead of [`DEFAULT_PATH`].
    pub path: Option<&'a str>,
    /// Instead of [`DEFAULT_SOCKET`].
    pub socket: Option<&'a str>,
}

impl Config {
    /// Reads and checks a configuration that need not say everything.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse_with(text: &str, defaults: Defaults<'_>) -> Result<Self, ConfigError> {
        check::parse(text, defaults)
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        check::parse(text, Defaults::default())
    }
}

#[cfg(test)]
mod tests;
