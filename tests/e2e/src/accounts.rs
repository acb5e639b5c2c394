//! What gateways say of themselves: their reported states, as an operator sees them.

use porin_core::trust::{self, Reported};

use crate::{Broker, Subscriber, publish_retained, wait_until};

/// The reported states of a broker's gateways.
#[derive(Debug)]
pub struct Accounts {
    port: u16,
    subscriber: Subscriber,
}

impl Accounts {
    /// From now on.
    #[must_use]
    pub fn of(broker: &Broker) -> Self {
        let subscriber = Subscriber::start(broker.port, "porin/v1/gw/+/reported");
        Self { port: broker.port, subscriber }
    }

    /// Everything that a gateway has reported, in order.
    ///
    /// # Panics
    /// If an account is none.
    #[must_use]
    pub fn all(&self, gateway: &str) -> Vec<Reported> {
        let topic = format!("porin/v1/gw/{gateway}/reported");
        let publishes = self.subscriber.publishes().into_iter().filter(|publish| publish.topic == topic);
        publishes.map(|publish| (*trust::reported(&publish.payload).expect("signed by itself")).clone()).collect()
    }

    /// The newest account of a gateway.
    #[must_use]
    pub fn last(&self, gateway: &str) -> Option<Reported> {
        let topic = format!("porin/v1/gw/{gateway}/reported");
        let newest = self.subscriber.publishes().into_iter().rfind(|publish| publish.topic == topic);
        newest.map(|publish| (*trust::reported(&publish.payload).expect("signed by itself")).clone())
    }

    /// Waits for an account of which this is so.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait(&self, gateway: &str, what: &str, mut so: impl FnMut(&Reported) -> bool) -> Reported {
        let mut found = None;
        wait_until(what, || {
            found = self.last(gateway).filter(&mut so);
            found.is_some()
        });
        found.expect("waited for")
    }

    /// Waits until a gateway has a word for what it does about a desired state. Gives that, and why.
    ///
    /// # Panics
    /// If it does not come to an end.
    #[must_use]
    pub fn end_of(&self, gateway: &str, seq: u64) -> (String, String) {
        let account = self.wait(gateway, &format!("the end of desired state {seq} of {gateway}"), |account| {
            let ended = ["confirmed", "rejected", "rolled-back", "inconsistent"].contains(&account.state.name());
            ended && account.desired.as_ref().is_some_and(|(_, number)| *number == seq)
        });
        let code = account.reason.map_or_else(String::new, |reason| reason.code.to_string());
        (account.state.name().to_owned(), code)
    }

    /// The word that a gateway without a memory wants back.
    #[must_use]
    pub fn nonce(&self, gateway: &str) -> Option<[u8; 16]> {
        self.wait(gateway, "an account", |_| true).nonce
    }

    /// Publishes these, retained.
    pub fn retain(&self, publishes: &[(String, Vec<u8>)]) {
        publishes.iter().for_each(|(topic, payload)| publish_retained(self.port, topic, payload));
    }
}
