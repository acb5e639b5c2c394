//! Who may say what: signed documents, and the proof that one has been checked.
//!
//! The rules are TUF's (a chain of roots, thresholds over unique keys, numbers that only rise, expiry) with Uptane's two hands: a publisher
//! says what may exist, the operator says what this gateway runs. The wire form is our own (see `docs/updates.md`): [`Envelope`]s, signed as in DSSE
//! 1.0.2, around [`documents`] in postcard.
//!
//! Nothing that came over a network is looked at twice: [`Verified`] is the proof, and only the functions of this module make one. The first check that
//! fails ends it, with a [`Refusal`] that has a word for machines and a sentence for people. There is no I/O here and no clock: [`Time`] is an argument.

pub mod documents;
mod envelope;
pub mod reported;
mod verify;

use alloc::{string::String, vec::Vec};
use core::{fmt, ops::Deref};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use self::{
    documents::{Desired, Health, Publisher, Release, Request, Role, Root, Target},
    envelope::{Envelope, MAX_ENVELOPE, Signature, signing_input},
    reported::Reported,
    verify::{Gateway, Memory, Time, desired, next_root, pinned_root, recall, release, reported, request},
};
use crate::{reason::Code, time::Unix};

/// A document that was signed by who may sign it and passed every check of its kind. A root may have expired, as a link of a chain: then nothing that it
/// would vouch for counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    digest: Digest,
}

impl<T> Verified<T> {
    /// SHA-256 of the document's bytes: its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.document
    }
}

/// SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(value)
    }

    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut value = [0; 32];
        let digits = text.as_bytes().chunks(2);
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in value.iter_mut().zip(digits) {
            *byte = u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(value))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// SHA-256 of the key: its name.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.id())
    }
}

/// What a document is. It is signed with the document: one can never pass for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// Whose keys count.
    Root,
    /// That a cell exists.
    Release,
    /// What a gateway is to run.
    Desired,
    /// What a gateway says of itself.
    Reported,
    /// What an operator wants to have of a gateway.
    Request,
}

impl DocumentKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Root, Self::Release, Self::Desired, Self::Reported, Self::Request];

    /// The payload type of DSSE.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Root => "application/vnd.porin.root.v1+postcard",
            Self::Release => "application/vnd.porin.release.v1+postcard",
            Self::Desired => "application/vnd.porin.desired.v1+postcard",
            Self::Reported => "application/vnd.porin.reported.v1+postcard",
            Self::Request => "application/vnd.porin.request.v1+postcard",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Root => 1,
            Self::Release => 2,
            Self::Desired => 3,
            Self::Reported => 4,
            Self::Request => 5,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Desired => "desired state",
            Self::Reported => "reported state",
            Self::Request => "request",
        }
    }
}

