# SPDX-License-Identifier: Apache-2.0
"""Rows of one shuffled epoch of raw bytes in Python, disk-cold: against torch's DataLoader over the same files on ext4, and
against formats that samples are converted to (WebDataset, MosaicML Streaming, LitData), each the best of several numbers
of workers. Every process checks that it got each sample once (epoch_loop.py)."""
import json
import os
import shutil
import statistics
import subprocess
import sys

from archive_rows import drop_page_cache, timed
from epoch_loop import make_files

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
LOOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "epoch_loop.py")
PEERS = {"webdataset": "1.0.2", "mosaicml-streaming": "0.13.0", "litdata": "0.2.76", "torch": "2.15.0", "torchvision": "0.29.2"}
READERS = ("webdataset", "mds", "litdata")
SIZES = {"112k": (114688, 64), "4k": (4096, 256)}  # bytes a sample, samples a batch


def have_torch():
    return subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode == 0


class Folder:
    """Files in class folders on ext4, and the same samples in a store of their own."""

    def __init__(self, run, sh, build, bucket):
        self.run, self.sh, self.build, self.bucket = run, sh, build, bucket
        self.dir = os.path.join(run.o.dir, "folder")

    def count(self, name):
        """Of the larger samples fewer, of about as many bytes."""
        return (4000 if name == "112k" else 100000) * (1 if self.run.o.quick else 4)

    def files(self, name):
        count, size = self.count(name), SIZES[name][0]
        folder = os.path.join(self.dir, f"{name}-{count}")
        if not os.path.exists(folder + ".made"):
            shutil.rmtree(folder, ignore_errors=True)
            make_files(folder, count, size)
            open(folder + ".made", "w", encoding="ascii").close()
        return folder

    def loop(self, python, *args):
        env = dict(os.environ, PYTHONPATH=os.path.join(self.build, "python"), GRANARY_QUIET="1", PYTHONWARNINGS="ignore",
                   XDG_RUNTIME_DIR=self.run.o.dir, HOME=self.run.o.dir, DISABLE_VERSION_CHECK="1", HF_HUB_OFFLINE="1")
        p = subprocess.run([python, LOOP, *map(str, args)], capture_output=True, text=True, env=env, timeout=600, check=False)
        if p.returncode != 0:
            raise RuntimeError(f"epoch_loop.py {' '.join(map(str, args))}: {(p.stderr.strip() or p.stdout)[-600:]}")
        return json.loads(p.stdout.strip().split("\n")[-1])

    def server(self):
        self.run.stop_servers()
        return self.run.server("folder", data="folder-store")

    def load(self, name):
        """The files imported and frozen, once."""
        s = self.run.server("folder", data="folder-store")
        folder = self.files(name)
        prefix = os.path.basename(folder)
        if not os.path.exists(folder + ".loaded"):
            s.granary("import", folder, f"{s.url}/{self.bucket}/{prefix}", "--quiet")
            open(folder + ".loaded", "w", encoding="ascii").close()
        return folder, self.run.snapshot(s, prefix)

    def ours(self, name, snapshot, cache="drop", server=None):
        """An epoch from a server of the same machine that has just started, over its Unix socket, the page cache dropped."""
        s = server or self.server()
        used = s.cpu()
        r = self.loop(PYTHON, "granary", f"{s.unix_url}/{snapshot}", self.count(name), *SIZES[name], 0, cache, s.credentials)[0]
        return dict(r, server_s=s.cpu() - used)

    def best(self, name, python, reader, where, workers, cache="drop"):
        """The best of several numbers of workers."""
        self.run.stop_servers()
        tried = self.loop(python, reader, where, self.count(name), *SIZES[name], workers, cache)
        print(f"# {reader} {name}: " + ", ".join(f"{t['workers']} workers {self.count(name) / t['seconds']:,.0f}/s"
                                                 for t in tried), file=sys.stderr)
        return min(tried, key=lambda t: t["seconds"])

    def row(self, ident, name, ours, limit):
        count = self.count(name)
        client, server, theirs = (statistics.median(r[key] for r in results) / count * 1e6 for results, key in
                                  ((ours, "cpu_s"), (ours, "server_s"), (limit, "cpu_s")))
        print(f"# {ident}: us of CPU a sample: {client:.1f} in Python and {server:.1f} in the server; the limit: {theirs:.1f}",
              file=sys.stderr)
        self.run.row(ident, [count / r["seconds"] for r in ours], [count / r["seconds"] for r in limit], "samples/s")

    def torch_folder(self):
        if not have_torch():
            print("torch-folder: skipped, torch is not installed (tools/deps --torch)")
            return
        for name in SIZES:
            ident = f"torch-folder-{name}"
            if not self.run.wants(ident):
                continue
            folder, snapshot = self.load(name)
            ours, limit = self.run.interleave(lambda: self.ours(name, snapshot),
                                              lambda: self.best(name, PYTHON, "folder", folder, "0,2,4,8"))
            self.row(ident, name, ours, limit)

    # ---- formats that are converted to ----

    def peers_python(self):
        """Python of a virtual environment with the others' packages, of pinned versions, made once: about 6 GB."""
        venv = os.path.join(self.run.o.dir, "peers", "venv")
        pins = sorted(f"{name}=={version}" for name, version in PEERS.items())
        mark = os.path.join(venv, "made")
        if not os.path.exists(mark) or open(mark, encoding="ascii").read().split() != pins:
            print("# installing " + ", ".join(pins), file=sys.stderr)
            self.sh(PYTHON, "-m", "venv", venv)
            self.sh(os.path.join(venv, "bin", "pip"), "install", "-q", "--disable-pip-version-check", *pins)
            with open(mark, "w", encoding="ascii") as f:
                f.write("\n".join(pins))
        return os.path.join(venv, "bin", "python")

    def converted(self, name, python, reader, again=False):
        """(where, seconds of the conversion, page cache dropped before it)."""
        folder = self.files(name)
        where = f"{folder}.{reader}"
        mark = where + ".seconds"
        if again or not os.path.exists(mark):
            shutil.rmtree(where, ignore_errors=True)
            self.run.stop_servers()
            seconds = self.loop(python, "convert", reader, folder, where, "drop")["seconds"]
            with open(mark, "w", encoding="ascii") as f:
                f.write(str(seconds))
        with open(mark, encoding="ascii") as f:
            return where, float(f.read())

    def peers(self):
        python = self.peers_python()
        for name in SIZES:
            ident = f"peers-{name}"
            if not self.run.wants(ident):
                continue
            _, snapshot = self.load(name)
            where = {reader: self.converted(name, python, reader)[0] for reader in READERS}

            def best():
                each = [self.best(name, python, reader, where[reader], "0,2") for reader in READERS]
                return min(each, key=lambda r: r["seconds"])

            ours, limit = self.run.interleave(lambda: self.ours(name, snapshot), best)
            self.row(ident, name, ours, limit)

    def total_ours(self, name):
        """Import into an empty store, snapshot, first epoch."""
        folder, data = self.files(name), os.path.join(self.run.o.dir, "total-store")
        self.run.stop_servers()
        shutil.rmtree(data, ignore_errors=True)
        s = self.run.server("total", data="total-store")
        drop_page_cache(self.sh)
        prefix, made = os.path.basename(folder), []

        def load():
            s.granary("import", folder, f"{s.url}/{self.bucket}/{prefix}", "--quiet")
            made.append(self.run.snapshot(s, prefix))

        seconds = timed(load)
        r = self.ours(name, made[0], "keep", s)
        self.run.stop_servers()
        shutil.rmtree(data, ignore_errors=True)
        print(f"# peers-total {name}: granary: import and snapshot {seconds:.2f} s, epoch {r['seconds']:.2f} s", file=sys.stderr)
        return seconds + r["seconds"]

    def total_theirs(self, name, python):
        best = None
        for reader in READERS:
            where, seconds = self.converted(name, python, reader, again=True)
            r = self.best(name, python, reader, where, "0,2", "keep")
            print(f"# peers-total {name}: {reader}: conversion {seconds:.2f} s, epoch {r['seconds']:.2f} s", file=sys.stderr)
            best = min(best or 1e9, seconds + r["seconds"])
        return best

    def peers_total(self):
        """The row is the worse of both sizes; what was just written is in the page cache, for the others."""
        python, worst = self.peers_python(), None
        rounds = 1 if self.run.o.quick else 3  # conversions take minutes
        for name in SIZES:
            ours, limit = zip(*[(self.total_ours(name), self.total_theirs(name, python)) for _ in range(rounds)])
            ratio = sorted(t / o for o, t in zip(ours, limit))[len(ours) // 2]
            print(f"# peers-total {name}: {ratio:.2f}", file=sys.stderr)
            if worst is None or ratio < worst[0]:
                worst = ratio, [self.count(name) / o for o in ours], [self.count(name) / t for t in limit]
        self.run.row("peers-total", worst[1], worst[2], "samples/s")
