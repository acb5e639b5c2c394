//! A card for tests: it loses the power where it is told to, and then holds what a real one might.
//!
//! What was synced is there. Of what was written since, each sector may be there or not, whatever the order of writing; the
//! write in which the power went may be torn within a sector. It can also be full, broken or slow.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use redb::{Database, DatabaseError, StorageBackend};

use super::Disk;

/// Drives write whole sectors, if they have the power.
const SECTOR: usize = 512;

/// File systems give out room in blocks.
const BLOCK: usize = 4_096;

/// Blocks of the reserve: 1 MiB, as on a real disk.
const RESERVE: usize = 256;

/// A card. Clones are the same card.
#[derive(Clone, Debug)]
pub(crate) struct Medium(Arc<Mutex<Card>>);

#[derive(Debug)]
struct Card {
    /// As it is after the last sync.
    synced: Vec<u8>,
    /// As whoever uses it sees it.
    seen: Vec<u8>,
    /// Since the last sync.
    unsynced: Vec<Change>,
    /// Writes, syncs and changes of length so far.
    operations: u64,
    trouble: Trouble,
    /// Whether a sync does something. On a drive that only says so nothing is safe.
    honest: bool,
    /// Blocks that there is room for, and those of the reserve. A block takes room once it was written to.
    room: usize,
    reserve: usize,
    blocks: BTreeSet<usize>,
    random: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What goes wrong, counted in operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The power goes in this operation; everything after it fails.
    PowerCut {
        at: u64,
    },
    /// The power has gone.
    Dark,
    /// Operations fail for a while.
    Errors {
        from: u64,
        to: u64,
    },
    /// Each sync takes so long.
    SlowSync(Duration),
}

impl Medium {
    pub(crate) fn new() -> Self {
        Self::holding(Vec::new(), 1)
    }

    fn holding(bytes: Vec<u8>, random: u64) -> Self {
        Self(Arc::new(Mutex::new(Card {
            synced: bytes.clone(),
            seen: bytes,
            unsynced: Vec::new(),
            operations: 0,
            trouble: Trouble::None,
            honest: true,
            room: usize::MAX,
            reserve: 0,
            blocks: BTreeSet::new(),
            random,
        })))
    }

    fn card(&self) -> MutexGuard<'_, Card> {
        self.0.lock().expect("no test panics with it")
    }

    pub(crate) fn meets(&self, trouble: Trouble) {
        self.card().trouble = trouble;
    }

    pub(crate) fn lies_about_syncs(&self) {
        self.card().honest = false;
    }

    /// From now on it has room for so many blocks of 4 KiB.
    pub(crate) fn has_room_for(&self, blocks: usize) {
        self.card().room = blocks;
    }

    /// Blocks that are in use.
    pub(crate) fn blocks(&self) -> usize {
        let card = self.card();
        card.blocks.len() + card.reserve
    }

    pub(crate) fn open(&self) -> Result<Database, DatabaseError> {
        redb::Builder::new().create_with_backend(self.clone())
    }

    pub(crate) fn disk(&self) -> Disk {
        let (again, keeper, user) = (self.clone(), self.clone(), self.clone());
        Disk {
            open: Box::new(move || again.open()),
            keep_reserve: Box::new(move || {
                let mut card = keeper.card();
                let room = card.blocks.len() + RESERVE <= card.room;
                card.reserve = if room { RESERVE } else { 0 };
                room
            }),
            use_reserve: Box::new(move || user.card().reserve = 0),
            // Not part of the trial: see `store::place`.
            marker: Box::new(|| Ok(None)),
            keep_marker: Box::new(|_| Ok(())),
        }
    }

    /// Writes, syncs and changes of length since the last call.
    pub(crate) fn operations(&self) -> u64 {
        std::mem::take(&mut self.card().operations)
    }

    pub(crate) fn is_dark(&self) -> bool {
        self.card().trouble == Trouble::Dark
    }

    /// What is found when the power is back. `seed`: which of the unsynced sectors made it.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let mut card = self.card();
        card.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = card.synced.clone();
        for change in std::mem::take(&mut card.unsynced) {
            match change {
                Change::Length(length) if card.coin() => bytes.resize(length, 0),
                Change::Length(_) => {}
                Change::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        let at = offset + index * SECTOR;
                        if card.coin() && at + sector.len() <= bytes.len() {
                            bytes[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        Self::holding(bytes, seed | 1)
    }
}

impl Card {
    /// xorshift64: any will do.
    fn coin(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 40 & 1 == 1
    }

    /// Counts an operation. `Ok(true)`: the power goes in the middle of it.
    fn begin(&mut self) -> io::Result<bool> {
        let operation = self.operations;
        self.operations += 1;
        match self.trouble {
            Trouble::Dark => Err(io::Error::other("the power is off")),
            Trouble::PowerCut { at } if operation >= at => {
                self.trouble = Trouble::Dark;
                Ok(true)
            }
            Trouble::Errors { from, to } if (from..to).contains(&operation) => {
                Err(io::Error::other("the card does not answer"))
            }
            Trouble::None | Trouble::PowerCut { .. } | Trouble::Errors { .. } | Trouble::SlowSync(_) => Ok(false),
        }
    }

    fn dark() -> io::Error {
        io::Error::other("the power has gone")
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        Ok(self.card().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let card = self.card();
        let start = usize::try_from(offset).expect("a test's file is small");
        let found = card.seen.get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut card = self.card();
        let cut = card.begin()?;
        let length = usize::try_from(length).expect("a test's file is small");
        card.unsynced.push(Change::Length(length));
        card.seen.resize(length, 0);
        if cut { Err(Card::dark()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut card = self.card();
        if card.begin()? {
            return Err(Card::dark());
        }
        if let Trouble::SlowSync(time) = card.trouble {
            drop(card);
            thread::sleep(time);
            card = self.card();
        }
        if card.honest {
            card.unsynced.clear();
            card.synced = card.seen.clone();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut card = self.card();
        let cut = card.begin()?;
        let start = usize::try_from(offset).expect("a test's file is small");
        // Torn: the beginning of it, to any byte.
        let data = if cut { &data[..data.len() * usize::from(card.coin()) / 3] } else { data };
        let end = start + data.len();
        if end > card.seen.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let new: Vec<_> = (start / BLOCK..end.div_ceil(BLOCK)).filter(|block| !card.blocks.contains(block)).collect();
        if card.blocks.len() + card.reserve + new.len() > card.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        card.blocks.extend(new);
        card.seen[start..end].copy_from_slice(data);
        card.unsynced.push(Change::Write(start, data.to_vec()));
        if cut { Err(Card::dark()) } else { Ok(()) }
    }
}
