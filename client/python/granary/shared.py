# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to another process: each in a memfd, of which only the number travels.

The sender writes a batch into a memfd and sends (process, descriptor). The receiver opens it through /proc/PID/fd and maps
it. When its Batch is gone it marks the memory as given back, and the sender uses it for another batch: its pages are
there already. Neither pickle nor /dev/shm sees a byte of it.
"""
import mmap
import multiprocessing.reduction
import os
import struct
import threading

from . import _native
from .batch import Batch
from .errors import Error

FREE_MAX = 16  # memory kept for the next batches; more than that is closed


class _Pool:
    """The memfds of this process."""

    def __init__(self):
        self.lock, self.away = threading.Lock(), []

    def write(self, batch):
        with self.lock:
            free = [fd for fd in self.away if _native.Batch._given_back(fd)]
            for fd in free[1 + FREE_MAX:]:
                self.away.remove(fd)
                os.close(fd)
            if free:
                fd = free[0]
            else:
                fd = os.memfd_create("granary-batch", os.MFD_CLOEXEC)
                self.away.append(fd)
            batch._share(fd)
            return fd

    def forget(self):
        """In a child after fork(): what the parent has sent is the parent's."""
        self.lock = threading.Lock()
        for fd in self.away:
            os.close(fd)
        self.away = []


_pool = _Pool()
os.register_at_fork(after_in_child=_pool.forget)


def _open(pid, fd):
    try:
        return os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise Error(f"memory of process {pid} cannot be opened: {e.strerror}",
                    hint="the process that sent it has ended, or runs as another user") from None


def _receive(pid, fd, source, labels, keys):
    here = _open(pid, fd)
    try:
        batch = Batch._from_shared(here)
    finally:
        os.close(here)
    if source is not None:
        batch.source = source
    if labels is not None:
        batch._labels = labels
    if keys is not None:
        batch._keys = keys
    return batch


def _send(batch):
    return _receive, (os.getpid(), _pool.write(batch), batch._get("source"), batch._get("_labels"), batch._get("_keys"))


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
