//! Sink `gpio`: an output line goes by what a cell decides. Which level that is, `core::output` knows.
//!
//! A thread of its own holds the line, since a chip behind a bus may block. Of decisions that come while it is at one, the last counts.
//! When the agent ends, or is killed, nobody holds the line any more: what it does then is the kernel's, and that of a resistor.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use gpiocdev::{Request, line::Value};
use porin_core::{
    config::{Level, OutputLine},
    ids::RouteId,
    output::Output,
    packet::{Packet, Reading},
    status::SinkStatus,
    time::Monotonic,
};
use tracing::{info, warn};

use super::{Age, Delivery, lock, since};
use crate::{
    gpio::find,
    source::{MAX_PAUSE, MIN_PAUSE},
};

/// The line and its thread.
pub(super) struct HeldLine {
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    start: Instant,
}

struct State {
    output: Output,
    /// Decisions that came so far.
    decisions: u64,
    status: SinkStatus,
    stops: bool,
}

impl State {
    /// The decision to which the line has not come gives way.
    fn decide(&mut self, route: RouteId, reading: &Reading, now: Monotonic) {
        self.status.lost += std::mem::replace(&mut self.status.waiting, 1);
        self.decisions += 1;
        self.output.decide((route, reading.stream), reading.value, reading.quality, now);
    }

    /// The level that the line is to have.
    fn wanted(&self, now: Monotonic) -> Level {
        if self.stops { self.output.safe() } else { self.output.level(now) }
    }

    /// The decision that waits for the line; none does when the line is taken, or goes by what `hold` wants.
    fn waiting(&self) -> Option<u64> {
        (self.status.waiting > 0).then_some(self.decisions)
    }

    /// The line went by this decision.
    fn went_by(&mut self, decision: u64) {
        if decision == self.decisions {
            self.status.done += std::mem::take(&mut self.status.waiting);
        } else {
            // It had been given up for the one that came meanwhile.
            self.status.lost -= 1;
            self.status.done += 1;
        }
    }
}

impl HeldLine {
    pub(super) fn start(config: OutputLine, status: SinkStatus) -> Self {
        let start = Instant::now();
        let state = State { output: Output::new(config.clone()), decisions: 0, status, stops: false };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = state.clone();
        let thread = thread::Builder::new().name("gpio".into()).spawn(move || hold(&config, start, &shared));
        if let Err(error) = &thread {
            let status = &mut lock(&state.0).status;
            (status.ok, status.last_error) = (false, Some(format!("there is no thread for it: {error}")));
        }
        Self { state, thread: thread.ok(), start }
    }

    /// A reading is a decision; a message is none, nor is what comes late.
    pub(super) fn decide(&self, Delivery { packet, age, id, .. }: &Delivery<'_>) {
        let (state, changed) = &*self.state;
        let mut state = lock(state);
        state.status.taken += 1;
        match (packet, age) {
            (Packet::Reading(reading), Age::Now) => state.decide(*id, reading, since(self.start)),
            (Packet::Message(_), Age::Now) | (_, Age::Late) => state.status.lost += 1,
        }
        drop(state);
        changed.notify_one();
    }

    pub(super) fn status(&self) -> SinkStatus {
        lock(&self.state.0).status.clone()
    }

    /// Others decide from now on. Until they have, the line is safe.
    pub(super) fn forget(&self) {
        let (state, changed) = &*self.state;
        lock(state).output.forget();
        changed.notify_one();
    }

    /// The level that the line is to have.
    #[cfg(test)]
    pub(super) fn level(&self) -> Level {
        lock(&self.state.0).wanted(since(self.start))
    }

    /// The line takes its safe level, whatever is decided from now on.
    pub(super) fn stop(&self) {
        let (state, changed) = &*self.state;
        lock(state).stops = true;
        changed.notify_one();
    }
}

