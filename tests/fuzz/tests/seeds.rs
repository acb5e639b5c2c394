//! The bodies of the fuzz targets over the seeds, and over each seed damaged in some hundred ways, the same every time.

use std::{fs, path::Path};

use porin_core::trust::MAX_ENVELOPE;
use porin_fuzz::{
    ALL,
    counting::{self, Counting},
};
use porin_test_support::{cell, documented, stock_cells, top};

/// Damaged copies of each seed. `cargo fuzz` makes as many as there is time for.
const COPIES: usize = 2_000;

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder of fixtures").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_file()).map(|path| fs::read(path).expect("a file")).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let fixtures = top().join("docs/fixtures");
    match target {
        "payload" | "senml" => files(&fixtures),
        "mapping" => {
            let payloads =
                [files(&fixtures.join("mqtt")), files(&fixtures), vec![b"21.5".to_vec(), b"ON".to_vec()]].concat();
            let forms = |payload: &Vec<u8>| {
                (0..30).map(|pair| [&[pair % 5, pair / 5], payload.as_slice()].concat()).collect::<Vec<_>>()
            };
            payloads.iter().flat_map(forms).collect()
        }
        "lines" => vec![b"\0roof 1.5,-2".to_vec(), b"\x01$IIMTW 17.5,*5A".to_vec(), b"\0a/b/c/d NaN,inf".to_vec(), b"\x01$*".to_vec()],
        "framing" => vec![
            b"\0\x03one\r\ntwo\n\nthree".to_vec(),
            b"\x01\x01\x02ab\x00\xffx".to_vec(),
            b"\x02\x05noiseBM\x00\x02abBBM\xff\xff".to_vec(),
            b"\x03\x02\xaa\x01\x00abc\xaa".to_vec(),
        ],
        "record" => vec![
            vec![1, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 209, 34, 219, 249, 126, 106, 240, 63, 5],
            vec![2, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 5, 3, 97, 47, 98, 2, 0, 255],
            vec![
                3, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 209, 34, 219, 249, 126, 106, 240, 63, 5, 128, 200,
                206, 180, 13,
            ],
            vec![
                4, 2, 172, 2, 128, 128, 189, 149, 187, 248, 202, 2, 5, 3, 97, 47, 98, 2, 0, 255, 128, 200, 206, 180, 13,
            ],
        ],
        "config" => documented::configurations().into_iter().map(|(_, text)| text.into_bytes()).collect(),
        "dead" => vec![
            [
                &[1, 7, 1, b's'][..],
                &[5; 32],
                &[4, b't', b'r', b'a', b'p', 14, 3, 2, 3, 9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0],
            ]
            .concat(),
        ],
        "desired_set" => vec![
            // As many slots as there is room for.
            (0..280).fold(String::new(), |text, slot| format!("{text}[slots.a{slot}]\ncell = \"local\"\nworld=\"filter\"\n")).into(),
            b"[probation]\nshadow = \"1s\"\npackets = 3\n[slots.s]\ncell = \"local\"\nretry = 1\nmin_seq = 2\n[routes.r]\n\
              streams = [\"#\"]\nslots = [\"s\"]\ntopic = \"porin/v1/gw/{gw}/data/r\"\n"
                .to_vec(),
        ],
        "trust" => {
            let mut documents = files(&fixtures.join("update"));
            // As large as may be, and such as promise more than there is.
            documents.push(vec![1; MAX_ENVELOPE]);
            documents.push([&[1, 3][..], &[0xff; 9], &[1]].concat());
            documents.push([&[1, 3, 12][..], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]].concat());
            documents
        }
        "component" | "staging" => stock_cells().iter().map(|name| cell(name)).collect(),
        other => unreachable!("{other} has no seeds"),
    }
}

/// Bytes that reading a document may take at most: it, what is in it, and both once more, since what was read is written again here.
const MOST_OF_A_DOCUMENT: usize = 8 * MAX_ENVELOPE;

/// And the routes and slots in it, of which there are 12 KB at most: as text, as tables, checked, and all of that twice.
const MOST_OF_A_SET: usize = 4 << 20;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Random(u64);

impl Random {
    /// Below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }
}

/// Some bytes changed, a piece cut out, repeated, or the end cut off.
fn damaged(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let (at, len) = (random.below(bytes.len()), random.below(16));
        let end = (at + len).min(bytes.len());
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes = [&bytes[..at], &bytes[at..end], &bytes[at..]].concat(),
            3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'9', b'-', b'e'][random.below(8)],
            _ if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

#[test]
fn readers_stand_every_seed_and_what_damage_makes_of_it() {
    for (target, body) in ALL {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target}");
        // A component takes longest: some hundred in all are enough here.
        let copies = match target {
            "component" | "staging" => COPIES / 50,
            // Each form with each topic: thirty times as many seeds.
            "mapping" => COPIES / 20,
            _ => COPIES,
        };
        for (number, seed) in (1..).zip(&seeds) {
            let mut random = Random(number);
            let read = |bytes: &[u8]| {
                let took = counting::most(|| body(bytes));
                let most = match target {
                    "trust" => MOST_OF_A_DOCUMENT,
                    "desired_set" => MOST_OF_A_SET,
                    _ => usize::MAX,
                };
                assert!(took <= most, "{took} bytes for {} bytes of {target}", bytes.len());
            };
            read(seed);
            (0..copies).for_each(|_| read(&damaged(seed, &mut random)));
        }
    }
}
