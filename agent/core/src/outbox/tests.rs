//! The outbox by itself, and against a plain list as its disk.

use super::*;
use alloc::{sync::Arc, vec};

use crate::{
    ids::StreamId,
    packet::{Message, Packet, Quality, Reading},
    time::Unix,
};

const NOW: Monotonic = Monotonic(0);
const NORMAL: QueueId = QueueId::NORMAL;
const FOUR: Rule =
    Rule { packets: 4, bytes: usize::MAX, wait_us: 0, publish: Publish::AtOnce, by_stream: false, expire_us: u64::MAX };

fn record(route: u32) -> Record {
    Record { route: RouteId(route), packet: Packet::Reading(Reading::default()), at: NOW }
}

fn start(from: u64, start: u32) -> Start {
    Start { from: Seq(from), start, boot: 1 }
}

/// The bound is said in readings.
fn empty(max_records: u64) -> Outbox {
    stored(vec![], vec![start(0, 1)], max_records)
}

fn stored(queues: Vec<StoredQueue>, starts: Vec<Start>, max_records: u64) -> Outbox {
    Outbox::new(Stored { queues, starts }, Bounds { bytes: max_records.saturating_mul(64), backlog_rate: None })
}

fn on_disk(acked_to: u64, end: u64) -> StoredQueue {
    let records = end - acked_to;
    StoredQueue { id: NORMAL, acked_to: Seq(acked_to), end: Seq(end), records, bytes: records * 64 }
}

fn queue(records: usize) -> Outbox {
    let mut queue = empty(u64::MAX);
    (0..records).for_each(|_| queue.append(NORMAL, record(0)));
    queue
}

fn take(queue: &mut Outbox) -> Vec<u64> {
    queue.take(NOW, |_| FOUR).map_or_else(Vec::new, |parcel| parcel.records.iter().map(|(seq, _)| seq.0).collect())
}

fn commit(queue: &mut Outbox) -> QueueCommit {
    let commit = queue.commit().pop().expect("there is something to write");
    queue.committed();
    commit
}

fn loaded(records: Vec<(Seq, Record)>) -> Loaded {
    let to = records.last().map_or(Seq(0), |(seq, _)| seq.next());
    Loaded { records, unreadable: 0, to }
}

fn only(queue: &Outbox) -> &Queue {
    assert_eq!(queue.queues.len(), 1);
    &queue.queues[0]
}

fn balanced(queue: &Outbox) {
    let Counts { appended, acknowledged, evicted, expired, dead_lettered, .. } = queue.counts();
    assert_eq!(appended, acknowledged + evicted + expired + dead_lettered + queue.waiting());
    for queue in &queue.queues {
        assert_eq!(queue.left_in_head(), queue.head.iter().filter(|entry| entry.state == State::Left).count());
    }
}

#[test]
fn records_leave_in_order_and_by_acknowledgement_only() {
    let mut queue = queue(6);
    assert_eq!(take(&mut queue), [0, 1, 2, 3]);
    assert_eq!(take(&mut queue), [4, 5]);
    assert!(take(&mut queue).is_empty());
    assert_eq!(queue.waiting(), 6);
    assert_eq!((queue.ack(Ticket(0)), queue.ack(Ticket(1))), (4, 2));
    assert_eq!((queue.ack(Ticket(1)), queue.ack(Ticket(9))), (0, 0));
    assert_eq!(queue.waiting(), 0);
    balanced(&queue);
}

#[test]
fn what_was_acknowledged_before_its_commit_is_never_written() {
    let mut queue = queue(6);
    take(&mut queue);
    queue.ack(Ticket(0));
    let commit = commit(&mut queue);
    assert_eq!(commit.records.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [4, 5]);
    assert_eq!((commit.acked_to, commit.end), (Seq(4), Seq(6)));
    assert!(!queue.is_dirty());
}

#[test]
fn the_window_reaches_from_the_oldest_unacknowledged_to_the_newest() {
    let mut queue = queue(12);
    (0..3).for_each(|_| drop(take(&mut queue)));
    queue.ack(Ticket(1));
    assert_eq!(queue.window(), 3);
    queue.ack(Ticket(0));
    assert_eq!(queue.window(), 1);
}

