//! Dead letters: packets on which a cell faulted alone, kept with the fault until somebody looks.
//!
//! Bounded in bytes; the oldest make room for new ones and are counted. All of them are in memory, too: that many bytes are
//! allowed for. This module decides what is written and deleted; `porind::store` does it, in the transaction of the batch that
//! the packets came with.
//!
//! The wire form: a version byte and postcard. The packet is a record of the outbox, with a version of its own.

use alloc::{
    borrow::ToOwned,
    collections::VecDeque,
    string::{String, ToString},
    vec::Vec,
};
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    ids::RouteId,
    packet::Packet,
    record::Record,
    status::DeadLetterStatus,
    time::{Monotonic, Unix},
};

/// The newest version.
const VERSION: u8 = 1;

/// Bytes of a letter besides the names, the fault and a message, roughly.
const LETTER_BYTES: u64 = 128;

/// Bytes of a fault's text that are kept.
const MAX_FAULT: usize = 256;

/// A packet that went no further, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// When, by the machine's clock.
    pub at: Unix,
    /// On which way.
    pub route: RouteId,
    /// In which slot.
    pub slot: String,
    /// SHA-256 of the component that was in it.
    pub digest: [u8; 32],
    /// Why.
    pub fault: String,
    /// As it was fed in.
    pub packet: Packet,
}

#[derive(Serialize, Deserialize)]
struct V1<'a> {
    at_us: u64,
    slot: &'a str,
    digest: [u8; 32],
    fault: &'a str,
    record: &'a [u8],
}

/// Why bytes are not a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLetter {
    /// Written by a newer porin.
    #[error("dead letter version {0}, this porin knows up to {VERSION}")]
    Version(u8),
    /// Too short, too long, or not what should be there.
    #[error("the dead letter is damaged")]
    Damaged,
}

impl DeadLetter {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { at, route, slot, digest, fault, packet } = self;
        let mut record = Vec::new();
        Record { route: *route, packet: packet.clone(), at: Monotonic(0) }.encode(&mut record);
        let v1 = V1 { at_us: at.0, slot, digest: *digest, fault, record: &record };
        let mut bytes = alloc::vec![VERSION];
        bytes.extend(postcard::to_allocvec(&v1).expect("memory is the only sink"));
        bytes
    }

    /// Reads one; all bytes must be used.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadLetter> {
        let (version, rest) = bytes.split_first().ok_or(BadLetter::Damaged)?;
        if *version != VERSION {
            return Err(BadLetter::Version(*version));
        }
        let (V1 { at_us, slot, digest, fault, record }, rest) =
            postcard::take_from_bytes(rest).map_err(|_| BadLetter::Damaged)?;
        let Record { route, packet, .. } = Record::decode(record).map_err(|_| BadLetter::Damaged)?;
        if !rest.is_empty() {
            return Err(BadLetter::Damaged);
        }
        Ok(Self { at: Unix(at_us), route, slot: slot.into(), digest, fault: fault.into(), packet })
    }

    /// What it counts for.
    #[must_use]
    pub fn size(&self) -> u64 {
        LETTER_BYTES + (self.slot.len() + self.fault.len() + self.packet.bytes()) as u64
    }
}

/// A fault's text, cut to what is kept of it.
#[must_use]
pub fn fault_text(fault: &impl ToString) -> String {
    let text = fault.to_string();
    let end = (0..=MAX_FAULT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// Why a letter is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is given to a cell again.
    Replayed,
    /// Nobody wants it.
    Discarded,
}

/// What a commit writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadCommit {
    /// New letters, by their numbers.
    pub added: Vec<(u64, Vec<u8>)>,
    /// Those that are gone, oldest first; each range of numbers had nothing in it but letters that are to go.
    pub removed: Vec<Range<u64>>,
}

impl DeadCommit {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// The letters, oldest first.
#[derive(Debug, Default)]
pub struct DeadLetters {
    max_bytes: u64,
    letters: VecDeque<(u64, DeadLetter)>,
    next: u64,
    /// Everything before is on disk, or was.
    durable_to: u64,
    /// Everything before is durable with the running commit, if there is one.
    submitted_to: u64,
    /// Everything before may be on disk: a commit that failed may have been written all the same.
    tried_to: u64,
    /// May be on disk, and is to be deleted. The oldest give way in order, so that even of millions little is kept.
    removed: Vec<Range<u64>>,
    /// The same as the running commit has it.
    submitted_removals: Vec<Range<u64>>,
    counts: DeadLetterStatus,
}

impl DeadLetters {
    /// With the letters that were found on disk, in the order of their numbers. `next`: after all that are there, whether they can be read or
    /// not.
    #[must_use]
    pub fn new(found: Vec<(u64, DeadLetter)>, next: u64, max_bytes: u64) -> Self {
        let bytes = found.iter().map(|(_, letter)| letter.size()).sum();
        let counts = DeadLetterStatus { found: found.len() as u64, bytes, ..DeadLetterStatus::default() };
        let mut letters = Self {
            max_bytes,
            letters: found.into(),
            next,
            durable_to: next,
            submitted_to: next,
            tried_to: next,
            counts,
            ..Self::default()
        };
        letters.evict();
        letters
    }

