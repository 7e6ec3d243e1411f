#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what admins write in rules is planned, refused, applied, done and explained as docs/TIERS.md says, and no byte is
other than it was: by age to a cold store and back into reading, copies in time, pins, deletions only when they were
allowed and never of a newer version, kept checkpoints, watermarks, a restart in between, a store that vanished from the
settings.

  test_rules.py [--seed S]
"""
import argparse
import json
import pathlib
import random
import time
import xml.etree.ElementTree

import crash_lib as lib

GRACE_S = 120  # no time is judged; this only ends a test that hangs


class Case:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.base = lib.scratch("rules")
        (self.base / "cold").mkdir()
        self.server = lib.Server(self.base, settings={
            "stores": f"archive,type=directory,path={self.base / 'cold'},price_gb_month=0.004,price_1000_requests=0.01",
            "rules-interval": "300ms", "hot-price": "0.10"})
        self.objects = {}

    def put(self, key, size):
        data = self.rng.randbytes(size)
        path = self.base / "tree" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.objects[key] = data

    def send(self, bucket):
        self.server.cli("import", self.base / "tree", f"{self.server.url}/{bucket}/", "--quiet")

    def rules(self, text, check=True, delete=False):
        path = self.base / "rules.yaml"
        path.write_text(text)
        return self.server.cli("tier", "apply", path, *(["--yes-delete"] if delete else []), check=check)

    def plan(self, text=None):
        args = []
        if text is not None:
            path = self.base / "plan.yaml"
            path.write_text(text)
            args = [path]
        return json.loads(self.server.cli("tier", "plan", *args, "--json").stdout)

    def rule(self, plan, name):
        return next(r for r in plan["rules"] if r["name"] == name)

    def explain(self, bucket, key):
        return json.loads(self.server.cli("tier", "explain", f"{self.server.url}/{bucket}/{key}", "--json").stdout)

    def until(self, what, judge):
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end:
            if judge():
                return
            time.sleep(0.2)
        lib.fail(f"never: {what}\n{self.server.tail()}")

    def keys(self, bucket):
        out = self.server.cli("ls", "-r", "--json", f"{self.server.url}/{bucket}").stdout.decode().splitlines()
        return {e["key"] for e in map(json.loads, filter(None, out)) if e["type"] == "file"}

    def read_all(self, bucket, keys=None):
        for key in keys if keys is not None else self.objects:
            got = self.server.cli("cat", f"{self.server.url}/{bucket}/{key}").stdout
            if got != self.objects[key]:
                lib.fail(f"{bucket}/{key}: other bytes")


def expect(what, got, wanted):
    if got != wanted:
        lib.fail(f"{what}: {got!r}, not {wanted!r}")


def refusals(c):
    p = c.rules("rules: [{ name: x, to: nowhere }]", check=False)
    if p.returncode == 0 or b"no store 'nowhere'" not in p.stderr:
        lib.fail(f"a store that there is none of: {p.stderr}")
    p = c.rules("rules: [{ name: x, delete: true, age: 1000d }]", check=False)
    if p.returncode == 0 or b"--yes-delete" not in p.stderr or b"0 objects" not in p.stderr:
        lib.fail(f"deletes without being allowed: {p.stderr}")
    expect("rules in force", c.server.cli("tier", "rules").stdout, b"")
    p = c.server.cli("tier", "plan", check=False)
    if p.returncode == 0 or b"no rules are in force" not in p.stderr:
        lib.fail(f"a plan of nothing: {p.stderr}")


def by_age(c):
    """To the cold store once it is idle; read there; pinned and younger ones stay."""
    text = ("rules:\n"
            " - { name: held, match: { bucket: vision, prefix: pinned/ }, pin: true }\n"
            " - { name: cool, match: { bucket: vision }, idle: 2s, to: archive, compress: zstd:1 }\n"
            " - { name: later, match: { bucket: other }, idle: 300d, to: archive }\n")
    plan = c.plan(text)
    expect("objects of a plan", plan["objects"], 2 * len(c.objects))
    expect("packs that wait", c.rule(plan, "later")["later_packs"] > 0, True)
    c.rules(text)
    c.until("all of vision is cold", lambda: not c.explain("vision", "a/0")["hot"])
    e = c.explain("vision", "a/0")
    expect("store", e["store"], "archive")
    expect("rule", e["rules"]["place"]["name"], "cool")
    expect("the other bucket", c.explain("other", "a/0")["hot"], True)
    due = c.explain("other", "a/0")["rules"]["place"]["due_in_s"]
    expect("due in days", 200 * 86400 < due <= 300 * 86400, True)
    c.read_all("vision")
    c.read_all("other", ["a/0"])
    cost = json.loads(c.server.cli("tier", "cost", "--json").stdout)
    expect("less flash", 0 < cost["now"]["flash"] < cost["all_hot"]["flash"], True)
    expect("some cold", cost["now"]["cold"] > 0 and cost["now"]["requests"] > 0, True)
    # A restart keeps rules, copies, and what they decide.
    expect("stop", c.server.stop(), 0)
    c.server.start()
    expect("rules after a restart", c.server.cli("tier", "rules").stdout.decode(), text)
    expect("cold after a restart", c.explain("vision", "a/1")["hot"], False)
    c.read_all("vision")


def heat(c):
    """What was read is hotter than what was not, and the map has each pack once, where it is."""
    for _ in range(20):
        c.server.cli("cat", f"{c.server.url}/vision/a/0")
    top = [json.loads(x) for x in c.server.cli("tier", "top", "--json").stdout.splitlines()]
    by = {t["prefix"]: t for t in top}
    expect("prefixes", set(by), {f"{b}/{d}/" for b in ("vision", "other") for d in "ab"})
    expect("objects of each", {t["objects"] for t in top}, {len(c.objects) // 2})
    expect("hottest first", [t["reads_an_hour"] for t in top], sorted((t["reads_an_hour"] for t in top), reverse=True))
    expect("read more than not at all", by["vision/b/"]["reads"] > by["other/b/"]["reads"], True)
    expect("all cold", by["vision/b/"]["cold_bytes"], by["vision/b/"]["bytes"])
    expect("none cold", by["other/b/"]["cold_bytes"], 0)
    below = [json.loads(x) for x in c.server.cli("tier", "top", "--json", f"{c.server.url}/vision/a").stdout.splitlines()]
    expect("right below a path", [t["prefix"] for t in below], ["vision/a/"])
    text = c.server.cli("tier", "top").stdout.decode()
    expect("for people", all(p in text for p in ("hottest", "coldest", "vision/b/", "other/b/")), True)
    p = c.server.cli("tier", "top", f"{c.server.url}/nobucket", check=False)
    expect("a bucket that is not there", p.returncode != 0 and b"nobucket" in p.stderr, True)
    packs = [json.loads(x) for x in c.server.cli("tier", "map", "--json").stdout.splitlines()]
    expect("each once", len({x["pack"] for x in packs}), len(packs))
    expect("cold and hot ones", {x["hot"] for x in packs}, {True, False})
    expect("reads of the hottest", max(x["reads"] for x in packs) >= 20, True)
    picture = c.base / "map.svg"
    c.server.cli("tier", "map", "-o", picture)
    expect("a square a pack", sum(e.tag.endswith("rect") for e in xml.etree.ElementTree.parse(picture).iter()), len(packs))
    drawn = c.server.cli("tier", "map").stdout.decode()
    cells = [x for x in drawn.splitlines()[1:] if x and set(x) <= set(".:-=+*oO#@")]
    expect("a character a pack", sum(map(len, cells)), len(packs))


def copies(c):
    """A second copy soon, also of a pack that was open; then flash may let go."""
    c.rules("rules:\n - { name: second, match: { bucket: other }, copy: { to: archive, within: 1s } }\n")
    c.until("other has a copy", lambda: c.explain("other", "a/0")["store"] == "archive")
    expect("still hot", c.explain("other", "a/0")["hot"], True)
    c.until("nothing of it exists once", lambda: c.plan()["once_bytes"] <= sum(map(len, c.objects.values())))
    c.rules("rules:\n - { name: go, match: { bucket: other }, drop_hot: true, age: 1s }\n")
    c.until("other let go of flash", lambda: not c.explain("other", "a/0")["hot"])
    c.read_all("other")


def apart(c):
    """Two prefixes lie in the packs of one dataset, and one of them is to go: it is put apart, and goes; the other stays."""
    url = f"{c.server.url}/mixed"
    c.server.cli("bucket", "create", url)
    for i in range(12):  # written one by one, into the bucket's own pack: neighbours
        for folder in ("go", "stay"):
            c.put(f"{folder}/{i:02}", 200_000)
            c.server.cli("cp", c.base / "tree" / folder / f"{i:02}", f"{url}/{folder}/{i:02}")
    c.rules("rules:\n - { name: go, match: { bucket: mixed, prefix: go/ }, age: 1s, to: archive }\n"
            " - { name: stay, match: { bucket: mixed, prefix: stay/ }, age: 900d, to: archive }\n")
    keys = [f"{folder}/{i:02}" for folder in ("go", "stay") for i in range(12)]
    c.until("what goes is cold", lambda: not any(c.explain("mixed", k)["hot"] for k in keys[:12:4]))
    expect("what stays", all(c.explain("mixed", k)["hot"] for k in keys[12::4]), True)
    status = json.loads(c.server.cli("status", "--json").stdout)
    expect("it was put apart", status["jobs_sorted"] > 0, True)
    c.read_all("mixed", keys)
    c.server.kill()
    c.server.start()
    c.read_all("mixed", keys[::7])


def pins(c):
    """What is pinned comes back from the cold store and stays, over kill -9 too; its neighbours by name do not count;
    rules do not delete it; who may write there may pin."""
    def pinned(*args):
        out = c.server.cli("tier", "pins", "--json", *args).stdout.splitlines()
        return {(p["bucket"], p["path"]) for p in map(json.loads, out)}

    url = c.server.url
    c.rules("rules:\n - { name: cool, match: { bucket: vision }, idle: 1s, to: archive }\n")
    c.until("vision is cold", lambda: not c.explain("vision", "b/1")["hot"])
    c.server.cli("tier", "pin", f"{url}/vision/b/1/")
    c.server.cli("tier", "pin", f"{url}/vision/b/1")
    expect("pins", pinned(), {("vision", "b/1")})
    expect("explained", c.explain("vision", "b/1")["pinned_by"], "b/1")
    expect("a neighbour that begins alike", "pinned_by" in c.explain("vision", "b/10"), False)
    c.until("the pinned pack came back", lambda: c.explain("vision", "b/1")["hot"])
    plan = c.plan()
    expect("a plan knows", (plan["pinned_packs"], plan["pinned_cold_packs"]), (1, 0))
    for where in ("vision/b/1", "vision/b", "vision"):
        p = c.server.cli("tier", "push", f"{url}/{where}", "--to", "archive", check=False)
        if p.returncode == 0 or b"'vision/b/1' is pinned" not in p.stderr:
            lib.fail(f"pinned bytes were pushed: {where}: {p.stderr}")
    c.server.kill()
    c.server.start()
    expect("pins after kill -9", pinned(), {("vision", "b/1")})
    # Without rules pins are kept, and explained.
    c.rules("rules: []")
    expect("explained without rules", c.explain("vision", "b/1")["pinned_by"], "b/1")
    # Deletions leave it.
    c.server.cli("bucket", "create", f"{url}/pinned")
    for key in ("keep/1", "keep/2", "keeper", "go/1"):
        c.server.cli("cp", c.base / "tree" / "a" / "0", f"{url}/pinned/{key}")
    credentials = c.base / "writer"
    c.server.cli("key", "create", "--grant", "read+list+write:pinned/keep", "-o", credentials, url)
    writer = ["--credentials", credentials]
    c.server.cli("tier", "pin", f"{url}/pinned/keep", *writer)
    for verb, where in (("pin", "pinned/go"), ("pin", "pinned"), ("unpin", "vision/b/1"), ("pin", "nobucket/x")):
        p = c.server.cli("tier", verb, f"{url}/{where}", *writer, check=False)
        expect(f"a writer of pinned/keep: {verb} {where}", p.returncode != 0, True)
    p = c.server.cli("tier", "pins", url, *writer, check=False)
    expect("all pins are an admin's to see", p.returncode != 0, True)
    p = c.server.cli("tier", "pin", f"{url}/nobucket/x", check=False)
    expect("a bucket that is not there", p.returncode != 0 and b"no bucket 'nobucket'" in p.stderr, True)
    c.rules("rules:\n - { name: all, match: { bucket: pinned }, age: 1s, delete: true }\n", delete=True)
    c.until("what is not pinned is gone", lambda: c.keys("pinned") == {"keep/1", "keep/2"})
    c.server.cli("tier", "unpin", f"{url}/pinned/keep", *writer)
    c.until("what is no longer pinned, too", lambda: not c.keys("pinned"))
    # A bucket takes its pins along; another one of its name has none.
    c.server.cli("tier", "pin", f"{url}/pinned")
    c.server.cli("bucket", "rm", f"{url}/pinned", "--yes")
    c.until("its pins went", lambda: pinned() == {("vision", "b/1")})
    c.server.cli("tier", "unpin", f"{url}/vision/b/1")
    c.rules("rules:\n - { name: cool, match: { bucket: vision }, age: 1s, to: archive }\n")
    c.until("vision is cold again", lambda: not c.explain("vision", "b/1")["hot"])
    expect("no pins", pinned(), set())
    status = json.loads(c.server.cli("status", "--json").stdout)
    expect("bytes in one place only", status["once_bytes"] > 0 and status["once_packs"] > 0, True)


def deletes(c):
    """What is due goes, what was written since does not, of checkpoints the last two stay."""
    for step in range(5):
        for rank in range(2):
            c.put(f"runs/7/step-{step}/rank{rank}", 5000)
        c.server.cli("import", c.base / "tree" / "runs", f"{c.server.url}/ckpt/runs", "--quiet")
        time.sleep(0.05)
    c.server.cli("cp", c.base / "tree" / "a" / "0", f"{c.server.url}/ckpt/keep/0")
    text = ("rules:\n - { name: last two, match: { bucket: ckpt, glob: 'runs/*/step-*' }, keep_last: 2, delete: true }\n"
            " - { name: scratch, match: { bucket: ckpt, prefix: tmp/ }, age: 1s, delete: true }\n")
    c.server.cli("cp", c.base / "tree" / "a" / "1", f"{c.server.url}/ckpt/tmp/1")
    plan = c.plan(text)
    expect("planned deletions", c.rule(plan, "last two")["delete_objects"], 6)
    p = c.rules(text, check=False)
    expect("refused", p.returncode != 0 and b"6 objects" in p.stderr or b"7 objects" in p.stderr, True)
    c.rules(text, delete=True)
    wanted = {f"runs/7/step-{s}/rank{r}" for s in (3, 4) for r in range(2)} | {"keep/0"}
    c.until(f"only {sorted(wanted)} are left", lambda: c.keys("ckpt") == wanted)
    for key in sorted(wanted - {"keep/0"}):
        got = c.server.cli("cat", f"{c.server.url}/ckpt/{key}").stdout
        if got != c.objects[key]:
            lib.fail(f"{key}: other bytes")


def store_gone(c):
    """A store that the settings no longer name is away: nothing moves, cold reads fail and say why, all else goes on."""
    c.rules("rules:\n - { name: cool, match: { bucket: ckpt }, to: archive, age: 1000d }\n")
    expect("stop", c.server.stop(), 0)
    stores = c.server.settings.pop("stores")
    c.server.start()
    p = c.server.cli("cat", f"{c.server.url}/vision/a/0", "--timeout", "3s", check=False)
    expect("a cold read without its store", p.returncode != 0 and b"offline" in p.stderr, True)
    c.server.cli("cat", f"{c.server.url}/ckpt/keep/0")
    c.plan()
    expect("stop", c.server.stop(), 0)
    c.server.settings["stores"] = stores
    c.server.start()
    c.read_all("vision", ["a/0", "b/1"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed")
    a = parser.parse_args()
    lib.need_programs()
    c = Case(lib.seed_of(a.seed))
    c.server.start()
    for bucket in ("vision", "other", "ckpt"):
        c.server.cli("bucket", "create", f"{c.server.url}/{bucket}")
    refusals(c)
    for i in range(40):
        c.put(f"a/{i}", c.rng.randrange(1, 40000))
        c.put(f"b/{i}", c.rng.randrange(1, 400000))
    c.send("vision")
    c.send("other")
    by_age(c)
    heat(c)
    copies(c)
    apart(c)
    pins(c)
    deletes(c)
    store_gone(c)
    expect("stop", c.server.stop(), 0)
    print("test_rules: passed")


if __name__ == "__main__":
    main()
