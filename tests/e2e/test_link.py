#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a linked directory, and a linked bucket of a real S3 service, look like data that was imported: names, sizes, bytes,
snapshots and epochs, before anything was copied, while it is, and after; what was changed behind the server's back is an
error that names the object, never other bytes; and a server that is killed in the middle loses nothing.

Method: a tree of files with awkward names is linked, read by name, in batches, and as an epoch whose order must not change
when all of it is loaded. Files are changed in place, replaced and removed at the source. The server is killed while it links,
loads and lets go, and must get to the same state by itself.

  test_link.py [--seed S] [--s3]
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

import crash_lib as lib
import s3_lib

GRACE_S = 120  # ends a test that hangs; nothing is judged by it


def fail(text):
    sys.exit(f"test_link: {text}")


def make(rng, root, count):
    files = {}
    for i in range(count):
        size = rng.choice([0, 1, 900, 4096, 30_000, 65_536, 65_537, 200_000])
        name = f"{i % 7}/{i:04d}.bin" if i % 3 else f"{i % 5}/deep {i % 2}/ünï {i:04d}"
        files[name] = rng.randbytes(size)
    files["large"] = rng.randbytes(9 * 1024 * 1024 + 17)  # several records
    files["0.bin"] = b"sorts between a folder and its files"
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def cat(server, url, check=True):
    return server.cli("cat", url, check=check)


def text_of(run):
    out = run.stdout + run.stderr
    return out.decode(errors="replace") if isinstance(out, bytes) else out


def same(server, url, files, scratch, what):
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    server.cli("export", url, out, "--quiet")
    have = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    if have != files:
        wrong = sorted(k for k in set(have) | set(files) if have.get(k) != files.get(k))
        fail(f"{what}: not the source's bytes: {wrong[:5]} ({len(wrong)} of {len(files)})")


def counts(server, *command, ok=True):
    """The line of a task that links or verifies."""
    run = server.cli(*command, "--json", check=ok)
    lines = [json.loads(line) for line in text_of(run).splitlines() if line.startswith("{") and '"listed"' in line]
    if not lines:
        fail(f"{command}: no line of a task: {text_of(run)}")
    return lines[-1]


def expect(line, **want):
    for name, value in want.items():
        if int(line[name]) != value:
            fail(f"{name} is {line[name]}, not {value}: {line}")


def hot_packs(server):
    return len(server.packs())


def epoch(server, snapshot, what="no epoch"):
    """The order and the bytes of an epoch, as a checksum of both."""
    out = subprocess.run([lib.GRANARY, "stream", snapshot, "--seed", "7", "--epoch", "1", "--tar"], env=server.client_env(),
                         capture_output=True, check=False)
    if out.returncode != 0 or len(out.stdout) < 10000:
        fail(f"{what}: {out.returncode} {out.stderr[-500:]}")
    return hashlib.sha256(out.stdout).hexdigest()


def flip(rng, server, needle):
    """One bit of these bytes, in the pack that has them; what is in memory is forgotten."""
    server.stop()
    for path in server.packs():
        at = path.read_bytes().find(needle)
        if at >= 0:
            with open(path, "r+b") as f:
                at += rng.randrange(len(needle))
                f.seek(at)
                byte = f.read(1)[0] ^ (1 << rng.randrange(8))
                f.seek(at)
                f.write(bytes([byte]))
            server.start()
            return
    fail("no pack has these bytes")


def flipped(rng, server, files, source, base, epoch_before):
    print("a bit that flips on flash is found through a snapshot that has no checksum of it", flush=True)
    snapshot = f"{server.url}/vision@v1"
    small = next(n for n in sorted(files) if len(files[n]) == 30_000)
    for name, needle in (("large", files["large"][5_000_000:5_001_000]), (small, files[small][100:2000])):
        flip(rng, server, needle)
        if epoch(server, snapshot, f"a bit of {name} flipped, and a source that has it") != epoch_before:
            fail(f"wrong bytes of {name} were handed out")
        wait_all(server, "tier")  # it is made anew out of the source
        server.cli("check")
        source.rename(base / "away")
        if epoch(server, snapshot, "made anew") != epoch_before:
            fail("what was made anew has other bytes")
        flip(rng, server, needle)
        run = server.cli("stream", snapshot, "--seed", "7", "--epoch", "1", check=False)
        if run.returncode == 0 or f"set/{name}" not in text_of(run):
            fail(f"{name} with a flipped bit, and no source: {run.returncode} {text_of(run)[-500:]}")
        run = server.cli("snapshot", "repack", snapshot, check=False)
        if run.returncode == 0:
            fail("wrong bytes were repacked")
        (base / "away").rename(source)
        until = time.monotonic() + GRACE_S  # a store that was away is not asked at once
        while server.cli("stream", snapshot, "--seed", "7", "--epoch", "1", check=False).returncode != 0:
            if time.monotonic() > until:
                fail(f"{name} is not taken from the source that came back")
            time.sleep(0.2)
        if epoch(server, snapshot) != epoch_before:
            fail(f"wrong bytes of {name} were handed out, with the source back")
        wait_all(server, "tier")


