# SPDX-License-Identifier: Apache-2.0
"""Client: objects by key; Snapshot: a fixed set of samples by dense id."""
import collections.abc
import io
import operator
import os
import typing

from . import _native
from ._runtime import make_error
from .errors import Error
from .reader import PIECE, Reader

FILE, DIRECTORY, PREFIX = 1, 2, 3
PUT_IF_ABSENT = 1


class Entry(typing.NamedTuple):
    """One line of a listing."""
    key: str
    kind: int  # granary.FILE, or granary.PREFIX for what lies below a delimiter
    size: int  # bytes
    mtime_ns: int
    version: int
    object_id: int
    hash: typing.Optional[str]  # XXH3-128 of the content, 32 hexadecimal digits


class Stat(typing.NamedTuple):
    """What is known of one object or directory."""
    key: str
    kind: int  # granary.FILE or granary.DIRECTORY
    size: int  # bytes
    mtime_ns: int
    version: int
    object_id: int
    hash: typing.Optional[str]
    meta: dict


def _keys(keys):
    if isinstance(keys, (str, bytes)) or not isinstance(keys, collections.abc.Iterable):
        raise TypeError(f"keys are a list of str, not {type(keys).__name__}; for one key take get() or stat()")
    return list(keys)


def _timeout(seconds):
    if seconds is None:
        return -1.0
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"a timeout is a number of seconds, not {type(seconds).__name__}")
    if seconds <= 0:
        raise ValueError("a timeout is above 0 seconds; None takes the client's")
    return float(seconds)


