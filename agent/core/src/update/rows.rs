//! What an update keeps on disk: rows of a key and bytes, each with a version byte first.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use crate::{
    reason::Reason,
    trust::{Digest, Target, reported::UpdateState},
};

const VERSION: u8 = 1;

/// A row to be written, or with `None` to be deleted. Writing it twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub key: String,
    /// What it is to hold.
    pub value: Option<Vec<u8>>,
}

/// A row as it was found.
pub type Row = (String, Vec<u8>);

/// What lies beside the store, for the day on which the store is lost: that a desired state was taken up here, and the floors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// `None`: it cannot be read.
    pub(super) floors: Option<BTreeMap<String, u64>>,
}

impl Marker {
    /// Reads a marker. Damaged bytes still say that a desired state was taken up.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self { floors: content(bytes).and_then(|floors| postcard::from_bytes(floors).ok()) }
    }

    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let floors = postcard::to_allocvec(&self.floors.clone().unwrap_or_default()).expect("memory is the only sink");
        [&[VERSION][..], &floors].concat()
    }
}

/// Every kind of row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// An envelope; the ones after the root that the owner trusts.
    Root(u64),
    /// A digest: the root that the owner trusted when the numbers were learnt.
    Owner,
    /// A document, as it was in its envelope.
    Desired(Target),
    /// [`Number`].
    Number(Target),
    /// A document: the one that is kept.
    Confirmed,
    /// [`Failed`].
    Failed,
    /// [`Trial`].
    Trial,
    /// Nothing: it is there where what was taken up may be an old one.
    Unproven,
    /// An envelope, by the digest of its document.
    Release(Digest),
    /// Bytes of a component, by the component's digest and the number of the piece.
    Piece(Digest, u32),
    /// A number, by the cell's name.
    Floor(String),
    /// [`Blocked`], by slot and release.
    Blocked(String, Digest),
}

/// The number of the desired state that was last taken up for a target, and which it was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Number(pub(super) u64, pub(super) Digest);

/// A desired state that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) desired: Digest,
    pub(super) state: UpdateState,
    pub(super) reason: Reason,
}

/// A desired state that is about to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) desired: Digest,
    /// This time counted.
    pub(super) attempt: u8,
}

/// A release that was rolled back in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blocked {
    /// It may be tried again with a higher one.
    pub(super) retry: u64,
    pub(super) reason: Reason,
}

/// The key of a piece of a component.
#[must_use]
pub fn piece_key(component: Digest, piece: u32) -> String {
    Key::Piece(component, piece).name()
}

/// What all keys of pieces begin with: their bytes are read when they are needed.
pub const PIECES: &str = "piece/";

/// The bytes of a row, if it is of this version.
#[must_use]
pub fn content(row: &[u8]) -> Option<&[u8]> {
    match row {
        [VERSION, rest @ ..] => Some(rest),
        _ => None,
    }
}

impl Key {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Root(version) => format!("root/{version}"),
            Self::Desired(target) => format!("desired/{}", target_name(target)),
            Self::Number(target) => format!("number/{}", target_name(target)),
            Self::Owner => "owner".into(),
            Self::Confirmed => "confirmed".into(),
            Self::Failed => "failed".into(),
            Self::Trial => "trial".into(),
            Self::Unproven => "unproven".into(),
            Self::Release(digest) => format!("release/{digest}"),
            Self::Piece(digest, piece) => format!("{PIECES}{digest}/{piece}"),
            Self::Floor(cell) => format!("floor/{cell}"),
            Self::Blocked(slot, release) => format!("blocked/{release}/{slot}"),
        }
    }

    /// `None`: of a later porin.
    pub(super) fn read(name: &str) -> Option<Self> {
        let Some((kind, rest)) = name.split_once('/') else {
            return [Self::Owner, Self::Confirmed, Self::Failed, Self::Trial, Self::Unproven]
                .into_iter()
                .find(|key| key.name() == name);
        };
        match kind {
            "root" => Some(Self::Root(rest.parse().ok()?)),
            "desired" => Some(Self::Desired(target(rest)?)),
            "number" => Some(Self::Number(target(rest)?)),
            "release" => Some(Self::Release(Digest::parse(rest)?)),
            "piece" => {
                let (digest, piece) = rest.split_once('/')?;
                Some(Self::Piece(Digest::parse(digest)?, piece.parse().ok()?))
            }
            "floor" => Some(Self::Floor(rest.to_string())),
            "blocked" => {
                let (release, slot) = rest.split_once('/')?;
                Some(Self::Blocked(slot.to_string(), Digest::parse(release)?))
            }
            _ => None,
        }
    }

    pub(super) fn put(&self, content: &[u8]) -> Write {
        Write { key: self.name(), value: Some([&[VERSION], content].concat()) }
    }

    pub(super) fn put_value(&self, value: &impl Serialize) -> Write {
        self.put(&postcard::to_allocvec(value).expect("memory is the only sink"))
    }

    pub(super) fn delete(&self) -> Write {
        Write { key: self.name(), value: None }
    }
}

/// As in a topic.
pub(super) fn target_name(target: &Target) -> String {
    match target {
        Target::Gateway(id) => format!("gw/{id}"),
        Target::Group(group) => format!("group/{group}"),
    }
}

fn target(name: &str) -> Option<Target> {
    match name.split_once('/')? {
        ("gw", id) => Some(Target::Gateway(id.into())),
        ("group", group) => Some(Target::Group(group.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let digest = Digest([3; 32]);
        let (gateway, group) = (Target::Gateway("gw1".into()), Target::Group("gw".into()));
        let keys = [
            Key::Root(7),
            Key::Desired(gateway.clone()),
            Key::Desired(group.clone()),
            Key::Number(gateway),
            Key::Number(group),
            Key::Owner,
            Key::Confirmed,
            Key::Failed,
            Key::Trial,
            Key::Unproven,
            Key::Release(digest),
            Key::Piece(digest, 6),
            Key::Floor("acme/deadband".into()),
            Key::Blocked("a/b".into(), digest),
        ];
        keys.into_iter().for_each(|key| assert_eq!(Key::read(&key.name()), Some(key)));
        for name in ["", "news", "root/", "root/x", "piece/12/0", "news/1", "desired/gw"] {
            assert_eq!(Key::read(name), None, "{name}");
        }
    }

    #[test]
    fn a_marker_is_read_as_it_is_written_and_damage_is_no_new_gateway() {
        let marker = Marker { floors: Some([("acme/a".into(), 300)].into()) };
        // Version 1, as it is on cards.
        let bytes = [1, 1, 6, b'a', b'c', b'm', b'e', b'/', b'a', 0xac, 2];
        assert_eq!((marker.encode().as_slice(), Marker::decode(&bytes)), (&bytes[..], marker));
        for damaged in [&[][..], &[2, 0], &bytes[..5]] {
            assert_eq!(Marker::decode(damaged), Marker { floors: None });
        }
    }
}
