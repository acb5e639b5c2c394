#!/bin/sh
# Builds the appliance image of a board: cross/image.sh BOARD PROGRAMS CELLS FOLDER
#
# PROGRAMS is a folder with porind-TARGET for the board's target, CELLS one of built cells. Leaves FOLDER/porin-BOARD.img, the same
# packed with gzip, and their SHA-256 sums. Needs no root and no loop devices: file systems are made as files, by mtools,
# mksquashfs and sfdisk. Kernel, firmware and the few programs of others come from Debian; they are kept
# in the cache (PORIN_FRESH=1 fetches them again: a cached kernel gets no security updates).
set -eu

board=$1
programs=$2
cells=$3
out=$4
here=$(cd "$(dirname "$0")" && pwd)
toml=$here/../board-configs/$board.toml
cache=${XDG_CACHE_HOME:-$HOME/.cache}/porin/image
say() { echo "image: $*" >&2; }
fail() { echo "image: $*" >&2; exit 1; }

[ -f "$toml" ] || fail "there is no board \`$board\`; images are made for: $(grep -l '^\[image\]' "$here"/../board-configs/*.toml | sed 's|.*/||; s|\.toml$||' | tr '\n' ' ')"
# What a board says in one line: KEY = "word" or KEY = ["word", "word"].
board_says() { sed -n "s/^$1 = //p" "$toml" | tr -d '"[],'; }
firmware=$(board_says firmware)
device_trees=$(board_says device_trees)
porind=$programs/porind-$(board_says target)
[ -n "$firmware" ] || fail "no image is made for $board: the package goes on its stock system (docs/flashing.md)"
. "$here/image/layout.sh"
. "$here/release.sh"
export TZ=UTC

