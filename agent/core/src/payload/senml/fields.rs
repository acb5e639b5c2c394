//! A pack's records field by field, of either form, before base values are resolved.

use alloc::{
    borrow::Cow,
    format,
    string::{String, ToString},
    vec::Vec,
};

use minicbor::{Decoder, data::Type};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::payload::{BadPayload, MAX_PACKETS};

/// A record as it is written, of either form.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) bn: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "seconds")]
    pub(super) bt: Option<i128>,
    pub(super) bu: Option<Cow<'a, str>>,
    pub(super) bv: Option<f64>,
    pub(super) bver: Option<u64>,
    pub(super) n: Option<Cow<'a, str>>,
    pub(super) u: Option<Cow<'a, str>>,
    pub(super) v: Option<f64>,
    pub(super) vs: Option<Cow<'a, str>>,
    pub(super) vb: Option<bool>,
    #[serde(deserialize_with = "seconds")]
    pub(super) t: Option<i128>,
    pub(super) pgw: Option<Cow<'a, str>>,
    pub(super) pe: Option<Cow<'a, str>>,
    pub(super) ps: Option<u64>,
    pub(super) pq: Option<u32>,
    pub(super) pt: Option<u64>,
    /// The first label that must be understood and is not.
    #[serde(skip)]
    pub(super) must_understand: Option<String>,
}

/// Decimal seconds as microseconds, exactly: through a float they would be off by one.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?.get();
    microseconds(text).map(Some).ok_or_else(|| serde::de::Error::custom(format!("{text} is not a time")))
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

pub(super) fn fields_json(bytes: &[u8]) -> Result<Vec<Fields<'_>>, BadPayload> {
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
pub(super) mod label {
    pub(in super::super) const BVER: i64 = -1;
    pub(in super::super) const BN: i64 = -2;
    pub(in super::super) const BT: i64 = -3;
    pub(in super::super) const BU: i64 = -4;
    pub(in super::super) const BV: i64 = -5;
    pub(in super::super) const N: i64 = 0;
    pub(in super::super) const U: i64 = 1;
    pub(in super::super) const V: i64 = 2;
    pub(in super::super) const VS: i64 = 3;
    pub(in super::super) const VB: i64 = 4;
    pub(in super::super) const T: i64 = 6;
}

pub(super) fn fields_cbor(bytes: &[u8]) -> Result<Vec<Fields<'_>>, minicbor::decode::Error> {
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
