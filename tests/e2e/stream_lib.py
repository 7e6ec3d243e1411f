# SPDX-License-Identifier: Apache-2.0
"""stream_lib -- what the tests of streams share: the granary command against one server, ranks as processes, and what
they printed."""
import json
import os
import subprocess

from crash_lib import GRANARY, fail, spawn


def check(good, text):
    if not good:
        fail(text)


class Command:
    def __init__(self, server):
        self.server = server
        self.env = {**os.environ, "GRANARY_URL": server.url, "GRANARY_CREDENTIALS": str(server.credentials)}

    def start(self, *args, **kw):
        return spawn([GRANARY, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

    def run(self, *args, code=0, text=None):
        p = subprocess.run([str(a) for a in (GRANARY, *args)], env=self.env, capture_output=True, timeout=300,
                           input=text.encode() if text is not None else None)
        if p.returncode != code:
            fail(f"granary {' '.join(map(str, args))}: exit code {p.returncode}, not {code}: {p.stderr.decode()[-600:]}")
        return p

    def json(self, *args):
        return [json.loads(line) for line in self.run(*args, "--json").stdout.splitlines()]

    def refused(self, *args, word, text=None):
        """It fails, and says this."""
        p = subprocess.run([str(a) for a in (GRANARY, *args)], env=self.env, capture_output=True, timeout=300,
                           input=text.encode() if text is not None else None)
        said = p.stderr.decode()
        check(p.returncode not in (0, -6, -11) and word in said, f"granary {' '.join(map(str, args))}: exit code "
              f"{p.returncode}, '{word}' is not in what it says: {said[-400:]}")


def id_of(word):
    """A dense id; of a recipe (source, id)."""
    word = word.rstrip("ps")
    return tuple(map(int, word.split(":"))) if ":" in word else int(word)


def rows_of(text):
    """[(position, [(id, flags)])] of the lines of --ids."""
    out = []
    for line in text.splitlines():
        words = line.split()
        out.append((int(words[0]), [(id_of(w), w.lstrip("0123456789:")) for w in words[1:]]))
    return out


def ranks(cmd, snapshot, world, batch, *more, token=None):
    """All ranks at once, as processes; a list of rows_of() and the token that all of them give."""
    args = ["--batch", batch, "--world", world, "--ids", "--json", *more, *(["--resume", token] if token else [])]
    running = [cmd.start("stream", snapshot, "--rank", r, *map(str, args)) for r in range(world)]
    rows, tokens = [], set()
    for p in running:
        out, err = p.communicate(timeout=300)
        check(p.returncode == 0, f"a rank of {world}: exit code {p.returncode}: {err.decode()[-500:]}")
        rows.append(rows_of(out.decode()))
        tokens.add(json.loads(err.decode().splitlines()[-1])["token"])
    check(len(tokens) == 1, f"world {world}: the ranks' tokens differ")
    return rows, tokens.pop()


def steps(rows):
    """position -> sorted ids of the global batch, padded ones left out."""
    out = {}
    for rank in rows:
        for position, row in rank:
            out.setdefault(position, []).extend(i for i, flags in row if not flags)
    return {position: sorted(ids) for position, ids in out.items()}


def ids_of(rows):
    return [i for rank in rows for _, row in rank for i, flags in row if not flags]
