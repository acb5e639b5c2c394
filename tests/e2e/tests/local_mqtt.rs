//! A local broker as the source: what it was given is delivered, whoever is stopped, killed or restarted in between.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{collections::BTreeSet, fs, thread};

use porin_core::payload;
use porin_e2e::{Broker, Gateway, Subscriber, porind, publish, publish_lines, wait_until};
use porin_test_support::top;
use serde_json::{Value, json};

/// Numbers on `n/<stream>`, through the agent to the cloud. A packet leaves after its commit: so one that is acknowledged too
/// early is missing after a kill, and not just sent again.
fn gateway(local: u16, cloud: u16) -> Gateway {
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{local}\"\nwindow = 1000\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\nencoding = \"compact\"\npublish = \"after-commit\"\n\
         batch = {{ wait = \"20ms\" }}\n"
    );
    Gateway::new("lab", cloud, &rest)
}

/// What the cloud has, as whole numbers.
fn numbers(cloud: &Subscriber) -> BTreeSet<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    cloud.packets().into_values().map(|(.., value)| value as u64).collect()
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

fn received(gateway: &Gateway) -> u64 {
    let status = gateway.status();
    status.and_then(|status| status.pointer("/sources/0/received").and_then(Value::as_u64)).unwrap_or(0)
}

fn is_connected(gateway: &Gateway, times: usize) -> bool {
    gateway.log().matches("connected to the local broker").count() >= times
}

/// A broker that keeps what it is given for a client that is away.
const KEEPS: &str = "persistence true\nmax_inflight_messages 1000\nmax_queued_messages 0";

