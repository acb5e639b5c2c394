//! Routes that end here: files and local brokers, while the cloud is away; and what is said of lines that are not there.

use std::{fs, net::UdpSocket, thread::sleep, time::Duration};

use porin_e2e::{Broker, Cable, Gateway, Lab, Plugged, Signal, Subscriber, free_port, porind, wait_until};
use serde_json::{Value, json};

/// A source of numbers on `n/x` and a slot with a threshold at 10, and what sends it a number.
fn numbers() -> (String, impl Fn(u32)) {
    let port = free_port();
    let text = format!(
        r##"
[sources.net.udp]
listen = "127.0.0.1:{port}"
lines = {{ pattern = '^(?<x>[0-9.]+)', streams = "n/{{channel}}" }}
[streams."n/x"]
unit = "Cel"
[slots.limit]
cell = "CELLS/threshold.wasm"
params = {{ high = 10.0 }}
outputs = ["{{stream}}/alarm"]
"##
    );
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = move |value: u32| assert!(socket.send_to(value.to_string().as_bytes(), ("127.0.0.1", port)).is_ok());
    (text, send)
}

/// Through the threshold to a file, and all of them to another.
const TO_FILES: &str = r##"
[sinks.alarms.file]
path = "HERE/sinks/alarms.jsonl"
[sinks.history.file]
path = "HERE/sinks/history.jsonl"
max_bytes = "1kB"
keep = 100
[routes.alarm]
streams = ["n/x"]
slots = ["limit"]
sinks = ["alarms", "uplink"]
[routes.keep]
streams = ["n/x"]
sinks = ["history"]
"##;

fn rows(gateway: &Gateway, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(gateway.path(&format!("sinks/{name}"))).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("whole lines of JSON")).collect()
}

#[test]
fn a_gateway_acts_while_the_cloud_is_away() {
    let (source, send) = numbers();
    // Nobody is there.
    let gateway = Gateway::new("lab", free_port(), &(source + TO_FILES));
    let agent = gateway.run(&[]);
    wait_until("the first one", || {
        send(5);
        !rows(&gateway, "alarms.jsonl").is_empty()
    });
    for value in [11, 12, 9] {
        send(value);
    }
    wait_until("three states", || rows(&gateway, "alarms.jsonl").len() == 3);
    let states: Vec<_> = rows(&gateway, "alarms.jsonl").iter().map(|row| row["value"].clone()).collect();
    assert_eq!(states, [json!(0.0), json!(1.0), json!(0.0)]);
    assert_eq!(rows(&gateway, "alarms.jsonl")[0]["stream"], "n/x/alarm");
    // A route that does not end at the uplink leaves nothing in the outbox.
    for value in 100..400 {
        send(value);
        // Datagrams would get lost if they came faster than they are read.
        if value % 50 == 0 {
            let last = json!(f64::from(value));
            wait_until("it was read", || {
                rows(&gateway, "history.jsonl").last().is_some_and(|row| row["value"] == last)
            });
        }
    }
    send(7);
    wait_until("all of them", || rows(&gateway, "history.jsonl").last().is_some_and(|row| row["value"] == json!(7.0)));
    let status = gateway.status().expect("it runs");
    assert_eq!((&status["outbox"]["appended"], &status["uplink"]["connections"]), (&json!(5), &json!(0)), "{status}");
    let [alarms, history] = [0, 1].map(|index| status["sinks"][index].clone());
    assert_eq!((&alarms["done"], &alarms["lost"], &alarms["ok"]), (&json!(5), &json!(0), &json!(true)));
    // Rotated files have all of it, in order.
    let older = (1..).take_while(|number| gateway.path(&format!("sinks/history.jsonl.{number}")).exists()).count();
    assert!(older > 10, "{older}");
    let names = (1..=older).rev().map(|number| format!("history.jsonl.{number}"));
    let mut kept: Vec<_> = names.flat_map(|name| rows(&gateway, &name)).collect();
    kept.extend(rows(&gateway, "history.jsonl"));
    assert_eq!(history["done"].as_u64(), Some(kept.len() as u64));
    let values: Vec<_> = kept.iter().filter_map(|row| row["value"].as_f64()).filter(|value| *value >= 100.0).collect();
    assert_eq!(values, (100..400).map(f64::from).collect::<Vec<_>>());
    assert!(kept.iter().all(|row| row["unit"] == "Cel" && row["stream"] == "n/x"));
    // Another file, without a restart.
    let gateway = gateway.edit("sinks/alarms.jsonl", "sinks/again.jsonl");
    agent.signal(Signal::HUP);
    wait_until("it is in force", || gateway.log().contains("the new configuration is in force"));
    send(11);
    wait_until("it is written there", || rows(&gateway, "again.jsonl").len() == 1);
    agent.terminate();
    assert!(agent.output().0.success());
    assert_eq!(rows(&gateway, "alarms.jsonl").len(), 5);
}

