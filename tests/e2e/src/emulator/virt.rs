//! A board whose GPIO controller has edges, which that of QEMU's Pi has not: QEMU's own machine `virt`, with the kernel of a Pi's card.
//!
//! Its controller is a PL061. Line 3 is that of the power button, which no driver of this kernel holds; the others are free.

use std::{fs, path::Path, process::Command};

use super::{Board, fat_file, partition, pi};

/// The line that the button pulls high while it is pressed.
pub const BUTTON: u32 = 3;

/// ARM PrimeCell GPIO (PL061), section 3.3.1: reading DATA at this offset gives all eight lines.
const DATA: u64 = 0x0903_0000 + 0x3fc;

/// What the board does: a shell on the console.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
echo the board is up
exec sh
";

impl Board {
    /// Switches it on, with these files besides a shell. Kernel and shell are those of a Pi's card. It has no network and no disk.
    ///
    /// # Panics
    /// If QEMU does not start.
    #[must_use]
    pub fn virt(card: &Path, files: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let boot = partition(card, 2);
        fs::write(place("Image"), pi::kernel(card, boot)).expect("written");
        let tree = place("tree");
        fs::create_dir(&tree).expect("a folder");
        fs::write(tree.join("init"), INIT).expect("written");
        for (name, file) in files {
            fs::copy(file, tree.join(name)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        // The kernel unpacks one archive after the other; what comes later wins.
        let pack = "chmod +x init && find . | cpio -o -H newc --quiet -R 0:0";
        let more = Command::new("sh").args(["-c", pack]).current_dir(&tree).output();
        let more = more.expect("cpio; `make image` installs it");
        assert!(more.status.success(), "{}", String::from_utf8_lossy(&more.stderr));
        let mut initramfs = fat_file(card, boot, "initramfs.gz");
        // An archive that is not packed begins at a multiple of four bytes.
        initramfs.resize(initramfs.len().next_multiple_of(4), 0);
        initramfs.extend(more.stdout);
        fs::write(place("initramfs"), initramfs).expect("written");
        let mut command = Command::new("qemu-system-aarch64");
        command.args(["-M", "virt,acpi=off", "-cpu", "cortex-a53", "-smp", "2", "-m", "256", "-nic", "none"]);
        command.args(["-append", "console=ttyAMA0 quiet"]);
        command.arg("-kernel").arg(place("Image")).arg("-initrd").arg(place("initramfs"));
        let mut board = Self::start(command, folder, DATA);
        board.wait_for("the board is up");
        board
    }

    /// Presses the button, which comes back by itself after a tenth of a second.
    pub fn press(&self) {
        self.tell("system_powerdown", &serde_json::json!({}));
    }
}
