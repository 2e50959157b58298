#!/bin/bash
# Packs what capture.sh needs on a machine without Go (linux/amd64, glibc).
#
#	test/gpu/bundle.sh BIN FILE.tar.gz
#
# BIN has gpuledger-agent and gpuledger-collector (make build).
set -euo pipefail
bin=$(cd "$1" && pwd)
file=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
here=$(cd "$(dirname "$0")" && pwd)
pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
chmod 755 "$pack"
cd "$here"
cp "$bin/gpuledger-agent" "$bin/gpuledger-collector" load.py capture.sh "$pack"
go test -c -trimpath -ldflags '-s -w -extldflags=-Wl,-z,lazy' -o "$pack/gpu.test" .
# The stub's load, so that a bundle can be tried without a GPU.
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$pack/gpuload" ../nvmlstub/cmd/gpuload
tar -C "$pack" --owner 0 --group 0 -czf "$file" .
ls -l "$file"
