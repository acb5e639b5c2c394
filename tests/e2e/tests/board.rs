//! Sensors on a real kernel's buses and lines: the appliance in an emulated Pi 3B whose I²C controller QEMU emulates, with thermometers on it;
//! and a board with a button. Everything between a temperature and mosquitto is what a board has: the kernel's driver, `/dev/i2c-1`, the agent, a cell, TLS.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use porin_core::{config::Level, words::Word};
use porin_e2e::{
    Subscriber,
    appliance::{ID, Owner, PASSWORD, image},
    emulator::{BUTTON, Board},
    time_server,
};
use porin_test_support::target_dir;
use serde_json::Value;

#[test]
#[ignore = "boots a board: make test-board"]
fn a_chip_on_the_boards_bus_is_read_and_a_cell_decides_what_of_it_is_sent() {
    let mut owner = Owner::new();
    time_server::start();
    let data = Subscriber::start(owner.cloud.port, &format!("porin/v1/gw/{ID}/data/#"));
    let mut config = fs::read_to_string(owner.place("porin.toml")).expect("it was written");
    config.push_str(
        r#"
[sources.bus.sensor]
bus = "/dev/i2c-1"
chips = [
    { chip = "tmp105", streams = "kitchen/{channel}" },
    { chip = "tmp105", address = 0x49, streams = "cellar/{channel}", every = "2s" },
    { chip = "tmp105", address = 0x4b, streams = "nobody/{channel}" },
]
[streams."cellar/temperature"]
calibration = { offset = 0.25 }
[sources.kernel.sysfs]
inputs = [{ hwmon = "cpu_thermal/temp1", stream = "cpu/temperature" }]

[slots.frost]
cell = "/usr/lib/porin/cells/threshold.wasm"
params = { low = -20.0, max_silence_s = 2 }
outputs = ["{stream}/alarm"]
[sources.pins.gpio]
inputs = [
    { line = "GPIO27", stream = "pins/door", debounce = "5ms", active = "low" },
    { line = "GPIO22", stream = "pins/pulses", count = "rising", rate = "pins/rate" },
]
[sinks.heater.gpio]
line = "GPIO17"
safe = "low"
hold = "8s"
[routes.frost]
streams = ["cellar/temperature"]
slots = ["frost"]
sinks = ["heater"]
"#,
    );
    fs::write(owner.place("porin.toml"), config).expect("written");
    let card = owner.card_with_login("card");
    let mut pi = Board::pi_with_thermometers(&card, &[("kitchen", 0x48), ("cellar", 0x49)]);
    pi.wait_for("root A, data");
    pi.set_temperature("kitchen", 21.5);
    pi.set_temperature("cellar", -10.0);
    // The chip is read in twelve bits, and the calibration is added.
    pi.wait_until("both thermometers", || {
        data.values("kitchen/temperature").contains(&21.5) && data.values("cellar/temperature").contains(&-9.75)
    });
    // A change below the cell's bound is not sent: while the other one, which is asked half as often, changes twice.
    pi.set_temperature("kitchen", 21.75);
    for celsius in [-8.0, -6.0] {
        pi.set_temperature("cellar", celsius);
        pi.wait_until("the cellar", || data.values("cellar/temperature").last() == Some(&(celsius + 0.25)));
    }
    assert_eq!(data.values("kitchen/temperature").last(), Some(&21.5));
    // One above it is.
    pi.set_temperature("kitchen", 23.0);
    pi.wait_until("a change that matters", || data.values("kitchen/temperature").last() == Some(&23.0));
    assert!(!data.values("kitchen/temperature").contains(&21.75));
    // Lines that are inputs are held, and told: QEMU's controller has no edges, so that nothing but their first level can be seen.
    pi.wait_until("the inputs", || {
        ["pins/door", "pins/pulses", "pins/rate"].iter().all(|stream| !data.values(stream).is_empty())
    });
    assert_eq!(["pins/door", "pins/pulses", "pins/rate"].map(|stream| data.values(stream)[0]), [1.0, 0.0, 0.0]);
    pi.wait_until("the processor", || !data.values("cpu/temperature").is_empty());
    // A line of the board goes by what another cell decides, whether there is a cloud or not: its level is read from outside.
    pi.wait_for_line(17, Level::Low);
    owner.cloud.kill();
    pi.set_temperature("cellar", -25.0);
    pi.wait_for_line(17, Level::High);
    pi.set_temperature("cellar", -10.0);
    pi.wait_for_line(17, Level::Low);
    pi.set_temperature("cellar", -25.0);
    pi.wait_for_line(17, Level::High);
    // What the kernel measures, by the driver that the image brings: QEMU's processor has 25 degrees.
    assert!(
        data.values("cpu/temperature").iter().all(|celsius| (24.0..26.0).contains(celsius)),
        "{:?}",
        data.values("cpu/temperature")
    );
    // An address at which nobody answers is told, by the register, and holds nobody up.
    pi.wait_for("tmp105 at 0x4b on /dev/i2c-1\" error=\"register CONFIGURATION (0x01): no answer");
    assert!(data.values("nobody/temperature").iter().all(|value| value.is_nan()));
    // The board knows itself by its device tree.
    pi.log_in(PASSWORD);
    let said = pi.ask("porind boards detect");
    assert!(said.lines().any(|line| line == "rpi-3b"), "{said}");
    let said = pi.ask("porind check --board rpi-3b");
    assert!(said.contains("i2c-1: /dev/i2c-1") && said.contains("spi0.0 is off"), "{said}");
    // An agent that is told to end leaves the line at its safe level; the next one goes by what its cell decides.
    pi.wait_for_line(17, Level::High);
    pi.ask("kill -TERM $(pidof porind)");
    pi.wait_for_line(17, Level::Low);
    pi.wait_for_line(17, Level::High);
    assert!(!pi.console().contains("panicked"), "{}", pi.console());
}

