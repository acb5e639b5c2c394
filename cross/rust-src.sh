#!/bin/sh
# Fetches the source of the Rust standard library from Debian: cross/rust-src.sh VERSION FOLDER
#
# Leaves FOLDER/library (68 MB). Uses apt with a configuration of its own, so that the machine's package lists stay as
# they are; signatures are checked with Debian's own keyring. Needs no root beyond what apt's sandbox asks for.
set -eu

version=$1
folder=$2
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
fail() { echo "cross: $*" >&2; exit 1; }

command -v apt-get >/dev/null || fail "the fallback needs Debian's apt-get"
[ "$(id -u)" = 0 ] || fail "the fallback needs root"
[ -f "$keyring" ] || fail "the fallback needs $keyring (package debian-archive-keyring)"

apt=$folder/apt
rm -rf "$apt" "$folder/unpacked"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/state" "$apt/none" "$folder/unpacked"
: >"$apt/state/status"
echo "deb [signed-by=$keyring arch=amd64] http://deb.debian.org/debian trixie-backports main" >"$apt/sources.list"
# Read after the machine's own configuration, so that its proxy settings stay.
cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/none";
Dir::Etc::preferences "$apt/none/preferences";
Dir::Etc::preferencesparts "$apt/none";
Dir::State "$apt/state";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
CONF
apt-get -q -c "$apt/apt.conf" update
# Exactly this version: a newer library does not compile with an older compiler.
package=$(apt-cache -c "$apt/apt.conf" madison rust-src |
    awk -v v="$version" 'index($3, v "+") == 1 || index($3, v "-") == 1 { print $3; exit }')
[ -n "$package" ] || fail "Debian has no rust-src $version"
(cd "$apt" && apt-get -q -c "$apt/apt.conf" download "rust-src=$package")
dpkg-deb --fsys-tarfile "$apt"/rust-src_*.deb |
    tar -xf - --no-same-owner -C "$folder/unpacked" "./usr/src/rustc-$version/library"
mv "$folder/unpacked/usr/src/rustc-$version/library" "$folder/library"
rm -rf "$apt" "$folder/unpacked"
