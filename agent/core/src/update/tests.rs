//! A gateway in memory: a cloud that retains, a disk of rows, and an agent that does what it is told.

use alloc::{borrow::ToOwned, string::ToString, vec};

use ring::signature::{Ed25519KeyPair, KeyPair};

use super::{
    rows::{PIECES, target_name},
    *,
};
use crate::{
    config::Provenance,
    health::State,
    reason::Code,
    trust::{
        Envelope, Health, Key as PublicKey, Memory, Publisher, Release, Reported, Role, Signature,
        documents::{Document, PIECE},
        signing_input,
    },
};

const NONCE: [u8; 16] = [5; 16];
const OWN: &str = "[gateway]\nid = \"gw\"\n[uplink]\nbroker = \"mqtt://localhost\"\n\
    [slots.quiet]\ncell = \"/cells/deadband.wasm\"\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n";

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

fn key(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn role(seed: u8) -> Role {
    Role { keys: vec![key(seed)], threshold: 1 }
}

fn signed<D: Document>(document: &D, seeds: &[u8]) -> Vec<u8> {
    let payload = document.encode();
    let sign = |seed: &u8| {
        let signature = pair(*seed).sign(&signing_input(D::KIND, &payload));
        Signature::new(&key(*seed), signature.as_ref().try_into().expect("64 bytes"))
    };
    let signatures = seeds.iter().map(sign).collect();
    Envelope { kind: D::KIND, payload, signatures }.encode()
}

/// Keys: 1 root, 2 operator, 3 publisher.
fn root(version: u64, operator: u8) -> Root {
    let (name, prefix) = ("acme".into(), "acme".into());
    let publisher =
        Publisher { name, role: role(3), prefix, slots: vec!["quiet".into(), "loud".into(), "more".into()] };
    let (fleet, expires) = ("lab".into(), Unix(u64::MAX));
    Root { version, fleet, expires, root: role(1), operator: role(operator), publishers: vec![publisher] }
}

/// Bytes of a component in two pieces; what is in them does not matter here.
fn component(seq: u64) -> Vec<u8> {
    vec![u8::try_from(seq).expect("small"); PIECE + 100]
}

fn release(seq: u64) -> Release {
    let bytes = component(seq);
    Release {
        cell: "acme/pass".into(),
        seq,
        semver: "1.0.0".into(),
        sha256: Digest::of(&bytes),
        size: u32::try_from(bytes.len()).expect("small"),
        pieces: bytes.chunks(PIECE).map(Digest::of).collect(),
        world: "filter".into(),
        imports: vec![],
        boards: vec![],
        health: Health { min_per_mille: 100, max_per_mille: 900 },
        issued: Unix(5),
    }
}

fn set(release: Digest, more: &str) -> String {
    format!(
        "[probation]\nshadow = \"1s\"\ncanary = \"2s\"\npackets = 10\n[slots.quiet]\ncell = \"release:{release}\"\n{more}\n\
         [routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n"
    )
}

struct Rig {
    config: Config,
    update: Update,
    now: u64,
    time: Time,
    /// What the broker retains.
    cloud: BTreeMap<String, Vec<u8>>,
    subscribed: BTreeMap<String, u32>,
    /// What was delivered, by topic.
    deliveries: Vec<String>,
    disk: BTreeMap<String, Vec<u8>>,
    /// What lies beside it.
    marker: Option<Marker>,
    /// What the commit at hand writes.
    under_way: Vec<Write>,
    marked: Option<Marker>,
    /// After so many more commits the power is cut.
    commits_left: Option<usize>,
    stage: Result<Vec<SlotStatus>, NotStaged>,
    /// What the new set does: packets in, out, faults.
    does: (u64, u64, u64),
    trying: bool,
    switched: bool,
    told: Vec<(&'static str, String)>,
}

impl Rig {
    fn new() -> Self {
        let config = Config::parse(OWN).expect("good");
        let disk = BTreeMap::new();
        let update = recall(&config, &disk, None, false);
        let rig = Self {
            config,
            update,
            now: 0,
            time: Time::Known(Unix(1_000_000_000_000_000)),
            cloud: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            deliveries: vec![],
            disk,
            marker: None,
            under_way: vec![],
            marked: None,
            commits_left: None,
            stage: Ok(vec![]),
            does: (10, 5, 0),
            trying: false,
            switched: false,
            told: vec![],
        };
        rig.with_releases(&[1, 2, 3])
    }

    fn with_releases(mut self, seqs: &[u64]) -> Self {
        seqs.iter().for_each(|seq| self.publish(&release(*seq), &[3]));
        self
    }

    fn publish(&mut self, release: &Release, seeds: &[u8]) {
        let digest = Digest::of(&release.encode());
        self.cloud.insert(format!("porin/v1/fleet/rel/{digest}"), signed(release, seeds));
        let bytes = component(release.seq);
        for (piece, bytes) in bytes.chunks(PIECE).enumerate() {
            self.cloud.insert(format!("porin/v1/fleet/blob/{}/{piece}", release.sha256), bytes.to_vec());
        }
    }

    fn desire(&mut self, seq: u64, set: String) {
        self.desire_by(2, Target::Gateway("gw".into()), seq, set);
    }

    fn desire_by(&mut self, operator: u8, target: Target, seq: u64, set: String) {
        let (fleet, issued, expires) = ("lab".into(), Unix(5), Unix(u64::MAX));
        let topic = format!("porin/v1/{}/desired", target_name(&target));
        let desired = Desired { fleet, target, seq, issued, expires, root_version: 1, nonce: Some(NONCE), set };
        self.put(&topic, signed(&desired, &[operator]));
    }

    /// Retained; whoever is subscribed gets it at once.
    fn put(&mut self, topic: &str, payload: Vec<u8>) {
        self.cloud.insert(topic.to_owned(), payload);
        self.subscribed.remove(topic);
    }

    fn step(&mut self, event: Event<'_>) {
        let moment = Moment { mono: Monotonic(self.now), time: self.time };
        let mut actions = self.update.step(moment, &self.config, event);
        while !actions.is_empty() {
            let mut next = Vec::new();
            for action in actions {
                match action {
                    Action::Stage(_) => {
                        let trial = self.update.trial.expect("an attempt");
                        let row = postcard::to_allocvec(&trial).expect("memory");
                        assert_eq!(
                            self.disk.get("trial").map(|row| &row[1..]),
                            Some(&row[..]),
                            "written down before it is done"
                        );
                        self.trying = self.stage.is_ok();
                        let moment = Moment { mono: Monotonic(self.now), time: self.time };
                        next.extend(self.update.step(moment, &self.config, Event::Staged(self.stage.clone())));
                    }
                    Action::Switch => self.switched = true,
                    Action::Confirm => {
                        let goal = self.update.goal().map(|goal| &goal.payload[..]);
                        assert_eq!(
                            self.disk.get("confirmed").map(|row| &row[1..]),
                            goal,
                            "written down before it is done"
                        );
                        (self.trying, self.switched) = (false, false);
                    }
                    Action::Discard => (self.trying, self.switched) = (false, false),
                    Action::Send { .. } => {}
                    Action::Tell(told) => {
                        self.told.push((
                            told.step.word(),
                            told.reason.map_or_else(String::new, |reason| reason.code.to_string()),
                        ));
                    }
                }
            }
            actions = next;
        }
    }

    /// Lets everything happen that can, for so many tenths of a second. `false`: the power was cut.
    fn run(&mut self, tenths: u64) -> bool {
        for _ in 0..tenths {
            self.now += 100_000;
            self.step(Event::Tick);
            for (topic, generation) in self.update.topics() {
                if self.subscribed.insert(topic.clone(), generation) != Some(generation)
                    && let Some(payload) = self.cloud.get(&topic).cloned()
                {
                    self.deliveries.push(topic.clone());
                    self.step(Event::Came { topic: &topic, payload: &payload });
                }
            }
            // A commit takes a tenth of a second: what is decided meanwhile is not in it.
            let written = core::mem::take(&mut self.under_way);
            if !written.is_empty() {
                if self.commits_left == Some(0) {
                    return false;
                }
                self.commits_left = self.commits_left.map(|left| left - 1);
                for Write { key, value } in written {
                    match value {
                        Some(value) => drop(self.disk.insert(key, value)),
                        None => drop(self.disk.remove(&key)),
                    }
                }
                self.marker = self.marked.take();
                self.step(Event::Saved);
            }
            self.under_way = self.update.unsaved();
            self.marked = self.update.marker();
            if self.trying {
                let (input, output, faults) = self.does;
                let name = "quiet".into();
                let new = SlotStatus { name, input, processed: input, output, faults, ..SlotStatus::default() };
                let old = SlotStatus { output: 5, faults: 0, ..new.clone() };
                self.step(Event::Compared { new: &[new], old: &[old] });
            }
        }
        true
    }

    fn restart(&mut self, crashed: bool) {
        self.update = recall(&self.config, &self.disk, self.marker.clone(), crashed);
        self.subscribed.clear();
        (self.trying, self.switched, self.commits_left) = (false, false, None);
        self.under_way.clear();
    }

    /// What is in the slot: the number of its release, 0 for the owner's own.
    fn running(&mut self) -> u64 {
        let kept = recall(&self.config, &self.disk, self.marker.clone(), false).kept(&self.config);
        match &kept.routes[0].slots[0].cell {
            Provenance::Local(_) => 0,
            Provenance::Signed(release) => release.seq,
        }
    }

    fn state(&self) -> (&'static str, String) {
        let (state, reason) = self.update.state();
        (state.name(), reason.map_or_else(String::new, |reason| reason.code.to_string()))
    }

    fn refused(&self) -> String {
        self.update.refused.as_ref().map_or_else(String::new, |reason| reason.code.to_string())
    }

    fn told(&self) -> Vec<&'static str> {
        self.told.iter().map(|(what, _)| *what).collect()
    }
}

fn recall(config: &Config, disk: &BTreeMap<String, Vec<u8>>, marker: Option<Marker>, crashed: bool) -> Update {
    let rows: Vec<_> = disk.clone().into_iter().collect();
    let me =
        Me { id: "gw".into(), groups: vec!["north".into(), "all".into()], board: Some("rpi-4b".into()), nonce: NONCE };
    let mut update = Update::recall(me, &signed(&root(1, 2), &[1]), (&rows, marker), crashed, config.cells.clone())
        .expect("its own rows");
    update.kept(config);
    update
}

fn digest(seq: u64) -> Digest {
    Digest::of(&release(seq).encode())
}

#[test]
fn a_release_goes_through_shadow_and_canary_and_is_kept() {
    let mut rig = Rig::new();
    assert_eq!(rig.state(), ("local", String::new()));
    rig.desire(1, set(digest(1), ""));
    rig.run(8);
    assert_eq!((rig.state().0, rig.switched, rig.running()), ("shadow", false, 0));
    rig.run(10);
    assert_eq!((rig.state().0, rig.switched, rig.running()), ("canary", true, 0));
    rig.run(30);
    assert_eq!((rig.state().0, rig.trying, rig.running()), ("confirmed", false, 1));
    assert_eq!(rig.told(), ["accepted", "shadow", "canary", "confirmed"]);
    // Nothing came twice.
    let fetched: Vec<_> = rig.deliveries.iter().filter(|topic| topic.contains("/fleet/")).collect();
    assert_eq!(fetched.len(), 3, "{fetched:?}");
    // The same again, as after every connection, changes nothing.
    rig.subscribed.clear();
    let before = rig.disk.clone();
    rig.run(30);
    assert_eq!((before == rig.disk, rig.told().len()), (true, 4));
}

#[test]
fn the_power_may_be_cut_before_every_write_and_the_old_set_or_the_new_one_runs() {
    let mut cuts = 0;
    for commits in 0.. {
        let mut rig = Rig::new();
        rig.desire(1, set(digest(1), "min_seq = 1"));
        rig.run(100);
        rig.desire(2, set(digest(2), "min_seq = 2"));
        rig.commits_left = Some(commits);
        if rig.run(100) {
            assert_eq!(rig.running(), 2);
            break;
        }
        cuts += 1;
        assert!(matches!(rig.running(), 1 | 2), "after {commits} commits");
        let floor = |rig: &Rig| rig.disk.get("floor/acme/pass").cloned();
        let before = floor(&rig);
        assert!(before.is_some(), "floors are never forgotten");
        let pieces = rig.disk.keys().filter(|key| key.starts_with(PIECES)).count();
        rig.deliveries.clear();
        rig.restart(false);
        assert!(rig.run(100), "after {commits} commits");
        assert_eq!((rig.running(), rig.state().0), (2, "confirmed"), "after {commits} commits");
        assert!(floor(&rig) >= before);
        // What is here does not come again.
        let fetched = rig.deliveries.iter().filter(|topic| topic.contains("/blob/")).count();
        assert!(fetched + pieces.saturating_sub(2) <= 2, "{fetched} pieces after {pieces}");
    }
    assert!(cuts >= 5, "{cuts}");
}

#[test]
fn whatever_else_is_written_meanwhile_a_set_is_kept_only_when_that_is_on_the_disk() {
    for tenths in 0..45 {
        let mut rig = Rig::new();
        rig.desire(1, set(digest(1), ""));
        rig.run(tenths);
        // Its row is in a commit of its own, or in whichever is next.
        rig.put("porin/v1/fleet/root/2", signed(&root(2, 2), &[1]));
        rig.run(100);
        assert_eq!((rig.state().0, rig.update.root().version, rig.running()), ("confirmed", 2, 1), "after {tenths}");
    }
}

#[test]
fn a_probation_that_is_cut_short_is_tried_three_times_and_then_rolled_back() {
    let check = |crashed, code: &str| {
        let mut rig = Rig::new();
        rig.desire(1, set(digest(1), ""));
        for _ in 0..3 {
            rig.run(10);
            assert_eq!(rig.state().0, "shadow");
            rig.restart(crashed);
        }
        rig.run(10);
        assert_eq!((rig.state(), rig.running()), (("rolled-back", code.into()), 0));
        rig.restart(false);
        rig.run(50);
        assert_eq!(rig.state(), ("rolled-back", code.into()), "also after a restart");
    };
    check(false, "interrupted");
    check(true, "agent-crash");
}

#[test]
fn a_cell_that_fails_on_probation_is_rolled_back_and_stays_blocked_until_retry_rises() {
    let check = |does, code: &str| {
        let mut rig = Rig::new();
        rig.does = does;
        rig.desire(1, set(digest(1), ""));
        rig.run(40);
        assert_eq!((rig.state(), rig.running(), rig.trying), (("rolled-back", code.into()), 0, false));
        rig.does = (10, 5, 0);
        rig.desire(2, set(digest(1), ""));
        rig.run(60);
        assert_eq!((rig.state(), rig.running()), (("rejected", "blocked".into()), 0));
        rig.restart(false);
        rig.desire(3, set(digest(1), "retry = 1"));
        rig.run(60);
        assert_eq!((rig.state().0, rig.running()), ("confirmed", 1));
    };
    check((3, 1, 1), "fault");
    check((10, 10, 0), "output-ratio");
    check((10, 0, 0), "output-ratio");
}

#[test]
fn what_is_not_for_this_gateway_changes_nothing_and_says_why() {
    let check = |prepare: &dyn Fn(&mut Rig), state: (&str, &str), refused: &str| {
        let mut rig = Rig::new();
        rig.desire(1, set(digest(2), "min_seq = 2"));
        rig.run(60);
        assert_eq!(rig.running(), 2);
        prepare(&mut rig);
        rig.run(60);
        assert_eq!((rig.state().0, rig.state().1.as_str(), rig.refused().as_str()), (state.0, state.1, refused));
        assert_eq!((rig.running(), rig.trying), (2, false));
    };
    let kept = ("confirmed", "");
    check(&|rig| rig.desire_by(9, Target::Gateway("gw".into()), 2, set(digest(3), "")), kept, "too-few-signatures");
    check(&|rig| rig.desire_by(3, Target::Gateway("gw".into()), 2, set(digest(3), "")), kept, "too-few-signatures");
    check(&|rig| rig.desire(0, set(digest(3), "")), kept, "older");
    check(&|rig| rig.desire(1, set(digest(3), "")), kept, "same-number");
    let other = |rig: &mut Rig| {
        rig.desire_by(2, Target::Gateway("gw2".into()), 2, set(digest(3), ""));
        let stolen = rig.cloud["porin/v1/gw/gw2/desired"].clone();
        rig.put("porin/v1/gw/gw/desired", stolen);
    };
    check(&other, kept, "other-gateway");
    check(&|rig| rig.put("porin/v1/gw/gw/desired", vec![0; 20_000]), kept, "too-large");
    check(&|rig| rig.put("porin/v1/gw/gw/desired", b"junk".to_vec()), kept, "unknown-version");
    check(&|rig| rig.put("porin/v1/gw/gw/desired", vec![]), kept, "");
    check(&|rig| rig.desire(2, set(digest(1), "")), ("rejected", "below-floor"), "below-floor");
    check(&|rig| rig.desire(2, set(digest(3), "min_seq = 4")), ("rejected", "below-floor"), "below-floor");
    check(&|rig| rig.desire(2, "[slots".into()), ("rejected", "bad-set"), "");
    check(&|rig| rig.desire(2, set(digest(3), "grants = [\"network\"]")), ("rejected", "bad-set"), "");
    check(&|rig| rig.desire(2, set(digest(3), "tick = \"1ms\"")), ("rejected", "bad-set"), "");
    let policed = |rig: &mut Rig| {
        rig.config.policy = crate::config::Policy::parse("grants = []").expect("good");
        rig.desire(2, set(digest(3), "grants = [\"log\"]"));
    };
    check(&policed, ("rejected", "beyond-policy"), "");
    let slot = |name| format!("[slots.{name}]\ncell = \"release:{}\"\nlimits = {{ memory_pages = 256 }}\n", digest(3));
    let three = set(digest(3), &format!("limits = {{ memory_pages = 1 }}\n{}{}", slot("loud"), slot("more")));
    let three = three.replace("slots = [\"quiet\"]", "slots = [\"quiet\", \"loud\", \"more\"]");
    check(&|rig| rig.desire(2, three.clone()), ("rejected", "over-memory"), "");
    let staging = |rig: &mut Rig| {
        rig.stage = Err(NotStaged::Unfit(Reason::new(Code::UndeclaredImport, "it imports wasi:sockets")));
        rig.desire(2, set(digest(3), ""));
    };
    check(&staging, ("rejected", "undeclared-import"), "");
    let odd = |change: fn(&mut Release), seeds: &'static [u8]| {
        move |rig: &mut Rig| {
            let mut release = release(7);
            change(&mut release);
            rig.publish(&release, seeds);
            rig.desire(2, set(Digest::of(&release.encode()), ""));
        }
    };
    let check_odd = |change, seeds, code| check(&odd(change, seeds), ("rejected", code), code);
    // Whoever carries it may have taken the signatures off: it is asked for again.
    check(&odd(|_| (), &[9]), ("fetching", ""), "too-few-signatures");
    check_odd(|release| release.cell = "other/pass".into(), &[3], "outside-prefix");
    check_odd(|release| release.boards = vec!["rpi-3b".into()], &[3], "other-board");
    check(&odd(|release| release.world = "filter2".into(), &[3]), ("rejected", "unknown-world"), "");
    check(&odd(|release| release.world = "decoder".into(), &[3]), ("rejected", "other-world"), "");
    let slots = set(digest(3), "").replace("quiet", "other");
    check(&|rig| rig.desire(2, slots.clone()), ("rejected", "outside-slots"), "outside-slots");
}

