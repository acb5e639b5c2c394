//! Parameters tried with made-up streams, where names are known only at run time.

use anyhow::bail;
use porin_core::{config::Config, status::RefusedStream};

use crate::doctor::{Finding, Findings};

/// For each wildcard of a pattern. No device is called so.
const LEVEL: &str = "made-up";

/// Tries the parameters of every slot with a stream of each pattern of its route. A warning for what only some streams have.
///
/// # Errors
/// If a cell would take no stream of a pattern at all.
pub fn try_made_up(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Findings::default();
    for route in &config.cells.routes {
        let mut pipeline = crate::pipeline(config)?;
        for pattern in &route.streams {
            let name = pattern.example(LEVEL);
            // Without room for another name it is refused with its packets, which is counted elsewhere.
            let _id = pipeline.admit(&name, route.input);
        }
        let slots = pipeline.slot_status();
        for slot in slots.iter().filter(|slot| route.slots.iter().any(|of| of.name == slot.name)) {
            for RefusedStream { stream, reason } in &slot.refused_streams {
                let of = route.streams.iter().find(|pattern| pattern.example(LEVEL) == *stream);
                let mut known = config.gateway.streams.keys();
                let takes_some = of.is_some_and(|pattern| known.any(|name| name != stream && pattern.matches(name)));
                let (slot, route) = (&slot.name, &route.name);
                if !takes_some {
                    bail!("slot `{slot}` of route `{route}`: its cell takes no stream such as `{stream}`: {reason}");
                }
                findings.warning(
                    "slot",
                    format!("`{slot}` of route `{route}` would not take a stream such as `{stream}`: {reason}"),
                    "packets of streams that [streams] does not name get the `fault` policy of the slot",
                );
            }
        }
    }
    Ok(findings.0)
}