#[test]
fn a_lost_connection_sends_again_what_was_not_acknowledged_and_nothing_else() {
    let mut queue = queue(12);
    (0..3).for_each(|_| drop(take(&mut queue)));
    queue.ack(Ticket(1));
    queue.rewind();
    assert_eq!(take(&mut queue), [0, 1, 2, 3]);
    assert_eq!(take(&mut queue), [8, 9, 10, 11]);
    assert_eq!(queue.counts().resent, 8);
    // The old connection's tickets mean nothing any more.
    assert_eq!(queue.ack(Ticket(0)), 0);
    balanced(&queue);
}

#[test]
fn a_publish_holds_records_of_one_route_and_routes_that_alternate_fill_theirs() {
    let mut queue = empty(u64::MAX);
    [1, 2, 1, 2, 1, 1].iter().for_each(|route| queue.append(NORMAL, record(*route)));
    assert_eq!(take(&mut queue), [0, 2, 4, 5]);
    assert_eq!(take(&mut queue), [1, 3]);
    assert_eq!(queue.ack(Ticket(1)), 2);
    assert_eq!(commit(&mut queue).acked_to, Seq(0));
    assert_eq!(queue.ack(Ticket(0)), 4);
    balanced(&queue);
}

#[test]
fn an_incomplete_publish_waits_for_company_and_a_complete_one_does_not() {
    let patient = |_| Rule { wait_us: 100, ..FOUR };
    let mut queue = queue(5);
    assert_eq!(queue.take(Monotonic(0), patient).expect("four are complete").records.len(), 4);
    assert_eq!(queue.take(Monotonic(99), patient), None);
    assert_eq!(queue.due(patient), Some(Monotonic(100)));
    (0..4).for_each(|_| queue.append(NORMAL, record(1)));
    assert_eq!(queue.take(NOW, patient).expect("complete").route, RouteId(1), "one that waits holds nobody up");
    assert_eq!(queue.take(Monotonic(100), patient).expect("due").records.len(), 1);
}

#[test]
fn a_commit_in_the_middle_does_not_cut_a_publish() {
    let patient = |_| Rule { wait_us: 100, ..FOUR };
    let mut queue = queue(2);
    commit(&mut queue);
    (0..3).for_each(|_| queue.append(NORMAL, record(0)));
    assert_eq!(queue.take(NOW, patient).expect("complete").records.len(), 4);
}

#[test]
fn after_commit_holds_packets_back_until_they_are_durable() {
    let careful = |_| Rule { publish: Publish::AfterCommit, ..FOUR };
    let mut queue = queue(2);
    assert_eq!(queue.take(NOW, careful), None);
    commit(&mut queue);
    assert_eq!(queue.take(NOW, careful).expect("durable").records.len(), 2);
}

/// Plays queue and store together against a plain list, with the broker away, back and lossy.
#[test]
fn a_backlog_larger_than_memory_comes_out_whole_and_in_order() {
    let mut queue = empty(u64::MAX);
    let mut disk: Vec<(Seq, Record)> = Vec::new();
    let mut received = Vec::new();
    let total = 5 * HEAD_RECORDS;
    let store = |queue: &mut Outbox, disk: &mut Vec<(Seq, Record)>| {
        for commit in queue.commit() {
            disk.extend(commit.records.iter().cloned());
            disk.retain(|(seq, _)| *seq >= commit.acked_to);
        }
        queue.committed();
    };
    for index in 0..total {
        queue.append(NORMAL, record(0));
        if index % 1_000 == 0 {
            store(&mut queue, &mut disk);
        }
    }
    store(&mut queue, &mut disk);
    assert_eq!(only(&queue).head.len(), HEAD_RECORDS);
    let mut round = 0;
    while queue.waiting() > 0 {
        round += 1;
        assert!(round < 100_000, "it does not end");
        if let Some(load) = queue.wants() {
            let found = disk.iter().filter(|(seq, _)| (load.from..load.to).contains(seq)).take(load.count);
            let found = found.cloned().collect();
            queue.loaded(load, loaded(found));
        }
        let parcels: Vec<_> = (0..8).filter_map(|_| queue.take(NOW, |_| FOUR)).collect();
        for (index, parcel) in parcels.iter().enumerate() {
            // Every third round the connection dies with an acknowledgement out of order behind it.
            if round % 3 == 0 && index == 2 {
                break;
            }
            received.extend(parcel.records.iter().map(|(seq, _)| seq.0));
            queue.ack(parcel.ticket);
        }
        if round % 3 == 0 {
            if let Some(parcel) = parcels.get(5) {
                received.extend(parcel.records.iter().map(|(seq, _)| seq.0));
                queue.ack(parcel.ticket);
            }
            queue.rewind();
        }
        if round % 7 == 0 {
            queue.append(NORMAL, record(0));
            store(&mut queue, &mut disk);
        }
        balanced(&queue);
    }
    received.sort_unstable();
    assert_eq!(
        received,
        (0..queue.next.0).collect::<Vec<_>>(),
        "each exactly once: none was lost after an acknowledgement"
    );
    store(&mut queue, &mut disk);
    assert!(disk.is_empty());
}

