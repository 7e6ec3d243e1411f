# SPDX-License-Identifier: Apache-2.0
"""Rows of a mounted snapshot, each over FUSE's io_uring transport and, as ID-classic, over the device: against the same
files on ext4 where the kernel has them cached, and against a file system that costs nothing on libfuse 3.14
(bench_nullfuse) where it does not and the daemon has the bytes. All file systems are mounted side by side and measured in
turn. Large files are mounted twice: with io=cached for the rows of warm files and with io=direct for those of cold ones, as
io=auto does where the memory can hold the snapshot, and where it cannot."""
import contextlib
import glob
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from archive_rows import drop_page_cache, timed

MIB = 1 << 20
SIZES = {"112k": ("s112k", 114688), "4k": ("s4k", 4096)}
READS = (  # (id, size, bench_mount's mode, workers, cached by the kernel, limit)
    ("mount-warm-112k", "112k", "read", 4, True, "ext4"),
    ("mount-warm-4k", "4k", "read", 4, True, "ext4"),
    ("mount-cold-4k", "4k", "readp", 2, False, "null"),
    ("mount-cold-112k", "112k", "readp", 2, False, "null"),
    ("mount-stat", "4k", "statp", 2, False, "null"),
    ("mount-direct-4k", "112k", "direct", 4, False, "null"),
)
TRANSPORTS = ("uring", "classic")


def both(idents):
    return tuple(i + ending for i in idents for ending in ("", "-classic"))


WARM = both(r[0] for r in READS if r[4])
COLD = both(r[0] for r in READS if not r[4])
SWITCH = "/sys/module/fuse/parameters/enable_uring"


def ident_of(ident, transport):
    return ident if transport == "uring" else f"{ident}-classic"


