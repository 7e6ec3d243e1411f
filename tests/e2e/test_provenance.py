#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what a job was given is on record, over resumes, other worlds, kills of the server and samples that were replaced, and
can be computed again; damaged samples do what --on-error says, the same on all ranks; leases end when they should. Method:
a second implementation of docs/ORDER.md 4.4 and 9 over the files; bits flipped in the packs on disk; a clock that jumps."""
import io
import json
import os
import random
import sys
import tarfile
import time

from crash_lib import BUILD, SANITIZED, Server, need_programs, scratch, seed_of
from granary_wire import crc32c
from stream_lib import Command, check, ranks, steps
from test_order import BLOCKS, EXACT, M, Order, add

FILES = 331
HOUR = 3600


class Data:
    """The snapshot data@v1: contents by dense id, and its order."""

    def __init__(self, cmd, source):
        out = cmd.run("stream", "data@v1", "--mode", "none", "--tar", "-q").stdout
        with tarfile.open(fileobj=io.BytesIO(out)) as tar:
            self.keys = [m.name for m in tar]
        self.bytes = [(source / k.split("/", 1)[1]).read_bytes() for k in self.keys]
        self.crcs = [crc32c(b) for b in self.bytes]
        self.shape = cmd.json("snapshot", "show", "data@v1")[0]

    def order(self, mode, seed, epoch):
        s = self.shape
        return Order(mode, s["samples"], s["block"], s["window"], s["lanes"], seed, epoch)

    def checksum(self, order, positions, replaced=()):
        replaced, total = dict(replaced), 0
        for p in positions:
            i = replaced.get(p, order.at(p))
            c = add(add(0, p), len(self.bytes[i]))
            total += add(c, self.crcs[i])
        return total & M

    def substitute(self, order, seed, epoch, p, bad):
        for attempt in range(16):
            key = add(add(add(add(1, seed), epoch), p), attempt)
            i = order.at(key % len(self.keys))
            if i not in bad:
                return i
        return None


def log_of(cmd, job, *more):
    return cmd.json("provenance", job, *more)


def sum_of(lines):
    return sum(int(line["checksum"], 16) for line in lines) & M


def test_worlds(cmd, data):
    order = data.order(EXACT, 7, 2)
    for world in (1, 3, 4):
        ranks(cmd, "data@v1", world, 12 // world, "--mode", "exact", "--seed", "7", "--epoch", "2", "--job", f"w{world}")
        lines = log_of(cmd, f"w{world}", "--verify")
        check(len(lines) == world and all(line["ended"] == 1 and line["verdict"] == "verified" for line in lines),
              f"world {world}: {lines}")
        check(sum_of(lines) == data.checksum(order, range(FILES)), f"world {world}: another checksum than that of the files")
        check(sum(line["samples"] for line in lines) == FILES, f"world {world}: samples")
        for line in lines:
            mine = data.checksum(order, [p for p in range(FILES) if p % world == line["rank"]])
            check(int(line["checksum"], 16) == mine, f"rank {line['rank']} of {world}: another checksum")


def test_segments(cmd, data):
    token, at = None, 0
    for world, batches in ((3, 5), (2, 4), (4, None)):
        more = ["--batches", str(batches)] if batches else []
        _, token = ranks(cmd, "data@v1", world, 6, "--mode", "blocks", "--seed", "3", "--job", "long", *more, token=token)
    cmd.server.kill()
    cmd.server.start()
    lines = log_of(cmd, "long", "--verify")
    check([line["verdict"] for line in lines] == ["verified"] * 9, f"after a kill: {lines}")
    for start, end, world in ((0, 90, 3), (90, 138, 2), (138, FILES, 4)):
        here = [line for line in lines if line["from"] == start]
        check(len(here) == world and {line["to"] for line in here} == {end}, f"the segment from {start}: {here}")
        check(sum_of(here) == data.checksum(data.order(BLOCKS, 3, 0), range(start, end)), f"the segment from {start}")
        at += sum(line["samples"] for line in here)
    check(at == FILES, f"segments have {at} samples")
    check(b"all 3 ranks" in cmd.run("provenance", "long").stdout, "the sum over ranks is not told")
    cmd.run("provenance", "nobody", code=4)


def test_recipe(cmd):
    cmd.run("recipe", "create", "data@mix", "--file", "-", text=json.dumps(
        {"samples": 500, "sources": [{"snapshot": "data@v1", "weight": 2, "include": ["*/s000*", "*/s001*"]},
                                     {"snapshot": "data@v1", "weight": 1}]}))
    ranks(cmd, "data@mix", 2, 9, "--job", "mixed", "--mode", "blocks")
    lines = log_of(cmd, "mixed", "--verify")
    check([(line["recipe"], line["verdict"]) for line in lines] == [("data@mix", "verified")] * 2, f"a recipe: {lines}")
    cmd.run("recipe", "rm", "data@mix", "--yes")
    check("not verified" in cmd.run("provenance", "mixed", "--verify", code=3).stdout.decode(), "a recipe that is gone")


def flip(server, data, victims):
    """One bit in the middle of each of these samples, on disk, where their bytes stand."""
    server.kill()
    found = 0
    for pack in (server.data / "packs").rglob("*"):
        blob = bytearray(pack.read_bytes()) if pack.is_file() else bytearray()
        before = bytes(blob)
        for i in victims:
            at = before.find(data.bytes[i])
            if at >= 0:
                blob[at + len(data.bytes[i]) // 2] ^= 4
                found += 1
        if blob != before:
            pack.write_bytes(blob)
    check(found == len(victims), f"{found} of {len(victims)} samples found on disk")
    server.start()


def test_damage(cmd, data, rng):
    bad = rng.sample([i for i in range(FILES) if len(data.bytes[i]) > 100], 3)
    flip(cmd.server, data, bad)
    said = cmd.run("stream", "data@v1", "--seed", "1", code=1).stderr.decode()
    check(any(f"'{data.keys[i]}'" in said for i in bad) and "data@v1" in said, f"raise: the sample is not named: {said}")
    cmd.refused("stream", "data@v1", "--on-error", "skip", "--max-errors", "2", word="max_errors")
    for mode, number in (("exact", EXACT), ("blocks", BLOCKS)):
        order, first = data.order(number, 8, 1), None
        places = {p: data.substitute(order, 8, 1, p, bad) for p in range(FILES) if order.at(p) in bad}
        for world, batch in ((1, 24), (2, 12), (3, 8)):
            job = f"{mode}-{world}"
            rows, _ = ranks(cmd, "data@v1", world, batch, "--on-error", "skip", "--seed", "8", "--epoch", "1", "--mode", mode,
                            "--job", job)
            check(len({len(r) for r in rows}) == 1, f"{job}: ranks have different numbers of batches")
            got = {position + i * world + r: (sample, flags) for r, rank in enumerate(rows) for position, row in rank
                   for i, (sample, flags) in enumerate(row)}
            for p in range(FILES):
                want = (places[p], "s") if p in places else (order.at(p), "")
                check(got[p] == want, f"{job}: position {p} has {got[p]}, not {want}")
            lines = log_of(cmd, job, "--verify")
            check({line["verdict"] for line in lines} == {"verified"}, f"{job}: {lines}")
            skips = [tuple(map(int, s.split(":"))) for line in lines if "skips" in line for s in line["skips"].split(",")]
            check(sorted(skips) == [(p, 0, order.at(p), places[p]) for p in sorted(places)], f"{job}: skips {skips}, {places}")
            check(sum(line["skipped"] for line in lines) == len(bad), f"{job}: skipped")
            check(sum_of(lines) == data.checksum(order, range(FILES), places.items()), f"{job}: another checksum")
            first = first or steps(rows)
            check(steps(rows) == first, f"{job}: a step has other samples than in a world of 1")
    cmd.refused("snapshot", "verify", "data@v1", word="damaged")
    return bad


def test_cut(cmd, data, bad):
    """The end of a pack is gone: the server says so, the stream tells it, and skips what is lost as it does damage."""
    last = max(i for i in range(FILES) if len(data.bytes[i]) > 100 and i not in bad)
    cmd.server.kill()
    for pack in (cmd.server.data / "packs").rglob("*"):
        blob = pack.read_bytes() if pack.is_file() else b""
        at = blob.find(data.bytes[last])
        if at >= 0:
            os.truncate(pack, at + 10)
    cmd.server.start()
    before = sum(i < last for i in bad)
    cmd.refused("stream", "data@v1", "--mode", "none", "--on-error", "skip", "--max-errors", max(1, before),
                word="the server cannot read it")
    ranks(cmd, "data@v1", 2, 16, "--on-error", "skip", "--job", "cut", "--mode", "exact")
    lines = log_of(cmd, "cut")
    check(sum(line["skipped"] for line in lines) > before and sum(line["samples"] for line in lines) == FILES, f"a cut pack: {lines}")


def until(text, ask, *args):
    """Waits for something that comes by itself."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        value = ask(*args)
        if value:
            return value
        time.sleep(0.05)
    return check(False, text)


