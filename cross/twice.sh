#!/bin/sh
# Whether a second build gives the same bytes: cross/twice.sh FOLDER TARGET...
#
# Builds each target again from a copy of the sources in another place, with a target folder of its own, and compares with
# FOLDER/porind-TARGET.
set -eu

dist=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
(cd "$here" && git ls-files -z | tar -c --null -T -) | tar -x -C "$copy"
for target in "$@"; do
    CARGO_TARGET_DIR="$copy/target" sh "$copy/cross/build.sh" "$target" "$copy/dist"
    cmp "$dist/porind-$target" "$copy/dist/porind-$target"
    echo "$target: twice the same bytes"
done
