//! The card loses the power at each of its operations during an update: the old set or the new one, never a part, and no packet lost.

use std::{cell::RefCell, collections::BTreeMap};

use porin_core::{config::Provenance, trust};
use porin_test_support::{
    authority::{Published, Retained, first_root, order, published},
    counting_cell_with,
};

use super::{Acks, Event, Life, PACKETS, Resumes, World};
use crate::{
    agent::commits::MAX_RETRY_US,
    store::{Room, Store, medium::Trouble},
    updates,
};

/// An operator and what the broker retains of what he says.
pub(super) struct Operator {
    retained: BTreeMap<String, Vec<u8>>,
    /// On its way to the gateway.
    coming: Vec<Retained>,
    /// What is to run: number and text.
    wants: (u64, String),
}

impl Operator {
    fn new() -> Self {
        let retained = version(1).publishes.into_iter().chain(version(2).publishes).collect();
        Self { retained, coming: vec![], wants: (1, set(1, "0s")) }
    }

    fn want(&mut self, seq: u64, text: String) {
        self.retained.extend([order("lab", seq, None, &text)]);
        self.wants = (seq, text);
    }

    pub(super) fn subscribed(&mut self, topic: &str) {
        self.coming.extend(self.retained.get(topic).map(|payload| (topic.to_owned(), payload.clone())));
    }

    /// A gateway without a memory wants its word back.
    pub(super) fn hears(&mut self, account: &[u8]) {
        let account = trust::reported(account).expect("signed by itself");
        if account.nonce.is_some() {
            let order = order("lab", self.wants.0, account.nonce, &self.wants.1);
            self.retained.extend([order.clone()]);
            self.coming.push(order);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Retained> {
        std::mem::take(&mut self.coming)
    }
}

/// Cells that count, and differ.
fn version(seq: u64) -> Published {
    published(&counting_cell_with(&format!("(global $version i32 (i32.const {seq}))")), seq)
}

fn set(seq: u64, canary: &str) -> String {
    format!(
        "[probation]\nshadow = \"0s\"\ncanary = \"{canary}\"\npackets = 0\n[slots.counts]\ncell = \"release:{}\"\nmin_seq = {seq}\n\
         [routes.counted]\nstreams = [\"x\"]\nslots = [\"counts\"]\npublish = \"after-commit\"\nbatch = {{ packets = 5 }}\n\
         [routes.urgent]\nstreams = [\"x\"]\npriority = \"high\"\npublish = \"after-commit\"\nbatch = {{ packets = 9 }}\n",
        version(seq).digest
    )
}

/// A world in which the first version has been confirmed, no packet has come yet, and the second version is wanted.
fn world(canary: &str) -> World {
    let mut world = World::new("after-commit", Resumes::Numbers);
    world.operator = Some(Operator::new());
    std::fs::write(world.folder.path().join("root-1"), first_root()).expect("written");
    world.packets = 0;
    world.live().expect("it starts");
    assert_eq!(kept(&world), (1, 1), "the first version is kept");
    world.packets = PACKETS;
    world.operator.as_mut().expect("there is one").want(2, set(2, canary));
    world.card.operations();
    world
}

/// What is kept on the card: the number of the release, and the floor.
fn kept(world: &World) -> (u64, u64) {
    let disk = world.card.disk();
    let (store, _) = Store::start(disk, world.card.open().expect("it opens"), 0, Room::Enough).expect("it starts");
    let (config, updating) = updates::recall(world.config(), &store).expect("it is whole");
    let Provenance::Signed(release) = &config.cells.routes[0].slots[0].cell else { return (0, 0) };
    let _ = updating;
    let rows = store.update_rows().expect("it reads");
    let floor = rows.iter().find(|(key, _)| key == "floor/acme/cell").map_or(0, |(_, value)| u64::from(value[1]));
    (release.seq, floor)
}

fn cut_everywhere(canary: &'static str, every: usize) {
    let operations = {
        let mut world = world(canary);
        world.live().expect("it starts");
        let operations = world.card.operations();
        assert_eq!(kept(&world), (2, 2), "the second version is kept");
        operations
    };
    assert!(operations > 40, "{operations} operations are no update");
    let seen = RefCell::new([0; 3]);
    for at in (0..operations).step_by(every) {
        let mut world = world(canary);
        world.card.meets(Trouble::PowerCut { at });
        world.live();
        assert!(world.card.is_dark(), "cut {at}: the power did not go");
        world.card = world.card.after_power_cut(at + 1);
        let (runs, floor) = kept(&world);
        assert!(runs == floor && (1..=2).contains(&runs), "cut {at}: {runs} runs, the floor is {floor}");
        seen.borrow_mut()[usize::try_from(runs).expect("small")] += 1;
        let last = world.live().expect("it opens");
        assert_eq!((last.outbox.waiting, world.told), (0, PACKETS), "cut {at}");
        assert_eq!(kept(&world), (2, 2), "cut {at}: it converges");
        // The count goes on from cell to cell: checked packet by packet.
        let all: Vec<_> = (1..=PACKETS).collect();
        assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all.clone(), all), "cut {at}");
    }
    let [_, old, new] = seen.into_inner();
    assert!(old > 0 && (every > 1 || new > 0), "{old} cuts left the old set, {new} the new one");
}