#[test]
fn an_output_line_that_is_not_there_is_told_and_holds_nobody_up() {
    let port = free_port();
    let lab = Lab::start_with(
        &format!(
            "[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\nlines = {{ pattern = '^(?<x>[0-9.]+)', streams = \"n/{{channel}}\" }}\n\
             [sinks.siren.gpio]\nline = \"/dev/gpiochip99:4\"\nsafe = \"low\"\n\
             [routes.all]\nstreams = [\"#\"]\nsinks = [\"siren\", \"uplink\"]\n"
        ),
        |_| {},
    );
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    wait_until("it comes", || {
        socket.send_to(b"1", ("127.0.0.1", port)).expect("sent");
        lab.values("n/x").len() > 3
    });
    let siren = || lab.gateway.status().map_or(Value::Null, |status| status["sinks"][0].clone());
    wait_until("it is told", || siren()["ok"] == false);
    let siren = siren();
    let error = siren["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("cannot hold line 4 of /dev/gpiochip99"), "{siren}");
    assert_eq!((&siren["level"], &siren["done"], &siren["waiting"]), (&Value::Null, &json!(0), &json!(1)), "{siren}");
    let doctor = porind(&lab.gateway.config()).arg("doctor").output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        !doctor.status.success() && said.contains("`siren` fails: cannot hold line 4 of /dev/gpiochip99"),
        "{said}"
    );
    lab.end();
}

/// Three ends of routes at one broker.
fn to_a_broker(broker: u16) -> String {
    format!(
        r##"
[sinks.relay.mqtt]
broker = "mqtt://127.0.0.1:{broker}"
topic = "cmnd/relay/POWER"
payload = "value"
retain = true
[sinks.house.mqtt]
broker = "mqtt://127.0.0.1:{broker}"
[sinks.fresh.mqtt]
broker = "mqtt://127.0.0.1:{broker}"
topic = "fresh/{{stream}}"
payload = "value"
expire = "2s"
[routes.alarm]
streams = ["n/x"]
slots = ["limit"]
sinks = ["relay"]
[routes.all]
streams = ["n/x"]
sinks = ["house", "fresh"]
"##
    )
}

/// What was published on a topic, as texts.
fn texts(subscriber: &Subscriber, topic: &str) -> Vec<String> {
    let publishes = subscriber.publishes().into_iter().filter(|publish| publish.topic == topic);
    publishes.map(|publish| String::from_utf8(publish.payload).expect("a text")).collect()
}

