//! An emulated Raspberry Pi 3B: QEMU with the kernel, initramfs and device tree of the card itself.
//!
//! QEMU does not run the board's firmware, so what the firmware would load is taken out of the card's boot partition.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use porin_core::config::Level;
use porin_test_support::target_dir;

use crate::Process;

/// A boot takes a minute on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);

/// How the card is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In the slot. An SD card, as QEMU has it, keeps what it has taken: there is nothing to flush.
    Slot,
    /// As a disk on USB, with a cache that has to be flushed; every write is recorded in this file.
    Recorded(PathBuf),
}

/// A running board.
#[derive(Debug)]
pub struct Pi {
    process: Process,
    folder: tempfile::TempDir,
    typing: Option<UnixStream>,
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

impl Pi {
    /// Switches it on with this card. It reaches this machine's loopback as 10.0.2.2.
    ///
    /// # Panics
    /// If QEMU does not start.
    #[must_use]
    pub fn boot(card: &Path, medium: &Medium) -> Self {
        Self::boot_on(Command::new("qemu-system-aarch64"), card, medium)
    }

    /// The same with thermometers (TMP105, by name and address) on the board's I²C bus 1, by a newer QEMU, whose Pi has one.
    ///
    /// # Panics
    /// If QEMU is not there, or does not start.
    #[must_use]
    pub fn boot_with_thermometers(card: &Path, thermometers: &[(&str, u8)]) -> Self {
        let newer = target_dir().join("qemu/root/usr");
        let mut qemu = Command::new(newer.join("bin/qemu-system-aarch64"));
        qemu.arg("-L").arg(newer.join("share/qemu"));
        for (name, address) in thermometers {
            qemu.args(["-device", &format!("tmp105,bus=i2c-bus.1,address={address},id={name}")]);
        }
        Self::boot_on(qemu, card, &Medium::Slot)
    }

