//! LHT65, LHT65N: decodes the frames of Dragino's LoRaWAN temperature and humidity sensors.
//!
//! | bytes | | |
//! |---|---|---|
//! | 0, 1 | battery | the low 14 bits, in mV; of type 9 and of records: the probe |
//! | 2, 3 | temperature | signed, in 0.01 °C |
//! | 4, 5 | humidity | the low 12 bits, in 0.1 % RH |
//! | 6 | flags and type | 0x80: nothing is connected; 0x40: a record of the device's log; the low 4 bits: the external sensor |
//! | 7 … | of the external sensor | as below; of type 9 and of records: seconds since 1970 in 4 bytes |
//!
//! | type | external sensor | output |
//! |---|---|---|
//! | 0, 4 | none; an interrupt, which is not a number | |
//! | 1, 9 | temperature: signed, in 0.01 °C; 0x7fff: not connected | `/probe` (Cel) |
//! | 5 | illuminance in lx | `/illuminance` (lx) |
//! | 6 | voltage in mV | `/voltage` (V) |
//! | 7, 8 | a counter of 16 or 32 bits | `/count` |
//!
//! All big-endian, on LoRaWAN port 2. The slot's `outputs` end with what is wanted: these, `/battery` (V), `/temperature` (Cel),
//! `/humidity` (%RH). The time is the message's; of type 9 and of records it is the device's. A frame of records has several of 11
//! bytes; one whose device did not know the time gives nothing, and of a record of types 5 to 8 the external value is not decoded.
//! A frame of another length or another type gives nothing, because its bytes have another meaning.
//! There are no parameters. Not for other sensors, even of the same maker.
//!
//! Sources: Dragino, "LHT65 LoRaWAN Temperature & Humidity Sensor User Manual" and "LHT65N User Manual", uplink payload and
//! datalog; the maker's published decoder branches on the same bits.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Message, Reading, StateReader, StateWriter, Stream};

/// Bytes of a frame, and of each record.
const FRAME: usize = 11;

/// The probe's value when there is none.
const NOT_CONNECTED: i16 = 0x7fff;

/// Nothing is connected to the plug.
const UNPLUGGED: u8 = 0x80;

/// A record of the device's log, sent when it was asked for.
const RECORD: u8 = 0x40;

/// A device that was never told the time counts from 1970. 2020-01-01.
const NEVER_BEFORE_S: u32 = 1_577_836_800;

/// What the device's own time is not: uncertain.
const TIME_UNCERTAIN: u32 = 1;

/// The decision for one device.
#[derive(Clone, Debug)]
pub struct Lht65 {
    outputs: Vec<(Quantity, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Quantity {
    Battery,
    Temperature,
    Humidity,
    Probe,
    Illuminance,
    Voltage,
    Count,
}

/// The names that outputs end with.
const QUANTITIES: [(&str, Quantity); 7] = [
    ("battery", Quantity::Battery),
    ("temperature", Quantity::Temperature),
    ("humidity", Quantity::Humidity),
    ("probe", Quantity::Probe),
    ("illuminance", Quantity::Illuminance),
    ("voltage", Quantity::Voltage),
    ("count", Quantity::Count),
];

/// A frame, or a record, of a type that is known.
#[derive(Clone, Copy)]
struct Frame<'a> {
    bytes: &'a [u8; FRAME],
    external: u8,
}

impl<'a> Frame<'a> {
    /// `None`: of a type whose bytes have a meaning of their own.
    fn of(bytes: &'a [u8; FRAME]) -> Option<Self> {
        let external = bytes[6] & 0x0f;
        // Bits 4 and 5 have no meaning that is known.
        (matches!(external, 0 | 1 | 4..=9) && bytes[6] & 0x30 == 0).then_some(Self { bytes, external })
    }

    fn is_record(self) -> bool {
        self.bytes[6] & RECORD != 0
    }

    /// Whether its last bytes are the device's time, and its first ones the probe.
    fn has_time(self) -> bool {
        self.is_record() || self.external == 9
    }

    /// The device's time in microseconds, if it knows the time.
    fn time_us(self) -> Option<u64> {
        let seconds = self.four(7);
        (self.has_time() && seconds >= NEVER_BEFORE_S).then(|| u64::from(seconds) * 1_000_000)
    }

