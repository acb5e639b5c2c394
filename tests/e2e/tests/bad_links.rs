//! Links and brokers at their worst: nothing is missing, first occurrences are in order, and what comes twice is bounded.

#![allow(clippy::panic)] // a table that says something else is named

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, SystemTime},
};

use porin_core::{config::Protocol, payload};
use porin_e2e::{
    Broker, Cable, Gateway, Plugged, Subscriber,
    certificates::{Authority, VALID},
    free_port,
    hostile::{DEEDS, Deed, Hostile},
    library,
    nats::Nats,
    proxy::Proxy,
    publish_lines, wait_until,
};
use porin_test_support::documented;
use serde_json::Value;
use tempfile::TempDir;

const PACKETS: u64 = 50_000;

/// Packets of a publish.
const BATCH: u64 = 10;

/// Readings of some streams, as fast as they can leave, in small publishes.
fn routes(readings: u64) -> String {
    format!(
        "[sources.sim.simulator]\nstreams = \"sim/{{n}}\"\ncount = 7\nspeed = \"max\"\nreadings = {readings}\n\
         [routes.all]\nstreams = [\"#\"]\nbatch = {{ packets = {BATCH}, wait = \"1ms\" }}\n"
    )
}

/// What the cloud has: how often each packet came, and that first occurrences are in order within each stream.
fn delivered(payloads: impl Iterator<Item = Vec<u8>>) -> (u64, u64) {
    let (mut seen, mut last, mut twice) = (BTreeSet::new(), BTreeMap::new(), 0);
    for payload in payloads {
        let decoded = payload::decode(&payload).expect("it is whole: a link that flips bits notices");
        for packet in decoded.packets {
            if !seen.insert((decoded.epoch.to_string(), packet.seq.0)) {
                twice += 1;
                continue;
            }
            let before = last.insert(packet.stream.clone(), packet.time_us);
            assert!(before < Some(packet.time_us), "{}: {before:?} before {}", packet.stream, packet.time_us);
        }
    }
    (seen.len() as u64, twice)
}

fn through_the_proxy(protocol: &str) {
    const CUTS: u64 = 160;
    // As many as mosquitto takes at a time from who speaks MQTT 5. With many more a connection may be cut before anything is acknowledged, again and
    // again, and then the agent waits ever longer, as it should.
    let (in_flight, window) = (20, 12);
    let theirs = Authority::new("brokers");
    let server = theirs.server(&["localhost"], VALID);
    let folder = TempDir::new().expect("a folder");
    let place = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let tls_port = free_port();
    let lines = format!(
        "max_queued_messages 0\nlistener {tls_port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
        place("server.pem", &server.cert),
        place("server.key", &server.key)
    );
    let broker = Broker::mosquitto_with(&lines);
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let proxy = Proxy::to(tls_port, CUTS, 7);
    let uplink = format!(
        "mqtts://localhost:{}\"\nprotocol = \"{protocol}\"\nkeep_alive = \"5s\"\nreconnect = \"10ms\"\nin_flight = {in_flight}\ntls = {{ ca_file = \"{}\" }}\nclient_id = \"porin-lab",
        proxy.port,
        place("ca.pem", &theirs.pem)
    );
    let status = Gateway::new("lab", 1, &routes(PACKETS)).edit("mqtt://127.0.0.1:1", &uplink).run_to_the_end();
    let payloads = || subscriber.publishes().into_iter().map(|publish| publish.payload);
    wait_until("everything is there", || delivered(payloads()).0 >= PACKETS);
    let (once, twice) = delivered(payloads());
    let (flips, delays) = proxy.flips_and_delays();
    let connections = status["uplink"]["connections"].as_u64().unwrap_or(0);
    eprintln!(
        "MQTT {protocol}: {} cuts, {flips} flips, {delays} delays, {connections} connections, {twice} packets twice",
        proxy.cuts()
    );
    assert_eq!((once, proxy.cuts()), (PACKETS, CUTS));
    assert!(flips > 20 && delays > 20, "{flips} {delays}");
    // A flip ends a connection as a cut does.
    assert!(twice <= window * BATCH * (CUTS + flips), "{twice}");
    assert!(status["outbox"]["resent"].as_u64() >= Some(twice));
    assert_eq!(status["imbalance"], Value::Array(vec![]));
}

#[test]
fn a_link_that_cuts_delays_and_flips_bits_loses_nothing_with_mqtt_5() {
    through_the_proxy("5");
}

#[test]
fn a_link_that_cuts_delays_and_flips_bits_loses_nothing_with_mqtt_3() {
    through_the_proxy("3.1.1");
}

