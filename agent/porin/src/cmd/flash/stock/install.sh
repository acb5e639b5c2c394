#!/bin/sh
# Run once by cloud-init, at the first start of a card that `porin flash --files-only` has prepared. May be run again.
set -eu
here=/boot/firmware/porin

# A configuration that is there already stays; what is new is beside it before the package starts the agent.
mkdir -p /etc/porin
cd "$here/etc"
find . -type f | while read -r file; do
    [ -e "/etc/porin/$file" ] || { mkdir -p "/etc/porin/$(dirname "$file")" && cp "$file" "/etc/porin/$file"; }
done
# It needs no other package, so it needs no network.
dpkg -i "$here"/porind_*.deb
# The FAT partition can be read by whoever logs in; private keys are not left there.
rm -rf "$here/etc/certs"
