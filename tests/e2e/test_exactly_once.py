#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: over all ranks every sample of an epoch comes exactly once, at the step and row that docs/ORDER.md says, with batch
counts equal on all ranks, whatever the number of ranks, batch, mode, `last`, resumes with other worlds, ranks that are
killed and kills of the server; of snapshots and of recipes. Method: random cases, real processes, against the second
implementation of test_order.py; tokens, too, are made by a second implementation (docs/ORDER.md 6).

  test_exactly_once.py [CASES]        (60; 1,000 with --long); GRANARY_TEST_SEED repeats a run, GRANARY_CASE one case of it
"""
import base64
import json
import os
import random
import struct
import subprocess
import sys
import time

from crash_lib import BRIEF, GRANARY, LONG, Server, need_programs, scratch, seed_of
from granary_wire import crc32c
from stream_lib import Command, check, rows_of
from test_order import BLOCKS, EXACT, NONE, Mix, Order

MODES = {"exact": EXACT, "blocks": BLOCKS, "none": NONE}
JOBS = ("first", "second", "third")
BORDERS = (12, 60, 84, 210, 360)  # multiples of many worlds times batches; with one more and one less


class Source:
    """A snapshot or a recipe, and what the text says of it."""

    def __init__(self, cmd, name, recipe=None):
        self.name, self.recipe = f"data@{name}", recipe
        s = self.shown = cmd.json("recipe" if recipe else "snapshot", "show", self.name)[0]
        self.samples, self.shape = s["samples"], (s["block"], s["window"], s["lanes"])
        self.text = json.loads(s["text"]) if recipe else None
        self.models = {}

    def model(self, mode, seed, epoch):
        """position -> what --ids prints."""
        n, G, L = self.shape
        if not self.recipe:
            return Order(MODES[mode], self.samples, n, G, L, seed, epoch).at
        sources = [(count, s.get("weight", 0), s.get("repeat", 0)) for count, s in zip(self.recipe, self.text["sources"])]
        stages = [(s["from"], s["weights"]) for s in self.text.get("stages", [])]
        mix = Mix(MODES[mode], self.text.get("samples", 0), n, G, L, seed, epoch, sources, stages)
        check(mix.N == self.samples, f"{self.name}: {self.samples} samples, the model has {mix.N}")
        return lambda p: (mix.at(p)[0], mix.at(p)[2])

    def token(self, mode, seed, epoch, position):
        n, G, L = self.shape
        high, low = int(self.shown["id"][:16], 16), int(self.shown["id"][16:], 16)
        head = struct.pack("<BBBBIQQQQQQ", 1, MODES[mode], n.bit_length() - 1, 1 if self.recipe else 0, L, low, high, G, seed,
                           epoch, position)
        return base64.urlsafe_b64encode(head + struct.pack("<I", crc32c(head))).decode().rstrip("=")


def make_sources(cmd, base, rng):
    """Snapshots at the borders, with small blocks, windows and odd lanes; recipes of all kinds over them."""
    folder, sources, counts = base / "src", [], {}
    folder.mkdir()
    made = 0
    for size in sorted({1, 2, 7} | {b + d for b in BORDERS for d in (-1, 0, 1)}):
        while made < size:
            (folder / f"f{made:04d}").write_bytes(rng.randbytes(rng.randrange(0, 2500)))
            made += 1
        cmd.run("import", folder, f"{cmd.server.url}/data/t")
        lanes = rng.choice([k for k in (1, 2, 3, 4, 5, 12) if k <= size])
        name = f"n{size}"
        cmd.run("snapshot", "create", f"data@{name}", "--prefix", "t/", "--lanes", lanes, "--block", rng.choice([1, 2, 4, 8]),
                "--window", rng.choice([1, 2, 3, 50]))
        sources.append(Source(cmd, name))
        counts[name] = size
    for i in range(10):
        kind = ("weights", "stages", "repeat", "both")[i % 4]
        parts = rng.sample([n for n in counts if counts[n] >= 59], rng.choice([1, 2, 3]))
        text = {"sources": [{"snapshot": f"data@{n}"} for n in parts], "lanes": rng.choice([1, 2, 3, 6]),
                "block": rng.choice([1, 2, 4]), "window": rng.choice([1, 2, 30])}
        fixed = 0
        for k, part in enumerate(text["sources"]):
            if kind == "weights" or kind == "both" and k > 0:
                part["weight"] = rng.choice([1, 2, 3, 10])
            elif kind != "stages":
                part["repeat"] = rng.choice([1, 2, 3])
                fixed += part["repeat"] * counts[parts[k]]
        if kind == "both" and len(parts) == 1 or kind == "repeat":
            pass
        else:
            text["samples"] = fixed + rng.choice([59, 60, 61, 211, 420])
        if kind == "stages":
            starts = [0] + sorted(rng.sample(range(1, text["samples"]), 2))
            text["stages"] = [{"from": s, "weights": [rng.choice([0, 1, 4]) for _ in parts[1:]] + [rng.randrange(1, 6)]}
                              for s in starts]
        name = f"{kind}{i}"
        cmd.run("recipe", "create", f"data@{name}", "--file", "-", text=json.dumps(text))
        sources.append(Source(cmd, name, recipe=[counts[n] for n in parts]))
    return sources


class Case:
    def __init__(self, cmd, source, rng, number):
        self.cmd, self.source, self.rng, self.number = cmd, source, rng, number
        self.mode = rng.choice(("exact", "blocks", "blocks", "none"))
        self.last = rng.choice(("pad", "drop", "keep"))
        self.seed, self.epoch = rng.getrandbits(rng.choice([1, 64])), rng.randrange(4)
        self.at = source.model(self.mode, self.seed, self.epoch)
        self.seen = {}  # position -> how often
        self.what = f"case {number}: {source.name} {self.mode} {self.last}"

    def start(self, position, world, batch, more):
        N = self.source.samples
        args = ["stream", self.source.name, "--world", world, "--batch", batch, "--ids", "--json", "--last", self.last]
        if position == 0:
            args += ["--mode", self.mode, "--seed", self.seed, "--epoch", self.epoch]
        else:
            args += ["--resume", self.source.token(self.mode, self.seed, self.epoch, min(position, N))]
        if self.rng.randrange(4) == 0:
            args += ["--memory", "1MiB", "--read-ahead", "1"]
        if self.number % 5 == 0:
            args += ["--job", JOBS[self.number % len(JOBS)]]
        return [self.cmd.start(*map(str, args + more), "--rank", str(r)) for r in range(world)]

    def batches(self, position, world, batch, rank):
        """4.2: of one rank, from a position to the end."""
        left, whole = self.source.samples - position, world * batch
        if self.last == "pad":
            return -(-left // whole)
        if self.last == "drop":
            return left // whole
        offset = (rank - position) % world
        own = (left - offset + world - 1) // world if left > offset else 0
        return -(-own // batch)

    def check_rank(self, rows, position, world, batch, rank, count):
        N, o = self.source.samples, (rank - position) % world
        check(len(rows) == count, f"{self.what}: rank {rank} of {world} from {position}: {len(rows)} batches, not {count}")
        for k, (start, row) in enumerate(rows):
            check(start == position + k * world * batch, f"{self.what}: batch {k} begins at {start}")
            for i, (got, flags) in enumerate(row):
                p = start + i * world + o
                check(flags == ("p" if p >= N else ""), f"{self.what}: position {p} of {N} is marked '{flags}'")
                want = self.at(p % N)
                check(got == want, f"{self.what}: rank {rank} of {world}, position {p}: {got}, the text says {want}")
                if p < N:
                    self.seen[p] = self.seen.get(p, 0) + 1
            full = batch if self.last != "keep" else min(batch, max(0, -(-(N - start - o) // world)))
            check(len(row) == full, f"{self.what}: batch {k} of rank {rank} has {len(row)} rows, not {full}")

    def finish(self, running, position, world, batch, limit):
        """Takes what the ranks print to their end; gives where to go on, which they all say alike."""
        tokens = set()
        for rank, p in enumerate(running):
            out, err = p.communicate(timeout=300)
            check(p.returncode == 0, f"{self.what}: rank {rank} of {world}: exit code {p.returncode}: {err.decode()[-500:]}")
            count = self.batches(position, world, batch, rank)
            self.check_rank(rows_of(out.decode()), position, world, batch, rank, min(count, limit))
            tokens.add(json.loads(err.decode().splitlines()[-1])["token"])
        end = min(self.source.samples, position + limit * world * batch)
        if self.last != "keep":
            whole = self.batches(position, world, batch, 0)
            end = min(self.source.samples, position + min(limit, whole) * world * batch)
            check(tokens == {self.source.token(self.mode, self.seed, self.epoch, end)}, f"{self.what}: tokens {tokens}")
        return end

    def segment(self, position, world, batch):
        """Some batches of all ranks; how the segment ends is a matter of chance."""
        most = (self.source.samples - position) // (world * batch)
        how = self.rng.choice(("stop", "stop", "rank", "server"))
        if self.number % 8 != 0 and how == "server":
            how = "stop"  # a restart takes longer than a case
        limit = self.rng.randrange(0, most + 1)
        if limit == 0:
            return position
        running = self.start(position, world, batch, ["--batches", str(limit)] if how != "rank" else [])
        if how == "server":
            time.sleep(self.rng.random() / 30)
            self.cmd.server.kill()
            self.cmd.server.start()
        if how != "rank":
            return self.finish(running, position, world, batch, limit)
        lines = [[p.stdout.readline() for _ in range(limit)] for p in running]  # a checkpoint is behind these
        for p, got in zip(running, lines):
            check(all(got), f"{self.what}: a rank ended early: {got} {p.stderr.read() if not all(got) else 0}")
        running[self.rng.randrange(world)].kill()
        for rank, p in enumerate(running):
            p.terminate()
            p.communicate()
            self.check_rank(rows_of(b"".join(lines[rank]).decode()), position, world, batch, rank, limit)
        return position + limit * world * batch

    def run(self):
        position, rng = 0, self.rng
        for _ in range(rng.randrange(3)):
            world = rng.randrange(1, 8)
            position = self.segment(position, world, self.batch_for(world, position))
        world = rng.randrange(1, 8)
        batch = self.batch_for(world, position)
        counts = {self.batches(position, world, batch, r) for r in range(world)}
        check(self.last == "keep" or len(counts) == 1, f"{self.what}: batch counts {counts}")
        self.finish(self.start(position, world, batch, []), position, world, batch, 1 << 62)
        N, whole = self.source.samples, world * batch
        dropped = (N - position) % whole if self.last == "drop" else 0
        check(sorted(self.seen) == list(range(N - dropped)) and set(self.seen.values()) <= {1},
              f"{self.what}: {len(self.seen)} positions of {N}, {dropped} dropped; some more than once: "
              f"{[p for p, n in self.seen.items() if n > 1][:5]}")

    def batch_for(self, world, position):
        """Often one that divides what is left, or misses it by one."""
        left = max(1, self.source.samples - position)
        if self.rng.randrange(2):
            near = left + self.rng.choice((-1, 0, 1))
            fits = [b for b in range(1, 65) if near % (world * b) == 0]
            if fits:
                return self.rng.choice(fits)
        return self.rng.randrange(1, 1 + min(64, max(1, left)))


def test_provenance(cmd):
    """Whatever became of the ranks: what is on record of them is what was given."""
    for job in JOBS:
        for line in cmd.json("provenance", job, "--verify"):
            check(line["verdict"] == "verified", f"the log of '{job}': {line}")


def test_keep_warns(cmd):
    said = cmd.run("stream", "data@n60", "--last", "keep", "--world", "2").stderr.decode()
    check("warning" in said, f"last = keep with 2 ranks does not warn: {said}")
    said = cmd.run("stream", "data@n60", "--last", "keep").stderr.decode()
    check("warning" not in said, f"last = keep with 1 rank warns: {said}")


def test_tokens(cmd, sources):
    """Of a later version, truncated, any bit flipped, of another source, past the end."""
    source = next(s for s in sources if s.name == "data@n84")
    token = source.token("exact", 5, 0, 17)
    raw = bytearray(base64.urlsafe_b64decode(token))
    refused = lambda data, word: cmd.refused(  # noqa: E731
        "stream", source.name, "--resume", base64.urlsafe_b64encode(bytes(data)).decode().rstrip("="), word=word)
    later = bytearray(raw[:56])
    later[0] = 2
    refused(later + struct.pack("<I", crc32c(later)), "version")
    refused(later + b"abcd" + struct.pack("<I", crc32c(later + b"abcd")), "version")
    for length in (0, 1, 4, 30, 59):
        if length:
            refused(raw[:length], "oken")
    for bit in random.Random(1).sample(range(480), 24):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(damaged, "oken")
    for other in (s for s in sources if s.name in ("data@n60", "data@weights0")):
        cmd.refused("stream", other.name, "--resume", token, word="oken")
    cmd.refused("stream", source.name, "--resume", source.token("exact", 5, 0, 85), word="oken")
    end = cmd.json("stream", source.name, "--resume", source.token("exact", 5, 0, 84))[0]
    check(end["samples"] == 0 and end["batches"] == 0, f"a token of the end gives {end}")
    for args in (("--world", "0"), ("--rank", "3", "--world", "3"), ("--rank", "9", "--world", "3"), ("--batch", "0"),
                 ("--batch", "4097"), ("--world", "65537"), ("--seed", "x"), ("--weight", "0")):
        p = subprocess.run([str(GRANARY), "stream", source.name, *args], env=cmd.env, capture_output=True)
        check(p.returncode == 2 and p.stderr, f"{args}: exit code {p.returncode}: {p.stderr[-200:]}")


def main():
    need_programs()
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 1000 if LONG else 20 if BRIEF else 60
    seed = seed_of()
    rng = random.Random(seed)
    server = Server(scratch("once"), settings={"local-reads": "on"})
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    sources = make_sources(cmd, server.base, rng)
    test_keep_warns(cmd)
    test_tokens(cmd, sources)
    only = os.environ.get("GRANARY_CASE")
    for number in [int(only)] if only else range(cases):
        one = random.Random(f"{seed}/{number}")
        Case(cmd, one.choice(sources), one, number).run()
    if not only:
        test_provenance(cmd)
    server.kill()
    print(f"cases={cases}")


if __name__ == "__main__":
    sys.exit(main())
