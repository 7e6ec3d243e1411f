#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a linked bucket of a real S3 service whose key is taken away in the middle, whose list is older than its objects,
and whose server is killed while it takes up what is new, ends in the same state as one without any of that, and never hands
out other bytes; many names are linked in memory that does not grow with them.

Method: radosgw suspends and enables the user while tasks run; a proxy answers lists with what they said before; the server is
killed at random moments of refresh, preload and evict. A directory of many small files (100,000 with --long) is linked twice,
half and then all of them, and the server's memory compared.

  test_link_faults.py [--seed S] [--many N]
"""
import argparse
import os
import pathlib
import random
import subprocess
import time

import crash_lib as lib
import s3_lib
import test_link as link

GRACE_S = 120
NAMES, NAMES_LONG = 8000, 100_000


def fail(text):
    raise SystemExit(f"test_link_faults: {text}")


class Stale(s3_lib.Proxy):
    """Lists are answered as they were when `stale` was set, as far as they were asked for before."""

    def __init__(self, *args, **kw):
        self.stale, self.lists = False, {}
        super().__init__(*args, **kw)

    def forward(self, head, body):
        line = head[0].split()
        is_list = line[0] == b"GET" and b"list-type=2" in line[1]
        if is_list and self.stale and line[1] in self.lists:
            return self.lists[line[1]]
        answer = super().forward(head, body)
        if is_list and answer is not None:
            self.lists[line[1]] = answer
        return answer


def user(base, service, verb):
    subprocess.run(["radosgw-admin", "-c", str(service.dir / "ceph.conf"), "-n", "client.admin", "user", verb, "--uid", "granary"],
                   check=True, capture_output=True, timeout=120)


def task_states(server, verb):
    return [line.get("state") for line in map(link.json.loads, link.text_of(server.cli(verb, "status", "--json")).splitlines())]


def wait_paused(server, verb):
    until = time.monotonic() + GRACE_S
    while "paused" not in task_states(server, verb):
        if time.monotonic() > until or not set(task_states(server, verb)) - {"done", "failed", "canceled"}:
            fail(f"no {verb} task waits: {task_states(server, verb)}")
        time.sleep(0.05)


def wait_url(server, url, data):
    until = time.monotonic() + GRACE_S
    while (run := link.cat(server, url, check=False)).returncode != 0 or run.stdout != data:
        if run.returncode == 0 or time.monotonic() > until:
            fail(f"{url} does not come back: {run.returncode} {link.text_of(run)[:300]}")
        time.sleep(0.2)


def put(service, files):
    for name, data in files.items():
        status, body = service.request("PUT", f"/train/{name}", body=data)
        if status != 200:
            fail(f"put {name}: {status} {body[:200]}")


def revoked(rng, server, url, service, base, files):
    print("the key is taken away: tasks wait and say so, what is on flash is read, all goes on when it is back", flush=True)
    loaded = sorted(n for n in files if n.startswith("one/"))
    server.cli("link", "s3://train/one", f"{url}/one")
    server.cli("flow", "preload", f"{url}/one")
    server.cli("link", "s3://train/set", f"{url}/set")
    user(base, service, "suspend")
    server.cli("flow", "preload", f"{url}/set", "--background")
    server.cli("flow", "refresh", f"{url}/set", "--background")
    wait_paused(server, "flow")
    wait_paused(server, "tier")
    for name in loaded:
        if link.cat(server, f"{url}/{name}").stdout != files[name]:
            fail(f"{name} is on flash and was not read")
    cold = next(n for n in sorted(files) if n.startswith("set/") and len(files[n]) == 70_000)
    if link.cat(server, f"{url}/{cold}", check=False).returncode == 0:
        fail("what only the source has was read without a key")
    user(base, service, "enable")
    for verb in ("flow", "tier"):
        if any(state != "done" for state in (t["state"] for t in link.wait_all(server, verb))):
            fail(f"{verb} tasks did not end well: {task_states(server, verb)}")
    wait_url(server, f"{url}/{cold}", files[cold])
    link.expect(link.counts(server, "flow", "verify", f"{url}/set"), same=len([n for n in files if n.startswith("set/")]))


def stale(rng, server, url, service, proxy, files):
    print("a list that is older than the objects: errors that name them, never other bytes, and the next one mends it",
          flush=True)
    mine = sorted(n for n in files if n.startswith("set/"))
    victim, gone = (next(n for n in mine if len(files[n]) == size) for size in (5000, 700))
    server.cli("flow", "evict", f"{url}/set")
    server.cli("flow", "verify", f"{url}/set")
    proxy.stale = True
    old, files[victim] = files[victim], rng.randbytes(5000)
    files["set/new"] = b"fresh"
    put(service, {victim: files[victim], "set/new": files["set/new"]})
    service.request("DELETE", f"/train/{gone}")
    link.expect(link.counts(server, "flow", "refresh", f"{url}/set"), same=len(mine), new=0, changed=0, gone=0)
    server.stop()
    server.start()  # what is in memory is still right
    for name in (victim, gone):
        run = link.cat(server, f"{url}/{name}", check=False)
        if run.returncode == 0 or name not in link.text_of(run) or old in (run.stdout or b""):
            fail(f"{name}, of which the list is old: {run.returncode} {link.text_of(run)[:300]}")
    run = server.cli("flow", "preload", f"{url}/set", check=False)
    if run.returncode == 0:
        fail("a preload after an old list says nothing of what was changed")
    proxy.stale = False
    link.expect(link.counts(server, "flow", "refresh", f"{url}/set"), new=1, changed=1, gone=1)
    server.cli("rm", f"{url}/{gone}")
    files.pop(gone)
    server.cli("flow", "refresh", f"{url}/set")
    for name in [victim, "set/new"]:
        wait_url(server, f"{url}/{name}", files[name])


def kills(rng, server, url, service, files):
    print("kill -9 while it takes up what is new, loads and lets go", flush=True)
    for i in range(3):
        changed = rng.sample(sorted(n for n in files if n.startswith("set/") and files[n]), 5)
        fresh = {n: rng.randbytes(len(files[n])) for n in changed} | {f"set/more/{i}": rng.randbytes(3000)}
        put(service, fresh)
        files |= fresh
        server.cli("flow", ["refresh", "preload", "evict"][i % 3], f"{url}/set", "--background")
        time.sleep(rng.random() * 0.2)
        server.kill()
        server.start()
        link.wait_all(server, "flow")
        link.wait_all(server, "tier")
        link.counts(server, "flow", "refresh", f"{url}/set")
        link.expect(link.counts(server, "flow", "verify", f"{url}/set"),
                    same=len([n for n in files if n.startswith("set/")]), changed=0, new=0, gone=0)
        for name in changed + rng.sample(sorted(n for n in files if n.startswith("set/")), 5):
            wait_url(server, f"{url}/{name}", files[name])


def bucket(rng, base):
    service = s3_lib.Service(base)
    service.start()
    try:
        service.make_bucket("train")
        files = {f"set/{i % 9}/{i:05d}": rng.randbytes(rng.choice([0, 1, 700, 5000, 70_000])) for i in range(150)}
        files |= {f"one/{i}": rng.randbytes(2000) for i in range(10)}
        put(service, files)
        proxy = Stale(service.port, seed=4)
        (base / "server").mkdir()
        server = lib.Server(base / "server", settings={
            "job-interval": "200ms", "cache-size": "16MiB", "memory": "256MiB",
            "stores": f"old,type=s3,endpoint=http://127.0.0.1:{proxy.port},bucket=train,"
                      f"credentials={service.credentials(base)},use=source"})
        server.start()
        url = f"{server.url}/vision"
        server.cli("bucket", "create", url)
        revoked(rng, server, url, service, base, files)
        stale(rng, server, url, service, proxy, files)
        kills(rng, server, url, service, files)
        server.cli("check")
        if server.stop() != 0:
            fail("the server did not end well")
        proxy.close()
    finally:
        service.stop()


def rss(server):
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def many(base, count):
    print(f"{count} names", flush=True)
    source = base / "many"
    for i in range(count):
        if i % 1000 == 0:
            (source / f"{i // 1000:04d}").mkdir(parents=True)
        (source / f"{i // 1000:04d}" / f"{i:07d}.json").write_bytes(b"{\"label\": %d}" % i)
    (base / "server-many").mkdir()
    server = lib.Server(base / "server-many", settings={"memory": "256MiB", "cache-size": "16MiB",
                                                        "stores": f"old,type=directory,path={source},use=source"})
    server.start()
    url = f"{server.url}/vision"
    server.cli("bucket", "create", url)
    began, memory = time.monotonic(), []
    for part in range(2):
        for d in sorted(source.iterdir()):  # half of them are away at first
            if part == 0 and int(d.name) >= count // 2000:
                d.rename(base / f"away-{d.name}")
        if part == 1:
            for d in base.glob("away-*"):
                d.rename(source / d.name[len("away-"):])
        line = link.counts(server, "link", str(source), f"{url}/set")
        memory.append(rss(server))
        print(f"  {line['listed']} listed, {line['new']} new; {time.monotonic() - began:.1f} s, resident {memory[-1] >> 20} MiB",
              flush=True)
    link.expect(line, listed=count)
    link.expect(link.counts(server, "flow", "verify", f"{url}/set"), same=count)
    if memory[1] > memory[0] + (64 << 20):
        fail(f"memory grew with the names: {memory}")
    if link.cat(server, f"{url}/set/0000/0000007.json").stdout != b"{\"label\": 7}":
        fail("one of many has other bytes")
    server.cli("flow", "preload", f"{url}/set")
    print(f"  loaded after {time.monotonic() - began:.1f} s, resident {rss(server) >> 20} MiB", flush=True)
    if server.stop() != 0:
        fail("the server did not end well")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--many", type=int, help="that part alone")
    a = parser.parse_args()
    rng = random.Random(lib.seed_of(a.seed))
    lib.need_programs()
    base = lib.scratch("link-faults")
    many(base, a.many or (NAMES_LONG if lib.LONG else NAMES))
    if a.many:
        return
    if s3_lib.Service.missing():
        print("not on S3: it is not installed")
    else:
        bucket(rng, base)
    print("linked through all of it: every byte equal")


if __name__ == "__main__":
    os.umask(0o022)
    main()
