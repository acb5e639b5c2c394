//! `porin decode`: a payload from standard input, in whatever encoding, as JSON lines.

use std::io::{BufRead, Read, Write};

use anyhow::{Context, bail};
use porin_core::payload::{self, Decoded};
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
struct Line<'a> {
    gw: &'a str,
    epoch: String,
    seq: u64,
    stream: &'a str,
    time_us: u64,
    value: Box<RawValue>,
    #[serde(skip_serializing_if = "is_good")]
    quality: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_good(quality: &u32) -> bool {
    *quality == 0
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    if !arguments.hex {
        let mut bytes = Vec::new();
        input.take(MAX_BYTES + 1).read_to_end(&mut bytes).context("reading standard input")?;
        if bytes.len() as u64 > MAX_BYTES {
            bail!("standard input has more than {MAX_BYTES} bytes; a payload has fewer (for several, see --hex)");
        }
        return print(&mut output, &payload::decode(&bytes).context("standard input is no payload")?);
    }
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(2 * MAX_BYTES).read_line(&mut line).with_context(|| format!("line {number}"))? == 0 {
            break;
        }
        let bytes = from_hex(line.trim()).with_context(|| format!("line {number} is not hex"))?;
        let decoded = payload::decode(&bytes).with_context(|| format!("line {number} is no payload"))?;
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
    for packet in &decoded.packets {
        let line = Line {
            gw: &decoded.gateway,
            epoch: decoded.epoch.to_string(),
            seq: packet.seq.0,
            stream: &packet.stream,
            time_us: packet.time_us,
            value: RawValue::from_string(payload::value_as_json(packet.value))?,
            quality: packet.quality,
        };
        writeln!(output, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}
