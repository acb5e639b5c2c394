//! The readable payload, version 1: `{"v":1,"gw":…,"epoch":…,"p":[[seq, stream, time, value], …]}`, or with
//! messages `"m":[[seq, stream, time, topic, payload], …]`.

use alloc::{string::String, vec::Vec};
use core::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{
    BadPayload, Decoded, DecodedMessage, DecodedPacket, MAX_PACKETS, MessagePacket, Packet, text_of, value_of,
};
use crate::ids::Epoch;

/// Version of the payload.
pub const VERSION: u8 = 1;

#[derive(Serialize)]
struct Payload<'a> {
    v: u8,
    gw: &'a str,
    epoch: String,
    p: &'a [Packet<'a>],
}

impl Serialize for Packet<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = Number(self.value);
        match self.quality {
            0 => (self.seq, self.stream, self.time_us, value).serialize(serializer),
            quality => (self.seq, self.stream, self.time_us, value, quality).serialize(serializer),
        }
    }
}

/// JSON has no NaN and no infinities; they are told as text rather than lost.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match text_of(self.0) {
            None => serializer.serialize_f64(self.0),
            Some(text) => serializer.serialize_str(&text),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or \"NaN\", \"Infinity\", \"-Infinity\"")
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
            #[allow(clippy::cast_precision_loss)]
            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            #[allow(clippy::cast_precision_loss)]
            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                value_of(text).map(Number).ok_or_else(|| E::custom("a text that is not a number"))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

impl<'de> Deserialize<'de> for DecodedPacket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = DecodedPacket;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[seq, stream, time, value] or [seq, stream, time, value, quality]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<DecodedPacket, A::Error> {
                let missing = |count| A::Error::invalid_length(count, &self);
                Ok(DecodedPacket {
                    seq: fields.next_element()?.ok_or_else(|| missing(0))?,
                    stream: fields.next_element()?.ok_or_else(|| missing(1))?,
                    time_us: fields.next_element()?.ok_or_else(|| missing(2))?,
                    value: fields.next_element::<Number>()?.ok_or_else(|| missing(3))?.0,
                    quality: fields.next_element()?.unwrap_or(0),
                })
            }
        }
        deserializer.deserialize_seq(Fields)
    }
}

/// The payload of a publish.
#[must_use]
pub fn encode(gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    let payload = Payload { v: VERSION, gw: gateway, epoch: alloc::format!("{epoch}"), p: packets };
    serde_json::to_vec(&payload).expect("strings and numbers have a JSON form, and memory is the only sink")
}

#[derive(Serialize)]
struct Messages<'a> {
    v: u8,
    gw: &'a str,
    epoch: String,
    m: &'a [MessagePacket<'a>],
}

impl Serialize for MessagePacket<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { seq, stream, time_us, topic, payload, quality } = *self;
        let payload = Body::of(payload);
        match quality {
            0 => (seq, stream, time_us, topic, payload).serialize(serializer),
            quality => (seq, stream, time_us, topic, payload, quality).serialize(serializer),
        }
    }
}

/// A message's bytes: a text, or what no text can hold.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Body {
    Text(String),
    Base64 { base64: String },
}

impl Body {
    fn of(payload: &[u8]) -> Self {
        // A control character takes six bytes as text: then Base64 is shorter.
        let escaped = |byte: &u8| if *byte < 0x20 { 6 } else { 1 + usize::from(matches!(byte, b'"' | b'\\')) };
        let short = payload.iter().map(escaped).sum::<usize>() <= payload.len().saturating_mul(4) / 3 + 16;
        match core::str::from_utf8(payload) {
            Ok(text) if short => Self::Text(text.into()),
            Ok(_) | Err(_) => Self::Base64 { base64: BASE64_STANDARD.encode(payload) },
        }
    }
}

/// A packet in a line of its own.
#[derive(Serialize)]
struct Row<'a> {
    time_us: u64,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Number>,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Body>,
    #[serde(skip_serializing_if = "is_good")]
    quality: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
const fn is_good(quality: &u32) -> bool {
    *quality == 0
}

/// A packet as JSON, without a line feed: `{"time_us":…,"stream":…,"value":…,"unit":…}`, or with a message's `topic` and `payload`.
#[must_use]
pub fn object(stream: &str, unit: &str, packet: &crate::packet::Packet) -> String {
    let row = match packet {
        crate::packet::Packet::Reading(reading) => {
            let (value, quality) = (Some(Number(reading.value)), reading.quality.0);
            Row { time_us: reading.time.0, stream, value, unit, topic: None, payload: None, quality }
        }
        crate::packet::Packet::Message(message) => Row {
            time_us: message.time.0,
            stream,
            value: None,
            unit: "",
            topic: Some(&message.topic),
            payload: Some(Body::of(&message.payload)),
            quality: message.quality.0,
        },
    };
    serde_json::to_string(&row).expect("strings and numbers have a JSON form, and memory is the only sink")
}

/// The payload of a publish of messages.
#[must_use]
pub fn encode_messages(gateway: &str, epoch: Epoch, messages: &[MessagePacket<'_>]) -> Vec<u8> {
    let payload = Messages { v: VERSION, gw: gateway, epoch: alloc::format!("{epoch}"), m: messages };
    serde_json::to_vec(&payload).expect("strings and numbers have a JSON form, and memory is the only sink")
}

impl<'de> Deserialize<'de> for DecodedMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = DecodedMessage;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[seq, stream, time, topic, payload] or [seq, stream, time, topic, payload, quality]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<DecodedMessage, A::Error> {
                let missing = |count| A::Error::invalid_length(count, &self);
                Ok(DecodedMessage {
                    seq: fields.next_element()?.ok_or_else(|| missing(0))?,
                    stream: fields.next_element()?.ok_or_else(|| missing(1))?,
                    time_us: fields.next_element()?.ok_or_else(|| missing(2))?,
                    topic: fields.next_element()?.ok_or_else(|| missing(3))?,
                    payload: match fields.next_element()?.ok_or_else(|| missing(4))? {
                        Body::Text(text) => text.into_bytes(),
                        Body::Base64 { base64 } => BASE64_STANDARD.decode(base64).map_err(A::Error::custom)?,
                    },
                    quality: fields.next_element()?.unwrap_or(0),
                })
            }
        }
        deserializer.deserialize_seq(Fields)
    }
}

/// Reads a payload. Fields that are not known are passed over: version 1 may grow.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Decoded, BadPayload> {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    #[derive(Deserialize)]
    struct Payload {
        gw: String,
        epoch: String,
        #[serde(default)]
        p: Vec<DecodedPacket>,
        #[serde(default)]
        m: Vec<DecodedMessage>,
    }
    let malformed = |error: serde_json::Error| BadPayload::Malformed(alloc::format!("{error}"));
    let Version { v } = serde_json::from_slice(bytes).map_err(malformed)?;
    if v != u64::from(VERSION) {
        return Err(BadPayload::Version(v));
    }
    let Payload { gw, epoch, p, m } = serde_json::from_slice(bytes).map_err(malformed)?;
    if p.len() + m.len() > MAX_PACKETS {
        return Err(BadPayload::TooMany);
    }
    let epoch = epoch.parse().map_err(|()| BadPayload::malformed("the epoch is not 16 hex digits, `-`, a number"))?;
    Ok(Decoded { gateway: gw, epoch, packets: p, messages: m })
}
