#!/bin/sh
# Fetches the source of the Rust standard library from Debian: cross/rust-src.sh VERSION FOLDER
#
# Leaves FOLDER/library (68 MB). Exactly this version: a newer library does not compile with an older compiler.
set -eu

version=$1
folder=$2
here=$(cd "$(dirname "$0")" && pwd)

rm -rf "$folder"
mkdir -p "$folder/unpacked"
sh "$here/debian.sh" "$folder" amd64 "trixie-backports main" "rust-src=$version*"
dpkg-deb --fsys-tarfile "$folder"/rust-src_*.deb |
    tar -xf - --no-same-owner -C "$folder/unpacked" "./usr/src/rustc-$version/library"
mv "$folder/unpacked/usr/src/rustc-$version/library" "$folder/library"
rm -rf "$folder/unpacked" "$folder"/rust-src_*.deb
