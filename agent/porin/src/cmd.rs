//! One file per command.

pub(crate) mod cell_build;
pub(crate) mod wit;
