//! The card is broken for a while, full, or slow: the agent goes on from memory, says so, and loses nothing that it need not.

use std::time::Duration;

use super::{Acks, Event, Life, LinkEvent, PACKETS, Resumes, World};
use crate::{agent::commits::MAX_RETRY_US, store::medium::Trouble};

impl Life<'_> {
    /// Time for the next attempt.
    fn let_time_pass(&mut self) {
        self.agent.parts.uptime.skip(MAX_RETRY_US);
        self.step(Event::Deadline);
    }

    fn disk_error(&self) -> Option<String> {
        self.agent.status().outbox.disk_error
    }
}

fn all() -> Vec<u64> {
    (1..=PACKETS).collect()
}

#[test]
fn a_card_that_does_not_answer_for_a_while_costs_nothing_wherever_it_begins() {
    let operations = super::power_cuts::uncut("after-commit");
    for from in (20..operations - 80).step_by(7) {
        let mut world = World::new("after-commit", Resumes::Numbers);
        let mut life = Life::start(&mut world).expect("the card is well");
        life.world.card.operations();
        life.world.card.meets(Trouble::Errors { from, to: from + 45 });
        let mut said = 0;
        for _ in 0..200 {
            life.feed();
            life.acknowledge(Acks::Some);
            life.wait_for_the_commit();
            if life.disk_error().is_some() {
                said += 1;
                life.let_time_pass();
                life.wait_for_the_commit();
            }
            life.acknowledge(Acks::All);
        }
        assert!(life.failed_commits > 0 && said > 0, "from {from}: nothing failed");
        let last = life.end();
        assert_eq!((last.outbox.waiting, last.outbox.disk_error, world.told), (0, None, PACKETS), "from {from}");
        assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all(), all()), "from {from}");
    }
}

#[test]
fn a_card_that_never_answers_again_does_not_keep_packets_from_the_cloud() {
    let mut world = World::new("at-once", Resumes::Numbers);
    let mut life = Life::start(&mut world).expect("the card is well");
    life.world.card.operations();
    life.world.card.meets(Trouble::Errors { from: 30, to: u64::MAX });
    for _ in 0..50 {
        life.feed();
        life.wait_for_the_commit();
        life.acknowledge(Acks::All);
    }
    assert!(life.disk_error().expect("it says so").contains("the card does not answer"));
    life.end();
    // What the broker has is settled, as on a disk.
    assert_eq!((world.delivered("counted"), world.told), (all(), PACKETS));
}

#[test]
fn on_a_full_card_what_is_there_leaves_and_makes_room() {
    // However many pages of the file happen to be free by then.
    (1..PACKETS - 20).for_each(fill_after);
}

/// Fills the card during an outage of the link, until commits fail; then the link is back.
fn fill_after(packets: u64) {
    let mut world = World::new("at-once", Resumes::Numbers);
    let mut life = Life::start(&mut world).expect("the card is well");
    life.step(Event::Link(LinkEvent::Down("an outage".into())));
    // Something is on the card; then somebody else fills it.
    while life.made < packets {
        life.feed();
        life.wait_for_the_commit();
    }
    assert!((life.agent.parts.store.disk.keep_reserve)(), "there is room yet");
    let full = life.world.card.blocks();
    life.world.card.has_room_for(full);
    while life.feed() || life.disk_error().is_none() {
        life.wait_for_the_commit();
        life.let_time_pass();
        life.wait_for_the_commit();
        if life.disk_error().is_none() {
            // Freed pages took it: fill those, too.
            let blocks = life.world.card.blocks();
            life.world.card.has_room_for(blocks);
        }
        assert!(life.agent.core.outbox.waiting() > 0);
        if life.made >= PACKETS && life.disk_error().is_none() {
            break;
        }
    }
    let error = life.disk_error().expect("the card is full");
    assert!(error.contains("no storage space") || error.contains("StorageFull"), "{error}");
    life.step(Event::Link(LinkEvent::Up { connection: 2, window: 12, max_bytes: 262_144 }));
    for _ in 0..100 {
        life.step(Event::Deadline);
        life.acknowledge(Acks::All);
        life.let_time_pass();
        life.wait_for_the_commit();
    }
    assert_eq!(life.agent.status().outbox.waiting, 0);
    // It is as full as before, and what was on it and has left is deleted.
    assert_eq!(life.agent.core.outbox.commit_deletions(), []);
    life.world.card.has_room_for(usize::MAX);
    for _ in 0..5 {
        life.let_time_pass();
        life.wait_for_the_commit();
    }
    let last = life.end();
    assert_eq!((last.outbox.disk_error, world.told), (None, PACKETS));
    assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all(), all()));
}

/// Counts, since time on a test's machine means nothing: while one commit waits for the card, the loop takes everything
/// that there is.
#[test]
fn a_slow_sync_holds_up_neither_packets_nor_what_leaves() {
    let mut world = World::new("at-once", Resumes::Numbers);
    let mut life = Life::start(&mut world).expect("the card is well");
    life.wait_for_the_commit();
    life.world.card.meets(Trouble::SlowSync(Duration::from_millis(500)));
    life.feed();
    assert!(life.agent.commit.running.is_some());
    while life.feed() {
        life.acknowledge(Acks::All);
    }
    life.acknowledge(Acks::All);
    assert!(life.agent.parts.committer.outcome().is_none(), "the first sync has not even ended");
    assert_eq!(life.agent.status().outbox.waiting, 0);
    life.world.card.meets(Trouble::None);
    for _ in 0..3 {
        life.wait_for_the_commit();
        life.step(Event::Deadline);
    }
    life.end();
    assert_eq!((world.delivered("counted"), world.told), (all(), PACKETS));
}

#[test]
fn an_agent_that_starts_on_a_full_card_sends_what_is_on_it_and_empties_it() {
    // The reserve is there, and the start itself takes it.
    start_on(|world| world.card.has_room_for(world.card.blocks()));
    // It has been given up, and somebody else has taken nearly all of its room.
    start_on(|world| {
        (world.card.disk().use_reserve)();
        world.card.has_room_for(world.card.blocks() + 40);
    });
}

fn start_on(fill: impl Fn(&World)) {
    let mut world = World::new("at-once", Resumes::Numbers);
    let mut life = Life::start(&mut world).expect("the card is well");
    life.step(Event::Link(LinkEvent::Down("an outage".into())));
    while life.made < PACKETS {
        life.feed();
        life.wait_for_the_commit();
    }
    life.end();
    fill(&world);
    let mut life = Life::start(&mut world).expect("it starts");
    for _ in 0..50 {
        life.step(Event::Deadline);
        life.acknowledge(Acks::All);
        life.let_time_pass();
        life.wait_for_the_commit();
    }
    assert_eq!((life.agent.status().outbox.waiting, life.agent.core.outbox.commit_deletions()), (0, vec![]));
    life.end();
    assert_eq!((world.delivered("counted"), world.delivered("urgent")), (all(), all()));
}
