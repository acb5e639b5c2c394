//! What is published: JSON, version 1, as `docs/payloads.md` describes it.
//!
//! A payload carries gateway, epoch and seq inside, so that a consumer behind any broker can drop duplicates.

use alloc::{string::String, vec::Vec};

use serde::{Serialize, Serializer};

use crate::ids::{Epoch, Seq};

/// Version of the payload.
pub const VERSION: u8 = 1;

/// One packet as the payload shows it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its seq in the epoch.
    pub seq: Seq,
    /// Its stream's name.
    pub stream: &'a str,
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// In the stream's unit.
    pub value: f64,
    /// Bits; left out when 0.
    pub quality: u32,
}

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
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }
}

/// The payload of a publish.
#[must_use]
pub fn encode(gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    let payload = Payload { v: VERSION, gw: gateway, epoch: alloc::format!("{epoch}"), p: packets };
    serde_json::to_vec(&payload).expect("strings and numbers have a JSON form, and memory is the only sink")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { store: 0xa1b2_c3d4, starts: 7 };

    fn check(packets: &[Packet<'_>], fixture: &str) {
        let text = String::from_utf8(encode("kitchen", EPOCH, packets)).expect("JSON is UTF-8");
        assert_eq!(text, fixture.trim_end());
    }

    fn packet(seq: u64, value: f64, quality: u32) -> Packet<'static> {
        Packet { seq: Seq(seq), stream: "buoy/sea_temperature_C", time_us: 1_455_494_400_000_000, value, quality }
    }

    #[test]
    fn version_1_is_as_documented() {
        check(&[packet(41, 4.929, 0)], include_str!("../../../docs/fixtures/payload-v1-one.json"));
        let batch =
            [packet(41, 4.929, 0), packet(42, f64::NAN, 2), packet(43, f64::NEG_INFINITY, 0), packet(44, -0.0, 1)];
        check(&batch, include_str!("../../../docs/fixtures/payload-v1-batch.json"));
    }
}
