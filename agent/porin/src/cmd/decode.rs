//! `porin decode`: a payload from standard input, in whatever encoding, as JSON lines.

use std::io::{BufRead, Read, Write};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use porin_core::payload::{self, Decoded, DecodedMessage, DecodedPacket};
use serde::Serialize;
use serde_json::value::RawValue;

/// Bytes of a payload: MQTT's largest is 256 MB, a broker's is far below.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A payload in hex on each line, as `mosquitto_sub -F %x` prints it, instead of one payload
    #[arg(long)]
    hex: bool,
}

/// A packet on a line of its own.
#[derive(Serialize)]
struct DecodedLine<'a> {
    gw: &'a str,
    epoch: String,
    seq: u64,
    stream: &'a str,
    time_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Body<'a>>,
    #[serde(skip_serializing_if = "is_good")]
    quality: u32,
}

/// A message's bytes: a text, or what no text can hold.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text(&'a str),
    Base64 { base64: String },
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_good(quality: &u32) -> bool {
    *quality == 0
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut output = crate::output::stdout();
    if !arguments.hex {
        let mut bytes = Vec::new();
        input.take(MAX_BYTES + 1).read_to_end(&mut bytes).context("reading standard input")?;
        if bytes.len() as u64 > MAX_BYTES {
            bail!("standard input has more than {MAX_BYTES} bytes; a payload has fewer (for several, see --hex)");
        }
        return print(&mut output, &payload::decode(&bytes).context("standard input is not a payload")?);
    }
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(2 * MAX_BYTES).read_line(&mut line).with_context(|| format!("line {number}"))? == 0 {
            break;
        }
        let bytes = from_hex(line.trim()).with_context(|| format!("line {number} is not hex"))?;
        let decoded = payload::decode(&bytes).with_context(|| format!("line {number} is not a payload"))?;
        print(&mut output, &decoded)?;
    }
    Ok(())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

fn print(output: &mut impl Write, decoded: &Decoded) -> anyhow::Result<()> {
    let (gw, epoch) = (decoded.gateway.as_str(), decoded.epoch);
    let mut print = |line: &DecodedLine<'_>| anyhow::Ok(writeln!(output, "{}", serde_json::to_string(line)?)?);
    for DecodedPacket { seq, stream, time_us, value, quality } in &decoded.packets {
        let value = Some(RawValue::from_string(payload::value_as_json(*value))?);
        let (seq, time_us, quality, epoch) = (seq.0, *time_us, *quality, epoch.to_string());
        print(&DecodedLine { gw, epoch, seq, stream, time_us, value, topic: None, payload: None, quality })?;
    }
    for DecodedMessage { seq, stream, time_us, topic, payload, quality } in &decoded.messages {
        let payload = Some(match std::str::from_utf8(payload) {
            Ok(text) => Body::Text(text),
            Err(_) => Body::Base64 { base64: BASE64_STANDARD.encode(payload) },
        });
        let (seq, time_us, quality, epoch) = (seq.0, *time_us, *quality, epoch.to_string());
        print(&DecodedLine { gw, epoch, seq, stream, time_us, value: None, topic: Some(topic), payload, quality })?;
    }
    Ok(())
}
