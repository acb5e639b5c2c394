//! `/metrics`: the numbers of a snapshot as OpenMetrics, for whoever scrapes; on loopback, off by default.
//!
//! The list below is all there is: a new line shows up by itself. Streams are left out, since there may be thousands;
//! `porind status` has them. The server knows one answer, so it is a few lines rather than a framework.

use std::{fmt::Error, net::SocketAddr, time::Duration};

use anyhow::Context;
use porin_core::{
    health::State,
    status::{Snapshot, SourceStatus},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::status::Questions;

/// Time for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a request. A scraper's has some hundreds.
const MAX_REQUEST: usize = 8_192;

/// A value with its labels.
type Sample = (Vec<(&'static str, String)>, u64);

/// A family of values.
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    read: fn(&Snapshot) -> Vec<Sample>,
}

#[derive(Clone, Copy)]
enum MetricKind {
    Counter,
    Gauge,
}

macro_rules! plain {
    ($kind:ident, $name:literal, $help:literal, $($field:ident).+) => {
        Metric { name: $name, help: $help, kind: MetricKind::$kind, read: |s| vec![(vec![], u64::try_from(s.$($field).+).unwrap_or(u64::MAX))] }
    };
}

macro_rules! of_sources {
    ($name:literal, $help:literal, $field:ident) => {
        Metric {
            name: $name,
            help: $help,
            kind: MetricKind::Counter,
            read: |s| s.sources.iter().map(|source| (vec![("source", source.name.clone())], source.$field)).collect(),
        }
    };
}

macro_rules! of_sinks {
    ($kind:ident, $name:literal, $help:literal, $field:ident) => {
        Metric {
            name: $name,
            help: $help,
            kind: MetricKind::$kind,
            read: |s| s.sinks.iter().map(|sink| (vec![("sink", sink.name.clone())], u64::from(sink.$field))).collect(),
        }
    };
}

macro_rules! of_parts {
    ($kind:ident, $name:literal, $help:literal, $field:ident) => {
        Metric {
            name: $name,
            help: $help,
            kind: MetricKind::$kind,
            read: |s| {
                let parts = s.sources.iter().flat_map(|source| source.parts.iter().map(move |part| (source, part)));
                let labels = |source: &str, part: &str| vec![("source", source.to_owned()), ("part", part.to_owned())];
                parts.map(|(source, part)| (labels(&source.name, &part.name), u64::from(part.$field))).collect()
            },
        }
    };
}

macro_rules! of_slots {
    ($kind:ident, $name:literal, $help:literal, $field:ident) => {
        Metric {
            name: $name,
            help: $help,
            kind: MetricKind::$kind,
            read: |s| {
                let slots = s.routes.iter().flat_map(|route| route.slots.iter().map(move |slot| (route, slot)));
                let labels = |route: &str, slot: &str| vec![("route", route.to_owned()), ("slot", slot.to_owned())];
                slots
                    .map(|(route, slot)| {
                        (labels(&route.name, &slot.name), u64::try_from(slot.$field).unwrap_or(u64::MAX))
                    })
                    .collect()
            },
        }
    };
}

/// Every metric. `_total` and the like are OpenMetrics' own endings.
const METRICS: &[Metric] = &[
    plain!(Gauge, "porin_uptime_seconds", "Seconds since the start", uptime_s),
    plain!(Gauge, "porin_clock_trusted", "Whether the wall clock is believed", clock_trusted),
    plain!(Gauge, "porin_uplink_connected", "Whether there is a connection", uplink.connected),
    plain!(Counter, "porin_uplink_connections", "Connections made", uplink.connections),
    plain!(Counter, "porin_uplink_publishes", "Publishes sent, again among them", uplink.publishes),
    plain!(Counter, "porin_uplink_put_off", "Publishes that the broker did not take for the moment", uplink.put_off),
    plain!(Counter, "porin_uplink_payload_bytes", "Bytes of their payloads", uplink.bytes),
    plain!(Gauge, "porin_uplink_in_flight", "Publishes under way", uplink.in_flight),
    of_sources!("porin_source_received", "Packets that the source made", received),
    of_sources!("porin_source_unrouted", "Packets that no route wants", unrouted),
    of_sources!("porin_source_refused", "Packets on streams beyond max_streams", refused),
    of_sources!("porin_source_bad", "Rows or publishes that could not be read", bad_rows),
    Metric {
        name: "porin_source_empty",
        help: "What came and could be read, but gave no packet",
        kind: MetricKind::Counter,
        read: |s| {
            let empty = |source: &SourceStatus| source.inputs.iter().map(|input| input.empty).sum();
            s.sources.iter().map(|source| (vec![("source", source.name.clone())], empty(source))).collect()
        },
    },
    of_sources!("porin_source_restarts", "Starts after a failure", restarts),
    of_parts!(Gauge, "porin_source_part_ok", "Whether what the source asks answered when it was asked last", ok),
    of_parts!(Counter, "porin_source_part_polls", "How often it was asked", polls),
    of_parts!(Counter, "porin_source_part_failures", "How often it did not answer", failures),
    of_parts!(Counter, "porin_source_part_missed", "Times at which it should have been asked and was not", missed),
    Metric {
        name: "porin_route_forwarded",
        help: "Packets that came out of the route",
        kind: MetricKind::Counter,
        read: |s| s.routes.iter().map(|route| (vec![("route", route.name.clone())], route.forwarded)).collect(),
    },
    of_sinks!(Gauge, "porin_sink_ok", "Whether the sink works", ok),
    of_sinks!(Counter, "porin_sink_taken", "Packets that routes gave the sink", taken),
    of_sinks!(Counter, "porin_sink_done", "Packets written, by which a line went, or that a local broker has", done),
    of_sinks!(
        Counter,
        "porin_sink_lost",
        "Packets that could not be written or published, or that others overtook",
        lost
    ),
    of_slots!(Counter, "porin_slot_input", "Packets fed in", input),
    of_slots!(Counter, "porin_slot_processed", "Packets that the cell decided about", processed),
    of_slots!(
        Counter,
        "porin_slot_faulted",
        "Packets on which the cell faulted alone, or whose stream it does not take",
        faulted
    ),
    of_slots!(Counter, "porin_slot_refused", "Faulted packets whose stream the cell does not take", refused),
    of_slots!(Counter, "porin_slot_passed", "Faulted packets that went on as they came", passed),
    of_slots!(Counter, "porin_slot_dropped", "Faulted packets that were given up", dropped),
    of_slots!(Counter, "porin_slot_dead_lettered", "Faulted packets that are kept", dead_lettered),
    Metric {
        name: "porin_slot_called",
        help: "Whether the cell is called: not in back-off, not in quarantine",
        kind: MetricKind::Gauge,
        read: |s| {
            let slots = s.routes.iter().flat_map(|route| route.slots.iter().map(move |slot| (route, slot)));
            slots
                .map(|(route, slot)| {
                    let labels = vec![("route", route.name.clone()), ("slot", slot.name.clone())];
                    (labels, u64::from(slot.state == State::Running))
                })
                .collect()
        },
    },
    of_slots!(Counter, "porin_slot_lost_fuel", "Fuel used by calls that failed and by making cells again", lost_fuel),
    of_slots!(Counter, "porin_slot_log_lines_dropped", "Logged lines beyond the limits", log_lines_dropped),
    plain!(Gauge, "porin_dead_letters_waiting", "Packets on which cells faulted that are kept", dead_letters.waiting),
    plain!(Counter, "porin_dead_letters_replayed", "Of them, those given to a cell again", dead_letters.replayed),
    plain!(Counter, "porin_dead_letters_evicted", "Of them, those that gave way to others", dead_letters.evicted),
    of_slots!(Counter, "porin_slot_output", "Packets that came out", output),
    of_slots!(Counter, "porin_slot_faults", "Calls that failed", faults),
    of_slots!(Counter, "porin_slot_fuel", "Fuel used by process", fuel),
    of_slots!(Gauge, "porin_slot_memory_bytes", "Linear memory", memory_bytes),
    plain!(Counter, "porin_outbox_appended", "Packets handed over by routes, or found at the start", outbox.appended),
    plain!(Counter, "porin_outbox_found", "Packets found on disk at the start, among those appended", outbox.found),
    plain!(Counter, "porin_outbox_earlier", "Packets appended before the last new configuration", outbox.earlier),
    plain!(Counter, "porin_outbox_acknowledged", "Packets that the broker has", outbox.acknowledged),
    plain!(Gauge, "porin_outbox_waiting", "Packets that wait, those under way among them", outbox.waiting),
    plain!(Counter, "porin_outbox_evicted", "Packets given up because the outbox was full", outbox.evicted),
    plain!(Counter, "porin_outbox_expired", "Packets given up because they were too old", outbox.expired),
    plain!(Counter, "porin_outbox_dead_lettered", "Packets that the broker refused for good", outbox.dead_lettered),
    plain!(Gauge, "porin_outbox_waiting_bytes", "What waits, in bytes as the outbox counts them", outbox.waiting_bytes),
    plain!(Counter, "porin_outbox_resent", "Packets sent again after a lost connection", outbox.resent),
    plain!(Counter, "porin_outbox_commits", "Commits", outbox.commits),
    plain!(Counter, "porin_outbox_commit_microseconds", "Time that commits took", outbox.commit_us),
    plain!(Counter, "porin_outbox_written", "Records that commits wrote", outbox.written),
];

/// A snapshot, to be told as metrics.
#[derive(Debug)]
struct Scrape(Snapshot);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        for Metric { name, help, kind, read } in METRICS {
            let (counter, gauge) = (ConstCounter::new(0u64), ConstGauge::new(0u64));
            let metric_type = match kind {
                MetricKind::Counter => counter.metric_type(),
                MetricKind::Gauge => gauge.metric_type(),
            };
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            let encode = |value, encoder: MetricEncoder<'_>| match kind {
                MetricKind::Counter => ConstCounter::new(value).encode(encoder),
                MetricKind::Gauge => ConstGauge::new(value).encode(encoder),
            };
            match read(&self.0).as_slice() {
                [(labels, value)] if labels.is_empty() => encode(*value, family)?,
                samples => {
                    for (labels, value) in samples {
                        encode(*value, family.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The text that a scraper gets.
fn openmetrics(snapshot: Snapshot) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Takes the port before the agent starts.
pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening for scrapers on {address}"))
}

/// Answers until the agent ends, one scraper at a time.
pub(crate) async fn serve(listener: TcpListener, questions: Questions) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::time::timeout(PATIENCE, answer(stream, &questions)).await),
            Err(error) => {
                tracing::warn!(%error, "the port for scrapers");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, questions: &Questions) -> anyhow::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics ") || request.starts_with(b"GET /metrics?") {
        ("200 OK", openmetrics(questions.snapshot().await?)?)
    } else {
        ("404 Not Found", "the numbers are at /metrics\n".into())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
