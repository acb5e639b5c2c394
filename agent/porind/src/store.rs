//! The store: one redb file with the outbox, the cells' states, the names and the counts of starts.
//!
//! One transactional file means that what a cell has learnt, what it kept and the next seq are one commit, not a
//! protocol of renames. `core::outbox` decides what is written; this module writes it.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use porin_core::{
    ids::{Epoch, QueueId, Seq, StreamId},
    outbox::{Load, QueueCommit, Stored},
    packet::Kind,
    record::Record,
};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, TableDefinition,
};
use ring::rand::{SecureRandom, SystemRandom};
use tracing::error;

/// Version of the tables below. A file of a newer version is left alone.
const VERSION: u64 = 1;

/// Pages that redb keeps in memory. The gateway has 64 MB for everything.
const CACHE_BYTES: usize = 2 << 20;

/// `version`, `store` (random id), `starts`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (queue, seq) → record.
const RECORDS: TableDefinition<'_, (u16, u64), &[u8]> = TableDefinition::new("records");
/// queue → (everything before has left, next to be given out).
const QUEUES: TableDefinition<'_, u16, (u64, u64)> = TableDefinition::new("queues");
/// (queue, seq) → the start of the agent that gave out seqs from there on.
const STARTS: TableDefinition<'_, (u16, u64), u32> = TableDefinition::new("starts");
/// (kind, id) → name. Kinds 2 and 3 repeat the names of the streams that have had messages and readings.
const NAMES: TableDefinition<'_, (u8, u32), &str> = TableDefinition::new("names");
/// slot → version byte, SHA-256 of the component that saved it (32 bytes), state.
const STATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("states");

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
    pub(crate) queue: Option<QueueCommit>,
    /// New names from this id on.
    pub(crate) streams: (u32, Vec<String>),
    /// Streams that are found to have packets of a kind.
    pub(crate) kinds: Vec<(Kind, u32, String)>,
    /// By slot: digest of the component, state.
    pub(crate) states: Vec<(String, Digest, Vec<u8>)>,
}

/// The open store.
pub(crate) struct Store {
    db: Database,
    /// The epoch of this start.
    pub(crate) epoch: Epoch,
}