def partly(rng, server, url, files, lost, source, base):
    print("what was changed does not keep its pack from being loaded", flush=True)
    for again in range(2):
        run = server.cli("flow", "preload", f"{url}/set", check=False)
        if run.returncode == 0 or not any(name in text_of(run) for name in lost):
            fail(f"a preload that could not load all: {run.returncode} {text_of(run)[-800:]}")
    server.cli("check")
    if server.cli("flow", "evict", f"{url}/set", check=False).returncode == 0:
        fail("flash let go of what the source does not have any more")
    if server.cli("tier", "pull", f"{url}/set", "--drop", check=False).returncode == 0:
        fail("a link was cut that leads to what was not loaded")
    server.kill()
    server.start()
    source.rename(base / "away")
    for name in sorted(files)[::11] + lost:
        run = cat(server, f"{url}/set/{name}", check=False)
        if name in lost:
            if run.returncode == 0:
                fail(f"what was changed was read: {name}")
        elif run.stdout != files[name]:
            fail(f"{name} was not loaded with its neighbours: {run.returncode} {text_of(run)[:300]}")
    (base / "away").rename(source)
    until = time.monotonic() + GRACE_S  # a store that was away is not asked at once
    for name in lost:
        while True:
            run = cat(server, f"{url}/set/{name}", check=False)
            if run.returncode == 0:
                fail(f"what was changed was read: {name}")
            if "not the one that was linked" in text_of(run) and f"set/{name}" in text_of(run):
                break
            if time.monotonic() > until:
                fail(f"no error that names {name}: {text_of(run)[:500]}")
            time.sleep(0.2)


