//! What this machine has of a board: `porind check --board`.

use std::{
    env,
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use porin_core::config::{Board, Bus, Config, GpioLine, GpioSource, OutputLine, SinkKind, SourceKind, nearest};

use crate::{
    doctor::{Finding, Findings},
    gpio,
};

/// Where the package puts them. `PORIN_BOARDS` names another folder.
const BOARDS: &str = "/usr/share/porin/boards";

fn folder() -> String {
    env::var("PORIN_BOARDS").unwrap_or_else(|_| BOARDS.into())
}

/// Bytes of a board's file at most.
const MAX_BYTES: u64 = 65_536;

/// Reads a board: one of the package's by its name, or a file.
///
/// # Errors
/// If there is none, or it is wrong.
pub fn read_board(name: &str) -> anyhow::Result<Board> {
    let path =
        if name.contains('/') { PathBuf::from(name) } else { Path::new(&folder()).join(name).with_extension("toml") };
    let mut text = String::new();
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let boards = folder();
            let known = fs::read_dir(&boards).into_iter().flatten().flatten();
            let mut known =
                known.filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned())).collect::<Vec<_>>();
            known.sort();
            bail!("there is no board `{name}`; known in {boards}: {}", known.join(", "));
        }
        opened => opened.with_context(|| format!("cannot read {}", path.display()))?,
    };
    file.take(MAX_BYTES).read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    Board::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// What this machine has of a board. Only what a person should look at is a warning: nothing here keeps the agent from starting.
#[must_use]
pub fn check_board(board: &Board, config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    let tree = compatible();
    match tree.first() {
        None if board.compatible.is_empty() => findings.ok("board", &*board.title),
        None => findings.warning("board", "this machine has no device tree", "check on the board itself"),
        Some(_) if board.compatible.is_empty() => findings.ok("board", &*board.title),
        Some(_) if tree.iter().any(|name| board.compatible.contains(name)) => {
            findings.ok("board", &*board.title);
        }
        Some(name) => {
            findings.warning("board", format!("this is a {name}, not a {}", board.name), "take the board's own file");
        }
    }
    board.buses.iter().for_each(|(name, bus)| look_at_bus(&mut findings, board, name, bus));
    for source in &config.gateway.sources {
        let SourceKind::Sensor(sensor) = &source.kind else { continue };
        if !board.buses.values().any(|bus| bus.device == sensor.bus) {
            let known = board.buses.values().map(|bus| bus.device.as_str()).collect::<Vec<_>>().join(", ");
            let found = format!("source `{}`: {} has no {} that is known", source.name, board.name, sensor.bus);
            findings.warning("bus", found, format!("known are: {known}"));
        }
    }
    for source in &config.gateway.sources {
        let SourceKind::Gpio(GpioSource { inputs }) = &source.kind else { continue };
        let whose = format!("source `{}`", source.name);
        inputs.iter().for_each(|input| look_at_line(&mut findings, board, &whose, &input.line));
    }
    for sink in &config.gateway.sinks {
        let SinkKind::Gpio(OutputLine { line, .. }) = &sink.kind else { continue };
        look_at_line(&mut findings, board, &format!("sink `{}`", sink.name), line);
    }
    findings.0
}

/// Whether the board has such a pin, and the kernel such a line.
fn look_at_line(findings: &mut Findings, board: &Board, whose: &str, line: &GpioLine) {
    if let GpioLine::Named(name) = line
        && !board.pins.is_empty()
        && !board.pins.contains_key(name)
    {
        let meant = nearest(name, board.pins.keys().map(String::as_str));
        let hint = meant.map_or_else(String::new, |meant| format!("did you mean `{meant}`?"));
        findings.warning("line", format!("{whose}: {} has no pin `{name}`", board.name), hint);
        return;
    }
    match gpio::find(line) {
        Ok((chip, number)) => findings.ok("line", format!("{whose}: line {number} of {chip}")),
        Err(error) => findings.warning("line", format!("{whose}: {error:#}"), ""),
    }
}

/// The boards that the package brings, by name; those that this machine is, first.
///
/// # Errors
/// If they cannot be read.
pub fn boards() -> anyhow::Result<Vec<(Board, bool)>> {
    let tree = compatible();
    let mut boards = Vec::new();
    let folder = folder();
    let said = || format!("cannot read {folder}");
    for entry in fs::read_dir(&folder).with_context(said)? {
        let path = entry.with_context(said)?.path();
        let board = read_board(&path.display().to_string())?;
        let is_this = tree.iter().any(|name| board.compatible.contains(name));
        boards.push((board, is_this));
    }
    boards.sort_by(|(a, is_a), (b, is_b)| is_b.cmp(is_a).then_with(|| a.name.cmp(&b.name)));
    Ok(boards)
}

/// What the device tree says this machine is, the most exact first. Nothing where there is no device tree.
#[must_use]
pub fn compatible() -> Vec<String> {
    let tree = fs::read_to_string("/proc/device-tree/compatible").unwrap_or_default();
    // NUL after each name.
    tree.split('\0').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

fn look_at_bus(findings: &mut Findings, board: &Board, name: &str, bus: &Bus) {
    let Bus { device, group, enable, pins: _ } = bus;
    // A serial line that is opened otherwise would wait for its other end.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    match File::options().read(true).write(true).custom_flags(flags).open(device) {
        Ok(_) => findings.ok("bus", format!("{name}: {device}")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = enable.as_ref().map_or_else(
                || "the kernel has no driver for it".into(),
                |line| format!("add `{line}` to {}, and restart", board.enable_in),
            );
            findings.warning("bus", format!("{name} is off: there is no {device}"), hint);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => findings.warning(
            "bus",
            format!("{name}: {device}: permission denied"),
            format!("add the user that runs porind to group {group}: sudo usermod -aG {group} porin"),
        ),
        Err(error) => findings.warning("bus", format!("{name}: {device}: {error}"), ""),
    }
}
