#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what lies in a cold store is served as before, survives kill -9 in the middle of moves, and a store that is away,
or bytes that rot there, cost an error that says so, never wrong bytes and never the last copy.

Method: two directories of files (text that compresses, random bytes that do not). One goes to a cold directory; both are
read in mixed batches and compared; the copies are decoded by the zstd program and by granary-fsck. Moves are killed and
go on after a start. The store's directory is taken away and comes back. Bits are flipped in a cold copy, and in a hot one
that has a cold one.

  test_tier.py [--seed S]
"""
import argparse
import json
import random
import re
import shutil
import subprocess
import time

import crash_lib as lib

GRACE_S = 120  # ends a test that hangs; nothing is judged by it


def make(rng, root, count, kind):
    root.mkdir(parents=True)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "image", "label"]
    for i in range(count):
        if kind == "text":
            text = json.dumps({"id": i, "box": [rng.random() for _ in range(6)],
                               "caption": " ".join(rng.choice(words) for _ in range(rng.randrange(50, 900)))})
            (root / f"{i:05d}.json").write_text(text)
        else:
            (root / f"{i:05d}.bin").write_bytes(rng.randbytes(rng.choice([900, 30_000, 112_000, 700_000])))


def same(server, url, source, scratch):
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    server.cli("export", url, out)
    if subprocess.run(["diff", "-r", source, out], check=False).returncode != 0:
        lib.fail(f"what is read of {url} differs from {source}")


def stores(server):
    out = server.cli("tier", "ls", "--json").stdout
    return [json.loads(line) for line in out.splitlines()]


def wait_tasks(server):
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        tasks = [json.loads(line) for line in server.cli("tier", "status", "--json").stdout.splitlines()]
        if all(t["state"] in ("done", "failed", "canceled") for t in tasks):
            return tasks
        time.sleep(0.1)
    lib.fail("moves do not end: " + str(tasks))


def objects(cold):
    return sorted((cold / "packs").glob("*/*.cold"))


def check_decoders(cold, scratch):
    """The zstd program decodes a copy with the dictionary that fsck takes out of it; fsck walks what comes out."""
    compressed = 0
    for path in objects(cold):
        if path.read_bytes()[:4] != (0x184D2A50).to_bytes(4, "little"):
            continue  # kept as it is: a pack
        compressed += 1
        dictionary = scratch / "dictionary"
        run = subprocess.run([lib.FSCK, "cold", path, "--dict", dictionary], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            lib.fail("granary-fsck: " + run.stdout + run.stderr)
        if shutil.which("zstd"):
            command = ["zstd", "-d", "-q", "-f", path, "-o", scratch / "raw"]
            if dictionary.stat().st_size:
                command += ["-D", dictionary]
            subprocess.run(command, check=True)
            if (scratch / "raw").read_bytes()[:7] != b"GRNPACK":
                lib.fail("zstd decodes a copy to something that is no pack")
    if compressed == 0:
        lib.fail("no copy was compressed")


def flip(rng, path, low, high):
    with open(path, "r+b") as f:
        f.seek(rng.randrange(low, high))
        byte = f.read(1)[0]
        f.seek(-1, 1)
        f.write(bytes([byte ^ 1 << rng.randrange(8)]))


def kept(server, url, cold, text):
    print("samples that were read are kept on flash, and served while the store is away", flush=True)
    plain = server.settings["stores"]
    server.cli("tier", "push", url + "/text", "--to", "archive")
    server.stop()
    server.settings["stores"] = plain + ",promote=sample,promote_space=16MiB"
    server.start()
    names = ["00007.json", "01500.json", "02999.json"]
    for name in names:
        server.cli("cat", f"{url}/text/{name}")
    server.stop()
    away = cold.with_name("away")
    cold.rename(away)
    server.start()
    for name in names:
        if server.cli("cat", f"{url}/text/{name}").stdout != (text / name).read_bytes():
            lib.fail(f"what was kept of {name} is something else")
    if server.cli("cat", f"{url}/text/01000.json", check=False).returncode == 0:
        lib.fail("a sample that was never read is served while its store is away")
    status = json.loads(server.cli("status", "--json").stdout)
    if status["store_archive_kept_hits"] < len(names) or status["store_archive_gets"] != 0:
        lib.fail(f"it was not what is kept: {status}")
    away.rename(cold)
    server.stop()
    server.settings["stores"] = plain
    server.start()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int)
    seed = lib.seed_of(args.parse_args().seed)
    rng = random.Random(seed)
    lib.need_programs()
    base = lib.scratch("tier")
    cold, text, noise = base / "cold", base / "text", base / "noise"
    cold.mkdir()
    make(rng, text, 3000, "text")
    make(rng, noise, 120, "noise")
    settings = {"pack-size": "16MiB", "job-interval": "200ms", "cache-size": "16MiB", "memory": "256MiB",
                "stores": f"archive,type=directory,path={cold},read_timeout=5s"}
    server = lib.Server(base, settings=settings)
    server.start()
    url = server.url + "/vision"
    server.cli("bucket", "create", url)
    server.cli("import", text, url + "/text")
    server.cli("import", noise, url + "/noise")

    print("one part goes cold, and is read with the other", flush=True)
    server.cli("tier", "push", url + "/text", "--to", "archive")
    state = stores(server)[0]
    if state["packs"] == 0 or state["cold_only"] != state["packs"] or state["stored"] >= state["bytes"]:
        lib.fail(f"not cold, or not smaller: {state}")
    same(server, url + "/text", text, base)
    check_decoders(cold, base)
    both = base / "both"
    both.mkdir()
    shutil.copytree(text, both / "text")
    shutil.copytree(noise, both / "noise")
    server.cli("bench", "read", url, "--batch", "64", "--shuffle", "7", "--against", both)

    print("kill -9 while all goes cold and comes back", flush=True)
    for verb in (["push", url, "--to", "archive"], ["pull", url], ["push", url, "--to", "archive"], ["pull", url, "--drop"]):
        server.cli("tier", *verb[:2], "--background", *[v for v in verb[2:] if v != "--drop"])
        time.sleep(rng.random() * 0.8)
        server.kill()
        server.start()
        wait_tasks(server)
        same(server, url, both, base)
    server.cli("tier", "push", url, "--to", "archive")
    if stores(server)[0]["cold_only"] == 0:
        lib.fail("nothing is cold at the end")
    check_decoders(cold, base)

    print("the store goes away and comes back", flush=True)
    hot = base / "hot"
    make(rng, hot, 20, "text")
    server.cli("import", hot, url + "/hot")
    away = base / "away"
    cold.rename(away)
    server.stop()
    server.start()
    same(server, url + "/hot", hot, base)
    run = server.cli("cat", url + "/text/00000.json", check=False)
    text_of = lambda run: (run.stdout + run.stderr).decode(errors="replace")
    if run.returncode == 0 or not re.search("offline|away", text_of(run)):
        lib.fail(f"a read of what is away: {run.returncode} {text_of(run)}")
    server.cli("tier", "pull", url + "/text", "--background")
    cold.mkdir()  # an empty mount point is not the store
    time.sleep(0.5)
    if any(cold.iterdir()):
        lib.fail("an empty directory was taken for the store")
    cold.rmdir()
    away.rename(cold)
    wait_tasks(server)
    same(server, url + "/text", text, base)

    kept(server, url, cold, text)
    print("bits rot: found, mended out of the other copy, or an error that names the place", flush=True)
    server.cli("tier", "push", url + "/text", "--to", "archive")
    server.cli("tier", "pull", url + "/text")  # both copies
    server.stop()
    for path in objects(cold):
        flip(rng, path, path.stat().st_size // 4, path.stat().st_size // 2)
    server.start()
    server.cli("check", check=False)
    until = time.monotonic() + GRACE_S
    tasks = wait_tasks(server)
    while not tasks and time.monotonic() < until:  # it begins a moment after the check found the damage
        time.sleep(0.1)
        tasks = wait_tasks(server)
    if not any(t["kind"] == "repair-cold" and t["state"] == "done" and t["done"] == 1 for t in tasks):
        lib.fail(f"no damaged cold copy was made anew: {tasks}")
    server.stop()
    packs = [p for p in server.packs() if p.read_bytes().find(b'"caption"') >= 0]
    if not packs:
        lib.fail("no hot pack holds text")
    for path in packs:  # hot: read all around, and mended by the read
        raw = path.read_bytes()
        at = raw.find(b'"caption"', len(raw) // 3)
        flip(rng, path, at + 12, at + 40)
    server.start()
    same(server, url + "/text", text, base)
    if not any(t["kind"] == "repair-hot" for t in wait_tasks(server)):
        lib.fail("no damaged hot copy was made anew")
    run = server.cli("check", check=False)
    wait_tasks(server)
    server.cli("tier", "push", url, "--to", "archive")
    server.cli("check", check=False)
    server.stop()
    for path in objects(cold):
        flip(rng, path, path.stat().st_size // 4, path.stat().st_size // 2)
    server.start()
    bad = 0
    for name in sorted(both.rglob("*"))[::9]:
        if not name.is_file():
            continue
        run = subprocess.run([lib.GRANARY, "cat", f"{url}/{name.relative_to(both)}"], env=server.client_env(),
                             capture_output=True, check=False)
        if run.returncode == 0 and run.stdout != name.read_bytes():
            lib.fail(f"wrong bytes of {name}")
        bad += run.returncode != 0
    run = server.cli("check", check=False)
    if run.returncode == 0 or not re.search(r"pack=[0-9a-f]{16} offset=\d+ store=archive", text_of(run)):
        lib.fail("check does not name the place: " + text_of(run))
    print(f"{bad} objects could not be read, none was wrong", flush=True)
    server.stop()
    print("ok")


if __name__ == "__main__":
    lib.run(main)