#[test]
fn a_full_queue_gives_up_its_oldest_and_counts_them() {
    let mut queue = empty(5);
    (0..8).for_each(|_| queue.append(NORMAL, record(0)));
    take(&mut queue);
    assert_eq!(queue.evict(), 3, "those under way stay");
    assert_eq!(take(&mut queue), [7]);
    queue.append(NORMAL, record(0));
    assert_eq!((queue.evict(), queue.next_seq()), (1, Seq(9)));
    balanced(&queue);
}

#[test]
fn a_queue_found_on_disk_is_sent_first_and_under_the_names_it_had() {
    let mut queue = stored(vec![on_disk(3, 6)], vec![start(0, 1), start(5, 2), start(6, 3)], u64::MAX);
    queue.append(NORMAL, record(0));
    assert!(take(&mut queue).is_empty());
    let load = queue.wants().expect("it asks");
    queue.loaded(load, loaded((3..6).map(|seq| (Seq(seq), record(0))).collect()));
    // A publish carries one epoch: packets that two starts have numbered do not share one.
    let parcels: Vec<_> = std::iter::from_fn(|| queue.take(NOW, |_| FOUR)).collect();
    let seqs = |parcel: &Parcel| parcel.records.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>();
    let named: Vec<_> = parcels.iter().map(|parcel| (parcel.start.start, seqs(parcel))).collect();
    assert_eq!(named, [(1, vec![3, 4]), (2, vec![5]), (3, vec![6])]);
    balanced(&queue);
}

#[test]
fn a_backlog_drains_without_waiting_for_a_commit() {
    let mut queue = stored(vec![on_disk(0, 3 * HEAD_RECORDS as u64)], vec![start(0, 1)], u64::MAX);
    while queue.waiting() > 0 {
        if let Some(load) = queue.wants() {
            let end = load.to.0.min(load.from.0 + load.count as u64);
            queue.loaded(load, loaded((load.from.0..end).map(|seq| (Seq(seq), record(0))).collect()));
        }
        let parcel = queue.take(NOW, |_| FOUR).expect("there is always something to send");
        queue.ack(parcel.ticket);
    }
    balanced(&queue);
}

#[test]
fn routes_that_wait_for_company_do_not_hold_up_the_others_however_much_of_them_waits() {
    // Two routes with batches that 3,000 records do not fill, before the record of one that waits for nothing.
    let rule = |route: RouteId| match route.0 {
        0 | 1 => Rule { packets: 5_000, wait_us: u64::MAX, ..FOUR },
        _ => FOUR,
    };
    let mut queue = empty(u64::MAX);
    for _ in 0..3_000 {
        queue.append(NORMAL, record(0));
        queue.append(NORMAL, record(1));
    }
    for round in 0..HEAD_RECORDS as u64 {
        queue.append(NORMAL, record(2));
        assert_eq!(queue.due(rule), Some(NOW), "round {round}");
        let parcel = queue.take(NOW, rule).expect("it waits for nothing");
        assert_eq!((parcel.route, parcel.records.len()), (RouteId(2), 1));
        assert_eq!(queue.take(NOW, rule), None);
        commit(&mut queue);
        queue.ack(parcel.ticket);
    }
    assert_eq!(queue.waiting(), 6_000);
    assert_eq!(only(&queue).head.len() - only(&queue).left_in_head(), 6_000);
    balanced(&queue);
}

#[test]
fn while_records_wait_on_disk_only_an_incomplete_batch_waits_for_nothing() {
    let patient = |_| Rule { packets: usize::MAX, wait_us: u64::MAX, ..FOUR };
    let mut queue = stored(vec![on_disk(0, 2 * HEAD_RECORDS as u64)], vec![start(0, 1)], u64::MAX);
    let load = queue.wants().expect("it asks");
    let end = load.from.0 + load.count as u64;
    queue.loaded(load, loaded((load.from.0..end).map(|seq| (Seq(seq), record(0))).collect()));
    assert_eq!(queue.due(patient), Some(NOW), "what is on disk could never join it");
    assert_eq!(queue.take(NOW, patient).expect("due").records.len(), HEAD_RECORDS);
}

