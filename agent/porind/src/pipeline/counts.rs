//! What a pipeline has counted, by route, slot and stream.

use porin_core::status::{RouteStatus, SlotStatus, StreamStatus};

use super::{AnySlot, Pipeline, Route};

impl Route {
    fn appended(&self) -> u64 {
        if self.config.uplink { self.forwarded } else { 0 }
    }
}

impl Pipeline {
    /// Packets that its routes have appended to the outbox since their counters began.
    pub(crate) fn appended(&self) -> u64 {
        self.routes.iter().map(Route::appended).sum()
    }

    /// Counters of routes and slots begin anew.
    pub(crate) fn begin_counts(&mut self) {
        for route in &mut self.routes {
            (route.received, route.forwarded) = (0, 0);
            route.slots.iter_mut().for_each(AnySlot::begin_counts);
        }
    }

    /// Numbers of its slots.
    pub(crate) fn slot_status(&self) -> Vec<SlotStatus> {
        self.routes.iter().flat_map(|route| &route.slots).map(AnySlot::status).collect()
    }

    /// Numbers for the status.
    #[must_use]
    pub fn status(&self) -> (Vec<RouteStatus>, Vec<StreamStatus>) {
        let routes = self.routes.iter().map(|route| RouteStatus {
            name: route.config.name.clone(),
            received: route.received,
            slots: route.slots.iter().map(AnySlot::status).collect(),
            forwarded: route.forwarded,
            appended: route.appended(),
        });
        let streams = self.streams.iter().zip(self.names.names()).map(|(stream, name)| StreamStatus {
            name: name.clone(),
            received: stream.received,
            forwarded: stream.forwarded,
        });
        (routes.collect(), streams.collect())
    }
}
