//! Files as they are found: of an earlier version, of a later one, damaged, with another's lock on it.

use std::{fs, io::Read};

use porin_core::{
    ids::QueueId,
    outbox::{Bounds, Outbox, Publish, Rule, Start},
    packet::{Packet, Quality, Reading},
    time::Monotonic,
};
use porin_test_support::top;
use redb::ReadableTableMetadata;
use tempfile::TempDir;

use super::*;

const BOUNDS: Bounds = Bounds { bytes: u64::MAX, backlog_rate: None };

fn reading(value: f64) -> Record {
    let packet = Packet::Reading(Reading { value, ..Reading::default() });
    Record { route: porin_core::ids::RouteId(0), packet, at: Monotonic(0) }
}

/// Appends to the outbox as found and commits.
fn append(store: &Store, found: Found, values: &[f64]) {
    let mut outbox = Outbox::new(found.outbox, BOUNDS);
    values.iter().for_each(|value| outbox.append(QueueId::NORMAL, reading(*value)));
    store.commit(&Commit { queues: outbox.commit(), ..Commit::default() }).expect("there is room");
}

fn values(store: &Store, found: Found) -> Vec<f64> {
    let outbox = Outbox::new(found.outbox, BOUNDS);
    let records = outbox.wants().map_or_else(Vec::new, |load| store.load(load).expect("it can be read").records);
    let value = |(_, record): (Seq, Record)| match record.packet {
        Packet::Reading(Reading { value, quality, .. }) if quality == Quality::GOOD => value,
        other @ (Packet::Reading(_) | Packet::Message(_)) => panic!("{other:?}"),
    };
    records.into_iter().map(value).collect()
}

#[test]
fn a_file_of_version_1_is_brought_up_to_date_and_keeps_everything() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    let packed = fs::read(top().join("docs/fixtures/store/store-v1.redb.gz")).expect("the fixture");
    let mut file = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut file).expect("it is gzip");
    fs::write(&path, file).expect("written");
    for start in 3..5 {
        let (store, found) = Store::open(&path, 7).expect("it opens");
        assert_eq!(store.epoch.starts, start);
        let first = found.outbox.starts[0];
        assert_eq!(first, Start { from: Seq(0), start: 1, boot: 0 });
        let queue = found.outbox.queues[0];
        assert_eq!((queue.records, queue.bytes, queue.end), (10, 640, Seq(10)));
        assert_eq!(store.names(Names::Streams).expect("names"), ["f/a", "f/b"]);
        assert!(store.state("q").expect("states").is_some());
        assert_eq!(values(&store, found), [1.5, 2.5, 3.5, 4.5, 5.5, 1.5, 2.5, 3.5, 4.5, 5.5]);
    }
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    let (store, _) = Store::open(&path, 7).expect("it is made");
    store
        .with(|db| {
            let transaction = begin(db)?;
            transaction.open_table(META)?.insert("version", 99)?;
            Ok(transaction.commit()?)
        })
        .expect("written");
    drop(store);
    let Err(error) = Store::open(&path, 7) else { panic!("refused") };
    assert!(format!("{error:#}").contains("it has version 99, this porin knows up to 2"), "{error:#}");
    let Err(again) = Store::open(&path, 7) else { panic!("refused") };
    assert!(format!("{again:#}").contains("version 99"), "{again:#}");
    assert!(!path.with_extension("redb.corrupt-1").exists(), "nothing was moved aside");
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    let letter = "something of the owner's ".repeat(1_000);
    fs::write(&path, &letter).expect("written");
    let Err(error) = Store::open(&path, 7) else { panic!("refused") };
    assert!(format!("{error:#}").contains("Not a redb database"), "{error:#}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), letter);
}

#[test]
fn a_corrupt_file_is_moved_aside_and_none_is_ever_overwritten() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    for round in 1..=3 {
        let (store, found) = Store::open(&path, 7).expect("a new one is made");
        assert_eq!((store.epoch.starts, found.outbox.queues.len()), (1, 0));
        append(&store, found, &[f64::from(round)]);
        drop(store);
        // Both headers of commits, but for the version that they begin with.
        let mut file = fs::read(&path).expect("it is there");
        file[65..192].fill(round);
        file[193..320].fill(round);
        fs::write(&path, &file).expect("written");
    }
    let (store, _) = Store::open(&path, 7).expect("a new one is made");
    assert_eq!(store.epoch.starts, 1);
    for earlier in 1..=3 {
        let aside = fs::read(path.with_extension(format!("redb.corrupt-{earlier}"))).expect("it is kept");
        assert_eq!(aside[65], earlier);
    }
}

#[test]
fn a_record_that_cannot_be_read_is_kept_aside_and_the_others_are_given() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    let (store, found) = Store::open(&path, 7).expect("it is made");
    append(&store, found, &[1.0, 2.0, 3.0]);
    let spoil = |db: &Database| {
        let transaction = begin(db)?;
        transaction.open_table(RECORDS)?.insert((1, 1), [99, 1, 2].as_slice())?;
        Ok(transaction.commit()?)
    };
    store.with(spoil).expect("written");
    drop(store);
    let (store, found) = Store::open(&path, 7).expect("it opens");
    let mut outbox = Outbox::new(found.outbox, BOUNDS);
    let load = outbox.wants().expect("a backlog");
    let loaded = store.load(load).expect("the file is well");
    assert_eq!((loaded.records.len(), loaded.unreadable, loaded.to), (2, 1, Seq(3)));
    outbox.loaded(load, loaded);
    let rule = |_| Rule {
        packets: 10,
        bytes: usize::MAX,
        wait_us: 0,
        publish: Publish::AtOnce,
        by_stream: false,
        expire_us: u64::MAX,
    };
    let parcel = outbox.take(Monotonic(0), rule).expect("two");
    outbox.ack(parcel.ticket);
    store.commit(&Commit { queues: outbox.commit(), ..Commit::default() }).expect("there is room");
    let left = |db: &Database| {
        let read = db.begin_read()?;
        let aside = read.open_table(UNREADABLE)?.get((1, 1))?.map(|bytes| bytes.value().to_vec());
        Ok((read.open_table(RECORDS)?.is_empty()?, aside))
    };
    assert_eq!(store.with(left).expect("it can be read"), (true, Some(vec![99, 1, 2])));
}

#[test]
fn lives_of_agent_and_machine_are_counted_apart() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("porin.redb");
    let mut lives = Vec::new();
    for boot_id in [5, 5, 6, 5] {
        let (store, found) = Store::open(&path, boot_id).expect("it opens");
        lives.push((store.epoch.starts, found.boot));
        append(&store, found, &[1.0]);
    }
    assert_eq!(lives, [(1, 1), (2, 1), (3, 2), (4, 3)]);
    let (store, found) = Store::open(&path, 5).expect("it opens");
    let starts: Vec<_> = found.outbox.starts.iter().map(|start| (start.from.0, start.start, start.boot)).collect();
    assert_eq!(starts, [(0, 1, 1), (1, 2, 1), (2, 3, 2), (3, 4, 3), (4, 5, 3)]);
    assert_eq!(values(&store, found).len(), 4);
}