#[test]
fn a_part_that_does_not_come_or_is_wrong_stalls_and_nothing_is_lost() {
    let mut rig = Rig::new();
    let second = format!("porin/v1/fleet/blob/{}/1", release(1).sha256);
    let bytes = rig.cloud.remove(&second).expect("two pieces");
    rig.desire(1, set(digest(1), ""));
    rig.run(250);
    assert_eq!(rig.state(), ("stalled", "stalled".into()));
    rig.put(&second, vec![0; 100]);
    rig.run(10);
    assert_eq!((rig.state().0, rig.refused().as_str()), ("stalled", "other-digest"));
    rig.put(&second, vec![0; PIECE + 1]);
    rig.run(10);
    assert_eq!(rig.refused(), "too-large");
    assert!(!rig.disk.keys().any(|key| key.ends_with("/1") && key.starts_with(PIECES)));
    // Asked for again after a while, without anybody doing anything.
    rig.cloud.insert(second, bytes);
    rig.run(700);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 1));
    let first = rig.deliveries.iter().filter(|topic| topic.ends_with("/0")).count();
    assert_eq!(first, 1);
}

#[test]
fn a_disk_that_does_not_give_what_it_has_is_asked_again() {
    let mut rig = Rig::new();
    rig.stage = Err(NotStaged::NotNow);
    rig.desire(1, set(digest(1), ""));
    rig.run(50);
    assert_eq!((rig.state(), rig.running()), (("staged", String::new()), 0));
    rig.stage = Ok(vec![]);
    rig.run(60);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 1));
}

