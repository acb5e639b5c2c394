//! The tables of the file, and what happens to them when an agent starts.

use anyhow::{Context, bail};
use porin_core::{
    clock::{MAX_SPANS, Span},
    ids::{Epoch, QueueId, Seq},
    outbox::{Start, Stored, StoredQueue},
    record::Record,
    time::{Monotonic, Unix},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Found, Room, begin};

/// Version of the tables below. A file of a newer version is left alone; one of an older version is brought up to it.
const VERSION: u64 = 2;

/// `version`, `store` (random id), `starts`, `boot` (count of the machine's starts), `boot_id` (its name), `time_floor`.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (queue, seq) → record.
pub(super) const RECORDS: TableDefinition<'_, (u16, u64), &[u8]> = TableDefinition::new("records");
/// (queue, seq) → bytes that were found among the records and are none. Made when there are some.
pub(super) const UNREADABLE: TableDefinition<'_, (u16, u64), &[u8]> = TableDefinition::new("unreadable");
/// queue → (everything before has left, after the last record).
pub(super) const QUEUES: TableDefinition<'_, u16, (u64, u64)> = TableDefinition::new("queues");
/// queue → (records, their sizes together). Since version 2.
pub(super) const TOTALS: TableDefinition<'_, u16, (u64, u64)> = TableDefinition::new("totals");
/// Version 1: (queue, seq) → the start of the agent that gave out seqs from there on.
const STARTS_1: TableDefinition<'_, (u16, u64), u32> = TableDefinition::new("starts");
/// seq → (the start of the agent, the start of the machine) that gave out seqs from there on. Since version 2.
const STARTS: TableDefinition<'_, u64, (u32, u32)> = TableDefinition::new("starts-2");
/// (start of the machine, µs since then) → (wall clock less the clock that never steps, whether it was believed).
pub(super) const CLOCK: TableDefinition<'_, (u32, u64), (i64, u8)> = TableDefinition::new("clock");
/// (kind, id) → name. Kinds 2 and 3 repeat the names of the streams that have had messages and readings.
pub(super) const NAMES: TableDefinition<'_, (u8, u32), &str> = TableDefinition::new("names");
/// slot → version byte, SHA-256 of the component that saved it (32 bytes), state.
pub(super) const STATES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("states");

/// number → a dead letter. Came later than version 2; whoever does not know it leaves it alone.
pub(super) const DEAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("dead");

/// key → a row of `core::update`; `key`: the seed of the gateway's own key. Came later than version 2, too.
pub(super) const UPDATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("update");

/// Reads who the store is, or draws who it will be, and counts the start: from here on seqs belong to it.
pub(super) fn start(db: &Database, boot_id: u64) -> anyhow::Result<(Epoch, Found)> {
    match version(db)? {
        Some(version) if version > VERSION => bail!("it has version {version}, this porin knows up to {VERSION}"),
        _ => {}
    }
    let transaction = begin(db)?;
    let (epoch, boot, time_floor) = count(&transaction, boot_id)?;
    let mut queues = Vec::new();
    {
        let bounds = transaction.open_table(QUEUES)?;
        let totals = transaction.open_table(TOTALS)?;
        for row in bounds.iter()? {
            let (number, bounds) = row?;
            let Some(id) = QueueId::of_number(number.value()) else { bail!("there is a queue {}", number.value()) };
            let (acked_to, end) = (Seq(bounds.value().0), Seq(bounds.value().1));
            let (records, bytes) = totals.get(number.value())?.map_or((0, 0), |total| total.value());
            queues.push(StoredQueue { id, acked_to, end, records, bytes });
        }
    }
    let starts = starts(&transaction, &queues, epoch.starts, boot)?;
    let spans = spans(&transaction, &starts)?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(STATES)?;
    transaction.open_table(DEAD)?;
    transaction.open_table(UPDATE)?;
    transaction.commit()?;
    Ok((epoch, Found { outbox: Stored { queues, starts }, boot, spans, time_floor, room: Room::Enough }))
}

