//! Keys in a folder: one file for each role, and the roots that say which keys count.
//!
//! `root.pem`, `operator.pem` and `publisher.pem` are PKCS#8 as openssl writes it, encrypted if there is a passphrase, readable for their owner alone. `root-1`,
//! `root-2` and so on are public. A hobbyist has all of them on one laptop; a company gives each role's file to other hands, with the roots.

use std::{
    env::VarError,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use pkcs8::{
    AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, LineEnding, ObjectIdentifier, PrivateKeyInfoRef,
    SecretDocument,
    der::{asn1::OctetStringRef, zeroize::Zeroizing},
};
use porin_core::trust::{self, Envelope, Key, Root, Signature, Verified, documents::Document};
use ring::{
    rand::{self, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use tempfile::{NamedTempFile, PersistError};

use crate::failure::{Exit, Failure};

/// Where a passphrase comes from that nobody types.
const PASSPHRASE: &str = "PORIN_PASSPHRASE";

/// RFC 8410.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Bytes of a key file. Encrypted ones have some 400.
const MAX_FILE: u64 = 16_384;

/// Role of the key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Signs which keys are valid
    Root,
    /// Signs what gateways run
    Operator,
    /// Signs cells
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
        let mut keys = match self {
            Self::Root => root.root.keys.clone(),
            Self::Operator => root.operator.keys.clone(),
            Self::Publisher => root.publishers.iter().flat_map(|publisher| publisher.role.keys.clone()).collect(),
        };
        // One key may serve several publishers.
        keys.sort_unstable();
        keys.dedup();
        keys
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

    /// Keeps others out who would change it, until the file is dropped. Refuses a folder in which others could exchange files.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let folder = File::open(&self.0).with_context(|| format!("cannot open the folder {}", self.0.display()))?;
        let mode = folder.metadata()?.permissions().mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(Failure {
                exit: Exit::Refused,
                message: format!("others may write in {} (mode {mode:04o})", self.0.display()),
                hint: Some(format!("chmod go-w {}", self.0.display())),
            }
            .into());
        }
        folder.try_lock().map_err(|_| anyhow!("another process uses {}", self.0.display()))?;
        Ok(folder)
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
                Ok((bytes, _)) => Ok(Some(bytes.to_vec())),
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
                exit: Exit::Failed,
                message: format!("there is no root in {}", self.0.display()),
                hint: Some("make keys with `porin keys init`, or name their folder with --keys".into()),
            }
            .into());
        };
        let refused = |version: u64, refusal: trust::Refusal| Failure {
            exit: Exit::Refused,
            message: format!("{}: {refusal}", self.root_file(version).display()),
            hint: None,
        };
        let mut root = trust::pinned_root(&first).map_err(|refusal| refused(1, refusal))?;
        if root.version != 1 {
            return Err(refused(1, trust::Refusal::RootOutOfTurn { found: root.version, expected: 1 }).into());
        }
        for version in 2.. {
            let Some(next) = read(version)? else { break };
            root = trust::next_root(&root, &next).map_err(|refusal| refused(version, refusal))?;
        }
        Ok(root)
    }

    /// The private key of a role, which must be one that counts. Asks for its passphrase if it has one. An exchange that was cut short is finished.
    pub(crate) fn pair(&self, role: RoleName, root: &Root) -> anyhow::Result<Ed25519KeyPair> {
        let path = self.key_file(role);
        let current = read_pair(&path);
        if let Ok(pair) = &current
            && role.keys(root).contains(&public(pair))
        {
            return current;
        }
        if let Ok(fresh) = read_pair(&self.fresh_file(role))
            && role.keys(root).contains(&public(&fresh))
        {
            self.put_in_place(role, root)?;
            return Ok(fresh);
        }
        let pair = current?;
        Err(Failure {
            exit: Exit::Refused,
            message: format!(
                "{}: {} is not a key of the role {} in root {}",
                path.display(),
                public(&pair).id(),
                role.name(),
                root.version
            ),
            hint: Some("this key was rotated: use the new one instead".into()),
        }
        .into())
    }

    /// Where a new key waits for the root that names it.
    pub(crate) fn fresh_file(&self, role: RoleName) -> PathBuf {
        self.0.join(format!("{}.pem.new", role.name()))
    }

    /// Puts a new key that a root already names in the place of the old one, which is kept under another name.
    pub(crate) fn put_in_place(&self, role: RoleName, root: &Root) -> anyhow::Result<()> {
        let (path, fresh) = (self.key_file(role), self.fresh_file(role));
        if path.exists() {
            let old = path.with_extension(format!("pem.until-root-{}", root.version));
            fs::rename(&path, old).context("moving the old key away")?;
        }
        fs::rename(&fresh, &path).context("putting the new key in its place")?;
        Ok(File::open(&self.0)?.sync_all()?)
    }

    /// Whether a role's key file has a passphrase.
    pub(crate) fn is_encrypted(&self, role: RoleName) -> bool {
        read_capped(&self.key_file(role)).is_ok_and(|(bytes, _)| bytes.starts_with(b"-----BEGIN ENCRYPTED"))
    }
}