[ -z "${PORIN_FRESH:-}" ] || rm -rf "$cache"
sh "$here/apt.sh" mtools dosfstools squashfs-tools fdisk cpio kmod
fetch() { PORIN_SECURITY=1 sh "$here/debian.sh" "$cache" arm64 "$@"; }
# Firmware from trixie: the one in bookworm is older than the choice between two boot partitions.
fetch "trixie main non-free-firmware" raspi-firmware
# Packages of which programs and libraries are copied.
copied="busybox-static e2fsprogs libc6 libext2fs2 libblkid1 libuuid1 libcom-err2 openntpd"
# shellcheck disable=SC2086 # one word per package
fetch "bookworm main" linux-image-arm64 $copied
kernel_package=$(dpkg-deb -f "$cache"/linux-image-arm64_*.deb Depends | sed 's/ .*//')
fetch "bookworm main" "$kernel_package"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unpack() { mkdir -p "$work/$1" && dpkg-deb --fsys-tarfile "$cache/$2"_*.deb | tar -x --no-same-owner -C "$work/$1"; }
unpack firmware raspi-firmware
unpack kernel "$kernel_package"
for package in $copied; do unpack debian "$package"; done
release=${kernel_package#linux-image-}
depmod -b "$work/kernel" "$release"
debian=$work/debian

# Copies modules and what they depend on: FOLDER NAMES
modules() {
    mkdir -p "$1/lib/modules/$release"
    : >"$work/needs"
    for module in $(grep -v '^#' "$2"); do
        modprobe -d "$work/kernel" -S "$release" --show-depends "$module" >>"$work/needs" 2>/dev/null || fail "the kernel has no module \`$module\`"
    done
    sed -n "s|^insmod $work/kernel/||p" "$work/needs" | tr -d ' ' | sort -u | (cd "$work/kernel" && cpio -pdm --quiet "$1")
    for list in order builtin builtin.modinfo; do cp "$work/kernel/lib/modules/$release/modules.$list" "$1/lib/modules/$release/"; done
    depmod -b "$1" "$release"
}
# Programs of Debian with the libraries they need: FOLDER PROGRAM...
programs() {
    folder=$1
    shift
    mkdir -p "$folder/bin" "$folder/sbin" "$folder/lib"
    cp "$debian/bin/busybox" "$folder/bin/"
    cp "$debian/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1" "$folder/lib/"
    for program in "$@"; do
        cp -L "$debian/$program" "$folder/sbin/"
        for library in $(objdump -p "$debian/$program" | sed -n 's/^ *NEEDED *//p'); do
            file=$(find "$debian/lib" "$debian/usr/lib" -name "$library" | head -n 1)
            [ -n "$file" ] || fail "$library is missing, which $program needs"
            cp -L "$file" "$folder/lib/"
        done
    done
}

say "initramfs"
initramfs=$work/initramfs
programs "$initramfs" sbin/mke2fs sbin/e2fsck
modules "$initramfs" "$here/image/initramfs/modules"
cp "$here/image/initramfs/init" "$here/image/initramfs/modules" "$here/image/layout.sh" "$initramfs/"
mkdir -p "$initramfs/etc"
ln -s /proc/self/mounts "$initramfs/etc/mtab"
find "$initramfs" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$initramfs" && find . | sort | cpio -o -H newc --quiet --reproducible -R 0:0 | gzip -9n) >"$work/initramfs.gz"

say "root"
root=$work/root
cp -r "$here/image/root" "$root"
programs "$root" usr/sbin/ntpd
mv "$root/sbin/ntpd" "$root/sbin/openntpd"
modules "$root" "$here/image/modules.txt"
mkdir -p "$root/usr/bin" "$root/usr/share/porin/boards" "$root/usr/lib/porin/cells" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/boot" "$root/data" "$root/var/lib"
cp "$porind" "$root/usr/bin/porind"
cp "$cells"/*.wasm "$root/usr/lib/porin/cells/"
cp "$here"/../board-configs/*.toml "$root/usr/share/porin/boards/"
ln -s /data/porin "$root/var/lib/porin"
ln -s /run "$root/var/run"
ln -s /run "$root/tmp"
ln -s /run/openntpd "$root/var/lib/openntpd"
ln -s /run/etc-porin "$root/etc/porin"
ln -s /run/etc/resolv.conf "$root/etc/resolv.conf"
ln -s /run/etc/shadow "$root/etc/shadow"
ln -s /proc/self/mounts "$root/etc/mtab"
for applet in $(cat "$here/image/applets.txt"); do ln -s busybox "$root/bin/$applet"; done
ln -s ../bin/busybox "$root/sbin/init"
printf 'VERSION=%s\nBOARD=%s\nBUILT=%s\n' "$version" "$board" "$SOURCE_DATE_EPOCH" >"$root/etc/porin-image"
chmod -R u=rwX,go=rX "$root"
mksquashfs "$root" "$work/root.squashfs" -quiet -no-progress -all-root -comp zstd -Xcompression-level 19 >/dev/null
[ "$(stat -c %s "$work/root.squashfs")" -le $((ROOT_SIZE * 512)) ] || fail "the root does not fit into its partition"

say "boot partitions"
boot=$work/boot
mkdir -p "$boot"
gzip -9n <"$work/kernel/boot/vmlinuz-$release" >"$boot/kernel8.img"
cp "$work/initramfs.gz" "$boot/initramfs.gz"
cp "$here/image/boot/config.txt" "$boot/"
echo "console=ttyS1,115200 quiet panic=10 porin.root=A" >"$boot/cmdline.txt"
for name in $firmware; do cp "$work/firmware/usr/lib/raspi-firmware/$name" "$boot/"; done
for name in $device_trees; do cp "$work/kernel/usr/lib/$kernel_package/broadcom/$name" "$boot/"; done
config=$work/config
cp -r "$here/image/config" "$config"
# Where the owner's files go; `porin flash` makes no folders.
mkdir "$config/trust" "$config/certs" "$config/cells"
cp "$here/image/boot/autoboot.txt" "$config/"
# Where every computer can read them.
# shellcheck disable=SC2046 # one word per package
sh "$here/notices.sh" "$(board_says target)" $(for package in raspi-firmware "$kernel_package" $copied; do echo "$cache/${package}"_*.deb; done) >"$config/NOTICES.txt"
# The first stage of a Pi 3 comes from the first partition, and finds the others by autoboot.txt.
[ ! -f "$boot/bootcode.bin" ] || cp "$boot/bootcode.bin" "$config/"
find "$boot" "$config" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +

image=$work/image
fat() { # LABEL FAT-BITS START SIZE FOLDER: a FAT file system of the folder's files, put into the image
    mkfs.vfat -C --invariant -F "$2" -s 1 -n "$1" "$work/fat" $(($4 / 2)) >/dev/null
    MTOOLS_SKIP_CHECK=1 mcopy -smpQ -i "$work/fat" "$5"/* ::
    dd if="$work/fat" of="$image" bs=512 seek="$3" conv=notrunc,sparse status=none
    rm "$work/fat"
}
truncate -s $(((EXTENDED_START + 2048 + ROOT_SIZE) * 512)) "$image"
sfdisk -q "$image" <<TABLE
label: dos
label-id: 0x$(echo $SIGNATURE | sed 's/\(..\)\(..\)\(..\)\(..\)/\4\3\2\1/')
1: start=$CONFIG_START, size=$CONFIG_SIZE, type=e
2: start=$BOOT_A_START, size=$BOOT_SIZE, type=c, bootable
3: start=$BOOT_B_START, size=$BOOT_SIZE, type=c
4: start=$EXTENDED_START, size=$((2048 + ROOT_SIZE)), type=f
5: start=$ROOT_A_START, size=$ROOT_SIZE, type=83
TABLE
fat PORIN 16 $CONFIG_START $CONFIG_SIZE "$config"
fat PORIN-A 32 $BOOT_A_START $BOOT_SIZE "$boot"
dd if="$work/root.squashfs" of="$image" bs=512 seek=$ROOT_A_START conv=notrunc status=none
# It ends with the content of root A, in whole MB.
content=$(((ROOT_A_START * 512 + $(stat -c %s "$work/root.squashfs") + 1048575) / 1048576))
truncate -s "${content}M" "$image"

mkdir -p "$out"
mv "$image" "$out/porin-$board.img"
say "packing"
gzip -9n -k -f "$out/porin-$board.img"
(cd "$out" && sha256sum "porin-$board.img" "porin-$board.img.gz" >"porin-$board.sha256")
say "tried: $(sed -n 's/^booted = "\(.*\)"/\1/p' "$toml")"
say "$out/porin-$board.img: $(stat -c %s "$out/porin-$board.img") bytes, packed $(stat -c %s "$out/porin-$board.img.gz")"
