//! Source `gpio`: edges of lines that are inputs, told one by one or counted. The kernel says when each was, and leaves out what bounces.
//!
//! Each line is a task of its own, with its own health: one that cannot be had is asked for again, and the others go on.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use gpiocdev::{
    Request,
    line::{Bias as KernelBias, EdgeDetection, EdgeKind, EventClock, Value},
};
use porin_core::{
    config::{Bias, Edge, Edges, GpioInput, GpioLine, GpioSource as Config, Level},
    ids::StreamId,
    packet::{PacketKind, Quality, Reading},
    poll::Schedule,
    pulses::Pulses,
    status::PartStatus,
    time::{Monotonic, Unix},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};

use super::{BATCH, MAX_PAUSE, MIN_PAUSE, Outlet, Stopping};
use crate::{gpio::find, inbox::FromSource, machine::wall_clock};

/// Edges that the kernel keeps of a line until they are read: as many as it ever does.
const KERNEL_EDGES: u32 = 1_024;

/// The source. It never fails: its lines do, each by itself.
pub(crate) struct Gpio(Config);

/// What a line has to say.
enum Said {
    /// A reading of one of its streams: 0, or 1 for the rate.
    Reading(u32, Unix, f64),
    /// How it is.
    Health(PartStatus),
}

impl Gpio {
    pub(crate) fn new(config: Config) -> Self {
        Self(config)
    }

    /// Runs for ever.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let (sender, mut said) = mpsc::channel(BATCH);
        let mut tasks = JoinSet::new();
        for (index, input) in self.0.inputs.iter().enumerate() {
            let status = PartStatus { name: name(&input.line), ok: true, ..PartStatus::default() };
            for (local, stream) in (first(index)..).zip(streams(input)) {
                outlet.send(FromSource::Stream { local, name: stream.to_owned(), kind: PacketKind::Readings }).await?;
            }
            outlet.send(FromSource::Part(index, status.clone())).await?;
            tasks.spawn_local(watch(index, input.clone(), status, sender.clone()));
        }
        let mut waiting = Vec::with_capacity(BATCH);
        while said.recv_many(&mut waiting, BATCH).await > 0 {
            let mut readings = Vec::new();
            for (index, said) in waiting.drain(..) {
                match said {
                    Said::Reading(which, time, value) => {
                        let stream = StreamId(first(index) + which);
                        let quality = if value.is_nan() { Quality::BAD } else { Quality::GOOD };
                        readings.push(Reading { time, value, stream, quality: quality.with(Quality::OWN_CLOCK) });
                    }
                    Said::Health(status) => outlet.send(FromSource::Part(index, status)).await?,
                }
            }
            outlet.hand_over(readings, Vec::new()).await?;
        }
        Err(Stopping.into())
    }
}

/// The source's own number of an input's first stream.
fn first(index: usize) -> u32 {
    u32::try_from(index * 2).unwrap_or(u32::MAX - 1)
}

fn streams(input: &GpioInput) -> impl Iterator<Item = &str> {
    let rate = match &input.edges {
        Edges::Counted { rate, .. } => rate.as_deref(),
        Edges::Told => None,
    };
    std::iter::once(input.stream.as_str()).chain(rate)
}

/// Units of an input's streams: a rate is in hertz.
pub(crate) fn units(input: &GpioInput) -> impl Iterator<Item = (String, &'static str)> {
    streams(input).skip(1).map(|rate| (rate.to_owned(), "Hz"))
}

fn name(line: &GpioLine) -> String {
    match line {
        GpioLine::Named(name) => name.clone(),
        GpioLine::Numbered(chip, number) => format!("{chip}:{number}"),
    }
}

