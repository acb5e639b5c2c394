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

use alloc::{
    borrow::Cow,
    format,
    string::{String, ToString},
    vec::Vec,
};

use minicbor::{
    Decoder, Encoder,
    data::{Int, Tag, Type},
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{BadPayload, Decoded, DecodedPacket, MAX_PACKETS, Packet, text_of, value_as_json, value_of};
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

/// A record as it is written, of either form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    bn: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "seconds")]
    bt: Option<i128>,
    bu: Option<Cow<'a, str>>,
    bv: Option<f64>,
    bver: Option<u64>,
    n: Option<Cow<'a, str>>,
    u: Option<Cow<'a, str>>,
    v: Option<f64>,
    vs: Option<Cow<'a, str>>,
    vb: Option<bool>,
    #[serde(deserialize_with = "seconds")]
    t: Option<i128>,
    pgw: Option<Cow<'a, str>>,
    pe: Option<Cow<'a, str>>,
    ps: Option<u64>,
    pq: Option<u32>,
    pt: Option<u64>,
    /// The first label that must be understood and is not.
    #[serde(skip)]
    must_understand: Option<String>,
}

/// Decimal seconds as microseconds, exactly: through a float they would be off by one.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?.get();
    microseconds(text).map(Some).ok_or_else(|| serde::de::Error::custom(format!("{text} is no time")))
}

/// A JSON number of seconds in microseconds; digits beyond the sixth are cut off.
fn microseconds(text: &str) -> Option<i128> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?),
        None => (text, 0i32),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The number is `whole` and `fraction` read as one integer, times ten to the `shift`.
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(6)?;
    let mut number: i128 = 0;
    let digits = whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0'));
    let keep = usize::try_from(shift.min(0).unsigned_abs()).ok()?;
    for digit in digits.take((whole.len() + fraction.len()).saturating_sub(keep)) {
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    // Zero has no end of zeroes.
    for _ in 0..if number == 0 { 0 } else { shift.max(0) } {
        number = number.checked_mul(10)?;
    }
    (number.unsigned_abs() < MAX_TIME).then_some(if negative { -number } else { number })
}

/// No time is that far away: three hundred million years.
const MAX_TIME: u128 = 1 << 80;

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

fn fields_json(bytes: &[u8]) -> Result<Vec<Fields<'_>>, BadPayload> {
    /// A record, and its labels once more for the one that must be understood.
    struct Strict<'a>(Fields<'a>);
    impl<'de> Deserialize<'de> for Strict<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = <&RawValue>::deserialize(deserializer)?.get();
            let mut fields: Fields<'de> = serde_json::from_str(text).map_err(serde::de::Error::custom)?;
            let labels: alloc::collections::BTreeMap<Cow<'de, str>, serde::de::IgnoredAny> =
                serde_json::from_str(text).map_err(serde::de::Error::custom)?;
            fields.must_understand = labels.into_keys().find(|label| label.ends_with('_')).map(Cow::into_owned);
            Ok(Self(fields))
        }
    }
    let pack: Vec<Strict<'_>> =
        serde_json::from_slice(bytes).map_err(|error| BadPayload::Malformed(format!("it is no SenML: {error}")))?;
    Ok(pack.into_iter().map(|Strict(fields)| fields).collect())
}

/// Labels in CBOR (RFC 8428, section 6).
mod label {
    pub(super) const BVER: i64 = -1;
    pub(super) const BN: i64 = -2;
    pub(super) const BT: i64 = -3;
    pub(super) const BU: i64 = -4;
    pub(super) const BV: i64 = -5;
    pub(super) const N: i64 = 0;
    pub(super) const U: i64 = 1;
    pub(super) const V: i64 = 2;
    pub(super) const VS: i64 = 3;
    pub(super) const VB: i64 = 4;
    pub(super) const T: i64 = 6;
}

fn fields_cbor(bytes: &[u8]) -> Result<Vec<Fields<'_>>, minicbor::decode::Error> {
    let mut decoder = Decoder::new(bytes);
    let mut pack = Vec::new();
    let mut left = decoder.array()?;
    while more(&mut decoder, &mut left)? {
        if pack.len() > MAX_PACKETS {
            break;
        }
        pack.push(record_cbor(&mut decoder)?);
    }
    if pack.len() <= MAX_PACKETS && decoder.position() != bytes.len() {
        return Err(minicbor::decode::Error::message("bytes are left over"));
    }
    Ok(pack)
}

