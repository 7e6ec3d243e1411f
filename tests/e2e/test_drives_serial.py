#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: of two hot directories one may be read-only, full or gone, at start and while running: its own packs are
affected and named, all else goes on, and what was acknowledged is there when it is back. Drives come and go while running.

Method: two ext4 of 256 MiB in loop devices. Objects of known bytes in four buckets, so that both drives hold packs; then
one fault at a time on the second drive: it turns read-only; the file system is shut down (every call fails); it is
filled to the last byte; the server is started without it, and with it mounted read-only. After each the first drive's
objects, the affected ones, new puts and `status` are judged; at the end a third directory is added, both others are
drained, with a kill -9 in the middle, and the store is read from what is left.

  test_drives_serial.py [--seed S]
"""
import argparse
import fcntl
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import time

import crash_lib as lib

BUCKETS = ["alpha", "beta", "gamma", "delta"]
GRACE_S = 120  # no time is judged; this only ends a test that hangs
EXT4_IOC_SHUTDOWN = 0x8004587D
GOING_NOLOGFLUSH = 2


class Drive:
    """An ext4 in a loop device, mounted at base/name."""

    def __init__(self, base, name):
        self.image, self.path = base / f"{name}.image", base / name
        self.path.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        p = subprocess.run(["losetup", "--find", "--show", str(self.image)], capture_output=True, text=True, check=False)
        if p.returncode != 0:
            lib.skip(f"no loop device here: {p.stderr.strip()}")
        self.device = p.stdout.strip()
        if self.mount().returncode != 0:
            self.detach()
            lib.skip("no loop mount here")

    def mount(self, *options):
        return subprocess.run(["mount", "-o", "errors=remount-ro", *options, self.device, str(self.path)], capture_output=True, check=False)

    def unmount(self):
        """Waits for the server to let go of it."""
        wait(lambda: subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode == 0,
             f"{self.path} stays busy")

    def make_readonly(self):
        """As after an error of the device: what is open stays open, and nothing can be written any more."""
        knob = pathlib.Path("/sys/fs/ext4") / os.path.basename(self.device) / "trigger_fs_error"
        if not os.access(knob, os.W_OK):
            return False
        knob.write_text("a test\n")
        return True

    def shut_down(self):
        fd = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", GOING_NOLOGFLUSH))
        os.close(fd)

    def fill(self):
        with open(self.path / "filler", "wb") as f:
            size = shutil.disk_usage(self.path).free
            while size > 4096:
                try:
                    os.posix_fallocate(f.fileno(), 0, size)
                    break
                except OSError:
                    size -= 1 << 20

    def detach(self):
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
        subprocess.run(["losetup", "-d", self.device], capture_output=True, check=False)


class Server(lib.Server):
    """Its packs lie in `hot`."""

    hot = ()

    def launch(self):
        args = [lib.GRANARYD, "--data", self.data, "--listen", f"unix:{self.socket}"]
        for path in self.hot:
            args += ["--hot", path]
        for name, value in self.settings.items():
            args += [f"--{name}", value]
        self.began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = lib.spawn(args, stdout=subprocess.PIPE, stderr=log, env=self.env)
        return self

    def drives(self):
        lines = self.cli("drive", "ls", "--json").stdout.decode().splitlines()
        return {d["path"]: d for d in map(json.loads, lines)}

    def status(self):
        return json.loads(self.cli("status", "--json").stdout)


def wait(condition, text):
    end = time.monotonic() + GRACE_S
    while not condition():
        if time.monotonic() > end:
            raise lib.Broken(f"not within {GRACE_S} s: {text}")
        time.sleep(0.1)


class Objects:
    """What was acknowledged."""

    def __init__(self, server, base, seed):
        self.server, self.base, self.random = server, base, random.Random(seed)
        self.bytes, self.count = {}, 0

    def put(self, count, size=200000):
        for _ in range(count):
            key = f"{BUCKETS[self.count % len(BUCKETS)]}/o{self.count}"
            data = self.random.randbytes(size)
            self.count += 1
            self.server.cli("cp", "-", f"{self.server.url}/{key}", input=data)
            self.bytes[key] = data

    def read(self):
        """Keys whose bytes came, and why the others did not. Wrong bytes end the test."""
        good, failed = [], {}
        for key, data in self.bytes.items():
            p = self.server.cli("cat", f"{self.server.url}/{key}", check=False)
            if p.returncode == 0 and p.stdout == data:
                good.append(key)
            elif p.returncode == 0:
                raise lib.Broken(f"{key}: other bytes")
            else:
                failed[key] = p.stderr.decode()
        return good, failed

    def read_all(self, when):
        failed = self.read()[1]
        if failed:
            raise lib.Broken(f"{when}: {len(failed)} of {len(self.bytes)} objects cannot be read: {next(iter(failed.items()))}")


def spread(server, objects, drive):
    """Both drives hold packs, and none is open."""
    for _ in range(20):
        objects.put(8)
        server.cli("bench", "put", "--count", "80", "--size", "256KiB", "--keep", f"{server.url}/{BUCKETS[0]}/fill")
        if all(d["packs"] >= 2 for path, d in server.drives().items() if path in map(str, server.hot)):
            break
    else:
        raise lib.Broken(f"packs do not spread over the drives: {server.drives()}")
    if str(drive.path) not in server.drives():
        raise lib.Broken("drive ls does not name it")


def expect_affected(server, objects, drive, when):
    """It is offline, and says so; the rest goes on."""
    wait(lambda: server.drives()[str(drive.path)]["health"] == "offline", f"{when}: offline")
    good, failed = objects.read()
    if not good or not failed:
        raise lib.Broken(f"{when}: {len(good)} objects can be read, {len(failed)} cannot")
    for key, text in failed.items():
        if "offline" not in text:
            raise lib.Broken(f"{when}: {key} fails with: {text}")
    status = server.status()
    away = [v for k, v in status.items() if k.endswith("_away")]
    if status["drives_offline"] != 1 or status["offline_packs"] == 0 or status["offline_bytes"] == 0 or len(away) != 1 or \
            str(drive.path) not in away[0] or not any(b in away[0] for b in BUCKETS):
        raise lib.Broken(f"{when}: status does not name what is affected: {away} {status['drives_offline']}")
    objects.put(12)
    print(f"{when}: {len(good)} objects read, {len(failed)} refused: {away[0]}", flush=True)


def expect_back(server, objects, drive, when):
    wait(lambda: server.drives()[str(drive.path)]["health"] == "online", f"{when}: online again")
    objects.read_all(when)
    objects.put(4)
    print(f"{when}: back, {len(objects.bytes)} objects read", flush=True)


def fault_shut_down(server, objects, drive):
    drive.shut_down()
    objects.put(12)  # packs that were open there are given up, nothing is refused
    expect_affected(server, objects, drive, "shut down while running")
    drive.unmount()  # the server keeps nothing of it open
    drive.mount()
    expect_back(server, objects, drive, "mounted again")


def fault_readonly(server, objects, drive):
    if drive.make_readonly():
        wait(lambda: objects.put(4, 20000) or server.drives()[str(drive.path)]["health"] == "read-only",
             f"read-only is noticed: {server.drives()[str(drive.path)]}")
        objects.put(8)
        objects.read_all("read-only while running")
        print("read-only while running: all read, puts go on", flush=True)
    if server.stop() != 0:
        raise lib.Broken("the server did not stop cleanly with a drive that is read-only")
    drive.unmount()
    drive.mount("-o", "ro")
    server.start()
    if server.drives()[str(drive.path)]["health"] != "read-only":
        raise lib.Broken(f"started on a read-only drive: {server.drives()[str(drive.path)]}")
    objects.put(8)
    objects.read_all("started on a read-only drive")
    server.stop()
    drive.unmount()
    drive.mount()
    server.start()
    expect_back(server, objects, drive, "writable again")


def fault_full(server, objects, drive):
    drive.fill()
    before = server.drives()[str(drive.path)]["packs"]
    objects.put(60, 500000)
    after = server.drives()[str(drive.path)]
    if after["health"] != "online" or after["packs"] > before:
        raise lib.Broken(f"a full drive: {after}")
    objects.read_all("one drive full")
    os.unlink(drive.path / "filler")
    print("full while running: puts went to the other one", flush=True)


def fault_gone_at_start(server, objects, drive):
    server.stop()
    drive.unmount()
    server.start()
    expect_affected(server, objects, drive, "not mounted at start")
    drive.mount()
    expect_back(server, objects, drive, "mounted while running")


def drained(server, path):
    return server.drives()[str(path)]["state"] == "drained"


def add_and_drain(server, objects, drives, base):
    third = base / "third"
    third.mkdir()
    server.cli("drive", "add", third)
    server.cli("drive", "drain", drives[1].path)
    server.cli("drive", "drain", "--cancel", drives[1].path)
    if server.drives()[str(drives[1].path)]["state"] != "active":
        raise lib.Broken("a drain cannot be cancelled")
    for drive in drives:
        server.cli("drive", "drain", drive.path)
    server.kill()
    server.start()
    objects.put(8)
    for drive in drives:
        wait(lambda d=drive: drained(server, d.path), f"{drive.path} drained: {server.drives()[str(drive.path)]}")
        drive.unmount()
        drive.mount()
        left = [p for p in drive.path.rglob("*.pack")]
        if left:
            raise lib.Broken(f"a drained drive holds {left[:3]}")
        drive.unmount()
    objects.read_all("all drives but the third drained and away")
    server.cli("check")
    p = server.cli("drive", "drain", third, check=False)
    if p.returncode == 0 or b"add one first" not in p.stderr:
        raise lib.Broken(f"the last drive can be drained: {p.stderr.decode()}")
    server.stop()
    server.hot = ()
    server.start()
    objects.read_all("restarted without them")
    server.stop()
    code, text = lib.fsck([third], "--headers")
    if code != 0:
        raise lib.Broken(f"granary-fsck: {text[-2000:]}")
    print(f"added one, drained two with a kill -9 between: {len(objects.bytes)} objects read", flush=True)


def run(base, drives, seed):
    server = Server(base, settings={"job-interval": "200ms", "reserve": "16MiB"})
    server.hot = [d.path for d in drives]
    server.start()
    for bucket in BUCKETS:
        server.cli("bucket", "create", f"{server.url}/{bucket}")
    objects = Objects(server, base, seed)
    spread(server, objects, drives[1])
    fault_shut_down(server, objects, drives[1])
    fault_full(server, objects, drives[1])
    fault_gone_at_start(server, objects, drives[1])
    fault_readonly(server, objects, drives[1])
    add_and_drain(server, objects, drives, base)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    seed = lib.seed_of(o.seed)
    if os.geteuid() != 0:
        lib.skip("a loop mount needs root")
    for tool in ("mkfs.ext4", "mount", "umount", "losetup"):
        if not shutil.which(tool):
            lib.skip(f"{tool} is not there")
    base = lib.scratch("drives")
    drives, failed = [Drive(base, name) for name in ("first", "second")], None
    try:
        run(base, drives, seed)
    except lib.Broken as e:
        failed = str(e)
        print(pathlib.Path(base / "granaryd.log").read_text()[-4000:])
    lib._end_children()
    for drive in drives:
        drive.detach()
    if failed:
        lib.keep(base)
        print(f"FAIL {failed}\nseed={seed}")
        return 1
    print(f"ok seed={seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
