//! The appliance image in an emulated Raspberry Pi 3B: it boots, sends, takes updates, and loses nothing when the power is cut.
//!
//! `make test-image` builds the image and runs these with 20 cuts; CI with 2. What QEMU cannot show: the board's firmware,
//! its watchdog, real cards, which may lose or mix up more than these do.

#![allow(clippy::panic, clippy::print_stdout)] // what is missing is said; what was measured is what it is for

use std::{collections::BTreeSet, env, fs, io::Read, path::Path, process::Command, thread, time::Duration};

use porin_core::{payload, trust::Reported};
use porin_e2e::{
    Accounts, Numbers, Random, Subscriber,
    appliance::{ID, Owner, PASSWORD, image},
    emulator::{Board, Medium, fat_file, partition, read_part},
    time_server,
    write_log::{rebuild, rebuild_at, recorded},
};
use porin_test_support::{EMPTY, WatCell, top};

/// Numbers that have arrived, and the qualities that cells have marked them with.
fn arrived(subscriber: &Subscriber) -> (BTreeSet<u64>, BTreeSet<u32>) {
    let payloads = subscriber.publishes().into_iter().map(|publish| payload::decode(&publish.payload).expect("whole"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    payloads.flat_map(|payload| payload.packets).map(|packet| (packet.value as u64, packet.quality)).unzip()
}

/// What the initramfs is not to touch after the first boot, and what nothing may ever write to.
fn read_only(card: &Path) -> [Vec<u8>; 3] {
    [1, 2, 5].map(|number| read_part(card, partition(card, number)))
}

/// The data file system: its journal is replayed, as mounting does, and then nothing is to be found.
fn check_data(card: &Path, folder: &Path) {
    let data = folder.join("data");
    fs::write(&data, read_part(card, partition(card, 7))).expect("written");
    let check = |how: &str| {
        let output = Command::new("e2fsck").args([how, "-f"]).arg(&data).output().expect("e2fsck runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // 1: the journal was replayed.
    let replayed = check("-p");
    assert!(matches!(replayed.0, Some(0 | 1)), "{}", replayed.1);
    assert_eq!(check("-n").0, Some(0), "{}", check("-n").1);
}

#[test]
#[ignore = "boots a board: make test-image"]
fn the_appliance_sends_takes_updates_and_survives_power_cuts() {
    let cuts: u64 = env::var("PORIN_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(2);
    let owner = Owner::new();
    time_server::start();
    let (accounts, data) = (Accounts::of(&owner.cloud), Subscriber::start(owner.cloud.port, "porin/v1/gw/pi/data/#"));
    let birth = Subscriber::start(owner.cloud.port, "porin/v1/gw/pi/state");
    let card = owner.card("card", &[]);
    assert_eq!(fs::metadata(&card).expect("it is there").len(), 512 << 20);

    // First boot: the data partition takes the rest of the card, the clock comes over the network, it says that it is there.
    let mut pi = Board::pi(&card, &Medium::Slot);
    pi.wait_for("first boot: making a data partition of 300 MB");
    pi.wait_until("birth", || birth.received().iter().any(|(_, state)| state["state"] == "online"));
    pi.wait_until("an account", || accounts.last(ID).is_some());
    pi.wait_for("porin: set local clock");
    assert!(pi.console().contains("rpi-3b, root A, data 2"), "{}", pi.console());
    assert!(!pi.console().contains("login:"), "nobody asked for a login");

    // Packets through two cells, from one broker to the other.
    let numbers = Numbers::publish(owner.local.port, 50, Duration::from_secs(1));
    pi.wait_until("packets arrive", || arrived(&data).0.len() > 100);
    assert_eq!(arrived(&data).1.into_iter().collect::<Vec<_>>(), [0], "the owner's own cell");

    // A cell over the air takes over; one that forwards nothing is rolled back by itself.
    let ended = |word: &str| accounts.last(ID).is_some_and(|account| account.state.name() == word);
    owner.push(4, 1);
    pi.wait_until("the new cell is kept", || ended("confirmed"));
    pi.wait_until("the new cell decides", || arrived(&data).1.contains(&4));
    let bad = owner.place("bad.wasm");
    fs::write(&bad, WatCell { process: EMPTY, ..WatCell::default() }.build()).expect("written");
    let (code, said, stderr) = owner.operator.push(&bad, ID, &["--slot", "mark", "--passes", "50..100", "--seq", "2"]);
    assert_eq!((code, said["gateways"][ID]["reason"].as_str()), (Some(5), Some("output-ratio")), "{stderr}");

    // The power is cut under load, half of the times while a cell is on its way.
    let untouched = read_only(&card);
    let mut random = Random::new(env::var("PORIN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7));
    let mut medium = Medium::Slot;
    let before = owner.place("before");
    let mut unflushed = 0;
    for cut in 0..cuts {
        if cut % 4 < 2 {
            owner.push(if cut % 4 == 0 { 8 } else { 4 }, 10 + cut);
        }
        thread::sleep(Duration::from_millis(random.below(8_000)));
        pi.cut(&medium);
        let lost = match &medium {
            Medium::Slot => None,
            Medium::Recorded(log) => {
                fs::rename(&before, &card).expect("the card as it was when it was switched on");
                let lost = rebuild(&card, log, &mut random);
                unflushed += lost.lucky + lost.torn + lost.dropped;
                Some(lost)
            }
        };
        eprintln!("cut {}: {medium:?} {lost:?}", cut + 1);
        assert!(read_only(&card) == untouched, "a partition that is read only was written to");
        check_data(&card, &owner.place(""));
        // At least every other time the card's writes are recorded, and what was not flushed may be lost.
        medium = if cut % 2 == 0 { Medium::Recorded(owner.place("log")) } else { Medium::Slot };
        if medium != Medium::Slot {
            copy_sparse(&card, &before);
        }
        let accounts_before = accounts.all(ID).len();
        pi = Board::pi(&card, &medium);
        pi.wait_until("an account after the cut", || accounts.all(ID).len() > accounts_before);
        let said = pi.console();
        assert!(!said.contains("1970-01-01T"), "the clock began before the image was built: {said}");
        assert!(
            !said.contains("first boot") && !said.contains("cannot be mounted") && !said.contains("damaged"),
            "{said}"
        );
        whole(&accounts.last(ID).expect("waited for"));
        let count = arrived(&data).0.len();
        pi.wait_until("packets arrive after the cut", || arrived(&data).0.len() > count + 50);
    }
    // A cell on probation is judged by what it does: before the packets end.
    let ends = ["confirmed", "rolled-back"];
    pi.wait_until("the last update comes to an end", || ends.iter().any(|word| ended(word)));
    let published = numbers.stop();
    pi.wait_until("everything is there", || arrived(&data).0.len() as u64 >= published);
    assert!(arrived(&data).0.into_iter().eq(0..published));
    assert!(!pi.console().contains("panicked"), "{}", pi.console());
    assert!(cuts < 20 || unflushed > 0, "no cut came between a write and its flush");
    eprintln!(
        "{cuts} cuts, {unflushed} writes that had not been flushed, {published} packets published, all of them arrived"
    );
}

/// The sector that describes root A, and says whether there is more: layout.sh.
const ROOT_A_RECORD: u64 = 165_888 * 512;

#[test]
#[ignore = "boots a board: make test-image"]
fn the_first_boot_may_be_cut_at_any_write() {
    let owner = Owner::new();
    let card = owner.card("card", &[]);
    let (fresh, log) = (owner.place("fresh"), owner.place("log"));
    copy_sparse(&card, &fresh);
    let medium = Medium::Recorded(log.clone());
    let mut pi = Board::pi(&card, &medium);
    pi.wait_for("porin: first boot");
    pi.wait_for("root A, data 2");
    pi.cut(&medium);

    let writes = recorded(&log);
    let mut random = Random::new(3);
    let (mut unmade, mut made) = (None, 0);
    let kept = owner.place("kept");
    // Each of the last ones, and some of the many that make the file system.
    for cut in (1..writes).filter(|cut| cut % (writes / 16).max(1) == 0 || *cut + 24 > writes) {
        copy_sparse(&fresh, &card);
        rebuild_at(&card, &log, cut, &mut random);
        // The link from root A's record to the next one: as it was, or whole.
        let link = read_part(&card, (ROOT_A_RECORD + 462, 16));
        if link == [0; 16] {
            unmade = Some(cut);
            copy_sparse(&card, &kept);
        } else {
            made += 1;
            check_data(&card, &owner.place(""));
            assert_eq!(partition(&card, 7).1, 300 << 20);
        }
    }
    eprintln!("{writes} writes, made at {made} of the cuts, unmade at the latest at {unmade:?}");
    assert!(made > 0);
    // The latest cut at which it is not made: it is made anew.
    assert!(unmade.is_some(), "some cut is before the link");
    copy_sparse(&kept, &card);
    let mut pi = Board::pi(&card, &Medium::Slot);
    pi.wait_for("porin: first boot");
    pi.wait_for("root A, data 2");
    pi.cut(&Medium::Slot);
    check_data(&card, &owner.place(""));
}

#[test]
#[ignore = "takes images: make test-image"]
fn the_boot_partitions_have_what_the_firmware_asks_for() {
    for board in ["rpi-3b", "rpi-4b"] {
        let image = image(board);
        let text = fs::read_to_string(top().join("board-configs").join(board).with_extension("toml")).expect("there");
        let says = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).expect(key);
            line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let (owners, boot) = (partition(&image, 1), partition(&image, 2));
        let file = |name: &str| fat_file(&image, boot, name);

        // Which partition counts: both are there, and this is the first.
        let auto = String::from_utf8(fat_file(&image, owners, "autoboot.txt")).expect("text");
        assert!(auto.len() <= 512 && auto.contains("tryboot_a_b=1"), "{auto}");
        let numbers = auto.lines().filter_map(|line| line.strip_prefix("boot_partition=")).collect::<Vec<_>>();
        assert_eq!(numbers, ["2", "3"]);
        assert_eq!(partition(&image, 3).1, boot.1, "boot B has the room of boot A");

        // config.txt: every file that it names.
        let config = String::from_utf8(file("config.txt")).expect("text");
        let setting = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let mut kernel = Vec::new();
        let packed = file(setting("kernel=").expect("a kernel"));
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut kernel).expect("packed");
        assert_eq!(&kernel[56..60], b"ARM\x64", "the magic of an arm64 kernel");
        let initramfs = setting("initramfs ").and_then(|line| line.split(' ').next()).expect("an initramfs");
        assert!(file(initramfs).starts_with(&[0x1f, 0x8b]));
        assert!(String::from_utf8(file("cmdline.txt")).expect("text").contains("porin.root=A"));

        // The firmware: the second stage and its twin of the same name; small memory for the GPU takes the `cd` ones.
        let firmware = says("firmware");
        assert!(setting("gpu_mem=") == Some("16") && firmware.iter().any(|name| name.ends_with("cd.elf")));
        for name in &firmware {
            assert!(!file(name).is_empty(), "{name}");
            if let Some(stage) = name.strip_prefix("start").and_then(|name| name.strip_suffix(".elf")) {
                assert!(firmware.contains(&format!("fixup{stage}.dat")), "{name}");
            }
        }
        if board == "rpi-3b" {
            assert_eq!(
                fat_file(&image, owners, "bootcode.bin"),
                file("bootcode.bin"),
                "the ROM looks for it on the first one"
            );
        }
        // A device tree for each model that the board's file names.
        let trees = says("device_trees").into_iter().map(|name| file(&name)).collect::<Vec<_>>();
        assert!(trees.iter().all(|tree| tree.starts_with(&[0xd0, 0x0d, 0xfe, 0xed])));
        for model in says("compatible") {
            let named =
                |tree: &Vec<u8>| tree.windows(model.len() + 1).any(|part| part == [model.as_bytes(), b"\0"].concat());
            assert!(trees.iter().any(named), "{model}");
        }
        // Notices of everything that was copied or linked, where any computer can read them.
        let notices = String::from_utf8(fat_file(&image, owners, "NOTICES.txt")).expect("text");
        for part in ["raspi-firmware", "linux-image-6", "busybox-static", "e2fsprogs", "libc6", "openntpd"] {
            assert!(notices.contains(&format!("== Debian package {part}")), "{part}");
        }
        assert!(notices.contains("snapshot.debian.org") && notices.contains("\nrumqttc "), "sources and crates");
        // What was tried is said.
        let booted = text.lines().find_map(|line| line.strip_prefix("booted = ")).expect("it is said");
        assert!(booted.contains("not booted") || booted.contains("not on a board"), "{booted}");

        assert!(read_part(&image, (partition(&image, 5).0, 4)) == b"hsqs", "root A is a squashfs");
        let bytes = |path: &Path| fs::metadata(path).expect("there").len();
        let packed = bytes(&image.with_extension("img.gz"));
        eprintln!("{board}: {} bytes, packed {packed}", bytes(&image));
        assert!(bytes(&image) <= 96_000_000 && packed <= 32_000_000);
    }
}

/// The number behind a word in what the kernel tells, in kB.
fn kilobytes(text: &str, word: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(word)).unwrap_or_else(|| panic!("{word}: {text}"));
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
#[ignore = "boots a board: make test-image, make size"]
fn the_appliance_is_small_idle_and_under_load() {
    let owner = Owner::new();
    let slots = (0..10).map(|number| format!("[slots.s{number}]\ncell = \"/usr/lib/porin/cells/scale.wasm\"\n"));
    let names = (0..10).map(|number| format!("\"s{number}\"")).collect::<Vec<_>>().join(", ");
    let sim = format!(
        "[sources.load.simulator]\nstreams = \"load/{{n}}\"\ncount = 10\nevery = \"10ms\"\n[routes.load]\nstreams = [\"load/#\"]\nslots = [{names}]\n\
         encoding = \"compact\"\n{}",
        slots.collect::<String>()
    );
    let data = Subscriber::start(owner.cloud.port, "porin/v1/gw/pi/data/load");
    let mut found = Vec::new();
    for more in ["", &sim] {
        let config = fs::read_to_string(owner.place("porin.toml")).expect("there");
        fs::write(owner.place("porin.toml"), config + more).expect("written");
        let card = owner.card_with_login("card");
        let mut pi = Board::pi(&card, &Medium::Slot);
        pi.wait_for("connected to the broker");
        if !more.is_empty() {
            pi.wait_until("packets arrive", || data.publishes().len() > 30);
        }
        pi.log_in(PASSWORD);
        let status = pi.ask("cat /proc/$(pidof porind)/status");
        let free = pi.ask("cat /proc/meminfo");
        let rate = pi.ask("porind status --json | sed 's/.*\"received\":\\([0-9]*\\).*/received \\1/'");
        if more.is_empty() {
            // There is no time server, and the image is a year older than the broker's certificate, which counts all the same.
            let judged = pi.ask("porind status --json");
            assert!(judged.contains("\"clock_trusted\":false,\"certificate_time\":\"floor\""), "{judged}");
        }
        // A huge page would make 2 MB resident by chance.
        assert!(status.contains("THP_enabled:\t0"), "{status}");
        let own = |word: &str| kilobytes(&status, word);
        // What programs have: their own pages, pages of files that they have mapped, and files in memory.
        let used = ["AnonPages:", "Mapped:", "Shmem:"].iter().map(|word| kilobytes(&free, word)).sum::<u64>();
        found.push((own("VmRSS:"), own("RssAnon:"), used));
        if !more.is_empty() {
            eprintln!("{}", rate.lines().find(|line| line.starts_with("received")).unwrap_or_default());
        }
        pi.cut(&Medium::Slot);
    }
    for (what, (resident, own, used)) in ["idle", "1,000 packets a second through ten cells"].into_iter().zip(&found) {
        println!(
            "in the emulated Pi, {what}: porind {resident} KB resident, {own} KB of it its own; all programs {used} KB"
        );
    }
    // The goal for an idle one is 5,000: it has 4,950 to 5,130. More than all pages of the program, 4,300, and its own it cannot have.
    assert!(found[0].0 <= 5_200 && found[1].0 <= 10_000, "{found:?}");
    assert!(found.iter().all(|found| found.2 <= 40_000), "{found:?}");
}

/// The old set or the new one: each slot that is reported is one that the reported text names, and nothing was given up.
fn whole(account: &Reported) {
    assert!(account.state.name() != "inconsistent", "{account:?}");
    let slots = account.slots.iter().map(|slot| slot.name.as_str()).collect::<BTreeSet<_>>();
    assert_eq!(slots, BTreeSet::from(["mark", "quiet"]), "{account:?}");
}

fn copy_sparse(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--sparse=always").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "{} is copied", from.display());
}
