//! The outbox against a model: a plain list that is looked through as a whole each time.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    ids::StreamId,
    packet::{Message, Packet, Quality, Reading},
    retry::{Refusals, Retry},
    time::Unix,
};

/// Route, and the stream where the topic names it.
type TopicOf = (u32, Option<u32>);

/// Routes of a case, each with a rule of its own.
const ROUTES: u32 = 5;

#[derive(Clone, Debug)]
enum Step {
    Append {
        route: u32,
        stream: u32,
        bytes: usize,
    },
    /// As many publishes as are due.
    Take {
        most: usize,
        keep: usize,
    },
    Ack(usize),
    /// The broker does not take it now.
    Refuse(usize),
    LoseTheConnection,
    Commit,
    Load,
    Wait(u64),
    Expire,
}

/// A record as the model knows it.
#[derive(Clone, Debug)]
struct Known {
    seq: Seq,
    record: Record,
    durable: bool,
    in_flight: Option<Ticket>,
}

/// The outbox, and every record that it must know, in order.
struct Model {
    outbox: Outbox,
    rules: Vec<Rule>,
    now: Monotonic,
    known: Vec<Known>,
    tickets: Vec<Ticket>,
    retry: Retry,
    /// By the first seq of a publish.
    refusals: BTreeMap<Seq, Refusals>,
    taken: u64,
}

impl Model {
    /// From this seq on nothing may be sent: it, or something before it, is on disk only.
    fn sendable_to(&self) -> Seq {
        let queue = self.outbox.queues.first();
        queue.filter(|queue| queue.has_backlog()).map_or(Seq(u64::MAX), |queue| queue.disk.start)
    }

    /// Of each topic what may be sent and when it is due: looked up record by record.
    fn due(&self) -> Vec<(Monotonic, Vec<Seq>)> {
        let backlog = self.sendable_to() != Seq(u64::MAX);
        let mut topics: Vec<(TopicOf, Vec<&Known>)> = Vec::new();
        for known in self.known.iter().filter(|known| known.in_flight.is_none() && known.seq < self.sendable_to()) {
            let rule = self.rules[known.record.route.0 as usize];
            if rule.publish == Publish::AfterCommit && !known.durable {
                continue;
            }
            let topic = (known.record.route.0, rule.by_stream.then(|| known.record.packet.stream().0));
            match topics.iter_mut().find(|(other, _)| *other == topic) {
                Some((_, records)) => records.push(known),
                None => topics.push((topic, vec![known])),
            }
        }
        let due = |((route, _), records): &(TopicOf, Vec<&Known>)| {
            let rule = self.rules[*route as usize];
            let bytes: usize = records.iter().map(|known| known.record.packet.bytes()).sum();
            let full = records.len() >= rule.packets || bytes >= rule.bytes;
            let since = records[0].record.at;
            let mut taken = Vec::new();
            let mut bytes = 0;
            for known in records {
                if taken.len() == rule.packets || (!taken.is_empty() && bytes >= rule.bytes) {
                    break;
                }
                bytes += known.record.packet.bytes();
                taken.push(known.seq);
            }
            (if full || backlog { since } else { since.after(rule.wait_us) }.max(self.retry.at()), taken)
        };
        topics.iter().map(due).collect()
    }

