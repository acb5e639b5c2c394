//! Each check with a document that is wrong in one point, as in the public suite of TUF where its cases apply (`docs/updates.md`).

use alloc::{string::ToString, vec, vec::Vec};

use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::reason::{Code, Reason};

use super::{
    documents::Document,
    reported::{ClockWord, ReleaseReport, SlotReport, UpdateState},
    *,
};

const FOREVER: Unix = Unix(u64::MAX);
const NONCE: [u8; 16] = [7; 16];
const NOW: Time = Time::Known(Unix(1_000_000_000_000_000));
const GATEWAY: Gateway<'static> = Gateway { id: "gw1", groups: &[], board: None, memory: Memory::Numbers };

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

fn key(seed: u8) -> Key {
    Key(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn role(seeds: &[u8], threshold: u8) -> Role {
    Role { keys: seeds.iter().map(|seed| key(*seed)).collect(), threshold }
}

fn sign(envelope: &mut Envelope, seed: u8) {
    let signature = pair(seed).sign(&signing_input(envelope.kind, &envelope.payload));
    let bytes = signature.as_ref().try_into().expect("64 bytes");
    envelope.signatures.push(Signature::new(&key(seed), bytes));
}

fn envelope<D: Document>(document: &D, seeds: &[u8]) -> Envelope {
    let mut envelope = Envelope { kind: D::KIND, payload: document.encode(), signatures: vec![] };
    seeds.iter().for_each(|seed| sign(&mut envelope, *seed));
    envelope
}

fn signed<D: Document>(document: &D, seeds: &[u8]) -> Vec<u8> {
    envelope(document, seeds).encode()
}

fn root() -> Root {
    let publisher = |name: &str, seed, prefix: &str, slots: &[&str]| Publisher {
        name: name.into(),
        role: role(&[seed], 1),
        prefix: prefix.into(),
        slots: slots.iter().map(ToString::to_string).collect(),
    };
    Root {
        version: 1,
        fleet: "lab".into(),
        expires: FOREVER,
        root: role(&[1, 2, 3], 2),
        operator: role(&[10, 11], 1),
        publishers: vec![publisher("acme", 20, "acme", &["*"]), publisher("ours", 21, "", &["quiet", "alarm"])],
    }
}

fn trusted(root: &Root) -> Verified<Root> {
    pinned_root(&signed(root, &[1, 2])).expect("good")
}

fn cell(name: &str, seq: u64) -> Release {
    Release {
        cell: name.into(),
        seq,
        semver: "1.0.0".into(),
        sha256: Digest::of(b"cell"),
        size: 4,
        pieces: vec![Digest::of(b"cell")],
        world: "filter".into(),
        imports: vec![],
        boards: vec![],
        health: Health { min_per_mille: 0, max_per_mille: 1_000 },
        issued: Unix(5),
    }
}

fn state(seq: u64) -> Desired {
    Desired {
        fleet: "lab".into(),
        target: Target::Gateway("gw1".into()),
        seq,
        issued: Unix(5),
        expires: FOREVER,
        root_version: 1,
        nonce: None,
        set: String::new(),
    }
}

fn want(desired_state: &Desired, seeds: &[u8]) -> Result<Verified<Desired>, Refusal> {
    desired(&trusted(&root()), &signed(desired_state, seeds), None, NOW, GATEWAY)
}

fn publish(of: &Release, seeds: &[u8], slot: &str) -> Result<Verified<Release>, Refusal> {
    let envelope = envelope(of, seeds);
    release(&trusted(&root()), &envelope.encode(), envelope.digest(), |_| 0, NOW, GATEWAY, slot)
}

fn code<T: fmt::Debug>(outcome: Result<T, Refusal>) -> &'static str {
    let code = outcome.expect_err("refused").code();
    Code::KNOWN.iter().find(|known| **known == code).expect("it is known").word()
}

// Envelopes.

#[test]
fn an_envelope_is_read_as_it_was_written_and_nothing_else_is() {
    let whole = envelope(&state(1), &[10, 11]);
    let bytes = whole.encode();
    assert_eq!(Envelope::decode(&bytes), Ok(whole.clone()));
    for end in 0..bytes.len() {
        assert!(Envelope::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(code(Envelope::decode(&[&bytes[..], &[0]].concat())), "malformed");
    assert_eq!(code(Envelope::decode(&[&[2], &bytes[1..]].concat())), "unknown-version");
    assert_eq!(code(Envelope::decode(&[&[1, 9], &bytes[2..]].concat())), "malformed");
    assert_eq!(code(Envelope::decode(&vec![1; MAX_ENVELOPE + 1])), "too-large");
    let mut crowded = whole;
    (0..6).for_each(|_| sign(&mut crowded, 10));
    assert!(Envelope::decode(&crowded.encode()).is_ok(), "eight signatures");
    sign(&mut crowded, 10);
    assert_eq!(code(Envelope::decode(&crowded.encode())), "malformed");
}

#[test]
fn any_bit_that_is_changed_is_noticed() {
    let bytes = signed(&state(1), &[10]);
    let root = trusted(&root());
    for at in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(desired(&root, &changed, None, NOW, GATEWAY).is_err(), "bit {at}");
    }
}

#[test]
fn a_document_never_passes_for_one_of_another_kind() {
    let root = trusted(&root());
    let bytes = signed(&cell("x", 1), &[10]);
    assert_eq!(code(desired(&root, &bytes, None, NOW, GATEWAY)), "wrong-type");
    // The type is signed, too: a relabelled envelope has no good signature.
    let mut relabelled = envelope(&state(1), &[20]);
    relabelled.kind = DocumentKind::Release;
    let outcome = release(&root, &relabelled.encode(), relabelled.digest(), |_| 0, NOW, GATEWAY, "quiet");
    assert_eq!(code(outcome), "too-few-signatures");
}

#[test]
fn dsse_says_what_is_signed() {
    // Its own example has the type `http://example.com/HelloWorld`; this is the same form with ours.
    let input = signing_input(DocumentKind::Root, b"hello world");
    assert_eq!(input, b"DSSEv1 38 application/vnd.porin.root.v1+postcard 11 hello world");
}

// Keys and thresholds.

#[test]
fn keys_count_and_signatures_do_not() {
    let demanding = trusted(&Root { operator: role(&[10, 11], 2), ..root() });
    let check = |seeds: &[u8]| desired(&demanding, &signed(&state(1), seeds), None, NOW, GATEWAY).map(drop);
    assert_eq!(check(&[10, 11]), Ok(()));
    assert_eq!(check(&[11, 10, 99]), Ok(()));
    // RUSTSEC-2020-0024: one key that signs twice was counted twice.
    for seeds in [&[][..], &[10], &[10, 10], &[10, 10, 10], &[10, 99], &[1, 2], &[20, 21]] {
        assert_eq!(code(check(seeds)), "too-few-signatures", "{seeds:?}");
    }
    // Another key's hint on a good signature, and a good hint on another key's signature.
    let mut forged = envelope(&state(1), &[10, 99]);
    forged.signatures[1].hint = Signature::new(&key(11), [0; 64]).hint;
    assert_eq!(code(desired(&demanding, &forged.encode(), None, NOW, GATEWAY)), "too-few-signatures");
    // A bad signature beside enough good ones does no harm.
    let mut noisy = envelope(&state(1), &[10, 10, 11]);
    noisy.signatures[0].bytes[5] ^= 1;
    assert!(desired(&demanding, &noisy.encode(), None, NOW, GATEWAY).is_ok());
}

#[test]
fn a_role_lists_each_key_once_and_can_meet_its_threshold() {
    for bad in [
        Role { keys: vec![key(1), key(1), key(2)], threshold: 2 },
        role(&[1, 2], 3),
        role(&[1, 2], 0),
        role(&[], 0),
        role(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 1),
    ] {
        assert_eq!(code(pinned_root(&signed(&Root { root: bad.clone(), ..root() }, &[1, 2]))), "malformed", "{bad:?}");
        let operator = Root { operator: bad, ..root() };
        assert_eq!(code(pinned_root(&signed(&operator, &[1, 2]))), "malformed");
    }
    assert_eq!(code(pinned_root(&signed(&root(), &[1]))), "too-few-signatures");
}

// The chain of roots.

#[test]
fn a_root_follows_by_the_keys_of_both_and_one_at_a_time() {
    let first = trusted(&root());
    let next = |version, keys: Role, fleet: &str, seeds: &[u8]| {
        let second = Root { version, root: keys, fleet: fleet.into(), ..root() };
        next_root(&first, &signed(&second, seeds))
    };
    let (same, new) = (role(&[1, 2, 3], 2), role(&[4, 5], 2));
    assert!(next(2, same.clone(), "lab", &[2, 3]).is_ok());
    assert!(next(2, new.clone(), "lab", &[1, 2, 4, 5]).is_ok());
    for seeds in [&[1, 2][..], &[4, 5], &[1, 4, 5], &[1, 2, 4], &[1, 1, 4, 5]] {
        assert_eq!(code(next(2, new.clone(), "lab", seeds)), "too-few-signatures", "{seeds:?}");
    }
    let last = Root { version: u64::MAX, ..root() };
    assert_eq!(code(next_root(&trusted(&last), &signed(&last, &[1, 2]))), "root-out-of-turn");
    assert_eq!(code(next_root(&first, &signed(&state(1), &[1, 2]))), "wrong-type");
    assert_eq!(code(pinned_root(&signed(&Root { version: 0, ..root() }, &[1, 2]))), "malformed");
    for version in [1, 3, u64::MAX] {
        assert_eq!(code(next(version, same.clone(), "lab", &[1, 2])), "root-out-of-turn", "{version}");
    }
    assert_eq!(code(next(2, same, "other", &[1, 2])), "other-fleet");
}

#[test]
fn a_rotated_key_says_nothing_more() {
    let first = trusted(&root());
    let rotated = Root { version: 2, operator: role(&[12], 1), ..root() };
    let second = next_root(&first, &signed(&rotated, &[1, 2])).expect("good");
    let stolen = signed(&state(9), &[10]);
    assert!(desired(&first, &stolen, None, NOW, GATEWAY).is_ok());
    assert_eq!(code(desired(&second, &stolen, None, NOW, GATEWAY)), "too-few-signatures");
    assert!(desired(&second, &signed(&state(9), &[12]), None, NOW, GATEWAY).is_ok());
    // The first root's own keys, once taken out, make no third.
    let third = Root { version: 3, root: role(&[4], 1), ..rotated.clone() };
    let third = next_root(&second, &signed(&third, &[1, 2, 4])).expect("good");
    let fourth = Root { version: 4, ..rotated };
    assert_eq!(code(next_root(&third, &signed(&fourth, &[1, 2]))), "too-few-signatures");
}

// Numbers.

#[test]
fn an_older_desired_state_is_refused_and_another_with_the_same_number_is_an_alarm() {
    let root = trusted(&root());
    let known = envelope(&state(5), &[10]);
    let known = Some((5, known.digest()));
    let check = |wanted: &Desired| desired(&root, &signed(wanted, &[10]), known, NOW, GATEWAY).map(drop);
    // CVE-2022-29173: the check was missing for one kind of document.
    for seq in [0, 1, 4] {
        assert_eq!(check(&state(seq)), Err(Refusal::Older { found: seq, known: 5 }));
    }
    assert_eq!(check(&state(5)), Ok(()));
    assert_eq!(check(&Desired { expires: Unix(u64::MAX - 1), ..state(5) }), Err(Refusal::SameNumber(5)));
    assert_eq!(check(&state(6)), Ok(()));
    assert_eq!(check(&state(u64::MAX)), Ok(()));
}

#[test]
fn a_release_below_the_floor_is_refused_and_an_older_one_above_it_is_not() {
    let root = trusted(&root());
    let check = |seq, floor| {
        let envelope = envelope(&cell("acme/x", seq), &[20]);
        let floor = |cell: &str| if cell == "acme/x" { floor } else { u64::MAX };
        release(&root, &envelope.encode(), envelope.digest(), floor, NOW, GATEWAY, "any").map(drop)
    };
    assert_eq!(check(4, 5), Err(Refusal::BelowFloor { cell: "acme/x".into(), found: 4, floor: 5 }));
    assert_eq!(check(5, 5), Ok(()));
    assert_eq!(check(9, 5), Ok(()));
}

#[test]
fn a_release_is_the_one_that_was_asked_for() {
    let root = trusted(&root());
    let bytes = signed(&cell("acme/x", 1), &[20]);
    let outcome = release(&root, &bytes, Digest::of(b"another"), |_| 0, NOW, GATEWAY, "any");
    assert_eq!(code(outcome), "other-digest");
}

// Time.

#[test]
fn what_has_expired_is_not_taken_up_and_without_a_clock_only_what_has_for_certain() {
    let at = |us| Time::Known(Unix(us));
    let wanted = Desired { expires: Unix(100), issued: Unix(50), ..state(1) };
    let bytes = signed(&wanted, &[10]);
    let check = |root: &Root, time| desired(&trusted(root), &bytes, None, time, GATEWAY).map(drop);
    assert_eq!(check(&root(), at(99)), Ok(()));
    assert_eq!(check(&root(), at(100)), Err(Refusal::Expired { expires: Unix(100), now: Unix(100) }));
    assert_eq!(code(check(&Root { expires: Unix(80), ..root() }, at(90))), "expired");
    // A clock that nobody has set says how late it is at least.
    assert_eq!(check(&root(), Time::AtLeast(Unix(99))), Ok(()));
    assert_eq!(code(check(&root(), Time::AtLeast(Unix(100)))), "expired");
    // A root that has expired vouches for no release either.
    let envelope = envelope(&cell("acme/x", 1), &[20]);
    let publish = |expires, time| {
        let root = trusted(&Root { expires, ..root() });
        release(&root, &envelope.encode(), envelope.digest(), |_| 0, time, GATEWAY, "any").map(drop)
    };
    assert_eq!((publish(Unix(80), at(79)), code(publish(Unix(80), at(80)))), (Ok(()), "expired"));
    // An expired link of the chain of roots does not break it.
    let first = trusted(&Root { expires: Unix(1), ..root() });
    assert!(next_root(&first, &signed(&Root { version: 2, ..root() }, &[1, 2])).is_ok());
}

#[test]
fn a_document_from_the_day_after_tomorrow_is_refused_by_a_set_clock() {
    let day = 86_400_000_000;
    let bounded = trusted(&Root { expires: Unix(2 * day), ..root() });
    let root = trusted(&root());
    let bytes = signed(&Desired { issued: Unix(3 * day), ..state(1) }, &[10]);
    let check = |time| desired(&root, &bytes, None, time, GATEWAY).map(drop);
    assert_eq!(code(check(Time::Known(Unix(day)))), "not-yet");
    assert_eq!(check(Time::Known(Unix(2 * day))), Ok(()));
    assert_eq!(check(Time::AtLeast(Unix(day))), Ok(()));
    let ahead = envelope(&Release { issued: Unix(3 * day), ..cell("acme/x", 1) }, &[20]);
    let publish = |time| release(&root, &ahead.encode(), ahead.digest(), |_| 0, time, GATEWAY, "any").map(drop);
    assert_eq!((code(publish(Time::Known(Unix(day)))), publish(Time::AtLeast(Unix(day)))), ("not-yet", Ok(())));
    // Whoever signs from beyond the root's end would end all that comes after.
    assert_eq!(code(desired(&bounded, &bytes, None, Time::AtLeast(Unix(day)), GATEWAY)), "not-yet");
    let publish = release(&bounded, &ahead.encode(), ahead.digest(), |_| 0, Time::AtLeast(Unix(day)), GATEWAY, "any");
    assert_eq!(code(publish), "not-yet");
    assert_eq!(code(want(&Desired { issued: Unix(9), expires: Unix(9), ..state(1) }, &[10])), "malformed");
}

// Addressees and meaning.

#[test]
fn a_desired_state_is_for_one_gateway_or_a_group_of_one_fleet() {
    let target = |target| want(&Desired { target, ..state(1) }, &[10]).map(drop);
    assert_eq!(target(Target::Gateway("gw1".into())), Ok(()));
    assert_eq!(code(target(Target::Gateway("gw2".into()))), "other-gateway");
    assert_eq!(code(target(Target::Group("gw1".into()))), "other-gateway");
    let groups = ["pumps".to_string()];
    let bytes = signed(&Desired { target: Target::Group("pumps".into()), ..state(1) }, &[10]);
    let member = Gateway { groups: &groups, ..GATEWAY };
    assert!(desired(&trusted(&root()), &bytes, None, NOW, member).is_ok());
    assert_eq!(code(want(&Desired { fleet: "other".into(), ..state(1) }, &[10])), "other-fleet");
    // Its operator knows more than this gateway: which publishers are not to be believed any more, perhaps.
    assert_eq!(code(want(&Desired { root_version: 2, ..state(1) }, &[10])), "newer-root");
}

#[test]
fn a_gateway_without_a_memory_takes_only_what_gives_its_word_back() {
    for memory in [Memory::New(NONCE), Memory::Lost(NONCE)] {
        let fresh = Gateway { memory, ..GATEWAY };
        let check = |nonce| {
            let bytes = signed(&Desired { nonce, ..state(1) }, &[10]);
            desired(&trusted(&root()), &bytes, None, NOW, fresh).map(drop)
        };
        assert_eq!((check(None), check(Some([8; 16]))), (Err(Refusal::OtherNonce), Err(Refusal::OtherNonce)));
        assert_eq!(check(Some(NONCE)), Ok(()));
    }
    // Whoever remembers does not need it.
    assert!(want(&Desired { nonce: Some(NONCE), ..state(1) }, &[10]).is_ok());
}

#[test]
fn the_first_check_that_fails_is_the_answer() {
    let root = trusted(&root());
    let check = |wanted: &Desired, seeds: &[u8]| {
        let known = Some((5, Digest::of(b"")));
        code(desired(&root, &signed(wanted, seeds), known, NOW, GATEWAY))
    };
    // Wrong in all points, then mended one after the other.
    let mut wrong = Desired {
        fleet: "other".into(),
        target: Target::Group("x".into()),
        issued: Unix(1),
        expires: Unix(2),
        root_version: 2,
        ..state(4)
    };
    assert_eq!(check(&wrong, &[20]), "too-few-signatures");
    assert_eq!(check(&wrong, &[10]), "other-fleet");
    wrong.fleet = "lab".into();
    assert_eq!(check(&wrong, &[10]), "newer-root");
    wrong.root_version = 1;
    assert_eq!(check(&wrong, &[10]), "older");
    wrong.seq = 5;
    assert_eq!(check(&wrong, &[10]), "same-number");
    wrong.seq = 6;
    assert_eq!(check(&wrong, &[10]), "expired");
    wrong.expires = FOREVER;
    assert_eq!(check(&wrong, &[10]), "other-gateway");
}

#[test]
fn a_publisher_publishes_under_its_prefix_for_its_slots_and_the_operator_publishes_nothing() {
    let check = |name: &str, seed: u8, slot: &str| publish(&cell(name, 1), &[seed], slot).map(drop);
    assert_eq!(check("acme/x", 20, "any"), Ok(()));
    assert_eq!(check("x", 21, "quiet"), Ok(()));
    for name in ["x", "acmes/x", "acme", "acme-x", "ours/acme/x"] {
        assert_eq!(check(name, 20, "quiet"), Err(Refusal::OutsidePrefix(name.into())));
    }
    assert_eq!(code(check("x", 21, "other")), "outside-slots");
    // Both have signed: each stands for what it may itself, and they do not add up.
    assert_eq!(code(publish(&cell("x", 1), &[20, 21], "other").map(drop)), "outside-slots");
    let pairs = |first, second| {
        let mut root = root();
        root.publishers[0].role = role(&[20, first], 2);
        root.publishers[1].role = role(&[21, second], 2);
        let envelope = envelope(&cell("acme/x", 1), &[20, 21]);
        release(&trusted(&root), &envelope.encode(), envelope.digest(), |_| 0, NOW, GATEWAY, "any").map(drop)
    };
    assert_eq!((code(pairs(22, 23)), pairs(21, 23)), ("too-few-signatures", Ok(())));
    for seed in [1, 10, 99] {
        assert_eq!(code(check("acme/x", seed, "any")), "too-few-signatures", "{seed}");
    }
    // Nor does a publisher say what runs.
    assert_eq!(code(want(&state(1), &[20])), "too-few-signatures");
    let board = Release { boards: vec!["rpi-4b".into()], ..cell("acme/x", 1) };
    let envelope = envelope(&board, &[20]);
    let on = |board| {
        let gateway = Gateway { board, ..GATEWAY };
        release(&trusted(&root()), &envelope.encode(), envelope.digest(), |_| 0, NOW, gateway, "any").map(drop)
    };
    assert_eq!((on(Some("rpi-4b")), on(None)), (Ok(()), Ok(())));
    assert_eq!(code(on(Some("rpi-3b"))), "other-board");
}

#[test]
fn texts_that_would_end_up_in_logs_and_paths_are_plain() {
    for name in ["", "../x", "a/../b", "a//b", "a/", "a/./b", "-x", "/x", "a b", "a\u{1b}[31m", "ä", &"x".repeat(64)] {
        assert_eq!(code(publish(&cell(name, 1), &[21], "quiet")), "malformed", "{name:?}");
        assert_eq!(code(want(&Desired { target: Target::Gateway(name.into()), ..state(1) }, &[10])), "malformed");
    }
    let release = |release: Release| code(publish(&release, &[21], "quiet"));
    assert_eq!(release(Release { size: 51_201, ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { size: 0, ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { size: 8_193, ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { pieces: vec![], ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { semver: "1\n".into(), ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { imports: vec!["b".into(), "a".into()], ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { imports: vec!["a".into(), "a".into()], ..cell("x", 1) }), "malformed");
    assert_eq!(release(Release { boards: vec!["b".into(); 33], ..cell("x", 1) }), "malformed");
    assert_eq!(code(want(&Desired { set: "#".repeat(12_289), ..state(1) }, &[10])), "malformed");
}

#[test]
fn version_1_of_each_document_reads_as_it_was_written() {
    let check = |name: &str, bytes: &[u8]| {
        let path = alloc::format!("{}/../../docs/fixtures/update/{name}-v1", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("PORIN_WRITE_FIXTURES").is_some() {
            std::fs::write(&path, bytes).expect("written");
        }
        assert_eq!(std::fs::read(&path).expect("it is there"), bytes, "{name}");
    };
    check("root", &signed(&root(), &[1, 2]));
    let nonce = Some(NONCE);
    let set = "[routes.r]\nstreams = [\"#\"]\n".into();
    check("desired", &signed(&Desired { nonce, set, ..state(1) }, &[10]));
    let imports = vec!["porin:cell/log@0.1.0".into()];
    check("release", &signed(&Release { imports, boards: vec!["rpi-4b".into()], ..cell("acme/x", 3) }, &[20]));
    check("reported", &signed(&account(), &[30]));
    check("request", &signed(&wish(3), &[10]));
}

fn wish(seq: u64) -> Request {
    let (fleet, gateway, route) = ("lab".into(), "gw1".into(), "sea".into());
    Request { fleet, gateway, seq, issued: Unix(5), expires: Unix(3_600_000_005), route, us: 600_000_000 }
}

#[test]
fn a_request_is_the_operators_and_is_answered_once_and_within_the_hour() {
    let now = Time::AtLeast(Unix(0));
    let ask = |wish: &Request, seeds: &[u8], known, time| {
        request(&trusted(&root()), &signed(wish, seeds), known, time, "gw1")
    };
    assert_eq!(*ask(&wish(3), &[10], 2, now).expect("good"), wish(3));
    assert_eq!(code(ask(&wish(3), &[20], 2, now)), "too-few-signatures");
    assert_eq!(code(ask(&wish(3), &[10], 3, now)), "older");
    assert_eq!(code(ask(&wish(3), &[10], 2, NOW)), "expired");
    assert_eq!(code(ask(&Request { gateway: "gw2".into(), ..wish(3) }, &[10], 2, now)), "other-gateway");
    assert_eq!(code(ask(&Request { fleet: "x".into(), ..wish(3) }, &[10], 2, now)), "other-fleet");
    let late = Request { expires: Unix(3_600_000_006), ..wish(3) };
    assert_eq!(code(ask(&late, &[10], 2, now)), "malformed");
    assert_eq!(code(ask(&wish(3), &[], 2, now)), "too-few-signatures");
}

fn account() -> Reported {
    let release = ReleaseReport { digest: Digest([3; 32]), cell: "acme/x".into(), semver: "1.2.3".into(), seq: 3 };
    let slot = SlotReport {
        name: "quiet".into(),
        sha256: Digest([4; 32]),
        state: "running".into(),
        release: Some(release),
        fresh: Some("another version".into()),
    };
    let target = Target::Gateway("gw1".into());
    Reported {
        gateway: "gw1".into(),
        key: key(30),
        at: Unix(7),
        agent: "0.1.0".into(),
        epoch: "1f-2".into(),
        clock: ClockWord::Floor,
        fleet: "lab".into(),
        root_version: 2,
        groups: vec!["north".into()],
        board: Some("rpi-4b".into()),
        nonce: Some(NONCE),
        known: vec![(target.clone(), 4)],
        desired: Some((target, 4)),
        state: UpdateState::RolledBack,
        reason: Some(Reason::new(Code::Fault, "trap: unreachable").of("quiet")),
        refused: Some(Reason::new(Code::Older, "number 3, number 4 is known")),
        refusals: 1,
        slots: vec![slot],
        floors: vec![("acme/x".into(), 2)],
        set: "[routes.r]\nstreams = [\"#\"]\n".into(),
    }
}

#[test]
fn a_reported_state_is_bounded_and_signed_by_the_key_that_it_names() {
    let account = account();
    assert_eq!(*reported(&signed(&account, &[30])).expect("good"), account);
    assert_eq!(code(reported(&signed(&account, &[31]))), "too-few-signatures");
    let check = |spoil: fn(&mut Reported)| {
        let mut account = account.clone();
        spoil(&mut account);
        assert_eq!(code(reported(&signed(&account, &[30]))), "malformed");
    };
    check(|account| account.gateway = "../x".into());
    check(|account| account.slots = vec![account.slots[0].clone(); 129]);
    check(|account| account.set = "#".repeat(12_289));
    check(|account| account.reason.iter_mut().for_each(|reason| reason.text = "x".repeat(401)));
    check(|account| account.agent = "\u{1b}]52;".into());
    check(|account| account.slots[0].state = "a\nb".into());
    check(|account| account.set = "\u{1b}[2J".into());
    check(|account| account.known[0].0 = Target::Group("#".into()));
    let long = Reason::new(Code::Fault, &"é".repeat(400));
    assert!(long.text.len() <= 400 && long.text.len() > 390, "{}", long.text.len());
    assert_eq!(Reason::new(Code::Fault, "a\u{1b}[2Jb\nc").text, "a [2Jb c");
}
