//! The queue by itself, and against a plain list as its disk.

use super::*;
use alloc::sync::Arc;

use crate::{
    packet::{Message, Packet, Quality, Reading},
    time::Unix,
};

const NOW: Monotonic = Monotonic(0);
const AT_ONCE: BatchRule =
    BatchRule { packets: 4, bytes: usize::MAX, wait_us: 0, publish: Publish::AtOnce, by_stream: false };

fn record(route: u32) -> Record {
    Record { route: RouteId(route), packet: Packet::Reading(Reading::default()) }
}

fn empty(max_records: usize) -> Queue {
    Queue::new(Stored { acked_to: Seq(0), next: Seq(0), records: 0, starts: vec![(Seq(0), 1)] }, max_records)
}

fn queue(records: usize) -> Queue {
    let mut queue = empty(usize::MAX);
    (0..records).for_each(|_| queue.append(record(0), NOW));
    queue
}

fn take(queue: &mut Queue) -> Vec<u64> {
    queue.take(NOW, |_| AT_ONCE).map_or_else(Vec::new, |parcel| parcel.records.iter().map(|(seq, _)| seq.0).collect())
}

fn commit(queue: &mut Queue) -> QueueCommit {
    let commit = queue.commit();
    queue.committed(commit.acked_to, commit.next);
    commit
}

fn balanced(queue: &Queue) {
    let Counts { appended, acknowledged, evicted, refused, .. } = queue.counts();
    assert_eq!(appended, acknowledged + evicted + refused + queue.waiting() as u64);
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
    assert_eq!((commit.acked_to, commit.next), (Seq(4), Seq(6)));
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
    let mut queue = empty(usize::MAX);
    [1, 2, 1, 2, 1, 1].iter().for_each(|route| queue.append(record(*route), NOW));
    assert_eq!(take(&mut queue), [0, 2, 4, 5]);
    assert_eq!(take(&mut queue), [1, 3]);
    assert_eq!(queue.ack(Ticket(1)), 2);
    assert_eq!(commit(&mut queue).acked_to, Seq(0));
    assert_eq!(queue.ack(Ticket(0)), 4);
    balanced(&queue);
}

#[test]
fn an_incomplete_publish_waits_for_company_and_a_complete_one_does_not() {
    let patient = |_| BatchRule { wait_us: 100, ..AT_ONCE };
    let mut queue = queue(5);
    assert_eq!(queue.take(Monotonic(0), patient).expect("four are complete").records.len(), 4);
    assert_eq!(queue.take(Monotonic(99), patient), None);
    assert_eq!(queue.due(patient), Some(Monotonic(100)));
    (0..4).for_each(|_| queue.append(record(1), NOW));
    assert_eq!(queue.take(NOW, patient).expect("complete").route, RouteId(1), "one that waits holds nobody up");
    assert_eq!(queue.take(Monotonic(100), patient).expect("due").records.len(), 1);
}

#[test]
fn a_commit_in_the_middle_does_not_cut_a_publish() {
    let patient = |_| BatchRule { wait_us: 100, ..AT_ONCE };
    let mut queue = queue(2);
    commit(&mut queue);
    (0..3).for_each(|_| queue.append(record(0), NOW));
    assert_eq!(queue.take(NOW, patient).expect("complete").records.len(), 4);
}

#[test]
fn after_commit_holds_packets_back_until_they_are_durable() {
    let careful = |_| BatchRule { publish: Publish::AfterCommit, ..AT_ONCE };
    let mut queue = queue(2);
    assert_eq!(queue.take(NOW, careful), None);
    commit(&mut queue);
    assert_eq!(queue.take(NOW, careful).expect("durable").records.len(), 2);
}