#[test]
fn a_cell_that_fails_on_recorded_packets_never_sees_live_ones() {
    let check = |input: u64, output: u64, faults: u64, ends: (&str, &str)| {
        let mut rig = Rig::new();
        let name = "quiet".into();
        rig.stage = Ok(vec![SlotStatus { name, input, processed: input, output, faults, ..SlotStatus::default() }]);
        rig.desire(1, set(digest(1), ""));
        rig.run(60);
        assert_eq!((rig.state().0, rig.state().1.as_str()), ends);
        assert_eq!(rig.told().contains(&"shadow"), ends.0 == "confirmed");
    };
    check(3, 1, 1, ("rolled-back", "fault"));
    check(10, 10, 0, ("rolled-back", "output-ratio"));
    // Too few to say anything but that it does not fault.
    check(9, 9, 0, ("confirmed", ""));
    check(10, 5, 0, ("confirmed", ""));
}

#[test]
fn what_has_expired_is_not_taken_up_and_what_runs_goes_on() {
    let mut rig = Rig::new();
    rig.desire(1, set(digest(1), ""));
    rig.run(60);
    let (fleet, target) = ("lab".into(), Target::Gateway("gw".into()));
    let desired = Desired {
        fleet,
        target,
        seq: 2,
        issued: Unix(5),
        expires: Unix(100),
        root_version: 1,
        nonce: None,
        set: set(digest(2), ""),
    };
    rig.put("porin/v1/gw/gw/desired", signed(&desired, &[2]));
    rig.run(60);
    assert_eq!((rig.state().0, rig.refused().as_str(), rig.running()), ("confirmed", "expired", 1));
    // Without a clock only what has expired for certain is refused.
    rig.time = Time::AtLeast(Unix(50));
    rig.subscribed.clear();
    rig.run(60);
    assert_eq!(rig.running(), 2);
}

