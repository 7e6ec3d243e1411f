# SPDX-License-Identifier: Apache-2.0
"""Rows of whole data sets in and out: import and export of a tar, sync of what did not change."""
import os
import shutil
import time


def timed(run):
    start = time.monotonic()
    run()
    return time.monotonic() - start


def drop_page_cache(sh):
    sh("sync")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


class Archives:
    """The corpus as a tar, a tree on ext4, and a dataset in a store of its own."""

    def __init__(self, run, sh, bucket):
        self.run, self.sh, self.bucket = run, sh, bucket
        self.tree, self.count, _, _ = run.corpus()
        self.tar = os.path.join(run.o.dir, "corpus.tar")
        if not os.path.exists(self.tar):
            sh("tar", "cf", self.tar + ".part", "-C", os.path.dirname(self.tree), os.path.basename(self.tree))
            os.rename(self.tar + ".part", self.tar)

    def fresh_server(self):
        self.run.stop_servers()
        shutil.rmtree(os.path.join(self.run.o.dir, "archives"), ignore_errors=True)
        return self.run.server("archives", data="archives")

    def import_tar(self):
        """A tar in the page cache, durable at the end, against tar x onto ext4 and sync."""
        out = os.path.join(self.run.o.dir, "untar")

        def ours():
            s = self.fresh_server()
            return self.count / timed(lambda: s.granary("import", self.tar, f"{s.url}/{self.bucket}/tar", "--quiet"))

        def limit():
            shutil.rmtree(out, ignore_errors=True)
            os.makedirs(out)
            self.sh("sync")
            return self.count / timed(lambda: (self.sh("tar", "xf", self.tar, "-C", out), self.sh("sync")))

        mine, machine = self.run.interleave(ours, limit)
        shutil.rmtree(out, ignore_errors=True)
        self.run.row("import-tar", mine, machine, "files/s")

    def export_tar(self):
        """Server just started, page cache dropped, against tar c of the tree with the page cache dropped."""
        s = self.fresh_server()
        s.granary("import", self.tree, f"{s.url}/{self.bucket}/tree", "--quiet")

        def ours():
            self.run.stop_servers()
            s = self.run.server("archives", data="archives")
            drop_page_cache(self.sh)
            command = f"{self.run.granary_path} export {s.url}/{self.bucket}/tree - --quiet | cat >/dev/null"
            return self.count / timed(lambda: self.sh("bash", "-o", "pipefail", "-c", command, env=s.env))

        def limit():
            self.run.stop_servers()
            drop_page_cache(self.sh)
            return self.count / timed(lambda: self.sh("bash", "-c", f"tar c -C {self.tree} . | cat >/dev/null"))

        mine, machine = self.run.interleave(ours, limit)
        self.run.row("export-tar", mine, machine, "files/s")

    def sync_nothing(self):
        """Nothing changed since the last time, against rsync -a onto ext4."""
        s = self.fresh_server()
        target, copy = f"{s.url}/{self.bucket}/sync", os.path.join(self.run.o.dir, "rsync")
        s.granary("sync", self.tree, target, "--quiet")
        self.sh("rsync", "-a", self.tree + "/", copy + "/")
        mine, machine = self.run.interleave(
            lambda: self.count / timed(lambda: s.granary("sync", self.tree, target, "--quiet")),
            lambda: self.count / timed(lambda: self.sh("rsync", "-a", self.tree + "/", copy + "/")))
        shutil.rmtree(copy, ignore_errors=True)
        self.run.row("sync-nothing", mine, machine, "files/s")