def directory(rng, base):
    source, tree = base / "source", base / "source" / "set"
    (base / "server").mkdir()
    files = make(rng, tree, 120)
    (source / "elsewhere").write_bytes(b"not below the prefix")
    os.symlink("/etc/passwd", tree / "a link")
    os.mkfifo(tree / "a pipe")
    server = lib.Server(base / "server", settings={"pack-size": "16MiB", "job-interval": "200ms", "cache-size": "16MiB",
                                                   "memory": "256MiB", "stores": f"old,type=directory,path={source},use=source"})
    server.start()
    url = f"{server.url}/vision"
    server.cli("bucket", "create", url)
    before = hot_packs(server)

    print("names and sizes appear, nothing is copied, nothing is written there", flush=True)
    expect(counts(server, "link", "old/set", f"{url}/set"), new=len(files), same=0, conflict=0, refused=0)
    if hot_packs(server) > before + 1:
        fail("packs were made of what was only linked")
    if (source / "granary.cold").exists():
        fail("the source was written to")
    names = {json.loads(line)["key"].split("set/", 1)[1]: json.loads(line)["size"]
             for line in text_of(server.cli("ls", "-r", f"{url}/set", "--json")).splitlines()
             if "key" in json.loads(line) and not json.loads(line)["key"].endswith("/")}
    if names != {name: len(data) for name, data in files.items()}:
        fail(f"names or sizes are others: {sorted(set(names) ^ set(files))[:5]}")
    same(server, f"{url}/set", files, base, "linked")
    (tree / "a link").unlink()
    (tree / "a pipe").unlink()
    server.cli("bench", "read", f"{url}/set", "--batch", "64", "--shuffle", "7", "--against", tree)
    expect(counts(server, "flow", "verify", f"{url}/set"), same=len(files), new=0, changed=0, gone=0)
    expect(counts(server, "link", "old/set", f"{url}/set"), new=0, same=len(files))

    print("a snapshot and its epoch are the same before and after preload", flush=True)
    server.cli("snapshot", "create", f"{server.url}/vision@v1", "--prefix", "set/")
    before_load = epoch(server, f"{server.url}/vision@v1")
    server.cli("flow", "preload", f"{url}/set")
    if hot_packs(server) <= before + 1:
        fail("nothing was loaded")
    after_load = epoch(server, f"{server.url}/vision@v1")
    if before_load != after_load:
        fail("the epoch is another one after preload")
    same(server, f"{url}/set", files, base, "loaded")
    flipped(rng, server, files, source, base, before_load)
    server.cli("check")
    source.rename(base / "away")
    same(server, f"{url}/set", files, base, "loaded, without the source")
    (base / "away").rename(source)
    server.cli("flow", "evict", f"{url}/set")
    same(server, f"{url}/set", files, base, "let go of again")

    print("rename, links, and a restart", flush=True)
    server.cli("mv", f"{url}/set/large", f"{url}/set/moved")
    if cat(server, f"{url}/set/moved").stdout != files["large"]:
        fail("a linked object that was renamed has other bytes")
    server.kill()
    server.start()
    if cat(server, f"{url}/set/moved").stdout != files["large"]:
        fail("a linked object has other bytes after a restart")
    server.cli("mv", f"{url}/set/moved", f"{url}/set/large")

    print("changed behind our back: an error that names it, never other bytes", flush=True)
    victim = next(n for n in sorted(files) if len(files[n]) == 4096)
    time.sleep(0.01)
    (tree / victim).write_bytes(rng.randbytes(4096))
    server.stop()
    server.start()  # what is in memory is still right
    run = cat(server, f"{url}/set/{victim}", check=False)
    if run.returncode == 0 or f"set/{victim}" not in text_of(run):
        fail(f"a changed object: {run.returncode} {text_of(run)[:500]}")
    neighbours = [n for n in sorted(files) if n != victim]
    for name in neighbours[::9]:
        if cat(server, f"{url}/set/{name}").stdout != files[name]:
            fail(f"a neighbour of what was changed cannot be read: {name}")
    gone = next(n for n in sorted(files) if len(files[n]) == 900)
    (tree / gone).unlink()
    (tree / "large").write_bytes(rng.randbytes(len(files["large"])))
    lost = [victim, gone, "large"]  # before an epoch is announced: that loads what is still as it was
    run = server.cli("stream", f"{server.url}/vision@v1", "--seed", "7", "--epoch", "1", check=False)
    if run.returncode == 0 or not any(f"set/{name}" in text_of(run) for name in lost):
        fail(f"an epoch over changed objects {lost}: {run.returncode} {text_of(run)[-500:]}")
    partly(rng, server, url, files, lost, source, base)
    (tree / "new one").write_bytes(b"fresh")
    server.cli("cp", str(tree / "new one"), f"{url}/set/ours")
    line = counts(server, "flow", "verify", f"{url}/set", ok=False)
    expect(line, changed=2, gone=1, new=1, local=1, same=len(files) - 3)
    line = counts(server, "flow", "refresh", f"{url}/set")
    expect(line, changed=2, gone=1, new=1, local=1, same=len(files) - 3)
    for name in (victim, "large"):
        files[name] = (tree / name).read_bytes()
    files["new one"] = b"fresh"
    files["ours"] = b"fresh"
    if cat(server, f"{url}/set/{gone}", check=False).returncode == 0:
        fail("what the source has no more was read")
    server.cli("rm", f"{url}/set/{gone}")
    files.pop(gone)
    same(server, f"{url}/set", files, base, "refreshed")
    server.cli("flow", "preload", f"{url}/set")  # nobody needs what was lost any more
    source.rename(base / "away")
    same(server, f"{url}/set", files, base, "refreshed and loaded")
    (base / "away").rename(source)

    print("conflicts are kept, unless the source's is asked for", flush=True)
    (base / "mine").write_bytes(b"mine")
    server.cli("cp", str(base / "mine"), f"{url}/set/{victim}")
    expect(counts(server, "flow", "refresh", f"{url}/set"), conflict=1)
    if cat(server, f"{url}/set/{victim}").stdout != b"mine":
        fail("a conflict was not kept")
    expect(counts(server, "flow", "refresh", f"{url}/set", "--take-source"), changed=1, conflict=0)
    same(server, f"{url}/set", files, base, "the source's")

    print("refused: no such source, a store of packs, a target without a bucket", flush=True)
    for command in (["link", "s3://nobody/x", f"{url}/x"], ["link", "/etc", f"{url}/x"], ["link", "old", f"{server.url}/nobucket/x"],
                    ["flow", "refresh", f"{url}/nothing"], ["tier", "push", url, "--to", "old"]):
        run = server.cli(*command, check=False)
        if run.returncode == 0:
            fail(f"{command} was taken")
    kills(rng, server, url, tree, {n: d for n, d in files.items() if n != "ours"}, base)
    if server.stop() != 0:
        fail("the server did not end well")


def wait_all(server, verb):
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        tasks = [json.loads(line) for line in text_of(server.cli(verb, "status", "--json")).splitlines() if line.startswith("{")]
        if all(t["state"] in ("done", "failed", "canceled") for t in tasks):
            return tasks
        time.sleep(0.05)
    return fail(f"tasks do not end: {tasks}")