def slow_stream(cmd, *args):
    """A stream that stops at its pipe."""
    p = cmd.start("stream", *args, "--batch", "2", "--tar", "--memory", "8MiB", "--read-ahead", "1")
    p.stdout.read(1)
    return p


def test_jobs(cmd):
    p = cmd.start("stream", "data@v1", "--job", "seen", "--batch", "2", "--tar", "--on-error", "skip")
    read = p.stdout.read(1 << 17)  # so that something was handed out; then it blocks on its pipe
    jobs = until("a job has no rate", lambda: [j for j in cmd.json("jobs") if j["samples_s"] > 0])
    check(len(read) > 0 and jobs[0]["job"] == "seen" and jobs[0]["rank"] == 0 and jobs[0]["of"] == FILES and
          jobs[0]["position"] > 0 and jobs[0]["bytes_s"] > 0 and jobs[0]["elapsed_ns"] >= jobs[0]["waited_ns"] and
          jobs[0]["eta_s"] >= 0 and jobs[0]["host"], f"jobs: {jobs}")
    table = cmd.run("jobs").stdout.decode().split()
    check("seen" in table and "0/1" in table, f"jobs: {table}")
    cmd.refused("snapshot", "rm", "data@v1", "--yes", word="'seen'")
    p.stdout.close()
    p.wait()
    for job in ("two words", "", "x" * 129, "b\u00fccher"):
        cmd.refused("stream", "data@v1", "--job", job, word="job")


