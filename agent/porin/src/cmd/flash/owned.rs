//! What the owner gives to a gateway: its configuration, who may push cells, certificates, the network.
//!
//! All of it is read and checked here, so that a gateway does not start with a mistake that could have been seen.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use porin_core::{
    config::{Broker, Config, Policy, Provenance},
    trust,
};

use crate::failure::{Exit, Failure};

/// All of the owner's files have to fit on 8 MB, and have reason to be much smaller.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the gateway finds them.
const ETC: &str = "/etc/porin/";

#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// The gateway's porin.toml [default: the one in the image, with made-up readings]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Policy: upper bounds of grants and limits
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Root of updates, from `porin keys init`, as /etc/porin/trust/NAME
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Certificates, keys, passwords, as /etc/porin/certs/NAME
    #[arg(long, value_name = "FILE", num_args = 1..)]
    certs: Vec<PathBuf>,
    /// Cells of your own, as /etc/porin/cells/NAME
    #[arg(long, value_name = "FILE", num_args = 1..)]
    cells: Vec<PathBuf>,
    /// An address of its own instead of DHCP: lines of address, gateway, dns, ntp
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Allow a login on the serial console: file with a hash of `openssl passwd -6`
    #[arg(long, value_name = "FILE")]
    console_password: Option<PathBuf>,
}

/// What kind of system the files go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Our own image: what the partition does not have stays as it comes.
    Appliance,
    /// A stock system with the package.
    Package,
}

/// The files by their names below the place that is the owner's, and what was found in them.
#[derive(Debug)]
pub(super) struct Owned {
    files: BTreeMap<String, Vec<u8>>,
    /// The gateway's id, if there is a configuration.
    pub(super) id: Option<String>,
    pub(super) network: Network,
}

/// A network.txt: what is not there comes by DHCP.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) dns: Vec<String>,
}

impl Owned {
    pub(super) fn read(arguments: &Given, place: Place) -> anyhow::Result<Self> {
        let Given { config, policy, trust, certs, cells, network, console_password } = arguments;
        let mut files = BTreeMap::new();
        let mut add = |folder: &str, name: Option<&str>, path: &Path| {
            let name = name.or_else(|| path.file_name()?.to_str()).unwrap_or("file").to_owned();
            let bytes = small(path, MAX_FILE_BYTES)?;
            let name = format!("{folder}{name}");
            // FAT does not tell `A` from `a`: one would take the place of the other.
            if files.keys().any(|other: &String| other.eq_ignore_ascii_case(&name)) {
                return Err(bad(path, &format!("there is another file of the name {name}")));
            }
            files.insert(name, bytes.clone());
            anyhow::Ok(bytes)
        };
        for path in certs {
            add("certs/", None, path)?;
        }
        for path in cells {
            add("cells/", None, path)?;
        }
        if let Some(path) = trust {
            let root = add("trust/", None, path)?;
            trust::pinned_root(&root).map_err(|refusal| bad(path, &refusal.to_string()))?;
        }
        if let Some(path) = policy {
            let text = text(path, add("", Some("policy.toml"), path)?)?;
            Policy::parse(&text).map_err(|error| bad(path, &error.to_string()))?;
        }
        let network = match network {
            None => Network::default(),
            Some(path) => {
                let text = text(path, add("", Some("network.txt"), path)?)?;
                Network::parse(&text).map_err(|error| bad(path, &error))?
            }
        };
        if let Some(path) = console_password {
            let hash = text(path, add("", Some("console-password.txt"), path)?)?;
            if place == Place::Package {
                return Err(bad(path, "a stock system has logins of its own"));
            }
            if !["$5$", "$6$"].iter().any(|kind| hash.starts_with(kind)) {
                return Err(bad(
                    path,
                    "no hash as `openssl passwd -6` prints; a password itself is never put on a card",
                ));
            }
        }
        let mut id = None;
        if let Some(path) = config {
            let text = text(path, add("", Some("porin.toml"), path)?)?;
            let config = Config::parse(&text).map_err(|error| bad(path, &error.to_string()))?;
            if let Some(missing) = named(&config).into_iter().find(|name| !files.contains_key(name)) {
                let folder = missing.split('/').next().unwrap_or_default();
                return Err(Failure {
                    exit: Exit::Config,
                    message: format!("{}: it names {ETC}{missing}, which is not given", path.display()),
                    hint: match folder {
                        "trust" | "certs" | "cells" => {
                            Some(format!("--{folder} {missing}", missing = &missing[folder.len() + 1..]))
                        }
                        _ => Some(format!(
                            "certificates lie in {ETC}certs/, the root in {ETC}trust/, cells in {ETC}cells/"
                        )),
                    },
                }
                .into());
            }
            id = Some(config.gateway.id);
        }
        Ok(Self { files, id, network })
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }
}

