#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a real granaryd and the granary command give every sample of a snapshot exactly once over all ranks, the bytes of
the source files, in an order that does not depend on the number of ranks, across stops, tokens and kill -9 of the server.
"""
import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile
import time

from crash_lib import GRANARY, BRIEF, Server, need_programs, scratch, seed_of
from stream_lib import Command, check, ids_of, ranks, rows_of, steps

FILES = 1499 if BRIEF else 3001
LONG_NAME = "d" * 60 + "/" + "n" * 80 + ".bin"  # longer than a plain tar header takes


def make_files(folder, rng):
    for i in range(FILES):
        path = folder / f"c{i // 97:03d}" / f"s{i:05d}.bin" if i else folder / LONG_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0 if i % 211 == 7 else rng.randrange(1, 12000)
        path.write_bytes(rng.randbytes(size))
    (folder / "large.bin").write_bytes(rng.randbytes(5 << 20))


def test_bytes(cmd, source):
    for mode in ("blocks", "exact", "none"):
        out = cmd.run("stream", "data@v1", "--mode", mode, "--tar", "-q", "--seed", 3).stdout
        found = {}
        with tarfile.open(fileobj=io.BytesIO(out)) as tar:
            for m in tar:
                if m.name.endswith("/") or m.isdir() or m.name == "train":
                    continue
                check(m.name not in found, f"{mode}: '{m.name}' came twice")
                found[m.name] = hashlib.sha256(tar.extractfile(m).read()).digest()
        expected = {f"train/{p.relative_to(source)}": hashlib.sha256(p.read_bytes()).digest()
                    for p in source.rglob("*") if p.is_file()}
        check(found == expected, f"{mode}: {len(found)} files, {len(expected)} were imported; names or bytes differ: "
              f"{sorted(set(found) ^ set(expected))[:3]}")


def test_worlds(cmd, samples):
    for mode in ("blocks", "exact"):
        first = None
        for world in range(1, 8):
            rows, _ = ranks(cmd, "data@v1", world, 17, "--mode", mode)
            check(sorted(ids_of(rows)) == list(range(samples)), f"{mode}, world {world}: not every sample once")
            check(len({len(r) for r in rows}) == 1, f"{mode}, world {world}: batch counts differ")
        for world in (1, 2, 3, 4, 6):
            rows, _ = ranks(cmd, "data@v1", world, 84 // world, "--mode", mode, "--seed", 5, "--epoch", 2)
            first = first or steps(rows)
            check(steps(rows) == first, f"{mode}, world {world}: a step has other samples than in a world of 1")


def test_resume(cmd, samples):
    got, token = [], None
    for world, batches in ((3, 7), (5, 6), (2, 9), (7, None)):
        more = ["--batches", batches] if batches else []
        rows, token = ranks(cmd, "data@v1", world, 11, "--seed", 9, *map(str, more), token=token)
        got += ids_of(rows)
    check(sorted(got) == list(range(samples)), "resumed three times, with other worlds: not every sample once")


def test_border_counts(cmd, source):
    """Batch counts are equal on all ranks for n*B-1, n*B, n*B+1 samples."""
    (source / "few").mkdir()
    for n in (59, 60, 61):
        while len(list((source / "few").iterdir())) < n:
            (source / "few" / f"f{len(list((source / 'few').iterdir())):03d}").write_bytes(os.urandom(500))
        cmd.run("import", source / "few", f"{cmd.server.url}/data/few")
        name = f"data@few{n}"
        made = cmd.json("snapshot", "create", name, "--prefix", "few/f")[0]
        check(made["samples"] == n, f"a snapshot of {n} files has {made['samples']} samples")
        for last in ("pad", "drop"):
            rows, _ = ranks(cmd, name, 4, 5, "--last", last)
            count = -(-n // 20) if last == "pad" else n // 20
            check([len(r) for r in rows] == [count] * 4, f"{n} samples, {last}: {[len(r) for r in rows]} batches")
            check(len(ids_of(rows)) == (n if last == "pad" else n // 20 * 20), f"{n} samples, {last}: not all, or too many")


def test_bad_input(cmd):
    for args in (("--world", 0), ("--rank", 4, "--world", 4), ("--batch", 0), ("--mode", "sideways"), ("--resume", "x")):
        cmd.run("stream", "data@v1", *args, code=2)
    check(b"none" in cmd.run("stream", "data@none", code=4).stderr, "the missing snapshot is not named")
    token = cmd.json("stream", "data@v1", "--batches", 3)[0]["token"]
    cmd.run("stream", "data@v1", "--resume", token[:-1], code=2)
    for at in range(0, len(token), 7):
        damaged = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1:]
        p = subprocess.run([str(GRANARY), "stream", "data@v1", "--resume", damaged], env=cmd.env, capture_output=True)
        check(p.returncode != 0 and b"oken" in p.stderr, f"a token damaged at {at} was taken")
    p = cmd.run("stream", "data@few60", "--resume", token, code=2)
    check(b"another snapshot" in p.stderr, "a token of another snapshot is not called that")


def test_kill(cmd, samples, rng):
    """kill -9 and restart of the server in mid-epoch: nothing is lost, nothing comes twice."""
    for mode in ("blocks", "exact"):
        p = cmd.start("stream", "data@v1", "--batch", "8", "--ids", "--mode", mode, "--memory", "8MiB", "--read-ahead", "2",
                      "--seed", str(rng.randrange(1000)), "--json", text=True)
        lines = []
        for _ in range(rng.randrange(5, 40)):
            lines.append(p.stdout.readline())
        cmd.server.kill()
        time.sleep(rng.random())
        cmd.server.start()
        out, err = p.stdout.read(), p.stderr.read()  # communicate() would lose what readline() read ahead
        p.wait(timeout=300)
        check(p.returncode == 0, f"{mode}: the stream ended when the server was killed: {err[-500:]}")
        ids = ids_of([rows_of("".join(lines) + out)])
        check(sorted(ids) == list(range(samples)), f"{mode}: after a kill not every sample came once")


def test_stall(cmd):
    p = cmd.start("stream", "data@v1", "--batch", "4", "--ids", "--stall-timeout", "3", "--memory", "8MiB", "--read-ahead", "1",
                  text=True, bufsize=1)
    p.stdout.readline()
    cmd.server.kill()
    out, err = p.communicate(timeout=120)
    cmd.server.start()
    check(p.returncode == 1 and "stalled" in err, f"a dead server: exit code {p.returncode}, said {err[-300:]}")


def test_jobs(cmd):
    p = cmd.start("stream", "data@v1", "--job", "night", "--batch", "2", "--tar")  # blocks on its pipe
    p.stdout.read(1)
    for _ in range(100):
        jobs = [j for j in cmd.json("jobs") if j["job"] == "night"]
        if jobs:
            break
        time.sleep(0.1)
    check(jobs and jobs[0]["job"] == "night" and jobs[0]["of"] > 0, f"granary jobs says {jobs}")
    said = cmd.run("snapshot", "rm", "data@v1", "--yes", code=1).stderr
    check(b"night" in said, f"a snapshot in use: the job is not named: {said}")
    p.communicate(timeout=120)


def test_verbs(cmd, source):
    (source / "new.bin").write_bytes(b"new")
    (source / "large.bin").write_bytes(b"changed")
    cmd.run("import", source, f"{cmd.server.url}/data/train")
    cmd.run("rm", f"{cmd.server.url}/data/train/c003/s00300.bin")
    cmd.run("snapshot", "create", "data@v2", "--prefix", "train/", "--note", "second", "--tag", "run=7", "--tag", "by=a=b")
    cmd.run("snapshot", "create", "data@v2", code=1)
    before = [s for s in cmd.json("snapshot", "ls", "data") if s["snapshot"] == "v2"][0]
    check(before["id"] == cmd.json("snapshot", "show", "data@v2")[0]["id"], "ls and show name a snapshot differently")
    cmd.run("snapshot", "note", "data@v2", "another note")
    cmd.run("snapshot", "note", "data@v2", "--expire", "30d")
    cmd.run("snapshot", "note", "data@v2", code=2)
    cmd.refused("snapshot", "note", "data@none", "x", word="none")
    after = [s for s in cmd.json("snapshot", "ls", "data") if s["snapshot"] == "v2"][0]
    check(after["note"] == "another note" and after["expires"] and not before["expires"] and after["id"] == before["id"],
          f"snapshot note: {before} became {after}")
    cmd.run("snapshot", "note", "data@v2", "second")
    changes = {d["key"]: d["change"] for d in cmd.json("snapshot", "diff", "data@v1", "data@v2")}
    few = [k for k in changes if k.startswith("train/few")]  # was imported with the rest
    for k in few:
        changes.pop(k)
    check(changes == {"train/new.bin": "added", "train/large.bin": "changed", "train/c003/s00300.bin": "removed"},
          f"diff says {changes}")
    check(cmd.json("snapshot", "verify", "data@v1")[0]["damaged"] == 0, "verify finds damage in v1")
    cmd.run("snapshot", "verify", "data@v2")
    names = [s["snapshot"] for s in cmd.json("snapshot", "ls", "data")]
    check({"v1", "v2", "few60"} <= set(names), f"ls says {names}")
    shown = cmd.json("snapshot", "show", "data@v2")[0]
    check(shown["options"] == "note=second\ntag=run=7\ntag=by=a=b\n", f"options: {shown}")
    check(abs(shown["files_per_directory"] - shown["samples"] / shown["directories"]) < 0.01, f"files: {shown}")
    tags = {s["snapshot"]: s.get("tags", "") for s in cmd.json("snapshot", "ls", "data")}
    check(tags["v2"] == "run=7\nby=a=b\n" and tags["v1"] == "", f"tags in ls: {tags}")
    check(b"run=7, by=a=b" in cmd.run("snapshot", "ls", "data").stdout, "tags in the table")
    cmd.run("snapshot", "create", "data@v3", "--tag", "no-value", code=1)
    check(len(cmd.json("shuffle-quality", "data@v1")) == 3, "shuffle-quality")
    check(b"would remove" in cmd.run("snapshot", "rm", "data@v2", "--dry-run").stdout, "dry run")
    cmd.run("snapshot", "rm", "data@v2", code=2)  # nobody can be asked
    cmd.run("snapshot", "rm", "data@v2", "--yes")
    cmd.run("snapshot", "show", "data@v2", code=4)
    first = cmd.json("stream", "data/few", "--job", "auto-one")[0]
    second = cmd.json("stream", "data/few", "--job", "auto-one")[0]
    check(first["snapshot"] == second["snapshot"] and first["snapshot"].startswith(".auto-"), "automatic snapshots")


def test_mixing(cmd, base):
    """The warning of `snapshot create` and shuffle-quality say the same, and what is true: from where samples lie."""
    folder = base / "classes"
    for c in range(40):
        (folder / f"c{c:02d}").mkdir(parents=True)
        for i in range(60):
            (folder / f"c{c:02d}" / f"{i:03d}.bin").write_bytes(b"%d" % (c * 1000 + i) * 20)
        (folder / f"c{c:02d}" / "deeper").mkdir()
        (folder / f"c{c:02d}" / "deeper" / "x.bin").write_bytes(b"x")
    cmd.run("import", folder, f"{cmd.server.url}/data/sorted")
    cmd.run("import", "--layout", "shuffled:7", folder, f"{cmd.server.url}/data/mixed")
    small = ("--mode", "blocks", "--block", "16", "--lanes", "1", "--window", "4")
    for name, prefix, options, warns in (("q1", "sorted/", small, True), ("q2", "sorted/", ("--mode", "blocks"), False),
                                         ("q3", "mixed/", small, False), ("q4", "sorted/", ("--mode", "exact"), False)):
        made = cmd.json("snapshot", "create", f"data@{name}", "--prefix", prefix, *options)[0]
        check(("neighbours" in made.get("warnings", "")) == warns, f"{name}: {made}")
        ratio = cmd.json("shuffle-quality", f"data@{name}")[0]
        check(ratio["directories"] == 80, f"{name}: {ratio}")
        check(ratio["ratio"] < 0.9 if warns else ratio["ratio"] > 0.85 or name == "q4", f"{name}: {ratio}")
    check(b"block 16 samples" in cmd.run("shuffle-quality", "data@q1").stdout, "shuffle-quality says nothing of the window")


def main():
    need_programs()
    rng = random.Random(seed_of())
    base = scratch("stream")
    source = base / "src"
    source.mkdir()
    make_files(source, rng)
    server = Server(base)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    cmd.run("import", source, f"{server.url}/data/train")
    samples = cmd.json("snapshot", "create", "data@v1", "--prefix", "train/")[0]["samples"]
    test_bytes(cmd, source)
    test_worlds(cmd, samples)
    test_resume(cmd, samples)
    test_border_counts(cmd, source)
    test_bad_input(cmd)
    test_kill(cmd, samples, rng)
    test_stall(cmd)
    test_jobs(cmd)
    test_verbs(cmd, source)
    test_mixing(cmd, base)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
