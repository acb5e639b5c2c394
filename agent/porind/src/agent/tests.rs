//! The loop on a card that fails, with a source and a cloud that are part of the test: what was promised holds.
//!
//! A script feeds packets through a cell that counts them into one queue, and past it into another, to a cloud that acknowledges
//! in some disorder. What outlives the agent is the [`World`]: the card, and what source and cloud have seen.

mod disk_trouble;
mod power_cuts;
mod updates;

use std::{collections::BTreeMap, path::PathBuf};

use porin_core::{
    ids::StreamId,
    outbox::Ticket,
    packet::{PacketKind, Quality},
    payload::{self, Decoded},
    status::Snapshot,
};
use porin_test_support::counting_cell;
use tempfile::TempDir;

use super::*;
use crate::{core_of, inbox::Doorbell, link::LinkEvent, store::medium::Medium};

/// Packets of the script.
const PACKETS: u64 = 70;

/// Packets of a batch.
const BATCH: u64 = 7;

/// What comes after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resumes {
    /// What follows what is durable: it numbers its packets, and can be asked from where on.
    Numbers,
    /// Everything that it was not told of, as a broker does: what was durable when the power went, and not acknowledged, comes
    /// twice.
    Repeats,
}

/// What the cloud has: by name, stream, time and value.
type Cloud = BTreeMap<(String, u64), (String, u64, f64)>;

/// Everything that outlives a power cut.
struct World {
    folder: TempDir,
    publish: &'static str,
    source: Resumes,
    card: Medium,
    cloud: Cloud,
    /// Up to which count the source was told that its packets are settled.
    told: u64,
    lives: u32,
    /// How many packets the source makes.
    packets: u64,
    /// What the operator has published, if there is one.
    operator: Option<updates::Operator>,
}

impl World {
    fn new(publish: &'static str, source: Resumes) -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("counting.wasm"), counting_cell()).expect("written");
        let (card, cloud) = (Medium::new(), Cloud::new());
        // A file comes to its name when it is whole: see `store::make`.
        drop(card.open().expect("a card without trouble"));
        card.operations();
        Self { folder, publish, source, card, cloud, told: 0, lives: 0, packets: PACKETS, operator: None }
    }

    fn cell(&self) -> PathBuf {
        self.folder.path().join("counting.wasm")
    }

    fn config(&self) -> Config {
        let place = self.folder.path().display();
        let updates =
            self.operator.as_ref().map_or_else(String::new, |_| format!("[updates]\nroot = \"{place}/root-1\"\n"));
        let text = format!(
            "[gateway]\nid = \"lab\"\nsocket = \"{place}/sock\"\n{updates}[uplink]\nbroker = \"mqtt://x\"\n[outbox]\ncommit_every = \"0s\"\n\
             [sources.s.mqtt]\nbroker = \"mqtt://y\"\nwindow = 40\ntopics = [{{ filter = \"x\", payload = \"number\", stream = \"x\" }}]\n\
             [slots.counts]\ncell = \"{}\"\n[routes.counted]\nstreams = [\"x\"]\nslots = [\"counts\"]\npublish = \"{publish}\"\n\
             batch = {{ packets = 5 }}\n[routes.urgent]\nstreams = [\"x\"]\npriority = \"high\"\npublish = \"{publish}\"\n\
             batch = {{ packets = 9 }}\n",
            self.cell().display(),
            publish = self.publish
        );
        Config::parse(&text).expect("it is good")
    }

    /// A life of the agent, until everything is done or the power goes. `None`: it could not even start.
    fn live(&mut self) -> Option<Snapshot> {
        let mut life = Life::start(self)?;
        let mut idle = 0;
        while idle < 3 && !life.world.card.is_dark() {
            let fed = life.feed();
            idle = if fed | life.operate() { 0 } else { idle + 1 };
            life.acknowledge(if idle > 0 { Acks::All } else { Acks::Some });
            life.wait_for_the_commit();
        }
        Some(life.end())
    }