class Client(_native.Client):
    """Objects of one bucket by key. Any thread may use it, and both sides of a fork(). It connects at the first call.

    granary.connect() makes one; `with granary.connect(url) as client:` closes it at the end.
    """

    def _fail(self, code, text, key):
        info = self.info()
        name = _native.error_name(code)
        return make_error(code, name, text or _native.error_text(code), key, info["endpoint"], info["session_id"],
                          _native.last_request())

    def get(self, key, *, offset=0, length=None, timeout=None):
        """bytes of one object, or of `length` bytes from `offset` on.

        offset, length: bytes; length None: to the end. timeout: seconds, None: the client's.
        KeyError: no such object. IndexError: offset is beyond its end."""
        whole = offset == 0 and length is None
        entry = key if whole else (key, operator.index(offset), 2**64 - 1 if length is None else operator.index(length))
        batch, errors, text = self._read([entry], None, False, _timeout(timeout))
        if errors:
            raise self._fail(errors[0][1], text, key)
        return bytes(batch)

    def get_many(self, keys, out=None, order="given", on_missing="raise", timeout=None):
        """Batch of many objects, read in one native request; ids are places in `keys`.

        keys: list of str, or of (str, offset, length) in bytes.
        out: None, or a writable buffer, uint8[at least the bytes of all]: they are received straight into it.
        order: "given", or "any": as they come, which `ids` tells.
        on_missing: "raise" KeyError, "skip": left out of the batch, "none": batch[i] is None and valid[i] 0."""
        if order not in ("given", "any"):
            raise ValueError(f"order is 'given' or 'any', not {order!r}")
        if on_missing not in ("raise", "skip", "none"):
            raise ValueError(f"on_missing is 'raise', 'skip' or 'none', not {on_missing!r}")
        keys = _keys(keys)
        batch, errors, text = self._read(keys, out, order == "any", _timeout(timeout))
        for index, code in errors:
            if on_missing == "raise" or _native.error_name(code) not in ("NOTFOUND", "NOBUCKET"):
                key = keys[index]
                raise self._fail(code, text, key[0] if isinstance(key, tuple) else key)
        if errors and on_missing == "skip":
            batch = self._without(batch, out)
            keys = [keys[i] for i in batch.ids]
        else:
            keys = keys if order == "given" else [keys[i] for i in batch.ids]
        batch._keys = [k[0] if isinstance(k, tuple) else k for k in keys]
        return batch

    @staticmethod
    def _without(batch, out):
        import array
        rows = [i for i, v in enumerate(batch.valid) if v]
        offsets, ids = array.array("q", [0]), array.array("q")
        for i in rows:  # what is missing has no bytes: the others keep their places
            if not ids:
                offsets[0] = batch.offsets[i]
            offsets.append(batch.offsets[i + 1])
            ids.append(batch.ids[i])
        return type(batch)._from_buffers(batch, offsets, ids, bytes(4 * len(rows)), 1, 0, 0, b"")

    def put(self, key, data, *, if_absent=False, meta=None, timeout=None):
        """Writes one object, all or nothing; returns its version when it is durable.

        data: any buffer of bytes. if_absent: FileExistsError when it is there. meta: dict of str, kept with it."""
        return self.put_many([(key, data)], if_absent=if_absent, meta=meta, timeout=timeout)[0]

    def put_many(self, items, *, if_absent=False, meta=None, timeout=None):
        """Writes many objects; list of their versions. items: dict, or pairs, of key and bytes.

        The first that fails raises; those before and after it may have been written."""
        if isinstance(items, collections.abc.Mapping):
            items = items.items()
        meta = None if meta is None else dict(meta)
        rows = []
        for item in items:
            key, data = item
            if isinstance(data, str):
                raise TypeError(f"'{key}': the content is bytes, not str: encode it")
            rows.append((key, data, PUT_IF_ABSENT if if_absent else 0, meta))
        answers = self._put_many(rows, _timeout(timeout))
        for (key, *_), (status, _) in zip(rows, answers):
            if status != 0:
                raise self._fail(status, "", key)
        return [version for _, version in answers]

    def open_read(self, key, *, timeout=None):
        """A seekable binary file of one object, read in pieces of 4 MiB; KeyError when there is none."""
        return io.BufferedReader(Reader(self, key, timeout), PIECE)

    def open_write(self, key, *, if_absent=False, timeout=None):
        """A writable binary file: the object is there, whole, when it is closed; an exception in `with` drops it."""
        return Writer(self._upload(key, PUT_IF_ABSENT if if_absent else 0, _timeout(timeout)), key)

    def list(self, prefix="", *, delimiter=None, start_after=None):
        """Iterator of Entry below a prefix, in the order of the keys; delimiter="/" lists like a directory."""
        while True:
            rows, more = self._list_page(prefix, delimiter, start_after, 0)
            for row in rows:
                yield Entry(*row)
            if not more or not rows:
                return
            start_after = rows[-1][0]

    def stat(self, key, *, meta=True):
        """Stat of one object or directory; KeyError when there is none."""
        found = self.stat_many([key], meta=meta)[0]
        if isinstance(found, Error):
            raise found
        return found

    def stat_many(self, keys, *, meta=False):
        """List of Stat; an Error stands in the place of one that failed."""
        keys = _keys(keys)
        return [Stat(key, *row[1:]) if row[0] == 0 else self._fail(row[0], "", key)
                for key, row in zip(keys, self._stat_many(keys, meta))]

    def delete(self, keys, *, missing_ok=False):
        """Removes one key (str) or many (list of str). KeyError when one was not there, unless missing_ok."""
        keys = [keys] if isinstance(keys, str) else _keys(keys)
        for key, code in zip(keys, self._delete_many(keys)):
            if code != 0 and not (missing_ok and _native.error_name(code) == "NOTFOUND"):
                raise self._fail(code, "", key)

    def rename(self, old, new, *, replace=True):
        """Renames a file, or a directory with all below it, in one step."""
        self._rename(old, new, not replace)

    def mkdir(self, key, *, parents=True, mode=0o755):
        """Makes a directory; parents: also those above, and one that is there is fine."""
        self._mkdir(key, mode, parents)

    def rmdir(self, key):
        """Removes an empty directory."""
        self._rmdir(key)

    def create_bucket(self, name):
        """Makes a bucket."""
        self._bucket(name, True)

    def remove_bucket(self, name):
        """Removes an empty bucket."""
        self._bucket(name, False)

    def snapshot(self, name, *, create=False, bucket="", prefix=None, group=None, split=None, include=None, exclude=None,
                 note=None, expire=0, block=0, window=0, lanes=0, keep_last=0, exist_ok=False, timeout=600):
        """Opens a snapshot (create: makes it first); see `granary snapshot create --help` for what the options mean.

        prefix: "train/". group: "basename": files alike up to the first dot of the name are one sample.
        include, exclude: lists of globs on the key. expire: seconds, 0: never. timeout: seconds, of making it."""
        if create:
            lines = ["\n".join(g) if isinstance(g, (list, tuple)) else g for g in (include, exclude)]
            try:
                self._snapshot_create(bucket, name, prefix, group, split, *lines, note, expire, block, window, lanes,
                                      keep_last, _timeout(timeout))
            except FileExistsError:
                if not exist_ok:
                    raise
        return Snapshot(self, name, bucket)

    def snapshots(self, bucket=""):
        """List of dict: the snapshots of the bucket, by name."""
        rows, more = [], True
        while more:
            page, more = self._snapshot_page(bucket, rows[-1]["name"] if rows else "")
            rows += page
        return rows

    def remove_snapshot(self, name, *, bucket="", force=False):
        """Removes a snapshot; force: also while a job reads it."""
        self._snapshot_remove(bucket, name, force)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise TypeError("a Client is not pickled: pickle its address, and connect() in the other process")

    def __repr__(self):
        return "granary.Client(closed)" if self.closed else f"granary.Client('{self.info()['endpoint']}')"


class Writer(io.RawIOBase):
    """An object being written, piece by piece; it is there when close() returns."""

    def __init__(self, upload, key):
        super().__init__()
        self.upload, self.key = upload, key

    def writable(self):
        return True

    def write(self, data):
        if self.closed:
            raise ValueError(f"'{self.key}' is closed")
        data = memoryview(data).cast("B")
        self.upload.write(data)
        return len(data)

    def discard(self):
        """Drops it: nothing is left behind."""
        self.upload.abort()
        super().close()

    def close(self):
        if not self.closed:
            super().close()
            self.upload.commit()

    def __exit__(self, kind, *_):
        if kind is not None:
            self.discard()
        else:
            self.close()

    def __del__(self):  # one that nobody closed was not finished
        if not self.closed:
            self.discard()


