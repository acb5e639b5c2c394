//! The gateway program as a library: `porind` and `porin up` both call [`run`].
//!
//! Three threads: I/O (tokio, current-thread: sources, link, status), the pipeline (`agent.rs`, the one to read
//! first), the committer. They meet only through the bounded queues of `inbox.rs`.

mod agent;
mod board;
mod cell_log;
mod cells;
pub mod command;
mod committer;
mod doctor;
mod files;
mod gpio;
mod guarded;
mod inbox;
mod link;
mod machine;
mod made_up;
mod metrics;
mod pipeline;
mod policy;
mod report;
mod selftest;
mod sink;
mod slot;
mod source;
mod status;
mod store;
mod tap;
mod tls;
mod trial;
mod updates;

use std::{collections::BTreeMap, path::Path, sync::Arc, thread};

use anyhow::{Context, anyhow, bail};
use porin_core::{
    clock::{CertificateTime, Clock},
    config::{self, Broker, Config},
    dead::DeadLetters,
    ids::RouteId,
    outbox::Outbox,
    status::{SlotStatus, Snapshot},
    stream::NameTable,
    time::{Now, Unix},
    trust::{self, Release},
};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

pub use agent::Until;
pub use board::{boards, check_board, compatible, read_board};
pub use doctor::{Finding, Verdict, doctor};
pub use machine::wall_clock;
pub use made_up::try_made_up;
pub use pipeline::{Forwarded, Pipeline, Routed, To};
pub use policy::read_policy;
pub use rumqttc::Transport;
pub use selftest::selftest;
pub use status::{ask as ask_status, tap};

use crate::{
    committer::Committer,
    inbox::{Doorbell, Inbox},
    machine::Uptime,
    pipeline::Unfit,
    source::Order,
    status::Questions,
    store::{Found, Names, Store},
};

/// Returns the log level that `PORIN_LOG` names; `None` if it is unset or empty.
///
/// # Errors
/// The value is not a level.
pub fn log_level() -> Result<Option<tracing::Level>, String> {
    let text = std::env::var_os("PORIN_LOG").unwrap_or_default().to_string_lossy().into_owned();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("PORIN_LOG = {text}: must be error, warn, info, debug or trace"))
}

/// Checks what can be checked without starting: loads every cell and starts it with the streams that the
/// configuration names. Gives a line for each slot.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(config: &Config) -> anyhow::Result<Vec<String>> {
    let gateway = &config.gateway;
    // The clock may be wrong, and certificates are then judged at each connection; here they are only read.
    for (whose, broker) in gateway.brokers() {
        tls::access(broker, CertificateTime::Clock(Unix(0))).context(whose)?;
    }
    for source in &gateway.sources {
        source::check(&source.kind).with_context(|| format!("source `{}`", source.name))?;
    }
    if let Some(config::Updates { root, .. }) = &gateway.updates {
        let bytes = updates::read_root(root).context("[updates]")?;
        trust::pinned_root(&bytes).map_err(|refusal| anyhow!("[updates]: the root {root}: {refusal}"))?;
    }
    let (routes, _) = pipeline(config)?.status();
    let line = |route: &str, slot: &SlotStatus| format!("{route}: {} sha256:{}", slot.name, &slot.digest[..16]);
    Ok(routes.iter().flat_map(|route| route.slots.iter().map(|slot| line(&route.name, slot))).collect())
}

/// The data path without storage and network: every cell started afresh, with the streams that the configuration names.
///
/// # Errors
/// What is wrong with a cell or its parameters.
pub fn pipeline(config: &Config) -> anyhow::Result<Pipeline> {
    let mut ids = (0..).map(RouteId);
    let id = |_: &str| Ok(ids.next().unwrap_or_default());
    let component = |_: &Release| bail!("only a running agent has releases");
    let routes = cells::load(&config.cells, &config.policy, id, |_| Ok(None), component)?;
    let names = config.gateway.streams.keys().cloned().collect();
    Pipeline::start(config, routes, NameTable::new(names, config.gateway.max_streams), Vec::new(), Unfit::Fail)
}

