//! The world `processing-unit` on Wasmtime: the same component as at the edge, compiled instead of interpreted.
//!
//! 18 MB of compiler, so it is a program of its own beside `porin`, and nothing of it is on a gateway.

use anyhow::anyhow;
use wasmtime::{
    Config, Engine, Store,
    component::{Component, HasSelf, Linker},
};

mod bindings {
    #![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
    wasmtime::component::bindgen!({ path: "../../wit/cloud-demo", world: "processing-unit" });
}
use bindings::{ProcessingUnit, techsheet::cloud_demo::logger};

/// Fuel of a call: some seconds of a loop, then it ends.
const FUEL: u64 = 10_000_000_000;

/// What a call leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub answer: String,
    /// What was logged.
    pub log: Vec<String>,
}

#[derive(Default)]
struct Host {
    log: Vec<String>,
}

impl logger::Host for Host {
    fn log(&mut self, message: String) {
        self.log.push(message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
    }
}

/// Runs `handle-request` of a component once.
///
/// # Errors
/// If it is not of the world, or the call traps.
pub fn handle_request(component: &[u8], input: &str) -> anyhow::Result<Outcome> {
    // The same answers everywhere: a NaN has one form only.
    let mut config = Config::new();
    config.cranelift_nan_canonicalization(true).consume_fuel(true);
    let wrong = |error: wasmtime::Error| anyhow!("{error:#}");
    let engine = Engine::new(&config).map_err(wrong)?;
    let component = Component::new(&engine, component).map_err(wrong)?;
    let mut linker = Linker::new(&engine);
    ProcessingUnit::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut Host| host).map_err(wrong)?;
    let mut store = Store::new(&engine, Host::default());
    store.set_fuel(FUEL).map_err(wrong)?;
    let unit = ProcessingUnit::instantiate(&mut store, &component, &linker).map_err(wrong)?;
    let answer = unit.call_handle_request(&mut store, input).map_err(wrong)?;
    Ok(Outcome { answer, log: store.into_data().log })
}
