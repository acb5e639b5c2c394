//! A deadband over messages: finds the number behind `"v":` in a JSON payload by itself. For `make bench-e2e`, which shows
//! what it costs to parse inside a cell what the host could have parsed.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `absolute` | the value's | forward a message whose value has moved by more than this; required |
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Message, StateReader, StateWriter, Stream};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct JsonDeadband {
    bound: f64,
    last: Option<f64>,
}

/// The number behind `"v":`, if there is one.
fn value(payload: &[u8]) -> Option<f64> {
    let key = b"\"v\":";
    let at = payload.windows(key.len()).position(|window| window == key)? + key.len();
    let rest = payload[at..].trim_ascii_start();
    let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    core::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?.parse().ok()
}

impl Cell<Message, Message> for JsonDeadband {
    const PARAMS: &'static [&'static str] = &["absolute"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let bound = stream.positive("absolute")?.ok_or_else(|| stream.error("absolute", "missing"))?;
        Ok(Self { bound, last: None })
    }

    fn process(&mut self, message: Message, out: &mut Vec<Message>) {
        let Some(value) = value(&message.payload) else { return };
        if self.last.is_none_or(|last| (value - last).abs() > self.bound) {
            self.last = Some(value);
            out.push(message);
        }
    }

    fn save(&self, state: &mut StateWriter) {
        state.option(self.last, StateWriter::f64);
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
        self.last = state.option(StateReader::f64)?;
        Ok(())
    }
}

porin_sdk::export!(JsonDeadband as message_filter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found() {
        assert_eq!(value(br#"{"t":1,"v": -2.5e1}"#), Some(-25.0));
        assert_eq!(value(br#"{"v":7"#), Some(7.0));
        assert_eq!(value(br#"{"v":"x"}"#), None);
        assert_eq!(value(b"{}"), None);
    }
}