/// Plays queue and store together against a plain list, with the broker away, back and lossy.
#[test]
fn a_backlog_larger_than_memory_comes_out_whole_and_in_order() {
    let mut queue = empty(usize::MAX);
    let mut disk: Vec<(Seq, Record)> = Vec::new();
    let mut received = Vec::new();
    let total = 5 * HEAD_RECORDS;
    let store = |queue: &mut Queue, disk: &mut Vec<(Seq, Record)>| {
        let commit = queue.commit();
        disk.extend(commit.records.iter().cloned());
        disk.retain(|(seq, _)| *seq >= commit.acked_to);
        queue.committed(commit.acked_to, commit.next);
    };
    for index in 0..total {
        queue.append(record(0), NOW);
        if index % 1_000 == 0 {
            store(&mut queue, &mut disk);
        }
    }
    store(&mut queue, &mut disk);
    assert_eq!(queue.head.len(), HEAD_RECORDS);
    let mut round = 0;
    while queue.waiting() > 0 {
        round += 1;
        assert!(round < 100_000, "it does not end");
        if let Some(load) = queue.wants() {
            let found = disk.iter().filter(|(seq, _)| (load.from..load.to).contains(seq)).take(load.count);
            let found = found.cloned().collect();
            queue.loaded(load, found, NOW);
        }
        let parcels: Vec<_> = (0..8).filter_map(|_| queue.take(NOW, |_| AT_ONCE)).collect();
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
            queue.append(record(0), NOW);
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
    (0..8).for_each(|_| queue.append(record(0), NOW));
    assert_eq!(queue.evict(), 0, "not before they are committed");
    commit(&mut queue);
    take(&mut queue);
    assert_eq!(queue.evict(), 3);
    assert_eq!(take(&mut queue), [7]);
    balanced(&queue);
}

#[test]
fn a_queue_found_on_disk_is_sent_first_and_under_the_names_it_had() {
    let stored =
        Stored { acked_to: Seq(3), next: Seq(6), records: 3, starts: vec![(Seq(0), 1), (Seq(5), 2), (Seq(6), 3)] };
    let mut queue = Queue::new(stored, usize::MAX);
    queue.append(record(0), NOW);
    assert!(take(&mut queue).is_empty());
    let load = queue.wants().expect("it asks");
    queue.loaded(load, (3..6).map(|seq| (Seq(seq), record(0))).collect(), NOW);
    // A publish carries one epoch: packets that two starts have numbered do not share one.
    let parcels: Vec<_> = std::iter::from_fn(|| queue.take(NOW, |_| AT_ONCE)).collect();
    let seqs = |parcel: &Parcel| parcel.records.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>();
    let named: Vec<_> = parcels.iter().map(|parcel| (parcel.start, seqs(parcel))).collect();
    assert_eq!(named, [(1, vec![3, 4]), (2, vec![5]), (3, vec![6])]);
    balanced(&queue);
}

#[test]
fn a_backlog_drains_without_waiting_for_a_commit() {
    let records = 3 * HEAD_RECORDS;
    let stored = Stored { acked_to: Seq(0), next: Seq(records as u64), records, starts: vec![(Seq(0), 1)] };
    let mut queue = Queue::new(stored, usize::MAX);
    while queue.waiting() > 0 {
        if let Some(load) = queue.wants() {
            let end = load.to.0.min(load.from.0 + load.count as u64);
            queue.loaded(load, (load.from.0..end).map(|seq| (Seq(seq), record(0))).collect(), NOW);
        }
        let parcel = queue.take(NOW, |_| AT_ONCE).expect("there is always something to send");
        queue.ack(parcel.ticket);
    }
    balanced(&queue);
}

#[test]
fn one_that_waits_for_company_does_not_hold_up_the_others_however_many_there_are() {
    let rule = |route: RouteId| BatchRule { wait_us: if route.0 == 0 { u64::MAX } else { 0 }, ..AT_ONCE };
    let mut queue = empty(usize::MAX);
    queue.append(record(0), NOW);
    for _ in 0..HEAD_RECORDS {
        (0..4).for_each(|_| queue.append(record(1), NOW));
        let parcel = queue.take(NOW, rule).expect("a full batch of the other route");
        commit(&mut queue);
        queue.ack(parcel.ticket);
    }
    assert_eq!(queue.waiting(), 1);
    assert_eq!(queue.head.len(), 1);
    balanced(&queue);
}

#[test]
fn what_is_under_way_is_found_by_its_acknowledgement_although_memory_is_full() {
    let rule =
        |route: RouteId| BatchRule { packets: LOOK_AHEAD, wait_us: if route.0 == 0 { u64::MAX } else { 0 }, ..AT_ONCE };
    let mut queue = empty(usize::MAX);
    (0..HEAD_RECORDS).for_each(|_| queue.append(record(1), NOW));
    let all: Vec<_> = std::iter::from_fn(|| queue.take(NOW, rule)).collect();
    commit(&mut queue);
    queue.append(record(0), NOW);
    queue.append(record(1), NOW);
    let one = queue.take(NOW, rule).expect("the one that does not wait");
    commit(&mut queue);
    assert_eq!(queue.ack(one.ticket), 1);
    assert_eq!(all.iter().map(|parcel| queue.ack(parcel.ticket)).sum::<u64>(), HEAD_RECORDS as u64);
    assert_eq!(queue.waiting(), 1);
    assert!(queue.head.iter().is_sorted_by_key(|entry| entry.seq));
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
    Record { route: RouteId(0), packet: Packet::Message(Arc::new(message)) }
}

#[test]
fn messages_are_bounded_in_memory_whatever_becomes_of_them() {
    const BIG: usize = 65_536;
    let mut queue = empty(usize::MAX);
    while !queue.is_full() {
        queue.append(message(BIG), NOW);
    }
    assert_eq!(queue.fresh.len(), MEMORY_BYTES / BIG);
    let disk: Vec<_> = commit(&mut queue).records;
    // What is behind the front is on disk only.
    assert!(!queue.is_full() && queue.memory <= MEMORY_BYTES / 2 && !queue.disk.is_empty());
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
            queue.loaded(load, found, NOW);
        }
        assert!(queue.memory <= MEMORY_BYTES);
        let rule = BatchRule { packets: 100, bytes: 3 * BIG, ..AT_ONCE };
        let parcel = queue.take(NOW, |_| rule).expect("something waits");
        assert!(parcel.records.len() <= 3, "no more bytes than the rule allows");
        sent += parcel.records.len();
        queue.ack(parcel.ticket);
    }
    assert_eq!((sent, queue.memory), (MEMORY_BYTES / BIG, 0));
    balanced(&queue);
}
