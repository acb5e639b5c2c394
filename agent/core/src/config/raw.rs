//! The configuration as written: what TOML and serde can check. `config.rs` checks the rest, once.
//!
//! No `flatten`, no `untagged`, no `tag`: they lose the position of what is wrong. Names that may dangle are `Spanned`.

mod source;

use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};

use serde::Deserialize;
use toml::{Spanned, Value};

pub(super) use self::source::{
    Chip, File, Frames, Gpio, GpioInput, Lines, Modbus, Mqtt, Process, Register, Replay, Sensor, Serial, Simulator,
    Slave, Source, Sysfs, SysfsInput, Topic, Udp,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) gateway: Gateway,
    #[serde(default)]
    pub(super) uplink: Uplink,
    pub(super) updates: Option<Updates>,
    #[serde(default)]
    pub(super) outbox: Outbox,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) dead_letters: DeadLetters,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) sources: BTreeMap<Spanned<String>, Source>,
    #[serde(default)]
    pub(super) sinks: BTreeMap<Spanned<String>, Sink>,
    #[serde(default)]
    pub(super) streams: BTreeMap<Spanned<String>, Stream>,
    #[serde(default)]
    pub(super) slots: BTreeMap<Spanned<String>, Slot>,
    #[serde(default)]
    pub(super) routes: BTreeMap<Spanned<String>, Route>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) id: Spanned<String>,
    pub(super) socket: Option<String>,
    pub(super) clock: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uplink {
    pub(super) broker: Option<Spanned<String>>,
    pub(super) tls: Option<Spanned<Tls>>,
    pub(super) login: Option<Login>,
    pub(super) protocol: Option<Spanned<String>>,
    pub(super) reconnect: Option<Spanned<String>>,
    pub(super) max_publish: Option<Spanned<String>>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) topic: Option<Spanned<String>>,
    pub(super) keep_alive: Option<Spanned<String>>,
    pub(super) in_flight: Option<Spanned<u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) ca_file: String,
    pub(super) cert_file: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) alpn: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) username: Spanned<String>,
    pub(super) password_file: Option<String>,
}

/// What a desired state may say: the part of a configuration that comes from outside.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    #[serde(default)]
    pub(super) probation: Probation,
    #[serde(default)]
    pub(super) slots: BTreeMap<Spanned<String>, Slot>,
    #[serde(default)]
    pub(super) routes: BTreeMap<Spanned<String>, Route>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probation {
    pub(super) shadow: Option<Spanned<String>>,
    pub(super) canary: Option<Spanned<String>>,
    pub(super) packets: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Updates {
    pub(super) root: String,
    #[serde(default)]
    pub(super) groups: Vec<Spanned<String>>,
    pub(super) board: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outbox {
    pub(super) path: Option<Spanned<String>>,
    pub(super) max_bytes: Option<Spanned<String>>,
    pub(super) backlog_rate: Option<Spanned<u32>>,
    pub(super) commit_every: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetters {
    pub(super) max_bytes: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) publish: Option<bool>,
    pub(super) every: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) max_streams: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Calibration {
    pub(super) scale: Option<f64>,
    pub(super) offset: Option<f64>,
    #[serde(default)]
    pub(super) polynomial: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    pub(super) unit: Option<Spanned<String>>,
    pub(super) calibration: Option<Spanned<Calibration>>,
    #[serde(default)]
    pub(super) params: BTreeMap<Spanned<String>, Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) cell: Spanned<String>,
    pub(super) world: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) grants: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) params: BTreeMap<Spanned<String>, Spanned<Value>>,
    #[serde(default)]
    pub(super) outputs: Vec<Spanned<String>>,
    pub(super) tick: Option<Spanned<String>>,
    pub(super) fault: Option<Spanned<String>>,
    pub(super) quarantine: Option<Quarantine>,
    pub(super) log: Option<Log>,
    #[serde(default)]
    pub(super) limits: CellLimits,
    pub(super) min_seq: Option<Spanned<u64>>,
    pub(super) retry: Option<Spanned<u64>>,
}

/// By name: `limits::LIMITS` is the list.
pub(super) type CellLimits = BTreeMap<Spanned<String>, Spanned<u64>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quarantine {
    pub(super) faults: Spanned<u32>,
    pub(super) within: Option<Spanned<String>>,
}

/// `log = "journal"`, `log.file = { path = "…" }`, `log.mqtt = {}`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Log {
    Journal,
    File(RotatedFile),
    Mqtt(LogTopic),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotatedFile {
    pub(super) path: Spanned<String>,
    pub(super) max_bytes: Option<Spanned<String>>,
    pub(super) keep: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogTopic {
    pub(super) topic: Option<Spanned<String>>,
}

/// The policy file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) grants: Option<Vec<Spanned<String>>>,
    pub(super) sinks: Option<Vec<String>>,
    #[serde(default)]
    pub(super) limits: CellLimits,
}

/// `[sinks.NAME.file]` and so on: the kind is a table's name, as for sources.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sink {
    File(RotatedFile),
    Gpio(OutputLine),
    Mqtt(Box<LocalBroker>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalBroker {
    pub(super) broker: Spanned<String>,
    pub(super) tls: Option<Spanned<Tls>>,
    pub(super) login: Option<Login>,
    pub(super) protocol: Option<Spanned<String>>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) keep_alive: Option<Spanned<String>>,
    pub(super) topic: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) retain: bool,
    pub(super) payload: Option<Spanned<String>>,
    pub(super) expire: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputLine {
    pub(super) line: Spanned<String>,
    pub(super) on: Option<Spanned<String>>,
    pub(super) safe: Spanned<String>,
    pub(super) hold: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) streams: Vec<Spanned<String>>,
    pub(super) packets: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) slots: Vec<Spanned<String>>,
    pub(super) sinks: Option<Vec<Spanned<String>>>,
    pub(super) topic: Option<Spanned<String>>,
    pub(super) publish: Option<Spanned<String>>,
    pub(super) priority: Option<Spanned<String>>,
    pub(super) overflow: Option<Spanned<String>>,
    pub(super) expire: Option<Spanned<String>>,
    pub(super) encoding: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) batch: Batch,
    pub(super) record: Option<Spanned<Record>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) time: Spanned<String>,
    pub(super) bytes: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    pub(super) bytes: Option<Spanned<usize>>,
    pub(super) packets: Option<Spanned<usize>>,
    pub(super) wait: Option<Spanned<String>>,
}
