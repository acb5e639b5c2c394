//! The loop's side of updates: `core::update` decides, and here is done what it says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use porin_core::{
    config::{CellSet, Config, DesiredSet, Provenance},
    health::State,
    reason::{Code, Reason},
    status::{SlotStatus, UpdateStatus},
    time::{Monotonic, Unix},
    topic::Topic,
    trust::{
        Digest, DocumentKind, Envelope, Key, Release, Reported, Signature, Time, documents::Document, signing_input,
    },
    update::{About, Action, Event, Moment, NotStaged, Step, Told, Update, probation::newly_refused},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Agent,
    reloading::{afresh, beside},
    sources::Admitted,
};
use crate::{
    cells::Misfit,
    link::{JSON, Publish, Request},
    sink::has_other_routes,
    trial::{Mark, Stage, Trial},
};

/// Between two looks at the cells on probation.
const COMPARE_US: u64 = 100_000;

/// Between two looks at what does not come.
const TICK_US: u64 = 1_000_000;

/// After a subscription that the broker refused; each further one doubles it. A cluster may take it the next time.
const AGAIN_US: u64 = 5_000_000;

/// The longest pause: where an ACL is wrong somebody may mend it.
const MAX_AGAIN_US: u64 = 300_000_000;

/// Events that wait for a connection. Beyond it the oldest is given up: the reported state says how it ended.
const MAX_TOLD: usize = 64;

/// What the loop knows of updates.
pub(crate) struct Updating {
    update: Update,
    key: Ed25519KeyPair,
    /// On this connection, each with the count that it was asked for with.
    subscribed: BTreeMap<String, u32>,
    /// After a subscription was refused: when all of them are made again, and the pause before that.
    again: Option<(Monotonic, u64)>,
    /// What was reported on this connection.
    reported: Option<Reported>,
    /// Slots whose cells are called no more, as far as that was told.
    quarantined: BTreeSet<String>,
    /// What is to be told.
    told: Vec<(Unix, Told)>,
    due: Monotonic,
    /// Whether topics or the report may have changed.
    changed: bool,
}

impl Updating {
    pub(crate) fn new(update: Update, key: Ed25519KeyPair) -> Self {
        Self {
            update,
            key,
            subscribed: BTreeMap::new(),
            again: None,
            quarantined: BTreeSet::new(),
            reported: None,
            told: Vec::new(),
            due: Monotonic(0),
            changed: true,
        }
    }

    /// What is kept cannot be run: the owner's configuration runs.
    pub(crate) fn is_inconsistent(&mut self, why: &str) {
        self.update.inconsistent(why);
    }

    fn tell(&mut self, at: Unix, told: Told) {
        if self.told.len() >= MAX_TOLD {
            self.told.remove(0);
        }
        self.told.push((at, told));
    }

