//! What is written to: a whole device that somebody put in and nothing uses, or a file.
//!
//! What is known of a device comes from the kernel: `/sys/block`, `/proc/self/mountinfo`, `/proc/swaps`.

use std::{
    fmt, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// A file that is not there yet becomes as large as the smallest card that counts.
pub(super) const NEW_FILE_BYTES: u64 = 512 << 20;

/// Where the image goes.
#[derive(Debug)]
pub(super) enum Target {
    Device(Device),
    /// `found`: what is there; `None`: it is not there yet.
    File {
        path: PathBuf,
        found: Option<FoundFile>,
    },
}

/// A file that is there: which one, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundFile {
    file_system: u64,
    inode: u64,
    bytes: u64,
}

impl FoundFile {
    fn of(about: &fs::Metadata) -> Self {
        Self { file_system: about.dev(), inode: about.ino(), bytes: about.len() }
    }
}

/// A whole block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) model: String,
    pub(super) bytes: u64,
    /// The kernel's count of disks so far, which a changed card and another device of the same name both change. 0: an old kernel.
    sequence: u64,
}

/// Why a device is not written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(into = "String")]
pub(super) enum Refusal {
    #[error("it is a partition; the whole device is /dev/{0}")]
    Partition(String),
    #[error("it is built in: not a card, and not on USB")]
    BuiltIn,
    #[error("it is write-protected")]
    ReadOnly,
    #[error("it is mounted at {0}")]
    Mounted(String),
    #[error("it is used by {0}")]
    Used(String),
    #[error("there is no card in it")]
    Empty,
}

impl From<Refusal> for String {
    fn from(refusal: Refusal) -> Self {
        refusal.to_string()
    }
}

impl Refusal {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Mounted(_) => Some("unmount it first (umount, or eject without taking it out)".into()),
            Self::Partition(_) | Self::BuiltIn => Some("`porin flash --list` shows the devices".into()),
            Self::ReadOnly => Some("a card or its adapter has a switch at its side".into()),
            Self::Used(_) | Self::Empty => None,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, model, bytes, sequence: _ } = self;
        write!(f, "{}  {model}  {}.{} GB", path.display(), bytes / 1_000_000_000, bytes / 100_000_000 % 10)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::File { path, found } => {
                write!(f, "{}  a file of {} bytes", path.display(), found.map_or(0, |found| found.bytes))
            }
        }
    }
}

impl Target {
    /// What is at this path, if it can be written to.
    pub(super) fn look(path: &Path) -> anyhow::Result<Self> {
        let Ok(found) = fs::metadata(path) else {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if parent.is_dir() && !path.starts_with("/dev") {
                return Ok(Self::File { path: path.into(), found: None });
            }
            return Err(refused(path, "there is no such device", Some("`porin flash --list` shows them".into())));
        };
        let kind = found.file_type();
        if kind.is_file() {
            return Ok(Self::File { path: path.into(), found: Some(FoundFile::of(&found)) });
        }
        if !kind.is_block_device() {
            return Err(refused(path, "it is neither a device nor a file", None));
        }
        match Kernel::here()?.device_of(&found)? {
            (device, None) => Ok(Self::Device(Device { path: path.into(), ..device })),
            (_, Some(refusal)) => Err(refused(path, &refusal.to_string(), refusal.hint())),
        }
    }

    /// Whether the open file is still what [`Target::look`] found and a person has agreed to: a card may have been exchanged and a
    /// name may lead elsewhere meanwhile.
    pub(super) fn check_is_still(&self, open: &fs::File) -> anyhow::Result<()> {
        let about = open.metadata().with_context(|| format!("{}", self.path().display()))?;
        let is_same = match self {
            Self::Device(device) => {
                about.file_type().is_block_device() && {
                    let (now, refusal) = Kernel::here()?.device_of(&about)?;
                    device.is_still(&now, refusal.as_ref())
                }
            }
            Self::File { found: Some(found), .. } => about.file_type().is_file() && FoundFile::of(&about) == *found,
            Self::File { found: None, .. } => about.file_type().is_file() && about.len() == 0,
        };
        if is_same {
            return Ok(());
        }
        Err(refused(
            self.path(),
            "it is not what it was when it was shown",
            Some("look again: `porin flash --list`".into()),
        ))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Device(device) => &device.path,
            Self::File { path, .. } => path,
        }
    }

    /// Whether there is nothing to be lost.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::File { found: None, .. })
    }

    pub(super) fn check_size(&self, needs: u64) -> anyhow::Result<()> {
        let bytes = match self {
            Self::Device(device) => device.bytes,
            Self::File { found, .. } => found.map_or(NEW_FILE_BYTES, |found| found.bytes),
        };
        if bytes >= needs {
            return Ok(());
        }
        Err(refused(self.path(), &format!("it has {bytes} bytes, the image needs {needs}"), None))
    }
}

