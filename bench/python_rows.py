#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of the Python package: streamed batches in Python against the same in C, and 2 workers against none.

As a program: python_rows.py URL CREDENTIALS MODE BATCH WORKERS SECONDS prints, from the first batch on, samples/s and
microseconds of CPU a sample of this process and its workers.
"""
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class Python:
    """Streams of snapshots that are in the server's cache, taken by a Python process of their own."""

    def __init__(self, run, build):
        self.run, self.build = run, build

    def loop(self, s, snapshot, mode, batch, workers):
        env = dict(os.environ, PYTHONPATH=os.path.join(self.build, "python"), GRANARY_QUIET="1")
        used = s.cpu()
        p = subprocess.run([PYTHON, os.path.abspath(__file__), f"{s.url}/{snapshot}", s.credentials, mode, str(batch),
                            str(workers), str(self.run.seconds + 1)], capture_output=True, text=True, env=env, timeout=600,
                           check=False)
        if p.returncode != 0:
            raise RuntimeError(f"python_rows.py: {p.stderr.strip()[-600:]}")
        r = json.loads(p.stdout)
        r["server_us"] = (s.cpu() - used) / r["samples"] * 1e6
        return r

    def row(self, ident, ours, limit):
        """limit: results of loop() or of bench_client"""
        for who, results in (("row", ours), ("limit", limit)):
            if "cpu_us" in results[0]:
                print(f"# {ident}: {statistics.median(r['cpu_us'] for r in results):.2f} us of CPU a sample in Python of the "
                      f"{who}, {statistics.median(r['server_us'] for r in results):.2f} in the server", file=sys.stderr)
        self.run.row(ident, [r["per_s"] for r in ours], [r["per_s"] for r in limit], "samples/s")

    def ready(self, prefix, count, size, batch):
        s = self.run.server()
        self.run.have(s, prefix, count, size)
        snapshot = self.run.snapshot(s, prefix)
        s.client("stream", snapshot, "blocks", batch, 1, 0)  # a whole epoch: all is in the cache then, however long it takes
        return s, snapshot

    def hot(self):
        for ident, prefix, count, size, batch in (("python-4k", "s4k", self.run.small, 4096, 256),
                                                  ("python-112k", "s112k", self.run.hot_big, 114688, 64)):
            if not self.run.wants(ident):
                continue
            s, snapshot = self.ready(prefix, count, size, batch)
            ours, limit = self.run.interleave(lambda: self.loop(s, snapshot, "blocks", batch, 0),
                                              lambda: self.run.stream(s, snapshot, "blocks", batch, 1))
            self.row(ident, ours, limit)

    def workers(self):
        try:
            subprocess.run([PYTHON, "-c", "import torch"], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            print("torch-workers: skipped, torch is not installed (tools/deps --torch)")
            return
        s, snapshot = self.ready("s4k", self.run.small, 4096, 256)
        ours, limit = self.run.interleave(lambda: self.loop(s, snapshot, "blocks", 256, 2),
                                          lambda: self.loop(s, snapshot, "blocks", 256, 0))
        self.row("torch-workers", ours, limit)


def cpu_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def main():
    url, credentials, mode, batch, workers, seconds = sys.argv[1:]
    import granary
    if int(workers) > 0:
        import torch  # noqa: F401  pylint: disable=unused-import
    ds = granary.IterableDataset(url, shuffle=mode, batch_size=int(batch), credentials=credentials)
    loader = granary.DataLoader(ds, num_workers=int(workers), persistent_workers=int(workers) > 0)
    running, samples = iter(loader), 0
    next(running)
    processes = [os.getpid()] + [p.pid for p in multiprocessing.active_children()]
    used, began = sum(map(cpu_of, processes)), time.monotonic()
    while time.monotonic() - began < float(seconds):
        for got in running:
            samples += len(got)
            if time.monotonic() - began > float(seconds):
                break
        else:
            got = None  # the last batch would keep the memory of the epoch, which the next one then could not take over
            running = iter(loader)
    seconds, used = time.monotonic() - began, sum(map(cpu_of, processes)) - used
    print(json.dumps({"per_s": samples / seconds, "samples": samples, "cpu_us": used / samples * 1e6}))


if __name__ == "__main__":
    main()