    fn key(&self) -> Key {
        Key(self.key.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    pub(super) fn update(&mut self) -> &mut Update {
        &mut self.update
    }

    /// Whether anything waits to be written.
    pub(super) fn has_unsaved(&self) -> bool {
        self.update.has_unsaved()
    }

    /// Whether there is nothing to do.
    #[cfg(test)]
    pub(super) fn is_settled(&mut self) -> bool {
        use porin_core::trust::reported::UpdateState;
        // No test waits for a second to pass.
        self.due = Monotonic(0);
        let has_ended =
            matches!(self.update.state().0, UpdateState::Confirmed | UpdateState::Rejected | UpdateState::RolledBack);
        !self.update.has_unsaved() && has_ended
    }

    /// Whether a desired state is on its way to the slots.
    pub(super) fn is_trying(&self) -> bool {
        self.update.is_trying()
    }

    /// For the status.
    pub(super) fn status(&self) -> UpdateStatus {
        let (state, reason) = self.update.state();
        let root = self.update.root();
        UpdateStatus {
            cells_from: self.update.cells_from(),
            state,
            reason: reason.map(|reason| reason.to_string()),
            refused: self.update.refused().map(ToString::to_string),
            fleet: root.fleet.clone(),
            root_version: root.version,
        }
    }
}

impl Agent {
    /// A new connection: nothing is subscribed to on it, and nothing was reported.
    pub(super) fn begin_to_listen(&mut self) {
        if let Some(updating) = &mut self.updating {
            updating.subscribed.clear();
            updating.again = None;
            updating.reported = None;
            updating.changed = true;
        }
    }

    /// The broker refused a subscription.
    pub(super) fn listen_again_later(&mut self) {
        let Some(updating) = &mut self.updating else { return };
        let pause_us = updating.again.map_or(AGAIN_US, |(_, pause_us)| (pause_us * 2).min(MAX_AGAIN_US));
        if pause_us == AGAIN_US {
            warn!("the broker refuses a subscription where updates come from; trying again, but look at its ACL");
        }
        updating.again = Some((self.now.mono.after(pause_us), pause_us));
    }

    /// Something happened that updates may care about; then whatever follows from it.
    pub(super) fn update_event(&mut self, event: Event<'_>) {
        let Some(mut updating) = self.updating.take() else { return };
        // What is ignored changes nothing, however much of it comes.
        let came = matches!(event, Event::Came { .. });
        let before = updating.update.refusals();
        let mut actions = updating.update.step(self.moment(&updating), &self.parts.config, event);
        updating.changed |= !came || !actions.is_empty() || updating.update.refusals() != before;
        // What was staged is answered at once, which may ask for more.
        while !actions.is_empty() {
            let mut next = Vec::new();
            for action in actions {
                next.extend(self.carry_out(action, &mut updating));
            }
            actions = next;
        }
        if updating.update.has_unsaved() {
            self.mark_dirty();
            updating.changed = true;
        }
        if self.trial.is_some() {
            // Time has just passed more slowly than it does now.
            updating.due = updating.due.min(self.now.mono.after(COMPARE_US));
        }
        self.updating = Some(updating);
    }

    fn moment(&self, updating: &Updating) -> Moment {
        let clock = &self.core.clock;
        let time = match clock.is_trusted() {
            true => Time::Known(self.now.unix),
            false => Time::AtLeast(clock.floor().max(updating.update.issued())),
        };
        Moment { mono: self.now.mono, time }
    }

    fn carry_out(&mut self, action: Action, updating: &mut Updating) -> Vec<Action> {
        match action {
            Action::Stage(set) => {
                let outcome = self.stage(*set);
                let moment = self.moment(updating);
                return updating.update.step(moment, &self.parts.config, Event::Staged(outcome));
            }
            Action::Switch => self.switch_to(Stage::Canary),
            Action::Confirm => {
                self.switch_to(Stage::Canary);
                if let Some(trial) = self.trial.take() {
                    self.parts.config.cells = trial.confirm(&mut self.core.pipeline);
                    info!("the new set of cells has taken over");
                }
            }
            Action::Discard => {
                self.switch_to(Stage::Shadow);
                self.trial = None;
            }
            Action::Send { seq, route, us } => self.answer_with_recording(seq, &route, us),
            Action::Tell(told) => {
                let reason = told.reason.as_ref().map(ToString::to_string);
                match (told.step, told.step.word()) {
                    (Step::Rejected | Step::RolledBack, what) => {
                        warn!(what, seq = told.seq, reason, "the update ended and the old cells go on")
                    }
                    (Step::Refused, _) => warn!(reason, "document rejected"),
                    (_, what) => info!(what, seq = told.seq, "update"),
                }
                updating.tell(self.now.unix, told);
            }
        }
        Vec::new()
    }

    /// Loads the set and starts it beside the one that runs.
    fn stage(&mut self, set: DesiredSet) -> Result<Vec<SlotStatus>, NotStaged> {
        let cells = set.cells;
        let components = self.components(&cells).map_err(|error| {
            warn!(error = format!("{error:#}"), "the store does not give what an update needs; trying again");
            NotStaged::NotNow
        })?;
        let config = Config { cells: cells.clone(), ..self.parts.config.clone() };
        let component = |release: &Release| components.get(&release.sha256).cloned().context("it was not read");
        let unfit = |error: anyhow::Error| {
            let misfit = error.chain().find_map(|cause| cause.downcast_ref::<Misfit>());
            let code = misfit.map_or(Code::Unfit, |Misfit(code, _)| code.clone());
            NotStaged::Unfit(Reason::new(code, &format!("{error:#}")))
        };
        let mark = Mark::open(&self.parts.config.gateway.socket);
        let mut tried = Vec::new();
        let recordings = self.core.pipeline.recordings();
        if !set.probation.is_none() && recordings.values().any(|recorder| !recorder.is_empty()) {
            let mut rehearsal = afresh(&self.core.pipeline, &config, component).map_err(unfit)?;
            mark.set(true);
            tried = rehearsal.rehearse(&recordings);
            mark.set(false);
        }
        let mut new = beside(&mut self.core.pipeline, &config, &self.parts.store, component).map_err(unfit)?;
        for Admitted { stream, kind, .. } in self.sources.iter().flat_map(|source| source.streams.iter().flatten()) {
            // It has an id already.
            let _known = new.admit(self.core.pipeline.name(*stream), *kind);
        }
        if let Some(reason) = newly_refused(&new.slot_status(), &self.core.pipeline.slot_status()) {
            return Err(NotStaged::Unfit(reason));
        }
        self.trial = Some(Trial::begin(&mut self.core.pipeline, new, cells, mark));
        self.mark_dirty();
        Ok(tried)
    }

    /// The components of a set's releases. Makes the names of its routes durable, too: after this the disk is not needed.
    fn components(&self, cells: &CellSet) -> anyhow::Result<BTreeMap<Digest, Vec<u8>>> {
        let store = &self.parts.store;
        cells.routes.iter().try_for_each(|route| store.intern_route(&route.name).map(drop))?;
        let mut names = cells.slots().map(|slot| &slot.name);
        names.try_for_each(|slot| store.state(slot).map(drop))?;
        let signed = cells.slots().filter_map(|slot| match &slot.cell {
            Provenance::Signed(release) => Some(release),
            Provenance::Local(_) => None,
        });
        signed.map(|release| Ok((release.sha256, store.component(release)?))).collect()
    }

    /// Sources of routes that give up nothing wait where others do not.
    pub(super) fn learn_who_may_block(&mut self) {
        for source in &mut self.sources {
            let streams = source.streams.iter().flatten();
            let may_block = streams.map(|admitted| self.core.pipeline.may_block(admitted.stream, admitted.kind));
            source.may_block = may_block.fold(false, |a, b| a | b);
        }
    }

    /// From now on the output of the set on probation is sent, or that of the kept one.
    fn switch_to(&mut self, stage: Stage) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.stage() != stage) else { return };
        self.earlier += self.core.pipeline.appended();
        trial.switch_to(stage, &mut self.core.pipeline);
        self.learn_route_names();
        self.others_decide();
    }

