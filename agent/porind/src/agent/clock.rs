//! The agent's side towards the clock: what it is worth, and the times of packets by it.

use std::mem::discriminant;

use porin_core::{
    clock::{Change, Clock},
    packet::Quality,
    time::{Now, Unix},
};
use tracing::{info, warn};

use super::Agent;
use crate::machine;

impl Agent {
    /// Finds out whether somebody has set the clock.
    pub(super) fn look_at_the_clock(&mut self) {
        match self.core.clock.observe(self.now, machine::clock_is_kept()) {
            None => return,
            Some(Change::Unset) => warn!(
                "the clock has not been set: packets with its time are marked time-uncertain, and put right once it is"
            ),
            Some(Change::Set(by_us)) => {
                info!(by_s = by_us / 1_000_000, "the clock has been set: the times of waiting packets are corrected");
            }
            Some(Change::Stepped(by_us)) => warn!(by_s = by_us / 1_000_000, "the clock was stepped"),
        }
        self.mark_dirty();
    }

    /// Tells connections by which time they judge certificates. They wake up only if that is another kind of time.
    pub(super) fn judge_certificates(&mut self) {
        let time = self.core.clock.certificate_time(self.clock_chip);
        self.parts.certificate_time.send_if_modified(|known| {
            let is_other = discriminant(known) != discriminant(&time);
            *known = time;
            is_other
        });
    }
}

/// A time of this machine's clock: as good as the clock is.
pub(super) fn judge(clock: &Clock, now: Now, time: &mut Unix, quality: &mut Quality) {
    if quality.has(Quality::OWN_CLOCK) {
        let (right, trusted) = clock.judge(*time, now);
        let known = quality.without(Quality::OWN_CLOCK);
        (*time, *quality) = (right, if trusted { known } else { known.with(Quality::TIME_UNCERTAIN) });
    }
}
