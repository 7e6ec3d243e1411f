#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: after a power cut at any moment RocksDB's directory opens and names everything that was acknowledged.

Method: one workload with the shim tests/shim/powercut.c over RocksDB's files records every change and sync in order; the
server is killed in its middle and recovers (so cuts fall into recovery too). Then, at 200 moments of the record, the
metadata directory is rebuilt as a cut could have left it: synced images, any prefix of what was written later, torn in
its last write, names synced or not. The packs are as they were (their cuts are the simulator's). A server is started on
it and the oracle judges it by what had been acknowledged before that moment.

  test_powercut_serial.py [--seed S] [--cuts N] [--only I] [--keep]
"""
import argparse
import concurrent.futures
import os
import pathlib
import random
import shutil
import threading
import time

import crash_lib as lib
import powercut

SHIM = lib.BUILD / "tests" / "powercut.so"
SMALL = {"pack-size": "16MiB", "job-interval": "150ms", "compact-dead": "10%", "cache-size": "32MiB", "memory": "256MiB"}
# The engine of the packs makes no difference to RocksDB's files: one full run is enough.
CUTS = 20 if lib.BRIEF else 1000 if lib.LONG else 40 if os.environ.get("GRANARY_IO_ENGINE") else 200
OPS = 3000 if lib.BRIEF else 14000  # enough for RocksDB to write tables and switch logs while it runs


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    p.add_argument("--cuts", type=int, default=CUTS)
    p.add_argument("--only", type=int, help="only this cut of the list")
    p.add_argument("--keep", action="store_true")
    return p.parse_args()


def workload(base, seed):
    """Returns (server, oracle log, ns from which cuts may fall)."""
    record = base / "record"
    record.mkdir()
    server = lib.Server(base, settings=SMALL)
    server.env.update(LD_PRELOAD=str(SHIM), POWERCUT_DIR=str(server.data / "meta"),
                      POWERCUT_PACKS=str(server.data / "packs"), POWERCUT_LOG=str(record))
    oracle = lib.Oracle(server, base, seed, workers=8, clients=2, files=9, size_max=3000, large_per_mille=1)
    server.start()
    first_ns = time.monotonic_ns()
    oracle.begin(ops=OPS, timeout_ms=120000)
    rng = random.Random(seed)
    time.sleep(rng.uniform(3, 6))
    server.kill()
    server.launch()
    time.sleep(rng.uniform(0.01, 0.15))
    server.kill()
    server.start()
    oracle.wait()
    if server.stop() != 0:
        raise lib.Broken("the server did not stop cleanly")
    return server, oracle.log, first_ns


class Cutter:
    def __init__(self, base, server, log, seed):
        self.base, self.server, self.log, self.seed = base, server, log, seed
        self.lock = threading.Lock()
        self.failures = []
        self.totals = {"names_dropped": 0, "short": 0, "torn": 0}
        self.free = [0, 1]

    def prepare(self, disk, index, ns):
        """The data directory of cut `index`: metadata by chance, packs as of now."""
        root = self.base / f"cut-{index}"
        data = root / "data"
        data.mkdir(parents=True)
        lost = disk.cut(random.Random(self.seed * 1000003 + index), data / "meta")
        for name in ("granary.super", "master.key", "root.credentials"):
            shutil.copy2(self.server.data / name, data / name)
        for pack in disk.packs:
            (data / "packs" / pack).parent.mkdir(parents=True, exist_ok=True)
            source = self.server.data / "packs" / pack
            if not source.exists():
                source = self.base / "record" / pathlib.Path(pack).name
            self.copy(source, data / "packs" / pack)
        with self.lock:
            for name in self.totals:
                self.totals[name] += lost[name]
        return root, ns

    @staticmethod
    def copy(source, target):
        """Only what is there: packs are allocated ahead."""
        with open(source, "rb") as a, open(target, "wb") as b:
            size = os.fstat(a.fileno()).st_size
            os.truncate(b.fileno(), size)
            at = 0
            while at < size:
                try:
                    at = os.lseek(a.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(a.fileno(), at, os.SEEK_HOLE)
                while at < end:
                    at += os.copy_file_range(a.fileno(), b.fileno(), end - at, at, at) or (end - at)

    def judge(self, index, root, ns):
        server = lib.Server(root, settings=SMALL)
        oracle = lib.Oracle(server, root, self.seed)
        try:
            server.start()
            counts = oracle.check(log=self.log, settle=False, until=ns - 1)
        except lib.Broken as e:
            with self.lock:
                self.failures.append((index, str(e)))
            server.kill()
            return {}
        server.kill()
        shutil.rmtree(root)
        return counts


def cut_points(rng, kinds, first, count):
    """Record numbers: half of them anywhere, half just after something happened to a name or a file began or ended."""
    numbers = range(first, len(kinds))
    names = [i for i in numbers if kinds[i] not in (powercut.WRITE, powercut.SYNC)]
    near = {min(i + rng.randint(0, 4), len(kinds) - 1) for i in rng.choices(names, k=count // 2)} if names else set()
    while len(near) < min(count, len(numbers)):
        near.add(rng.choice(numbers))
    return sorted(near)


def main():
    o = parse()
    lib.need_programs()
    if lib.SANITIZED:
        lib.skip("a preloaded shim does not go before a sanitizer's runtime")
    if not SHIM.exists():
        lib.skip("powercut.so is not built")
    seed = lib.seed_of(o.seed)
    shm = pathlib.Path("/dev/shm")
    base = lib.scratch("powercut", str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 4 << 30 else None)
    server, log, first_ns = workload(base, seed)
    record = base / "record" / "ops.bin"
    kinds, first = [], 0
    for r in powercut.read_records(record):
        kinds.append(r[1])
        first += r[0] < first_ns
    rng = random.Random(seed ^ 0x70636375)
    points = cut_points(rng, kinds, first, o.cuts)
    print(f"records={len(kinds)} of which before the first request={first} bytes={record.stat().st_size} cuts={len(points)}",
          flush=True)

    cutter, disk, at, sums, judged = Cutter(base, server, log, seed), powercut.Disk(), 0, {}, []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for i, r in enumerate(powercut.read_records(record)):
            while at < len(points) and points[at] == i:
                if o.only is None or o.only == at:
                    while sum(not j.done() for j in judged) >= 4:
                        time.sleep(0.01)
                    judged.append(pool.submit(cutter.judge, at, *cutter.prepare(disk, at, r[0])))
                at += 1
            disk.play(r)
        for j in judged:
            for name, value in j.result().items():
                sums[name] = sums.get(name, 0) + value
    print(f"record: {disk.counts}")
    print(f"cuts={len(judged)} with names undone={cutter.totals['names_dropped']} files cut short={cutter.totals['short']} "
          f"writes torn={cutter.totals['torn']}")
    print(f"checked: names={sums.get('names', 0)} bytes={sums.get('bytes', 0)} unanswered={sums.get('pending', 0)} "
          f"of which done={sums.get('applied', 0)} lost={sums.get('lost', 0)} torn={sums.get('torn', 0)}")
    for index, text in cutter.failures[:5]:
        print(f"FAIL cut {index} (after record {points[index]}): {text}")
    if cutter.failures or o.keep:
        lib.keep(base)
        print(f"directory kept: {base}; seed={seed}")
    print(f"{'FAIL' if cutter.failures else 'ok'} seed={seed} cuts={len(judged)} failed={len(cutter.failures)}")
    return 1 if cutter.failures else 0


if __name__ == "__main__":
    lib.run(main)
