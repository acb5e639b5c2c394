//! An emulated Raspberry Pi 3B: QEMU with the kernel, initramfs and device tree of the card itself.
//!
//! QEMU does not run the board's firmware, so what the firmware would load is taken out of the card's boot partition.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use porin_test_support::target_dir;
use serde_json::json;

use super::Board;

/// BCM2837 ARM Peripherals, section 6.1: GPLEV0 has the levels of lines 0 to 31.
const GPLEV0: u64 = 0x3f20_0034;

/// How the card is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In the slot. An SD card, as QEMU has it, keeps what it has taken: there is nothing to flush.
    Slot,
    /// As a disk on USB, with a cache that has to be flushed; every write is recorded in this file.
    Recorded(PathBuf),
}

/// A part of a card: where it begins and how many bytes it has.
pub type Part = (u64, u64);

/// The partitions of a card as its table has them now, by number.
///
/// # Panics
/// If there is no such partition.
#[must_use]
pub fn partition(card: &Path, number: u64) -> Part {
    let output =
        Command::new("sfdisk").arg("--json").arg(card).output().expect("sfdisk; `make test-image` installs it");
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a partition table");
    let parts = table["partitiontable"]["partitions"].as_array().expect("partitions");
    let found = parts.iter().find(|part| part["node"].as_str().is_some_and(|node| node.ends_with(&number.to_string())));
    let part = found.unwrap_or_else(|| panic!("{} has no partition {number}", card.display()));
    let bytes = |key: &str| part[key].as_u64().expect("a number") * 512;
    (bytes("start"), bytes("size"))
}

/// The bytes of a part.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn read_part(card: &Path, (start, bytes): Part) -> Vec<u8> {
    let mut file = File::open(card).expect("the card is there");
    file.seek(SeekFrom::Start(start)).expect("it can be read");
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content).expect("it can be read");
    content
}

/// Copies a file out of the FAT file system of a part.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn fat_file(card: &Path, part: Part, name: &str) -> Vec<u8> {
    let output = Command::new("mtype")
        .env("MTOOLS_SKIP_CHECK", "1")
        .args(["-i", &format!("{}@@{}", card.display(), part.0), &format!("::{name}")])
        .output()
        .expect("mtools; `make test-image` installs it");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The kernel of a card, unpacked.
pub(super) fn kernel(card: &Path, boot: Part) -> Vec<u8> {
    let mut kernel = Vec::new();
    let packed = fat_file(card, boot, "kernel8.img");
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut kernel).expect("the kernel is packed");
    kernel
}

impl Board {
    /// Switches it on with this card. It reaches this machine's loopback as 10.0.2.2.
    ///
    /// # Panics
    /// If QEMU does not start.
    #[must_use]
    pub fn pi(card: &Path, medium: &Medium) -> Self {
        Self::pi_on(Command::new("qemu-system-aarch64"), card, medium)
    }

    /// The same with thermometers (TMP105, by name and address) on the board's I²C bus 1, by a newer QEMU, whose Pi has one.
    ///
    /// # Panics
    /// If QEMU is not there, or does not start.
    #[must_use]
    pub fn pi_with_thermometers(card: &Path, thermometers: &[(&str, u8)]) -> Self {
        let newer = target_dir().join("qemu/root/usr");
        let mut qemu = Command::new(newer.join("bin/qemu-system-aarch64"));
        qemu.arg("-L").arg(newer.join("share/qemu"));
        for (name, address) in thermometers {
            qemu.args(["-device", &format!("tmp105,bus=i2c-bus.1,address={address},id={name}")]);
        }
        Self::pi_on(qemu, card, &Medium::Slot)
    }

    fn pi_on(mut command: Command, card: &Path, medium: &Medium) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let boot = partition(card, 2);
        fs::write(place("Image"), kernel(card, boot)).expect("written");
        for name in ["initramfs.gz", "bcm2837-rpi-3-b.dtb"] {
            fs::write(place(name), fat_file(card, boot, name)).expect("written");
        }
        // The emulated watchdog resets the board as soon as it is opened.
        let line = String::from_utf8(fat_file(card, boot, "cmdline.txt")).expect("text");
        let line = format!("{} porin.watchdog=off", line.trim());
        let card = card.display();
        command.args(["-M", "raspi3b", "-append", &line]);
        command.arg("-kernel").arg(place("Image")).arg("-initrd").arg(place("initramfs.gz"));
        command.arg("-dtb").arg(place("bcm2837-rpi-3-b.dtb"));
        // Nothing on the card names another address than 10.0.2.2.
        command.args(["-netdev", "user,id=net", "-device", "usb-net,netdev=net"]);
        match medium {
            Medium::Slot => command.args(["-drive", &format!("if=sd,format=raw,file={card}")]),
            Medium::Recorded(log) => {
                File::create(log).expect("a log");
                let log = log.display();
                let file = format!("driver=file,filename={card},node-name=card");
                let log = format!("driver=file,filename={log},node-name=log");
                let both = "driver=blklogwrites,node-name=recorded,file=card,log=log,log-super-update-interval=1";
                command.args(["-blockdev", &file, "-blockdev", &log, "-blockdev", both]);
                command.args(["-device", "usb-storage,drive=recorded"])
            }
        };
        // The first serial line is another one's.
        command.args(["-serial", "null"]);
        Self::start(command, folder, GPLEV0)
    }

    /// Sets a thermometer's temperature in °C, as if it had become warmer or colder there.
    ///
    /// # Panics
    /// If QEMU does not do it.
    pub fn set_temperature(&self, thermometer: &str, celsius: f64) {
        let path = format!("/machine/peripheral/{thermometer}");
        #[allow(clippy::cast_possible_truncation)] // some hundred thousand at most
        let value = (celsius * 1000.0) as i64;
        self.tell("qom-set", &json!({ "path": path, "property": "temperature", "value": value }));
    }

    /// Cuts the power. If writes are recorded: in the middle of some, so that not all of them have been flushed.
    pub fn cut(mut self, medium: &Medium) {
        if let Medium::Recorded(log) = medium {
            let length = || fs::metadata(log).map_or(0, |log| log.len());
            let before = length();
            // The agent commits once a second.
            let start = Instant::now();
            while length() == before && start.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
        }
        self.process.kill();
    }
}
