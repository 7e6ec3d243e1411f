# SPDX-License-Identifier: Apache-2.0
"""Rows of reads on the server's own machine: batches by descriptor, everything in the page cache, against memcpy out of
the same files, mapped, on one core."""
import glob
import os
import sys
import time

SETS = (("112k", "l112k", 114688, 64), ("4k", "l4k", 4096, 256))  # id, prefix, bytes, samples of a batch


class Local:
    def __init__(self, run, bench):
        self.run, self.bench = run, bench

    def count(self, size):
        return (400 << 20 if self.run.o.quick else 1 << 30) // size

    def ready(self):
        """A store of its own, all packs sealed and in the page cache: a start seals those of the run before."""
        s = self.run.server("local", data="local")
        for _, prefix, size, _ in SETS:
            self.run.have(s, prefix, self.count(size), size)
            self.run.snapshot(s, prefix)
        self.run.stop_servers()
        s = self.run.server("local", data="local")
        end = time.monotonic() + 60
        while int(s.status()["packs_open"]) > 0 and time.monotonic() < end:
            time.sleep(0.2)
        packs = sorted(glob.glob(os.path.join(s.data, "packs", "*", "*.pack")))
        for path in packs:
            with open(path, "rb") as f:
                while f.read(1 << 20):
                    pass
        return s, ":".join(packs)

    def one(self, s, *args):
        env = {**s.env, "GRANARY_URL": s.unix_url}
        used = s.cpu()
        r = self.bench("bench_local", *args, self.run.seconds, env=env)
        r["server_s"] = s.cpu() - used
        return r

    def rows(self):
        s, packs = self.ready()
        for ident, prefix, size, batch in SETS:
            if not self.run.wants(f"local-{ident}", f"local-live-{ident}"):
                continue
            snapshot = self.run.snapshot(s, prefix)
            ours, live, limit = self.run.interleave(
                lambda n=snapshot, b=batch: self.one(s, "snapshot", n, b),
                lambda p=prefix, z=size, b=batch: self.one(s, "live", "bench", p, self.count(z), z, b),
                lambda z=size, b=batch: self.bench("bench_local", "copy", packs, z, b, self.run.seconds))
            for name, results in ((f"local-{ident}", ours), (f"local-live-{ident}", live)):
                self.run.row(name, [r["per_s"] for r in results], [r["per_s"] for r in limit], "samples/s")
                part, cpu = min(r["local"] for r in results), sorted(r["cpu_us"] for r in results)[len(results) // 2]
                ratio = sorted(one["cpu_us"] / r["cpu_us"] for one, r in zip(limit, results))[len(results) // 2]
                print(f"# {name}: {cpu:.2f} us of CPU a sample, {ratio:.3f} of the limit's by CPU; {part:.1%} by descriptor",
                      file=sys.stderr)
