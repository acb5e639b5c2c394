#!/bin/sh
# Builds the Debian package of the gateway program: cross/deb.sh ARCHITECTURE PORIND CELLS SHARE FOLDER
#
# ARCHITECTURE is Debian's name: arm64, armhf, amd64. PORIND is the program for it, a static one, so the package depends on
# nothing but the tools that make the user. SHARE has completions and manual pages (`porin package-files`). Leaves FOLDER/porind_VERSION_ARCHITECTURE.deb; PORIN_REVISION is put behind the version,
# PORIN_STORE_FORMAT in place of the store's format (for a test of downgrades).
set -eu

architecture=$1
porind=$2
cells=$3
share=$4
out=$5
here=$(cd "$(dirname "$0")" && pwd)
. "$here/release.sh"
version=$version${PORIN_REVISION:-}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
put() { install -D -m "$1" "$2" "$root/$3"; }
put 755 "$porind" usr/bin/porind
put 644 "$here/deb/porind.service" usr/lib/systemd/system/porind.service
put 644 "$here/deb/modules-load.conf" usr/lib/modules-load.d/porind.conf
put 644 "$here/deb/porin.toml" usr/share/porin/porin.toml
for board in "$here"/../board-configs/*.toml; do put 644 "$board" "usr/share/porin/boards/${board##*/}"; done
for cell in "$cells"/*.wasm; do put 644 "$cell" "usr/lib/porin/cells/${cell##*/}"; done
mkdir -p "$root/usr/share/man/man8" "$root/usr/share/doc/porind" "$root/DEBIAN"
cp -r "$share/." "$root/usr/share/"
cp "$here/deb/porind.8" "$root/usr/share/man/man8/"
find "$root/usr/share/man" -type f -exec gzip -9n {} +
chmod -R u=rwX,go=rX "$root/usr/share"
gzip -9n <"$here/../CHANGELOG.md" >"$root/usr/share/doc/porind/changelog.gz"
cat "$here/../LICENSE-MIT" "$here/../LICENSE-APACHE" >"$root/usr/share/doc/porind/copyright"
case $architecture in
    arm64) target=aarch64-unknown-linux-musl ;;
    armhf) target=armv7-unknown-linux-musleabihf ;;
    *) target=x86_64-unknown-linux-musl ;;
esac
sh "$here/notices.sh" "$target" >"$root/notices"
gzip -9n <"$root/notices" >"$root/usr/share/doc/porind/NOTICES.gz"
rm "$root/notices"
# A package that would not read the installed one's store refuses to be installed: see preinst.
store_format=${PORIN_STORE_FORMAT:-$(sed -n 's/^const VERSION: u64 = \([0-9]*\);.*/\1/p' "$here/../agent/porind/src/store/tables.rs")}
echo "${store_format:?the format of the store was not found}" >"$root/store-format"
put 644 "$root/store-format" usr/share/porin/store-format
rm "$root/store-format"
for script in preinst postinst prerm postrm; do
    sed "s/@STORE_FORMAT@/$store_format/g" "$here/deb/$script" >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
done
cat >"$root/DEBIAN/control" <<CONTROL
Package: porind
Version: $version
Architecture: $architecture
Maintainer: The porin authors <porin@localhost>
Section: net
Priority: optional
Depends: passwd
Installed-Size: $(du -sk "$root" | cut -f1)
Description: selective membrane for a sensor gateway
 Reads sensors and local brokers, lets small WebAssembly cells decide about each
 packet, and sends over MQTT what matters. Keeps what the broker has not
 acknowledged, and takes signed cells over the same connection.
CONTROL
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz -b "$root" "$out/porind_${version}_$architecture.deb" >&2