/// What decides, as the store left it.
fn core_of(config: &Config, store: &Store, found: &Found) -> anyhow::Result<agent::Core> {
    let id = |name: &str| Ok(RouteId(store.intern_route(name)?));
    let component = |release: &Release| store.component(release);
    let routes = cells::load(&config.cells, &config.policy, id, |slot| store.state(slot), component)?;
    let names = store.names(Names::Streams)?;
    let durable_names = names.len();
    let route_names = store.names(Names::Routes)?;
    let names = NameTable::new(names, config.gateway.max_streams);
    let pipeline = Pipeline::start(config, routes, names, store.stream_kinds()?, Unfit::Refuse)?;
    let outbox = Outbox::new(found.outbox.clone(), config.gateway.outbox.bounds);
    let clock = Clock::new(found.boot, config.gateway.clock, found.time_floor, found.spans.clone());
    let (letters, next) = store.dead_letters()?;
    let dead = DeadLetters::new(letters, next, config.gateway.dead_letter_bytes);
    Ok(agent::Core { pipeline, outbox, dead, clock, route_names, durable_names, room: found.room })
}

/// By which time certificates are judged until the loop has looked at the clock.
fn first_certificate_time(clock: &Clock) -> CertificateTime {
    let mut clock = clock.clone();
    clock.observe(Now { unix: wall_clock(), mono: Uptime::begin().now() }, machine::clock_is_kept());
    clock.certificate_time(machine::clock_chip())
}

/// How a broker is reached, and user name and password there, for those who have something to do with the gateways' broker.
///
/// # Errors
/// If certificates, keys or the password cannot be used.
pub fn access(broker: &Broker) -> anyhow::Result<(Transport, Option<(String, String)>)> {
    let access = tls::access(broker, CertificateTime::Clock(Unix(0)))?;
    Ok((access.transport, access.login))
}