/// For a group, without any gateway's word.
fn for_group(rig: &mut Rig, seq: u64, issued: Unix, set: String) {
    let (fleet, target) = ("lab".into(), Target::Group("north".into()));
    let desired = Desired { fleet, target, seq, issued, expires: Unix(u64::MAX), root_version: 1, nonce: None, set };
    rig.put("porin/v1/group/north/desired", signed(&desired, &[2]));
}

const DAY_US: u64 = 86_400_000_000;

#[test]
fn a_new_gateway_takes_a_recent_state_of_its_group_and_reports_it_as_unproven() {
    let mut rig = Rig::new();
    let Time::Known(now) = rig.time else { panic!("it is set") };
    let ago = |days: u64| Unix(now.0 - days * DAY_US);
    for_group(&mut rig, 7, ago(31), set(digest(1), ""));
    rig.run(60);
    assert_eq!((rig.state().0, rig.refused().as_str(), rig.running()), ("local", "too-old", 0));
    for_group(&mut rig, 8, ago(29), set(digest(2), ""));
    rig.run(60);
    assert_eq!((rig.state(), rig.running()), (("confirmed", "unproven".into()), 2));
    // A state for this gateway alone is never taken without its word, and an older one is known.
    let own = |nonce| {
        let (fleet, target, set) = ("lab".into(), Target::Gateway("gw".into()), set(digest(3), ""));
        Desired { fleet, target, seq: 9, issued: now, expires: Unix(u64::MAX), root_version: 1, nonce, set }
    };
    rig.put("porin/v1/gw/gw/desired", signed(&own(None), &[2]));
    rig.run(60);
    assert_eq!((rig.refused().as_str(), rig.running()), ("other-nonce", 2));
    for_group(&mut rig, 7, ago(1), set(digest(1), ""));
    rig.run(60);
    assert_eq!((rig.refused().as_str(), rig.running()), ("older", 2));
    rig.restart(false);
    rig.run(5);
    assert_eq!(rig.state().1, "unproven", "also after a restart");
    // An own one that says nothing but that it is new for certain.
    rig.desire(1, String::new());
    rig.run(60);
    assert_eq!((rig.state(), rig.running()), (("confirmed", String::new()), 2));
    rig.restart(false);
    assert_eq!((rig.update.memory(), rig.state().1.as_str()), (Memory::Numbers, ""));
}

