//! The `logger` of the world `processing-unit`: lines of `log`, without level and context.

use wasmi::{Caller, Func};

use super::{
    Capability, Host, Level, LogLine,
    log::{printable, write},
};
use crate::abi;

pub(crate) const CAPABILITY: Capability = Capability {
    grant: "log",
    interface: "techsheet:cloud-demo/logger",
    functions: &[("log", |store, memory| {
        Func::wrap(store, move |mut caller: Caller<'_, Host>, message: u32, len: u32| {
            write(&mut caller, memory, |bytes, limit| {
                let message = abi::text(bytes, "log message", message, len, limit).map(printable)?;
                Ok(LogLine { level: Level::Info, context: String::new(), message })
            })
        })
    })],
};
