//! The loop's side of dead letters, and of what cells log.

use porin_core::{
    config::LogTo,
    dead::{DeadLetter, Removal},
    packet::{Message, Packet, Reading},
    payload,
    time::Unix,
};
use serde_json::{Value, json};

use super::{Agent, Core, hand_out};
use crate::{
    cell_log::line_as_json,
    inbox::{DeadQuestion, Which},
    link::{JSON, Publish, Request},
    pipeline::Replayed,
    sink::Age,
    slot::hex,
};

impl Agent {
    /// Keeps packets on which cells faulted, to be written with the batch that they came with.
    pub(super) fn bury(&mut self) {
        let Core { pipeline, dead, .. } = &mut self.core;
        pipeline.take_dead(self.now.unix, |letter| dead.add(letter));
        if let Some(trial) = &mut self.trial {
            trial.forget_side_effects();
        }
    }

    /// Answers whoever asks for dead letters, as JSON.
    pub(super) fn dead(&mut self, question: &DeadQuestion) -> Value {
        match question {
            DeadQuestion::List => {
                let letters = self.core.dead.iter().map(|(id, letter)| self.letter_as_json(*id, letter));
                json!({ "dead_letters": letters.collect::<Vec<_>>() })
            }
            // What is given again goes to one set: its state would not fit the other's.
            DeadQuestion::Replay(_) if self.trial.is_some() => {
                json!({ "error": "an update is on probation: ask again when it is over" })
            }
            DeadQuestion::Replay(which) => self.replay(which),
            DeadQuestion::Discard(which) => {
                let chosen = self.chosen(which);
                let gone = |id: &&u64| self.core.dead.remove(**id, Removal::Discarded).is_some();
                let discarded = chosen.iter().filter(gone).count();
                json!({ "discarded": discarded, "unknown": chosen.len() - discarded })
            }
        }
    }

    fn chosen(&self, which: &Which) -> Vec<u64> {
        match which {
            Which::All => self.core.dead.iter().map(|(id, _)| *id).collect(),
            Which::Numbers(ids) => ids.clone(),
        }
    }

    /// Gives letters to their slots again, until one faults again: that is a new letter, and the others stay as they are. So do those whose
    /// slot is not there any more, or has no cell that may be called.
    fn replay(&mut self, which: &Which) -> Value {
        let (mut replayed, mut again, mut homeless, mut not_called, mut unknown) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
        for id in self.chosen(which) {
            let Some(letter) = self.core.dead.get(id) else {
                unknown += 1;
                continue;
            };
            let DeadLetter { route, slot, packet, .. } = letter.clone();
            let now = self.time_of_cells(time(&packet));
            let at = self.now.mono;
            self.mark_dirty();
            let from = self.core.outbox.next_seq();
            let Self { core: Core { pipeline, outbox, .. }, for_sinks, .. } = self;
            match pipeline.replay(route, &slot, packet, now, |to, kept| hand_out(outbox, for_sinks, to, kept, at)) {
                Replayed::Done => replayed += 1,
                Replayed::NoSlot => {
                    homeless += 1;
                    continue;
                }
                Replayed::NotCalled => {
                    not_called += 1;
                    continue;
                }
            }
            self.give_to_sinks(Age::Late);
            let Core { pipeline, dead, .. } = &mut self.core;
            dead.remove(id, Removal::Replayed);
            pipeline.take_dead(self.now.unix, |letter| {
                again += 1;
                dead.add(letter);
            });
            self.show_kept(from);
            if again > 0 {
                break;
            }
        }
        json!({
            "replayed": replayed, "faulted_again": again, "without_slot": homeless, "not_called": not_called, "unknown": unknown,
        })
    }

    fn letter_as_json(&self, id: u64, letter: &DeadLetter) -> Value {
        let DeadLetter { at, route, slot, digest, fault, packet } = letter;
        let Core { pipeline, route_names, .. } = &self.core;
        let route = route_names.get(route.0 as usize).map_or("", String::as_str);
        let stream = pipeline.name(packet.stream());
        let mut value = json!({
            "id": id, "at_us": at.0, "route": route, "slot": slot, "digest": hex(digest), "fault": fault, "stream": stream,
        });
        match packet {
            Packet::Reading(Reading { time, value: reading, quality, .. }) => {
                value["time_us"] = time.0.into();
                // As in what is published: what JSON has no number for is a text.
                value["value"] = serde_json::from_str(&payload::value_as_json(*reading)).unwrap_or_default();
                value["quality"] = quality.0.into();
            }
            Packet::Message(message) => {
                let Message { time, quality, topic, payload, .. } = &**message;
                value["time_us"] = time.0.into();
                value["topic"] = (**topic).into();
                value["bytes"] = payload.len().into();
                value["quality"] = quality.0.into();
            }
        }
        value
    }

    /// Writes and publishes what cells have logged. What cannot be published yet waits, a little.
    pub(super) fn pass_on_logs(&mut self) {
        let Self { core: Core { pipeline, .. }, parts, link, files, now, .. } = self;
        let max_payload = link.max_payload();
        pipeline.take_log(|slot, to, line| match to {
            LogTo::Journal => true,
            LogTo::File(file) => files.write(file, &mut line_as_json(now.unix, slot, line), Box::new(drop)),
            LogTo::Mqtt(topic) => {
                let Some(connection) = link.connection.filter(|_| parts.link.capacity() > 0) else { return false };
                let payload = line_as_json(now.unix, slot, line).into_bytes();
                if payload.len() <= max_payload {
                    let topic = topic.clone();
                    // There is room.
                    let publish =
                        Publish { connection, ticket: None, topic, retain: false, content_type: JSON, payload };
                    let _ = parts.link.try_send(Request::Publish(publish));
                }
                true
            }
        });
    }
}

fn time(packet: &Packet) -> Unix {
    match packet {
        Packet::Reading(reading) => reading.time,
        Packet::Message(message) => message.time,
    }
}
