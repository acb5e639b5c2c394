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

/// What is to be told, with the packets so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Begun(u64),
    Ended(u64),
}

impl Losses {
    /// Tells what is new since the last time.
    pub(super) fn tell(&mut self, counts: Counts, now: Monotonic) {
        let full = "the outbox is full: packets are given up, as their routes' `overflow` says";
        let old = "packets are older than their routes' `expire` and are given up";
        for (burst, counted, what) in
            [(&mut self.evicted, counts.evicted, full), (&mut self.expired, counts.expired, old)]
        {
            match burst.news(counted, now) {
                Some(News::Begun(packets)) => error!(packets, "{what}"),
                Some(News::Ended(packets)) => error!(packets, "it is over: for a minute none was given up any more"),
                None => {}
            }
        }
    }
}

impl Burst {
    fn news(&mut self, counted: u64, now: Monotonic) -> Option<News> {
        let before = std::mem::replace(&mut self.counted, counted);
        match self.since {
            None if counted > before => {
                self.since = Some((before, now));
                Some(News::Begun(counted - before))
            }
            Some((first, _)) if counted > before => {
                self.since = Some((first, now));
                None
            }
            Some((first, last)) if now.since(last) >= QUIET_US => {
                self.since = None;
                Some(News::Ended(counted - first))
            }
            None | Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_at_its_beginning_and_at_its_end_and_not_in_between() {
        let mut burst = Burst::default();
        let mut news = |counted, seconds: u64| burst.news(counted, Monotonic(seconds * 1_000_000));
        assert_eq!(news(0, 0), None);
        assert_eq!(news(5, 1), Some(News::Begun(5)));
        assert_eq!((news(6, 30), news(6, 60), news(90, 80), news(90, 139)), (None, None, None, None));
        assert_eq!(news(90, 140), Some(News::Ended(90)));
        assert_eq!((news(90, 300), news(91, 301)), (None, Some(News::Begun(1))));
    }
}
