//! What is told of updates: the reported state, and what the status says.

use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    About, Phase, Update,
    rows::{Number, target_name},
};
use crate::{
    config::Provenance,
    reason::{Code, Reason, bounded},
    status::SlotStatus,
    trust::{
        Digest, Memory, Reported, Time,
        reported::{ClockWord, ReleaseReport, SlotReport, UpdateState},
    },
    words::Word,
};

impl Update {
    /// The gateway's own account of all this.
    #[must_use]
    pub fn report(&self, about: About<'_>, time: Time) -> Reported {
        let About { key, at, agent, epoch, cells, slots } = about;
        let (state, reason) = self.state();
        let configured: Vec<_> = cells.slots().collect();
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
                state: status.state.word().to_owned(),
                release,
                fresh: status.fresh.as_deref().map(bounded),
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
            nonce: (self.memory() != Memory::Numbers).then_some(self.me.nonce),
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

    /// What came out in the last stage that was passed.
    pub(super) fn outputs(&self) -> Option<Reason> {
        self.compared.as_ref().map(|outputs| Reason::new(Code::Compared, outputs))
    }

    /// Why what is taken up cannot be told from an old one, if it cannot.
    fn doubt(&self) -> Option<Reason> {
        match self.memory() {
            Memory::Numbers => None,
            Memory::New(_) if self.unproven => Some(Reason::new(
                Code::Unproven,
                "taken up by a gateway that remembered no numbers: it may be an older one of its group; a push proves it",
            )),
            Memory::New(_) => None,
            Memory::Lost(_) => Some(Reason::new(Code::LostStore, &self.lost())),
        }
    }

    fn lost(&self) -> String {
        let floors = self.marker.as_ref().and_then(|marker| marker.floors.as_ref());
        let gone = floors.map(|floors| floors.iter().filter(|(cell, floor)| self.floors.get(*cell) < Some(floor)));
        let gone = gone.map(|gone| gone.map(|(cell, floor)| format!("{cell} {floor}")).collect::<Vec<_>>().join(", "));
        let gone = match gone.as_deref() {
            None => "which floors are gone is not known".into(),
            Some("") => "no floor is gone".to_owned(),
            Some(gone) => format!("floors that are gone: {gone}"),
        };
        format!("what was taken up here is not remembered, so that only a new push to this gateway counts; {gone}")
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
                (_, Some(goal)) if self.keeps(goal.desired.digest()) => (UpdateState::Confirmed, self.doubt()),
                (Some(failed), Some(goal)) if failed.desired == goal.desired.digest() => {
                    (failed.state, Some(failed.reason.clone()))
                }
                (_, Some(_)) => (UpdateState::Confirmed, self.doubt()),
                (_, None) => (UpdateState::Local, self.doubt()),
            },
            Phase::Fetching { stalled: false, .. } => (UpdateState::Fetching, None),
            Phase::Fetching { stalled: true, .. } => {
                let missing = self.missing().unwrap_or_default();
                (UpdateState::Stalled, Some(Reason::new(Code::Stalled, &format!("nothing comes from {missing}"))))
            }
            Phase::Ready | Phase::Staging => (UpdateState::Staged, None),
            Phase::Shadow { .. } => (UpdateState::Shadow, None),
            Phase::Canary { .. } | Phase::Confirming => (UpdateState::Canary, self.outputs()),
        }
    }
}