/// Tells of one line, for ever: until nobody listens any more.
async fn watch(index: usize, input: GpioInput, mut status: PartStatus, said: mpsc::Sender<(usize, Said)>) {
    let mut pulses = Pulses::new(Monotonic(0));
    let mut pause = MIN_PAUSE;
    let start = Instant::now();
    loop {
        status.polls += 1;
        let error = match take(&input) {
            Ok(line) => {
                pause = MIN_PAUSE;
                pulses.begin_again();
                let listener = Listener { index, input: &input, line: &line, start, said: &said };
                match listener.listen(&mut status, &mut pulses).await {
                    Err(Ended::NobodyListens) => return,
                    Err(Ended::Failed(error)) => error,
                }
            }
            Err(error) => error,
        };
        status.failures += 1;
        (status.ok, status.last_error) = (false, Some(format!("{error:#}")));
        let mut last = vec![Said::Health(status.clone())];
        // Until the line is had again nobody knows what it does.
        last.extend((0..).zip(streams(&input)).map(|(which, _)| Said::Reading(which, wall_clock(), f64::NAN)));
        for last in last {
            if said.send((index, last)).await.is_err() {
                return;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Takes hold of a line.
fn take(input: &GpioInput) -> anyhow::Result<AsyncFd<Request>> {
    let GpioInput { line, active, bias, debounce_us, edges, .. } = input;
    let (chip, number) = find(line)?;
    let edges = match edges {
        Edges::Told | Edges::Counted { which: Edge::Both, .. } => EdgeDetection::BothEdges,
        Edges::Counted { which: Edge::Rising, .. } => EdgeDetection::RisingEdge,
        Edges::Counted { which: Edge::Falling, .. } => EdgeDetection::FallingEdge,
    };
    let mut builder = Request::builder();
    builder.on_chip(&chip).with_line(number).with_consumer("porin").as_input();
    builder.with_edge_detection(edges).with_event_clock(EventClock::Realtime);
    builder.with_kernel_event_buffer_size(KERNEL_EDGES);
    match active {
        Level::High => {}
        Level::Low => drop(builder.as_active_low()),
    }
    match bias {
        Bias::AsIs => {}
        Bias::None => drop(builder.with_bias(KernelBias::Disabled)),
        Bias::PullUp => drop(builder.with_bias(KernelBias::PullUp)),
        Bias::PullDown => drop(builder.with_bias(KernelBias::PullDown)),
    }
    if *debounce_us > 0 {
        builder.with_debounce_period(Duration::from_micros(*debounce_us));
    }
    let request = builder.request().with_context(|| format!("cannot hold line {number} of {chip}"))?;
    // The request owns one descriptor from beginning to end, which is all that the unsafe form that replaces it asks for.
    #[allow(deprecated)]
    AsyncFd::with_interest(request, Interest::READABLE).context("cannot wait for its edges")
}

/// Why a line is not listened to any more.
enum Ended {
    NobodyListens,
    Failed(anyhow::Error),
}

impl From<gpiocdev::Error> for Ended {
    fn from(error: gpiocdev::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A line that is held.
struct Listener<'a> {
    index: usize,
    input: &'a GpioInput,
    line: &'a AsyncFd<Request>,
    start: Instant,
    said: &'a mpsc::Sender<(usize, Said)>,
}

impl Listener<'_> {
    async fn listen(&self, status: &mut PartStatus, pulses: &mut Pulses) -> Result<Infallible, Ended> {
        status.ok = true;
        self.say(Said::Health(status.clone())).await?;
        let request = self.line.get_ref();
        let mut schedule = match self.input.edges {
            Edges::Counted { every_us, .. } => Some(Schedule::new(self.now(), every_us)),
            Edges::Told => {
                let level = if request.lone_value()? == Value::Active { 1.0 } else { 0.0 };
                self.say(Said::Reading(0, wall_clock(), level)).await?;
                None
            }
        };
        loop {
            let due = schedule.as_ref().map(|schedule| self.start + Duration::from_micros(schedule.due().0));
            tokio::select! {
                ready = self.line.readable() => {
                    let mut ready = ready.map_err(|error| Ended::Failed(error.into()))?;
                    let missed = status.missed;
                    // Not all at once: the others have their turn.
                    for _ in 0..BATCH {
                        if !request.has_edge_event()? {
                            ready.clear_ready();
                            break;
                        }
                        let edge = request.read_edge_event()?;
                        status.missed += u64::from(pulses.edge(edge.line_seqno));
                        if schedule.is_none() {
                            let level = if edge.kind == EdgeKind::Rising { 1.0 } else { 0.0 };
                            self.say(Said::Reading(0, Unix(edge.timestamp_ns / 1_000), level)).await?;
                        }
                    }
                    if status.missed > missed {
                        self.say(Said::Health(status.clone())).await?;
                    }
                    yield_now().await;
                }
                () = sleep_until(due.unwrap_or(self.start)), if due.is_some() => {
                    let now = self.now();
                    #[allow(clippy::cast_precision_loss)] // a pulse in nine thousand million million
                    let total = pulses.total() as f64;
                    self.say(Said::Reading(0, wall_clock(), total)).await?;
                    let rate = pulses.rate(now);
                    if streams(self.input).count() > 1 {
                        self.say(Said::Reading(1, wall_clock(), rate)).await?;
                    }
                    if let Some(schedule) = &mut schedule {
                        schedule.asked(now, true);
                    }
                }
            }
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn say(&self, what: Said) -> Result<(), Ended> {
        self.said.send((self.index, what)).await.map_err(|_| Ended::NobodyListens)
    }
}
