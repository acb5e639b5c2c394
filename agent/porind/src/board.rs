//! What this machine has of a board: `porind check --board`.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use porin_core::config::{Board, Bus};

use crate::doctor::{Finding, Findings};

/// Where the package puts them.
const BOARDS: &str = "/usr/share/porin/boards";

/// Bytes of a board's file at most.
const MAX_BYTES: u64 = 65_536;

/// Reads a board: one of the package's by its name, or a file.
///
/// # Errors
/// If there is none, or it is wrong.
pub fn read_board(name: &str) -> anyhow::Result<Board> {
    let path =
        if name.contains('/') { PathBuf::from(name) } else { Path::new(BOARDS).join(name).with_extension("toml") };
    let mut text = String::new();
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let known = fs::read_dir(BOARDS).into_iter().flatten().flatten();
            let mut known =
                known.filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned())).collect::<Vec<_>>();
            known.sort();
            bail!("there is no board `{name}`; known in {BOARDS}: {}", known.join(", "));
        }
        opened => opened.with_context(|| format!("cannot read {}", path.display()))?,
    };
    file.take(MAX_BYTES).read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    Board::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// What this machine has of a board. Only what a person should look at is a warning: nothing here keeps the agent from starting.
#[must_use]
pub fn check_board(board: &Board) -> Vec<Finding> {
    let mut findings = Findings::default();
    // NUL after each name.
    let tree = fs::read_to_string("/proc/device-tree/compatible").unwrap_or_default();
    match tree.split('\0').find(|name| !name.is_empty()) {
        None if board.compatible.is_empty() => findings.ok("board", &*board.title),
        None => findings.warning("board", "this machine has no device tree", "check on the board itself"),
        Some(_) if tree.split('\0').any(|name| board.compatible.iter().any(|known| known == name)) => {
            findings.ok("board", &*board.title);
        }
        Some(name) => {
            findings.warning("board", format!("this is a {name}, not a {}", board.name), "take the board's own file");
        }
    }
    board.buses.iter().for_each(|(name, bus)| look_at_bus(&mut findings, name, bus));
    findings.0
}

fn look_at_bus(findings: &mut Findings, name: &str, bus: &Bus) {
    let Bus { device, group, enable, pins: _ } = bus;
    // A serial line that is opened otherwise would wait for its other end.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    match File::options().read(true).write(true).custom_flags(flags).open(device) {
        Ok(_) => findings.ok("bus", format!("{name}: {device}")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = enable.as_ref().map_or_else(
                || "the kernel has no driver for it".into(),
                |line| format!("add `{line}` to config.txt on the FAT partition, and restart"),
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
