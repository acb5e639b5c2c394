//! Cells that a seed makes: arithmetic on floats and integers at random, to be the same on every engine and every processor.
//!
//! The text is made of integers only, so that a seed makes the same cell everywhere.

use std::fmt::Write as _;

use crate::WatCell;

/// How deep an expression goes.
const DEPTH: u32 = 5;

/// Floats that are easily got wrong.
const FLOATS: [&str; 14] = [
    "nan",
    "-nan",
    "nan:0x8000000000123",
    "inf",
    "-inf",
    "-0",
    "0",
    "1",
    "-1.5",
    "0.1",
    "1e-310",
    "1.7976931348623157e308",
    "9223372036854775807",
    "4294967296.5",
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn float(&mut self, depth: u32) -> String {
        if depth == 0 {
            return match self.below(5) {
                0 | 1 => "(global.get $v)".into(),
                2 => "(global.get $a)".into(),
                3 => "(global.get $b)".into(),
                _ => format!("(f64.const {})", self.of(&FLOATS)),
            };
        }
        let depth = depth - 1;
        match self.below(10) {
            0..=4 => {
                let op = self.of(&["add", "sub", "mul", "div", "min", "max", "copysign"]);
                format!("(f64.{op} {} {})", self.float(depth), self.float(depth))
            }
            5 | 6 => {
                let op = self.of(&["sqrt", "abs", "neg", "ceil", "floor", "trunc", "nearest"]);
                format!("(f64.{op} {})", self.float(depth))
            }
            7 => format!("(f64.promote_f32 (f32.demote_f64 {}))", self.float(depth)),
            8 => format!("(f64.{} {})", self.of(&["convert_i64_s", "convert_i64_u"]), self.integer(depth)),
            _ => format!("(f64.reinterpret_i64 {})", self.integer(depth)),
        }
    }

    fn integer(&mut self, depth: u32) -> String {
        if depth == 0 {
            return match self.below(3) {
                0 => "(global.get $t)".into(),
                1 => "(global.get $k)".into(),
                _ => {
                    let number = i64::try_from(self.below(1 << 30)).unwrap_or(0) - (1 << 29);
                    format!("(i64.const {number})")
                }
            };
        }
        let depth = depth - 1;
        match self.below(9) {
            0..=3 => {
                let op = self.of(&["add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr"]);
                format!("(i64.{op} {} {})", self.integer(depth), self.integer(depth))
            }
            4 => {
                let op = self.of(&["div_u", "rem_u", "rem_s"]);
                format!("(i64.{op} {} (i64.or {} (i64.const 1)))", self.integer(depth), self.integer(depth))
            }
            5 => {
                let op = self.of(&["clz", "ctz", "popcnt", "extend8_s", "extend16_s", "extend32_s"]);
                format!("(i64.{op} {})", self.integer(depth))
            }
            6 => format!("(i64.{} {})", self.of(&["trunc_sat_f64_s", "trunc_sat_f64_u"]), self.float(depth)),
            7 => format!("(i64.reinterpret_f64 {})", self.float(depth)),
            _ => {
                let op = self.of(&["lt", "le", "eq", "ne"]);
                format!("(i64.extend_i32_u (f64.{op} {} {}))", self.float(depth), self.float(depth))
            }
        }
    }
}

/// The cell of a seed: of the world `filter`, its state is two floats and an integer.
#[must_use]
pub fn generated_cell(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut body = String::new();
    for (global, is_float) in [("a", true), ("k", false), ("b", true), ("v", true)] {
        let value = if is_float { random.float(DEPTH) } else { random.integer(DEPTH) };
        // Writing to a string cannot fail.
        let _ = writeln!(body, "(global.set ${global} {value})");
    }
    let process = format!(
        "(global.set $w (local.get $arg0))
         (block $done (loop $next
           (br_if $done (i32.ge_u (local.get $i) (local.get $arg1)))
           (global.set $r (i32.add (local.get $arg0) (i32.mul (local.get $i) (i32.const 24))))
           (global.set $t (i64.load (global.get $r)))
           (global.set $v (f64.load offset=8 (global.get $r)))
           {body}
           (if (i64.ne (i64.and (i64.xor (global.get $k) (global.get $t)) (i64.const 192)) (i64.const 0)) (then
             (memory.copy (global.get $w) (global.get $r) (i32.const 24))
             (f64.store offset=8 (global.get $w) (global.get $v))
             (global.set $w (i32.add (global.get $w) (i32.const 24)))))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br $next)))
         (i32.store (i32.const 16) (local.get $arg0))
         (i32.store (i32.const 20) (i32.div_u (i32.sub (global.get $w) (local.get $arg0)) (i32.const 24)))
         i32.const 16"
    );
    WatCell {
        items:
            "(global $a (mut f64) (f64.const 0)) (global $b (mut f64) (f64.const 1)) (global $k (mut i64) (i64.const 1))
            (global $v (mut f64) (f64.const 0)) (global $t (mut i64) (i64.const 0))
            (global $r (mut i32) (i32.const 0)) (global $w (mut i32) (i32.const 0))",
        process: &process,
        save: "(f64.store (i32.const 64) (global.get $a)) (f64.store (i32.const 72) (global.get $b))
            (i64.store (i32.const 80) (global.get $k))
            (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 24)) i32.const 16",
        ..WatCell::default()
    }
    .build()
}
