#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the cold store on S3 keeps its contract against a real service (Ceph's radosgw), also behind a network that loses
requests and answers, and says what is wrong with keys, buckets and endpoints; packs of a whole server go there and back.

  test_s3_store.py [--seed S] [--ops N]
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import crash_lib
import s3_lib

BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", "build/release")).resolve()
CHECK = BUILD / "tests" / "store_check"
CHANCES = {"drop": 0.03, "lost": 0.04, "e500": 0.03, "e503": 0.04, "cut": 0.03}


def check(endpoint, *more, credentials, bucket="archive", expect=0):
    fields = ["type=s3", f"endpoint={endpoint}", f"bucket={bucket}", "prefix=granary", f"credentials={credentials}"]
    p = subprocess.run([str(CHECK), *fields, *more], capture_output=True, text=True, timeout=300, check=False)
    print(p.stdout.strip()[-300:])
    if p.returncode != expect:
        sys.exit(f"test_s3_store: store_check ended with {p.returncode}, not {expect}: {p.stderr[-2000:]}")
    for secret in (s3_lib.SECRET, "wrongsecret"):
        if secret in p.stdout + p.stderr:
            sys.exit("test_s3_store: a secret was printed")
    return p.stdout + p.stderr


def must(text, *words):
    for word in words:
        if word not in text:
            sys.exit(f"test_s3_store: '{word}' is not said in: {text[-1500:]}")


def outage(service, credentials, ops):
    """Down for a while in the middle: fails at once meanwhile, goes on by itself."""
    proxy = s3_lib.Proxy(service.port)

    def interrupt():
        time.sleep(1)
        proxy.all_do = "refuse"
        time.sleep(2)
        proxy.all_do = None

    thread = threading.Thread(target=interrupt)
    thread.start()
    text = check(f"http://127.0.0.1:{proxy.port}", "--faults", "--ops", str(ops * 30), "--max", "100000", "--deadline-ms",
                 "5000", credentials=credentials)
    thread.join()
    proxy.close()
    must(text, "does not answer", "answers again")


def moves(service, base, credentials):
    """A whole server on it: packs go there, are read there, also after a restart, come back, and no byte is another."""
    server = crash_lib.Server(base / "server", settings={
        "stores": f"archive,type=s3,endpoint=http://127.0.0.1:{service.port},bucket=archive,prefix=packs,"
                  f"credentials={credentials},backup=on", "backup": str(base / "backup")})
    (base / "backup").mkdir()
    tree, rng = base / "tree", random.Random(7)
    tree.mkdir()
    files = {f"{i:03}": rng.randbytes(rng.randrange(1, 60000)) if i % 2 else b"text " * rng.randrange(1, 9000)
             for i in range(300)}
    for name, data in files.items():
        (tree / name).write_bytes(data)
    server.start()
    url = f"{server.url}/vision"
    server.cli("bucket", "create", url)
    server.cli("import", tree, f"{url}/a/", "--quiet")
    server.cli("tier", "push", f"{url}/a", "--to", "archive")
    packs = json.loads(server.cli("tier", "ls", "--json").stdout.splitlines()[0])
    if int(packs["cold_only"]) < 1:
        sys.exit(f"test_s3_store: nothing is cold after a push: {packs}")

    def read(how):
        server.cli("export", f"{url}/a/", base / how, "--quiet")
        for name, data in files.items():
            if (base / how / name).read_bytes() != data:
                sys.exit(f"test_s3_store: {how}: {name} has other bytes")

    read("cold")
    server.kill()
    cut = ("/archive/packs/packs/01/0000010000000001-0000010000ffffff.cold", "/archive/packs/packs/other.cold")
    for path in cut:  # as a crash leaves it, and somebody else's
        service.request("POST", path, query=[("uploads", "")])
    server.start()
    read("after-a-kill")
    for _ in range(600):
        left = service.request("GET", "/archive", query=[("uploads", "")])[1].decode()
        if "ffffff.cold" not in left:
            break
        time.sleep(0.1)
    if "ffffff.cold" in left or "other.cold" not in left:
        sys.exit(f"test_s3_store: uploads that nobody ended: {left}")
    server.cli("tier", "pull", f"{url}/a", "--drop")
    read("hot-again")
    server.cli("tier", "push", f"{url}/a", "--to", "archive")
    restored(service, base, credentials, server)
    read("on-an-empty-machine")
    if server.stop() != 0:
        sys.exit("test_s3_store: the server did not end well")
    print("moved there and back, read cold: every byte equal")


