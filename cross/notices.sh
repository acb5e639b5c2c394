#!/bin/sh
# Third-party notices of a package or an image: cross/notices.sh TARGET [DEB...]
#
# Prints each crate that is linked into porind for TARGET and into the stock cells, with its licence, its source and its licence texts; the
# libraries that come with the compiler; and each Debian package of which files are copied, with its copyright file and its source.
# Each text is printed once. Crates are read from cargo's registry, so cargo must have fetched them.
set -eu

target=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src

# NAME VERSION|LICENCE|REPOSITORY of what is linked: no build scripts, no procedural macros, none of our own.
linked() {
    "${CARGO:-cargo}" tree --locked -e normal,no-proc-macro --prefix none -f '{p}|{l}|{r}' "$@" | sed 's/ (\*)$//; s/ (proc-macro)//' | grep -v ' (/'
}
cells=$(for cell in cells/*/Cargo.toml; do sed -n 's/^name = "\(.*\)"/-p \1/p' "$cell"; done)
# shellcheck disable=SC2086 # one word per package
{ linked -p porind --target "$target"; linked $cells --target wasm32-unknown-unknown; } | sed '/^$/d; s/ v\([0-9]\)/ \1/' | sort -u >"$work/crates"

echo "porin contains work of others. Their licences are below. porin itself is licensed under MIT OR Apache-2.0."
echo
echo "== Crates in porind and the cells"
echo
mkdir "$work/texts"
while IFS='|' read -r crate licence repository; do
    name=${crate% *}
    version=${crate#* }
    echo "$name $version: $licence, ${repository:-https://crates.io/crates/$name}"
    find "$registry"/*/"$name-$version" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'unlicense*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' \) 2>/dev/null | sort |
        while read -r file; do
            hash=$(sha256sum <"$file" | cut -d' ' -f1)
            cp "$file" "$work/texts/$hash"
            echo "$name $version" >>"$work/texts/$hash.of"
        done
done <"$work/crates"
cat <<TEXT

A crate without a text of its own below is licensed under the standard text of the licence that it names.

== Libraries of the compiler

The standard library of Rust: MIT OR Apache-2.0, https://github.com/rust-lang/rust
The C library, linked statically: musl, MIT, https://musl.libc.org; where a target has no musl, the GNU C Library, LGPL-2.1-or-later,
https://sourceware.org/glibc. porin's whole source is public, so it can be linked with another version.
TEXT
for deb in "$@"; do
    package=$(dpkg-deb -f "$deb" Package)
    version=$(dpkg-deb -f "$deb" Version)
    # "Source: NAME (VERSION)", each only where it differs.
    source=$(dpkg-deb -f "$deb" Source)
    of=$(echo "$source" | sed -n 's/.*(\(.*\)).*/\1/p')
    source=${source%% *}
    source=${source:-$package}
    of=${of:-$version}
    printf '\n== Debian package %s %s\n\nSource: https://snapshot.debian.org/package/%s/%s/\nSHA-256 of the package: %s\n\n' \
        "$package" "$version" "$source" "$of" "$(sha256sum <"$deb" | cut -d' ' -f1)"
    dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards "./usr/share/doc/*/copyright" 2>/dev/null || echo "Its copyright file is in the source."
done
echo
echo "== Licence texts of crates"
for of in "$work"/texts/*.of; do
    printf '%s %s\n' "$(sort -u "$of" | head -n 1)" "$of"
done | sort | while read -r _ _ of; do
    printf '\n---- %s\n\n' "$(sort -u "$of" | paste -sd, - | sed 's/,/, /g')"
    cat "${of%.of}"
    echo
done
