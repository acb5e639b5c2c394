//! Keys and releases on the command line, as an owner and a publisher use them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use porin_core::{
    reason::Code,
    trust::{self, DocumentKind, Envelope, Key, Role, Root, Signature, Verified, documents::Document},
};
use porin_e2e::program;
use porin_test_support::target_dir;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

struct Owner(TempDir);

impl Owner {
    /// With new keys whose cells begin with `acme/`.
    fn new() -> Self {
        let owner = Self(tempfile::tempdir().expect("a folder"));
        let made = owner.json(&["keys", "init", "--fleet", "lab", "--prefix", "acme"]);
        assert_eq!((&made["root"], &made["fleet"]), (&1.into(), &"lab".into()));
        owner
    }

    fn keys(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn run_with(&self, arguments: &[&str], passphrase: Option<&str>) -> (Option<i32>, String, String) {
        // Away from whatever terminal this runs in, which would be asked for passphrases.
        let mut command = Command::new("setsid");
        command
            .arg("--wait")
            .arg(program("porin"))
            .args(arguments)
            .arg("--keys")
            .arg(self.keys())
            .env_remove("PORIN_PASSPHRASE");
        command.envs(passphrase.map(|passphrase| ("PORIN_PASSPHRASE", passphrase)));
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code(), text(stdout), text(stderr))
    }

    fn json_with(&self, arguments: &[&str], passphrase: Option<&str>) -> Value {
        let (code, stdout, stderr) = self.run_with(&[arguments, &["--json"]].concat(), passphrase);
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str(&stdout).expect("JSON")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.json_with(arguments, None)
    }

    /// Refused with these words.
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let (code, stdout, stderr) = self.run_with(arguments, None);
        assert_eq!((code, stdout.as_str()), (Some(5), ""), "{stderr}");
        words.iter().for_each(|word| assert!(stderr.contains(word), "{stderr:?} does not say {word:?}"));
    }

    fn release<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let out = self.0.path().join("x.release").display().to_string();
        let component = target_dir().join("cells/deadband.wasm").display().to_string();
        [&["release", component.leak(), "--out", out.leak()], more].concat()
    }

    fn root(&self, version: u64) -> Verified<Root> {
        let read = |version| fs::read(self.keys().join(format!("root-{version}"))).expect("it is there");
        (2..=version).fold(trust::pinned_root(&read(1)).expect("good"), |root, version| {
            trust::next_root(&root, &read(version)).expect("good")
        })
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("copied");
}

#[test]
fn keys_are_made_once_for_their_owner_alone_in_the_form_of_rfc_8410() {
    let owner = Owner::new();
    assert_eq!(mode(&owner.keys()), 0o700);
    let before = ["root", "operator", "publisher"].map(|role| {
        let path = owner.keys().join(format!("{role}.pem"));
        assert_eq!(mode(&path), 0o600);
        let text = fs::read_to_string(path).expect("text");
        // PKCS#8 version 1 with Ed25519 begins so, in base 64, whatever the key.
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI"), "the form differs");
        text
    });
    owner.refused(&["keys", "init"], &["is not empty; nothing was made", "hint: ", "rotate"]);
    let after = ["root", "operator", "publisher"]
        .map(|role| fs::read_to_string(owner.keys().join(format!("{role}.pem"))).expect("text"));
    assert!(before == after);
    let root = owner.root(1);
    assert_eq!((root.publishers[0].prefix.as_str(), root.operator.threshold), ("acme", 1));
    let (code, _, stderr) = owner.run_with(&["keys", "init", "--fleet", "../x"], None);
    assert!(code == Some(2) && stderr.contains("--fleet `../x`"), "{stderr}");
}

