# SPDX-License-Identifier: Apache-2.0
"""Ranks of a node that share a dp_rank read their batches once: one process reads, the others get the memory.

The first process that binds the socket of an epoch's part reads it; the others connect and ask for batches by number, 0 where
the part begins. Whoever asks first has the next batch read; its copy goes into a memfd, which the others map privately, so
that what one rank writes into its batch is seen by no other.

(1) the socket's name is made of all that determines the batches: those who meet there want the same ones.
(2) only processes of the same user talk to each other; both sides look (SO_PEERCRED).
(3) sharing is never needed: a batch that is not kept any more, a reader that ends, fails or does not answer: the rank opens
    the rest of its part itself, from the batch that it wants. So each gets every batch once, whatever happens to others.
(4) kept are at most KEEP batches and KEEP_BYTES, until all have taken them; nothing is copied once QUIET batches were read
    and nobody came.
"""
import collections
import errno
import hashlib
import json
import os
import socket
import struct
import threading
import time
import weakref

from . import _native
from ._runtime import notice
from .batch import Batch

KEEP, KEEP_BYTES, QUIET = 16, 256 << 20, 64
NOTICE_S = 2.0
ASK = struct.Struct("<Q")
BATCH, END, ALONE = b"B", b"E", b"A"
_readers = weakref.WeakSet()


def _forget():
    """In a child after fork(): what the parent serves is the parent's."""
    for reader in list(_readers):
        reader.abandon()


os.register_at_fork(after_in_child=_forget)


def _same_user(link):
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid == os.getuid()


class Reader:
    """The stream of the process that reads: next() for its own loop, and a thread for each of the others."""

    def __init__(self, door, native, others):
        self.door, self.native, self.others = door, native, others
        self.lock = threading.Lock()  # of all below
        self.made, self.ended, self.gone = 0, False, False
        self.own = collections.deque()  # read for another, not yet taken by our own loop
        self.kept = collections.OrderedDict()  # number -> [memory, bytes, how many have not taken it]
        self.links = set()
        _readers.add(self)
        threading.Thread(target=self._accept, name="granary-replicate", daemon=True).start()

    # -- reading; the lock is held --

    def _keep(self, batch):
        memory = _native.Shared()
        self.kept[self.made] = [memory, memory.write(batch), self.others]
        while len(self.kept) > KEEP or (len(self.kept) > 1 and sum(k[1] for k in self.kept.values()) > KEEP_BYTES):
            self.kept.popitem(last=False)

    def _more(self):
        """Reads one batch. False at the end."""
        batch = None if self.ended else self.native.next()
        if batch is None:
            self.ended = True
            return False
        if self.links or self.made < QUIET:
            self._keep(batch)
        self.made += 1
        if not self.gone:
            self.own.append(batch)
        return True

    def next(self):
        """The next Batch of our own loop; None at the end."""
        with self.lock:
            return self.own.popleft() if self.own or self._more() else None

    def _answer(self, number):
        """(code, memory or None)"""
        with self.lock:
            if len(self.own) >= KEEP:  # our own loop stands: it is not to fill the memory
                return ALONE, None
            try:
                while self.made <= number and self._more():
                    pass
            except Exception:  # pylint: disable=broad-except
                return ALONE, None  # it will see for itself; our own loop's next() fails the same way
            if number >= self.made:
                return END, None
            row = self.kept.get(number)
            if row is None:
                return ALONE, None
            row[2] -= 1
            if row[2] == 0:
                del self.kept[number]
            return BATCH, row[0]

    # -- the others --

    def _accept(self):
        hello = json.dumps(self.native.info()).encode()
        while True:
            try:
                link, _ = self.door.accept()
            except OSError:
                return
            if not _same_user(link):
                link.close()
                continue
            with self.lock:
                self.links.add(link)
            threading.Thread(target=self._serve, args=(link, hello), name="granary-replica", daemon=True).start()

    def _serve(self, link, hello):
        try:
            link.sendall(hello)
            while len(ask := link.recv(ASK.size)) == ASK.size:
                code, memory = self._answer(*ASK.unpack(ask))
                socket.send_fds(link, [code], [] if memory is None else [memory.fileno()])
                del memory
        except OSError:
            pass  # it has gone
        finally:
            link.close()
            with self.lock:
                self.links.discard(link)
                last = self.gone and not self.links
            if last:
                self._end()

    def info(self):
        return self.native.info()

    def close(self):
        """Our own loop is done; the others are served until they go."""
        with self.lock:
            if self.gone:
                return
            self.gone = True
            self.own.clear()
            last = not self.links
        _shut(self.door)
        if last:
            self._end()

    def _end(self):
        with self.lock:
            self.kept.clear()
            self.ended = True
        self.native.close()

    def abandon(self):
        self.lock, self.gone, self.ended = threading.Lock(), True, True
        for one in (self.door, *self.links):
            one.close()
        self.kept.clear()
        self.links.clear()


