//! What comes from the broker: where it is asked for, and whether it counts.

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use super::{
    Accepted, Action, MAX_REFUSALS, MINUTE_US, Me, Moment, Phase, STALL_US, Step, Told, Update,
    rows::{Key, Number, target_name},
};
use crate::{
    config::Wanted,
    reason::Reason,
    time::Monotonic,
    topic::Topic,
    trust::{self, Digest, Envelope, Gateway, Memory, Refusal, Target, documents::PIECE, reported::UpdateState},
};

impl Update {
    /// The topics that are to be subscribed to, each with a count that rises when what is retained there is to be sent again.
    #[must_use]
    pub fn topics(&self) -> Vec<(String, u32)> {
        let mut topics =
            alloc::vec![(Topic::Root { version: self.root.version.saturating_add(1) }.to_string(), self.again)];
        let desired = self.targets().map(|target| (Topic::desired(&target).to_string(), self.again));
        topics.extend(desired);
        topics.push((Topic::Request { gateway: &self.me.id }.to_string(), 0));
        if let Phase::Fetching { .. } = self.phase {
            topics.extend(self.missing().map(|topic| (topic, self.generation)));
        }
        topics
    }

    /// Where the next missing part of the goal is: releases first, then one piece after the other.
    pub(super) fn missing(&self) -> Option<String> {
        let mut releases = self.wanted.iter().filter_map(|wanted| wanted.release);
        if let Some(release) = releases.find(|release| !self.checked.contains_key(release)) {
            return Some(Topic::Release { digest: release }.to_string());
        }
        let (component, piece, _) = self.missing_piece()?;
        Some(Topic::Blob { component, piece }.to_string())
    }

    /// Component, number and digest.
    pub(super) fn missing_piece(&self) -> Option<(Digest, u32, Digest)> {
        self.checked.values().find_map(|release| {
            let pieces = (0..).zip(&release.pieces);
            let mut missing = pieces.filter(|(piece, _)| !self.pieces.contains(&(release.sha256, *piece)));
            missing.next().map(|(piece, digest)| (release.sha256, piece, *digest))
        })
    }

    pub(super) fn came(&mut self, now: Moment, topic: &str, payload: &[u8], actions: &mut Vec<Action>) {
        // A retained document that was cleared.
        if payload.is_empty() {
            return;
        }
        if self.is_overwhelmed(now.mono) {
            self.overwhelmed = true;
            return;
        }
        let outcome = match Topic::parse(topic) {
            Some(Topic::Desired { gateway }) => self.desired(now, Target::Gateway(gateway.into()), payload, actions),
            Some(Topic::GroupDesired { group }) => self.desired(now, Target::Group(group.into()), payload, actions),
            Some(Topic::Request { gateway }) if gateway == self.me.id => self.request(now, payload, actions),
            Some(Topic::Root { .. }) => self.next_root(payload),
            Some(Topic::Release { .. }) => self.release(now, payload, actions),
            Some(Topic::Blob { component, piece }) => self.piece(now, component, piece, payload),
            _ => return,
        };
        let Err(refusal) = outcome else { return };
        self.refusals.0 = self.refusals.0.saturating_add(1);
        self.all_refusals += 1;
        let reason = Reason::new(refusal.code(), &refusal.to_string());
        // A hostile broker may say the same for ever.
        if self.refused.replace(reason.clone()).as_ref() != Some(&reason) {
            actions.push(Action::Tell(Told { step: Step::Refused, seq: None, reason: Some(reason) }));
        }
    }

    /// Whether too much that does not count has come lately.
    pub(super) fn is_overwhelmed(&mut self, now: Monotonic) -> bool {
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
        let Me { id, groups, board, .. } = &self.me;
        let memory = self.memory();
        let gateway = Gateway { id, groups, board: board.as_deref(), memory };
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
        let unproven = !memory.proves(desired.nonce);
        if unproven != self.unproven {
            self.unsaved.push(if unproven { Key::Unproven.put(&[]) } else { Key::Unproven.delete() });
        }
        self.unproven = unproven;
        // Others that were refused had to wait for this.
        self.again = self.again.wrapping_add(u32::from(memory != Memory::Numbers && !unproven));
        self.issued = self.issued.max(desired.issued);
        self.accepted.insert(target, Accepted { desired, payload: envelope.payload });
        self.refused = None;
        actions.push(Action::Tell(Told { step: Step::Accepted, seq, reason: None }));
        // A group's may change nothing for a gateway that has one of its own.
        let goal = self.goal().map(|goal| goal.desired.digest());
        if self.trial.map(|trial| trial.desired) != goal || self.phase == Phase::Settled {
            if self.is_trying() {
                actions.push(Action::Discard);
                actions.push(Action::Tell(Told { step: Step::Superseded, seq, reason: None }));
            }
            self.set = None;
            self.begin(now);
            self.forget();
        }
        Ok(())
    }

    /// How much this gateway remembers of desired states.
    pub(super) fn memory(&self) -> Memory {
        let word = self.me.nonce;
        match (self.accepted.is_empty(), &self.marker) {
            (false, _) if !self.unproven => Memory::Numbers,
            (true, Some(_)) => Memory::Lost(word),
            (false, _) | (true, None) => Memory::New(word),
        }
    }

    /// Whom desired states are for that this gateway looks at, the one that wins first.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let groups = self.me.groups.iter().map(|group| Target::Group(group.clone()));
        core::iter::once(Target::Gateway(self.me.id.clone())).chain(groups)
    }

    /// What an operator wants to have. Its number is not kept over a restart: a request counts for an hour at most, and what it asks for can be had
    /// by whoever may ask.
    fn request(&mut self, now: Moment, payload: &[u8], actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let request = trust::request(&self.root, payload, self.requested, now.time, &self.me.id)?;
        self.requested = request.seq;
        actions.push(Action::Send { seq: request.seq, route: request.route.clone(), us: request.us });
        Ok(())
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
        // Other signatures beside the one that counts make another envelope of the same release, as often as one likes.
        if self.checked.contains_key(&digest) {
            return Ok(());
        }
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

    pub(super) fn check_release(&mut self, now: Moment, payload: &[u8], wanted: &Wanted) -> Result<(), Refusal> {
        let Some(digest) = wanted.release else { return Ok(()) };
        let Me { id, groups, board, .. } = &self.me;
        let gateway = Gateway { id, groups, board: board.as_deref(), memory: Memory::Numbers };
        let floor = |cell: &str| self.floors.get(cell).copied().unwrap_or(0).max(wanted.min_seq);
        let release = trust::release(&self.root, payload, digest, floor, now.time, gateway, &wanted.slot)?;
        self.checked.insert(digest, Arc::new(release));
        Ok(())
    }

    fn piece(&mut self, now: Moment, component: Digest, piece: u32, payload: &[u8]) -> Result<(), Refusal> {
        let Phase::Fetching { .. } = self.phase else { return Ok(()) };
        let Some((wanted, number, expected)) = self.missing_piece() else { return Ok(()) };
        if (component, piece) != (wanted, number) {
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
}