    fn boot_on(mut command: Command, card: &Path, medium: &Medium) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let boot = partition(card, 2);
        let mut kernel = Vec::new();
        let packed = fat_file(card, boot, "kernel8.img");
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut kernel).expect("the kernel is packed");
        fs::write(place("Image"), kernel).expect("written");
        for name in ["initramfs.gz", "bcm2837-rpi-3-b.dtb"] {
            fs::write(place(name), fat_file(card, boot, name)).expect("written");
        }
        // The emulated watchdog resets the board as soon as it is opened.
        let line = String::from_utf8(fat_file(card, boot, "cmdline.txt")).expect("text");
        let line = format!("{} porin.watchdog=off", line.trim());
        let card = card.display();
        command.args(["-M", "raspi3b", "-display", "none", "-no-reboot", "-append", &line]);
        command.arg("-kernel").arg(place("Image")).arg("-initrd").arg(place("initramfs.gz"));
        command.arg("-dtb").arg(place("bcm2837-rpi-3-b.dtb"));
        // Nothing on the card names another address than 10.0.2.2.
        command.args(["-netdev", "user,id=net", "-device", "usb-net,netdev=net"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", place("monitor").display())]);
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
        let console = place("console");
        let (socket, log) = (console.display(), place("console.log"));
        let chardev = format!("socket,id=console,path={socket},server=on,wait=off,logfile={}", log.display());
        command.args(["-serial", "null", "-chardev", &chardev, "-serial", "chardev:console"]);
        let errors = File::create(place("qemu.log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let process = Process::of(child.expect("qemu-system-aarch64; `make test-image` installs it"));
        Self { process, folder, typing: None }
    }

    /// Sets a thermometer's temperature in °C, as if it had become warmer or colder there.
    ///
    /// # Panics
    /// If QEMU does not do it.
    pub fn set_temperature(&self, thermometer: &str, celsius: f64) {
        let path = format!("/machine/peripheral/{thermometer}");
        #[allow(clippy::cast_possible_truncation)] // some hundred thousand at most
        let value = (celsius * 1000.0) as i64;
        let command = serde_json::json!({
            "execute": "qom-set", "arguments": { "path": path, "property": "temperature", "value": value },
        });
        tell(&self.folder.path().join("monitor"), &command);
    }

    /// Waits until a line of the GPIO controller has this level, as the emulated register says. From outside: nothing in the board is asked.
    ///
    /// # Panics
    /// If it does not get it.
    pub fn wait_for_line(&mut self, line: u32, level: Level) {
        let monitor = self.folder.path().join("monitor");
        self.wait_until(&format!("line {line} is {}", level.word()), || level_of_line(&monitor, line) == level);
    }

    /// What the serial console has said so far.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("console.log")).unwrap_or_default()).into_owned()
    }

    /// Types a line on the serial console.
    ///
    /// # Panics
    /// If QEMU is gone.
    pub fn type_line(&mut self, line: &str) {
        if self.typing.is_none() {
            let console = UnixStream::connect(self.folder.path().join("console")).expect("QEMU runs");
            let mut echo = console.try_clone().expect("a second handle");
            // What nobody reads would hold the board up; it is in the log as well.
            thread::spawn(move || std::io::copy(&mut echo, &mut std::io::sink()));
            self.typing = Some(console);
        }
        writeln!(self.typing.as_mut().expect("just made"), "{line}").expect("QEMU reads");
    }

    /// Logs in as root on the serial console.
    ///
    /// # Panics
    /// If that is not allowed.
    pub fn log_in(&mut self, password: &str) {
        self.type_line("");
        self.wait_for("login:");
        self.type_line("root");
        self.wait_for("Password:");
        self.type_line(password);
        self.wait_for("built-in shell");
    }

    /// What a command prints, for who is logged in on the serial console.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ask(&mut self, command: &str) -> String {
        let before = self.console().len();
        // Not as it is typed, since what is typed is echoed.
        self.type_line(&format!("{command}; echo en''ded"));
        let log = self.folder.path().join("console.log");
        let said = move || fs::read(&log).map(|said| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default();
        self.wait_until(command, || said().get(before..).is_some_and(|said| said.contains("ended")));
        said()[before..].replace('\r', "")
    }

    /// Waits until something is so; the board has as long as booting may take.
    ///
    /// # Panics
    /// If it does not become so: with the end of what the console said.
    pub fn wait_until(&mut self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            let ended = self.process.has_ended();
            if ended || start.elapsed() > BOOT_PATIENCE {
                let errors = fs::read_to_string(self.folder.path().join("qemu.log")).unwrap_or_default();
                let errors = errors.lines().filter(|line| !line.starts_with("usbnet:")).collect::<Vec<_>>().join("\n");
                let console = self.console();
                let lines = console.lines().rev().take(40).collect::<Vec<_>>();
                let console = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                panic!("waited in vain (QEMU has ended: {ended}): {what}\n{console}\n{errors}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the console has said this.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for(&mut self, text: &str) {
        let log = self.folder.path().join("console.log");
        self.wait_until(text, || fs::read(&log).is_ok_and(|said| String::from_utf8_lossy(&said).contains(text)));
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

/// BCM2837 ARM Peripherals, section 6.1: GPLEV0 has the levels of lines 0 to 31.
fn level_of_line(monitor: &Path, line: u32) -> Level {
    assert!(line < 32, "the first register has 32 lines");
    let command = serde_json::json!({
        "execute": "human-monitor-command", "arguments": { "command-line": "xp /1wx 0x3f200034" },
    });
    let answer = tell(monitor, &command);
    let word = answer["return"].as_str().and_then(|said| said.trim().rsplit_once("0x")).map(|(_, digits)| digits);
    let word = word.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let word = word.unwrap_or_else(|| panic!("no register: {answer}"));
    if word >> line & 1 == 1 { Level::High } else { Level::Low }
}

/// Tells QEMU something, and gives its answer.
fn tell(monitor: &Path, command: &serde_json::Value) -> serde_json::Value {
    let monitor = UnixStream::connect(monitor).expect("QEMU runs");
    let mut answers = BufReader::new(monitor.try_clone().expect("a second handle")).lines();
    let mut answer = || answers.next().expect("an answer").expect("text");
    assert!(answer().contains("QMP"), "QEMU greets");
    let mut last = String::new();
    for command in [&serde_json::json!({ "execute": "qmp_capabilities" }), command] {
        writeln!(&monitor, "{command}").expect("QEMU reads");
        last = answer();
        assert!(last.contains("return"), "{last}");
    }
    serde_json::from_str(&last).expect("JSON")
}
