#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a full disk refuses writes clearly and loses nothing; reads, deletes and compaction go on; writes come back by
themselves (contract H).

Method: a store with packs of 16 MiB on an ext4 of 256 MiB in a loop device. The oracle fills it until puts are refused
with NOSPACE, goes on reading, overwriting and deleting while it is full, deletes most of it, and must then get puts
through without anybody touching the server. Several times over; at the end kill -9 while full, and a restart.

  test_full_disk_serial.py [--seed S]
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import crash_lib as lib

CYCLES = 2 if lib.BRIEF else 12 if lib.LONG else 4
NOSPACE = "-10"
MANY = {"files": 60, "no_renames": True, "timeout_ms": 60000}
GRACE_S = 120  # no time is judged; this only ends a test that hangs


def mount(base):
    """256 MiB of ext4, unmounted when the test ends."""
    if os.geteuid() != 0:
        lib.skip("a loop mount needs root")
    for tool in ("mkfs.ext4", "mount", "umount"):
        if not shutil.which(tool):
            lib.skip(f"{tool} is not there")
    image, root = base / "disk", base / "mnt"
    root.mkdir()
    with open(image, "wb") as f:
        f.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    p = subprocess.run(["mount", "-o", "loop", str(image), str(root)], capture_output=True, text=True, check=False)
    if p.returncode != 0:
        lib.skip(f"no loop mount here: {p.stderr.strip()}")
    return root


def refusals(log):
    """(entries refused with NOSPACE, entries done) in a log."""
    full = done = 0
    for line in pathlib.Path(log).read_text(errors="replace").splitlines():
        words = line.split()
        if words and words[0] == "A":
            full += words[5:].count(NOSPACE)
            done += words[5:].count("0")
    return full, done


def fill(oracle):
    """Until refused; then a while longer, full."""
    oracle.begin(**MANY)
    end = time.monotonic() + GRACE_S
    while refusals(oracle.log)[0] < 20:
        if oracle.writer.poll() is not None:
            oracle.wait()
        if time.monotonic() > end:
            raise lib.Broken(f"the disk was not filled in {GRACE_S} s: {refusals(oracle.log)}")
        time.sleep(0.1)
    time.sleep(2)
    oracle.end()
    return refusals(oracle.log)


def puts_return(server, oracle):
    """Seconds until a put was done again."""
    began = time.monotonic()
    while time.monotonic() < began + GRACE_S:
        p = server.cli("cp", "-", f"{server.url}/probe/x", check=False, input=b"x" * 100000)
        if p.returncode == 0:
            return time.monotonic() - began
        text = p.stderr.decode()
        if "no space" not in text:
            raise lib.Broken(f"a put on a full disk failed otherwise: {text}")
        time.sleep(0.05)
    raise lib.Broken(f"puts did not come back in {GRACE_S} s after deletes; the end of the log:\n{server.tail(30)}")


def compacted(server):
    m = re.search(r'"jobs_removed_packs": ?"?(\d+)', server.cli("status", "--json").stdout.decode())
    return int(m.group(1)) if m else 0


def run(base, root, seed):
    server = lib.Server(base, settings={"job-interval": "150ms", "compact-dead": "10%"})
    server.data = root / "data"
    server.data.mkdir()
    server.credentials = server.data / "root.credentials"
    oracle = lib.Oracle(server, base, seed)
    server.start()
    server.cli("bucket", "create", f"{server.url}/probe")
    waits, first = [], None
    for cycle in range(CYCLES):
        full, done = fill(oracle)
        first = first or done
        if done < first / 10:  # a probe that fits somewhere is not enough
            raise lib.Broken(f"space did not come back: {done} changes were done before the disk was full again, {first} the "
                             f"first time; the end of the log:\n{server.tail(30)}")
        counts = oracle.check()  # reads go on
        free = shutil.disk_usage(root).free >> 20
        oracle.begin(leave_percent=25, timeout_ms=60000)
        drained = oracle.wait()  # deletes go on
        if full == 0 or int(drained["refused"]) > 0:
            raise lib.Broken(f"deletes were refused on a full disk: {drained}")
        waits.append(puts_return(server, oracle))
        after = oracle.check()
        print(f"cycle {cycle + 1}: done={done} refused={full} names={counts['names']} left={after['names']} free={free} MiB "
              f"puts back after {waits[-1]:.2f} s packs removed so far={compacted(server)}", flush=True)
    fill(oracle)
    server.kill()
    server.start()
    oracle.check()
    server.cli("check")
    print(f"after kill -9 on a full disk: restart {server.starts_ms[-1]:.0f} ms, nothing lost")
    if server.stop() != 0:
        raise lib.Broken("the server did not stop cleanly on a full disk")
    code, text = lib.fsck(server.packs(), "--headers")
    if code != 0:
        raise lib.Broken(f"granary-fsck: {text[-2000:]}")
    print(f"answered={oracle.totals['answered']} lost={oracle.totals['lost']} torn={oracle.totals['torn']} "
          f"puts back after at most {max(waits):.2f} s")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    seed = lib.seed_of(o.seed)
    base = lib.scratch("full")
    root = mount(base)
    failed = None
    try:
        run(base, root, seed)
    except lib.Broken as e:
        failed = str(e)
        print(pathlib.Path(base / "granaryd.log").read_text()[-3000:])
    lib._end_children()
    subprocess.run(["umount", str(root)], check=False)
    if failed:
        lib.keep(base)
        print(f"FAIL {failed}\nseed={seed} disk image kept: {base / 'disk'}")
        return 1
    print(f"ok seed={seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
