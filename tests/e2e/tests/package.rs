//! The package for armhf in a Debian of that architecture: installed, upgraded while packets flow, purged, by its own dpkg.
//!
//! Programs of the ARM root run under qemu-user: the kernel starts it for them (binfmt_misc). There is no systemd in it: a script in the place of `systemctl` says
//! what it was told, and the test does what systemd would. `make test-package` builds what this needs.

#![allow(clippy::panic)] // a tool that is missing is said to be

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use porin_e2e::{Broker, Numbers, Process, Subscriber, wait_until};
use porin_test_support::{target_dir, top};
use tempfile::TempDir;

/// A Debian root for armhf.
struct Root {
    folder: TempDir,
}

/// Writes down what it is told. A restart returns once the test has done it.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >>/run/systemctl.log\ncase $1 in restart)\n  : >/run/restart\n  while [ -e /run/restart ]; do sleep 0.1; done ;;\nesac\n";

impl Root {
    /// Unpacks Debian's packages, as installed ones.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let packages = target_dir().join("armhf");
        let mut status = String::new();
        let entries = fs::read_dir(&packages).unwrap_or_else(|_| panic!("{}: `make test-package`", packages.display()));
        for package in entries.map(|entry| entry.expect("an entry").path()) {
            run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root));
            let control = run(Command::new("dpkg-deb").arg("-f").arg(&package));
            let _ = write!(status, "{}\nStatus: install ok installed\n\n", control.trim_end());
        }
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("var/lib/dpkg/status", &status);
        write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        write("etc/group", "root:x:0:\ndialout:x:20:\ni2c:x:994:\n");
        write("etc/hosts", "127.0.0.1 localhost\n");
        write("etc/shadow", "root:*:19000:0:99999:7:::\n");
        write("etc/gshadow", "root:*::\n");
        write("usr/bin/systemctl", SYSTEMCTL);
        fs::set_permissions(root.join("usr/bin/systemctl"), fs::Permissions::from_mode(0o755)).expect("ours");
        fs::create_dir_all(root.join("run/systemd/system")).expect("made");
        for folder in ["tmp", "dev", "proc", "var/log"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        fs::write(root.join("dev/null"), "").expect("written");
        if !root.join("bin/sh").exists() {
            symlink("dash", root.join("bin/sh")).expect("made");
        }
        Self { folder }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command.arg(self.folder.path()).arg(program).stdin(Stdio::null());
        command
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        run(self.command("/usr/bin/dpkg").args(arguments))
    }

    /// Puts a package where the root's own dpkg finds it.
    fn bring(&self, package: &Path, name: &str) {
        fs::copy(package, self.place(name)).expect("it was built");
    }

    /// The agent, as systemd would start it.
    fn agent(&self) -> Process {
        let log = OpenOptions::new().append(true).create(true).open(self.place("porind.log")).expect("a log");
        fs::create_dir_all(self.place("var/lib/porin")).expect("made");
        fs::create_dir_all(self.place("run/porin")).expect("made");
        Process::spawn(self.command("/usr/bin/porind").arg("run").stdout(Stdio::null()).stderr(log))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place("porind.log")).unwrap_or_default()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Its output, if all went well.
