#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_local.py -- descriptors of packs and addresses of entries (PROTOCOL 4.16, 4.17) on raw sockets.

Goal: who may read all of a bucket gets read-only descriptors of its sealed packs, over a Unix socket, and finds there at
the addresses what READ sends; nobody else gets any; the server keeps none open; what is compacted away stays readable
through a descriptor that is held."""
import os
import pathlib
import random
import socket
import struct
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import granary_wire as w  # noqa: E402
from granary_wire import E, Failed, b16, ref_key  # noqa: E402

READ_ACT, LIST_ACT = 1, 2
PASSED, SAME = 1, 2
COUNT, SIZE = 420, 64 * 1024 - 17
OPTIONS = ("--pack-size", "16MiB", "--cpus", "2", "--memory", "256MiB", "--cache-size", "64MiB", "--job-interval", "150ms")
server = None


def content(i):
    return random.Random(i).randbytes(SIZE)


def key_of(i):
    return f"train/{i:04d}"


def setUpModule():
    global server
    server = w.Server(*OPTIONS).start()
    with server.client() as c:
        for bucket in ("bucket", "other"):
            assert c.bucket_create(bucket) == 0
        for at in range(0, COUNT, 60):
            statuses, _ = c.put("bucket", [(key_of(i), content(i)) for i in range(at, min(at + 60, COUNT))])
            assert set(statuses) == {0}, statuses
        assert c.put("other", [("a", b"a" * 100)])[0] == [0]


def tearDownModule():
    try:
        if server and server.process:
            assert server.stop() == 0, server.log_text()[-3000:]
    finally:
        if server:
            server.destroy()


class Local(w.Client):
    """A client that takes descriptors."""

    def __init__(self, *args, **fields):
        self.fds = []
        super().__init__(*args, **fields)

    def _take(self, n):
        while len(self.buf) < n:
            got, fds, _, _ = socket.recv_fds(self.sock, 1 << 18, 32)
            self.fds += fds
            if not got:
                raise w.Closed(*(self.goodbye or (None, "")))
            self.buf += got
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        super().close()

    def descriptors(self, packs):
        """[(status, flags, (dev, ino), size)]; packs: ids, or (id, dev, ino). Asked again while others are on their way."""
        packs = [p if isinstance(p, tuple) else (p, 0, 0) for p in packs]
        meta = struct.pack("<I", len(packs)) + b"".join(struct.pack("<QQQ", *p) for p in packs)
        end, body = time.monotonic() + 30, None
        while body is None:
            try:
                body = self.call(w.DESCRIPTORS, meta)[0].meta
            except Failed as e:
                if e.status != E["BUSY"] or time.monotonic() > end:
                    raise
                time.sleep(0.01)
        assert len(body) == 4 + 35 * len(packs), len(body)
        rows = [struct.unpack("<QHBQQQ", body[4 + 35 * i:39 + 35 * i]) for i in range(len(packs))]
        assert [r[0] for r in rows] == [p[0] for p in packs]
        return [(status, flags, (dev, ino), size) for _, status, flags, dev, ino, size in rows]

    def locate(self, bucket, keys):
        """Of each key its pieces [(pack, offset, length, crcs)], or the status."""
        body = self.call(w.LOCATE, w.read_meta(bucket, [ref_key(k) for k in keys]))[0].meta
        out, at = [[] for _ in keys], 4
        for _ in range(struct.unpack("<I", body[:4])[0]):
            i, status, flags, *_, length, ncrc = struct.unpack("<IHBBQQQQQQIH", body[at:at + 62])
            crcs = struct.unpack(f"<{ncrc}I", body[at + 62:at + 62 + 4 * ncrc])
            at += 62 + 4 * ncrc + (16 if flags & 2 else 0) + (8 if flags & 8 else 0)
            if status:
                out[i] = status
                continue
            if flags & 16:
                out[i].append((*struct.unpack("<QQ", body[at:at + 16]), length, crcs))
                at += 16
        assert at == len(body)
        return out


def local(key=None, secret=None):
    return Local(server.unix, key=key or server.key, secret=secret or server.secret)


def limited(*grants):
    with server.client() as c:
        return c.key_create(grants)


def pack_files():
    """id -> (path, group)"""
    out = {}
    for path in pathlib.Path(server.data).glob("packs/*/*.pack"):
        head = path.read_bytes()[:64]
        out[int(path.name[:16], 16)] = (path, struct.unpack("<Q", head[40:48])[0])
    return out


def open_files():
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


class Case(unittest.TestCase):
    def setUp(self):
        with local() as c:
            self.pack = c.locate("bucket", [key_of(0)])[0][0][0]


class Descriptors(Case):
    def test_what_lies_at_the_addresses_is_what_read_sends(self):
        keys = [key_of(i) for i in range(0, 200, 7)]
        with local() as c:
            places = c.locate("bucket", keys)
            packs = sorted({piece[0] for pieces in places if isinstance(pieces, list) for piece in pieces})
            rows = c.descriptors(packs)
            self.assertEqual([r[:2] for r in rows], [(0, PASSED)] * len(packs))
            by_file = {(os.fstat(fd).st_dev, os.fstat(fd).st_ino): fd for fd in c.fds}
            fds = {pack: by_file[row[2]] for pack, row in zip(packs, rows)}
            self.assertEqual([os.fstat(fds[p]).st_size for p in packs], [r[3] for r in rows])
            for key, pieces, (status, data) in zip(keys, places, c.read("bucket", keys)):
                self.assertEqual(status, 0)
                here = b"".join(os.pread(fds[pack], length, at) for pack, at, length, _ in pieces)
                self.assertEqual(here, data, key)
                self.assertEqual(w.crc32c(here), pieces[0][3][0])

    def test_a_descriptor_can_only_be_read(self):
        with local() as c:
            c.descriptors([self.pack])
            with self.assertRaises(OSError):
                os.pwrite(c.fds[0], b"x", 8192)
            with self.assertRaises(OSError):
                os.ftruncate(c.fds[0], 0)

    def test_the_one_that_is_known_does_not_come_again(self):
        with local() as c:
            (_, _, file, size), = c.descriptors([self.pack])
            self.assertEqual(c.descriptors([(self.pack, *file)]), [(0, SAME, file, size)])
            self.assertEqual(c.descriptors([(self.pack, file[0], file[1] + 1)]), [(0, PASSED, file, size)])
            self.assertEqual(len(c.fds), 2)

    def test_packs_that_are_open_or_unknown(self):
        with local() as c:
            newest = max(p for p, (_, group) in pack_files().items() if group == pack_files()[self.pack][1])
            self.assertEqual([r[0] for r in c.descriptors([newest, 12345])], [E["BUSY"], E["STALE"]])
            self.assertEqual(c.fds, [])
            self.assertEqual(c.put("bucket", [("fresh", b"f" * 5000)])[0], [0])
            self.assertEqual(c.locate("bucket", ["fresh", "missing"]), [E["UNSUPPORTED"]] * 2)

    def test_requests_that_do_not_parse(self):
        with local() as c:
            for meta in (b"", struct.pack("<I", 0), struct.pack("<I", 17) + bytes(24 * 17), struct.pack("<I", 1) + bytes(23),
                         struct.pack("<I", 1) + bytes(25)):
                self.assertEqual(c.status(w.DESCRIPTORS, meta), E["PROTO"], meta)
            self.assertEqual(c.status(w.LOCATE, b16("bucket") + b"\x04" + struct.pack("<I", 1)), E["PROTO"])
            self.assertEqual(c.status(w.PING), 0)

    def test_over_tcp_there_are_none(self):
        with server.client() as c:
            self.assertEqual(c.status(w.DESCRIPTORS, struct.pack("<IQQQ", 1, self.pack, 0, 0)), E["UNSUPPORTED"])

    def test_the_server_keeps_none_open(self):
        with local() as c:
            c.descriptors([self.pack])
            before = open_files()
            for _ in range(50):
                c.descriptors([self.pack] * 16)
                for fd in c.fds:
                    os.close(fd)
                self.assertEqual(len(c.fds), 16 if _ else 17)
                c.fds = []
            self.assertEqual(c.status(w.PING), 0)
            self.assertLessEqual(open_files(), before)

    def test_asked_for_and_never_taken(self):
        """Clients that go before they take what was sent."""
        before = open_files()
        for _ in range(30):
            with local() as c:
                for _ in range(3):
                    c.start(w.DESCRIPTORS, struct.pack("<I", 16) + struct.pack("<QQQ", self.pack, 0, 0) * 16)
        end = time.monotonic() + 30
        while open_files() > before and time.monotonic() < end:
            time.sleep(0.02)
        self.assertLessEqual(open_files(), before)
        with local() as c:
            self.assertEqual(c.descriptors([self.pack])[0][0], 0)


class Grants(Case):
    def statuses(self, key, secret, packs=None):
        with local(key, secret) as c:
            try:
                rows = c.descriptors(packs or [self.pack])
            except Failed as e:
                return e.status
            self.assertEqual(len(c.fds), sum(1 for r in rows if r[0] == 0))
            return rows[0][0]

    def test_a_grant_on_the_whole_bucket(self):
        self.assertEqual(self.statuses(*limited((READ_ACT, b"bucket", b""))), 0)
        self.assertEqual(self.statuses(*limited((READ_ACT | LIST_ACT, b"", b""))), 0)

    def test_anything_less(self):
        for grant in ((READ_ACT, b"bucket", b"train/"), (READ_ACT, b"bucket", b"t"), (READ_ACT, b"other", b"")):
            self.assertEqual(self.statuses(*limited(grant)), E["ACCESS"], grant)
        self.assertEqual(self.statuses(*limited((LIST_ACT, b"bucket", b""))), E["ACCESS"])

    def test_addresses_are_told_of_what_may_be_read(self):
        with local(*limited((READ_ACT, b"bucket", b"train/000"))) as c:
            mine, other = c.locate("bucket", [key_of(3), key_of(30)])
            self.assertEqual((mine[0][2], other), (SIZE, E["UNSUPPORTED"]))
            with self.assertRaises(Failed) as e:
                c.locate("other", ["a"])
            self.assertEqual(e.exception.status, E["ACCESS"])

    def test_the_systems_own_packs(self):
        with server.client() as c:
            c.call(w.SNAPSHOT_CREATE, b16("bucket") + b16("s1") + b16("train/") + b16(""))
        own = pack_files()[self.pack][1]
        with server.client() as c:
            c.call(w.TASK, b16("rotate") + b16(""))
        for pack, (_, group) in pack_files().items():
            status = self.statuses(server.key, server.secret, [pack])
            if group == own:
                self.assertIn(status, (0, E["BUSY"]))
        groups = {g for _, g in pack_files().values()}
        self.assertGreater(len(groups), 2, "the snapshot's table has a pack of its own")
        with local() as c:
            rows = {p: c.descriptors([p])[0][0] for p in pack_files()}
        self.assertIn(E["ACCESS"], [rows[p] for p, (_, g) in pack_files().items() if g != own])

    def test_a_key_that_was_removed(self):
        key, secret = limited((READ_ACT, b"bucket", b""))
        with local(key, secret) as c:
            self.assertEqual(c.descriptors([self.pack])[0][0], 0)
            with server.client() as admin:
                admin.key_remove(key)
            end, closed = time.monotonic() + 30, False
            while not closed and time.monotonic() < end:
                try:
                    self.assertIn(c.status(w.DESCRIPTORS, struct.pack("<IQQQ", 1, self.pack, 0, 0)), (0, E["AUTH"]))
                except w.Closed as e:
                    closed = True
                    self.assertEqual(e.status, E["AUTH"])
            self.assertTrue(closed)


class Moves(unittest.TestCase):
    def test_a_pack_that_is_compacted_away_while_it_is_held(self):
        keys = [f"gone/{i:04d}" for i in range(300)]
        with local() as c:
            for at in range(0, 300, 60):
                self.assertEqual(set(c.put("bucket", [(k, content(at)) for k in keys[at:at + 60]])[0]), {0})
            place = next(p for p in c.locate("bucket", keys) if isinstance(p, list))[0]
            name = keys[[isinstance(p, list) and p[0] == place for p in c.locate("bucket", keys)].index(True)]
            pack, at, length, crcs = place
            self.assertEqual(c.descriptors([pack])[0][0], 0)
            fd = c.fds[-1]
            path = pack_files()[pack][0]
            entries = b"".join(ref_key(k) + struct.pack("<BQ", 0, 0) for k in keys if k != name)
            c.call(w.DELETE, c.mutation("bucket") + struct.pack("<I", 299) + entries)
            end = time.monotonic() + 60
            while path.exists() and time.monotonic() < end:
                time.sleep(0.05)
            self.assertFalse(path.exists(), "the pack was not compacted away")
            self.assertEqual(w.crc32c(os.pread(fd, length, at)), crcs[0])
            self.assertEqual(c.descriptors([pack])[0][0], E["STALE"])
            self.assertEqual(c.read("bucket", [name])[0][0], 0)
            self.assertNotEqual(c.locate("bucket", [name])[0], [place])


class Off(unittest.TestCase):
    def test_the_setting(self):
        mine = w.Server(*OPTIONS, "--local-reads", "off").start()
        try:
            with mine.client(address=mine.unix) as c:
                with self.assertRaises(Failed) as e:
                    c.call(w.DESCRIPTORS, struct.pack("<IQQQ", 1, 1, 0, 0))
                self.assertEqual(e.exception.status, E["UNSUPPORTED"])
                self.assertIn("local_reads is off", str(e.exception))
        finally:
            mine.stop()
            mine.destroy()


if __name__ == "__main__":
    unittest.main(verbosity=2)
