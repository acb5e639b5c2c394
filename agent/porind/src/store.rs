//! The store: one redb file with the outbox, the cells' states, the names and the counts of starts.
//!
//! One transactional file means that what a cell has learnt, what it kept and the next seq are one commit, not a
//! protocol of renames. `core::outbox` decides what is written; this module writes it.
//!
//! After an I/O error redb takes nothing more, so the file is closed and opened again by the next who needs it. What a commit
//! writes may be written twice: a commit that failed may be durable all the same.

#[cfg(test)]
pub(crate) mod medium;
mod place;
mod tables;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail};
use porin_core::{
    clock::Span,
    dead::{DeadCommit, DeadLetter},
    ids::{Epoch, Seq, StreamId},
    outbox::{Load, Loaded, QueueCommit, Stored},
    packet::PacketKind,
    record::Record,
    time::Unix,
    trust::Release,
    update::{self, Marker, Row, Write},
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, WriteTransaction};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::{error, info, warn};

use self::{
    place::Place,
    tables::{CLOCK, DEAD, META, NAMES, QUEUES, RECORDS, STATES, TOTALS, UNREADABLE, UPDATE},
};

/// Pages that redb keeps in memory. The gateway has 64 MB for everything.
const CACHE_BYTES: usize = 2 << 20;

/// Unreadable records that one commit keeps aside.
const MAX_UNREADABLE: usize = 1_000;

/// SHA-256.
pub(crate) type Digest = [u8; 32];

/// Whose names: each has ids of its own.
#[derive(Clone, Copy)]
pub(crate) enum Names {
    Streams = 0,
    Routes = 1,
    StreamsWithMessages = 2,
    StreamsWithReadings = 3,
}

/// Everything that one commit makes durable, together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) queues: Vec<QueueCommit>,
    /// New names from this id on.
    pub(crate) streams: (u32, Vec<String>),
    /// Streams that are found to have packets of a kind.
    pub(crate) kinds: Vec<(PacketKind, u32, String)>,
    /// By slot: digest of the component, state.
    pub(crate) states: Vec<(String, Digest, Vec<u8>)>,
    /// Packets on which cells faulted.
    pub(crate) dead: DeadCommit,
    /// What the wall clock was worth; empty: as before.
    pub(crate) spans: Vec<Span>,
    /// What the wall clock said when it was last believed; `None`: not much later than before.
    pub(crate) time_floor: Option<Unix>,
    /// Steps of an update.
    pub(crate) update: Vec<Write>,
    /// The marker to keep beside the store once they are written.
    pub(crate) marker: Option<Marker>,
    /// The disk was full: what has left is deleted, nothing new is written.
    pub(crate) deletes_only: bool,
}

/// Whether there is room on the disk for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    None,
}

/// What the store knew at the start.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) outbox: Stored,
    /// The count of the machine's starts.
    pub(crate) boot: u32,
    pub(crate) spans: Vec<Span>,
    pub(crate) time_floor: Unix,
    /// Whether anything new may be written.
    pub(crate) room: Room,
}

type ReadMarker = Box<dyn Fn() -> io::Result<Option<Vec<u8>>> + Send + Sync>;
type KeepMarker = Box<dyn Fn(&[u8]) -> io::Result<()> + Send + Sync>;

/// The disk, as far as the store needs it after the start. A test has another one.
pub(crate) struct Disk {
    /// Opens the file again after an error.
    pub(crate) open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
    /// Sets some room aside, unless it is. `false`: there is none.
    pub(crate) keep_reserve: Box<dyn Fn() -> bool + Send + Sync>,
    /// Gives up what was set aside.
    pub(crate) use_reserve: Box<dyn Fn() + Send + Sync>,
    /// What lies beside the store for the day on which it is lost, if anything does.
    pub(crate) marker: ReadMarker,
    /// Keeps that.
    pub(crate) keep_marker: KeepMarker,
}

/// The open store.
pub(crate) struct Store {
    pub(crate) disk: Disk,
    /// `None` after an error, until the next who needs it.
    db: Mutex<Option<Arc<Database>>>,
    /// The epoch of this start.
    pub(crate) epoch: Epoch,
}

