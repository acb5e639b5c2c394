//! Packets on their way to a broker where somebody acts on them now: in memory only, few, and not for long.
//!
//! The opposite of the outbox, in which nothing is too old. Here what comes takes the place of what has waited longest, and the broker
//! gets each at least once, in order, as long as there is room.

use alloc::collections::VecDeque;

use crate::{
    outbox::Ticket,
    retry::{Refusals, Retry},
    time::Monotonic,
};

/// What waits at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many.
    pub packets: usize,
    /// Their sizes together.
    pub bytes: usize,
    /// For how long, in microseconds; `None`: until there is no room.
    pub age_us: Option<u64>,
}

#[derive(Clone, Debug)]
struct Waiting<T> {
    ticket: Ticket,
    at: Monotonic,
    bytes: usize,
    refusals: Refusals,
    item: T,
}

/// What waits for the broker, and what became of the rest. Taken are `waiting` + `done` + `lost`.
#[derive(Clone, Debug)]
pub struct Live<T> {
    bounds: Bounds,
    /// Oldest first; those under way are the first of them.
    waiting: VecDeque<Waiting<T>>,
    under_way: usize,
    /// How many may be under way; 0 while there is no connection.
    window: usize,
    bytes: usize,
    next: u64,
    done: u64,
    lost: u64,
    /// When it sends again after the broker has refused one for the moment.
    retry: Retry,
}

