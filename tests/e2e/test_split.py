#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: samples that are parts of files -- lines of JSONL, members of tar archives, windows of token files -- are exactly
the bytes that Python's own splitting and tarfile find, by their names, in every order, also after the files were
overwritten and deleted; archives that are damaged are counted and named, and never end anything but themselves.
"""
import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile

from crash_lib import BRIEF, Server, need_programs, scratch, seed_of
from test_stream import Command, check

LONG_LINE = (9 << 20) if BRIEF else (100 << 20)
WINDOW = 4096 * 2


def stream(cmd, snapshot, *args):
    """{name: sha256} of all samples' fields; a name that comes twice fails."""
    out = cmd.run("stream", snapshot, "--tar", "-q", *args).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        for m in tar:
            check(m.name not in found, f"{snapshot}: '{m.name}' came twice")
            found[m.name] = hashlib.sha256(tar.extractfile(m).read()).hexdigest()
    return found


def expect(cmd, snapshot, expected, what):
    expected = {k: hashlib.sha256(v).hexdigest() for k, v in expected.items()}
    for args in (("--mode", "none"), ("--mode", "exact", "--seed", 5), ("--mode", "blocks", "--batch", 7)):
        found = stream(cmd, snapshot, *args)
        wrong = sorted(k for k in set(found) | set(expected) if found.get(k) != expected.get(k))
        check(not wrong, f"{what} {args}: {len(found)} samples, {len(expected)} expected; first wrong: {wrong[:3]}")


def create(cmd, name, *args):
    made = cmd.json("snapshot", "create", f"data@{name}", *args)[0]
    return made, made.get("warnings", "")


# ---- lines ----

def lines_of(data):
    out, lines = {}, data.split(b"\n")
    for i, line in enumerate(lines, 1):
        if i < len(lines) and line.endswith(b"\r"):
            line = line[:-1]
        if line:
            out[i] = line
    return out


def make_lines(folder, rng):
    folder.mkdir()
    texts = {
        "plain.jsonl": b"".join(b'{"n": %d}\n' % i for i in range(1000)),
        "crlf.jsonl": b"".join(b'{"n": %d}\r\n' % i for i in range(777)) + b"\r\n\r\n" + b"last, CR and no LF\r",
        "open.jsonl": b"first\nsecond\nno newline at the end",
        "blank.jsonl": b"\n\na\n\n\rb\r\n\r\r\n\nc\n\n",
        "empty.jsonl": b"",
        "one.jsonl": b"x",
        "newlines.jsonl": b"\n" * 70000,
        "a": b"1\n2\n3\n",
        "a!": b"before the number sign\n",
        "a#1": b"named like a line\n",
    }
    wide = bytearray()
    while len(wide) < (9 << 20):
        wide += rng.randbytes(rng.choice((1, 50, 3000, 300000))).replace(b"\n", b" ") + rng.choice((b"\n", b"\r\n"))
    texts["wide.jsonl"] = bytes(wide)
    texts["long.jsonl"] = b"short\n" + rng.randbytes(1 << 16).replace(b"\n", b"_") * (LONG_LINE >> 16) + b"\nshort again"
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    return texts


def test_lines(cmd, base, rng):
    texts = make_lines(base / "lines", rng)
    url = f"{cmd.server.url}/data/lines"
    cmd.run("import", base / "lines", url)
    made, warnings = create(cmd, "lines", "--prefix", "lines/", "--split", "lines", "--exclude", "wide*")
    expected = {f"lines/{name}#{i}": line for name, data in texts.items() if name != "wide.jsonl"
                for i, line in lines_of(data).items()}
    check(made["samples"] == len(expected), f"{made['samples']} lines, Python finds {len(expected)}")
    check("empty lines, which are no samples: 70007 in all" in warnings, f"empty lines are not counted: {warnings}")
    expect(cmd, "data@lines", expected, "lines")
    create(cmd, "wide", "--prefix", "lines/", "--split", "lines", "--include", "wide.jsonl")
    wide = {f"lines/wide.jsonl#{i}": line for i, line in lines_of(texts["wide.jsonl"]).items()}
    expect(cmd, "data@wide", wide, "lines across extents")
    cmd.run("snapshot", "create", "data@no", "--split", "lines", "--group", "basename", code=1)
    cmd.run("snapshot", "create", "data@no", "--split", "words", code=1)
    # The files go and change; the samples stay.
    for name in texts:
        (base / "lines" / name).write_bytes(b"something else\n")
    cmd.run("import", base / "lines", url)
    cmd.run("rm", "-r", "--yes", f"{url}/plain.jsonl")
    cmd.run("status", cmd.server.url)
    expect(cmd, "data@lines", expected, "lines of files that are gone")
    cmd.run("snapshot", "verify", "data@wide")


# ---- windows ----

