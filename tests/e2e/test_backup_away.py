#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: with hot directory, metadata and local backup gone, a cold store alone brings back all that was copied and backed
up, byte for byte, and names the rest; whatever was under way when the power went.

Method: objects, some copied to a cold directory, some moved there, some not; the metadata's backup goes there too. kill -9
at random moments while it does (the sizes of a real backup: several checkpoints). Then everything but the cold directory
is deleted, an empty machine is restored from it, serves at once, and each key is either read back and compared, or was
named. Restores are killed in the middle and made again. A damaged newest checkpoint falls back to the one before; so does a
list that does not show the newest objects yet. A store that is away delays nothing, and gets its backup when it is back.

  test_backup_away.py [--seed S] [--kills N]
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import time

import crash_lib as lib

GRACE_S = 10  # ends a test that hangs; nothing is judged by it
LONG = os.environ.get("GRANARY_TEST_LONG") == "1"


def expect(what, got, wanted):
    if got != wanted:
        lib.fail(f"{what}: {got!r}, not {wanted!r}")


class Case:
    def __init__(self, seed, stores=None):
        self.rng = random.Random(seed)
        self.base = lib.scratch("away")
        self.cold, self.local = self.base / "cold", self.base / "backup"
        self.cold.mkdir()
        self.local.mkdir()
        self.stores = stores or f"archive,type=directory,path={self.cold},backup=on"
        self.server = lib.Server(self.base, settings={"stores": self.stores, "backup": str(self.local), "backup-keep": "2"})
        self.objects = {}

    def put(self, folder, count):
        for i in range(count):
            path = self.base / "tree" / folder / f"{i}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.rng.randbytes(self.rng.randrange(1, 60_000)))
            self.objects[f"{folder}/{i}"] = path.read_bytes()
        self.server.cli("import", self.base / "tree" / folder, f"{self.server.url}/data/{folder}", "--quiet")

    def status(self):
        return json.loads(self.server.cli("status", "--json").stdout)

    def until(self, what, judge):
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end:
            if judge():
                return
            time.sleep(0.1)
        lib.fail(f"never: {what}\n{self.status()}\n{self.server.tail()}")

    def backed_up(self):
        """The checkpoint that is made now, and its way into the store."""
        self.server.cli("backup")
        number = self.status()["backup_number"]
        self.until("the backup is in the store", lambda: self.status()["backup_to_archive_number"] >= number)
        return number

    def lose(self):
        self.server.kill()
        shutil.rmtree(self.server.data)
        shutil.rmtree(self.local)
        self.local.mkdir()

    def restore(self, url, *more):
        self.server.data.mkdir(exist_ok=True)
        p = self.server.cli("restore", url, self.server.data, "--json", *more, check=False)
        if p.returncode not in (0, 3):
            lib.fail(f"no restore: {p.returncode} {p.stdout} {p.stderr}")
        lines = [json.loads(line) for line in p.stdout.splitlines()]
        expect("nothing is left of what was fetched", (self.server.data / "backup.fetched").exists(), False)
        return lines[-1], {line["name"] for line in lines[:-1] if line["lost"] == "object"}

    def restore_killed(self, url, kills):
        """kill -9 in the middle of it, and again of what goes on."""
        self.server.data.mkdir()
        for _ in range(kills):
            p = subprocess.Popen([lib.GRANARY, "restore", url, self.server.data, "--json"], env=self.server.client_env(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(self.rng.random() * 0.25)
            p.kill()
            p.wait()

    def judge(self, lost, kept):
        """Each object is there with its bytes, or was named; all below `kept` are there."""
        out = self.base / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for key, data in self.objects.items():
            if f"data/{key}" in lost:
                if key.split("/")[0] in kept:
                    lib.fail(f"{key} was copied and backed up, and is lost")
                continue
            got = self.server.cli("cat", f"{self.server.url}/data/{key}", check=False)
            if got.returncode != 0 or got.stdout != self.objects[key]:
                lib.fail(f"{key}: neither there nor named: {got.stderr}")


def fill(c):
    c.server.start()
    shutil.copy(c.server.credentials, c.base / "credentials")  # the data directory goes
    c.server.credentials = c.base / "credentials"
    c.server.cli("bucket", "create", f"{c.server.url}/data")
    c.put("copied", 30)
    c.server.cli("tier", "push", f"{c.server.url}/data/copied", "--to", "archive", "--copy")
    c.put("moved", 30)
    c.server.cli("tier", "push", f"{c.server.url}/data/moved", "--to", "archive")
    c.server.cli("tier", "pin", f"{c.server.url}/data/copied")


def whole(c, url, *more):
    """All but the store goes; what was neither copied nor backed up is named or unknown."""
    c.put("hot", 10)
    c.backed_up()
    c.put("later", 5)  # behind the backup: nobody knows of it afterwards
    for key in [k for k in c.objects if k.startswith("later/")]:
        del c.objects[key]
    c.lose()
    done, lost = c.restore(url, *more)
    expect("keys that were not copied", lost, {f"data/{k}" for k in c.objects if k.startswith("hot/")})
    expect("packs that are read cold now", done["packs_cold_now"] > 0, True)
    c.server.start()
    c.judge(lost, {"copied", "moved"})
    pins = json.loads(c.server.cli("tier", "pins", "--json").stdout)
    expect("pins", (pins["bucket"], pins["path"]), ("data", "copied"))
    p = c.server.cli("cat", f"{c.server.url}/data/hot/0", check=False)
    expect("a lost key is an error", p.returncode != 0, True)
    # It goes on: writes, backups, and the next loss.
    c.server.cli("rm", "-r", "--yes", f"{c.server.url}/data/hot")
    for key in [k for k in c.objects if k.startswith("hot/")]:
        del c.objects[key]
    c.put("second", 10)
    c.server.cli("tier", "push", f"{c.server.url}/data/second", "--to", "archive", "--copy")
    c.backed_up()
    c.lose()
    done, lost = c.restore(url, *more)
    expect("nothing is lost", lost, set())
    c.server.start()
    c.judge(lost, {"copied", "moved", "second"})


def restored(c):
    """What a restore that was killed had put into place is a store: another one refuses it, and nothing is lost."""
    if (c.server.data / "meta").exists():
        print("  one that was killed was through")
        return {}, set()
    return c.restore(c.cold)


def killed(c, kills):
    """kill -9 while backups are on their way; what is in the store at the end leads to a state between the first
    backup and now."""
    c.backed_up()
    for _ in range(kills):
        c.server.cli("backup", check=False)
        for i in range(3):
            key = f"copied/{c.rng.randrange(30)}"
            c.server.cli("cp", c.base / "tree" / key, f"{c.server.url}/data/extra{i}", check=False)
        time.sleep(c.rng.random() * 1.3)
        c.server.kill()
        c.server.start()
    c.lose()
    c.restore_killed(c.cold, kills)
    _, lost = restored(c)
    c.server.start()
    c.judge({name for name in lost if name.startswith("data/extra")}, {"copied", "moved", "second"})


def damaged(c):
    """One flipped bit in a file of the newest checkpoint: the one before is taken, and that is said."""
    c.backed_up()
    c.server.cli("cp", c.base / "tree" / "copied" / "0", f"{c.server.url}/data/another")
    newest = c.backed_up()
    c.lose()
    series = max((c.cold / "backup").iterdir(), key=lambda p: p.stat().st_mtime)
    files = sorted(series.glob(f"files/{newest:016x}-*"))
    victim = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    done, lost = c.restore(c.cold)
    expect("the newest checkpoint was passed over", (done["skipped"], done["checkpoint"] < newest), (1, True))
    c.server.start()
    c.judge(lost, {"copied", "moved", "second"})


def unlisted(c):
    """The store's list does not show the newest checkpoint, nor a log, yet: the one before is taken. Once it does, the
    store has what it had, and the machine that was restored goes on beside it."""
    before = c.backed_up()
    c.put("fresh", 5)
    newest = c.backed_up()
    c.lose()
    series = max((c.cold / "backup").iterdir(), key=lambda p: p.stat().st_mtime)
    hidden = [series / f"checkpoint-{newest:016x}", *series.glob(f"log-{newest:016x}"), *series.glob(f"log-{before:016x}")]
    hidden = [path for path in hidden if path.exists()]
    for path in hidden:
        path.rename(c.base / path.name)
    done, lost = c.restore(c.cold)
    expect("the newest that is shown", (done["checkpoint"] < newest, len(hidden) > 0), (True, True))
    for path in hidden:
        (c.base / path.name).rename(path)
    for key in [k for k in c.objects if k.startswith("fresh/")]:
        del c.objects[key]
    c.server.start()
    c.judge(lost, {"copied", "moved", "second"})
    c.backed_up()
    c.lose()
    _, lost = c.restore(c.cold)
    c.server.start()
    c.judge(lost, {"copied", "moved", "second"})


def away(c):
    """The store is away: the backup goes on in its directory, says so, and the store gets it when it is back."""
    c.backed_up()
    hidden = c.base / "hidden"
    c.cold.rename(hidden)
    c.server.cli("backup")
    c.until("the failure is said", lambda: c.status()["backup_to_archive_failing"] == 1)
    s = c.status()
    expect("the backup itself does not fail", (s["backup_failing"], "backup_to_archive_error" in s), (0, True))
    hidden.rename(c.cold)
    c.until("the store has it", lambda: c.status()["backup_to_archive_number"] >= s["backup_number"])
    expect("it works again", c.status()["backup_to_archive_failing"], 0)
    series = [p for p in (c.cold / "backup").iterdir() if len(list(p.glob("checkpoint-*"))) > 2]
    expect("older checkpoints went", series, [])


def refusals(c):
    empty = c.base / "empty"
    target = c.base / "target"
    target.mkdir()
    empty.mkdir()
    (empty / "granary.cold").write_text("")
    for url, words in ((empty, "holds no backup"), ("s3+https://host", "is no s3+https"),
                       ("s3+http://127.0.0.1:9/bucket?color=red", "no field 'color'"),
                       ("s3+http://127.0.0.1:9/bucket?region", "FIELD=VALUE")):
        p = c.server.cli("restore", url, target, check=False)
        if p.returncode == 0 or words.encode() not in p.stderr:
            lib.fail(f"{url}: {p.returncode} {p.stderr}")
    expect("nothing was made", list(target.iterdir()), [])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed")
    parser.add_argument("--kills", type=int, default=60 if LONG else 4)
    a = parser.parse_args()
    lib.need_programs()
    c = Case(lib.seed_of(a.seed))
    refusals(c)
    fill(c)
    whole(c, c.cold)
    killed(c, a.kills)
    damaged(c)
    unlisted(c)
    away(c)
    expect("stop", c.server.stop(), 0)
    print("test_backup_away: passed")


if __name__ == "__main__":
    main()