    /// The numbers of packets that a route has delivered. If none came twice, the cell's count is the number, whichever life decided.
    fn delivered(&self, route: &str) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (of, time, value) in self.cloud.values() {
            if of == route {
                #[allow(clippy::cast_precision_loss)]
                let expected = (*time / 100) as f64;
                let counts = self.source == Resumes::Numbers;
                assert!(!counts || *value == expected, "{time}: {value}: the cell's state does not fit the outbox");
                numbers.push(*time / 100);
            }
        }
        numbers.sort_unstable();
        numbers
    }
}

/// Which publishes the cloud acknowledges now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acks {
    /// Two of three: the others come later, behind those of younger publishes.
    Some,
    All,
}

/// The agent between two power cuts.
struct Life<'a> {
    world: &'a mut World,
    agent: Agent,
    publishes: mpsc::Receiver<Request>,
    settled: watch::Receiver<u64>,
    /// Publishes that the cloud has and has not acknowledged.
    delivered: Vec<Ticket>,
    /// The source's first packet in this life, and how many it has made: it counts from 0.
    first: u64,
    made: u64,
    failed_commits: u64,
}

impl<'a> Life<'a> {
    /// `None`: the power went before it had begun.
    fn start(world: &'a mut World) -> Option<Self> {
        world.lives += 1;
        let given = world.config();
        let begun = world.card.open().map_err(Into::into).and_then(|db| {
            let (store, found) = {
                let disk = world.card.disk();
                let room = if (disk.keep_reserve)() { Room::Enough } else { Room::None };
                Store::start(disk, db, u64::from(world.lives), room)?
            };
            let (config, updating) = crate::updates::recall(given, &store)?;
            let core = core_of(&config, &store, &found)?;
            anyhow::Ok((Arc::new(store), core, config, updating.map(|(updating, _)| updating)))
        });
        let (store, core, config, updating) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                assert!(world.card.is_dark(), "the agent does not start: {error:#}");
                return None;
            }
        };
        let (settle, settled) = watch::channel(0);
        let (link, publishes) = mpsc::channel(100);
        let (stop_link, _) = watch::channel(false);
        // Nobody else has anything to say: the test steps the loop itself.
        let (source, events) = (mpsc::channel(1).1, mpsc::channel(1).1);
        let (questions, stop) = (mpsc::channel(1).1, mpsc::channel(1).1);
        let (reload, incoming) = (mpsc::channel(1).1, mpsc::channel(1).1);
        let inbox = Inbox { sources: vec![source], link: events, incoming, questions, stop, reload, turn: 0 };
        let (uplink, orders) = (watch::channel(config.gateway.uplink.clone()).0, mpsc::channel(1).0);
        let (watchdog_us, certificate_time) = (None, watch::channel(CertificateTime::Clock(Unix(0))).0);
        let committer = Committer::start(store.clone(), Doorbell::of_this_thread()).expect("a thread");
        let (until, uptime, settled_to) = (Until::Stopped, Uptime::begin(), vec![settle]);
        let parts = Parts {
            config,
            until,
            store,
            uptime,
            inbox,
            committer,
            settled: settled_to,
            link,
            uplink,
            orders,
            watchdog_us,
            certificate_time,
            stop_link,
            updating,
        };
        let mut agent = Agent::new(core, parts);
        agent.step(Event::Source(0, FromSource::Stream { local: 0, name: "x".into(), kind: PacketKind::Readings }));
        agent.step(Event::Link(LinkEvent::Up { connection: 1, window: 12, max_bytes: 262_144 }));
        let durable = durable_count(&agent);
        assert!(world.told <= durable, "told of {}, and only {durable} are durable", world.told);
        let first = if world.source == Resumes::Numbers { durable } else { world.told };
        Some(Self { world, agent, publishes, settled, delivered: vec![], first, made: 0, failed_commits: 0 })
    }

    /// The next batch. `false`: there is none, and only time passes.
    fn feed(&mut self) -> bool {
        let from = self.first + self.made;
        let readings: Vec<_> = (from..self.world.packets.min(from + BATCH)).map(reading).collect();
        let some = !readings.is_empty();
        self.made += readings.len() as u64;
        let batch = FromSource::Batch { readings, messages: vec![], upto: self.made };
        self.step(if some { Event::Source(0, batch) } else { Event::Deadline });
        some
    }

    fn step(&mut self, event: Event) {
        self.agent.step(event);
        self.deliver();
    }

    fn acknowledge(&mut self, acks: Acks) {
        let now = |ticket: &mut Ticket| acks == Acks::All || !ticket.0.is_multiple_of(3);
        for ticket in self.delivered.extract_if(.., now).collect::<Vec<_>>() {
            self.step(Event::Link(LinkEvent::Acked(ticket)));
        }
    }

    /// What the operator has published comes where it was subscribed to. `false`: nothing is on its way.
    fn operate(&mut self) -> bool {
        let came = self.world.operator.as_mut().map(updates::Operator::take).unwrap_or_default();
        for (topic, payload) in came {
            self.step(Event::Came(Incoming { topic, payload }));
        }
        self.agent.updating.as_mut().is_some_and(|updating| !updating.is_settled())
    }

    /// Nothing happens while the power is off.
    fn wait_for_the_commit(&mut self) {
        while self.agent.commit.running.is_some() {
            let outcome = self.agent.parts.committer.wait();
            if self.world.card.is_dark() {
                return;
            }
            self.failed_commits += u64::from(outcome.is_err());
            self.step(Event::Committed(outcome));
        }
        if !self.world.card.is_dark() {
            self.world.told = self.world.told.max(self.first + *self.settled.borrow());
        }
    }

    /// What has been sent is at the cloud.
    fn deliver(&mut self) {
        while let Ok(request) = self.publishes.try_recv() {
            let publish = match request {
                Request::Publish(publish) => publish,
                Request::Subscribe { topic, .. } => {
                    self.world.operator.iter_mut().for_each(|operator| operator.subscribed(&topic));
                    continue;
                }
                Request::Unsubscribe { .. } => continue,
            };
            if publish.topic.ends_with("/reported") {
                self.world.operator.iter_mut().for_each(|operator| operator.hears(&publish.payload));
            }
            let Some(ticket) = publish.ticket else { continue };
            let Decoded { epoch, packets, .. } = payload::decode(&publish.payload).expect("it is ours");
            for packet in packets {
                let route = publish.topic.rsplit('/').next().unwrap_or_default().to_owned();
                let told = (route, packet.time_us, packet.value);
                if let Some(before) = self.world.cloud.insert((epoch.to_string(), packet.seq.0), told.clone()) {
                    assert_eq!(before, told, "a name was given twice: {epoch} {}", packet.seq.0);
                }
            }
            self.delivered.push(ticket);
        }
    }

    fn end(self) -> Snapshot {
        let last = self.agent.status();
        assert_eq!(last.imbalance, Vec::<String>::new());
        self.agent.parts.committer.stop();
        last
    }
}

/// Packets that are decided about and durable: the state of the cell that counts.
fn durable_count(agent: &Agent) -> u64 {
    let state = agent.parts.store.state("counts").expect("the card is well");
    let bytes: [u8; 8] = state.map_or([0; 8], |state| state.try_into().expect("a float"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let count = f64::from_le_bytes(bytes) as u64;
    count
}

/// Packet 0 is made at 100 µs and has the value 1: what the cell that counts makes of it, too.
fn reading(number: u64) -> Reading {
    #[allow(clippy::cast_precision_loss)]
    let value = (number + 1) as f64;
    Reading { time: Unix((number + 1) * 100), value, stream: StreamId(0), quality: Quality::GOOD }
}
