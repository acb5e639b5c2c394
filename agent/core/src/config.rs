//! The configuration, parsed once into types that cannot be wrong.
//!
//! `docs/config.md` is the commented schema; a test parses it. Whatever is wrong is one error with the line, the
//! value and the nearest name that would have been right, and nothing is started.

mod board;
mod broker;
mod check;
mod desired;
mod nearest;
mod policy;
mod quantity;
mod raw;

use alloc::{
    collections::BTreeMap,
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
};
use crate::{
    calibration::Calibration,
    clock::Trust,
    fault::FaultPolicy,
    health::Quarantine,
    ids::QueueId,
    limits::CellLimits,
    lines::Lines,
    mapping::Mapping,
    modbus::Register,
    outbox::{Bounds, Publish},
    packet::Kind,
    payload::Encoding,
    setup::{Param, World},
    simulator::Behaviour,
    stream::Pattern,
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
    pub uplink: Uplink,
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
    /// Whether the same numbers are published once a minute.
    pub publish_metrics: bool,
    /// Where packets wait.
    pub outbox: OutboxConfig,
    /// Bytes of packets on which cells faulted that are kept at most.
    pub dead_letter_bytes: u64,
    /// Names of streams that are ever given an id.
    pub max_streams: usize,
    /// Where packets come from.
    pub sources: Vec<Source>,
    /// What is known of streams besides their names.
    pub streams: BTreeMap<String, StreamConfig>,
}

/// The MQTT connection to the cloud side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Where it is, and how to be let in.
    pub broker: Broker,
    /// Which MQTT it speaks.
    pub protocol: Protocol,
    /// `porin-<gateway>` unless set: two clients with one id throw each other out.
    pub client_id: String,
    /// Seconds without traffic after which the connection is probed.
    pub keep_alive_s: u16,
    /// Publishes under way at most, from the oldest unacknowledged to the newest.
    pub in_flight: u16,
    /// Bytes of a publish at most, besides what the broker tells.
    pub max_publish_bytes: usize,
    /// The shortest pause between two attempts to connect, in microseconds.
    pub reconnect_us: u64,
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

/// Where packets come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its name in the configuration.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
}

/// Every kind of source.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// Rows of a recorded file.
    Replay(Replay),
    /// Publishes of a local broker.
    Mqtt(MqttSource),
    /// Made-up streams.
    Simulator(SimulatorSource),
    /// Chips on a bus.
    Sensor(SensorSource),
    /// What the kernel measures.
    Sysfs(SysfsSource),
    /// Lines that come from somewhere.
    Lines(LinesSource),
    /// Registers of devices.
    Modbus(ModbusSource),
}

/// Rows of a recorded file: columns timestamp (seconds), channel, value.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// `.csv` or `.csv.gz`.
    pub file: String,
    /// The stream of a row: `{channel}` stands for the row's channel.
    pub streams: String,
    /// Recorded seconds per second, or `None`: as fast as possible.
    pub speed: Option<f64>,
}

/// Publishes of a local broker, which keeps them while the agent is down.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttSource {
    /// Where it is, and how to be let in.
    pub broker: Broker,
    /// Fixed: the broker keeps the session under it. `porin-<gateway>-<source>` unless set.
    pub client_id: String,
    /// Seconds without traffic after which the connection is probed.
    pub keep_alive_s: u16,
    /// QoS 1: the broker is told when a publish is decided about and durable. Else QoS 0.
    pub acknowledged: bool,
    /// Publishes that the broker has under way at most. At half of it a commit is due.
    pub window: u16,
    /// The first that chooses a topic says what it means.
    pub topics: Vec<Mapping>,
}

/// Made-up streams.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatorSource {
    /// A stream's name: `{n}` stands for its number, from 1.
    pub streams: String,
    /// What they do.
    pub behaviour: Behaviour,
    /// Not in real time; readings then have the same times in every run.
    pub as_fast_as_possible: bool,
    /// Readings of all streams together, then it ends.
    pub readings: u64,
}

/// Chips on a bus. Which there are, and what can be set, `porin-drivers` knows.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorSource {
    /// `/dev/i2c-N` or `/dev/spidevN.M`.
    pub bus: String,
    /// What is on it.
    pub chips: Vec<WiredChip>,
}

/// A chip on a bus.
#[derive(Clone, Debug, PartialEq)]
pub struct WiredChip {
    /// Its name.
    pub chip: String,
    /// On I²C; `None`: where it is unless it is wired otherwise.
    pub address: Option<u8>,
    /// Between two measurements, in microseconds.
    pub every_us: u64,
    /// A stream's name: `{channel}` stands for the name of what the chip measures.
    pub streams: String,
    /// What is set.
    pub options: Vec<(String, f64)>,
}

