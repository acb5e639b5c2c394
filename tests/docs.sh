#!/bin/sh
# Checks what people read: `make check` runs it.
#
# The README has at most 120 lines. Markdown has no line over 140 columns outside tables and code, and no broken link inside the
# repository. Pages for users, and the texts in the programs, have none of the words in tests/homely-words.txt. Topics are written down in one file.
set -eu

cd "$(dirname "$0")/.."
failed=$(mktemp)
texts=$(mktemp)
trap 'rm -f "$failed" "$texts"' EXIT
fail() { echo "$*" | tee -a "$failed" >&2; }

lines=$(wc -l <README.md)
[ "$lines" -le 120 ] || fail "README.md has $lines lines: at most 120"

# Without blocks of code; the number of the line in front.
prose() { awk '/^ *```/ { code = !code; next } !code { print FNR ": " $0 }' "$1"; }

slugs() {
    awk '/^ *```/ { code = !code } !code && /^#+ / { sub(/^#+ +/, ""); gsub(/[^A-Za-z0-9 _-]/, ""); gsub(/ /, "-"); print tolower($0) }' "$1"
}

git ls-files -co --exclude-standard '*.md' | while read -r file; do
    prose "$file" | awk -v file="$file" '{ n = $1; sub(/^[0-9]+: /, "") } !/^ *\|/ && length > 140 { print file ":" n " has " length " columns: at most 140" }' |
        while read -r line; do fail "$line"; done
    prose "$file" | grep -o '](\([^)]*\))' | sed 's/^](//; s/)$//' | while read -r link; do
        case $link in *://* | mailto:*) continue ;; esac
        path=${link%%#*}
        target=$file
        [ -z "$path" ] || target=$(dirname "$file")/$path
        [ -e "$target" ] || fail "$file links to $link, which does not exist"
        case $link in
            *.md#* | \#*) slugs "$target" | grep -qxF "${link#*#}" || fail "$file links to $link: $target has no such heading" ;;
        esac
    done
done

words=$(paste -sd '|' tests/homely-words.txt)
grep -niwE "$words" README.md SECURITY.md docs/*.md docs/examples/* | while read -r line; do fail "homely word: $line"; done
# Texts in the programs: what stands between quotes, outside of comments and tests.
git ls-files 'agent/*/src/*.rs' | grep -v 'tests\.rs$\|/tests/' | while read -r file; do
    awk -v file="$file" '/#\[cfg\(test\)\]/ { exit } { sub(/^ *\/\/.*/, "") } match($0, /".*"/) { print file ":" FNR ": " substr($0, RSTART, RLENGTH) }' "$file"
done >"$texts"
grep -iwE "$words" "$texts" | while read -r line; do fail "homely word: $line"; done
# What has one place.
grep 'porin/v1' "$texts" | grep -v '^agent/core/src/topic\.rs:' | while read -r line; do fail "a topic outside topic.rs: $line"; done

[ ! -s "$failed" ] || exit 1
