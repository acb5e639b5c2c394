//! For a stock Raspberry Pi OS: cloud-init's two files, the package, and a script that puts the owner's files in place.
//!
//! Raspberry Pi OS reads `user-data` and `network-config` from its FAT partition at the first start (since October 2025).

use std::{
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use ring::pbkdf2;
use serde_json::json;

use super::owned::{MAX_FILE_BYTES, Network, Owned, small};
use crate::failure::{Exit, Failure};

/// First line of what this command made, after cloud-init's own.
const MARK: &str = "# Made by `porin flash`.";

/// Below the FAT partition, which such a system mounts at /boot/firmware.
const FOLDER: &str = "porin";

/// A package is about 2 MB.
const MAX_PACKAGE_BYTES: u64 = 32 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Extras {
    /// With --files-only: porin's package for the system (.deb)
    #[arg(long, value_name = "FILE")]
    deb: Option<PathBuf>,
    /// With --files-only: the name of the Wi-Fi; its password is typed, or in a file
    #[arg(long, value_name = "NAME")]
    wifi: Option<String>,
    /// A file with the password of the Wi-Fi
    #[arg(long, value_name = "FILE", requires = "wifi")]
    wifi_password_file: Option<PathBuf>,
    /// Country code for the radio, such as DE
    #[arg(long, value_name = "CODE", requires = "wifi")]
    wifi_country: Option<String>,
    /// With --files-only: a public key that may log in, as the user `porin-admin`
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
}

/// What goes to the FAT partition besides the owner's files.
#[derive(Debug)]
pub(super) struct Stock {
    package: (String, Vec<u8>),
    user_data: String,
    network_config: String,
}

impl Extras {
    /// For the appliance none of this counts.
    pub(super) fn refuse(&self) -> anyhow::Result<()> {
        let Self { deb, wifi, wifi_password_file: _, wifi_country: _, ssh_key } = self;
        if deb.is_some() || wifi.is_some() || ssh_key.is_some() {
            let message = "--deb, --wifi and --ssh-key go with --files-only".into();
            return Err(Failure { exit: Exit::Usage, message, hint: Some("porin flash --help".into()) }.into());
        }
        Ok(())
    }
}

impl Stock {
    pub(super) fn read(arguments: &Extras, owned: &Owned) -> anyhow::Result<Self> {
        let Extras { deb, wifi, wifi_password_file, wifi_country, ssh_key } = arguments;
        let Some(id) = &owned.id else { return Err(missing("--config", "the gateway's porin.toml")) };
        let Some(deb) = deb else { return Err(missing("--deb", "`make deb` makes the package")) };
        let name = deb.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let package = small(deb, MAX_PACKAGE_BYTES)?;
        if !package.starts_with(b"!<arch>\ndebian-binary") {
            bail!("{} is not a Debian package", deb.display());
        }
        let wifi = match wifi {
            None => None,
            Some(name) => {
                let password = wifi_password(name, wifi_password_file.as_deref())?;
                Some(Wifi { name, key: wifi_key(name, &password)?, country: country(wifi_country.as_deref())? })
            }
        };
        let ssh_key = match ssh_key {
            None => None,
            Some(path) => Some(public_key(path)?),
        };
        Ok(Self {
            package: (name, package),
            user_data: user_data(id, ssh_key.as_deref()),
            network_config: network_config(&owned.network, wifi.as_ref()),
        })
    }

    /// Writes all of it; the names. What was there before under cloud-init's names is kept beside it.
    pub(super) fn put_into(&self, folder: &Path, owned: &Owned) -> anyhow::Result<Vec<String>> {
        if !folder.is_dir() {
            return Err(Failure {
                exit: Exit::Usage,
                message: format!("{} is not a folder", folder.display()),
                hint: Some(
                    "put the card in again after Imager has written it: its FAT partition, `bootfs`, is the one".into(),
                ),
            }
            .into());
        }
        if !folder.join("config.txt").is_file() {
            eprintln!("note: {} has no config.txt; copy what is in it to the card's FAT partition", folder.display());
        }
        let (package, bytes) = &self.package;
        let mut files = vec![
            (format!("{FOLDER}/{package}"), bytes.as_slice()),
            (format!("{FOLDER}/install.sh"), include_bytes!("stock/install.sh").as_slice()),
        ];
        files.extend(owned.files().map(|(name, bytes)| (format!("{FOLDER}/etc/{name}"), bytes)));
        // Last, so that a card that was taken out too early does not look ready.
        files.push(("network-config".into(), self.network_config.as_bytes()));
        files.push(("user-data".into(), self.user_data.as_bytes()));
        for (name, bytes) in &files {
            let path = folder.join(name);
            let place = path.display();
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(|| format!("{}", parent.display()))?;
            }
            let old = fs::read(&path).unwrap_or_default();
            let stands =
                !name.contains('/') && !old.is_empty() && !old.windows(MARK.len()).any(|part| part == MARK.as_bytes());
            if stands {
                fs::rename(&path, folder.join(format!("{name}.before-porin"))).with_context(|| format!("{place}"))?;
            }
            fs::write(&path, bytes)
                .and_then(|()| fs::File::open(&path)?.sync_all())
                .with_context(|| format!("{place}"))?;
            if fs::read(&path).with_context(|| format!("{place}"))? != *bytes {
                bail!("{place} came back as something else");
            }
        }
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }
}

