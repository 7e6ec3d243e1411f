#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: an epoch of a recipe in `blocks` is read as one of a snapshot is: whole blocks in few requests where a rank owns its
lanes, own samples of blocks that the server reads once where ranks share them; of a source that the epoch takes a part of,
that part. Method: bytes that the server read and sent over bytes delivered, of one snapshot and of recipes of the same data,
from servers that have just started; and every byte of every sample, against the model."""
import hashlib
import io
import json
import random
import sys
import tarfile

from crash_lib import Server, need_programs, scratch, seed_of
from stream_lib import Command, check

SOURCES = {"a": 12000, "b": 8000, "c": 4000}
SHAPE = {"block": 256, "window": 2, "lanes": 6}


def make_files(folder, rng):
    """Each begins with its key; bytes by key."""
    made = {}
    for name, count in SOURCES.items():
        for i in range(count):
            path = folder / name / f"{i % 20:02d}" / f"f{i:05d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = rng.randbytes(rng.randrange(300, 520))
            path.write_bytes(data)
            made[f"train/{path.relative_to(folder)}"] = hashlib.sha256(data).digest()
    return made


class Epoch:
    """All ranks at once, of a server that has just started: what came, and what it took, over what was delivered."""

    def __init__(self, cmd, name, world, *more):
        cmd.server.kill()
        cmd.server.start()
        before = json.loads(cmd.server.status())
        running = [cmd.start("stream", name, "--mode", "blocks", "--rank", str(r), "--world", str(world), "--seed", "3",
                             "--job", f"w{world}", "--tar", "-q", *map(str, more)) for r in range(world)]
        self.files, size = {}, 0
        for p in running:
            out, err = p.communicate(timeout=300)
            check(p.returncode == 0, f"{name}: a rank of {world}: {err.decode()[-400:]}")
            for member, data in members(out):
                self.files.setdefault(member, []).append(hashlib.sha256(data).digest())
                size += len(data)
        after = json.loads(cmd.server.status())
        grown = [after[k] - before[k] for k in ("disk_bytes_read", "bytes_out_range", "entries_range")]
        self.samples = sum(map(len, self.files.values()))
        self.disk, self.net, self.ranges = grown[0] / size, grown[1] / size, grown[2] / self.samples
        self.what = f"{name}, {world} ranks: {self.samples} samples, disk {self.disk:.3f}, net {self.net:.3f}, " \
                    f"{self.ranges:.3f} ranges a sample, {after['shares_dropped']} shares dropped"
        print(self.what)


def members(out):
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        for m in tar:
            if m.isfile():
                yield m.name, tar.extractfile(m).read()


def check_files(epoch, made, times):
    """Every file of these sources so many times, each with its bytes."""
    for key, digest in made.items():
        got = epoch.files.get(key, [])
        want = times(key.split("/")[1])
        check(want is None or len(got) == want, f"{epoch.what}: '{key}' came {len(got)} times, not {want}")
        check(all(g == digest for g in got), f"{epoch.what}: '{key}' has wrong bytes")


def recipe(cmd, name, sources, **more):
    cmd.run("recipe", "create", f"data@{name}", "-f", "-", text=json.dumps({"sources": sources, **SHAPE, **more}))


def test_near_a_snapshot(cmd, made):
    """All of each source once: as much is read, in as few ranges, as of a snapshot of all."""
    for world in (1, 3, 7):
        whole = Epoch(cmd, "data@all", world, "--last", "drop", "--batch", 1)
        mixed = Epoch(cmd, "data@once", world, "--last", "drop", "--batch", 1)
        owns = SHAPE["lanes"] % world == 0
        check(whole.ranges < (0.05 if owns else 1.1), f"the snapshot is read sample by sample: {whole.what}")
        check(mixed.ranges < whole.ranges * 1.25 + 0.01, f"{mixed.what}; {whole.what}")
        check(mixed.net < whole.net * 1.1, f"{mixed.what}; {whole.what}")
        if world == 1:
            check_files(mixed, made, lambda source: 1)


def test_passes_and_parts(cmd, made):
    """Passes after each other, a part of a pass, parts of snapshots, stages; in worlds where ranks share lanes too."""
    for world in (2, 7):
        check_files(Epoch(cmd, "data@repeats", world, "--batch", 1, "--last", "drop"), made,
                    {"a": None if world == 7 else 1, "b": None if world == 7 else 2, "c": None}.get)
        e = Epoch(cmd, "data@weights", world, "--batch", 10)
        check_files(e, made, lambda source: None)
        check(e.samples == 15000 and e.net < 1.6, e.what)
        check(sum(len(v) for k, v in e.files.items() if "/c/" in k) in range(4990, 5011), f"shares: {e.what}")
        e = Epoch(cmd, "data@stages", world, "--batch", 10, "--memory", "2MiB")
        check_files(e, made, lambda source: None)
        check(e.samples == 10500, e.what)


def main():
    need_programs()
    base = scratch("recipe-blocks")
    made = make_files(base / "src", random.Random(seed_of()))
    server = Server(base)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    cmd.run("import", base / "src", f"{server.url}/data/train")
    shape = [w for k, v in SHAPE.items() for w in (f"--{k}", v)]
    for name in SOURCES:
        cmd.run("snapshot", "create", f"data@{name}", "--prefix", f"train/{name}/", *shape)
    cmd.run("snapshot", "create", "data@all", "--prefix", "train/", *shape)
    recipe(cmd, "once", [{"snapshot": f"data@{name}", "repeat": 1} for name in SOURCES])
    recipe(cmd, "repeats", [{"snapshot": "data@a", "repeat": 1}, {"snapshot": "data@b", "repeat": 2},
                            {"snapshot": "data@c", "repeat": 3, "include": ["train/c/0*", "train/c/13/*"]}])
    recipe(cmd, "weights", [{"snapshot": "data@a", "weight": 1}, {"snapshot": "data@b", "weight": 1, "exclude": ["*/f*7"]},
                            {"snapshot": "data@c", "weight": 1}], samples=15000)
    recipe(cmd, "stages", [{"snapshot": f"data@{name}"} for name in SOURCES], samples=10500,
           stages=[{"from": 0, "weights": [1, 0, 0]}, {"from": 2500, "weights": [1, 3, 0]}, {"from": 7501, "weights": [0, 1, 5]}])
    test_near_a_snapshot(cmd, made)
    test_passes_and_parts(cmd, made)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
