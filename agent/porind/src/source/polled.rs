//! Sources that are asked: each part has its own rhythm, its own back-off and its own health.
//!
//! A part that does not answer makes readings all the same: of no value (NaN) and quality BAD, so that what depends on it knows. One that
//! has no data yet makes none. Rhythm and back-off are `core::poll`'s; what is asked, and how, is the caller's.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::Context;
use porin_core::{
    ids::StreamId,
    packet::{PacketKind, Quality, Reading},
    poll::Schedule,
    status::PartStatus,
    time::{Monotonic, Unix},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::Outlet;
use crate::{inbox::FromSource, machine::wall_clock};

/// A value that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) value: f64,
    /// [`Quality::GOOD`], or what is known against it.
    pub(super) quality: Quality,
}

/// What a part has answered: samples in the order of its streams, or nothing new; or why it has not.
pub(super) type Answer = Result<Option<Vec<Sample>>, String>;

/// One thing that is asked.
#[derive(Debug)]
pub(super) struct Part {
    /// What it is and where.
    pub(super) name: String,
    pub(super) every_us: u64,
    pub(super) streams: Vec<String>,
}

/// The parts of a source, with what outlives a failure.
pub(super) struct Polled {
    parts: Vec<Part>,
    status: Vec<PartStatus>,
    /// What the schedules count from.
    start: Instant,
    schedules: Vec<Schedule>,
}

impl Polled {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let status = |part: &Part| PartStatus { name: part.name.clone(), ok: true, ..PartStatus::default() };
        Self {
            status: parts.iter().map(status).collect(),
            start: Instant::now(),
            schedules: parts.iter().map(|part| Schedule::new(Monotonic(0), part.every_us)).collect(),
            parts,
        }
    }

    /// Asks one part after the other, for ever. `ask` gives the answer of the part with this number, and when it was given.
    pub(super) async fn run(
        &mut self,
        outlet: &mut Outlet,
        mut ask: impl AsyncFnMut(usize) -> anyhow::Result<(Unix, Answer)>,
    ) -> anyhow::Result<()> {
        let mut first = Vec::new();
        let mut local = 0;
        for (index, part) in self.parts.iter().enumerate() {
            first.push(local);
            for name in &part.streams {
                outlet.send(FromSource::Stream { local, name: name.clone(), kind: PacketKind::Readings }).await?;
                local += 1;
            }
            outlet.send(FromSource::Part(index, self.status[index].clone())).await?;
        }
        loop {
            let next = self.schedules.iter().enumerate().min_by_key(|(_, schedule)| schedule.due());
            let Some((index, due)) = next.map(|(index, schedule)| (index, schedule.due())) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(self.start + Duration::from_micros(due.0)).await;
            let (time, answer) = ask(index).await?;
            let status = &mut self.status[index];
            status.polls += 1;
            status.ok = answer.is_ok();
            let samples = match answer {
                Ok(samples) => samples.unwrap_or_default(),
                Err(error) => {
                    status.failures += 1;
                    status.last_error = Some(error);
                    let none = Sample { value: f64::NAN, quality: Quality::BAD };
                    vec![none; self.parts[index].streams.len()]
                }
            };
            let now = Monotonic(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
            self.schedules[index].asked(now, status.ok);
            status.missed = self.schedules[index].missed();
            let readings = samples.iter().zip(first[index]..).map(|(sample, stream)| Reading {
                time,
                value: sample.value,
                stream: StreamId(stream),
                quality: sample.quality.with(Quality::OWN_CLOCK),
            });
            outlet.send(FromSource::Part(index, status.clone())).await?;
            outlet.hand_over(readings.collect(), Vec::new()).await?;
        }
    }
}

/// How long a thread is waited for. The slowest answer is one of a chip that begins on a stuck bus, where the kernel takes a second for each try.
const PATIENCE: Duration = Duration::from_secs(15);

/// A thread that does what may block, one thing at a time. It ends when its owner does, after what it is at.
pub(super) struct Worker {
    questions: Sender<usize>,
    answers: mpsc::Receiver<(Unix, Answer)>,
    patience: Duration,
    /// Whether an answer is due that nobody waits for any more.
    is_late: bool,
}

impl Worker {
    /// `begin` is called on the thread and gives what answers.
    pub(super) fn start<F>(begin: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<Self>
    where
        F: FnMut(usize) -> Answer,
    {
        let (questions, asked): (_, Receiver<usize>) = channel();
        let (answer, answers) = mpsc::channel(1);
        let work = move || {
            let mut ask = begin();
            while let Ok(part) = asked.recv() {
                let said = ask(part);
                if answer.blocking_send((wall_clock(), said)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("bus".into()).spawn(work).context("a thread for what may block")?;
        Ok(Self { questions, answers, patience: PATIENCE, is_late: false })
    }

    /// What the thread says. When the kernel keeps it, that is said instead, and nothing else is asked before it is there again.
    pub(super) async fn ask(&mut self, part: usize) -> anyhow::Result<(Unix, Answer)> {
        let (patience, gone) = (self.patience, "the thread of the bus has ended");
        let kept = || Ok((wall_clock(), Err(format!("the kernel has not answered for {patience:?}"))));
        if self.is_late {
            let Ok(late) = timeout(patience, self.answers.recv()).await else { return kept() };
            let _nobody_waits_for_it = late.context(gone)?;
        }
        self.questions.send(part).context(gone)?;
        let answer = timeout(patience, self.answers.recv()).await;
        self.is_late = answer.is_err();
        answer.map_or_else(|_| kept(), |answer| answer.context(gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_the_kernel_keeps_is_told_and_its_late_answer_is_not_taken_for_another() {
        let (let_go, held) = channel();
        let begin = move || {
            move |part: usize| {
                if part == 1 {
                    held.recv().map_err(|_| "the test has ended")?;
                }
                #[allow(clippy::cast_precision_loss)]
                Ok(Some(vec![Sample { value: part as f64, quality: Quality::GOOD }]))
            }
        };
        let mut worker = Worker::start(begin).expect("a thread");
        worker.patience = Duration::from_millis(50);
        let mut ask = async |part| {
            let (_, answer) = worker.ask(part).await.expect("it is there");
            answer.map(|samples| samples.map(|samples| samples[0].value))
        };
        let kept = Err("the kernel has not answered for 50ms".to_owned());
        assert_eq!(ask(1).await, kept);
        assert_eq!(ask(2).await, kept);
        let_go.send(()).expect("it waits");
        let mut answer = ask(3).await;
        while answer == kept {
            answer = ask(3).await;
        }
        assert_eq!(answer, Ok(Some(3.0)));
    }
}
