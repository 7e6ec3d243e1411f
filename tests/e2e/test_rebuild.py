#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: an admin who loses the metadata, or the whole data directory, gets the objects back out of packs with one command,
from all hot directories, on top of a backup or without one; what is lost is named, and nothing is named twice.

Method: a server with two hot directories; small, empty and large objects, some overwritten, written in place, deleted, in
directories that were renamed; kill -9; metadata is deleted; `granary rebuild` runs, itself killed at many moments. Then with
a backup that is older than the packs, with a pack torn at its end, and without the drive that holds half of them.

  test_rebuild.py [--seed S]
"""
import argparse
import json
import random
import shutil
import signal
import subprocess
import time

import crash_lib as lib


class Server(lib.Server):
    hot = None

    def launch(self):
        self.settings["hot"] = self.hot or self.data
        return super().launch()

    def incarnation(self):
        return int((self.data / "granary.super").read_text().split("incarnation=")[1].split()[0])


class Store:
    """What was acknowledged: key -> bytes."""

    def __init__(self, server, seed):
        self.server, self.random, self.bytes = server, random.Random(seed), {}

    def url(self, key):
        return f"{self.server.url}/bucket/{key}"

    def put(self, key, size):
        data = self.random.randbytes(size)
        self.server.cli("cp", "-", self.url(key), input=data)
        self.bytes[key] = data

    def write(self, key, offset, size):
        data = self.random.randbytes(size)
        self.server.cli("write", self.url(key), "--offset", offset, input=data)
        old = self.bytes[key]
        self.bytes[key] = old[:offset] + data + old[offset + size:]

    def rename_dir(self, old, new):
        self.server.cli("mv", self.url(old), self.url(new))
        for key in [k for k in self.bytes if k.startswith(old + "/")]:
            self.bytes[new + key[len(old):]] = self.bytes.pop(key)

    def listed(self):
        lines = self.server.cli("ls", "-r", "--json", f"{self.server.url}/bucket/").stdout.decode().splitlines()
        return {json.loads(line)["key"] for line in lines}

    def check(self, when, may=(), lost=()):
        """Everything is there, byte for byte, but what is `lost`; besides it what `may` be there again."""
        there = self.listed()
        stray = there - set(self.bytes) - set(may)
        if stray:
            raise lib.Broken(f"{when}: nobody has these: {sorted(stray)[:5]}")
        for key, data in self.bytes.items():
            p = self.server.cli("cat", self.url(key), check=False)
            if key in lost:
                if p.returncode == 0:
                    raise lib.Broken(f"{when}: {key} is lost, and can be read")
            elif p.returncode != 0 or p.stdout != data:
                raise lib.Broken(f"{when}: {key}: exit code {p.returncode}, {len(p.stdout)} bytes of {len(data)} "
                                 f"{p.stderr.decode()}")
        self.server.cli("check")
        print(f"{when}: {len(self.bytes)} objects, {len(there - set(self.bytes))} that were deleted", flush=True)


def fill(store):
    for i in range(40):
        store.put(f"d{i % 4}/e{i % 3}/f{i}", store.random.randrange(1, 9000))
    store.put("empty", 0)
    store.put("large", 13_000_000)
    store.put("d0/written", 300_000)
    store.write("d0/written", 100_000, 70_000)
    store.write("d0/written", 150_000, 200_000)
    store.write("large", 4_000_000, 600_000)
    for i in range(0, 40, 4):
        store.put(f"d{i % 4}/e{i % 3}/f{i}", 5000)  # one name twice: the newer one
    store.rename_dir("d1", "renamed")
    for e in range(3):
        store.put(f"renamed/e{e}/later", 100)  # so that records say where it is
    store.server.cli("rm", store.url("d2/e2/f2"))
    return {"d2/e2/f2": store.bytes.pop("d2/e2/f2")}


def lose(server, *names):
    for name in names:
        path = server.data / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def command(verb, server, *options, code=None):
    p = server.cli(verb, *options, "--json", check=False)
    if p.returncode != code:
        raise lib.Broken(f"{verb}: exit code {p.returncode}, not {code}\n{p.stdout.decode()}{p.stderr.decode()}")
    return [json.loads(line) for line in p.stdout.decode().splitlines()]


def killed(server, second, rng):
    """Killed at some moment, again and again; nothing of a half made one is taken for metadata."""
    for _ in range(6):
        p = lib.spawn([lib.GRANARYD, "--rebuild", "--data", server.data, "--hot", second],
                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.001, 0.08))
        p.send_signal(signal.SIGKILL)
        p.wait()
        if (server.data / "meta").exists():
            return
        if server.launch().wait_ready() is not None:
            raise lib.Broken("the server started without metadata after a rebuild that was killed")
        server.kill()


def without_backup(server, store, second, dead):
    server.kill()
    before = server.incarnation()
    lose(server, "meta")
    killed(server, second, store.random)
    if not (server.data / "meta").exists():
        out = command("rebuild", server, server.data, second, code=3)[-1]
        if out["packs_missing"] or out["damaged"] or out["unplaced"] or out["incomplete"]:
            raise lib.Broken(f"rebuild says: {out}")
    p = server.cli("rebuild", server.data, second, check=False)
    if p.returncode != 1 or b"holds metadata" not in p.stderr:
        raise lib.Broken(f"a second rebuild: exit code {p.returncode}: {p.stderr.decode()}")
    server.start()
    if server.incarnation() <= before + 1:
        raise lib.Broken(f"incarnation {server.incarnation()} after a rebuild, {before} before")
    store.check("rebuilt without a backup", dead)


def data_directory_gone(server, store, second, dead):
    """Nothing is left but the second drive, which is given all the packs first."""
    server.cli("drive", "drain", server.data)
    lib_wait(lambda: drained(server, server.data), "the drain of the data directory")
    server.kill()
    before = server.incarnation()
    shutil.rmtree(server.data)
    server.data.mkdir()
    command("rebuild", server, server.data, second, code=3)
    server.start()
    if server.incarnation() <= before + 1:
        raise lib.Broken(f"incarnation {server.incarnation()} after the data directory was lost, {before} before")
    store.check("the data directory was lost", dead)


def lib_wait(condition, text):
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            raise lib.Broken(f"not within 120 s: {text}")
        time.sleep(0.1)


def drained(server, path):
    lines = server.cli("drive", "ls", "--json").stdout.decode().splitlines()
    return {d["path"]: d for d in map(json.loads, lines)}[str(path)]["state"] == "drained"


def on_a_backup(server, store, backup, base, second, dead):
    """A backup that is older than the packs: deletes and renames before its end hold, puts and writes after it too."""
    store.rename_dir("d3", "moved")
    store.server.cli("rm", store.url("moved/e1/f7"))
    store.bytes.pop("moved/e1/f7")
    gone = {key for key in dead if key not in store.listed()}
    time.sleep(2.5)  # two turns of the log
    server.stop()
    old = base / "old-backup"
    shutil.copytree(backup, old)
    server.start()
    store.put("after/the/backup", 3000)
    store.put("moved/e0/f3", 2000)
    for e in range(3):
        store.put(f"moved/e{e}/later", 100)
    store.write("large", 12_900_000, 200_000)
    server.kill()
    lose(server, "meta", "granary.super", "master.key")
    out = command("rebuild", server, server.data, second, "--backup", old, code=0)[-1]
    if not out["placed"] or not out["changed"]:
        raise lib.Broken(f"rebuild on a backup says: {out}")
    server.start()
    store.check("rebuilt on an older backup", set(dead) - gone)


def torn(server, store, second, dead):
    """The last record of an open pack is torn: the version before it stands."""
    store.put("torn", 1000)
    store.put("torn", 200_000)
    newest = store.random.randbytes(150_000)
    server.cli("cp", "-", store.url("torn"), input=newest)
    server.kill()
    for place in (server.data, second):
        for path in place.glob("packs/*/*.pack"):
            raw = path.read_bytes()
            at = raw.find(newest[:64])
            if at > 0:
                path.write_bytes(raw[:at + 70_000] + bytes(len(raw) - at - 70_000))
    lose(server, "meta")
    command("rebuild", server, server.data, second, code=3)
    server.start()
    store.check("the last record torn", list(dead) + ["moved/e1/f7"])


def drive_away(server, store, backup, second):
    """Restore looks in all hot directories; the objects of one that is away are named, and are there when it is back."""
    time.sleep(2.5)
    server.stop()
    lose(server, "meta")
    out = command("restore", server, backup, server.data, code=0)
    if out[-1]["packs_missing"] or out[-1]["objects_lost"]:
        raise lib.Broken(f"restore with two hot directories says: {out}")
    server.start()
    store.check("restored with two hot directories", store.listed())
    server.stop()
    lose(server, "meta")
    away = second.with_name("away")
    second.rename(away)
    out = command("restore", server, backup, server.data, code=3)
    if not any(line.get("lost") == "drive" for line in out) or not out[-1]["objects_lost"]:
        raise lib.Broken(f"restore without a drive says: {out[-3:]}")
    away.rename(second)
    server.start()
    store.check("the drive is back", store.listed())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    seed = lib.seed_of(o.seed)
    base = lib.scratch("rebuild")
    backup, second = base / "backup", base / "second"
    backup.mkdir()
    second.mkdir()
    server = Server(base, settings={"backup": str(backup), "backup-every": "1s"})
    server.start()
    server.cli("bucket", "create", f"{server.url}/bucket")
    store = Store(server, seed)
    dead = fill(store)
    server.cli("drive", "add", second)
    store.put("on/both/drives", 2_000_000)
    without_backup(server, store, second, dead)
    server.stop()
    server.hot = second
    server.start()
    data_directory_gone(server, store, second, dead)
    on_a_backup(server, store, backup, base, second, dead)
    torn(server, store, second, dead)
    drive_away(server, store, backup, second)
    server.stop()
    print(f"ok seed={seed}")


if __name__ == "__main__":
    lib.run(main)
