//! A gateway `lab` with sources of its own, running, and what of them arrives.

use std::{fs, ops::Deref, path::Path};

use serde_json::Value;

use crate::{Broker, Gateway, Process, Subscriber, wait_until};

/// A running gateway and its cloud.
#[derive(Debug)]
pub struct Lab {
    /// The agent's files.
    pub gateway: Gateway,
    /// What arrives: [`Subscriber::values`] and the like.
    pub subscriber: Subscriber,
    agent: Process,
    _broker: Broker,
}

impl Lab {
    /// With these sources; everything that they make is sent.
    #[must_use]
    pub fn start(sources: &str) -> Self {
        Self::start_with(&format!("{sources}\n[routes.all]\nstreams = [\"#\"]\n"), |_| {})
    }

    /// With this configuration and what is prepared for it; it waits until the agent answers.
    pub fn start_with(rest: &str, prepare: impl FnOnce(&Gateway)) -> Self {
        let broker = Broker::mosquitto();
        let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
        let gateway = Gateway::new("lab", broker.port, rest);
        prepare(&gateway);
        let agent = gateway.run(&[]);
        wait_until("the agent runs", || gateway.status().is_some());
        Self { gateway, subscriber, agent, _broker: broker }
    }

    /// Waits until a stream has had exactly these values.
    ///
    /// # Panics
    /// If it has others.
    pub fn wait_for(&self, stream: &str, expected: &[f64]) {
        wait_until("the values", || self.values(stream).len() >= expected.len());
        assert_eq!(self.values(stream), expected);
    }

    /// What the status says of a source, by its place in the order of names.
    #[must_use]
    pub fn source(&self, index: usize) -> Value {
        self.gateway.status().map_or(Value::Null, |status| status["sources"][index].clone())
    }

    /// What the status says of a part of a source.
    #[must_use]
    pub fn part(&self, source: usize, part: usize) -> Value {
        self.source(source)["parts"][part].clone()
    }

    /// Waits until a source has counted so many lines without a meaning, the last of which is told with these words.
    ///
    /// # Panics
    /// If it is told with others.
    pub fn wait_for_bad(&self, count: u64, expected: &str) {
        wait_until("lines that mean nothing", || self.source(0)["bad_rows"].as_u64() == Some(count));
        let said = self.source(0)["last_bad_row"].clone();
        assert!(said.as_str().is_some_and(|said| said.contains(expected)), "{said}");
    }

    /// Waits until the agent has a file open.
    pub fn wait_for_open(&self, path: &Path) {
        let folder = format!("/proc/{}/fd", self.agent.id());
        wait_until("it is open", || {
            let mut links = fs::read_dir(&folder).into_iter().flatten().flatten();
            links.any(|link| fs::read_link(link.path()).is_ok_and(|opened| opened == path))
        });
    }

    /// Stops the agent, which ends well and has lost nothing.
    ///
    /// # Panics
    /// If it has.
    pub fn end(self) {
        // A status that counts what is nowhere fails by itself.
        let _ = self.gateway.status().expect("it runs");
        self.agent.terminate();
        assert!(self.agent.output().0.success());
    }
}

impl Deref for Lab {
    type Target = Subscriber;

    fn deref(&self) -> &Subscriber {
        &self.subscriber
    }
}
