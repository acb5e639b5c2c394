#!/bin/sh
# Runs the tests with the clock 400 days ahead: no test may depend on the day on which it runs. tests/later.sh
#
# The programs are built by today's clock, because cargo compares times of files. Left out: tests that set the clock themselves, and the
# one that calls cargo.
set -eu

library=$(find /usr/lib -path '*faketime/libfaketime.so.1' | head -n 1)
[ -n "$library" ] || { echo "libfaketime is missing: make broker" >&2; exit 1; }
programs=$(cargo test --locked --workspace --no-run --message-format json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep /deps/)
failed=
for program in $programs; do
    name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
    case $name in
        clock | guarantees) continue ;;
    esac
    # A test program expects the folder of its package.
    folder=$(find agent cells tests -name Cargo.toml -not -path '*/target/*' -exec grep -lE "^name = \"$(echo "$name" | tr _ -)\"" {} + | head -n 1)
    echo "$name" >&2
    folder=$(dirname "${folder:-tests/e2e/Cargo.toml}")
    (cd "$folder" && FAKETIME="+400d" LD_PRELOAD=$library FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 CARGO_MANIFEST_DIR=$PWD \
        "$program" -q --skip while_nothing_has_set_the_clock --skip once_the_clock_is_set >"${TMPDIR:-/tmp}/later.log" 2>&1) ||
        { failed="$failed $name"; echo "== $name"; tail -n 30 "${TMPDIR:-/tmp}/later.log"; }
done
[ -z "$failed" ] || { echo "400 days from now these fail:$failed" >&2; exit 1; }
echo "every test passes 400 days from now, but for those that set the clock themselves"
