//! Which client gets which publish: subscriptions, retained publishes, and what waits for each client. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use porin_core::stream::chooses;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{
        DisconnectReasonCode as End, Filter, LastWill, Packet, PubAck, PubAckReason, Publish, RetainForwardRule,
        SubAck, Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
    },
    valid_filter, valid_topic,
};
use tokio::sync::Notify;

/// Clients at a time.
const MAX_CLIENTS: usize = 1_000;

/// Filters of one client.
const MAX_FILTERS: usize = 1_000;

/// Bytes that wait for one client. One that reads too slowly is disconnected rather than sent a part.
const MAX_WAITING: usize = 64 << 20;

/// Bytes of all retained publishes.
const MAX_RETAINED: usize = 64 << 20;

/// A connection; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64);

#[derive(Default)]
struct Client {
    name: String,
    filters: Vec<Filter>,
    will: Option<LastWill>,
    /// Go out at once.
    answers: VecDeque<Packet>,
    /// Go out while fewer than `window` are not acknowledged.
    publishes: VecDeque<Publish>,
    waiting: usize,
    window: usize,
    unacknowledged: BTreeSet<u16>,
    last_id: u16,
    end: Option<End>,
    /// Rung when there is something to send.
    bell: Rc<Notify>,
}

impl Client {
    fn answer(&mut self, packet: Packet) {
        self.waiting += packet.size();
        self.answers.push_back(packet);
        self.ring();
    }

    fn publish(&mut self, publish: Publish) {
        self.waiting += publish.size();
        self.publishes.push_back(publish);
        self.ring();
    }

