//! Where packets come from: every kind of source, as it was configured.

use alloc::{string::String, vec::Vec};
use core::net::SocketAddr;

use super::{Broker, GpioLine, Level};
use crate::{framing::Framing, lines::Lines, mapping::Mapping, modbus::Register, simulator::Behaviour};

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
    /// Lines of GPIO chips.
    Gpio(GpioSource),
}

impl SourceKind {
    /// The broker that it receives from.
    #[must_use]
    pub fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Mqtt(config) => Some(&config.broker),
            Self::Replay(_)
            | Self::Simulator(_)
            | Self::Sensor(_)
            | Self::Sysfs(_)
            | Self::Lines(_)
            | Self::Modbus(_)
            | Self::Gpio(_) => None,
        }
    }

    /// Whether its time is that of recordings.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        match self {
            Self::Replay(_) => true,
            Self::Simulator(simulator) => simulator.as_fast_as_possible,
            Self::Mqtt(_) | Self::Sensor(_) | Self::Sysfs(_) | Self::Lines(_) | Self::Modbus(_) | Self::Gpio(_) => {
                false
            }
        }
    }
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

/// Lines of GPIO chips that are inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpioSource {
    /// Each with a stream of its own.
    pub inputs: Vec<GpioInput>,
}

/// A line of a GPIO chip that is an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpioInput {
    /// Which.
    pub line: GpioLine,
    /// The stream.
    pub stream: String,
    /// The level that counts as 1.
    pub active: Level,
    /// What the kernel is to set of resistors in the chip.
    pub bias: Bias,
    /// A change that does not last so long is none, in microseconds; 0: each counts.
    pub debounce_us: u64,
    /// What is made of its edges.
    pub edges: Edges,
}

/// What is made of the edges of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edges {
    /// A reading each: 1 or 0.
    Told,
    /// They are counted.
    Counted {
        /// Which.
        which: Edge,
        /// Between two readings, in microseconds.
        every_us: u64,
        /// The stream for how many there are in a second.
        rate: Option<String>,
    },
}

/// Which edges: to the level that counts as 1 is rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Edge {
    #[default]
    Rising,
    Falling,
    Both,
}

impl Edge {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 3] =
        [("rising", Self::Rising), ("falling", Self::Falling), ("both", Self::Both)];
}

/// Resistors in the chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bias {
    /// As they are.
    #[default]
    AsIs,
    None,
    PullUp,
    PullDown,
}

impl Bias {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 4] =
        [("as-is", Self::AsIs), ("none", Self::None), ("pull-up", Self::PullUp), ("pull-down", Self::PullDown)];
}

/// Lines that come from somewhere, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinesSource {
    /// Where they come from.
    pub from: LinesFrom,
    /// What they mean.
    pub lines: Lines,
}

/// A serial line: 8 bits, no parity, one stop bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialLine {
    /// Such as `/dev/ttyUSB0`.
    pub device: String,
    /// Bits a second.
    pub baud: u32,
    /// What ends a line, or a frame.
    pub framing: Framing,
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
    /// A serial line.
    Serial(SerialLine),
}
