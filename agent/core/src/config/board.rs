//! A board: what a gateway's hardware has. Data, not code: one file for each in `board-configs/`.
//!
//! Nothing is decided by a board while packets flow. `porind check --board` compares it with the configuration and with the
//! machine; the image of a board is built with what its file says.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Defaults, check, desired::Origin};
use crate::trust::documents::is_name;

/// Cells may have this part of a board's memory at most: the rest is for the system, the outbox and connections.
const PART_FOR_CELLS: u64 = 4;

/// Where a Raspberry Pi's firmware looks.
const DEFAULT_ENABLE_IN: &str = "config.txt on the FAT partition";

/// What a gateway's hardware has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// As in `[updates] board`.
    pub name: String,
    /// For people.
    pub title: String,
    /// What its device tree says under `compatible`; empty where there is none.
    pub compatible: Vec<String>,
    /// What it is compiled for.
    pub target: String,
    /// Bytes of memory of the smallest model.
    pub memory_bytes: u64,
    /// The file in which its buses are switched on.
    pub enable_in: String,
    /// By name.
    pub buses: BTreeMap<String, Bus>,
    /// By the board's own name for them.
    pub pins: BTreeMap<String, Pin>,
}

/// A bus, and how it is switched on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// Where the kernel has it.
    pub device: String,
    /// The group to which it belongs.
    pub group: String,
    /// What has to stand in the file that switches it on; `None`: it is always on.
    pub enable: Option<String>,
    /// The board's names of its pins.
    #[serde(default)]
    pub pins: Vec<String>,
}

/// A pin that can be an input or an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its number on the board's header.
    pub header: u16,
    /// The GPIO chip, by its number.
    #[serde(default)]
    pub chip: u16,
    /// The line of that chip.
    pub line: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    title: String,
    #[serde(default)]
    compatible: Vec<String>,
    target: Spanned<String>,
    memory: Spanned<String>,
    enable_in: Option<String>,
    #[serde(default)]
    buses: BTreeMap<Spanned<String>, Spanned<Bus>>,
    #[serde(default)]
    pins: BTreeMap<String, Spanned<Pin>>,
    image: Option<Image>,
}

/// What the image takes besides what every image has. Read by the script that builds it; checked here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    firmware: Vec<String>,
    device_trees: Vec<String>,
    #[serde(rename = "booted")]
    _booted: String,
}

impl Board {
    /// Reads and checks a board's file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let parser = check::Parser { text, defaults: Defaults::default(), origin: Origin::Owner };
        let raw: Raw = toml::from_str(text).map_err(|error| parser.toml_error(&error))?;
        if !is_name(raw.name.get_ref()) {
            return parser.fail(raw.name.span(), format!("board `{}`: letters, digits and `-_.`", raw.name.get_ref()));
        }
        if !raw.target.get_ref().contains("-linux-") {
            return parser.fail(raw.target.span(), format!("target `{}` is not of Linux", raw.target.get_ref()));
        }
        let mut lines = BTreeMap::new();
        for (name, pin) in &raw.pins {
            let Pin { chip, line, .. } = *pin.get_ref();
            if let Some(other) = lines.insert((chip, line), name) {
                return parser.fail(pin.span(), format!("pin `{name}` has the line of `{other}`"));
            }
        }
        for (name, bus) in &raw.buses {
            let (span, bus) = (bus.span(), bus.get_ref());
            if !bus.device.starts_with("/dev/") {
                return parser.fail(span, format!("bus `{}`: `{}` is not below /dev", name.get_ref(), bus.device));
            }
            if let Some(pin) = bus.pins.iter().find(|pin| !raw.pins.contains_key(*pin)) {
                return parser.fail(span, format!("bus `{}`: the board has no pin `{pin}`", name.get_ref()));
            }
        }
        if let Some(image) = &raw.image
            && (image.firmware.is_empty() || image.device_trees.is_empty())
        {
            return parser.fail(raw.name.span(), "an image without firmware or device tree does not start".into());
        }
        Ok(Self {
            memory_bytes: parser.bytes(&raw.memory)?,
            name: raw.name.into_inner(),
            title: raw.title,
            compatible: raw.compatible,
            target: raw.target.into_inner(),
            enable_in: raw.enable_in.unwrap_or_else(|| DEFAULT_ENABLE_IN.into()),
            buses: raw.buses.into_iter().map(|(name, bus)| (name.into_inner(), bus.into_inner())).collect(),
            pins: raw.pins.into_iter().map(|(name, pin)| (name, pin.into_inner())).collect(),
        })
    }

    /// Whether a configuration can run on this board.
    ///
    /// # Errors
    /// What the board does not have, in words.
    pub fn carries(&self, config: &Config) -> Result<(), String> {
        let slots = config.cells.slots();
        let cells = slots.map(|slot| slot.limits.memory_bytes as u64).fold(0, u64::saturating_add);
        let most = self.memory_bytes / PART_FOR_CELLS;
        if cells > most {
            let (cells, most, name) = (cells >> 20, most >> 20, &self.name);
            return Err(format!(
                "the slots may take {cells} MB together, {name} has {most} MB for cells; lower memory_pages in their limits"
            ));
        }
        if let Some(board) = config.gateway.updates.as_ref().and_then(|updates| updates.board.as_ref())
            && *board != self.name
        {
            return Err(format!("[updates] says board = \"{board}\", this is {}", self.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "b"
title = "B"
target = "aarch64-unknown-linux-musl"
memory = "64MB"
[buses.i2c-1]
device = "/dev/i2c-1"
group = "i2c"
pins = ["P1"]
[pins]
P1 = { header = 1, line = 4 }
"#;

    fn check(old: &str, new: &str, expected: &str) {
        assert!(GOOD.contains(old), "{old}");
        let error = Board::parse(&GOOD.replacen(old, new, 1)).expect_err(new).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_wrong_in_a_board_is_named_with_its_line() {
        let board = Board::parse(GOOD).expect("it is good");
        assert_eq!((board.memory_bytes, board.buses["i2c-1"].enable.clone()), (64_000_000, None));
        check("name = \"b\"", "name = \"b c\"", "line 2");
        check("aarch64-unknown-linux-musl", "aarch64-apple-darwin", "is not of Linux");
        check("64MB", "64", "line 5");
        check("/dev/i2c-1", "i2c-1", "is not below /dev");
        check("[\"P1\"]", "[\"P2\"]", "no pin `P2`");
        check("line = 4 }", "line = 4 }\nP2 = { header = 2, line = 4 }", "has the line of `P1`");
        check("title", "titel", "titel");
    }

    #[test]
    fn a_board_carries_what_fits_into_a_quarter_of_its_memory() {
        let board = Board::parse(GOOD).expect("it is good");
        let with = |more: &str| {
            let text = format!(
                "[gateway]\nid = \"a\"\n[uplink]\nbroker = \"mqtt://h\"\n[routes.r]\nstreams = [\"#\"]\nslots = [\"s\"]\n\
                 [slots.s]\ncell = \"s.wasm\"\n{more}"
            );
            board.carries(&Config::parse(&text).expect("it is good"))
        };
        assert_eq!(with(""), Ok(()));
        assert!(with("limits = { memory_pages = 256 }\n").is_err_and(|why| why.contains("16 MB together")));
        let other = with("[updates]\nroot = \"r\"\nboard = \"c\"\n");
        assert!(other.is_err_and(|why| why.contains("this is b")));
    }
}
