//! What every reader of outside bytes must stand: it neither panics nor loops, and what it reads it writes again.
//!
//! The bodies are here, so that `cargo fuzz` (`tests/fuzz/fuzz`) and the plain tests over the seeds run the same.

pub mod counting;

use std::collections::BTreeMap;

use porin_cell::{Cell, Engine, Plan, World};
use porin_core::{
    config::{Config, DesiredSet, Releases, wanted},
    dead::DeadLetter,
    framing::{Framer, Framing, Length},
    ids::StreamId,
    limits::CellLimits,
    lines::{Checksum, Reader},
    mapping::{Field, Form, Found, Mapping, TimeField, TimeUnit, TopicFilter},
    packet::{Quality, Reading},
    payload::{self, Encoding, Packet, senml},
    record::Record,
    setup::{Setup, StreamInfo},
    stream::check_name,
    time::Unix,
    trust::{self, Envelope, documents::Document},
};

/// What is to stand any bytes.
pub type Body = fn(&[u8]);

/// Every body by the name of its target.
pub const ALL: [(&str, Body); 12] = [
    ("payload", payload),
    ("senml", senml),
    ("mapping", mapping),
    ("lines", lines),
    ("framing", framing),
    ("record", record),
    ("config", config),
    ("component", component),
    ("staging", staging),
    ("dead", dead),
    ("trust", trust),
    ("desired_set", desired_set),
];

/// Lines of text: whatever a line says, the streams that it names can be names, and a line that is refused gives nothing.
///
/// # Panics
/// If that is not so.
pub fn lines(bytes: &[u8]) {
    let (Some((first, line)), pattern) =
        (bytes.split_first(), r"^(?:\$|)(?<node>\S+?)[ ,](?<a>[^,*]*),?(?<b>[^,*]+)?(?:\*..)?$")
    else {
        return;
    };
    let checksum = if first % 2 == 0 { Checksum::None } else { Checksum::Nmea };
    let reader = Reader::new(pattern, "{node}/{channel}", checksum).expect("the pattern is good");
    let Ok(line) = std::str::from_utf8(line) else { return };
    let mut found = Vec::new();
    let outcome = reader.read(line, |stream, _| found.push(stream));
    assert!(outcome.is_ok() || found.is_empty());
    assert!(found.iter().all(|stream| check_name(stream).is_ok()), "{found:?}");
}

/// Lines and frames: they are the same, in whatever pieces the bytes come. The first byte chooses what ends one, the second the pieces.
///
/// # Panics
/// If they are not.
pub fn framing(bytes: &[u8]) {
    let [kind, piece, bytes @ ..] = bytes else { return };
    let counted = |start: &[u8], length, extra| Framing::Counted { start: start.to_vec(), length, extra };
    let framing = match kind % 4 {
        0 => Framing::Lines,
        1 => counted(b"", Length::U8, 0),
        2 => counted(b"BM", Length::U16Be, 0),
        _ => counted(b"\xaa", Length::U16Le, 2),
    };
    let frames = |piece: usize| {
        let mut framer = Framer::new(framing.clone());
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            framer.push(piece);
            while let Some(frame) = framer.next() {
                frames.extend(frame.map(<[u8]>::to_vec));
            }
        }
        frames
    };
    assert_eq!(frames(usize::from(*piece).max(1)), frames(bytes.len().max(1)));
}

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

/// Limits of an unknown cell: enough to start, little enough to be tried a hundred thousand times.
#[must_use]
pub fn small_limits() -> CellLimits {
    CellLimits {
        init_fuel: 20_000,
        fuel_per_batch: 20_000,
        fuel_per_packet: 0,
        memory_bytes: 4 << 16,
        memory_bytes_per_stream: 0,
        ..CellLimits::default()
    }
}

/// Everything that a gateway does with a component that it is given: load it, start it, and if it is a cell call whatever there is.
///
/// # Panics
/// If a call uses more than it may, or leaves something behind after a fault.
pub fn staging(bytes: &[u8]) {
    let limits = small_limits();
    let engine = Engine::new(&limits);
    let Ok(plan) = Plan::load(&engine, bytes, World::Filter, &limits) else { return };
    let stream = StreamInfo { id: StreamId(0), name: "a".into(), unit: String::new(), params: vec![] };
    let setup = Setup { streams: vec![stream], ..Setup::default() };
    let Ok(mut cell) = Cell::start(&plan, &["log".into(), "clock".into()], limits, &setup) else { return };
    let reading = Reading { time: Unix(1), value: 2.0, stream: StreamId(0), quality: Quality::GOOD };
    let mut out: Vec<Reading> = Vec::new();
    for _ in 0..2 {
        let before = out.len();
        let outcome = cell.process(&[reading; 4], Unix(3), &mut out);
        assert!(outcome.is_ok() || out.len() == before, "a fault leaves output behind");
        let _ = cell.tick(Unix(4), &mut out);
        if let Ok(state) = cell.save() {
            assert!(state.len() <= limits.state_bytes + limits.state_bytes_per_stream);
            let _ = cell.restore(&state);
        }
        let _ = cell.flush(&mut out);
        assert!(cell.used().fuel <= limits.init_fuel.max(limits.fuel_per_batch), "{:?}", cell.used());
        assert!(cell.memory().len() <= limits.memory_bytes);
    }
}

/// Dead letters.
///
/// # Panics
/// If what was read is written in another way.
pub fn dead(bytes: &[u8]) {
    let Ok(letter) = DeadLetter::decode(bytes) else { return };
    // Floats that are no numbers are not equal to themselves; bytes are.
    let again = letter.encode();
    let once_more = DeadLetter::decode(&again).unwrap_or_else(|error| unreachable!("{error}")).encode();
    assert_eq!(again, once_more);
}

/// Signed documents: whatever their signatures are worth.
///
/// # Panics
/// If what was read is written in another way.
pub fn trust(bytes: &[u8]) {
    fn document<D: Document>(payload: &[u8]) {
        if let Ok(document) = D::decode(payload) {
            // postcard reads some numbers in more than one form.
            let again = document.encode();
            let twice = D::decode(&again).unwrap_or_else(|error| unreachable!("{error}")).encode();
            assert_eq!(again, twice);
        }
    }
    let _ = trust::pinned_root(bytes);
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    assert!(bytes.len() <= trust::MAX_ENVELOPE && Envelope::decode(&envelope.encode()) == Ok(envelope.clone()));
    document::<trust::Root>(&envelope.payload);
    document::<trust::Release>(&envelope.payload);
    document::<trust::Desired>(&envelope.payload);
    document::<trust::Reported>(&envelope.payload);
    document::<trust::Request>(&envelope.payload);
    let _ = trust::reported(bytes);
}

/// What a desired state says: routes and slots from outside.
///
/// # Panics
/// If what it keeps of the text is not what the text means.
pub fn desired_set(bytes: &[u8]) {
    const OWN: &str = "[gateway]\nid = \"gw\"\n[uplink]\nbroker = \"mqtt://localhost\"\n[slots.s]\ncell = \"x\"\n\
        [routes.r]\nstreams = [\"#\"]\nslots = [\"s\"]\n";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(own) = Config::parse(OWN) else { unreachable!("it is one") };
    let _ = wanted(text);
    let Ok(set) = DesiredSet::parse(text, &own.gateway, &own.cells, &Releases::new()) else { return };
    let again = DesiredSet::parse(&set.cells.text, &own.gateway, &own.cells, &Releases::new());
    assert_eq!(again.map(|again| again.cells), Ok(set.cells));
}
