//! The package for armhf in a Debian of that architecture: installed, upgraded while packets flow, purged, by its own dpkg.
//!
//! Programs of the ARM root run under qemu-user: the kernel starts it for them (binfmt_misc). There is no systemd in it: a script in the place of `systemctl` says
//! what it was told, and the test does what systemd would. `make test-package` builds what this needs.

#![allow(clippy::panic)] // a tool that is missing is said to be

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use porin_e2e::{
    Broker, Numbers, Process, Subscriber,
    certificates::{Authority, Pair, VALID},
    free_port, wait_until,
};
use porin_test_support::{target_dir, top};
use tempfile::TempDir;

/// A Debian root for armhf.
struct Root {
    folder: TempDir,
}

/// Writes down its arguments, and makes or removes the link by which a service starts at boot. A restart returns once the test has
/// done it.
const SYSTEMCTL: &str = "#!/bin/sh
echo \"$*\" >>/run/systemctl.log
wants=/etc/systemd/system/multi-user.target.wants
case $1 in
    enable) mkdir -p $wants && ln -sf /usr/lib/systemd/system/$2 $wants/$2 ;;
    disable) rm -f $wants/$2 ;;
    restart)
        : >/run/restart
        while [ -e /run/restart ]; do sleep 0.1; done ;;
esac
";

