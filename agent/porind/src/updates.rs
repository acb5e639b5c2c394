//! What is known of updates when the agent starts: the owner's root, and what the store has kept.

use anyhow::{Context, anyhow};
use porin_core::{
    config::{CellSet, Config},
    trust::MAX_ENVELOPE,
    update::{Me, Update},
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::Ed25519KeyPair,
};

use crate::{
    agent::Updating,
    guarded::{self, Guard},
    store::Store,
    trial::Mark,
};

/// Puts the cells that are kept into the configuration. Gives what is known of updates with what the owner has configured, if he takes any.
///
/// # Errors
/// If the root cannot be used, or what the store has.
pub(crate) fn recall(mut config: Config, store: &Store) -> anyhow::Result<(Config, Option<(Updating, CellSet)>)> {
    let Some(updates) = config.gateway.updates.clone() else { return Ok((config, None)) };
    let root = read_root(&updates.root)?;
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).ok().context("the system has no random numbers")?;
    let me = Me { id: config.gateway.id.clone(), groups: updates.groups, board: updates.board, nonce };
    let crashed = Mark::was_left(&config.gateway.socket);
    let local = config.cells.clone();
    let (rows, marker) = (store.update_rows()?, store.marker()?);
    let mut update = Update::recall(me, &root, (&rows, marker), crashed, local.clone())
        .map_err(|error| anyhow!("updates from {}: {error}", updates.root))?;
    if let Some(marker) = update.marker() {
        store.keep_marker(&marker);
    }
    config.cells = update.kept(&config);
    let key = Ed25519KeyPair::from_seed_unchecked(&store.key_seed()?).map_err(|error| anyhow!("{error}"))?;
    Ok((config, Some((Updating::new(update, key), local))))
}

/// The owner's root: whoever can write to it says whose updates are taken.
///
/// # Errors
/// If others can, or it cannot be read.
pub(crate) fn read_root(path: &str) -> anyhow::Result<Vec<u8>> {
    guarded::read(path, "the root ", Guard::WrittenByOwner, MAX_ENVELOPE as u64)
}