    fn step(&mut self, step: &Step) {
        let rules = self.rules.clone();
        let rule = |route: RouteId| rules[route.0 as usize];
        match *step {
            Step::Append { route, stream, bytes } => {
                let (stream, time, quality) = (StreamId(stream), Unix(0), Quality::GOOD);
                let packet = match bytes {
                    0 => Packet::Reading(Reading { stream, ..Reading::default() }),
                    bytes => {
                        let payload = vec![0; bytes].into();
                        Packet::Message(Message { time, stream, quality, topic: "".into(), payload }.into())
                    }
                };
                let record = Record { route: RouteId(route), packet, at: self.now };
                let seq = self.outbox.next_seq();
                self.outbox.append(QueueId::NORMAL, record.clone());
                self.known.push(Known { seq, record, durable: false, in_flight: None });
            }
            Step::Take { most, keep } => {
                for _ in 0..most {
                    let due = self.due();
                    let first = due.iter().map(|(at, _)| *at).min();
                    assert_eq!(self.outbox.due(rule), first, "when the next is due");
                    let Some(parcel) = self.outbox.take(self.now, rule) else {
                        assert!(first.is_none_or(|first| first > self.now), "one is due and none was given");
                        return;
                    };
                    let seqs: Vec<_> = parcel.records.iter().map(|(seq, _)| *seq).collect();
                    let expected = due.iter().find(|(_, taken)| taken.first() == seqs.first());
                    let (at, taken) = expected.expect("it is the first of its topic");
                    assert!(*at == first.expect("one is due") && *at <= self.now, "one that is due later was given");
                    assert_eq!(seqs, *taken);
                    let keep = keep.clamp(1, seqs.len());
                    self.outbox.shorten(parcel.ticket, keep);
                    for known in self.known.iter_mut().filter(|known| seqs[..keep].contains(&known.seq)) {
                        known.in_flight = Some(parcel.ticket);
                    }
                    self.tickets.push(parcel.ticket);
                }
            }
            Step::Ack(index) if !self.tickets.is_empty() => {
                let ticket = self.tickets.remove(index % self.tickets.len());
                let left = self.known.iter().filter(|known| known.in_flight == Some(ticket)).count();
                let first = self.known.iter().find(|known| known.in_flight == Some(ticket)).map(|known| known.seq);
                assert_eq!(self.outbox.ack(ticket), left as u64);
                self.known.retain(|known| known.in_flight != Some(ticket));
                self.taken += left as u64;
                self.retry.accepted();
                if let Some(first) = first {
                    self.refusals.remove(&first);
                }
            }
            Step::Refuse(index) if !self.tickets.is_empty() => {
                let ticket = self.tickets.remove(index % self.tickets.len());
                let publish = self.known.iter().filter(|known| known.in_flight == Some(ticket));
                let (first, count) = (publish.clone().next().map(|known| known.seq), publish.count() as u64);
                self.retry.refused(self.now);
                let first = first.expect("a publish has a record");
                if self.refusals.entry(first).or_default().add(self.taken) {
                    assert_eq!(self.outbox.refuse(ticket, self.now), count);
                    self.known.retain(|known| known.in_flight != Some(ticket));
                    self.refusals.remove(&first);
                } else {
                    assert_eq!(self.outbox.refuse(ticket, self.now), 0);
                    let publish = self.known.iter_mut().filter(|known| known.in_flight == Some(ticket));
                    publish.for_each(|known| known.in_flight = None);
                }
            }
            Step::Ack(_) | Step::Refuse(_) => {}
            Step::LoseTheConnection => {
                self.outbox.rewind();
                self.retry.reset();
                self.tickets.clear();
                self.known.iter_mut().for_each(|known| known.in_flight = None);
            }
            Step::Commit => {
                self.outbox.commit();
                self.outbox.committed();
                self.known.iter_mut().for_each(|known| known.durable = true);
            }
            Step::Load => {
                let Some(load) = self.outbox.wants() else { return };
                let found = self.known.iter().filter(|known| (load.from..load.to).contains(&known.seq));
                let found: Vec<_> = found.take(load.count).map(|known| (known.seq, known.record.clone())).collect();
                let to = found.last().map_or(load.to, |(seq, _)| seq.next());
                self.outbox.loaded(load, Loaded { records: found, unreadable: 0, to });
            }
            Step::Wait(us) => self.now = self.now.after(us),
            Step::Expire => {
                let (now, sendable_to) = (self.now, self.sendable_to());
                let fresh = |known: &Known| !known.durable;
                let is_old = |known: &Known| {
                    let in_memory = known.seq < sendable_to || fresh(known);
                    in_memory
                        && known.in_flight.is_none()
                        && now.since(known.record.at) > rule(known.record.route).expire_us
                };
                let expired = self.known.iter().filter(|known| is_old(known)).count();
                assert_eq!(self.outbox.expire(now, rule), expired as u64);
                self.known.retain(|known| !is_old(known));
            }
        }
        assert_eq!(self.outbox.waiting(), self.known.len() as u64);
    }
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let (packets, bytes) = (1_usize..40, prop_oneof![Just(usize::MAX), 1_usize..200]);
    let wait_us = prop_oneof![Just(0), 1_u64..100, Just(u64::MAX)];
    let publish = prop_oneof![Just(Publish::AtOnce), Just(Publish::AfterCommit)];
    let expire_us = prop_oneof![4 => Just(u64::MAX), 1 => 20_u64..200];
    let parts = (packets, bytes, wait_us, publish, any::<bool>(), expire_us);
    parts.prop_map(|(packets, bytes, wait_us, publish, by_stream, expire_us)| Rule {
        packets,
        bytes,
        wait_us,
        publish,
        by_stream,
        expire_us,
    })
}