#[test]
fn without_a_clock_a_new_gateway_takes_what_is_not_too_old_for_certain() {
    let mut rig = Rig::new();
    let Time::Known(now) = rig.time else { panic!("it is set") };
    rig.time = Time::AtLeast(Unix(now.0 - 100 * DAY_US));
    for_group(&mut rig, 7, Unix(now.0 - 31 * DAY_US), set(digest(1), ""));
    rig.run(60);
    assert_eq!((rig.state().1.as_str(), rig.running()), ("unproven", 1));
}

#[test]
fn a_gateway_that_lost_its_store_takes_nothing_without_its_word_and_reports_which_floors_are_gone() {
    let mut rig = Rig::new();
    let Time::Known(now) = rig.time else { panic!("it is set") };
    rig.desire(1, set(digest(2), "min_seq = 2"));
    rig.run(60);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 2));
    rig.cloud.remove("porin/v1/gw/gw/desired");
    // A hostile broker has an older one of the group, below the floor.
    for_group(&mut rig, 7, now, set(digest(1), ""));
    rig.disk.clear();
    for _ in 0..2 {
        rig.restart(false);
        rig.run(60);
        assert_eq!((rig.state().0, rig.refused().as_str(), rig.running()), ("local", "other-nonce", 0));
        let (_, reason) = rig.update.state();
        assert!(reason.is_some_and(|reason| reason.code == Code::LostStore && reason.text.contains("acme/pass 2")));
    }
    // The operator knows that they are gone.
    rig.desire(3, set(digest(3), "min_seq = 3"));
    rig.run(60);
    assert_eq!((rig.state(), rig.running()), (("confirmed", String::new()), 3));
    rig.restart(false);
    assert_eq!(rig.update.memory(), Memory::Numbers);
    // A marker that cannot be read is no sign of a new gateway.
    rig.cloud.remove("porin/v1/gw/gw/desired");
    (rig.disk, rig.marker) = (BTreeMap::new(), Some(Marker::decode(b"x")));
    rig.restart(false);
    rig.run(60);
    let (_, reason) = rig.update.state();
    assert!(reason.is_some_and(|reason| reason.text.contains("which floors are gone is not known")));
    // A card that was wiped is a new gateway.
    (rig.disk, rig.marker) = (BTreeMap::new(), None);
    rig.restart(false);
    rig.run(60);
    assert_eq!((rig.state().1.as_str(), rig.running()), ("unproven", 1));
}

