#!/usr/bin/env bash
# Fuzzes every parser, one after the other, and keeps a corpus of what it found
# beside the tests: go test runs all of it ever after.
#
#   test/fuzz.sh [TIME [PACKAGE TARGET]]     TIME for each, default 10m
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-10m}
most=24 # inputs kept of each, small and large
cache=$(go env GOCACHE)/fuzz
module=$(go list -m)

# keep copies new inputs of a target from Go's cache, evenly over their sizes.
keep() {
  local from="$cache/$module/$1/$2" to="$1/testdata/fuzz/$2" all
  [ -d "$from" ] || return 0
  mkdir -p "$to"
  all=$(find "$from" -type f -size -8k | wc -l)
  find "$from" -type f -size -8k -printf '%s %f\n' | sort -n |
    awk -v all="$all" -v most="$most" 'int(NR * most / all) > int((NR - 1) * most / all) || all <= most {print $2}' |
    while read -r name; do
      [ "$(find "$to" -type f | wc -l)" -ge "$most" ] || cp -n "$from/$name" "$to/$name"
    done
}

targets() {
  grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|^\./||; s|/[^/]*_test.go:func | |' | sort -u
}

failed=0
while read -r package target; do
  [ $# -lt 3 ] || { [ "$package" = "$2" ] && [ "$target" = "$3" ]; } || continue
  printf '\n== %s %s\n' "$package" "$target"
  if out=$(go test "./$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" 2>&1 | tail -20); then
    tail -3 <<<"$out"
  else
    echo "$out"
    failed=1
  fi
  keep "$package" "$target"
done < <(targets)
exit $failed
