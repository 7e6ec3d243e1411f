#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a recipe gives the samples that docs/ORDER.md 7 and 8 say, of real snapshots, at every position, for every world, also
when it is resumed inside a stage; it holds its snapshots; what is wrong with one is said clearly. Method: the second
implementation of test_order.py, over the parts of the snapshots as Python's own fnmatch cuts them."""
import fnmatch
import io
import json
import random
import sys
import tarfile

from crash_lib import Server, need_programs, scratch, seed_of
from stream_lib import Command, check, ids_of, ranks, steps
from test_order import BLOCKS, EXACT, NONE, Mix

MODES = {"blocks": BLOCKS, "exact": EXACT, "none": NONE}


def make_files(folder, rng):
    """What a file holds says which it is."""
    for i in range(700):
        path = folder / f"{'abc'[i % 3]}{i % 7}" / f"s{i:04d}.{'jpg' if i % 5 else 'txt'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{path.relative_to(folder)} ".encode() * rng.randrange(1, 40))


def keys_of(cmd, snapshot):
    """Keys by dense id: in the order `none` they are what a tar lists."""
    out = cmd.run("stream", snapshot, "--mode", "none", "--tar", "-q").stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        return [m.name for m in tar]


def part_of(keys, source):
    """Dense ids of what a source takes (8.3)."""
    globs, listed = source.get("include", []), source.get("include_keys", [])
    out = []
    for i, key in enumerate(keys):
        taken = not globs and not listed or key in listed or any(fnmatch.fnmatchcase(key, g) for g in globs)
        if taken and key not in source.get("exclude_keys", []) and \
                not any(fnmatch.fnmatchcase(key, g) for g in source.get("exclude", [])):
            out.append(i)
    return out