/// Runs the agent until it is told to stop, or until everything is done. `ready` is called when it takes packets. A configuration that
/// comes over `reload` takes the place of the one that runs, if there is nothing wrong with it. Gives
/// the last status.
///
/// # Errors
/// What kept it from starting.
pub fn run(
    config: Config,
    until: Until,
    mut stop: watch::Receiver<bool>,
    reload: mpsc::Receiver<Config>,
    ready: impl FnOnce(),
) -> anyhow::Result<Snapshot> {
    machine::private_files_only();
    machine::small_pages_only();
    let (store, found) = Store::open(Path::new(&config.gateway.outbox.path), machine::boot_id())?;
    let store = Arc::new(store);
    let (mut config, mut updating) = updates::recall(config, &store)?;
    let core = match (core_of(&config, &store, &found), &mut updating) {
        (Err(error), Some((updating, local))) if config.cells != *local => {
            // What the operator wanted cannot be run any more: what the owner has configured can.
            tracing::error!(
                error = format!("{error:#}"),
                "the desired state that was kept cannot be run; the configuration is"
            );
            updating.is_inconsistent(&format!("{error:#}"));
            config.cells = local.clone();
            core_of(&config, &store, &found)?
        }
        (core, _) => core?,
    };
    let updating = updating.map(|(updating, _)| updating);
    tracing::info!(gateway = config.gateway.id, epoch = %store.epoch, waiting = core.outbox.waiting(), "started");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the I/O runtime")?;
    let listener = runtime.block_on(async { status::listen(&config.gateway.socket) })?;
    let scrapers = config.gateway.metrics.map(|address| runtime.block_on(metrics::listen(address))).transpose()?;

    let (link_events, link_inbox) = mpsc::channel(inbox::LINK_QUEUE);
    let (came, incoming) = mpsc::channel(inbox::INCOMING_QUEUE);
    let (questions, question_inbox) = mpsc::channel(inbox::QUESTION_QUEUE);
    let (stop_agent, stop_inbox) = mpsc::channel(1);
    // As many as can be under way; one more is never sent.
    let (publishes, link) = mpsc::channel(usize::from(config.gateway.uplink.in_flight));
    let (stop_link, link_stop) = watch::channel(false);
    let mut sources = Vec::new();
    let mut source_inboxes = Vec::new();
    let mut settled = Vec::new();
    for source in config.gateway.sources.clone() {
        let (sender, receiver) = mpsc::channel(inbox::SOURCE_QUEUE);
        let (settle, settled_upto) = watch::channel(0);
        source_inboxes.push(receiver);
        settled.push(settle);
        sources.push((source, sender, settled_upto));
    }
    let inbox = Inbox {
        sources: source_inboxes,
        link: link_inbox,
        incoming,
        questions: question_inbox,
        stop: stop_inbox,
        reload,
        turn: 0,
    };
    let identity = link::Identity { gateway: config.gateway.id.clone(), epoch: store.epoch };
    let (uplink, uplinks) = watch::channel(config.gateway.uplink.clone());
    let (orders, mut ordered) = mpsc::channel(1);
    let watchdog_us = watchdog_us();
    let (certificate_time, judged_by) = watch::channel(first_certificate_time(&core.clock));

    let (end, mut ended) = watch::channel(false);
    let pipeline_thread =
        thread::Builder::new().name("pipeline".into()).spawn(move || -> anyhow::Result<Snapshot> {
            // Told however the thread ends: the sender is dropped with it.
            let _end = end;
            let committer = Committer::start(store.clone(), Doorbell::of_this_thread())?;
            Ok(agent::run(
                core,
                agent::Parts {
                    config,
                    until,
                    store,
                    uptime: Uptime::begin(),
                    inbox,
                    committer,
                    settled,
                    link: publishes,
                    uplink,
                    orders,
                    watchdog_us,
                    certificate_time,
                    stop_link,
                    updating,
                },
            ))
        })?;
    let doorbell = Doorbell::of(&pipeline_thread);
    let tasks = tokio::task::LocalSet::new();
    let mut running = BTreeMap::new();
    for (source, sender, settled) in sources {
        let name = source.name.clone();
        running
            .insert(name, tasks.spawn_local(source::run(source, sender, doorbell.clone(), settled, judged_by.clone())));
    }
    let (bell, times) = (doorbell.clone(), judged_by.clone());
    tasks.spawn_local(async move {
        while let Some(orders) = ordered.recv().await {
            for order in orders {
                match order {
                    Order::Start(source, sender, settled) => {
                        let name = source.name.clone();
                        let task = source::run(*source, sender, bell.clone(), settled, times.clone());
                        running.insert(name, tokio::task::spawn_local(task));
                    }
                    Order::End(name) => {
                        if let Some(task) = running.remove(&name) {
                            task.abort();
                            // Two clients with one id would throw each other out.
                            let _ = task.await;
                        }
                    }
                }
            }
        }
    });
    tasks.spawn_local(link::mqtt::run(
        uplinks,
        Some(identity),
        judged_by,
        link,
        (link_events, came),
        doorbell.clone(),
        link_stop,
    ));
    let questions = Questions { queue: questions, doorbell: doorbell.clone() };
    tasks.spawn_local(status::serve(listener, questions.clone()));
    if let Some(scrapers) = scrapers {
        tasks.spawn_local(metrics::serve(scrapers, questions));
    }
    agent::notify(&[NotifyState::Ready]);
    ready();
    runtime.block_on(tasks.run_until(async {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {
                let _ = stop_agent.send(()).await;
                doorbell.ring();
                let _ = ended.changed().await;
            }
            _ = ended.changed() => {}
        }
    }));
    // A panic of the pipeline is a defect; it is passed on rather than hidden behind an exit code of 0.
    pipeline_thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Within which time the service manager wants to hear of progress, if it does.
fn watchdog_us() -> Option<u64> {
    sd_notify::watchdog_enabled().map(|interval| u64::try_from(interval.as_micros()).unwrap_or(u64::MAX))
}
