# SPDX-License-Identifier: Apache-2.0
"""Rows of writes in place: random 4 KiB into one large object, and what it takes on disk afterwards."""
import itertools
import json
import os
import time

KEY = "in-place"
DEPTH = 32


class Writes:
    def __init__(self, run, sh, bucket):
        self.run, self.sh, self.bucket = run, sh, bucket
        self.size = (256 if run.o.quick else 1024) << 20
        self.count = self.size // 4096 // 4
        self.seeds = itertools.count(1)

    def serve(self):
        return self.run.server("inplace", data="inplace", job_interval="1s")

    def write(self, count):
        return self.serve().client("write", self.bucket, KEY, self.size, DEPTH, count, next(self.seeds))["per_s"]

    def limit(self):
        """fio: the same writes into a file of the same size, as many in flight, fsync at the end."""
        target = os.path.join(self.run.o.dir, "inplace.fio")
        options = [f"--filename={target}", f"--size={self.size}", "--direct=1", "--output-format=json"]
        if not os.path.exists(target):
            self.sh("fio", "--name=lay", *options, "--rw=write", "--bs=1M", "--end_fsync=1")
        text = self.sh("fio", "--name=limit", *options, "--rw=randwrite", "--bs=4k", "--ioengine=io_uring",
                       f"--iodepth={DEPTH}", f"--io_size={self.count * 4096}", "--end_fsync=1", "--overwrite=1")
        job = json.loads(text[text.index("{"):])["jobs"][0]
        return self.count / (job["job_runtime"] / 1000)

    def in_place(self):
        self.serve().client("write", self.bucket, KEY, self.size, DEPTH, 1, 0)  # it is there
        ours, disk = self.run.interleave(lambda: self.write(self.count), self.limit)
        self.run.row("write-4k-inplace", ours, disk, "writes/s")

    @staticmethod
    def packs(s):
        return sum(e.stat().st_blocks * 512 for d in os.scandir(os.path.join(s.data, "packs")) if d.is_dir()
                   for e in os.scandir(d.path))

    def space(self):
        """As many bytes written as the object has; then until the jobs have nothing left to do."""
        s = self.serve()
        self.write(self.size // 4096)
        end, seen, same = time.monotonic() + 900, None, 0
        while time.monotonic() < end and same < 6:  # a pack that could not be compacted is tried again after a minute
            status = s.status()
            state = tuple(int(status[f"jobs_{k}"]) for k in ("merged_bytes", "compacted", "removed_packs"))
            same = same + 1 if state == seen else 0
            seen = state
            time.sleep(15)  # what is retired is removed ten seconds later
        self.run.row("write-4k-space", [self.packs(s) / 1e6], [self.size / 1e6], "MB")