def kills(rng, server, url, tree, files, base):
    print("kill -9 while it links, loads and lets go", flush=True)
    for i, verb in enumerate((["link", str(tree), f"{url}/again"], ["flow", "preload", f"{url}/again"],
                              ["flow", "evict", f"{url}/again"], ["link", str(tree), f"{url}/again"],
                              ["flow", "preload", f"{url}/again"])):
        server.cli(*verb, "--background")
        time.sleep(rng.random() * 0.15)
        server.kill()
        server.start()
        wait_all(server, "flow")
        wait_all(server, "tier")
        same(server, f"{url}/again", files, base, f"after a kill in {verb[:2]}")
        expect(counts(server, "flow", "verify", f"{url}/again"), same=len(files), new=0, changed=0, gone=0)
        print(f"  {i + 1} of 5", flush=True)


def bucket(rng, base):
    """The same on radosgw, behind a network that loses requests and answers, with more names than a page of a list."""
    service = s3_lib.Service(base)
    service.start()
    try:
        service.make_bucket("train")
        files = {f"set/{i % 9}/{i:05d}": rng.randbytes(rng.choice([0, 1, 700, 5000, 70_000])) for i in range(1100)}
        files["set/dots/../x"] = b"a name that is none of a file"
        files["set//double"] = b"an empty component"
        files["set/marker/"] = b""
        files["set/both"] = b"a file"
        files["set/both/inside"] = b"and a directory"
        for name, data in files.items():
            status, body = service.request("PUT", f"/train/{name}", body=data)
            if status != 200:
                fail(f"put {name}: {status} {body[:200]}")
        proxy = s3_lib.Proxy(service.port, chances={"drop": 0.02, "e500": 0.02, "e503": 0.03, "cut": 0.02}, seed=3)
        credentials = service.credentials(base)
        (base / "server-s3").mkdir()
        server = lib.Server(base / "server-s3", settings={
            "job-interval": "200ms", "stores": f"old,type=s3,endpoint=http://127.0.0.1:{proxy.port},bucket=train,"
                                               f"credentials={credentials},use=source"})
        server.start()
        url = f"{server.url}/vision"
        server.cli("bucket", "create", url)
        expect(counts(server, "link", "s3://train/set", f"{url}/set"), new=len(files), refused=0)
        names = sorted(files)
        for name in names[::37] + ["set/dots/../x", "set//double", "set/both", "set/both/inside"]:
            if cat(server, f"{url}/{name}").stdout != files[name]:
                fail(f"other bytes: {name}")
        victim = next(n for n in names if n.startswith("set/2/") and len(files[n]) == 5000)
        service.request("PUT", f"/train/{victim}", body=rng.randbytes(5000))
        server.stop()
        server.start()  # what is in memory is still right
        run = cat(server, f"{url}/{victim}", check=False)
        if run.returncode == 0 or victim not in text_of(run):
            fail(f"a changed object: {run.returncode} {text_of(run)[:500]}")
        expect(counts(server, "flow", "verify", f"{url}/set", ok=False), changed=1, same=len(files) - 1)
        expect(counts(server, "flow", "refresh", f"{url}/set"), changed=1, same=len(files) - 1)
        if len(cat(server, f"{url}/{victim}").stdout) != 5000:
            fail("what was refreshed cannot be read")
        expect(counts(server, "link", "s3://train/set/1", f"{url}/one"), new=len([n for n in names if n.startswith("set/1/")]))
        server.cli("snapshot", "create", f"{server.url}/vision@v1", "--prefix", "one/")
        first = epoch(server, f"{server.url}/vision@v1")
        server.cli("flow", "preload", f"{url}/one")
        if epoch(server, f"{server.url}/vision@v1") != first:
            fail("the epoch is another one after preload")

        print("the source is away: an error, and a task that goes on by itself", flush=True)
        proxy.all_do = "refuse"
        run = cat(server, f"{url}/{names[5]}", check=False)
        if files[names[5]] and run.returncode == 0:
            pass  # it is in memory
        server.cli("flow", "refresh", f"{url}/set", "--background")
        time.sleep(0.3)
        proxy.all_do = None
        wait_all(server, "flow")
        expect(counts(server, "flow", "verify", f"{url}/set"), same=len(files))
        if server.stop() != 0:
            fail("the server did not end well")
        proxy.close()
    finally:
        service.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--s3", action="store_true", help="that part alone")
    a = parser.parse_args()
    rng = random.Random(lib.seed_of(a.seed))
    lib.need_programs()
    base = lib.scratch("link")
    if not a.s3:
        directory(rng, base)
    if s3_lib.Service.missing():
        print("not on S3: it is not installed")
    else:
        bucket(rng, base)
    print("linked, read, loaded and let go: every byte equal")


if __name__ == "__main__":
    main()
