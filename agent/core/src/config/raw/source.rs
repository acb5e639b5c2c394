//! Sources as written, one shape for each kind.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Login, Tls};

/// The kind is a table's name, `[sources.NAME.replay]`: a `type` key would lose the positions within.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in super::super) enum Source {
    Replay(Replay),
    Mqtt(Mqtt),
    Simulator(Simulator),
    Sensor(Sensor),
    Sysfs(Sysfs),
    Modbus(Modbus),
    Gpio(Gpio),
    Udp(Udp),
    File(File),
    Process(Process),
    Serial(Serial),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Replay {
    pub(in super::super) file: Spanned<String>,
    pub(in super::super) streams: Spanned<String>,
    pub(in super::super) speed: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Mqtt {
    pub(in super::super) broker: Spanned<String>,
    pub(in super::super) tls: Option<Spanned<Tls>>,
    pub(in super::super) login: Option<Login>,
    pub(in super::super) client_id: Option<Spanned<String>>,
    pub(in super::super) keep_alive: Option<Spanned<String>>,
    pub(in super::super) qos: Option<Spanned<u8>>,
    pub(in super::super) window: Option<Spanned<u16>>,
    #[serde(default)]
    pub(in super::super) topics: Vec<Topic>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Topic {
    pub(in super::super) filter: Spanned<String>,
    pub(in super::super) payload: Option<Spanned<String>>,
    pub(in super::super) streams: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    pub(in super::super) stream: Option<Spanned<String>>,
    pub(in super::super) base64: Option<Spanned<String>>,
    pub(in super::super) time: Option<Spanned<String>>,
    pub(in super::super) time_unit: Option<Spanned<String>>,
    #[serde(default)]
    pub(in super::super) values: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Simulator {
    pub(in super::super) streams: Spanned<String>,
    pub(in super::super) count: Option<Spanned<u32>>,
    pub(in super::super) seed: Option<u64>,
    pub(in super::super) every: Option<Spanned<String>>,
    pub(in super::super) speed: Option<Spanned<String>>,
    pub(in super::super) readings: Option<u64>,
    pub(in super::super) start: Option<f64>,
    pub(in super::super) step: Option<f64>,
    pub(in super::super) decimals: Option<Spanned<u8>>,
    pub(in super::super) spikes: Option<Spanned<f64>>,
    pub(in super::super) spike: Option<f64>,
    pub(in super::super) drop_outs: Option<Spanned<f64>>,
    pub(in super::super) stuck: Option<Spanned<f64>>,
    pub(in super::super) clock_jumps: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Sensor {
    pub(in super::super) bus: Spanned<String>,
    #[serde(default)]
    pub(in super::super) chips: Vec<Chip>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Chip {
    pub(in super::super) chip: Spanned<String>,
    pub(in super::super) address: Option<Spanned<u8>>,
    pub(in super::super) every: Option<Spanned<String>>,
    pub(in super::super) streams: Spanned<String>,
    #[serde(default)]
    pub(in super::super) options: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Sysfs {
    #[serde(default)]
    pub(in super::super) inputs: Vec<SysfsInput>,
}

/// One of `hwmon`, `iio`, `w1` and `file`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct SysfsInput {
    pub(in super::super) hwmon: Option<Spanned<String>>,
    pub(in super::super) iio: Option<Spanned<String>>,
    pub(in super::super) w1: Option<Spanned<String>>,
    pub(in super::super) file: Option<Spanned<String>>,
    pub(in super::super) every: Option<Spanned<String>>,
    pub(in super::super) stream: Spanned<String>,
}

/// `tcp` or `serial`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Modbus {
    pub(in super::super) tcp: Option<Spanned<String>>,
    pub(in super::super) serial: Option<Spanned<String>>,
    pub(in super::super) baud: Option<Spanned<u32>>,
    pub(in super::super) parity: Option<Spanned<String>>,
    pub(in super::super) timeout: Option<Spanned<String>>,
    #[serde(default)]
    pub(in super::super) slaves: Vec<Slave>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Gpio {
    #[serde(default)]
    pub(in super::super) inputs: Vec<GpioInput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct GpioInput {
    pub(in super::super) line: Spanned<String>,
    pub(in super::super) stream: Spanned<String>,
    pub(in super::super) active: Option<Spanned<String>>,
    pub(in super::super) bias: Option<Spanned<String>>,
    pub(in super::super) debounce: Option<Spanned<String>>,
    pub(in super::super) count: Option<Spanned<String>>,
    pub(in super::super) every: Option<Spanned<String>>,
    pub(in super::super) rate: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Slave {
    pub(in super::super) unit: Option<Spanned<u8>>,
    pub(in super::super) every: Option<Spanned<String>>,
    #[serde(default)]
    pub(in super::super) registers: Vec<Register>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Register {
    pub(in super::super) stream: Spanned<String>,
    pub(in super::super) table: Option<Spanned<String>>,
    pub(in super::super) address: Spanned<u16>,
    #[serde(rename = "type")]
    pub(in super::super) kind: Option<Spanned<String>>,
    pub(in super::super) words: Option<Spanned<String>>,
    pub(in super::super) scale: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Udp {
    pub(in super::super) listen: Spanned<String>,
    pub(in super::super) lines: Lines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct File {
    pub(in super::super) path: Spanned<String>,
    pub(in super::super) lines: Lines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Process {
    pub(in super::super) command: Spanned<Vec<String>>,
    pub(in super::super) lines: Lines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Serial {
    pub(in super::super) device: Spanned<String>,
    pub(in super::super) baud: Option<Spanned<u32>>,
    pub(in super::super) frames: Option<Spanned<Frames>>,
    pub(in super::super) lines: Lines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Frames {
    #[serde(default)]
    pub(in super::super) start: Vec<u8>,
    pub(in super::super) length: Option<Spanned<String>>,
    #[serde(default)]
    pub(in super::super) extra: usize,
}

/// `lines = { pattern = "…", streams = "…" }` or `lines = { message = "STREAM" }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Lines {
    pub(in super::super) pattern: Option<Spanned<String>>,
    pub(in super::super) streams: Option<Spanned<String>>,
    pub(in super::super) checksum: Option<Spanned<String>>,
    pub(in super::super) message: Option<Spanned<String>>,
}