class Snapshot(_native.Snapshot):
    """A fixed set of samples, numbered 0..len-1 in the order of their bytes on disk. It copies nothing, never changes."""

    def read(self, index, *, timeout=None):
        """bytes of one sample; negative indices count from the end. IndexError beyond it."""
        return bytes(self._read([operator.index(index)], _timeout(timeout)))

    def read_many(self, indices, *, timeout=None):
        """Batch of many samples, in one native request, in the given order."""
        batch = self._read([operator.index(i) for i in indices], _timeout(timeout))
        batch.source = SnapshotNames(self)
        return batch

    def open(self, index):
        """A seekable binary file of one sample."""
        return io.BytesIO(self.read(index))

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.read_many(range(*index.indices(len(self))))
        return self.read(index)

    def keys(self, indices=None):
        """The key of each sample (its first file): a list of str; of all samples a sequence that makes them as they are
        asked for."""
        return SnapshotKeys(self) if indices is None else self._keys(list(indices))

    def labels(self, indices=None):
        """Array, int64[n]: the number of each sample's class among classes(); -1 without one."""
        return self._labels(None if indices is None else list(indices))

    def classes(self):
        """Sorted list of str: the first directory below the prefix of every key."""
        return self._classes()

    def field_names(self):
        """tuple of str: the suffixes of the files of a sample; ("",) for samples of one file."""
        if self.describe()["fields"] == 1 or len(self) == 0:
            return ("",)
        names = []
        for key in self._file_keys([0])[0]:
            name = "" if key is None else key.rsplit("/", 1)[-1]
            names.append(name.split(".", 1)[1] if "." in name else "")
        return tuple(names)

    def __reduce__(self):
        raise TypeError("a Snapshot is not pickled: pickle its name, and open it in the other process")

    def __repr__(self):
        d = self.describe()
        return f"granary.Snapshot('{d['bucket']}@{d['name']}', {len(self)} samples)"


class SnapshotKeys(collections.abc.Sequence):
    """The keys of all samples of a snapshot, as a list has them, but not made before they are asked for."""

    CHUNK = 4096  # made at a time by who iterates

    def __init__(self, snapshot):
        self.snapshot = snapshot

    def __len__(self):
        return len(self.snapshot)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.snapshot._keys(range(*index.indices(len(self))))
        at = operator.index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"sample {at}: the snapshot has {len(self)}, numbered from 0")
        return self.snapshot._keys([at % len(self)])[0]

    def __iter__(self):
        for first in range(0, len(self), self.CHUNK):
            yield from self[first:first + self.CHUNK]

    def __eq__(self, other):
        if not isinstance(other, collections.abc.Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None

    def __repr__(self):
        return f"<keys of {len(self)} samples of {self.snapshot!r}>"


class Part:
    """The samples of a snapshot below a directory, numbered from 0 in the order of the snapshot."""

    def __init__(self, client, snapshot, prefix):
        about = snapshot.describe()
        self.snapshot = snapshot
        self.numbers = _native.Part(client, f"{about['name']}/{prefix}", about["bucket"])

    def __len__(self):
        return len(self.numbers)

    def read_many(self, indices):
        """Batch of many samples; its ids are those of the snapshot."""
        return self.snapshot.read_many(self.numbers.ids(list(indices)))

    def keys(self, indices):
        """List of str: the key of each of these samples."""
        return self.snapshot.keys(self.numbers.ids(list(indices)))

    def labels(self):
        """Array, int64[n]: the label of every sample, a class being a directory below the part's own."""
        return self.snapshot._labels(self.numbers.ids(None))

    def classes(self):
        """Sorted list of str: names of the classes."""
        return self.snapshot.classes()


class SnapshotNames:
    """Names and labels for the batches of a snapshot; in another process they are not there."""

    def __init__(self, snapshot):
        self.snapshot = snapshot

    def keys_of(self, ids):
        return self.snapshot._keys(ids)

    def labels_of(self, ids):
        return self.snapshot._labels(ids)

    def field_names(self):
        return self.snapshot.field_names()

    def __reduce__(self):
        return type(None), ()


def connect(url=None, *, credentials=None, access_key=None, secret=None, name=None, timeout=30.0, connect_timeout=5.0,
            memory=256 << 20, connections=1):
    """A Client of granary://HOST[:PORT][,HOST...]/BUCKET. It connects at the first call.

    url: None: GRANARY_URL, or the credentials file's. credentials: path of a file of lines access_key=, secret=, url=;
    None: GRANARY_CREDENTIALS. access_key, secret: instead of a file. name: who is calling, for the server's log.
    timeout: seconds of a call that gives none. memory: bytes for what is received and not yet given back."""
    if url is not None and not isinstance(url, (str, os.PathLike)):
        raise TypeError(f"the address is a str, not {type(url).__name__}")
    return Client(None if url is None else os.fspath(url), None if credentials is None else os.fspath(credentials),
                  access_key, secret, name, memory, _timeout(timeout), _timeout(connect_timeout), connections)
