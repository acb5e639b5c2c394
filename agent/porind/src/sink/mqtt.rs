//! Sink `mqtt`: a local broker, whose subscribers act on what is published. What waits for it, `core::live` knows.
//!
//! A thread of its own has the connection, so that a broker that is slow or away costs the loop nothing.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use porin_core::{
    clock::CertificateTime,
    config::{LocalBroker, LocalPayload, TopicTemplate},
    live::{Bounds, Live},
    packet::Packet,
    payload,
    status::SinkStatus,
    time::Monotonic,
};
use tokio::sync::{Notify, mpsc, watch};
use tracing::warn;

use super::{Age, Delivery, lock, since};
use crate::{
    inbox::{Doorbell, LINK_QUEUE},
    link::{self, FRAME_BYTES, JSON, LinkEvent, Publish, Request},
};

/// Packets that wait for the broker, and their bytes together: ten minutes of a decision a second, and some.
const PACKETS: usize = 1_000;
const BYTES: usize = 1 << 20;

/// A broker, and the thread that is connected to it.
pub(super) struct Broker {
    topic: TopicTemplate,
    form: LocalPayload,
    state: Arc<(Mutex<State>, Notify)>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    start: Instant,
}

struct State {
    live: Live<Item>,
    /// Bytes of a publish that the broker takes at most.
    max_bytes: usize,
    connection: u64,
    /// Of its counts only `lost` is used: packets that the broker was never to get.
    status: SinkStatus,
}

struct Item {
    topic: String,
    content_type: &'static str,
    payload: Vec<u8>,
}

impl Broker {
    pub(super) fn start(
        config: &LocalBroker,
        status: SinkStatus,
        certificate_time: watch::Receiver<CertificateTime>,
    ) -> Self {
        let start = Instant::now();
        let live = Live::new(Bounds { packets: PACKETS, bytes: BYTES, age_us: config.expire_us });
        let state = State { live, max_bytes: 0, connection: 0, status };
        let state = Arc::new((Mutex::new(state), Notify::new()));
        let (stop, stopped) = watch::channel(false);
        let (shared, local) = (state.clone(), config.clone());
        let run = move || {
            if let Err(error) = connect(&local, start, &shared, certificate_time, stopped) {
                failed(&shared, format!("{error:#}"));
            }
        };
        let thread = thread::Builder::new().name("local-mqtt".into()).spawn(run);
        if let Err(error) = &thread {
            failed(&state, format!("there is no thread for it: {error}"));
        }
        let LocalBroker { topic, payload, .. } = config;
        Self { topic: topic.clone(), form: *payload, state, stop, thread: thread.ok(), start }
    }

    /// What comes late is not published: somebody would act on it.
    pub(super) fn publish(&self, Delivery { packet, route, stream, unit, age, .. }: &Delivery<'_>) {
        let (state, changed) = &*self.state;
        if *age == Age::Late {
            lock(state).status.lost += 1;
            return;
        }
        let topic = self.topic.fill("", route, stream);
        let (content_type, payload) = match (self.form, packet) {
            (LocalPayload::Json, packet) => (JSON, payload::json::object(stream, unit, packet).into_bytes()),
            (LocalPayload::Value, Packet::Reading(reading)) => ("text/plain", reading.value.to_string().into_bytes()),
            (LocalPayload::Value, Packet::Message(message)) => ("application/octet-stream", message.payload.to_vec()),
        };
        let bytes = topic.len() + payload.len() + size_of::<Item>();
        lock(state).live.add(Item { topic, content_type, payload }, bytes, since(self.start));
        changed.notify_one();
    }

    /// Whether all that can leave has left: nothing waits, or the broker is away. Until the first attempt has ended it is not.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state.0);
        state.live.waiting() == 0 || !state.status.ok
    }

    /// The connection ends; nobody waits for that yet.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn status(&self) -> SinkStatus {
        let state = lock(&self.state.0);
        let (waiting, done) = (state.live.waiting() as u64, state.live.done());
        let lost = state.live.lost() + state.status.lost;
        SinkStatus { taken: waiting + done + lost, waiting, done, lost, ..state.status.clone() }
    }
}

impl Drop for Broker {
    /// What still waits, waits for a broker that is away.
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let state = lock(&self.state.0);
        let (sink, packets) = (&state.status.name, state.live.waiting());
        if packets > 0 {
            warn!(sink, packets, "packets that waited for the local broker were discarded");
        }
    }
}

fn failed((state, _): &(Mutex<State>, Notify), error: String) {
    let status = &mut lock(state).status;
    (status.ok, status.last_error) = (false, Some(error));
}

/// The thread: the link, and what is handed over to it.
fn connect(
    config: &LocalBroker,
    start: Instant,
    shared: &(Mutex<State>, Notify),
    certificate_time: watch::Receiver<CertificateTime>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime")?;
    let (events, heard) = mpsc::channel(LINK_QUEUE);
    let (requests, asked) = mpsc::channel(usize::from(config.link.in_flight));
    // Nothing is subscribed to.
    let (came, _) = mpsc::channel(1);
    let (_configs, config_of_link) = watch::channel(config.link.clone());
    // Nobody sleeps by it here: what the link says wakes who hears it.
    let bell = Doorbell::of_this_thread();
    let link = link::mqtt::run(config_of_link, None, certificate_time, asked, (events, came), bell, stopped);
    runtime.block_on(async { tokio::join!(link, hand_over(config, start, shared, &requests, heard)) });
    // A name that is being looked up would be waited for, for as long as the resolver likes.
    runtime.shutdown_background();
    Ok(())
}