#[test]
fn ten_stops_in_100_000_publishes_lose_none() {
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    // So rare that there is always something decided about and not committed.
    let gateway = gateway(local.port, cloud.port).commit_every("1s");
    let mut agent = gateway.run(&[]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    for round in 0..10 {
        let (port, before) = (local.port, received(&gateway));
        let publisher = thread::spawn(move || publish_lines(port, "n/x", &lines(round * 10_000..(round + 1) * 10_000)));
        // In the middle of it.
        wait_until("some come", || received(&gateway) > before + 500);
        if round % 2 == 0 {
            agent.kill()
        } else {
            agent.terminate()
        }
        agent.wait();
        agent = gateway.run(&[]);
        publisher.join().expect("it publishes");
        wait_until("what was published is there", || numbers(&subscriber).len() as u64 == (round + 1) * 10_000);
    }
    wait_until("everything is there", || numbers(&subscriber).len() == 100_000);
    assert_eq!(numbers(&subscriber), (0..100_000).collect());
    wait_until("everything is acknowledged", || {
        gateway.status().is_some_and(|status| status["outbox"]["waiting"] == 0)
    });
    assert_eq!(gateway.status().expect("it runs")["imbalance"], Value::Array(vec![]));
    agent.terminate();
    assert!(agent.wait().success());
}

#[test]
fn a_broker_that_keeps_its_sessions_may_be_restarted_while_the_agent_is_away() {
    let (mut local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let gateway = gateway(local.port, cloud.port);
    let mut agent = gateway.run(&[]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    publish_lines(local.port, "n/x", &lines(0..1_000));
    wait_until("all are there", || numbers(&subscriber).len() == 1_000);
    agent.terminate();
    agent.wait();
    publish_lines(local.port, "n/x", &lines(1_000..2_000));
    local.restart(|broker| {
        broker.terminate();
        broker.wait();
    });
    publish_lines(local.port, "n/x", &lines(2_000..3_000));
    let _agent = gateway.run(&[]);
    wait_until("everything is there", || numbers(&subscriber).len() == 3_000);
    assert_eq!(numbers(&subscriber), (0..3_000).collect());
}

#[test]
fn after_a_lost_session_the_agent_subscribes_again() {
    let (mut local, cloud) = (Broker::mosquitto_with("persistence false"), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let gateway = gateway(local.port, cloud.port);
    let _agent = gateway.run(&[]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    publish_lines(local.port, "n/x", &lines(0..500));
    local.restart(porin_e2e::Process::kill);
    // Whatever had been taken over is delivered; what the broker had not handed out is the broker's loss.
    wait_until("the agent is back", || {
        publish(local.port, "n/probe", b"1000000");
        numbers(&subscriber).contains(&1_000_000)
    });
    publish_lines(local.port, "n/x", &lines(500..1_000));
    wait_until("everything after it is there", || numbers(&subscriber).is_superset(&(500..1_000).collect()));
    let status = gateway.status().expect("it runs");
    assert_eq!(status["imbalance"], Value::Array(vec![]));
    assert!(status["sources"][0]["restarts"].as_u64() >= Some(1), "{status}");
}

#[test]
fn what_cannot_be_understood_is_counted_and_the_rest_goes_on() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let fixtures = top().join("docs/fixtures/mqtt");
    let rest = format!(
        r##"
[sources.local.mqtt]
broker = "mqtt://127.0.0.1:{}"
[[sources.local.mqtt.topics]]
filter = "zigbee2mqtt/{{device}}"
streams = {{ "{{device}}/temperature" = "/temperature", "{{device}}/contact" = "/contact" }}
time = "/last_seen"
[[sources.local.mqtt.topics]]
filter = "tele/{{device}}/SENSOR"
streams = {{ "{{device}}/power" = "/ENERGY/Power" }}
time = "/Time"
[[sources.local.mqtt.topics]]
filter = "plain/{{room}}"
payload = "number"
stream = "plain/{{room}}"
values = {{ ON = 1 }}
[[sources.local.mqtt.topics]]
filter = "senml/{{node}}/#"
payload = "senml"
stream = "{{node}}/{{name}}"
[routes.all]
streams = ["#"]
"##,
        local.port
    );
    let gateway = Gateway::new("lab", cloud.port, &rest);
    let _agent = gateway.run(&[]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    let send = |topic: &str, payload: &[u8]| publish(local.port, topic, payload);
    wait_until("the subscription stands", || {
        send("plain/probe", b"0");
        received(&gateway) > 0
    });
    send("plain/attic", b"hello");
    send("plain/attic", b"\xff\xfe\xfd");
    send("plain/attic", &[b'1'; 70_000]);
    send("zigbee2mqtt/door", b"{\"temperature\":");
    send("zigbee2mqtt/door", b"{\"temperature\":{}}");
    send("plain/a{b}", b"1");
    send("zigbee2mqtt/door", &fs::read(fixtures.join("zigbee2mqtt.json")).expect("a fixture"));
    send("tele/plug/SENSOR", &fs::read(fixtures.join("tasmota-sensor.json")).expect("a fixture"));
    send("senml/n1/up", br#"[{"bt":1455494400,"n":"temp","v":4.5},{"n":"door","vb":true}]"#);
    send("plain/attic", b"ON");
    let expected = [
        ("attic", "plain/attic", 1.0),
        ("temperature", "door/temperature", 21.84),
        ("contact", "door/contact", 0.0),
        ("power", "plug/power", 43.0),
        ("senml", "n1/temp", 4.5),
        ("senml flag", "n1/door", 1.0),
    ];
    wait_until("the good ones are there", || {
        let there = subscriber.packets();
        expected.iter().all(|(_, stream, value)| there.values().any(|(name, _, is)| name == stream && is == value))
    });
    let status = gateway.status().expect("it runs");
    assert_eq!(status["sources"][0]["bad_rows"], 6, "{status}");
    assert_eq!(status["imbalance"], Value::Array(vec![]));
    let log = gateway.log();
    assert!(log.contains("plain/attic: `hello` is not a number"), "{log}");
}

/// A pointer with a typo, a device without a parameter that its cell needs, a filter that nothing matches: each is counted where it comes to
/// nothing, and the doctor names it.
#[test]
fn what_comes_and_gives_nothing_is_counted_and_the_doctor_shows_a_sample() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let rest = format!(
        "[sources.m.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\ntopics = [\n\
         {{ filter = \"p15/{{d}}\", streams = {{ \"{{d}}/t\" = \"/Temperature\" }} }},\n\
         {{ filter = \"c115/{{d}}\", payload = \"number\", stream = \"{{d}}\" }},\n\
         {{ filter = \"silent/#\", payload = \"number\", stream = \"silent\" }}]\n\
         [slots.c]\ncell = \"CELLS/deadband.wasm\"\nparams = {{ percent = 1.0 }}\n[streams.\"a\"]\nparams = {{ span = 10.0 }}\n\
         [routes.all]\nstreams = [\"#\"]\nslots = [\"c\"]\n",
        local.port
    );
    let gateway = Gateway::new("lab", cloud.port, &rest);
    let _agent = gateway.run(&[]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    wait_until("the subscription stands", || {
        publish(local.port, "p15/a", br#"{"temperature":21.5}"#);
        gateway.status().is_some_and(|status| status["sources"][0]["inputs"][0]["empty"] != 0)
    });
    let doctor = || {
        let output = porind(&gateway.config()).arg("doctor").output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (good, said) = doctor();
    let sample = "inputs of `p15/+` gave no packet, the last: p15/a {\\\"temperature\\\":21.5}: there is nothing at /Temperature";
    assert!(!good && said.contains(sample), "{said}");
    assert!(said.contains("no input from `silent/#` yet"), "{said}");

    for device in ["a", "b", "c"] {
        (0..20).for_each(|_| publish(local.port, &format!("c115/{device}"), b"72"));
    }
    wait_until("all of them are decided about", || received(&gateway) == 60);
    let status = gateway.status().expect("it runs");
    let (source, slot) = (&status["sources"][0], &status["routes"][0]["slots"][0]);
    assert_eq!((&source["unrouted"], &source["routed"]), (&json!(0), &json!(60)), "{status}");
    assert_eq!(
        (&slot["refused"], &slot["dead_lettered"], &slot["streams_refused"]),
        (&json!(40), &json!(40), &json!(2))
    );
    assert_eq!((&status["dead_letters"]["waiting"], &status["imbalance"]), (&json!(40), &json!([])));
    let text = porind(&gateway.config()).arg("status").output().expect("it runs").stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("p15/+: ") && text.contains("refuses stream b: parameter `span`"), "{text}");
    let (good, said) = doctor();
    assert!(!good, "{said}");
    for device in ["b", "c"] {
        let words = format!("`c` refuses stream `{device}`: parameter `span` of stream `{device}`: missing");
        assert!(said.contains(&words), "{said}");
    }
}

/// LoRaWAN frames in a network server's JSON, through a filter of messages and a decoder to readings; and beside it the
/// messages as they came.
#[test]
fn messages_become_readings_in_a_decoder_and_go_on_as_they_are_without_one() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let rest = format!(
        r##"
[sources.lora.mqtt]
broker = "mqtt://127.0.0.1:{}"
[[sources.lora.mqtt.topics]]
filter = "application/+/device/{{eui}}/event/up"
payload = "message"
base64 = "/data"
time = "/time"
stream = "lora/{{eui}}"
[[sources.lora.mqtt.topics]]
filter = "raw/#"
payload = "message"
stream = "raw"
[slots.long]
cell = "CELLS/topics.wasm"
world = "message-filter"
params = {{ min_bytes = 11, except = "application/+/device/ff/#" }}
[slots.lht65]
cell = "CELLS/lht65.wasm"
world = "decoder"
outputs = ["{{stream}}/temperature", "{{stream}}/probe"]
[slots.quiet]
cell = "CELLS/deadband.wasm"
params = {{ absolute = 0.5 }}
[routes.readings]
streams = ["lora/#"]
packets = "messages"
slots = ["long", "lht65", "quiet"]
[routes.raw]
streams = ["raw", "lora/+"]
packets = "messages"
topic = "porin/v1/gw/lab/raw"
"##,
        local.port
    );
    let all = Subscriber::start(cloud.port, "porin/v1/gw/lab/raw");
    let gateway = Gateway::new("lab", cloud.port, &rest);
    let agent = gateway.run(&["--json"]);
    wait_until("the session stands", || is_connected(&gateway, 1) && gateway.status().is_some());
    wait_until("the subscription stands", || {
        publish(local.port, "raw/probe", b"?");
        received(&gateway) > 0
    });
    let up = fs::read(top().join("docs/fixtures/mqtt/chirpstack-up.json")).expect("a fixture");
    let device = |eui: &str| format!("application/a/device/{eui}/event/up");
    publish(local.port, &device("01"), &up);
    publish(local.port, &device("ff"), &up);
    publish(local.port, &device("01"), br#"{"data":"AAAA"}"#);
    publish(local.port, &device("01"), br#"{"data":"%%"}"#);
    publish(local.port, "raw/x", b"\x00\xff");
    // The same values again: the deadband drops them.
    publish(local.port, &device("01"), &up);
    // The last of them is the third of its stream. How many probes came before nobody knows.
    wait_until("everything is decided about", || {
        let status = gateway.status().expect("it runs");
        let streams = status["streams"].as_array().expect("streams");
        streams.iter().any(|stream| stream["name"] == "lora/01" && stream["received"] == 3)
    });
    agent.terminate();
    let (ended, last) = agent.output();
    assert!(ended.success());
    let status: Value = serde_json::from_str(&last).expect("the last status");
    assert_eq!(status["imbalance"], Value::Array(vec![]), "{status}");
    assert_eq!(status["sources"][0]["bad_rows"], 1, "{status}");
    let readings: Vec<_> = subscriber.packets().into_values().collect();
    let time = 1_795_340_055_775_023;
    assert_eq!(readings, [("lora/01/temperature".into(), time, 19.9), ("lora/01/probe".into(), time, 21.5)]);
    let raw: Vec<_> =
        all.publishes().iter().flat_map(|publish| payload::decode(&publish.payload).expect("ours").messages).collect();
    let frame = [0xcb, 0xa4, 0x07, 0xc6, 0x01, 0xb8, 0x01, 0x08, 0x66, 0x7f, 0xff];
    assert!(
        raw.iter()
            .any(|message| message.stream == "lora/01" && message.payload == frame && message.topic == device("01"))
    );
    assert!(
        raw.iter().any(|message| message.stream == "raw" && message.payload == [0, 0xff] && message.topic == "raw/x")
    );
}

/// What was a stream of messages in an earlier run is not declared to cells of readings, nor the other way round.
#[test]
fn the_kind_of_a_stream_is_known_after_a_restart() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let rest = format!(
        r##"
[sources.both.mqtt]
broker = "mqtt://127.0.0.1:{}"
[[sources.both.mqtt.topics]]
filter = "frames/{{eui}}"
payload = "message"
stream = "lora/{{eui}}"
[[sources.both.mqtt.topics]]
filter = "plain/{{room}}"
payload = "number"
stream = "room/{{room}}"
[slots.hourly]
cell = "CELLS/summary.wasm"
params = {{ window_s = 3600 }}
outputs = ["{{stream}}/mean"]
[slots.frames]
cell = "CELLS/lht65.wasm"
world = "decoder"
outputs = ["{{stream}}/temperature"]
[routes.readings]
streams = ["#"]
slots = ["hourly"]
[routes.frames]
streams = ["#"]
packets = "messages"
slots = ["frames"]
"##,
        local.port
    );
    let gateway = Gateway::new("lab", cloud.port, &rest);
    let names = || -> BTreeSet<String> {
        let status = gateway.status().expect("it runs");
        let streams = status["streams"].as_array().expect("streams").clone();
        streams.iter().filter_map(|stream| stream["name"].as_str().map(str::to_owned)).collect()
    };
    for start in 1..=2 {
        let mut agent = gateway.run(&[]);
        wait_until("the session stands", || is_connected(&gateway, start) && gateway.status().is_some());
        wait_until("both kinds come", || {
            publish(local.port, "frames/01", &[0; 11]);
            publish(local.port, "plain/attic", b"1");
            received(&gateway) >= 4 && names().len() >= 2
        });
        let expected = ["lora/01", "lora/01/temperature", "room/attic", "room/attic/mean"];
        assert!(names().iter().all(|name| expected.contains(&name.as_str())), "{:?}", names());
        agent.terminate();
        agent.wait();
    }
    assert!(!gateway.log().contains("cannot enter the route"), "{}", gateway.log());
}