class Mounts:
    def __init__(self, run, sh, build, bucket):
        self.run, self.sh, self.build, self.bucket = run, sh, build, bucket
        self.dir = os.path.join(run.o.dir, "mount")
        os.makedirs(self.dir, exist_ok=True)
        self.transports = [t for t in TRANSPORTS if t == "classic" or self.uring_on()]

    @staticmethod
    def uring_on():
        """Switched on for the rows; it stays so."""
        try:
            with open(SWITCH, "w", encoding="ascii") as f:
                f.write("1\n")
            return True
        except OSError as e:
            print(f"# FUSE over io_uring: {e}: only the rows of the classic transport", file=sys.stderr)
            return False

    # ---- mounts ------------------------------------------------------------------------------------------------------

    def place(self, target):
        """A directory with nothing mounted on it, whatever a run that was killed left."""
        self.sh("umount", "-l", target, check=False)
        os.makedirs(target, exist_ok=True)

    def mount(self, stack, s, where, transport, env=None, **options):
        """Mounts until the stack ends; gives (directory, the daemon's process id)."""
        target = os.path.join(self.dir, f"at-{transport}-{options.get('io', 'auto')}")
        self.place(target)
        text = ",".join(f"{k}={v}" for k, v in dict(options, transport=transport, credentials=s.credentials).items())
        self.sh(os.path.join(self.build, "granary-mount"), where, target, "-o", text, env=dict(s.env, **(env or {})))
        stack.callback(self.sh, "umount", "-l", target, check=False)
        pids = self.sh("pgrep", "-f", f"granary-mount {where} {target} ").split()
        return target, int(pids[-1])

    def null(self, stack, size):
        target = os.path.join(self.dir, "at-null")
        self.place(target)
        p = subprocess.Popen([os.path.join(self.build, "bench", "bench_nullfuse"), target, str(size)],
                             stdout=subprocess.PIPE, text=True)
        stack.callback(p.wait)
        stack.callback(self.sh, "umount", "-l", target, check=False)
        if p.stdout.readline().strip() != "ready":
            raise RuntimeError("bench_nullfuse did not mount (tools/deps --bench, as root)")
        return target, p.pid

    @staticmethod
    def cpu(pid):
        """Microseconds of CPU time of a process; 0: of none."""
        if not pid:
            return 0
        total = 0
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError), open(path, encoding="ascii") as f:  # of a thread that ended
                total += int(f.read().split()[0])
        return total / 1e3

    @staticmethod
    def resident(pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) * 1024

    # ---- files -------------------------------------------------------------------------------------------------------

    def names(self, target, count):
        """The first `count` files below a directory, in random order."""
        names = []
        for d, folders, files in os.walk(target):
            folders.sort()
            names += [os.path.relpath(os.path.join(d, f), target) for f in sorted(files)]
            if len(names) >= count:
                break
        names = names[:count]
        random.Random(7).shuffle(names)
        listing = os.path.join(self.dir, "names")
        with open(listing, "w", encoding="utf-8") as f:
            f.write("\n".join(names) + "\n")
        return listing, names

    def on_ext4(self, name, target, names):
        """The same files on the disk."""
        folder = os.path.join(self.dir, f"ext4-{name}-{len(names)}")
        if not os.path.exists(folder + ".made"):
            shutil.rmtree(folder, ignore_errors=True)
            for d in sorted({os.path.dirname(n) for n in names}):
                os.makedirs(os.path.join(folder, d))
            for n in sorted(names):
                shutil.copyfile(os.path.join(target, n), os.path.join(folder, n))
            open(folder + ".made", "w", encoding="ascii").close()
        return folder, 0

    # ---- reading -----------------------------------------------------------------------------------------------------

    def measure(self, where, listing, size, mode, workers, warm):
        """The kernel's caches: filled by a first turn, or dropped; then one turn over all names, or for some seconds."""
        target, pid = where
        bench = (os.path.join(self.build, "bench", "bench_mount"), mode, target, listing, size, workers)
        if warm:
            self.sh(*bench, 0)
        else:
            drop_page_cache(self.sh)
            self.sh("stat", target)
            time.sleep(0.2)  # what was dropped is forgotten by the daemon, too
        before = self.cpu(pid)
        seconds = self.run.seconds if warm or mode.startswith("direct") else 0
        r = json.loads(self.sh(*bench, seconds))
        r["daemon_us"] = (self.cpu(pid) - before) / r["count"]
        return r

    def reads(self):
        for name, (prefix, size) in SIZES.items():
            rows = [r for r in READS if r[1] == name and self.run.wants(*both([r[0]]))]
            if rows:
                self.reads_of(name, prefix, size, rows)

    def reads_of(self, name, prefix, size, rows):
        count = (4000 if name == "112k" else 50000) * (1 if self.run.o.quick else 2)
        s = self.run.server()
        self.run.have(s, prefix, self.run.big if name == "112k" else self.run.small, size)
        snapshot = self.run.snapshot(s, prefix)
        with contextlib.ExitStack() as stack:
            ios = ("cached", "direct") if name == "112k" else ("cached",)
            at = {(t, io): self.mount(stack, s, f"{s.url}/{snapshot}/{prefix}", t, io=io,
                                      memory=f"{2 * count * size // MIB + 64}MiB")
                  for t in self.transports for io in ios}
            at["null"] = self.null(stack, size)
            first = at[(self.transports[0], "cached")][0]
            listing, names = self.names(first, count)
            at["ext4"] = self.on_ext4(name, first, names)
            for target, _ in at.values():  # the daemons have the bytes then
                self.sh(os.path.join(self.build, "bench", "bench_mount"), "read", target, listing, size, 4, 0)
            for ident, _, mode, workers, warm, limit in rows:
                whose = (*((t, ios[0] if warm else ios[-1]) for t in self.transports), limit)
                found = self.run.interleave(*(lambda w=w: self.measure(at[w], listing, size, mode, workers, warm)
                                              for w in whose))
                for transport, ours in zip(self.transports, found):
                    self.row(ident_of(ident, transport), ours, found[-1])

    def row(self, ident, ours, limit):
        if not self.run.wants(ident):
            return
        of = [[statistics.median(r[key] for r in results) for key in ("cpu_us", "daemon_us")] for results in (ours, limit)]
        print(f"# {ident}: us of CPU: {of[0][0]:.2f} in the program and {of[0][1]:.2f} in the daemon; of the limit "
              f"{of[1][0]:.2f} and {of[1][1]:.2f}", file=sys.stderr)
        self.run.row(ident, [r["per_s"] for r in ours], [r["per_s"] for r in limit], "files/s")

    # ---- trees -------------------------------------------------------------------------------------------------------

    def tree(self, count):
        """As many files of as many bytes on ext4, with holes for contents: `find` does not look at them."""
        folder = os.path.join(self.dir, f"tree-{count}")
        if not os.path.exists(folder + ".made"):
            shutil.rmtree(folder, ignore_errors=True)
            for i in range(count):
                if i % 1000 == 0:
                    os.makedirs(os.path.join(folder, f"d{i // 1000:04}"))
                with open(os.path.join(folder, f"d{i // 1000:04}", f"s{i:08}"), "wb") as f:
                    f.truncate(4096)
            open(folder + ".made", "w", encoding="ascii").close()
        return folder

    def find_in(self, target, count):
        def run():
            found = self.sh("sh", "-c", f"find {target} -type f -ls | wc -l")
            if int(found) != count:
                raise RuntimeError(f"find found {found.strip()} files in {target} instead of {count}")

        return timed(run)

    def find_mounted(self, s, snapshot, count, transport):
        """From a daemon and a node that know nothing yet. Gives (seconds, peak of resident memory)."""
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(dir="/dev/shm") as runtime:
            target, pid = self.mount(stack, s, f"{s.url}/{snapshot}", transport, env={"XDG_RUNTIME_DIR": runtime})
            drop_page_cache(self.sh)
            return self.find_in(target, count), self.resident(pid)

    def find_on_disk(self, tree, count):
        drop_page_cache(self.sh)
        return self.find_in(tree, count)

    def find(self):
        count, s = self.run.small, self.run.server()
        self.run.have(s, "s4k", count, 4096)
        snapshot, tree = self.run.snapshot(s, "s4k"), self.tree(count)
        found = self.run.interleave(*(lambda t=t: self.find_mounted(s, snapshot, count, t)[0] for t in self.transports),
                                    lambda: self.find_on_disk(tree, count))
        for transport, ours in zip(self.transports, found):
            if self.run.wants(ident_of("mount-find", transport)):
                self.run.row(ident_of("mount-find", transport), [count / t for t in ours], [count / t for t in found[-1]],
                             "files/s")

    def rss(self):
        """The most that the daemon ever had, everything mapped included, over its budget."""
        s, count = self.run.have_long(), 10000000
        snapshot = self.run.snapshot(s, "s1k")
        for transport in self.transports:
            if self.run.wants(ident_of("mount-rss", transport)):
                peak = self.find_mounted(s, snapshot, count, transport)[1]
                self.run.row(ident_of("mount-rss", transport), [peak / MIB], [512.0], "MiB")
