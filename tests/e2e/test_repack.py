#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a repacked snapshot is the same snapshot -- samples, names, order, identity, tokens and recipes -- in packs that it
alone holds, whatever moment the server is killed at. Method: snapshots of files, groups and lines, of which most files are
then deleted or overwritten; epochs before and after are compared; kill -9 at random moments of repacking.
"""
import os
import random
import subprocess
import sys
import time

from crash_lib import BRIEF, Server, fsck, need_programs, scratch, seed_of
from test_split import stream
from test_stream import Command, check, ids_of, ranks

FILES = 300 if BRIEF else 600
KILLS = 3 if BRIEF else 6


def make_files(folder, rng):
    for i in range(FILES):
        path = folder / f"d{i % 9}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"s{i:05d}.bin").write_bytes(rng.randbytes(0 if i % 50 == 3 else rng.randrange(1, 20000)))
        (path / f"s{i:05d}.cls").write_bytes(b"%d" % (i % 9))
    (folder / "large.bin").write_bytes(rng.randbytes((9 << 20) + 5))
    (folder / "text.jsonl").write_bytes(b"".join(b'{"n": %d, "x": "%s"}\n' % (i, b"y" * rng.randrange(300)) for i in range(20000)))


SNAPSHOTS = {
    "all": ("--prefix", "src/"),
    "group": ("--prefix", "src/d", "--group", "basename"),
    "lines": ("--prefix", "src/", "--split", "lines", "--include", "*.jsonl"),
}


def epoch_of(cmd, name):
    rows, token = ranks(cmd, f"data@{name}", 3, 16, "--seed", 4)
    return [r for r in rows], token


def half(cmd, name):
    """The first steps of an epoch, and the token behind them."""
    rows, token = ranks(cmd, f"data@{name}", 2, 8, "--seed", 6, "--batches", 5)
    return ids_of(rows), token


def test_same(cmd, server):
    for name, args in SNAPSHOTS.items():
        cmd.run("snapshot", "create", f"data@{name}", *args)
    recipe = server.base / "mix.json"
    recipe.write_text('{"samples": 500, "sources": [{"snapshot": "data@all", "weight": 2}, {"snapshot": "data@lines", "weight": 1}]}')
    cmd.run("recipe", "create", "data@mix", "-f", recipe)
    mixed = cmd.run("stream", "data@mix", "--ids", "-q", "--seed", 1).stdout
    before = {n: (stream(cmd, f"data@{n}"), epoch_of(cmd, n), half(cmd, n), cmd.json("snapshot", "show", f"data@{n}")[0])
              for n in SNAPSHOTS}
    cmd.run("rm", "-r", "--yes", f"{server.url}/data/src/d1", f"{server.url}/data/src/d3", f"{server.url}/data/src/text.jsonl")
    for name in SNAPSHOTS:
        said = cmd.json("snapshot", "repack", f"data@{name}")[0]
        check(said["bytes_alone"] >= said["bytes"], f"{name}: not all that it holds is its own: {said}")
    for turn in range(2):
        for name, (bytes_, epoch, (first, token), shown) in before.items():
            check(stream(cmd, f"data@{name}") == bytes_, f"{name}: other bytes after repacking")
            check(epoch_of(cmd, name) == epoch, f"{name}: another order or token after repacking")
            rest, _ = ranks(cmd, f"data@{name}", 3, 8, token=token)
            check(sorted(first + ids_of(rest)) == list(range(shown["samples"])), f"{name}: an old token does not go on")
            now = cmd.json("snapshot", "show", f"data@{name}")[0]
            for changes in ("pages", "names_pages", "created"):  # created: of store time, told by the wall clock
                now.pop(changes)
            check(all(shown[k] == v for k, v in now.items()), f"{name}: show says {now}, before {shown}")
            cmd.run("snapshot", "verify", f"data@{name}")
            check(not cmd.json("snapshot", "diff", f"data@{name}", f"data@{name}"), f"{name}: differs from itself")
        check(cmd.run("stream", "data@mix", "--ids", "-q", "--seed", 1).stdout == mixed, "a recipe gives other samples")
        server.kill()
        server.start()
    cmd.run("check", server.url)
    return before


def test_in_use(cmd):
    p = cmd.start("stream", "data@all", "--job", "night", "--batch", "2", "--tar")  # blocks on its pipe
    p.stdout.read(1)
    for _ in range(100):
        if any(j["job"] == "night" for j in cmd.json("jobs")):
            break
        time.sleep(0.1)
    said = cmd.run("snapshot", "repack", "data@all", code=1).stderr
    check(b"night" in said, f"the job is not named: {said}")
    cmd.run("snapshot", "repack", "data@all", "--force")
    p.kill()
    p.wait()


def test_kills(cmd, server, before, rng):
    for i in range(KILLS):
        name = rng.choice(list(SNAPSHOTS))
        p = cmd.start("snapshot", "repack", f"data@{name}", "--force")
        time.sleep(rng.random() * 0.4)
        server.kill()
        p.kill()
        p.communicate()
        server.start()
        check(stream(cmd, f"data@{name}") == before[name][0], f"kill {i}: {name} has other bytes")
        check(epoch_of(cmd, name) == before[name][1], f"kill {i}: {name} has another order")
    cmd.run("check", server.url)


def main():
    need_programs()
    rng = random.Random(seed_of())
    base = scratch("repack")
    make_files(base / "src", rng)
    server = Server(base)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    cmd.run("import", base / "src", f"{server.url}/data/src")
    before = test_same(cmd, server)
    test_in_use(cmd)
    test_kills(cmd, server, before, rng)
    cmd.run("recipe", "rm", "data@mix", "--yes")
    for name in SNAPSHOTS:
        cmd.run("snapshot", "rm", f"data@{name}", "--force", "--yes")
    check(cmd.json("snapshot", "ls", "data") == [], "snapshots that were removed are listed")
    server.stop()
    code, text = fsck(server.packs())
    check(code == 0, f"granary-fsck finds damage: {text[-800:]}")
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
