#!/bin/sh
# Run once by cloud-init, at the first start of a card that `porin flash --files-only` has prepared. May be run again.
set -eu
here=/boot/firmware/porin

# A configuration that is there already stays; what is new is beside it before the package starts the agent. The agent may read
# it, keys and passwords among it, and not change it.
getent group porin >/dev/null || groupadd --system porin
folder() { [ -d "$1" ] || install -d -o root -g porin -m 750 "$1"; }
folder /etc/porin
cd "$here/etc"
find . -type f | while read -r file; do
    folder "/etc/porin/$(dirname "$file")"
    [ -e "/etc/porin/$file" ] || install -o root -g porin -m 640 "$file" "/etc/porin/$file"
done
# It needs no other package, so it needs no network.
dpkg -i "$here"/porind_*.deb
# The FAT partition can be read by whoever logs in; private keys are not left there.
rm -rf "$here/etc/certs"