    /// The output of the other one of two sets is sent.
    pub(super) fn others_decide(&mut self) {
        self.learn_who_may_block();
        if let Some(trial) = &self.trial {
            let kept = &self.parts.config.cells;
            self.sinks.forget_decisions(|sink| has_other_routes(sink, kept, &trial.cells));
        }
    }

    /// A new cell has faulted as a canary, and the old set goes on already.
    pub(super) fn tell_of_fallback(&mut self) {
        if let Some((slot, fault)) = self.trial.as_mut().and_then(Trial::take_fault) {
            self.update_event(Event::FellBack(Reason::new(Code::Fault, &fault).of(&slot)));
        }
    }

    /// What is due, whatever happened: looks at the cells on probation, subscriptions, reports, events.
    pub(super) fn go_on_with_updates(&mut self) {
        self.tell_of_fallback();
        let Some(updating) = &self.updating else { return };
        // Staging asks the store for names of routes, which must not wait for a commit that runs.
        if self.now.mono >= updating.due && self.commit.running.is_none() {
            match &self.trial {
                Some(trial) => {
                    let (new, old) = trial.compare(&self.core.pipeline);
                    self.update_event(Event::Compared { new: &new, old: &old });
                }
                None => self.update_event(Event::Tick),
            }
            self.tell_of_quarantine();
            let every = if self.trial.is_some() { COMPARE_US } else { TICK_US };
            if let Some(updating) = &mut self.updating {
                if let Some((at, pause_us)) = updating.again
                    && self.now.mono >= at
                {
                    // Not before the answer of this one.
                    updating.again = Some((Monotonic(u64::MAX), pause_us));
                    updating.subscribed.clear();
                }
                updating.due = self.now.mono.after(every);
            }
        }
        let changed = self.updating.as_mut().is_some_and(|updating| std::mem::take(&mut updating.changed));
        if changed && !(self.listen_for_updates() && self.report()) {
            // No connection, or no room: later.
            self.updating.iter_mut().for_each(|updating| updating.changed = self.link.connection.is_some());
        }
    }