    fn ring(&mut self) {
        if self.waiting > MAX_WAITING {
            self.end.get_or_insert(End::QuotaExceeded);
        }
        self.bell.notify_one();
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.unacknowledged.insert(self.last_id) {
                return self.last_id;
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Router {
    clients: BTreeMap<Id, Client>,
    retained: BTreeMap<String, Publish>,
    retained_bytes: usize,
    next: u64,
}

impl Router {
    /// For a client that comes without a name.
    pub(super) fn new_name(&mut self) -> String {
        self.next += 1;
        format!("porin-{}", self.next)
    }

    pub(super) fn is_full(&self) -> bool {
        self.clients.len() >= MAX_CLIENTS
    }

    /// A client comes, and ends the connection that has its name. `window` is how many publishes it takes before it acknowledges.
    pub(super) fn come(&mut self, name: String, window: u16, will: Option<LastWill>) -> (Id, Rc<Notify>) {
        let old = self.clients.iter_mut().find(|(_, client)| client.name == name && client.end.is_none());
        if let Some((&id, client)) = old {
            client.end = Some(End::SessionTakenOver);
            client.ring();
            // Now, so that what the new connection says comes after it.
            let will = client.will.take();
            self.publish_will(id, will);
        }
        self.next += 1;
        let client = Client { name, window: window.into(), will, ..Client::default() };
        let bell = client.bell.clone();
        self.clients.insert(Id(self.next), client);
        (Id(self.next), bell)
    }

    /// Cancels the client's will: it has sent a normal DISCONNECT.
    pub(super) fn cancel_will(&mut self, id: Id) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.will = None;
        }
    }

    /// Removes a client whose connection has ended, and publishes its will.
    pub(super) fn leave(&mut self, id: Id) {
        let will = self.clients.remove(&id).and_then(|client| client.will);
        self.publish_will(id, will);
    }

    fn publish_will(&mut self, from: Id, will: Option<LastWill>) {
        if let Some(LastWill { topic, message, qos, retain, .. }) = will {
            self.publish(from, Publish { topic, payload: message, qos, retain, ..Publish::default() });
        }
    }

    /// What a client sends. An error ends its connection.
    #[allow(clippy::wildcard_enum_match_arm)] // what a broker sends, or QoS 2
    pub(super) fn take(&mut self, id: Id, packet: Packet) -> Result<(), End> {
        let answer = match packet {
            Packet::Publish(publish) => {
                let (pkid, qos) = (publish.pkid, publish.qos);
                if qos == QoS::ExactlyOnce {
                    return Err(End::QoSNotSupported);
                }
                if publish.properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some()) {
                    return Err(End::TopicAliasInvalid);
                }
                let reason = self.publish(id, publish);
                if qos == QoS::AtMostOnce {
                    return Ok(());
                }
                Packet::PubAck(PubAck { pkid, reason, properties: None })
            }
            Packet::PubAck(ack) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.unacknowledged.remove(&ack.pkid);
                    client.ring();
                }
                return Ok(());
            }
            Packet::Subscribe(subscribe) => return self.subscribe(id, subscribe),
            Packet::Unsubscribe(Unsubscribe { pkid, filters, .. }) => {
                let reasons = filters.iter().map(|filter| self.unsubscribe(id, filter)).collect();
                Packet::UnsubAck(UnsubAck { pkid, reasons, properties: None })
            }
            Packet::PingReq(_) => Packet::PingResp(rumqttc::v5::mqttbytes::v5::PingResp),
            _ => return Err(End::ProtocolError),
        };
        if let Some(client) = self.clients.get_mut(&id) {
            client.answer(answer);
        }
        Ok(())
    }

    fn publish(&mut self, from: Id, publish: Publish) -> PubAckReason {
        let Some(topic) =
            std::str::from_utf8(&publish.topic).ok().filter(|topic| !topic.is_empty() && valid_topic(topic))
        else {
            return PubAckReason::TopicNameInvalid;
        };
        if publish.retain && !self.retain(topic, &publish) {
            return PubAckReason::QuotaExceeded;
        }
        let mut reason = PubAckReason::NoMatchingSubscribers;
        for (id, client) in &mut self.clients {
            let filters =
                client.filters.iter().filter(|filter| is_for(filter, topic) && !(filter.nolocal && *id == from));
            // Once, however many of its filters choose it.
            let Some((qos, retain)) = filters.map(|filter| (filter.qos as u8, filter.preserve_retain)).max() else {
                continue;
            };
            client.publish(copy(&publish, qos, publish.retain && retain));
            reason = PubAckReason::Success;
        }
        reason
    }

    /// Keeps it for those who subscribe later; an empty one is forgotten. False if there is no room.
    fn retain(&mut self, topic: &str, publish: &Publish) -> bool {
        let old = self.retained.get(topic).map_or(0, Publish::size);
        let new = if publish.payload.is_empty() { 0 } else { publish.size() };
        let bytes = self.retained_bytes - old + new;
        if new > old && bytes > MAX_RETAINED {
            return false;
        }
        self.retained_bytes = bytes;
        if new == 0 {
            self.retained.remove(topic);
        } else {
            self.retained.insert(topic.to_owned(), publish.clone());
        }
        true
    }

    fn subscribe(&mut self, id: Id, Subscribe { pkid, filters, .. }: Subscribe) -> Result<(), End> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let mut codes = Vec::new();
        let mut kept = Vec::new();
        for mut filter in filters {
            codes.push(if filter.path.starts_with("$share/") {
                SubscribeReasonCode::SharedSubscriptionsNotSupported
            } else if !valid_filter(&filter.path) {
                SubscribeReasonCode::TopicFilterInvalid
            } else if client.filters.len() >= MAX_FILTERS {
                SubscribeReasonCode::QuotaExceeded
            } else {
                if filter.qos == QoS::ExactlyOnce {
                    filter.qos = QoS::AtLeastOnce;
                }
                let before = client.filters.len();
                client.filters.retain(|old| old.path != filter.path);
                let wanted = match filter.retain_forward_rule {
                    RetainForwardRule::OnEverySubscribe => true,
                    RetainForwardRule::OnNewSubscribe => client.filters.len() == before,
                    RetainForwardRule::Never => false,
                };
                client.filters.push(filter.clone());
                let chosen = self.retained.iter().filter(|(topic, _)| wanted && is_for(&filter, topic));
                kept.extend(chosen.map(|(_, publish)| copy(publish, filter.qos as u8, true)));
                SubscribeReasonCode::Success(filter.qos)
            });
        }
        client.answer(Packet::SubAck(SubAck { pkid, return_codes: codes, properties: None }));
        kept.into_iter().for_each(|publish| client.publish(publish));
        Ok(())
    }

    fn unsubscribe(&mut self, id: Id, path: &str) -> UnsubAckReason {
        let Some(client) = self.clients.get_mut(&id) else { return UnsubAckReason::UnspecifiedError };
        let before = client.filters.len();
        client.filters.retain(|filter| filter.path != path);
        if client.filters.len() < before { UnsubAckReason::Success } else { UnsubAckReason::NoSubscriptionExisted }
    }

    /// What goes to the client next. An error ends its connection.
    pub(super) fn next(&mut self, id: Id) -> Result<Option<Packet>, End> {
        let Some(client) = self.clients.get_mut(&id) else { return Err(End::UnspecifiedError) };
        if let Some(end) = client.end {
            return Err(end);
        }
        if let Some(packet) = client.answers.pop_front() {
            client.waiting -= packet.size();
            return Ok(Some(packet));
        }
        if client.unacknowledged.len() >= client.window {
            return Ok(None);
        }
        Ok(client.publishes.pop_front().map(|mut publish| {
            client.waiting -= publish.size();
            if publish.qos == QoS::AtLeastOnce {
                publish.pkid = client.free_id();
            }
            Packet::Publish(publish)
        }))
    }
}

