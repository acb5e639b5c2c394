//! The allocator of a cell: an arena over its linear memory that rewinds when what lies on top is freed.
//!
//! A call allocates its arguments and its result and frees both, so the top comes back to where it was and nothing
//! is searched. What is freed below the top goes to a list sorted by address and is given out first fit; neighbours
//! grow together. About 1 KB of code where a general allocator takes 6 to 9 KB.
#![allow(unsafe_code)]

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32::{memory_grow, memory_size},
    cell::UnsafeCell,
    ptr::null_mut,
};

/// Everything is handed out in multiples of this, which is also the largest alignment: no cell needs more.
const GRAIN: usize = 8;
const PAGE: usize = 65_536;

/// A freed block. Lives in the freed memory itself, hence `GRAIN` bytes.
#[repr(C)]
struct Free {
    size: usize,
    next: *mut Free,
}

struct State {
    /// First byte never handed out, or 0 before the first allocation.
    top: usize,
    /// First byte past the memory.
    end: usize,
    free: *mut Free,
}

struct Arena(UnsafeCell<State>);

// SAFETY: a component is single-threaded; the host never calls it from two threads.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new(State { top: 0, end: 0, free: null_mut() }));

unsafe extern "C" {
    /// Made by the linker: where the data ends.
    static __heap_base: u8;
}

const fn round_up(size: usize) -> Option<usize> {
    match size.checked_add(GRAIN - 1) {
        Some(size) => Some(size & !(GRAIN - 1)),
        None => None,
    }
}

// SAFETY: blocks are disjoint: each byte belongs to one handed-out block, one freed block, or lies above `top`.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no reference into the state outlives a call, and calls do not nest.
        let state = unsafe { &mut *self.0.get() };
        let Some(size) = round_up(layout.size().max(1)) else { return null_mut() };
        if layout.align() > GRAIN {
            return null_mut();
        }
        // SAFETY: every pointer in the list was put there by `dealloc` and is live, aligned, and ours.
        unsafe {
            let mut link = &raw mut state.free;
            while !(*link).is_null() {
                let block = *link;
                if (*block).size >= size {
                    let rest = (*block).size - size;
                    if rest == 0 {
                        *link = (*block).next;
                    } else {
                        let tail = block.cast::<u8>().add(size).cast::<Free>();
                        *tail = Free { size: rest, next: (*block).next };
                        *link = tail;
                    }
                    return block.cast();
                }
                link = &raw mut (*block).next;
            }
        }
        state.bump(size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        let state = unsafe { &mut *self.0.get() };
        let Some(size) = round_up(layout.size().max(1)) else { return };
        // SAFETY: as in `alloc`; the freed block is at least `GRAIN` bytes and aligned to it, so a `Free` fits.
        unsafe {
            let block = pointer.cast::<Free>();
            let mut before: *mut Free = null_mut();
            let mut link = &raw mut state.free;
            while !(*link).is_null() && (*link) < block {
                before = *link;
                link = &raw mut (**link).next;
            }
            *block = Free { size, next: *link };
            *link = block;
            join(block);
            let last = if before.is_null() || !join(before) { block } else { before };
            if (*last).next.is_null() && last as usize + (*last).size == state.top {
                state.top = last as usize;
                state.unlink(last);
            }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let (Some(old), Some(new)) = (round_up(layout.size().max(1)), round_up(new_size.max(1))) else {
            return null_mut();
        };
        if new == old {
            return pointer;
        }
        // SAFETY: the caller upholds `realloc`'s contract; the layouts are those of the blocks given out.
        unsafe {
            if new < old {
                let tail = Layout::from_size_align_unchecked(old - new, GRAIN);
                self.dealloc(pointer.add(new), tail);
                return pointer;
            }
            let state = &mut *self.0.get();
            if pointer as usize + old == state.top && !state.bump(new - old).is_null() {
                return pointer;
            }
            let moved = self.alloc(Layout::from_size_align_unchecked(new, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(pointer, layout.size());
                self.dealloc(pointer, layout);
            }
            moved
        }
    }
}

impl State {
    /// Hands out `size` bytes at the top, growing the memory by whole pages when it ends there.
    fn bump(&mut self, size: usize) -> *mut u8 {
        if self.top == 0 {
            let base = (&raw const __heap_base) as usize;
            let Some(base) = round_up(base) else { return null_mut() };
            self.top = base;
            self.end = memory_size::<0>() * PAGE;
        }
        let Some(top) = self.top.checked_add(size) else { return null_mut() };
        if top > self.end {
            let pages = (top - self.end).div_ceil(PAGE);
            if memory_grow::<0>(pages) == usize::MAX {
                return null_mut();
            }
            self.end += pages * PAGE;
        }
        let pointer = self.top as *mut u8;
        self.top = top;
        pointer
    }

    /// Takes `block`, the last in the list, out of it.
    unsafe fn unlink(&mut self, block: *mut Free) {
        // SAFETY: the list holds only live blocks, and `block` is one of them.
        unsafe {
            let mut link = &raw mut self.free;
            while *link != block {
                link = &raw mut (**link).next;
            }
            *link = null_mut();
        }
    }
}

/// Joins a freed block with the next one if they touch.
unsafe fn join(block: *mut Free) -> bool {
    // SAFETY: `block` is in the list, so it and its successor are freed blocks.
    unsafe {
        let next = (*block).next;
        if next.is_null() || block as usize + (*block).size != next as usize {
            return false;
        }
        *block = Free { size: (*block).size + (*next).size, next: (*next).next };
        true
    }
}
