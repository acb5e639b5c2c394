//! Publishes of real devices' forms, and every way for one to be wrong.

use super::*;

const ARRIVAL: Unix = Unix(1_700_000_000_000_000);

fn mapping(filter: &str, form: Form, time: Option<&str>, values: &[(&str, f64)]) -> Mapping {
    Mapping {
        filter: TopicFilter::parse(filter).expect(filter),
        form,
        time: time.map(|pointer| TimeField { pointer: pointer.into(), unit: TimeUnit::Seconds }),
        values: values.iter().map(|(text, value)| ((*text).into(), *value)).collect(),
    }
}

fn fields(fields: &[(&str, &str)]) -> Form {
    let field = |(stream, pointer): &(&str, &str)| Field { stream: (*stream).into(), pointer: (*pointer).into() };
    Form::Json(fields.iter().map(field).collect())
}

/// Everything that a publish becomes, messages with their bytes in hex.
fn applied(mapping: &Mapping, topic: &str, payload: &[u8]) -> Result<Vec<(String, u64, String)>, String> {
    let mut found = Vec::new();
    let captures = mapping.filter.captures(topic).expect("the topic is chosen");
    mapping.apply(&captures, payload, ARRIVAL, |packet| {
        found.push(match packet {
            Found::Reading(stream, time, value) => (stream.to_owned(), time.0, value.to_string()),
            Found::Message(stream, time, bytes) => {
                (stream.to_owned(), time.0, bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }
        });
    })?;
    Ok(found)
}

fn check(mapping: &Mapping, topic: &str, payload: &[u8], expected: &[(&str, u64, &str)]) {
    let found = applied(mapping, topic, payload).expect("it is understood");
    let found: Vec<_> = found.iter().map(|(stream, time, value)| (stream.as_str(), *time, value.as_str())).collect();
    assert_eq!(found, expected);
}

fn check_error(mapping: &Mapping, topic: &str, payload: &[u8], expected: &str) {
    let error = applied(mapping, topic, payload).expect_err(expected);
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn zigbee2mqtt() {
    let wanted = fields(&[
        ("{device}/temperature", "/temperature"),
        ("{device}/contact", "/contact"),
        ("{device}/state", "/state"),
        ("{device}/occupancy", "/occupancy"),
    ]);
    let mapping = mapping("zigbee2mqtt/{device}", wanted, Some("/last_seen"), &[("ON", 1.0), ("OFF", 0.0)]);
    let time = 1_795_338_902_413_000;
    check(
        &mapping,
        "zigbee2mqtt/kitchen window",
        include_bytes!("../../../../docs/fixtures/mqtt/zigbee2mqtt.json"),
        &[
            ("kitchen window/temperature", time, "21.84"),
            ("kitchen window/contact", time, "0"),
            ("kitchen window/state", time, "1"),
        ],
    );
}

#[test]
fn tasmota() {
    let wanted = fields(&[
        ("{device}/temperature", "/AM2301/Temperature"),
        ("{device}/power", "/ENERGY/Power"),
        ("{device}/switch", "/Switch1"),
    ]);
    let mapping = mapping("tele/{device}/SENSOR", wanted, Some("/Time"), &[("OFF", 0.0)]);
    let time = 1_795_342_505_000_000;
    check(
        &mapping,
        "tele/plug_1/SENSOR",
        include_bytes!("../../../../docs/fixtures/mqtt/tasmota-sensor.json"),
        &[("plug_1/temperature", time, "19.6"), ("plug_1/power", time, "43"), ("plug_1/switch", time, "0")],
    );
}

#[test]
fn chirpstack() {
    let topic = "application/17c82e96-be03-4f38-aef3-f83d48582d97/device/0101010101010101/event/up";
    let filter = "application/+/device/{eui}/event/up";
    let up = include_bytes!("../../../../docs/fixtures/mqtt/chirpstack-up.json");
    let time = 1_795_340_055_775_023;
    let numbers = mapping(filter, fields(&[("lora/{eui}/rssi", "/rxInfo/0/rssi")]), Some("/time"), &[]);
    check(&numbers, topic, up, &[("lora/0101010101010101/rssi", time, "-36")]);
    let frames = Form::Message { stream: "lora/{eui}".into(), base64: Some("/data".into()) };
    check(
        &mapping(filter, frames, Some("/time"), &[]),
        topic,
        up,
        &[("lora/0101010101010101", time, "cba407c601b80108667fff")],
    );
}

#[test]
fn plain_numbers_and_words() {
    let form = Form::Number { stream: "{room}/temp".into() };
    let mapping = mapping("home/{room}/temp", form, None, &[("open", 1.0)]);
    for (payload, value) in [("21.5", "21.5"), (" -3e2\n", "-300"), ("true", "1"), ("false", "0"), ("open", "1")] {
        check(&mapping, "home/attic/temp", payload.as_bytes(), &[("attic/temp", ARRIVAL.0, value)]);
    }
    check_error(&mapping, "home/attic/temp", b"ajar", "`ajar` is not a number; `values` may say what it means");
    check_error(&mapping, "home/attic/temp", b"\xff\xfe", "not UTF-8");
    check_error(&mapping, "home/attic/temp", b"", "is not a number");
    check_error(&mapping, "home/attic/temp", &[b'1'; MAX_PAYLOAD + 1], "65537 bytes, more than 65536");
}

#[test]
fn senml() {
    let mapping = mapping("senml/{node}", Form::Senml { stream: "{node}/{name}".into() }, None, &[("on", 1.0)]);
    let pack = br#"[{"bt":1455494400,"n":"temp","v":4.5},{"n":"open","vb":true},{"n":"fan","vs":"on","t":1.25},{"n":"raw","vd":"AA"}]"#;
    check(
        &mapping,
        "senml/n1",
        pack,
        &[
            ("n1/temp", 1_455_494_400_000_000, "4.5"),
            ("n1/open", 1_455_494_400_000_000, "1"),
            ("n1/fan", 1_455_494_401_250_000, "1"),
        ],
    );
    check(&mapping, "senml/n1", br#"[{"n":"temp","v":1,"t":-2}]"#, &[("n1/temp", ARRIVAL.0 - 2_000_000, "1")]);
    check(&mapping, "senml/n1", &[0x81, 0xa2, 0, 0x61, b'a', 2, 1], &[("n1/a", ARRIVAL.0, "1")]);
    check_error(&mapping, "senml/n1", b"{}", "SenML");
    check_error(
        &mapping,
        "senml/n1",
        br#"[{"n":"a b/c/d/e","v":1}]"#,
        "the stream `n1/a b/c/d/e` has more than 2 slashes",
    );
}

#[test]
fn a_message_is_its_bytes() {
    let mapping = mapping("cam/{id}/#", Form::Message { stream: "cam/{id}".into(), base64: None }, None, &[]);
    check(&mapping, "cam/7/event/x", b"\x00\xff", &[("cam/7", ARRIVAL.0, "00ff")]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mapping = mapping("a/{b}", fields(&[("{b}/x", "/x"), ("{b}/y", "/y")]), Some("/t"), &[]);
    check(&mapping, "a/b", br#"{"y":2,"x":null}"#, &[("b/y", ARRIVAL.0, "2")]);
    check(&mapping, "a/b", b"{}", &[]);
    check_error(&mapping, "a/b", b"{", "it is no JSON");
    check_error(&mapping, "a/b", br#"{"x":[1]}"#, "/x: it is not a number");
    check_error(&mapping, "a/b", br#"{"x":1,"t":"soon"}"#, "/t: `soon` is not a time");
    check_error(&mapping, "a/b{c}", br#"{"x":1}"#, "has the character '{'");
}

#[test]
fn what_is_wrong_does_not_keep_the_rest_back() {
    let all = |mapping: &Mapping, topic: &str, payload: &[u8]| {
        let mut values = Vec::new();
        let captures = mapping.filter.captures(topic).expect("chosen");
        let outcome = mapping.apply(&captures, payload, ARRIVAL, |found| {
            if let Found::Reading(_, _, value) = found {
                values.push(value);
            }
        });
        (values, outcome)
    };
    let json = mapping("a", fields(&[("x", "/x"), ("y", "/y"), ("z", "/z")]), None, &[]);
    let (values, outcome) = all(&json, "a", br#"{"x":1,"y":"soon","z":3}"#);
    assert_eq!(values, [1.0, 3.0]);
    assert!(outcome.expect_err("y").starts_with("/y: `soon`"));
    let pack = mapping("a", Form::Senml { stream: "{name}".into() }, None, &[]);
    let (values, outcome) = all(&pack, "a", br#"[{"n":"t","v":1},{"n":"fw","vs":"1.2.3"},{"n":"u","v":2}]"#);
    assert_eq!(values, [1.0, 2.0]);
    assert!(outcome.expect_err("fw").starts_with("fw: "));
}

#[test]
fn filters_choose_as_mqtt_does_and_name_levels() {
    let captures = |filter: &str, topic: &str| {
        let filter = TopicFilter::parse(filter).expect(filter);
        filter
            .captures(topic)
            .map(|found| found.iter().map(|(name, level)| format!("{name}={level}")).collect::<Vec<_>>().join(","))
    };
    let check = |filter: &str, topic: &str, expected: Option<&str>| {
        assert_eq!(captures(filter, topic).as_deref(), expected, "{filter} on {topic}");
    };
    check("a/{x}/c", "a/b/c", Some("x=b"));
    check("{x}/{y}", "a/b", Some("x=a,y=b"));
    check("{x}/{y}", "a/b/c", None);
    check("a/+", "a/", Some(""));
    check("a/#", "a", Some(""));
    check("a/#", "a/b/c", Some(""));
    check("a/b", "a/b/", None);
    check("#", "$SYS/x", None);
    check("{x}/y", "$SYS/y", None);
    check("$SYS/{x}", "$SYS/y", Some("x=y"));
    assert_eq!(TopicFilter::parse("a/{x}/+/#").expect("good").mqtt(), "a/+/+/#");
    for bad in ["", "a/#/b", "a{x}", "a+", "{x}/{x}", "{X}", "{}", "{name}/x"] {
        assert!(TopicFilter::parse(bad).is_err(), "{bad}");
    }
}
