//! The desired states that were signed on this machine: for numbers that rise, and for a way back.
//!
//! `<number>.signed` was published, `<number>` was kept by a gateway, `<number>.refused` by none. `<number>.back` says which number a rollback went back to.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::PathBuf};

use anyhow::Context;
use porin_core::trust::{self, Desired, Envelope, Reported, Role, Target, Verified, reported::UpdateState};
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

    /// Everything that was signed in this folder, for whomever, and did not come to nothing.
    pub(crate) fn all(keys: &KeyFolder) -> Vec<Desired> {
        let targets = fs::read_dir(keys.path().join("desired")).into_iter().flatten().map_while(Result::ok);
        let envelopes = targets.flat_map(|target| Self(target.path()).envelopes(|name| !name.ends_with(".refused")));
        envelopes.filter_map(|(_, envelope)| document(&envelope)).collect()
    }

    /// By number, those whose files' names are wanted.
    fn envelopes(&self, wanted: impl Fn(&str) -> bool) -> Vec<(u64, Envelope)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let read = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok().filter(|name| wanted(name))?;
            let number = name.split('.').next()?.parse().ok()?;
            Some((number, Envelope::decode(&fs::read(entry.path()).ok()?).ok()?))
        };
        entries.filter_map(read).collect()
    }

    /// Those that a gateway has kept and that say something, the newest first.
    fn kept(&self) -> Vec<Desired> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let mut numbers: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        let read = |number: u64| document(&Envelope::decode(&fs::read(self.file(number)).ok()?).ok()?);
        numbers.into_iter().rev().filter_map(read).filter(|desired| !desired.set.is_empty()).collect()
    }

    fn file(&self, seq: u64) -> PathBuf {
        self.0.join(seq.to_string())
    }

    /// Whether nothing was signed here that says something.
    pub(super) fn is_empty(&self) -> bool {
        self.envelopes(|_| true)
            .iter()
            .filter_map(|(_, envelope)| document(envelope))
            .all(|desired| desired.set.is_empty())
    }

    /// The highest number that was signed with keys that count, whatever became of it.
    pub(super) fn newest(&self, operator: &Role) -> Option<u64> {
        let counts = |envelope: &Envelope| envelope.signers(&operator.keys) >= usize::from(operator.threshold);
        self.envelopes(|_| true).into_iter().filter(|(_, envelope)| counts(envelope)).map(|(number, _)| number).max()
    }

    /// The newest that was published from here and did not come to nothing.
    pub(super) fn newest_set(&self) -> Option<Desired> {
        // Number 0 is what the owner had configured before the first.
        let published =
            self.envelopes(|name| !name.ends_with(".refused")).into_iter().filter(|(number, _)| *number > 0);
        published.max_by_key(|(number, _)| *number).and_then(|(_, envelope)| document(&envelope))
    }

    /// Writes down how those ended that were not waited for long enough.
    pub(super) fn settle(&self, target: &Target, members: &BTreeMap<String, Verified<Reported>>) -> anyhow::Result<()> {
        let mut ends: BTreeMap<u64, Vec<Option<bool>>> = BTreeMap::new();
        for account in members.values() {
            let Some((_, number)) = account.desired.as_ref().filter(|(of, _)| of == target) else { continue };
            let kept = account.state == UpdateState::Confirmed;
            ends.entry(*number).or_default().push((!account.state.is_under_way()).then_some(kept));
        }
        for (number, ends) in ends {
            if ends.contains(&Some(true)) {
                self.confirmed(number)?;
            } else if !ends.contains(&None) {
                self.refused(number)?;
            }
        }
        Ok(())
    }

    /// It is about to be published.
    pub(super) fn keep(&self, seq: u64, signed: &[u8]) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        write_whole(&self.file(seq).with_extension("signed"), signed)
    }

    /// A gateway has kept it.
    pub(super) fn confirmed(&self, seq: u64) -> anyhow::Result<()> {
        self.becomes(seq, self.file(seq))
    }

    /// It came to nothing: no way back leads to it.
    pub(super) fn refused(&self, seq: u64) -> anyhow::Result<()> {
        self.becomes(seq, self.file(seq).with_extension("refused"))
    }

    fn becomes(&self, seq: u64, path: PathBuf) -> anyhow::Result<()> {
        match fs::rename(self.file(seq).with_extension("signed"), &path) {
            // Signed elsewhere, or known already.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.with_context(|| format!("renaming to {}", path.display())),
        }
    }

    /// A number went back to another one, in a slot or in all of it: the next time it goes further back.
    pub(crate) fn went_back(&self, seq: u64, slot: Option<&str>, to: u64) -> anyhow::Result<()> {
        write_whole(&self.file(seq).with_extension("back"), format!("{to} {}\n", slot.unwrap_or_default()).as_bytes())
    }

    /// What a number went back to in this slot, if it was made for that.
    fn back_of(&self, seq: u64, slot: Option<&str>) -> Option<u64> {
        let text = fs::read_to_string(self.file(seq).with_extension("back")).ok()?;
        let (to, of) = text.trim_end_matches('\n').split_once(' ')?;
        (of == slot.unwrap_or_default()).then(|| to.parse().ok())?
    }

    /// What ran before what says this: the newest kept one in which something is otherwise, all of it or a slot.
    pub(crate) fn before(&self, text: &str, slot: Option<&str>) -> Option<Desired> {
        let (kept, newest) = (self.kept(), self.newest_set());
        // One that is on its way yet is no kept one.
        let known = kept.iter().chain(newest.as_ref()).find(|desired| is_same(&desired.set, text));
        let mut this = known?.seq;
        while let Some(back) = self.back_of(this, slot).filter(|back| *back < this) {
            this = back;
        }
        let part = |text: &str| match slot {
            None => Some(Value::from(meaning(text))),
            Some(slot) => meaning(text).get("slots")?.get(slot).cloned(),
        };
        let now = part(text);
        let older = kept.into_iter().filter(|desired| desired.seq < this);
        older.into_iter().find(|desired| part(&desired.set).is_some_and(|before| Some(before) != now))
    }
}

fn document(envelope: &Envelope) -> Option<Desired> {
    Some((*trust::recall::<Desired>(&envelope.payload).ok()?).clone())
}
