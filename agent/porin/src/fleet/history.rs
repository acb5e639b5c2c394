//! The desired states that were signed on this machine: for numbers that rise, and for a way back.

use std::{fs, path::PathBuf};

use anyhow::Context;
use porin_core::trust::{self, Desired, Envelope, Role, Target};
use toml::Value;

use super::{is_same, meaning};
use crate::keys::{KeyFolder, write_whole};

/// The desired states for a target that were signed here.
pub(crate) struct History(PathBuf);

impl History {
    pub(crate) fn of(keys: &KeyFolder, target: &Target) -> Self {
        let folder = match target {
            Target::Gateway(id) => format!("gw-{id}"),
            Target::Group(group) => format!("group-{group}"),
        };
        Self(keys.path().join("desired").join(folder))
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let mut numbers: Vec<_> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whether nothing was signed here that says something.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers().into_iter().filter_map(|number| self.read(number)).all(|desired| desired.set.is_empty())
    }

    /// The highest number that was signed with keys that count, whatever became of it.
    pub(super) fn newest(&self, operator: &Role) -> Option<u64> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let signed = entries.filter(|entry| {
            let envelope = fs::read(entry.path()).ok().and_then(|bytes| Envelope::decode(&bytes).ok());
            envelope.is_some_and(|envelope| envelope.signers(&operator.keys) >= usize::from(operator.threshold))
        });
        signed.filter_map(|entry| entry.file_name().to_str()?.split('.').next()?.parse().ok()).max()
    }

    fn read(&self, number: u64) -> Option<Desired> {
        let envelope = Envelope::decode(&fs::read(self.0.join(number.to_string())).ok()?).ok()?;
        Some((*trust::recall::<Desired>(&envelope.payload).ok()?).clone())
    }

    /// Everything that was signed in this folder, for whomever.
    pub(crate) fn all(keys: &KeyFolder) -> Vec<Desired> {
        let targets = fs::read_dir(keys.path().join("desired")).into_iter().flatten().map_while(Result::ok);
        let histories = targets.map(|target| Self(target.path()));
        histories
            .flat_map(|history| history.numbers().into_iter().filter_map(move |number| history.read(number)))
            .collect()
    }

    /// It came to nothing: no way back leads to it.
    pub(super) fn refused(&self, seq: u64) -> anyhow::Result<()> {
        let path = self.0.join(seq.to_string());
        fs::rename(&path, path.with_extension("refused")).with_context(|| format!("renaming {}", path.display()))
    }

    pub(super) fn keep(&self, seq: u64, signed: &[u8]) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        write_whole(&self.0.join(seq.to_string()), signed)
    }

    /// The newest desired state before the first that says this, in which something is otherwise: all of it, or a slot. Going back again goes further
    /// back, never forth.
    pub(crate) fn before(&self, text: &str, slot: Option<&str>) -> Option<Desired> {
        let newest_first = self.numbers().into_iter().rev().filter_map(|number| self.read(number));
        let all: Vec<_> = newest_first.filter(|desired| !desired.set.is_empty()).collect();
        let this = all.iter().rposition(|desired| is_same(&desired.set, text))?;
        let part = |text: &str| match slot {
            None => Some(Value::from(meaning(text))),
            Some(slot) => meaning(text).get("slots")?.get(slot).cloned(),
        };
        let now = part(text);
        all.into_iter().skip(this).find(|desired| part(&desired.set).is_some_and(|before| Some(before) != now))
    }
}
