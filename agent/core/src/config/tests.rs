//! Each way to be wrong, with the line and the words that the owner reads.

use super::*;
use crate::setup::Value;

const GOOD: &str = r#"
[gateway]
id = "kitchen"

[uplink]
broker = "mqtt://localhost:1884"

[sources.buoy.replay]
file = "buoy.csv.gz"
streams = "buoy/{channel}"
speed = "max"

[streams."buoy/sea_temperature_C"]
unit = "Cel"
params = { span = 20.0 }

[slots.quiet]
cell = "deadband.wasm"
params = { percent = 1, max_silence_s = 3600.0 }
grants = ["log"]

[routes.sea]
streams = ["buoy/#"]
slots = ["quiet"]
publish = "after-commit"
batch = { packets = 60, wait = "1s" }
"#;

#[test]
fn a_configuration_becomes_types() {
    let config = Config::parse(GOOD).expect("it is good");
    assert_eq!((config.gateway.uplink.broker.host.as_str(), config.gateway.uplink.broker.port), ("localhost", 1884));
    assert_eq!(config.gateway.uplink.client_id, "porin-kitchen");
    let route = &config.cells.routes[0];
    assert_eq!(route.slots[0].params[1], Param { name: "percent".into(), value: Value::Integer(1) });
    assert_eq!((route.batch_packets, route.batch_wait_us, route.publish), (60, 1_000_000, Publish::AfterCommit));
    assert_eq!(route.topic.fill("kitchen", "sea", "x"), "porin/v1/gw/kitchen/data/sea");
    assert_eq!(config.gateway.streams["buoy/sea_temperature_C"].unit, "Cel");
}

#[test]
fn a_laptop_may_leave_out_what_a_gateway_must_say() {
    let text = "[gateway]\nid = \"a\"\n";
    assert!(Config::parse(text).is_err());
    let defaults = Defaults { broker: Some("mqtt://127.0.0.1:7"), path: Some("x.redb"), socket: Some("x.sock") };
    let config = Config::parse_with(text, defaults).expect("the rest is given").gateway;
    assert_eq!(
        (config.uplink.broker.port, config.outbox.path.as_str(), config.socket.as_str()),
        (7, "x.redb", "x.sock")
    );
}

