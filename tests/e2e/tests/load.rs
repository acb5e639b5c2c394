//! `porin load`: many gateways at a broker, and books that find what is missing.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use porin_core::{
    ids::{Epoch, Seq},
    payload::{Encoding, Packet, encode},
};
use porin_e2e::{Broker, Gateway, program, publish, wait_until};
use serde_json::Value;

fn load(command: &str, broker: &Broker, args: &[&str]) -> Command {
    let mut load = Command::new(program("porin"));
    load.args(["load", command, "--broker", &format!("mqtt://127.0.0.1:{}", broker.port)]).args(args);
    load
}

/// A checker whose subscription stands.
fn checker(broker: &Broker, args: &[&str]) -> Child {
    let mut child = load("check", broker, args)
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().expect("a pipe")).read_line(&mut line).expect("it says something");
    assert!(line.starts_with("listening"), "{line}");
    child
}

fn books(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn twenty_gateways_arrive_whole() {
    for broker in [Broker::mosquitto(), Broker::embedded()] {
        let checker = checker(&broker, &["--packets", "40000"]);
        let args = ["--gateways", "20", "--streams", "5", "--packets", "2000", "--encoding", "compact"];
        assert!(load("send", &broker, &args).status().expect("it runs").success());
        let (code, books) = books(checker);
        assert_eq!(code, Some(0), "{books}");
        let accounts = books["accounts"].as_array().expect("accounts");
        assert_eq!(accounts.len(), 20);
        assert!(accounts.iter().all(|account| account["packets"] == 2_000 && account["missing"] == 0), "{books}");
    }
}

#[test]
fn a_gap_is_found_and_a_packet_that_comes_twice_is_none() {
    let broker = Broker::mosquitto();
    let checker = checker(&broker, &["--idle", "2"]);
    for seq in [0, 1, 1, 3] {
        let packet = Packet { seq: Seq(seq), stream: "a", unit: "", time_us: 0, value: 1.0, quality: 0 };
        let payload = encode(Encoding::Json, "g", Epoch { store: 1, starts: 1 }, &[packet]);
        publish(broker.port, "porin/v1/gw/g/data/x", &payload);
    }
    publish(broker.port, "porin/v1/gw/g/data/x", b"hello");
    let (code, books) = books(checker);
    let account = &books["accounts"][0];
    assert_eq!((code, &books["others"]), (Some(3), &Value::from(1)), "{books}");
    assert_eq!((&account["missing"], &account["first_missing"]), (&Value::from(1), &Value::from(2)));
    assert_eq!((&account["packets"], &account["duplicates"]), (&Value::from(3), &Value::from(1)));
}

#[test]
fn sensors_of_a_local_broker_come_through_a_gateway() {
    // By itself mosquitto drops what waits beyond a thousand publishes.
    let (local, cloud) = (Broker::mosquitto_with("max_queued_messages 0"), Broker::mosquitto());
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"load/{{gw}}/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{gw}}/{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\nbatch = {{ wait = \"20ms\" }}\n",
        local.port
    );
    let gateway = Gateway::new("lab", cloud.port, &rest);
    let _agent = gateway.run(&[]);
    wait_until("the session stands", || gateway.log().contains("connected to the local broker"));
    wait_until("it runs", || gateway.status().is_some());
    let received = || gateway.status().and_then(|status| status["sources"][0]["received"].as_u64()).unwrap_or(0);
    wait_until("the subscription stands", || {
        publish(local.port, "load/probe/x", b"0");
        received() > 0
    });
    let before = received();
    let checker = checker(&cloud, &["--packets", "3000", "--idle", "20"]);
    let args = ["--sensors", "--gateways", "3", "--streams", "4", "--packets", "1000"];
    assert!(load("send", &local, &args).status().expect("it runs").success());
    let (code, books) = books(checker);
    // The checker came when some probes were already through: they are no gap.
    assert_eq!(code, Some(0), "{books}");
    assert!(received() >= before + 3_000);
}