fn is_for(filter: &Filter, topic: &str) -> bool {
    // MQTT 4.7.2: a wildcard at the start does not choose the broker's own topics.
    !(topic.starts_with('$') && filter.path.starts_with(['+', '#'])) && chooses(&filter.path, topic)
}

/// A publish as one subscriber gets it.
fn copy(publish: &Publish, qos: u8, retain: bool) -> Publish {
    let at_least_once = publish.qos != QoS::AtMostOnce && qos > 0;
    let qos = if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    Publish { dup: false, qos, retain, pkid: 0, ..publish.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(router: &mut Router, name: &str, filters: &[Filter]) -> Id {
        let (id, _) = router.come(name.into(), 2, None);
        let subscribe = Subscribe { pkid: 1, filters: filters.to_vec(), properties: None };
        router.take(id, Packet::Subscribe(subscribe)).expect("it goes on");
        if !filters.is_empty() {
            assert!(matches!(router.next(id), Ok(Some(Packet::SubAck(_)))));
        }
        id
    }

    fn filter(path: &str) -> Filter {
        Filter::new(path, QoS::AtLeastOnce)
    }

    fn say(router: &mut Router, from: Id, topic: &str, payload: &str) -> PubAckReason {
        let publish = Publish { pkid: 9, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None) };
        router.take(from, Packet::Publish(publish)).expect("it goes on");
        match router.clients.get_mut(&from).and_then(|client| client.answers.pop_back()) {
            Some(Packet::PubAck(PubAck { pkid: 9, reason, .. })) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The payload of the next publish, and its id.
    fn heard(router: &mut Router, id: Id) -> Option<(String, u16)> {
        match router.next(id).expect("it goes on") {
            None => None,
            Some(Packet::Publish(publish)) => {
                Some((String::from_utf8(publish.payload.to_vec()).expect("text"), publish.pkid))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_subscriber_gets_a_publish_once() {
        let mut router = Router::default();
        let twice = client(&mut router, "twice", &[filter("a/#"), filter("a/+"), filter("+")]);
        let own = client(&mut router, "own", &[Filter { nolocal: true, ..filter("#") }]);
        let speaker = client(&mut router, "speaker", &[]);
        assert_eq!(say(&mut router, speaker, "a/b", "1"), PubAckReason::Success);
        assert_eq!(say(&mut router, own, "a", "2"), PubAckReason::Success);
        // A wildcard at the start does not choose the broker's own topics.
        assert_eq!(say(&mut router, speaker, "$x", "3"), PubAckReason::NoMatchingSubscribers);
        assert_eq!(say(&mut router, speaker, "a/+", "4"), PubAckReason::TopicNameInvalid);
        assert_eq!(heard(&mut router, twice), Some(("1".into(), 1)));
        assert_eq!(heard(&mut router, twice), Some(("2".into(), 2)));
        assert_eq!(heard(&mut router, own), Some(("1".into(), 1)));
        assert_eq!(heard(&mut router, own), None);
    }

    #[test]
    fn no_more_is_on_its_way_than_the_client_takes() {
        let mut router = Router::default();
        let slow = client(&mut router, "slow", &[filter("#")]);
        let speaker = client(&mut router, "speaker", &[]);
        for payload in ["1", "2", "3"] {
            say(&mut router, speaker, "a", payload);
        }
        assert_eq!(heard(&mut router, slow), Some(("1".into(), 1)));
        assert_eq!(heard(&mut router, slow), Some(("2".into(), 2)));
        assert_eq!(heard(&mut router, slow), None);
        router.take(slow, Packet::PubAck(PubAck::new(1, None))).expect("it goes on");
        assert_eq!(heard(&mut router, slow), Some(("3".into(), 3)));
        router.take(slow, Packet::PubAck(PubAck::new(2, None))).expect("it goes on");
        router.take(slow, Packet::PubAck(PubAck::new(3, None))).expect("it goes on");
        assert_eq!(router.clients[&slow].waiting, 0);
    }

    #[test]
    fn a_client_that_reads_too_slowly_is_disconnected_and_others_are_not() {
        let mut router = Router::default();
        let slow = client(&mut router, "slow", &[filter("#")]);
        let quick = client(&mut router, "quick", &[filter("#")]);
        let speaker = client(&mut router, "speaker", &[]);
        let payload = "x".repeat(200_000);
        for _ in 0..MAX_WAITING / payload.len() + 1 {
            say(&mut router, speaker, "a", &payload);
            let (_, id) = heard(&mut router, quick).expect("it is for both");
            router.take(quick, Packet::PubAck(PubAck::new(id, None))).expect("it goes on");
        }
        assert_eq!(router.next(slow), Err(End::QuotaExceeded));
        assert_eq!(router.next(quick), Ok(None));
    }

    #[test]
    fn what_is_retained_has_a_bound_and_an_empty_publish_makes_room() {
        let mut router = Router::default();
        let speaker = client(&mut router, "speaker", &[]);
        let mut retain = |topic: String, bytes: usize| {
            let publish = Publish { retain: true, ..Publish::new(topic, QoS::AtLeastOnce, vec![0; bytes], None) };
            router.publish(speaker, publish)
        };
        let fit = MAX_RETAINED / 200_020;
        for number in 0..fit {
            assert_eq!(retain(format!("t/{number:04}"), 200_000), PubAckReason::NoMatchingSubscribers, "{number}");
        }
        assert_eq!(retain("more".into(), 200_000), PubAckReason::QuotaExceeded);
        assert_eq!(retain("t/0000".into(), 0), PubAckReason::NoMatchingSubscribers);
        assert_eq!(retain("more".into(), 200_000), PubAckReason::NoMatchingSubscribers);
    }

    #[test]
    fn a_new_connection_replaces_one_of_the_same_name_after_its_will() {
        let mut router = Router::default();
        let listener = client(&mut router, "listener", &[filter("#")]);
        let will = LastWill::new("state", "offline", QoS::AtLeastOnce, false, None);
        let (old, _) = router.come("gateway".into(), 2, Some(will.clone()));
        let (new, _) = router.come("gateway".into(), 2, Some(will.clone()));
        say(&mut router, new, "state", "online");
        router.leave(old);
        assert_eq!(router.next(old), Err(End::UnspecifiedError));
        assert_eq!(heard(&mut router, listener), Some(("offline".into(), 1)));
        assert_eq!(heard(&mut router, listener), Some(("online".into(), 2)));
        // A normal DISCONNECT cancels the will.
        router.take(listener, Packet::PubAck(PubAck::new(1, None))).expect("it goes on");
        router.cancel_will(new);
        router.leave(new);
        assert_eq!(heard(&mut router, listener), None);
    }

    #[test]
    fn what_the_broker_does_not_have_ends_the_connection_with_its_reason() {
        let mut router = Router::default();
        let id = client(&mut router, "x", &[]);
        let twice = Publish::new("a", QoS::ExactlyOnce, "x", None);
        assert_eq!(router.take(id, Packet::Publish(twice)), Err(End::QoSNotSupported));
        let properties = rumqttc::v5::mqttbytes::v5::PublishProperties { topic_alias: Some(1), ..Default::default() };
        let alias = Publish::new("", QoS::AtMostOnce, "x", Some(properties));
        assert_eq!(router.take(id, Packet::Publish(alias)), Err(End::TopicAliasInvalid));
        assert_eq!(router.take(id, Packet::PingResp(rumqttc::v5::mqttbytes::v5::PingResp)), Err(End::ProtocolError));
    }
}
