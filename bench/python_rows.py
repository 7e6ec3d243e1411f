#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of the Python package: streamed batches in Python against the same in C, and 2 workers against none.

As a program: python_rows.py URL CREDENTIALS MODE BATCH WORKERS SECONDS prints samples/s from the first batch on.
"""
import json
import os
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
        p = subprocess.run([PYTHON, os.path.abspath(__file__), f"{s.url}/{snapshot}", s.credentials, mode, str(batch),
                            str(workers), str(self.run.seconds + 1)], capture_output=True, text=True, env=env, timeout=600,
                           check=False)
        if p.returncode != 0:
            raise RuntimeError(f"python_rows.py: {p.stderr.strip()[-600:]}")
        return json.loads(p.stdout)["per_s"]

    def ready(self, prefix, count, size, batch):
        s = self.run.server()
        self.run.have(s, prefix, count, size)
        snapshot = self.run.snapshot(s, prefix)
        self.run.stream(s, snapshot, "blocks", batch, 1)
        return s, snapshot

    def hot(self):
        for ident, prefix, count, size, batch in (("python-4k", "s4k", self.run.small, 4096, 256),
                                                  ("python-112k", "s112k", self.run.hot_big, 114688, 64)):
            if not self.run.wants(ident):
                continue
            s, snapshot = self.ready(prefix, count, size, batch)
            ours, limit = self.run.interleave(lambda: self.loop(s, snapshot, "blocks", batch, 0),
                                              lambda: self.run.stream(s, snapshot, "blocks", batch, 1)["per_s"])
            self.run.row(ident, ours, limit, "samples/s")

    def workers(self):
        try:
            subprocess.run([PYTHON, "-c", "import torch"], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            print("torch-workers: skipped, torch is not installed (tools/deps --torch)")
            return
        s, snapshot = self.ready("s4k", self.run.small, 4096, 256)
        ours, limit = self.run.interleave(lambda: self.loop(s, snapshot, "blocks", 256, 2),
                                          lambda: self.loop(s, snapshot, "blocks", 256, 0))
        self.run.row("torch-workers", ours, limit, "samples/s")


def main():
    url, credentials, mode, batch, workers, seconds = sys.argv[1:]
    import granary
    if int(workers) > 0:
        import torch  # noqa: F401  pylint: disable=unused-import
    ds = granary.IterableDataset(url, shuffle=mode, batch_size=int(batch), credentials=credentials)
    loader = granary.DataLoader(ds, num_workers=int(workers), persistent_workers=int(workers) > 0)
    running, samples = iter(loader), 0
    next(running)
    began = time.monotonic()
    while time.monotonic() - began < float(seconds):
        for got in running:
            samples += len(got)
            if time.monotonic() - began > float(seconds):
                break
        else:
            got = None  # the last batch would keep the memory of the epoch, which the next one then could not take over
            running = iter(loader)
    print(json.dumps({"per_s": samples / (time.monotonic() - began)}))


if __name__ == "__main__":
    main()
