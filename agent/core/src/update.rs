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

pub mod probation;
mod rows;

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use self::rows::{Blocked, Failed, Key, Number, Trial, target_name};
pub use self::{
    probation::{Compared, Verdict},
    rows::{PIECES, Row, Write, content, piece_key},
};
use crate::{
    config::{CellSet, Config, DesiredSet, Probation, Provenance, Releases, Slot, Wanted, wanted},
    ids::Epoch,
    setup::World,
    status::SlotStatus,
    time::{Monotonic, Unix},
    trust::{
        self, Desired, Digest, Envelope, Gateway, Refusal, Release, Reported, Root, Target, Time, Verified,
        documents::PIECE,
        reported::{ClockWord, Reason, ReleaseReport, SlotReport, UpdateState},
    },
};

/// Starts of a trial that may be cut short: a power cut or two are nobody's fault.
const MAX_ATTEMPTS: u8 = 3;

/// Without a new part for so long, it is asked for again, and the next time after twice as long...
const STALL_US: u64 = 20_000_000;

/// ...and at the latest after this.
const MAX_STALL_US: u64 = 300_000_000;

/// Documents that do not count in a minute, before nothing is looked at for a while: checking a signature costs.
const MAX_REFUSALS: u32 = 10;
const MINUTE_US: u64 = 60_000_000;

