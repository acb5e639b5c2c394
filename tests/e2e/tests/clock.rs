//! A gateway without a clock chip: it starts in 1970, learns the time, has it set back.

use std::time::{SystemTime, UNIX_EPOCH};

use porin_core::payload;
use porin_e2e::{Broker, Cable, Gateway, Plugged, Subscriber, publish_lines, wait_until};
use serde_json::Value;

const HOUR_US: u64 = 3_600_000_000;

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_micros()).expect("it fits")
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

/// What has come, in order: number, time, quality.
fn came(subscriber: &Subscriber) -> Vec<(u64, u64, u32)> {
    let publishes = subscriber.publishes();
    let data = publishes.iter().filter(|publish| publish.topic.ends_with("/all"));
    let packets = data.flat_map(|publish| payload::decode(&publish.payload).expect("it is whole").packets);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    packets.map(|packet| (packet.value as u64, packet.time_us, packet.quality)).collect()
}

#[test]
fn a_start_in_1970_is_put_right_and_neither_it_nor_a_step_backwards_loses_or_floods() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto_with("max_queued_messages 0"));
    let cable = Cable::to(cloud.port, Plugged::Out);
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\nexpire = \"1h\"\n\
         [slots.hourly]\ncell = \"CELLS/summary.wasm\"\nparams = {{ window_s = 3600 }}\noutputs = [\"{{stream}}/count\"]\ntick = \"100ms\"\n\
         [routes.hourly]\nstreams = [\"#\"]\nslots = [\"hourly\"]\n",
        local.port
    );
    let gateway = Gateway::new("lab", cable.port, &rest).with_clock();
    let ten_seconds_after_1970 = i64::try_from(now_us() / 1_000_000).expect("it fits") - 10;
    gateway.set_clock(-ten_seconds_after_1970);
    let _agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    let received = |count: u64| {
        wait_until("the packets are there", || {
            gateway.status().is_some_and(|status| status["sources"][0]["received"].as_u64() == Some(count))
        });
    };
    let trusted = || gateway.status().map(|status| status["clock_trusted"].clone());
    publish_lines(local.port, "n/x", &lines(0..100));
    received(100);
    assert_eq!(trusted(), Some(Value::Bool(false)));
    assert!(gateway.log().contains("the clock has not been set"), "{}", gateway.log());
    gateway.set_clock(0);
    wait_until("it sees that the clock was set", || gateway.log().contains("the clock has been set"));
    publish_lines(local.port, "n/x", &lines(100..200));
    received(200);
    gateway.set_clock(-3_600);
    wait_until("it sees the step", || gateway.log().contains("the clock was stepped"));
    publish_lines(local.port, "n/x", &lines(200..300));
    received(300);
    assert_eq!(trusted(), Some(Value::Bool(true)));
    cable.plug_in();
    wait_until("everything is there", || came(&subscriber).len() >= 300);
    let came = came(&subscriber);
    assert!(came.iter().map(|(number, ..)| *number).eq(0..300), "in order, each once");
    let now = now_us();
    for (number, time, quality) in came {
        let expected = if number < 200 { now } else { now - HOUR_US };
        // The test itself takes some seconds, on a slow machine minutes.
        assert!(time <= expected + 1_000_000 && expected - time < HOUR_US / 2, "{number}: {time}, it is {now}");
        assert_eq!(quality, 0, "{number}");
    }
    let status = gateway.status().expect("it runs");
    let outbox = &status["outbox"];
    assert_eq!((outbox["expired"].as_u64(), outbox["evicted"].as_u64()), (Some(0), Some(0)));
    // A window for each stretch of the clock, at most, and the one that each step closes.
    assert!(status["routes"][1]["forwarded"].as_u64() <= Some(4), "{status}");
    assert_eq!(status["imbalance"], Value::Array(vec![]));
}

/// A clock that was right is stepped 20 days ahead by mistake, and back.
#[test]
fn a_wrong_step_forwards_and_back_loses_expires_and_floods_nothing() {
    const DAYS: i64 = 20;
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto_with("max_queued_messages 0"));
    let cable = Cable::to(cloud.port, Plugged::Out);
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\nexpire = \"1h\"\n",
        local.port
    );
    let gateway = Gateway::new("lab", cable.port, &rest).with_clock();
    gateway.set_clock(0);
    let _agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    let send = |numbers: std::ops::Range<u32>| {
        let count = u64::from(numbers.end);
        publish_lines(local.port, "n/x", &lines(numbers));
        wait_until("the packets are there", || {
            gateway.status().is_some_and(|status| status["sources"][0]["received"].as_u64() == Some(count))
        });
    };
    let steps =
        || gateway.log().matches("the clock was stepped").count() + gateway.log().matches("has not been set").count();
    send(0..100);
    gateway.set_clock(DAYS * 86_400);
    wait_until("it sees the step", || steps() == 1);
    send(100..200);
    gateway.set_clock(0);
    wait_until("it sees the step back", || steps() == 2);
    send(200..300);
    cable.plug_in();
    wait_until("everything is there", || came(&subscriber).len() >= 300);
    let came = came(&subscriber);
    assert!(came.iter().map(|(number, ..)| *number).eq(0..300), "in order, each once");
    let now = now_us();
    for (number, time, quality) in came {
        // While the clock was wrong nothing could tell: those times are wrong by the step. The ones after it are marked uncertain,
        // because a clock that says less than it did, by more than a day, is not believed.
        let wrong = if (100..200).contains(&number) { DAYS.unsigned_abs() * 24 * HOUR_US } else { 0 };
        assert!(time.abs_diff(now + wrong) < HOUR_US / 2, "{number}: {time}, it is {now}");
        assert_eq!(quality, u32::from(number >= 200), "{number}");
    }
    let status = gateway.status().expect("it runs");
    let outbox = &status["outbox"];
    assert_eq!((outbox["expired"].as_u64(), outbox["evicted"].as_u64()), (Some(0), Some(0)));
    assert_eq!(status["clock_trusted"], Value::Bool(false), "{status}");
}

#[test]
fn while_nobody_knows_the_time_packets_leave_and_say_so() {
    let (local, cloud) = (Broker::mosquitto(), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let rest = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\n",
        local.port
    );
    let gateway = Gateway::new("lab", cloud.port, &rest).with_clock();
    gateway.set_clock(-i64::try_from(now_us() / 1_000_000).expect("it fits") + 10);
    let _agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    publish_lines(local.port, "n/x", &lines(0..10));
    wait_until("everything is there", || came(&subscriber).len() == 10);
    for (number, time, quality) in came(&subscriber) {
        assert!(time < HOUR_US && quality == 1, "{number}: {time}, quality {quality}");
    }
}