#[test]
fn a_local_broker_gets_what_is_decided_while_the_cloud_is_away_and_nothing_too_late() {
    let broker = Broker::mosquitto();
    let cable = Cable::to(broker.port, Plugged::In);
    let subscriber = Subscriber::start(broker.port, "#");
    let (source, send) = numbers();
    // The cloud is away all the time.
    let gateway = Gateway::new("lab", free_port(), &(source + &to_a_broker(cable.port)));
    let agent = gateway.run(&[]);
    let sink = |index: usize| gateway.status().map_or(Value::Null, |status| status["sinks"][index].clone());
    let [fresh, house, relay] = [0, 1, 2];
    let all = [fresh, house, relay];
    let lost = |index: usize| sink(index)["lost"].as_u64();
    // A packet for `fresh` expires while its connection is made, so nothing is counted before all three are connected.
    let connected = |times: usize| gateway.log().matches("connected to the broker").count() >= 3 * times;
    wait_until("all three are connected", || connected(1));
    wait_until("the source listens", || {
        send(5);
        !texts(&subscriber, "cmnd/relay/POWER").is_empty()
    });
    for value in [11, 12, 9] {
        send(value);
    }
    wait_until("three states", || texts(&subscriber, "cmnd/relay/POWER").len() == 3);
    assert_eq!(texts(&subscriber, "cmnd/relay/POWER"), ["0", "1", "0"]);
    let row = |text: &String| serde_json::from_str::<Value>(text).expect("JSON");
    let rows = || texts(&subscriber, "porin/lab/n/x").iter().map(row).collect::<Vec<_>>();
    wait_until("all of them", || rows().last().is_some_and(|row| row["value"] == json!(9.0)));
    let last = rows().pop().expect("there is one");
    assert_eq!((&last["stream"], &last["unit"]), (&json!("n/x"), &json!("Cel")));
    wait_until("they are acknowledged", || all.iter().all(|index| sink(*index)["waiting"] == 0));
    let lost_before = lost(fresh).expect("a count");

    // The broker is away: packets wait in order, and the relay's state among them.
    cable.pull();
    wait_until("it is noticed", || all.iter().all(|index| sink(*index)["ok"] == false));
    for value in [21, 22, 23] {
        send(value);
    }
    wait_until("they wait", || sink(house)["waiting"] == 3 && sink(relay)["waiting"] == 1);
    // For longer than `fresh` wants.
    sleep(Duration::from_millis(2_500));
    assert_eq!(texts(&subscriber, "cmnd/relay/POWER").len(), 3);
    cable.plug_in();
    wait_until("all three are connected again", || connected(2));
    wait_until("nothing waits any more", || all.iter().all(|index| sink(*index)["waiting"] == 0));
    wait_until("it is back", || rows().last().is_some_and(|row| row["value"] == json!(23.0)));
    wait_until("the relay, too", || texts(&subscriber, "cmnd/relay/POWER").len() == 4);
    assert_eq!(texts(&subscriber, "cmnd/relay/POWER"), ["0", "1", "0", "1"]);
    assert_eq!(lost(fresh), Some(lost_before + 3));
    wait_until("what is new is fresh", || {
        send(30);
        texts(&subscriber, "fresh/n/x").last().is_some_and(|value| value == "30")
    });
    assert!(!texts(&subscriber, "fresh/n/x").iter().any(|value| ["21", "22", "23"].contains(&value.as_str())));
    let values: Vec<_> = rows().iter().filter_map(|row| row["value"].as_f64()).filter(|value| *value > 20.0).collect();
    assert_eq!(values[..3], [21.0, 22.0, 23.0]);
    for index in [house, relay] {
        let status = sink(index);
        assert_eq!((&status["lost"], &status["ok"]), (&json!(0), &json!(true)), "{status}");
    }
    // Whoever comes later gets the relay's state, and no other.
    let late = Subscriber::start(broker.port, "cmnd/#");
    wait_until("what is retained", || texts(&late, "cmnd/relay/POWER") == ["1"]);
    // Another topic, without a restart.
    let text = fs::read_to_string(gateway.config()).expect("it is there");
    fs::write(gateway.config(), text.replace("fresh/{stream}", "fresher/{stream}")).expect("written");
    agent.signal(Signal::HUP);
    wait_until("it is published there", || {
        send(30);
        !texts(&subscriber, "fresher/n/x").is_empty()
    });
    // Nothing of this was for the uplink.
    assert_eq!(gateway.status().expect("it runs")["outbox"]["appended"], json!(0));
    // What was decided before the end is published before it.
    send(1);
    wait_until("it is decided", || sink(relay)["taken"] == 5);
    agent.terminate();
    assert!(agent.output().0.success());
    wait_until("the last one", || texts(&subscriber, "cmnd/relay/POWER").len() == 5);
}
