//! The policy: what a slot may be given at most, and where routes may end, whoever asks. A file of its own, which belongs to root.
//!
//! The configuration grants, the policy bounds what may be granted. Nothing is narrowed silently: a slot that asks for more is an
//! error that names the line of the policy.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use toml::Spanned;

use super::{CellSet, ConfigError, Defaults, GRANTS, Route, Slot, check, desired::Origin, raw};
use crate::limits::LIMITS;

/// What a slot may be given at most. The default: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `None`: everything there is.
    grants: Option<Vec<String>>,
    /// Sinks at which routes may end; `None`: every one there is.
    sinks: Option<Vec<String>>,
    /// By name, the most that it may be set to.
    limits: BTreeMap<&'static str, u64>,
}

impl Policy {
    /// Reads and checks a policy.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let parser = check::Parser { text, defaults: Defaults::default(), origin: Origin::Owner };
        let raw: raw::Policy = toml::from_str(text).map_err(|error| parser.toml_error(&error))?;
        let grant = |grant: Spanned<String>| match GRANTS.contains(&grant.get_ref().as_str()) {
            true => Ok(grant.into_inner()),
            false => parser.choice(grant.span(), "grant", grant.get_ref(), &GRANTS),
        };
        let grants = raw.grants.map(|grants| grants.into_iter().map(grant).collect::<Result<Vec<_>, _>>());
        let limits = parser.limits(&raw.limits)?.into_iter().map(|(limit, value)| (limit.name, value)).collect();
        Ok(Self { grants: grants.transpose()?, sinks: raw.sinks, limits })
    }

    /// Whether every route and slot keeps to it.
    ///
    /// # Errors
    /// What the first one asks for beyond, in words that name the line of the policy.
    pub fn allows(&self, cells: &CellSet) -> Result<(), String> {
        cells.routes.iter().try_for_each(|route| self.allows_route(route))?;
        cells.slots().try_for_each(|slot| self.allows_slot(slot))
    }

    fn allows_route(&self, Route { name, sinks, .. }: &Route) -> Result<(), String> {
        if let Some(allowed) = &self.sinks
            && let Some(sink) = sinks.iter().find(|sink| !allowed.contains(sink))
        {
            return Err(format!(
                "route `{name}` ends at sink `{sink}`, which the policy does not allow; the line of the policy that would: sinks = [\"{sink}\"]"
            ));
        }
        Ok(())
    }

    fn allows_slot(&self, Slot { name, grants, limits, .. }: &Slot) -> Result<(), String> {
        if let Some(allowed) = &self.grants
            && let Some(grant) = grants.iter().find(|grant| !allowed.contains(grant))
        {
            return Err(format!(
                "slot `{name}` grants `{grant}`, which the policy does not allow; the line of the policy that would: grants = [\"{grant}\"]"
            ));
        }
        for limit in &LIMITS {
            let value = (limit.get)(limits);
            if let Some(most) = self.limits.get(limit.name)
                && value > *most
            {
                let key = limit.name;
                return Err(format!(
                    "slot `{name}` has {key} = {value}, the policy allows {most}; set {key} = {most} in [slots.{name}.limits]"
                ));
            }
        }
        Ok(())
    }
}
