#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: metadata that is lost comes back from the backup with everything that was acknowledged up to the end of its log,
and nothing is named twice after an old backup was put back.

Method: the oracle writes while checkpoints are made; the server is killed in the middle, its metadata is deleted (then
the whole directory but the packs), `granary restore` runs, itself killed at many moments, and the oracle judges. The
oracle writes nothing in the last seconds before the kill, so that the log has all of it.

  test_backup.py [--seed S]
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import time

import crash_lib as lib

EVERY = "1s"


def lines(process):
    return [json.loads(line) for line in process.stdout.decode().splitlines()]


def status(server):
    return json.loads(server.cli("status", "--json").stdout)


def wait_for(what, fn):
    end = time.monotonic() + 120
    while not (found := fn()):
        if time.monotonic() > end:
            lib.fail(f"{what} did not come within 120 s")
        time.sleep(0.05)
    return found


def log_is_whole(server):
    """All that was committed stands in the log: two turns of its thread have passed since."""
    before = int(status(server)["backup_log_groups"])
    time.sleep(2.5)
    return int(status(server)["backup_log_groups"]) == before


def restore(server, backup, *options, code=0):
    p = server.cli("restore", backup, server.data, "--json", *options, check=False)
    if p.returncode != code:
        lib.fail(f"restore: exit code {p.returncode}, not {code}\n{p.stdout.decode()}{p.stderr.decode()}")
    return lines(p)


def restore_killed(server, backup, rng_ms):
    """Killed at some moment, again and again; nothing of a half made one is taken for metadata."""
    for ms in rng_ms:
        p = lib.spawn([lib.GRANARYD, "--restore", backup, "--data", server.data], stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL)
        time.sleep(ms / 1000)
        p.send_signal(signal.SIGKILL)
        p.wait()
        if (server.data / "meta").exists():
            return  # it was faster
        if server.launch().wait_ready() is not None:
            lib.fail(f"the server started without metadata after a restore that was killed after {ms} ms")
        server.kill()


def lose(server, *names):
    for name in names:
        path = server.data / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_refusals(server, backup, base):
    """Every refusal names the thing, and changes nothing."""
    before = sorted(os.listdir(server.data))
    cases = [((backup, server.data), "holds metadata"), ((base / "none", server.data), "cannot open"),
             ((base, server.data), "holds metadata"), ((backup, base / "none"), "cannot open")]
    for (source, target), text in cases:
        p = server.cli("restore", source, target, check=False)
        if p.returncode != 1 or text not in p.stderr.decode():
            lib.fail(f"restore {source} {target}: exit code {p.returncode}: {p.stderr.decode()}")
    empty = base / "empty"
    empty.mkdir()
    p = server.cli("restore", base, empty, check=False)
    if p.returncode != 1 or "holds no backup" not in p.stderr.decode():
        lib.fail(f"restore of no backup: exit code {p.returncode}: {p.stderr.decode()}")
    if sorted(os.listdir(server.data)) != before:
        lib.fail("a refused restore changed the data directory")


def second_reader(server, backup):
    """tools/granary-fsck, written from docs/FORMAT.md alone, finds no fault; and the one that is made."""
    code, text = lib.fsck(["backup", backup, server.data])
    if code != 0 or " 0 problems" not in text or " 0 extents" in text:
        lib.fail(f"granary-fsck backup: exit code {code}: {text}")
    for _ in range(5):  # the newest file may be of a checkpoint that is being made, or has just gone
        victim = sorted(backup.glob("files/*.sst"))[-1]
        good = victim.read_bytes()
        raw = bytearray(good)
        raw[len(raw) // 2] ^= 4
        victim.write_bytes(raw)
        code, text = lib.fsck(["backup", backup])
        victim.write_bytes(good)
        if code == 1 and victim.name in text:
            return
        time.sleep(1)
    lib.fail(f"granary-fsck did not find a flipped bit: exit code {code}: {text}")


def put_before_the_stop(server):
    """So that the logs that are kept name records: those are the logs of the last few seconds."""
    server.cli("bucket", "create", f"{server.url}/looked-up")
    for i in range(5):
        server.cli("cp", str(lib.FSCK), f"{server.url}/looked-up/{i}")


def round_of_loss(server, oracle, backup, names, killed=()):
    server.start()
    oracle.begin(seconds=3)
    oracle.wait()
    wait_for("the end of the log", lambda: log_is_whole(server))
    made = int(status(server)["backup_number"])
    server.kill()
    incarnation = int((server.data / "granary.super").read_text().split("incarnation=")[1].split()[0])
    lose(server, *names)
    if server.launch().wait_ready() is not None:
        lib.fail("the server started without its metadata")
    server.kill()
    lose(server, *names)
    restore_killed(server, backup, killed)
    if not (server.data / "meta").exists():
        out = restore(server, backup)[-1]
        if out["checkpoint"] < made or out["gap"]:
            lib.fail(f"restore took {out}, the server had made checkpoint {made}")
    server.start()
    counts = oracle.check()
    server.cli("check")
    now = int((server.data / "granary.super").read_text().split("incarnation=")[1].split()[0])
    if now <= incarnation:
        lib.fail(f"incarnation {now} after a restore, {incarnation} before: ids would be used twice")
    print(f"lost {' '.join(names)}: answered={counts['answered']} names={counts['names']} lost={counts['lost']} "
          f"incarnation {incarnation} -> {now}", flush=True)


def old_backup(server, oracle, backup, base):
    """An older checkpoint: what came after it is gone, its packs are set aside, and its ids are not given out again."""
    server.cli("backup")
    number = int(status(server)["backup_number"])
    oracle.begin(seconds=2)
    oracle.wait()
    server.cli("cp", str(lib.FSCK), f"{server.url}/oracle/late")
    incarnation = int(status(server)["incarnation"])
    server.kill()
    old = base / "old-backup"
    shutil.copytree(backup, old)
    lose(server, "meta", "granary.super")
    restore(server, old, "--checkpoint", number, code=0)
    server.start()
    if int(status(server)["incarnation"]) <= incarnation:
        lib.fail("an old backup was restored and its incarnation is used again")
    if server.cli("cat", f"{server.url}/oracle/late", check=False).returncode == 0:
        lib.fail("an object of after the checkpoint is there")
    server.cli("ls", "-r", f"{server.url}/oracle/")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    seed = lib.seed_of(o.seed)
    base = lib.scratch("backup")
    backup = base / "backup"
    backup.mkdir()
    server = lib.Server(base, settings={"backup": str(backup), "backup-every": EVERY})
    oracle = lib.Oracle(server, base, seed, timeout_ms=60000)
    round_of_loss(server, oracle, backup, ["meta"], killed=(2, 5, 10, 20, 40))
    put_before_the_stop(server)
    server.stop()
    second_reader(server, backup)
    check_refusals(server, backup, base)
    round_of_loss(server, oracle, backup, ["meta", "granary.super", "master.key", "lock", "ballast"])
    old_backup(server, oracle, backup, base)
    server.stop()


if __name__ == "__main__":
    lib.run(main)