fn refused(path: &Path, why: &str, hint: Option<String>) -> anyhow::Error {
    Failure { exit: Exit::Refused, message: format!("{}: {why}; nothing was written", path.display()), hint }.into()
}

impl Device {
    /// Whether the kernel describes the same device and the same medium in it. Its path may be a link, so that is not compared.
    fn is_still(&self, now: &Self, refusal: Option<&Refusal>) -> bool {
        refusal.is_none() && (&self.model, self.bytes, self.sequence) == (&now.model, now.bytes, now.sequence)
    }
}

/// The devices of this computer.
pub(super) fn devices() -> anyhow::Result<Vec<(Device, Option<Refusal>)>> {
    Kernel::here()?.devices()
}

/// What the kernel tells.
struct Kernel {
    sys: PathBuf,
    mounts: String,
    swaps: String,
}

impl Kernel {
    fn here() -> anyhow::Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("{path}: cards are found on Linux only"));
        // Without swap there need be no such file.
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Self { sys: "/sys".into(), mounts: read("/proc/self/mountinfo")?, swaps })
    }

    fn devices(&self) -> anyhow::Result<Vec<(Device, Option<Refusal>)>> {
        let place = self.sys.join("block");
        let mut places = Vec::new();
        for entry in fs::read_dir(&place).with_context(|| format!("{}", place.display()))? {
            let place = fs::canonicalize(entry?.path())?;
            // What is no hardware has no device behind it: loops, RAM disks, mapped volumes.
            if place.join("device").exists() {
                places.push(place);
            }
        }
        places.sort();
        Ok(places.iter().map(|place| self.device(place)).collect())
    }

    /// The device behind a path or an open file.
    fn device_of(&self, about: &fs::Metadata) -> anyhow::Result<(Device, Option<Refusal>)> {
        let number = format!("{}:{}", rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev()));
        let place = self.sys.join("dev/block").join(&number);
        let place = fs::canonicalize(&place).with_context(|| format!("the kernel does not tell of {number}"))?;
        Ok(self.device(&place))
    }

    /// The device that the kernel describes in this folder, and why it is not written to.
    fn device(&self, place: &Path) -> (Device, Option<Refusal>) {
        let name = name_of(place);
        let says = |file: &str| fs::read_to_string(place.join(file)).unwrap_or_default().trim().to_owned();
        let bytes = says("size").parse::<u64>().unwrap_or(0).saturating_mul(512);
        let words = ["device/vendor", "device/model", "device/name"].map(says);
        let model = words.iter().filter(|word| !word.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
        let model = if model.is_empty() { "of unknown model".into() } else { model };
        let sequence = says("diskseq").parse().unwrap_or(0);
        let device = Device { path: Path::new("/dev").join(&name), model, bytes, sequence };
        let refusal = if place.join("partition").exists() {
            Some(Refusal::Partition(place.parent().map(name_of).unwrap_or_default()))
        } else if !(says("removable") == "1" || says("device/type") == "SD" || place.iter().any(is_usb)) {
            Some(Refusal::BuiltIn)
        } else if bytes == 0 {
            Some(Refusal::Empty)
        } else if says("ro") == "1" {
            Some(Refusal::ReadOnly)
        } else {
            self.user(place)
        };
        (device, refusal)
    }

    /// Who uses the device or a partition of it.
    fn user(&self, place: &Path) -> Option<Refusal> {
        let partitions = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        let partitions = partitions.filter(|path| path.join("partition").exists());
        std::iter::once(place.to_owned()).chain(partitions).find_map(|part| {
            let number = fs::read_to_string(part.join("dev")).unwrap_or_default();
            // mountinfo: mount id, parent id, major:minor, root, mount point.
            let mount = self.mounts.lines().find_map(|line| {
                let words = line.split(' ').collect::<Vec<_>>();
                (words.get(2)? == &number.trim()).then(|| words.get(4).copied().unwrap_or("?").to_owned())
            });
            if let Some(mount) = mount {
                return Some(Refusal::Mounted(mount));
            }
            let node = format!("/dev/{}", name_of(&part));
            if self.swaps.lines().any(|line| line.split_whitespace().next() == Some(&node)) {
                return Some(Refusal::Used("the system, for swap".into()));
            }
            let holder = fs::read_dir(part.join("holders")).ok()?.flatten().next()?;
            Some(Refusal::Used(holder.file_name().to_string_lossy().into_owned()))
        })
    }
}

