# SPDX-License-Identifier: Apache-2.0
"""Reader: an object as a seekable binary file, of which a piece at a time is in memory.

All pieces are of one version of the object: where it was replaced meanwhile, the read at its end says so, and so does every
read that comes up short.
"""
import io

CHANGED = -21  # GRANARY_ECHANGED
PIECE = 4 << 20  # bytes a request


class Reader(io.RawIOBase):
    """What Client.open_read() gives, inside of a buffer: ranges of one object."""

    def __init__(self, client, key, timeout):
        super().__init__()
        self.client, self.key, self.timeout, self.at = client, key, timeout, 0
        self.stat = client.stat(key, meta=False)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.stat.size}[whence]
        if base + offset < 0:
            raise ValueError(f"'{self.key}': a position below 0")
        self.at = base + offset
        return self.at

    def tell(self):
        return self.at

    def readinto(self, buffer):
        if self.closed:
            raise ValueError(f"'{self.key}' is closed")
        count = min(len(buffer), self.stat.size - self.at)
        if count <= 0:
            return 0
        batch = self.client.get_many([(self.key, self.at, count)], out=memoryview(buffer)[:count], timeout=self.timeout)
        self.at += count
        if batch.nbytes != count or (self.at == self.stat.size and
                                     self.client.stat(self.key, meta=False).version != self.stat.version):
            raise self.client._fail(CHANGED, f"'{self.key}' was replaced while it was read", self.key)
        return count
