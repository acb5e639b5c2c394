//! What the outbox keeps of a packet: record v1 is a version byte and postcard.
//!
//! The wire form lives apart from [`Reading`], which may change while records of today lie on a card for months.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{RouteId, StreamId},
    packet::{Quality, Reading},
    time::Unix,
};

/// A packet on its way out, with the route that decided it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Names topic and batch.
    pub route: RouteId,
    /// The packet.
    pub reading: Reading,
}

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct V1 {
    route: u32,
    stream: u32,
    time_us: u64,
    value: f64,
    quality: u32,
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
    /// Appends the record's bytes: at most 34.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let Reading { time, value, stream, quality } = self.reading;
        let v1 = V1 { route: self.route.0, stream: stream.0, time_us: time.0, value, quality: quality.0 };
        bytes.push(VERSION);
        let mut encoded = [0; 33];
        let encoded = postcard::to_slice(&v1, &mut encoded).expect("three varints of 5, one of 10 and 8 bytes are 33");
        bytes.extend_from_slice(encoded);
    }

    /// Reads a record; all bytes must be used.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, rest) = bytes.split_first().ok_or(BadRecord::Damaged)?;
        if *version != VERSION {
            return Err(BadRecord::Version(*version));
        }
        let (v1, rest) = postcard::take_from_bytes::<V1>(rest).map_err(|_| BadRecord::Damaged)?;
        if !rest.is_empty() {
            return Err(BadRecord::Damaged);
        }
        let V1 { route, stream, time_us, value, quality } = v1;
        let reading = Reading { time: Unix(time_us), value, stream: StreamId(stream), quality: Quality(quality) };
        Ok(Self { route: RouteId(route), reading })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(route: u32, stream: u32, time: u64, value: f64, quality: u32) -> Record {
        let reading = Reading { time: Unix(time), value, stream: StreamId(stream), quality: Quality(quality) };
        Record { route: RouteId(route), reading }
    }

    /// Version 1 as first shipped: route 2, stream 300, 2016-02-15 00:00:00 UTC, 1.026, quality 5. It never changes.
    const V1: [u8; 21] = [1, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 209, 34, 219, 249, 126, 106, 240, 63, 5];

    #[test]
    fn version_1_reads_as_it_was_written() {
        let known = record(2, 300, 1_455_494_400_000_000, 1.026, 5);
        assert_eq!(Record::decode(&V1), Ok(known));
        let mut bytes = Vec::new();
        known.encode(&mut bytes);
        assert_eq!(bytes, V1);
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
                assert_eq!(back.reading.value.to_bits(), value.to_bits());
                assert_eq!((back.route, back.reading.stream), (record.route, record.reading.stream));
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
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(BadRecord::Version(2)));
    }
}
