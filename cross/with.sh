#!/bin/sh
# Runs a command with a Rust target ready for use: cross/with.sh TARGET COMMAND...
#
# Looks for the target's standard library; if it is missing, asks rustup; if that fails, builds it from Debian's
# source package (rust-src of exactly the toolchain's version) whenever cargo needs it. The shared toolchain is never
# written to but by rustup itself. A second run finds everything there and needs no network.
#
# PORIN_NO_RUSTUP=1 skips rustup, to try the fallback.
set -eu

target=$1
shift
say() { echo "cross: $*" >&2; }
here=$(cd "$(dirname "$0")" && pwd)

# The folder is there or named even where the library is not; only the file tells.
has_std() {
    libdir=$(rustc --print target-libdir --target "$1" 2>/dev/null) || return 1
    set -- "$libdir"/libcore-*.rlib
    [ -f "$1" ]
}

# Prints the folder of the standard library's source, fetched from Debian if need be.
std_source() {
    version=$(rustc --version | cut -d' ' -f2)
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/porin/rust-$version
    if [ ! -f "$cache/library/Cargo.lock" ]; then
        sh "$here/rust-src.sh" "$version" "$cache" >&2
    fi
    echo "$cache/library"
}

case $target in
    wasm32-unknown-unknown) crates=core,alloc,panic_abort ;;
    *) crates=std,panic_abort ;;
esac

add_with_rustup() {
    has_std "$1" && return
    [ -z "${PORIN_NO_RUSTUP:-}" ] && command -v rustup >/dev/null || return 1
    say "adding the target $1 with rustup"
    RUST_BACKTRACE=0 rustup target add "$1" >&2
}

# armv7 with musl is not always to be had, and its C library is not part of rust-src: glibc stands in for it.
if [ "$target" = armv7-unknown-linux-musleabihf ] && ! has_std "$target"; then
    glibc=armv7-unknown-linux-gnueabihf
    if has_std $glibc || ! add_with_rustup "$target"; then
        target=$glibc
    fi
fi
if ! add_with_rustup "$target"; then
    say "building $target's standard library from Debian's rust-src"
    if ! source=$(std_source); then
        say "the target $target is missing. Run: rustup target add $target"
        exit 1
    fi
    # For this command only: a build for the host would break under them.
    export RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=$crates __CARGO_TESTS_ONLY_SRC_ROOT="$source"
fi

# PORIN_TARGET is what the command is to build for: it may not be the one asked for.
export PORIN_TARGET=$target
case $target in
    aarch64-unknown-linux-musl)
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER=qemu-aarch64-static
        export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc # ring's assembler only
        ;;
    armv7-unknown-linux-musleabihf)
        export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_MUSLEABIHF_LINKER=rust-lld
        export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_MUSLEABIHF_RUNNER=qemu-arm-static
        export CC_armv7_unknown_linux_musleabihf=arm-linux-gnueabihf-gcc
        ;;
    armv7-unknown-linux-gnueabihf)
        export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc
        export CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_RUNNER="qemu-arm-static -L /usr/arm-linux-gnueabihf"
        ;;
esac
exec "$@"