fn read_pair(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let read = || {
        let (bytes, mode) = read_capped(path)?;
        if mode & 0o077 != 0 {
            return Err(Failure {
                exit: Exit::Refused,
                message: format!("others may read it (mode {mode:04o})"),
                hint: Some(format!("chmod 600 {}", path.display())),
            }
            .into());
        }
        let text = std::str::from_utf8(&bytes).context("it is not a PEM file")?;
        let (label, document) =
            SecretDocument::from_pem(text).map_err(|error| anyhow!("it is not a PEM file: {error}"))?;
        let document = if label == "ENCRYPTED PRIVATE KEY" {
            let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
            let encrypted = encrypted.map_err(|error| anyhow!("it is not an encrypted PKCS#8 key: {error}"))?;
            let passphrase = passphrase(&format!("passphrase of {}: ", path.display()))?;
            encrypted
                .decrypt(&*passphrase)
                .map_err(|error| anyhow!("the passphrase is wrong, or the cipher unknown: {error}"))?
        } else {
            document
        };
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.as_bytes())
            .map_err(|error| anyhow!("it is not an Ed25519 key: {error}"))
    };
    read().with_context(|| format!("cannot use the key in {}", path.display()))
}

/// Writes a new key into a file that is not there yet, whole or not at all. With a passphrase, nobody reads it without.
pub(crate) fn create_pair(path: &Path, passphrase: Option<&str>) -> anyhow::Result<Ed25519KeyPair> {
    let seed = rand::generate(&SystemRandom::new()).map_err(|_| anyhow!("the system has no random bytes"))?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.expose());
    // RFC 8410: an octet string within the octet string. ring's own form has the public key, too, which openssl does not read.
    let wrapped = Zeroizing::new([&[4, 32], &seed[..]].concat());
    let wrapped = OctetStringRef::new(&wrapped).map_err(|error| anyhow!("{error}"))?;
    let info = PrivateKeyInfoRef::new(AlgorithmIdentifierRef { oid: ED25519, parameters: None }, wrapped);
    let (label, document) = match passphrase {
        None => ("PRIVATE KEY", SecretDocument::encode_msg(&info)?),
        Some(passphrase) => {
            let encrypted = info.encrypt(passphrase).map_err(|error| anyhow!("encrypting the key: {error}"))?;
            ("ENCRYPTED PRIVATE KEY", encrypted)
        }
    };
    let pem = document.to_pem(label, LineEnding::LF)?;
    write_new(path, pem.as_bytes(), 0o600)?;
    Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|error| anyhow!("{error}"))
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

/// A passphrase from the environment, or typed.
fn passphrase(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    match std::env::var(PASSPHRASE) {
        Ok(passphrase) => Ok(Zeroizing::new(passphrase)),
        Err(VarError::NotUnicode(_)) => bail!("{PASSPHRASE} is not text"),
        Err(VarError::NotPresent) => rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .with_context(|| format!("no terminal to ask on, and {PASSPHRASE} is not set")),
    }
}

/// A passphrase for new keys, if they are to have one or it is in the environment: typed twice, unless it is there.
pub(crate) fn new_passphrase(wanted: bool) -> anyhow::Result<Option<Zeroizing<String>>> {
    let given = std::env::var_os(PASSPHRASE).is_some();
    if !wanted && !given {
        return Ok(None);
    }
    let first = passphrase("passphrase for the new key: ")?;
    ensure!(first.len() >= 8, "a passphrase has at least 8 bytes");
    if !given && passphrase("once more: ")? != first {
        bail!("the passphrases differ; nothing was made");
    }
    Ok(Some(first))
}

/// Writes a file whole or not at all, in the place of another.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, 0o644, |file| file.persist(path))
}

/// Writes a file whole or not at all, if there is none.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    write(path, bytes, mode, |file| file.persist_noclobber(path))
}

fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    persist: impl FnOnce(NamedTempFile) -> Result<File, PersistError>,
) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        persist(file)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A small file's bytes and mode, looked at and read as one.
fn read_capped(path: &Path) -> anyhow::Result<(Zeroizing<Vec<u8>>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    ensure!(file.metadata()?.is_file(), "it is not a file");
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_FILE, "it has more than {MAX_FILE} bytes");
    Ok((bytes, mode))
}