/// Why a document is rejected. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Checked before a byte is read.
    #[error("{bytes} bytes, a document may have {MAX_ENVELOPE}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No envelope, or what is in it is no document.
    #[error("not a document: {0}")]
    Malformed(&'static str),
    /// Written by a newer porin.
    #[error("version {0} of a document, this porin knows up to 1")]
    UnknownVersion(u8),
    /// Another kind than what is asked for.
    #[error("a {}, expected a {}", .found.name(), .expected.name())]
    WrongType {
        /// What it is.
        found: DocumentKind,
        /// What is asked for.
        expected: DocumentKind,
    },
    /// Keys that count, each once.
    #[error("{have} of {need} signatures that count (role {role})")]
    TooFewSignatures {
        /// By so many keys of the role.
        have: usize,
        /// Its threshold.
        need: usize,
        /// Whose.
        role: String,
    },
    /// Of other gateways.
    #[error("of the fleet `{found}`, this gateway belongs to `{ours}`")]
    OtherFleet {
        /// The document's.
        found: String,
        /// The root's.
        ours: String,
    },
    /// Roots follow one another, one at a time.
    #[error("root {found}, expected root {expected}")]
    RootOutOfTurn {
        /// The document's.
        found: u64,
        /// One after the root that counts.
        expected: u64,
    },
    /// Its operator knew a root that has not come here yet.
    #[error("made under root {wanted}, root {known} is known here")]
    NewerRoot {
        /// The document's.
        wanted: u64,
        /// The one that counts here.
        known: u64,
    },
    /// It may be an old one: nobody here can tell otherwise.
    #[error("it does not echo this gateway's nonce, which is required after the store was lost")]
    OtherNonce,
    /// For a gateway that remembers nothing.
    #[error("issued {issued}, and it is {now}: more than 30 days, and this gateway has no numbers")]
    TooOld {
        /// The document's.
        issued: Unix,
        /// The time, as far as it is known.
        now: Unix,
    },
    /// Replayed.
    #[error("number {found}, number {known} is known")]
    Older {
        /// The document's.
        found: u64,
        /// The one that counts.
        known: u64,
    },
    /// Two documents under one number: somebody lies, or a key is used twice.
    #[error("another document than the one that is known, with the same number {0}: an alarm, not an update")]
    SameNumber(u64),
    /// Its time is over.
    #[error("expired {expires}, and it is {now}")]
    Expired {
        /// When.
        expires: Unix,
        /// What was taken for now.
        now: Unix,
    },
    /// From a future that this gateway's set clock does not know.
    #[error("issued {issued}, and it is {now}")]
    NotYet {
        /// When.
        issued: Unix,
        /// What was taken for now.
        now: Unix,
    },
    /// Somebody else's.
    #[error("for {0}, not for this gateway")]
    OtherGateway(String),
    /// Not the bytes that were asked for.
    #[error("the digest is {found}, expected {expected}")]
    OtherDigest {
        /// Its digest.
        found: Digest,
        /// What was asked for.
        expected: Digest,
    },
    /// Given up by its publisher or by the operator.
    #[error("release {found} of `{cell}`, the floor is {floor}")]
    BelowFloor {
        /// The cell.
        cell: String,
        /// The release's number.
        found: u64,
        /// The lowest that may run.
        floor: u64,
    },
    /// Signed by who may not publish it.
    #[error("no publisher who signed it may publish `{0}`")]
    OutsidePrefix(String),
    /// Nor for this slot.
    #[error("its publisher `{publisher}` has nothing to say in the slot `{slot}`")]
    OutsideSlots {
        /// Who signed it.
        publisher: String,
        /// Where it should run.
        slot: String,
    },
    /// Made for other hardware.
    #[error("for the boards {0:?}, not for this one")]
    OtherBoard(Vec<String>),
}

impl Refusal {
    /// The reason that is reported.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Malformed(_) => Code::Malformed,
            Self::UnknownVersion(_) => Code::UnknownVersion,
            Self::WrongType { .. } => Code::WrongType,
            Self::TooFewSignatures { .. } => Code::TooFewSignatures,
            Self::OtherFleet { .. } => Code::OtherFleet,
            Self::RootOutOfTurn { .. } => Code::RootOutOfTurn,
            Self::NewerRoot { .. } => Code::NewerRoot,
            Self::OtherNonce => Code::OtherNonce,
            Self::TooOld { .. } => Code::TooOld,
            Self::Older { .. } => Code::Older,
            Self::SameNumber(_) => Code::SameNumber,
            Self::Expired { .. } => Code::Expired,
            Self::NotYet { .. } => Code::NotYet,
            Self::OtherGateway(_) => Code::OtherGateway,
            Self::OtherDigest { .. } => Code::OtherDigest,
            Self::BelowFloor { .. } => Code::BelowFloor,
            Self::OutsidePrefix(_) => Code::OutsidePrefix,
            Self::OutsideSlots { .. } => Code::OutsideSlots,
            Self::OtherBoard(_) => Code::OtherBoard,
        }
    }
}

#[cfg(test)]
mod tests;
