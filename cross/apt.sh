#!/bin/sh
# Makes sure that Debian packages are installed: cross/apt.sh PACKAGE...
#
# Installs what is missing where that is possible (Debian or a relative, root); else prints the line to run. What is
# there already costs no network.
set -eu

missing=
for package in "$@"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "missing:$missing. Run: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # one word per package
apt-get -q install -y --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get -q update >/dev/null && apt-get -q install -y --no-install-recommends $missing >/dev/null; }
