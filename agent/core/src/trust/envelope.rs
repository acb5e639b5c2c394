//! The envelope around a document: what kind it is, its bytes, and who signed both.
//!
//! What is signed is DSSE's pre-authentication encoding of type and payload, so there is no canonical form to get wrong.
//! The wire form: a version byte and postcard; at most [`MAX_ENVELOPE`] bytes and [`MAX_SIGNATURES`] signatures.

use alloc::{format, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{Digest, DocumentKind, Key, Refusal};

/// Bytes of an envelope. The largest documents are desired states of some twenty slots, 6 KB.
pub const MAX_ENVELOPE: usize = 16_384;

/// Signatures of an envelope. More are an attempt to keep us busy.
const MAX_SIGNATURES: usize = 8;

const VERSION: u8 = 1;

/// A signed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub kind: DocumentKind,
    /// The document's bytes.
    pub payload: Vec<u8>,
    /// Who says so.
    pub signatures: Vec<Signature>,
}

/// An Ed25519 signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The beginning of the key's id: which key to try. It proves nothing.
    pub hint: [u8; 8],
    /// R and S.
    pub bytes: [u8; 64],
}

#[derive(Serialize, Deserialize)]
struct V1<'a> {
    kind: u8,
    payload: &'a [u8],
    #[serde(borrow)]
    signatures: Vec<([u8; 8], &'a [u8])>,
}

/// The bytes that are signed for a document: DSSE 1.0.2, "PAE".
#[must_use]
pub fn signing_input(kind: DocumentKind, payload: &[u8]) -> Vec<u8> {
    let media_type = kind.media_type();
    let mut bytes = format!("DSSEv1 {} {media_type} {} ", media_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Signature {
    /// A signature by this key.
    #[must_use]
    pub fn new(key: &Key, bytes: [u8; 64]) -> Self {
        Self { hint: hint(&key.id()), bytes }
    }
}

impl Envelope {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let signatures = self.signatures.iter().map(|signature| (signature.hint, &signature.bytes[..])).collect();
        let v1 = V1 { kind: self.kind.number(), payload: &self.payload, signatures };
        let mut bytes = alloc::vec![VERSION];
        bytes.extend(postcard::to_allocvec(&v1).expect("memory is the only sink"));
        bytes
    }

    /// Reads one; all bytes must be used. Nobody has checked a signature then.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(Refusal::TooLarge { bytes: bytes.len() });
        }
        let (version, rest) = bytes.split_first().ok_or(Refusal::Malformed("nothing"))?;
        if *version != VERSION {
            return Err(Refusal::UnknownVersion(*version));
        }
        let broken = Refusal::Malformed("a damaged envelope");
        let (V1 { kind, payload, signatures }, rest) = postcard::take_from_bytes(rest).map_err(|_| broken.clone())?;
        let kind = DocumentKind::ALL.into_iter().find(|known| known.number() == kind);
        let kind = kind.ok_or(Refusal::Malformed("a document of no known kind"))?;
        if !rest.is_empty() {
            return Err(broken);
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(Refusal::Malformed("more than 8 signatures"));
        }
        let mut read = Vec::with_capacity(signatures.len());
        for (hint, bytes) in signatures {
            let bytes = bytes.try_into().map_err(|_| Refusal::Malformed("a signature that is not 64 bytes"))?;
            read.push(Signature { hint, bytes });
        }
        Ok(Self { kind, payload: payload.into(), signatures: read })
    }

    /// The document's name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// By how many of these keys it is signed. A key counts once, however often it signs and however often it is listed.
    #[must_use]
    pub fn signers(&self, keys: &[Key]) -> usize {
        let input = signing_input(self.kind, &self.payload);
        let mut unique = keys.to_vec();
        unique.sort_unstable();
        unique.dedup();
        unique.retain(|key| {
            let id = hint(&key.id());
            self.signatures
                .iter()
                .filter(|signature| signature.hint == id)
                .any(|signature| signs(key, &input, signature))
        });
        unique.len()
    }
}

fn signs(key: &Key, input: &[u8], signature: &Signature) -> bool {
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &key.0);
    key.verify(input, &signature.bytes).is_ok()
}

fn hint(id: &Digest) -> [u8; 8] {
    let mut hint = [0; 8];
    hint.copy_from_slice(&id.0[..8]);
    hint
}
