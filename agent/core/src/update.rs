//! Updates: from a signed desired state to the cells that run, step by step, or back.
//!
//! ```text
//! fetching → staged → shadow → canary → confirmed
//!     ↓         ↓        ↓        ↓
//!  rejected  rejected   rolled back
//! ```
//!
//! The whole set of routes and slots is exchanged, never a part of it. Each step is written down before it is done ([`Update::unsaved`]), and doing it
//! twice is harmless: whatever is cut short ends in the old set or the new one. This module decides; `porind` subscribes, writes, loads and runs.

mod arriving;
mod keeping;
pub mod probation;
mod reporting;
mod rows;
mod trying;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use self::rows::{Blocked, Failed, Number, Trial};
pub use self::{
    probation::{Compared, Verdict},
    rows::{Marker, PIECES, Row, Write, content, piece_key},
};
use crate::{
    config::{CellSet, Config, DesiredSet, Releases, Wanted, wanted},
    ids::Epoch,
    reason::{Code, Reason},
    status::SlotStatus,
    time::{Monotonic, Unix},
    trust::{self, Desired, Digest, Refusal, Root, Target, Time, Verified, reported::UpdateState},
};

/// Without a new part for so long, it is asked for again, and the next time after twice as long...
const STALL_US: u64 = 20_000_000;

/// ...and at the latest after this.
const MAX_STALL_US: u64 = 300_000_000;

/// Documents that do not count in a minute, before nothing is looked at for a while: checking a signature costs.
const MAX_REFUSALS: u32 = 10;
const MINUTE_US: u64 = 60_000_000;

/// A moment, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock that never steps.
    pub mono: Monotonic,
    /// What is known of the time.
    pub time: Time,
}

/// What has happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something was published on a topic that was asked for.
    Came {
        /// Where.
        topic: &'a str,
        /// What.
        payload: &'a [u8],
    },
    /// Everything that was to be saved is on the disk.
    Saved,
    /// The set that was to be staged runs beside the other, or does not. What its slots did on packets that were recorded, if there were any.
    Staged(Result<Vec<SlotStatus>, NotStaged>),
    /// What the two sets have done until now. The stage's clock is the machine's own.
    Compared {
        /// The new one's slots.
        new: &'a [SlotStatus],
        /// The old one's.
        old: &'a [SlotStatus],
    },
    /// As a canary the new set faulted where the old one did not, and the old one goes on: which slot, and how.
    FellBack(Reason),
    /// Time has passed, or the connection is there again.
    Tick,
}

/// Why a set does not run beside the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStaged {
    /// It never will.
    Unfit(Reason),
    /// The disk did not give what it has: to be tried again.
    NotNow,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Load and start the set beside the one that runs, or say why not.
    Stage(Box<DesiredSet>),
    /// From now on what the new set puts out is sent, and what the old one puts out is not.
    Switch,
    /// The new set alone runs on.
    Confirm,
    /// The old set alone runs on.
    Discard,
    /// Publish what was recorded of a route, under the number of the request.
    Send {
        /// The request's.
        seq: u64,
        /// Which.
        route: String,
        /// How far back, in microseconds.
        us: u64,
    },
    /// Tell whoever listens.
    Tell(Told),
}

/// A step of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A desired state counts.
    Accepted,
    /// A document does not count.
    Refused,
    /// A part does not come.
    Stalled,
    /// The new cells run beside the old ones, and are not sent.
    Shadow,
    /// They are sent, and the old ones run beside them.
    Canary,
    /// They are kept.
    Confirmed,
    /// They were never run.
    Rejected,
    /// The old ones go on.
    RolledBack,
    /// A newer desired state took its place.
    Superseded,
    /// A cell that was kept is called no more.
    Quarantined,
}

impl Step {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled-back",
            Self::Superseded => "superseded",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub step: Step,
    /// The number of the desired state that it is about.
    pub seq: Option<u64>,
    /// Why.
    pub reason: Option<Reason>,
}

/// Who this gateway is.
#[derive(Clone, Debug)]
pub struct Me {
    /// Its id.
    pub id: String,
    /// The groups it counts itself to, the one that wins first.
    pub groups: Vec<String>,
    /// The hardware it runs on.
    pub board: Option<String>,
    /// Drawn at this start, for a gateway that knows no numbers.
    pub nonce: [u8; 16],
}

/// What else is told of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its public key.
    pub key: trust::Key,
    /// Now.
    pub at: Unix,
    /// porin's version.
    pub agent: &'a str,
    /// This start.
    pub epoch: Epoch,
    /// What runs, and how it does.
    pub cells: &'a CellSet,
    /// By slot.
    pub slots: &'a [SlotStatus],
}