impl<T> Live<T> {
    /// Nothing waits, and there is no connection.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        let waiting = VecDeque::new();
        Self { bounds, waiting, under_way: 0, window: 0, bytes: 0, next: 0, done: 0, lost: 0, retry: Retry::ZERO }
    }

    /// Adds one of this size. What has waited longest makes room for it.
    pub fn add(&mut self, item: T, bytes: usize, now: Monotonic) {
        self.expire(now);
        self.waiting.push_back(Waiting {
            ticket: Ticket(self.next),
            at: now,
            bytes,
            refusals: Refusals::default(),
            item,
        });
        self.next += 1;
        self.bytes += bytes;
        while self.waiting.len() > self.bounds.packets || self.bytes > self.bounds.bytes {
            // What is under way may be with the broker already: the oldest of the others goes, the new one if there is none.
            self.lose(self.under_way);
        }
    }

    /// The next one to be sent, which is under way then.
    pub fn take(&mut self, now: Monotonic) -> Option<(Ticket, &T)> {
        if self.under_way >= self.window || self.retry.at() > now {
            return None;
        }
        self.expire(now);
        let next = self.waiting.get(self.under_way)?;
        self.under_way += 1;
        Some((next.ticket, &next.item))
    }

    /// There is a connection, on which so many may be under way.
    pub fn up(&mut self, window: usize) {
        self.window = window;
    }

    /// The connection is gone: what was under way waits again.
    pub fn down(&mut self) {
        self.retry.reset();
        (self.window, self.under_way) = (0, 0);
        // Those that were put off stand behind younger ones.
        self.waiting.make_contiguous().sort_by_key(|waiting| waiting.ticket);
    }

    /// The broker has it.
    pub fn acked(&mut self, ticket: Ticket) {
        if self.leave(ticket) {
            self.done += 1;
            self.retry.accepted();
        }
    }

    /// The broker does not take the packet now. It is sent again after a pause, behind the packets under way. A packet that the broker refuses
    /// again and again while it takes others is lost.
    pub fn put_off(&mut self, ticket: Ticket, now: Monotonic) {
        let Some(index) = self.position(ticket).filter(|index| *index < self.under_way) else { return };
        self.retry.refused(now);
        if self.waiting[index].refusals.add(self.done) {
            self.refused(ticket);
            return;
        }
        if let Some(waiting) = self.waiting.remove(index) {
            self.under_way -= 1;
            self.waiting.insert(self.under_way, waiting);
        }
    }

    /// When something may be sent that waits, if it waits for nothing else.
    #[must_use]
    pub fn resumes_at(&self) -> Option<Monotonic> {
        (self.under_way < self.window.min(self.waiting.len())).then(|| self.retry.at())
    }

    /// The broker will never take it.
    pub fn refused(&mut self, ticket: Ticket) {
        if self.leave(ticket) {
            self.lost += 1;
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many the broker has.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// How many were given up.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether one that is under way is settled now.
    fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(index) = self.position(ticket) else { return false };
        if index < self.under_way {
            self.under_way -= 1;
        }
        self.remove(index);
        true
    }

    /// Position of a packet. Packets under way come first, so the packet of an acknowledgement is found at once.
    fn position(&self, ticket: Ticket) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.ticket == ticket)
    }

    fn expire(&mut self, now: Monotonic) {
        let Some(age_us) = self.bounds.age_us else { return };
        while self.waiting.get(self.under_way).is_some_and(|oldest| now.since(oldest.at) > age_us) {
            self.lose(self.under_way);
        }
    }

    fn lose(&mut self, index: usize) {
        self.remove(index.min(self.waiting.len().saturating_sub(1)));
        self.lost += 1;
    }

    fn remove(&mut self, index: usize) {
        if let Some(gone) = self.waiting.remove(index) {
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { packets: 4, bytes: 40, age_us: Some(10) };

    fn all(live: &mut Live<u32>, now: u64) -> Vec<(Ticket, u32)> {
        core::iter::from_fn(|| live.take(Monotonic(now)).map(|(ticket, item)| (ticket, *item))).collect()
    }

    #[test]
    fn what_was_under_way_comes_again_and_what_is_too_old_or_too_much_does_not() {
        let mut live = Live::new(BOUNDS);
        for item in 0..6 {
            live.add(item, 10, Monotonic(u64::from(item)));
        }
        assert_eq!((live.waiting(), live.lost()), (4, 2));
        assert!(live.take(Monotonic(5)).is_none(), "nobody is there");
        live.up(3);
        let first = all(&mut live, 5);
        assert_eq!(first, [(Ticket(2), 2), (Ticket(3), 3), (Ticket(4), 4)]);
        // One acknowledgement out of order makes room for one more.
        live.acked(Ticket(3));
        assert_eq!(all(&mut live, 5), [(Ticket(5), 5)]);
        live.refused(Ticket(4));
        live.down();
        assert_eq!((live.waiting(), live.done(), live.lost()), (2, 1, 3));
        // An acknowledgement of the connection that is gone.
        live.acked(Ticket(3));
        live.up(3);
        assert_eq!(all(&mut live, 12), [(Ticket(2), 2), (Ticket(5), 5)]);
        live.down();
        live.up(3);
        assert_eq!(all(&mut live, 13), [(Ticket(5), 5)]);
        assert_eq!((live.waiting(), live.done(), live.lost()), (1, 1, 4));
        // Larger than everything: it goes itself, since the other is under way.
        live.add(9, 100, Monotonic(14));
        assert_eq!((live.waiting(), live.lost()), (1, 5));
        live.acked(Ticket(5));
        assert_eq!((live.waiting(), live.done()), (0, 2));
    }

    #[test]
    fn what_the_broker_does_not_take_now_comes_again_after_a_pause() {
        const S: u64 = 1_000_000;
        let mut live = Live::new(Bounds { age_us: None, ..BOUNDS });
        (0..3).for_each(|item| live.add(item, 10, Monotonic(0)));
        live.up(2);
        assert_eq!(all(&mut live, 0), [(Ticket(0), 0), (Ticket(1), 1)]);
        live.put_off(Ticket(0), Monotonic(0));
        assert_eq!((all(&mut live, S - 1), live.resumes_at()), (vec![], Some(Monotonic(S))));
        live.acked(Ticket(1));
        assert_eq!(all(&mut live, S), [(Ticket(0), 0), (Ticket(2), 2)]);
        assert_eq!(live.resumes_at(), None, "nothing else waits");
        live.acked(Ticket(2));
        // It is taken in the end, or lost alone.
        let mut now = S;
        for _ in 1..crate::retry::MAX_REFUSALS {
            assert_eq!((live.waiting(), live.lost()), (1, 0));
            live.put_off(Ticket(0), Monotonic(now));
            now += 60 * S;
            live.take(Monotonic(now));
        }
        assert_eq!((live.waiting(), live.done(), live.lost()), (0, 2, 1));
    }

    proptest! {
        /// Whatever happens: each has one fate, the bounds hold, and what is sent on one connection is in order and never twice.
        #[test]
        fn each_has_one_fate(steps in prop::collection::vec((0_u8..8, 0_usize..30, 0_u64..6), 0..200)) {
            let (mut live, mut taken, mut now) = (Live::new(BOUNDS), 0_u32, 0);
            let mut sent: Vec<Ticket> = Vec::new();
            for (step, number, time) in steps {
                now += time;
                match step {
                    0 | 1 => {
                        live.add(taken, number, Monotonic(now));
                        taken += 1;
                    }
                    2 => {
                        if let Some((ticket, item)) = live.take(Monotonic(now)) {
                            prop_assert_eq!(ticket.0, u64::from(*item));
                            prop_assert!(sent.last().is_none_or(|last| *last < ticket));
                            sent.push(ticket);
                        }
                    }
                    3 => sent.get(number % sent.len().max(1)).into_iter().for_each(|ticket| live.acked(*ticket)),
                    4 => sent.get(number % sent.len().max(1)).into_iter().for_each(|ticket| live.refused(*ticket)),
                    5 => {
                        live.down();
                        sent.clear();
                    }
                    6 => {
                        if let Some(ticket) = sent.get(number % sent.len().max(1)).copied() {
                            live.put_off(ticket, Monotonic(now));
                            sent.retain(|sent| *sent != ticket);
                        }
                    }
                    _ => live.up(number),
                }
                prop_assert_eq!(u64::from(taken), live.waiting() as u64 + live.done() + live.lost());
                prop_assert!(live.waiting() <= BOUNDS.packets && live.bytes <= BOUNDS.bytes);
                prop_assert_eq!(live.bytes, live.waiting.iter().map(|waiting| waiting.bytes).sum::<usize>());
                prop_assert!(live.under_way <= live.waiting());
            }
        }
    }
}
