//! The appliance image in an emulated Raspberry Pi 3B: it boots, sends, takes updates, and loses nothing when the power is cut.
//!
//! `make test-image` builds the image and runs these with 20 cuts; CI with 2. What QEMU cannot show: the board's firmware,
//! its watchdog, real cards, which may lose or mix up more than these do.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use porin_core::{payload, trust::Reported};
use porin_e2e::{
    Accounts, Broker, Operator, Random, Subscriber,
    certificates::{Authority, VALID},
    emulator::{Medium, Pi, partition, read_part},
    free_port, program, publish_lines, time_server,
    write_log::rebuild,
};
use porin_test_support::{EMPTY, WatCell, marking_cell, target_dir};
use tempfile::TempDir;

/// An image that `make image` has built.
fn image(board: &str) -> PathBuf {
    let path = target_dir().join("image").join(format!("porin-{board}.img"));
    assert!(path.is_file(), "{} is missing: `make image BOARD={board}`", path.display());
    path
}

/// An owner's brokers, keys and files, and a card that was made with them.
struct Owner {
    folder: TempDir,
    cloud: Broker,
    local: Broker,
    operator: Operator,
}

const ID: &str = "pi";

impl Owner {
    /// mosquitto with TLS for the cloud, another for the sensors, both on this machine's loopback.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let authority = Authority::new("owner");
        let server = authority.server(&["10.0.2.2"], VALID);
        fs::write(place("ca.pem"), &authority.pem).expect("written");
        fs::write(place("server.pem"), &server.cert).expect("written");
        fs::write(place("server.key"), &server.key).expect("written");
        let tls = free_port();
        let lines = format!(
            "max_queued_messages 0\nlistener {tls} 127.0.0.1\ncertfile {}\nkeyfile {}\ntls_version tlsv1.3\n",
            place("server.pem").display(),
            place("server.key").display()
        );
        let cloud = Broker::mosquitto_with(&lines);
        let local = Broker::mosquitto_with("persistence true\nmax_inflight_messages 100\nmax_queued_messages 0");
        let operator = Operator::new(cloud.port);
        fs::write(place("own.wasm"), marking_cell(0)).expect("written");
        let config = format!(
            "[gateway]\nid = \"{ID}\"\nclock = \"synchronised\"\n\
             [uplink]\nbroker = \"mqtts://10.0.2.2:{tls}\"\ntls = {{ ca_file = \"/etc/porin/certs/ca.pem\" }}\n\
             [updates]\nroot = \"/etc/porin/trust/root-1\"\nboard = \"rpi-3b\"\n\
             [sources.local.mqtt]\nbroker = \"mqtt://10.0.2.2:{}\"\nwindow = 100\n\
             [[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\npayload = \"number\"\nstream = \"{{stream}}\"\n\
             [slots.quiet]\ncell = \"/usr/lib/porin/cells/deadband.wasm\"\nparams = {{ absolute = 0.5 }}\n\
             [slots.mark]\ncell = \"/etc/porin/cells/own.wasm\"\n\
             [routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\", \"mark\"]\nencoding = \"compact\"\nbatch = {{ packets = 50 }}\n",
            local.port
        );
        fs::write(place("porin.toml"), config).expect("written");
        fs::write(place("network.txt"), "ntp = 10.0.2.2\n").expect("written");
        Self { folder, cloud, local, operator }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Flashes a card of 512 MB, as its owner does.
    fn card(&self, name: &str, more: &[&str]) -> PathBuf {
        let card = self.place(name);
        let output = Command::new(program("porin"))
            .args(["flash", "--json"])
            .args([&image("rpi-3b"), &card])
            .arg("--config")
            .arg(self.place("porin.toml"))
            .arg("--network")
            .arg(self.place("network.txt"))
            .arg("--trust")
            .arg(self.operator.keys().join("root-1"))
            .arg("--certs")
            .arg(self.place("ca.pem"))
            .arg("--cells")
            .arg(self.place("own.wasm"))
            .args(more)
            .output()
            .expect("porin runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        card
    }

    /// Publishes numbers to the sensors' broker until it is told to stop; how many the broker took.
    fn load(&self) -> (mpsc::Sender<()>, thread::JoinHandle<u64>) {
        let (stop, stopped) = mpsc::channel();
        let port = self.local.port;
        let publisher = thread::spawn(move || {
            let mut published = 0;
            while stopped.try_recv().is_err() {
                let lines = (published..published + 50).map(|number| format!("{number}\n")).collect::<String>();
                publish_lines(port, "n/x", &lines);
                published += 50;
                thread::sleep(Duration::from_secs(1));
            }
            published
        });
        (stop, publisher)
    }

    /// Pushes a cell into the slot `mark`, and waits for a second at most.
    fn push(&self, quality: u32, seq: u64) {
        let cell = self.place("pushed.wasm");
        fs::write(&cell, marking_cell(quality)).expect("written");
        let (cell, seq) = (cell.display().to_string(), seq.to_string());
        let probation = ["--shadow", "200ms", "--canary", "200ms", "--packets", "20", "--wait", "1s", "--json"];
        let _ = self
            .operator
            .run(&[&["push", &cell, "--to", ID, "--slot", "mark", "--seq", &seq][..], &probation].concat());
    }
}

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
    let mut pi = Pi::boot(&card, &Medium::Slot);
    pi.wait_for("first boot: making a data partition of 300 MB");
    pi.wait_until("birth", || birth.received().iter().any(|(_, state)| state["state"] == "online"));
    pi.wait_until("an account", || accounts.last(ID).is_some());
    pi.wait_for("porin: set local clock");
    assert!(pi.console().contains("rpi-3b, root A, data 2"), "{}", pi.console());
    assert!(!pi.console().contains("login:"), "nobody asked for a login");

    // Packets through two cells, from one broker to the other.
    let (stop, publisher) = owner.load();
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
        check_data(&card, owner.folder.path());
        // At least every other time the card's writes are recorded, and what was not flushed may be lost.
        medium = if cut % 2 == 0 { Medium::Recorded(owner.place("log")) } else { Medium::Slot };
        if medium != Medium::Slot {
            copy_sparse(&card, &before);
        }
        let accounts_before = accounts.all(ID).len();
        pi = Pi::boot(&card, &medium);
        pi.wait_until("an account after the cut", || accounts.all(ID).len() > accounts_before);
        let said = pi.console();
        assert!(
            !said.contains("first boot") && !said.contains("cannot be mounted") && !said.contains("damaged"),
            "{said}"
        );
        whole(&accounts.last(ID).expect("waited for"));
        let count = arrived(&data).0.len();
        pi.wait_until("packets arrive after the cut", || arrived(&data).0.len() > count + 50);
    }
    stop.send(()).expect("the publisher lives");
    let published = publisher.join().expect("it publishes");
    pi.wait_until("everything is there", || arrived(&data).0.len() as u64 >= published);
    assert!(arrived(&data).0.into_iter().eq(0..published));
    let ends = ["confirmed", "rolled-back"];
    pi.wait_until("the last update comes to an end", || ends.iter().any(|word| ended(word)));
    assert!(!pi.console().contains("panicked"), "{}", pi.console());
    assert!(cuts < 20 || unflushed > 0, "no cut came between a write and its flush");
    eprintln!(
        "{cuts} cuts, {unflushed} writes that had not been flushed, {published} packets published, all of them arrived"
    );
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
