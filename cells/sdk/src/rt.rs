//! The runtime under the generated bindings: `cabi_realloc`, the panic handler, and the one cell of a component.

pub use alloc::{string::String, vec::Vec};
use core::{alloc::Layout, cell::UnsafeCell};

/// The component's only cell value. Calls into a component neither nest nor come from two threads.
#[derive(Debug)]
pub struct Single<T>(UnsafeCell<T>);

// SAFETY: a component is single-threaded, and the type is used on wasm32 only (see `export!`).
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    /// Wraps the value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    /// Lends the value for one call.
    pub fn with<R>(&self, call: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: exports are the only callers, and the canonical ABI forbids entering a component twice.
        call(unsafe { &mut *self.0.get() })
    }
}

/// Memory for an answer while the bindings write it: freed when dropped, the host's once forgotten.
#[derive(Debug)]
pub struct Cleanup {
    pointer: *mut u8,
    layout: Layout,
}

impl Cleanup {
    /// Room of this layout; null and nothing to clean up if it has no size.
    #[must_use]
    pub fn new(layout: Layout) -> (*mut u8, Option<Self>) {
        if layout.size() == 0 {
            return (core::ptr::null_mut(), None);
        }
        // SAFETY: the layout has a size.
        let pointer = unsafe { alloc::alloc::alloc(layout) };
        if pointer.is_null() {
            trap();
        }
        (pointer, Some(Self { pointer, layout }))
    }

    /// Gives the memory away.
    pub fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nobody else has it.
        unsafe { alloc::alloc::dealloc(self.pointer, self.layout) }
    }
}

/// Named by the bindings so that the linker keeps `cabi_realloc`; on wasm32 it is an export of its own.
pub fn maybe_link_cabi_realloc() {}

/// There are no constructors to run without std.
#[cfg(target_arch = "wasm32")]
pub fn run_ctors_once() {}

/// The canonical ABI's allocator: the host asks here for room for arguments.
#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return align as *mut u8;
    }
    // SAFETY: the host passes the sizes and alignments of the canonical ABI; `old` came from here.
    let pointer = unsafe {
        if old_size == 0 {
            alloc::alloc::alloc(Layout::from_size_align_unchecked(new_size, align))
        } else {
            alloc::alloc::realloc(old, Layout::from_size_align_unchecked(old_size, align), new_size)
        }
    };
    if pointer.is_null() {
        trap();
    }
    pointer
}

/// Ends the call with a fault: the host counts it and rebuilds the cell. A text would cost 10 KB of code.
#[cold]
pub(crate) fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    unreachable!("the cell traps")
}

#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    trap()
}
