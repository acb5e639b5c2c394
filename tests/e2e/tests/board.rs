//! Sensors on a real kernel's buses: the appliance in an emulated Pi 3B whose I²C controller QEMU emulates, with thermometers on it.
//! Everything between a temperature and mosquitto is what a board has: the kernel's driver, `/dev/i2c-1`, the agent, a cell, TLS.

use std::fs;

use porin_core::config::Level;
use porin_e2e::{
    Subscriber,
    appliance::{ID, Owner, PASSWORD},
    emulator::Pi,
    time_server,
};

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
    let mut pi = Pi::boot_with_thermometers(&card, &[("kitchen", 0x48), ("cellar", 0x49)]);
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
    // A line of the board goes by what another cell decides, whether there is a cloud or not: its level is read from outside.
    pi.wait_for_line(17, Level::Low);
    owner.cloud.kill();
    pi.set_temperature("cellar", -25.0);
    pi.wait_for_line(17, Level::High);
    pi.set_temperature("cellar", -10.0);
    pi.wait_for_line(17, Level::Low);
    pi.set_temperature("cellar", -25.0);
    pi.wait_for_line(17, Level::High);
    // An address at which nobody answers is told, by the register, and holds nobody up.
    pi.wait_for("tmp105 at 0x4b on /dev/i2c-1\" error=\"register CONFIGURATION (0x01): no answer");
    assert!(data.values("nobody/temperature").iter().all(|value| value.is_nan()));
    // The board knows itself by its device tree.
    pi.log_in(PASSWORD);
    let said = pi.ask("porind boards detect");
    assert!(said.lines().any(|line| line == "rpi-3b"), "{said}");
    let said = pi.ask("porind check --board rpi-3b");
    assert!(said.contains("i2c-1: /dev/i2c-1") && said.contains("spi0.0 is off"), "{said}");
    assert!(!pi.console().contains("panicked"), "{}", pi.console());
}
