#!/usr/bin/env bash
# Fuzzes every parser, one after the other, and keeps a corpus of what it found
# beside the tests: go test runs all of it ever after.
#
#   test/fuzz.sh [TIME [PACKAGE TARGET]]     TIME for each, default 10m
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-10m}
most=48 # inputs kept of each, the smallest first
cache=$(go env GOCACHE)/fuzz
module=$(go list -m)

# keep copies new inputs of a target from Go's cache.
keep() {
  local from="$cache/$module/$1/$2" to="$1/testdata/fuzz/$2" name
  [ -d "$from" ] || return 0
  mkdir -p "$to"
  find "$from" -type f -size -8k -printf '%s %f\n' | sort -n | head -"$most" | while read -r _ name; do
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
