#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a mounted bucket is a POSIX file system: tests/posix/posix_suite.py, call by call and errno by errno, is green on a
directory of the local disk and then on a mount, on the classic transport and over io_uring where the kernel has it. What
differs by agreement is listed in DIFFERS, each with its reason, and must go on differing."""
import os
import pathlib
import subprocess
import sys

from crash_lib import GRANARY, GRANARYD, Server, fail, scratch, skip
from stream_lib import Command
from test_mount_live import MOUNT, Mount

SUITE = pathlib.Path(__file__).resolve().parents[1] / "posix" / "posix_suite.py"
DIFFERS = ["file_without_a_name"]  # O_TMPFILE is refused with EOPNOTSUPP, and programs make a file with a name then


def run(directory, differs):
    args = [sys.executable, str(SUITE), str(directory)]
    for name in differs:
        args += ["--differs", name]
    p = subprocess.run(args, capture_output=True, text=True, timeout=500, check=False)
    print(f"{directory}: {p.stdout.strip()[-3000:]}{p.stderr[-500:]}", flush=True)
    return p.returncode == 0


def main():
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or not all(p.exists() for p in (GRANARY, GRANARYD, MOUNT)):
        skip("needs /dev/fuse, root and granary-mount")
    base = scratch("posix")
    os.chmod(base, 0o755)
    (base / "local").mkdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(base)], capture_output=True, text=True, check=False).stdout.strip()
    if not kind.startswith("ext"):
        print(f"the local file system is {kind}, not ext4: the suite is not judged there")
    elif not run(base / "local", []):
        fail("the suite is not green on ext4")
    server = Server(base)
    server.start()
    cmd = Command(server)
    transports = ["classic"]
    try:
        if pathlib.Path("/sys/module/fuse/parameters/enable_uring").read_text().strip() == "Y":
            transports.append("uring")
    except OSError:
        pass
    for transport in transports:
        cmd.run("bucket", "create", f"{server.url}/{transport}")
        mount = Mount(cmd, transport, base / f"mnt-{transport}", f"transport={transport}").start()
        green = run(mount.at, DIFFERS)
        mount.stop()
        if not green:
            fail(f"{transport}: differs from ext4")
    if server.stop() != 0:
        fail("the server did not end well")
    print("passed")


if __name__ == "__main__":
    main()
