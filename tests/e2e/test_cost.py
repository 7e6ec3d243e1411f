#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what a plan says a month will cost is what the month costs, within 5 %; and how much of what a job read was on flash.

Method: a month goes by day by day (a preloaded shim moves CLOCK_BOOTTIME, and with it store time), on each of which the same
things are read. The plan of rules that move most of it is kept; then they are applied, the same month is read again, and the
bytes on flash and in the store, the requests and the bytes that came out of it are counted and paid for by the same prices.

  test_cost.py [--seed S]
"""
import argparse
import json
import random
import time

import crash_lib as lib

SHIM = lib.BUILD / "tests" / "clock_jump.so"
GRACE_S = 120  # ends a test that hangs
DAYS, MONTH_H = 30, 730
FLASH, COLD, REQUEST, EGRESS = 0.06, 0.02, 2e-9, 0.0005  # so that each is a part of the sum


def make(rng, root, count, size, dense):
    root.mkdir(parents=True)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "image", "label"]
    for i in range(count):
        data = rng.randbytes(size) if dense else json.dumps(
            {"id": i, "box": [rng.random() for _ in range(size // 40)],
             "caption": " ".join(rng.choice(words) for _ in range(size // 12))}).encode()
        (root / f"{i:05d}").write_bytes(data)


class Month:
    def __init__(self, base, server):
        self.base, self.server, self.day = base, server, 0
        self.flash = self.cold = 0.0  # byte hours

    def tick(self):
        """A day; what is read on it."""
        for folder, times in (("text", 1), ("noise", 1), ("hot", 2)):
            for _ in range(times):
                self.server.cli("bench", "read", f"{self.server.url}/vision/{folder}", "--batch", "64", "--shuffle",
                                str(self.day + 1))
        self.server.cli("tier", "cost", "--json")  # what was read is recorded as read on this day, not on the next one
        size = lambda root, end: sum(p.stat().st_size for p in root.glob("packs/*/*" + end))
        self.flash += 24 * size(self.server.data, ".pack")
        self.cold += 24 * size(self.base / "cold", ".cold")
        self.day += 1
        (self.base / "boot").write_text(f"{self.day * 86400}\n")

    def go(self):
        self.flash = self.cold = 0.0
        for _ in range(DAYS):
            self.tick()


def status(server):
    return json.loads(server.cli("status", "--json").stdout)


def until(what, judge):
    end = time.monotonic() + GRACE_S
    while not judge():
        if time.monotonic() > end:
            lib.fail(f"never: {what}")
        time.sleep(0.2)


def jobs(server):
    out = [json.loads(line) for line in server.cli("tier", "top", "--json").stdout.splitlines()]
    return {j["job"]: j for j in out if "job" in j}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    rng = random.Random(lib.seed_of(parser.parse_args().seed))
    lib.need_programs()
    if lib.SANITIZED:
        lib.skip("a preloaded shim does not go before a sanitizer's runtime")
    base = lib.scratch("cost")
    (base / "cold").mkdir()
    (base / "boot").write_text("0\n")
    server = lib.Server(base, env={"LD_PRELOAD": str(SHIM), "CLOCK_JUMP_BOOT_FILE": str(base / "boot")}, settings={
        "stores": f"archive,type=directory,path={base / 'cold'},price_gb_month={COLD},"
                  f"price_1000_requests={REQUEST * 1000:.9f},price_gb_egress={EGRESS}",
        "hot-price": str(FLASH), "cache-size": "16MiB", "rules-interval": "300ms"})
    server.start()
    url = f"{server.url}/vision"
    server.cli("bucket", "create", url)
    for folder, count, size, dense in (("text", 4000, 4000, False), ("noise", 200, 100_000, True), ("hot", 60, 60_000, True)):
        make(rng, base / folder, count, size, dense)
        server.cli("import", base / folder, f"{url}/{folder}", "--quiet")
    server.stop()  # open packs are sealed by the next start
    server.start()
    until("packs are sealed", lambda: status(server)["packs_open"] == 0)
    month = Month(base, server)
    for _ in range(36 - DAYS):  # until RAM holds what it will: records go back 35 days
        month.tick()
    month.go()
    rules = base / "rules.yaml"
    rules.write_text("rules:\n - { name: text, match: { prefix: text/ }, age: 1d, to: archive }\n"
                     " - { name: noise, match: { prefix: noise/ }, age: 1d, to: archive }\n")
    plan = json.loads(server.cli("tier", "plan", rules, "--json").stdout)
    if not 0 < plan["month_planned"] < plan["month_all_hot"] or plan["moves_planned"] <= 0:
        lib.fail(f"nothing is saved, or moves cost nothing: {plan}")
    server.cli("tier", "pause")
    server.cli("tier", "apply", rules)
    parts = json.loads(server.cli("tier", "cost", "--json").stdout)["planned"]
    server.cli("tier", "resume")
    until("text and noise are cold", lambda: not any(json.loads(server.cli(
        "tier", "explain", f"{url}/{key}", "--json").stdout)["hot"] for key in ("text/00000", "text/03999", "noise/00199")))
    until("flash let go", lambda: len(server.packs()) <= 2)
    before = status(server)
    month.go()
    after = status(server)
    gets, got = (after[f"store_archive_{k}"] - before[f"store_archive_{k}"] for k in ("gets", "get_bytes"))
    hours = 24 * DAYS
    paid = {"flash": month.flash / hours / 1e9 * FLASH, "cold": month.cold / hours / 1e9 * COLD,
            "requests": gets * REQUEST * MONTH_H / hours, "egress": got / 1e9 * EGRESS * MONTH_H / hours}
    outcome, planned = sum(paid.values()), plan["month_planned"]
    print(parts)
    print(f"planned {planned:.6f}, paid {outcome:.6f} ({planned / outcome - 1:+.1%}): {paid}; {gets} requests", flush=True)
    if abs(planned / outcome - 1) >= 0.05:
        lib.fail("the plan was wrong by 5 % or more")
    bill = json.loads(server.cli("tier", "cost", "--json").stdout)["now"]
    print(f"told afterwards: {bill}")
    if abs(bill["sum"] / outcome - 1) >= 0.05:
        lib.fail(f"the bill of what is, is wrong by 5 % or more: {bill}")

    print("what a job read on flash and out of the store", flush=True)
    server.cli("snapshot", "create", f"{url}@v1", "--window", "1")
    for folder, job in (("hot", "hits"), ("noise", "misses")):
        server.cli("snapshot", "create", f"{url}@{folder}", "--prefix", f"{folder}/")
        server.cli("stream", f"{url}@{folder}", "--job", job, "--tar", "-q")
    by = jobs(server)
    if by["hits"]["hit_rate"] != 1 or by["hits"]["hot_bytes"] < 60 * 60_000:
        lib.fail(f"all of it was on flash: {by}")
    if by["misses"]["cold_bytes"] <= 0 or by["misses"]["hit_rate"] >= 1:
        lib.fail(f"it was not on flash: {by}")
    if b"misses" not in server.cli("tier", "top").stdout:
        lib.fail("people are not told of jobs")
    server.stop()
    print("ok")


if __name__ == "__main__":
    lib.run(main)