def _shut(door):
    try:
        door.shutdown(socket.SHUT_RDWR)  # wakes accept()
    except OSError:
        pass
    door.close()


class Member:
    """The stream of a process that gets its batches from the reader; alone() opens the rest of the part when it cannot."""

    def __init__(self, link, hello, alone, patience):
        self.link, self.hello, self.alone, self.patience = link, hello, alone, patience
        self.number, self.native = 0, None
        self.counts = dict.fromkeys(("delivered", "samples_read", "bytes_read", "waited_ns"), 0)

    def _ask(self):
        """(code, descriptor); code ALONE when nothing comes."""
        try:
            self.link.sendall(ASK.pack(self.number))
            code, fds, _, _ = _patient(self.link, lambda: socket.recv_fds(self.link, 1, 1), self.patience,
                                       f"batch {self.number} from the rank of this node that reads it")
        except OSError:
            return ALONE, None
        return code or ALONE, fds[0] if fds else None

    def _shared(self):
        code, fd = self._ask()
        if code != BATCH or fd is None:
            if code == END:
                return None
            self._leave()
            return self.native.next()
        try:
            return _native.Shared(fd, True).read(Batch)
        finally:
            os.close(fd)

    def _leave(self):
        self.link.close()
        self.native = self.alone(self.number)

    def next(self):
        """The next Batch; None at the end."""
        began = time.monotonic_ns()
        batch = self.native.next() if self.native is not None else self._shared()
        if batch is not None:
            self.number += 1
            for name, more in (("delivered", 1), ("samples_read", sum(batch.valid)), ("bytes_read", batch.nbytes),
                               ("waited_ns", time.monotonic_ns() - began)):
                self.counts[name] += more
        return batch

    def info(self):
        """As of an epoch; bytes_fetched is what this process read itself."""
        if self.native is not None:
            return {**self.native.info(), **self.counts}
        return {**self.hello, **self.counts, "bytes_fetched": 0}

    def close(self):
        self.link.close()
        if self.native is not None:
            self.native.close()


def _patient(link, call, patience, what):
    """The result of a call on a socket, waited for so many seconds; says what for."""
    end, said = time.monotonic() + patience, False
    while True:
        link.settimeout(max(0.01, min(NOTICE_S, end - time.monotonic())))
        try:
            return call()
        except TimeoutError:
            if time.monotonic() >= end:
                raise
            if not said:
                notice(f"waiting for {what}")
                said = True


def _connect(name, patience):
    """(link, hello) of the one who reads; None when it has just gone."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.connect(name)
        if not _same_user(link):
            raise PermissionError(errno.EACCES, "another user's")
        hello = _patient(link, lambda: link.recv(1 << 16), patience, "the rank of this node that opens the stream")
        if hello:
            return link, json.loads(hello)
    except OSError as e:
        if e.errno == errno.EACCES:
            raise
    link.close()
    return None


def join(what, others, open_part, patience):
    """The stream of this process: Reader, Member, or what open_part(0) gives where sharing does not work.

    what: all that determines the batches. others: how many more ranks want them. open_part(n): a native epoch from the n-th
    batch of the part on."""
    name = "\0granary-" + hashlib.sha256(repr((os.getuid(), what)).encode()).hexdigest()
    for turn in range(100):
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            door.bind(name)
        except OSError:
            door.close()
        else:
            door.listen(others)
            try:
                return Reader(door, open_part(0), others)
            except BaseException:
                _shut(door)
                raise
        try:
            found = _connect(name, patience)
        except (PermissionError, TimeoutError):
            break
        if found is not None:
            return Member(*found, open_part, patience)
        time.sleep(0.001 * turn)  # it is about to listen, or has gone
    return open_part(0)