#[test]
fn what_is_under_way_is_found_by_its_acknowledgement_although_memory_is_full() {
    let rule = |route: RouteId| Rule { packets: 1_024, wait_us: if route.0 == 0 { u64::MAX } else { 0 }, ..FOUR };
    let mut queue = empty(u64::MAX);
    (0..HEAD_RECORDS).for_each(|_| queue.append(NORMAL, record(1)));
    let all: Vec<_> = std::iter::from_fn(|| queue.take(NOW, rule)).collect();
    commit(&mut queue);
    queue.append(NORMAL, record(0));
    queue.append(NORMAL, record(1));
    let one = queue.take(NOW, rule).expect("the one that does not wait");
    commit(&mut queue);
    assert_eq!(queue.ack(one.ticket), 1);
    assert_eq!(all.iter().map(|parcel| queue.ack(parcel.ticket)).sum::<u64>(), HEAD_RECORDS as u64);
    assert_eq!(queue.waiting(), 1);
    assert!(only(&queue).head.iter().is_sorted_by_key(|entry| entry.seq));
    balanced(&queue);
}

#[test]
fn what_does_not_fit_into_a_publish_waits_for_the_next() {
    let mut queue = queue(6);
    assert_eq!(take(&mut queue), [0, 1, 2, 3]);
    queue.shorten(Ticket(0), 2);
    assert_eq!(take(&mut queue), [2, 3, 4, 5]);
    assert_eq!(queue.ack(Ticket(0)), 2);
    assert_eq!(queue.ack(Ticket(1)), 4);
    assert_eq!(queue.waiting(), 0);
    balanced(&queue);
}

#[test]
fn a_shortened_publish_comes_again_with_the_rest_in_order() {
    let mut queue = queue(6);
    commit(&mut queue);
    take(&mut queue);
    queue.shorten(Ticket(0), 1);
    queue.rewind();
    assert_eq!(take(&mut queue), [0, 1, 2, 3]);
    balanced(&queue);
}

fn message(bytes: usize) -> Record {
    let (time, stream, quality) = (Unix(0), StreamId(0), Quality::GOOD);
    let message = Message { time, stream, quality, topic: "".into(), payload: vec![7; bytes].into() };
    Record { route: RouteId(0), packet: Packet::Message(Arc::new(message)), at: NOW }
}

#[test]
fn messages_are_bounded_in_memory_whatever_becomes_of_them() {
    const BIG: usize = 65_536;
    let mut queue = empty(u64::MAX);
    while !queue.is_full() {
        queue.append(NORMAL, message(BIG));
    }
    assert_eq!(only(&queue).fresh.len(), MEMORY_BYTES / BIG);
    let disk: Vec<_> = commit(&mut queue).records;
    // What is behind the front is on disk only.
    assert!(!queue.is_full() && queue.memory() <= MEMORY_BYTES / 2 && only(&queue).has_backlog());
    let mut sent = 0;
    while queue.waiting() > 0 {
        while let Some(load) = queue.wants() {
            let mut bytes = 0;
            let found = disk.iter().filter(|(seq, _)| (load.from..load.to).contains(seq)).take(load.count);
            let found = found.take_while(|(_, record)| {
                let room = bytes < load.bytes;
                bytes += record.packet.bytes();
                room
            });
            let found = found.cloned().collect();
            queue.loaded(load, loaded(found));
        }
        assert!(queue.memory() <= MEMORY_BYTES);
        let rule = Rule { packets: 100, bytes: 3 * BIG, ..FOUR };
        let parcel = queue.take(NOW, |_| rule).expect("something waits");
        assert!(parcel.records.len() <= 3, "no more bytes than the rule allows");
        sent += parcel.records.len();
        queue.ack(parcel.ticket);
    }
    assert_eq!((sent, queue.memory()), (MEMORY_BYTES / BIG, 0));
    balanced(&queue);
}

fn high() -> QueueId {
    QueueId::new(Priority::High, Overflow::DropOldest)
}

