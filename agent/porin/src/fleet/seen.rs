//! The key, the store and the newest account of each gateway that this machine has seen.
//!
//! `gateways/<id>` has it in TOML, `version = 2` first. Version 1 was the key alone.

use std::{fs, io::ErrorKind, path::PathBuf, str::FromStr};

use anyhow::{Context, bail};
use porin_core::{ids::Epoch, trust::Reported};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyFolder, write_whole};

const VERSION: u32 = 2;

/// What to do about a gateway that has another key or store than before: its store was lost, or another writes under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewKey {
    Refused,
    Accepted,
}

/// The newest account of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    version: u32,
    key: String,
    /// `None`: only the key is known, from version 1.
    newest: Option<Newest>,
}

/// Which account that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Newest {
    epoch: String,
    /// Microseconds since 1970, by the gateway's clock.
    at_us: u64,
    /// The highest number of a desired state that it knew.
    number: u64,
}

/// Why nothing is made of an account.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Strange {
    #[error("{0} reports itself with another key than before")]
    OtherKey(String),
    #[error("{gateway} reports another store than before: epoch {epoch}, {before} was seen")]
    OtherStore { gateway: String, epoch: String, before: String },
    #[error("what {gateway} reports is older than what was seen of it before: {account}, after {seen}")]
    Older { gateway: String, account: String, seen: String },
}

impl Strange {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::OtherKey(_) | Self::OtherStore { .. } => {
                "was its store lost? then --new-key; if not, another program writes under its name"
            }
            Self::Older { .. } => {
                "the broker holds an old report; restart the agent there if its clock was set back, for a new epoch"
            }
        }
    }
}

impl Newest {
    fn of(account: &Reported) -> Self {
        let number = account.known.iter().map(|(_, number)| *number).max().unwrap_or(0);
        Self { epoch: account.epoch.clone(), at_us: account.at.0, number }
    }

    fn epoch(&self) -> Option<Epoch> {
        Epoch::from_str(&self.epoch).ok()
    }

    fn is_before(&self, other: &Self) -> bool {
        let order = |newest: &Self| (newest.epoch().map(|epoch| epoch.starts), newest.at_us, newest.number);
        order(self) < order(other)
    }

    fn words(&self) -> String {
        format!("epoch {}, {} us since 1970, desired state {}", self.epoch, self.at_us, self.number)
    }
}

impl Seen {
    /// What an account adds to what was seen before.
    fn and(before: Option<Self>, account: &Reported, new_key: NewKey) -> Result<Self, Strange> {
        let key = account.key.id().to_string();
        let newest = Newest::of(account);
        let seen = Self { version: VERSION, key, newest: Some(newest.clone()) };
        let Some(before) = before else { return Ok(seen) };
        let gateway = account.gateway.clone();
        if before.key != seen.key {
            return if new_key == NewKey::Accepted { Ok(seen) } else { Err(Strange::OtherKey(gateway)) };
        }
        let Some(known) = before.newest else { return Ok(seen) };
        let store = |newest: &Newest| newest.epoch().map(|epoch| epoch.store);
        if store(&known) != store(&newest) {
            let other = Strange::OtherStore { gateway, epoch: newest.epoch, before: known.epoch };
            return if new_key == NewKey::Accepted { Ok(seen) } else { Err(other) };
        }
        if newest.is_before(&known) {
            return Err(Strange::Older { gateway, account: newest.words(), seen: known.words() });
        }
        Ok(seen)
    }
}