impl Drop for HeldLine {
    /// The line takes its safe level, then nobody holds it any more.
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Holds the line until it stops.
fn hold(config: &OutputLine, start: Instant, (state, changed): &(Mutex<State>, Condvar)) {
    let mut line: Option<(Request, Level)> = None;
    let (mut pause, mut retry_at) = (MIN_PAUSE, Monotonic(0));
    let mut guard = lock(state);
    loop {
        let now = since(start);
        let wanted = guard.wanted(now);
        let is_due = match &line {
            None => now >= retry_at && !guard.stops,
            Some((_, level)) => *level != wanted || guard.status.waiting > 0,
        };
        if !is_due {
            if guard.stops {
                return;
            }
            let next = if line.is_none() { Some(retry_at) } else { guard.output.ends(now) };
            let next = next.map_or(MAX_PAUSE, |next| Duration::from_micros(next.since(now)));
            guard = changed.wait_timeout(guard, next).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let decision = guard.waiting();
        // The chip may take its time; the loop does not wait for it.
        drop(guard);
        let outcome = set(config, line.take(), wanted);
        guard = lock(state);
        match outcome {
            Ok(request) => {
                if !guard.status.ok {
                    info!(sink = guard.status.name, "the output line is held");
                }
                (pause, line) = (MIN_PAUSE, Some((request, wanted)));
                if let Some(decision) = decision {
                    guard.went_by(decision);
                }
                (guard.status.ok, guard.status.level) = (true, Some(wanted));
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(sink = guard.status.name, error, ?pause, "the output line cannot be held");
                retry_at = since(start).after(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
                pause = (pause * 2).min(MAX_PAUSE);
                (guard.status.ok, guard.status.level, guard.status.last_error) = (false, None, Some(error));
            }
        }
    }
}

/// Sets the level of a line that is held, or takes hold of it with this level.
fn set(config: &OutputLine, held: Option<(Request, Level)>, level: Level) -> anyhow::Result<Request> {
    let value = match level {
        Level::Low => Value::Inactive,
        Level::High => Value::Active,
    };
    if let Some((request, _)) = held {
        request.set_lone_value(value).context("the kernel does not set it")?;
        return Ok(request);
    }
    let (chip, number) = find(&config.line)?;
    let mut builder = Request::builder();
    builder.on_chip(&chip).with_line(number).as_output(value).with_consumer("porin");
    builder.request().with_context(|| format!("cannot hold line {number} of {chip}"))
}

#[cfg(test)]
mod tests {
    use porin_core::{config::GpioLine, ids::StreamId, packet::Quality, time::Unix};

    use super::*;

    #[test]
    fn what_comes_late_moves_nothing() {
        let line = GpioLine::Named("NOBODY".into());
        let config = OutputLine { line, on: Level::High, safe: Level::Low, hold_us: None };
        let line = HeldLine::start(config, SinkStatus::default());
        let packet =
            Packet::Reading(Reading { time: Unix(0), value: 1.0, stream: StreamId(0), quality: Quality::GOOD });
        for (age, waiting, lost, level) in [(Age::Late, 0, 1, Level::Low), (Age::Now, 1, 1, Level::High)] {
            line.decide(&Delivery { packet: &packet, id: RouteId(0), route: "r", stream: "s", unit: "", age });
            let state = lock(&line.state.0);
            assert_eq!((state.status.waiting, state.status.lost), (waiting, lost));
            assert_eq!(state.output.level(Monotonic(0)), level);
        }
    }

    #[test]
    fn every_decision_was_carried_out_or_overtaken() {
        let line = GpioLine::Named("NOBODY".into());
        let config = OutputLine { line, on: Level::High, safe: Level::Low, hold_us: None };
        let (output, status) = (Output::new(config), SinkStatus::default());
        let mut state = State { output, decisions: 0, status, stops: false };
        let counts = |state: &State| (state.status.waiting, state.status.done, state.status.lost);
        let reading = Reading { time: Unix(0), value: 1.0, stream: StreamId(0), quality: Quality::GOOD };
        let come = |state: &mut State| state.decide(RouteId(0), &reading, Monotonic(0));
        // The first one comes while the line is being taken, which goes by none.
        assert_eq!(state.waiting(), None);
        come(&mut state);
        assert_eq!((state.waiting(), counts(&state)), (Some(1), (1, 0, 0)));
        state.went_by(1);
        assert_eq!(counts(&state), (0, 1, 0));
        // One overtakes another that nobody has come to; a third comes while the line goes by the second.
        come(&mut state);
        come(&mut state);
        assert_eq!(counts(&state), (1, 1, 1));
        come(&mut state);
        state.went_by(3);
        assert_eq!(counts(&state), (1, 2, 1));
        state.went_by(4);
        assert_eq!(counts(&state), (0, 3, 1));
    }
}
