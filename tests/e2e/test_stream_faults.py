#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what happens to the server in mid-epoch happens to a stream as promised: away for a while or killed, it goes on and
gives every sample once, also where ranks share lanes; away for longer than the stall timeout, one clear error on the rank
that stalls; snapshot forced away, bucket deleted, key removed: one error that names it, and no wrong byte before it; what a
stream reads is not removed without force, whether it has a job name or none.
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
    return begin_of(cmd, "data@v1", *more)


def begin_of(cmd, snapshot, *more):
    p = cmd.start("stream", snapshot, *SMALL, *map(str, more))
    return p, p.stdout.read(512)


def held(cmd, snapshot, job):
    """Waits until the stream has reported."""
    end = time.monotonic() + 60
    while not any(j["job"].startswith(job) and j["snapshot"] == snapshot for j in cmd.json("jobs")):
        check(time.monotonic() < end, f"'{job}' does not report that it reads '{snapshot}'")


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


def one_error(end, *words, what):
    """The stream failed with one error that says this, and what came before it is whole."""
    code, out, err = end
    check(code not in (0, -6, -11), f"{what}: exit code {code}: {err[-400:]}")
    lines = [line for line in err.splitlines() if line.strip() and "go on with" not in line and "--resume" not in line]
    check(len(lines) == 1, f"{what}: not one error: {err[-800:]}")
    for word in words:
        check(word in err, f"{what}: '{word}' is not in: {err[-400:]}")
    return out


def check_bytes(out, files, what):
    """Every whole member of the archive that was cut off is a file as it was written."""
    count = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(out)) as tar:
            for member in tar:
                data = tar.extractfile(member).read()
                if len(data) == member.size:
                    check(data == files[member.name], f"{what}: '{member.name}' has wrong bytes")
                    count += 1
    except tarfile.ReadError:
        pass  # its end
    check(0 < count < FILES, f"{what}: {count} whole samples came before the error")


def test_forced_away(cmd, url, files):
    """Of a stream without a job, too, a snapshot is held; forced away it ends the stream with one error."""
    for job in (["--job", "holder"], []):
        cmd.run("snapshot", "create", "data@gone", "--prefix", "train/")
        p, first = begin_of(cmd, "data@gone", *job)
        holder = "holder" if job else "unnamed:"
        held(cmd, "data@gone", holder)
        cmd.refused("bucket", "rm", f"{url}/data", "--yes", word="data")
        cmd.refused("snapshot", "rm", "data@gone", "--yes", word=f"job '{holder}")
        cmd.run("snapshot", "rm", "data@gone", "--yes", "--force")
        what = f"a snapshot forced away from {holder}"
        check_bytes(one_error(rest(p, first), "gone", what=what), files, what)


def test_bucket_deleted(cmd, url, files):
    """All that is in it goes, by force, then the bucket itself, while a stream reads; then another one of its name comes."""
    for again in (False, True):
        cmd.run("bucket", "create", f"{url}/short")
        cmd.run("cp", "-r", f"{url}/data/train", f"{url}/short/train")
        cmd.run("snapshot", "create", "short@v1", "--prefix", "train/")
        p, first = begin_of(cmd, "short@v1")
        held(cmd, "short@v1", "unnamed:")
        cmd.refused("bucket", "rm", f"{url}/short", "--yes", word="empty")
        cmd.run("rm", "-r", f"{url}/short/train", "--yes")
        cmd.refused("bucket", "rm", f"{url}/short", "--yes", word="v1")
        cmd.run("snapshot", "rm", "short@v1", "--yes", "--force")
        cmd.run("bucket", "rm", f"{url}/short", "--yes")
        if again:
            cmd.run("bucket", "create", f"{url}/short")
            cmd.run("cp", "-r", f"{url}/data/other", f"{url}/short/train")
            cmd.run("snapshot", "create", "short@v1", "--prefix", "train/")
        what = "a bucket deleted" + (" and made again" if again else "")
        check_bytes(one_error(rest(p, first), "short", what=what), files, what)
        if again:
            cmd.run("snapshot", "rm", "short@v1", "--yes")


def test_key_removed(cmd, base, url, files):
    """One error that names the key, long before the stall timeout; no wrong byte before it."""
    keys = base / "reader.credentials"
    cmd.run("key", "create", "--grant", "read:data", "-o", keys, url)
    key = dict(line.split("=", 1) for line in keys.read_text().split())["access_key"]
    other = Command(cmd.server)
    other.env["GRANARY_CREDENTIALS"] = str(keys)
    p, first = begin_of(other, "data@v1", "--stall-timeout", "600")
    cmd.run("key", "rm", key, "--yes")
    began = time.monotonic()
    what = "a key removed"
    end = rest(p, first)
    check_bytes(one_error(end, key, what=what), {k: v for k, v in files.items()}, what)
    check(time.monotonic() - began < 300, f"{what}: the stream went on until a stall")
    other.refused("stream", "data@v1", word=key)


def main():
    need_programs()
    base = scratch("stream-faults")
    source = base / "src"
    source.mkdir()
    files = {}
    for i in range(FILES):
        files[f"train/f{i:05d}"] = os.urandom(20000)
        (source / f"f{i:05d}").write_bytes(files[f"train/f{i:05d}"])
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
    for i in range(FILES):
        (source / f"f{i:05d}").write_bytes(os.urandom(20000))  # as large as those of train/, other bytes
    cmd.run("import", source, f"{server.url}/data/other")
    test_forced_away(cmd, server.url, files)
    test_bucket_deleted(cmd, server.url, files)
    test_key_removed(cmd, base, server.url, files)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
