#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: random calls on a file of a mounted bucket give what they give on ext4, byte by byte (tests/posix/random_ops.c):
on one mount, over two mounts of the bucket (each closing is followed by an opening at any of them), and on one while the
server is killed. Method: on the classic transport, over io_uring where the kernel has it, with the server's engine of threads;
3,000 calls each, 1,000,000 with --long."""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import threading

from crash_lib import BUILD, GRANARY, GRANARYD, LONG, SANITIZED, Server, fail, scratch, seed_of, skip, spawn
from stream_lib import Command, check
from test_mount_live import MOUNT, Mount

RANDOM_OPS = BUILD / "tests" / "random_ops"
CALLS = 125_000 if LONG else 400 if SANITIZED else 1500  # of one file; each kind of run has several


def transports():
    try:
        uring = pathlib.Path("/sys/module/fuse/parameters/enable_uring").read_text().strip() == "Y"
    except OSError:
        uring = False
    if not uring:
        print("not tried: FUSE over io_uring (/sys/module/fuse/parameters/enable_uring is not Y)")
    return ["classic", "uring"] if uring else ["classic"]


class Killer:
    """Kills the server and starts it again, over and over."""

    def __init__(self, server, every_s):
        self.server, self.every_s, self.stop, self.kills = server, every_s, threading.Event(), 0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.wait(self.every_s):
            self.server.kill()
            self.server.start()
            self.kills += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()


def calls(local, ats, seeds, count, span):
    """All of them at once, each on its own file."""
    running = []
    for seed in seeds:
        args = [RANDOM_OPS, "--local", local, "--ops", count, "--seed", seed, "--span", span]
        for at in ats:
            args += ["--at", at]
        running.append((seed, spawn(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)))
    for seed, p in running:
        out = p.communicate(timeout=10_000 if LONG else 300)[0].decode()
        check(p.returncode == 0, f"random_ops: {p.returncode}\n{out[-6000:]}\nseed {seed}, span {span}, {len(ats)} mounts")
        print(out.strip(), flush=True)


def whole(transport, engine, seed, count):
    base = scratch("random")
    local = base / "local"
    local.mkdir()
    server = Server(base, engine=engine)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    mounts = [Mount(cmd, "data", base / f"mnt{i}", f"transport={transport}", "deadline=60s").start() for i in range(2)]
    print(f"{transport}, {engine or 'uring'}: one mount, two mounts, the server killed", flush=True)
    calls(local, [mounts[0].at], [seed, seed + 1], count, 1 << 20)
    calls(local, [m.at for m in mounts], [seed + 2], count, 1 << 18)
    calls(local, [mounts[0].at], [seed + 3], count, 9 << 20)
    # On one: what is not durable yet of a file that another mount then replaced cannot be done again, and sync says so.
    with Killer(server, 2 if LONG else 0.3) as killer:
        calls(local, [mounts[1].at], [seed + 4], count // 2, 1 << 20)
    print(f"{killer.kills} kills")
    for m in mounts:
        m.stop()
    server.kill()
    server.start()
    cmd.run("check")
    check(server.stop() == 0, "the server ends")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    p.add_argument("--calls", type=int, default=CALLS)
    args = p.parse_args()
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or not all(x.exists() for x in (GRANARY, GRANARYD, MOUNT)):
        skip("needs /dev/fuse, root and granary-mount")
    seed = seed_of(args.seed)
    for i, transport in enumerate(transports()):
        whole(transport, None, seed + 10 * i, args.calls)
    whole("classic", "threads", seed + 100, args.calls // 2)
    print("passed")


if __name__ == "__main__":
    main()
