//! Sources that are asked, with the real agent: files of the kernel's kind that come and go, a bus and lines that are not there.

use std::fs;

use porin_e2e::{Lab, wait_until};

/// The quality of a reading without a value.
const BAD: u32 = 2;

#[test]
fn what_does_not_answer_is_told_and_holds_nobody_up() {
    let lab = Lab::start_with(
        r##"
[sources.kernel.sysfs]
inputs = [
    { file = "HERE/temperature", stream = "room/temperature", every = "20ms" },
    { file = "HERE/later", stream = "room/humidity", every = "20ms" },
]
[sources.chips.sensor]
bus = "/dev/i2c-99"
chips = [{ chip = "bme280", streams = "roof/{channel}", every = "20ms" }]
[sources.pins.gpio]
inputs = [{ line = "/dev/gpiochip99:4", stream = "door/open" }, { line = "NOBODY", stream = "water/pulses", count = "rising", rate = "water/rate" }]
[streams."room/temperature"]
unit = "Cel"
calibration = { scale = 0.001, offset = -0.5 }
[routes.all]
streams = ["#"]
"##,
        |gateway| fs::write(gateway.path("temperature"), "21500\n").expect("written"),
    );
    let came = |stream: &str, is: &dyn Fn(f64, u32) -> bool| {
        lab.readings(stream).into_iter().filter(|(value, quality)| is(*value, *quality)).count()
    };
    let is_none = |value: f64, quality: u32| value.is_nan() && quality == BAD;
    // The calibration is applied once, before anybody sees the value; a file that is away says so and the other goes on.
    wait_until("both streams", || {
        came("room/temperature", &|value, quality| (value - 21.0).abs() < 1e-9 && quality == 0) > 20
            && came("room/humidity", &is_none) > 0
    });
    wait_until("a bus that is not there", || {
        let chips = lab.part(0, 0);
        let error = chips["last_error"].as_str().unwrap_or_default();
        chips["ok"] == false && chips["name"] == "bme280 at 0x76 on /dev/i2c-99" && error.contains("/dev/i2c-99")
    });
    for channel in ["temperature", "pressure", "humidity"] {
        assert!(came(&format!("roof/{channel}"), &is_none) > 0, "{channel}");
    }
    // Nor are there lines.
    for (index, name, expected) in
        [(0, "/dev/gpiochip99:4", "line 4 of /dev/gpiochip99"), (1, "NOBODY", "a line `NOBODY`")]
    {
        wait_until(name, || {
            let part = lab.part(2, index);
            let error = part["last_error"].as_str().unwrap_or_default();
            part["ok"] == false && part["name"] == name && error.contains(expected)
        });
    }
    for stream in ["door/open", "water/pulses", "water/rate"] {
        wait_until(stream, || came(stream, &is_none) > 0);
    }
    // It is asked less and less often; what answers keeps its rhythm.
    let away = lab.part(1, 1);
    assert_eq!(away["ok"], false, "{away}");
    assert!(away["polls"].as_u64() < lab.part(1, 0)["polls"].as_u64(), "{away}");

    // It comes back by itself.
    fs::write(lab.gateway.path("later"), "41.5\n").expect("written");
    wait_until("the file that came later", || {
        came("room/humidity", &|value, quality| (value - 41.5).abs() < 1e-9 && quality == 0) > 0
    });
    wait_until("its health", || lab.part(1, 1)["ok"] == true);
    lab.end();
}
