//! The committer: a thread that waits for the disk so that nobody else does.
//!
//! A sync on an SD card may take seconds. The loop hands over one commit at a time and goes on; what is decided
//! meanwhile belongs to the next.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use crate::{
    inbox::Doorbell,
    store::{Commit, Room, Store},
};

/// The loop's side.
pub(crate) struct Committer {
    commits: SyncSender<Commit>,
    outcomes: Receiver<anyhow::Result<Room>>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. It rings when a commit has ended.
    pub(crate) fn start(store: Arc<Store>, doorbell: Doorbell) -> anyhow::Result<Self> {
        // One: the loop begins no commit before the last has ended.
        let (commits, work) = sync_channel::<Commit>(1);
        let (done, outcomes) = sync_channel(1);
        let thread = thread::Builder::new().name("committer".into()).spawn(move || {
            for commit in work {
                if done.send(store.commit(&commit)).is_err() {
                    return;
                }
                doorbell.ring();
            }
        })?;
        Ok(Self { commits, outcomes, thread })
    }

    /// Begins a commit. The outcome of the last one must have been taken.
    pub(crate) fn begin(&self, commit: Commit) {
        // The thread ends only after `self` has been dropped, and the channel has room for the one commit.
        let _ = self.commits.try_send(commit);
    }

    /// How the commit ended, if it has.
    pub(crate) fn outcome(&self) -> Option<anyhow::Result<Room>> {
        self.outcomes.try_recv().ok()
    }

    /// Waits until the commit has ended.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> anyhow::Result<Room> {
        self.outcomes.recv().unwrap_or_else(|_| anyhow::bail!("the thread ended"))
    }

    /// Waits for the thread. What was begun is written.
    pub(crate) fn stop(self) {
        drop(self.commits);
        let _ = self.thread.join();
    }
}