/// Linear memory that the cells of a set may use together. During probation there are two sets.
const MEMORY_BYTES: usize = 32 << 20;

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
    /// Tell whoever listens.
    Tell(Told),
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// `accepted`, `refused`, `shadow`, `canary`, `confirmed`, `rejected`, `rolled-back`, `superseded`, `stalled`; of a cell that is kept: `quarantined`.
    pub what: &'static str,
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
    /// The goal, once everything is here.
    set: Option<DesiredSet>,
    /// What runs when nothing is on probation.
    running: CellSet,
    /// What the owner has configured.
    local: CellSet,
    inconsistent: Option<Reason>,
    refused: Option<Reason>,
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
    /// What was known, from the rows of the store; bytes of pieces are not needed. `pinned`: the owner's root. `crashed`: the last start ended within a
    /// call into a cell on probation.
    ///
    /// # Errors
    /// If the root is none, or a row cannot be read.
    pub fn recall(me: Me, pinned: &[u8], rows: &[Row], crashed: bool, local: CellSet) -> Result<Self, RecallError> {
        let root = trust::pinned_root(pinned).map_err(RecallError::Root)?;
        let mut update = Self {
            me,
            root,
            numbers: BTreeMap::new(),
            accepted: BTreeMap::new(),
            again: 0,
            skipped: false,
            confirmed: None,
            failed: None,
            blocked: BTreeMap::new(),
            floors: BTreeMap::new(),
            releases: BTreeMap::new(),
            pieces: BTreeSet::new(),
            trial: None,
            crashed,
            phase: Phase::Settled,
            wanted: Vec::new(),
            checked: Releases::new(),
            set: None,
            running: local.clone(),
            local,
            inconsistent: None,
            refused: None,
            refusals: (0, Monotonic(0)),
            all_refusals: 0,
            overwhelmed: false,
            issued: Unix(0),
            generation: 0,
            unsaved: Vec::new(),
            saving: None,
        };
        let mut roots = BTreeMap::new();
        for (name, value) in rows {
            let Some(key) = Key::read(name) else { continue };
            let unreadable = || RecallError::Row(name.clone());
            // The bytes of a piece are not among what was read.
            let is_piece = matches!(key, Key::Piece(..));
            let bytes = if is_piece { &[] } else { content(value).ok_or_else(unreadable)? };
            update.recall_row(key, bytes, &mut roots).ok_or_else(unreadable)?;
        }
        let mut chain = update.root.clone();
        let later = roots.range(chain.version.saturating_add(1)..);
        let followed = later.clone().try_for_each(|(_, envelope)| {
            chain = trust::next_root(&chain, envelope)?;
            Ok::<_, Refusal>(())
        });
        if followed.is_ok() {
            update.root = chain;
        } else {
            // The owner has put another one there, and that is the one that counts: numbers of others mean nothing under it.
            update.unsaved.extend(later.map(|(version, _)| Key::Root(*version).delete()));
            let numbers = core::mem::take(&mut update.numbers).into_keys();
            update.unsaved.extend(numbers.map(|target| Key::Number(target).delete()));
        }
        Ok(update)
    }

    fn recall_row(&mut self, key: Key, bytes: &[u8], roots: &mut BTreeMap<u64, Vec<u8>>) -> Option<()> {
        match key {
            Key::Root(version) => drop(roots.insert(version, bytes.to_vec())),
            Key::Desired(target) => {
                let desired: Verified<Desired> = trust::recall(bytes).ok()?;
                self.issued = self.issued.max(desired.issued);
                self.accepted.insert(target, Accepted { desired, payload: bytes.to_vec() });
            }
            Key::Number(target) => drop(self.numbers.insert(target, postcard::from_bytes(bytes).ok()?)),
            Key::Confirmed => self.confirmed = Some(trust::recall(bytes).ok()?),
            Key::Failed => self.failed = Some(postcard::from_bytes(bytes).ok()?),
            Key::Trial => self.trial = Some(postcard::from_bytes(bytes).ok()?),
            Key::Release(digest) => drop(self.releases.insert(digest, bytes.to_vec())),
            Key::Piece(component, piece) => drop(self.pieces.insert((component, piece))),
            Key::Floor(cell) => drop(self.floors.insert(cell, postcard::from_bytes(bytes).ok()?)),
            Key::Blocked(slot, release) => {
                drop(self.blocked.insert((slot, release), postcard::from_bytes(bytes).ok()?));
            }
        }
        Some(())
    }

    /// The cells that are kept, to be started with: the confirmed desired state, or what the owner has configured.
    pub fn kept(&mut self, config: &Config) -> CellSet {
        match self.kept_with(config, &self.local) {
            Ok(cells) => self.running = cells,
            Err(reason) => self.inconsistent(&reason.text),
        }
        self.running.clone()
    }

    /// The same if the owner had configured this.
    ///
    /// # Errors
    /// If the confirmed desired state cannot be run with that.
    pub fn kept_with(&self, config: &Config, local: &CellSet) -> Result<CellSet, Reason> {
        let Some(confirmed) = self.confirmed.as_ref().filter(|_| self.inconsistent.is_none()) else {
            return Ok(local.clone());
        };
        let known = |digest: &Digest| {
            let payload = Envelope::decode(self.releases.get(digest)?).ok()?.payload;
            Some((*digest, Arc::new(trust::recall::<Release>(&payload).ok()?)))
        };
        let wanted = wanted(&confirmed.set).unwrap_or_default();
        let releases = wanted.iter().filter_map(|wanted| known(wanted.release.as_ref()?)).collect();
        let set = DesiredSet::parse(&confirmed.set, &config.gateway, local, &releases);
        set.map(|set| set.cells).map_err(|error| Reason::new("inconsistent", &error.to_string()))
    }

    /// What is kept cannot be run any more.
    pub fn inconsistent(&mut self, why: &str) {
        self.inconsistent = Some(Reason::new("inconsistent", why));
        self.running = self.local.clone();
    }

    /// The owner's configuration has changed. What comes from a desired state stays.
    pub fn reconfigured(&mut self, local: CellSet, running: CellSet) {
        (self.local, self.running) = (local, running);
        // What was about to be staged was read with the old one.
        self.set = None;
        self.phase = Phase::Settled;
    }

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

    /// The topics that are to be subscribed to, each with a count that rises when what is retained there is to be sent again.
    #[must_use]
    pub fn topics(&self) -> Vec<(String, u32)> {
        let mut topics =
            alloc::vec![(format!("porin/v1/fleet/root/{}", self.root.version.saturating_add(1)), self.again)];
        let desired = self.targets().map(|target| (format!("porin/v1/{}/desired", target_name(&target)), self.again));
        topics.extend(desired);
        if let Phase::Fetching { .. } = self.phase {
            topics.extend(self.missing().map(|topic| (topic, self.generation)));
        }
        topics
    }

    /// Where the next missing part of the goal is: releases first, then one piece after the other.
    fn missing(&self) -> Option<String> {
        let mut releases = self.wanted.iter().filter_map(|wanted| wanted.release);
        if let Some(release) = releases.find(|release| !self.checked.contains_key(release)) {
            return Some(format!("porin/v1/fleet/rel/{release}"));
        }
        let (component, piece, _) = self.missing_piece()?;
        Some(format!("porin/v1/fleet/blob/{component}/{piece}"))
    }

    /// Component, number and digest.
    fn missing_piece(&self) -> Option<(Digest, u32, Digest)> {
        self.checked.values().find_map(|release| {
            let pieces = (0..).zip(&release.pieces);
            let mut missing = pieces.filter(|(piece, _)| !self.pieces.contains(&(release.sha256, *piece)));
            missing.next().map(|(piece, digest)| (release.sha256, piece, *digest))
        })
    }

    /// What is to be written with the next commit. [`Event::Saved`] says that it was, [`Update::not_saved`] that it was not.
    pub fn unsaved(&mut self) -> Vec<Write> {
        let writes = core::mem::take(&mut self.unsaved);
        if !writes.is_empty() {
            self.saving = Some(writes.clone());
        }
        writes
    }

    /// Whether anything waits to be written.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// It is to be written again.
    pub fn not_saved(&mut self) {
        let later = core::mem::take(&mut self.unsaved);
        self.unsaved = self.saving.take().unwrap_or_default();
        self.unsaved.extend(later);
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
            Event::Tick => {}
        }
        self.go_on(now, config, &mut actions);
        actions
    }

    fn came(&mut self, now: Moment, topic: &str, payload: &[u8], actions: &mut Vec<Action>) {
        // A retained document that was cleared.
        if payload.is_empty() {
            return;
        }
        if self.is_overwhelmed(now.mono) {
            self.overwhelmed = true;
            return;
        }
        let Some(rest) = topic.strip_prefix("porin/v1/") else { return };
        let outcome = match rest.split('/').collect::<Vec<_>>()[..] {
            ["gw", id, "desired"] => self.desired(now, Target::Gateway(id.into()), payload, actions),
            ["group", group, "desired"] => self.desired(now, Target::Group(group.into()), payload, actions),
            ["fleet", "root", _] => self.next_root(payload),
            ["fleet", "rel", _] => self.release(now, payload, actions),
            ["fleet", "blob", component, piece] => self.piece(now, component, piece, payload),
            _ => return,
        };
        let Err(refusal) = outcome else { return };
        self.refusals.0 = self.refusals.0.saturating_add(1);
        self.all_refusals += 1;
        let reason = Reason::new(refusal.code(), &refusal.to_string());
        // A hostile broker may say the same for ever.
        if self.refused.replace(reason.clone()).as_ref() != Some(&reason) {
            actions.push(Action::Tell(Told { what: "refused", seq: None, reason: Some(reason) }));
        }
    }

    /// Whether too much that does not count has come lately.
    fn is_overwhelmed(&mut self, now: Monotonic) -> bool {
        if now.since(self.refusals.1) >= MINUTE_US {
            self.refusals = (0, now);
        }
        self.refusals.0 >= MAX_REFUSALS
    }

    fn desired(
        &mut self,
        now: Moment,
        target: Target,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let ours = self.targets().any(|ours| ours == target);
        if !ours {
            return Err(Refusal::OtherGateway(target_name(&target)));
        }
        let envelope = Envelope::decode(payload)?;
        let digest = envelope.digest();
        let known = self.numbers.get(&target).copied();
        // Retained: it comes again with every connection, also when its time is over.
        if known.is_some_and(|Number(_, same)| same == digest) {
            return Ok(());
        }
        if self.phase == Phase::Confirming {
            self.skipped = true;
            return Ok(());
        }
        let Me { id, groups, board, nonce } = &self.me;
        // Who has taken up anything knows what is older.
        let nonce = self.accepted.is_empty().then_some(*nonce);
        let gateway = Gateway { id, groups, board: board.as_deref(), nonce };
        let known = known.map(|Number(seq, digest)| (seq, digest));
        let desired = trust::desired(&self.root, payload, known, now.time, gateway)?;
        if desired.target != target {
            return Err(Refusal::OtherGateway(target_name(&desired.target)));
        }
        let number = Number(desired.seq, desired.digest());
        self.unsaved.push(Key::Number(target.clone()).put_value(&number));
        self.unsaved.push(Key::Desired(target.clone()).put(&envelope.payload));
        self.numbers.insert(target.clone(), number);
        let seq = Some(desired.seq);
        // Those of groups had to wait for this.
        self.again = self.again.wrapping_add(u32::from(self.accepted.is_empty()));
        self.issued = self.issued.max(desired.issued);
        self.accepted.insert(target, Accepted { desired, payload: envelope.payload });
        self.refused = None;
        actions.push(Action::Tell(Told { what: "accepted", seq, reason: None }));
        // A group's may change nothing for a gateway that has one of its own.
        let goal = self.goal().map(|goal| goal.desired.digest());
        if self.trial.map(|trial| trial.desired) != goal || self.phase == Phase::Settled {
            if self.is_trying() {
                actions.push(Action::Discard);
                actions.push(Action::Tell(Told { what: "superseded", seq, reason: None }));
            }
            self.set = None;
            self.begin(now);
            self.forget();
        }
        Ok(())
    }

    /// Whom desired states are for that this gateway looks at, the one that wins first.
    fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let groups = self.me.groups.iter().map(|group| Target::Group(group.clone()));
        core::iter::once(Target::Gateway(self.me.id.clone())).chain(groups)
    }

    fn next_root(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let next = trust::next_root(&self.root, payload)?;
        self.unsaved.push(Key::Root(next.version).put(payload));
        let remaining = self.root.operator.keys.iter().filter(|key| next.operator.keys.contains(key)).count();
        if remaining < usize::from(next.operator.threshold) {
            // Whoever had the old keys may have used up all numbers, and says nothing more. If they still say what is to run, the numbers keep old
            // documents of theirs out.
            let forgotten = core::mem::take(&mut self.numbers).into_keys();
            self.unsaved.extend(forgotten.map(|target| Key::Number(target).delete()));
        }
        self.root = next;
        // Made by keys that were not known, or under this root.
        self.again = self.again.wrapping_add(1);
        Ok(())
    }

    fn release(&mut self, now: Moment, payload: &[u8], actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let digest = Envelope::decode(payload)?.digest();
        let wanted: Vec<_> = self.wanted.iter().filter(|wanted| wanted.release == Some(digest)).cloned().collect();
        let Phase::Fetching { .. } = self.phase else { return Ok(()) };
        for wanted in wanted {
            match self.check_release(now, payload, &wanted) {
                Ok(()) => {}
                // Whoever carries it may have taken them off: the next copy may be whole.
                Err(refusal @ Refusal::TooFewSignatures { .. }) => return Err(refusal),
                // It came, and it is nothing for this gateway, whoever asks.
                Err(refusal) => {
                    let reason = Reason::new(refusal.code(), &refusal.to_string()).of(&wanted.slot);
                    self.fail(UpdateState::Rejected, reason, actions);
                    return Err(refusal);
                }
            }
        }
        if self.checked.contains_key(&digest) {
            if self.releases.insert(digest, payload.to_vec()).as_deref() != Some(payload) {
                self.unsaved.push(Key::Release(digest).put(payload));
            }
            self.progress(now);
        }
        Ok(())
    }

    fn check_release(&mut self, now: Moment, payload: &[u8], wanted: &Wanted) -> Result<(), Refusal> {
        let Some(digest) = wanted.release else { return Ok(()) };
        let Me { id, groups, board, .. } = &self.me;
        let gateway = Gateway { id, groups, board: board.as_deref(), nonce: None };
        let floor = |cell: &str| self.floors.get(cell).copied().unwrap_or(0).max(wanted.min_seq);
        let release = trust::release(&self.root, payload, digest, floor, now.time, gateway, &wanted.slot)?;
        self.checked.insert(digest, Arc::new(release));
        Ok(())
    }

    fn piece(&mut self, now: Moment, component: &str, piece: &str, payload: &[u8]) -> Result<(), Refusal> {
        let Phase::Fetching { .. } = self.phase else { return Ok(()) };
        let Some((wanted, number, expected)) = self.missing_piece() else { return Ok(()) };
        if Digest::parse(component) != Some(wanted) || piece != number.to_string() {
            return Ok(());
        }
        if payload.len() > PIECE {
            return Err(Refusal::TooLarge { bytes: payload.len() });
        }
        let found = Digest::of(payload);
        if found != expected {
            return Err(Refusal::OtherDigest { found, expected });
        }
        self.pieces.insert((wanted, number));
        self.unsaved.push(Key::Piece(wanted, number).put(payload));
        self.progress(now);
        Ok(())
    }

    fn progress(&mut self, now: Moment) {
        self.refused = None;
        self.phase = Phase::Fetching { since: now.mono, patience_us: STALL_US, stalled: false };
    }

    /// The desired state that counts: the gateway's own, unless it says nothing; then that of its first group that has one.
    fn goal(&self) -> Option<&Accepted> {
        self.targets().find_map(|target| self.accepted.get(&target).filter(|accepted| !accepted.desired.set.is_empty()))
    }

    /// Starts on the goal, if there is anything to do about it.
    fn begin(&mut self, now: Moment) {
        self.phase = Phase::Settled;
        (self.wanted, self.checked) = (Vec::new(), Releases::new());
        let Some(goal) = self.goal() else { return };
        let digest = goal.desired.digest();
        let kept = self.confirmed.as_ref().is_some_and(|kept| kept.digest() == digest) && self.inconsistent.is_none();
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
                    actions.push(self.told("stalled", None));
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
                self.fail(UpdateState::Rejected, Reason::new("bad-set", &error.to_string()), actions);
                return false;
            }
        };
        for wanted in &wanted {
            let Some(release) = wanted.release else { continue };
            if let Some(Blocked { retry, reason }) = self.blocked.get(&(wanted.slot.clone(), release))
                && wanted.retry <= *retry
            {
                let text = format!("it was rolled back ({reason}), and `retry` has not risen above {retry}");
                self.fail(UpdateState::Rejected, Reason::new("blocked", &text).of(&wanted.slot), actions);
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

    /// Everything is here: whether it may run here.
    fn ready(&mut self, config: &Config, actions: &mut Vec<Action>) {
        let Some(Accepted { desired: goal, .. }) = self.goal() else { return };
        let desired = goal.digest();
        let outcome = DesiredSet::parse(&goal.set, &config.gateway, &self.local, &self.checked);
        let outcome = outcome.map_err(|error| Reason::new("bad-set", &error.to_string()));
        let set = match outcome.and_then(|set| may_run(&set.cells, config).map(|()| set)) {
            Ok(set) => set,
            Err(reason) => return self.fail(UpdateState::Rejected, reason, actions),
        };
        let before = self.trial.filter(|trial| trial.desired == desired).map_or(0, |trial| trial.attempt);
        if before >= MAX_ATTEMPTS {
            let (code, text) = match self.crashed {
                true => ("agent-crash", "the agent ended within a call into a new cell, three times over"),
                false => ("interrupted", "its probation was cut short three times"),
            };
            return self.fail(UpdateState::RolledBack, Reason::new(code, text), actions);
        }
        let trial = Trial { desired, attempt: before + 1 };
        self.trial = Some(trial);
        self.unsaved.push(Key::Trial.put_value(&trial));
        self.set = Some(set);
        self.phase = Phase::Ready;
    }

    fn staged(&mut self, now: Moment, outcome: Result<Vec<SlotStatus>, NotStaged>, actions: &mut Vec<Action>) {
        let (Phase::Staging, Some(set)) = (self.phase, &self.set) else { return };
        let Probation { shadow_us, canary_us, .. } = set.probation;
        let changes = set.cells.routes != self.running.routes;
        let outcome = match outcome {
            // Nothing else ran on those packets.
            Ok(tried) => match self.judge(&tried, &[], 0, 0) {
                Verdict::Failed(reason) => return self.fail(UpdateState::RolledBack, reason, actions),
                Verdict::Open | Verdict::Passed => Ok(()),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Err(NotStaged::Unfit(reason)) => {
                if reason.code == "damaged" {
                    self.forget_pieces();
                }
                self.fail(UpdateState::Rejected, reason, actions);
            }
            Err(NotStaged::NotNow) => self.phase = Phase::Ready,
            Ok(()) if !changes => self.confirm(),
            Ok(()) if shadow_us > 0 => {
                self.phase = Phase::Shadow { since: now.mono };
                actions.push(self.told("shadow", None));
            }
            Ok(()) if canary_us > 0 => self.switch(now, actions),
            Ok(()) => self.confirm(),
        }
    }

    fn switch(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.phase = Phase::Canary { since: now.mono };
        actions.push(Action::Switch);
        actions.push(self.told("canary", None));
    }

    fn compared(&mut self, now: Moment, new: &[SlotStatus], old: &[SlotStatus], actions: &mut Vec<Action>) {
        let Some(DesiredSet { probation, .. }) = self.set else { return };
        let (since, stage_us) = match self.phase {
            Phase::Shadow { since } => (since, probation.shadow_us),
            Phase::Canary { since } => (since, probation.canary_us),
            Phase::Settled | Phase::Fetching { .. } | Phase::Ready | Phase::Staging | Phase::Confirming => return,
        };
        match self.judge(new, old, stage_us, now.mono.since(since)) {
            Verdict::Open => {}
            Verdict::Failed(reason) => self.fail(UpdateState::RolledBack, reason, actions),
            Verdict::Passed if matches!(self.phase, Phase::Shadow { .. }) && probation.canary_us > 0 => {
                self.switch(now, actions);
            }
            Verdict::Passed => self.confirm(),
        }
    }

    /// How the slots that change have done, beside those that ran before.
    fn judge(&self, new: &[SlotStatus], old: &[SlotStatus], stage_us: u64, elapsed_us: u64) -> Verdict {
        let Some(DesiredSet { probation, .. }) = self.set else { return Verdict::Open };
        let changed = self.changed();
        let named = |list: &'_ [SlotStatus], name: &str| list.iter().position(|status| status.name == name);
        let compared = changed.iter().filter_map(|(slot, same_kind)| {
            let health = match &slot.cell {
                Provenance::Signed(release) => Some(release.health),
                Provenance::Local(_) => None,
            };
            let before = named(old, &slot.name).filter(|_| *same_kind);
            Some(Compared { new: &new[named(new, &slot.name)?], old: before.map(|index| &old[index]), health })
        });
        let compared: Vec<_> = compared.collect();
        probation::verdict(&compared, probation, stage_us, elapsed_us)
    }

    /// Slots of the goal that are not as they run, and whether there is one of the same kind that runs.
    fn changed(&self) -> Vec<(&Slot, bool)> {
        let goal = self.set.iter().flat_map(|set| &set.cells.routes).flat_map(|route| &route.slots);
        let running: Vec<_> = self.running.routes.iter().flat_map(|route| &route.slots).collect();
        let before = |slot: &Slot| running.iter().find(|old| old.name == slot.name).copied();
        let changed = goal.filter(|slot| before(slot) != Some(*slot));
        changed.map(|slot| (slot, before(slot).is_some_and(|old| old.world == slot.world))).collect()
    }

    /// Writes down that the goal is kept.
    fn confirm(&mut self) {
        let Some(goal) = self.goal() else { return };
        let write = Key::Confirmed.put(&goal.payload);
        self.unsaved.push(write);
        self.unsaved.push(Key::Trial.delete());
        let raised = self.raised_floors();
        self.unsaved.extend(raised.iter().map(|(cell, floor)| Key::Floor(cell.clone()).put_value(floor)));
        self.phase = Phase::Confirming;
    }

    /// The floors that the goal raises: of each cell the highest that any of its slots asks for.
    fn raised_floors(&self) -> BTreeMap<String, u64> {
        let mut raised = BTreeMap::new();
        for wanted in &self.wanted {
            let release = wanted.release.and_then(|release| self.checked.get(&release));
            if let Some(release) = release
                && self.floors.get(&release.cell).copied().unwrap_or(0) < wanted.min_seq
            {
                let floor: &mut u64 = raised.entry(release.cell.clone()).or_default();
                *floor = wanted.min_seq.max(*floor);
            }
        }
        raised
    }

    /// That is on the disk.
    fn confirmed(&mut self, actions: &mut Vec<Action>) {
        let Some(set) = self.set.take() else { return };
        // Not before it is on the disk: what is reported does not go down again.
        let raised = self.raised_floors();
        self.floors.extend(raised);
        self.confirmed = self.goal().map(|goal| goal.desired.clone());
        self.running = set.cells;
        (self.trial, self.inconsistent, self.crashed) = (None, None, false);
        self.phase = Phase::Settled;
        actions.push(Action::Confirm);
        actions.push(self.told("confirmed", None));
        if self.failed.take().is_some() {
            self.unsaved.push(Key::Failed.delete());
        }
        self.forget();
    }

    /// The goal comes to nothing. What ran runs on.
    fn fail(&mut self, state: UpdateState, reason: Reason, actions: &mut Vec<Action>) {
        if self.is_trying() {
            actions.push(Action::Discard);
        }
        actions.push(self.told(state.name(), Some(reason.clone())));
        let Some(goal) = self.goal() else { return };
        let desired = goal.desired.digest();
        if state == UpdateState::RolledBack {
            // Which of them it was is not always known; one that is well may be pushed again.
            let all = self.wanted.iter().filter(|wanted| reason.slot.as_ref().is_none_or(|slot| *slot == wanted.slot));
            let running = |slot: &str, release: Digest| {
                let mut slots = self.running.routes.iter().flat_map(|route| &route.slots);
                slots.any(|old| {
                    old.name == slot && matches!(&old.cell, Provenance::Signed(old) if old.digest() == release)
                })
            };
            let blocked: Vec<_> = all
                .filter_map(|wanted| Some((wanted.slot.clone(), wanted.release?, wanted.retry)))
                .filter(|(slot, release, _)| !running(slot, *release))
                .collect();
            for (slot, release, retry) in blocked {
                let blocked = Blocked { retry, reason: reason.clone() };
                self.unsaved.push(Key::Blocked(slot.clone(), release).put_value(&blocked));
                self.blocked.insert((slot, release), blocked);
            }
        }
        let failed = Failed { desired, state, reason };
        self.unsaved.push(Key::Failed.put_value(&failed));
        self.unsaved.push(Key::Trial.delete());
        self.failed = Some(failed);
        (self.set, self.trial, self.crashed) = (None, None, false);
        self.phase = Phase::Settled;
        self.forget();
    }

    /// Gives up releases and pieces that neither what runs nor what is to run names.
    fn forget(&mut self) {
        let sets = self.confirmed.iter().chain(self.accepted.values().map(|accepted| &accepted.desired));
        let named: BTreeSet<Digest> =
            sets.flat_map(|set| wanted(&set.set).unwrap_or_default()).filter_map(|wanted| wanted.release).collect();
        let unsaved = &mut self.unsaved;
        let mut components = BTreeSet::new();
        self.releases.retain(|digest, envelope| {
            let keep = named.contains(digest);
            if keep {
                let payload = Envelope::decode(envelope).map(|envelope| envelope.payload).unwrap_or_default();
                components.extend(trust::recall::<Release>(&payload).map(|release| release.sha256).ok());
            } else {
                unsaved.push(Key::Release(*digest).delete());
            }
            keep
        });
        self.pieces.retain(|(component, piece)| {
            let keep = components.contains(component);
            if !keep {
                unsaved.push(Key::Piece(*component, *piece).delete());
            }
            keep
        });
    }

    /// Pieces of the goal that nothing that runs needs: some of them are not what they were.
    fn forget_pieces(&mut self) {
        let running = self.running.routes.iter().flat_map(|route| &route.slots).filter_map(|slot| match &slot.cell {
            Provenance::Signed(release) => Some(release.sha256),
            Provenance::Local(_) => None,
        });
        let running: BTreeSet<_> = running.collect();
        let goal: BTreeSet<_> = self.checked.values().map(|release| release.sha256).collect();
        let unsaved = &mut self.unsaved;
        self.pieces.retain(|(component, piece)| {
            let keep = running.contains(component) || !goal.contains(component);
            if !keep {
                unsaved.push(Key::Piece(*component, *piece).delete());
            }
            keep
        });
    }

    fn told(&self, what: &'static str, reason: Option<Reason>) -> Action {
        Action::Tell(Told { what, seq: self.goal().map(|goal| goal.desired.seq), reason })
    }

    /// The gateway's own account of all this.
    #[must_use]
    pub fn report(&self, about: About<'_>, time: Time) -> Reported {
        let About { key, at, agent, epoch, cells, slots } = about;
        let (state, reason) = self.state();
        let configured: Vec<_> = cells.routes.iter().flat_map(|route| &route.slots).collect();
        let slot = |status: &SlotStatus| {
            let configured = configured.iter().find(|slot| slot.name == status.name);
            let release = match configured.map(|slot| &slot.cell) {
                Some(Provenance::Signed(release)) => Some(ReleaseReport {
                    digest: release.digest(),
                    cell: release.cell.clone(),
                    semver: release.semver.clone(),
                    seq: release.seq,
                }),
                Some(Provenance::Local(_)) | None => None,
            };
            SlotReport {
                name: status.name.clone(),
                sha256: Digest::parse(&status.digest).unwrap_or(Digest([0; 32])),
                state: status.state.to_owned(),
                release,
                fresh: status.fresh.as_deref().map(|why| Reason::new("", why).text),
            }
        };
        Reported {
            gateway: self.me.id.clone(),
            key,
            at,
            agent: agent.to_owned(),
            epoch: epoch.to_string(),
            clock: match time {
                Time::Known(_) => ClockWord::Synchronised,
                Time::AtLeast(_) => ClockWord::Floor,
            },
            fleet: self.root.fleet.clone(),
            root_version: self.root.version,
            groups: self.me.groups.clone(),
            board: self.me.board.clone(),
            nonce: self.accepted.is_empty().then_some(self.me.nonce),
            known: self.numbers.iter().map(|(target, Number(seq, _))| (target.clone(), *seq)).collect(),
            desired: self.goal().map(|goal| (goal.desired.target.clone(), goal.desired.seq)),
            state,
            reason,
            refused: self.refused.clone(),
            refusals: self.all_refusals,
            slots: slots.iter().map(slot).collect(),
            floors: self.floors.iter().map(|(cell, floor)| (cell.clone(), *floor)).collect(),
            set: cells.text.clone(),
        }
    }

    /// Documents that did not count since the start.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.all_refusals
    }

    /// Why the last document that did not count did not.
    #[must_use]
    pub fn refused(&self) -> Option<&Reason> {
        self.refused.as_ref()
    }

    /// Where routes, slots and their parameters come from.
    #[must_use]
    pub fn cells_from(&self) -> String {
        match &self.confirmed {
            Some(kept) if self.inconsistent.is_none() => {
                format!("desired state {} for {}", kept.seq, target_name(&kept.target))
            }
            Some(_) | None => "configuration".into(),
        }
    }

    /// What is being done about the desired state, and why that came to nothing, if it did.
    #[must_use]
    pub fn state(&self) -> (UpdateState, Option<Reason>) {
        if let Some(reason) = &self.inconsistent
            && self.phase == Phase::Settled
        {
            return (UpdateState::Inconsistent, Some(reason.clone()));
        }
        match self.phase {
            Phase::Settled => match (&self.failed, self.goal()) {
                (Some(failed), Some(goal)) if failed.desired == goal.desired.digest() => {
                    (failed.state, Some(failed.reason.clone()))
                }
                (_, Some(_)) => (UpdateState::Confirmed, None),
                (_, None) => (UpdateState::Local, None),
            },
            Phase::Fetching { stalled: false, .. } => (UpdateState::Fetching, None),
            Phase::Fetching { stalled: true, .. } => {
                let missing = self.missing().unwrap_or_default();
                (UpdateState::Stalled, Some(Reason::new("stalled", &format!("nothing comes from {missing}"))))
            }
            Phase::Ready | Phase::Staging => (UpdateState::Staged, None),
            Phase::Shadow { .. } => (UpdateState::Shadow, None),
            Phase::Canary { .. } | Phase::Confirming => (UpdateState::Canary, None),
        }
    }
}

/// Whether a set that is whole may run here: worlds, the owner's policy, memory.
fn may_run(cells: &CellSet, config: &Config) -> Result<(), Reason> {
    let slots = || cells.routes.iter().flat_map(|route| &route.slots);
    for slot in slots() {
        let Provenance::Signed(release) = &slot.cell else { continue };
        if !World::ALL.iter().any(|world| world.name() == release.world) {
            let text = format!("the release is of the world `{}`, which this agent does not know", release.world);
            return Err(Reason::new("unknown-world", &text).of(&slot.name));
        }
        if release.world != slot.world.name() {
            let text = format!("the release is of the world `{}`, the slot of `{}`", release.world, slot.world.name());
            return Err(Reason::new("other-world", &text).of(&slot.name));
        }
    }
    config.policy.allows(cells).map_err(|text| Reason::new("beyond-policy", &text))?;
    let memory: usize = slots().map(|slot| slot.limits.memory_bytes).sum();
    if memory > MEMORY_BYTES {
        let text = format!("its cells may use {memory} bytes together, a set may have {MEMORY_BYTES}");
        return Err(Reason::new("over-memory", &text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
