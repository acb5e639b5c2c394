//! Keys in a folder: one file for each role, and the roots that say which keys count.
//!
//! `root.pem`, `operator.pem` and `publisher.pem` are PKCS#8 as openssl writes it, encrypted if there is a passphrase, readable for their owner alone. `root-1`,
//! `root-2` and so on are public. A hobbyist has all of them on one laptop; a company gives each role's file to other hands, with the roots.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use pkcs8::{
    AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, LineEnding, ObjectIdentifier, PrivateKeyInfoRef,
    SecretDocument, der::asn1::OctetStringRef,
};
use porin_core::{
    time::Unix,
    trust::{self, Envelope, Key, Root, Signature, Verified, documents::Document},
};
use ring::{
    rand::{self, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::failure::{Failure, REFUSED};

/// Where a passphrase comes from that nobody types.
const PASSPHRASE: &str = "PORIN_PASSPHRASE";

/// RFC 8410.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Bytes of a key file. Encrypted ones have some 400.
const MAX_FILE: u64 = 16_384;

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Says whose keys count
    Root,
    /// Says what gateways run
    Operator,
    /// Says which cells there are
    Publisher,
}

impl RoleName {
    pub(crate) const ALL: [Self; 3] = [Self::Root, Self::Operator, Self::Publisher];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
        }
    }

    /// The keys that a root has for it.
    pub(crate) fn keys(self, root: &Root) -> Vec<Key> {
        match self {
            Self::Root => root.root.keys.clone(),
            Self::Operator => root.operator.keys.clone(),
            Self::Publisher => root.publishers.iter().flat_map(|publisher| publisher.role.keys.clone()).collect(),
        }
    }
}

/// A folder with keys.
#[derive(Debug)]
pub(crate) struct KeyFolder(PathBuf);

