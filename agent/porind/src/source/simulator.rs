//! Source `simulator`: made-up streams, for demonstrations, load and tests. What they do is `core::simulator`'s.

use std::time::Duration;

use porin_core::{
    config::SimulatorSource as Config,
    ids::StreamId,
    packet::{Kind, Quality, Reading},
    simulator::Simulator,
    time::Unix,
};
use tokio::{sync::watch, time::Instant};

use super::{BATCH, Outlet, Stopping};
use crate::{
    inbox::{FromSource, SOURCE_WINDOW},
    machine::wall_clock,
};

/// The first round's time when the streams run as fast as possible: the same readings every time. 2023-11-14.
const BEGIN_US: u64 = 1_700_000_000_000_000;

/// The source with its position.
pub(crate) struct Simulated {
    config: Config,
    settled: watch::Receiver<u64>,
    simulator: Simulator,
    made: u64,
}

impl Simulated {
    pub(crate) fn new(config: Config, settled: watch::Receiver<u64>) -> Self {
        Self { simulator: Simulator::new(config.behaviour.clone()), config, settled, made: 0 }
    }

    /// Readings made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Runs for ever, or until it has made as many readings as it was asked for.
    pub(crate) async fn run(&mut self, outlet: &Outlet) -> anyhow::Result<()> {
        for number in 0..self.config.behaviour.count {
            let name = self.config.streams.replace("{n}", &(number + 1).to_string());
            outlet.send(FromSource::Stream { local: number, name, kind: Kind::Readings }).await?;
        }
        let started = Instant::now();
        let (mut begin, mut quality) = (BEGIN_US, Quality::GOOD);
        let mut batch = Vec::with_capacity(BATCH);
        while self.made + (batch.len() as u64) < self.config.readings {
            if !self.config.as_fast_as_possible {
                self.hand_over(outlet, &mut batch).await?;
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
                if self.made + batch.len() as u64 >= self.config.readings {
                    break;
                }
                batch.push(reading);
                if batch.len() >= BATCH {
                    self.hand_over(outlet, &mut batch).await?;
                }
            }
        }
        self.hand_over(outlet, &mut batch).await?;
        self.settled.wait_for(|settled| *settled >= self.made).await.map_err(|_| Stopping)?;
        Ok(())
    }

    async fn hand_over(&mut self, outlet: &Outlet, batch: &mut Vec<Reading>) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.made += batch.len() as u64;
        let readings = std::mem::replace(batch, Vec::with_capacity(BATCH));
        outlet.send(FromSource::Batch { readings, messages: Vec::new(), upto: self.made }).await?;
        let made = self.made;
        self.settled.wait_for(|settled| made - *settled <= SOURCE_WINDOW).await.map_err(|_| Stopping)?;
        Ok(())
    }
}
