#!/bin/sh
# `make instructions`: machine instructions for each packet on aarch64 and armv7, in a deadband cell and as native code.
#
# Counted under qemu-user, one instruction at a time, so the numbers are the same on every machine. What starting and making the packets costs is
# taken off: each is run with two numbers of packets, and once without deciding anything.
set -eu
cd "$(dirname "$0")/.."
sh cross/apt.sh qemu-user gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
target=${CARGO_TARGET_DIR:-target}
few=640
many=6400

count() { # emulator with its options, program, what, packets
    $1 -singlestep -d nochain,exec -D /dev/stdout "$2" "$3" "$4" | wc -l
}

each() { # emulator, program, what: instructions for each packet
    echo $((($(count "$1" "$2" "$3" $many) - $(count "$1" "$2" "$3" $few)) / (many - few)))
}

printf '%-10s %10s %10s %14s\n' target cell native 'cell / native'
for wanted in aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf; do
    # shellcheck disable=SC2016 # PORIN_TARGET is for the inner shell
    built=$(sh cross/with.sh $wanted sh -c 'cargo build -q --locked --release -p porin-instructions --target $PORIN_TARGET >&2 && echo $PORIN_TARGET')
    case $built in
        aarch64-*) name=aarch64 emulator=qemu-aarch64 ;;
        *-gnueabihf) name=armv7 emulator="qemu-arm -L /usr/arm-linux-gnueabihf" ;;
        *) name=armv7 emulator=qemu-arm ;;
    esac
    program=$target/$built/release/porin-instructions
    nothing=$(each "$emulator" "$program" nothing)
    cell=$(($(each "$emulator" "$program" "$target/cells/deadband.wasm") - nothing))
    native=$(($(each "$emulator" "$program" native) - nothing))
    printf '%-10s %10s %10s %14s\n' $name $cell $native "$(awk "BEGIN { printf \"%.1f\", $cell / $native }")"
done
