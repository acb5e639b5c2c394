//! Cells in WebAssembly text, to misbehave on purpose.
//!
//! A core module with the exports of the world `filter`, made a component in process. Every body can be replaced; the
//! defaults accept everything and pass every reading on.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The import of the capability `log`, for [`WatCell::imports`].
pub const LOG_IMPORT: &str = r#"(import "porin:cell/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))"#;

/// The import of the capability `clock`, for [`WatCell::imports`].
pub const CLOCK_IMPORT: &str = r#"(import "porin:cell/clock@0.1.0" "now-us" (func $now (result i64)))"#;

/// Bodies of a cell's exports, in WebAssembly text.
///
/// Memory: answers lie at 16 (pointer, length, length), texts and state at 64 to 1023, allocations from 1024 on.
/// `$arg0`, `$arg1` are pointer and length of what came in; the body leaves the answer's address (but `realloc`,
/// `streams-added`).
#[derive(Clone, Copy, Debug)]
pub struct WatCell<'a> {
    /// Pages of memory with which it begins.
    pub pages: u32,
    /// Imports of capabilities.
    pub imports: &'a str,
    /// Globals and functions of its own.
    pub items: &'a str,
    /// `cabi_realloc`; `$size` and `$align` are given.
    pub realloc: &'a str,
    /// `init`.
    pub init: &'a str,
    /// `process`.
    pub process: &'a str,
    /// What runs after `process` has been read.
    pub post_process: &'a str,
    /// `streams-added`; it answers nothing.
    pub streams_added: &'a str,
    /// `tick`.
    pub tick: &'a str,
    /// `flush`.
    pub flush: &'a str,
    /// `save`.
    pub save: &'a str,
    /// `restore`.
    pub restore: &'a str,
}

impl Default for WatCell<'_> {
    fn default() -> Self {
        Self {
            pages: 1,
            imports: "",
            items: "",
            // Rewinds with every batch: the arguments of a call are all that lives.
            realloc: "(global.set $top (i32.add (i32.const 1024) (local.get $size))) i32.const 1024",
            init: OK,
            process: PASS,
            post_process: "",
            streams_added: "",
            tick: EMPTY,
            flush: EMPTY,
            save: EMPTY,
            restore: OK,
        }
    }
}

/// The answer of `init` and `restore`: accepted.
pub const OK: &str = "(i32.store8 (i32.const 16) (i32.const 0)) i32.const 16";

/// The answer of `process`: what came in.
pub const PASS: &str =
    "(i32.store (i32.const 16) (local.get $arg0)) (i32.store (i32.const 20) (local.get $arg1)) i32.const 16";

/// An answer of no readings, or an empty state.
pub const EMPTY: &str =
    "(i32.store (i32.const 16) (i32.const 8)) (i32.store (i32.const 20) (i32.const 0)) i32.const 16";

impl WatCell<'_> {
    /// The component.
    ///
    /// # Panics
    /// If the text is wrong.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        component(&self.module()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The core module in it.
    ///
    /// # Panics
    /// If the text is wrong.
    #[must_use]
    pub fn module(&self) -> Vec<u8> {
        let Self {
            pages,
            imports,
            items,
            realloc,
            init,
            process,
            post_process,
            streams_added,
            tick,
            flush,
            save,
            restore,
        } = self;
        let text = format!(
            r#"(module
              {imports}
              (memory (export "memory") {pages})
              (global $top (mut i32) (i32.const 1024))
              (data (i32.const 64) "cell: a text")
              {items}
              (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32) {realloc})
              (func (export "init") (param i32 i32 i32 i32 i32 i32) (result i32) {init})
              (func (export "streams-added") (param i32 i32 i32 i32) {streams_added})
              (func (export "process") (param $arg0 i32) (param $arg1 i32) (result i32) (local $i i32) {process})
              (func (export "cabi_post_process") (param i32) {post_process})
              (func (export "tick") (param i64) (result i32) {tick})
              (func (export "flush") (result i32) {flush})
              (func (export "save") (result i32) {save})
              (func (export "restore") (param $arg0 i32) (param $arg1 i32) (result i32) {restore}))"#
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Makes a component of the world `filter` of a core module that has its exports.
///
/// # Errors
/// What wit-component says of the module.
///
/// # Panics
/// If porin's own wit is wrong.
pub fn component(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut module = module.to_vec();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(super::top().join("wit")).expect("porin's own wit");
    let world = resolve.select_world(&[package], Some("filter")).expect("the world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("a world's metadata");
    let mut encoder = ComponentEncoder::default();
    let encoder = encoder.module(&module).map_err(|error| format!("{error:#}"))?.validate(true);
    encoder.encode().map_err(|error| format!("{error:#}"))
}

/// Passes every reading on with this quality, so that a receiver sees who has decided about it.
#[must_use]
pub fn marking_cell(quality: u32) -> Vec<u8> {
    marking_cell_with(quality, "")
}

/// The same with so many bytes, as large as a cell may be.
///
/// # Panics
/// If it cannot be made as large.
#[must_use]
pub fn largest_marking_cell(quality: u32) -> Vec<u8> {
    const LARGEST: usize = 51_200;
    let with = |bytes: usize| marking_cell_with(quality, &format!("(data (i32.const 8192) \"{}\")", "x".repeat(bytes)));
    let frame = with(40_000).len() - 40_000;
    let cell = with(LARGEST - frame);
    assert_eq!(cell.len(), LARGEST, "lengths of lengths differ");
    cell
}

fn marking_cell_with(quality: u32, items: &str) -> Vec<u8> {
    let each = format!(
        "(block $done (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $arg1)))
        (i32.store offset=20 (i32.add (local.get $arg0) (i32.mul (local.get $i) (i32.const 24))) (i32.const {quality}))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next))) {PASS}"
    );
    WatCell { process: &each, items, ..WatCell::default() }.build()
}

/// Counts the readings that it has seen and writes the count into each value; traps on a reading at time 13. Its
/// state is the count.
#[must_use]
pub fn counting_cell() -> Vec<u8> {
    counting_cell_with("")
}

/// The same with something that makes it another component.
#[must_use]
pub fn counting_cell_with(more: &str) -> Vec<u8> {
    let each = "(block $done (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $arg1)))
        (if (i64.eq (i64.load (local.get $arg0)) (i64.const 13)) (then unreachable))
        (global.set $count (f64.add (global.get $count) (f64.const 1)))
        (f64.store offset=8 (local.get $arg0) (global.get $count))
        (local.set $arg0 (i32.add (local.get $arg0) (i32.const 24)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
        (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (local.get $arg1)) i32.const 16";
    WatCell {
        items: &format!("(global $count (mut f64) (f64.const 0)) {more}"),
        process: each,
        save: "(f64.store (i32.const 64) (global.get $count)) (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 8)) i32.const 16",
        restore: "(global.set $count (f64.load (local.get $arg0))) (i32.store8 (i32.const 16) (i32.const 0)) i32.const 16",
        ..WatCell::default()
    }
    .build()
}
