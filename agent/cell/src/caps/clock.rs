//! Capability `clock`: the time of the route, as the loop last told the cell.

use wasmi::{Caller, Func};

use super::{Capability, Host};

pub(crate) const CAPABILITY: Capability = Capability {
    grant: "clock",
    interface: "porin:cell/clock@0.1.0",
    functions: &[("now-us", |store, _| {
        Func::wrap(store, |caller: Caller<'_, Host>| caller.data().leave().map(|()| caller.data().now.0))
    })],
};
