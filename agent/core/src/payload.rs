//! What is published: a batch of packets in one of four encodings, as `docs/payloads.md` describes them.
//!
//! Every encoding carries gateway, epoch and seq inside, so that a consumer behind any broker can drop duplicates,
//! and gives back every bit of a packet. `json` and `compact` are ours; the two of SenML are RFC 8428.

pub mod compact;
pub mod json;
pub mod senml;

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use crate::ids::{Epoch, Seq};

/// Packets in a payload that is read, at most. What is written has at most a thousand.
pub const MAX_PACKETS: usize = 65_536;

/// How a route's packets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Readable, ours: version 1.
    #[default]
    Json,
    /// RFC 8428 in JSON.
    SenmlJson,
    /// RFC 8428 in CBOR.
    SenmlCbor,
    /// Columns of differences, ours: version 1.
    Compact,
}

impl Encoding {
    /// All of them, by the names that a configuration uses.
    pub const ALL: [(&'static str, Self); 4] = [
        ("json", Self::Json),
        ("senml+json", Self::SenmlJson),
        ("senml+cbor", Self::SenmlCbor),
        ("compact", Self::Compact),
    ];

    /// The name that a configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, encoding)| *encoding == self).map_or("", |(name, _)| name)
    }

    /// MQTT's content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::SenmlJson => "application/senml+json",
            Self::SenmlCbor => "application/senml+cbor",
            Self::Compact => "application/vnd.porin.compact",
        }
    }

    /// Bytes that a packet of a batch is likely to take, until batches have shown it.
    #[must_use]
    pub fn usual_packet_bytes(self) -> usize {
        match self {
            Self::Json | Self::SenmlJson => 60,
            Self::SenmlCbor => 30,
            Self::Compact => 6,
        }
    }
}

/// One packet as the payload shows it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its seq in the epoch.
    pub seq: Seq,
    /// Its stream's name.
    pub stream: &'a str,
    /// SenML unit symbol of the stream, or empty. Only SenML shows it.
    pub unit: &'a str,
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// In the stream's unit.
    pub value: f64,
    /// Bits; left out when 0.
    pub quality: u32,
}

/// One message as the payload shows it.
#[derive(Clone, Copy, Debug)]
pub struct MessagePacket<'a> {
    /// Its seq in the epoch.
    pub seq: Seq,
    /// Its stream's name.
    pub stream: &'a str,
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// Where it was published.
    pub topic: &'a str,
    /// Text if it is UTF-8, else shown in Base64.
    pub payload: &'a [u8],
    /// Bits; left out when 0.
    pub quality: u32,
}

/// A payload that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The gateway's id.
    pub gateway: String,
    /// The epoch of all seqs.
    pub epoch: Epoch,
    /// Its readings, in order.
    pub packets: Vec<DecodedPacket>,
    /// Or its messages, in order.
    pub messages: Vec<DecodedMessage>,
}

/// A message that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in `MessagePacket`
pub struct DecodedMessage {
    pub seq: Seq,
    pub stream: String,
    pub time_us: u64,
    pub topic: String,
    pub payload: Vec<u8>,
    pub quality: u32,
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in `Packet`
pub struct DecodedPacket {
    pub seq: Seq,
    pub stream: String,
    pub time_us: u64,
    pub value: f64,
    pub quality: u32,
}

/// Why bytes are not a payload of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Nothing that any of the encodings begins with.
    #[error("it begins like none of porin's payloads")]
    Unknown,
    /// Written by a newer porin.
    #[error("version {0}, this porin knows up to 1")]
    Version(u64),
    /// More than is ever written.
    #[error("more than {MAX_PACKETS} packets")]
    TooMany,
    /// Cut short, too long, or something is not what it should be.
    #[error("{0}")]
    Malformed(String),
}

impl BadPayload {
    pub(crate) fn malformed(what: &str) -> Self {
        Self::Malformed(what.to_string())
    }
}

/// The payload of a publish.
#[must_use]
pub fn encode(encoding: Encoding, gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    match encoding {
        Encoding::Json => json::encode(gateway, epoch, packets),
        Encoding::SenmlJson => senml::encode_json(gateway, epoch, packets),
        Encoding::SenmlCbor => senml::encode_cbor(gateway, epoch, packets),
        Encoding::Compact => compact::encode(gateway, epoch, packets),
    }
}

/// Reads a payload in whatever encoding it is: their first bytes differ.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Decoded, BadPayload> {
    match bytes.first() {
        Some(b'{') => json::decode(bytes),
        Some(b'[') => senml::decode(senml::Form::Json, bytes),
        // An array, of a length that comes first or of one that does not.
        Some(0x80..=0x9b | 0x9f) => senml::decode(senml::Form::Cbor, bytes),
        Some(0..=0x1f) => compact::decode(bytes),
        _ => Err(BadPayload::Unknown),
    }
}

/// A value as JSON shows it: the shortest number that reads back as the same float, or text.
#[must_use]
pub fn value_as_json(value: f64) -> String {
    match text_of(value) {
        Some(text) => alloc::format!("\"{text}\""),
        None => serde_json::to_string(&value).expect("a finite float has a JSON form"),
    }
}

/// Values that JSON's numbers cannot tell, as text: `NaN`, `Infinity`, `-Infinity`. A NaN with other bits than the usual
/// ones shows them, `NaN:7ff0000000000001`, so that nothing is lost.
pub(crate) fn text_of(value: f64) -> Option<String> {
    if value.is_finite() {
        return None;
    }
    Some(match value.to_bits() {
        CANONICAL_NAN => "NaN".to_string(),
        bits if value.is_nan() => alloc::format!("NaN:{bits:016x}"),
        _ if value > 0.0 => "Infinity".to_string(),
        _ => "-Infinity".to_string(),
    })
}

/// The inverse of [`text_of`].
pub(crate) fn value_of(text: &str) -> Option<f64> {
    Some(match text {
        "NaN" => f64::from_bits(CANONICAL_NAN),
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        other => {
            let digits = other.strip_prefix("NaN:").filter(|digits| digits.len() == 16)?;
            let value = f64::from_bits(u64::from_str_radix(digits, 16).ok()?);
            return value.is_nan().then_some(value);
        }
    })
}

/// The bits of `f64::NAN` on every machine that porin runs on, and what a cell makes of any NaN.
const CANONICAL_NAN: u64 = 0x7ff8_0000_0000_0000;

#[cfg(test)]
mod tests;