fn missing(argument: &str, what: &str) -> anyhow::Error {
    Failure {
        exit: Exit::Usage,
        message: format!("{argument} is missing: {what}"),
        hint: Some("porin flash --help".into()),
    }
    .into()
}

/// The users and what is done at the first start. JSON text is YAML text.
fn user_data(id: &str, ssh_key: Option<&str>) -> String {
    let users = ssh_key.map_or_else(String::new, |key| {
        format!(
            "users:\n  - default\n  - name: porin-admin\n    groups: [sudo]\n    shell: /bin/bash\n    lock_passwd: true\n    \
             sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n    ssh_authorized_keys:\n      - {}\nssh_pwauth: false\n",
            json!(key)
        )
    });
    // Raspberry Pi OS has it switched off; where it cannot be switched on, the rest is done all the same.
    let ssh = if ssh_key.is_some() { "  - [systemctl, enable, --now, ssh]\n" } else { "" };
    format!(
        "#cloud-config\n{MARK}\nhostname: {}\n{users}runcmd:\n{ssh}  - [sh, /boot/firmware/{FOLDER}/install.sh]\n",
        json!(id)
    )
}

struct Wifi<'a> {
    name: &'a str,
    key: String,
    country: &'a str,
}

fn network_config(network: &Network, wifi: Option<&Wifi<'_>>) -> String {
    use std::fmt::Write;
    let mut interface = match &network.address {
        None => "      dhcp4: true\n".to_owned(),
        Some(address) => format!("      dhcp4: false\n      addresses: [{}]\n", json!(address)),
    };
    if let Some(gateway) = &network.gateway {
        let _ = writeln!(interface, "      routes:\n        - {{to: default, via: {}}}", json!(gateway));
    }
    if !network.dns.is_empty() {
        let _ = writeln!(interface, "      nameservers:\n        addresses: {}", json!(network.dns));
    }
    // An address of its own belongs to the one interface that is used.
    let wired = if wifi.is_some() { "      dhcp4: true\n" } else { &interface };
    let mut text = format!("{MARK}\nversion: 2\nethernets:\n    eth0:\n{wired}      optional: true\n");
    if let Some(Wifi { name, key, country }) = wifi {
        let _ = write!(
            text,
            "wifis:\n    wlan0:\n{interface}      optional: true\n      regulatory-domain: {}\n      access-points:\n        {}:\n          password: {}\n",
            json!(country),
            json!(name),
            json!(key)
        );
    }
    text
}

fn country(code: Option<&str>) -> anyhow::Result<&str> {
    match code {
        Some(code) if code.len() == 2 && code.bytes().all(|letter| letter.is_ascii_uppercase()) => Ok(code),
        Some(code) => Err(Failure {
            exit: Exit::Usage,
            message: format!("--wifi-country `{code}`: two capital letters"),
            hint: None,
        }
        .into()),
        None => Err(missing("--wifi-country", "without it the radio stays off; two letters like DE")),
    }
}

fn wifi_password(name: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = file else {
        return rpassword::prompt_password(format!("password of the Wi-Fi {name}: "))
            .context("no terminal to ask on, and no --wifi-password-file");
    };
    let text = String::from_utf8(small(path, MAX_FILE_BYTES)?)
        .with_context(|| format!("{}: it is not text", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The key that WPA2 makes of a password (IEEE 802.11-2020, J.4.1), so that the password itself is not on the card.
fn wifi_key(name: &str, password: &str) -> anyhow::Result<String> {
    if !(8..=63).contains(&password.len()) || !(1..=32).contains(&name.len()) {
        let message = "a password of a Wi-Fi has 8 to 63 bytes, its name 1 to 32".into();
        return Err(Failure { exit: Exit::Config, message, hint: None }.into());
    }
    let mut key = [0; 32];
    let rounds = NonZeroU32::new(4096).expect("it is not zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, rounds, name.as_bytes(), password.as_bytes(), &mut key);
    Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn public_key(path: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(small(path, MAX_FILE_BYTES)?).unwrap_or_default();
    let key = text.trim();
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| key.starts_with(kind)) && !key.contains('\n') {
        return Ok(key.into());
    }
    let message = format!("{} is not a public key", path.display());
    Err(Failure { exit: Exit::Config, message, hint: Some("the file that ends in .pub".into()) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wifi_key_is_the_standards_own_example() {
        let key = wifi_key("IEEE", "password").expect("it is one");
        assert_eq!(key, "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e");
        assert!(wifi_key("IEEE", "short").is_err());
    }
}
