//! A new configuration while packets flow: everything is made ready beside what runs, and takes over between two batches.
//!
//! Whatever is wrong with it, what ran runs on. Sources that stay the same go on without noticing; cells keep what they have
//! learnt if their slot keeps its name; the outbox, its seqs and the connection stay. Counters of routes begin anew.

use anyhow::{bail, ensure};
use porin_core::{
    config::{Config, GatewayConfig},
    ids::RouteId,
    stream::NameTable,
    trust::Release,
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use super::{Agent, Source, Updating};
use crate::{
    cells,
    inbox::SOURCE_QUEUE,
    pipeline::{Pipeline, Unfit},
    sink::others_decide,
    source::Order,
    store::Store,
};

impl Agent {
    pub(super) fn reload(&mut self, config: Config) {
        match self.try_reload(config) {
            Ok(()) => info!("the new configuration is in force"),
            Err(error) => {
                error!(error = format!("{error:#}"), "the new configuration is refused; the old one runs on");
            }
        }
    }

    fn try_reload(&mut self, mut config: Config) -> anyhow::Result<()> {
        ensure!(self.stopping.is_none(), "the agent is stopping");
        let trying = self.updating.as_ref().is_some_and(Updating::is_trying);
        ensure!(!trying, "an update is on probation: send SIGHUP again when it is over");
        needs_no_restart(&self.parts.config.gateway, &config.gateway)?;
        crate::check(&config)?;
        let local = config.cells.clone();
        if let Some(updating) = &mut self.updating {
            // Routes and slots of a desired state stay what they are.
            config.cells = updating.update().kept_with(&config, &local)?;
        }
        let orders = self.parts.orders.clone();
        let Ok(orders) = orders.try_reserve() else { bail!("the last one is still being carried out") };
        let store = self.parts.store.clone();
        let pipeline = beside(&mut self.core.pipeline, &config, &store, |release| store.component(release))?;

        // From here on nothing fails.
        if let Some(updating) = &mut self.updating {
            updating.update().reconfigured(local, config.cells.clone());
        }
        let mut old = std::mem::replace(&mut self.core.pipeline, pipeline);
        self.core.pipeline.take_recordings(&mut old);
        self.earlier += old.appended();
        self.core.outbox.set_bounds(config.gateway.outbox.bounds);
        self.core.dead.set_max_bytes(config.gateway.dead_letter_bytes);
        self.core.clock.set_trust(config.gateway.clock);
        self.replay = config.gateway.is_replay();
        let before = std::mem::replace(&mut self.parts.config, config);
        let uplink = &self.parts.config.gateway.uplink;
        if *uplink != before.gateway.uplink || uplink.broker.tls.is_some() {
            // Renewed certificates are read with a new connection.
            self.parts.uplink.send_replace(uplink.clone());
        }
        orders.send(self.exchange_sources(&before.gateway));
        self.sinks.forget_decisions(|sink| others_decide(sink, &before, &self.parts.config));
        self.sinks.exchange(&self.parts.config.gateway.sinks, &self.parts.certificate_time, &mut self.files);
        self.learn_route_names();
        self.mark_dirty();
        Ok(())
    }

    pub(super) fn learn_route_names(&mut self) {
        for (id, name) in self.core.pipeline.route_names() {
            let index = id.0 as usize;
            let known = &mut self.core.route_names;
            known.resize(known.len().max(index + 1), String::new());
            known[index] = name.to_owned();
        }
    }

    /// Keeps the sources that stay the same; gives what is to be started and ended. No commit runs: what one settles is counted by
    /// the order of the sources.
    fn exchange_sources(&mut self, before: &GatewayConfig) -> Vec<Order> {
        let mut orders = Vec::new();
        let inboxes = std::mem::take(&mut self.parts.inbox.sources);
        let settled = std::mem::take(&mut self.parts.settled);
        let sources = std::mem::take(&mut self.sources);
        let running = before.sources.iter().zip(sources).zip(inboxes.into_iter().zip(settled));
        let mut running: Vec<_> = running.map(Some).collect();
        for config in &self.parts.config.gateway.sources {
            let same = running.iter_mut().find(|old| old.as_ref().is_some_and(|((old, _), _)| *old == config));
            let (source, inbox, settled) = match same.and_then(Option::take) {
                Some(((_, mut source), (inbox, settled))) => {
                    source.may_block = false;
                    for admitted in source.streams.iter_mut().flatten() {
                        let name = self.core.pipeline.name(admitted.stream).to_owned();
                        // It has an id already.
                        let known = self.core.pipeline.admit(&name, admitted.kind).ok();
                        source.may_block |= known.is_some_and(|id| self.core.pipeline.may_block(id, admitted.kind));
                        admitted.calibration = self.calibration(&name);
                    }
                    (source, inbox, settled)
                }
                None => {
                    let (sender, inbox) = mpsc::channel(SOURCE_QUEUE);
                    let (settle, settled) = watch::channel(0);
                    orders.push(Order::Start(Box::new(config.clone()), sender, settled));
                    (Source::new(config), inbox, settle)
                }
            };
            self.sources.push(source);
            self.parts.inbox.sources.push(inbox);
            self.parts.settled.push(settled);
        }
        // A new one may have the name of an old one, and waits until that has ended.
        let ends = running.into_iter().flatten().map(|((old, _), _)| Order::End(old.name.clone()));
        orders.splice(0..0, ends);
        orders
    }
}

/// The parts of a configuration that others hold on to.
fn needs_no_restart(old: &GatewayConfig, new: &GatewayConfig) -> anyhow::Result<()> {
    let held = [
        ("gateway.id", old.id != new.id),
        ("updates", old.updates != new.updates),
        ("gateway.socket", old.socket != new.socket),
        ("outbox.path", old.outbox.path != new.outbox.path),
        ("metrics.listen", old.metrics != new.metrics),
    ];
    match held.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => bail!("`{what}` takes effect with a restart only"),
        None => Ok(()),
    }
}

/// The pipeline of a configuration, with the names and the cells' states of the one that runs.
pub(super) fn beside(
    running: &mut Pipeline,
    config: &Config,
    store: &Store,
    component: impl Fn(&Release) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Pipeline> {
    let learnt = running.states();
    let state = |slot: &str| match learnt.get(slot) {
        Some(state) => Ok(Some(state.clone())),
        None => store.state(slot),
    };
    let route = |name: &str| Ok(RouteId(store.intern_route(name)?));
    let routes = cells::load(&config.cells, &config.policy, route, state, component)?;
    let names = NameTable::new(running.names().to_vec(), config.gateway.max_streams);
    let mut pipeline = Pipeline::start(config, routes, names, running.kinds().to_vec(), Unfit::Refuse)?;
    pipeline.take_ticks(running);
    // What the cells have learnt since the last commit is to be written with the next.
    pipeline.commit_failed();
    Ok(pipeline)
}

/// The pipeline of a configuration with cells that have learnt nothing, and the names of the one that runs: to try them on what was recorded.
pub(super) fn afresh(
    running: &Pipeline,
    config: &Config,
    component: impl Fn(&Release) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Pipeline> {
    let mut ids = (0..).map(RouteId);
    let id = |_: &str| Ok(ids.next().unwrap_or_default());
    let routes = cells::load(&config.cells, &config.policy, id, |_| Ok(None), component)?;
    let names = NameTable::new(running.names().to_vec(), config.gateway.max_streams);
    Pipeline::start(config, routes, names, running.kinds().to_vec(), Unfit::Refuse)
}