/// What the kernel measures, and tells in files.
#[derive(Clone, Debug, PartialEq)]
pub struct SysfsSource {
    /// Each with a stream of its own.
    pub inputs: Vec<SysfsInput>,
}

/// One quantity that the kernel tells.
#[derive(Clone, Debug, PartialEq)]
pub struct SysfsInput {
    /// Where it is.
    pub place: SysfsPlace,
    /// Between two readings, in microseconds.
    pub every_us: u64,
    /// The stream.
    pub stream: String,
}

/// Where the kernel tells a quantity. Devices are found by their names: their numbers change from start to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SysfsPlace {
    /// Of a device in `/sys/class/hwmon`, such as `cpu_thermal` and `temp1`.
    Hwmon(String, String),
    /// Of a device in `/sys/bus/iio/devices`, such as `bme280` and `in_temp`.
    Iio(String, String),
    /// A thermometer on the 1-wire bus, such as `28-0316a4b2d9ff`.
    OneWire(String),
    /// A file with a number.
    File(String),
}

/// Registers of Modbus devices on one line or connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusSource {
    /// How they are reached.
    pub line: ModbusLine,
    /// How long an answer is waited for, in microseconds.
    pub timeout_us: u64,
    /// Each with its own rhythm.
    pub slaves: Vec<Slave>,
}

/// How Modbus devices are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModbusLine {
    /// `HOST:PORT`.
    Tcp(String),
    /// A serial line: device, bits a second, parity. With a parity bit or without, 8 bits and one stop bit.
    Rtu(String, u32, Parity),
}

/// Of a serial line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    #[default]
    None,
    Even,
    Odd,
}

impl Parity {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 3] = [("none", Self::None), ("even", Self::Even), ("odd", Self::Odd)];
}

/// A Modbus device.
#[derive(Clone, Debug, PartialEq)]
pub struct Slave {
    /// Its address on the line; behind a TCP connection often 1 or 255.
    pub unit: u8,
    /// Between two times that it is asked, in microseconds.
    pub every_us: u64,
    /// What is asked for.
    pub registers: Vec<Register>,
}

/// Lines that come from somewhere, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesSource {
    /// Where they come from.
    pub from: LinesFrom,
    /// What they mean.
    pub lines: Lines,
}

/// Where lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinesFrom {
    /// Datagrams to this address, of one or more lines each. Whoever can send there is believed.
    Udp(SocketAddr),
    /// A file that grows, from its present end on; it may be renamed and begun anew.
    File(String),
    /// What a command prints: the program and its arguments. It is started again when it ends.
    Process(Vec<String>),
    /// A serial line: its device, and bits a second.
    Serial(String, u32),
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

/// Which streams go through which slots, in order, and out to the uplink.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name in the configuration.
    pub name: String,
    /// A stream belongs if one of them matches.
    pub streams: Vec<Pattern>,
    /// What enters it: readings, or messages. Only a decoding slot changes that.
    pub input: Kind,
    /// In order. A slot is in one route, at one place; each takes what the one before it gives.
    pub slots: Vec<Slot>,
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
    File(LogFile),
    /// A topic of the uplink's broker. Lines are not kept while there is no connection.
    Mqtt(String),
}

/// Where a cell's lines are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The newest; older ones have `.1`, `.2` and so on at the end.
    pub path: String,
    /// Bytes of each.
    pub max_bytes: u64,
    /// How many older ones are kept.
    pub keep: u32,
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
        Self(DEFAULT_TOPIC.to_string())
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

/// Where publishes go when the configuration does not say: 5 slashes of the 7 that AWS IoT allows.
pub const DEFAULT_TOPIC: &str = "porin/v1/gw/{gw}/data/{route}";

/// Where a cell's log is published when the configuration does not say.
pub const DEFAULT_LOG_TOPIC: &str = "porin/v1/gw/{gw}/log/{slot}";

/// The grants there are. The host knows how to honour them: `agent/cell/src/caps.rs`.
pub const GRANTS: [&str; 2] = ["log", "clock"];

impl GatewayConfig {
    /// Whether time is that of recordings: cells, windows and ticks then see the time of packets, else wall time.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        let is_replay = |source: &Source| match &source.kind {
            SourceKind::Replay(_) => true,
            SourceKind::Simulator(simulator) => simulator.as_fast_as_possible,
            SourceKind::Mqtt(_)
            | SourceKind::Sensor(_)
            | SourceKind::Sysfs(_)
            | SourceKind::Lines(_)
            | SourceKind::Modbus(_) => false,
        };
        !self.sources.is_empty() && self.sources.iter().all(is_replay)
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