def test_fixed(cmd, base, rng):
    (base / "tokens").mkdir()
    expected, rest = {}, 0
    for i, size in enumerate((WINDOW * 40, WINDOW * 3 + 17, WINDOW - 1, 0, (5 << 20) + 12345)):
        data = rng.randbytes(size)
        (base / "tokens" / f"t{i}.bin").write_bytes(data)
        rest += size % WINDOW > 0
        for n in range(size // WINDOW):
            expected[f"tokens/t{i}.bin#{n}"] = data[n * WINDOW:(n + 1) * WINDOW]
    cmd.run("import", base / "tokens", f"{cmd.server.url}/data/tokens")
    made, warnings = create(cmd, "tokens", "--prefix", "tokens/", "--split", "fixed:8KiB")
    check(made["samples"] == len(expected), f"{made['samples']} windows, {len(expected)} expected")
    check(f"{rest} in all" in warnings, f"rests are not counted: {warnings}")
    expect(cmd, "data@tokens", expected, "windows")
    shown = cmd.json("snapshot", "show", "data@tokens")[0]
    check("split=fixed:8192" in shown["options"] and shown["smallest"] == shown["largest"] == WINDOW, f"show: {shown}")
    for bad in ("fixed:", "fixed:0", "fixed:-1", "fixed:2GiB", "fixed:x"):
        cmd.run("snapshot", "create", "data@no", "--split", bad, code=1 if bad in ("fixed:2GiB", "fixed:0") else 2)


# ---- archives ----

def member(tar, name, data, **more):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for k, v in more.items():
        setattr(info, k, v)
    tar.addfile(info, io.BytesIO(data))


def shard(rng, form, count, tag):
    """An archive of samples of three fields, and what it must give."""
    out, members = io.BytesIO(), {}
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for i in range(count):
            for suffix in ("cls", "jpg", "seg.png"):
                name = f"./{tag}/{i:05d}.{suffix}"
                if form != tarfile.USTAR_FORMAT and i % 10 == 3:
                    name = f"{tag}/{'long' * 40}/{i:05d}.{suffix}"
                data = rng.randbytes(rng.randrange(0, 20000)) if suffix != "cls" else b"%d" % (i % 10)
                if i % 17 == 4 and suffix == "jpg":
                    data = b""
                member(tar, name, data)
                members[os.path.normpath(name)] = data
    return out.getvalue(), members


def test_tar(cmd, base, rng):
    folder = base / "shards"
    folder.mkdir()
    expected = {}
    for n, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        data, members = shard(rng, form, 60, f"f{n}")
        (folder / f"s{n}.tar").write_bytes(data)
        expected.update({f"shards/s{n}.tar/{k}": v for k, v in members.items()})
    # GNU tar's own, of files and of everything else that a directory may have.
    tree = base / "tree"
    (tree / "deep" / ("d" * 90) / ("e" * 90)).mkdir(parents=True)
    for i in range(30):
        path = tree / ("deep/" + "d" * 90 + "/" + "e" * 90 if i % 3 == 0 else "deep") / f"file{i:03d}.bin"
        path.write_bytes(rng.randbytes(rng.randrange(0, 30000)))
    for form in ("gnu", "pax", "ustar", "v7"):
        options = ["--exclude", "e" * 90] if form in ("v7", "ustar") else []
        subprocess.run(["tar", "-C", tree, f"--format={form}", *options, "-cf", folder / f"own-{form}.tar", "deep"], check=True)
        for p in tree.rglob("*"):
            if p.is_file() and not (options and "e" * 90 in str(p)):
                expected[f"shards/own-{form}.tar/{p.relative_to(tree)}"] = p.read_bytes()
    cmd.run("import", folder, f"{cmd.server.url}/data/shards")
    made, warnings = create(cmd, "tar", "--prefix", "shards/", "--split", "tar", "--include", "*.tar")
    check(warnings == "", f"sound archives: {warnings}")
    check(made["samples"] == len(expected), f"{made['samples']} members, {len(expected)} expected")
    expect(cmd, "data@tar", expected, "members")
    # Groups: three fields a sample; what has another set of suffixes is left out.
    made, warnings = create(cmd, "wds", "--prefix", "shards/", "--split", "tar", "--group", "basename", "--include", "s?.tar",
                            "--exclude", "*/00007.jpg")
    fields = {k: v for k, v in expected.items() if k.startswith("shards/s") and "/00007." not in k}
    check(made["samples"] == 3 * 60 - 3, f"{made['samples']} groups of {len(fields)} members")
    check("3 incomplete" in warnings, f"incomplete groups are not counted: {warnings}")
    expect(cmd, "data@wds", fields, "groups")
    shown = cmd.json("snapshot", "show", "data@wds")[0]
    check(shown["fields"] == 3, f"fields: {shown}")
    cmd.run("rm", "-r", "--yes", f"{cmd.server.url}/data/shards")
    expect(cmd, "data@wds", fields, "groups of archives that are gone")


def bad_archives(rng):
    def tar_of(*members, form=tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, data, more in members:
                member(tar, name, data, **more)
        return out.getvalue()

    good = ("good.txt", b"good", {})
    big = tar_of(good, ("big.bin", rng.randbytes(100000), {}))
    damaged = bytearray(tar_of(good, ("second.txt", b"second", {}), ("third.txt", b"third", {})))
    damaged[1024 + 3] ^= 1
    pax = bytearray(tar_of(good, ("ä" * 90, b"x", {}), form=tarfile.PAX_FORMAT))
    pax[pax.index(b" path=") - 1] = ord("9")
    return {
        "cut-member.tar": (big[:70000], ["good.txt"], "end inside a member"),
        "cut-header.tar": (big[:1024 + 100], ["good.txt"], "end inside a member"),
        "no-end.tar": (tar_of(good)[:1024], ["good.txt"], "without an end mark"),
        "after-end.tar": (tar_of(good) + b"x" * 600, ["good.txt"], "behind their end"),
        "wrong-sum.tar": (bytes(damaged), ["good.txt"], "damaged header"),
        "pax.tar": (bytes(pax), ["good.txt"], "damaged header"),
        "dotdot.tar": (tar_of(good, ("../up.txt", b"up", {}), ("a/../b", b"b", {})), ["good.txt"], "with '..'"),
        "absolute.tar": (tar_of(good, ("/etc/passwd", b"root", {})), ["good.txt"], "absolute"),
        "links.tar": (tar_of(good, ("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "good.txt"}),
                             ("soft", b"", {"type": tarfile.SYMTYPE, "linkname": "good.txt"})), ["good.txt"], "links"),
        "special.tar": (tar_of(good, ("pipe", b"", {"type": tarfile.FIFOTYPE})), ["good.txt"], "no files"),
        "twice.tar": (tar_of(("good.txt", b"first", {}), good), None, "the name of another one"),
        "text.tar": (b"this is no archive\n" * 100, [], "no tar archive"),
        "gzip.tar": (rng.randbytes(3000), [], "no tar archive"),
        "zeros.tar": (b"\0" * 10240, [], None),
        "nothing.tar": (b"", [], "without an end mark"),
    }


def test_bad_tar(cmd, base, rng):
    for name, (data, names, said) in bad_archives(rng).items():
        folder = base / "bad" / name.removesuffix(".tar")
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)
        (folder / "zz-last.tar").write_bytes(shard(rng, tarfile.USTAR_FORMAT, 1, "z")[0])
        prefix = f"bad/{name.removesuffix('.tar')}"
        cmd.run("import", folder, f"{cmd.server.url}/data/{prefix}")
        snapshot = name.removesuffix(".tar")
        made, warnings = create(cmd, snapshot, "--prefix", prefix + "/", "--split", "tar")
        check(said is None or said in warnings, f"{name}: not said: {said!r}; but {warnings!r}")
        check(said is None or f"{prefix}/{name}" in warnings or "twice" in name, f"{name} is not named: {warnings!r}")
        if names is None:
            check(made["samples"] == 2 + 3, f"{name}: {made['samples']} samples")
            cmd.run("snapshot", "verify", f"data@{snapshot}")
            continue
        found = {k for k in stream(cmd, f"data@{snapshot}") if "zz-last" not in k}
        check(found == {f"{prefix}/{name}/{n}" for n in names}, f"{name}: gives {sorted(found)}")
    sparse = base / "sparse"
    sparse.mkdir()
    with open(sparse / "hole.bin", "wb") as f:
        f.truncate(4 << 20)
        f.seek(2 << 20)
        f.write(b"in the middle")
    (sparse / "plain.txt").write_bytes(b"plain")
    (base / "sparse-tars").mkdir()
    for form in ("gnu", "pax"):
        subprocess.run(["tar", "-C", sparse, "-S", f"--format={form}", "-cf", base / "sparse-tars" / f"{form}.tar",
                        "hole.bin", "plain.txt"], check=True)
    cmd.run("import", base / "sparse-tars", f"{cmd.server.url}/data/sparse")
    made, warnings = create(cmd, "sparse", "--prefix", "sparse/", "--split", "tar")
    check("sparse members, left out: 2 in all" in warnings, f"sparse members: {warnings!r}")
    expect(cmd, "data@sparse", {f"sparse/{f}.tar/plain.txt": b"plain" for f in ("gnu", "pax")}, "behind sparse members")


def main():
    need_programs()
    rng = random.Random(seed_of())
    base = scratch("split")
    server = Server(base)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    test_lines(cmd, base, rng)
    test_fixed(cmd, base, rng)
    test_tar(cmd, base, rng)
    test_bad_tar(cmd, base, rng)
    server.kill()
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
