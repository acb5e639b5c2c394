//! The goal on trial: whether it may run here, how it does beside what runs, and that it is kept or given up.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    Accepted, Action, Moment, NotStaged, Phase, Step, Update,
    probation::{self, Compared, Verdict},
    rows::{Blocked, Failed, Key, Trial},
};
use crate::{
    config::{CellSet, Config, DesiredSet, Probation, Provenance, Slot},
    reason::{Code, Reason},
    setup::World,
    status::SlotStatus,
    trust::{Digest, reported::UpdateState},
};

/// Starts of a trial that may be cut short: a power cut or two are nobody's fault.
const MAX_ATTEMPTS: u8 = 3;

/// Linear memory that the cells of a set may use together. During probation there are two sets.
const MEMORY_BYTES: usize = 32 << 20;

impl Update {
    /// Everything is here: whether it may run here.
    pub(super) fn ready(&mut self, config: &Config, actions: &mut Vec<Action>) {
        let Some(Accepted { desired: goal, .. }) = self.goal() else { return };
        let desired = goal.digest();
        let outcome = DesiredSet::parse(&goal.set, &config.gateway, &self.local, &self.checked);
        let outcome = outcome.map_err(|error| Reason::new(Code::BadSet, &error.to_string()));
        let set = match outcome.and_then(|set| may_run(&set.cells, config).map(|()| set)) {
            Ok(set) => set,
            Err(reason) => return self.fail(UpdateState::Rejected, reason, actions),
        };
        let before = self.trial.filter(|trial| trial.desired == desired).map_or(0, |trial| trial.attempt);
        if before >= MAX_ATTEMPTS {
            let (code, text) = match self.crashed {
                true => (Code::AgentCrash, "the agent ended within a call into a new cell, three times over"),
                false => (Code::Interrupted, "its probation was cut short three times"),
            };
            return self.fail(UpdateState::RolledBack, Reason::new(code, text), actions);
        }
        let trial = Trial { desired, attempt: before + 1 };
        self.trial = Some(trial);
        self.unsaved.push(Key::Trial.put_value(&trial));
        self.set = Some(set);
        self.phase = Phase::Ready;
    }

    pub(super) fn staged(
        &mut self,
        now: Moment,
        outcome: Result<Vec<SlotStatus>, NotStaged>,
        actions: &mut Vec<Action>,
    ) {
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
                if reason.code == Code::Damaged {
                    self.forget_pieces();
                }
                self.fail(UpdateState::Rejected, reason, actions);
            }
            Err(NotStaged::NotNow) => self.phase = Phase::Ready,
            Ok(()) if !changes => self.confirm(),
            Ok(()) if shadow_us > 0 => {
                self.phase = Phase::Shadow { since: now.mono };
                actions.push(self.told(Step::Shadow, None));
            }
            Ok(()) if canary_us > 0 => self.switch(now, actions),
            Ok(()) => self.confirm(),
        }
    }

    fn switch(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.phase = Phase::Canary { since: now.mono };
        actions.push(Action::Switch);
        actions.push(self.told(Step::Canary, self.outputs()));
    }

    pub(super) fn compared(&mut self, now: Moment, new: &[SlotStatus], old: &[SlotStatus], actions: &mut Vec<Action>) {
        let Some(DesiredSet { probation, .. }) = self.set else { return };
        let (since, stage_us) = match self.phase {
            Phase::Shadow { since } => (since, probation.shadow_us),
            Phase::Canary { since } => (since, probation.canary_us),
            Phase::Settled | Phase::Fetching { .. } | Phase::Ready | Phase::Staging | Phase::Confirming => return,
        };
        // A stream may appear meanwhile.
        let verdict = match probation::newly_refused(new, old) {
            Some(reason) => Verdict::Failed(reason),
            None => self.judge(new, old, stage_us, now.mono.since(since)),
        };
        if verdict == Verdict::Passed {
            self.compared = Some(probation::outputs(&self.beside(new, old)));
        }
        match verdict {
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
        probation::verdict(&self.beside(new, old), probation, stage_us, elapsed_us)
    }

    /// The slots that change, beside those that ran before.
    fn beside<'a>(&self, new: &'a [SlotStatus], old: &'a [SlotStatus]) -> Vec<Compared<'a>> {
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
        compared.collect()
    }

    /// Slots of the goal that are not as they run, and whether there is one of the same kind that runs.
    fn changed(&self) -> Vec<(&Slot, bool)> {
        let goal = self.set.iter().flat_map(|set| set.cells.slots());
        let running: Vec<_> = self.running.slots().collect();
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
    pub(super) fn raised_floors(&self) -> BTreeMap<String, u64> {
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
    pub(super) fn confirmed(&mut self, actions: &mut Vec<Action>) {
        let Some(set) = self.set.take() else { return };
        // Not before it is on the disk: what is reported does not go down again.
        let raised = self.raised_floors();
        self.floors.extend(raised);
        self.confirmed = self.goal().map(|goal| goal.desired.clone());
        self.running = set.cells;
        (self.trial, self.inconsistent, self.crashed) = (None, None, false);
        self.phase = Phase::Settled;
        actions.push(Action::Confirm);
        actions.push(self.told(Step::Confirmed, self.outputs()));
        if self.failed.take().is_some() {
            self.unsaved.push(Key::Failed.delete());
        }
        self.forget();
    }

    /// The goal comes to nothing. What ran runs on.
    pub(super) fn fail(&mut self, state: UpdateState, reason: Reason, actions: &mut Vec<Action>) {
        if self.is_trying() {
            actions.push(Action::Discard);
        }
        let step = if state == UpdateState::RolledBack { Step::RolledBack } else { Step::Rejected };
        actions.push(self.told(step, Some(reason.clone())));
        let Some(goal) = self.goal() else { return };
        let desired = goal.desired.digest();
        if state == UpdateState::RolledBack {
            // Which of them it was is not always known; one that is well may be pushed again.
            let all = self.wanted.iter().filter(|wanted| reason.slot.as_ref().is_none_or(|slot| *slot == wanted.slot));
            let running = |slot: &str, release: Digest| {
                let mut slots = self.running.slots();
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
}

/// Whether a set that is whole may run here: worlds, the owner's policy, memory.
fn may_run(cells: &CellSet, config: &Config) -> Result<(), Reason> {
    for slot in cells.slots() {
        let Provenance::Signed(release) = &slot.cell else { continue };
        if !World::ALL.iter().any(|world| world.name() == release.world) {
            let text = format!("the release is of the world `{}`, which this agent does not know", release.world);
            return Err(Reason::new(Code::UnknownWorld, &text).of(&slot.name));
        }
        if release.world != slot.world.name() {
            let text = format!("the release is of the world `{}`, the slot of `{}`", release.world, slot.world.name());
            return Err(Reason::new(Code::OtherWorld, &text).of(&slot.name));
        }
    }
    config.policy.allows(cells).map_err(|text| Reason::new(Code::BeyondPolicy, &text))?;
    let memory: usize = cells.slots().map(|slot| slot.limits.memory_bytes).sum();
    if memory > MEMORY_BYTES {
        let text = format!("its cells may use {memory} bytes together, a set may have {MEMORY_BYTES}");
        return Err(Reason::new(Code::OverMemory, &text));
    }
    Ok(())
}
