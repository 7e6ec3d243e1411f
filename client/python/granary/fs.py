# SPDX-License-Identifier: Apache-2.0
"""GranaryFileSystem: granary:// for fsspec, and so for pandas, pyarrow datasets, Hugging Face datasets, DuckDB."""
import datetime
import errno
import threading

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.utils import stringify_path

from .client import PREFIX, connect
from .errors import ExistsError, NotFoundError

WRITE_PIECE = 4 << 20
SCHEME = "granary://"


def _missing(path, cause=None):
    error = FileNotFoundError(errno.ENOENT, "no such object or directory", path)
    error.__cause__ = cause
    return error


def _name(bucket):
    """Without the host before it."""
    return bucket.rpartition("/")[2]


class GranaryFileSystem(AbstractFileSystem):
    """Buckets of a Granary server as directories: granary://HOST[:PORT]/BUCKET/KEY.

    host         HOST[:PORT][,HOST...], else that of the address, else of GRANARY_URL
    credentials, access_key, secret, timeout, ...   as of granary.connect()

    Paths are BUCKET/KEY, or HOST/BUCKET/KEY as they are in the address; what is found is named as it was asked for.
    Batches are native requests: cat() and cat_ranges() of many paths are one, pipe() of a dict too. A directory is there
    as long as something is below it, or because it was made with mkdir().
    """

    protocol = "granary"
    root_marker = ""
    cachable = True

    def __init__(self, host=None, credentials=None, access_key=None, secret=None, timeout=30.0, **options):
        super().__init__(**options)
        self.host = host
        self.login = {"credentials": credentials, "access_key": access_key, "secret": secret, "timeout": timeout}
        self._clients, self._lock = {}, threading.Lock()

    # -- addresses --

    @classmethod
    def _strip_protocol(cls, path):
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        path = stringify_path(path)
        return (path[len(SCHEME):] if path.startswith(SCHEME) else path).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path):
        if not path.startswith(SCHEME):
            return {}
        host = path[len(SCHEME):].partition("/")[0]
        return {"host": host} if host else {}

    def unstrip_protocol(self, name):
        name = stringify_path(name)
        if name.startswith(SCHEME):
            return name
        name = self._strip_protocol(name)
        return f"{SCHEME}{name}" if name.partition("/")[0] == self._host() else f"{SCHEME}{self._host()}/{name}"

    @property
    def fsid(self):
        return f"granary-{self.host or 'default'}"

    def _split(self, path):
        """(client of its bucket, bucket as the path has it, key)"""
        bucket, _, key = self._strip_protocol(path).partition("/")
        host = f"{bucket}/" if bucket == self._host() else ""
        if host:
            bucket, _, key = key.partition("/")
        if not bucket:
            raise ValueError(f"'{path}' names no bucket: granary://HOST/BUCKET/KEY")
        with self._lock:
            client = self._clients.get(bucket)
            if client is None:
                url = f"{SCHEME}{self._host()}/{bucket}"
                client = self._clients[bucket] = connect(url, **self.login)
        return client, host + bucket, key

    def _host(self):
        if self.host is None:
            import os
            url = os.environ.get("GRANARY_URL", "")
            self.host = url[len(SCHEME):].partition("/")[0] if url.startswith(SCHEME) else "localhost"
        return self.host

    # -- looking --

    @staticmethod
    def _row(bucket, key, entry):
        return {"name": f"{bucket}/{key}", "size": entry.size, "type": "file", "mtime": entry.mtime_ns / 1e9,
                "created": entry.mtime_ns / 1e9, "version": entry.version, "hash": entry.hash}

    @staticmethod
    def _directory(bucket, key):
        return {"name": f"{bucket}/{key}".rstrip("/"), "size": 0, "type": "directory", "mtime": None}

    def _is_directory(self, client, key):
        try:
            return next(client.list(f"{key}/" if key else ""), None) is not None or not key
        except NotFoundError:
            return False

    def info(self, path, **kwargs):
        client, bucket, key = self._split(path)
        try:
            found = client.stat_many([key])[0] if key else None
        except NotFoundError as e:  # no such bucket
            raise _missing(path, e) from e
        if key and not isinstance(found, Exception):
            return self._row(bucket, key, found)
        if key and not isinstance(found, NotFoundError):
            raise found
        if self._is_directory(client, key):
            return self._directory(bucket, key)
        raise _missing(path)

    def exists(self, path, **kwargs):
        try:
            self.info(path)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def ls(self, path, detail=True, **kwargs):
        client, bucket, key = self._split(path)
        prefix, rows, found = f"{key}/" if key else "", [], False
        try:
            for entry in client.list(prefix, delimiter="/"):
                found = True
                if entry.kind == PREFIX:
                    rows.append(self._directory(bucket, entry.key))
                elif entry.key != prefix:  # its own entry is no file in it
                    rows.append(self._row(bucket, entry.key, entry))
        except NotFoundError as e:
            raise _missing(path, e) from e
        if not found and key:
            rows = [self.info(path)]
            if rows[0]["type"] == "directory":
                rows = []
        return rows if detail else [row["name"] for row in rows]

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **kwargs):
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        client, bucket, key = self._split(path)
        rows = {}
        try:
            for entry in client.list(f"{key}/" if key else ""):
                if not entry.key.endswith("/"):
                    rows[f"{bucket}/{entry.key}"] = self._row(bucket, entry.key, entry)
        except NotFoundError:
            return {} if detail else []
        if not rows and key:
            found = client.stat_many([key])[0]
            if not isinstance(found, Exception):
                rows[f"{bucket}/{key}"] = self._row(bucket, key, found)
        return rows if detail else list(rows)

    def created(self, path):
        return self.modified(path)

    def modified(self, path):
        mtime = self.info(path)["mtime"]
        if mtime is None:
            raise IsADirectoryError(errno.EISDIR, "a directory has no time", path)
        return datetime.datetime.fromtimestamp(mtime, tz=datetime.timezone.utc)

    def ukey(self, path):
        info = self.info(path)
        return f"{info.get('hash') or ''}-{info.get('version', 0)}-{info['size']}"

    checksum = ukey

    # -- reading --

    def _ranges(self, path, start, end):
        """Key, offset and length of a range as Python's slices count them."""
        client, _, key = self._split(path)
        if (start is not None and start < 0) or (end is not None and end < 0):
            size = self.info(path)["size"]
            start = max(0, size + start) if start is not None and start < 0 else start
            end = size + end if end is not None and end < 0 else end
        offset = start or 0
        return client, (key, offset, 2**64 - 1 if end is None else max(0, end - offset))

    def cat_file(self, path, start=None, end=None, **kwargs):
        client, (key, offset, length) = self._ranges(path, start, end)
        if not key:
            raise IsADirectoryError(errno.EISDIR, "this is a bucket", path)
        try:
            return client.get(key, offset=offset, length=None if length == 2**64 - 1 else length)
        except NotFoundError as e:
            raise _missing(path, e) from e
        except IndexError:
            return b""

    def cat(self, path, recursive=False, on_error="raise", **kwargs):
        paths = self.expand_path(path, recursive=recursive)
        many = len(paths) > 1 or isinstance(path, list) or paths[0] != self._strip_protocol(path)
        if not many:
            return self.cat_file(paths[0], **kwargs)
        files = [p for p in paths if not recursive or self.isfile(p)]
        values = self.cat_ranges(files, [None] * len(files), [None] * len(files), on_error="return")
        out = {}
        for name, value in zip(files, values):
            if isinstance(value, Exception) and on_error == "raise":
                raise value
            if not isinstance(value, Exception) or on_error == "return":
                out[name] = value
        return out

    def cat_ranges(self, paths, starts, ends, max_gap=None, on_error="return", **kwargs):
        paths = list(paths)
        starts, ends = [list(v) if isinstance(v, (list, tuple)) else [v] * len(paths) for v in (starts, ends)]
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends: as many of each")
        out, asked = [None] * len(paths), {}
        for i, (path, start, end) in enumerate(zip(paths, starts, ends)):
            try:
                client, entry = self._ranges(path, start, end)
                asked.setdefault(id(client), (client, []))[1].append((i, entry))
            except (OSError, ValueError) as e:
                out[i] = e
        for client, rows in asked.values():
            batch, errors, _ = client._read([entry for _, entry in rows], None, False, -1.0)
            failed = dict(errors)
            for row, (i, entry) in enumerate(rows):
                error = client._fail(failed[row], "", entry[0]) if row in failed else None
                if error is None:
                    out[i] = bytes(batch[row])
                elif isinstance(error, IndexError):  # past the end: as a slice
                    out[i] = b""
                else:
                    out[i] = _missing(paths[i], error) if isinstance(error, NotFoundError) else error
        if on_error == "raise":
            for value in out:
                if isinstance(value, Exception):
                    raise value
        return out

    def _open(self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **kwargs):
        if mode in ("ab", "a"):
            raise NotImplementedError("an object cannot be appended to: read it, write it again")
        if "x" in mode and self.exists(path):
            raise FileExistsError(errno.EEXIST, "there is one", path)
        return GranaryFile(self, path, mode, block_size or "default", autocommit=autocommit, cache_options=cache_options,
                           **kwargs)

    # -- writing --

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        client, _, key = self._split(path)
        try:
            client.put(key, value, if_absent=mode == "create")
        except ExistsError as e:
            raise FileExistsError(errno.EEXIST, "there is one", path) from e

    def pipe(self, path, value=None, **kwargs):
        if isinstance(path, str) or not hasattr(path, "items"):
            self.pipe_file(self._strip_protocol(path), value, **kwargs)
            return
        by_client = {}
        for name, data in path.items():
            client, _, key = self._split(name)
            by_client.setdefault(id(client), (client, {}))[1][key] = data
        for client, items in by_client.values():
            client.put_many(items)

    def touch(self, path, truncate=True, **kwargs):
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
        else:
            self.pipe_file(path, self.cat_file(path))

    def cp_file(self, path1, path2, **kwargs):
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        with self.open(path1, "rb", cache_type="readahead", block_size=WRITE_PIECE) as source:
            client, _, key = self._split(path2)
            with client.open_write(key) as target:
                while piece := source.read(WRITE_PIECE):
                    target.write(piece)

    def mv(self, path1, path2, recursive=False, maxdepth=None, **kwargs):
        simple = isinstance(path1, str) and isinstance(path2, str) and maxdepth is None and not path2.endswith("/")
        if simple and self.isfile(path1) and not self.isdir(path2):
            (client, bucket1, old), (_, bucket2, new) = self._split(path1), self._split(path2)
            if _name(bucket1) == _name(bucket2):
                client.rename(old, new)
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)

    def rm_file(self, path):
        client, _, key = self._split(path)
        try:
            client.delete(key)
        except NotFoundError as e:
            raise _missing(path, e) from e

    _rm = rm_file

    def rm(self, path, recursive=False, maxdepth=None):
        paths = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        rows = {p: self.info(p) for p in paths}
        files = [p for p in paths if rows[p]["type"] == "file"]
        directories = sorted((p for p in paths if rows[p]["type"] == "directory"), key=len, reverse=True)
        if directories and not recursive:
            raise IsADirectoryError(errno.EISDIR, "a directory is removed with recursive=True", directories[0])
        by_client = {}
        for name in files:
            client, _, key = self._split(name)
            by_client.setdefault(id(client), (client, []))[1].append(key)
        for client, keys in by_client.values():
            client.delete(keys, missing_ok=True)
        for name in directories:
            client, bucket, key = self._split(name)
            try:
                if key:
                    client.rmdir(key)
                else:
                    client.remove_bucket(_name(bucket))
            except NotFoundError:
                pass  # it was there for what was below it

    # -- directories --

    def mkdir(self, path, create_parents=True, **kwargs):
        client, bucket, key = self._split(path)
        if key:
            if not create_parents and "/" in key and not self.isdir(self._parent(path)):
                raise _missing(self._parent(path))
            if self.exists(path):
                raise FileExistsError(errno.EEXIST, "there is one", path)
            client.mkdir(key)
            return
        try:
            client.create_bucket(_name(bucket))
        except ExistsError as e:
            raise FileExistsError(errno.EEXIST, "there is one", path) from e

    def makedirs(self, path, exist_ok=False):
        client, bucket, key = self._split(path)
        try:
            client.create_bucket(_name(bucket))
        except (ExistsError, PermissionError):
            if not key and not exist_ok:
                raise FileExistsError(errno.EEXIST, "there is one", path) from None
        if key and self.exists(path):
            if not exist_ok or self.isfile(path):
                raise FileExistsError(errno.EEXIST, "there is one", path)
        elif key:
            client.mkdir(key)

    def rmdir(self, path):
        client, bucket, key = self._split(path)
        if self.ls(path, detail=False):
            raise OSError(errno.ENOTEMPTY, "the directory is not empty", path)
        if key:
            client.rmdir(key)
        else:
            client.remove_bucket(_name(bucket))


class GranaryFile(AbstractBufferedFile):
    """An object open for reading (ranges, read ahead) or writing (pieces; there, whole, when it is closed)."""

    def __init__(self, fs, path, mode="rb", block_size="default", autocommit=True, **kwargs):
        super().__init__(fs, path, mode, block_size, autocommit=autocommit, **kwargs)
        self.writer = None

    def _fetch_range(self, start, end):
        return self.fs.cat_file(self.path, start, end)

    def _initiate_upload(self):
        client, _, key = self.fs._split(self.path)
        self.writer = client.open_write(key, if_absent="x" in self.mode)

    def _upload_chunk(self, final=False):
        self.writer.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self):
        """Puts what was written under its name."""
        try:
            self.writer.close()
        except ExistsError as e:
            raise FileExistsError(errno.EEXIST, "there is one", self.path) from e

    def discard(self):
        """Drops what was written."""
        if self.writer is not None:
            self.writer.discard()


def register():
    """Makes granary:// known to an fsspec that does not read entry points of this installation."""
    import fsspec
    fsspec.register_implementation("granary", GranaryFileSystem, clobber=True)