/// Each route of these tests has a queue of its own, so a publish tells which it came from.
fn routes(queue: &mut Outbox, publishes: usize) -> Vec<u32> {
    (0..publishes).filter_map(|_| queue.take(NOW, |_| FOUR)).map(|parcel| parcel.route.0).collect()
}

#[test]
fn an_alarm_overtakes_what_waits_and_a_flood_of_alarms_leaves_the_others_their_share() {
    let mut queue = queue(400);
    queue.append(high(), record(1));
    assert_eq!(routes(&mut queue, 1), [1]);
    (0..400).for_each(|_| queue.append(high(), record(1)));
    let low = QueueId::new(Priority::Low, Overflow::DropOldest);
    (0..400).for_each(|_| queue.append(low, record(2)));
    let sent = routes(&mut queue, 210);
    let of = |route| sent.iter().filter(|sent| **sent == route).count();
    assert_eq!(of(1), 100, "all of them");
    let alarms_while_both = sent.iter().rposition(|route| *route == 1).expect("alarms") + 1;
    let of = |route| sent[..alarms_while_both].iter().filter(|sent| **sent == route).count();
    assert!(of(0) >= 100 / 16 * 4 && of(2) >= 100 / 16, "{sent:?}");
    balanced(&queue);
}

#[test]
fn an_alarm_is_committed_at_once_unless_it_has_left_before() {
    let mut queue = queue(4);
    assert!(!queue.is_urgent());
    queue.append(high(), record(1));
    assert!(queue.is_urgent());
    queue.commit();
    assert!(!queue.is_urgent(), "a commit that has it is running");
    queue.append(high(), record(1));
    assert!(queue.is_urgent());
    queue.committed();
    let alarms = queue.take(NOW, |_| FOUR).expect("both");
    queue.ack(alarms.ticket);
    assert!(!queue.is_urgent());
}

#[test]
fn seqs_are_given_out_once_whatever_the_queue_and_the_next_start_goes_on_behind_them() {
    let mut queue = empty(u64::MAX);
    for queue_of in [NORMAL, high(), NORMAL, high()] {
        queue.append(queue_of, record(0));
    }
    let commits = queue.commit();
    queue.committed();
    let seqs = |commit: &QueueCommit| commit.records.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>();
    assert_eq!(commits.iter().map(seqs).collect::<Vec<_>>(), [vec![1, 3], vec![0, 2]]);
    let queues = commits.iter().map(|commit| {
        let QueueCommit { queue: id, acked_to, end, records } = commit;
        let records = records.len() as u64;
        StoredQueue { id: *id, acked_to: *acked_to, end: *end, records, bytes: records * 64 }
    });
    let again = stored(queues.collect(), vec![start(0, 1), start(4, 2)], u64::MAX);
    assert_eq!((again.next_seq(), again.waiting()), (Seq(4), 4));
}

#[test]
fn a_full_outbox_gives_up_what_the_routes_say() {
    let (newest, block) =
        (QueueId::new(Priority::Normal, Overflow::DropNewest), QueueId::new(Priority::Low, Overflow::Block));
    let mut queue = empty(6);
    for of in [newest, block, NORMAL, high(), newest, block] {
        queue.append(of, record(0));
    }
    assert!(queue.is_at_bound() && !queue.is_over());
    queue.append(newest, record(0));
    assert_eq!((queue.counts().evicted, queue.waiting()), (1, 6), "the newest of its own");
    queue.append(high(), record(0));
    assert_eq!(queue.evict(), 1, "the least urgent first, but not what blocks");
    let waiting: Vec<_> = queue.waiting_by_queue().collect();
    assert_eq!(waiting, [(high(), 2), (NORMAL, 0), (newest, 2), (block, 2)]);
    queue.append(high(), record(0));
    assert_eq!(queue.evict(), 1);
    (0..3).for_each(|_| queue.append(block, record(0)));
    assert_eq!(queue.evict(), 2, "then the alarms");
    assert_eq!(queue.evict(), 0);
    assert!(queue.is_at_bound() && !queue.is_over(), "what blocks is never given up");
    balanced(&queue);
}

#[test]
fn what_is_on_disk_only_is_given_up_before_what_is_more_urgent() {
    let mut queue = stored(vec![on_disk(0, 50_000)], vec![start(0, 1)], 20_000);
    queue.append(high(), record(1));
    let mut evicted = queue.evict();
    while queue.is_over() {
        let load = queue.wants().expect("it asks for the oldest");
        let end = load.to.0.min(load.from.0 + load.count as u64);
        queue.loaded(load, loaded((load.from.0..end).map(|seq| (Seq(seq), record(0))).collect()));
        evicted += queue.evict();
    }
    assert_eq!((evicted, queue.waiting()), (30_001, 20_000));
    assert_eq!(queue.waiting_by_queue().next(), Some((high(), 1)));
    balanced(&queue);
}