#[test]
fn roots_come_one_by_one_and_a_new_operator_begins_with_new_numbers() {
    let mut rig = Rig::new();
    rig.desire(u64::MAX, set(digest(1), ""));
    rig.run(60);
    assert_eq!(rig.running(), 1);
    // Made under a root that is not here yet: it waits for it.
    let (fleet, target) = ("lab".into(), Target::Gateway("gw".into()));
    let set = set(digest(2), "");
    let desired =
        Desired { fleet, target, seq: 1, issued: Unix(5), expires: Unix(u64::MAX), root_version: 3, nonce: None, set };
    rig.put("porin/v1/gw/gw/desired", signed(&desired, &[12]));
    rig.run(5);
    assert_eq!(rig.refused(), "too-few-signatures");
    rig.put("porin/v1/fleet/root/2", signed(&root(2, 12), &[1]));
    // It comes again by itself.
    rig.run(5);
    assert_eq!((rig.update.root().version, rig.refused().as_str()), (2, "newer-root"));
    rig.put("porin/v1/fleet/root/3", signed(&root(3, 12), &[1]));
    rig.run(60);
    assert_eq!((rig.update.root().version, rig.state().0, rig.running()), (3, "confirmed", 2));
    // A root out of turn, or by others, changes nothing.
    rig.put("porin/v1/fleet/root/4", signed(&root(5, 12), &[1]));
    rig.run(5);
    assert_eq!((rig.update.root().version, rig.refused().as_str()), (3, "root-out-of-turn"));
    rig.put("porin/v1/fleet/root/4", signed(&root(4, 12), &[9]));
    rig.run(5);
    assert_eq!((rig.update.root().version, rig.refused().as_str()), (3, "too-few-signatures"));
    rig.restart(false);
    assert_eq!((rig.update.root().version, rig.running()), (3, 2));
}

