//! `porin flash`, on files: what it refuses, what it writes, and what is left when it is cut.

#![allow(clippy::panic)] // a tool that is missing is said to be

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use porin_e2e::{
    Operator,
    emulator::{fat_file, partition, read_part},
    program, wait_until,
};
use porin_test_support::{marking_cell, skip, target_dir};
use serde_json::Value;
use tempfile::TempDir;

const MB: usize = 1 << 20;

/// A folder with an image of 64 MB: a table, a FAT partition of 8 MB, and bytes that are like no others.
struct Bench {
    folder: TempDir,
    bytes: Vec<u8>,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make test` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let mut bytes = (0..64 * MB / 8).flat_map(|number| (number ^ 0x5a5a_0000).to_le_bytes()).collect::<Vec<_>>();
        bytes[..MB].fill(0);
        bytes[440..444].copy_from_slice(b"pori");
        bytes[450] = 0x0e;
        bytes[454..458].copy_from_slice(&2_048_u32.to_le_bytes());
        bytes[458..462].copy_from_slice(&16_384_u32.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        run(Command::new("mkfs.vfat").args(["-C", "-F", "16", "-s", "1", "-n", "PORIN"]).arg(place("fat")).arg("8192"));
        let fat = place("fat").display().to_string();
        run(Command::new("mmd").env("MTOOLS_SKIP_CHECK", "1").args(["-i", &fat, "::trust", "::certs", "::cells"]));
        let fat = fs::read(fat).expect("made");
        bytes[MB..9 * MB].copy_from_slice(&fat);
        fs::write(place("image"), &bytes).expect("written");
        let mut packed =
            flate2::write::GzEncoder::new(File::create(place("image.gz")).expect("made"), flate2::Compression::fast());
        packed.write_all(&bytes).and_then(|()| packed.finish().map(drop)).expect("packed");
        Self { folder, bytes }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.place(name), text).expect("written");
        self.place(name)
    }

    /// Exit code, stdout, stderr of `porin flash`, which nobody is there to answer.
    fn flash(&self, image: &str, card: &Path, more: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(program("porin"));
        command.arg("flash").arg(self.place(image)).arg(card).args(more).current_dir(&self.folder);
        said(&mut command)
    }
}

fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("porin runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const CONFIG: &str = "[gateway]\nid = \"kitchen\"\n[uplink]\nbroker = \"mqtts://10.0.2.2\"\ntls = { ca_file = \"/etc/porin/certs/ca.pem\" }\n\
    [updates]\nroot = \"/etc/porin/trust/root-1\"\n[routes.all]\nstreams = [\"#\"]\nslots = [\"mark\"]\n\
    [slots.mark]\ncell = \"/etc/porin/cells/own.wasm\"\n";

#[test]
fn a_card_gets_the_image_with_the_owners_files_and_nothing_else() {
    let bench = Bench::new();
    let operator = Operator::new(1);
    let root = operator.keys().join("root-1").display().to_string();
    bench.write("porin.toml", CONFIG);
    bench.write("ca.pem", "not looked into");
    bench.write("network.txt", "address = 192.168.1.50/24\n");
    bench.write("hash", "$6$salt$hash\n");
    fs::write(bench.place("own.wasm"), marking_cell(1)).expect("written");
    let card = bench.place("card");
    let owned = [
        &["--config", "porin.toml", "--trust", &root, "--certs", "ca.pem", "--cells", "own.wasm"][..],
        &["--network", "network.txt", "--console-password", "hash", "--json"],
    ]
    .concat();
    let (code, stdout, stderr) = bench.flash("image.gz", &card, &owned);
    assert_eq!(code, Some(0), "{stderr}");
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((told["bytes"].as_u64(), told["verified"].as_bool()), (Some(64 << 20), Some(true)));

    let part = partition(&card, 1);
    for (name, from) in [
        ("porin.toml", bench.place("porin.toml")),
        ("trust/root-1", PathBuf::from(&root)),
        ("certs/ca.pem", bench.place("ca.pem")),
        ("cells/own.wasm", bench.place("own.wasm")),
        ("network.txt", bench.place("network.txt")),
        ("console-password.txt", bench.place("hash")),
    ] {
        assert_eq!(fat_file(&card, part, name), fs::read(from).expect("it is there"), "{name}");
    }
    // The file system is sound, and what is not the owner's is as it was.
    fs::write(bench.place("fat-now"), read_part(&card, part)).expect("written");
    run(Command::new("fsck.vfat").arg("-n").arg(bench.place("fat-now")));
    let written = read_part(&card, (0, 64 << 20));
    assert!(written[..MB] == bench.bytes[..MB] && written[9 * MB..] == bench.bytes[9 * MB..]);
    assert_eq!(fs::metadata(&card).expect("it is there").len(), 512 << 20);

    // What is there is not overwritten unasked; the same image not packed gives the same card.
    let (code, _, stderr) = bench.flash("image", &card, &owned);
    assert!(
        code == Some(2) && stderr.contains("everything on it will be lost") && stderr.contains("--yes"),
        "{stderr}"
    );
    let (code, _, stderr) = bench.flash("image", &card, &[&owned[..], &["--yes"]].concat());
    assert!(code == Some(0) && read_part(&card, (0, 64 << 20)) == written, "{stderr}");
}

#[test]
fn whatever_is_wrong_is_said_before_anything_is_written() {
    let bench = Bench::new();
    let card = bench.place("card");
    let check = |image: &str, card: &Path, more: &[&str], expected: (i32, &str)| {
        let (code, stdout, stderr) = bench.flash(image, card, more);
        assert_eq!((code, stdout.as_str()), (Some(expected.0), ""), "{more:?}: {stderr}");
        assert!(stderr.contains(expected.1), "{more:?}: {stderr}");
        assert!(!bench.place("card").exists(), "{more:?} has written something");
    };
    // Targets.
    fs::write(bench.place("small"), vec![7; 100 * MB]).expect("written");
    check("image", &bench.place("small"), &["--yes"], (5, "it has 104857600 bytes, the image needs 503316480"));
    assert!(fs::read(bench.place("small")).expect("there").iter().all(|byte| *byte == 7));
    check("image", Path::new("/dev/null"), &["--yes"], (5, "neither a device nor a file"));
    check("image", bench.folder.path(), &["--yes"], (5, "neither a device nor a file"));
    check("image", Path::new("/dev/sdzz"), &["--yes"], (5, "no such device"));
    check("image", Path::new("/nowhere/card"), &["--yes"], (5, "no such device"));
    // Images.
    bench.write("text", "an image of something else");
    check("text", &card, &[], (5, "is not an image of porin"));
    let packed = fs::read(bench.place("image.gz")).expect("there");
    fs::write(bench.place("half.gz"), &packed[..packed.len() / 2]).expect("written");
    check("half.gz", &card, &[], (1, "cannot be unpacked"));
    check("missing.img", &card, &[], (1, "missing.img"));
    // What is the owner's.
    bench.write("porin.toml", CONFIG);
    check("image", &card, &["--config", "porin.toml"], (78, "/etc/porin/certs/ca.pem, which is not given"));
    bench.write("ca.pem", "");
    let with = ["--config", "porin.toml", "--certs", "ca.pem"];
    check("image", &card, &with, (78, "hint: --trust root-1"));
    bench.write("bad.toml", "[gateway]\nid = \"a b\"\n");
    check("image", &card, &["--config", "bad.toml"], (78, "line 2"));
    check("image", &card, &["--trust", "ca.pem"], (78, "ca.pem"));
    check("image", &card, &["--policy", "ca.pem", "--network", "bad.toml"], (78, "a key, =, a value"));
    check("image", &card, &["--console-password", "bad.toml"], (78, "a password itself is never put on a card"));
    fs::write(bench.place("large"), vec![0; 2 * MB]).expect("written");
    check("image", &card, &["--certs", "large"], (78, "at most 1048576"));
    fs::create_dir(bench.place("other")).expect("made");
    bench.write("other/CA.pem", "");
    check("image", &card, &["--certs", "ca.pem", "other/CA.pem"], (78, "another file of the name certs/CA.pem"));
    check("image", &card, &["--cells", "missing.wasm"], (1, "missing.wasm"));
    check("image", &card, &["--wifi", "home"], (2, "--files-only"));
}

#[test]
fn a_writing_that_is_cut_leaves_a_card_without_a_table_and_starts_over() {
    let bench = Bench::new();
    let card = bench.place("card");
    // The sector of the table: what comes after it is not looked at without one, and may be half overwritten.
    let table = || {
        let mut table = [0; 512];
        File::open(&card).and_then(|mut card| card.read_exact(&mut table)).expect("it can be read");
        table
    };
    // It may be done before it is killed: then again.
    let caught = (0..20).any(|_| {
        fs::write(&card, vec![0xff; MB]).expect("written");
        File::options().write(true).open(&card).and_then(|card| card.set_len(480 << 20)).expect("long");
        let mut flash = Command::new(program("porin"))
            .args(["flash", "--yes", "image", "card"])
            .current_dir(&bench.folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("porin runs");
        wait_until("it has begun", || table()[0] == 0);
        let _ = flash.kill();
        let _ = flash.wait();
        let empty = table() == [0; 512];
        assert!(empty || read_part(&card, (0, 64 << 20)) == bench.bytes, "a table, and not all that it speaks of");
        empty
    });
    assert!(caught, "it was never caught in the middle");
    let (code, _, stderr) = bench.flash("image", &card, &["--yes"]);
    assert!(code == Some(0) && read_part(&card, (0, 64 << 20)) == bench.bytes, "{stderr}");
}

/// Reads YAML and holds it against a JSON schema, as cloud-init does.
const VALIDATE: &str = "import json, sys, yaml, jsonschema\n\
    jsonschema.validate(yaml.safe_load(open(sys.argv[1])), json.load(open(sys.argv[2])))\n";

#[test]
fn the_files_for_a_stock_system_are_what_cloud_init_takes() {
    let bench = Bench::new();
    let package = fs::read_dir(target_dir().join("cloud-init")).into_iter().flatten().flatten().next();
    let (Some(package), true) = (package, target_dir().join("python/jsonschema").is_dir()) else {
        return skip(
            "the_files_for_a_stock_system_are_what_cloud_init_takes",
            "no cloud-init from Debian or jsonschema from PyPI",
        );
    };
    run(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(bench.place("cloud-init")));
    let schemas = bench.place("cloud-init/usr/lib/python3/dist-packages/cloudinit/config/schemas");
    let validate = |file: &str, schema: &str| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", target_dir().join("python")).args(["-c", VALIDATE]).arg(bench.place(file));
        let output = command.arg(schemas.join(schema)).output().expect("python3 runs");
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    };

    let config = CONFIG.replace("tls = { ca_file = \"/etc/porin/certs/ca.pem\" }\n", "").replace("mqtts", "mqtt");
    let config = config.replace("[updates]\nroot = \"/etc/porin/trust/root-1\"\n", "");
    bench.write("porin.toml", &config);
    fs::write(bench.place("own.wasm"), marking_cell(1)).expect("written");
    bench.write("porind_0.1.0_arm64.deb", "!<arch>\ndebian-binary   ");
    bench.write("secret", "correct horse: \"battery\"\n");
    bench.write("id.pub", "ssh-ed25519 AAAA me@laptop\n");
    bench.write("network.txt", "address = 192.168.1.50/24\ngateway = 192.168.1.1\ndns = 192.168.1.1 9.9.9.9\n");
    fs::create_dir(bench.place("bootfs")).expect("made");
    bench.write("bootfs/config.txt", "");
    bench.write("bootfs/user-data", "#cloud-config\n# the system's own\n");
    let files_only = |more: &[&str]| {
        let mut command = Command::new(program("porin"));
        command.args(["flash", "--files-only", "bootfs", "--deb", "porind_0.1.0_arm64.deb", "--config", "porin.toml"]);
        said(command.args(["--cells", "own.wasm"]).args(more).current_dir(&bench.folder))
    };
    // Plain, and with everything.
    for more in [
        &[][..],
        &[
            "--wifi",
            "kitchen \"5\" GHz",
            "--wifi-password-file",
            "secret",
            "--wifi-country",
            "DE",
            "--ssh-key",
            "id.pub",
        ],
        &["--network", "network.txt"],
        &["--network", "network.txt", "--wifi", "home", "--wifi-password-file", "secret", "--wifi-country", "DE"],
    ] {
        let (code, _, stderr) = files_only(more);
        assert_eq!(code, Some(0), "{stderr}");
        validate("bootfs/user-data", "schema-cloud-config-v1.json");
        // Its schema knows no Wi-Fi: it hands the file on to netplan, which is asked then.
        if more.contains(&"--wifi") {
            let netplan = bench.place("netplan/etc/netplan");
            fs::create_dir_all(&netplan).expect("made");
            let file = fs::read_to_string(bench.place("bootfs/network-config")).expect("text");
            fs::write(netplan.join("50-cloud-init.yaml"), format!("network:\n  {}", file.replace('\n', "\n  ")))
                .expect("written");
            run(Command::new("netplan").args(["generate", "--root-dir"]).arg(bench.place("netplan")));
            let made = fs::read_to_string(bench.place("netplan/run/netplan/wpa-wlan0.conf")).expect("it makes it");
            assert!(made.contains("psk=") && made.contains("country=DE"), "{made}");
        } else {
            validate("bootfs/network-config", "schema-network-config-v2.json");
        }
        assert!(!fs::read_to_string(bench.place("bootfs/network-config")).expect("text").contains("horse"));
    }
    let text = |name: &str| fs::read_to_string(bench.place("bootfs").join(name)).expect(name);
    assert!(text("user-data").starts_with("#cloud-config\n") && text("user-data").contains("install.sh"));
    assert!(text("user-data.before-porin").contains("the system's own"));
    assert!(text("network-config").contains("192.168.1.50/24"));
    assert_eq!(text("porin/etc/porin.toml"), config);
    assert_eq!(fs::read(bench.place("bootfs/porin/etc/cells/own.wasm")).expect("there"), marking_cell(1));
    // The script leaves what is there, and takes private keys off the card.
    run(Command::new("sh").args(["-n", "bootfs/porin/install.sh"]).current_dir(&bench.folder));

    for (more, expected) in [
        (&["--wifi", "home", "--wifi-password-file", "secret"][..], "--wifi-country is missing"),
        (&["--wifi", "home", "--wifi-password-file", "id.pub", "--wifi-country", "de"], "two capital letters"),
        (&["--ssh-key", "secret"], "is not a public key"),
        (&["--console-password", "secret"], "logins of its own"),
    ] {
        let (code, _, stderr) = files_only(more);
        assert!(code != Some(0) && stderr.contains(expected), "{stderr}");
    }
    let mut nowhere = Command::new(program("porin"));
    nowhere.args(["flash", "--files-only", "nowhere", "--deb", "porind_0.1.0_arm64.deb", "--config", "porin.toml"]);
    let (code, _, stderr) = said(nowhere.args(["--cells", "own.wasm"]).current_dir(&bench.folder));
    assert!(code == Some(2) && stderr.contains("hint: put the card in again"), "{stderr}");
}
