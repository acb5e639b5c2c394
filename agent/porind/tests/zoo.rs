//! A cell of the zoo beside a good one: the good one's output is what it is without it, bit by bit; what the bad one costs is bounded.
//!
//! One test, in a process of its own: it looks at how much memory that has.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{fs, path::Path};

use porin_core::{
    config::Config,
    health::State,
    limits::CellLimits,
    packet::{PacketKind, Quality, Reading},
    status::SlotStatus,
    time::{Monotonic, Now, Unix},
};
use porin_test_support::{Ends, Hostile, rows, target_dir, top, zoo};
use porind::{Forwarded, Pipeline};

/// Failed calls after which a cell is called no more: the default.
const FAULTS: u64 = 16;

/// What the neighbour keeps: time, value, bit by bit.
type Output = Vec<(u64, u64)>;

fn config(hostile: Option<&Path>, policy: &str) -> Config {
    let cells = target_dir().join("cells");
    let bad = hostile.map_or_else(String::new, |path| {
        format!(
            "[slots.bad]\ncell = \"{}\"\ngrants = [\"log\", \"clock\"]\ntick = \"1s\"\nfault = \"{policy}\"\nlog.mqtt = {{}}\n\
             [routes.bad]\nstreams = [\"#\"]\nslots = [\"bad\"]\n",
            path.display()
        )
    });
    let text = format!(
        "[gateway]\nid = \"zoo\"\n[uplink]\nbroker = \"mqtt://x\"\n{bad}[slots.good]\ncell = \"{}/deadband.wasm\"\n\
         params = {{ absolute = 0.2 }}\n[routes.good]\nstreams = [\"#\"]\nslots = [\"good\"]\n",
        cells.display()
    );
    Config::parse(&text).expect("a good configuration")
}

/// Recorded data through the pipeline. `None`: it does not even start.
fn run(config: &Config, readings: &[Reading]) -> Option<(Output, Pipeline)> {
    let mut pipeline = porind::pipeline(config).ok()?;
    let stream = pipeline.admit("buoy/temp", PacketKind::Readings).expect("there is room");
    let good = pipeline.status().0.iter().position(|route| route.name == "good").expect("it is there");
    let mut output = Output::new();
    let mut now = Now::default();
    let mut keep = |to: porind::To, kept: Forwarded<'_>| {
        if to.route.0 as usize == good
            && let Forwarded::Readings(readings) = kept
        {
            output.extend(readings.iter().map(|reading| (reading.time.0, reading.value.to_bits())));
        }
    };
    for batch in readings.chunks(64) {
        // A batch every 100 ms: the whole takes 15 s, less than the time in which faults are counted.
        now = Now { unix: batch[0].time, mono: Monotonic(now.mono.0 + 100_000) };
        let batch: Vec<_> = batch.iter().map(|reading| Reading { stream, ..*reading }).collect();
        pipeline.process(&batch, now, &mut keep);
        pipeline.tick(now.mono.0, now, &mut keep);
    }
    pipeline.flush(now, &mut keep);
    Some((output, pipeline))
}

fn resident_kb() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("its size");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

#[test]
fn a_neighbours_output_is_the_same_bit_by_bit_beside_every_hostile_cell_and_what_that_costs_is_bounded() {
    let rows = rows(&top().join("tests/data/buoy.csv.gz"));
    let reading = |row: &porin_test_support::Row| Reading {
        time: Unix(row.time_us),
        value: row.value,
        quality: Quality::GOOD,
        ..Reading::default()
    };
    let readings: Vec<_> = rows.iter().map(reading).collect();
    let (alone, _) = run(&config(None, "drop"), &readings).expect("it starts");
    assert!(alone.len() > 1_000);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.wasm");
    let limits = CellLimits::default();
    // A call, and making the cell again: init, restore, and what it has decided since the last save.
    let call = limits.fuel_per_batch + 64 * limits.fuel_per_packet;
    let again = 2 * (limits.init_fuel + limits.fuel_per_packet) + 10_000_000 + call;
    let mut warm = 0;
    for (number, Hostile { name, component, ends }) in zoo().into_iter().enumerate() {
        fs::write(&path, component).expect("written");
        let policy = ["drop", "pass", "dead-letter"][number % 3];
        let ran = run(&config(Some(&path), policy), &readings);
        if matches!(ends, Ends::Refused(_) | Ends::NotStarted(_)) {
            assert!(ran.is_none(), "{name} starts");
            continue;
        }
        let Some((beside, pipeline)) = ran else { panic!("{name} does not start") };
        assert!(beside == alone, "{name}: the neighbour keeps {} readings instead of {}", beside.len(), alone.len());
        let (routes, _) = pipeline.status();
        let bad = &routes.iter().find(|route| route.name == "bad").expect("it is there").slots[0];
        let SlotStatus { input, processed, faulted, passed, dropped, dead_lettered, faults, lost_fuel, .. } = bad;
        assert_eq!((*input, *faulted), (processed + faulted, passed + dropped + dead_lettered), "{name}");
        assert_eq!(*input, readings.len() as u64, "{name}");
        assert!(*faults <= FAULTS, "{name}: {faults} faults");
        assert!(*lost_fuel <= FAULTS * (call + again), "{name}: {lost_fuel} of fuel were lost");
        // It was called no more, and its packets had the fate that the slot says.
        let fate = [dropped, passed, dead_lettered][number % 3];
        assert!(fate == faulted, "{name}: {bad:?}");
        if name == "loops in process" {
            assert_eq!((bad.state, *processed), (State::Quarantined, 0));
        }
        drop(pipeline);
        warm = if warm == 0 { resident_kb() } else { warm };
    }
    let grown = resident_kb().saturating_sub(warm);
    println!("resident memory + {grown} KB from the first hostile cell to the last");
    assert!(grown < 8_192, "resident memory has grown by {grown} KB");
}
