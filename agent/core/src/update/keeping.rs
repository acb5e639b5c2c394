//! What an update keeps on disk: read at the start, written with commits, forgotten when nothing names it any more.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::ToString,
    sync::Arc,
    vec::Vec,
};

use super::{
    Accepted, Me, Phase, RecallError, Update,
    rows::{Key, Marker, Row, Write, content},
};
use crate::{
    config::{CellSet, Config, DesiredSet, Provenance, Releases, wanted},
    reason::{Code, Reason},
    time::{Monotonic, Unix},
    trust::{self, Desired, Digest, Envelope, Refusal, Release, Verified},
};

impl Update {
    /// Reads the rows of the store, without the bytes of pieces, and the marker beside it. `pinned`: the owner's root.
    /// `crashed`: the last start ended within a call into a cell on probation.
    ///
    /// # Errors
    /// If the root is none, or a row cannot be read.
    pub fn recall(
        me: Me,
        pinned: &[u8],
        (rows, marker): (&[Row], Option<Marker>),
        crashed: bool,
        local: CellSet,
    ) -> Result<Self, RecallError> {
        let root = trust::pinned_root(pinned).map_err(RecallError::Root)?;
        let mut update = Self {
            me,
            root,
            owner: None,
            marker,
            unproven: false,
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
            compared: None,
            set: None,
            running: local.clone(),
            local,
            inconsistent: None,
            refused: None,
            requested: 0,
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
        update.follow_roots(&roots);
        Ok(update)
    }

    /// The roots after the owner's. Where he has put another one there, that is the one that counts: what was taken up under others means nothing, and
    /// the next accepted state echoes this gateway's nonce.
    fn follow_roots(&mut self, roots: &BTreeMap<u64, Vec<u8>>) {
        let mut chain = self.root.clone();
        let later = roots.range(chain.version.saturating_add(1)..);
        let followed = later.clone().try_for_each(|(_, envelope)| {
            chain = trust::next_root(&chain, envelope)?;
            Ok::<_, Refusal>(())
        });
        let pinned = self.root.digest();
        let known = |envelope: &Vec<u8>| Envelope::decode(envelope).is_ok_and(|envelope| envelope.digest() == pinned);
        let same = self.owner.is_none_or(|owner| owner == pinned) || roots.values().any(known);
        if self.owner != Some(pinned) {
            self.owner = Some(pinned);
            self.unsaved.push(Key::Owner.put_value(&pinned));
        }
        if followed.is_ok() && same {
            self.root = chain;
            return;
        }
        if !self.accepted.is_empty() {
            self.marker = self.marker();
        }
        self.unsaved.extend(later.map(|(version, _)| Key::Root(*version).delete()));
        let numbers = core::mem::take(&mut self.numbers).into_keys();
        self.unsaved.extend(numbers.map(|target| Key::Number(target).delete()));
        let accepted = core::mem::take(&mut self.accepted).into_keys();
        self.unsaved.extend(accepted.map(|target| Key::Desired(target).delete()));
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
            Key::Owner => self.owner = Some(postcard::from_bytes(bytes).ok()?),
            Key::Confirmed => self.confirmed = Some(trust::recall(bytes).ok()?),
            Key::Failed => self.failed = Some(postcard::from_bytes(bytes).ok()?),
            Key::Trial => self.trial = Some(postcard::from_bytes(bytes).ok()?),
            Key::Unproven => self.unproven = true,
            Key::Release(digest) => drop(self.releases.insert(digest, bytes.to_vec())),
            Key::Piece(component, piece) => drop(self.pieces.insert((component, piece))),
            Key::Floor(cell) => drop(self.floors.insert(cell, postcard::from_bytes(bytes).ok()?)),
            Key::Blocked(slot, release) => {
                drop(self.blocked.insert((slot, release), postcard::from_bytes(bytes).ok()?));
            }
        }
        Some(())
    }

    /// The marker for beside the store: a desired state was taken up, and these are the floors after the next commit. `None`: none was.
    #[must_use]
    pub fn marker(&self) -> Option<Marker> {
        if self.accepted.is_empty() {
            return self.marker.clone();
        }
        let mut floors = self.floors.clone();
        if self.is_confirming() {
            floors.extend(self.raised_floors());
        }
        Some(Marker { floors: Some(floors) })
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
        set.map(|set| set.cells).map_err(|error| Reason::new(Code::Inconsistent, &error.to_string()))
    }

    /// What is kept cannot be run any more.
    pub fn inconsistent(&mut self, why: &str) {
        self.inconsistent = Some(Reason::new(Code::Inconsistent, why));
        self.running = self.local.clone();
    }

    /// The owner's configuration has changed. What comes from a desired state stays.
    pub fn reconfigured(&mut self, local: CellSet, running: CellSet) {
        (self.local, self.running) = (local, running);
        // What was about to be staged was read with the old one.
        self.set = None;
        self.phase = Phase::Settled;
    }

    /// What is to be written with the next commit. [`super::Event::Saved`] says that it was, [`Update::not_saved`] that it was not.
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

    /// Gives up releases and pieces that neither what runs nor what is to run names.
    pub(super) fn forget(&mut self) {
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
    pub(super) fn forget_pieces(&mut self) {
        let running = self.running.slots().filter_map(|slot| match &slot.cell {
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
}