/// Whether an account is of the gateway that was seen under this name before, and not older than the newest that was seen. What is signed for a gateway
/// is made of what it reports, and a broker may give back anything that it ever had.
pub(super) fn look(keys: &KeyFolder, account: &Reported, new_key: NewKey) -> anyhow::Result<Result<(), Strange>> {
    let path = file(keys, &account.gateway);
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(parse(&text).with_context(|| format!("cannot read {}", path.display()))?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let known = before.as_ref().map(|before| before.key.clone());
    let seen = match Seen::and(before.clone(), account, new_key) {
        Ok(seen) => seen,
        Err(strange) => return Ok(Err(strange)),
    };
    match known {
        None => eprintln!("note: {} is new here; its key {} is remembered", account.gateway, &seen.key[..16]),
        Some(known) if known != seen.key => eprintln!("note: {} has another key than before", account.gateway),
        Some(_) => {}
    }
    if before.as_ref() != Some(&seen) {
        let folder = path.parent().context("a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        write_whole(&path, toml::to_string(&seen)?.as_bytes())?;
    }
    Ok(Ok(()))
}

fn file(keys: &KeyFolder, gateway: &str) -> PathBuf {
    keys.path().join("gateways").join(gateway)
}

fn parse(text: &str) -> anyhow::Result<Seen> {
    let key = text.trim();
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Seen { version: 1, key: key.to_owned(), newest: None });
    }
    let seen: Seen = toml::from_str(text)?;
    if seen.version != VERSION {
        bail!("version {} is of another porin; this one reads 1 and {VERSION}", seen.version);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use porin_core::{
        time::Unix,
        trust::{
            Key, Target,
            reported::{ClockWord, UpdateState},
        },
    };

    use super::*;

    fn account(key: u8, epoch: &str, at: u64, number: u64) -> Reported {
        Reported {
            gateway: "gw1".into(),
            key: Key([key; 32]),
            at: Unix(at),
            agent: "0".into(),
            epoch: epoch.into(),
            clock: ClockWord::Synchronised,
            fleet: "lab".into(),
            root_version: 1,
            groups: Vec::new(),
            board: None,
            nonce: None,
            known: vec![(Target::Gateway("gw1".into()), number)],
            desired: None,
            state: UpdateState::Local,
            reason: None,
            refused: None,
            refusals: 0,
            slots: Vec::new(),
            floors: Vec::new(),
            set: String::new(),
        }
    }

    const EPOCH: &str = "00000000000000aa-3";

    #[test]
    fn what_is_older_by_start_time_or_number_is_refused_and_named() {
        let before = Seen::and(None, &account(1, EPOCH, 1_000, 7), NewKey::Refused).expect("the first");
        let then = |account: &Reported| Seen::and(Some(before.clone()), account, NewKey::Refused);
        for newer in [
            account(1, EPOCH, 1_000, 7),
            account(1, EPOCH, 1_001, 7),
            account(1, "00000000000000aa-4", 1, 7),
            account(1, EPOCH, 1_000, 8),
        ] {
            assert!(then(&newer).is_ok(), "{newer:?}");
        }
        for older in [
            account(1, "00000000000000aa-2", 5_000, 7),
            account(1, EPOCH, 999, 9),
            account(1, EPOCH, 1_000, 6),
            account(1, "no epoch", 5_000, 7),
        ] {
            let strange = then(&older).expect_err("older");
            assert!(strange.to_string().contains("gw1"), "{strange}");
        }
    }

    #[test]
    fn another_key_or_store_is_taken_only_where_that_is_said() {
        let before = Seen::and(None, &account(1, EPOCH, 1_000, 7), NewKey::Refused).expect("the first");
        let key = account(2, "00000000000000bb-1", 1, 0);
        let store = account(1, "00000000000000bb-1", 1, 0);
        for other in [&key, &store] {
            assert!(Seen::and(Some(before.clone()), other, NewKey::Refused).is_err());
            let after = Seen::and(Some(before.clone()), other, NewKey::Accepted).expect("it was said");
            assert!(Seen::and(Some(after), &account(1, EPOCH, 1_000, 7), NewKey::Refused).is_err(), "the one before");
        }
    }

    #[test]
    fn every_version_of_the_file_is_read() {
        let key = account(1, EPOCH, 1_000, 7).key.id().to_string();
        let one = parse(&format!("{key}\n")).expect("version 1");
        assert_eq!((one.key.as_str(), &one.newest), (key.as_str(), &None));
        let two = Seen::and(Some(one), &account(1, EPOCH, 1_000, 7), NewKey::Refused).expect("the same key");
        let text = format!("version = 2\nkey = \"{key}\"\n\n[newest]\nepoch = \"{EPOCH}\"\nat_us = 1000\nnumber = 7\n");
        assert_eq!(toml::to_string(&two).expect("text"), text, "as it is on disks");
        assert_eq!(parse(&text).expect("version 2"), two);
        assert!(parse(&text.replace("version = 2", "version = 3")).is_err());
        assert!(parse("").is_err());
    }
}