impl Store {
    /// Opens or makes the file, and counts this start durably before anything else happens.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let db = match open_or_create(path) {
            Ok(db) => db,
            Err(DatabaseError::Storage(StorageError::Corrupted(reason))) => {
                // Never deleted: somebody may want to look at it.
                let aside = path.with_extension("redb.corrupt");
                fs::rename(path, &aside).with_context(|| format!("moving {} aside", path.display()))?;
                error!(path = %path.display(), aside = %aside.display(), reason, "the store is corrupt; it was moved aside and a new one is made");
                open_or_create(path).with_context(|| format!("making {}", path.display()))?
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!("{}: another agent has it open", path.display()),
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        let epoch = count_start(&db).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { db, epoch })
    }

    /// Names by id.
    pub(crate) fn names(&self, kind: Names) -> anyhow::Result<Vec<String>> {
        let table = self.db.begin_read()?.open_table(NAMES)?;
        let mut names = Vec::new();
        for row in table.range((kind as u8, 0)..=(kind as u8, u32::MAX))? {
            let (key, name) = row?;
            if key.value().1 as usize != names.len() {
                bail!("the table of names has a gap before id {}", key.value().1);
            }
            names.push(name.value().to_owned());
        }
        Ok(names)
    }

    /// What streams have had.
    pub(crate) fn stream_kinds(&self) -> anyhow::Result<Vec<(StreamId, Kind)>> {
        let table = self.db.begin_read()?.open_table(NAMES)?;
        let mut kinds = Vec::new();
        for (names, kind) in
            [(Names::StreamsWithMessages, Kind::Messages), (Names::StreamsWithReadings, Kind::Readings)]
        {
            for row in table.range((names as u8, 0)..=(names as u8, u32::MAX))? {
                kinds.push((StreamId(row?.0.value().1), kind));
            }
        }
        Ok(kinds)
    }

    /// What the slot's cell saved last.
    pub(crate) fn state(&self, slot: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let table = self.db.begin_read()?.open_table(STATES)?;
        let Some(value) = table.get(slot)? else { return Ok(None) };
        match value.value() {
            [1, rest @ ..] if rest.len() >= size_of::<Digest>() => Ok(Some(rest[size_of::<Digest>()..].to_vec())),
            _ => bail!("the stored state of slot `{slot}` has an unknown version"),
        }
    }

    /// The queue as it is; from here on its seqs belong to this start.
    pub(crate) fn queue(&self, queue: QueueId) -> anyhow::Result<Stored> {
        let transaction = self.db.begin_write()?;
        let stored = {
            let bounds = transaction.open_table(QUEUES)?.get(queue.0)?.map_or((0, 0), |bounds| bounds.value());
            let (acked_to, next) = (Seq(bounds.0), Seq(bounds.1));
            // One queue has the whole table; more will count their ranges.
            let records = usize::try_from(transaction.open_table(RECORDS)?.len()?).unwrap_or(usize::MAX);
            let mut table = transaction.open_table(STARTS)?;
            table.insert((queue.0, next.0), self.epoch.starts)?;
            let mut starts = Vec::new();
            for row in table.range((queue.0, 0)..=(queue.0, u64::MAX))? {
                let (key, start) = row?;
                starts.push((Seq(key.value().1), start.value()));
            }
            // A start whose last record has left is of no use any more.
            let needed = starts.iter().rposition(|(from, _)| *from <= acked_to).unwrap_or(0);
            for (from, _) in starts.drain(..needed) {
                table.remove((queue.0, from.0))?;
            }
            Stored { acked_to, next, records, starts }
        };
        transaction.commit()?;
        Ok(stored)
    }

    /// Records of the backlog, oldest first.
    pub(crate) fn load(&self, queue: QueueId, load: Load) -> anyhow::Result<Vec<(Seq, Record)>> {
        let table = self.db.begin_read()?.open_table(RECORDS)?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        for row in table.range((queue.0, load.from.0)..(queue.0, load.to.0))?.take(load.count) {
            if bytes >= load.bytes {
                break;
            }
            let (key, value) = row?;
            let seq = Seq(key.value().1);
            let record = Record::decode(value.value()).with_context(|| format!("record {} of the outbox", seq.0))?;
            bytes += record.packet.bytes();
            records.push((seq, record));
        }
        Ok(records)
    }

    /// Writes a commit and waits for the disk.
    pub(crate) fn commit(&self, commit: &Commit) -> anyhow::Result<()> {
        let mut transaction = self.db.begin_write()?;
        // A little more to write, and no walk through the whole file after a power cut.
        transaction.set_quick_repair(true);
        if let Some(queue) = &commit.queue {
            let id = QueueId::UPLINK.0;
            let mut records = transaction.open_table(RECORDS)?;
            let mut queues = transaction.open_table(QUEUES)?;
            let left_before = queues.get(id)?.map_or(0, |bounds| bounds.value().0);
            if left_before < queue.acked_to.0 {
                records.retain_in((id, left_before)..(id, queue.acked_to.0), |_, _| false)?;
            }
            let mut bytes = Vec::new();
            for (seq, record) in &queue.records {
                bytes.clear();
                record.encode(&mut bytes);
                records.insert((id, seq.0), bytes.as_slice())?;
            }
            queues.insert(id, (queue.acked_to.0, queue.next.0))?;
        }
        {
            let mut names = transaction.open_table(NAMES)?;
            for (id, name) in (commit.streams.0..).zip(&commit.streams.1) {
                names.insert((Names::Streams as u8, id), name.as_str())?;
            }
            for (kind, id, name) in &commit.kinds {
                let names_of = match kind {
                    Kind::Messages => Names::StreamsWithMessages,
                    Kind::Readings => Names::StreamsWithReadings,
                };
                names.insert((names_of as u8, *id), name.as_str())?;
            }
            let mut states = transaction.open_table(STATES)?;
            for (slot, digest, state) in &commit.states {
                states.insert(slot.as_str(), [&[1], digest.as_slice(), state].concat().as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes a route's name durable and gives its id. At the start only.
    pub(crate) fn intern_route(&self, name: &str) -> anyhow::Result<u32> {
        let known = self.names(Names::Routes)?;
        if let Some(id) = known.iter().position(|known| known == name) {
            return Ok(u32::try_from(id)?);
        }
        let id = u32::try_from(known.len())?;
        let transaction = self.db.begin_write()?;
        transaction.open_table(NAMES)?.insert((Names::Routes as u8, id), name)?;
        transaction.commit()?;
        Ok(id)
    }
}

fn open_or_create(path: &Path) -> Result<Database, DatabaseError> {
    redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)
}

/// Reads who the store is, or draws who it will be, and counts the start.
fn count_start(db: &Database) -> anyhow::Result<Epoch> {
    let transaction = db.begin_write()?;
    let epoch = {
        let mut meta = transaction.open_table(META)?;
        let version = meta.get("version")?.map(|version| version.value());
        if version.is_some_and(|version| version > VERSION) {
            bail!("it has version {}, this porin knows up to {VERSION}", version.unwrap_or_default());
        }
        let store = match meta.get("store")?.map(|store| store.value()) {
            Some(store) => store,
            None => {
                let mut random = [0; 8];
                SystemRandom::new().fill(&mut random).ok().context("the system has no random numbers")?;
                u64::from_le_bytes(random)
            }
        };
        let starts = meta.get("starts")?.map_or(0, |starts| starts.value()) + 1;
        meta.insert("version", VERSION)?;
        meta.insert("store", store)?;
        meta.insert("starts", starts)?;
        Epoch { store, starts: u32::try_from(starts)? }
    };
    transaction.open_table(RECORDS)?;
    transaction.open_table(QUEUES)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(STATES)?;
    transaction.commit()?;
    Ok(epoch)
}
