//! The books: which packets have come, by (gateway, epoch, seq). Memory grows with the gaps, not with the packets.

use std::collections::{BTreeMap, HashMap};

use porin_core::{
    ids::{Epoch, Seq},
    payload::Decoded,
};
use serde::Serialize;

/// What is known of one life of one gateway's store.
#[derive(Debug, Default)]
struct Book {
    /// Runs of seqs that have come: first → last.
    runs: BTreeMap<u64, u64>,
    packets: u64,
    duplicates: u64,
    /// By stream: the highest seq that has come.
    highest: HashMap<String, u64>,
    out_of_order: u64,
}

/// Every book: by gateway, store and start.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<(String, u64, u32), Book>);

/// What the books say of one life of one gateway's store.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Account {
    pub(super) gateway: String,
    pub(super) epoch: String,
    /// Each counted once.
    pub(super) packets: u64,
    /// Came again: allowed, and to be dropped.
    pub(super) duplicates: u64,
    /// Seqs before the highest that have not come; those between the start before and this one are among them.
    pub(super) missing: u64,
    /// The first of them.
    pub(super) first_missing: Option<u64>,
    /// Came for the first time behind a later one of their stream.
    pub(super) out_of_order: u64,
}

impl Ledger {
    /// Enters a payload.
    pub(super) fn enter(&mut self, payload: Decoded) {
        let Decoded { gateway, epoch, packets, messages } = payload;
        let book = self.0.entry((gateway, epoch.store, epoch.starts)).or_default();
        let readings = packets.into_iter().map(|packet| (packet.seq, packet.stream));
        for (seq, stream) in readings.chain(messages.into_iter().map(|message| (message.seq, message.stream))) {
            book.enter(seq, stream);
        }
    }

    /// Packets of all books, each counted once.
    pub(super) fn packets(&self) -> u64 {
        self.0.values().map(|book| book.packets).sum()
    }

    /// Every account.
    pub(super) fn accounts(&self) -> Vec<Account> {
        let mut accounts = Vec::new();
        let mut before: Option<(&str, u64, u64)> = None;
        for ((gateway, store, starts), book) in &self.0 {
            let first = book.runs.first_key_value().map_or(0, |(first, _)| *first);
            let last = book.runs.last_key_value().map_or(0, |(_, last)| *last);
            // A store's seqs go on over its starts: what lies between the last of one and the first of the next is missing.
            let since = before.filter(|(name, its, _)| (*name, *its) == (gateway, *store));
            let from = since.map_or(first, |(.., last)| last.saturating_add(1).min(first));
            let first_missing = book.runs.values().next().filter(|end| **end < last).map(|end| end + 1);
            accounts.push(Account {
                gateway: gateway.clone(),
                epoch: Epoch { store: *store, starts: *starts }.to_string(),
                packets: book.packets,
                duplicates: book.duplicates,
                missing: (last - from).saturating_add(1).saturating_sub(book.packets),
                first_missing: if from < first { Some(from) } else { first_missing },
                out_of_order: book.out_of_order,
            });
            before = Some((gateway, *store, last));
        }
        accounts
    }
}

impl Book {
    fn enter(&mut self, Seq(seq): Seq, stream: String) {
        let before = self.runs.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= seq) {
            self.duplicates += 1;
            return;
        }
        self.packets += 1;
        // Joined to the run before, the run after, or both.
        let first = before.filter(|(_, last)| last + 1 == seq).map_or(seq, |(first, _)| first);
        let last = seq.checked_add(1).and_then(|next| self.runs.remove(&next)).unwrap_or(seq);
        self.runs.insert(first, last);
        let highest = self.highest.entry(stream).or_insert(seq);
        self.out_of_order += u64::from(*highest > seq);
        *highest = seq.max(*highest);
    }
}

/// The epoch of a gateway that is only made up.
pub(super) fn made_up_epoch(seed: u64, gateway: u32) -> Epoch {
    Epoch { store: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(gateway), starts: 1 }
}

#[cfg(test)]
mod tests {
    use porin_core::payload::DecodedPacket;

    use super::*;

    fn account(seqs: &[(u64, &str)]) -> Account {
        let mut ledger = Ledger::default();
        for (seq, stream) in seqs {
            let packet = DecodedPacket { seq: Seq(*seq), stream: (*stream).into(), time_us: 0, value: 0.0, quality: 0 };
            let epoch = made_up_epoch(1, 1);
            ledger.enter(Decoded { gateway: "g".into(), epoch, packets: vec![packet], messages: vec![] });
        }
        ledger.accounts().remove(0)
    }

    fn check(seqs: &[(u64, &str)], packets: u64, duplicates: u64, missing: u64, out_of_order: u64) {
        let account = account(seqs);
        let found = (account.packets, account.duplicates, account.missing, account.out_of_order);
        assert_eq!(found, (packets, duplicates, missing, out_of_order), "{seqs:?}");
    }

    #[test]
    fn what_is_missing_twice_or_late_is_found() {
        check(&[(0, "a"), (1, "a"), (2, "b")], 3, 0, 0, 0);
        check(&[(0, "a"), (1, "a"), (1, "a"), (0, "a")], 2, 2, 0, 0);
        check(&[(0, "a"), (3, "a")], 2, 0, 2, 0);
        check(&[(0, "a"), (2, "a"), (1, "a")], 3, 0, 0, 1);
        check(&[(0, "a"), (2, "a"), (1, "b")], 3, 0, 0, 0);
        check(&[(5, "a"), (u64::MAX, "a"), (6, "a")], 3, 0, u64::MAX - 7, 1);
        check(&[(0, "a"), (u64::MAX, "a")], 2, 0, u64::MAX - 2, 0);
        assert_eq!(account(&[(0, "a"), (1, "a"), (3, "a")]).first_missing, Some(2));
        assert_eq!(account(&[(0, "a"), (1, "a")]).first_missing, None);
    }

    #[test]
    fn what_a_restart_has_lost_is_missing() {
        let mut ledger = Ledger::default();
        for (starts, seq) in [(1, 0), (1, 1), (2, 4), (2, 5)] {
            let packet = DecodedPacket { seq: Seq(seq), stream: "a".into(), time_us: 0, value: 0.0, quality: 0 };
            let epoch = Epoch { store: 9, starts };
            ledger.enter(Decoded { gateway: "g".into(), epoch, packets: vec![packet], messages: vec![] });
        }
        let missing: Vec<_> =
            ledger.accounts().iter().map(|account| (account.missing, account.first_missing)).collect();
        assert_eq!(missing, [(0, None), (2, Some(2))]);
    }

    #[test]
    fn any_order_gives_the_same_books() {
        let seqs: Vec<u64> = (0..500).map(|index| index * 7 % 500).collect();
        let account = account(&seqs.iter().map(|seq| (*seq, "a")).collect::<Vec<_>>());
        assert_eq!((account.packets, account.missing, account.duplicates), (500, 0, 0));
    }
}
