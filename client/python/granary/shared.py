# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to another process: each in a memfd, of which only the number travels.

The sender has a batch in a memfd that it has mapped, or copies it into one (pool.c), and sends (process, descriptor,
number). The receiver opens it through /proc/PID/fd once, maps it, and knows it by its number from then on. When its Batch is
gone it marks the memory as given back, and the sender uses it for another batch: pages and mappings are there already.
Neither pickle nor /dev/shm sees a byte of it.
"""
import mmap
import multiprocessing.reduction
import os
import pickle
import struct

from . import _native
from .batch import Batch
from .errors import Error

PLACES_MAX = 64


class _Packed:
    """Where batches are from, pickled: nearly always as that of the batch before."""

    def __init__(self):
        self.source, self.text = None, None

    def of(self, source):
        if source is not self.source:
            self.source, self.text = source, pickle.dumps(source)
        return self.text


class _Arrivals:
    """What this process has mapped of others: number -> (Shared, process)."""

    def __init__(self):
        self.forget()

    def forget(self):
        self.maps, self.places = {}, {}

    def memory(self, pid, fd, number, size):
        known = self.maps.get(number)
        if known is not None and known[0].size == size:
            return known[0]
        here = _open(pid, fd)
        try:
            memory = _native.Shared(here)
        finally:
            os.close(here)
        self.sweep()
        self.maps[number] = memory, pid
        return memory

    def sweep(self):
        """Forgets what its process will not fill again. Batches that look into it stay."""
        for number, (memory, pid) in list(self.maps.items()):
            if memory.retired or not os.path.exists(f"/proc/{pid}"):
                self.maps.pop(number, None)

    def source(self, packed):
        source = self.places.get(packed)
        if source is None:
            if len(self.places) >= PLACES_MAX:
                self.places.clear()
            source = self.places[packed] = pickle.loads(packed)
        return source


_packed, _arrivals = _Packed(), _Arrivals()
os.register_at_fork(after_in_child=_native.send_forget)
os.register_at_fork(after_in_child=_arrivals.forget)


def sweep():
    """Unmaps the memory of processes that have ended."""
    _arrivals.sweep()


def _open(pid, fd):
    try:
        return os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise Error(f"memory of process {pid} cannot be opened: {e.strerror}",
                    hint="the process that sent it has ended, or runs as another user") from None


def _receive(pid, fd, number, size, packed, labels, keys):
    batch = _arrivals.memory(pid, fd, number, size).read(Batch)
    if packed is not None:
        batch.source = _arrivals.source(packed)
    if labels is not None:
        batch._labels = labels
    if keys is not None:
        batch._keys = keys
    return batch


def _send(batch):
    source = batch._get("source")
    return _receive, (os.getpid(), *_native.send(batch), None if source is None else _packed.of(source),
                      batch._get("_labels"), batch._get("_keys"))


multiprocessing.reduction.register(Batch, _send)


class Cell:
    """A few numbers and a short text that all processes of a dataset see: set_epoch() reaches workers that run already."""

    FORMAT = struct.Struct("<QQQ80s")

    def __init__(self):
        self.fd = os.memfd_create("granary-cell", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.FORMAT.size)
        self.map = mmap.mmap(self.fd, self.FORMAT.size)

    def get(self):
        """(epoch, first batch, changes, token or None)"""
        epoch, first, changes, token = self.FORMAT.unpack(self.map[:self.FORMAT.size])
        return epoch, first, changes, token.rstrip(b"\0").decode() or None

    def set(self, epoch, token=None, first=0):
        changes = self.get()[2] + 1
        self.map[:self.FORMAT.size] = self.FORMAT.pack(epoch, first, changes, (token or "").encode())

    def __reduce__(self):
        return _cell_receive, (os.getpid(), self.fd, self.get())

    def __del__(self):
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)
            self.fd = -1


def _cell_receive(pid, fd, state):
    cell = Cell.__new__(Cell)
    cell.fd = -1
    try:
        cell.fd = _open(pid, fd)
        cell.map = mmap.mmap(cell.fd, Cell.FORMAT.size)
    except (Error, OSError, ValueError):  # stored, or from a process that has ended: it goes on by itself
        if cell.fd >= 0:
            os.close(cell.fd)
        cell = Cell()
        epoch, first, _, token = state
        cell.set(epoch, token, first)
    return cell
