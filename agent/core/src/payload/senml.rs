//! SenML (RFC 8428) in JSON and in CBOR: what porin writes, and what anybody writes as far as readings go.
//!
//! porin's packs are ordinary SenML with labels of its own, which other readers pass over:
//!
//! | label | in | |
//! |---|---|---|
//! | `pgw`, `pe` | first record | gateway id, epoch |
//! | `ps` | a record | seq; left out when it is one more than the record's before |
//! | `pq` | a record | quality bits; left out when 0 |
//! | `pt` | a record | microseconds since 1970, instead of `t`, where SenML's time would mean "relative to now" (before 1978-07-04) |
//!
//! A name is `<gateway>/<stream>`; characters that SenML does not allow in names are written `:` and two hex digits for
//! each byte. Values that are no finite numbers are text (`vs`).

mod fields;
mod write;

use alloc::{borrow::Cow, format, string::String, vec::Vec};

use self::fields::{fields_cbor, fields_json};
pub use self::write::{encode_cbor, encode_json};
use super::{BadPayload, Decoded, DecodedPacket, MAX_PACKETS, value_of};
use crate::ids::{Epoch, Seq};

/// SenML's version, and the newest that is read.
const VERSION: u64 = 10;

/// Times before this are relative to now: 2^28 seconds, in microseconds.
pub const ABSOLUTE_FROM_US: i128 = (1 << 28) * 1_000_000;

/// The two forms of SenML that porin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Json,
    Cbor,
}

/// A value of a record, as it was written.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Number(f64),
    Flag(bool),
    Text(String),
}

/// A record with its base fields resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Base name and name.
    pub name: String,
    /// Its own unit, or the base unit.
    pub unit: Option<String>,
    /// What was measured; `None` if the record has only a sum or binary data.
    pub value: Option<Value>,
    /// Microseconds: since 1970, or if below [`ABSOLUTE_FROM_US`] relative to now.
    pub time_us: i128,
    porin: Porin,
}

/// porin's own labels.
#[derive(Clone, Debug, Default, PartialEq)]
struct Porin {
    gateway: Option<String>,
    epoch: Option<String>,
    seq: Option<u64>,
    quality: Option<u32>,
    time_us: Option<u64>,
}

/// Reads a pack of anybody's.
///
/// # Errors
/// What is wrong with it.
pub fn records(form: Form, bytes: &[u8]) -> Result<Vec<Record>, BadPayload> {
    let pack = match form {
        Form::Json => fields_json(bytes)?,
        Form::Cbor => {
            fields_cbor(bytes).map_err(|error| BadPayload::Malformed(format!("it is no SenML in CBOR: {error}")))?
        }
    };
    if pack.len() > MAX_PACKETS {
        return Err(BadPayload::TooMany);
    }
    let (mut base_name, mut base_time, mut base_value) = (String::new(), 0i128, None);
    let mut base_unit: Option<String> = None;
    let mut records = Vec::with_capacity(pack.len());
    let mut resolved = 0;
    for fields in pack {
        if let Some(version) = fields.bver.filter(|version| *version > VERSION) {
            return Err(BadPayload::Malformed(format!("SenML version {version}, this porin knows up to {VERSION}")));
        }
        if let Some(label) = fields.must_understand {
            return Err(BadPayload::Malformed(format!("the label `{label}` must be understood, and is not")));
        }
        base_name = fields.bn.map_or(base_name, Cow::into_owned);
        base_unit = fields.bu.map(Cow::into_owned).or(base_unit);
        base_time = fields.bt.unwrap_or(base_time);
        base_value = fields.bv.or(base_value);
        let name = [base_name.as_str(), fields.n.as_deref().unwrap_or_default()].concat();
        if name.len() > MAX_NAME {
            return Err(BadPayload::malformed("a name of more than 1,024 bytes"));
        }
        let value = match (fields.v, fields.vb, fields.vs) {
            (Some(number), _, _) => Some(Value::Number(base_value.map_or(number, |base| base + number))),
            (None, Some(flag), _) => Some(Value::Flag(flag)),
            (None, None, Some(text)) => Some(Value::Text(text.into_owned())),
            // A base value without a value is the value (RFC 8428, section 4.5.3).
            (None, None, None) => base_value.filter(|_| fields.n.is_some()).map(Value::Number),
        };
        let porin = Porin {
            gateway: fields.pgw.map(Cow::into_owned),
            epoch: fields.pe.map(Cow::into_owned),
            seq: fields.ps,
            quality: fields.pq,
            time_us: fields.pt,
        };
        let time_us = base_time + fields.t.unwrap_or(0);
        let unit = fields.u.map(Cow::into_owned).or_else(|| base_unit.clone());
        // A base field of some kilobytes would be there once for each of many small records.
        resolved += name.len() + unit.as_ref().map_or(0, String::len);
        if resolved > MAX_RESOLVED {
            return Err(BadPayload::malformed("names and units of more than 2 MiB"));
        }
        records.push(Record { name, unit, value, time_us, porin });
    }
    Ok(records)
}

/// Bytes of all names and units together, base names and base units repeated.
const MAX_RESOLVED: usize = 2 << 20;

/// Bytes of a name: names of porin's own making have at most 364.
const MAX_NAME: usize = 1_024;

/// Reads a pack of porin's own.
///
/// # Errors
/// What is wrong with it, or that it is somebody else's.
pub fn decode(form: Form, bytes: &[u8]) -> Result<Decoded, BadPayload> {
    let records = records(form, bytes)?;
    let head = records.first().map(|record| &record.porin);
    let Some((gateway, epoch)) = head.and_then(|head| head.gateway.clone().zip(head.epoch.clone())) else {
        return Err(BadPayload::malformed("a pack without `pgw` and `pe`: it is not porin's"));
    };
    let epoch: Epoch =
        epoch.parse().map_err(|()| BadPayload::malformed("the epoch is not 16 hex digits, `-`, a number"))?;
    let prefix = format!("{gateway}/");
    // A head without a packet.
    if let [Record { name, value: None, .. }] = records.as_slice()
        && *name == prefix
    {
        return Ok(Decoded { gateway, epoch, packets: Vec::new(), messages: Vec::new() });
    }
    let mut next = None;
    let mut packets = Vec::with_capacity(records.len());
    for record in records {
        let seq = record.porin.seq.or(next).ok_or_else(|| BadPayload::malformed("a record without a seq"))?;
        next = seq.checked_add(1);
        let name = record.name.strip_prefix(&prefix).and_then(unescape);
        let stream = name.ok_or_else(|| BadPayload::malformed("a name that does not begin with the gateway's"))?;
        let value = match record.value {
            Some(Value::Number(number)) => Some(number),
            Some(Value::Text(text)) => value_of(&text),
            Some(Value::Flag(_)) | None => None,
        };
        let value = value.ok_or_else(|| BadPayload::malformed("a record without a number"))?;
        let time = record.porin.time_us.map_or(record.time_us, i128::from);
        let time_us = u64::try_from(time).map_err(|_| BadPayload::malformed("a time that porin does not write"))?;
        let quality = record.porin.quality.unwrap_or(0);
        packets.push(DecodedPacket { seq: Seq(seq), stream, time_us, value, quality });
    }
    Ok(Decoded { gateway, epoch, packets, messages: Vec::new() })
}

/// A stream's name in the characters that SenML allows.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'/' | b'_' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!(":{other:02X}")),
        }
    }
    escaped
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b':' {
            let (digits, after) = rest.split_at_checked(2)?;
            rest = after;
            bytes.push(u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}
