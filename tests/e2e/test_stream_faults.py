#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what happens to the server in mid-epoch happens to a stream as promised: away for a while or killed, it goes on and
gives every sample once, also where ranks share lanes; away for longer than the stall timeout, one clear error on the rank
that stalls; snapshot forced away, or key removed: an error that says so; a bucket with a snapshot in use is not removed.
"""
import io
import os
import signal
import sys
import tarfile
import time

from crash_lib import Server, need_programs, scratch
from stream_lib import Command, check

FILES = 1200
LONG = os.environ.get("GRANARY_TEST_LONG") == "1"
SMALL = ("--batch", "4", "--tar", "-q", "--memory", "1MiB", "--read-ahead", "2", "--seed", "5", "--mode", "blocks")


def begin(cmd, *more):
    """A stream that has given a batch and now waits for its reader: bytes of samples fill the pipe and its memory."""
    p = cmd.start("stream", "data@v1", *SMALL, *map(str, more))
    return p, p.stdout.read(512)


def rest(p, first):
    out, err = p.stdout.read(), p.stderr.read()  # communicate() would lose what read() read ahead
    return p.wait(timeout=300), first + out, err.decode()


def check_once(ends, samples, what):
    check(all(code == 0 for code, _, _ in ends), f"{what}: {[e[-200:] for c, _, e in ends if c]}")
    names = [m.name for _, out, _ in ends for m in tarfile.open(fileobj=io.BytesIO(out)) if m.isfile()]
    check(len(names) == len(set(names)) == samples, f"{what}: {len(names)} samples, {len(set(names))} of {samples}")


def test_away(cmd, samples, seconds):
    """A world of 7, where ranks share lanes: the server is stopped, it answers nothing, and goes on."""
    ranks = [begin(cmd, "--rank", r, "--world", 7, "--job", "away") for r in range(7)]
    os.kill(cmd.server.process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(cmd.server.process.pid, signal.SIGCONT)
    ends = [rest(*r) for r in ranks]
    check_once(ends, samples, f"away for {seconds} s")


def test_killed(cmd, samples):
    ranks = [begin(cmd, "--rank", r, "--world", 7) for r in range(7)]
    cmd.server.kill()
    time.sleep(1)
    cmd.server.start()
    ends = [rest(*r) for r in ranks]
    check_once(ends, samples, "killed and restarted")


def test_stalls(cmd, timeout, away):
    """Away for longer than the stall timeout: one error, that names the rank, on the rank that wants more."""
    p, first = begin(cmd, "--rank", 1, "--world", 3, "--stall-timeout", timeout)
    cmd.server.kill()
    began = time.monotonic()
    code, _, err = rest(p, first)
    check(code == 1 and err.count("stalled") == 1 and "rank 1 of 3" in err, f"a dead server: {code}, {err[-400:]}")
    time.sleep(max(0, away - (time.monotonic() - began)))
    cmd.server.start()


def test_forced_away(cmd, url):
    cmd.run("snapshot", "create", "data@gone", "--prefix", "train/")
    p = cmd.start("stream", "data@gone", *SMALL, "--job", "holder")
    first = p.stdout.read(512)
    cmd.refused("bucket", "rm", f"{url}/data", "--yes", word="data")
    cmd.refused("snapshot", "rm", "data@gone", "--yes", word="holder")
    cmd.run("snapshot", "rm", "data@gone", "--yes", "--force")
    code, _, err = rest(p, first)
    check(code not in (0, -6, -11) and "data@gone" in err, f"a snapshot forced away: {code}, {err[-400:]}")
    check(err.count("\n") <= 2, f"a snapshot forced away: not one error: {err[-600:]}")


def test_key_removed(cmd, base, url):
    keys = base / "reader.credentials"
    cmd.run("key", "create", "--grant", "read:data", "-o", keys, url)
    listed = [k for k in cmd.json("key", "ls", url) if "read" in str(k) and "admin" not in str(k)]
    other = Command(cmd.server)
    other.env["GRANARY_CREDENTIALS"] = str(keys)
    p = other.start("stream", "data@v1", *SMALL, "--stall-timeout", "20")
    first = p.stdout.read(512)
    cmd.run("key", "rm", listed[-1].get("key") or listed[-1].get("id") or listed[-1]["access_key"], "--yes")
    code, _, err = rest(p, first)
    check(code not in (0, -6, -11) and err.strip() != "", f"a key removed: {code}, {err[-400:]}")


def main():
    need_programs()
    base = scratch("stream-faults")
    source = base / "src"
    source.mkdir()
    for i in range(FILES):
        (source / f"f{i:05d}").write_bytes(os.urandom(20000))
    server = Server(base)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    cmd.run("import", source, f"{server.url}/data/train")
    samples = cmd.json("snapshot", "create", "data@v1", "--prefix", "train/")[0]["samples"]
    test_away(cmd, samples, 1)
    if LONG:
        test_away(cmd, samples, 60)
    test_killed(cmd, samples)
    test_stalls(cmd, *((300, 400) if LONG else (2, 3)))
    test_forced_away(cmd, server.url)
    test_key_removed(cmd, base, server.url)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
