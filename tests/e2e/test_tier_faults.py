#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: whatever ails a cold store, a running server serves what is hot as ever, says what is wrong with a cold read and does
not let it wait for ever, moves nothing away that is not safe, and goes on by itself once the store does.

Method: a real S3 service (Ceph's radosgw) behind a proxy that is down, hangs, is slow, answers 500, 503, 403, half or wrong
bytes, is full, or lists what was. In each state all hot bytes are read, a cold sample is asked for that RAM does not have, and
a push is begun; then the proxy is well again. Last, flash fills up while the store is down.

  test_tier_faults.py [--seed S]
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess
import time

import crash_lib as lib
import s3_lib

GRACE_S = 120  # ends a test that hangs; nothing is judged by it
WHY = {"refuse": "offline|deadline", "hang": "offline|deadline", "e500": "offline|deadline", "e503": "offline|deadline",
       "e403": "offline|deadline", "cut": "offline|deadline|corrupt|checksum", "flip": "corrupt|checksum"}


class Case:
    def __init__(self, base, service, rng):
        self.base, self.rng = base, rng
        self.proxy = s3_lib.Proxy(service.port, rng.randrange(1 << 30))
        self.service = service
        (base / "flash").mkdir()
        self.server = lib.Server(base, settings={
            "stores": f"archive,type=s3,endpoint=http://127.0.0.1:{self.proxy.port},bucket=archive,prefix=packs,"
                      f"credentials={service.credentials(base)},read_timeout=2s",
            "hot": f"{base / 'flash'},192MiB", "cache-size": "16MiB", "rules-interval": "300ms"})
        self.files = {}

    @property
    def url(self):
        return f"{self.server.url}/vision"

    def make(self, folder, count, size=60_000):
        (self.base / folder).mkdir()
        for i in range(count):
            data = self.rng.randbytes(size)
            (self.base / folder / f"{i:03}").write_bytes(data)
            self.files[f"{folder}/{i:03}"] = data
        self.server.cli("import", self.base / folder, f"{self.url}/{folder}", "--quiet")

    def cat(self, key):
        p = subprocess.run([lib.GRANARY, "cat", f"{self.url}/{key}", "--timeout", "30s"], env=self.server.client_env(),
                           capture_output=True, check=False, timeout=GRACE_S)
        return p.returncode, p.stdout, p.stderr.decode(errors="replace")

    def all_of(self, folder, when):
        out = self.base / "out"
        shutil.rmtree(out, ignore_errors=True)
        p = self.server.cli("export", f"{self.url}/{folder}", out, "--quiet", check=False)
        for key, data in self.files.items():
            if key.startswith(folder + "/") and (p.returncode != 0 or (out / key.split("/")[1]).read_bytes() != data):
                lib.fail(f"{when}: {key} was not read as it is: {p.returncode} {p.stderr}")

    def until(self, what, judge):
        end = time.monotonic() + GRACE_S
        while not judge():
            if time.monotonic() > end:
                lib.fail(f"never: {what}\n{self.tasks()}\n{self.proxy.counts}\n{self.server.tail(200)}")
            time.sleep(0.2)

    def tasks(self):
        return [json.loads(line) for line in self.server.cli("tier", "status", "--json").stdout.splitlines()]

    def objects(self):
        text = self.service.request("GET", "/archive", query=[("list-type", "2"), ("prefix", "packs/packs/")])[1].decode()
        return set(re.findall(r"<Key>([^<]*[.]cold)</Key>", text))

    def explain(self, key):
        return json.loads(self.server.cli("tier", "explain", f"{self.url}/{key}", "--json").stdout)


def is_over(task):
    return task["state"] in ("done", "failed", "canceled")


def ails(c, kind, n):
    """One state of the store, and back."""
    before, moved, known = c.objects(), f"move{n}", {t["task"] for t in c.tasks()}
    c.make(moved, 3)
    c.proxy.all_do = kind
    c.server.cli("tier", "push", f"{c.url}/{moved}", "--to", "archive", "--background")
    c.all_of("hot", kind)
    key = f"cold/{n:03}"
    code, out, err = c.cat(key)
    if kind in ("slow", "full"):
        if code != 0 or out != c.files[key]:
            lib.fail(f"{kind}: a cold read: {code} {err}")
    elif code == 0 or not re.search(WHY[kind], err, re.IGNORECASE):
        lib.fail(f"{kind}: a cold read does not say what is wrong: {code} {err}")
    c.all_of(moved, kind)  # its copy on flash did not go
    if kind not in ("slow", "flip", "cut") and any(
            is_over(t) and t["state"] != "done" for t in c.tasks() if t["task"] not in known):
        lib.fail(f"{kind}: a move gave up: {c.tasks()}")
    c.proxy.all_do = None
    c.until(f"{kind}: cold reads are well again", lambda: c.cat(key)[:2] == (0, c.files[key]))
    c.until(f"{kind}: moves end", lambda: all(map(is_over, c.tasks())))
    if c.explain(f"{moved}/000")["hot"]:  # what was wrong with the bytes was told, and ended the task
        c.server.cli("tier", "push", f"{c.url}/{moved}", "--to", "archive")
    c.all_of(moved, f"after {kind}")
    if not before <= c.objects():
        lib.fail(f"{kind}: copies were removed: {before - c.objects()}")
    print(f"{kind}: ok", flush=True)


def stale_list(c):
    """A list that shows what was before the last moves, over two starts that sweep by it."""
    c.server.cli("tier", "pull", f"{c.url}/move0", "--drop")
    c.proxy.all_do = "stale"
    for _ in range(2):
        c.server.kill()
        c.server.start()
        c.server.cli("tier", "push", f"{c.url}/move0", "--to", "archive")
        c.all_of("move0", "a list of what was")
        c.server.cli("tier", "pull", f"{c.url}/move0", "--drop")
    c.server.cli("tier", "push", f"{c.url}/move0", "--to", "archive")
    c.proxy.all_do = None
    for folder in ("move0", "cold"):
        c.all_of(folder, "after lists of what was")
    print("stale: ok", flush=True)


def flash_full(c):
    """Flash is full and the store, which rules would move to, is down."""
    rules = c.base / "rules.yaml"
    rules.write_text("rules:\n - { name: relief, when: { hot_used_over: 40%, until: 20% }, to: archive }\n")
    c.proxy.all_do = "refuse"
    c.server.cli("tier", "apply", rules)
    data, written = c.rng.randbytes(4 << 20), 0
    while True:
        p = c.server.cli("cp", "-", f"{c.url}/big/{written:03}", input=data, check=False)
        if p.returncode != 0:
            break
        c.files[f"big/{written:03}"] = data
        written += 1
        if written > 100:
            lib.fail("flash took more than it has")
    if b"space" not in p.stderr:
        lib.fail(f"a write on full flash does not say so: {p.stderr}")
    for folder in ("big", "hot"):
        c.all_of(folder, "flash full")
    c.proxy.all_do = None
    c.until("writes come back", lambda: c.server.cli(
        "cp", "-", f"{c.url}/big/{written:03}", input=data, check=False).returncode == 0)
    c.files[f"big/{written:03}"] = data
    c.all_of("big", "after flash was full")
    print(f"flash full with {written} files: ok", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    a = parser.parse_args()
    if s3_lib.Service.missing():
        lib.skip(f"not installed: {' '.join(s3_lib.Service.missing())}: tools/deps --s3")
    if os.environ.get("GRANARY_IO_ENGINE") == "threads":
        lib.skip("cold stores do not use an engine; it ran with the other one")
    rng = random.Random(lib.seed_of(a.seed))
    lib.need_programs()
    base = lib.scratch("tier-faults")
    service = s3_lib.Service(base)
    try:
        service.start()
        service.make_bucket("archive")
        c = Case(base, service, rng)
        c.server.start()
        c.server.cli("bucket", "create", c.url)
        c.make("hot", 10)
        c.make("cold", 60)
        c.server.cli("tier", "push", f"{c.url}/cold", "--to", "archive")
        for n, kind in enumerate(["refuse", "hang", "slow", "e500", "e503", "e403", "cut", "flip", "full"]):
            ails(c, kind, n)
        stale_list(c)
        flash_full(c)
        for folder in ("hot", "cold"):
            c.all_of(folder, "at the end")
        if c.server.stop() != 0:
            lib.fail("the server did not end well")
        c.proxy.close()
    finally:
        service.stop()
    print("ok")


if __name__ == "__main__":
    lib.run(main)