/// The link by which systemd starts the service at boot.
const AT_BOOT: &str = "etc/systemd/system/multi-user.target.wants/porind.service";

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

    /// The numbers of the user porin and its group.
    fn porin(&self) -> (u32, u32) {
        let users = fs::read_to_string(self.place("etc/passwd")).expect("it is there");
        let user = users.lines().find(|line| line.starts_with("porin:")).expect("the package makes it");
        let number = |index| user.split(':').nth(index).and_then(|text| text.parse().ok()).expect("a number");
        (number(2), number(3))
    }

    /// The agent, as systemd would start it: as the user porin, in folders of its own.
    fn agent(&self) -> Process {
        let log = OpenOptions::new().append(true).create(true).open(self.place("porind.log")).expect("a log");
        let (user, group) = self.porin();
        for folder in ["var/lib/porin", "run/porin"] {
            fs::create_dir_all(self.place(folder)).expect("made");
            chown(self.place(folder), Some(user), Some(group)).expect("we are root");
        }
        let mut command = Command::new("chroot");
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(format!("--userspec={user}:{group}"))
            .arg(self.folder.path());
        Process::spawn(command.args(["/usr/bin/porind", "run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))
    }

    /// A file of the owner's in /etc/porin.
    fn own(&self, name: &str, text: &str, (user, group, mode): (u32, u32, u32)) {
        let path = self.place("etc/porin").join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        chown(&path, Some(user), Some(group)).expect("we are root");
    }

    /// Everything in /etc/porin: names, owners, groups, modes, contents.
    fn owners_files(&self) -> BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.place("etc/porin")];
        while let Some(path) = folders.pop() {
            let about = fs::metadata(&path).expect("it is there");
            if about.is_dir() {
                folders.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            }
            let bytes = if about.is_dir() { vec![] } else { fs::read(&path).expect("a file") };
            found.insert(path, (about.uid(), about.gid(), about.mode(), bytes));
        }
        found
    }

    /// Runs dpkg, and does what systemd would where the package asks for a restart.
    fn dpkg_with_restart(&self, package: &str, restart: impl FnOnce()) {
        let command = self.command("/usr/bin/dpkg").args(["-i", package]).stdout(Stdio::null()).spawn();
        let mut dpkg = command.expect("chroot runs");
        wait_until("the package asks for a restart", || self.place("run/restart").exists());
        restart();
        fs::remove_file(self.place("run/restart")).expect("it was asked for");
        assert!(dpkg.wait().expect("it ends").success());
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

/// A broker that wants a certificate of a gateway and its password, and what the gateway needs for both.
struct Cloud {
    broker: Broker,
    tls_port: u16,
    authority: String,
    client: Pair,
    /// Holds what the broker reads.
    _folder: TempDir,
}

const PASSWORD: &str = "pass word";

impl Cloud {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let authority = Authority::new("owner");
        let server = authority.server(&["localhost"], VALID);
        for (name, text) in [
            ("ca.pem", &authority.pem),
            ("server.pem", &server.cert),
            ("server.key", &server.key),
            ("passwords", &String::new()),
        ] {
            fs::write(place(name), text).expect("written");
        }
        run(Command::new("mosquitto_passwd").arg("-b").arg(place("passwords")).args(["arm", PASSWORD]));
        let tls_port = free_port();
        let lines = format!(
            "max_queued_messages 0\nlistener {tls_port} 127.0.0.1\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true\n\
             allow_anonymous false\npassword_file {passwords}\n",
            ca = place("ca.pem").display(),
            cert = place("server.pem").display(),
            key = place("server.key").display(),
            passwords = place("passwords").display()
        );
        let client = authority.client("arm", VALID);
        let broker = Broker::mosquitto_with_each(&lines);
        Self { broker, tls_port, authority: authority.pem, client, _folder: folder }
    }
}

#[test]
#[ignore = "takes the package for armhf: make test-package"]
#[allow(clippy::too_many_lines)] // one life of a package, in steps
fn the_package_installs_upgrades_under_traffic_comes_back_and_leaves_nothing_behind() {
    let root = Root::new();
    let version = env!("CARGO_PKG_VERSION");
    root.bring(&package(version), "old.deb");
    // The same program under a later number, and as an earlier one that reads older stores only.
    root.bring(&package(&format!("{version}+1")), "new.deb");
    root.bring(&package(&format!("{version}~older")), "older.deb");
    let text = |name: &str| fs::read_to_string(root.place(name)).unwrap_or_else(|error| panic!("{name}: {error}"));

    // Installed: a user in the groups that there are, a configuration, the unit, the service enabled and started.
    root.dpkg_with_restart("/old.deb", || ());
    assert!(
        text("etc/passwd").contains("porin:") && text("etc/group").contains("i2c:x:994:porin"),
        "{}",
        text("etc/group")
    );
    assert_eq!(text("run/systemctl.log"), "daemon-reload\nenable porind.service\nrestart porind.service\n");
    assert!(text("etc/porin/porin.toml").contains("[sources.made-up.simulator]"));
    let (user, group) = root.porin();
    for (name, mode) in [("etc/porin", 0o40750), ("etc/porin/trust", 0o40750), ("etc/porin/porin.toml", 0o100_640)] {
        let about = fs::metadata(root.place(name)).expect("there");
        assert_eq!((about.uid(), about.gid(), about.mode()), (0, group, mode), "{name}");
    }
    for file in [
        "usr/lib/systemd/system/porind.service",
        "usr/share/porin/boards/rpi-3b.toml",
        "usr/share/man/man8/porind.8.gz",
        "usr/share/man/man1/porin.1.gz",
        "usr/share/bash-completion/completions/porind",
        "usr/share/doc/porind/NOTICES.gz",
    ] {
        assert!(root.place(file).is_file(), "{file}");
    }
    let checked = run(root.command("/usr/bin/porind").args(["check", "--board", "rpi-3b"]));
    assert!(checked.contains("quiet") && checked.contains("warning board"), "{checked}");

    // The recorded traffic of the demo, and numbers that a local broker keeps; to a broker that wants a certificate and a password.
    let cloud = Cloud::start();
    let local = Broker::mosquitto_with("persistence true\nmax_inflight_messages 100\nmax_queued_messages 0");
    let subscriber = Subscriber::start(cloud.broker.port, "porin/v1/gw/arm/data/#");
    fs::copy(top().join("tests/data/glucose.csv.gz"), root.place("glucose.csv.gz")).expect("it is there");
    let config = format!(
        "[gateway]\nid = \"arm\"\n[uplink]\nbroker = \"mqtts://localhost:{}\"\nlogin = {{ username = \"arm\", password_file = \"/etc/porin/password\" }}\n\
         tls = {{ ca_file = \"/etc/porin/certs/ca.pem\", cert_file = \"/etc/porin/certs/client.pem\", key_file = \"/etc/porin/certs/client.key\" }}\n\
         [sources.glucose.replay]\nfile = \"/glucose.csv.gz\"\nstreams = \"glucose/{{channel}}\"\nspeed = \"max\"\n\
         [sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nwindow = 100\n\
         [[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\npayload = \"number\"\nstream = \"n/{{stream}}\"\n\
         [slots.quiet]\ncell = \"/usr/lib/porin/cells/deadband.wasm\"\nparams = {{ absolute = 0.5 }}\n\
         [slots.same]\ncell = \"/usr/lib/porin/cells/scale.wasm\"\n\
         [slots.less]\ncell = \"/usr/lib/porin/cells/deadband.wasm\"\nparams = {{ absolute = 2.0 }}\n\
         [routes.numbers]\nstreams = [\"n/#\"]\nslots = [\"quiet\", \"same\"]\nencoding = \"compact\"\nbatch = {{ packets = 50 }}\n\
         [routes.recorded]\nstreams = [\"glucose/#\"]\nslots = [\"less\"]\nencoding = \"compact\"\nbatch = {{ packets = 50 }}\n",
        cloud.tls_port, local.port
    );
    // A key that root lends to the agent, a password of the agent's own, and modes that the package must not change.
    root.own("porin.toml", &config, (user, group, 0o600));
    root.own("certs/ca.pem", &cloud.authority, (0, 0, 0o644));
    root.own("certs/client.pem", &cloud.client.cert, (0, 0, 0o604));
    root.own("certs/client.key", &cloud.client.key, (0, group, 0o640));
    root.own("password", PASSWORD, (user, group, 0o400));
    let files = root.owners_files();
    let mut agent = root.agent();
    wait_until("the session stands", || root.log().contains("listening to the local broker"));
    let numbers = Numbers::publish(local.port, 100, Duration::ZERO);
    wait_until("packets arrive", || subscriber.numbers("/numbers").len() > 500);
    assert!(root.place(AT_BOOT).is_symlink(), "it starts at boot");

    // Upgraded while they flow. dpkg waits for systemctl, which waits for us.
    let again = |agent: &mut Process| {
        agent.terminate();
        assert!(agent.wait().success(), "{}", root.log());
        *agent = root.agent();
    };
    root.dpkg_with_restart("/new.deb", || again(&mut agent));
    let told = text("run/systemctl.log");
    assert_eq!(&told[told.len() - 37..], "daemon-reload\nrestart porind.service\n");
    assert!(root.owners_files() == files, "owners, modes and contents are the owner's");
    let before = subscriber.numbers("/numbers").len();
    wait_until("packets arrive after the upgrade", || subscriber.numbers("/numbers").len() > before + 500);

    // A version that could not read the store is refused before anything is changed.
    let refused = root.command("/usr/bin/dpkg").args(["-i", "/older.deb"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("this version reads stores up to format 1"), "{said}");
    let status = run(root.command("/usr/bin/dpkg-query").args(["-W", "-f", "${Status} ${Version}", "porind"]));
    assert_eq!(status, format!("install ok installed {version}+1"));
    let before = subscriber.numbers("/numbers").len();
    wait_until("packets go on arriving", || subscriber.numbers("/numbers").len() > before + 500);

    // One that reads it is not.
    root.dpkg_with_restart("/old.deb", || again(&mut agent));
    let published = numbers.stop();
    wait_until("everything is there", || subscriber.numbers("/numbers").len() as u64 >= published);
    assert!(subscriber.numbers("/numbers").into_iter().eq(0..published));
    assert!(!subscriber.numbers("/recorded").is_empty(), "the recorded data flow, too");
    agent.terminate();
    assert!(agent.wait().success(), "{}", root.log());

    // Removed, it keeps what is the owner's, and comes back as it was.
    root.dpkg(&["-r", "porind"]);
    assert!(text("run/systemctl.log").ends_with("stop porind.service\ndaemon-reload\n"));
    assert!(root.place("var/lib/porin/porin.redb").is_file() && root.owners_files() == files);
    root.dpkg_with_restart("/new.deb", || agent = root.agent());
    assert!(root.place(AT_BOOT).is_symlink(), "it starts at boot again");
    assert!(root.owners_files() == files);
    let more = Numbers::publish(local.port, 100, Duration::ZERO);
    // Each publisher begins at 0: these numbers come a second time.
    let publishes = || subscriber.publishes().len();
    let before = publishes();
    wait_until("packets arrive after it came back", || publishes() > before + 10);
    let _ = more.stop();
    agent.terminate();
    assert!(agent.wait().success(), "{}", root.log());
    // An owner who has disabled the service finds it disabled.
    run(root.command("/usr/bin/systemctl").args(["disable", "porind.service"]));
    root.dpkg(&["-r", "porind"]);
    root.dpkg_with_restart("/new.deb", || ());
    assert!(!root.place(AT_BOOT).is_symlink(), "the owner has disabled it");

    root.dpkg(&["-P", "porind"]);
    assert!(!root.place("var/lib/porin").exists() && !root.place("etc/porin").exists());
    assert!(!text("etc/passwd").contains("porin"));
    root.dpkg_with_restart("/new.deb", || ());
    assert!(root.place(AT_BOOT).is_symlink(), "after a purge it is a first installation");
    root.dpkg(&["-P", "porind"]);
    assert!(!root.place(AT_BOOT).is_symlink());
    eprintln!("{published} packets published around the upgrade, all of them arrived");
}