    fn two(self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn four(self, at: usize) -> u32 {
        u32::from_be_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    fn signed(self, at: usize) -> i16 {
        i16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn value(self, quantity: Quantity) -> Option<f64> {
        let plugged = self.bytes[6] & UNPLUGGED == 0;
        let external = |types: &[u8]| plugged && !self.is_record() && types.contains(&self.external);
        match quantity {
            Quantity::Battery => (!self.has_time()).then(|| f64::from(self.two(0) & 0x3fff) / 1_000.0),
            Quantity::Temperature => Some(f64::from(self.signed(2)) / 100.0),
            Quantity::Humidity => Some(f64::from(self.two(4) & 0x0fff) / 10.0),
            Quantity::Probe => {
                let value = self.signed(if self.has_time() { 0 } else { 7 });
                let there = plugged && matches!(self.external, 1 | 9) && value != NOT_CONNECTED;
                there.then(|| f64::from(value) / 100.0)
            }
            Quantity::Illuminance => external(&[5]).then(|| f64::from(self.two(7))),
            Quantity::Voltage => external(&[6]).then(|| f64::from(self.two(7)) / 1_000.0),
            Quantity::Count if self.external == 8 => external(&[8]).then(|| f64::from(self.four(7))),
            Quantity::Count => external(&[7]).then(|| f64::from(self.two(7))),
        }
    }
}

impl Cell<Message> for Lht65 {
    const PARAMS: &'static [&'static str] = &[];

    fn new(stream: &Stream) -> Result<Self, String> {
        let mut outputs = Vec::new();
        for output in stream.outputs {
            let level = output.name.rsplit('/').next().unwrap_or_default();
            let Some((_, quantity)) = QUANTITIES.iter().find(|(name, _)| *name == level) else {
                let what =
                    "` must end with /battery, /temperature, /humidity, /probe, /illuminance, /voltage or /count";
                return Err(["output `", &output.name, what].concat());
            };
            outputs.push((*quantity, output.id));
        }
        Ok(Self { outputs })
    }

    fn process(&mut self, message: Message, out: &mut Vec<Reading>) {
        let (frames, rest) = message.payload.as_chunks::<FRAME>();
        let records = frames.iter().all(|frame| frame[6] & RECORD != 0);
        if !rest.is_empty() || !(frames.len() == 1 || records) {
            return;
        }
        for frame in frames.iter().filter_map(Frame::of) {
            let (time_us, quality) = match frame.time_us() {
                Some(time_us) => (time_us, message.quality & !TIME_UNCERTAIN),
                // The device did not know the time when it wrote the record.
                None if frame.is_record() => continue,
                None => (message.time_us, message.quality),
            };
            for (quantity, stream) in &self.outputs {
                if let Some(value) = frame.value(*quantity) {
                    out.push(Reading { time_us, value, stream: *stream, quality });
                }
            }
        }
    }

    fn save(&self, _state: &mut StateWriter) {}

    fn restore(&mut self, _state: &mut StateReader) -> Result<(), Malformed> {
        Ok(())
    }
}

porin_sdk::export!(Lht65 as decoder);

#[cfg(test)]
mod tests {
    use porin_sdk::StreamInfo;

    use super::*;

    fn info(id: u32, name: &str) -> StreamInfo {
        StreamInfo { id, name: name.into(), unit: String::new(), params: vec![] }
    }

    fn readings(payload: &[u8]) -> Vec<Reading> {
        let outputs: Vec<_> = (10..).zip(QUANTITIES).map(|(id, (name, _))| info(id, &format!("a/{name}"))).collect();
        let mut cell = Lht65::new(&Stream { info: &info(1, "a"), params: &[], outputs: &outputs }).expect("good");
        let message = Message { time_us: 5, stream: 1, quality: 1, topic: "up".into(), payload: payload.into() };
        let mut out = Vec::new();
        cell.process(message, &mut out);
        out
    }

    fn decoded(payload: &[u8]) -> Vec<(u32, f64)> {
        let out = readings(payload);
        assert!(out.iter().all(|reading| (reading.time_us, reading.quality) == (5, 1)));
        out.iter().map(|reading| (reading.stream, reading.value)).collect()
    }

    /// With the device's own time, in seconds.
    fn timed(payload: &[u8]) -> Vec<(u64, u32, f64)> {
        let out = readings(payload);
        assert!(out.iter().all(|reading| reading.quality == 0), "the device knows the time");
        out.iter().map(|reading| (reading.time_us / 1_000_000, reading.stream, reading.value)).collect()
    }

    const TIME: u64 = 1_700_000_000;

    #[test]
    fn a_frame_of_type_9_has_the_probe_in_place_of_the_battery_and_the_devices_time() {
        let frame = [0x0a, 0xdd, 0x0b, 0x0d, 0x83, 0x76, 0x09, 0x65, 0x53, 0xf1, 0x00];
        assert_eq!(timed(&frame), [(TIME, 11, 28.29), (TIME, 12, 88.6), (TIME, 13, 27.81)]);
        // A device that was never told the time: the message's counts.
        let unset = [0x0a, 0xdd, 0x0b, 0x0d, 0x83, 0x76, 0x09, 0, 0, 0x10, 0];
        assert_eq!(decoded(&unset), [(11, 28.29), (12, 88.6), (13, 27.81)]);
    }

    #[test]
    fn a_frame_of_records_gives_each_its_own_time() {
        let record = [0x0a, 0xdd, 0x0b, 0x0d, 0x03, 0x76, 0x41, 0x65, 0x53, 0xf1, 0x00];
        let later = [0xfe, 0x0c, 0x0b, 0x0d, 0x03, 0x76, 0x41, 0x65, 0x53, 0xf1, 0x0a];
        let of = |time, probe| vec![(time, 11, 28.29), (time, 12, 88.6), (time, 13, probe)];
        assert_eq!(timed(&record), of(TIME, 27.81));
        assert_eq!(timed(&[record, later].concat()), [of(TIME, 27.81), of(TIME + 10, -5.0)].concat());
        let unset = [0x0a, 0xdd, 0x0b, 0x0d, 0x03, 0x76, 0x41, 0, 0, 0x10, 0];
        assert_eq!(timed(&unset), [], "the device did not know the time");
        let light = [0x00, 0x05, 0x0b, 0x0d, 0x03, 0x76, 0x45, 0x65, 0x53, 0xf1, 0x00];
        assert_eq!(timed(&light), [(TIME, 11, 28.29), (TIME, 12, 88.6)]);
        // A record and a frame that is none do not come together.
        assert_eq!(timed(&[record, [0; 11]].concat()), []);
    }

    #[test]
    fn each_external_sensor_gives_what_it_measures_and_an_unknown_one_nothing() {
        let frame = |kind, value: [u8; 4]| {
            let [a, b, c, d] = value;
            [0xcb, 0xf6, 0x0b, 0x0d, 0x03, 0x76, kind, a, b, c, d]
        };
        let base = [(10, 3.062), (11, 28.29), (12, 88.6)];
        let with = |more: &[(u32, f64)]| [&base[..], more].concat();
        assert_eq!(decoded(&frame(0, [0xff; 4])), base);
        assert_eq!(decoded(&frame(4, [1, 1, 0xff, 0xff])), base);
        assert_eq!(decoded(&frame(5, [1, 2, 0xff, 0xff])), with(&[(14, 258.0)]));
        assert_eq!(decoded(&frame(6, [0x0c, 0xe4, 0xff, 0xff])), with(&[(15, 3.3)]));
        assert_eq!(decoded(&frame(7, [0, 5, 0xff, 0xff])), with(&[(16, 5.0)]));
        assert_eq!(decoded(&frame(8, [0, 1, 0, 0])), with(&[(16, 65_536.0)]));
        assert_eq!(decoded(&frame(0x87, [0, 5, 0xff, 0xff])), base, "nothing is connected");
        for unknown in [2, 3, 10, 11, 12, 13, 14, 15, 0x11, 0x21] {
            assert_eq!(decoded(&frame(unknown, [0, 5, 0xff, 0xff])), [], "{unknown:#x}");
        }
    }

    /// The frame of the fixture `docs/fixtures/mqtt/chirpstack-up.json`.
    #[test]
    fn a_frame_becomes_four_readings() {
        let frame = [0xcb, 0xa4, 0x07, 0xc6, 0x01, 0xb8, 0x01, 0x08, 0x66, 0x7f, 0xff];
        assert_eq!(decoded(&frame), [(10, 2.98), (11, 19.9), (12, 44.0), (13, 21.5)]);
    }

    #[test]
    fn below_zero_and_without_a_probe() {
        let frame = [0x0b, 0xb8, 0xff, 0x9c, 0x03, 0xe7, 0x01, 0x7f, 0xff, 0x7f, 0xff];
        assert_eq!(decoded(&frame), [(10, 3.0), (11, -1.0), (12, 99.9)]);
    }

    #[test]
    fn a_frame_of_another_length_gives_nothing() {
        assert_eq!(decoded(&[0; 10]), []);
        assert_eq!(decoded(&[]), []);
    }

    #[test]
    fn an_unknown_output_is_refused() {
        let outputs = [info(9, "a/pressure")];
        let error = Lht65::new(&Stream { info: &info(1, "a"), params: &[], outputs: &outputs }).expect_err("unknown");
        assert!(error.contains("`a/pressure` must end with"), "{error}");
    }
}
