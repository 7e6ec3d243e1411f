#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: bytes that rotted on disk are never handed out; the error says which object, where; the rest is served.

Method: files are imported; on the stopped server bits are flipped in records' data and headers, 4 KiB blocks zeroed, two
records of one length swapped, and the tail of a pack cut off. Then every file is read: a damaged one must fail with the
bucket, key, pack and offset in the text and give no wrong byte, the others must be whole. `granary check` and
tools/granary-fsck must both name every damaged record.

  test_bitrot.py [--seed S]
"""
import argparse
import importlib.machinery
import importlib.util
import random
import re
import shutil
import sys

import crash_lib as lib

LOADER = importlib.machinery.SourceFileLoader("granary_fsck", str(lib.FSCK))
sys.dont_write_bytecode = True
FSCK = importlib.util.module_from_spec(importlib.util.spec_from_loader("granary_fsck", LOADER))
LOADER.exec_module(FSCK)

FILES, TWINS, ROUNDS = (60, 2, 1) if lib.BRIEF else (240, 3, 6 if lib.LONG else 2)


class Record:
    def __init__(self, path, at, r):
        self.path, self.at, self.total = path, at, r["total"]
        self.data_at, self.stored = at + r["header_len"], r["stored_len"]
        self.key = r["key"].decode().split("/", 1)[1]  # without the bucket
        self.pack = path.name[:16]
        self.what = None


def make_files(rng, root):
    """Random content; twins are pairs of one length, so that their records can change places."""
    root.mkdir()
    names = {}
    for i in range(FILES):
        dice = rng.random()
        size = rng.randrange(1, 300) if dice < 0.2 else rng.randrange(300, 70000) if dice < 0.7 else rng.randrange(70000, 500000)
        names[f"f{i:04d}"] = rng.randbytes(size)
    for i in range(TWINS):
        size = rng.randrange(1000, 30000)
        names[f"twin{i}a"], names[f"twin{i}b"] = rng.randbytes(size), rng.randbytes(size)
    names["large"] = rng.randbytes(9 << 20)
    for name, data in names.items():
        (root / name).write_bytes(data)
    return names


def all_records(server):
    records = []
    for path in server.packs():
        with open(path, "rb") as f:
            raw = f.read()
        options = argparse.Namespace(end=None, headers=True, list=False, extract=None)
        checker = FSCK.Checker(options)
        trailer = FSCK.parse_trailer(raw[-64:])
        with open(path, "rb") as f:
            for at, r in checker.records(f, path, trailer["end"] if trailer else len(raw), trailer is not None):
                if r["kind"] == 1:
                    records.append(Record(path, at, r))
    return records


def patch(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def flip(rng, path, low, high):
    at = rng.randrange(low, high)
    with open(path, "rb") as f:
        f.seek(at)
        byte = f.read(1)[0]
    patch(path, at, bytes([byte ^ 1 << rng.randrange(8)]))


def damage(rng, records):
    """Marks what was done; a record is damaged once."""
    free = [r for r in records if not r.key.startswith("data/twin") and r.stored > 0]
    rng.shuffle(free)
    for r in [free.pop() for _ in range(len(free) // 8)]:
        flip(rng, r.path, r.data_at, r.data_at + r.stored)
        r.what = "flipped bit"
    for r in [r for r in free if r.stored > 8192][:6]:
        line = (r.data_at + 4095) // 4096 * 4096
        lines = range(line, r.data_at + r.stored - 4095, 4096)
        if lines:
            patch(r.path, rng.choice(lines), bytes(4096))
            r.what = "zeroed block"
            free.remove(r)
    for r in [free.pop() for _ in range(6)]:
        flip(rng, r.path, r.at, r.at + 64)
        r.what = "flipped header"
    twins = {r.key: r for r in records if r.key.startswith("data/twin")}
    for i in range(TWINS):
        a, b = twins[f"data/twin{i}a"], twins[f"data/twin{i}b"]
        if a.total != b.total:
            continue
        with open(a.path, "rb") as f, open(b.path, "rb") as g:
            f.seek(a.at), g.seek(b.at)
            raw = f.read(a.total), g.read(b.total)
        patch(a.path, a.at, raw[1]), patch(b.path, b.at, raw[0])
        a.what = b.what = "swapped"


def cut_tail(rng, records):
    """The pack with most records loses its end, some records with it."""
    path = max({r.path for r in records}, key=lambda p: sum(r.path == p for r in records))
    inside = sorted((r for r in records if r.path == path), key=lambda r: r.at)
    first = inside[-rng.randint(2, 6)]
    with open(path, "r+b") as f:
        f.truncate(first.data_at + first.stored // 2)
    for r in inside:
        if r.at >= first.at:
            r.what = "cut off"
    return path


def read_all(server, names, records):
    damaged = {}
    for r in records:
        if r.what and r.what != "flipped header":
            damaged.setdefault(r.key, []).append(r)
    wrong = 0
    for name, data in names.items():
        key = f"data/{name}"
        p = server.cli("cat", f"{server.url}/rot/{key}", check=False)
        if key not in damaged:
            if p.returncode != 0 or p.stdout != data:
                lib.fail(f"undamaged {key}: exit code {p.returncode}, {p.stderr.decode()}")
            continue
        wrong += 1
        text = p.stderr.decode()
        if p.returncode == 0 or not data.startswith(p.stdout):
            lib.fail(f"{key} ({damaged[key][0].what}): wrong bytes were handed out; exit code {p.returncode}")
        places = [f"pack={r.pack} offset={r.at}" for r in damaged[key]]
        if f"rot/{key}" not in text or not any(place in text for place in places):
            lib.fail(f"{key} ({damaged[key][0].what}): the error does not name bucket, key, pack and offset ({places}): {text}")
        if "checksum" not in text and "corrupt" not in text.lower():
            lib.fail(f"{key} ({damaged[key][0].what}): the error is not that of corruption: {text}")
    return wrong


def server_check(server, records, cut):
    """Every damaged record is in its list."""
    p = server.cli("check", check=False)
    text = p.stdout.decode() + p.stderr.decode()
    if p.returncode != 1:
        lib.fail(f"granary check: exit code {p.returncode} on a damaged store:\n{text}")
    told = set(re.findall(r"pack=([0-9a-f]{16}) offset=(\d+)", text))
    for r in records:
        if r.what is None or (r.pack, str(r.at)) in told:
            continue
        if r.pack == cut and any(pack == cut for pack, _ in told):
            continue  # without its footer a walk cannot see behind a damaged header
        lib.fail(f"granary check does not tell of {r.key} ({r.what}), pack={r.pack} offset={r.at}:\n{text[-3000:]}")
    return len(told)


def decoder_check(server, records, cut):
    """As server_check(); a pack without its end looks like an open one to who has no metadata."""
    code, text = lib.fsck(server.packs())
    if code != 1:
        lib.fail(f"granary-fsck: exit code {code} on a damaged store:\n{text}")
    told = set(re.findall(r"/([0-9a-f]{16})-[0-9a-f]{16}\.pack: offset (\d+):", text))
    for r in records:
        if r.what and r.pack != cut and (r.pack, str(r.at)) not in told:
            lib.fail(f"granary-fsck does not tell of {r.key} ({r.what}), pack={r.pack} offset={r.at}:\n{text[-3000:]}")
    return len(told)


def one_round(seed):
    rng = random.Random(seed)
    base = lib.scratch("rot")
    names = make_files(rng, base / "data-source")
    # Damage is to be met, not compacted away: no background job touches the packs.
    server = lib.Server(base, settings={"job-interval": "1h", "pack-size": "16MiB"})
    server.start()
    server.cli("bucket", "create", f"{server.url}/rot")
    server.cli("import", str(base / "data-source"), f"{server.url}/rot/data")
    server.stop()
    server.start()  # seals what the first run left open
    server.cli("check")
    server.stop()
    code, text = lib.fsck(server.packs())
    if code != 0:
        lib.fail(f"granary-fsck before any damage: {text}")
    records = all_records(server)
    damage(rng, records)
    cut = cut_tail(rng, records).name[:16]
    server.start()
    refused = read_all(server, names, records)
    told = server_check(server, records, cut)
    server.stop()
    decoded = decoder_check(server, records, cut)
    kinds = {}
    for r in records:
        if r.what:
            kinds[r.what] = kinds.get(r.what, 0) + 1
    print(f"seed={seed} files={len(names)} records={len(records)} packs={len(server.packs())} damaged={kinds} "
          f"cut={cut} refused={refused} check_told={told} fsck_told={decoded}", flush=True)
    shutil.rmtree(base)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    seed = lib.seed_of(o.seed)
    for i in range(ROUNDS):
        one_round(seed + i)
    print("ok")
    return 0


if __name__ == "__main__":
    lib.run(main)