/// Hands packets over as the link takes them, until the link has ended.
async fn hand_over(
    config: &LocalBroker,
    start: Instant,
    (state, changed): &(Mutex<State>, Notify),
    requests: &mpsc::Sender<Request>,
    mut heard: mpsc::Receiver<LinkEvent>,
) {
    loop {
        loop {
            let next = lock(state).next(config.retain, start);
            let Some(publish) = next else { break };
            let _ = requests.send(Request::Publish(publish)).await;
        }
        let resumes_at = lock(state).live.resumes_at();
        tokio::select! {
            event = heard.recv() => match event {
                Some(event) => lock(state).learn(event, start),
                None => return,
            },
            () = changed.notified() => {}
            () = pause(resumes_at, start) => {}
        }
    }
}

/// Until the broker is asked again, after it has refused a packet for the moment.
async fn pause(until: Option<Monotonic>, start: Instant) {
    match until.map(|until| until.since(since(start))) {
        Some(us @ 1..) => tokio::time::sleep(Duration::from_micros(us)).await,
        _ => std::future::pending().await,
    }
}

impl State {
    fn next(&mut self, retain: bool, start: Instant) -> Option<Publish> {
        loop {
            let (ticket, Item { topic, content_type, payload }) = self.live.take(since(start))?;
            let bytes = payload.len() + FRAME_BYTES;
            if bytes <= self.max_bytes {
                let (connection, ticket) = (self.connection, Some(ticket));
                let (topic, payload) = (topic.clone(), payload.clone());
                return Some(Publish { connection, ticket, topic, retain, content_type, payload });
            }
            let error = format!("{topic}: {bytes} bytes, and the broker takes {}", self.max_bytes);
            self.status.last_error = Some(error);
            self.live.refused(ticket);
        }
    }

    fn learn(&mut self, event: LinkEvent, start: Instant) {
        match event {
            LinkEvent::Up { connection, window, max_bytes } => {
                (self.connection, self.max_bytes, self.status.ok) = (connection, max_bytes, true);
                self.live.up(window);
            }
            LinkEvent::Down(reason) => {
                (self.status.ok, self.status.last_error) = (false, Some(reason));
                self.live.down();
            }
            LinkEvent::Acked(ticket) => self.live.acked(ticket),
            LinkEvent::PutOff(ticket, reason) => {
                self.status.last_error = Some(reason.into());
                self.live.put_off(ticket, since(start));
            }
            LinkEvent::Refused(ticket, reason) => {
                self.status.last_error = Some(reason.into());
                self.live.refused(ticket);
            }
            LinkEvent::Certificates(_) | LinkEvent::NotSubscribed | LinkEvent::Closed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use porin_core::{
        config::{Config, SinkKind},
        ids::{RouteId, StreamId},
        packet::{Quality, Reading},
        time::Unix,
    };

    use super::*;

    #[test]
    fn what_comes_late_is_published_no_more_and_a_broker_that_is_away_holds_nobody_up() {
        // Port 1: nobody is there.
        let text = "[gateway]\nid = \"x\"\n[uplink]\nbroker = \"mqtt://localhost\"\n[sinks.near.mqtt]\nbroker = \"mqtt://127.0.0.1:1\"\n";
        let sink = Config::parse(text).expect("it is good").gateway.sinks.remove(0);
        let SinkKind::Mqtt(local) = sink.kind else { panic!("it is a broker") };
        let (_time, certificate_time) = watch::channel(CertificateTime::Clock(Unix(0)));
        let broker = Broker::start(&local, SinkStatus::default(), certificate_time);
        let packet =
            Packet::Reading(Reading { time: Unix(0), value: 1.0, stream: StreamId(0), quality: Quality::GOOD });
        for (age, waiting, lost) in [(Age::Late, 0, 1), (Age::Now, 1, 1)] {
            broker.publish(&Delivery { packet: &packet, id: RouteId(0), route: "r", stream: "s", unit: "", age });
            let status = broker.status();
            assert_eq!((status.waiting, status.lost, status.taken), (waiting, lost, waiting + lost));
        }
        // It can be waited for, and ends although something waits: the thread is joined.
        while !broker.is_idle() {
            thread::yield_now();
        }
        drop(broker);
    }

    #[test]
    fn a_packet_larger_than_the_broker_takes_is_lost_alone() {
        let live = Live::new(Bounds { packets: PACKETS, bytes: BYTES, age_us: None });
        let mut state = State { live, max_bytes: 0, connection: 0, status: SinkStatus::default() };
        for (topic, bytes) in [("a", 10), ("b", 5_000), ("c", 10)] {
            let item = Item { topic: topic.into(), content_type: JSON, payload: vec![b'x'; bytes] };
            state.live.add(item, bytes, Monotonic(0));
        }
        state.learn(LinkEvent::Up { connection: 7, window: 10, max_bytes: 2_000 }, Instant::now());
        let topics: Vec<_> = std::iter::from_fn(|| state.next(false, Instant::now())).map(|next| next.topic).collect();
        assert_eq!((topics, state.live.lost()), (vec!["a".into(), "c".into()], 1));
        let error = state.status.last_error.unwrap_or_default();
        assert_eq!(error, "b: 6024 bytes, and the broker takes 2000");
    }
}
