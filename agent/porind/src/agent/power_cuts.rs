//! The loop on a card that loses the power, at every point at which it can: what was promised holds.
//!
//! A script feeds packets through a cell that counts them into one queue, and past it into another, to a cloud that acknowledges
//! in some disorder. The card is cut at each of its operations in turn, and in some lives again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use porin_core::{
    payload::{self, Decoded},
    status::Snapshot,
};
use porin_test_support::counting_cell;
use redb::Database;
use tempfile::TempDir;

use super::*;
use crate::{
    core_of,
    inbox::Doorbell,
    store::medium::{Medium, Trouble},
    uplink::LinkEvent,
};

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
    /// Packets that the cloud got again under their names.
    again: u64,
    /// Up to which count the source was told that its packets are settled.
    told: u64,
    lives: u32,
}

impl World {
    fn new(publish: &'static str, source: Resumes) -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("counting.wasm"), counting_cell()).expect("written");
        let (card, cloud) = (Medium::new(), Cloud::new());
        // A file comes to its name when it is whole: see `store::make`.
        drop(redb::Builder::new().create_with_backend(card.clone()).expect("a card without trouble"));
        card.operations();
        Self { folder, publish, source, card, cloud, again: 0, told: 0, lives: 0 }
    }

    fn cell(&self) -> PathBuf {
        self.folder.path().join("counting.wasm")
    }

