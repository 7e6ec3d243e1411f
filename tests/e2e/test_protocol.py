#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_protocol.py -- abuse of the native protocol on raw sockets against a real granaryd.

Goal: whatever comes over the wire, the answer is the one docs/PROTOCOL.md names, or the connection ends with a reason;
after every case a proper client still reads and writes, and the server's memory stays inside its budgets."""
import concurrent.futures
import os
import random
import resource
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import granary_wire as w  # noqa: E402
from granary_wire import E, Client, Closed, Failed, b16, frame, ref_id, ref_key, ref_name  # noqa: E402

MIB = 1 << 20
MEMORY, CACHE = 256 * MIB, 64 * MIB
RSS_MAX = MEMORY + CACHE + 64 * MIB  # text, libraries, the heap's own
server = None


def setUpModule():
    global server
    w.files_limit_raise()
    server = w.Server("--memory", "256MiB", "--cache-size", "64MiB", "--pack-size", "16MiB", "--cpus", "2").start()
    with server.client() as c:
        assert c.bucket_create("bucket") == 0
        assert c.bucket_create("other") == 0
        statuses, _ = c.put("bucket", [("good", b"good bytes"), ("train/a", b"a" * 5000), ("train/b", b"b" * 100),
                                       ("secret/x", b"hidden")])
        assert statuses == [0] * 4, statuses


def tearDownModule():
    try:
        if server and server.process:
            rc = server.stop()
            assert rc == 0, f"exit code {rc}\n{server.log_text()[-3000:]}"
    finally:
        if server:
            server.destroy()


class Case(unittest.TestCase):
    def tearDown(self):
        self.assertIsNone(server.process.poll(), f"granaryd died:\n{server.log_text()[-4000:]}")
        with server.client() as c:
            data = os.urandom(3000)
            self.assertEqual(c.put("bucket", [("probe", data)])[0], [0])
            self.assertEqual(c.read("bucket", ["probe", "good"]), [(0, data), (0, b"good bytes")])
        if not w.SANITIZED:
            self.assertLess(server.rss(), RSS_MAX)

    def refused(self, wire, *statuses):
        """The server says GOODBYE with one of these, then closes."""
        frames, closed = wire.until_closed()
        self.assertIn(w.NAMES.get(closed.status), statuses, f"{closed} after {[f.op for f in frames]}")
        self.assertTrue(closed.text, "a reason in words")
        return frames

    def lives(self, c):
        self.assertEqual(c.status(w.PING), 0)


