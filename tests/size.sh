#!/bin/sh
# `make size`: what porind weighs. Binaries, packages, images, dependencies, memory while idle with two cells. What has been built for ARM
# (`make deb`, `make image`) is weighed along.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
cargo build -q --locked --release -p porind
porind=$target/release/porind
folder=$(mktemp -d)
trap 'kill $agent 2>/dev/null; rm -rf "$folder"' EXIT
agent=

bytes=$(wc -c <"$porind")
crates=$(cargo tree --locked -q -p porind -e normal --prefix none --format '{p}' | sort -u | grep -vc '^porin' || true)
cat >"$folder/porin.toml" <<CONFIG
[gateway]
id = "size"
socket = "$folder/status.sock"
[uplink]
broker = "mqtt://127.0.0.1:9"
[outbox]
path = "$folder/porin.redb"
[slots.quiet]
cell = "$target/cells/deadband.wasm"
params = { absolute = 1.0 }
[slots.limits]
cell = "$target/cells/threshold.wasm"
params = { high = 1.0 }
outputs = ["{stream}/alarm"]
[routes.values]
streams = ["#"]
slots = ["quiet"]
[routes.alarms]
streams = ["#"]
slots = ["limits"]
CONFIG
"$porind" run --config "$folder/porin.toml" 2>/dev/null &
agent=$!
until "$porind" status --json --config "$folder/porin.toml" >/dev/null 2>&1; do sleep 0.1; done
sleep 1
rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$agent/status")
anonymous=$(awk '/^RssAnon/ { print $2 }' "/proc/$agent/status")
printf 'porind, release, stripped: %s bytes (goal 3500000)\n' "$bytes"
printf 'crates in its tree:        %s\n' "$crates"
printf 'idle with two cells:       %s KB resident, %s KB of it its own (goal 5000)\n' "$rss" "$anonymous"
for file in "$target"/dist/porind-aarch64* "$target"/dist/porind-armv7*musl* "$target"/dist/*.deb "$target"/image/*.img "$target"/image/*.img.gz; do
    [ -f "$file" ] || continue
    case $file in
        *aarch64*) goal=' (goal 3200000)' ;;
        *armv7*) goal=' (goal 2800000)' ;;
        *.img) goal=' (goal 96000000)' ;;
        *.gz) goal=' (goal 32000000)' ;;
        *) goal= ;;
    esac
    printf '%-50s %s bytes%s\n' "${file##*/}:" "$(stat -c %s "$file")" "$goal"
done