def test_leases(cmd, jump):
    """A rank that was killed holds its snapshot for an hour; an automatic snapshot is kept for a day after its last use."""
    victim = slow_stream(cmd, "data@v2", "--job", "killed")
    until("a job does not show up", lambda: [j for j in cmd.json("jobs") if j["job"] == "killed"])
    victim.kill()
    victim.wait()
    cmd.server.kill()
    cmd.server.start()
    jump.write_text(str(HOUR - 300))
    cmd.refused("snapshot", "rm", "data@v2", "--yes", word="'killed'")
    jump.write_text(str(HOUR + 100))
    cmd.run("snapshot", "rm", "data@v2", "--yes")
    auto = cmd.json("stream", "data/few", "--job", "auto")[0]["snapshot"]
    check(cmd.json("stream", "data/few", "--job", "auto")[0]["snapshot"] == auto, "ranks of a job made two snapshots")
    check(cmd.json("stream", "data/few")[0]["snapshot"] != auto, "another job has the same automatic snapshot")
    check(auto.encode() in cmd.run("stream", "data/few", "--job", "auto").stderr, "its name is not told")
    there = lambda: auto in [s["snapshot"] for s in cmd.json("snapshot", "ls", "data")]  # noqa: E731
    for hours in (20, 40, 60):
        jump.write_text(str(hours * HOUR))
        check(there(), f"an automatic snapshot is gone {hours} h after it was made, 20 h after its last use")
        cmd.run("stream", f"data@{auto}", "--job", "later")
    jump.write_text(str(86 * HOUR))
    until("an automatic snapshot is there 26 h after its last use", lambda: not there())


def test_forced_away(cmd):
    """A snapshot removed by force, a bucket's key revoked in mid-epoch: one clear error."""
    key = cmd.server.base / "reader.credentials"
    cmd.run("key", "create", "--grant", "read:data", "-o", key, "--yes")
    reader = Command(cmd.server)
    reader.env["GRANARY_CREDENTIALS"] = str(key)
    p, q = slow_stream(cmd, "data@large", "--job", "forced"), slow_stream(reader, "data@large", "--job", "revoked")
    until("a job does not show up", lambda: len(cmd.json("jobs")) >= 2)
    cmd.run("key", "rm", key.read_text().split("access_key=")[1].split()[0], "--yes")
    out, err = q.communicate(timeout=120)
    check(q.returncode in (1, 5) and b"large" in err, f"a revoked key: exit code {q.returncode}, {err[-300:]}")
    cmd.run("snapshot", "rm", "data@large", "--yes", "--force")
    out, err = p.communicate(timeout=120)
    check(p.returncode in (1, 4) and b"large" in err, f"forced away: exit code {p.returncode}, {err[-300:]}")


def main():
    need_programs()
    rng = random.Random(seed_of())
    base = scratch("provenance")
    source, few, large = base / "src", base / "few", base / "large"
    for i in range(FILES):
        path = source / f"c{i % 9}" / f"s{i:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(0 if i % 100 == 7 else rng.randrange(1, 9000)))
    few.mkdir()
    large.mkdir()
    for i in range(5):
        (few / f"f{i}").write_bytes(rng.randbytes(100))
    for i in range(60):
        (large / f"l{i:02d}").write_bytes(rng.randbytes(1 << 20))
    jump = base / "jump"
    jump.write_text("0")
    shim = {} if SANITIZED else {"LD_PRELOAD": str(BUILD / "tests" / "clock_jump.so"), "CLOCK_JUMP_BOOT_FILE": str(jump)}
    server = Server(base, env=shim)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    for folder, prefix in ((source, "train"), (few, "few"), (large, "large")):
        cmd.run("import", folder, f"{server.url}/data/{prefix}")
    cmd.run("snapshot", "create", "data@v1", "--prefix", "train/")
    cmd.run("snapshot", "create", "data@v2", "--prefix", "train/")
    cmd.run("snapshot", "create", "data@large", "--prefix", "large/")
    data = Data(cmd, source)
    test_worlds(cmd, data)
    test_segments(cmd, data)
    test_recipe(cmd)
    test_jobs(cmd)
    test_forced_away(cmd)
    if shim:  # a sanitizer takes no preloaded library
        test_leases(cmd, jump)
    test_cut(cmd, data, test_damage(cmd, data, rng))
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
