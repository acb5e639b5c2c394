//! Sources that are asked, with the real agent: files of the kernel's kind that come and go, and a bus that is not there.

use std::fs;

use porin_core::payload::{self, Decoded};
use porin_e2e::{Broker, Gateway, Subscriber, wait_until};
use serde_json::Value;

/// Stream, value, quality of everything that has come, in order.
fn came(subscriber: &Subscriber) -> Vec<(String, f64, u32)> {
    let payloads = subscriber.publishes().into_iter().map(|publish| payload::decode(&publish.payload).expect("whole"));
    payloads
        .flat_map(|Decoded { packets, .. }| packets)
        .map(|packet| (packet.stream, packet.value, packet.quality))
        .collect()
}

/// What the kernel says a reading without a value has.
const BAD: u32 = 2;

#[test]
fn what_does_not_answer_is_told_and_holds_nobody_up() {
    let broker = Broker::mosquitto();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/box/data/#");
    let gateway = Gateway::new(
        "box",
        broker.port,
        r##"
[sources.kernel.sysfs]
inputs = [
    { file = "HERE/temperature", stream = "room/temperature", every = "20ms" },
    { file = "HERE/later", stream = "room/humidity", every = "20ms" },
]
[sources.chips.sensor]
bus = "/dev/i2c-99"
chips = [{ chip = "bme280", streams = "roof/{channel}", every = "20ms" }]
[streams."room/temperature"]
unit = "Cel"
calibration = { scale = 0.001, offset = -0.5 }
[routes.all]
streams = ["#"]
"##,
    );
    fs::write(gateway.path("temperature"), "21500\n").expect("written");
    let agent = gateway.run(&[]);
    let part = |source: usize, part: usize| -> Value {
        gateway.status().map_or(Value::Null, |status| status["sources"][source]["parts"][part].clone())
    };
    // The calibration is applied once, before anybody sees the value; a file that is away says so and the other goes on.
    wait_until("both streams", || {
        let came = came(&subscriber);
        let temperature = came.iter().filter(|(stream, ..)| stream == "room/temperature");
        let humidity =
            came.iter().any(|(stream, value, quality)| stream == "room/humidity" && value.is_nan() && *quality == BAD);
        humidity && temperature.filter(|(_, value, quality)| (value - 21.0).abs() < 1e-9 && *quality == 0).count() > 20
    });
    wait_until("a bus that is not there", || {
        let chips = part(0, 0);
        let error = chips["last_error"].as_str().unwrap_or_default();
        chips["ok"] == false && chips["name"] == "bme280 at 0x76 on /dev/i2c-99" && error.contains("/dev/i2c-99")
    });
    for channel in ["temperature", "pressure", "humidity"] {
        let stream = format!("roof/{channel}");
        assert!(
            came(&subscriber).iter().any(|(name, value, quality)| *name == stream && value.is_nan() && *quality == BAD)
        );
    }
    // It is asked less and less often; what answers keeps its rhythm.
    let away = part(1, 1);
    assert_eq!(away["ok"], false, "{away}");
    assert!(away["polls"].as_u64() < part(1, 0)["polls"].as_u64(), "{away}");

    // It comes back by itself.
    fs::write(gateway.path("later"), "41.5\n").expect("written");
    wait_until("the file that came later", || {
        came(&subscriber)
            .iter()
            .any(|(stream, value, quality)| stream == "room/humidity" && (value - 41.5).abs() < 1e-9 && *quality == 0)
    });
    wait_until("its health", || part(1, 1)["ok"] == true);
    // The next look at the same status: nothing has gone astray.
    let status = gateway.status().expect("it runs");
    assert_eq!(status["imbalance"], Value::Array(Vec::new()), "{status}");
    agent.terminate();
    let (ended, _) = agent.output();
    assert!(ended.success());
}