/// Whether an array or map goes on; `left` is its length, if that came first.
fn more(decoder: &mut Decoder<'_>, left: &mut Option<u64>) -> Result<bool, minicbor::decode::Error> {
    match left {
        Some(0) => Ok(false),
        Some(left) => {
            *left -= 1;
            Ok(true)
        }
        None if decoder.datatype()? == Type::Break => {
            decoder.skip()?;
            Ok(false)
        }
        None => Ok(true),
    }
}

fn record_cbor<'a>(decoder: &mut Decoder<'a>) -> Result<Fields<'a>, minicbor::decode::Error> {
    let mut fields = Fields::default();
    let mut left = decoder.map()?;
    while more(decoder, &mut left)? {
        if decoder.datatype()? == Type::String {
            match decoder.str()? {
                "pgw" => fields.pgw = Some(decoder.str()?.into()),
                "pe" => fields.pe = Some(decoder.str()?.into()),
                "ps" => fields.ps = Some(decoder.u64()?),
                "pq" => fields.pq = Some(decoder.u32()?),
                "pt" => fields.pt = Some(decoder.u64()?),
                other => {
                    if other.ends_with('_') && fields.must_understand.is_none() {
                        fields.must_understand = Some(other.to_string());
                    }
                    decoder.skip()?;
                }
            }
            continue;
        }
        match decoder.i64()? {
            label::BVER => fields.bver = Some(decoder.u64()?),
            label::BN => fields.bn = Some(decoder.str()?.into()),
            label::BT => fields.bt = Some(time_cbor(decoder)?),
            label::BU => fields.bu = Some(decoder.str()?.into()),
            label::BV => fields.bv = Some(number_cbor(decoder)?),
            label::N => fields.n = Some(decoder.str()?.into()),
            label::U => fields.u = Some(decoder.str()?.into()),
            label::V => fields.v = Some(number_cbor(decoder)?),
            label::VS => fields.vs = Some(decoder.str()?.into()),
            label::VB => fields.vb = Some(decoder.bool()?),
            label::T => fields.t = Some(time_cbor(decoder)?),
            _ => decoder.skip()?,
        }
    }
    Ok(fields)
}

/// An integer, a float, or a decimal fraction (tag 4).
enum Number {
    Integer(i128),
    Float(f64),
    /// Exponent of ten, mantissa.
    Decimal(i32, i128),
}

#[allow(clippy::wildcard_enum_match_arm)] // minicbor's types: what is no integer either is its error
fn any_number(decoder: &mut Decoder<'_>) -> Result<Number, minicbor::decode::Error> {
    Ok(match decoder.datatype()? {
        Type::F16 => Number::Float(decoder.f16()?.into()),
        Type::F32 => Number::Float(decoder.f32()?.into()),
        Type::F64 => Number::Float(decoder.f64()?),
        Type::Tag => {
            let (tag, parts) = (decoder.tag()?, decoder.array()?);
            if tag.as_u64() != 4 || parts != Some(2) {
                return Err(minicbor::decode::Error::message("a number with an unknown tag"));
            }
            Number::Decimal(decoder.i32()?, decoder.int()?.into())
        }
        _ => Number::Integer(decoder.int()?.into()),
    })
}

#[allow(clippy::cast_precision_loss)] // a CBOR number means the float that it becomes (RFC 8428, section 6)
fn number_cbor(decoder: &mut Decoder<'_>) -> Result<f64, minicbor::decode::Error> {
    Ok(match any_number(decoder)? {
        Number::Integer(number) => number as f64,
        Number::Float(number) => number,
        // As its decimal text reads: the nearest float.
        Number::Decimal(exponent, mantissa) => {
            format!("{mantissa}e{exponent}").parse().map_err(|_| minicbor::decode::Error::message("no number"))?
        }
    })
}

fn time_cbor(decoder: &mut Decoder<'_>) -> Result<i128, minicbor::decode::Error> {
    let time = match any_number(decoder)? {
        Number::Integer(seconds) => seconds.checked_mul(1_000_000).filter(|time| time.unsigned_abs() < MAX_TIME),
        Number::Decimal(exponent, mantissa) => microseconds(&format!("{mantissa}e{exponent}")),
        #[allow(clippy::cast_possible_truncation)] // it saturates, and then is too far away
        Number::Float(seconds) => {
            let time = seconds * 1e6;
            let time = (time + 0.5f64.copysign(time)) as i128;
            (!seconds.is_nan() && time.unsigned_abs() < MAX_TIME).then_some(time)
        }
    };
    time.ok_or_else(|| minicbor::decode::Error::message("no time"))
}

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

