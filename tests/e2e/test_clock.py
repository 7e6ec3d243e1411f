#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a wall clock that jumps a year either way expires nothing, deletes nothing and loses nothing (contract M).

Method: tests/shim/clock_jump.c moves CLOCK_REALTIME of a running granaryd while clients write, and across restarts. A key
that is valid for 30 days stays valid through every jump; one of a second ends by itself, also while the clock stands a
year back; the oracle finds everything that was acknowledged after each jump.

  test_clock.py [--seed S]
"""
import argparse
import subprocess
import sys
import time

import crash_lib as lib

SHIM = lib.BUILD / "tests" / "clock_jump.so"
YEAR = 365 * 86400


def ls_as(server, credentials):
    """Exit code and text of a listing with another key."""
    p = subprocess.run([str(lib.GRANARY), "ls", f"{server.url}/oracle/", "--credentials", str(credentials)],
                       env=server.client_env(), capture_output=True, text=True, check=False, timeout=120)
    return p.returncode, p.stdout + p.stderr


def make_key(server, path, expires):
    server.cli("key", "create", server.url, "--grant", "read:oracle", "--expires", expires, "-o", str(path))
    return path


def must_be_valid(server, key, when):
    code, text = ls_as(server, key)
    if code != 0:
        lib.fail(f"{when}: a key of 30 days is refused: exit code {code}: {text}")


def end_comes(server, key, when):
    """A key of one second is refused in the end; no time is judged but a generous limit."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        code, _ = ls_as(server, key)
        if code == 5:
            return
        time.sleep(0.2)
    lib.fail(f"{when}: a key of one second is still valid after 60 s")


def set_clock(path, seconds):
    path.write_text(f"{seconds}\n")
    time.sleep(1)  # several passes of the background jobs see it


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int)
    o = p.parse_args()
    lib.need_programs()
    if lib.SANITIZED:
        lib.skip("a preloaded shim does not go before a sanitizer's runtime")
    if not SHIM.exists():
        lib.skip("clock_jump.so is not built")
    seed = lib.seed_of(o.seed)
    base = lib.scratch("clock")
    jump = base / "jump"
    jump.write_text("0\n")
    server = lib.Server(base, env={"LD_PRELOAD": str(SHIM), "CLOCK_JUMP_FILE": str(jump)})
    oracle = lib.Oracle(server, base, seed, timeout_ms=60000)
    server.start()
    oracle.begin(seconds=1)
    oracle.wait()
    oracle.check()
    key = make_key(server, base / "month.credentials", "30d")
    must_be_valid(server, key, "before any jump")

    for name, seconds in (("a year ahead", YEAR), ("a year back", -YEAR), ("right again", 0)):
        oracle.begin()
        set_clock(jump, seconds)
        must_be_valid(server, key, f"clock {name}, while running")
        end_comes(server, make_key(server, base / f"short{seconds}.credentials", "1s"), f"clock {name}")
        oracle.end()
        counts = oracle.check()
        server.cli("check")
        print(f"clock {name}: answered={counts['answered']} names={counts['names']} lost={counts['lost']}", flush=True)
    for name, seconds in (("a year ahead", YEAR), ("a year back", -YEAR)):
        server.kill()
        jump.write_text(f"{seconds}\n")
        server.start()
        must_be_valid(server, key, f"clock {name} at the start")
        oracle.begin(seconds=1)
        oracle.wait()
        counts = oracle.check()
        print(f"clock {name} at the start: answered={counts['answered']} names={counts['names']} lost={counts['lost']}",
              flush=True)
    years = {line[:4] for line in server.log.read_text().splitlines()}
    if len(years) < 3:
        lib.fail(f"the shim did not move the server's clock: its log has the years {sorted(years)}")
    server.cli("check")
    if server.stop() != 0:
        lib.fail("the server did not stop cleanly")
    print(f"ok seed={seed}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except lib.Broken as e:
        lib.fail(str(e))
