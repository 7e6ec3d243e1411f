#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a database on a mounted bucket is whole, and has every committed transaction, after kill -9 of who writes to it, of
the server and of the mount's program, in turn. Method: SQLite with synchronous=FULL, so that a commit is an fsync; the
writer tells each commit over a pipe; after each kill: PRAGMA integrity_check, all rows that were told, each with its
bytes, and no part of a transaction. Both transports and the server's engine of threads; all journal modes with --long."""
import os
import random
import select
import sqlite3
import subprocess
import sys
import time

from crash_lib import GRANARY, GRANARYD, LONG, Server, scratch, seed_of, skip, spawn
from stream_lib import Command, check
from test_mount_live import MOUNT, Mount
from test_mount_random import transports

ROUNDS = 60 if LONG else 3  # of each journal mode
ROWS = 20  # of a transaction

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("pragma synchronous=full")
db.execute("create table if not exists t(n integer, k integer, b blob, primary key (n, k))")
first = (db.execute("select max(n) from t").fetchone()[0] or 0) + 1
for n in range(first, first + 1000000):
    db.execute("begin immediate")
    for k in range(ROWS):
        db.execute("insert into t values(?, ?, ?)", (n, k, bytes([n % 251, k]) * (40 + n * 7 % 900)))
    if n % 5 == 0:
        db.execute("update t set b = b where n = ?", (n - 3,))
    db.execute("commit")
    print(n, flush=True)
"""


def told(writer, seconds):
    """The last commit that the writer told of within this time, at least one."""
    last, end, text = 0, time.monotonic() + seconds, b""
    while last == 0 or time.monotonic() < end:
        ready, _, _ = select.select([writer.stdout], [], [], 0.05)
        got = os.read(writer.stdout.fileno(), 65536) if ready else b""
        check(got or not ready, "the writer ended by itself")
        text += got
        whole = text[:text.rfind(b"\n") + 1].split()
        last = int(whole[-1]) if whole else 0
    return last


def rest(writer):
    """What a killed writer told besides."""
    words = writer.communicate()[0].rpartition(b"\n")[0].split()
    return int(words[-1]) if words else 0


def judge(path, least, what):
    db = sqlite3.connect(path, timeout=60)
    check(db.execute("pragma integrity_check").fetchall() == [("ok",)], f"{what}: integrity_check")
    rows = db.execute("select n, count(*) from t group by n order by n").fetchall()
    check([n for n, _ in rows] == list(range(1, len(rows) + 1)), f"{what}: transactions are missing")
    check(all(count == ROWS for _, count in rows), f"{what}: part of a transaction")
    check(len(rows) >= least, f"{what}: {least} transactions were committed, {len(rows)} are there")
    for n, k, b in db.execute("select n, k, b from t"):
        check(b == bytes([n % 251, k]) * (40 + n * 7 % 900), f"{what}: row {n}, {k} has other bytes")
    db.close()


def turn(server, mount, path, mode, victim, pick, least):
    writer = spawn([sys.executable, "-c", WRITER.replace("ROWS", str(ROWS)), path, mode], stdout=subprocess.PIPE,
                   stderr=subprocess.DEVNULL)
    last = told(writer, pick.uniform(0.2, 0.6))
    if victim == "server":
        server.kill()
        server.start()
        last = max(last, told(writer, 0.2))  # it goes on
    elif victim == "mount":
        mount.kill()
    writer.kill()
    last = max(last, least, rest(writer))
    if victim == "mount":
        mount.start()
    judge(path, last, f"{mode}, {victim} killed")
    return last


def whole(transport, engine, pick):
    base = scratch("sqlite")
    server = Server(base, engine=engine)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    mount = Mount(cmd, "data", base / "mnt", f"transport={transport}", "deadline=60s").start()
    for mode in ("delete", "truncate", "persist") if LONG else ("delete",):
        last = 0
        for i in range(ROUNDS):
            last = turn(server, mount, mount.at / mode, mode, ("writer", "server", "mount")[i % 3], pick, last)
        print(f"{transport}, {engine or 'uring'}, {mode}: {ROUNDS} kills, {last} transactions", flush=True)
    mount.stop()
    check(server.stop() == 0, "the server ends")


def main():
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or not all(x.exists() for x in (GRANARY, GRANARYD, MOUNT)):
        skip("needs /dev/fuse, root and granary-mount")
    pick = random.Random(seed_of(sys.argv[1] if len(sys.argv) > 1 else None))
    for transport in transports():
        whole(transport, None, pick)
    whole("classic", "threads", pick)
    print("passed")


if __name__ == "__main__":
    main()
