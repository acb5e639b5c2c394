//! What a gateway says of itself: what it runs, what it is doing about what it is to run, and why not.
//!
//! Retained by the broker and replaced whole: the latest is the one that counts. It is signed by the gateway's own key, which it names: nobody vouches for
//! that key but whoever has seen it before.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{
    Digest, DocumentKind, Key, Target,
    documents::{Document, MAX_NAMES, MAX_SET, are_names, ensure, is_name},
};
use crate::{
    reason::{MAX_TEXT, Reason},
    time::Unix,
    words::Word,
};

/// Slots and floors that are told of. More do not fit into a desired state.
const MAX_LIST: usize = 128;

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Its id.
    pub gateway: String,
    /// Its public key.
    pub key: Key,
    /// When it said so, by its own clock.
    pub at: Unix,
    /// porin's version.
    pub agent: String,
    /// `<store>-<starts>`.
    pub epoch: String,
    /// What its clock is worth.
    pub clock: ClockWord,
    /// The fleet of its root.
    pub fleet: String,
    /// The root that it goes by.
    pub root_version: u64,
    /// The groups that it counts itself to.
    pub groups: Vec<String>,
    /// The hardware it runs on, if its configuration says so.
    pub board: Option<String>,
    /// It knows no numbers: only a desired state that gives this back counts.
    pub nonce: Option<[u8; 16]>,
    /// The numbers of the desired states that it has taken up last, by target.
    pub known: Vec<(Target, u64)>,
    /// The desired state that it goes by; `None`: its own configuration.
    pub desired: Option<(Target, u64)>,
    /// What it is doing about it.
    pub state: UpdateState,
    /// Why that came to nothing, or why nothing goes on.
    pub reason: Option<Reason>,
    /// Why the last document that did not count did not.
    pub refused: Option<Reason>,
    /// Documents that did not count since the start.
    pub refusals: u64,
    /// What runs, by slot.
    pub slots: Vec<SlotReport>,
    /// The lowest numbers that may run, by cell.
    pub floors: Vec<(String, u64)>,
    /// `[routes]` and `[slots]` of what runs.
    pub set: String,
}

/// What a clock is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockWord {
    /// It is believed.
    Synchronised,
    /// It is at least this late.
    Floor,
}

/// What a gateway is doing about its desired state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// There is none: the owner's configuration runs.
    #[default]
    Local,
    /// Parts of it are on their way.
    Fetching,
    /// A part does not come.
    Stalled,
    /// Everything is here, and made ready.
    Staged,
    /// It runs beside the old one, and is not sent.
    Shadow,
    /// It is sent, and the old one runs beside it.
    Canary,
    /// It is kept.
    Confirmed,
    /// It was never run.
    Rejected,
    /// It ran on probation and did not keep up; the old one runs.
    RolledBack,
    /// What was kept cannot be run any more; the owner's configuration runs.
    Inconsistent,
}

impl UpdateState {
    /// Whether it has not come to an end.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        match self {
            Self::Fetching | Self::Stalled | Self::Staged | Self::Shadow | Self::Canary => true,
            Self::Local | Self::Confirmed | Self::Rejected | Self::RolledBack | Self::Inconsistent => false,
        }
    }
}

impl UpdateState {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.word()
    }
}

impl Word for UpdateState {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("local", Self::Local),
        ("fetching", Self::Fetching),
        ("stalled", Self::Stalled),
        ("staged", Self::Staged),
        ("shadow", Self::Shadow),
        ("canary", Self::Canary),
        ("confirmed", Self::Confirmed),
        ("rejected", Self::Rejected),
        ("rolled-back", Self::RolledBack),
        ("inconsistent", Self::Inconsistent),
    ];
}

fn check_reason(reason: &Reason) -> Result<(), &'static str> {
    let slot = reason.slot.as_deref().is_none_or(|slot| slot.len() <= 100);
    ensure(is_name(reason.code.word()) && reason.text.len() <= MAX_TEXT && slot, "a reason")
}

/// What runs in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// Its name.
    pub name: String,
    /// Of the component's bytes.
    pub sha256: Digest,
    /// Whether its cell is called: `running`, `back-off` or `quarantined`.
    pub state: String,
    /// The release in it; `None`: the owner's own component.
    pub release: Option<ReleaseReport>,
    /// Why its cell did not take over what the one before it had learnt, if it did not.
    pub fresh: Option<String>,
}

/// A release, as a gateway names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReport {
    /// Its name.
    pub digest: Digest,
    /// The cell's.
    pub cell: String,
    /// Its version, for people.
    pub semver: String,
    /// Its number.
    pub seq: u64,
}

impl Document for Reported {
    const KIND: DocumentKind = DocumentKind::Reported;

    fn check(&self) -> Result<(), &'static str> {
        ensure(is_name(&self.gateway) && is_name(&self.fleet), "a gateway's and a fleet's name")?;
        // They end up on terminals.
        let reasons =
            self.reason.iter().chain(&self.refused).flat_map(|reason| [Some(&reason.text), reason.slot.as_ref()]);
        let slots = self.slots.iter().flat_map(|slot| {
            let semver = slot.release.as_ref().map(|release| &release.semver);
            [Some(&slot.name), Some(&slot.state), slot.fresh.as_ref(), semver]
        });
        let texts = [Some(&self.agent), Some(&self.epoch)].into_iter().chain(reasons).chain(slots).flatten();
        ensure(!texts.flat_map(|text| text.chars()).any(char::is_control), "plain texts")?;
        ensure(!self.set.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "a plain set")?;
        ensure(self.agent.len() <= 63 && self.epoch.len() <= 63, "a version and an epoch")?;
        ensure(are_names(&self.groups, is_name), "a list of groups")?;
        ensure(self.board.as_deref().is_none_or(is_name), "a board")?;
        ensure(self.known.len() <= MAX_NAMES + 1, "a list of numbers")?;
        ensure(self.slots.len() <= MAX_LIST && self.floors.len() <= MAX_LIST, "lists of slots and floors")?;
        ensure(self.set.len() <= MAX_SET, "12,288 bytes of routes and slots")?;
        let targets = self.known.iter().chain(&self.desired);
        let named = |(Target::Gateway(name) | Target::Group(name), _): &(Target, u64)| is_name(name);
        ensure(targets.into_iter().all(named), "a target's name")?;
        ensure(self.floors.iter().all(|(cell, _)| is_name(cell)), "a cell's name")?;
        self.reason.iter().chain(&self.refused).try_for_each(check_reason)?;
        self.slots.iter().try_for_each(|slot| {
            ensure(slot.name.len() <= 100 && slot.state.len() <= 63, "a slot's name and state")?;
            ensure(slot.fresh.as_ref().is_none_or(|reason| reason.len() <= MAX_TEXT), "a cell's reason")?;
            let release = slot.release.as_ref();
            ensure(release.is_none_or(|release| is_name(&release.cell) && release.semver.len() <= 63), "a release")
        })
    }
}