fn run(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make test-package` installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

fn package(version: &str) -> PathBuf {
    target_dir().join("dist").join(format!("porind_{version}_armhf.deb"))
}

#[test]
#[ignore = "takes the package for armhf: make test-package"]
fn the_package_installs_upgrades_under_traffic_and_leaves_nothing_behind() {
    let root = Root::new();
    let version = env!("CARGO_PKG_VERSION");
    root.bring(&package(version), "old.deb");
    // The same program under a later number.
    root.bring(&package(&format!("{version}+1")), "new.deb");

    // Installed: a user in the groups that there are, a configuration, the unit, the service enabled and started.
    let (stop_systemd, systemd) = (mpsc::channel::<()>(), root.place("run/restart"));
    let obliging = thread::spawn(move || {
        while stop_systemd.1.recv_timeout(Duration::from_millis(50)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = fs::remove_file(&systemd);
        }
    });
    root.dpkg(&["-i", "/old.deb"]);
    drop(stop_systemd.0);
    obliging.join().expect("it ends");
    let text = |name: &str| fs::read_to_string(root.place(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        text("etc/passwd").contains("porin:") && text("etc/group").contains("i2c:x:994:porin"),
        "{}",
        text("etc/group")
    );
    let told = text("run/systemctl.log");
    assert_eq!(told, "daemon-reload\nenable porind.service\nrestart porind.service\n");
    assert!(text("etc/porin/porin.toml").contains("[sources.made-up.simulator]"));
    assert_eq!(fs::metadata(root.place("etc/porin/porin.toml")).expect("there").permissions().mode() & 0o777, 0o640);
    for file in [
        "usr/lib/systemd/system/porind.service",
        "usr/share/porin/boards/rpi-3b.toml",
        "usr/share/man/man8/porind.8.gz",
    ] {
        assert!(root.place(file).is_file(), "{file}");
    }
    let checked = run(root.command("/usr/bin/porind").args(["check", "--board", "rpi-3b"]));
    assert!(checked.contains("quiet") && checked.contains("warning board"), "{checked}");

    // The recorded traffic of the demo, and numbers that a local broker keeps.
    let (cloud, local) = (
        Broker::mosquitto_with("max_queued_messages 0"),
        Broker::mosquitto_with("persistence true\nmax_inflight_messages 100\nmax_queued_messages 0"),
    );
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/arm/data/#");
    fs::copy(top().join("tests/data/glucose.csv.gz"), root.place("glucose.csv.gz")).expect("it is there");
    let config = format!(
        "[gateway]\nid = \"arm\"\n[uplink]\nbroker = \"mqtt://localhost:{}\"\n\
         [sources.glucose.replay]\nfile = \"/glucose.csv.gz\"\nstreams = \"glucose/{{channel}}\"\nspeed = \"max\"\n\
         [sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nwindow = 100\n\
         [[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\npayload = \"number\"\nstream = \"n/{{stream}}\"\n\
         [slots.quiet]\ncell = \"/usr/lib/porin/cells/deadband.wasm\"\nparams = {{ absolute = 0.5 }}\n\
         [slots.same]\ncell = \"/usr/lib/porin/cells/scale.wasm\"\n\
         [slots.less]\ncell = \"/usr/lib/porin/cells/deadband.wasm\"\nparams = {{ absolute = 2.0 }}\n\
         [routes.numbers]\nstreams = [\"n/#\"]\nslots = [\"quiet\", \"same\"]\nencoding = \"compact\"\nbatch = {{ packets = 50 }}\n\
         [routes.recorded]\nstreams = [\"glucose/#\"]\nslots = [\"less\"]\nencoding = \"compact\"\nbatch = {{ packets = 50 }}\n",
        cloud.port, local.port
    );
    fs::write(root.place("etc/porin/porin.toml"), &config).expect("written");
    let mut agent = root.agent();
    wait_until("the session stands", || root.log().contains("listening to the local broker"));
    let numbers = Numbers::publish(local.port, 100, Duration::ZERO);
    wait_until("packets arrive", || subscriber.numbers("/numbers").len() > 500);

    // Upgraded while they flow. dpkg waits for systemctl, which waits for us.
    let upgrade = root.command("/usr/bin/dpkg").args(["-i", "/new.deb"]).stdout(Stdio::null()).spawn();
    let mut upgrade = upgrade.expect("chroot runs");
    wait_until("the package asks for a restart", || root.place("run/restart").exists());
    agent.terminate();
    assert!(agent.wait().success(), "{}", root.log());
    agent = root.agent();
    fs::remove_file(root.place("run/restart")).expect("it was asked for");
    assert!(upgrade.wait().expect("it ends").success());
    let told = text("run/systemctl.log");
    assert_eq!(&told[told.len() - 37..], "daemon-reload\nrestart porind.service\n");
    assert_eq!(text("etc/porin/porin.toml"), config, "the configuration is the owner's");
    let before = subscriber.numbers("/numbers").len();
    wait_until("packets arrive after the upgrade", || subscriber.numbers("/numbers").len() > before + 500);
    let published = numbers.stop();
    wait_until("everything is there", || subscriber.numbers("/numbers").len() as u64 >= published);
    assert!(subscriber.numbers("/numbers").into_iter().eq(0..published));
    assert!(!subscriber.numbers("/recorded").is_empty(), "the recorded data flow, too");
    agent.terminate();
    assert!(agent.wait().success(), "{}", root.log());

    // Removed, it keeps what is the owner's; purged, nothing is left.
    root.dpkg(&["-r", "porind"]);
    assert!(text("run/systemctl.log").ends_with("disable --now porind.service\ndaemon-reload\n"));
    assert!(root.place("var/lib/porin/porin.redb").is_file() && root.place("etc/porin/porin.toml").is_file());
    root.dpkg(&["-P", "porind"]);
    assert!(!root.place("var/lib/porin").exists() && !root.place("etc/porin").exists());
    assert!(!text("etc/passwd").contains("porin"));
    eprintln!("{published} packets published around the upgrade, all of them arrived");
}
