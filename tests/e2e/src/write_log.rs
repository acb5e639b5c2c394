//! What a card has after a power cut, from a record of its writes.
//!
//! The record is the format of Linux' dm-log-writes, version 1, as QEMU's `blklogwrites` makes it: a first sector with
//! magic, version, number of entries and sector size, all little-endian; then each entry as a sector with its place, length and
//! flags, followed by its data.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use crate::Random;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// What became of the writes that had not been flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes that had been flushed.
    pub kept: usize,
    /// Unflushed ones that got there all the same.
    pub lucky: usize,
    /// Of which only the beginning got there.
    pub torn: usize,
    /// Of which nothing did.
    pub dropped: usize,
}

struct Entry<'a> {
    at: u64,
    flags: u64,
    data: &'a [u8],
}

/// How many writes and flushes are recorded.
///
/// # Panics
/// If the record is none.
#[must_use]
pub fn recorded(log: &Path) -> usize {
    entries(&fs::read(log).expect("the record is there")).len()
}

/// Applies a record of writes to the card as it was before them. What was flushed is there; each later write is there, is
/// torn between two sectors, or is not there, as the random numbers say.
///
/// # Panics
/// If the record is none.
pub fn rebuild(card: &Path, log: &Path, random: &mut Random) -> Lost {
    rebuild_at(card, log, usize::MAX, random)
}

/// The same as if the power had been cut after so many writes and flushes.
///
/// # Panics
/// If the record is none.
pub fn rebuild_at(card: &Path, log: &Path, cut: usize, random: &mut Random) -> Lost {
    let bytes = fs::read(log).expect("the record is there");
    let mut entries = entries(&bytes);
    entries.truncate(cut);
    // A flush makes durable what came before it; a write with FUA also itself.
    let durable = entries.iter().rposition(|entry| entry.flags & (FLUSH | FUA) != 0).map_or(0, |last| last + 1);
    let mut file = OpenOptions::new().write(true).open(card).expect("the card is there");
    let mut lost = Lost { kept: durable, ..Lost::default() };
    for (number, Entry { at, data, .. }) in entries.iter().enumerate() {
        let sectors = u64::try_from(data.len() / 512).expect("it fits");
        let there = match random.below(3) {
            _ if number < durable => sectors,
            0 => {
                lost.lucky += 1;
                sectors
            }
            1 if sectors > 1 => {
                lost.torn += 1;
                1 + random.below(sectors - 1)
            }
            _ => {
                lost.dropped += 1;
                0
            }
        };
        let there = usize::try_from(there).expect("it fits") * 512;
        file.seek(SeekFrom::Start(*at)).and_then(|_| file.write_all(&data[..there])).expect("it can be written");
    }
    lost
}

fn entries(bytes: &[u8]) -> Vec<Entry<'_>> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
    assert_eq!((number(0), number(8)), (Some(MAGIC), Some(1)), "no record of writes");
    let sector = usize::try_from(number(24).expect("checked") & 0xffff_ffff).expect("it fits");
    let mut entries = Vec::new();
    let mut at = sector;
    // Killed in the middle of a write, QEMU may have left less than it began.
    while let (Some(place), Some(sectors), Some(flags)) = (number(at), number(at + 8), number(at + 16)) {
        let length = if flags & DISCARD != 0 { 0 } else { usize::try_from(sectors).expect("it fits") * sector };
        let Some(data) = bytes.get(at + sector..at + sector + length) else { break };
        if sectors == 0 && flags == 0 {
            break;
        }
        entries.push(Entry { at: place * u64::try_from(sector).expect("it fits"), flags, data });
        at += sector + length;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, u8)]) -> Vec<u8> {
        let sector = |numbers: [u64; 4]| {
            let mut sector = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
            sector.resize(512, 0);
            sector
        };
        let mut bytes = sector([MAGIC, 1, entries.len() as u64, 512]);
        for &(place, flags, fill) in entries {
            let sectors = if fill == 0 { 0 } else { 4 };
            bytes.extend(sector([place, sectors, flags, 0]));
            bytes.extend(vec![fill; usize::try_from(sectors).expect("small") * 512]);
        }
        bytes
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_may_not_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let (card, record) = (folder.path().join("card"), folder.path().join("log"));
        fs::write(&record, log(&[(0, 0, 1), (0, FLUSH, 0), (4, 0, 2), (8, 0, 3), (12, 0, 4)])).expect("written");
        let mut all = Lost::default();
        for seed in 1..50 {
            fs::write(&card, vec![0; 16 * 512]).expect("written");
            let lost = rebuild(&card, &record, &mut Random::new(seed));
            assert_eq!((lost.kept, lost.lucky + lost.torn + lost.dropped), (2, 3));
            let found = fs::read(&card).expect("it is there");
            assert!(found[..4 * 512].iter().all(|byte| *byte == 1), "what was flushed is there");
            all.lucky += lost.lucky;
            all.torn += lost.torn;
            all.dropped += lost.dropped;
            for (number, part) in found[4 * 512..].chunks(4 * 512).enumerate() {
                let written = part.iter().take_while(|byte| usize::from(**byte) == number + 2).count();
                assert!(written % 512 == 0 && part[written..].iter().all(|byte| *byte == 0), "sectors are whole");
            }
        }
        assert!(all.lucky > 0 && all.torn > 0 && all.dropped > 0, "{all:?}");
    }
}