fn at_a_hostile_broker(protocol: Protocol, word: &str) {
    let broker = Hostile::start(protocol);
    let uplink = format!(
        "mqtt://127.0.0.1:{}\"\nprotocol = \"{word}\"\nkeep_alive = \"5s\"\nreconnect = \"10ms\"\nclient_id = \"porin-lab",
        broker.port
    );
    let packets = 20_000;
    let status = Gateway::new("lab", 1, &routes(packets)).edit("mqtt://127.0.0.1:1", &uplink).run_to_the_end();
    let seen = broker.seen();
    assert!(seen.connections >= DEEDS.len(), "{} connections", seen.connections);
    let (once, twice) = delivered(seen.payloads.into_iter());
    // It names no receive maximum, so 92 publishes may be under way when it does its worst.
    assert!(twice <= 92 * BATCH * seen.connections as u64, "{twice}");
    assert_eq!(once, packets);
    assert_eq!(status["outbox"]["acknowledged"].as_u64(), Some(packets));
    assert_eq!(status["imbalance"], Value::Array(vec![]));
    if protocol == Protocol::V5 {
        // Two, and the birth: the receive maximum was 10.
        assert!(seen.small_window <= 3, "{} under way", seen.small_window);
    }
}

#[test]
fn a_broker_that_does_what_none_should_loses_nothing_with_mqtt_5() {
    at_a_hostile_broker(Protocol::V5, "5");
}

#[test]
fn a_broker_that_does_what_none_should_loses_nothing_with_mqtt_3() {
    at_a_hostile_broker(Protocol::V311, "3.1.1");
}

/// MQTT 3.1.1 at a broker of three nodes, of which the gateway's own is killed in the middle.
#[test]
fn a_cluster_that_loses_a_node_loses_nothing() {
    const DATA: &str = "porin/v1/gw/lab/data/#";
    let mut nats = Nats::start();
    let ports = nats.ports();
    nats.make_session(2, DATA, "cloud");
    let subscriber = Subscriber::start_lasting(ports[2], DATA, "cloud");
    let cable = Cable::to_any(&ports[..2], Plugged::In);
    let uplink = format!(
        "mqtt://127.0.0.1:{}\"\nprotocol = \"3.1.1\"\nkeep_alive = \"5s\"\nreconnect = \"200ms\"\nclient_id = \"porin-lab",
        cable.port
    );
    let packets = 40_000;
    let gateway = Gateway::new("lab", 1, &routes(packets)).edit("mqtt://127.0.0.1:1", &uplink);
    let agent = gateway.run(&["--until-drained", "--json"]);
    let came = || delivered(subscriber.publishes().into_iter().map(|publish| publish.payload)).0;
    wait_until("some have come", || came() > packets / 4);
    nats.kill(0);
    let (status, stdout) = agent.output();
    assert!(status.success(), "{}", gateway.log());
    wait_until("everything is there", || came() == packets);
    let status: Value = serde_json::from_str(&stdout).expect("JSON");
    let connections = status["uplink"]["connections"].as_u64().unwrap_or(0);
    assert!(connections >= 2, "{status}");
    let twice = delivered(subscriber.publishes().into_iter().map(|publish| publish.payload)).1;
    // What the cluster itself gives out again after its election is its own.
    assert!(twice <= 92 * BATCH * (connections + 1), "{twice}");
    assert_eq!(status["imbalance"], Value::Array(vec![]));
}

/// The uplink's broker is stopped and killed in the middle, with its sessions and without. Its own subscriber's session lasts where
/// sessions do.
#[test]
fn a_broker_that_is_restarted_with_or_without_its_sessions_gets_everything() {
    const DATA: &str = "porin/v1/gw/lab/data/#";
    for persistence in ["true", "false"] {
        let lines = format!("persistence {persistence}\nmax_queued_messages 0");
        let mut broker = Broker::mosquitto_with(&lines);
        let subscriber = Subscriber::start_lasting(broker.port, DATA, "cloud");
        let packets = 120_000;
        let gateway =
            Gateway::new("lab", broker.port, &routes(packets)).edit("[uplink]", "[uplink]\nreconnect = \"100ms\"");
        let agent = gateway.run(&["--until-drained", "--json"]);
        let came = || delivered(subscriber.publishes().into_iter().map(|publish| publish.payload)).0;
        wait_until("some have come", || came() > packets / 20);
        broker.restart(|broker| {
            broker.terminate();
            broker.wait();
        });
        let (status, stdout) = agent.output();
        assert!(status.success(), "{}", gateway.log());
        let status: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!(status["outbox"]["acknowledged"].as_u64(), Some(packets));
        assert_eq!((&status["imbalance"], &status["uplink"]["connections"]), (&Value::Array(vec![]), &Value::from(2)));
        if persistence == "true" {
            wait_until("everything is there", || came() == packets);
        }
    }
}