#[test]
fn a_release_is_what_a_gateway_with_the_same_root_takes() {
    let owner = Owner::new();
    let said = owner.json(&owner.release(&["--seq", "7", "--passes", "1..50", "--board", "rpi-4b"]));
    let bytes = fs::read(owner.0.path().join("x.release")).expect("it is there");
    let envelope = Envelope::decode(&bytes).expect("good");
    let gateway = trust::Gateway { id: "gw", groups: &[], board: Some("rpi-4b"), memory: trust::Memory::Numbers };
    let time = trust::Time::AtLeast(porin_core::time::Unix(0));
    let check =
        |root: &Verified<Root>, floor| trust::release(root, &bytes, envelope.digest(), |_| floor, time, gateway, "s");
    let release = check(&owner.root(1), 7).expect("good");
    assert_eq!((release.cell.as_str(), release.world.as_str(), release.seq), ("acme/deadband", "filter", 7));
    let component = fs::read(target_dir().join("cells/deadband.wasm")).expect("`make test` builds it");
    let pieces: Vec<_> = component.chunks(8_192).map(trust::Digest::of).collect();
    assert!(pieces == release.pieces && trust::Digest::of(&component) == release.sha256);
    assert_eq!((release.health.min_per_mille, release.health.max_per_mille), (10, 500));
    assert_eq!(said["release"], envelope.digest().to_string());
    assert_eq!(check(&owner.root(1), 8).expect_err("below").code(), Code::BelowFloor);
    // Nobody else's.
    assert_eq!(check(&Owner::new().root(1), 0).expect_err("unknown key").code(), Code::TooFewSignatures);
}

#[test]
fn what_a_gateway_would_refuse_is_not_released() {
    let owner = Owner::new();
    owner.refused(&owner.release(&["--name", "deadband"]), &["may publish `deadband`", "--name"]);
    let path = owner.0.path().join("bad.wasm");
    let bad = path.display().to_string();
    for (bytes, words) in [
        (vec![0; 51_201], "more than the 51200 bytes that a cell may have"),
        (b"\0asm\x01\0\0\0".to_vec(), "a core module, not a component"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "no export `init`"),
    ] {
        fs::write(&path, bytes).expect("written");
        owner.refused(&["release", &bad], &[words]);
    }
    let publisher = owner.keys().join("publisher.pem");
    fs::set_permissions(&publisher, fs::Permissions::from_mode(0o640)).expect("set");
    owner.refused(&owner.release(&[]), &["others may read it (mode 0640)", "chmod 600"]);
    // Operators publish nothing: their key is none of a publisher.
    copy(&owner.keys().join("operator.pem"), &publisher);
    fs::set_permissions(&publisher, fs::Permissions::from_mode(0o600)).expect("set");
    owner.refused(&owner.release(&[]), &["is not a key of the role publisher in root 1"]);
    assert!(!owner.0.path().join("x.release").exists());
}