    /// Tells of cells that are called no more: since when nobody has to ask.
    fn tell_of_quarantine(&mut self) {
        let Some(updating) = &mut self.updating else { return };
        let slots = self.core.pipeline.slot_status();
        let now: Vec<_> = slots.into_iter().filter(|slot| slot.state == State::Quarantined).collect();
        for SlotStatus { name, last_fault, .. } in &now {
            if !updating.quarantined.contains(name) {
                let reason = Reason::new(Code::Fault, last_fault.as_deref().unwrap_or_default()).of(name);
                updating.tell(self.now.unix, Told { step: Step::Quarantined, seq: None, reason: Some(reason) });
                updating.changed = true;
            }
        }
        updating.quarantined = now.into_iter().map(|slot| slot.name).collect();
    }

    /// When that is, if anything is.
    pub(super) fn updates_due(&self) -> Option<Monotonic> {
        self.updating.as_ref().filter(|_| self.commit.running.is_none()).map(|updating| updating.due)
    }

    /// Subscribes where something is wanted from. `false`: not yet.
    fn listen_for_updates(&mut self) -> bool {
        let (Some(updating), Some(connection)) = (&mut self.updating, self.link.connection) else { return false };
        let wanted: BTreeMap<String, u32> = updating.update.topics().into_iter().collect();
        let gone: Vec<_> = updating.subscribed.keys().filter(|topic| !wanted.contains_key(*topic)).cloned().collect();
        for topic in gone {
            if self.parts.link.capacity() == 0 {
                return false;
            }
            updating.subscribed.remove(&topic);
            let _ = self.parts.link.try_send(Request::Unsubscribe { connection, topic });
        }
        for (topic, generation) in wanted {
            if updating.subscribed.get(&topic) == Some(&generation) {
                continue;
            }
            if self.parts.link.capacity() == 0 {
                return false;
            }
            updating.subscribed.insert(topic.clone(), generation);
            let _ = self.parts.link.try_send(Request::Subscribe { connection, topic });
        }
        true
    }

    /// Tells what has happened, and where everything stands if that has changed. `false`: not yet.
    fn report(&mut self) -> bool {
        let (Some(updating), Some(connection)) = (&mut self.updating, self.link.connection) else { return false };
        let gateway = &self.parts.config.gateway.id;
        while let Some((at, told)) = updating.told.first()
            && self.parts.link.capacity() > 0
        {
            let reason = told.reason.as_ref();
            let event = json!({
                "v": 1, "gw": gateway, "time_us": at.0, "event": told.step.word(), "desired": told.seq,
                "slot": reason.and_then(|reason| reason.slot.as_ref()),
                "reason": reason.map(|reason| &reason.code), "text": reason.map(|reason| &reason.text),
            });
            let (topic, payload) = (Topic::Event { gateway }.to_string(), event.to_string().into_bytes());
            let publish = Publish { connection, ticket: None, topic, retain: false, content_type: JSON, payload };
            let _ = self.parts.link.try_send(Request::Publish(publish));
            updating.told.remove(0);
        }
        if self.parts.link.capacity() == 0 {
            return false;
        }
        let sent = self.trial.as_ref().filter(|trial| trial.stage() == Stage::Canary);
        let about = About {
            key: updating.key(),
            at: Unix(0),
            agent: env!("CARGO_PKG_VERSION"),
            epoch: self.parts.store.epoch,
            cells: sent.map_or(&self.parts.config.cells, |trial| &trial.cells),
            slots: &self.core.pipeline.slot_status(),
        };
        let clock = &self.core.clock;
        let time = if clock.is_trusted() { Time::Known(self.now.unix) } else { Time::AtLeast(clock.floor()) };
        let now = updating.update.report(about, time);
        if updating.reported.as_ref() == Some(&now) {
            return true;
        }
        let said = Reported { at: self.now.unix, ..now.clone() };
        updating.reported = Some(now);
        let payload = sign(&said, &updating.key, updating.key());
        if payload.len() > self.link.max_payload() {
            warn!(bytes = payload.len(), "reported state not published: it is larger than the broker allows");
            return true;
        }
        let (topic, content_type) = (Topic::Reported { gateway }.to_string(), DocumentKind::Reported.media_type());
        let publish = Publish { connection, ticket: None, topic, retain: true, content_type, payload };
        let _ = self.parts.link.try_send(Request::Publish(publish));
        true
    }
}

fn sign(said: &Reported, pair: &Ed25519KeyPair, key: Key) -> Vec<u8> {
    let payload = said.encode();
    let signature = pair.sign(&signing_input(DocumentKind::Reported, &payload));
    let bytes = signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes");
    Envelope { kind: DocumentKind::Reported, payload, signatures: vec![Signature::new(&key, bytes)] }.encode()
}
