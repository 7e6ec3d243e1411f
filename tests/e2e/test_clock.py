#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a wall clock that jumps a year either way expires nothing, moves nothing, deletes nothing and loses nothing
(contract M); a stop of a year counts once an admin says so.

Method: tests/shim/clock_jump.c moves CLOCK_REALTIME of a running granaryd while clients write, and across restarts. A key
that is valid for 30 days stays valid through every jump; one of a second ends by itself, also while the clock stands a
year back; the oracle finds everything that was acknowledged after each jump. Rules that move after 30 days and delete after
60 are in force all the while, and do nothing; after `clock accept` of a stop of a year they do.

  test_clock.py [--seed S]
"""
import argparse
import json
import subprocess
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


class Rules:
    """Packs that a rule would move after 30 days, objects that another would delete after 60."""

    TEXT = ("rules:\n"
            " - { name: cool, match: { bucket: cooled }, idle: 30d, to: archive }\n"
            " - { name: last, match: { bucket: ruled, glob: 'runs/*' }, keep_last: 1, age: 60d, delete: true }\n"
            " - { name: scratch, match: { bucket: ruled, prefix: tmp/ }, age: 60d, delete: true }\n")

    def __init__(self, server, base):
        self.server = server
        for bucket in ("ruled", "cooled"):
            server.cli("bucket", "create", f"{server.url}/{bucket}")
        server.cli("cp", "-", f"{server.url}/cooled/1", input=b"cool" * 1000)
        for key in ("tmp/1", "runs/1/x", "runs/2/x", "held/1"):
            server.cli("cp", "-", f"{server.url}/ruled/{key}", input=key.encode() * 1000)
        path = base / "rules.yaml"
        path.write_text(self.TEXT)
        server.cli("tier", "apply", path, "--yes-delete")
        self.all = self.keys()

    def status(self):
        return json.loads(self.server.cli("status", "--json").stdout)

    def keys(self):
        out = self.server.cli("ls", "-r", "--json", f"{self.server.url}/ruled").stdout.decode().splitlines()
        return {e["key"] for e in map(json.loads, filter(None, out)) if e["type"] == "file"}

    def passes(self, count):
        """So many passes over the rules went by since now."""
        first, end = self.status()["rules_passes"], time.monotonic() + 60
        while self.status()["rules_passes"] < first + count:
            if time.monotonic() > end:
                lib.fail("no pass over the rules within 60 s")
            time.sleep(0.1)

    def must_do_nothing(self, when):
        self.passes(2)
        s = self.status()
        for name in ("moved_to_cold", "moves_evicted", "rules_deleted_objects", "rules_tasks_started", "cold_removed"):
            if s[name] != 0:
                lib.fail(f"{when}: rules did something: {name}={s[name]}")
        if self.keys() != self.all:
            lib.fail(f"{when}: names are gone: {self.all - self.keys()}")

    def must_do_all(self, when):
        wanted, end = {"held/1", "runs/2/x"}, time.monotonic() + 60
        while self.keys() != wanted or self.status()["moved_to_cold"] == 0:
            if time.monotonic() > end:
                lib.fail(f"{when}: {self.keys()} are left, moved_to_cold={self.status()['moved_to_cold']}")
            time.sleep(0.2)


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
    jump, boot = base / "jump", base / "boot"
    jump.write_text("0\n")
    boot.write_text("0\n")
    (base / "cold").mkdir()
    server = lib.Server(base, env={"LD_PRELOAD": str(SHIM), "CLOCK_JUMP_FILE": str(jump),
                                    "CLOCK_JUMP_BOOT_FILE": str(boot)}, settings={
        "stores": f"archive,type=directory,path={base / 'cold'}", "rules-interval": "200ms"})
    oracle = lib.Oracle(server, base, seed, timeout_ms=60000)
    server.start()
    oracle.begin(seconds=1)
    oracle.wait()
    oracle.check()
    key = make_key(server, base / "month.credentials", "30d")
    must_be_valid(server, key, "before any jump")
    rules = Rules(server, base)
    rules.must_do_nothing("before any jump")

    for name, seconds in (("a year ahead", YEAR), ("a year back", -YEAR), ("right again", 0)):
        oracle.begin()
        set_clock(jump, seconds)
        must_be_valid(server, key, f"clock {name}, while running")
        end_comes(server, make_key(server, base / f"short{seconds}.credentials", "1s"), f"clock {name}")
        rules.must_do_nothing(f"clock {name}, while running")
        oracle.end()
        counts = oracle.check()
        server.cli("check")
        print(f"clock {name}: answered={counts['answered']} names={counts['names']} lost={counts['lost']}", flush=True)
    for name, seconds in (("a year ahead", YEAR), ("a year back", -YEAR)):
        server.kill()
        jump.write_text(f"{seconds}\n")
        server.start()
        must_be_valid(server, key, f"clock {name} at the start")
        rules.must_do_nothing(f"clock {name} at the start")
        oracle.begin(seconds=1)
        oracle.wait()
        counts = oracle.check()
        print(f"clock {name} at the start: answered={counts['answered']} names={counts['names']} lost={counts['lost']}",
              flush=True)
    server.kill()
    boot.write_text(f"{YEAR}\n")  # the machine slept, and its clock is right
    jump.write_text("0\n")
    server.start()
    rules.must_do_nothing("a stop of a year that nobody accepted")
    server.cli("clock", "accept", "--yes", server.url)
    rules.must_do_all("a stop of a year that was accepted")
    years = {line[:4] for line in server.log.read_text().splitlines()}
    if len(years) < 3:
        lib.fail(f"the shim did not move the server's clock: its log has the years {sorted(years)}")
    server.cli("check")
    if server.stop() != 0:
        lib.fail("the server did not stop cleanly")
    print(f"ok seed={seed}")
    return 0


if __name__ == "__main__":
    lib.run(main)
