# SPDX-License-Identifier: Apache-2.0
"""Exceptions: each is a granary.Error and the usual Python exception of its kind, and carries

    name        the library's word for it, 'NOTFOUND'
    key         the object, snapshot or bucket that it is about, or None
    endpoint    the server and bucket that were asked, or ''
    request_id  'SESSION-REQUEST' in hexadecimal, of the request that failed, as it was on the wire; '' where none was sent
    hint        what helps, or ''
"""
import typing


class Error(Exception):
    """Something that Granary could not do. str() has the cause, where, and what helps."""

    def __init__(self, message: str = "", *, name: str = "", code: int = 0, key: "str | None" = None, endpoint: str = "",
                 request_id: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.name, self.code, self.key = message, name, code, key
        self.endpoint, self.request_id, self.hint = endpoint, request_id, hint

    def __str__(self) -> str:
        text = self.message
        where = [w for w in (f"server {self.endpoint}" if self.endpoint else "",
                             f"request {self.request_id}" if self.request_id else "") if w]
        if self.key is not None and str(self.key) not in text:
            text = f"'{self.key}': {text}"
        if where:
            text += f" ({', '.join(where)})"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    def __reduce__(self) -> "tuple[object, ...]":
        return _rebuild, (type(self), self.message, {k: getattr(self, k) for k in (
            "name", "code", "key", "endpoint", "request_id", "hint")})


def _rebuild(cls: "type[Error]", message: str, fields: "dict[str, typing.Any]") -> Error:
    return cls(message, **fields)


class NotFoundError(Error, KeyError):
    """No such object, snapshot or bucket."""


class InvalidError(Error, ValueError):
    """An argument that cannot be used, a token that is damaged or of another snapshot."""


class RangeError(Error, IndexError):
    """Beyond the end of an object or a snapshot."""


class TimedOutError(Error, TimeoutError):
    """The deadline passed, or a stream stalled."""


class ConnectionLostError(Error, ConnectionError):
    """The server cannot be reached, or the connection was lost, retries used up."""


class AccessError(Error, PermissionError):
    """An unknown key, a wrong secret, or a grant that is missing."""


class ExistsError(Error, FileExistsError):
    """It is there already, or a condition of a put does not hold."""


class DirectoryError(Error, OSError):
    """A directory where a file was meant, or the other way round, or one that is not empty."""


class CorruptError(Error, OSError):
    """Bytes with a wrong checksum, of which no good copy was found."""


class StorageError(Error, OSError):
    """The server could not do it: no space, an input/output error, a quota."""


class OutOfMemoryError(Error, MemoryError):
    """The memory that the client may use is used up."""


class SampleError(Error, RuntimeError):
    """A transform could not use a sample; __cause__ says why."""


CLASSES = {
    "NOTFOUND": NotFoundError, "NOBUCKET": NotFoundError, "STALE": NotFoundError, "CHANGED": NotFoundError,
    "INVAL": InvalidError, "NAME": InvalidError, "TOOBIG": InvalidError, "VERSION": InvalidError, "CONFIG": InvalidError,
    "BADFORMAT": InvalidError, "UNSUPPORTED": InvalidError, "RANGE": RangeError, "TIMEDOUT": TimedOutError,
    "CLOSED": ConnectionLostError, "UNREACHABLE": ConnectionLostError, "SHUTDOWN": ConnectionLostError,
    "AUTH": AccessError, "ACCESS": AccessError, "READONLY": AccessError, "EXIST": ExistsError,
    "PRECONDITION": ExistsError, "ISDIR": DirectoryError, "NOTDIR": DirectoryError, "NOTEMPTY": DirectoryError,
    "CORRUPT": CorruptError, "NOSPACE": StorageError, "QUOTA": StorageError, "IO": StorageError,
    "OFFLINE": StorageError, "NOMEM": OutOfMemoryError, "BUSY": StorageError,
}

HINTS = {
    "NOTFOUND": "keys are case-sensitive and have no leading '/'; Client.list(prefix) shows what is there",
    "NOBUCKET": "make it with: granary bucket create granary://HOST/BUCKET",
    "CHANGED": "the object or snapshot was replaced or removed meanwhile: open it again",
    "STALE": "the object or snapshot was replaced or removed meanwhile: open it again",
    "TIMEDOUT": "is the server up and reachable? A longer timeout= or stall_timeout= waits longer",
    "UNREACHABLE": "is granaryd running there, and is the port right? Try: granary status granary://HOST",
    "CLOSED": "the server went away and did not come back in time; its log says why",
    "SHUTDOWN": "the server is stopping: try again when it is back",
    "AUTH": "give credentials=FILE (or GRANARY_CREDENTIALS) with a key of this server",
    "ACCESS": "this access key has no grant for it: granary key create --help",
    "CORRUPT": "granary check finds the damage; on_error='skip' goes on without such samples",
    "TOOBIG": "give it a larger buffer, or a larger memory=",
    "NOMEM": "give the client a larger memory=, or free batches that are no longer needed",
    "NOSPACE": "the store's disk is full: granary status granary://HOST",
    "QUOTA": "the bucket's quota is used up",
    "VERSION": "it was made by a later version: update granary",
    "FORKED": "it was opened before fork(): open it again in this process",
    "PRECONDITION": "it is there already, and if_absent=True was asked for",
    "BUSY": "try again; a larger memory= helps where batches are kept for long",
}
