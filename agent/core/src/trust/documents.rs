//! What is signed: roots, releases and desired states, as they are in memory and on the wire.
//!
//! The wire form of each is a version byte and postcard of the type here, in this order of fields: a change is a new version with types of its own. Texts
//! are checked when they are read: they end up in logs, topics and file names.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Digest, DocumentKind, Key, Refusal};
use crate::{limits::CellLimits, time::Unix};

const VERSION: u8 = 1;

/// Keys of a role. More signatures than these have no place in an envelope.
const MAX_KEYS: usize = 8;

/// Publishers of a root.
const MAX_PUBLISHERS: usize = 16;

/// Names in a list: of imports, boards, slots.
pub(super) const MAX_NAMES: usize = 32;

/// Bytes of a piece in which a component travels: seven for the largest.
pub const PIECE: usize = 8_192;

/// Bytes of the text of a desired state.
pub(super) const MAX_SET: usize = 12_288;

/// Keys of which so many must sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Each counts once.
    pub keys: Vec<Key>,
    /// At least 1, at most as many as there are keys.
    pub threshold: u8,
}

/// Who publishes cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publisher {
    /// For people.
    pub name: String,
    /// Who signs.
    pub role: Role,
    /// Its cells' names begin with this and a slash; empty: they may have any.
    pub prefix: String,
    /// In which slots its cells may run; `*`: in any.
    pub slots: Vec<String>,
}

/// Whose keys count, until a root with the next number is signed by this one's and its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// From 1, without gaps.
    pub version: u64,
    /// Which gateways it is for. Never changes.
    pub fleet: String,
    /// Nothing new counts after this.
    pub expires: Unix,
    /// Who signs the next root.
    pub root: Role,
    /// Who says what gateways run.
    pub operator: Role,
    /// Who says what exists.
    pub publishers: Vec<Publisher>,
}

/// That a cell exists, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its name, with its publisher's prefix.
    pub cell: String,
    /// Rises with every release of the cell.
    pub seq: u64,
    /// For people.
    pub semver: String,
    /// Of the component's bytes.
    pub sha256: Digest,
    /// How many there are.
    pub size: u32,
    /// Of each [`PIECE`] of them, the last one shorter: a piece that came is known to be right before the next one is asked for.
    pub pieces: Vec<Digest>,
    /// The world it is made for.
    pub world: String,
    /// The interfaces that it imports, sorted: exactly these.
    pub imports: Vec<String>,
    /// The boards it is made for; none: any.
    pub boards: Vec<String>,
    /// What it should do on probation.
    pub health: Health,
    /// When it was made.
    pub issued: Unix,
}

/// How many packets come out of a healthy cell for a thousand that go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// At least.
    pub min_per_mille: u32,
    /// At most.
    pub max_per_mille: u32,
}

impl Health {
    /// Where a publisher says nothing: at most what goes in.
    pub const UNSAID: Self = Self { min_per_mille: 0, max_per_mille: 1_000 };
}

/// Whom a desired state is for. A gateway's own wins over its group's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// One gateway, by its id.
    Gateway(String),
    /// All that count themselves to it.
    Group(String),
}

/// What a gateway is to run: everything of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The root's fleet: a key may serve several.
    pub fleet: String,
    /// Whom it is for.
    pub target: Target,
    /// Rises with every desired state for this target.
    pub seq: u64,
    /// When it was made.
    pub issued: Unix,
    /// It is not taken up after this. What runs goes on.
    pub expires: Unix,
    /// The root that its operator knew.
    pub root_version: u64,
    /// The gateway's own word, given back: it was made after that was said.
    pub nonce: Option<[u8; 16]>,
    /// `[routes.*]` and `[slots.*]` as in a configuration, with `cell = "release:<digest>"`.
    pub set: String,
}

/// That the operator wants to have what a gateway has recorded of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The root's fleet.
    pub fleet: String,
    /// Of which gateway.
    pub gateway: String,
    /// Higher than that of every request before: the answer is published under it.
    pub seq: u64,
    /// When it was made.
    pub issued: Unix,
    /// It is not answered after this, at most an hour later.
    pub expires: Unix,
    /// Of which route.
    pub route: String,
    /// How far back, in microseconds.
    pub us: u64,
}

/// A request is for now.
const REQUEST_US: u64 = 3_600_000_000;

/// What is signed.
pub trait Document: Serialize + DeserializeOwned {
    /// What it is.
    const KIND: DocumentKind;

    /// What is wrong with its texts and numbers.
    ///
    /// # Errors
    /// In a few words.
    fn check(&self) -> Result<(), &'static str>;

