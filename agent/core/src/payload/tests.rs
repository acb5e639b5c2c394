//! Every encoding gives back every bit; fixtures never change; no bytes make a reader panic.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;

const EPOCH: Epoch = Epoch { store: 0xa1b2_c3d4, starts: 7 };

fn packet(seq: u64, value: f64, quality: u32) -> Packet<'static> {
    let (stream, unit) = ("buoy/sea_temperature_C", "Cel");
    Packet { seq: Seq(seq), stream, unit, time_us: 1_455_494_400_000_000 + (seq - 41) * 1_800_000_000, value, quality }
}

/// One reading of one stream.
fn one() -> Vec<Packet<'static>> {
    vec![packet(41, 4.929, 0)]
}

/// What is not the usual case: several streams, one with characters that not all encodings like; odd values, times and
/// qualities; a gap in the seqs.
fn batch() -> Vec<Packet<'static>> {
    let mut batch =
        vec![packet(41, 4.929, 0), packet(42, f64::NAN, 2), packet(43, f64::NEG_INFINITY, 0), packet(44, -0.0, 1)];
    batch.push(Packet { seq: Seq(99), stream: "a b/°:1", unit: "", time_us: 0, value: 1e300, quality: 0 });
    batch.push(Packet { time_us: 1_455_494_400_123_457, value: 0.1, seq: Seq(100), ..batch[4] });
    batch.push(Packet { value: f64::from_bits(0x7ff0_0000_0000_0001), seq: Seq(101), ..batch[5] });
    batch
}

/// Compares with the fixture; `PORIN_BLESS=1` writes one that is missing, and never another.
#[test]
fn version_1_is_as_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fixtures");
    for (name, packets) in [("one", one()), ("batch", batch())] {
        for (encoding, ending) in
            Encoding::ALL.map(|(_, encoding)| encoding).iter().zip(["json", "senml.json", "senml.cbor", "compact"])
        {
            let path = folder.join(format!("payload-v1-{name}.{ending}"));
            let bytes = encode(*encoding, "kitchen", EPOCH, &packets);
            if !path.exists() && std::env::var_os("PORIN_BLESS").is_some() {
                fs::write(&path, &bytes).expect("the fixture can be written");
            }
            let fixture = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&fixture), "{}", path.display());
            assert_eq!(bytes, fixture, "{}", path.display());
            same(&packets, &decode(&fixture).expect("it reads"));
        }
    }
}

#[test]
fn messages_are_as_documented() {
    let message = |seq, payload, quality| MessagePacket {
        seq: Seq(seq),
        stream: "lora/barn",
        time_us: 1_455_494_400_000_000,
        topic: "application/1/device/barn/event/up",
        payload,
        quality,
    };
    let messages = [message(41, &b"{\"a\":1}"[..], 0), message(42, &[0xcb, 0xa4, 0xff], 2)];
    let bytes = json::encode_messages("kitchen", EPOCH, &messages);
    let fixture = include_str!("../../../../docs/fixtures/payload-v1-messages.json");
    assert_eq!(String::from_utf8_lossy(&bytes), fixture);
    let decoded = decode(&bytes).expect("it reads");
    assert_eq!((decoded.messages.len(), decoded.packets.len()), (2, 0));
    for (message, decoded) in messages.iter().zip(&decoded.messages) {
        assert_eq!(
            (message.payload, message.topic, message.quality),
            (&*decoded.payload, &*decoded.topic, decoded.quality)
        );
    }
}

fn same(packets: &[Packet<'_>], decoded: &Decoded) {
    assert_eq!((decoded.gateway.as_str(), decoded.epoch), ("kitchen", EPOCH));
    assert_eq!(packets.len(), decoded.packets.len());
    for (packet, decoded) in packets.iter().zip(&decoded.packets) {
        let DecodedPacket { seq, stream, time_us, value, quality } = decoded;
        assert_eq!(
            (packet.seq, packet.stream, packet.time_us, packet.quality),
            (*seq, stream.as_str(), *time_us, *quality)
        );
        assert_eq!(packet.value.to_bits(), value.to_bits(), "{} is not {value}", packet.value);
    }
}

fn values() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (-1_000_000i64..1_000_000, 0i32..6).prop_map(|(number, scale)| number as f64 / 10f64.powi(scale)),
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::MIN_POSITIVE / 4.0),
            Just(9_007_199_254_740_993.0)
        ],
    ]
}

