//! Packets that are given up: counted always, told once at the beginning and once at the end of each burst.

use porin_core::{outbox::Counts, time::Monotonic};
use tracing::error;

/// A burst has ended when nothing more was given up for so long.
const QUIET_US: u64 = 60_000_000;

/// Every way in which the outbox gives packets up by itself.
#[derive(Default)]
pub(super) struct Losses {
    evicted: Burst,
    expired: Burst,
}

#[derive(Default)]
struct Burst {
    counted: u64,
    /// What was counted before it began, and when the last one was given up.
    since: Option<(u64, Monotonic)>,
}

impl Losses {
    /// Tells what is new since the last time.
    pub(super) fn tell(&mut self, counts: Counts, now: Monotonic) {
        self.evicted.tell(
            counts.evicted,
            now,
            "the outbox is full: packets are given up, as their routes' `overflow` says",
        );
        self.expired.tell(counts.expired, now, "packets are older than their routes' `expire` and are given up");
    }
}

impl Burst {
    fn tell(&mut self, counted: u64, now: Monotonic, what: &str) {
        match self.since {
            None if counted > self.counted => {
                error!(packets = counted - self.counted, "{what}");
                self.since = Some((self.counted, now));
            }
            Some((before, _)) if counted > self.counted => self.since = Some((before, now)),
            Some((before, last)) if now.since(last) >= QUIET_US => {
                error!(packets = counted - before, "none was given up for a minute; so many were");
                self.since = None;
            }
            _ => {}
        }
        self.counted = counted;
    }
}