    /// Its bytes.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![VERSION];
        bytes.extend(postcard::to_allocvec(self).expect("memory is the only sink"));
        bytes
    }

    /// Reads one; all bytes must be used.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let (version, rest) = bytes.split_first().ok_or(Refusal::Malformed("an empty document"))?;
        if *version != VERSION {
            return Err(Refusal::UnknownVersion(*version));
        }
        match postcard::take_from_bytes::<Self>(rest) {
            Ok((document, [])) => document.check().map(|()| document).map_err(Refusal::Malformed),
            Ok(_) => Err(Refusal::Malformed("bytes after the end of a document")),
            Err(_) => Err(Refusal::Malformed("a damaged document")),
        }
    }
}

impl Document for Root {
    const KIND: DocumentKind = DocumentKind::Root;

    fn check(&self) -> Result<(), &'static str> {
        let Self { version, fleet, root, operator, publishers, .. } = self;
        ensure(*version > 0, "roots are counted from 1")?;
        ensure(is_name(fleet), "a fleet's name")?;
        root.check()?;
        operator.check()?;
        ensure(!publishers.is_empty() && publishers.len() <= MAX_PUBLISHERS, "1 to 16 publishers")?;
        publishers.iter().try_for_each(|Publisher { name, role, prefix, slots }| {
            role.check()?;
            ensure(is_name(name) && (prefix.is_empty() || is_name(prefix)), "a publisher's name or prefix")?;
            ensure(are_names(slots, |slot| slot == "*" || is_name(slot)), "a publisher's slots")
        })
    }
}

impl Document for Release {
    const KIND: DocumentKind = DocumentKind::Release;

    fn check(&self) -> Result<(), &'static str> {
        let Self { cell, semver, size, pieces, world, imports, boards, health, .. } = self;
        let is_version = |text: &str| is_text(text, |byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte));
        let is_interface = |text: &str| is_text(text, |byte| byte.is_ascii_alphanumeric() || b".-+:/@".contains(&byte));
        ensure(is_name(cell), "a cell's name")?;
        ensure(is_version(semver), "a version")?;
        ensure(*size > 0 && *size as usize <= CellLimits::default().component_bytes, "a cell has 1 to 51,200 bytes")?;
        ensure(pieces.len() == (*size as usize).div_ceil(PIECE), "a digest for each 8,192 bytes")?;
        ensure(is_name(world), "a world's name")?;
        ensure(are_names(imports, is_interface) && imports.is_sorted_by(|a, b| a < b), "a list of imports")?;
        ensure(are_names(boards, is_name), "a list of boards")?;
        ensure(health.min_per_mille <= health.max_per_mille, "health bounds")
    }
}

impl Document for Desired {
    const KIND: DocumentKind = DocumentKind::Desired;

    fn check(&self) -> Result<(), &'static str> {
        let (Target::Gateway(name) | Target::Group(name)) = &self.target;
        ensure(is_name(&self.fleet), "a fleet's name")?;
        ensure(is_name(name), "a gateway's or group's name")?;
        ensure(self.issued < self.expires, "a time to count in")?;
        ensure(self.set.len() <= MAX_SET, "12,288 bytes of routes and slots")
    }
}

impl Document for Request {
    const KIND: DocumentKind = DocumentKind::Request;

    fn check(&self) -> Result<(), &'static str> {
        ensure(is_name(&self.fleet) && is_name(&self.gateway), "a fleet's and a gateway's name")?;
        ensure(self.route.len() <= 100, "a route's name")?;
        let last = self.issued.0.saturating_add(REQUEST_US);
        ensure(self.issued < self.expires && self.expires.0 <= last, "an hour or less to count in")
    }
}

impl Publisher {
    /// Whether a cell's name is among its own.
    #[must_use]
    pub fn may_publish(&self, cell: &str) -> bool {
        self.prefix.is_empty() || cell.strip_prefix(&*self.prefix).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether its cells may run in this slot.
    #[must_use]
    pub fn may_fill(&self, slot: &str) -> bool {
        self.slots.iter().any(|allowed| allowed == "*" || allowed == slot)
    }
}

impl Role {
    fn check(&self) -> Result<(), &'static str> {
        let mut unique = self.keys.clone();
        unique.sort_unstable();
        unique.dedup();
        ensure(unique.len() == self.keys.len() && unique.len() <= MAX_KEYS, "up to 8 keys of a role, each once")?;
        ensure((1..=unique.len()).contains(&usize::from(self.threshold)), "a threshold that its keys can meet")
    }
}

/// Letters, digits and `-_./`, 1 to 63 of them; where it is a path, each part begins with a letter or digit, so that there is one way to write it
/// and none upward.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.split('/').all(|part| part.starts_with(|first: char| first.is_ascii_alphanumeric()))
        && is_text(text, |byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
}

pub(super) fn is_text(text: &str, byte: impl Fn(u8) -> bool) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(byte)
}

pub(super) fn are_names(names: &[String], is_name: impl Fn(&str) -> bool) -> bool {
    names.len() <= MAX_NAMES && names.iter().all(|name| is_name(name))
}

pub(super) fn ensure(good: bool, what: &'static str) -> Result<(), &'static str> {
    if good { Ok(()) } else { Err(what) }
}