    fn config(&self) -> Config {
        let text = format!(
            "[gateway]\nid = \"lab\"\n[uplink]\nbroker = \"mqtt://x\"\n[outbox]\ncommit_every = \"0s\"\n\
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
        self.lives += 1;
        let config = self.config();
        let card = self.card.clone();
        let open = move || redb::Builder::new().create_with_backend(card.clone());
        let db: Database = match open() {
            Ok(db) => db,
            Err(error) => {
                assert!(self.card.is_dark(), "the file does not open: {error}");
                return None;
            }
        };
        let started = Store::start(Box::new(open), db, u64::from(self.lives));
        let (store, found) = match started {
            Ok(started) => started,
            Err(error) => {
                assert!(self.card.is_dark(), "the store does not start: {error:#}");
                return None;
            }
        };
        let store = Arc::new(store);
        let core = match core_of(&config, &store, found) {
            Ok(core) => core,
            Err(error) => {
                assert!(self.card.is_dark(), "the cells do not start: {error:#}");
                return None;
            }
        };
        Some(self.go(config, store, core))
    }

    fn go(&mut self, config: Config, store: Arc<Store>, core: Core) -> Snapshot {
        let (settle, settled) = watch::channel(0);
        let (link, mut publishes) = mpsc::channel(100);
        let (stop_link, _stopped) = watch::channel(false);
        let (_source, source) = mpsc::channel(1);
        let (_events, events) = mpsc::channel(1);
        let (_questions, questions) = mpsc::channel(1);
        let (_stop, stop) = mpsc::channel(1);
        let inbox = Inbox { sources: vec![source], link: events, questions, stop, turn: 0 };
        let committer = Committer::start(store.clone(), Doorbell::of_this_thread()).expect("a thread");
        let (settled_to, uptime) = (vec![settle], Uptime::begin());
        let parts = Parts {
            config,
            until: Until::Stopped,
            store,
            uptime,
            inbox,
            committer,
            settled: settled_to,
            link,
            stop_link,
        };
        let mut agent = Agent::new(core, parts);
        agent.step(Event::Source(0, FromSource::Stream { local: 0, name: "x".into(), kind: Kind::Readings }));
        agent.step(Event::Link(LinkEvent::Up { connection: 1, window: 12, max_bytes: 262_144 }));
        let durable = durable_count(&agent);
        assert!(self.told <= durable, "told of {}, and only {durable} are durable", self.told);
        // The source counts from 0 in each life.
        let first = if self.source == Resumes::Numbers { durable } else { self.told };
        let mut made = 0;
        let mut late = Vec::new();
        let mut idle = 0;
        while idle < 3 && !self.card.is_dark() {
            let left = PACKETS - first - made;
            let readings: Vec<_> = (first + made..first + made + left.min(BATCH)).map(reading).collect();
            made += readings.len() as u64;
            if readings.is_empty() {
                idle += 1;
                agent.step(Event::Deadline);
            } else {
                agent.step(Event::Source(0, FromSource::Batch { readings, messages: vec![], upto: made }));
            }
            self.deliver(&mut publishes, &mut late);
            // One in three acknowledgements comes a step later, behind those of younger publishes.
            let now: Vec<_> =
                late.extract_if(.., |ticket: &mut porin_core::outbox::Ticket| ticket.0 % 3 != 0).collect();
            let acks = if idle > 0 { now.into_iter().chain(std::mem::take(&mut late)).collect() } else { now };
            for ticket in acks {
                agent.step(Event::Link(LinkEvent::Acked(ticket)));
            }
            self.deliver(&mut publishes, &mut late);
            while agent.commit.running.is_some() {
                if let Some(outcome) = agent.parts.committer.outcome() {
                    if self.card.is_dark() {
                        break;
                    }
                    outcome.as_ref().expect("the card is well");
                    idle = 0;
                    agent.step(Event::Committed(outcome));
                    self.deliver(&mut publishes, &mut late);
                }
            }
            if !self.card.is_dark() {
                self.told = self.told.max(first + *settled.borrow());
            }
        }
        let last = agent.status();
        assert_eq!(last.imbalance, Vec::<String>::new());
        agent.parts.committer.stop();
        last
    }

    /// What has been sent is at the cloud. The power did not go before.
    fn deliver(&mut self, publishes: &mut mpsc::Receiver<Publish>, late: &mut Vec<porin_core::outbox::Ticket>) {
        while let Ok(publish) = publishes.try_recv() {
            let Some(ticket) = publish.ticket else { continue };
            let Decoded { epoch, packets, .. } = payload::decode(&publish.payload).expect("it is ours");
            for packet in packets {
                let route = publish.topic.rsplit('/').next().unwrap_or_default().to_owned();
                let told = (route, packet.time_us, packet.value);
                if let Some(before) = self.cloud.insert((epoch.to_string(), packet.seq.0), told.clone()) {
                    assert_eq!(before, told, "a name was given twice: {epoch} {}", packet.seq.0);
                    self.again += 1;
                }
            }
            late.push(ticket);
        }
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

/// Operations of the card in a run without a cut, which delivers each packet once.
fn uncut(publish: &'static str) -> u64 {
    let mut world = World::new(publish, Resumes::Numbers);
    let last = world.live().expect("it starts");
    assert_eq!((last.outbox.waiting, world.told), (0, PACKETS));
    let all: Vec<_> = (1..=PACKETS).collect();
    assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all.clone(), all));
    world.card.operations()
}

/// Cuts the power at each operation in turn; every third time again in the life after it. `check` is told what there is.
fn cut_everywhere(publish: &'static str, source: Resumes, check: impl Fn(&World, u64)) {
    let operations = uncut(publish);
    assert!(operations > 200, "{operations} operations are no run");
    for at in 0..operations {
        let mut world = World::new(publish, source);
        world.card.meets(Trouble::PowerCut { at });
        world.live();
        assert!(world.card.is_dark(), "cut {at}: the power did not go");
        if at % 3 == 0 {
            world.card = world.card.after_power_cut(at);
            world.card.meets(Trouble::PowerCut { at: at * 7 % 40 });
            world.live();
        }
        world.card = world.card.after_power_cut(at + 1);
        let last = world.live().expect("it opens");
        assert_eq!((last.outbox.waiting, world.told), (0, PACKETS), "cut {at}");
        check(&world, at);
    }
}

#[test]
fn after_commit_a_run_that_is_cut_anywhere_delivers_what_an_uncut_one_does() {
    let all: Vec<_> = (1..=PACKETS).collect();
    cut_everywhere("after-commit", Resumes::Numbers, |world, at| {
        // By name each packet once: what the cloud has seen is never decided again.
        assert_eq!(world.delivered("counted"), all, "cut {at}");
        assert_eq!(world.delivered("urgent"), all, "cut {at}");
    });
}

#[test]
fn at_once_a_run_that_is_cut_anywhere_repeats_what_was_not_committed_and_loses_nothing() {
    let repeats = RefCell::new(0);
    cut_everywhere("at-once", Resumes::Numbers, |world, at| {
        for route in ["counted", "urgent"] {
            let delivered = world.delivered(route);
            let once: BTreeSet<_> = delivered.iter().copied().collect();
            assert_eq!(once, (1..=PACKETS).collect(), "cut {at}");
            let decided_again = delivered.len() - once.len();
            // In each cut life at most what came since its last commit: here a batch.
            assert!(decided_again as u64 <= u64::from(world.lives - 1) * 2 * BATCH, "cut {at}: {decided_again} again");
            *repeats.borrow_mut() += decided_again;
        }
    });
    assert!(repeats.into_inner() > 0, "a test in which nothing is repeated tests nothing");
}

#[test]
fn a_source_that_repeats_what_it_was_not_told_of_loses_nothing_and_repeats_one_commit() {
    cut_everywhere("after-commit", Resumes::Repeats, |world, at| {
        for route in ["counted", "urgent"] {
            let delivered = world.delivered(route);
            let once: BTreeSet<_> = delivered.iter().copied().collect();
            assert_eq!(once, (1..=PACKETS).collect(), "cut {at}");
            let twice = (delivered.len() - once.len()) as u64;
            assert!(twice <= u64::from(world.lives - 1) * 2 * BATCH, "cut {at}: {twice} twice");
        }
    });
}

/// The control: if a sync does nothing, the same checks find it.
#[test]
fn on_a_card_that_lies_about_syncs_something_is_lost() {
    let whole = |at: &u64| {
        let mut world = World::new("after-commit", Resumes::Numbers);
        world.card.lies_about_syncs();
        world.card.meets(Trouble::PowerCut { at: *at });
        world.live();
        world.card = world.card.after_power_cut(*at);
        // What redb makes of such a file may be a panic.
        let again = catch_unwind(AssertUnwindSafe(|| world.live()));
        again.is_ok()
            && catch_unwind(|| world.delivered("counted")).is_ok_and(|list| list == (1..=PACKETS).collect::<Vec<_>>())
    };
    assert_eq!((100..130).filter(whole).count(), 0);
}
