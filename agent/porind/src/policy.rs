//! The policy file: only root may say what slots may be given at most.

use anyhow::{Context, anyhow};
use porin_core::config::Policy;

use crate::guarded::{self, Guard};

/// Bytes of a policy at most.
const MAX_BYTES: u64 = 65_536;

/// Reads a policy, if it is root's and nobody else can have written it.
///
/// # Errors
/// If it is not, or says what cannot be.
pub fn read_policy(path: &str) -> anyhow::Result<Policy> {
    let bytes = guarded::read(path, "the policy ", Guard::WrittenByRoot, MAX_BYTES)?;
    let text = String::from_utf8(bytes).with_context(|| format!("the policy {path} is not UTF-8"))?;
    Policy::parse(&text).map_err(|error| anyhow!("{path}: {error}"))
}
