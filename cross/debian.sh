#!/bin/sh
# Fetches Debian packages without installing them: cross/debian.sh FOLDER ARCHITECTURE "SUITE COMPONENT..." PACKAGE...
#
# Leaves FOLDER/PACKAGE_*.deb for each PACKAGE (or PACKAGE=VERSION, where VERSION may end in `*`); with
# PORIN_DEPENDENCIES=1 also what they depend on. PORIN_SECURITY=1 looks in the security suite as well: for what is shipped.
# What is there already costs no network.
# Uses apt with a configuration of its own, so that the machine's package lists and architectures stay as they are; signatures are checked
# with Debian's own keyring. Needs no root but for apt's own sake.
set -eu

folder=$1
architecture=$2
suite=$3
shift 3
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
fail() { echo "cross: $*" >&2; exit 1; }

missing=
for package in "$@"; do
    set -- "$folder/${package%%=*}"_*.deb
    [ -f "$1" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || fail "fetching$missing needs Debian's apt-get"
[ -f "$keyring" ] || fail "fetching$missing needs $keyring (package debian-archive-keyring)"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
apt=$folder/.apt
rm -rf "$apt"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/state" "$apt/none"
: >"$apt/state/status"
signed="[signed-by=$keyring arch=$architecture]"
echo "deb $signed http://deb.debian.org/debian $suite" >"$apt/sources.list"
# apt takes the newest version of both.
[ -z "${PORIN_SECURITY:-}" ] ||
    echo "deb $signed http://security.debian.org/debian-security ${suite%% *}-security ${suite#* }" >>"$apt/sources.list"
# Read after the machine's own configuration, so that its proxy settings stay.
cat >"$apt/apt.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
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
echo "cross: fetching$missing from Debian ($suite, $architecture)" >&2
apt-get -q -c "$apt/apt.conf" update >&2
# shellcheck disable=SC2086 # one word per package
if [ -n "${PORIN_DEPENDENCIES:-}" ]; then
    apt-get -q -y -c "$apt/apt.conf" --no-install-recommends --download-only install $missing >&2 && mv "$apt"/cache/archives/*.deb "$folder/"
else
    (cd "$folder" && apt-get -q -c "$apt/apt.conf" download $missing >&2)
fi || fail "Debian ($suite, $architecture) does not have$missing"
rm -rf "$apt"
