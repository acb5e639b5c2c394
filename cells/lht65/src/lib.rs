//! LHT65: decodes the frames of Dragino's LoRaWAN temperature and humidity sensor.
//!
//! | bytes | | |
//! |---|---|---|
//! | 0, 1 | battery | the low 14 bits, in mV |
//! | 2, 3 | temperature | signed, in 0.01 °C |
//! | 4, 5 | humidity | the low 12 bits, in 0.1 % RH |
//! | 6 | external sensor | the low 7 bits: 1 is a temperature probe; others are not decoded |
//! | 7, 8 | of the probe | signed, in 0.01 °C; 0x7fff: not connected |
//!
//! All big-endian, on LoRaWAN port 2. The slot's `outputs` end with what is wanted: `/battery` (V), `/temperature` (Cel), `/humidity`
//! (%RH), `/probe` (Cel). The time is the message's. A frame of another length gives nothing:
//! nobody can know what it means. There are no parameters. Not for other sensors, even of the same maker.
//!
//! Source: Dragino, "LHT65 LoRaWAN Temperature & Humidity Sensor User Manual", section 2.4 (uplink payload, Ext = 1).
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Message, Reading, StateReader, StateWriter, Stream};

/// Bytes of a frame.
const FRAME: usize = 11;

/// The probe's value when there is none.
const NOT_CONNECTED: i16 = 0x7fff;

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
}

/// The names that outputs end with.
const QUANTITIES: [(&str, Quantity); 4] = [
    ("battery", Quantity::Battery),
    ("temperature", Quantity::Temperature),
    ("humidity", Quantity::Humidity),
    ("probe", Quantity::Probe),
];

impl Quantity {
    fn of(self, frame: &[u8; FRAME]) -> Option<f64> {
        let unsigned = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let signed = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
        match self {
            Self::Battery => Some(f64::from(unsigned(0) & 0x3fff) / 1_000.0),
            Self::Temperature => Some(f64::from(signed(2)) / 100.0),
            Self::Humidity => Some(f64::from(unsigned(4) & 0x0fff) / 10.0),
            Self::Probe if frame[6] & 0x7f == 1 && signed(7) != NOT_CONNECTED => Some(f64::from(signed(7)) / 100.0),
            Self::Probe => None,
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
                let what = "` must end with /battery, /temperature, /humidity or /probe";
                return Err(["output `", &output.name, what].concat());
            };
            outputs.push((*quantity, output.id));
        }
        Ok(Self { outputs })
    }

    fn process(&mut self, message: Message, out: &mut Vec<Reading>) {
        let Ok(frame) = <&[u8; FRAME]>::try_from(message.payload.as_slice()) else { return };
        for (quantity, stream) in &self.outputs {
            if let Some(value) = quantity.of(frame) {
                out.push(Reading { time_us: message.time_us, value, stream: *stream, quality: message.quality });
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

    fn decoded(payload: &[u8]) -> Vec<(u32, f64)> {
        let outputs: Vec<_> = (10..).zip(QUANTITIES).map(|(id, (name, _))| info(id, &format!("a/{name}"))).collect();
        let mut cell = Lht65::new(&Stream { info: &info(1, "a"), params: &[], outputs: &outputs }).expect("good");
        let message = Message { time_us: 5, stream: 1, quality: 1, topic: "up".into(), payload: payload.into() };
        let mut out = Vec::new();
        cell.process(message, &mut out);
        assert!(out.iter().all(|reading| (reading.time_us, reading.quality) == (5, 1)));
        out.iter().map(|reading| (reading.stream, reading.value)).collect()
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
