//! The readable payload, version 1: `{"v":1,"gw":…,"epoch":…,"p":[[seq, stream, time, value], …]}`.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{BadPayload, Decoded, DecodedPacket, MAX_PACKETS, Packet, text_of, value_of};
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
                value_of(text).map(Number).ok_or_else(|| E::custom("a text that is no number"))
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
        p: Vec<DecodedPacket>,
    }
    let malformed = |error: serde_json::Error| BadPayload::Malformed(alloc::format!("{error}"));
    let Version { v } = serde_json::from_slice(bytes).map_err(malformed)?;
    if v != u64::from(VERSION) {
        return Err(BadPayload::Version(v));
    }
    let Payload { gw, epoch, p } = serde_json::from_slice(bytes).map_err(malformed)?;
    if p.len() > MAX_PACKETS {
        return Err(BadPayload::TooMany);
    }
    let epoch = epoch.parse().map_err(|()| BadPayload::malformed("the epoch is not 16 hex digits, `-`, a number"))?;
    Ok(Decoded { gateway: gw, epoch, packets: p })
}
