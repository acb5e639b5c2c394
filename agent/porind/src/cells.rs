//! Cells from their files: read, checked, compiled. `porind check` and the start of the agent do the same.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use porin_cell::{CellPacket, Engine, Plan, StartError, World};
use porin_core::{
    config::{CellSet, Provenance, Route, Slot as SlotConfig},
    ids::RouteId,
    setup::Setup,
};
use ring::digest::{SHA256, digest};

use crate::{
    slot::{AnySlot, Slot},
    store::Digest,
};

/// A route whose components are loaded, not started.
pub(crate) struct LoadedRoute {
    pub(crate) id: RouteId,
    pub(crate) config: Route,
    pub(crate) slots: Vec<LoadedSlot>,
}

/// A slot whose component is loaded, not started.
pub(crate) struct LoadedSlot {
    pub(crate) config: SlotConfig,
    plan: Arc<Plan>,
    digest: Digest,
    state: Option<Vec<u8>>,
}

/// Loads every component. `id` gives a route's durable id, `state` what a slot's cell saved last.
pub(crate) fn load(
    cells: &CellSet,
    mut id: impl FnMut(&str) -> anyhow::Result<RouteId>,
    state: impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
) -> anyhow::Result<Vec<LoadedRoute>> {
    let engine = Engine::new();
    let mut routes = Vec::new();
    for route in &cells.routes {
        let mut slots = Vec::new();
        for config in &route.slots {
            let Provenance::Local(path) = &config.cell;
            let loaded = load_plan(&engine, config, path);
            let (plan, digest) = loaded.with_context(|| format!("slot `{}`: cell {path}", config.name))?;
            slots.push(LoadedSlot {
                config: config.clone(),
                plan: Arc::new(plan),
                digest,
                state: state(&config.name)?,
            });
        }
        routes.push(LoadedRoute { id: id(&route.name)?, config: route.clone(), slots });
    }
    Ok(routes)
}

fn load_plan(engine: &Engine, config: &SlotConfig, path: &str) -> anyhow::Result<(Plan, Digest)> {
    let size = fs::metadata(path)?.len();
    let limit = config.limits.component_bytes as u64;
    // Before reading: a wrong path may name something huge.
    anyhow::ensure!(size <= limit, "the file has {size} bytes, a cell may have {limit}");
    let bytes = fs::read(Path::new(path))?;
    let load = |world| Plan::load(engine, &bytes, world, &config.limits);
    let plan = load(config.world).map_err(|error| {
        let other = World::ALL.into_iter().find(|world| *world != config.world && load(*world).is_ok());
        let hint = other.map(|world| {
            format!("; it is of the world `{0}`: add world = \"{0}\" to [slots.{1}]", world.name(), config.name)
        });
        anyhow!("{error}{}", hint.unwrap_or_default())
    })?;
    for grant in plan.grants() {
        let granted = config.grants.iter().any(|g| g == grant);
        anyhow::ensure!(
            granted,
            "it imports `{grant}`, which the slot does not grant; to allow it, add grants = [\"{grant}\"] to [slots.{}]",
            config.name
        );
    }
    let digest = digest(&SHA256, &bytes);
    Ok((plan, digest.as_ref().try_into().context("SHA-256 has 32 bytes")?))
}

impl LoadedSlot {
    /// Starts the cell with the streams known so far.
    pub(crate) fn start(&self, setup: Setup) -> anyhow::Result<AnySlot> {
        let started = match self.config.world {
            World::Filter => self.start_as(setup).map(AnySlot::Filter),
            World::MessageFilter => self.start_as(setup).map(AnySlot::MessageFilter),
            World::Decoder => self.start_as(setup).map(AnySlot::Decoder),
        };
        started.map_err(|error| anyhow!("slot `{}`: {error}", self.config.name))
    }

    fn start_as<I: CellPacket, O: CellPacket>(&self, setup: Setup) -> Result<Slot<I, O>, StartError> {
        Slot::start(self.config.clone(), self.plan.clone(), self.digest, setup, self.state.clone())
    }
}