impl Store {
    /// Opens or makes the file, and counts this start durably before anything else happens. `boot_id`: names this life of the
    /// machine.
    pub(crate) fn open(path: &Path, boot_id: u64) -> anyhow::Result<(Self, Found)> {
        let (place, db) = Place::open(path, boot_id)?;
        let room = place.keep_reserve();
        if let Err(error) = &room {
            error!(%error, "the disk is full: packets that have left are deleted, and nothing new is written until there is room");
        }
        let disk: Disk = place.into();
        let room = if room.is_ok() { Room::Enough } else { Room::None };
        Self::start(disk, db, boot_id, room).with_context(|| format!("opening {}", path.display()))
    }

    /// Counts the start.
    pub(crate) fn start(disk: Disk, db: Database, boot_id: u64, room: Room) -> anyhow::Result<(Self, Found)> {
        let (db, room, (epoch, found)) = match tables::start(&db, boot_id) {
            Ok(started) => (db, room, started),
            // The start has to be counted, or names would be given twice: that much room is set aside.
            Err(error) if is_full(&error) => {
                (disk.use_reserve)();
                drop(db);
                let db = (disk.open)()?;
                let started = tables::start(&db, boot_id)?;
                (db, Room::None, started)
            }
            Err(error) => return Err(error),
        };
        Ok((Self { disk, db: Mutex::new(Some(Arc::new(db))), epoch }, Found { room, ..found }))
    }

    /// The disk is full: gives up what was set aside for this, so that what has left can be deleted.
    pub(crate) fn use_reserve(&self) {
        (self.disk.use_reserve)();
    }

    /// The file, opened again if it has to be.
    fn db(&self) -> anyhow::Result<Arc<Database>> {
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = &*db {
            return Ok(db.clone());
        }
        let opened = Arc::new((self.disk.open)().context("opening the store again")?);
        info!("the store is open again");
        Ok(db.insert(opened).clone())
    }

    /// Does something with the file; after an error it is closed.
    fn with<T>(&self, what: impl FnOnce(&Database) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let used = self.db()?;
        let outcome = what(&used);
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_err() && db.as_ref().is_some_and(|db| Arc::ptr_eq(db, &used)) {
            *db = None;
        }
        outcome
    }

