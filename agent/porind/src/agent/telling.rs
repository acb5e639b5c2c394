//! The loop's side of whoever looks: snapshots, taps, the numbers over MQTT.

use porin_core::{
    ids::Seq,
    record::Record,
    status::{CertificateStatus, OutboxStatus, Snapshot, UplinkStatus},
    topic::Topic,
};

use sd_notify::NotifyState;
use tracing::{debug, warn};

use super::{Agent, Core, Parts, Updating, commits::Commits};
use crate::{
    link::{JSON, Publish, Request},
    sink::{Age, Delivery},
    tap::Tap,
};

const DAY_US: u64 = 86_400_000_000;

/// Time to get another certificate.
const SOON_DAYS: u64 = 30;

impl Agent {
    /// Everything, at this moment.
    pub(super) fn status(&self) -> Snapshot {
        let Core { pipeline, outbox, dead, clock, .. } = &self.core;
        let Parts { config, store, uptime, .. } = &self.parts;
        let (routes, streams) = pipeline.status();
        let Commits { commits, written, took_us, slowest_us, last_error, .. } = &self.commit;
        let link = &self.link;
        let connected = link.connection.is_some();
        Snapshot {
            gateway: config.gateway.id.clone(),
            epoch: store.epoch.to_string(),
            uptime_s: uptime.running_s(),
            clock_trusted: clock.is_trusted(),
            certificate_time: clock.certificate_time(self.clock_chip).judged_by(),
            uplink: UplinkStatus { connected, in_flight: outbox.window(), ..link.status.clone() },
            sources: self.sources.iter().map(|source| source.status.clone()).collect(),
            streams,
            routes,
            outbox: OutboxStatus {
                found: self.found,
                earlier: self.earlier,
                commits: *commits,
                written: *written,
                commit_us: *took_us,
                slowest_commit_us: *slowest_us,
                disk_error: last_error.clone(),
                dead_letters: link.dead_letters.clone(),
                ..OutboxStatus::of(outbox)
            },
            sinks: self.sinks.status(),
            dead_letters: dead.status(),
            update: self.updating.as_ref().map(Updating::status),
            ..Snapshot::default()
        }
        .finish()
    }

    /// Tells the service manager that the loop goes on: the loop itself, and nobody else.
    pub(super) fn feed_the_watchdog(&mut self) {
        if let Some(interval_us) = self.parts.watchdog_us
            && self.now.mono >= self.feed_at
        {
            self.feed_at = self.now.mono.after(interval_us / 4);
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// Certificates that end soon, once a day.
    pub(super) fn warn_of_certificates(&mut self) {
        if self.now.mono < self.warn_at || !self.core.clock.is_trusted() {
            return;
        }
        self.warn_at = self.now.mono.after(DAY_US);
        for CertificateStatus { file, not_after_s } in &self.link.status.certificates {
            let days = not_after_s.saturating_mul(1_000_000).saturating_sub(self.now.unix.0) / DAY_US;
            if days < SOON_DAYS {
                warn!(file, days, "a certificate expires soon: replace it, or the agent cannot connect then");
            }
        }
    }

    /// From now on somebody looks at packets as they pass, and is told so.
    pub(super) fn look(&mut self, mut tap: Tap) {
        self.taps.retain(|tap| !tap.is_closed());
        tap.begin();
        self.taps.push(tap);
    }

    /// Gives sinks what routes have kept for them.
    pub(super) fn give_to_sinks(&mut self, age: Age) {
        if self.for_sinks.is_empty() {
            return;
        }
        let Self { for_sinks, sinks, files, taps, core: Core { pipeline, .. }, .. } = self;
        for (id, packet) in for_sinks.drain(..) {
            let Some(route) = pipeline.route(id) else { continue };
            let stream = packet.stream();
            let (name, unit) = (pipeline.name(stream), pipeline.unit(stream));
            let delivery = Delivery { packet: &packet, id, route: &route.name, stream: name, unit, age };
            route.sinks.iter().for_each(|sink| sinks.give(sink, &delivery, files));
            // What goes to the uplink as well is shown with all that does.
            if !route.uplink {
                taps.iter_mut().for_each(|tap| tap.kept(pipeline, id, &packet));
            }
        }
    }

    /// Shows what routes have kept for the uplink since this seq to whoever looks.
    pub(super) fn show_kept(&mut self, from: Seq) {
        self.taps.retain(|tap| !tap.is_closed());
        let Self { taps, core: Core { outbox, pipeline, .. }, .. } = self;
        for tap in taps {
            for Record { route, packet, .. } in outbox.appended_from(from) {
                tap.kept(pipeline, *route, packet);
            }
        }
    }

    /// Publishes the numbers every `metrics.every`, without the streams, which may be thousands. What is not sent is not kept: the
    /// next ones are newer.
    pub(super) fn tell(&mut self) {
        let now = self.now.mono;
        let Some(connection) = self.link.connection else { return };
        let Some(every_us) = self.parts.config.gateway.publish_metrics_us else { return };
        if now < self.tell_at || self.parts.link.capacity() == 0 {
            return;
        }
        self.tell_at = now.after(every_us);
        let numbers = Snapshot { streams: Vec::new(), ..self.status() };
        let Ok(payload) = serde_json::to_vec(&numbers) else { return };
        if payload.len() > self.link.max_payload() {
            warn!(bytes = payload.len(), "metrics not published: they are larger than the broker allows");
            return;
        }
        let topic = Topic::Metrics { gateway: &self.parts.config.gateway.id }.to_string();
        // There is room.
        self.publish_unkept(Publish { connection, ticket: None, topic, retain: false, content_type: JSON, payload });
    }
}

impl Agent {
    /// Publishes something that nobody waits for. There must be room.
    pub(super) fn publish_unkept(&self, publish: Publish) {
        let _ = self.parts.link.try_send(Request::Publish(publish));
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager does not listen");
    }
}