#[test]
fn a_canary_that_fell_back_is_rolled_back_whatever_its_numbers_say() {
    let mut rig = Rig::new();
    rig.desire(1, set(digest(1), ""));
    rig.run(20);
    assert_eq!(rig.state().0, "canary");
    rig.step(Event::FellBack(Reason::new(Code::Fault, "trap").of("loud")));
    rig.run(60);
    assert_eq!((rig.state(), rig.running(), rig.trying), (("rolled-back", "fault".into()), 0, false));
}

#[test]
fn a_newer_desired_state_ends_the_probation_of_the_one_before() {
    let mut rig = Rig::new();
    rig.desire(1, set(digest(1), ""));
    rig.run(20);
    assert_eq!(rig.state().0, "canary");
    rig.desire(2, set(digest(2), ""));
    rig.run(60);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 2));
    assert!(rig.told().contains(&"superseded"), "{:?}", rig.told);
    // Releases and pieces that nothing names are not kept.
    assert!(!rig.disk.keys().any(|key| key.contains(&release(1).sha256.to_string())));
    assert!(!rig.disk.contains_key(&format!("release/{}", digest(1))));
}

#[test]
fn the_same_release_with_other_parameters_is_a_change_and_the_owners_own_slot_may_stay() {
    let mut rig = Rig::new();
    rig.desire(1, set(digest(1), "params = { deadband = 0.5 }"));
    rig.run(60);
    let fetched = rig.deliveries.len();
    rig.desire(2, set(digest(1), "params = { deadband = 0.7 }"));
    rig.run(60);
    assert_eq!((rig.state().0, rig.told().iter().filter(|what| **what == "canary").count()), ("confirmed", 2));
    assert_eq!(rig.deliveries.len(), fetched + 1, "the document alone");
    let own = rig.config.cells.text.clone();
    rig.does = (100, 50, 0);
    rig.desire(3, own);
    rig.run(800);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 0));
}

#[test]
fn ten_documents_a_minute_that_do_not_count_are_enough() {
    let mut rig = Rig::new();
    for _ in 0..10 {
        rig.put("porin/v1/gw/gw/desired", b"junk".to_vec());
        rig.run(1);
    }
    rig.desire(1, set(digest(1), ""));
    rig.run(20);
    assert_eq!(rig.state().0, "local");
    // It is asked for again by itself.
    rig.now += MINUTE_US;
    rig.run(60);
    assert_eq!(rig.running(), 1);
    // The same refusal is told once.
    assert_eq!(rig.told.iter().filter(|(what, _)| *what == "refused").count(), 1);
}

#[test]
fn a_release_whose_signatures_were_taken_off_on_the_way_is_taken_from_the_next_who_has_them() {
    let mut rig = Rig::new();
    let topic = format!("porin/v1/fleet/rel/{}", digest(1));
    let whole = rig.cloud[&topic].clone();
    rig.cloud.insert(topic.clone(), signed(&release(1), &[]));
    rig.desire(1, set(digest(1), ""));
    rig.run(30);
    assert_eq!((rig.state().0, rig.refused().as_str()), ("fetching", "too-few-signatures"));
    rig.cloud.insert(topic, whole);
    rig.run(300);
    assert_eq!((rig.state().0, rig.running()), ("confirmed", 1));
}

#[test]
fn a_release_in_other_envelopes_is_not_written_again() {
    let mut rig = Rig::new();
    let second = format!("porin/v1/fleet/blob/{}/1", release(1).sha256);
    rig.cloud.remove(&second);
    rig.desire(1, set(digest(1), ""));
    rig.run(10);
    assert_eq!(rig.state().0, "fetching");
    let topic = format!("porin/v1/fleet/rel/{}", digest(1));
    for seed in 50..100 {
        rig.step(Event::Came { topic: &topic, payload: &signed(&release(1), &[3, seed]) });
    }
    assert!(!rig.update.has_unsaved());
}