/// Operations that fail in the middle: the update takes longer, and nothing else.
#[test]
fn a_card_that_does_not_answer_for_a_while_costs_an_update_nothing_but_time() {
    for from in (0..60).step_by(4) {
        let mut world = world("0s");
        let mut life = Life::start(&mut world).expect("the card is well");
        life.world.card.operations();
        life.world.card.meets(Trouble::Errors { from, to: from + 45 });
        for _ in 0..300 {
            life.feed();
            life.operate();
            life.acknowledge(Acks::All);
            life.wait_for_the_commit();
            if life.agent.status().outbox.disk_error.is_some() {
                life.agent.parts.uptime.skip(MAX_RETRY_US);
                life.step(Event::Deadline);
                life.wait_for_the_commit();
            }
        }
        assert!(life.failed_commits > 0, "from {from}: nothing failed");
        life.end();
        assert_eq!(kept(&world), (2, 2), "from {from}");
        let all: Vec<_> = (1..=PACKETS).collect();
        assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all.clone(), all), "from {from}");
    }
}

/// What there is room for is written; the rest waits, and so does the update.
#[test]
fn a_full_card_holds_an_update_up_and_loses_nothing() {
    let mut world = world("0s");
    let mut life = Life::start(&mut world).expect("the card is well");
    let full = life.world.card.blocks();
    life.world.card.has_room_for(full);
    let turn = |life: &mut Life<'_>| {
        life.feed();
        life.operate();
        life.acknowledge(Acks::All);
        life.wait_for_the_commit();
        life.agent.parts.uptime.skip(MAX_RETRY_US);
        life.step(Event::Deadline);
        life.wait_for_the_commit();
    };
    (0..30).for_each(|_| turn(&mut life));
    assert!(life.agent.status().outbox.disk_error.is_some(), "the card is full");
    assert!(life.agent.trial.is_none(), "nothing is tried that is not written down");
    life.world.card.has_room_for(usize::MAX);
    (0..60).for_each(|_| turn(&mut life));
    life.end();
    assert_eq!(kept(&world), (2, 2));
    let all: Vec<_> = (1..=PACKETS).collect();
    assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all.clone(), all));
}

#[test]
fn an_update_that_is_cut_anywhere_leaves_the_old_set_or_the_new_one_and_loses_no_packet() {
    cut_everywhere("0s", 1);
}

#[test]
fn so_does_one_with_a_probation() {
    cut_everywhere("1ms", 5);
}
