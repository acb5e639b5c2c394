//! What the card has to bear: bytes written to the block device, by rate and by whether there is a link.
//!
//! The real agent with its defaults, a made-up source of which a deadband keeps about one packet in twenty, mosquitto. What a
//! process has written is asked of the kernel (`write_bytes` in `/proc/PID/io`: pages that go to the device, not calls). Beside it
//! what a preallocated ring would write for the outbox alone: one block for each commit.

#![allow(clippy::print_stdout, clippy::cast_precision_loss)] // a benchmark prints, and rounds

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    thread,
    time::Duration,
};

use porin_e2e::{Broker, Gateway, Subscriber, free_port, wait_until};
use serde_json::Value;

/// Seconds of each measurement.
const SECONDS: u64 = 20;

const DAY: f64 = 86_400.0;

fn written(process: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).expect("Linux tells");
    let line = text.lines().find(|line| line.starts_with("write_bytes:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok()).expect("a number")
}

fn measure(rate: u64, link: bool) {
    let broker = Broker::mosquitto();
    let _cloud = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let every = 10_000_000 / rate;
    let rest = format!(
        "[sources.sim.simulator]\nstreams = \"sim/{{n}}\"\ncount = 10\nevery = \"{every}us\"\nstep = 1.0\n\
         [slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = {{ absolute = 2.3 }}\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n"
    );
    let port = if link { broker.port } else { free_port() };
    let gateway = Gateway::new("lab", port, &rest).commit_every("1s");
    let agent = gateway.run(&[]);
    let status = || gateway.status().unwrap_or(Value::Null);
    let number = |status: &Value, pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    wait_until("it works", || number(&status(), "/outbox/commits") >= 2);
    let process = agent.id().to_string();
    let (first, before) = (status(), written(&process));
    thread::sleep(Duration::from_secs(SECONDS));
    let (last, after) = (status(), written(&process));
    let of = |pointer: &str| number(&last, pointer) - number(&first, pointer);
    let (received, kept, commits) = (of("/sources/0/received"), of("/routes/0/forwarded"), of("/outbox/commits"));
    // As JSON a reading of the simulator takes about 42 bytes.
    let forwarded = kept as f64 * 42.0;
    let bytes = (after - before) as f64;
    println!(
        "{:>6}/s {:<8} {:>5.1} % kept {:>4} commits {:>8.0} bytes a commit {:>9.0} bytes for each forwarded byte {:>6.2} GB/day",
        rate,
        if link { "link" } else { "outage" },
        kept as f64 / received.max(1) as f64 * 100.0,
        commits,
        bytes / commits.max(1) as f64,
        bytes / forwarded.max(1.0),
        bytes / SECONDS as f64 * DAY / 1e9
    );
}

/// Five records of 42 bytes a commit, the block rewritten until it is full.
fn ring() {
    const COMMITS: u64 = 200;
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk");
    let mut file = fs::File::create(folder.path().join("ring")).expect("a file");
    // In small pieces: what the kernel caches as one large page it counts as one.
    (0..64).for_each(|_| file.write_all(&[0; 4_096]).expect("there is room"));
    file.sync_all().expect("it syncs");
    let before = written("self");
    for commit in 0..COMMITS {
        let block = commit * 5 * 42 / 4_096;
        file.seek(SeekFrom::Start(block * 4_096)).expect("it is that long");
        file.write_all(&[u8::try_from(commit % 256).unwrap_or(0); 4_096]).expect("there is room");
        file.sync_data().expect("it syncs");
    }
    let each = (written("self") - before) as f64 / COMMITS as f64;
    println!(
        "a preallocated ring for the outbox alone: {each:.0} bytes a commit, {:.2} GB/day at one a second",
        each * DAY / 1e9
    );
}

fn main() {
    println!(
        "bytes written to the block device, defaults (a commit each second), {SECONDS} s each; the goal is 0.5 GB/day at 100/s"
    );
    for rate in [1, 100, 1_000] {
        measure(rate, true);
        measure(rate, false);
    }
    ring();
}
