//! Source `simulator`: made-up streams, for demonstrations, load and tests. What they do is `core::simulator`'s.

use std::time::Duration;

use porin_core::{
    config::SimulatorSource as Config,
    ids::StreamId,
    packet::{PacketKind, Quality, Reading},
    simulator::Simulator,
    time::Unix,
};
use tokio::time::Instant;

use super::{BATCH, Outlet};
use crate::{inbox::FromSource, machine::wall_clock};

/// The first round's time when the streams run as fast as possible: the same readings every time. 2023-11-14.
const BEGIN_US: u64 = 1_700_000_000_000_000;

/// The source with its position.
pub(crate) struct Simulated {
    config: Config,
    simulator: Simulator,
}

impl Simulated {
    pub(crate) fn new(config: Config) -> Self {
        Self { simulator: Simulator::new(config.behaviour.clone()), config }
    }

    /// Runs for ever, or until it has made as many readings as it was asked for.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        for number in 0..self.config.behaviour.count {
            let name = self.config.streams.replace("{n}", &(number + 1).to_string());
            outlet.send(FromSource::Stream { local: number, name, kind: PacketKind::Readings }).await?;
        }
        let started = Instant::now();
        let (mut begin, mut quality) = (BEGIN_US, Quality::GOOD);
        let mut batch = Vec::with_capacity(BATCH);
        while outlet.made + (batch.len() as u64) < self.config.readings {
            if !self.config.as_fast_as_possible {
                outlet.hand_over(std::mem::take(&mut batch), Vec::new()).await?;
                tokio::time::sleep_until(started + Duration::from_micros(self.simulator.next_after_us())).await;
                // The clock may have been set meanwhile.
                let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                (begin, quality) = (wall_clock().0.saturating_sub(elapsed), Quality::OWN_CLOCK);
            }
            // A round may be empty: the others have their turn all the same.
            tokio::task::yield_now().await;
            let mut round = Vec::with_capacity(self.config.behaviour.count as usize);
            self.simulator.round(begin, |made| {
                let (time, stream) = (Unix(made.time_us), StreamId(made.stream));
                round.push(Reading { time, value: made.value, stream, quality });
            });
            for reading in round {
                if outlet.made + batch.len() as u64 >= self.config.readings {
                    break;
                }
                batch.push(reading);
                if batch.len() >= BATCH {
                    outlet.hand_over(std::mem::take(&mut batch), Vec::new()).await?;
                }
            }
        }
        outlet.hand_over(std::mem::take(&mut batch), Vec::new()).await?;
        Ok(outlet.wait_until_settled(outlet.made).await?)
    }
}