impl KeyFolder {
    /// The one that was named, or the user's own.
    pub(crate) fn at(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path {
            return Ok(Self(path.to_owned()));
        }
        let base = match std::env::var_os("XDG_CONFIG_HOME") {
            Some(base) => PathBuf::from(base),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set: name the folder with --keys")?)
                .join(".config"),
        };
        Ok(Self(base.join("porin/keys")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.with_context(|| format!("cannot make the folder {}", self.0.display()))
    }

    pub(crate) fn key_file(&self, role: RoleName) -> PathBuf {
        self.0.join(format!("{}.pem", role.name()))
    }

    /// A root's file.
    pub(crate) fn root_file(&self, version: u64) -> PathBuf {
        self.0.join(format!("root-{version}"))
    }

    /// The newest root of the folder; every one before it is checked on the way.
    pub(crate) fn root(&self) -> anyhow::Result<Verified<Root>> {
        let read = |version| -> anyhow::Result<Option<Vec<u8>>> {
            let path = self.root_file(version);
            match read_capped(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error)
                    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        };
        let Some(first) = read(1)? else {
            return Err(Failure {
                code: 1,
                message: format!("there is no root in {}", self.0.display()),
                hint: Some("make keys with `porin keys init`, or name their folder with --keys".into()),
            }
            .into());
        };
        let refused = |version: u64, refusal: trust::Refusal| Failure {
            code: REFUSED,
            message: format!("{}: {refusal}", self.root_file(version).display()),
            hint: None,
        };
        let mut root = trust::pinned_root(&first).map_err(|refusal| refused(1, refusal))?;
        while let Some(next) = read(root.version + 1)? {
            root = trust::next_root(&root, &next).map_err(|refusal| refused(root.version + 1, refusal))?;
        }
        Ok(root)
    }

    /// The private key of a role, which must be one that counts. Asks for its passphrase if it has one.
    pub(crate) fn pair(&self, role: RoleName, root: &Root) -> anyhow::Result<Ed25519KeyPair> {
        self.finish_exchange(role, root)?;
        let path = self.key_file(role);
        let pair = self.read_pair(&path).with_context(|| format!("cannot use the key in {}", path.display()))?;
        if !role.keys(root).contains(&public(&pair)) {
            return Err(Failure {
                code: REFUSED,
                message: format!(
                    "{}: {} is no key of the role {} in root {}",
                    path.display(),
                    public(&pair).id(),
                    role.name(),
                    root.version
                ),
                hint: Some("a key that was rotated out signs nothing more; the new one belongs in its place".into()),
            }
            .into());
        }
        Ok(pair)
    }

    /// Where a new key waits for the root that names it.
    pub(crate) fn fresh_file(&self, role: RoleName) -> PathBuf {
        self.0.join(format!("{}.pem.new", role.name()))
    }

    /// Puts a new key that a root already names in the place of the old one, which is kept under another name. An exchange may have been cut short between
    /// the two.
    pub(crate) fn finish_exchange(&self, role: RoleName, root: &Root) -> anyhow::Result<()> {
        let (path, fresh) = (self.key_file(role), self.fresh_file(role));
        if !fresh.exists() || !role.keys(root).contains(&public(&self.read_pair(&fresh)?)) {
            return Ok(());
        }
        if path.exists() {
            let old = path.with_extension(format!("pem.until-root-{}", root.version));
            fs::rename(&path, old).context("moving the old key away")?;
        }
        fs::rename(&fresh, &path).context("putting the new key in its place")
    }

    fn read_pair(&self, path: &Path) -> anyhow::Result<Ed25519KeyPair> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failure {
                code: REFUSED,
                message: format!("others may read it (mode {mode:04o})"),
                hint: Some(format!("chmod 600 {}", path.display())),
            }
            .into());
        }
        let text = String::from_utf8(read_capped(path)?).map_err(|_| anyhow!("it is no PEM file"))?;
        let (label, document) =
            SecretDocument::from_pem(&text).map_err(|error| anyhow!("it is no PEM file: {error}"))?;
        let document = if label == "ENCRYPTED PRIVATE KEY" {
            let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
            let encrypted = encrypted.map_err(|error| anyhow!("it is no encrypted PKCS#8: {error}"))?;
            let passphrase = passphrase(&format!("passphrase of {}: ", path.display()))?;
            encrypted.decrypt(passphrase).map_err(|_| anyhow!("the passphrase is wrong"))?
        } else {
            document
        };
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.as_bytes())
            .map_err(|error| anyhow!("it is no Ed25519 key: {error}"))
    }

    /// Writes a new key of a role into a file that is not there yet. With a passphrase, nobody reads it without.
    pub(crate) fn create_pair(&self, path: &Path, passphrase: Option<&str>) -> anyhow::Result<Ed25519KeyPair> {
        let seed: [u8; 32] =
            rand::generate(&SystemRandom::new()).map_err(|_| anyhow!("the system gives no random bytes"))?.expose();
        // RFC 8410: an octet string within the octet string. ring's own form has the public key, too, which openssl does not read.
        let wrapped = [&[4, 32], &seed[..]].concat();
        let wrapped = OctetStringRef::new(&wrapped).map_err(|error| anyhow!("{error}"))?;
        let info = PrivateKeyInfoRef::new(AlgorithmIdentifierRef { oid: ED25519, parameters: None }, wrapped);
        let (label, document) = match passphrase {
            None => ("PRIVATE KEY", SecretDocument::encode_msg(&info)?),
            Some(passphrase) => (
                "ENCRYPTED PRIVATE KEY",
                info.encrypt(passphrase).map_err(|error| anyhow!("encrypting the key: {error}"))?,
            ),
        };
        let pem = document.to_pem(label, LineEnding::LF)?;
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| anyhow!("{error}"))
    }
}

/// Signs a document.
pub(crate) fn sign<D: Document>(document: &D, pairs: &[&Ed25519KeyPair]) -> Vec<u8> {
    let payload = document.encode();
    let input = trust::signing_input(D::KIND, &payload);
    let signatures = pairs.iter().map(|pair| {
        let bytes = pair.sign(&input);
        Signature::new(&public(pair), bytes.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    });
    let signatures = signatures.collect();
    Envelope { kind: D::KIND, payload, signatures }.encode()
}

pub(crate) fn public(pair: &Ed25519KeyPair) -> Key {
    Key(pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
}

/// This machine's time.
pub(crate) fn now() -> Unix {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Unix(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A passphrase from the environment, or typed.
fn passphrase(prompt: &str) -> anyhow::Result<String> {
    match std::env::var(PASSPHRASE) {
        Ok(passphrase) => Ok(passphrase),
        Err(_) => rpassword::prompt_password(prompt)
            .with_context(|| format!("no terminal to ask on, and {PASSPHRASE} is not set")),
    }
}

/// A passphrase for new keys: typed twice, unless it comes from the environment.
pub(crate) fn new_passphrase() -> anyhow::Result<String> {
    let first = passphrase("passphrase for the new keys: ")?;
    ensure!(first.len() >= 8, "a passphrase has at least 8 bytes");
    if std::env::var_os(PASSPHRASE).is_none() && passphrase("once more: ")? != first {
        bail!("that was another passphrase; nothing was made");
    }
    Ok(first)
}

/// Writes a public file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn read_capped(path: &Path) -> anyhow::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    ensure!(length <= MAX_FILE, "it has {length} bytes, expected at most {MAX_FILE}");
    Ok(fs::read(path)?)
}
