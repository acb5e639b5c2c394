//! The checks, in their order: size, envelope, threshold, type, payload, number, time, addressee, meaning. The first that fails wins.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

use super::{
    Desired, Digest, DocumentKind, Envelope, Refusal, Release, Reported, Request, Role, Root, Target, Verified,
    documents::Document,
};
use crate::time::Unix;

/// How far ahead of a set clock a document may have been issued: clocks differ.
const AHEAD_US: u64 = 86_400_000_000;

/// A gateway that never took anything up takes a group's desired state that is not older than this: 30 days.
const NEW_US: u64 = 30 * 86_400_000_000;

/// What is known of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// It is this late.
    Known(Unix),
    /// It is at least this late: nobody has set the clock. Only what has expired for certain is refused.
    AtLeast(Unix),
}

impl Time {
    fn earliest(self) -> Unix {
        let (Self::Known(now) | Self::AtLeast(now)) = self;
        now
    }

    fn expiry(self, expires: Unix) -> Result<(), Refusal> {
        let now = self.earliest();
        if expires <= now { Err(Refusal::Expired { expires, now }) } else { Ok(()) }
    }

    /// Whether a document may be recent. Without a clock only what is older for certain is refused.
    fn recent(self, issued: Unix) -> Result<(), Refusal> {
        let now = self.earliest();
        if now.0 > issued.0.saturating_add(NEW_US) { Err(Refusal::TooOld { issued, now }) } else { Ok(()) }
    }

    /// Not even without a clock may a document be from after its root's end: it would tell every later one that its time is over.
    fn issue(self, issued: Unix, root: &Root) -> Result<(), Refusal> {
        match self {
            Self::Known(now) if issued.0 > now.0.saturating_add(AHEAD_US) => Err(Refusal::NotYet { issued, now }),
            Self::Known(now) | Self::AtLeast(now) if issued >= root.expires => Err(Refusal::NotYet { issued, now }),
            Self::Known(_) | Self::AtLeast(_) => Ok(()),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Gateway<'a> {
    /// Its id.
    pub id: &'a str,
    /// The groups that it counts itself to.
    pub groups: &'a [String],
    /// The hardware it runs on, if its configuration says so.
    pub board: Option<&'a str>,
    /// What it remembers.
    pub memory: Memory,
}

/// What a gateway remembers of the desired states that it took up: what it does not remember cannot be told from an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Their numbers.
    Numbers,
    /// No proven state, and the store was not lost. A desired state must echo this nonce, unless it is a recent one of a group.
    New([u8; 16]),
    /// The store was lost: the gateway had once accepted a state. A desired state must echo this nonce.
    Lost([u8; 16]),
}

impl Memory {
    /// Whether a document with this word is new for certain, or need not be.
    #[must_use]
    pub fn proves(self, nonce: Option<[u8; 16]>) -> bool {
        match self {
            Self::Numbers => true,
            Self::New(word) | Self::Lost(word) => nonce == Some(word),
        }
    }
}

/// A root that the owner has put on the gateway: trusted because of where it lies. It must be whole, and signed by itself. Its expiry is not looked
/// at: the roots after it may be good.
///
/// # Errors
/// What is wrong with it.
pub fn pinned_root(bytes: &[u8]) -> Result<Verified<Root>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    // It says itself who signs it.
    let root = payload::<Root>(&envelope)?;
    signed(&envelope, &root.root, "root")?;
    Ok(Verified { document: root, digest: envelope.digest() })
}

/// The root after `known`: signed by the keys of both, and not expired by itself (a chain may have expired links).
///
/// # Errors
/// Why it does not count.
pub fn next_root(known: &Verified<Root>, bytes: &[u8]) -> Result<Verified<Root>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    signed(&envelope, &known.root, "root")?;
    let next = payload::<Root>(&envelope)?;
    signed(&envelope, &next.root, "root of itself")?;
    same_fleet(known, &next.fleet)?;
    let (found, expected) = (next.version, known.version.saturating_add(1));
    if found != expected || found == known.version {
        return Err(Refusal::RootOutOfTurn { found, expected });
    }
    Ok(Verified { document: next, digest: envelope.digest() })
}

/// A desired state for this gateway. `known`: number and digest of the one that was last taken up for the same target.
///
/// # Errors
/// Why it does not count.
pub fn desired(
    root: &Verified<Root>,
    bytes: &[u8],
    known: Option<(u64, Digest)>,
    time: Time,
    gateway: Gateway<'_>,
) -> Result<Verified<Desired>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    signed(&envelope, &root.operator, "operator")?;
    let desired = payload::<Desired>(&envelope)?;
    let digest = envelope.digest();
    same_fleet(root, &desired.fleet)?;
    if desired.root_version > root.version {
        return Err(Refusal::NewerRoot { wanted: desired.root_version, known: root.version });
    }
    match known {
        Some((known, _)) if desired.seq < known => return Err(Refusal::Older { found: desired.seq, known }),
        Some((known, same)) if desired.seq == known && digest != same => return Err(Refusal::SameNumber(known)),
        Some(_) | None => {}
    }
    time.expiry(root.expires)?;
    time.expiry(desired.expires)?;
    time.issue(desired.issued, root)?;
    let (ours, name) = match &desired.target {
        Target::Gateway(id) => (id == gateway.id, id),
        Target::Group(group) => (gateway.groups.contains(group), group),
    };
    if !ours {
        return Err(Refusal::OtherGateway(name.clone()));
    }
    if !gateway.memory.proves(desired.nonce) {
        match (gateway.memory, &desired.target) {
            (Memory::New(_), Target::Group(_)) => time.recent(desired.issued)?,
            (Memory::Numbers | Memory::New(_) | Memory::Lost(_), _) => return Err(Refusal::OtherNonce),
        }
    }
    Ok(Verified { document: desired, digest })
}