/// The line of a lamp: an output.
const LAMP: u32 = 4;

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with one button, which a cell decides about; the lamp follows, and what the source says is written down.
fn with_a_button(input: &str) -> String {
    format!(
        r#"
[gateway]
id = "edges"
socket = "/tmp/porind.sock"
[uplink]
broker = "mqtt://127.0.0.1"
[outbox]
path = "/tmp/porin.redb"
[sources.pins.gpio]
inputs = [{{ line = "/dev/gpiochip0:{BUTTON}", stream = "pins/button", {input} }}]
[sinks.lamp.gpio]
line = "/dev/gpiochip0:{LAMP}"
safe = "low"
[sinks.history.file]
path = "/tmp/history.jsonl"
[slots.pressed]
cell = "/threshold.wasm"
params = {{ high = 0.5 }}
outputs = ["{{stream}}/on"]
[routes.act]
streams = ["pins/button"]
slots = ["pressed"]
sinks = ["lamp"]
[routes.keep]
streams = ["pins/#"]
sinks = ["history"]
"#
    )
}

/// Looks as often as it can until the line has this level. Gives how long that took.
fn await_line(board: &Board, line: u32, level: Level, mut meanwhile: impl FnMut(&Board)) -> Duration {
    let start = Instant::now();
    while board.line(line) != level {
        assert!(start.elapsed() < PATIENCE, "line {line} is not {}: {}", level.word(), board.console());
        meanwhile(board);
    }
    start.elapsed()
}

/// Values of a stream that was written down.
fn values(board: &mut Board, stream: &str) -> Vec<f64> {
    let said = board.ask("cat /tmp/history.jsonl");
    let rows = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter(|row| row["stream"] == stream).filter_map(|row| row["value"].as_f64()).collect()
}

#[test]
#[ignore = "boots a board: make test-board"]
fn edges_of_a_line_are_told_counted_debounced_and_acted_upon() {
    let folder = tempfile::tempdir().expect("a folder");
    let inputs =
        [("told", ""), ("counted", "count = \"rising\", rate = \"pins/rate\""), ("debounced", "debounce = \"300ms\"")];
    let configs = inputs.map(|(name, input)| (format!("{name}.toml"), folder.path().join(name), with_a_button(input)));
    configs.iter().for_each(|(_, path, text)| fs::write(path, text).expect("written"));
    let porind = target_dir().join("dist/porind-aarch64-unknown-linux-musl");
    let threshold = target_dir().join("cells/threshold.wasm");
    let mut files = vec![("porind", porind.as_path()), ("threshold.wasm", &threshold)];
    files.extend(configs.iter().map(|(name, path, _)| (name.as_str(), path.as_path())));
    let mut board = Board::virt(&image("rpi-3b"), &files);
    let run = |board: &mut Board, name: &str| {
        board.ask(&format!(
            "rm -f /tmp/history.jsonl /tmp/porin.redb; {{ /porind run --config /{name}.toml >/tmp/log 2>&1 & }}"
        ));
        // The first level is decided about, and the line is held.
        let start = Instant::now();
        let runs =
            |said: &str| said.contains("lamp: works (low)") && said.contains(": answers") && !said.contains(" 0 taken");
        loop {
            let said = board.ask(&format!("/porind status --config /{name}.toml"));
            if runs(&said) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{said}\n{}", board.ask("cat /tmp/log"));
        }
    };
    let end = |board: &mut Board| board.ask("kill $!; wait");
    let press = |board: &Board| {
        board.press();
        await_line(board, BUTTON, Level::High, |_| ());
        await_line(board, BUTTON, Level::Low, |_| ());
    };

    // Each edge is told, and the lamp follows it. How soon is for whoever reads: it is an emulator's time.
    run(&mut board, "told");
    let mut took = Vec::new();
    for _ in 0..100 {
        board.press();
        took.push(await_line(&board, LAMP, Level::High, |_| ()));
        await_line(&board, LAMP, Level::Low, |_| ());
    }
    took.sort();
    println!(
        "in the emulated board, from an edge to an output line: p50 {:?}, p99 {:?}, longest {:?}",
        took[50], took[98], took[99]
    );
    end(&mut board);
    let expected: Vec<_> = (0..201).map(|number| f64::from(number % 2)).collect();
    assert_eq!(values(&mut board, "pins/button"), expected);

    // Each is counted.
    run(&mut board, "counted");
    (0..10).for_each(|_| press(&board));
    let start = Instant::now();
    while values(&mut board, "pins/button").last() != Some(&10.0) {
        assert!(start.elapsed() < PATIENCE, "{:?}", values(&mut board, "pins/button"));
    }
    assert!(values(&mut board, "pins/rate").iter().any(|rate| *rate > 0.0));
    end(&mut board);

    // A level that does not last is none; one that does is one.
    run(&mut board, "debounced");
    (0..5).for_each(|_| press(&board));
    assert_eq!((values(&mut board, "pins/button"), board.line(LAMP)), (vec![0.0], Level::Low));
    await_line(&board, LAMP, Level::High, |board| {
        board.press();
        sleep(Duration::from_millis(20));
    });
    await_line(&board, LAMP, Level::Low, |_| ());
    end(&mut board);
    assert_eq!(values(&mut board, "pins/button"), [0.0, 1.0, 0.0]);
}
