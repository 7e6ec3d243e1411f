#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: ranks of a node that share a dp_rank get equal batches which are read once; when the one that reads ends early, is
killed or stands, the others go on with exactly the batches that follow; what one writes into its batch no other sees."""
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

import granary_case
from granary_case import Case, granary, ids_of
from granary import replicate

RANK = """
import json, os, sys, time, granary
url, credentials, out, options, act = sys.argv[1:6]
options, act = json.loads(options), json.loads(act)
ds = granary.IterableDataset(url, credentials=credentials, **options)
rows = []
for number, batch in enumerate(ds if not act.get("workers") else granary.DataLoader(ds, num_workers=act["workers"])):
    rows.append(list(batch.ids))
    text = b"".join(map(bytes, batch))
    for i, key in enumerate(batch.keys()):
        assert len(batch[i]) == len(open(os.path.join(out, "files", key.replace("/", "_")), "rb").read())
        assert bytes(batch[i]) == open(os.path.join(out, "files", key.replace("/", "_")), "rb").read(), key
        batch[i][:] = bytes(len(batch[i]))
    if number + 1 == act.get("stop_after"):
        os._exit(0)
    if number + 1 == act.get("kill_after"):
        os.kill(os.getpid(), 9)
    time.sleep(act.get("pause", 0))