class Recipe:
    """A recipe made on the server, and what its text says that it gives."""

    def __init__(self, cmd, name, keys, sources, **more):
        cmd.run("recipe", "create", f"data@{name}", "--file", "-", text=json.dumps({"sources": sources, **more}))
        self.cmd, self.name = cmd, f"data@{name}"
        self.shown = cmd.json("recipe", "show", self.name)[0]
        self.text = json.loads(self.shown["text"])
        self.parts = [part_of(keys[s["snapshot"]], s) for s in sources]
        self.keys = [keys[s["snapshot"]] for s in sources]

    def mix(self, mode, seed, epoch):
        t = self.text
        sources = [(len(p), s.get("weight", 0), s.get("repeat", 0)) for p, s in zip(self.parts, t["sources"])]
        stages = [(s["from"], s["weights"]) for s in t.get("stages", [])]
        return Mix(MODES[mode], t.get("samples", 0), t["block"], t["window"], t["lanes"], seed, epoch, sources, stages)

    def expected(self, mix, position):
        source, _, index = mix.at(position)
        return source, self.parts[source][index]

    def check_order(self, mode, world, batch, seed=5, epoch=1):
        mix = self.mix(mode, seed, epoch)
        check(mix.N == self.shown["samples"], f"{self.name}: {self.shown['samples']} samples, the model has {mix.N}")
        rows, _ = ranks(self.cmd, self.name, world, batch, "--mode", mode, "--seed", str(seed), "--epoch", str(epoch))
        for r, rank in enumerate(rows):
            check(len(rank) == -(-mix.N // (world * batch)), f"{self.name}, rank {r} of {world}: {len(rank)} batches")
            for position, row in rank:
                for i, (got, flags) in enumerate(row):
                    p = position + i * world + r
                    check(("p" in flags) == (p >= mix.N), f"{self.name}: position {p} is marked {flags!r}")
                    want = self.expected(mix, p % mix.N)
                    check(got == want, f"{self.name} {mode}, world {world}, position {p}: {got}, the text says {want}")
        return mix


def test_orders(cmd, keys):
    made = [
        Recipe(cmd, "weights", keys, [{"snapshot": "data@all", "weight": 6, "include": ["train/a*"]},
                                      {"snapshot": "data@few", "weight": 2},
                                      {"snapshot": "other@all", "weight": 4, "exclude": ["*.txt", "*/s00[0-4]?.*"]}],
               samples=997, lanes=4, block=8, window=3),
        Recipe(cmd, "stages", keys, [{"snapshot": "data@all", "include": ["train/b*", "train/c1/*"],
                                      "exclude_keys": [keys["data@all"][k] for k in (3, 50, 99)]},
                                     {"snapshot": "data@few"}],
               samples=610, stages=[{"from": 0, "weights": [1, 0]}, {"from": 100, "weights": [2, 1]},
                                    {"from": 401, "weights": [1, 5]}]),
        Recipe(cmd, "repeat", keys, [{"snapshot": "data@few", "repeat": 3}, {"snapshot": "other@all", "repeat": 1,
                                     "include_keys": [keys["other@all"][k] for k in range(5, 120, 4)]}], lanes=3),
        Recipe(cmd, "both", keys, [{"snapshot": "data@few", "repeat": 2}, {"snapshot": "data@all", "weight": 1},
                                   {"snapshot": "other@all", "weight": 3}], samples=900),
    ]
    for recipe in made:
        for mode, world, batch in (("exact", 1, 64), ("blocks", 2, 16), ("none", 3, 5), ("blocks", 5, 7)):
            mix = recipe.check_order(mode, world, batch)
            check_shares(recipe, mix)
    return made


def check_shares(recipe, mix):
    """7.4: within one sample of the share at every position of a stage, of each lane; repeats are exact at the end."""
    lanes = mix.L if mix.places is None else 0
    for lane in range(0 if mix.repeated else lanes):
        for stage, (first, weights) in enumerate([(0, [s[1] for s in mix.sources])] if not recipe.text.get("stages") else
                                                 [(s["from"], s["weights"]) for s in recipe.text["stages"]]):
            end = mix.stages[stage + 1][0] if stage + 1 < len(mix.stages) else mix.N
            counts, total = [0] * len(weights), 0
            for p in range(first + (lane - first) % mix.L, end, mix.L):
                counts[mix.at(p)[0]] += 1
                total += 1
                for s, w in enumerate(weights):
                    check(abs(counts[s] * sum(weights) - total * w) <= sum(weights),
                          f"{recipe.name}: source {s} has {counts[s]} of {total} at position {p}")
    for s, (samples, _, repeat) in enumerate(mix.sources):
        if repeat:
            got = sum(mix.at(p)[0] == s for p in range(mix.N))
            check(got == samples * repeat, f"{recipe.name}: source {s} came {got} times, {samples} * {repeat} expected")


def test_resume(cmd, recipe):
    """Inside stages, at other world sizes; for one global batch a step holds the same samples whatever the world."""
    mix, got, token = recipe.mix("exact", 9, 0), [], None
    for world, batches in ((3, 6), (1, 11), (7, 2), (2, None)):
        rows, token = ranks(cmd, recipe.name, world, 10, "--mode", "exact", "--seed", "9",
                            *(["--batches", str(batches)] if batches else []), token=token)
        got += ids_of(rows)
    check(sorted(got) == sorted(recipe.expected(mix, p) for p in range(mix.N)), "resumed in its stages: not every sample once")
    first = None
    for world in (1, 2, 4):
        rows, _ = ranks(cmd, recipe.name, world, 28 // world, "--mode", "blocks", "--seed", "2")
        first = first or steps(rows)
        check(steps(rows) == first, f"world {world}: a step has other samples than in a world of 1")


def test_bytes(cmd, recipe):
    out = cmd.run("stream", recipe.name, "--mode", "blocks", "--seed", "3", "--tar", "-q").stdout
    mix, count = recipe.mix("blocks", 3, 0), 0
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        for p, member in enumerate(tar):
            source, i = recipe.expected(mix, p)
            key, data = recipe.keys[source][i], tar.extractfile(member).read()
            check(member.name == key and data.startswith(key.split("/", 1)[1].encode() + b" "),
                  f"{recipe.name}: position {p} has '{member.name}' and other bytes than '{key}'")
            count += 1
    check(count == mix.N, f"{recipe.name}: {count} members, {mix.N} expected")


def test_tokens(cmd, made):
    token = cmd.run("stream", made[0].name, "--batches", "2", "--json", "--ids").stderr
    token = json.loads(token.decode().splitlines()[-1])["token"]
    for what in (made[1].name, "data@all"):
        cmd.refused("stream", what, "--resume", token, word="oken")
    snapshot = cmd.json("stream", "data@all", "--batches", "2")[0]["token"]
    cmd.refused("stream", made[0].name, "--resume", snapshot, word="oken")


def test_bad_texts(cmd):
    one = {"snapshot": "data@all", "weight": 1}
    for text, word in (
            ("", "line 1"), ("{", "line 1"), ("[]", "line 1"), ('{"samples": 5}', "sources"),
            (json.dumps({"samples": 5, "sources": []}), "sources"),
            (json.dumps({"samples": 5, "sources": [{**one, "weight": 0}]}), "weight"),
            (json.dumps({"samples": 5, "sources": [{**one, "weight": -1}]}), "negative"),
            (json.dumps({"samples": 5, "sources": [{**one, "wieght": 1}]}), "wieght"),
            (json.dumps({"samples": 5, "sources": [one], "colour": 1}), "colour"),
            (json.dumps({"sources": [one]}), "samples"),
            (json.dumps({"samples": 5, "sources": [{"snapshot": "data@all", "weight": 1, "repeat": 1}]}), "repeat"),
            (json.dumps({"samples": 5, "sources": [{"snapshot": "data@none", "weight": 1}]}), "data@none"),
            (json.dumps({"samples": 5, "sources": [{"snapshot": "nobucket@x", "weight": 1}]}), "nobucket"),
            (json.dumps({"samples": 5, "sources": [{"snapshot": "data", "weight": 1}]}), "BUCKET@NAME"),
            (json.dumps({"samples": 5, "sources": [{**one, "hash": "0" * 32}]}), "another snapshot"),
            (json.dumps({"samples": 5, "sources": [{**one, "include": ["nothing/*"]}]}), "nothing of source"),
            (json.dumps({"samples": 5, "sources": [{**one, "include_keys": ["no/such"]}]}), "no/such"),
            (json.dumps({"samples": 5, "sources": [one], "lanes": 5000}), "lanes"),
            (json.dumps({"samples": 5, "sources": [one, {"snapshot": "data@groups", "weight": 1}]}), "files"),
            (json.dumps({"samples": 5, "sources": [{"snapshot": "data@all"}],
                         "stages": [{"from": 0, "weights": [0]}]}), "weights"),
            (json.dumps({"samples": 5, "sources": [one] * 257}), "256"),
            ("{" + " " * (1 << 20) + "}", "1 MiB")):
        cmd.refused("recipe", "create", "data@bad", "--file", "-", word=word, text=text)
    cmd.refused("recipe", "show", "data@bad", word="bad")


def test_rights(cmd, base):
    """A source that the key may not read is no source; who may not read one cannot stream the recipe."""
    file = base / "some.credentials"
    cmd.run("key", "create", "--grant", "read:data/", "--grant", "write:data", "-o", file, "--yes")
    mine = Command(cmd.server)
    mine.env["GRANARY_CREDENTIALS"] = str(file)
    text = json.dumps({"samples": 5, "sources": [{"snapshot": "data@all", "weight": 1}, {"snapshot": "other@all", "weight": 1}]})
    mine.refused("recipe", "create", "data@mine", "--file", "-", word="other@all", text=text)
    mine.refused("stream", "data@both", word="data@both")
    mine.run("recipe", "create", "data@mine", "--file", "-",
             text=json.dumps({"samples": 5, "sources": [{"snapshot": "data@all", "weight": 1}]}))
    check([r["recipe"] for r in mine.json("recipe", "ls", "data")].count("mine") == 1, "a recipe is not listed")
    mine.run("stream", "data@mine")


def test_everywhere(cmd):
    """What takes a snapshot takes a recipe, or says why not."""
    rows = cmd.json("shuffle-quality", "data@both", "--batch", "64")
    check(len(rows) == 3 and all(0.5 < r["ratio"] < 2 and r["exact"] > 1 for r in rows), f"shuffle-quality: {rows}")
    once = {"sources": [{"snapshot": "data@all", "repeat": 1}, {"snapshot": "data@all", "repeat": 1}]}
    cmd.run("recipe", "create", "data@twins", "-f", "-", text=json.dumps(once))
    twins, one = (cmd.json("shuffle-quality", name, "--batch", "64")[0] for name in ("data@twins", "data@all"))
    check(twins["directories"] == one["directories"] and abs(twins["exact"] - one["exact"]) < one["exact"] / 10,
          f"two sources of one snapshot: {twins}, of that: {one}")
    cmd.refused("shuffle-quality", "data@both", "--lanes", "2", word="part of it")
    cmd.refused("shuffle-quality", "data@nothing", word="nothing")
    check("every checksum" in cmd.run("snapshot", "verify", "data@both").stderr.decode(), "verify of a recipe")
    for verb in (("show",), ("rm", "--yes"), ("repack",)):
        cmd.refused("snapshot", verb[0], "data@both", *verb[1:], word="is a recipe")
        if verb[0] != "repack":
            cmd.refused("recipe", verb[0], "data@all", *verb[1:], word="is a snapshot")
    cmd.refused("snapshot", "diff", "data@both", "data@all", word="is a recipe")
    cmd.refused("recipe", "create", "data@nested", "-f", "-", word="data@both",
                text=json.dumps({"sources": [{"snapshot": "data@both", "repeat": 1}]}))


def test_holding(cmd):
    cmd.refused("snapshot", "rm", "data@few", "--yes", word="recipe 'data@both'")
    cmd.refused("recipe", "create", "data@few", "--file", "-", word="already",
                text=json.dumps({"sources": [{"snapshot": "data@all", "repeat": 1}]}))
    cmd.refused("snapshot", "create", "data@both", word="already")
    cmd.refused("recipe", "create", "data@both", "--file", "-", word="already",
                text=json.dumps({"sources": [{"snapshot": "data@all", "repeat": 1}]}))
    p = cmd.start("stream", "data@both", "--job", "night", "--batch", "2", "--tar")  # blocks on its pipe
    p.stdout.read(1)
    while not cmd.json("jobs"):
        pass
    cmd.refused("recipe", "rm", "data@both", "--yes", word="night")
    p.communicate(timeout=120)
    check("would remove" in cmd.run("recipe", "rm", "data@both", "--dry-run").stdout.decode(), "dry run")
    cmd.run("recipe", "rm", "data@both", code=2)  # nobody can be asked
    cmd.server.kill()
    cmd.server.start()
    cmd.refused("snapshot", "rm", "data@few", "--yes", word="recipe 'data@")
    cmd.run("snapshot", "rm", "data@few", "--yes", "--force")
    cmd.refused("stream", "data@both", word="data@few")
    cmd.run("snapshot", "create", "data@few", "--prefix", "train/c2")
    cmd.refused("stream", "data@both", word="another snapshot")
    cmd.run("snapshot", "rm", "data@few", "--yes")  # this one is no recipe's
    for recipe in cmd.json("recipe", "ls", "data"):
        cmd.run("recipe", "rm", f"data@{recipe['recipe']}", "--yes")
    check(cmd.json("recipe", "ls", "data") == [], "removed recipes are listed")
    cmd.run("snapshot", "rm", "data@all", "--yes")


def main():
    need_programs()
    rng = random.Random(seed_of())
    base = scratch("recipe")
    source = base / "src"
    make_files(source, rng)
    server = Server(base)
    server.start()
    cmd = Command(server)
    for bucket in ("data", "other"):
        cmd.run("bucket", "create", f"{server.url}/{bucket}")
        cmd.run("import", "--layout", f"shuffled:{rng.randrange(100)}", source, f"{server.url}/{bucket}/train")
        cmd.run("snapshot", "create", f"{bucket}@all", "--prefix", "train/")
    cmd.run("snapshot", "create", "data@few", "--prefix", "train/c2")
    pair = base / "pair"
    pair.mkdir()
    for i in range(4):
        (pair / f"{i}.a").write_bytes(b"a")
        (pair / f"{i}.b").write_bytes(b"b")
    cmd.run("import", pair, f"{server.url}/data/pairs")
    cmd.run("snapshot", "create", "data@groups", "--prefix", "pairs/", "--group", "basename")
    keys = {name: keys_of(cmd, name) for name in ("data@all", "data@few", "other@all")}
    made = test_orders(cmd, keys)
    test_resume(cmd, made[1])
    test_bytes(cmd, made[0])
    test_bytes(cmd, made[2])
    test_tokens(cmd, made)
    test_bad_texts(cmd)
    test_rights(cmd, base)
    test_everywhere(cmd)
    test_holding(cmd)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