/// Why an agent cannot go on with what it finds on its disk, or with what its owner trusts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// The owner's root, or one that was taken up after it.
    #[error("root: {0}")]
    Root(Refusal),
    /// Written by a newer porin, or damaged.
    #[error("the row `{0}` of the store cannot be read")]
    Row(String),
}

/// How far the goal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is nothing to do.
    Settled,
    /// Parts are on their way: since when none has come, and after how long the next one is asked for again.
    Fetching { since: Monotonic, patience_us: u64, stalled: bool },
    /// Everything is here; the attempt is being written down.
    Ready,
    /// The shell loads and starts it.
    Staging,
    /// It runs beside the old one.
    Shadow { since: Monotonic },
    /// The old one runs beside it.
    Canary { since: Monotonic },
    /// It is well, and that is being written down.
    Confirming,
}

/// A desired state that was taken up, and its bytes: a digest is of these.
#[derive(Clone, Debug)]
struct Accepted {
    desired: Verified<Desired>,
    payload: Vec<u8>,
}

/// What a gateway knows of updates, and what it is doing about them.
#[derive(Debug)]
pub struct Update {
    me: Me,
    root: Verified<Root>,
    /// The root that the owner trusted when what is known was learnt.
    owner: Option<Digest>,
    /// What lay beside the store at the start, if a desired state was ever taken up here.
    marker: Option<Marker>,
    /// A group's desired state was taken up by a gateway that could not tell whether it is an old one.
    unproven: bool,
    /// By target: the number that was taken up last, and whose it was.
    numbers: BTreeMap<Target, Number>,
    /// By target: what was taken up last.
    accepted: BTreeMap<Target, Accepted>,
    /// Rises when desired states that were not taken up may be by now.
    again: u32,
    /// One came while another was being written down.
    skipped: bool,
    confirmed: Option<Verified<Desired>>,
    failed: Option<Failed>,
    blocked: BTreeMap<(String, Digest), Blocked>,
    floors: BTreeMap<String, u64>,
    /// Envelopes of releases.
    releases: BTreeMap<Digest, Vec<u8>>,
    pieces: BTreeSet<(Digest, u32)>,
    /// The attempts at the goal that were begun, and whether the last one ended inside a cell.
    trial: Option<Trial>,
    crashed: bool,
    phase: Phase,
    /// What the goal wants, and what of it has been checked.
    wanted: Vec<Wanted>,
    checked: Releases,
    /// What came out of the two sets in the last stage that was passed.
    compared: Option<String>,
    /// The goal, once everything is here.
    set: Option<DesiredSet>,
    /// What runs when nothing is on probation.
    running: CellSet,
    /// What the owner has configured.
    local: CellSet,
    inconsistent: Option<Reason>,
    refused: Option<Reason>,
    /// The number of the last request.
    requested: u64,
    /// Documents that were refused in this minute, and when it began.
    refusals: (u32, Monotonic),
    all_refusals: u64,
    /// Something was not looked at because of them.
    overwhelmed: bool,
    /// The latest time at which a document that counts was made: it is at least as late.
    issued: Unix,
    /// Rises when something is to be asked for again.
    generation: u32,
    unsaved: Vec<Write>,
    saving: Option<Vec<Write>>,
}

impl Update {
    /// It is at least this late: a document that counts was made then.
    #[must_use]
    pub fn issued(&self) -> Unix {
        self.issued
    }