class Frames(Case):
    """PROTOCOL 1.2: what is no frame of ours ends the connection, with a reason."""

    damaged = {
        "magic": (dict(magic=b"GX"), "PROTO"), "magic of http": (dict(magic=b"GE"), "PROTO"),
        "version 0": (dict(version=0), "VERSION"), "version 2": (dict(version=2), "VERSION"),
        "version 255": (dict(version=255), "VERSION"), "header checksum": (dict(head_crc=1), "PROTO"),
        "meta of 4 GiB": (dict(meta_len=0xFFFFFFFF), "TOOBIG"), "data of 4 GiB": (dict(data_len=0xFFFFFFFF), "TOOBIG"),
        "both of 4 GiB": (dict(meta_len=0xFFFFFFFF, data_len=0xFFFFFFFF), "TOOBIG"),
        "request id 0": (dict(request=0), "PROTO"), "a response": (dict(flags=w.RESPONSE), "PROTO"),
    }

    def test_damaged_headers_before_and_after_authentication(self):
        for name, (fields, status) in self.damaged.items():
            fields = dict(request=5) | fields
            with self.subTest(name), server.wire() as raw, server.client() as c:
                raw.send(frame(w.HELLO, **fields))
                self.refused(raw, status)
                c.send(frame(w.PING, **fields))
                self.refused(c, status)

    def test_caps_before_authentication_are_smaller(self):
        for fields in (dict(meta_len=4097), dict(data_len=1)):
            with self.subTest(fields), server.wire() as raw:
                raw.send(frame(w.HELLO, **fields))
                self.refused(raw, "TOOBIG")

    def test_caps_after_authentication(self):
        with server.client() as c:
            self.assertEqual((c.meta_cap, c.data_cap), (8 * MIB, 16 * MIB))
            c.send(frame(w.PUT, meta_len=c.meta_cap + 1))
            self.refused(c, "TOOBIG")
        with server.client() as c:
            c.send(frame(w.PUT, data_len=c.data_cap + 1))
            self.refused(c, "TOOBIG")

    def test_bytes_that_are_no_frames(self):
        for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + os.urandom(600), bytes(4096), os.urandom(9999)):
            with self.subTest(junk[:8]), server.wire() as raw:
                raw.send(junk)
                self.refused(raw, "PROTO")

    def test_truncated_frames_then_silence_or_close(self):
        with server.client() as probe:
            meta = probe.mutation("bucket") + struct.pack("<I", 1) + w.put_entry(ref_key("cut"), b"x" * 1000)
        whole = frame(w.PUT, meta, b"x" * 1000, request=9)
        for cut in list(range(0, 40)) + [len(whole) // 2, len(whole) - 1]:
            with server.client() as c:
                c.send(whole[:cut])
        with server.client() as c:
            self.assertEqual(c.stat("bucket", [ref_key("cut")])[0][0], E["NOTFOUND"])

    def test_one_byte_at_a_time(self):
        with server.client() as c:
            meta = w.read_meta("bucket", [ref_key("good")])
            for b in frame(w.READ, meta, request=77) + frame(w.PING, request=78):
                c.send(bytes([b]))
            self.assertEqual({c.next().request, c.next().request}, {77, 78})

    def test_a_wrong_meta_checksum_fails_that_request_only(self):
        with server.client() as c:
            self.assertEqual(c.status(w.READ, w.read_meta("bucket", [ref_key("good")]), meta_crc=7), E["PROTO"])
            self.assertEqual(c.status(w.STATUS, meta_crc=7), E["PROTO"])
            self.lives(c)

    def test_status_and_unknown_flags_fail_that_request_only(self):
        with server.client() as c:
            meta = w.read_meta("bucket", [ref_key("good")])
            for fields in (dict(status=1), dict(status=65535), dict(flags=2), dict(flags=8), dict(flags=0x8000)):
                self.assertEqual(c.status(w.READ, meta, **fields), E["PROTO"], fields)
            self.lives(c)

    def test_unknown_ops_are_unsupported_and_the_connection_lives(self):
        with server.client() as c:
            for op in set(range(256)) - set(w.OPS) - {0}:
                self.assertEqual(c.status(op, b"meta"), E["UNSUPPORTED"], op)
            self.assertEqual(c.status(0), E["UNSUPPORTED"])
            self.assertEqual(c.status(200, b"m" * 5000), E["UNSUPPORTED"])
            self.lives(c)

    def test_data_with_an_op_that_takes_none(self):
        with server.client() as c:
            for op in (w.READ, w.STAT, w.LIST, w.STATUS, w.DELETE, w.PING):
                self.assertEqual(c.status(op, w.read_meta("bucket", [ref_key("good")]), b"data"), E["PROTO"], op)
            self.lives(c)

    def test_a_request_id_in_flight_twice_ends_the_connection(self):
        with server.client() as c:
            one = frame(w.READ, w.read_meta("bucket", [ref_key("good")]), request=50)
            c.send(one + one)
            self.refused(c, "PROTO")
        with server.client() as c:  # one after the other is fine
            for _ in range(3):
                c.request = 99
                self.assertEqual(c.read("bucket", ["good"]), [(0, b"good bytes")])

    def test_goodbye_closes(self):
        for login in (False, True):
            with server.client(login=login) as c:
                c.send(frame(w.GOODBYE, b"bye", request=0, flags=w.RESPONSE))
                self.assertIsNone(c.until_closed()[1].status)


class Opening(Case):
    """PROTOCOL 2.1, 2.2."""

    def hello_refused(self, meta, status):
        with server.wire() as raw:
            raw.send(frame(w.HELLO, meta))
            frames = self.refused(raw, status)
            self.assertEqual([f.status for f in frames], [E[status]])

    def test_every_field_of_hello_out_of_range(self):
        key = server.key
        self.hello_refused(w.hello_meta(key, low=2, high=9), "VERSION")
        self.hello_refused(w.hello_meta(key, low=0, high=0), "VERSION")
        self.hello_refused(w.hello_meta(key, low=3, high=1), "PROTO")
        self.hello_refused(w.hello_meta(key, cap=0), "PROTO")
        self.hello_refused(w.hello_meta(key, cap=MIB - 1), "PROTO")
        self.hello_refused(w.hello_meta(key, kind=1), "UNSUPPORTED")
        self.hello_refused(w.hello_meta(key, kind=255), "UNSUPPORTED")
        self.hello_refused(w.hello_meta(key, binding=b"x"), "PROTO")
        self.hello_refused(w.hello_meta("k" * 65), "PROTO")
        self.hello_refused(w.hello_meta(key, client=b"n" * 257), "PROTO")
        self.hello_refused(w.hello_meta(key, client=b"\xff"), "PROTO")
        self.hello_refused(w.hello_meta(key) + b"\0", "PROTO")
        whole = w.hello_meta(key)
        for cut in (0, 1, 8, 39, 40, 48, 50, len(whole) - 1):
            self.hello_refused(whole[:cut], "PROTO")

    def test_hello_with_a_wrong_checksum(self):
        with server.wire() as raw:
            raw.send(frame(w.HELLO, w.hello_meta(server.key), meta_crc=3))
            self.refused(raw, "PROTO")

    def test_a_wrong_secret_and_an_unknown_key_look_alike(self):
        texts = set()
        for key, secret in ((server.key, b"\1" * 32), ("nobody", server.secret), ("", server.secret)):
            with server.client(key=key, secret=secret, login=False) as c:
                c.hello()
                c.send(frame(w.AUTH, c.proof(), request=2))
                frames = self.refused(c, "AUTH")
                self.assertEqual([f.status for f in frames], [E["AUTH"]])
                texts.add((frames[0].meta, c.goodbye))
        self.assertEqual(len(texts), 1)

    def test_a_replayed_proof_is_worth_nothing(self):
        with server.client(login=False) as c:
            c.hello()
            old = c.proof()
        with server.client(login=False) as c:
            c.hello()
            c.send(frame(w.AUTH, old, request=2))
            self.refused(c, "AUTH")

    def test_a_proof_of_another_length(self):
        for n in (0, 31, 33, 4096):
            with server.client(login=False) as c:
                c.hello()
                c.send(frame(w.AUTH, bytes(n), request=2))
                self.refused(c, "PROTO")

    def test_nothing_is_answered_before_authentication(self):
        for op in set(w.OPS) - {w.HELLO, w.AUTH, w.GOODBYE} | {99}:
            with self.subTest(op), server.wire() as raw, server.client(login=False) as c:
                raw.send(frame(op, b"x"))
                self.refused(raw, "AUTH")
                c.hello()
                c.send(frame(op, b"x", request=3))
                self.refused(c, "AUTH")

    def test_the_opening_in_another_order(self):
        with server.wire() as raw:
            raw.send(frame(w.AUTH, bytes(32)))
            self.refused(raw, "PROTO")
        with server.client(login=False) as c:
            c.hello()
            c.send(frame(w.HELLO, w.hello_meta(server.key), request=4))
            self.refused(c, "PROTO")
        for op in (w.HELLO, w.AUTH):
            with server.client() as c:
                c.send(frame(op, w.hello_meta(server.key), request=4))
                self.refused(c, "PROTO")

    def test_unix_socket_and_requests_right_behind_the_proof(self):
        with server.client(address=server.unix) as c:
            self.assertEqual(c.read("bucket", ["good"]), [(0, b"good bytes")])
        with server.client(login=False) as c:
            c.hello()
            c.send(frame(w.AUTH, c.proof(), request=2) + b"".join(frame(w.PING, request=i) for i in range(3, 30)))
            self.assertEqual([c.next().request for _ in range(28)], list(range(2, 30)))

    def test_sessions_belong_to_one_key(self):
        with server.client() as c:
            key, secret = c.key_create([(31, "bucket", "")])
            with server.client(session=c.session) as again:
                self.assertEqual(again.session, c.session)
            with self.assertRaises(Failed) as e:
                server.client(key=key, secret=secret, session=c.session)
            self.assertEqual(e.exception.status, E["ACCESS"])

    def test_failed_log_ins_do_not_flood_the_log(self):
        before = len(server.log_text())
        for _ in range(100):
            with server.client(secret=b"\2" * 32, login=False) as c:
                c.hello()
                c.send(frame(w.AUTH, c.proof(), request=2))
                self.refused(c, "AUTH")
        self.assertLess(server.log_text()[before:].count("authentication failed"), 30)


class Fields(Case):
    """PROTOCOL 3-5: every field of every request cut, padded and out of range."""

    def samples(self, c):
        meta = c.mutation("bucket") + ref_key("parts") + struct.pack("<III", 0o644, 0, 0) + b16("")
        c.upload = struct.unpack("<Q", c.call(w.UPLOAD_CREATE, meta)[0].meta)[0]
        assert c.put("bucket", [((ref_name(c.upload, b"00001"),), b"part")])[0] == [0]
        assert c.put("bucket", [((ref_key("changed"),), b"12345")])[0] == [0]
        good, entry = ref_key("good"), w.put_entry(ref_key("fields"), b"data")
        m = lambda bucket="bucket": c.mutation(bucket)  # noqa: E731
        lock = struct.pack("<BBQQQI", 2, 1, 7, 0, 99, 1)
        return {
            w.READ: w.read_meta("bucket", [good, good]), w.STAT: w.stat_meta("bucket", [good]),
            w.LIST: w.list_meta("bucket", b"t", b"/"), w.BUCKET_LIST: b16("") + struct.pack("<I", 10),
            w.PUT: m() + struct.pack("<I", 1) + entry,
            w.EXTENT: b16("bucket") + good + struct.pack("<QQ", 1, 0) + w.block_crcs(b"data"),
            w.ABORT: b16("bucket") + struct.pack("<Q", 1),
            w.DELETE: m() + struct.pack("<I", 1) + ref_key("none") + struct.pack("<BQ", 0, 0),
            w.MKDIR: m() + ref_key("newdir") + struct.pack("<IB", 0o755, 1), w.RMDIR: m() + ref_key("nodir"),
            w.RENAME: m() + ref_key("nofrom") + ref_key("noto") + b"\0",
            w.BUCKET_CREATE: m("made-bucket"), w.BUCKET_REMOVE: m("no-such-bucket"),
            w.KEY_CREATE: m("") + struct.pack("<Q", 0) + b16("n") + struct.pack("<HB", 1, 1) + b16("bucket") + b16("p"),
            w.KEY_REMOVE: m("") + b16("nokey"), w.KEY_LIST: b16("") + struct.pack("<I", 10),
            w.TASK: b16("check-status") + b16(""),
            w.SNAPSHOT_LIST: b16("bucket") + b16("") + struct.pack("<I", 10),
            w.SNAPSHOT_TAGS: b16("bucket") + b16("") + struct.pack("<I", 10),
            w.SNAPSHOT_SHOW: b16("bucket") + b16("none") + struct.pack("<QI", 0, 100),
            w.SNAPSHOT_PAGE: b16("bucket") + b16("none") + bytes(16) + struct.pack("<QI", 0, 100),
            w.RANGE: b16("bucket") + b16("none") + bytes(16) + struct.pack("<BIQII", 0, 1, 7, 4096, 100),
            w.STREAM_REPORT: b16("bucket") + b16("none") + b16("job") + b16("host") +
            struct.pack("<IIIQQQQQQB", 0, 1, 1, 0, 0, 100, 0, 0, 0, 0),
            w.STREAM_LIST: b16("bucket"),
            w.SNAPSHOT_CREATE: b16("bucket") + b16("s1") + b16("nothing-here/") + b16("note=n"),
            w.SNAPSHOT_REMOVE: b16("bucket") + b16("none") + b"\0",
            w.SNAPSHOT_REPACK: b16("bucket") + b16("none") + b"\0",
            w.SNAPSHOT_NOTE: b16("bucket") + b16("none") + b16("note") + struct.pack("<Q", 0),
            w.RECIPE_LIST: b16("bucket") + b16("") + struct.pack("<I", 10),
            w.RECIPE_SHOW: b16("bucket") + b16("none"),
            w.PROVENANCE: b16("bucket") + b16("job") + b16("") + struct.pack("<I", 10),
            w.RECIPE_CREATE: b16("bucket") + b16("r1") + b16("note") + struct.pack("<I", 2) + b"{}",
            w.RECIPE_REMOVE: b16("bucket") + b16("none") + b"\0",
            w.RULES: b"\1\0" + b16("") + struct.pack("<I", 0),
            w.ATTR: b16("bucket") + good + b"\1" + b16(""),
            w.SETATTR: m() + good + struct.pack("<BIIIQQ", 1, 0o640, 0, 0, 0, 0),
            w.XATTR: m() + good + b"\0" + b16("user.a") + b16("value"), w.TAGS: m() + good + b16(b16("k") + b16("v")),
            w.MAKE: m() + ref_key("made-link") + struct.pack("<IIIQ", 0o120777, 0, 0, 0) + b16("target"),
            w.LINK: m() + ref_key("train/b") + ref_key("linked-b"),
            w.PART_LIST: b16("bucket") + struct.pack("<QII", c.upload, 0, 10),
            w.UPLOAD_LIST: b16("bucket") + b16("") + b16("") + struct.pack("<QI", 0, 10),
            w.COPY: m() + good + struct.pack("<Q", 0) + b16("other") + ref_key("copied") + struct.pack("<BQ", 0, 0),
            w.UPLOAD_CREATE: m() + ref_key("in-parts") + struct.pack("<III", 0o644, 0, 0) + b16(""),
            w.UPLOAD_COMPLETE: m() + ref_key("parts") + struct.pack("<QBQIIQ", c.upload, 0, 0, 1, 1, 0),
            w.UPLOAD_ABORT: m() + struct.pack("<Q", 12345),
            w.MAP: b16("bucket") + good + struct.pack("<QQI", 0, 0, 10),
            w.WRITE: m() + ref_key("changed") + struct.pack("<QQIBQQ", 0, 0, 2, 1, 0, 4) + w.block_crcs(b"data") +
            struct.pack("<BQQ", 4, 3, 0),
            w.COPY_RANGE: m() + good + struct.pack("<QQ", 0, 0) + b16("other") + ref_key("none") +
            struct.pack("<QQQ", 0, 1, 0),
            w.SYNC: b"\0",
            w.READDIR: b16("") + struct.pack("<Q", self.root(c)) + b16("") + struct.pack("<I", 10),
            w.IDS: struct.pack("<I", 8),
            w.OPEN: b16("bucket") + struct.pack("<QB", 1, 3) + good, w.CLOSE: struct.pack("<IQ", 1, 2),
            w.ANNOUNCE: struct.pack("<BIQB", 1, 1, 3, 1) + ref_id(7, 8, b"x") + struct.pack("<IQ", 1, 3) + lock,
            w.WATCH: b16("bucket") + struct.pack("<Q", 0),
            w.LOCK: struct.pack("<BQQ", 3, self.handle(c), 1) + lock,
        }

    def handle(self, c):
        assert c.status(w.OPEN, b16("bucket") + struct.pack("<QB", 77, 3) + ref_key("good")) == 0
        return 77

    def root(self, c):
        return c.stat("bucket", [ref_key("good")])[0][1][3]

    def data_of(self, op):
        return b"data" if op in (w.PUT, w.EXTENT, w.WRITE) else b""

    def test_every_request_cut_at_every_byte_and_padded(self):
        with server.client() as c:
            for op, meta in self.samples(c).items():
                for cut in range(len(meta)):
                    status = c.status(op, meta[:cut], self.data_of(op))
                    self.assertNotEqual(status, 0, (w.OPS[op], cut, len(meta)))
                self.assertEqual(c.status(op, meta + b"\0", self.data_of(op)), E["PROTO"], w.OPS[op])
            self.lives(c)

    def test_unknown_flag_bits_are_refused(self):
        good, entry = ref_key("good"), w.put_entry(ref_key("flags"), b"data")
        read, stat = w.read_meta("bucket", [good]), w.stat_meta("bucket", [good])
        at = 2 + len("bucket")  # the flags byte of READ and STAT
        with server.client() as c:
            for op, meta, where in ((w.READ, read, at), (w.READ, read, at + 5), (w.STAT, stat, at),
                                    (w.MKDIR, self.samples(c)[w.MKDIR], -1), (w.RENAME, self.samples(c)[w.RENAME], -1)):
                bad = bytearray(meta)
                bad[where] |= 0x80
                self.assertEqual(c.status(op, bytes(bad)), E["PROTO"], (w.OPS[op], where))
            put = bytearray(c.mutation("bucket") + struct.pack("<I", 1) + entry)
            put[len(put) - len(entry) + len(ref_key("flags")) + 9] |= 0x80
            self.assertEqual(c.status(w.PUT, bytes(put), b"data"), E["PROTO"], "PUT")
            self.lives(c)

    def test_every_byte_of_every_request_replaced(self):
        with server.client(timeout=60) as c:
            for op, meta in self.samples(c).items():
                for i in range(len(meta)):
                    for value in (0, 255, meta[i] ^ 1):
                        c.status(op, meta[:i] + bytes([value]) + meta[i + 1:], self.data_of(op))
            self.lives(c)

    def test_random_requests(self):
        rng = random.Random(20240607)
        with server.client(timeout=60) as c:
            samples = list(self.samples(c).items())
            for _ in range(3000):
                op, meta = rng.choice(samples)
                meta = bytearray(meta)
                for _ in range(rng.randrange(1, 6)):
                    i = rng.randrange(len(meta))
                    meta[i:i + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
                    meta = meta or bytearray(1)
                if op != w.TASK:
                    c.status(op, bytes(meta), self.data_of(op))
            self.lives(c)

    def test_counts_out_of_range(self):
        with server.client() as c:
            for n in (0, 4097, 2**31, 2**32 - 1):
                self.assertNotEqual(c.status(w.READ, b16("bucket") + struct.pack("<BI", 0, n)), 0, n)
                self.assertNotEqual(c.status(w.STAT, b16("bucket") + struct.pack("<BI", 0, n)), 0, n)
                self.assertNotEqual(c.status(w.PUT, c.mutation("bucket") + struct.pack("<I", n)), 0, n)
                self.assertNotEqual(c.status(w.DELETE, c.mutation("bucket") + struct.pack("<I", n)), 0, n)
            for n in (0, 1001, 2**32 - 1):
                self.assertNotEqual(c.status(w.LIST, w.list_meta("bucket", most=n)), 0, n)
            self.lives(c)

    def test_refs_of_unknown_kinds_and_other_things(self):
        with server.client() as c:
            for kind in (0, 4, 255):
                ref = bytes([kind]) + b16("good")
                self.assertEqual(c.status(w.READ, w.read_meta("bucket", [ref])), E["PROTO"])
                self.assertEqual(c.status(w.STAT, w.stat_meta("bucket", [ref])), E["PROTO"])
            statuses = [s for s, _ in c.stat("bucket", [ref_id(0), ref_id(2**64 - 1, 1, b"x"), ref_name(2**63, b"x"),
                                                         ref_name(0, b"good")])]
            self.assertNotIn(0, statuses)
            self.lives(c)

    def test_ranges_and_versions(self):
        with server.client() as c:
            (_, (oid, version, size, _)), = c.stat("bucket", [ref_key("good")])

            def read(flags, tail):
                meta = b16("bucket") + struct.pack("<BI", 0, 1) + bytes([flags]) + ref_key("good") + tail
                return c.read("bucket", ["good"], meta=meta)[0]

            self.assertEqual(read(1, struct.pack("<QQ", size, 10)), (0, b""))
            self.assertEqual(read(1, struct.pack("<QQ", 0, w.WHOLE)), (0, b"good bytes"))
            self.assertEqual(read(1, struct.pack("<QQ", size + 1, 1))[0], E["RANGE"])
            self.assertEqual(read(1, struct.pack("<QQ", w.WHOLE, w.WHOLE))[0], E["RANGE"])
            self.assertEqual(read(1, struct.pack("<QQ", 5, w.WHOLE - 3))[0], 0)
            self.assertEqual(read(2, struct.pack("<Q", version)), (0, b"good bytes"))
            self.assertEqual(read(2, struct.pack("<Q", version + 1))[0], E["CHANGED"])

    def test_a_put_whose_numbers_disagree(self):
        with server.client() as c:
            def put(data, **fields):
                meta = c.mutation("bucket") + struct.pack("<I", 1) + w.put_entry(ref_key("odd"), b"four", **fields)
                try:
                    return struct.unpack("<H", c.call(w.PUT, meta, data)[0].meta[4:6])[0]
                except Failed as e:
                    return e.status

            self.assertNotEqual(put(b"fou"), 0)
            self.assertNotEqual(put(b"fours"), 0)
            self.assertNotEqual(put(b""), 0)
            self.assertNotEqual(put(b"four", crcs=struct.pack("<I", 1)), 0)
            self.assertNotEqual(put(b"four", size=2**64 - 1), 0)
            self.assertNotEqual(put(b"four", size=4 * MIB + 1), 0)
            self.assertNotEqual(put(b"four", condition=9), 0)
            self.assertEqual(c.stat("bucket", [ref_key("odd")])[0][0], E["NOTFOUND"])
            self.assertEqual(put(b"four"), 0)

    def test_a_missing_entry_is_marked_and_the_rest_served(self):
        with server.client() as c:
            got = c.read("bucket", ["good", "missing", "train/a", "missing/too", "good"])
            self.assertEqual([s for s, _ in got], [0, E["NOTFOUND"], 0, E["NOTFOUND"], 0])
            self.assertEqual(got[2][1], b"a" * 5000)
            self.assertEqual(c.status(w.READ, w.read_meta("no-bucket", [ref_key("good")])), E["NOBUCKET"])

    def listed(self, c, directory, most):
        """All names of a directory, page by page, with their kinds and ids."""
        out, after, more = [], b"", 1
        while more:
            body = c.call(w.READDIR, b16("") + struct.pack("<Q", directory) + b16(after) + struct.pack("<I", most))[0].meta
            more, count = struct.unpack("<BI", body[:5])
            self.assertLessEqual(count, most)
            at = 5
            for _ in range(count):
                length = struct.unpack("<H", body[at:at + 2])[0]
                after = body[at + 2:at + 2 + length]
                kind, _, oid = struct.unpack("<BBQ", body[at + 2 + length:at + 12 + length])
                out.append((after, kind, oid))
                at += 2 + length + 2 + 5 * 8 + 12 + 16 + 28
            self.assertEqual(at, len(body))
        return out

    def test_a_directory_by_its_id_in_pages_of_any_size(self):
        names = [b"a", b"a-b", b"a.c", b"a/x", b"b", b"c/y", b"c0", "\u00fc".encode()]
        with server.client() as c:
            self.assertEqual(c.put("bucket", [(b"listed/" + n, n) for n in names])[0], [0] * len(names))
            directory = c.stat("bucket", [ref_key(b"listed/b")])[0][1][3]
            for most in (1, 2, 3, 1000):
                got = self.listed(c, directory, most)
                # `a` is hidden by `a/`; a directory's id opens it.
                self.assertEqual([n for n, _, _ in got], [b"a-b", b"a.c", b"a/", b"b", b"c/", b"c0", names[-1]], most)
                self.assertEqual([n for n, kind, _ in got if kind == 2], [b"a/", b"c/"])
            below = dict((n, oid) for n, _, oid in got)[b"c/"]
            self.assertEqual([n for n, _, _ in self.listed(c, below, 10)], [b"y"])
            none = b16("") + struct.pack("<Q", 12345) + b16("") + struct.pack("<I", 10)
            self.assertEqual(c.status(w.READDIR, none), E["STALE"])

    def test_a_put_under_an_id_that_was_given_out(self):
        with server.client() as c, server.client() as d:
            first = struct.unpack("<Q", c.call(w.IDS, struct.pack("<I", 16))[0].meta)[0]
            self.assertNotEqual(first, struct.unpack("<Q", c.call(w.IDS, struct.pack("<I", 16))[0].meta)[0])

            def put(wire, key, oid):
                entry = w.put_entry(ref_key(key), b"four")
                at = len(ref_key(key)) + 9
                entry = entry[:at] + b"\x08" + entry[at + 1:-4] + struct.pack("<Q", oid) + entry[-4:]
                meta = wire.mutation("bucket") + struct.pack("<I", 1) + entry
                return struct.unpack("<HQ", wire.call(w.PUT, meta, b"four")[0].meta[4:14])

            self.assertEqual(put(c, "with-id", first + 3), (0, first + 3))
            self.assertEqual(c.stat("bucket", [ref_key("with-id")])[0][1][0], first + 3)
            self.assertEqual(put(d, "others", first + 4)[0], E["STALE"], "an id of another session")
            self.assertEqual(put(c, "never", 1)[0], E["STALE"])
            self.assertEqual(c.status(w.IDS, struct.pack("<I", 4097)), E["PROTO"])

    def test_a_resent_mutation_is_done_once(self):
        with server.client() as c:
            meta = c.mutation("bucket") + struct.pack("<I", 1) + w.put_entry(ref_key("once"), b"1")
            first = c.call(w.PUT, meta, b"1")[0].meta
            self.assertEqual(c.call(w.PUT, meta, b"1", flags=w.RESENT)[0].meta, first)
            self.assertEqual(c.put("bucket", [("twice", b"2")])[0], [0])
            old = b16("bucket") + struct.pack("<QQQ", 0, 0, 0) + struct.pack("<I", 1) + w.put_entry(ref_key("z"), b"1")
            self.assertEqual(c.status(w.PUT, old, b"1"), E["PROTO"])


class Keys(Case):
    bad = {"empty": b"", "1,025 bytes": b"k" * 1025, "65,535 bytes": b"k" * 65535, "NUL": b"a\0b", "NUL at the end": b"a\0",
           "invalid UTF-8": b"\xff", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80", "cut": b"abc\xe2\x82",
           "above U+10FFFF": b"\xf4\x90\x80\x80"}
    odd = [b".", b"..", b"/", b"//", b"a//b", b"odd", b"odd/", b"odd/.", b"odd/..", b"odd/../x", b"/lead", b"k" * 1024,
           "\u00e9\u4e16\U0001f980".encode(), b" ", b"\n", b"%2e%2e", b"\x7f", b"a\\b"]

    def test_keys_that_are_none(self):
        with server.client() as c:
            for name, key in self.bad.items():
                with self.subTest(name):
                    self.assertEqual(self.put_status(c, key), E["NAME"])
                    self.assertEqual(self.entry_status(c, key), E["NAME"])
            statuses, _ = c.put("bucket", [("fine", b"1"), (b"a\0b", b"2"), ("fine2", b"3")])
            self.assertEqual(statuses, [0, E["NAME"], 0])

    def put_status(self, c, key):
        try:
            return c.put("bucket", [((ref_key(key),), b"x")])[0][0]
        except Failed as e:
            return e.status

    def entry_status(self, c, key):
        try:
            return c.stat("bucket", [ref_key(key)])[0][0]
        except Failed as e:
            return e.status

    def test_odd_keys_are_stored_listed_and_deleted_like_any_other(self):
        with server.client() as c:
            self.assertEqual(c.bucket_create("odd-keys"), 0)
            statuses, _ = c.put("odd-keys", [((ref_key(k),), b"<" + k + b">") for k in self.odd])
            self.assertEqual(statuses, [0] * len(self.odd))
            got = c.read("odd-keys", [ref_key(k) for k in self.odd])
            self.assertEqual(got, [(0, b"<" + k + b">") for k in self.odd])
            self.assertEqual([k for _, k in c.list("odd-keys")], sorted(self.odd))
            self.assertEqual([k for _, k in c.list("odd-keys", prefix=b"odd")], sorted(k for k in self.odd if k[:3] == b"odd"))
            meta = c.mutation("odd-keys") + struct.pack("<I", len(self.odd))
            meta += b"".join(ref_key(k) + struct.pack("<BQ", 0, 0) for k in self.odd)
            body = c.call(w.DELETE, meta)[0].meta
            self.assertEqual([struct.unpack("<H", body[4 + 18 * i:6 + 18 * i])[0] for i in range(len(self.odd))],
                             [0] * len(self.odd))
            self.assertEqual(c.list("odd-keys"), [])

    def test_components_with_a_slash_or_nul_are_refused(self):
        with server.client() as c:
            directory = c.stat("bucket", [ref_key("train/a")])[0][1][3]
            for name in (b"a/b", b"/", b"\0", b"\xff", b"n" * 1025):
                with self.subTest(name):
                    try:
                        status = c.stat("bucket", [ref_name(directory, name)])[0][0]
                    except Failed as e:
                        status = e.status
                    self.assertEqual(status, E["NAME"])
            self.assertEqual(c.read("", [ref_name(directory, b"a")])[0][0], 0)

    def test_bucket_names(self):
        with server.client() as c:
            for name in ("", "ab", "A-bucket", "under_score", "a..b", "-ab", "ab-", "192.168.0.1", ".system", "x" * 64, "b\0c"):
                self.assertNotEqual(c.bucket_create(name), 0, name)
            self.assertEqual(c.bucket_create("bucket"), E["EXIST"])


class Grants(Case):
    """A key opens what it was given, whichever way a thing is named."""

    def setUp(self):
        with server.client() as c:
            self.key, self.secret = c.key_create([(1 | 2, "bucket", "train/")])
            stats = c.stat("bucket", [ref_key("train/a"), ref_key("secret/x"), ref_key("good")])
        (_, (self.a_id, _, _, self.train)), (_, (self.x_id, _, _, self.secret_dir)), (_, (self.good_id, _, _, self.root)) = stats
        self.c = server.client(key=self.key, secret=self.secret)

    def tearDown(self):
        self.c.close()
        with server.client() as c:
            c.key_remove(self.key)
        super().tearDown()

    def read_status(self, ref):
        try:
            return self.c.read("bucket", [ref])[0][0]
        except Failed as e:
            return e.status

    def stat_status(self, ref):
        try:
            return self.c.stat("bucket", [ref])[0][0]
        except Failed as e:
            return e.status

    def test_what_was_granted(self):
        for ref in (ref_key("train/a"), ref_name(self.train, b"a"), ref_id(self.a_id, self.train, b"a")):
            self.assertEqual(self.c.read("bucket", [ref]), [(0, b"a" * 5000)])
        self.assertEqual(self.c.list("bucket", prefix=b"train/"), [(1, b"train/a"), (1, b"train/b")])

    def test_by_key(self):
        for key in (b"secret/x", b"good", b"train", b"trainx", b"secret/missing", b"train/../secret/x"):
            want = (E["ACCESS"], E["NOTFOUND"]) if key.startswith(b"train/") else (E["ACCESS"],)
            self.assertIn(self.read_status(ref_key(key)), want, key)
            self.assertIn(self.stat_status(ref_key(key)), want, key)

    def test_by_directory_id_and_name(self):
        for ref in (ref_name(self.secret_dir, b"x"), ref_name(self.root, b"good"), ref_name(self.secret_dir, b"missing")):
            self.assertEqual(self.read_status(ref), E["ACCESS"])
            self.assertEqual(self.stat_status(ref), E["ACCESS"])

    def test_by_object_id(self):
        for ref in (ref_id(self.x_id), ref_id(self.x_id, self.secret_dir, b"x"), ref_id(self.x_id, self.train, b"a"),
                    ref_id(self.x_id, self.train, b"x"), ref_id(self.good_id, self.root, b"good"),
                    ref_id(self.secret_dir), ref_id(self.x_id, 0, b"a")):
            self.assertIn(self.read_status(ref), (E["ACCESS"], E["STALE"]), ref)
            self.assertIn(self.stat_status(ref), (E["ACCESS"], E["STALE"]), ref)

    def test_attributes_are_read_where_reading_is_granted(self):
        for ref in (ref_key("secret/x"), ref_name(self.secret_dir, b"x"), ref_id(self.x_id, self.secret_dir, b"x"),
                    ref_id(self.x_id, self.train, b"a"), ref_id(self.secret_dir), ref_id(self.root)):
            for what in (1, 2, 3, 4):
                status = self.c.status(w.ATTR, b16("bucket") + ref + bytes([what]) + b16(""))
                self.assertIn(status, (E["ACCESS"], E["STALE"]), (ref, what))
            status = self.c.status(w.MAP, b16("bucket") + ref + struct.pack("<QQI", 0, 0, 10))
            self.assertIn(status, (E["ACCESS"], E["STALE"]), ref)
        self.assertEqual(self.c.status(w.ATTR, b16("bucket") + ref_id(self.a_id, self.train, b"a") + b"\1" + b16("")), 0)

    def test_uploads_and_copies_are_judged_by_their_keys(self):
        with server.client() as root:
            key, secret = root.key_create([(1 | 2 | 4, "bucket", "train/")])
            create = lambda c, k: c.call(w.UPLOAD_CREATE, c.mutation("bucket") + ref_key(k) +  # noqa: E731
                                         struct.pack("<III", 0o644, 0, 0) + b16(""))[0].meta
            (theirs,) = struct.unpack("<Q", create(root, "secret/big"))
            finish = struct.pack("<BQIIQ", 0, 0, 1, 1, 0)
            with server.client(key=key, secret=secret) as c:
                self.assertEqual(c.put("bucket", [((ref_name(theirs, b"00001"),), b"x")])[0], [E["ACCESS"]])
                self.assertEqual(c.read("bucket", [ref_name(theirs, b"00001")])[0][0], E["ACCESS"])
                for op, meta in ((w.UPLOAD_COMPLETE, ref_key("train/x") + struct.pack("<Q", theirs) + finish),
                                 (w.UPLOAD_ABORT, struct.pack("<Q", theirs)),
                                 (w.COPY, ref_key("secret/x") + bytes(8) + b16("") + ref_key("train/x") + bytes(9)),
                                 (w.COPY, ref_key("train/a") + bytes(8) + b16("") + ref_key("secret/y") + bytes(9)),
                                 (w.COPY, ref_key("train/a") + bytes(8) + b16("other") + ref_key("train/y") + bytes(9))):
                    self.assertEqual(c.status(op, c.mutation("bucket") + meta), E["ACCESS"], w.OPS[op])
                self.assertEqual(c.status(w.PART_LIST, b16("bucket") + struct.pack("<QII", theirs, 0, 9)), E["ACCESS"])
                page = c.call(w.UPLOAD_LIST, b16("bucket") + b16("") + b16("") + struct.pack("<QI", 0, 1000))[0].meta
                self.assertNotIn(b"secret/", page)
                (mine,) = struct.unpack("<Q", create(c, "train/big"))
                self.assertEqual(c.put("bucket", [((ref_name(mine, b"00001"),), b"abc")])[0], [0])
                self.assertEqual(c.list("bucket", prefix=b"train/big"), [])
                meta = c.mutation("bucket") + ref_key("train/big") + struct.pack("<Q", mine) + finish
                self.assertEqual(c.status(w.UPLOAD_COMPLETE, meta), 0)
                self.assertEqual(c.status(w.UPLOAD_COMPLETE, c.mutation("bucket") + meta[len(c.mutation("bucket")):]),
                                 E["STALE"])
                self.assertEqual(c.put("bucket", [((ref_name(mine, b"00002"),), b"x")])[0], [E["STALE"]])
                self.assertEqual(c.read("bucket", ["train/big"]), [(0, b"abc")])
            self.assertEqual(root.status(w.UPLOAD_ABORT, root.mutation("bucket") + struct.pack("<Q", theirs)), 0)
            gone = root.mutation("bucket") + struct.pack("<I", 1) + ref_key("train/big") + struct.pack("<BQ", 0, 0)
            self.assertEqual(root.status(w.DELETE, gone), 0)
            root.key_remove(key)

    def test_a_link_needs_reading_and_writing_where_the_file_is(self):
        with server.client() as root:
            key, secret = root.key_create([(1 | 2 | 4, "bucket", "train/"), (1, "bucket", "secret/")])
            with server.client(key=key, secret=secret) as c:
                for ref in (ref_key("secret/x"), ref_name(self.secret_dir, b"x"), ref_id(self.x_id, self.secret_dir, b"x")):
                    meta = c.mutation("bucket") + ref + ref_key("train/x")
                    self.assertEqual(c.status(w.LINK, meta), E["ACCESS"], ref)
                self.assertEqual(c.status(w.LINK, c.mutation("bucket") + ref_key("train/a") + ref_key("good2")), E["ACCESS"])
                self.assertEqual(c.status(w.LINK, c.mutation("bucket") + ref_key("train/a") + ref_key("train/a2")), 0)
            gone = root.mutation("bucket") + struct.pack("<I", 1) + ref_key("train/a2") + struct.pack("<BQ", 0, 0)
            self.assertEqual(root.status(w.DELETE, gone), 0)
            root.key_remove(key)

    def test_one_forbidden_entry_does_not_open_for_others_nor_close_for_them(self):
        try:
            got = self.c.read("bucket", ["train/a", "secret/x", "train/b"])
            self.assertEqual([s for s, _ in got], [0, E["ACCESS"], 0])
            self.assertEqual(got[1][1], b"")
        except Failed as e:
            self.assertEqual(e.status, E["ACCESS"])

    def test_changes(self):
        c = self.c
        ops = {
            w.PUT: (struct.pack("<I", 1) + w.put_entry(ref_key("train/new"), b"x"), b"x"),
            w.DELETE: (struct.pack("<I", 1) + ref_key("train/a") + struct.pack("<BQ", 0, 0), b""),
            w.MKDIR: (ref_key("train/dir") + struct.pack("<IB", 0o755, 1), b""),
            w.RMDIR: (ref_key("train/dir"), b""),
            w.RENAME: (ref_key("train/a") + ref_key("train/c") + b"\0", b""),
            w.SETATTR: (ref_key("train/a") + struct.pack("<BIIIQQ", 1, 0, 0, 0, 0, 0), b""),
            w.XATTR: (ref_key("train/a") + b"\0" + b16("user.a") + b16("v"), b""),
            w.TAGS: (ref_key("train/a") + b16(b""), b""),
            w.MAKE: (ref_key("train/pipe") + struct.pack("<IIIQ", 0o010644, 0, 0, 0) + b16(""), b""),
            w.LINK: (ref_key("train/a") + ref_key("train/d"), b""),
            w.COPY: (ref_key("train/a") + struct.pack("<Q", 0) + b16("") + ref_key("train/d") + struct.pack("<BQ", 0, 0), b""),
            w.UPLOAD_CREATE: (ref_key("train/a") + struct.pack("<III", 0, 0, 0) + b16(""), b""),
            w.WRITE: (ref_key("train/a") + struct.pack("<QQIBQQ", 0, 0, 1, 4, 0, 0), b""),
            w.COPY_RANGE: (ref_key("train/a") + bytes(16) + b16("") + ref_key("train/b") + struct.pack("<QQQ", 0, 1, 0), b""),
        }
        for op, (meta, data) in ops.items():
            try:
                body = c.call(op, c.mutation("bucket") + meta, data)[0].meta
                self.assertEqual(struct.unpack("<H", body[4:6])[0], E["ACCESS"], w.OPS[op])
            except Failed as e:
                self.assertEqual(e.status, E["ACCESS"], w.OPS[op])
        self.assertEqual(self.stat_status(ref_key("train/a")), 0)

    def test_administration(self):
        c = self.c
        for op, meta in ((w.BUCKET_CREATE, c.mutation("mine-now")), (w.BUCKET_REMOVE, c.mutation("bucket")),
                         (w.KEY_CREATE, c.mutation("") + struct.pack("<Q", 0) + b16("") + struct.pack("<HB", 1, 31) + b16("") +
                          b16("")), (w.KEY_REMOVE, c.mutation("") + b16(server.key)),
                         (w.KEY_LIST, b16("") + struct.pack("<I", 10)), (w.TASK, b16("rotate") + b16(""))):
            self.assertEqual(c.status(op, meta), E["ACCESS"], w.OPS[op])

    def test_lists_show_what_lies_under_the_grants(self):
        for prefix in (b"", b"t", b"train"):
            try:
                keys = [k for _, k in self.c.list("bucket", prefix=prefix)]
                self.assertTrue(all(k.startswith(b"train/") for k in keys), keys)
            except Failed as e:
                self.assertEqual(e.status, E["ACCESS"])
        for prefix in (b"secret/", b"good"):
            try:
                self.assertEqual(self.c.list("bucket", prefix=prefix), [])
            except Failed as e:
                self.assertEqual(e.status, E["ACCESS"])
        with self.assertRaises(Failed) as e:
            self.c.list("other")
        self.assertEqual(e.exception.status, E["ACCESS"])

    def test_a_key_cannot_grant_what_it_does_not_have(self):
        with server.client() as root:
            key, secret = root.key_create([(16 | 1, "", "")])
            with server.client(key=key, secret=secret) as c:
                with self.assertRaises(Failed) as e:
                    c.key_create([(4, "bucket", "")])
                self.assertEqual(e.exception.status, E["ACCESS"])
            root.key_remove(key)

    def test_a_removed_key_stops_within_a_second(self):
        with server.client() as root:
            key, secret = root.key_create([(1, "bucket", "")])
            with server.client(key=key, secret=secret) as c:
                self.assertEqual(c.read("bucket", ["good"])[0][0], 0)
                root.key_remove(key)
                time.sleep(1)
                with self.assertRaises((Failed, Closed)) as e:
                    c.read("bucket", ["good"])
                self.assertEqual(e.exception.status, E["AUTH"])
            with self.assertRaises(Failed) as e:
                server.client(key=key, secret=secret)
            self.assertEqual(e.exception.status, E["AUTH"])

    def test_an_expired_key_stops(self):
        with server.client() as root:
            key, secret = root.key_create([(1, "bucket", "")], expires=1)
            with server.client(key=key, secret=secret) as c:
                time.sleep(2.2)
                with self.assertRaises((Failed, Closed)) as e:
                    c.read("bucket", ["good"])
                self.assertEqual(e.exception.status, E["AUTH"])


class Load(Case):
    """Back-pressure instead of memory."""

    def test_more_requests_than_may_be_open_are_all_answered(self):
        with server.client() as c:
            meta = w.read_meta("bucket", [ref_key("good"), ref_key("train/a")])
            n = c.inflight * 20
            sender = threading.Thread(target=lambda: c.send(
                b"".join(frame(w.READ if i % 2 else w.PING, meta if i % 2 else b"", request=100 + i) for i in range(n))))
            sender.start()
            seen = set()
            while len(seen) < n:
                f = c.next()
                self.assertEqual(f.status, 0)
                if f.flags & w.LAST:
                    self.assertNotIn(f.request, seen)
                    seen.add(f.request)
            sender.join()

    def big_batch(self, c):
        keys = [f"big/{i:03}" for i in range(64)]
        if c.stat("bucket", [ref_key(keys[-1])])[0][0] != 0:
            for at in range(0, 64, 16):
                self.assertEqual(c.put("bucket", [(k, bytes([at]) * 100_000) for k in keys[at:at + 16]])[0], [0] * 16)
        return w.read_meta("bucket", [ref_key(k) for k in keys * 8])

    def test_a_client_that_takes_no_answers_costs_no_more_than_its_queue(self):
        with server.client(timeout=60) as c:
            meta = self.big_batch(c)
        lazy = []
        for _ in range(20):
            c = server.client(timeout=60)
            c.sock.setblocking(False)
            for i in range(100):
                try:
                    c.sock.send(frame(w.READ, meta, request=100 + i))
                except BlockingIOError:
                    break
            lazy.append(c)
        time.sleep(1)
        if not w.SANITIZED:
            self.assertLess(server.rss(), RSS_MAX)
        with server.client() as other:  # who takes nothing does not keep others waiting for good
            began = time.monotonic()
            self.assertEqual(other.read("bucket", ["good"]), [(0, b"good bytes")])
            self.assertLess(time.monotonic() - began, 12)
        for c in lazy:
            c.close()

    def test_a_client_that_pauses_gets_all_of_its_answers(self):
        with server.client(timeout=60) as c:
            request = c.start(w.READ, self.big_batch(c))
            time.sleep(7)
            self.assertEqual(sum(len(f.data) for f in c.finish(request)), 64 * 8 * 100_000)

    def test_clients_gone_in_mid_batch(self):
        with server.client(timeout=60) as c:
            meta = self.big_batch(c)
        rng = random.Random(7)
        for i in range(60):
            c = server.client()
            for r in range(8):
                c.send(frame(w.READ, meta, request=100 + r))
            if i % 3 == 0:
                c.sock.recv(rng.randrange(1, 300_000))
            if i % 2 == 0:
                body = os.urandom(2000)
                put = frame(w.PUT, c.mutation("bucket") + struct.pack("<I", 1) + w.put_entry(ref_key("gone"), body), body,
                            request=200)
                c.send(put[:rng.randrange(len(put))])
            c.close()
        deadline = time.monotonic() + 20
        with server.client() as c:
            while True:
                open_now = int(c.counters().get("connections", "1"))
                if open_now <= 1 or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            self.assertLessEqual(open_now, 1, "connections of clients that left")

    def test_many_large_puts_at_once_wait_for_memory(self):
        """More bytes on their way in than the budget of requests holds."""
        data = bytes(4 * MIB)
        crcs = struct.pack("<I", w.crc32c(data[:65536])) * 64

        def one(i):
            with server.client(timeout=120) as c:
                meta = c.mutation("bucket") + struct.pack("<I", 4)
                meta += b"".join(w.put_entry(ref_key(f"large/{i}/{n}"), data, crcs=crcs) for n in range(4))
                body = c.call(w.PUT, meta, data * 4)[0].meta
                return [struct.unpack("<H", body[4 + 34 * n:6 + 34 * n])[0] for n in range(4)]

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            for statuses in pool.map(one, range(12)):
                self.assertEqual(statuses, [0] * 4)

    def test_ten_thousand_idle_connections(self):
        hard = w.files_limit_raise()
        want = min(10_000, hard - 500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
        if w.SANITIZED:
            want = min(want, 2000)
        if want < 10_000:
            print(f"idle connections: {want} instead of 10,000: limit of open files {hard}, "
                  f"sanitizers {'on' if w.SANITIZED else 'off'}")
        first = server.client()
        before, began = server.rss(), time.monotonic()
        idle = [server.client(session=first.session, timeout=60) for _ in range(want)]
        made = time.monotonic() - began
        time.sleep(1.2)
        grown = server.rss() - before
        print(f"{want} idle connections: made in {made:.1f} s, {grown / want:.0f} bytes of server memory each")
        with server.client() as c:
            began = time.monotonic()
            for _ in range(50):
                self.assertEqual(c.read("bucket", ["good"]), [(0, b"good bytes")])
            self.assertLess(time.monotonic() - began, 5)
        for c in idle[::500]:
            self.lives(c)
        if not w.SANITIZED:
            self.assertLess(grown / want, 2048)
        for c in idle:
            c.close()
        first.close()


class Slow(Case):
    """PROTOCOL 2.2 and the pace of a frame: 10 s to open, then 1 KiB/s over 30 s in mid-frame; idle is free."""

    def test_slow_senders_are_cut_off_and_idle_ones_are_not(self):
        jobs = [self.silent, self.silent_after_hello, self.drip_hello, self.stuck_in_header, self.stuck_in_body,
                self.stuck_in_large_body, self.drip_large_body, self.steady_large_body, self.drip_body, self.steady, self.idle]
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            for job in [pool.submit(j) for j in jobs]:
                job.result()

    def cut_off(self, wire, low, high, began):
        frames, closed = wire.until_closed()
        took = time.monotonic() - began
        self.assertEqual(closed.status, E["TIMEDOUT"], closed)
        self.assertTrue(low <= took <= high, f"after {took:.1f} s")

    def silent(self):
        with server.wire(timeout=60) as raw:
            self.cut_off(raw, 9, 14, time.monotonic())

    def silent_after_hello(self):
        with server.client(login=False, timeout=60) as c:
            began = time.monotonic()
            c.hello()
            self.cut_off(c, 8, 14, began)

    def drip_hello(self):
        with server.wire(timeout=60) as raw:
            began = time.monotonic()
            for b in frame(w.HELLO, w.hello_meta(server.key))[:22]:
                raw.send(bytes([b]))
                time.sleep(0.5)
            self.cut_off(raw, 9, 14, began)

    def put_frame(self, c, size):
        body = bytes(size)
        meta = c.mutation("bucket") + struct.pack("<I", 1) + w.put_entry(ref_key("slow"), body)
        return frame(w.PUT, meta, body, request=500)

    def stuck_in_header(self):
        with server.client(timeout=90) as c:
            c.send(frame(w.PING)[:20])
            self.cut_off(c, 28, 36, time.monotonic())

    def stuck_in_body(self):
        with server.client(timeout=90) as c:
            c.send(self.put_frame(c, 10_000)[:5000])
            self.cut_off(c, 28, 36, time.monotonic())

    def stuck_in_large_body(self):
        """Stops after the server began to receive in place."""
        with server.client(timeout=200) as c:
            c.send(self.put_frame(c, 4 * MIB)[:300_000])
            self.cut_off(c, 28, 36, time.monotonic())

    def drip_large_body(self):
        with server.client(timeout=200) as c:
            whole, began = self.put_frame(c, 4 * MIB), time.monotonic()
            for at in range(0, 34 * 8, 8):
                try:
                    c.send(whole[at:at + 8] if at else whole[:2000])
                except OSError:
                    break
                time.sleep(1)
            self.cut_off(c, 28, 66, began)

    def steady_large_body(self):
        """3 KiB/s: judged in the middle of a piece of 128 KiB, and allowed."""
        with server.client(timeout=200) as c:
            whole = self.put_frame(c, 160_000)
            for at in range(0, len(whole), 1536 * 2):
                c.send(whole[at:at + 1536 * 2])
                time.sleep(1)
            self.assertEqual(c.next().status, 0)

    def drip_body(self):
        with server.client(timeout=90) as c:
            whole, began = self.put_frame(c, 10_000), time.monotonic()
            for at in range(0, 30 * 8, 8):
                c.send(whole[at:at + 8])
                time.sleep(1)
            self.cut_off(c, 28, 36, began)

    def steady(self):
        """3 KiB/s is slow and allowed."""
        with server.client(timeout=90) as c:
            whole = self.put_frame(c, 100_000)
            for at in range(0, len(whole), 1536):
                c.send(whole[at:at + 1536])
                time.sleep(0.5)
            self.assertEqual(c.next().status, 0)

    def idle(self):
        with server.client(timeout=90) as c:
            time.sleep(36)
            self.lives(c)


if __name__ == "__main__":
    unittest.main(verbosity=2)
