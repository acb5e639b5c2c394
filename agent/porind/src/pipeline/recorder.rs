//! What has entered a route lately: packets on which a new cell can be tried before it sees live ones.
//!
//! In memory only, bounded by age and bytes; the older end is given up first.

use std::collections::VecDeque;

use porin_cell::CellPacket;
use porin_core::{
    config::Recording,
    packet::{Message, Reading},
    time::Now,
};

/// What a packet counts for besides the bytes of a message: it and the moment it came.
const PACKET_BYTES: usize = size_of::<(Now, Reading)>();

/// Readings of one batch at most: no call gets more.
const BATCH: usize = 1_024;

/// What has entered a route lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    readings: VecDeque<(Now, Reading)>,
    messages: VecDeque<(Now, Message)>,
    bytes: usize,
}

impl Recorder {
    /// Keeps a batch, and gives up what is too old or too much.
    pub(super) fn keep(&mut self, rule: Recording, now: Now, readings: &[Reading], messages: &[Message]) {
        self.readings.extend(readings.iter().map(|reading| (now, *reading)));
        self.messages.extend(messages.iter().map(|message| (now, message.clone())));
        self.bytes += readings.len() * PACKET_BYTES + messages.iter().map(weight).sum::<usize>();
        let too_old = |at: &Now| now.mono.since(at.mono) > rule.us;
        while self.bytes > rule.bytes || self.readings.front().is_some_and(|(at, _)| too_old(at)) {
            if self.readings.pop_front().is_none() {
                break;
            }
            self.bytes -= PACKET_BYTES;
        }
        while self.bytes > rule.bytes || self.messages.front().is_some_and(|(at, _)| too_old(at)) {
            let Some((_, message)) = self.messages.pop_front() else { break };
            self.bytes -= weight(&message);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.readings.is_empty() && self.messages.is_empty()
    }

    /// The packets in the batches in which they came, as far as those are kept. Ends when `take` says so.
    pub(crate) fn batches(&self, mut take: impl FnMut(Now, &[Reading], &[Message]) -> Next) {
        let mut readings = Vec::new();
        let mut rest = self.readings.iter().peekable();
        while let Some((now, reading)) = rest.next() {
            readings.push(*reading);
            if readings.len() >= BATCH || rest.peek().is_none_or(|(next, _)| next != now) {
                if take(*now, &readings, &[]) == Next::Stop {
                    return;
                }
                readings.clear();
            }
        }
        for (now, message) in &self.messages {
            if take(*now, &[], std::slice::from_ref(message)) == Next::Stop {
                return;
            }
        }
    }
}

/// Whether more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    More,
    Stop,
}

fn weight(message: &Message) -> usize {
    PACKET_BYTES + message.bytes()
}

#[cfg(test)]
mod tests {
    use porin_core::{
        ids::StreamId,
        packet::Quality,
        time::{Monotonic, Unix},
    };

    use super::*;

    fn reading(time: u64) -> Reading {
        Reading { time: Unix(time), value: 0.0, stream: StreamId(0), quality: Quality::GOOD }
    }

    fn kept(recorder: &Recorder) -> Vec<Vec<u64>> {
        let mut batches = Vec::new();
        recorder.batches(|_, readings, _| {
            batches.push(readings.iter().map(|reading| reading.time.0).collect());
            Next::More
        });
        batches
    }

    #[test]
    fn what_came_lately_is_kept_in_its_batches_within_time_and_bytes() {
        let rule = Recording { us: 100, bytes: 5 * PACKET_BYTES };
        let mut recorder = Recorder::default();
        let mut keep = |at, times: &[u64]| {
            let readings: Vec<_> = times.iter().copied().map(reading).collect();
            recorder.keep(rule, Now { unix: Unix(0), mono: Monotonic(at) }, &readings, &[]);
            kept(&recorder)
        };
        assert_eq!(keep(0, &[1, 2]), [vec![1, 2]]);
        assert_eq!(keep(50, &[3]), [vec![1, 2], vec![3]]);
        assert_eq!(keep(101, &[4]), [vec![3], vec![4]], "too old");
        assert_eq!(keep(102, &[5, 6, 7, 8]), [vec![4], vec![5, 6, 7, 8]], "too much");
        assert_eq!(keep(1_000, &[9]), [vec![9]]);
    }
}
