//! The policy file: only root may say what slots may be given at most.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt};

use anyhow::{Context, anyhow, ensure};
use porin_core::config::Policy;

/// Bytes of a policy at most.
const MAX_BYTES: u64 = 65_536;

/// Reads a policy, if it is root's and nobody else can have written it.
///
/// # Errors
/// If it is not, or says what cannot be.
pub fn read_policy(path: &str) -> anyhow::Result<Policy> {
    let cannot = || format!("cannot read the policy {path}");
    let mut file = File::open(path).with_context(cannot)?;
    let about = file.metadata().with_context(cannot)?;
    ensure!(about.is_file() && about.len() <= MAX_BYTES, "the policy {path} is no file of at most {MAX_BYTES} bytes");
    let (owner, mode) = (about.uid(), about.mode() & 0o777);
    ensure!(owner == 0, "the policy {path} belongs to user {owner}; it must belong to root: chown root {path}");
    ensure!(mode & 0o022 == 0, "the policy {path} has mode {mode:04o}; only root may write to it: chmod go-w {path}");
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(cannot)?;
    Policy::parse(&text).map_err(|error| anyhow!("{path}: {error}"))
}