fn a_step() -> impl Strategy<Value = Step> {
    let append = (0..ROUTES, 0..4_u32, prop_oneof![3 => Just(0_usize), 1 => 1_usize..60]);
    prop_oneof![
        30 => append.prop_map(|(route, stream, bytes)| Step::Append { route, stream, bytes }),
        8 => (1_usize..6, prop_oneof![4 => Just(usize::MAX), 1 => 1_usize..10]).prop_map(|(most, keep)| Step::Take { most, keep }),
        6 => any::<usize>().prop_map(Step::Ack),
        1 => any::<usize>().prop_map(Step::Refuse),
        1 => Just(Step::LoseTheConnection),
        3 => Just(Step::Commit),
        2 => Just(Step::Load),
        5 => prop_oneof![9 => 1_u64..60, 1 => Just(61_000_000_u64)].prop_map(Step::Wait),
        2 => Just(Step::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_sent_next_is_what_a_look_at_every_record_would_find(
        rules in prop::collection::vec(a_rule(), ROUTES as usize),
        other_rules in prop::collection::vec(a_rule(), ROUTES as usize),
        steps in prop::collection::vec(a_step(), 1..300),
        // Some cases begin with more on disk than memory holds.
        on_disk in prop_oneof![5 => Just(0_u64), 1 => 8_200_u64..8_500],
    ) {
        let bounds = Bounds { bytes: u64::MAX, backlog_rate: None };
        let starts = vec![Start { from: Seq(0), start: 1, boot: 1 }];
        let reading = |seq: u64| Record {
            route: RouteId(u32::try_from(seq % 3).expect("small")),
            packet: Packet::Reading(Reading { stream: StreamId(u32::try_from(seq % 7).expect("small")), ..Reading::default() }),
            at: Monotonic(0),
        };
        let queues = if on_disk == 0 { vec![] } else {
            vec![StoredQueue { id: QueueId::NORMAL, acked_to: Seq(0), end: Seq(on_disk), records: on_disk, bytes: on_disk * 64 }]
        };
        let outbox = Outbox::new(Stored { queues, starts }, bounds);
        let known = (0..on_disk).map(|seq| Known { seq: Seq(seq), record: reading(seq), durable: true, in_flight: None });
        let mut model = Model { outbox, rules, now: Monotonic(0), known: known.collect(), tickets: vec![], retry: Retry::ZERO, refusals: BTreeMap::new(), taken: 0 };
        model.step(&Step::Load);
        let half = steps.len() / 2;
        for (index, step) in steps.iter().enumerate() {
            if index == half {
                // A new configuration.
                model.rules.clone_from(&other_rules);
            }
            model.step(step);
        }
    }
}
