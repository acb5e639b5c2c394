//! The appliance's owner: his brokers, keys and files, and cards that are made with them.

use std::{fs, path::PathBuf, process::Command};

use porin_test_support::{marking_cell, target_dir};
use tempfile::TempDir;

use crate::{
    Broker, Operator,
    certificates::{Authority, VALID},
    free_port, program,
};

/// An image that `make image` has built.
///
/// # Panics
/// If it has not.
#[must_use]
pub fn image(board: &str) -> PathBuf {
    let path = target_dir().join("image").join(format!("porin-{board}.img"));
    assert!(path.is_file(), "{} is missing: `make image BOARD={board}`", path.display());
    path
}

/// An owner's brokers, keys and files, and a card that was made with them.
#[derive(Debug)]
pub struct Owner {
    folder: TempDir,
    /// The cloud's broker: with TLS for the board, plain for the test.
    pub cloud: Broker,
    /// The sensors' broker.
    pub local: Broker,
    /// Who pushes.
    pub operator: Operator,
}

/// Of root on the serial console.
pub const PASSWORD: &str = "porin";

/// The board's gateway.
pub const ID: &str = "pi";

impl Owner {
    /// mosquitto with TLS and client certificates for the cloud, another for the sensors, both on this machine's loopback.
    ///
    /// # Panics
    /// If one of them cannot be started.
    #[must_use]
    #[allow(clippy::new_without_default)] // brokers are no default
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let authority = Authority::new("owner");
        let server = authority.server(&["10.0.2.2"], VALID);
        fs::write(place("ca.pem"), &authority.pem).expect("written");
        fs::write(place("server.pem"), &server.cert).expect("written");
        fs::write(place("server.key"), &server.key).expect("written");
        let client = authority.client(ID, VALID);
        fs::write(place("client.pem"), &client.cert).expect("written");
        fs::write(place("client.key"), &client.key).expect("written");
        let tls = free_port();
        let lines = format!(
            "max_queued_messages 0\nlistener {tls} 127.0.0.1\ncafile {}\nrequire_certificate true\ncertfile {}\nkeyfile {}\ntls_version tlsv1.3\n",
            place("ca.pem").display(),
            place("server.pem").display(),
            place("server.key").display()
        );
        let cloud = Broker::mosquitto_with(&lines);
        let local = Broker::mosquitto_with("persistence true\nmax_inflight_messages 100\nmax_queued_messages 0");
        let operator = Operator::new(cloud.port);
        fs::write(place("own.wasm"), marking_cell(0)).expect("written");
        let config = format!(
            "[gateway]\nid = \"{ID}\"\nclock = \"synchronised\"\n\
             [uplink]\nbroker = \"mqtts://10.0.2.2:{tls}\"\ntls = {{ ca_file = \"/etc/porin/certs/ca.pem\", cert_file = \"/etc/porin/certs/client.pem\", \
             key_file = \"/etc/porin/certs/client.key\" }}\n\
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

    /// A file of his.
    #[must_use]
    pub fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Flashes a card of 512 MB, as its owner does.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn card(&self, name: &str, more: &[&str]) -> PathBuf {
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
            .args(["ca.pem", "client.pem", "client.key"].map(|name| self.place(name)))
            .arg("--cells")
            .arg(self.place("own.wasm"))
            .args(more)
            .output()
            .expect("porin runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        card
    }

    /// The same, and root may log in on the serial console with [`PASSWORD`].
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn card_with_login(&self, name: &str) -> PathBuf {
        // `openssl passwd -6 -salt porin porin`
        let hash = "$6$porin$OlupLPi4QykAnEeO0BsQ8V9/w.wktagGoLdDEQT6i7ti2ZKl3eqamgdXeg9XTizGM28IU3Aij6GOETlCE.yzu.";
        fs::write(self.place("hash"), hash).expect("written");
        self.card(name, &["--yes", "--console-password", &self.place("hash").display().to_string()])
    }

    /// Pushes a cell into the slot `mark`, and waits for a second at most.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn push(&self, quality: u32, seq: u64) {
        let cell = self.place("pushed.wasm");
        fs::write(&cell, marking_cell(quality)).expect("written");
        let (cell, seq) = (cell.display().to_string(), seq.to_string());
        let probation = ["--shadow", "200ms", "--canary", "200ms", "--packets", "20", "--wait", "1s", "--json"];
        let _ = self
            .operator
            .run(&[&["push", &cell, "--to", ID, "--slot", "mark", "--seq", &seq][..], &probation].concat());
    }
}
