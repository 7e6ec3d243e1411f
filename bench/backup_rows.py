# SPDX-License-Identifier: Apache-2.0
"""Rows of the backup: how fast a whole checkpoint goes over, and what readers notice of it."""
import json
import os
import shutil
import statistics
import threading
import time


class Backups:
    """The store of ten million objects (a million with --quick) with a backup beside it. A checkpoint is whole when the
    backup was emptied."""

    def __init__(self, run, sh, bucket, prefix="s1k"):
        self.run, self.sh, self.bucket, self.prefix = run, sh, bucket, prefix
        self.store = "million" if run.o.quick else "long"
        if run.o.quick:
            run.have(run.server(self.store, data=self.store), prefix, 1000000, 1024)
        else:
            run.have_long()
        self.dir = os.path.join(run.o.dir, "backup")
        self.copy = os.path.join(run.o.dir, "backup-cp")

    def serve(self):
        """With an empty backup directory; its own first checkpoint comes at once."""
        self.run.stop_servers()
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        s = self.run.server(self.store, data=self.store, backup=self.dir, backup_every="24h")
        while int(s.status()["backup_checkpoints"]) == 0:
            time.sleep(0.05)
        return s

    def backup(self):
        """Bytes/s of a whole checkpoint, synced, against cp of the same files and sync."""
        def ours():
            status = self.serve().status()
            return int(status["backup_copied_bytes"]) * 1000 / max(1, int(status["backup_took_ms"]))

        def limit():
            self.run.stop_servers()
            meta = os.path.join(self.run.o.dir, self.store, "meta")
            shutil.rmtree(self.copy, ignore_errors=True)
            size = sum(e.stat().st_size for e in os.scandir(meta))
            start = time.monotonic()
            self.sh("cp", "-r", meta, self.copy)
            self.sh("sync", "-f", self.copy)
            return size / (time.monotonic() - start)

        mine, machine = self.run.interleave(ours, limit)
        shutil.rmtree(self.copy, ignore_errors=True)
        self.run.row("backup", [m / 1e6 for m in mine], [m / 1e6 for m in machine], "MB/s")

    def read_p99(self, s):
        """Milliseconds: the median over epochs of one directory, batches of 64, four at once."""
        said = s.granary("bench", "read", f"{s.url}/{self.bucket}/{self.prefix}/d0000", "--batch", "64", "--epochs", "20",
                         "--json")
        return statistics.median(json.loads(line)["p99_ms"] for line in said.splitlines() if "p99_ms" in line)

    def meanwhile(self, s):
        """p99 of reads while whole checkpoints are made, one after the other."""
        stop = threading.Event()

        def again():
            while not stop.is_set():
                for entry in os.scandir(os.path.join(self.dir, "files")):  # so that all is copied again
                    if entry.name.endswith(".sst"):
                        os.unlink(entry.path)
                s.granary("backup", s.url, check=False)

        t = threading.Thread(target=again)
        t.start()
        try:
            return self.read_p99(s)
        finally:
            stop.set()
            t.join()

    def backup_p99(self):
        s = self.serve()
        self.read_p99(s)
        alone, meanwhile = self.run.interleave(lambda: self.read_p99(s), lambda: self.meanwhile(s))
        self.run.row("backup-p99", meanwhile, alone, "ms")
        self.run.stop_servers()
        shutil.rmtree(self.dir, ignore_errors=True)
