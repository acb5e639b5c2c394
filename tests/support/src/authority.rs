//! Whoever says what gateways run: root, operator and publisher with keys that everybody knows, and documents as right or as wrong as a test wants.

use porin_core::{
    time::Unix,
    trust::{
        Desired, Digest, Envelope, Health, Key, Publisher, Release, Role, Root, Signature, Target,
        documents::{Document, PIECE},
        signing_input,
    },
};
use ring::signature::{Ed25519KeyPair, KeyPair};

/// Seeds of the keys.
pub const ROOT: u8 = 1;
/// Says what gateways run.
pub const OPERATOR: u8 = 2;
/// Publishes `acme/…` for every slot.
pub const PUBLISHER: u8 = 3;
/// Whose keys nobody knows.
pub const STRANGER: u8 = 99;

/// Long before any clock.
const ISSUED: Unix = Unix(1_700_000_000_000_000);

/// A retained publish.
pub type Retained = (String, Vec<u8>);

/// A release with its component, and what is published of it.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its name.
    pub digest: Digest,
    /// Release and pieces by topic.
    pub publishes: Vec<Retained>,
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

/// The public key of a seed.
///
/// # Panics
/// Never.
#[must_use]
pub fn key(seed: u8) -> Key {
    Key(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn role(seed: u8) -> Role {
    Role { keys: vec![key(seed)], threshold: 1 }
}

/// A document signed by these.
#[must_use]
pub fn signed<D: Document>(document: &D, seeds: &[u8]) -> Vec<u8> {
    let payload = document.encode();
    let input = signing_input(D::KIND, &payload);
    let sign = |seed: &u8| {
        let bytes = pair(*seed).sign(&input).as_ref().try_into().expect("64 bytes");
        Signature::new(&key(*seed), bytes)
    };
    let signatures = seeds.iter().map(sign).collect();
    Envelope { kind: D::KIND, payload, signatures }.encode()
}

/// The fleet's root with this number, and these keys for operator and publisher.
#[must_use]
pub fn root(version: u64, operator: u8, publisher: u8) -> Vec<u8> {
    let (name, prefix, slots) = ("acme".into(), "acme".into(), vec!["*".into()]);
    let publishers = vec![Publisher { name, role: role(publisher), prefix, slots }];
    let (fleet, expires, operator) = ("lab".into(), Unix(u64::MAX), role(operator));
    signed(&Root { version, fleet, expires, root: role(ROOT), operator, publishers }, &[ROOT])
}

/// The root that the tests' gateways are given.
#[must_use]
pub fn first_root() -> Vec<u8> {
    root(1, OPERATOR, PUBLISHER)
}

/// A release of a filter that imports nothing, as its publisher would make it.
#[must_use]
pub fn release_of(component: &[u8], seq: u64) -> Release {
    Release {
        cell: "acme/cell".into(),
        seq,
        semver: "1.0.0".into(),
        sha256: Digest::of(component),
        size: u32::try_from(component.len()).expect("small"),
        pieces: component.chunks(PIECE).map(Digest::of).collect(),
        world: "filter".into(),
        imports: vec![],
        boards: vec![],
        health: Health { min_per_mille: 0, max_per_mille: 1_000 },
        issued: ISSUED,
    }
}

/// What is published of a release, signed by these.
#[must_use]
pub fn publish_by(seeds: &[u8], release: &Release, component: &[u8]) -> Published {
    let digest = Digest::of(&release.encode());
    let pieces = component.chunks(PIECE).enumerate();
    let topic = |piece| format!("porin/v1/fleet/blob/{}/{piece}", release.sha256);
    let mut publishes: Vec<_> = pieces.map(|(piece, bytes)| (topic(piece), bytes.to_vec())).collect();
    publishes.push((format!("porin/v1/fleet/rel/{digest}"), signed(release, seeds)));
    Published { digest, publishes }
}

/// A release of a component with this number.
#[must_use]
pub fn published(component: &[u8], seq: u64) -> Published {
    publish_by(&[PUBLISHER], &release_of(component, seq), component)
}

/// A desired state for a gateway.
#[must_use]
pub fn desired_for(gateway: &str, seq: u64, nonce: Option<[u8; 16]>, set: &str) -> Desired {
    Desired {
        fleet: "lab".into(),
        target: Target::Gateway(gateway.into()),
        seq,
        issued: ISSUED,
        expires: Unix(u64::MAX),
        root_version: 1,
        nonce,
        set: set.into(),
    }
}

/// The same, signed by the operator, at its topic.
#[must_use]
pub fn order(gateway: &str, seq: u64, nonce: Option<[u8; 16]>, set: &str) -> Retained {
    let desired = desired_for(gateway, seq, nonce, set);
    (format!("porin/v1/gw/{gateway}/desired"), signed(&desired, &[OPERATOR]))
}