print(json.dumps({"rows": rows, "received": ds.place.client().info()["bytes_received"]}))
"""


class Replicate(Case):
    SAMPLES = 400

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.base / "files").mkdir()
        for key, data in cls.files.items():
            (cls.base / "files" / key.replace("/", "_")).write_bytes(data)
        cls.total = sum(map(len, cls.files.values()))

    def ranks(self, acts, **options):
        """What each rank printed; None of one that was ended."""
        options = {"shuffle": "exact", "seed": 5, "batch_size": 8, **options}
        processes = [granary_case.crash_lib.spawn(
            [sys.executable, "-c", RANK, self.v1, self.login["credentials"], self.base, json.dumps(options), json.dumps(act)],
            env={**os.environ, "GRANARY_QUIET": "1", "RANK": str(i), "WORLD_SIZE": str(len(acts))}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True) for i, act in enumerate(acts)]
        out = []
        for process, act in zip(processes, acts):
            text, errors = process.communicate(timeout=240)
            if "kill_after" in act or "stop_after" in act:
                out.append(None)
                continue
            self.assertEqual((process.returncode, errors[-2000:]), (0, ""), errors)
            out.append(json.loads(text))
        return out

    def whole(self, **options):
        return [list(b.ids) for b in self.stream(shuffle="exact", seed=5, batch_size=8, **options)]

    def test_read_once(self):
        """By the bytes that each process has received from the server."""
        for size in (2, 4):
            ranks = self.ranks([{"pause": 0.02}] * size, replicate=size)
            for rank in ranks:
                self.assertEqual(rank["rows"], self.whole())
            received = sorted(rank["received"] for rank in ranks)
            self.assertGreater(received[-1], self.total)
            self.assertLess(sum(received), 1.5 * received[-1], "one of them read, the others nearly nothing")

    def test_two_groups(self):
        """replicate=2 of 4 ranks: each pair one half of the epoch."""
        ranks = self.ranks([{"pause": 0.01}] * 4, replicate=2)
        self.assertEqual((ranks[0]["rows"], ranks[2]["rows"]), (ranks[1]["rows"], ranks[3]["rows"]))
        self.assertEqual(ranks[0]["rows"], self.whole(dp_rank=0, dp_size=2))
        self.assertEqual(ranks[2]["rows"], self.whole(dp_rank=1, dp_size=2))

    def test_reader_ends(self):
        """Whoever reads may stop, be killed or be slow: the other one has the whole epoch all the same."""
        for act in ({"stop_after": 9}, {"kill_after": 20}, {"pause": 0.05}):
            for first in (True, False):
                acts = [act, {"pause": 0.005}]
                ranks = self.ranks(acts if first else acts[::-1], replicate=2)
                for rank in ranks:
                    if rank is not None:
                        self.assertEqual(rank["rows"], self.whole(), act)

    def test_in_one_process(self):
        """Threads of one process; the one that does not take its batches does not hold the other one up."""
        for slow in (False, True):
            one = iter(self.stream(shuffle="exact", seed=6, batch_size=8, dp_rank=0, dp_size=1, replicate=2))
            two = iter(self.stream(shuffle="exact", seed=6, batch_size=8, dp_rank=0, dp_size=1, replicate=2))
            first = next(one)
            if slow:
                rest = list(two)
                self.assertEqual(ids_of([first]) + ids_of(one), ids_of(rest))
            else:
                pairs = [(tuple(first.ids), tuple(next(two).ids))] + [(tuple(a.ids), tuple(b.ids)) for a, b in zip(one, two)]
                self.assertTrue(all(a == b for a, b in pairs))
                self.assertEqual(len(pairs), 50)
                self.assertIsInstance(two.native, replicate.Member)
                self.assertIsNone(two.native.native, "it opened nothing itself")
                self.assertEqual(two.info()["bytes_fetched"], 0)
                self.assertEqual(two.info()["samples_read"], 400 - 8 + 8)
            del one, two, first
            gc.collect()
        self.settled()

    def settled(self):
        """Threads and descriptors of what was shared go when the streams go."""
        for _ in range(2000):
            left = [t.name for t in threading.enumerate() if t.name.startswith("granary-repl")]
            if not left:
                return
            time.sleep(0.01)
        self.fail(f"threads that stay: {left}")

    def test_nothing_stays(self):
        for _ in range(3):
            for batch in self.stream(dp_rank=0, dp_size=1, replicate=2):
                pass
        del batch
        gc.collect()
        self.settled()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            stream = iter(self.stream(dp_rank=0, dp_size=1, replicate=3))
            next(stream), next(stream)
            del stream
        gc.collect()
        self.settled()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), descriptors)

    def test_stopped_reader(self):
        """One that does not answer within the stall timeout is left."""
        code = RANK.replace("rows.append", "print(number, flush=True); rows.append")
        options = {"shuffle": "exact", "seed": 7, "batch_size": 8, "replicate": 2}
        reader = granary_case.crash_lib.spawn(
            [sys.executable, "-c", code, self.v1, self.login["credentials"], self.base, json.dumps(options),
             json.dumps({"pause": 600})], env={**os.environ, "GRANARY_QUIET": "1", "RANK": "0", "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE, text=True)
        self.assertEqual(reader.stdout.readline(), "0\n")
        two = iter(self.stream(shuffle="exact", seed=7, batch_size=8, dp_rank=0, dp_size=1, replicate=2, stall_timeout=1))
        # ours names what the other process takes from its environment: the same rank, so they meet
        rows = [list(next(two).ids)]
        self.assertIsInstance(two.native, replicate.Member)
        reader.send_signal(signal.SIGSTOP)
        rows += [list(b.ids) for b in two]
        reader.kill()
        reader.wait()
        reader.stdout.close()
        self.assertEqual(rows, [list(b.ids) for b in self.stream(shuffle="exact", seed=7, batch_size=8)])

    def test_workers(self):
        try:
            import torch  # noqa: F401  pylint: disable=unused-import
        except ImportError:
            raise unittest.SkipTest("torch is not installed: tools/deps --torch") from None
        ranks = self.ranks([{"pause": 0.01}] * 2, replicate=2)
        code = "import torch\n"
        globals()["RANK"] = code + RANK
        try:
            both = self.ranks([{"workers": 2}] * 2, replicate=2)
        finally:
            globals()["RANK"] = RANK[len(code):]
        self.assertEqual([r["rows"] for r in both], [r["rows"] for r in ranks])


if __name__ == "__main__":
    granary_case.main()
