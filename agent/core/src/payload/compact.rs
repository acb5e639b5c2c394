//! The compact payload, version 1: columns of differences.
//!
//! ```text
//! version      u8 = 1
//! gateway      u8 length, text
//! epoch        u64 little-endian (store), varint (starts)
//! count        varint: packets
//! streams      varint number, then for each u8 length, text; in the order of first appearance
//! which        column of positions in `streams`; left out if there is one stream
//! seqs         column
//! times        column of microseconds
//! qualities    column
//! values       for each stream in turn: u8 scale; 255: f64 little-endian each; else a column of value × 10^scale
//! ```
//!
//! A varint is LEB128, at most 10 bytes. A column of n integers: the first (zigzag varint); if n > 1, the greatest common
//! divisor of the differences (varint; 0: all are equal, nothing follows); then u8 shape: 0 every difference is +divisor,
//! 1 every difference is −divisor, 2 each difference ÷ divisor follows (zigzag varint). Differences wrap at 64 bits.
//!
//! Values are scaled only where dividing gives back every bit; recorded data are decimal, so that is most of the time.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use super::{BadPayload, Decoded, DecodedPacket, MAX_PACKETS, Packet};
use crate::ids::{Epoch, Seq};

/// Version of the payload.
pub const VERSION: u8 = 1;

/// Instead of a scale: the values are floats as they are.
const RAW: u8 = 255;

/// 10^15 is the last power of ten that leaves room for digits in front within 2^53.
const MAX_SCALE: u8 = 15;

/// Every value is m ÷ 10^scale with |m| at most this: both are exact floats, so the division is correctly rounded.
const MAX_SCALED: f64 = 9_007_199_254_740_992.0;

/// The payload of a publish.
#[must_use]
pub fn encode(gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + packets.len() * 4);
    out.push(VERSION);
    put_text(&mut out, gateway);
    out.extend_from_slice(&epoch.store.to_le_bytes());
    put_varint(&mut out, epoch.starts.into());
    put_varint(&mut out, packets.len() as u64);
    let mut positions = BTreeMap::new();
    // By stream in the order of first appearance.
    let mut streams: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut which = Vec::with_capacity(packets.len());
    for packet in packets {
        let position = *positions.entry(packet.stream).or_insert_with(|| {
            streams.push((packet.stream, Vec::new()));
            streams.len() - 1
        });
        streams[position].1.push(packet.value);
        which.push(position as u64);
    }
    put_varint(&mut out, streams.len() as u64);
    streams.iter().for_each(|(stream, _)| put_text(&mut out, stream));
    if streams.len() > 1 {
        put_column(&mut out, &which);
    }
    let mut column = |field: fn(&Packet<'_>) -> u64| {
        let numbers: Vec<u64> = packets.iter().map(field).collect();
        put_column(&mut out, &numbers);
    };
    column(|packet| packet.seq.0);
    column(|packet| packet.time_us);
    column(|packet| packet.quality.into());
    streams.iter().for_each(|(_, values)| put_values(&mut out, values));
    out
}

