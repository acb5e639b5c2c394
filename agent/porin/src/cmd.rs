//! One file per command.

pub(crate) mod agent;
pub(crate) mod bench_e2e;
pub(crate) mod broker;
pub(crate) mod cell_build;
pub(crate) mod cell_call;
pub(crate) mod completions;
pub(crate) mod decode;
pub(crate) mod demo;
pub(crate) mod desired;
pub(crate) mod events;
pub(crate) mod flash;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod push;
pub(crate) mod record;
pub(crate) mod reduction;
pub(crate) mod release;
pub(crate) mod rollback;
pub(crate) mod tap;
pub(crate) mod up;
