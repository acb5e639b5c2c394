//! The inbox: the bounded queues through which everybody else meets the loop.
//!
//! Each source has a queue of its own and they are drained in turn, so a flood from one delays the others by at most
//! one batch each. Whoever puts something in rings; the loop sleeps until then, or until its deadline.

use std::{
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use porin_core::{
    config::Config,
    packet::{Message, PacketKind, Reading},
    status::{InputStatus, PartStatus, Snapshot},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    committer::Committer,
    link::{Incoming, LinkEvent},
    store::Room,
    tap::Tap,
};

/// Batches of a source that wait for the loop. Beyond it the source waits: 4 × 64 readings are 6 KB.
pub(crate) const SOURCE_QUEUE: usize = 4;

/// Packets of a source that are not yet settled at most. The loop commits when half of it waits.
pub(crate) const SOURCE_WINDOW: u64 = 32_768;

/// Events of the link that wait for the loop: acknowledgements of a full window and more.
pub(crate) const LINK_QUEUE: usize = 1_024;

/// Publishes from the broker that wait for the loop, of at most 16 KB each. Beyond it the link waits.
pub(crate) const INCOMING_QUEUE: usize = 4;

/// Questions that wait for the loop. Beyond it the asker waits.
pub(crate) const QUESTION_QUEUE: usize = 4;

/// Wakes the loop.
#[derive(Clone, Debug)]
pub(crate) struct Doorbell(Thread);

impl Doorbell {
    /// A doorbell for the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        Self(thread::current())
    }

    /// A doorbell for another thread.
    pub(crate) fn of<T>(thread: &JoinHandle<T>) -> Self {
        Self(thread.thread().clone())
    }

    /// A ring while the loop is awake is not lost: it then does not sleep.
    pub(crate) fn ring(&self) {
        self.0.unpark();
    }
}

/// What a source says.
#[derive(Debug)]
pub(crate) enum FromSource {
    /// From now on readings with this number are of this stream.
    Stream { local: u32, name: String, kind: PacketKind },
    /// Packets, streams by the source's own numbers. Everything up to the count `upto` is settled when this is.
    Batch { readings: Vec<Reading>, messages: Vec<Message>, upto: u64 },
    /// A row or message that could not be read: where and why.
    BadRow(String),
    /// How one of the things that it listens to does.
    Input(usize, InputStatus),
    /// How one of the things that it asks does.
    Part(usize, PartStatus),
    /// It failed and starts again after a while: why.
    Restart(String),
    /// It has come to its end.
    Ended,
}

/// What somebody wants to know.
#[derive(Debug)]
pub(crate) enum Question {
    /// A snapshot.
    Status(oneshot::Sender<Snapshot>),
    /// Packets as they pass.
    Tap(Tap),
    /// Dead letters, answered in JSON.
    Dead(DeadQuestion, oneshot::Sender<serde_json::Value>),
}

/// What somebody wants of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeadQuestion {
    /// To see them.
    List,
    /// That their slots get them again.
    Replay(Which),
    /// That they are thrown away.
    Discard(Which),
}

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Numbers(Vec<u64>),
}

/// Everything that can happen to the loop.
#[derive(Debug)]
pub(crate) enum Event {
    Source(usize, FromSource),
    Link(LinkEvent),
    /// Something was published where updates come from.
    Came(Incoming),
    Committed(anyhow::Result<Room>),
    Question(Question),
    /// A new configuration.
    Reload(Box<Config>),
    /// Stop taking from sources, make everything durable, end.
    Stop,
    /// Nothing happened until the deadline.
    Deadline,
}

/// The loop's side of all queues.
pub(crate) struct Inbox {
    pub(crate) sources: Vec<mpsc::Receiver<FromSource>>,
    pub(crate) link: mpsc::Receiver<LinkEvent>,
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    pub(crate) questions: mpsc::Receiver<Question>,
    pub(crate) stop: mpsc::Receiver<()>,
    pub(crate) reload: mpsc::Receiver<Config>,
    /// The source that is asked first next time.
    pub(crate) turn: usize,
}

impl Inbox {
    /// The next event. `takes`: from which sources there is room for something. `patience`: until the deadline.
    pub(crate) fn next(&mut self, committer: &Committer, takes: impl Fn(usize) -> bool, patience: Duration) -> Event {
        if let Some(event) = self.waiting(committer, &takes) {
            return event;
        }
        thread::park_timeout(patience);
        self.waiting(committer, &takes).unwrap_or(Event::Deadline)
    }

    fn waiting(&mut self, committer: &Committer, takes: &impl Fn(usize) -> bool) -> Option<Event> {
        if let Ok(event) = self.link.try_recv() {
            return Some(Event::Link(event));
        }
        if let Some(outcome) = committer.outcome() {
            return Some(Event::Committed(outcome));
        }
        if let Ok(question) = self.questions.try_recv() {
            return Some(Event::Question(question));
        }
        if self.stop.try_recv().is_ok() {
            return Some(Event::Stop);
        }
        if let Ok(config) = self.reload.try_recv() {
            return Some(Event::Reload(Box::new(config)));
        }
        // The broker takes its turn like any source: however fast it sends, they are heard.
        let members = self.sources.len() + 1;
        for offset in 0..members {
            let index = (self.turn + offset) % members;
            if index == self.sources.len() {
                if let Ok(incoming) = self.incoming.try_recv() {
                    self.turn = index + 1;
                    return Some(Event::Came(incoming));
                }
            } else if takes(index)
                && let Ok(event) = self.sources[index].try_recv()
            {
                self.turn = index + 1;
                return Some(Event::Source(index, event));
            }
        }
        None
    }
}
