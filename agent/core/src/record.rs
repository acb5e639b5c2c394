//! What the outbox keeps of a packet: a version byte and postcard. Versions 1 and 3 are a reading, 2 and 4 a message; 3 and 4
//! know when the packet was appended.
//!
//! The wire form lives apart from [`Packet`], which may change while records of today lie on a card for months.

use alloc::{sync::Arc, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{RouteId, StreamId},
    packet::{Message, Packet, Quality, Reading},
    time::{Monotonic, Unix},
};

/// A packet on its way out, with the route that decided it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Names topic and batch.
    pub route: RouteId,
    /// The packet.
    pub packet: Packet,
    /// When it was appended, by the machine's clock that never steps. 0 if a version is too old to know.
    pub at: Monotonic,
}

/// The newest version.
const VERSION: u8 = 4;

/// What a record takes in the store besides the bytes of a message, roughly: a reading has at most 53 with its key.
pub const RECORD_BYTES: u64 = 64;

#[derive(Serialize, Deserialize)]
struct V1 {
    route: u32,
    stream: u32,
    time_us: u64,
    value: f64,
    quality: u32,
}

#[derive(Serialize, Deserialize)]
struct V2<'a> {
    route: u32,
    stream: u32,
    time_us: u64,
    quality: u32,
    topic: &'a str,
    payload: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Written by a newer porin.
    #[error("record version {0}, this porin knows up to {VERSION}")]
    Version(u8),
    /// Too short, too long, or not a number where one should be.
    #[error("the record is damaged")]
    Damaged,
}

impl Record {
    /// What it counts for where the outbox is bounded by bytes: 64, and those of a message's topic and payload.
    #[must_use]
    pub fn size(&self) -> u64 {
        RECORD_BYTES + self.packet.bytes() as u64
    }

    /// Appends the record's bytes: at most 44 for a reading.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let route = self.route.0;
        match &self.packet {
            Packet::Reading(Reading { time, value, stream, quality }) => {
                let v1 = V1 { route, stream: stream.0, time_us: time.0, value: *value, quality: quality.0 };
                bytes.push(3);
                let mut encoded = [0; 43];
                let encoded = postcard::to_slice(&(v1, self.at.0), &mut encoded)
                    .expect("three varints of 5, two of 10 and 8 bytes are 43");
                bytes.extend_from_slice(encoded);
            }
            Packet::Message(message) => {
                let Message { time, stream, quality, topic, payload } = &**message;
                let v2 = V2 { route, stream: stream.0, time_us: time.0, quality: quality.0, topic, payload };
                bytes.push(4);
                bytes.extend(postcard::to_allocvec(&(v2, self.at.0)).expect("memory is the only sink"));
            }
        }
    }

    /// Reads a record; all bytes must be used.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        match bytes.split_first() {
            None => Err(BadRecord::Damaged),
            Some((1, rest)) => Ok(Self::reading(whole(rest)?, 0)),
            Some((2, rest)) => Ok(Self::message(whole(rest)?, 0)),
            Some((3, rest)) => whole(rest).map(|(v1, at)| Self::reading(v1, at)),
            Some((4, rest)) => whole(rest).map(|(v2, at)| Self::message(v2, at)),
            Some((version, _)) => Err(BadRecord::Version(*version)),
        }
    }

    fn reading(V1 { route, stream, time_us, value, quality }: V1, at: u64) -> Self {
        let (time, stream, quality) = (Unix(time_us), StreamId(stream), Quality(quality));
        let packet = Packet::Reading(Reading { time, value, stream, quality });
        Self { route: RouteId(route), packet, at: Monotonic(at) }
    }

    fn message(V2 { route, stream, time_us, quality, topic, payload }: V2<'_>, at: u64) -> Self {
        let (time, stream, quality) = (Unix(time_us), StreamId(stream), Quality(quality));
        let message = Message { time, stream, quality, topic: topic.into(), payload: payload.into() };
        Self { route: RouteId(route), packet: Packet::Message(Arc::new(message)), at: Monotonic(at) }
    }
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadRecord> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(BadRecord::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(route: u32, stream: u32, time: u64, value: f64, quality: u32) -> Record {
        let reading = Reading { time: Unix(time), value, stream: StreamId(stream), quality: Quality(quality) };
        Record { route: RouteId(route), packet: Packet::Reading(reading), at: Monotonic(0) }
    }

    /// Version 1 as first shipped: route 2, stream 300, 2016-02-15 00:00:00 UTC, 1.026, quality 5. It never changes.
    const V1: [u8; 21] = [1, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 209, 34, 219, 249, 126, 106, 240, 63, 5];

    #[test]
    fn version_1_reads_as_it_was_written() {
        let known = record(2, 300, 1_455_494_400_000_000, 1.026, 5);
        assert_eq!(Record::decode(&V1), Ok(known));
    }

    /// Version 3 as first shipped: that of version 1, appended one hour after the machine's start. It never changes.
    const V3: [u8; 26] = [
        3, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 209, 34, 219, 249, 126, 106, 240, 63, 5, 128, 200, 206,
        180, 13,
    ];

    #[test]
    fn version_3_reads_as_it_was_written() {
        let known = Record { at: Monotonic(3_600_000_000), ..record(2, 300, 1_455_494_400_000_000, 1.026, 5) };
        assert_eq!(Record::decode(&V3), Ok(known.clone()));
        let mut bytes = Vec::new();
        known.encode(&mut bytes);
        assert_eq!(bytes, V3);
    }

    /// Version 2 as first shipped: the same route, stream, time and quality, topic `a/b`, payload 00 ff. It never changes.
    const V2: [u8; 21] = [2, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 5, 3, 97, 47, 98, 2, 0, 255, 0];

    #[test]
    fn version_2_reads_as_it_was_written() {
        let (time, stream, quality) = (Unix(1_455_494_400_000_000), StreamId(300), Quality(5));
        let message = Message { time, stream, quality, topic: "a/b".into(), payload: [0, 255].into() };
        let known = Record { route: RouteId(2), packet: Packet::Message(Arc::new(message)), at: Monotonic(0) };
        let fixture = &V2[..20];
        assert_eq!(Record::decode(fixture), Ok(known.clone()));
        for cut in 0..fixture.len() {
            assert!(Record::decode(&fixture[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Record::decode(&V2), Err(BadRecord::Damaged));
        // Version 4 is version 2 and the moment, here one hour.
        let later = Record { at: Monotonic(3_600_000_000), ..known };
        let mut bytes = Vec::new();
        later.encode(&mut bytes);
        assert_eq!(bytes, [&[4], &V2[1..20], &[128, 200, 206, 180, 13]].concat());
        assert_eq!(Record::decode(&bytes), Ok(later));
    }

    #[test]
    fn every_bit_survives() {
        for value in
            [0.0, -0.0, f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::INFINITY, f64::MIN_POSITIVE / 2.0]
        {
            for number in [0, 1, u32::MAX] {
                let record = record(number, number, u64::from(number) << 32, value, number);
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                let back = Record::decode(&bytes).expect("reads");
                let Packet::Reading(reading) = back.packet else { panic!("it was a reading") };
                assert_eq!(reading.value.to_bits(), value.to_bits());
                assert_eq!((back.route, reading.stream), (record.route, record.packet.stream()));
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut bytes = Vec::new();
        record(1, 2, 3, 4.0, 5).encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Record::decode(&longer), Err(BadRecord::Damaged));
        bytes[0] = 5;
        assert_eq!(Record::decode(&bytes), Err(BadRecord::Version(5)));
    }
}