/// A record as porin writes it; either form has its own way to put it down.
struct Written<'a> {
    base_name: Option<String>,
    base_unit: Option<&'a str>,
    /// Seconds as decimal: microseconds.
    base_time: Option<i128>,
    name: Option<String>,
    unit: Option<&'a str>,
    value: f64,
    /// Relative to the base time; left out when 0.
    time: Option<i128>,
    porin: Porin,
}

/// The pack, record by record: name and unit once if there is one stream, times relative to the first.
fn written<'a>(gateway: &str, epoch: Epoch, packets: &'a [Packet<'a>]) -> impl Iterator<Item = Written<'a>> {
    let one = packets.iter().all(|packet| packet.stream == packets[0].stream);
    let absolute = |packet: &Packet<'_>| Some(i128::from(packet.time_us)).filter(|time| *time >= ABSOLUTE_FROM_US);
    let base = packets.iter().find_map(absolute);
    let base_name = if one {
        format!("{gateway}/{}", escape(packets.first().map_or("", |packet| packet.stream)))
    } else {
        format!("{gateway}/")
    };
    let gateway = gateway.to_string();
    let mut before = None;
    packets.iter().enumerate().map(move |(index, packet)| {
        let unit = Some(packet.unit).filter(|unit| !unit.is_empty());
        let head = index == 0;
        let time = absolute(packet);
        let follows = before == Some(packet.seq.0);
        before = packet.seq.0.checked_add(1);
        Written {
            base_name: head.then(|| base_name.clone()),
            base_unit: unit.filter(|_| head && one),
            base_time: base.filter(|_| head),
            name: (!one).then(|| escape(packet.stream)),
            unit: unit.filter(|_| !one),
            value: packet.value,
            time: time.zip(base).map(|(time, base)| time - base).filter(|offset| *offset != 0),
            porin: Porin {
                gateway: head.then(|| gateway.clone()),
                epoch: head.then(|| epoch.to_string()),
                seq: (!follows).then_some(packet.seq.0),
                quality: Some(packet.quality).filter(|quality| *quality != 0),
                time_us: time.is_none().then_some(packet.time_us),
            },
        }
    })
}

/// The payload of a publish, in JSON.
#[must_use]
pub fn encode_json(gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    if packets.is_empty() {
        return format!(r#"[{{"bn":"{gateway}/","pgw":"{gateway}","pe":"{epoch}"}}]"#).into_bytes();
    }
    let mut out = String::from("[");
    for record in written(gateway, epoch, packets) {
        out.push_str(if out.len() > 1 { ",{" } else { "{" });
        let mut field = |label: &str, value: &dyn core::fmt::Display| {
            if !out.ends_with('{') {
                out.push(',');
            }
            out.push_str(&format!("\"{label}\":{value}"));
        };
        // Names are within SenML's characters and ids are theirs: only units and epochs are left, and have no quotes.
        let mut text = |label: &str, value: Option<&str>| value.map(|value| field(label, &format_args!("\"{value}\"")));
        text("bn", record.base_name.as_deref());
        text("bu", record.base_unit);
        text("pgw", record.porin.gateway.as_deref());
        text("pe", record.porin.epoch.as_deref());
        text("n", record.name.as_deref());
        text("u", record.unit);
        if let Some(time) = record.base_time {
            field("bt", &decimal(time));
        }
        if let Some(time) = record.time {
            field("t", &decimal(time));
        }
        field(if record.value.is_finite() { "v" } else { "vs" }, &value_as_json(record.value));
        let own = [("ps", record.porin.seq), ("pq", record.porin.quality.map(u64::from)), ("pt", record.porin.time_us)];
        for (label, value) in own {
            if let Some(value) = value {
                field(label, &value);
            }
        }
        out.push('}');
    }
    out.push(']');
    out.into_bytes()
}

/// Microseconds as decimal seconds.
fn decimal(microseconds: i128) -> String {
    let magnitude = microseconds.unsigned_abs();
    let (whole, fraction) = (magnitude / 1_000_000, magnitude % 1_000_000);
    let sign = if microseconds < 0 { "-" } else { "" };
    match fraction {
        0 => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{}", format!("{fraction:06}").trim_end_matches('0')),
    }
}

/// The payload of a publish, in CBOR.
#[must_use]
pub fn encode_cbor(gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    cbor(&mut encoder, gateway, epoch, packets).expect("memory is the only sink");
    encoder.into_writer()
}

type Cbor = Result<(), minicbor::encode::Error<core::convert::Infallible>>;

fn cbor(encoder: &mut Encoder<Vec<u8>>, gateway: &str, epoch: Epoch, packets: &[Packet<'_>]) -> Cbor {
    if packets.is_empty() {
        encoder.array(1)?.map(3)?.i64(label::BN)?.str(&format!("{gateway}/"))?;
        encoder.str("pgw")?.str(gateway)?.str("pe")?.str(&epoch.to_string())?;
        return Ok(());
    }
    encoder.array(packets.len() as u64)?;
    for record in written(gateway, epoch, packets) {
        let Written { base_name, base_unit, base_time, name, unit, value, time, porin } = record;
        let texts =
            [(label::BN, base_name.as_deref()), (label::BU, base_unit), (label::N, name.as_deref()), (label::U, unit)];
        let times = [(label::BT, base_time), (label::T, time)];
        let own_texts = [("pgw", porin.gateway.as_deref()), ("pe", porin.epoch.as_deref())];
        let own_numbers = [("ps", porin.seq), ("pq", porin.quality.map(u64::from)), ("pt", porin.time_us)];
        let fields = texts.iter().filter(|(_, text)| text.is_some()).count()
            + times.iter().filter(|(_, time)| time.is_some()).count()
            + own_texts.iter().filter(|(_, text)| text.is_some()).count()
            + own_numbers.iter().filter(|(_, number)| number.is_some()).count()
            + 1;
        encoder.map(fields as u64)?;
        for (label, text) in texts {
            if let Some(text) = text {
                encoder.i64(label)?.str(text)?;
            }
        }
        for (label, text) in own_texts {
            if let Some(text) = text {
                encoder.str(label)?.str(text)?;
            }
        }
        for (label, time) in times {
            if let Some(time) = time {
                encoder.i64(label)?;
                put_time(encoder, time)?;
            }
        }
        match text_of(value) {
            None => {
                encoder.i64(label::V)?;
                put_number(encoder, value)?;
            }
            Some(text) => {
                encoder.i64(label::VS)?.str(&text)?;
            }
        }
        for (label, number) in own_numbers {
            if let Some(number) = number {
                encoder.str(label)?.u64(number)?;
            }
        }
    }
    Ok(())
}

/// Seconds: whole as an integer, as a float where rounding to microseconds gives the time back, else as a decimal fraction.
fn put_time(encoder: &mut Encoder<Vec<u8>>, time: i128) -> Cbor {
    if time % 1_000_000 == 0
        && let Ok(seconds) = i64::try_from(time / 1_000_000)
    {
        encoder.i64(seconds)?;
        return Ok(());
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // tried, and not used if something is lost
    {
        let seconds = time as f64 / 1e6;
        let product = seconds * 1e6;
        if (product + 0.5f64.copysign(product)) as i128 == time {
            encoder.f64(seconds)?;
            return Ok(());
        }
    }
    // A time of a source is below 2^64, and so is the distance of two: CBOR's integers reach that far.
    let mantissa = Int::try_from(time).unwrap_or_else(|_| 0.into());
    encoder.tag(Tag::new(4))?.array(2)?.i32(-6)?.int(mantissa)?;
    Ok(())
}

/// The shortest form that is the same float: an integer, or 4 or 8 bytes of a float.
fn put_number(encoder: &mut Encoder<Vec<u8>>, value: f64) -> Cbor {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // tried, and not used if something is lost
    let (integer, single) = (value as i64, value as f32);
    #[allow(clippy::cast_precision_loss)]
    if (integer as f64).to_bits() == value.to_bits() && integer.unsigned_abs() < 1 << 53 {
        encoder.i64(integer)?;
    } else if f64::from(single).to_bits() == value.to_bits() {
        encoder.f32(single)?;
    } else {
        encoder.f64(value)?;
    }
    Ok(())
}
