//! The card loses the power at each of its operations in turn, and in some lives again.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe, catch_unwind},
};

use super::{BATCH, PACKETS, Resumes, World};
use crate::store::medium::Trouble;

/// Operations of the card in a run without a cut, which delivers each packet once.
pub(super) fn uncut(publish: &'static str) -> u64 {
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

/// What the checks of these tests find after a cut on a card that lies about syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole,
    /// The agent ran, and packets are missing or a cell's state does not fit.
    Lost,
    /// The store did not open, or redb gave up on the file.
    Unreadable,
}

thread_local! {
    /// File in which this thread panicked last.
    static PANICKED_IN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The control: if a sync does nothing, these tests notice. A panic is proof only if redb makes it about its file, or if it is one of
/// the checks of these tests.
#[test]
fn on_a_card_that_lies_about_syncs_something_is_lost() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or_else(String::new, |location| location.file().to_owned());
        PANICKED_IN.set(file);
        before(panic);
    }));
    let after = |at: u64| {
        let mut world = World::new("after-commit", Resumes::Numbers);
        world.card.lies_about_syncs();
        world.card.meets(Trouble::PowerCut { at });
        world.live();
        world.card = world.card.after_power_cut(at);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            world.live().expect("it opens");
            world.delivered("counted")
        }));
        let panic = match outcome {
            Ok(delivered) if delivered == (1..=PACKETS).collect::<Vec<_>>() => return Found::Whole,
            Ok(_) => return Found::Lost,
            Err(panic) => panic,
        };
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        let says = |words: &[&str]| text.is_some_and(|text| words.iter().any(|word| text.contains(word)));
        if says(&["does not fit the outbox", "are durable", "a name was given twice"]) {
            Found::Lost
        } else if says(&["the agent does not start", "the card is well"]) || PANICKED_IN.take().contains("/redb-") {
            Found::Unreadable
        } else {
            panic!("cut {at}: a panic that proves nothing: {text:?}")
        }
    };
    let found: Vec<_> = (100..130).map(after).collect();
    assert!(!found.contains(&Found::Whole), "{found:?}");
}