    /// Whether two sets run.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        matches!(self.phase, Phase::Staging | Phase::Shadow { .. } | Phase::Canary { .. } | Phase::Confirming)
    }

    /// Whether what is saved next says that the new set is kept.
    #[must_use]
    pub fn is_confirming(&self) -> bool {
        self.phase == Phase::Confirming
    }

    /// The numbers that the root has reached.
    #[must_use]
    pub fn root(&self) -> &Verified<Root> {
        &self.root
    }

    /// Decides what follows from an event.
    pub fn step(&mut self, now: Moment, config: &Config, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Came { topic, payload } => self.came(now, topic, payload, &mut actions),
            Event::Saved => {
                self.saving = None;
                if self.phase == Phase::Confirming && self.unsaved.is_empty() {
                    self.confirmed(&mut actions);
                    self.again = self.again.wrapping_add(u32::from(core::mem::take(&mut self.skipped)));
                }
            }
            Event::Staged(outcome) => {
                self.staged(now, outcome, &mut actions);
                // Not at once again: with the next tick.
                if self.phase == Phase::Ready {
                    return actions;
                }
            }
            Event::Compared { new, old } => self.compared(now, new, old, &mut actions),
            Event::FellBack(reason) => {
                if let Phase::Canary { .. } = self.phase {
                    self.fail(UpdateState::RolledBack, reason, &mut actions);
                }
            }
            Event::Tick => {}
        }
        self.go_on(now, config, &mut actions);
        actions
    }

    /// The desired state that counts: the gateway's own, unless it says nothing; then that of its first group that has one.
    fn goal(&self) -> Option<&Accepted> {
        self.targets().find_map(|target| self.accepted.get(&target).filter(|accepted| !accepted.desired.set.is_empty()))
    }

    /// Whether this is what runs and is kept.
    fn keeps(&self, desired: Digest) -> bool {
        self.inconsistent.is_none() && self.confirmed.as_ref().is_some_and(|kept| kept.digest() == desired)
    }

    /// Starts on the goal, if there is anything to do about it.
    fn begin(&mut self, now: Moment) {
        (self.phase, self.compared) = (Phase::Settled, None);
        (self.wanted, self.checked) = (Vec::new(), Releases::new());
        let Some(goal) = self.goal() else { return };
        let digest = goal.desired.digest();
        let kept = self.keeps(digest);
        let failed = self.failed.as_ref().is_some_and(|failed| failed.desired == digest);
        if !kept && !failed {
            self.phase = Phase::Fetching { since: now.mono, patience_us: STALL_US, stalled: false };
        }
    }

    /// Does what can be done without anything more coming.
    fn go_on(&mut self, now: Moment, config: &Config, actions: &mut Vec<Action>) {
        if self.overwhelmed && !self.is_overwhelmed(now.mono) {
            // Among what was not looked at may have been something good.
            self.overwhelmed = false;
            self.again = self.again.wrapping_add(1);
            self.generation = self.generation.wrapping_add(1);
        }
        if self.phase == Phase::Settled {
            self.begin(now);
        }
        if let Phase::Fetching { since, patience_us, stalled } = self.phase {
            if self.wanted.is_empty() && !self.read_goal(now, actions) {
                return;
            }
            if self.missing().is_none() {
                self.ready(config, actions);
            } else if now.mono.since(since) >= patience_us {
                self.generation = self.generation.wrapping_add(1);
                let patience_us = (patience_us * 2).min(MAX_STALL_US);
                if !stalled {
                    actions.push(self.told(Step::Stalled, None));
                }
                self.phase = Phase::Fetching { since: now.mono, patience_us, stalled: true };
            }
        }
        if self.phase == Phase::Ready
            && self.unsaved.is_empty()
            && self.saving.is_none()
            && let Some(set) = &self.set
        {
            self.phase = Phase::Staging;
            actions.push(Action::Stage(Box::new(set.clone())));
        }
    }

    /// What the goal wants. `false`: it cannot be done.
    fn read_goal(&mut self, now: Moment, actions: &mut Vec<Action>) -> bool {
        let Some(goal) = self.goal() else { return false };
        let wanted = match wanted(&goal.desired.set) {
            Ok(wanted) => wanted,
            Err(error) => {
                self.fail(UpdateState::Rejected, Reason::new(Code::BadSet, &error.to_string()), actions);
                return false;
            }
        };
        for wanted in &wanted {
            let Some(release) = wanted.release else { continue };
            if let Some(Blocked { retry, reason }) = self.blocked.get(&(wanted.slot.clone(), release))
                && wanted.retry <= *retry
            {
                let text = format!("it was rolled back ({reason}), and `retry` has not risen above {retry}");
                self.fail(UpdateState::Rejected, Reason::new(Code::Blocked, &text).of(&wanted.slot), actions);
                return false;
            }
        }
        // Those that are here are checked again: keys and floors may have changed since.
        for wanted in &wanted {
            let known = wanted.release.and_then(|release| self.releases.get(&release)).cloned();
            if let Some(envelope) = known
                && let Err(refusal) = self.check_release(now, &envelope, wanted)
            {
                // By keys that count no more: it may have been signed again.
                if matches!(refusal, Refusal::TooFewSignatures { .. }) {
                    continue;
                }
                let reason = Reason::new(refusal.code(), &refusal.to_string()).of(&wanted.slot);
                self.fail(UpdateState::Rejected, reason, actions);
                return false;
            }
        }
        self.wanted = wanted;
        true
    }

    fn told(&self, step: Step, reason: Option<Reason>) -> Action {
        Action::Tell(Told { step, seq: self.goal().map(|goal| goal.desired.seq), reason })
    }
}

#[cfg(test)]
mod tests;
