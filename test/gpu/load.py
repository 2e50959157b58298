#!/usr/bin/env python3
"""A PyTorch process that keeps a GPU busy, and says by its own measure how much.

It multiplies square matrices on one GPU, either flat out (--duty 1) or for a
part of each tenth of a second, for exactly --seconds seconds. On standard
output it prints JSON, a line each:

  {"event": "ready", "pid": ..., "kernel_ns": ..., ...}  once it can begin
  {"event": "second", "unix": ..., "busy_ns": ..., "work_ns": ..., "kernels": ...}
  {"event": "done", "busy_ns": ..., "work_ns": ..., "kernels": ...}

busy_ns is measured by CUDA events around each batch of products, and laid on
the wall clock. Where other processes run on the GPU as well, their time slices
lie between the two events, so it is then an upper bound of what this process
had. work_ns is the number of products times what one took when nobody else ran
(kernel_ns, measured at the start): what the same work would have taken alone.

With --wait it reads the Unix second to begin at from standard input, so that
several can calibrate one after the other and then begin together.
"""

import argparse
import collections
import json
import math
import os
import sys
import time

PERIOD = 0.1  # of the duty cycle, s
BATCH = 0.02  # flat out: what one batch takes about, s
CALIBRATION = 0.5  # s, after as much of warming up


def say(event, **facts):
    print(json.dumps({"event": event, "pid": os.getpid(), **facts}), flush=True)


def fail(why):
    print("load.py: " + why, file=sys.stderr)
    sys.exit(3)


def find_gpu(index):
    """The torch module, with a GPU that can be used."""
    try:
        import torch
    except ImportError as e:
        fail(f"no PyTorch for {sys.executable} ({e}): install it, or name a python3 that has it (GPULEDGER_GPU_PYTHON)")
    if not torch.cuda.is_available():
        fail(f"PyTorch {torch.__version__} sees no GPU: it wants a CUDA build, a driver, and CUDA_VISIBLE_DEVICES not to hide it")
    if index >= torch.cuda.device_count():
        fail(f"there is no GPU {index}: PyTorch sees {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return torch


class Load:
    """Products of two matrices, timed."""

    def __init__(self, torch, size):
        self.torch = torch
        torch.manual_seed(1)
        a, b, out = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(3))
        self.product = lambda: torch.matmul(a, b, out=out)
        self.kernel = self.calibrate()
        self.base = self.mark()
        self.base.synchronize()
        self.base_time = time.time()
        self.busy = collections.Counter()  # ns by second
        self.work = collections.Counter()  # products by second of their batch's end

    def mark(self):
        e = self.torch.cuda.Event(enable_timing=True)
        e.record()
        return e

    def batch(self, n):
        begin = self.mark()
        for _ in range(n):
            self.product()
        return begin, self.mark(), n

    def calibrate(self):
        """What one product takes alone, in s."""
        n = 4
        while True:
            begin, end, _ = self.batch(n)
            end.synchronize()
            took = begin.elapsed_time(end) / 1000
            if took >= CALIBRATION:
                break
            n *= 2
        begin, end, _ = self.batch(n)
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / n

    def harvest(self, batch):
        """Waits for a batch and lays it on the wall clock. Returns its end."""
        begin, end, n = batch
        end.synchronize()
        t0 = self.base_time + self.base.elapsed_time(begin) / 1000
        t1 = self.base_time + self.base.elapsed_time(end) / 1000
        self.work[math.floor(t1)] += n
        at = t0
        while at < t1:
            until = min(math.floor(at) + 1, t1)
            self.busy[math.floor(at)] += round((until - at) * 1e9)
            at = until
        return t1


def flat_out(load, until):
    """Keeps two batches queued. Yields the time up to which all is measured."""
    n = max(1, round(BATCH / load.kernel))
    queue = collections.deque([load.batch(n), load.batch(n)])
    while queue:
        yield load.harvest(queue.popleft())
        if time.time() + len(queue) * BATCH < until:
            queue.append(load.batch(n))


def in_duty(load, duty, start, until):
    """A batch at the beginning of each period; one that comes late is left out."""
    owed = 0.0
    tick = 0
    while start + tick * PERIOD < until:
        time.sleep(max(0.0, start + tick * PERIOD - time.time()))
        yield start + tick * PERIOD
        owed += duty * PERIOD / load.kernel
        n = int(owed)
        owed -= n
        if n > 0:
            load.harvest(load.batch(n))
        tick = max(tick + 1, math.ceil((time.time() - start) / PERIOD))


def run(load, duty, start, seconds):
    until = start + seconds
    time.sleep(max(0.0, start - time.time()))
    said = start
    rounds = flat_out(load, until) if duty >= 1 else in_duty(load, duty, start, until)

    def tell(before):
        nonlocal said
        while said < before:
            n = load.work[said]
            busy = min(load.busy[said], 10**9)  # intervals meet; a clock in floats may let them overlap
            say("second", unix=said, busy_ns=busy, work_ns=round(n * load.kernel * 1e9), kernels=n)
            said += 1

    for measured in rounds:
        tell(min(math.floor(measured), until))
    time.sleep(max(0.0, until - time.time()))
    tell(until)
    n = sum(load.work.values())
    say("done", seconds=seconds, busy_ns=sum(load.busy.values()), work_ns=round(n * load.kernel * 1e9), kernels=n)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--name", default="load", help="told apart by, in process lists")
    p.add_argument("--device", type=int, default=0, help="index of the GPU")
    p.add_argument("--size", type=int, default=4096, help="rows and columns of the matrices")
    p.add_argument("--duty", type=float, default=1.0, help="part of the time to be busy; 1: flat out")
    p.add_argument("--seconds", type=int, default=10, help="how long it runs")
    p.add_argument("--wait", action="store_true", help="read the Unix second to begin at from standard input")
    o = p.parse_args()
    if not (0 < o.duty <= 1 and 16 <= o.size <= 65536 and 0 < o.seconds <= 3600 and o.device >= 0):
        p.error("want a duty above 0 and up to 1, a size of 16 to 65536, and 1 to 3600 seconds")
    torch = find_gpu(o.device)
    load = Load(torch, o.size)
    say("ready", torch=torch.__version__, device=torch.cuda.get_device_name(o.device),
        kernel_ns=round(load.kernel * 1e9), size=o.size, duty=o.duty)
    start = math.ceil(time.time())
    if o.wait:
        line = sys.stdin.readline()
        if not line:
            fail("nobody said when to begin")
        start = int(line)
    run(load, o.duty, start, o.seconds)


if __name__ == "__main__":
    main()