    /// Names by id.
    pub(crate) fn names(&self, kind: Names) -> anyhow::Result<Vec<String>> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(NAMES)?;
            let mut names = Vec::new();
            for row in table.range((kind as u8, 0)..=(kind as u8, u32::MAX))? {
                let (key, name) = row?;
                if key.value().1 as usize != names.len() {
                    bail!("the table of names has a gap before id {}", key.value().1);
                }
                names.push(name.value().to_owned());
            }
            Ok(names)
        })
    }

    /// What streams have had.
    pub(crate) fn stream_kinds(&self) -> anyhow::Result<Vec<(StreamId, PacketKind)>> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(NAMES)?;
            let mut kinds = Vec::new();
            for (names, kind) in
                [(Names::StreamsWithMessages, PacketKind::Messages), (Names::StreamsWithReadings, PacketKind::Readings)]
            {
                for row in table.range((names as u8, 0)..=(names as u8, u32::MAX))? {
                    kinds.push((StreamId(row?.0.value().1), kind));
                }
            }
            Ok(kinds)
        })
    }

    /// What the slot's cell saved last.
    pub(crate) fn state(&self, slot: &str) -> anyhow::Result<Option<Vec<u8>>> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(STATES)?;
            let Some(value) = table.get(slot)? else { return Ok(None) };
            match value.value() {
                [1, rest @ ..] if rest.len() >= size_of::<Digest>() => Ok(Some(rest[size_of::<Digest>()..].to_vec())),
                _ => bail!("the stored state of slot `{slot}` has an unknown version"),
            }
        })
    }

    /// The dead letters that can be read, by their numbers, and the number after all that are there.
    pub(crate) fn dead_letters(&self) -> anyhow::Result<(Vec<(u64, DeadLetter)>, u64)> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(DEAD)?;
            let (mut letters, mut next) = (Vec::new(), 0);
            for row in table.iter()? {
                let (id, bytes) = row?;
                next = id.value().saturating_add(1);
                match DeadLetter::decode(bytes.value()) {
                    Ok(letter) => letters.push((id.value(), letter)),
                    // Left where it is: a later porin may know it.
                    Err(error) => error!(id = id.value(), %error, "a dead letter cannot be read"),
                }
            }
            Ok((letters, next))
        })
    }

    /// Records of the backlog, oldest first.
    pub(crate) fn load(&self, load: Load) -> anyhow::Result<Loaded> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(RECORDS)?;
            let (queue, mut loaded, mut bytes) = (load.queue.number(), Loaded::default(), 0);
            for row in table.range((queue, load.from.0)..(queue, load.to.0))?.take(load.count) {
                if bytes >= load.bytes {
                    break;
                }
                let (key, value) = row?;
                let seq = Seq(key.value().1);
                loaded.to = seq.next();
                match Record::decode(value.value()) {
                    Ok(record) => {
                        bytes += record.packet.bytes();
                        loaded.records.push((seq, record));
                    }
                    Err(error) => {
                        error!(seq = seq.0, %error, "a record of the outbox cannot be read; it is kept aside in the store");
                        loaded.unreadable += 1;
                    }
                }
            }
            Ok(loaded)
        })
    }

    /// Writes a commit and waits for the disk. The same may be written again.
    pub(crate) fn commit(&self, commit: &Commit) -> anyhow::Result<Room> {
        if !commit.deletes_only || !commit.queues.is_empty() {
            self.write(commit)?;
        }
        if let Some(marker) = &commit.marker {
            self.keep_marker(marker);
        }
        let room = !commit.deletes_only || (self.disk.keep_reserve)();
        Ok(if room { Room::Enough } else { Room::None })
    }

    /// What lies beside the store: that a desired state was taken up here once, whatever has become of the store.
    pub(crate) fn marker(&self) -> anyhow::Result<Option<Marker>> {
        let found = (self.disk.marker)().context("reading what lies beside the store")?;
        Ok(found.map(|bytes| Marker::decode(&bytes)))
    }

    /// Keeps that. What could not be kept is kept with the next step, or at the next start.
    pub(crate) fn keep_marker(&self, marker: &Marker) {
        if let Err(error) = (self.disk.keep_marker)(&marker.encode()) {
            warn!(%error, "cannot write the marker that a desired state was accepted");
        }
    }

    fn write(&self, commit: &Commit) -> anyhow::Result<()> {
        self.with(|db| {
            let transaction = begin(db)?;
            {
                let mut records = transaction.open_table(RECORDS)?;
                let mut queues = transaction.open_table(QUEUES)?;
                let mut totals = transaction.open_table(TOTALS)?;
                let mut unreadable = Vec::new();
                for queue in &commit.queues {
                    let id = queue.queue.number();
                    let left_before = queues.get(id)?.map_or(0, |bounds| bounds.value().0);
                    let (mut count, mut bytes) = totals.get(id)?.map_or((0, 0), |total| total.value());
                    if left_before < queue.acked_to.0 {
                        records.retain_in((id, left_before)..(id, queue.acked_to.0), |key, record| {
                            count = count.saturating_sub(1);
                            bytes = bytes.saturating_sub(tables::size(record));
                            if Record::decode(record).is_err() {
                                unreadable.push((key, record.to_vec()));
                            }
                            false
                        })?;
                    }
                    let mut encoded = Vec::new();
                    for (seq, record) in &queue.records {
                        encoded.clear();
                        record.encode(&mut encoded);
                        if records.insert((id, seq.0), encoded.as_slice())?.is_none() {
                            count += 1;
                            bytes += record.size();
                        }
                    }
                    queues.insert(id, (queue.acked_to.0, queue.end.0))?;
                    totals.insert(id, (count, bytes))?;
                }
                // Never deleted: somebody may want to look.
                if !unreadable.is_empty() {
                    let mut aside = transaction.open_table(UNREADABLE)?;
                    for (key, record) in unreadable.iter().take(MAX_UNREADABLE) {
                        aside.insert(key, record.as_slice())?;
                    }
                }
            }
            if !commit.streams.1.is_empty() || !commit.kinds.is_empty() {
                let mut names = transaction.open_table(NAMES)?;
                for (id, name) in (commit.streams.0..).zip(&commit.streams.1) {
                    names.insert((Names::Streams as u8, id), name.as_str())?;
                }
                for (kind, id, name) in &commit.kinds {
                    let names_of = match kind {
                        PacketKind::Messages => Names::StreamsWithMessages,
                        PacketKind::Readings => Names::StreamsWithReadings,
                    };
                    names.insert((names_of as u8, *id), name.as_str())?;
                }
            }
            if !commit.states.is_empty() {
                let mut states = transaction.open_table(STATES)?;
                for (slot, digest, state) in &commit.states {
                    states.insert(slot.as_str(), [&[1], digest.as_slice(), state].concat().as_slice())?;
                }
            }
            if !commit.dead.is_empty() {
                let mut dead = transaction.open_table(DEAD)?;
                for (id, bytes) in &commit.dead.added {
                    dead.insert(id, bytes.as_slice())?;
                }
                for range in &commit.dead.removed {
                    dead.retain_in(range.clone(), |_, _| false)?;
                }
            }
            if !commit.update.is_empty() {
                let mut rows = transaction.open_table(UPDATE)?;
                for Write { key, value } in &commit.update {
                    match value {
                        Some(value) => drop(rows.insert(key.as_str(), value.as_slice())?),
                        None => drop(rows.remove(key.as_str())?),
                    }
                }
            }
            if !commit.spans.is_empty() {
                let mut clock = transaction.open_table(CLOCK)?;
                for Span { boot, from, offset_us, trusted } in &commit.spans {
                    clock.insert((*boot, from.0), (*offset_us, u8::from(*trusted)))?;
                }
            }
            if let Some(floor) = commit.time_floor {
                transaction.open_table(META)?.insert("time_floor", floor.0)?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// What is known of updates; pieces of components without their bytes.
    pub(crate) fn update_rows(&self) -> anyhow::Result<Vec<Row>> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(UPDATE)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let key = key.value().to_owned();
                let value = if key.starts_with(update::PIECES) { Vec::new() } else { value.value().to_vec() };
                rows.push((key, value));
            }
            Ok(rows)
        })
    }

    /// The component of a release, put together from its pieces.
    pub(crate) fn component(&self, release: &Release) -> anyhow::Result<Vec<u8>> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(UPDATE)?;
            let mut bytes = Vec::new();
            for piece in (0..).take(release.pieces.len()) {
                let row = table.get(update::piece_key(release.sha256, piece).as_str())?;
                let piece = row.as_ref().and_then(|row| update::content(row.value())).context("a piece is missing")?;
                bytes.extend_from_slice(piece);
            }
            Ok(bytes)
        })
    }

    /// The seed of the gateway's own key; drawn once.
    pub(crate) fn key_seed(&self) -> anyhow::Result<[u8; 32]> {
        const KEY: &str = "key";
        self.with(|db| {
            let known = db.begin_read()?.open_table(UPDATE)?.get(KEY)?.map(|row| row.value().to_vec());
            if let Some(known) = known {
                let seed = update::content(&known).and_then(|seed| seed.try_into().ok());
                return seed.context("the gateway's key has an unknown version");
            }
            let mut seed = [0; 32];
            SystemRandom::new().fill(&mut seed).ok().context("the system has no random numbers")?;
            let transaction = begin(db)?;
            transaction.open_table(UPDATE)?.insert(KEY, [&[1][..], &seed].concat().as_slice())?;
            transaction.commit()?;
            Ok(seed)
        })
    }

    /// Makes a route's name durable and gives its id. At the start only.
    pub(crate) fn intern_route(&self, name: &str) -> anyhow::Result<u32> {
        let known = self.names(Names::Routes)?;
        if let Some(id) = known.iter().position(|known| known == name) {
            return Ok(u32::try_from(id)?);
        }
        let id = u32::try_from(known.len())?;
        self.with(|db| {
            let transaction = begin(db)?;
            transaction.open_table(NAMES)?.insert((Names::Routes as u8, id), name)?;
            transaction.commit()?;
            Ok(id)
        })
    }
}

/// How every file is opened.
fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A transaction that leaves the file such that after a power cut nobody has to walk through all of it, for a little more to
/// write; and that a failed sync cannot spoil.
fn begin(db: &Database) -> anyhow::Result<WriteTransaction> {
    let mut transaction = db.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Whether an error means that the disk is full.
pub(crate) fn is_full(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let storage = |error: &redb::StorageError| matches!(error, redb::StorageError::Io(error) if kind(error));
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(kind)
            || cause.downcast_ref::<redb::StorageError>().is_some_and(storage)
            || matches!(cause.downcast_ref(), Some(redb::CommitError::Storage(error)) if storage(error))
            || matches!(cause.downcast_ref(), Some(redb::TableError::Storage(error)) if storage(error))
            || matches!(cause.downcast_ref(), Some(DatabaseError::Storage(error)) if storage(error))
    })
}

#[cfg(test)]
#[allow(clippy::panic)] // a test says so
mod tests;
