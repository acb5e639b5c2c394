//! What every reader of outside bytes must stand: it neither panics nor loops, and what it reads it writes again.
//!
//! The bodies are here, so that `cargo fuzz` (`tests/fuzz/fuzz`) and the plain tests over the seeds run the same.

use std::collections::BTreeMap;

use porin_cell::{Engine, Plan, World};
use porin_core::{
    config::Config,
    limits::CellLimits,
    mapping::{Field, Form, Found, Mapping, TimeField, TimeUnit, TopicFilter},
    payload::{self, Encoding, Packet, senml},
    record::Record,
    time::Unix,
};

/// What is to stand any bytes.
pub type Body = fn(&[u8]);

/// Every body by the name of its target.
pub const ALL: [(&str, Body); 6] = [
    ("payload", payload),
    ("senml", senml),
    ("mapping", mapping),
    ("record", record),
    ("config", config),
    ("component", component),
];

/// Published payloads: what can be read comes back bit by bit in every encoding.
///
/// # Panics
/// If it does not.
pub fn payload(bytes: &[u8]) {
    let Ok(decoded) = payload::decode(bytes) else { return };
    // SenML names the gateway in each name, so the id must be one; a stream's name has its own bounds.
    let id = !decoded.gateway.is_empty() && decoded.gateway.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let short = decoded.packets.iter().all(|packet| packet.stream.len() <= 100);
    if decoded.packets.is_empty() || decoded.packets.len() > 1_000 || !id || decoded.gateway.len() > 63 || !short {
        return;
    }
    let packet = |packet: &payload::DecodedPacket| {
        let payload::DecodedPacket { seq, stream, time_us, value, quality } = packet;
        (*seq, stream.clone(), *time_us, value.to_bits(), *quality)
    };
    let wanted: Vec<_> = decoded.packets.iter().map(packet).collect();
    let packets: Vec<_> = decoded
        .packets
        .iter()
        .map(|p| Packet {
            seq: p.seq,
            stream: &p.stream,
            unit: "",
            time_us: p.time_us,
            value: p.value,
            quality: p.quality,
        })
        .collect();
    for (name, encoding) in Encoding::ALL {
        let again = payload::encode(encoding, &decoded.gateway, decoded.epoch, &packets);
        let read = payload::decode(&again).unwrap_or_else(|error| unreachable!("{name}: {error}"));
        assert_eq!(read.packets.iter().map(packet).collect::<Vec<_>>(), wanted, "{name}");
    }
}

/// SenML of anybody.
pub fn senml(bytes: &[u8]) {
    let _ = senml::records(senml::Form::Json, bytes);
    let _ = senml::records(senml::Form::Cbor, bytes);
}

/// Publishes of a local broker: the first byte chooses the form, the second the topic.
pub fn mapping(bytes: &[u8]) {
    let [form, topic, payload @ ..] = bytes else { return };
    let stream = || "s/{a}".to_owned();
    let form = match form % 5 {
        0 => Form::Json(vec![
            Field { stream: stream(), pointer: "/a/0/b".into() },
            Field { stream: stream(), pointer: "/x".into() },
        ]),
        1 => Form::Number { stream: stream() },
        2 => Form::Senml { stream: "{a}/{name}".into() },
        3 => Form::Message { stream: stream(), base64: None },
        _ => Form::Message { stream: stream(), base64: Some("/x".into()) },
    };
    let Ok(filter) = TopicFilter::parse("t/{a}/#") else { return };
    let time = Some(TimeField { pointer: "/t".into(), unit: TimeUnit::Seconds });
    let mapping = Mapping { filter, form, time, values: BTreeMap::from([("ON".into(), 1.0)]) };
    let topic = ["t/a", "t/a/b/c", "t/", "t/a b{c}", "t/\u{0}", "x"][usize::from(topic % 6)];
    let Some(captures) = mapping.filter.captures(topic) else { return };
    let _ = mapping.apply(&captures, payload, Unix(1_700_000_000_000_000), |found| match found {
        Found::Reading(name, ..) | Found::Message(name, ..) => assert!(!name.is_empty()),
    });
}

/// Records of the outbox.
///
/// # Panics
/// If what was read is written in another way.
pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    let mut again = Vec::new();
    record.encode(&mut again);
    let mut once_more = Vec::new();
    Record::decode(&again).unwrap_or_else(|error| unreachable!("{error}")).encode(&mut once_more);
    assert_eq!(again, once_more);
}

/// Configurations.
pub fn config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Config::parse(text);
    }
}

/// Components, of whatever world.
pub fn component(bytes: &[u8]) {
    let engine = Engine::new(&CellLimits::default());
    for world in World::ALL {
        let _ = Plan::load(&engine, bytes, world, &CellLimits::default());
    }
}
