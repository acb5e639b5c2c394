//! Looking at a running gateway: metrics for scrapers and over MQTT, taps, the live table.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use porin_e2e::{Broker, Gateway, Subscriber, free_port, program, publish, wait_until};
use serde_json::Value;

/// Numbers of a local broker through a deadband.
fn gateway(local: u16, cloud: u16, metrics: u16) -> Gateway {
    let rest = format!(
        "[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{local}\"\n\
         [[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\npayload = \"number\"\nstream = \"n/{{stream}}\"\n\
         [slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = {{ absolute = 1.0 }}\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n"
    );
    Gateway::new("lab", cloud, &rest)
}

fn received(gateway: &Gateway) -> u64 {
    gateway.status().and_then(|status| status.pointer("/sources/0/received").and_then(Value::as_u64)).unwrap_or(0)
}

/// A running gateway that hears its local broker.
fn running(gateway: &Gateway, local: u16) -> porin_e2e::Process {
    let agent = gateway.run(&[]);
    wait_until("it runs", || gateway.status().is_some());
    wait_until("it hears its broker", || {
        publish(local, "n/probe", b"0");
        received(gateway) > 0
    });
    agent
}

fn scrape(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn scrapers_get_openmetrics_and_subscribers_the_same_numbers() {
    let (local, cloud, port) = (Broker::mosquitto(), Broker::mosquitto(), free_port());
    let told = Subscriber::start(cloud.port, "porin/v1/gw/lab/metrics");
    let gateway = gateway(local.port, cloud.port, port);
    let _agent = running(&gateway, local.port);
    let answer = scrape(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains("200 OK") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert!(body.contains("# TYPE porin_slot_input counter"), "{body}");
    let value = |name: &str| {
        let line = body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {body}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number")
    };
    assert!(value("porin_source_received_total{source=\"local\"}") > 0);
    assert_eq!(value("porin_slot_input_total{route=\"all\",slot=\"quiet\"}"), value("porin_slot_processed_total{"));
    assert!(scrape(port, "GET / HTTP/1.1\r\n\r\n").contains("404 Not Found"));
    // The first is sent some seconds after connecting.
    wait_until("the numbers are told", || !told.received().is_empty());
    let (_, numbers) = told.received().remove(0);
    assert_eq!((&numbers["v"], &numbers["gateway"]), (&Value::from(1), &Value::from("lab")));
    assert_eq!(numbers["imbalance"], Value::Array(vec![]));
}

#[test]
fn a_tap_shows_packets_before_and_after() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let gateway = gateway(local.port, cloud.port, free_port());
    let _agent = running(&gateway, local.port);
    let config = gateway.config();
    let mut tap = Command::new(program("porin"))
        .args(["tap", "n/x", "--json", "--count", "3", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    // It says when the agent shows it what passes.
    let mut first = [0; 8];
    tap.stderr.as_mut().expect("a pipe").read_exact(&mut first).expect("it says something");
    publish(local.port, "n/x", b"10");
    publish(local.port, "other/x", b"10");
    publish(local.port, "n/x", b"10.5");
    let output = tap.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["at"].as_str(), line["value"].as_f64())).collect();
    assert_eq!(seen, [(Some("in"), Some(10.0)), (Some("out"), Some(10.0)), (Some("in"), Some(10.5))], "{text}");
    assert_eq!(lines[1]["route"], "all");
    // Lookers that go away leave their places, also where nothing passes.
    for _ in 0..40 {
        let mut looker = Command::new(program("porin"))
            .args(["tap", "nothing/+", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        looker.stderr.as_mut().expect("a pipe").read_exact(&mut first).expect("it says something");
        looker.kill().expect("it is there");
        looker.wait().expect("it ends");
    }
    assert!(gateway.status().is_some());
    // Nobody there, and a pattern that is none.
    let failed = |args: &[&str]| {
        let output =
            Command::new(program("porin")).args(args).arg("--config").arg(&config).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = failed(&["tap", "a/#/b"]);
    assert!(code == Some(1) && text.contains("`#` stands only at the end"), "{text}");
}
