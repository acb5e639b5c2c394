//! Cells from their files: read, checked, compiled. `porind check` and the start of the agent do the same.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context, anyhow, bail};
use porin_cell::{CellPacket, Engine, Plan, StartError, World};
use porin_core::{
    config::{CellSet, Policy, Provenance, Route, Slot as SlotConfig},
    ids::RouteId,
    limits::CellLimits,
    packet::{Message, Packet},
    reason::Code,
    setup::Setup,
    trust::{self, Release},
};

use crate::{
    slot::{AnySlot, Pass, Slot},
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

/// Loads every component. `id` gives a route's durable id, `state` what a slot's cell saved last, `component` the bytes of a release.
///
/// # Errors
/// What is wrong with one of them, or what a slot is given beyond the policy.
pub(crate) fn load(
    cells: &CellSet,
    policy: &Policy,
    mut id: impl FnMut(&str) -> anyhow::Result<RouteId>,
    state: impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
    component: impl Fn(&Release) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Vec<LoadedRoute>> {
    policy.allows(cells).map_err(|error| anyhow!(error))?;
    let mut shelf = Shelf::default();
    let mut routes = Vec::new();
    for route in &cells.routes {
        let mut slots = Vec::new();
        for config in &route.slots {
            let bytes = match &config.cell {
                Provenance::Local(path) => read(Path::new(path), config.limits.component_bytes as u64),
                Provenance::Signed(release) => component(release),
            };
            let loaded = bytes.and_then(|bytes| shelf.plan(config, &bytes));
            let (plan, digest) = loaded.with_context(|| format!("slot `{}`: cell {}", config.name, config.cell))?;
            slots.push(LoadedSlot { config: config.clone(), plan, digest, state: state(&config.name)? });
        }
        routes.push(LoadedRoute { id: id(&route.name)?, config: route.clone(), slots });
    }
    Ok(routes)
}

/// Why a component does not fit its slot, with the reason that is reported.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
pub(crate) struct Misfit(pub(crate) Code, pub(crate) String);

/// Before reading: a wrong path may name something huge.
fn read(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    anyhow::ensure!(size <= limit, "the file has {size} bytes, a cell may have {limit}");
    Ok(fs::read(path)?)
}

/// What was loaded so far. Slots with the same component and the same limits share what was made of it; their instances share nothing.
#[derive(Default)]
struct Shelf {
    /// The engine's stack is bounded for all its cells: by height and depth.
    engines: BTreeMap<(usize, usize), Engine>,
    plans: Vec<(Digest, CellLimits, Arc<Plan>)>,
}

impl Shelf {
    fn plan(&mut self, config: &SlotConfig, bytes: &[u8]) -> anyhow::Result<(Arc<Plan>, Digest)> {
        let limits = config.limits;
        let digest = trust::Digest::of(bytes).0;
        let same = |(other, bounds, plan): &&(Digest, CellLimits, Arc<Plan>)| {
            (*other, *bounds, plan.world) == (digest, limits, config.world)
        };
        let plan = match self.plans.iter().find(same) {
            Some((_, _, plan)) => plan.clone(),
            None => {
                let engine = self.engines.entry((limits.stack_bytes, limits.call_depth));
                let plan = Arc::new(load_plan(engine.or_insert_with(|| Engine::new(&limits)), config, bytes)?);
                self.plans.push((digest, limits, plan.clone()));
                plan
            }
        };
        if let Provenance::Signed(release) = &config.cell {
            if release.sha256.0 != digest {
                bail!(Misfit(
                    Code::Damaged,
                    format!("its bytes have the digest {}, expected {}", trust::Digest(digest), release.sha256)
                ));
            }
            let mut imports: Vec<_> = plan.imports().map(|(import, _)| import).collect();
            imports.sort_unstable();
            if imports != release.imports.iter().map(String::as_str).collect::<Vec<_>>() {
                bail!(Misfit(
                    Code::UndeclaredImport,
                    format!("it imports {imports:?}, its release says {:?}", release.imports)
                ));
            }
        }
        for (import, grant) in plan.imports() {
            let granted = config.grants.iter().any(|g| g == grant);
            if !granted {
                let hint = format!("to allow it, add grants = [\"{grant}\"] to [slots.{}]", config.name);
                bail!(Misfit(
                    Code::NotGranted,
                    format!("it imports `{import}`, which the slot does not grant; {hint}")
                ));
            }
        }
        Ok((plan, digest))
    }
}

fn load_plan(engine: &Engine, config: &SlotConfig, bytes: &[u8]) -> anyhow::Result<Plan> {
    let load = |world| Plan::load(engine, bytes, world, &config.limits);
    load(config.world).map_err(|error| {
        let other = World::ALL.into_iter().find(|world| *world != config.world && load(*world).is_ok());
        let hint = other.map(|world| {
            format!("; it is of the world `{0}`: add world = \"{0}\" to [slots.{1}]", world.name(), config.name)
        });
        anyhow!("{error}{}", hint.unwrap_or_default())
    })
}

impl LoadedSlot {
    /// Starts the cell with the streams known so far.
    pub(crate) fn start(&self, setup: Setup) -> anyhow::Result<AnySlot> {
        let started = match self.config.world {
            World::Filter => self.start_as(setup, Some(|reading| *reading)).map(AnySlot::Filter),
            World::MessageFilter => self.start_as(setup, Some(Message::clone)).map(AnySlot::MessageFilter),
            World::Decoder => self.start_as(setup, None).map(AnySlot::Decoder),
        };
        started.map_err(|error| anyhow!("slot `{}`: {error}", self.config.name))
    }

    fn start_as<I: CellPacket + Into<Packet>, O: CellPacket>(
        &self,
        setup: Setup,
        pass: Pass<I, O>,
    ) -> Result<Slot<I, O>, StartError> {
        Slot::start(self.config.clone(), self.plan.clone(), self.digest, setup, self.state.clone(), pass)
    }
}