fn put_values(out: &mut Vec<u8>, values: &[f64]) {
    // What fits at a scale fits at any larger one, as long as it stays below 2^53.
    let mut scale = 0;
    for value in values {
        while scale <= MAX_SCALE && scaled(*value, scale).is_none() {
            scale += 1;
        }
    }
    let column: Option<Vec<u64>> = values.iter().map(|value| scaled(*value, scale)).collect();
    match column {
        Some(column) => {
            out.push(scale);
            put_column(out, &column);
        }
        None => {
            out.push(RAW);
            values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
    }
}

/// The value × 10^scale, if dividing gives back every bit.
fn scaled(value: f64, scale: u8) -> Option<u64> {
    if scale > MAX_SCALE {
        return None;
    }
    let product = value * power(scale);
    if product.is_nan() || product.abs() > MAX_SCALED {
        return None;
    }
    #[allow(clippy::cast_possible_truncation)] // it is below 2^53
    let number = (product + 0.5f64.copysign(product)) as i64;
    let number = number.cast_unsigned();
    (unscaled(number, scale).to_bits() == value.to_bits()).then_some(number)
}

#[allow(clippy::cast_precision_loss)] // checked by whoever writes; a reader gets what was written
fn unscaled(number: u64, scale: u8) -> f64 {
    number.cast_signed() as f64 / power(scale)
}

fn power(scale: u8) -> f64 {
    const POWERS: [f64; MAX_SCALE as usize + 1] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    POWERS[usize::from(scale)]
}

/// Integers as their bits: signed or not, differences wrap the same way.
fn put_column(out: &mut Vec<u8>, numbers: &[u64]) {
    let [first, rest @ ..] = numbers else { return };
    put_varint(out, zigzag(*first));
    if rest.is_empty() {
        return;
    }
    let differences = || numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]).cast_signed());
    let divisor = differences().fold(0, |divisor, difference| gcd(divisor, difference.unsigned_abs()));
    put_varint(out, divisor);
    if divisor == 0 {
        return;
    }
    if differences().all(|difference| difference > 0 && difference.unsigned_abs() == divisor) {
        out.push(0);
    } else if differences().all(|difference| difference < 0 && difference.unsigned_abs() == divisor) {
        out.push(1);
    } else {
        out.push(2);
        for difference in differences() {
            // Divided as magnitudes: the smallest i64 has no positive twin.
            let quotient = difference.unsigned_abs() / divisor;
            let quotient = if difference < 0 { quotient.wrapping_neg() } else { quotient };
            put_varint(out, zigzag(quotient));
        }
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn zigzag(number: u64) -> u64 {
    let number = number.cast_signed();
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // seven bits of it
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // below 0x80
    out.push(number as u8);
}

/// Gateway ids and stream names are below 256 bytes by their own rules.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    #[allow(clippy::cast_possible_truncation)] // at most 255
    out.push(end as u8);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Reads a payload; all bytes must be used.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Decoded, BadPayload> {
    let mut bytes = Bytes(bytes);
    let version = bytes.byte()?;
    if version != VERSION {
        return Err(BadPayload::Version(version.into()));
    }
    let gateway = bytes.text()?;
    let store = u64::from_le_bytes(bytes.array()?);
    let starts =
        u32::try_from(bytes.varint()?).map_err(|_| BadPayload::malformed("the count of starts is too large"))?;
    let count = bytes.count()?;
    let names = bytes.count()?;
    if names > count {
        return Err(BadPayload::malformed("more streams than packets"));
    }
    let streams = (0..names).map(|_| bytes.text()).collect::<Result<Vec<_>, _>>()?;
    let which = if names <= 1 { alloc::vec![0; count] } else { bytes.column(count)? };
    let (seqs, times, qualities) = (bytes.column(count)?, bytes.column(count)?, bytes.column(count)?);
    let mut packets = Vec::with_capacity(count);
    let mut positions = alloc::vec![Vec::new(); names];
    for index in 0..count {
        let stream = usize::try_from(which[index]).ok().filter(|stream| *stream < names);
        let stream = stream.ok_or_else(|| BadPayload::malformed("a packet of no stream"))?;
        positions[stream].push(index);
        let quality =
            u32::try_from(qualities[index]).map_err(|_| BadPayload::malformed("a quality of more than 32 bits"))?;
        let (seq, time_us) = (Seq(seqs[index]), times[index]);
        packets.push(DecodedPacket { seq, stream: streams[stream].clone(), time_us, value: 0.0, quality });
    }
    for positions in positions {
        for (position, value) in positions.iter().zip(bytes.values(positions.len())?) {
            packets[*position].value = value;
        }
    }
    if !bytes.0.is_empty() {
        return Err(BadPayload::malformed("bytes are left over"));
    }
    Ok(Decoded { gateway, epoch: Epoch { store, starts }, packets, messages: Vec::new() })
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadPayload> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(|| BadPayload::malformed("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadPayload> {
        self.take(N)?.try_into().map_err(|_| BadPayload::malformed("it ends too early"))
    }

    fn byte(&mut self) -> Result<u8, BadPayload> {
        Ok(self.array::<1>()?[0])
    }

    fn varint(&mut self) -> Result<u64, BadPayload> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BadPayload::malformed("an integer of more than 64 bits"))
    }

    /// A number of things.
    fn count(&mut self) -> Result<usize, BadPayload> {
        match usize::try_from(self.varint()?) {
            Ok(count) if count <= MAX_PACKETS => Ok(count),
            _ => Err(BadPayload::TooMany),
        }
    }

    fn text(&mut self) -> Result<String, BadPayload> {
        let length = self.byte()?;
        let text = core::str::from_utf8(self.take(length.into())?);
        text.map(String::from).map_err(|_| BadPayload::malformed("a name that is not UTF-8"))
    }

    fn column(&mut self, count: usize) -> Result<Vec<u64>, BadPayload> {
        let mut numbers = Vec::with_capacity(count);
        if count == 0 {
            return Ok(numbers);
        }
        let mut number = unzigzag(self.varint()?);
        numbers.push(number);
        if count == 1 {
            return Ok(numbers);
        }
        let divisor = self.varint()?;
        let shape = if divisor == 0 { 0 } else { self.byte()? };
        for _ in 1..count {
            let difference = match shape {
                0 => divisor,
                1 => divisor.wrapping_neg(),
                2 => unzigzag(self.varint()?).wrapping_mul(divisor),
                _ => return Err(BadPayload::malformed("a column of unknown shape")),
            };
            number = number.wrapping_add(difference);
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn values(&mut self, count: usize) -> Result<Vec<f64>, BadPayload> {
        match self.byte()? {
            RAW => (0..count).map(|_| self.array().map(f64::from_le_bytes)).collect(),
            scale @ 0..=MAX_SCALE => {
                Ok(self.column(count)?.into_iter().map(|number| unscaled(number, scale)).collect())
            }
            _ => Err(BadPayload::malformed("an unknown scale")),
        }
    }
}