    /// Another bound, from now on.
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
        self.evict();
    }

    /// Keeps a letter. The oldest make room.
    pub fn add(&mut self, letter: DeadLetter) {
        self.counts.added += 1;
        self.counts.bytes += letter.size();
        self.letters.push_back((self.next, letter));
        self.next += 1;
        self.evict();
    }

    /// All of them with their numbers, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &(u64, DeadLetter)> {
        self.letters.iter()
    }

    fn index(&self, id: u64) -> Option<usize> {
        self.letters.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// A letter by its number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&DeadLetter> {
        Some(&self.letters[self.index(id)?].1)
    }

    /// Takes a letter out.
    pub fn remove(&mut self, id: u64, why: Removal) -> Option<DeadLetter> {
        let index = self.index(id)?;
        let (id, letter) = self.letters.remove(index)?;
        match why {
            Removal::Replayed => self.counts.replayed += 1,
            Removal::Discarded => self.counts.discarded += 1,
        }
        self.forget(id, &letter);
        Some(letter)
    }

    fn evict(&mut self) {
        while self.counts.bytes > self.max_bytes
            && let Some((id, letter)) = self.letters.pop_front()
        {
            self.counts.evicted += 1;
            self.forget(id, &letter);
        }
    }

    fn forget(&mut self, id: u64, letter: &DeadLetter) {
        self.counts.bytes -= letter.size();
        if id < self.tried_to {
            match self.removed.last_mut() {
                Some(last) if last.end == id => last.end += 1,
                _ => self.removed.push(id..id + 1),
            }
        }
    }

    /// Whether the disk has something else.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.removed.is_empty() || self.letters.back().is_some_and(|(id, _)| *id >= self.durable_to)
    }

    /// What the commit that begins now writes. Nothing of it is durable before [`DeadLetters::committed`].
    pub fn commit(&mut self) -> DeadCommit {
        let new = self.letters.partition_point(|(id, _)| *id < self.durable_to);
        let added = self.letters.range(new..).map(|(id, letter)| (*id, letter.encode())).collect();
        self.submitted_to = self.next;
        self.tried_to = self.next;
        DeadCommit { added, ..self.deletions() }
    }

    /// The same where there is no room for anything new.
    pub fn commit_deletions(&mut self) -> DeadCommit {
        self.submitted_to = self.durable_to;
        self.deletions()
    }

    fn deletions(&mut self) -> DeadCommit {
        self.submitted_removals.clone_from(&self.removed);
        DeadCommit { added: Vec::new(), removed: self.removed.clone() }
    }

    /// The commit that began last is durable.
    pub fn committed(&mut self) {
        self.durable_to = self.submitted_to;
        // The last of them may have grown since.
        for (removed, submitted) in self.removed.iter_mut().zip(self.submitted_removals.drain(..)) {
            removed.start = submitted.end;
        }
        self.removed.retain(|range| !range.is_empty());
    }

    /// It is not, or not for certain: the next one writes the same again.
    pub fn commit_failed(&mut self) {
        self.submitted_removals.clear();
    }

    /// What became of them.
    #[must_use]
    pub fn status(&self) -> DeadLetterStatus {
        DeadLetterStatus { waiting: self.letters.len() as u64, ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeMap, sync::Arc, vec};

    use super::*;
    use crate::{
        ids::StreamId,
        packet::{Message, Quality, Reading},
    };

    fn letter(value: f64) -> DeadLetter {
        let packet = Packet::Reading(Reading { time: Unix(9), value, stream: StreamId(3), quality: Quality::GOOD });
        DeadLetter { at: Unix(7), route: RouteId(2), slot: "s".into(), digest: [5; 32], fault: "trap".into(), packet }
    }

    #[test]
    fn version_1_reads_as_it_was_written() {
        let bytes = [
            &[1, 7, 1, b's'][..],
            &[5; 32],
            &[4, b't', b'r', b'a', b'p', 14],
            &[3, 2, 3, 9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0],
        ]
        .concat();
        assert_eq!(letter(1.5).encode(), bytes);
        assert_eq!(DeadLetter::decode(&bytes), Ok(letter(1.5)));
        assert_eq!(DeadLetter::decode(&[2]), Err(BadLetter::Version(2)));
        for cut in 0..bytes.len() {
            assert_eq!(DeadLetter::decode(&bytes[..cut]), Err(BadLetter::Damaged), "cut at {cut}");
        }
        assert_eq!(DeadLetter::decode(&[&bytes[..], &[0]].concat()), Err(BadLetter::Damaged));
        let (topic, payload) = (Arc::from("a/b"), Arc::from([1, 2, 3]));
        let message = Message { time: Unix(1), stream: StreamId(0), quality: Quality::GOOD, topic, payload };
        let letter = DeadLetter { packet: Packet::Message(Arc::new(message)), ..letter(0.0) };
        assert_eq!(DeadLetter::decode(&letter.encode()), Ok(letter));
    }

    #[test]
    fn a_faults_text_is_cut_between_characters() {
        assert_eq!(fault_text(&"short"), "short");
        let text = fault_text(&"é".repeat(200));
        assert_eq!((text.len(), text.chars().all(|c| c == 'é')), (256, true));
        assert_eq!(fault_text(&alloc::format!("a{}", "é".repeat(200))).len(), 255);
    }

    #[test]
    fn the_oldest_make_room_and_everything_is_counted() {
        let size = letter(0.0).size();
        let mut letters = DeadLetters::new(vec![], 0, 3 * size);
        (0..10).for_each(|n| letters.add(letter(f64::from(n))));
        let ids: Vec<_> = letters.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [7, 8, 9]);
        assert!(letters.remove(8, Removal::Replayed).is_some() && letters.remove(8, Removal::Replayed).is_none());
        assert!(letters.remove(9, Removal::Discarded).is_some());
        let DeadLetterStatus { found, added, waiting, bytes, replayed, discarded, evicted } = letters.status();
        assert_eq!((found, added, waiting, bytes, replayed, discarded, evicted), (0, 10, 1, size, 1, 1, 7));
    }

    /// Whatever happens in whatever order, the disk has what memory has after the next commit that succeeds.
    #[test]
    fn what_gave_way_while_the_disk_failed_is_a_few_ranges_however_much_it_was() {
        let mut letters = DeadLetters::new(vec![], 0, 5 * letter(0.0).size());
        for _ in 0..10_000 {
            letters.add(letter(1.0));
            letters.commit();
            letters.commit_failed();
        }
        assert_eq!(
            letters.commit_deletions(),
            DeadCommit { added: vec![], removed: core::iter::once(0..9_995).collect() }
        );
        letters.committed();
        assert!(letters.is_dirty());
        let commit = letters.commit();
        assert_eq!((commit.added.len(), commit.removed), (5, vec![]));
    }

    #[test]
    fn the_disk_follows_memory_through_commits_that_fail_and_changes_while_they_run() {
        let mut seed = 1_u64;
        let mut random = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let mut letters = DeadLetters::new(vec![], 0, 5 * letter(0.0).size());
        let mut disk = BTreeMap::new();
        let write = |disk: &mut BTreeMap<u64, Vec<u8>>, commit: DeadCommit| {
            disk.extend(commit.added);
            disk.retain(|id, _| !commit.removed.iter().any(|range| range.contains(id)));
        };
        let mut running = None;
        for _ in 0..20_000 {
            match random(7) {
                0 | 1 => letters.add(letter(1.0)),
                2 => {
                    let id = letters.iter().map(|(id, _)| *id).nth(usize::from(random(3) == 0));
                    id.map(|id| letters.remove(id, Removal::Discarded));
                }
                3 if running.is_none() => running = Some(letters.commit()),
                6 if running.is_none() => running = Some(letters.commit_deletions()),
                4 => {
                    if let Some(commit) = running.take() {
                        write(&mut disk, commit);
                        letters.committed();
                    }
                }
                5 => {
                    // It may be on the disk all the same.
                    if let Some(commit) = running.take() {
                        if random(2) == 0 {
                            write(&mut disk, commit);
                        }
                        letters.commit_failed();
                    }
                }
                _ => {}
            }
            if random(20) == 0 && running.is_none() {
                let commit = letters.commit();
                write(&mut disk, commit);
                letters.committed();
                assert!(!letters.is_dirty());
                let memory: BTreeMap<_, _> = letters.iter().map(|(id, letter)| (*id, letter.encode())).collect();
                assert_eq!(disk, memory);
                letters = DeadLetters::new(letters.letters.into_iter().collect(), letters.next, letters.max_bytes);
            }
        }
    }
}