fn name_of(place: &Path) -> String {
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `/sys/devices/pci0000:00/0000:00:14.0/usb1/…`.
fn is_usb(part: &std::ffi::OsStr) -> bool {
    part.to_str().and_then(|part| part.strip_prefix("usb")).is_some_and(|rest| rest.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel with one device, as files; each word `file=text` is one more file of it.
    fn look(place: &str, files: &[&str], mounts: &str, swaps: &str) -> (Device, Option<Refusal>) {
        let sys = tempfile::tempdir().expect("a folder");
        let place = sys.path().join("devices").join(place);
        for file in files {
            let (name, text) = file.split_once('=').expect("name=text");
            let path = place.join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, format!("{text}\n")).expect("written");
        }
        Kernel { sys: sys.path().into(), mounts: mounts.into(), swaps: swaps.into() }.device(&place)
    }

    const STICK: [&str; 7] = [
        "size=62333952",
        "removable=1",
        "ro=0",
        "dev=8:16",
        "device/vendor=SanDisk ",
        "device/model=Ultra",
        "sdb1/partition=1",
    ];

    #[test]
    fn a_stick_that_nothing_uses_is_written_to() {
        let (device, refusal) = look("pci/usb1/sdb", &STICK, "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "");
        assert_eq!((device.to_string().as_str(), refusal), ("/dev/sdb  SanDisk Ultra  31.9 GB", None));
        // A card in a reader that is built in, and a disk on USB that does not say that it is removable.
        let card = ["size=62333952", "removable=0", "device/type=SD", "device/name=SC32G"];
        assert_eq!(look("platform/mmcblk0", &card, "", "").1, None);
        assert_eq!(look("pci/usb2/2-1/sdc", &["size=62333952", "removable=0"], "", "").1, None);
    }

    #[test]
    fn a_card_that_was_exchanged_or_mounted_since_it_was_shown_is_another() {
        let now = |more: &[&str], mounts: &str| look("pci/usb1/sdb", &[&STICK, more].concat(), mounts, "");
        let (shown, _) = now(&["diskseq=7"], "");
        let same = |(device, refusal): (Device, Option<Refusal>)| shown.is_still(&device, refusal.as_ref());
        assert!(same(now(&["diskseq=7"], "")));
        // The same reader and a card of the same size, put in later.
        assert!(!same(now(&["diskseq=8"], "")));
        assert!(!same(now(&["diskseq=7", "size=62333953"], "")));
        assert!(!same(now(&["diskseq=7", "device/model=Other"], "")));
        assert!(!same(now(&["diskseq=7"], "40 22 8:16 / /mnt rw - vfat /dev/sdb rw\n")));
    }

    #[test]
    fn a_file_that_takes_the_place_of_the_one_that_was_shown_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let open = |name: &str| fs::File::open(place(name)).expect("open");
        fs::write(place("card"), [1; 100]).expect("written");
        let shown = Target::look(&place("card")).expect("a file");
        shown.check_is_still(&open("card")).expect("the same");
        fs::write(place("other"), [2; 100]).expect("written");
        fs::rename(place("other"), place("card")).expect("renamed");
        let error = shown.check_is_still(&open("card")).expect_err("another");
        assert!(error.to_string().contains("not what it was when it was shown; nothing was written"), "{error}");
    }

    fn check(place: &str, more: &[&str], mounts: &str, swaps: &str, expected: &Refusal) {
        let files = [&STICK, more].concat();
        assert_eq!(look(place, &files, mounts, swaps).1.as_ref(), Some(expected));
    }

    #[test]
    fn what_is_in_use_built_in_or_a_part_is_refused() {
        let built_in = Refusal::BuiltIn;
        check("pci/nvme/nvme0n1", &["removable=0"], "", "", &built_in);
        check("platform/mmcblk1", &["removable=0", "device/type=MMC"], "", "", &built_in);
        check("pci/usb1/sdb/sdb1", &["partition=1"], "", "", &Refusal::Partition("sdb".into()));
        check("pci/usb1/sdb", &["ro=1"], "", "", &Refusal::ReadOnly);
        check("pci/usb1/sdb", &["size=0"], "", "", &Refusal::Empty);
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 8:17 / /media/me/bootfs rw - vfat /dev/sdb1 rw\n";
        check("pci/usb1/sdb", &["sdb1/dev=8:17"], mounts, "", &Refusal::Mounted("/media/me/bootfs".into()));
        let whole = "40 22 8:16 / /mnt rw - vfat /dev/sdb rw\n";
        check("pci/usb1/sdb", &[], whole, "", &Refusal::Mounted("/mnt".into()));
        check(
            "pci/usb1/sdb",
            &[],
            "",
            "Filename Type\n/dev/sdb1 partition\n",
            &Refusal::Used("the system, for swap".into()),
        );
        check("pci/usb1/sdb", &["sdb1/holders/dm-0=x"], "", "", &Refusal::Used("dm-0".into()));
    }
}
