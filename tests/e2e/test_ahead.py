#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: an epoch that is announced has its packs brought up from a cold store before it needs them, and those that it is
through with let go, within what flash may hold; rules do not take away what it will use; every byte is right.

Method: a dataset of nine packs, all cold, and a hot directory that may hold fewer. It is streamed in its own order by a
consumer that stops and waits until packs came up, and again until some went; while it waits a rule moves everything that
is idle to the cold store.

  test_ahead.py [--seed S]
"""
import argparse
import json
import random
import subprocess
import tarfile
import time

import crash_lib as lib

GRACE_S = 120  # ends a test that hangs; nothing is judged by it
PARTS, FILES, SIZE = 3, 44, 1 << 20


def wait_until(what, done):
    for _ in range(GRACE_S * 10):
        if done():
            return
        time.sleep(0.1)
    lib.fail(f"{what}: it did not happen in {GRACE_S} s")


def number(server, name):
    for line in server.status().splitlines():
        row = json.loads(line)
        if name in row:
            return int(row[name])
    return lib.fail(f"no '{name}' in the status")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int)
    rng = random.Random(lib.seed_of(args.parse_args().seed))
    lib.need_programs()
    base = lib.scratch("ahead")
    cold, hot = base / "cold", base / "hot"
    cold.mkdir()
    hot.mkdir()
    settings = {"pack-size": "16MiB", "job-interval": "200ms", "cache-size": "16MiB", "memory": "256MiB",
                "rules-interval": "200ms", "hot": f"{hot},96MiB",
                "stores": f"archive,type=directory,path={cold}"}
    server = lib.Server(base, settings=settings)
    server.start()
    url = server.url + "/vision"
    server.cli("bucket", "create", url)
    bytes_of = {}
    for part in range(PARTS):
        source = base / f"part{part}"
        source.mkdir()
        for i in range(FILES):
            data = rng.randbytes(SIZE)
            (source / f"{part}-{i:03d}.bin").write_bytes(data)
            bytes_of[f"{part}-{i:03d}.bin"] = data
        server.cli("import", source, f"{url}/set/{part}")
        server.cli("tier", "push", f"{url}/set/{part}", "--to", "archive")
    server.cli("snapshot", "create", server.url + "/vision@v1", "--prefix", "set/")
    before = number(server, "moved_to_hot")
    rules = base / "rules.yaml"
    rules.write_text("rules:\n  - name: all\n    match: { prefix: set/ }\n    idle: 1s\n    to: archive\n")
    server.cli("tier", "apply", rules)
    stream = lib.spawn([lib.GRANARY, "stream", server.url + "/vision@v1", "--mode", "none", "--tar", "-q", "--batch", "4"],
                       env=server.client_env(), stdout=subprocess.PIPE)
    seen = 0
    with tarfile.open(fileobj=stream.stdout, mode="r|") as tar:
        for m in tar:
            if not m.isfile():
                continue
            name = m.name.rsplit("/", 1)[-1]
            if tar.extractfile(m).read() != bytes_of[name]:
                lib.fail(f"wrong bytes of {m.name}")
            seen += 1
            if seen == 2:
                wait_until("packs come up", lambda: number(server, "moved_to_hot") - before >= 3)
                if number(server, "ahead_orders") != 1 or number(server, "ahead_packs") < 6:
                    lib.fail("the epoch is not known")
            if seen == len(bytes_of) // 2 + 8:
                wait_until("packs that it is through with go", lambda: number(server, "ahead_let_go") > 0)
    if stream.wait() != 0 or seen != len(bytes_of):
        lib.fail(f"{seen} of {len(bytes_of)} files came")
    wait_until("the end is known", lambda: number(server, "ahead_orders") == 0)
    server.stop()
    print("ok")


if __name__ == "__main__":
    lib.run(main)