#[test]
fn a_rotated_key_signs_no_more_and_the_roots_are_a_chain() {
    let owner = Owner::new();
    let old = owner.0.path().join("old.pem");
    copy(&owner.keys().join("publisher.pem"), &old);
    // It does not take the old private key: it may be lost.
    fs::remove_file(owner.keys().join("publisher.pem")).expect("gone");
    assert_eq!(owner.json(&["keys", "rotate", "publisher"])["root"], 2);
    owner.json(&owner.release(&[]));
    assert_eq!(owner.json(&["keys", "rotate", "root"])["root"], 3);
    assert_eq!(owner.json(&["keys", "rotate", "operator"])["root"], 4);
    let (first, last) = (owner.root(1), owner.root(4));
    assert!(first.root != last.root && first.operator != last.operator && first.publishers != last.publishers);
    let path = owner.keys().join("publisher.pem");
    copy(&path, &owner.0.path().join("new.pem"));
    copy(&old, &path);
    owner.refused(&owner.release(&[]), &["is not a key of the role publisher in root 4", "this key was rotated"]);
    // An exchange that was cut short between the new root and the new key's place is finished by whoever comes next.
    copy(&owner.0.path().join("new.pem"), &owner.keys().join("publisher.pem.new"));
    owner.json(&owner.release(&[]));
    assert!(!owner.keys().join("publisher.pem.new").exists());
    // So is one of which there is no more than a part, or that no root names: it does not stand in the way.
    for leftover in [&b""[..], &fs::read(&old).expect("it is there")] {
        fs::write(owner.keys().join("publisher.pem.new"), leftover).expect("written");
        owner.json(&owner.release(&[]));
    }
    assert_eq!(owner.json(&["keys", "rotate", "publisher"])["root"], 5);
    // Two at a time would make two roots of one number.
    let lock = fs::File::open(owner.keys()).expect("a folder");
    lock.lock().expect("it is free");
    let (code, _, stderr) = owner.run_with(&["keys", "rotate", "operator"], None);
    assert!(code == Some(1) && stderr.contains("another process uses"), "{stderr}");
    drop(lock);
    fs::set_permissions(owner.keys(), fs::Permissions::from_mode(0o777)).expect("set");
    owner.refused(&["keys", "rotate", "operator"], &["others may write in", "mode 0777"]);
    // A link of the chain that somebody has changed.
    let second = owner.keys().join("root-2");
    let mut bytes = fs::read(&second).expect("it is there");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&second, bytes).expect("written");
    owner.refused(&["keys", "show"], &["root-2: 0 of 1 signatures that count"]);
}

#[test]
fn a_key_with_a_passphrase_signs_with_it_only() {
    let owner = Owner::new();
    owner.json_with(&["keys", "rotate", "publisher", "--passphrase"], Some("correct horse"));
    let text = fs::read_to_string(owner.keys().join("publisher.pem")).expect("text");
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{text}");
    let (code, _, stderr) = owner.run_with(&owner.release(&[]), Some("wrong horse"));
    assert!(code == Some(1) && stderr.contains("the passphrase is wrong"), "{stderr}");
    owner.json_with(&owner.release(&[]), Some("correct horse"));
    // Nor does the next key lie bare because nobody thought of it.
    let (code, _, stderr) = owner.run_with(&["keys", "rotate", "publisher"], None);
    assert!(code == Some(1) && stderr.contains("PORIN_PASSPHRASE is not set"), "{stderr}");
    let (code, _, stderr) = owner.run_with(&["keys", "rotate", "operator", "--passphrase"], Some("short"));
    assert!(code == Some(1) && stderr.contains("at least 8 bytes"), "{stderr}");
    assert_eq!(owner.json(&["keys", "show"])["root"], 2);
}

#[test]
fn a_root_that_would_not_count_is_not_written() {
    let owner = Owner::new();
    // Two keys must sign, one of which is here: more than one command can do.
    let pairs = [7, 8].map(|seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"));
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n";
    fs::write(owner.keys().join("root.pem"), pem).expect("written");
    let key = |pair: &Ed25519KeyPair| Key(pair.public_key().as_ref().try_into().expect("32 bytes"));
    let role = Role { keys: pairs.iter().map(key).collect(), threshold: 2 };
    let root = Root { root: role, ..(*owner.root(1)).clone() };
    let mut envelope = Envelope { kind: DocumentKind::Root, payload: root.encode(), signatures: vec![] };
    let input = trust::signing_input(DocumentKind::Root, &envelope.payload);
    for pair in &pairs {
        let bytes = pair.sign(&input).as_ref().try_into().expect("64 bytes");
        envelope.signatures.push(Signature::new(&key(pair), bytes));
    }
    fs::write(owner.keys().join("root-1"), envelope.encode()).expect("written");
    let before = owner.json(&["keys", "show"]);
    owner.refused(
        &["keys", "rotate", "operator"],
        &["root 2 would not count: 1 of 2 signatures", "nothing was changed"],
    );
    assert_eq!(owner.json(&["keys", "show"]), before);
    assert!(!owner.keys().join("operator.pem.new").exists() && !owner.keys().join("root-2").exists());
}
