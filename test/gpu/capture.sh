#!/bin/bash
# Records this machine's GPU: run from an unpacked bundle (bundle.sh), with
# nothing else on the GPU. Leaves recording.json, latencies.json, capture.log
# and logs.tar.gz in a folder. Needs python3 with PyTorch and nvidia-smi; no Go,
# no network.
#
#	./capture.sh [FOLDER]
#
# GPULEDGER_GPU_SECONDS (20) is compared of each workload; GPULEDGER_GPU_INDEX
# (0) is the GPU; GPULEDGER_GPU_PYTHON (python3) has PyTorch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:-out}" && cd "${1:-out}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Containers often have the driver's files outside the usual folders.
export PATH=$PATH:/usr/local/nvidia/bin
known=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)
if [ -z "${GPULEDGER_GPU_LIBRARY:-}" ] && [[ $known != *libnvidia-ml.so.1* ]]; then
	search=${LD_LIBRARY_PATH:-}
	for dir in ${search//:/ } /usr/local/nvidia/lib64 /usr/lib64-nvidia /usr/lib/wsl/lib; do
		if [ -e "$dir/libnvidia-ml.so.1" ]; then
			export GPULEDGER_GPU_LIBRARY=$dir/libnvidia-ml.so.1
			break
		fi
	done
fi

machine() {
	date -u
	uname -a
	readlink /proc/self/ns/pid || true
	head -5 /proc/self/cgroup || true
	echo "libnvidia-ml: ${GPULEDGER_GPU_LIBRARY:-found by the loader}"
	nvidia-smi || true
	nvidia-smi -q -d PERFORMANCE,CLOCK,COMPUTE 2>/dev/null | head -80 || true
	"${GPULEDGER_GPU_PYTHON:-python3}" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda)' || true
	ldd "$here/gpuledger-collector" | grep 'not found' || true
}

record() {
	cd "$here"
	GPULEDGER_GPU=1 GPULEDGER_BIN=$here GPULEDGER_GPU_LOAD=$here/load.py GPULEDGER_GPU_OUT=$work \
		GPULEDGER_GPU_SECONDS=${GPULEDGER_GPU_SECONDS:-20} \
		./gpu.test -test.v -test.count 1 -test.timeout 9m -test.run '^(TestGPU|TestLatencies)$'
}

rc=0
{
	machine
	record || rc=$?
} >"$out/capture.log" 2>&1
for name in recording.json latencies.json; do
	[ ! -e "$work/$name" ] || mv "$work/$name" "$out/"
done
tar -C "$work" -czf "$out/logs.tar.gz" .
cat "$out/capture.log"
exit "$rc"
