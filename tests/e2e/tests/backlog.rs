//! An outage so long that nothing but the disk can hold what waits: it leaves in order, in flat memory, behind any alarm.
//!
//! `make soak` does the same with `PORIN_BACKLOG` packets, 500,000 otherwise.

use std::{env, fs};

use porin_core::payload;
use porin_e2e::{Broker, Cable, Gateway, Plugged, Subscriber, publish, wait_until};
use serde_json::Value;

/// Bytes of memory by which the agent may grow while most of the backlog leaves.
const FLAT: u64 = 2 << 20;

fn packets() -> u64 {
    env::var("PORIN_BACKLOG").ok().and_then(|text| text.parse().ok()).unwrap_or(500_000)
}

/// Bytes that a process has in memory.
fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("a number") * 1_024
}

#[test]
fn a_long_backlog_leaves_in_order_and_flat_memory_and_an_alarm_overtakes_it() {
    let packets = packets();
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto_with("max_queued_messages 0"));
    let cable = Cable::to(cloud.port, Plugged::Out);
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.alarms]\nstreams = [\"alarm\"]\npriority = \"high\"\n\
         [sources.sim.simulator]\nstreams = \"sim/{{n}}\"\ncount = 20\nspeed = \"max\"\nreadings = {packets}\n\
         [routes.all]\nstreams = [\"sim/#\"]\nencoding = \"compact\"\nbatch = {{ packets = 200 }}\n",
        local.port
    );
    // Slow enough to look at it while it leaves.
    let rate = (packets / 8).clamp(20_000, 60_000);
    let gateway = Gateway::new("lab", cable.port, &rest);
    let gateway = gateway.edit("50ms\"", &format!("50ms\"\nmax_bytes = \"20GB\"\nbacklog_rate = {rate}"));
    let gateway = gateway.edit("[uplink]", "[uplink]\nreconnect = \"100ms\"");
    let agent = gateway.run(&[]);
    let number = |pointer: &str| {
        let status = gateway.status();
        status.as_ref().and_then(|status| status.pointer(pointer).and_then(Value::as_u64)).unwrap_or(0)
    };
    let mut before = 0;
    while number("/outbox/waiting") < packets {
        let now = number("/outbox/waiting");
        wait_until("more waits", || number("/outbox/waiting") > now || number("/outbox/waiting") == packets);
        assert!(now >= before);
        before = now;
    }
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    cable.plug_in();
    let left = |share: u64| {
        wait_until("some has left", || number("/outbox/acknowledged") >= packets / 10 * share);
        resident(agent.id())
    };
    let at_10 = left(1);
    publish(local.port, "n/alarm", b"1");
    let alarm = || subscriber.publishes().iter().any(|publish| publish.topic.ends_with("/alarms"));
    wait_until("the alarm is there", alarm);
    let waiting = number("/outbox/waiting");
    assert!(waiting > packets / 2, "the alarm came when {waiting} of {packets} still waited");
    let at_90 = (2..=9).map(left).max().expect("some");
    wait_until("all has left", || number("/outbox/waiting") == 0);
    eprintln!("{packets} packets: {at_10} bytes resident after 10 %, {at_90} at most until 90 %");
    assert!(at_90 <= at_10 + FLAT, "{at_10} {at_90}");
    let mut last = None;
    let mut came = 0;
    for publish in subscriber.publishes().iter().filter(|publish| publish.topic.ends_with("/all")) {
        for packet in payload::decode(&publish.payload).expect("it is whole").packets {
            assert!(last < Some(packet.seq.0), "in order, each once");
            last = Some(packet.seq.0);
            came += 1;
        }
    }
    assert_eq!(came, packets);
    assert_eq!(gateway.status().expect("it runs")["imbalance"], Value::Array(vec![]));
}
