# SPDX-License-Identifier: Apache-2.0
"""Rows of training loops in Python: how long they wait, when the first batch comes, how well a network learns."""
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

from folder_rows import PYTHON, have_torch
from train_loop import CLASSES, idx

LOOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_loop.py")
FASHION = "/usr/share/datasets/fashion-mnist"
SEEDS, EPOCHS = 10, 3
STUDENT_95 = 1.8331  # of 9 degrees of freedom, one side
BLOCK, WINDOW, WINDOWS = 4, 256, 50  # samples, blocks; so many windows are all of the data
LOAD = 0.9  # of what the loop can take without a step


class Train:
    def __init__(self, run, sh, build, bucket):
        self.run, self.sh, self.build, self.bucket = run, sh, build, bucket

    def loop(self, *args, runtime=None):
        env = dict(os.environ, PYTHONPATH=os.path.join(self.build, "python"), GRANARY_QUIET="1")
        if runtime:
            env["XDG_RUNTIME_DIR"] = runtime
        p = subprocess.run([PYTHON, LOOP, *map(str, args)], capture_output=True, text=True, env=env, timeout=1200, check=False)
        if p.returncode != 0:
            raise RuntimeError(f"train_loop.py {args[0]}: {(p.stderr.strip() or p.stdout)[-600:]}")
        return json.loads(p.stdout.strip().split("\n")[-1])

    def stall(self):
        """Samples of 112 KiB from the server's cache; the capacity is measured before each loop with steps, which last so
        long that with no waiting at all the loop would take 90 % of it."""
        s = self.run.server()
        self.run.have(s, "s112k", self.run.big, 114688)
        snapshot, batch, seconds = self.run.snapshot(s, "s112k"), 64, 5 * self.run.seconds
        s.client("stream", snapshot, "blocks", batch, 1, 0)  # a whole epoch

        def loop():
            args = ("stall", f"{s.url}/{snapshot}", s.credentials, "blocks", batch)
            free = self.loop(*args, 0, 2)
            r = self.loop(*args, batch / (LOAD * free["per_s"]), seconds)
            print(f"# stall: {free['per_s']:,.0f} samples/s without steps; {r['batches']} steps of {r['mean_step'] * 1e3:.2f} ms: "
                  f"waited {r['wait_s'] / r['seconds']:.4f} of the time, the longest {r['worst'] * 1e3:.2f} ms", file=sys.stderr)
            return r

        results, = self.run.interleave(loop)
        self.run.row("stall", [r["wait_s"] / r["seconds"] for r in results], None, "of the time")
        self.run.row("stall-p999", [r["p999"] / r["mean_step"] for r in results], None, "steps")

    def first_batch(self):
        """A node that has no page of the snapshot of 10,000,000 samples, 8 workers; the import of torch is part of it."""
        if not have_torch():
            print("py-first-batch: skipped, torch is not installed (tools/deps --torch)")
            return
        s = self.run.have_long()
        snapshot = self.run.snapshot(s, "s1k", "--mode", "blocks")

        def first():
            with tempfile.TemporaryDirectory(dir="/dev/shm") as runtime:
                began = time.monotonic()
                r = self.loop("first", f"{s.url}/{snapshot}", s.credentials, 256, 8, runtime=runtime)
            print(f"# py-first-batch: torch imported after {r['imported'] - began:.2f} s, first batch after "
                  f"{r['first'] - began:.2f} s", file=sys.stderr)
            return r["first"] - began

        results, = self.run.interleave(first)
        self.run.row("py-first-batch", results, None, "s")

    # ---- accuracy ----

    def fashion(self):
        """Raw images of Fashion-MNIST in class folders, imported class after class: an address with a window of a 50th."""
        count = BLOCK * WINDOW * WINDOWS // len(CLASSES)
        folder = os.path.join(self.run.o.dir, "fashion")
        if not os.path.exists(folder + ".made"):
            images = idx(os.path.join(FASHION, "train-images-idx3-ubyte.gz"))
            labels = idx(os.path.join(FASHION, "train-labels-idx1-ubyte.gz"))
            for number, name in enumerate(CLASSES):
                os.makedirs(os.path.join(folder, name), exist_ok=True)
                for i in [i for i, label in enumerate(labels) if label == number][:count]:
                    with open(os.path.join(folder, name, f"{i:05}.raw"), "wb") as f:
                        f.write(images[i].tobytes())
            open(folder + ".made", "w", encoding="ascii").close()
        s = self.run.server("fashion", data="fashion-store")
        s.granary("import", folder, f"{s.url}/{self.bucket}/fashion", "--quiet")
        options = ("--block", BLOCK, "--window", WINDOW, "--lanes", "1")
        return s, self.run.snapshot(s, "fashion", *map(str, options))

    def accuracy(self):
        """51,200 images; the limit is what may be lost, in points: the row's value is the upper 95 % bound of the mean loss."""
        if not have_torch() or not os.path.exists(FASHION):
            print("accuracy: skipped, torch or dataset-fashion-mnist is not installed (tools/deps --torch)")
            return
        s, snapshot = self.fashion()
        r = self.loop("accuracy", f"{s.url}/{snapshot}", s.credentials, FASHION, EPOCHS, SEEDS)
        loss = [exact - blocks for exact, blocks in zip(r["exact"], r["blocks"])]
        mean, spread = statistics.mean(loss), statistics.stdev(loss)
        print(f"# accuracy: exact {statistics.mean(r['exact']):.2f} %, blocks {statistics.mean(r['blocks']):.2f} %, loss "
              f"{mean:.3f} points, deviation {spread:.3f}", file=sys.stderr)
        self.run.row("accuracy", [mean + STUDENT_95 * spread / math.sqrt(SEEDS)], None, "points lost")
