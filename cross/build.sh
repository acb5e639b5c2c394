#!/bin/sh
# Builds porind for a target as it is shipped: cross/build.sh TARGET FOLDER
#
# Leaves FOLDER/porind-TARGET, static and stripped. The same commit gives the same bytes wherever it is built: no paths of the
# machine are in it. CARGO_TARGET_DIR says where cargo works, as always.
set -eu

target=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
case $target in
    aarch64-*) sh "$here/apt.sh" gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    armv7-*) sh "$here/apt.sh" gcc-arm-linux-gnueabihf libc6-dev-armhf-cross ;;
esac
# shellcheck disable=SC2016 # the inner shell knows which target it got
built=$(sh "$here/with.sh" "$target" sh -c 'echo "$PORIN_TARGET"')
[ "$built" = "$target" ] || echo "no standard library for $target is to be had here; building for $built, static as well" >&2

# A panic ends the program at once, so nobody walks the stack: without tables for that it is 150 KB smaller.
RUSTFLAGS="-C target-feature=+crt-static -C force-unwind-tables=no"
RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/porin"
# ring's C and assembler name their sources, too.
CFLAGS="-ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo -ffile-prefix-map=${CARGO_TARGET_DIR:-$PWD/target}=/target -g0"
export RUSTFLAGS CFLAGS CARGO_INCREMENTAL=0
# Where Rust's own linker links: the standard library's tables for walking the stack, too, are left out, and functions that came out the same are one.
case $built in
    *-musl*) set -- -C link-arg=--no-eh-frame-hdr -C "link-arg=-T$here/discard.ld" -C link-arg=--icf=all ;;
    *) set -- ;;
esac
echo "building porind for $built (some minutes)" >&2
# shellcheck disable=SC2016
sh "$here/with.sh" "$target" sh -c '"${CARGO:-cargo}" rustc -q --locked --release -p porind --bin porind --target "$PORIN_TARGET" -- "$@"' sh "$@"
mkdir -p "$out"
cp "${CARGO_TARGET_DIR:-target}/$built/release/porind" "$out/porind-$built"
# Who asked for musl and got glibc finds it under the name that he asked for as well.
[ "$built" = "$target" ] || cp "$out/porind-$built" "$out/porind-$target"
