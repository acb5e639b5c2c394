//! `porind selftest`: what this machine is and how fast, in one JSON file that its owner can send back.
//!
//! It contains no configuration, key, host name or address. It opens no connection. It writes only the file that it
//! returns, and one temporary file to time the disk.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

use anyhow::Context;
use porin_core::{
    clock::{Chip, ClockSync},
    config::{Board, Config},
    packet::{PacketKind, Quality, Reading},
    time::{Now, Unix},
};
use serde_json::{Value, json};

use crate::{board, machine};

/// Version of the file's format.
const VERSION: u32 = 1;

/// Readings in a batch, and batches, that the cell is timed with.
const BATCH: u64 = 64;
const BATCHES: u64 = 500;

/// Writes of a block of 4 KiB, each with a sync, that the disk is timed with.
const SYNCS: usize = 20;

/// Examines the machine: the cell's file for its speed, a folder on the disk that the outbox would use.
///
/// # Errors
/// The cell cannot be loaded, or the folder cannot be written.
pub fn selftest(cell: &str, folder: &Path) -> anyhow::Result<Value> {
    let line = |path: &str| fs::read_to_string(path).map(|text| text.trim_end_matches(['\0', '\n']).to_owned()).ok();
    let memory = line("/proc/meminfo").and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(json!({
        "v": VERSION,
        "porin": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "model": line("/proc/device-tree/model"),
        "compatible": board::compatible(),
        "kernel": line("/proc/sys/kernel/osrelease"),
        "processors": std::thread::available_parallelism().ok(),
        "memory_kb": memory,
        "clock_is_kept": machine::clock_is_kept() == ClockSync::Synchronised,
        "clock_chip": machine::clock_chip() == Chip::Present,
        "board": this_board()?,
        "cell": cell_speed(cell)?,
        "disk": disk_speed(folder).with_context(|| format!("writing to {}", folder.display()))?,
    }))
}

/// The board that this machine is, with what the agent can open of it; null if no board file fits.
fn this_board() -> anyhow::Result<Value> {
    let boards: Vec<(Board, bool)> = board::boards().unwrap_or_default();
    let Some((board, _)) = boards.into_iter().find(|(_, is_this)| *is_this) else { return Ok(Value::Null) };
    let findings = board::check_board(&board, &configuration("")?);
    Ok(json!({ "name": board.name, "findings": findings }))
}

fn configuration(rest: &str) -> anyhow::Result<Config> {
    let text = format!("[gateway]\nid = \"selftest\"\n[uplink]\nbroker = \"mqtt://127.0.0.1\"\n{rest}");
    Config::parse(&text).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The time and fuel for a reading, with the deadband from this file.
fn cell_speed(cell: &str) -> anyhow::Result<Value> {
    let slot = format!("[slots.quiet]\ncell = {cell:?}\nparams = {{ absolute = 0.5 }}\n");
    let config = configuration(&(slot + "[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n"))?;
    let start = Instant::now();
    let mut pipeline = crate::pipeline(&config)?;
    let start_us = us_since(start);
    let stream = pipeline.admit("a", PacketKind::Readings).ok().context("there is room for one stream")?;
    #[allow(clippy::cast_precision_loss)]
    let reading = |time| Reading { time: Unix(time), value: (time % 7) as f64, stream, quality: Quality::GOOD };
    let batch: Vec<_> = (0..BATCH).map(reading).collect();
    for _ in 0..BATCHES {
        pipeline.process(&batch, Now::default(), |_, _| {});
    }
    let slot = &pipeline.slot_status()[0];
    let readings = BATCHES * BATCH;
    Ok(json!({
        "digest": slot.digest, "start_us": start_us, "readings": readings,
        "fuel_per_reading": slot.fuel / readings, "ns_per_reading": slot.nanoseconds / readings,
    }))
}

/// Microseconds for a write of 4 KiB that is synced: the median, and the slowest.
fn disk_speed(folder: &Path) -> std::io::Result<Value> {
    let path = folder.join(".porind-selftest");
    let mut file = File::create(&path)?;
    // The name goes at once: nothing stays if the power does.
    fs::remove_file(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[0; 4_096])?;
        file.sync_data()?;
        times.push(us_since(start));
    }
    times.sort_unstable();
    Ok(json!({ "syncs": SYNCS, "median_us": times[SYNCS / 2], "slowest_us": times[SYNCS - 1] }))
}

fn us_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