/// Replaces a piece of a configuration that is good and expects the error that names the line and the words.
pub(super) fn refuses(text: &str, good: &str, bad: &str, expected: &str) {
    assert!(text.contains(good), "{good}");
    let error = Config::parse(&text.replacen(good, bad, 1)).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

fn check(good: &str, bad: &str, expected: &str) {
    refuses(GOOD, good, bad, expected);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    check("percent = 1,", "percent = [1],", "line 19: parameter `percent`: array cannot be given to a cell");
    check("id = \"kitchen\"", "id = \"Kitchen\"", "line 3: gateway id `Kitchen`");
    check("id = \"kitchen\"", "id = \"kitchen\"\nname = 1", "line 4: unknown field `name`");
    check("broker =", "brokr =", "line 6: unknown field `brokr`");
    check(
        "[sources.buoy",
        "[metrics]\nlisten = \"0.0.0.0:9464\"\n[sources.buoy",
        "line 9: listen `0.0.0.0:9464`: it must be 127.0.0.1:PORT",
    );
    check(
        "[sources.buoy",
        "[metrics]\nevery = \"1s\"\n[sources.buoy",
        "line 9: metrics.every = 1s: must be between 10s and 24h",
    );
    check("broker =", "brokr =", "did you mean `broker`?");
    check("broker = \"mqtt://localhost:1884\"", "", "[uplink] names no broker");
    check("mqtt://localhost:1884", "http://localhost", "line 6: broker `http://localhost`");
    check("mqtt://localhost:1884", "mqtt://localhost:99999", "`99999` is not a port");
    check("[sources.buoy.replay]", "[sources.buoy.reply]", "did you mean `replay`?");
    check("file = ", "fle = ", "line 9: unknown field `fle`");
    check(
        "\"buoy/{channel}\"",
        "\"buoy/{chanel}\"",
        "line 10: streams `buoy/{chanel}` of source `buoy`: it has the character '{'",
    );
    check("speed = \"max\"", "speed = -1", "line 11: speed -1");
    check(
        "unit = \"Cel\"",
        "unit = \"Cell\"",
        "line 14: unit `Cell` is no SenML unit (RFC 8428 and RFC 8798); did you mean `Cel`?",
    );
    check("slots = [\"quiet\"]", "slots = [\"quite\"]", "line 24: there is no slot `quite`; did you mean `quiet`?");
    check("slots = [\"quiet\"]", "slots = [\"quiet\", \"quiet\"]", "slot `quiet` is used twice");
    check("slots = [\"quiet\"]", "slots = []", "line 17: slot `quiet` is in no route");
    check("grants = [\"log\"]", "grants = [\"lok\"]", "line 20: grant `lok`: known is log, clock; did you mean `log`?");
    check("grants = [\"log\"]", "tick = \"1ms\"", "line 20: tick `1ms`: at least 100ms");
    check(
        "grants = [\"log\"]",
        "fault = \"pas\"",
        "line 20: fault `pas`: known is dead-letter, pass, drop; did you mean `pass`?",
    );
    check("grants = [\"log\"]", "limits = { memory = 1 }", "line 20: there is no limit `memory`");
    check("grants = [\"log\"]", "limits = { memory_page = 1 }", "did you mean `memory_pages`?");
    check("grants = [\"log\"]", "limits = { memory_pages = 0 }", "line 20: memory_pages = 0: 1 to 256");
    check("grants = [\"log\"]", "limits = { memory_pages = 257 }", "line 20: memory_pages = 257: 1 to 256");
    check("grants = [\"log\"]", "quarantine = { faults = 2000 }", "line 20: 2000: 0 to 1000");
    check("grants = [\"log\"]", "quarantine = { faults = 2, within = \"0s\" }", "must be more than nothing");
    check("grants = [\"log\"]", "log = \"jurnal\"", "did you mean `journal`?");
    check(
        "grants = [\"log\"]",
        "log.file = { path = \"x.log\" }",
        "line 20: log file `x.log`: it must be an absolute path",
    );
    check("grants = [\"log\"]", "log.mqtt = { topic = \"a/{gw}/#\" }", "line 20: topic `a/kitchen/#` of a log");
    check(
        "[sources.buoy",
        "[dead_letters]\nmax_bytes = \"1GB\"\n[sources.buoy",
        "line 9: max_bytes of dead letters: 100kB to 16MB",
    );
    check("grants = [\"log\"]", "outputs = [\"alarm\"]", "line 20: output `alarm`: it must contain {stream}");
    check("\"after-commit\"", "\"after-comit\"", "did you mean `after-commit`?");
    check("wait = \"1s\"", "wait = \"1 sec\"", "line 26: `1 sec`: unknown unit of time `sec`");
    check("packets = 60", "bytes = 10", "line 26: 10: 256 to 131072");
    check(
        "batch = ",
        "encoding = \"senml\"\nbatch = ",
        "line 26: encoding `senml`: known is json, senml+json, senml+cbor, compact",
    );
    check("packets = 60", "packets = 0", "line 26: 0: 1 to 1000");
    check("[routes.sea]", "[slots.quiet]\ncell = \"x\"\n[routes.sea]", "duplicate key");
    check(
        "streams = [\"buoy/#\"]",
        "streams = [\"buoy/#/x\"]",
        "line 23: streams `buoy/#/x`: `#` stands only at the end",
    );
    check("streams = [\"buoy/#\"]", "streams = []", "route `sea` names no streams");
    check(
        "publish = ",
        "topic = \"a/b/c/d/e/f/{stream}\"\npublish = ",
        "line 25: topic `a/b/c/d/e/f/{stream}`: with the deepest stream name",
    );
    check("publish = ", "topic = \"a/{strem}\"\npublish = ", "the placeholders are {gw}, {route} and {stream}");
    check("publish = ", "topic = \"a/#\"\npublish = ", "no wildcards");
}

#[test]
fn no_text_makes_the_parser_panic() {
    for cut in 0..GOOD.len() {
        let _ = Config::parse(&GOOD[..cut]);
    }
    for bad in ["[", "a = ", "\u{0}", "gateway = 1", "[gateway]\nid = 99999999999999999999"] {
        assert!(Config::parse(bad).is_err(), "{bad:?}");
    }
}

const MQTT: &str = r##"
[gateway]
id = "kitchen"

[uplink]
broker = "mqtt://localhost"

[sources.zigbee.mqtt]
broker = "mqtt://localhost"
window = 100

[[sources.zigbee.mqtt.topics]]
filter = "zigbee2mqtt/{device}"
streams = { "{device}/temp" = "/temperature" }
time = "/last_seen"
time_unit = "ms"
values = { ON = 1, OFF = 0.0 }

[[sources.zigbee.mqtt.topics]]
filter = "plain/{room}"
payload = "number"
stream = "{room}"

[routes.all]
streams = ["#"]
"##;

#[test]
fn a_local_broker_is_a_source() {
    let config = Config::parse(MQTT).expect("it is good");
    let SourceKind::Mqtt(mqtt) = &config.gateway.sources[0].kind else { panic!("another kind") };
    assert_eq!((mqtt.client_id.as_str(), mqtt.window, mqtt.acknowledged), ("porin-kitchen-zigbee", 100, true));
    assert_eq!(mqtt.topics[0].filter.mqtt(), "zigbee2mqtt/+");
    assert_eq!(mqtt.topics[0].values["ON"], 1.0);
}

#[test]
fn what_is_wrong_with_a_local_broker_is_named_with_its_line() {
    let check = |good: &str, bad: &str, expected: &str| refuses(MQTT, good, bad, expected);
    check("window = 100", "window = 0", "line 10: 0: 1 to 10000");
    check("window = 100", "qos = 2", "line 10: qos 2: 0 or 1");
    check("zigbee2mqtt/{device}", "zigbee2mqtt/{device", "line 13: filter `zigbee2mqtt/{device`");
    check(
        "{device}/temp",
        "{devise}/temp",
        "line 14: stream `{devise}/temp`: there is no level {devise} (known: device); did you mean `device`?",
    );
    check("\"/temperature\"", "\"temperature\"", "line 14: `temperature` is no JSON pointer");
    check("time = \"/last", "tim = \"/last", "line 15: unknown field `tim`");
    check("time_unit = \"ms\"", "time_unit = \"m\"", "line 16: time_unit `m`: known is s, ms, us");
    check(
        "payload = \"number\"",
        "payload = \"numbr\"",
        "line 21: payload `numbr`: known is json, number, senml, message; did you mean `number`?",
    );
    check("stream = \"{room}\"", "", "line 20: payload `number` needs `stream`");
    check(
        "stream = \"{room}\"",
        "stream = \"{room}\"\ntime = \"/t\"",
        "line 23: `time` does not go with payload `number`",
    );
    check("plain/{room}", "porin/#", "there is no level {room}");
    check(
        "plain/{room}\"\npayload = \"number\"\nstream = \"{room}\"",
        "porin/#\"\npayload = \"number\"\nstream = \"x\"",
        "line 8: source `zigbee` would receive what route `all` publishes on the same broker",
    );
    check(
        "[routes.all]",
        "[slots.s]\ncell = \"x.wasm\"\nlog.mqtt = { topic = \"plain/attic\" }\n[routes.all]\nslots = [\"s\"]",
        "line 8: source `zigbee` would receive what the log of slot `s` publishes on the same broker",
    );
}

const DECODES: &str = r##"
[gateway]
id = "barn"

[uplink]
broker = "mqtt://localhost"

[slots.short]
cell = "topics.wasm"
world = "message-filter"

[slots.frames]
cell = "lht65.wasm"
world = "decoder"
outputs = ["{stream}/battery"]

[slots.quiet]
cell = "deadband.wasm"

[routes.lora]
streams = ["lora/#"]
packets = "messages"
slots = ["short", "frames", "quiet"]
"##;

#[test]
fn only_a_decoding_slot_changes_what_a_route_carries() {
    let route = &Config::parse(DECODES).expect("it is good").cells.routes[0];
    assert_eq!((route.input, route.slots[1].world.output()), (PacketKind::Messages, PacketKind::Readings));
    let check = |good: &str, bad: &str, expected: &str| refuses(DECODES, good, bad, expected);
    check(
        "\"short\", \"frames\"",
        "\"frames\", \"short\"",
        "line 23: slot `short` (world message-filter) takes messages, and what reaches it are readings",
    );
    check(
        "packets = \"messages\"\n",
        "",
        "slot `short` (world message-filter) takes messages, and what reaches it are readings",
    );
    check(
        "world = \"decoder\"",
        "world = \"filter\"",
        "slot `frames` (world filter) takes readings, and what reaches it are messages",
    );
    check(
        "world = \"decoder\"",
        "world = \"decodr\"",
        "line 14: world `decodr`: known is filter, message-filter, decoder; did you mean `decoder`?",
    );
    check("outputs = [\"{stream}/battery\"]", "", "slot `frames` decodes, and names no `outputs`");
    check("packets = \"messages\"", "packets = \"bytes\"", "line 22: packets `bytes`: known is readings, messages");
    let messages =
        DECODES.replace(", \"frames\", \"quiet\"]", "]\nencoding = \"compact\"").replace("[slots.frames]", "[slots.f]");
    assert!(Config::parse(&messages).expect_err("two slots without a route").to_string().contains("compact"));
}

#[test]
fn a_broker_may_want_tls_and_a_login_and_each_says_what_is_missing() {
    const GOOD: &str = r#"
[gateway]
id = "kitchen"
[uplink]
broker = "mqtts://[fd00::1]"
protocol = "3.1.1"
reconnect = "10ms"
max_publish = "128kB"
tls = { ca_file = "ca.pem", cert_file = "cert.pem", key_file = "key.pem", alpn = "x-amzn-mqtt-ca" }
login = { username = "kitchen", password_file = "secret" }
"#;
    let uplink = Config::parse(GOOD).expect("it is good").gateway.uplink;
    assert_eq!((uplink.broker.host.as_str(), uplink.broker.port), ("fd00::1", 8883));
    assert_eq!((uplink.protocol, uplink.reconnect_us, uplink.max_publish_bytes), (Protocol::V311, 10_000, 128_000));
    let tls = uplink.broker.tls.expect("it is secure");
    assert_eq!(tls.identity.expect("ours").key_file, "key.pem");
    let check = |good: &str, bad: &str, expected: &str| refuses(GOOD, good, bad, expected);
    check("mqtts://[fd00::1]", "mqtt://[fd00::1]:1883", "`tls` goes with a broker = \"mqtts://…\" only");
    check("tls =", "# tls =", "line 5: broker `mqtts://[fd00::1]`: mqtts needs `tls`");
    check("key_file =", "key_fiel =", "did you mean `key_file`?");
    check(", key_file = \"key.pem\"", "", "cert_file and key_file go together");
    check("\"kitchen\", password", "\"\", password", "username: 1 to 65535 bytes");
    check("\"3.1.1\"", "\"3.1\"", "protocol `3.1`: known is 5, 3.1.1; did you mean `3.1.1`?");
    check("10ms", "0ms", "reconnect: 1ms to 5min");
    check("128kB", "1kB", "max_publish `1kB`: 2kB to 268MB");
    check("mqtts://[fd00::1]", "mqtts://a:0", "`0` is not a port");
}

#[test]
fn a_slot_says_what_happens_when_its_cell_fails_and_where_its_log_goes() {
    use crate::{
        config::{LogTo, RotatedFile},
        fault::FaultPolicy,
        health::Quarantine,
        limits::CellLimits,
    };
    let slot = |keys: &str| {
        let config = Config::parse(&GOOD.replacen("grants = [\"log\"]", keys, 1)).expect("it is good");
        config.cells.routes[0].slots[0].clone()
    };
    let plain = slot("");
    assert_eq!(
        (plain.fault, plain.log, plain.limits),
        (FaultPolicy::DeadLetter, LogTo::Journal, CellLimits::default())
    );
    let other = slot(
        "fault = \"pass\"\nquarantine = { faults = 3, within = \"1h\" }\nlog.mqtt = {}\nlimits = { memory_pages = 2, call_depth = 9 }",
    );
    assert_eq!(
        (other.fault, other.quarantine),
        (FaultPolicy::Pass, Quarantine { faults: 3, within_us: 3_600_000_000 })
    );
    assert_eq!(other.log, LogTo::Mqtt("porin/v1/gw/kitchen/log/quiet".into()));
    assert_eq!(other.limits, CellLimits { memory_bytes: 131_072, call_depth: 9, ..CellLimits::default() });
    let file = slot("log.file = { path = \"/x\", keep = 0 }");
    assert_eq!(file.log, LogTo::File(RotatedFile { path: "/x".into(), max_bytes: 1_000_000, keep: 0 }));
}

#[test]
fn a_policy_bounds_what_slots_may_be_given_and_names_the_line_that_would_allow_it() {
    use super::Policy;
    let cells = |keys: &str| Config::parse(&GOOD.replacen("grants = [\"log\"]", keys, 1)).expect("it is good").cells;
    let (log, more) = (cells("grants = [\"log\"]"), cells("limits = { fuel_per_batch = 2000000 }"));
    let check = |policy: &str, cells, expected: Option<&str>| {
        let outcome = Policy::parse(policy).expect("a good policy").allows(cells);
        match expected {
            None => assert_eq!(outcome, Ok(())),
            Some(expected) => assert!(outcome.as_ref().is_err_and(|error| error.contains(expected)), "{outcome:?}"),
        }
    };
    check("", &log, None);
    check("grants = [\"clock\", \"log\"]", &log, None);
    check(
        "grants = []",
        &log,
        Some(
            "slot `quiet` grants `log`, which the policy does not allow; the line of the policy that would: grants = [\"log\"]",
        ),
    );
    check("[limits]\nfuel_per_batch = 2000000", &more, None);
    check(
        "[limits]\nfuel_per_batch = 1999999",
        &more,
        Some("slot `quiet` has fuel_per_batch = 2000000, the policy allows 1999999"),
    );
    // The default counts like a value that is written down.
    check("[limits]\nmemory_pages = 8", &more, Some("slot `quiet` has memory_pages = 16, the policy allows 8"));
    let wrong = |text: &str| Policy::parse(text).expect_err("wrong").to_string();
    assert!(wrong("\ngrants = [\"lok\"]").contains("line 2: grant `lok`: known is log, clock; did you mean `log`?"));
    assert!(wrong("grant = []").contains("did you mean `grants`?"));
    assert!(wrong("[limits]\nmemory_pages = 1000").contains("line 2: memory_pages = 1000: 1 to 256"));
}
