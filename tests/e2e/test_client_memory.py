#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a process that streams an epoch never has more memory than its budget, what it shares with others included, and
processes of a node fetch the pages of the table once. Method: ranks of one world at once, as processes; the kernel's own
count of each one's peak; the node's folder of pages afterwards."""
import json
import os
import stat
import subprocess

from crash_lib import BRIEF, BUILD, GRANARY, SANITIZED, Server, fail, need_programs, scratch, skip, spawn

SAMPLES, SIZE, RANKS = (20000 if BRIEF else 100000), 1024, 6
CLIENT = BUILD / "bench" / "bench_client"


def run(env, *args):
    p = subprocess.run([str(a) for a in args], env=env, capture_output=True, text=True, timeout=300)
    if p.returncode != 0:
        fail(f"{' '.join(map(str, args))}: {p.stderr.strip()[-500:]}")
    return p.stdout


def epochs(env, mode, memory_mib):
    """Every rank's peak over its budget, all at once."""
    args = [CLIENT, "epoch", "data@v1", mode, "64"]
    running = [spawn([*args, str(r), str(RANKS), str(memory_mib), "1000"], env=env, stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE, text=True) for r in range(RANKS)]
    samples, worst = 0, 0
    for p in running:
        out, err = p.communicate(timeout=300)
        if p.returncode != 0:
            fail(f"a rank in mode {mode}: {err.strip()[-500:]}")
        said = json.loads(out)
        samples += said["samples"]
        worst = max(worst, said["peak"] / said["budget"])
        if said["budget"] != memory_mib << 20:
            fail(f"a rank's budget is {said['budget']}, asked for were {memory_mib} MiB")
    if samples != SAMPLES:
        fail(f"mode {mode}: {samples} samples of {SAMPLES} came")
    print(f"{mode}, {memory_mib} MiB: the worst of {RANKS} ranks had {worst:.2f} of its budget", flush=True)
    if worst > 1:
        fail(f"mode {mode}: a rank had {worst:.3f} of its budget of {memory_mib} MiB")


def main():
    need_programs()
    if SANITIZED:
        skip("sanitizers take memory of their own")
    if not CLIENT.exists():
        skip("bench/bench_client is not built")
    base = scratch("client-memory")
    runtime = base / "runtime"
    runtime.mkdir(mode=0o700)
    server = Server(base)
    server.start()
    env = {**os.environ, "GRANARY_URL": server.url, "GRANARY_CREDENTIALS": str(server.credentials),
           "XDG_RUNTIME_DIR": str(runtime)}
    run(env, GRANARY, "bucket", "create", f"{server.url}/data")
    run(env, CLIENT, "make", "data", "train", SAMPLES, SIZE)
    run(env, GRANARY, "snapshot", "create", f"{server.url}/data@v1", "--block", "64", "--lanes", "24", "--window", "16")
    detail = json.loads(run(env, GRANARY, "snapshot", "show", f"{server.url}/data@v1", "--json"))
    for mode in ("blocks", "exact", "none"):
        epochs(env, mode, 64)
    pages = list((runtime / "granary").iterdir())
    if len(pages) != detail["pages"] or any(p.name.startswith(".") for p in pages):
        fail(f"the table has {detail['pages']} pages, in the node's folder are {sorted(p.name for p in pages)}")
    for p in pages:
        if stat.S_IMODE(p.stat().st_mode) != 0o400:
            fail(f"{p} can be written")
    server.stop()
    print("ok")


main()