/// More than the outbox may hold, on a route that gives up nothing: the local broker keeps it until there is room.
#[test]
fn a_route_that_blocks_makes_a_source_wait_and_loses_nothing() {
    let (local, cloud) =
        (Broker::mosquitto_with("max_queued_messages 0"), Broker::mosquitto_with("max_queued_messages 0"));
    let cable = Cable::to(cloud.port, Plugged::Out);
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\noverflow = \"block\"\n",
        local.port
    );
    let gateway = Gateway::new("lab", cable.port, &rest).edit("50ms\"", "50ms\"\nmax_bytes = \"1MB\"");
    let gateway = gateway.edit("[uplink]", "[uplink]\nreconnect = \"100ms\"");
    let _agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    let lines: String = (0..30_000).map(|number| format!("{number}\n")).collect();
    publish_lines(local.port, "n/x", &lines);
    let outbox = |field: &str| gateway.status().and_then(|status| status["outbox"][field].as_u64());
    // 1 MB are 15,625 readings.
    wait_until("it is full", || outbox("waiting") >= Some(15_625));
    assert!(outbox("waiting") < Some(16_000), "{:?}", outbox("waiting"));
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    cable.plug_in();
    wait_until("everything is there", || subscriber.packets().len() == 30_000);
    assert_eq!((outbox("evicted"), outbox("expired")), (Some(0), Some(0)));
}

/// The name of the broker means another address from now on, as after a move or a fail-over in DNS.
#[test]
fn a_broker_that_moves_to_another_address_is_found_there() {
    let old = Broker::mosquitto_with("");
    let new = Broker::mosquitto_with(&format!("listener {} 127.0.0.2", old.port));
    let [at_old, at_new] = [old.port, new.port].map(|port| Subscriber::start(port, "porin/v1/gw/lab/data/#"));
    let packets = 120_000;
    let gateway = Gateway::new("lab", old.port, &routes(packets)).edit("127.0.0.1", "broker.test");
    let gateway = gateway.edit("[uplink]", "[uplink]\nreconnect = \"100ms\"");
    let hosts = gateway.path("hosts");
    let names = hosts.display().to_string();
    fs::write(&hosts, "127.0.0.1 broker.test\n").expect("written");
    let library = library("libnss_wrapper.so").display().to_string();
    let variables = [("LD_PRELOAD", library.as_str()), ("NSS_WRAPPER_HOSTS", names.as_str())];
    let _agent = gateway.run_with(&[], &variables);
    let came = |subscriber: &Subscriber| subscriber.packets().len() as u64;
    wait_until("some have come", || came(&at_old) > packets / 20);
    fs::write(&hosts, "127.0.0.2 broker.test\n").expect("written");
    // The library looks whether the file is another second old.
    let file = fs::File::options().write(true).open(&hosts).expect("it is there");
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).expect("it is ours");
    drop(old);
    let left = || gateway.status().and_then(|status| status["outbox"]["acknowledged"].as_u64());
    wait_until("everything has left", || left() == Some(packets));
    assert!(came(&at_new) > 0, "{}", gateway.log());
    // What the old broker took and had not given on when it was killed is its own loss.
}

/// The table of `docs/brokers.md`: each reason with which a broker can answer a publish, and what the agent makes of it.
#[test]
fn each_reason_of_an_acknowledgement_means_what_the_documents_say() {
    let text = documented::page("brokers");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| 0x")).map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let reason = u8::from_str_radix(&cells[0][..2], 16).expect("a reason in hexadecimal digits");
        (reason, cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 9, "MQTT 5 has nine reasons: {rows:?}");
    for (reason, name, meaning) in rows {
        let broker = Hostile::that_does(Protocol::V5, &[Deed::Answers(reason)]);
        let rest = "[sources.sim.simulator]\nstreams = \"s/{n}\"\nspeed = \"max\"\nreadings = 60\n[routes.all]\nstreams = [\"#\"]\n\
                    batch = { packets = 10 }\n";
        let gateway = Gateway::new("lab", broker.port, rest);
        let status = gateway.run_to_the_end();
        let (uplink, outbox) = (&status["uplink"], &status["outbox"]);
        let number = |value: &Value| value.as_u64().expect("a number");
        let dead = number(&outbox["dead_lettered"]);
        let found = (number(&uplink["connections"]), number(&uplink["put_off"]), dead);
        match meaning.as_str() {
            "taken" => assert_eq!(found, (1, 0, 0), "{name}: {status}"),
            "not now: sent again after a pause" => {
                assert!(found.0 == 1 && found.1 >= 1 && dead == 0, "{name}: {status}")
            }
            "not now: sent again on a new connection" => {
                assert!(found.0 >= 2 && found.1 == 0 && dead == 0, "{name}: {status}")
            }
            "never: a dead letter" => {
                assert!(found.0 == 1 && dead >= 10, "{name}: {status}");
                assert_eq!(outbox["dead_letters"], serde_json::json!({ name: dead }));
            }
            other => panic!("{name}: the table says `{other}`"),
        }
        assert_eq!(number(&outbox["acknowledged"]) + dead, 60, "{status}");
    }
}