def restored(service, base, credentials, server):
    """The machine is lost, with its metadata and its backup: the bucket alone brings all back."""
    server.cli("backup")
    until = time.monotonic() + 120  # ends a test that hangs
    number = json.loads(server.cli("status", "--json").stdout)["backup_number"]
    while json.loads(server.cli("status", "--json").stdout)["backup_to_archive_number"] < number:
        if time.monotonic() > until:
            sys.exit("test_s3_store: the backup never came to the bucket: " + server.tail())
        time.sleep(0.2)
    server.kill()
    keys = base / "server-keys"
    shutil.copy(server.credentials, keys)
    server.credentials = keys
    shutil.rmtree(server.data)
    shutil.rmtree(base / "backup")
    server.data.mkdir()
    (base / "backup").mkdir()
    address = f"s3+http://127.0.0.1:{service.port}/archive/packs"
    p = server.cli("restore", address, server.data, "--credentials", service.credentials(base, "wrongsecret"), check=False)
    if p.returncode != 1:
        sys.exit(f"test_s3_store: restored with a wrong key: {p.returncode} {p.stderr}")
    service.credentials(base)
    p = server.cli("restore", address, server.data, "--credentials", credentials, "--json")
    if json.loads(p.stdout.splitlines()[-1])["objects_lost"] != 0:
        sys.exit(f"test_s3_store: keys were lost that had been copied: {p.stdout}")
    server.start()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ops", type=int, default=70)
    a = parser.parse_args()
    if os.environ.get("GRANARY_IO_ENGINE") == "threads":
        print("SKIP: no part of it runs on an engine; it ran with the other one")
        sys.exit(77)
    if s3_lib.Service.missing():
        print(f"SKIP: not installed: {' '.join(s3_lib.Service.missing())}: tools/deps --s3")
        sys.exit(77)
    base = pathlib.Path(tempfile.mkdtemp(prefix="granary-s3-"))
    service = s3_lib.Service(base)
    try:
        service.start()
        service.make_bucket("archive")
        credentials, direct = service.credentials(base), f"http://127.0.0.1:{service.port}"
        seed = ["--seed", str(a.seed), "--ops", str(a.ops)]
        check(direct, *seed, credentials=credentials)

        proxy = s3_lib.Proxy(service.port, a.seed, CHANCES)
        check(f"http://127.0.0.1:{proxy.port}", *seed, "--faults", credentials=credentials)
        print("proxy:", {k: v for k, v in proxy.counts.items() if k})
        proxy.close()

        hanging = s3_lib.Proxy(service.port, a.seed, {"hang": 0.2})
        check(f"http://127.0.0.1:{hanging.port}", "--seed", str(a.seed), "--ops", "12", "--max", "300000", "--faults",
              "--deadline-ms", "2500", credentials=credentials)
        hanging.close()
        outage(service, credentials, a.ops)
        (base / "server").mkdir()
        moves(service, base, credentials)

        one = ["--ops", "3", "--seed", "5", "--deadline-ms", "3000"]
        must(check(direct, *one, credentials=credentials, bucket="nowhere", expect=1), "OFFLINE", "no bucket 'nowhere'")
        wrong = service.credentials(base, "wrongsecret")
        must(check(direct, *one, credentials=wrong, expect=1), "ACCESS", "refuses the key", "SignatureDoesNotMatch")
        must(check(direct, *one, credentials=base / "none", expect=1), "ACCESS", "has no key", str(base / "none"))
        must(check("http://127.0.0.1:1", *one, credentials=wrong, expect=1), "OFFLINE", "does not answer")
        for field, word in (("endpoint=ftp://x", "endpoint"), ("bucket=a", "bucket"), ("prefix=/a", "prefix"),
                            ("style=round", "style"), ("flavour=1", "flavour")):
            p = subprocess.run([str(CHECK), "type=s3", field], capture_output=True, text=True, check=False)
            if p.returncode != 2:
                sys.exit(f"test_s3_store: {field} was taken")
            must(p.stdout, word)
    finally:
        service.stop()
        shutil.rmtree(base, ignore_errors=True)
    print("test_s3_store: passed")


if __name__ == "__main__":
    main()