#[test]
fn packets_expire_by_the_clock_that_never_steps_and_those_of_an_earlier_life_from_its_beginning() {
    const HOUR: u64 = 3_600_000_000;
    let rule = |route: RouteId| Rule { expire_us: if route.0 == 1 { HOUR } else { u64::MAX }, ..FOUR };
    let starts = vec![Start { boot: 1, ..start(0, 1) }, Start { boot: 2, ..start(3, 2) }];
    let mut queue = stored(vec![on_disk(0, 3)], starts, u64::MAX);
    let load = queue.wants().expect("it asks");
    // Appended late in the earlier life of the machine, long before now.
    let old = |seq| (Seq(seq), Record { at: Monotonic(50 * HOUR), ..record(1) });
    queue.loaded(load, loaded((0..3).map(old).collect()));
    queue.append(NORMAL, Record { at: Monotonic(HOUR / 2), ..record(1) });
    queue.append(NORMAL, Record { at: Monotonic(HOUR), ..record(0) });
    assert_eq!(queue.expire(Monotonic(HOUR), rule), 0);
    assert_eq!(queue.expire(Monotonic(HOUR + 1), rule), 3);
    assert_eq!(queue.expire(Monotonic(HOUR * 3 / 2), rule), 0);
    let under_way = queue.take(Monotonic(HOUR), rule).expect("one of them");
    assert_eq!(queue.expire(Monotonic(u64::MAX), rule), 0, "what is under way stays");
    queue.ack(under_way.ticket);
    assert_eq!((queue.waiting(), queue.counts().expired), (1, 3));
    balanced(&queue);
}

#[test]
fn a_backlog_leaves_no_faster_than_it_may_and_what_is_urgent_does_not_wait_for_it() {
    let mut queue = stored(vec![on_disk(0, 100_000)], vec![start(0, 1)], u64::MAX);
    queue.set_bounds(Bounds { bytes: u64::MAX, backlog_rate: Some(4) });
    let load = queue.wants().expect("it asks");
    queue.loaded(load, loaded((0..load.count as u64).map(|seq| (Seq(seq), record(0))).collect()));
    assert_eq!(queue.take(NOW, |_| FOUR).expect("the first").records.len(), 4);
    assert_eq!(queue.take(NOW, |_| FOUR), None);
    assert_eq!(queue.due(|_| FOUR), Some(Monotonic(1_000_000)));
    queue.append(high(), record(1));
    assert_eq!(queue.take(NOW, |_| FOUR).expect("the alarm").route, RouteId(1));
    assert!(queue.take(Monotonic(1_000_000), |_| FOUR).is_some());
}

#[test]
fn on_a_full_disk_what_has_left_is_deleted_and_nothing_else_is_written() {
    let mut queue = queue(6);
    commit(&mut queue);
    (0..3).for_each(|_| queue.append(NORMAL, record(0)));
    queue.append(high(), record(1));
    take(&mut queue);
    queue.rewind();
    let parcel = queue.take(NOW, |_| FOUR).filter(|parcel| parcel.route == RouteId(0));
    let parcel = parcel.or_else(|| queue.take(NOW, |_| FOUR)).expect("four of what is durable");
    queue.ack(parcel.ticket);
    let commits = queue.commit_deletions();
    let [QueueCommit { queue: NORMAL, records, acked_to: Seq(4), end: Seq(6) }] = commits.as_slice() else {
        panic!("{commits:?}")
    };
    assert!(records.is_empty());
    queue.committed();
    assert_eq!(queue.commit_deletions(), []);
    let records: Vec<_> = queue.commit().iter().map(|commit| (commit.queue, commit.records.len())).collect();
    assert_eq!(records, [(high(), 1), (NORMAL, 3)], "what is new is still to be written");
    queue.committed();
    assert!(!queue.is_dirty());
    balanced(&queue);
}