/// The release with this digest, to be run in a slot. `floor`: the lowest number that may run.
///
/// # Errors
/// Why it does not count.
pub fn release(
    root: &Verified<Root>,
    bytes: &[u8],
    wanted: Digest,
    floor: impl FnOnce(&str) -> u64,
    time: Time,
    gateway: Gateway<'_>,
    slot: &str,
) -> Result<Verified<Release>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    let found = envelope.digest();
    if found != wanted {
        return Err(Refusal::OtherDigest { found, expected: wanted });
    }
    let mut signers = Vec::new();
    let mut refusal = None;
    for publisher in &root.publishers {
        match signed(&envelope, &publisher.role, &publisher.name) {
            Ok(()) => signers.push(publisher),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    if signers.is_empty() {
        return Err(refusal.unwrap_or(Refusal::Malformed("a root without publishers")));
    }
    let release = payload::<Release>(&envelope)?;
    let floor = floor(&release.cell);
    if release.seq < floor {
        return Err(Refusal::BelowFloor { cell: release.cell, found: release.seq, floor });
    }
    time.expiry(root.expires)?;
    time.issue(release.issued, root)?;
    if let Some(board) = gateway.board
        && !release.boards.is_empty()
        && !release.boards.iter().any(|wanted| wanted == board)
    {
        return Err(Refusal::OtherBoard(release.boards));
    }
    signers.retain(|publisher| publisher.may_publish(&release.cell));
    let Some(publisher) = signers.first() else { return Err(Refusal::OutsidePrefix(release.cell)) };
    if !signers.iter().any(|publisher| publisher.may_fill(slot)) {
        return Err(Refusal::OutsideSlots { publisher: publisher.name.clone(), slot: slot.to_owned() });
    }
    Ok(Verified { document: release, digest: found })
}

/// What was verified here before, and since then kept where nobody else writes: its bytes, as they were in the envelope.
///
/// # Errors
/// If they are none of this version.
pub fn recall<D: Document>(payload: &[u8]) -> Result<Verified<D>, Refusal> {
    Ok(Verified { document: D::decode(payload)?, digest: Digest::of(payload) })
}

/// What a gateway says of itself, signed by the key that it names as its own: whoever saw that key before knows that it is the same gateway.
///
/// # Errors
/// Why it does not count.
pub fn reported(bytes: &[u8]) -> Result<Verified<Reported>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    let document = payload::<Reported>(&envelope)?;
    let role = Role { keys: [document.key].into(), threshold: 1 };
    signed(&envelope, &role, "gateway")?;
    Ok(Verified { document, digest: envelope.digest() })
}

/// What the operator wants to have of this gateway. `known`: the number of the last request that was answered.
///
/// # Errors
/// Why it does not count.
pub fn request(
    root: &Verified<Root>,
    bytes: &[u8],
    known: u64,
    time: Time,
    gateway: &str,
) -> Result<Verified<Request>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    signed(&envelope, &root.operator, "operator")?;
    let request = payload::<Request>(&envelope)?;
    same_fleet(root, &request.fleet)?;
    if request.seq <= known {
        return Err(Refusal::Older { found: request.seq, known });
    }
    time.expiry(root.expires)?;
    time.expiry(request.expires)?;
    time.issue(request.issued, root)?;
    if request.gateway != gateway {
        return Err(Refusal::OtherGateway(request.gateway));
    }
    Ok(Verified { document: request, digest: envelope.digest() })
}

fn signed(envelope: &Envelope, role: &Role, name: &str) -> Result<(), Refusal> {
    let (have, need) = (envelope.signers(&role.keys), usize::from(role.threshold));
    if have < need { Err(Refusal::TooFewSignatures { have, need, role: name.to_owned() }) } else { Ok(()) }
}

fn payload<D: Document>(envelope: &Envelope) -> Result<D, Refusal> {
    let (found, expected): (DocumentKind, DocumentKind) = (envelope.kind, D::KIND);
    if found != expected { Err(Refusal::WrongType { found, expected }) } else { D::decode(&envelope.payload) }
}

fn same_fleet(known: &Root, found: &str) -> Result<(), Refusal> {
    if found == known.fleet {
        Ok(())
    } else {
        Err(Refusal::OtherFleet { found: found.to_owned(), ours: known.fleet.clone() })
    }
}
