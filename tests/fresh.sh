#!/bin/bash
# Runs the README's two commands as a newcomer would: tests/fresh.sh FOLDER [COMMAND...]
#
# FOLDER/debian becomes a Debian with make and git; Rust is this machine's toolchain, as rustup installed it. A clone of the last commit is
# built there with empty caches. FOLDER/log keeps what was printed, with the times. COMMAND: other targets of make than demo and test.
set -euo pipefail

folder=$1
shift
[ $# -gt 0 ] || set -- demo test
here=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" = 0 ] || { echo "a chroot needs root: sudo make fresh" >&2; exit 1; }
sh "$here/cross/apt.sh" debootstrap
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
debian=$folder/debian
log=$folder/log

unmount() { for at in proc sys dev; do umount -l "$debian/$at" 2>/dev/null || true; done; }
trap unmount EXIT
unmount
rm -rf "$debian"
debootstrap --variant=minbase --include=make,git,ca-certificates trixie "$debian" >"$folder/debootstrap.log" ||
    { cat "$folder/debootstrap.log" >&2; exit 1; }
for at in proc sys dev; do mount --rbind "/$at" "$debian/$at" && mount --make-rslave "$debian/$at"; done
cp -L /etc/resolv.conf "$debian/etc/"
# What this machine's network needs: its certificates. Proxies come with the environment.
cat /etc/ssl/certs/ca-certificates.crt >"$debian/etc/ssl/certs/ca-certificates.crt"
rustup=$(rustup show home)
toolchain=$(rustup show active-toolchain | cut -d' ' -f1)
mkdir -p "$debian/root/.cargo" "$debian/root/.rustup/toolchains"
cp -a "$rustup/settings.toml" "$rustup/update-hashes" "$debian/root/.rustup/" 2>/dev/null || true
cp -a "$rustup/toolchains/$toolchain" "$debian/root/.rustup/toolchains/"
cp -a "${CARGO_HOME:-$HOME/.cargo}/bin" "$debian/root/.cargo/"
git clone -q "$here" "$debian/porin"

failed=
echo "porin $(git -C "$here" rev-parse --short HEAD), $(nproc) processors, $(date -u +%F)" >"$log"
for target in "$@"; do
    echo "== make $target" | tee -a "$log"
    # shellcheck disable=SC2046 # one word per setting
    chroot "$debian" env -i HOME=/root PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
        LANG=C.UTF-8 TERM=dumb $(env | grep -i '^[a-z]*_proxy=' || true) \
        sh -c "cd /porin && bash -c 'time make $target'" 2>&1 | tee -a "$log" || failed="$failed $target"
done
grep -A3 '^real' "$log"
echo "$log"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