/// Names of the owner's files that a configuration wants, below `/etc/porin/`.
fn named(config: &Config) -> Vec<String> {
    let gateway = &config.gateway;
    let brokers = gateway.brokers().flat_map(|(_, broker)| files_of_broker(broker));
    let root = gateway.updates.iter().map(|updates| updates.root.as_str());
    let cells = config.cells.slots().filter_map(|slot| match &slot.cell {
        Provenance::Local(path) => Some(path.as_str()),
        Provenance::Signed(_) => None,
    });
    brokers.chain(root).chain(cells).filter_map(|path| Some(path.strip_prefix(ETC)?.to_owned())).collect()
}

fn files_of_broker(broker: &Broker) -> Vec<&str> {
    let mut files = Vec::new();
    if let Some(tls) = &broker.tls {
        files.push(tls.ca_file.as_str());
        files
            .extend(tls.identity.iter().flat_map(|identity| [identity.cert_file.as_str(), identity.key_file.as_str()]));
    }
    files.extend(broker.login.iter().filter_map(|login| login.password_file.as_deref()));
    files
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let mut network = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |why: &str| format!("line {}: `{line}`: {why}", number + 1);
            let (key, value) = line.split_once('=').ok_or_else(|| at("a key, =, a value"))?;
            let (key, value) = (key.trim(), value.trim());
            let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
            match key {
                "address" => {
                    let parts = value.split_once('/').and_then(|(ip, bits)| Some((ip, bits.parse::<u8>().ok()?)));
                    let longest = if value.contains(':') { 128 } else { 32 };
                    if !parts.is_some_and(|(ip, bits)| is_address(ip) && bits <= longest) {
                        return Err(at("an address with the length of its network, like 192.168.1.50/24"));
                    }
                    network.address = Some(value.into());
                }
                "gateway" if is_address(value) => network.gateway = Some(value.into()),
                "dns" if value.split(' ').all(is_address) => {
                    network.dns = value.split(' ').map(str::to_owned).collect()
                }
                "gateway" | "dns" => return Err(at("an address like 192.168.1.1")),
                "ntp" => {}
                _ => return Err(at("known are address, gateway, dns, ntp")),
            }
        }
        Ok(network)
    }
}

/// A file, if it is not larger than that.
pub(super) fn small(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let place = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("{place}"))?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).with_context(|| format!("{place}"))?;
    if bytes.len() as u64 > most {
        return Err(bad(path, &format!("it is too large; it may have at most {most} bytes")));
    }
    Ok(bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(bytes).map_err(|_| bad(path, "it is not text"))
}

fn bad(path: &Path, why: &str) -> anyhow::Error {
    Failure {
        exit: Exit::Config,
        message: format!("{}: {why}", path.display()),
        hint: Some("nothing was written".into()),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_broker_and_of_cells_are_wanted() {
        let text = "[gateway]\nid = \"k\"\n[uplink]\nbroker = \"mqtts://h\"\ntls = { ca_file = \"/etc/porin/certs/up.pem\" }\n\
                    [sinks.house.mqtt]\nbroker = \"mqtts://i\"\ntls = { ca_file = \"/etc/porin/certs/house.pem\" }\n\
                    [slots.own]\ncell = \"/etc/porin/cells/own.wasm\"\n\
                    [routes.all]\nstreams = [\"#\"]\nslots = [\"own\"]\nsinks = [\"house\"]\n";
        let config = Config::parse(text).expect("it is good");
        assert_eq!(named(&config), ["certs/up.pem", "certs/house.pem", "cells/own.wasm"]);
    }

    #[test]
    fn a_network_is_read_and_what_is_none_is_named() {
        let text =
            "# mine\n\naddress = 192.168.1.50/24\ngateway=192.168.1.1\r\ndns = 1.1.1.1 9.9.9.9\nntp = time.example\n";
        let network = Network::parse(text).expect("it is one");
        assert_eq!(network.address.as_deref(), Some("192.168.1.50/24"));
        assert_eq!(network.dns, ["1.1.1.1", "9.9.9.9"]);
        for (text, expected) in [
            ("address = 192.168.1.50", "line 1: `address = 192.168.1.50`: an address with"),
            ("address = 192.168.1.50/33", "192.168.1.50/24"),
            ("\ngateway = router", "line 2"),
            ("dns = 1.1.1.1, 9.9.9.9", "an address like"),
            ("adress = 10.0.0.1/8", "known are address"),
            ("hello", "a key, =, a value"),
        ] {
            let error = Network::parse(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