#[test]
fn without_a_disk_the_oldest_in_memory_make_room_and_what_blocks_does_not() {
    let mut queue = empty(u64::MAX);
    let block = QueueId::new(Priority::Normal, Overflow::Block);
    (0..10).for_each(|_| queue.append(block, record(1)));
    (0..FRESH_RECORDS).for_each(|_| queue.append(NORMAL, record(0)));
    let under_way = queue.take(NOW, |route| Rule { packets: usize::from(route.0 == 0) * 4, ..FOUR }).expect("four");
    assert!(queue.is_full());
    assert_eq!(queue.evict_from_memory(), FRESH_RECORDS as u64 / 16);
    assert!(!queue.is_full());
    assert_eq!(queue.evict_from_memory(), 0);
    queue.ack(under_way.ticket);
    assert!(queue.waiting_by_queue().any(|of| of == (block, 10)) || under_way.route == RouteId(1));
    balanced(&queue);
}

#[test]
fn a_record_that_cannot_be_read_holds_nobody_up_and_is_counted() {
    let mut queue = stored(vec![on_disk(0, 5)], vec![start(0, 1)], u64::MAX);
    let load = queue.wants().expect("it asks");
    let records = [0, 1, 3, 4].map(|seq| (Seq(seq), record(0))).to_vec();
    queue.loaded(load, Loaded { unreadable: 1, ..loaded(records) });
    assert_eq!(take(&mut queue), [0, 1, 3, 4]);
    queue.ack(Ticket(0));
    assert_eq!((queue.waiting(), queue.bytes(), queue.counts().dead_lettered), (0, 0, 1));
    assert_eq!(commit(&mut queue).acked_to, Seq(5));
    balanced(&queue);
}

#[test]
fn what_cannot_be_read_is_passed_over_however_much_of_it_there_is() {
    let many = 2 * HEAD_RECORDS as u64;
    let mut queue = stored(vec![on_disk(0, many + 1)], vec![start(0, 1)], u64::MAX);
    while let Some(load) = queue.wants() {
        let to = load.to.0.min(load.from.0 + load.count as u64);
        let records = if to > many { vec![(Seq(many), record(0))] } else { vec![] };
        let unreadable = to - load.from.0 - records.len() as u64;
        queue.loaded(load, Loaded { records, unreadable, to: Seq(to) });
    }
    assert_eq!((take(&mut queue), queue.counts().dead_lettered), (vec![many], many));
    balanced(&queue);
}

#[test]
fn a_publish_that_the_broker_does_not_take_now_waits_while_other_queues_go_on() {
    const S: u64 = 1_000_000;
    let mut queue = queue(8);
    queue.append(high(), record(1));
    let alarm = queue.take(NOW, |_| FOUR).expect("the alarm");
    let first = queue.take(NOW, |_| FOUR).expect("four");
    let second = queue.take(NOW, |_| FOUR).expect("four");
    assert_eq!(queue.refuse(first.ticket, NOW), 0);
    // What else was under way is answered by itself.
    assert_eq!(queue.ack(second.ticket), 4);
    assert_eq!((queue.take(NOW, |_| FOUR), queue.due(|_| FOUR)), (None, Some(Monotonic(S))));
    queue.ack(alarm.ticket);
    queue.append(high(), record(1));
    let alarm = queue.take(NOW, |_| FOUR).expect("alarms do not wait for it");
    assert_eq!(alarm.route, RouteId(1));
    let again = queue.take(Monotonic(S), |_| FOUR).expect("after the pause");
    assert_eq!(again.records, first.records);
    assert_eq!((queue.ack(again.ticket), queue.counts().resent), (4, 4));
    balanced(&queue);
}

#[test]
fn a_publish_that_alone_is_refused_again_and_again_is_a_dead_letter_in_the_end() {
    let mut queue = queue(4);
    let mut now = NOW;
    for refusal in 1..=crate::retry::MAX_REFUSALS {
        let parcel = queue.take(now, |_| FOUR).expect("it comes again");
        assert_eq!(parcel.records[0].0, Seq(0));
        queue.append(high(), record(1));
        let alarm = queue.take(now, |_| FOUR).expect("another queue");
        queue.ack(alarm.ticket);
        let lost = queue.refuse(parcel.ticket, now);
        assert_eq!(lost, if refusal == crate::retry::MAX_REFUSALS { 4 } else { 0 }, "refusal {refusal}");
        now = now.after(60_000_000);
    }
    assert_eq!((queue.waiting(), queue.counts().dead_lettered), (0, 4));
    balanced(&queue);
}