#[test]
fn two_slots_that_raise_the_floor_of_a_cell_raise_it_to_the_higher() {
    let mut rig = Rig::new();
    let more = format!("min_seq = 2\n[slots.quiet2]\ncell = \"release:{}\"\nmin_seq = 1\n", digest(2));
    let two =
        set(digest(2), &more).replace("slots = [\"quiet\"]", "slots = [\"quiet\", \"loud\"]").replace("quiet2", "loud");
    rig.desire(1, two);
    rig.stage = Ok(vec![]);
    rig.run(60);
    assert_eq!(rig.state().0, "confirmed");
    assert_eq!(rig.disk.get("floor/acme/pass").map(|row| row[1]), Some(2));
    rig.restart(false);
    assert_eq!(rig.update.floors.get("acme/pass"), Some(&2));
}

#[test]
fn a_root_that_keeps_the_operators_key_keeps_his_numbers_and_the_owners_own_wins_over_all() {
    let mut rig = Rig::new();
    rig.desire(5, set(digest(1), ""));
    rig.run(60);
    let mut second = root(2, 2);
    second.operator.keys.push(key(12));
    rig.put("porin/v1/fleet/root/2", signed(&second, &[1]));
    rig.desire(4, set(digest(2), ""));
    rig.run(60);
    assert_eq!((rig.update.root().version, rig.refused().as_str(), rig.running()), (2, "older", 1));
    // The owner carries another root there, of another key.
    let rows: Vec<_> = rig.disk.clone().into_iter().collect();
    let me = Me { id: "gw".into(), groups: vec![], board: None, nonce: NONCE };
    let other = Root { root: role(77), ..root(1, 2) };
    let update =
        Update::recall(me, &signed(&other, &[77]), (&rows, None), false, rig.config.cells.clone()).expect("his own");
    assert_eq!((update.root().version, update.root().root.keys[0], update.numbers.len()), (1, key(77), 0));
    // What counted under the other one does not come back, whoever replays it; what runs goes on.
    assert!(update.accepted.is_empty() && update.confirmed.is_some());
    assert!(matches!(update.memory(), Memory::Lost(_)), "the next desired state must echo the gateway's nonce");
    // The root that was taken up by and by, as the owner's own file: nothing has changed.
    let me = Me { id: "gw".into(), groups: vec![], board: None, nonce: NONCE };
    let later =
        Update::recall(me, &signed(&second, &[1]), (&rows, None), false, rig.config.cells.clone()).expect("his own");
    assert_eq!((later.root().version, later.numbers.len()), (2, 1));
}

#[test]
fn topics_of_others_are_not_listened_to_and_fill_no_memory() {
    let mut rig = Rig::new();
    for n in 0..5 {
        rig.step(Event::Came { topic: &format!("porin/v1/gw/other{n}/desired"), payload: b"x" });
    }
    assert_eq!((rig.refused().as_str(), rig.update.accepted.len()), ("other-gateway", 0));
    let topics: Vec<_> = rig.update.topics().into_iter().map(|(topic, _)| topic).collect();
    let own = [
        "porin/v1/fleet/root/2",
        "porin/v1/gw/gw/desired",
        "porin/v1/group/north/desired",
        "porin/v1/group/all/desired",
        "porin/v1/gw/gw/request",
    ];
    assert_eq!(topics, own);
}

#[test]
fn what_is_reported_is_what_a_decoder_takes() {
    let mut rig = Rig::new();
    rig.desire(1, set(digest(1), "min_seq = 1"));
    rig.run(60);
    let cells = rig.update.running.clone();
    let slots = [SlotStatus {
        name: "quiet".into(),
        digest: release(1).sha256.to_string(),
        state: State::Running,
        ..SlotStatus::default()
    }];
    let epoch = Epoch { store: 7, starts: 2 };
    let about = About { key: key(8), at: Unix(9), agent: "0.1.0", epoch, cells: &cells, slots: &slots };
    let report = rig.update.report(about, rig.time);
    assert_eq!(
        (report.state, report.desired.clone()),
        (UpdateState::Confirmed, Some((Target::Gateway("gw".into()), 1)))
    );
    let release = report.slots[0].release.as_ref().expect("signed");
    assert_eq!((release.cell.as_str(), release.seq, report.floors.len()), ("acme/pass", 1, 1));
    let bytes = signed(&report, &[8]);
    assert_eq!(*trust::reported(&bytes).expect("its own"), report);
    assert_eq!(trust::reported(&signed(&report, &[9])).expect_err("another key").code(), Code::TooFewSignatures);
    let stranger = signed(&Reported { key: key(9), ..report.clone() }, &[9]);
    assert_eq!(trust::reported(&stranger).expect("its own").key, key(9));
}
