# SPDX-License-Identifier: Apache-2.0
"""Rows of a mounted bucket, each over FUSE's io_uring transport and, as ID-classic, over the device: writing and unpacking
against ext4 and fio on the same disk, reading of small files that only the server has against a file system that costs
nothing on libfuse 3.14. A sync of the mount is fsync of its root: it waits for all that was done before."""
import concurrent.futures
import contextlib
import os
import shutil

from archive_rows import drop_page_cache, timed
from mount_rows import MIB, SIZES, Mounts, both, ident_of

LIVE = both(("mount-live-112k", "mount-live-4k"))
UNTAR = both(("mount-untar",))
SEQUENTIAL = both(("mount-seq-write", "mount-seq-read"))
CHECKPOINT = both(("mount-ckpt-write", "mount-ckpt-read"))


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LiveMounts(Mounts):
    def __init__(self, run, sh, build, bucket, fio):
        super().__init__(run, sh, build, bucket)
        self.fio = fio

    def live(self, stack, s, path="", transport="classic"):
        return self.mount(stack, s, f"{s.url}/{self.bucket}{path}", transport, io="auto")

    def rows_of(self, ident, found, limit, amount, unit):
        """Seconds of each transport, and of the limit."""
        for transport, ours in zip(self.transports, found):
            if self.run.wants(ident_of(ident, transport)):
                self.run.row(ident_of(ident, transport), [amount / t for t in ours], [amount / t for t in limit], unit)

    # ---- small files that the server has in memory -------------------------------------------------------------------

    def reads(self):
        for name, (prefix, size) in SIZES.items():
            if self.run.wants(*both([f"mount-live-{name}"])):
                self.reads_of_live(f"mount-live-{name}", prefix, size, 1000 if name == "112k" else 8000)

    def reads_of_live(self, ident, prefix, size, count):
        s = self.run.server()
        self.run.have(s, prefix, self.run.big if size > 65536 else self.run.small, size)
        with contextlib.ExitStack() as stack:
            at = [self.live(stack, s, f"/{prefix}", t) for t in self.transports]
            null = self.null(stack, size)
            listing, _ = self.names(at[0][0], count)
            bench = os.path.join(self.build, "bench", "bench_mount")
            for target, _ in at:  # the server has the bytes then
                self.sh(bench, "read", target, listing, size, 4, 0)
            found = self.run.interleave(*(lambda w=w: self.measure(w, listing, size, "read", 4, False) for w in (*at, null)))
            for transport, ours in zip(self.transports, found):
                self.row(ident_of(ident, transport), ours, found[-1])

    # ---- a source tree -----------------------------------------------------------------------------------------------

    def untar(self):
        tree, count, _, _ = self.run.corpus()
        archive = os.path.join(self.dir, "corpus.tar")
        if not os.path.exists(archive):
            self.sh("tar", "cf", archive, "-C", os.path.dirname(tree), os.path.basename(tree))
        with open(archive, "rb") as f:  # into the page cache
            while f.read(4 * MIB):
                pass
        s = self.run.server("live", data="live")

        def into(target, sync):
            def run():
                self.sh("tar", "xf", archive, "-C", target)
                sync()

            seconds = timed(run)
            shutil.rmtree(os.path.join(target, os.path.basename(tree)))
            return seconds

        ext4 = os.path.join(self.dir, "untar")
        os.makedirs(ext4, exist_ok=True)
        with contextlib.ExitStack() as stack:
            at = [self.live(stack, s, "", t)[0] for t in self.transports]
            found = self.run.interleave(*(lambda t=t: into(t, lambda: fsync(t)) for t in at),
                                        lambda: into(ext4, lambda: self.sh("sync")))
        self.rows_of("mount-untar", found, found[-1], count, "files/s")

    # ---- large files -------------------------------------------------------------------------------------------------

    def written(self, target, files, size):
        """Writers at once, each a file of its own, fsync at the end of each; seconds."""
        def one(i):
            self.sh("dd", "if=/dev/zero", f"of={target}/large{i}", "bs=1M", f"count={size // MIB}", "conv=fsync")

        with concurrent.futures.ThreadPoolExecutor(files) as pool:
            return timed(lambda: list(pool.map(one, range(files))))

    def read(self, target, files):
        def one(i):
            self.sh("dd", f"if={target}/large{i}", "of=/dev/null", "bs=1M")

        drop_page_cache(self.sh)
        with concurrent.futures.ThreadPoolExecutor(files) as pool:
            return timed(lambda: list(pool.map(one, range(files))))

    def fio_large(self, kind, files, size):
        """Without the kernel's cache, as the server does it: deep queues of large requests."""
        r = self.fio(self.dir, rw=kind, bs="1M", size=size, numjobs=files, direct=1, ioengine="io_uring", iodepth=8,
                     **({"end_fsync": 1} if kind == "write" else {}))
        return files * size / r[kind]["bw_bytes"]

    def large(self, write_ident, read_ident, files, size):
        """The server is started anew before reading: its cache is empty, as the kernel's is."""
        def write(transport):
            with contextlib.ExitStack() as stack:
                target = self.live(stack, self.run.server("live", data="live"), "", transport)[0]
                return self.written(target, files, size)

        def read(transport):
            self.run.stop_servers()
            with contextlib.ExitStack() as stack:
                return self.read(self.live(stack, self.run.server("live", data="live"), "", transport)[0], files)

        wrote = self.run.interleave(*(lambda t=t: write(t) for t in self.transports),
                                    lambda: self.fio_large("write", files, size))
        self.rows_of(write_ident, wrote, wrote[-1], files * size / MIB, "MiB/s")
        if not self.run.wants(*both([read_ident])):
            return
        got = self.run.interleave(*(lambda t=t: read(t) for t in self.transports),
                                  lambda: self.fio_large("read", files, size))
        self.rows_of(read_ident, got, got[-1], files * size / MIB, "MiB/s")

    def sequential(self):
        self.large("mount-seq-write", "mount-seq-read", 1, (512 if self.run.o.quick else 4096) * MIB)

    def checkpoints(self):
        self.large("mount-ckpt-write", "mount-ckpt-read", 8, (128 if self.run.o.quick else 1024) * MIB)
