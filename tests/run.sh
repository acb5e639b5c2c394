#!/bin/sh
# Builds every test program and runs them, three at a time: most of them wait most of the time. tests/run.sh [--later]
#
# A program's output is in target/tests/<name>.log, and is shown where it failed. With --later the programs run with the clock 400 days
# ahead, since no test may depend on the day on which it runs. They are built by today's clock, because cargo compares times of files, and
# tests that set the clock themselves or call cargo are left out.
set -eu

TARGET=${CARGO_TARGET_DIR:-target}
AT_A_TIME=3

# One program: run.sh --one <manifest> <program>
if [ "${1:-}" = --one ]; then
    name=$(basename "$3" | sed 's/-[0-9a-f]*$//')
    # Two packages may have a program of the same name.
    log=$LOGS/$(basename "$(dirname "$2")")-$name.log
    start=$(date +%s)
    cd "$(dirname "$2")"
    export CARGO_MANIFEST_DIR="$PWD"
    if [ -n "${LATER:-}" ]; then
        case $name in clock | guarantees | notices) exit 0 ;; esac
        export FAKETIME=+400d FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1
        set -- "$@" --skip while_nothing_has_set_the_clock --skip once_the_clock_is_set --skip with_its_largest_functions
        # Of the program alone: what this script times is by today's clock.
        run() { LD_PRELOAD=$LATER "$@"; }
    else
        run() { "$@"; }
    fi
    program=$3
    shift 3
    outcome=ok
    run "$program" "$@" >"$log" 2>&1 || outcome=FAILED
    counts=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]* passed; [0-9]* failed; [0-9]* ignored\).*/\1/p' "$log")
    seconds=$(($(date +%s) - start))
    [ "$outcome" = ok ] || { echo "$name" >>"$LOGS/failed"; echo "== $log"; cat "$log"; }
    case $counts in "0 passed; 0 failed; 0 ignored") ;; *) echo "$outcome $name: $counts, $seconds s" ;; esac
    exit 0
fi

LATER=
if [ "${1:-}" = --later ]; then
    LATER=$(find /usr/lib -path '*faketime/libfaketime.so.1' | head -n 1)
    [ -n "$LATER" ] || { echo "libfaketime is missing: make broker" >&2; exit 1; }
fi
LOGS=$(mkdir -p "$TARGET/tests" && cd "$TARGET/tests" && pwd)
export LATER LOGS
rm -f "$LOGS"/*
here=$(cd "$(dirname "$0")" && pwd)
# As the Makefile chooses them. Again, in words, where it does not build.
build() { cargo build --locked --workspace --bins --tests "$@"; }
build --message-format json 2>"$LOGS/build" >"$LOGS/programs" || build
sed -n 's/.*"manifest_path":"\([^"]*\)".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1 \2/p' "$LOGS/programs" |
    xargs -P "$AT_A_TIME" -L 1 sh "$here/run.sh" --one
[ ! -e "$LOGS/failed" ] || { echo "failed: $(sort "$LOGS/failed" | paste -sd ' ' -)" >&2; exit 1; }
