# SPDX-License-Identifier: Apache-2.0
"""Where a dataset's samples are: an address and how to log in. Pickled it is a few texts; clients and snapshots are opened
when they are needed, one of each a process and place."""
import os
import threading

from . import _native
from .client import Part, Snapshot, connect

_lock = threading.Lock()
_clients, _snapshots, _parts = {}, {}, {}


def _forget():
    """In a child after fork(): what the parent opened stays the parent's."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()
    _snapshots.clear()
    _parts.clear()


os.register_at_fork(after_in_child=_forget)


class Place:
    """A snapshot of a bucket, the part of one below a directory, or a prefix of which one is made:
    granary://HOST/BUCKET[@SNAPSHOT][/PREFIX]."""

    __slots__ = ("url", "login", "bucket", "snapshot", "path")

    def __init__(self, url, login):
        if not isinstance(url, (str, os.PathLike)):
            raise TypeError(f"the address is a str, granary://HOST/BUCKET@SNAPSHOT, not {type(url).__name__}")
        self.url = os.fspath(url)
        self.login = tuple(sorted(login.items()))
        self.bucket, self.snapshot, self.path = _native.parse_url(self.url)
        if not self.bucket:
            raise ValueError(f"'{self.url}' names no bucket: granary://HOST/BUCKET@SNAPSHOT or granary://HOST/BUCKET/PREFIX")

    @property
    def key(self):
        return self.url, self.login

    def client(self):
        """The client of this process for this server and login."""
        with _lock:
            client = _clients.get(self.key)
            if client is None or client.closed:
                client = _clients[self.key] = connect(self.url, **dict(self.login))
            return client

    def name(self):
        """What the library calls it: BUCKET@SNAPSHOT, BUCKET@SNAPSHOT/PREFIX or BUCKET/PREFIX."""
        name = f"{self.bucket}@{self.snapshot}" if self.snapshot else self.bucket
        return f"{name}/{self.path}" if self.path or not self.snapshot else name

    def named(self, snapshot):
        """The same place with the name of the snapshot that was made."""
        place = Place.__new__(Place)
        place.url, place.login, place.bucket, place.snapshot, place.path = (self.url, self.login, self.bucket, snapshot,
                                                                            self.path)
        return place

    def open(self):
        """The snapshot, opened once a process."""
        if not self.snapshot:
            raise ValueError(f"'{self.url}' names no snapshot: granary://HOST/BUCKET@SNAPSHOT")
        key = (self.key, self.snapshot)
        found = _snapshots.get(key)
        if found is None:
            found = Snapshot(self.client(), self.snapshot, self.bucket)
            if self.is_part(found):
                found = Snapshot(self.client(), self.snapshot, self.bucket, self.path.rstrip("/") + "/")
            found = _snapshots.setdefault(key, found)
        return found

    def is_part(self, snapshot=None):
        """Whether the path in the address leaves out some of the snapshot."""
        prefix = (snapshot or self.open()).describe()["prefix"]
        return bool(self.path.strip("/")) and not (prefix.strip("/") + "/").startswith(self.path.strip("/") + "/")

    def numbered(self):
        """The samples by number: the snapshot, or the part of it, opened once a process."""
        if not self.is_part():
            return self.open()
        key = (self.key, self.snapshot, self.path)
        found = _parts.get(key)
        if found is None:
            found = _parts.setdefault(key, Part(self.client(), self.open(), self.path))
        return found

    # -- what batches ask --
    def keys_of(self, ids):
        return self.open()._keys(ids)

    def labels_of(self, ids):
        return self.open()._labels(ids)

    def field_names(self):
        return self.open().field_names()

    def __reduce__(self):
        return _place, (self.url, self.login, self.bucket, self.snapshot, self.path)


class Chosen:
    """A place of whose samples only some files are read."""

    __slots__ = ("place", "wanted")

    def __init__(self, place, wanted):
        self.place, self.wanted = place, wanted

    def keys_of(self, ids):
        return self.place.keys_of(ids)

    def labels_of(self, ids):
        return self.place.labels_of(ids)

    def field_names(self):
        """Names in their places; None of those that were not read."""
        return tuple(name if name in self.wanted else None for name in self.place.field_names())

    def __reduce__(self):
        return Chosen, (self.place, self.wanted)


def _place(*parts):
    place = Place.__new__(Place)
    place.url, place.login, place.bucket, place.snapshot, place.path = parts
    return place