fn times() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..10,
        (1_400_000_000u64..1_700_000_000).prop_map(|seconds| seconds * 1_000_000),
        1_400_000_000_000_000u64..1_700_000_000_000_000
    ]
}

fn packets(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<(u64, String, u64, f64, u32)>> {
    let stream = prop_oneof![Just("a".to_string()), Just("a/b c".to_string()), "[a-zA-Z0-9°:_.%\"\\\\-]{1,20}"];
    let seq = prop_oneof![any::<u64>(), 0u64..100];
    let quality = prop_oneof![3 => Just(0u32), 1 => any::<u32>()];
    proptest::collection::vec((seq, stream, times(), values(), quality), count)
}

fn round_trip(rows: &[(u64, String, u64, f64, u32)]) {
    let row = |(seq, stream, time_us, value, quality): &(u64, String, u64, f64, u32)| {
        let stream: &str = Box::leak(stream.clone().into_boxed_str());
        Packet { seq: Seq(*seq), stream, unit: "Cel", time_us: *time_us, value: *value, quality: *quality }
    };
    let packets: Vec<_> = rows.iter().map(row).collect();
    for (name, encoding) in Encoding::ALL {
        let bytes = encode(encoding, "kitchen", EPOCH, &packets);
        same(&packets, &decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn every_bit_comes_back(rows in packets(1..40)) {
        round_trip(&rows);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        for first in [b'{', b'[', 0x81, 1] {
            let mut bytes = bytes.clone();
            bytes.insert(0, first);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn no_damage_makes_a_reader_panic(rows in packets(1..6), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let packets: Vec<_> = rows.iter().map(|row| Packet { seq: Seq(row.0), stream: "a", unit: "", time_us: row.2, value: row.3, quality: row.4 }).collect();
        for (_, encoding) in Encoding::ALL {
            let mut bytes = encode(encoding, "kitchen", EPOCH, &packets);
            let _ = decode(&bytes[..at.index(bytes.len())]);
            let index = at.index(bytes.len());
            bytes[index] = to;
            let _ = decode(&bytes);
        }
    }
}

#[test]
fn ten_thousand_readings_come_back() {
    let mut number = 1u64;
    let mut random = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        number >> 33
    };
    let rows: Vec<_> = (0..10_000u64)
        .map(|seq| {
            (seq, format!("s{}", random() % 7), 1_700_000_000_000_000 + seq * 250_000, random() as f64 / 100.0, 0)
        })
        .collect();
    round_trip(&rows);
}

#[test]
fn no_readings_come_back_as_none() {
    round_trip(&[]);
}

#[test]
fn a_regular_stream_takes_little() {
    let rows: Vec<_> = (0..100u64).map(|seq| packet(41 + seq, 20.0 + (seq % 7) as f64 / 10.0, 0)).collect();
    let bytes = encode(Encoding::Compact, "kitchen", EPOCH, &rows).len();
    assert!(bytes < 100 + 100, "{bytes} bytes");
}

/// A few bytes that ask for a lot are refused, or take no more than the bound allows.
#[test]
fn claims_of_many_packets_are_bounded() {
    let claim = |count: &[u8]| {
        [&[1, 1, b'g', 0, 0, 0, 0, 0, 0, 0, 0, 1], count, &[1, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
    };
    assert_eq!(decode(&claim(&[0x81, 0x80, 4])), Err(BadPayload::TooMany), "65,537");
    assert_eq!(decode(&claim(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])), Err(BadPayload::TooMany));
    assert_eq!(decode(&claim(&[0x80, 0x80, 4])).expect("the most there may be").packets.len(), MAX_PACKETS);
}

#[test]
fn a_base_field_is_not_multiplied_without_bound() {
    // {"bu": 60,000 bytes}, then many empty records: one byte each in CBOR, three in JSON.
    let mut cbor = vec![0x99, 0xff, 0x00, 0xa1, 0x23, 0x79, 0xea, 0x60];
    cbor.extend([b'x'; 60_000]);
    cbor.extend([0xa0; 0xfeff]);
    assert!(senml::records(senml::Form::Cbor, &cbor).expect_err("too much").to_string().contains("2 MiB"));
    let json = format!("[{{\"bn\":\"{}\"}}{}]", "x".repeat(1_000), ",{}".repeat(20_000));
    assert!(senml::records(senml::Form::Json, json.as_bytes()).expect_err("too much").to_string().contains("2 MiB"));
}

mod rfc8428 {
    //! The RFC's own examples, section 5 and 6.
    use super::{super::senml::*, *};

    fn numbers(form: Form, bytes: &[u8]) -> Vec<(String, Option<String>, i128, Option<Value>)> {
        let records = records(form, bytes).expect("an example of the RFC");
        records.into_iter().map(|record| (record.name, record.unit, record.time_us, record.value)).collect()
    }

    fn number(name: &str, unit: &str, time_us: i128, value: f64) -> (String, Option<String>, i128, Option<Value>) {
        (name.into(), Some(unit.into()).filter(|unit: &String| !unit.is_empty()), time_us, Some(Value::Number(value)))
    }

    #[test]
    fn single_data_point() {
        let text = br#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#;
        assert_eq!(numbers(Form::Json, text), [number("urn:dev:ow:10e2073a01080063", "Cel", 0, 23.1)]);
    }

    #[test]
    fn multiple_data_points() {
        let text = br#"[
            {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
            {"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":-3,"v":1.4},
            {"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},{"n":"current","v":1.7}]"#;
        let (voltage, current) = ("urn:dev:ow:10e2073a0108006:voltage", "urn:dev:ow:10e2073a0108006:current");
        let t = 1_276_020_076_001_000;
        assert_eq!(
            numbers(Form::Json, text),
            [
                number(voltage, "V", t, 120.1),
                number(current, "A", t - 5_000_000, 1.2),
                number(current, "A", t - 4_000_000, 1.3),
                number(current, "A", t - 3_000_000, 1.4),
                number(current, "A", t - 2_000_000, 1.5),
                number(current, "A", t - 1_000_000, 1.6),
                number(current, "A", t, 1.7),
            ]
        );
    }

    #[test]
    fn values_of_other_kinds() {
        let text =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},
            {"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]"#;
        let values: Vec<_> = records(Form::Json, text).expect("reads").into_iter().map(|record| record.value).collect();
        let text = Value::Text("Machine Room".into());
        assert_eq!(values, [Some(Value::Number(23.1)), Some(text), Some(Value::Flag(false)), None]);
    }

    #[test]
    fn cbor_example() {
        // Section 6: the pack of `multiple_data_points` (bt as a float, values as floats).
        let hex = "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b00106223614120050067766f6c7461676501615602fb405e066666666666a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4cccccccccccda3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00a3006763757272656e74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333";
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        let read = numbers(Form::Cbor, &bytes);
        let (voltage, current) = ("urn:dev:ow:10e2073a0108006:voltage", "urn:dev:ow:10e2073a0108006:current");
        assert_eq!(read[0], number(voltage, "V", 1_276_020_076_001_000, 120.1));
        assert_eq!(read[4], number(current, "A", 1_276_020_074_001_000, 1.5));
        assert_eq!(read[6], number(current, "A", 1_276_020_076_001_000, 1.7));
    }

    #[test]
    fn what_must_be_understood_is_not_passed_over() {
        assert!(records(Form::Json, br#"[{"n":"a","v":1,"foo":2}]"#).is_ok());
        assert!(records(Form::Json, br#"[{"n":"a","v":1,"foo_":2}]"#).is_err());
        assert!(records(Form::Json, br#"[{"n":"a","v":1,"bver":11}]"#).is_err());
    }
}
