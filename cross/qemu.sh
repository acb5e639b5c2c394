#!/bin/sh
# A QEMU whose Raspberry Pi has an I2C bus, which 9.1 was the first to have, without installing it: cross/qemu.sh FOLDER
#
# Leaves FOLDER/root/usr/bin/qemu-system-aarch64. From Debian's backports for bookworm; the libraries it needs are those of the older one, which is installed.
set -eu

folder=$1
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/apt.sh" qemu-system-arm
sh "$here/debian.sh" "$folder" "$(dpkg --print-architecture)" "bookworm-backports main" qemu-system-arm qemu-system-common qemu-system-data
[ ! -x "$folder/root/usr/bin/qemu-system-aarch64" ] || exit 0
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
if ldd "$folder/root/usr/bin/qemu-system-aarch64" | grep "not found" >&2; then
    echo "cross: QEMU does not run here: libraries are missing" >&2
    exit 1
fi