/// Read before anything is written; `None`: the file is new.
fn version(db: &Database) -> anyhow::Result<Option<u64>> {
    match db.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get("version")?.map(|version| version.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn count(transaction: &WriteTransaction, boot_id: u64) -> anyhow::Result<(Epoch, u32, Unix)> {
    let mut meta = transaction.open_table(META)?;
    let version = meta.get("version")?.map(|version| version.value());
    if version == Some(1) {
        from_version_1(transaction)?;
    }
    let store = match meta.get("store")?.map(|store| store.value()) {
        Some(store) => store,
        None => {
            let mut random = [0; 8];
            SystemRandom::new().fill(&mut random).ok().context("the system has no random numbers")?;
            u64::from_le_bytes(random)
        }
    };
    let number = |key| -> anyhow::Result<u64> { Ok(meta.get(key)?.map_or(0, |value| value.value())) };
    let same_boot = meta.get("boot_id")?.is_some_and(|known| known.value() == boot_id);
    let (starts, boot, floor) = (number("starts")? + 1, number("boot")? + u64::from(!same_boot), number("time_floor")?);
    meta.insert("version", VERSION)?;
    meta.insert("store", store)?;
    meta.insert("starts", starts)?;
    meta.insert("boot", boot)?;
    meta.insert("boot_id", boot_id)?;
    Ok((Epoch { store, starts: u32::try_from(starts)? }, u32::try_from(boot)?, Unix(floor)))
}

/// One queue, no sizes, nothing known of clocks.
fn from_version_1(transaction: &WriteTransaction) -> anyhow::Result<()> {
    let (mut count, mut bytes) = (0, 0);
    for row in transaction.open_table(RECORDS)?.iter()? {
        count += 1;
        bytes += size(row?.1.value());
    }
    if count > 0 {
        transaction.open_table(TOTALS)?.insert(QueueId::NORMAL.number(), (count, bytes))?;
    }
    let mut starts = transaction.open_table(STARTS)?;
    for row in transaction.open_table(STARTS_1)?.iter()? {
        let (key, start) = row?;
        starts.insert(key.value().1, (start.value(), 0))?;
    }
    transaction.delete_table(STARTS_1)?;
    Ok(())
}

/// Notes this start, and forgets those whose last record has left.
fn starts(transaction: &WriteTransaction, queues: &[StoredQueue], start: u32, boot: u32) -> anyhow::Result<Vec<Start>> {
    let next = queues.iter().map(|queue| queue.end.0).max().unwrap_or(0);
    let oldest = queues.iter().filter(|queue| queue.records > 0).map(|queue| queue.acked_to).min();
    let oldest = oldest.unwrap_or(Seq(next));
    let mut table = transaction.open_table(STARTS)?;
    table.insert(next, (start, boot))?;
    let mut starts = Vec::new();
    for row in table.iter()? {
        let (from, value) = row?;
        let (start, boot) = value.value();
        starts.push(Start { from: Seq(from.value()), start, boot });
    }
    let needed = starts.iter().rposition(|start| start.from <= oldest).unwrap_or(0);
    for start in starts.drain(..needed) {
        table.remove(start.from.0)?;
    }
    Ok(starts)
}

/// What the clock was worth in the lives of the machine whose records still wait, and in this one.
fn spans(transaction: &WriteTransaction, starts: &[Start]) -> anyhow::Result<Vec<Span>> {
    let mut table = transaction.open_table(CLOCK)?;
    let first = starts.first().map_or(0, |start| start.boot);
    table.retain_in(..(first, 0), |_, _| false)?;
    let mut spans = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let ((boot, from), (offset_us, trusted)) = (key.value(), value.value());
        spans.push(Span { boot, from: Monotonic(from), offset_us, trusted: trusted == 1 });
    }
    for Span { boot, from, .. } in spans.drain(..spans.len().saturating_sub(MAX_SPANS)) {
        table.remove((boot, from.0))?;
    }
    Ok(spans)
}

/// What a record counts for; one that cannot be read is what it is long.
pub(super) fn size(bytes: &[u8]) -> u64 {
    Record::decode(bytes).map_or(bytes.len() as u64, |record| record.size())
}
