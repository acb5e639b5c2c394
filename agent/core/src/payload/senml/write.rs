//! The payload of a publish, in either form: record by record, what is common to all of them once.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use minicbor::{
    Encoder,
    data::{Int, Tag},
};

use super::{ABSOLUTE_FROM_US, Porin, escape, fields::label};
use crate::{
    ids::Epoch,
    payload::{Packet, text_of, value_as_json},
};

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
