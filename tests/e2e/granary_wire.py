# SPDX-License-Identifier: Apache-2.0
"""granary_wire.py -- a second client of docs/PROTOCOL.md, written from the text alone, in Python's standard library: for
tests that must be able to say anything on the wire, also what no proper client would. And a granaryd to say it to."""
import hashlib
import hmac
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

HELLO, AUTH, PING, GOODBYE = 1, 2, 3, 4
READ, STAT, LIST, BUCKET_LIST, STATUS = 16, 17, 18, 19, 20
SNAPSHOT_LIST, SNAPSHOT_SHOW, SNAPSHOT_PAGE, RANGE, STREAM_REPORT, STREAM_LIST = 21, 22, 23, 24, 25, 26
SNAPSHOT_TAGS = 31
RECIPE_LIST, RECIPE_SHOW, PROVENANCE, RECIPE_CREATE, RECIPE_REMOVE = 27, 28, 29, 58, 59
RULES = 60
PUT, EXTENT, ABORT, DELETE, MKDIR, RMDIR, RENAME = 32, 33, 34, 35, 36, 37, 38
BUCKET_CREATE, BUCKET_REMOVE, KEY_CREATE, KEY_REMOVE, KEY_LIST, TASK = 48, 49, 50, 51, 52, 53
SNAPSHOT_CREATE, SNAPSHOT_REMOVE, SNAPSHOT_NOTE, SNAPSHOT_REPACK = 54, 55, 56, 57
ATTR = 40
SETATTR, XATTR, TAGS, MAKE, LINK = 64, 65, 66, 67, 68
PART_LIST, UPLOAD_LIST, COPY, UPLOAD_CREATE, UPLOAD_COMPLETE, UPLOAD_ABORT = 41, 42, 69, 70, 71, 72
MAP, WRITE, COPY_RANGE, SYNC = 43, 73, 74, 80
READDIR, IDS = 30, 75
OPEN, CLOSE, ANNOUNCE, LOCK, WATCH = 81, 82, 83, 84, 85
LOCATE, DESCRIPTORS = 44, 45
OPS = {v: k for k, v in list(globals().items()) if k.isupper() and isinstance(v, int)}
RESPONSE, LAST, RESENT = 1, 2, 4
WHOLE = 2**64 - 1

ROOT = pathlib.Path(os.environ.get("GRANARY_SRC", pathlib.Path(__file__).resolve().parent.parent.parent))
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", ROOT / "build" / "dev"))
SANITIZED = bool(os.environ.get("GRANARY_SANITIZE"))


def errors():
    """Numbers by name, from the one table."""
    text = (ROOT / "include/granary/error.h").read_text()
    return {name: int(number) for number, name in re.findall(r"X\((\d+), (\w+),", text)}


E = errors()
NAMES = {v: k for k, v in E.items()} | {0: "OK"}


def _crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


_TABLE = _crc_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    table = _TABLE
    for b in data:
        crc = table[(crc ^ b) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def b16(b):
    if isinstance(b, str):
        b = b.encode()
    return struct.pack("<H", len(b)) + b


def frame(op, meta=b"", data=b"", request=1, flags=0, status=0, magic=b"GN", version=1, meta_len=None, data_len=None,
          meta_crc=None, head_crc=None):
    head = struct.pack("<2sBBHHIIQI", magic, version, op, flags, status, len(meta) if meta_len is None else meta_len,
                       len(data) if data_len is None else data_len, request,
                       (crc32c(meta) if meta else 0) if meta_crc is None else meta_crc)
    return head + struct.pack("<I", crc32c(head) if head_crc is None else head_crc) + meta + data


def hello_meta(key_id, low=1, high=1, cap=16 << 20, nonce=None, session=0, kind=0, binding=b"", client=b"test"):
    return (struct.pack("<HHI", low, high, cap) + (nonce or os.urandom(32)) + struct.pack("<QB", session, kind) +
            b16(binding) + b16(key_id) + b16(client))


def ref_key(key):
    return b"\1" + b16(key)


def ref_name(directory, name):
    return b"\2" + struct.pack("<Q", directory) + b16(name)


def ref_id(object_id, directory=0, name=b""):
    return b"\3" + struct.pack("<QQ", object_id, directory) + b16(name)


def block_crcs(data):
    return b"".join(struct.pack("<I", crc32c(data[i:i + 65536])) for i in range(0, len(data), 65536))


def put_entry(ref, data, condition=0, version=0, size=None, crcs=None):
    return (ref + struct.pack("<BQBQQQIII", condition, version, 0, 0, len(data) if size is None else size, 0, 0, 0, 0) +
            b16(b"") + (block_crcs(data) if crcs is None else crcs))


def read_meta(bucket, refs, flags=0):
    return b16(bucket) + struct.pack("<BI", flags, len(refs)) + b"".join(b"\0" + r for r in refs)


def stat_meta(bucket, refs):
    return b16(bucket) + struct.pack("<BI", 0, len(refs)) + b"".join(refs)


def list_meta(bucket, prefix=b"", delimiter=b"", after=b"", most=1000):
    return b16(bucket) + b16(prefix) + b16(delimiter) + b16(after) + struct.pack("<I", most)


def text_of(meta):
    """The text of an error (PROTOCOL 1.4); may be empty."""
    if not meta:
        return ""
    n, = struct.unpack("<H", meta[:2])
    assert len(meta) == 2 + n, meta
    return meta[2:].decode()


class Closed(Exception):
    """The server closed the connection; status and text of its GOODBYE, if it said one."""

    def __init__(self, status=None, text=""):
        super().__init__(f"closed: {NAMES.get(status, status)} {text}")
        self.status, self.text = status, text


class Failed(Exception):
    def __init__(self, status, text):
        super().__init__(f"{NAMES.get(status, status)}: {text}")
        self.status, self.text = status, text


class Frame:
    def __init__(self, head, meta, data):
        (self.magic, self.version, self.op, self.flags, self.status, _, _, self.request,
         self.meta_crc) = struct.unpack("<2sBBHHIIQI", head[:28])
        self.meta, self.data = meta, data


class Wire:
    """A raw connection: sends bytes, reads frames."""

    def __init__(self, address, timeout=20):
        kind, rest = address.split(":", 1)
        if kind == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(rest)
        else:
            host, port = rest.rsplit(":", 1)
            self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = bytearray()
        self.request = 0
        self.goodbye = None

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, b):
        try:
            self.sock.sendall(b)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the server said before is still to be read

    def _take(self, n):
        while len(self.buf) < n:
            try:
                got = self.sock.recv(1 << 18)
            except ConnectionResetError:
                got = b""
            if not got:
                raise Closed(*(self.goodbye or (None, "")))
            self.buf += got
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def next(self):
        """The next frame; Closed at the end, with what GOODBYE said."""
        while True:
            head = self._take(32)
            assert head[:3] == b"GN\x01", head
            assert struct.unpack("<I", head[28:])[0] == crc32c(head[:28]), "checksum of a header"
            meta_len, data_len = struct.unpack("<II", head[8:16])
            f = Frame(head, self._take(meta_len), self._take(data_len))
            assert f.meta_crc == (crc32c(f.meta) if f.meta else 0), "checksum of a meta"
            assert f.flags & RESPONSE, f.flags
            if f.op != GOODBYE:
                return f
            self.goodbye = (f.status, text_of(f.meta))

    def until_closed(self):
        """Reads to the end; returns the frames before it and the Closed."""
        frames = []
        try:
            while True:
                frames.append(self.next())
        except Closed as c:
            return frames, c


class Client(Wire):
    """A proper client, of which any part can be told to misbehave."""

    def __init__(self, address, key=None, secret=None, session=0, timeout=20, login=True):
        super().__init__(address, timeout)
        self.key, self.secret, self.session_wanted = key, secret, session
        self.session = self.sequence = 0
        if login:
            self.login()

    def hello(self, **fields):
        meta = hello_meta(self.key, session=self.session_wanted, **fields)
        self.send(frame(HELLO, meta))
        f = self.next()
        if f.status:
            raise Failed(f.status, text_of(f.meta))
        self.transcript = meta + f.meta
        version, self.meta_cap, self.data_cap, self.inflight = struct.unpack("<HIII", f.meta[:14])
        assert version == 1
        return f

    def proof(self):
        return hmac.new(self.secret, b"granary client 1" + self.transcript, hashlib.sha256).digest()

    def login(self):
        self.hello()
        self.send(frame(AUTH, self.proof(), request=2))
        f = self.next()
        if f.status:
            raise Failed(f.status, text_of(f.meta))
        self.session, self.lease = struct.unpack("<QI", f.meta[:12])
        want = hmac.new(self.secret, b"granary server 1" + self.transcript + f.meta[:8], hashlib.sha256).digest()
        assert f.meta[12:] == want, "the server's own proof"
        self.request = 10

    def start(self, op, meta=b"", data=b"", **fields):
        self.request += 1
        self.send(frame(op, meta, data, request=self.request, **fields))
        return self.request

    def finish(self, request):
        """All frames of one answer (others are dropped)."""
        frames = []
        while True:
            f = self.next()
            if f.request != request:
                continue
            frames.append(f)
            if f.flags & LAST:
                return frames

    def call(self, op, meta=b"", data=b"", **fields):
        frames = self.finish(self.start(op, meta, data, **fields))
        if frames[0].status:
            raise Failed(frames[0].status, text_of(frames[0].meta))
        return frames

    def status(self, op, meta=b"", data=b"", **fields):
        """The status of the whole answer."""
        try:
            self.call(op, meta, data, **fields)
            return 0
        except Failed as e:
            return e.status

    def mutation(self, bucket, after=0, seen=0):
        self.sequence += 1
        return b16(bucket) + struct.pack("<QQQ", self.sequence, after, seen)

    def put(self, bucket, pairs):
        """pairs of (key or ref, data); statuses, and (id, version, directory id) of each."""
        entries = b"".join(put_entry(ref_key(k) if isinstance(k, (str, bytes)) else k[0], d) for k, d in pairs)
        meta = self.mutation(bucket) + struct.pack("<I", len(pairs)) + entries
        body = self.call(PUT, meta, b"".join(d for _, d in pairs))[0].meta
        count = struct.unpack("<I", body[:4])[0]
        assert count == len(pairs), (count, len(pairs))
        rows = [struct.unpack("<HQQQQ", body[4 + 34 * i:38 + 34 * i]) for i in range(count)]
        return [r[0] for r in rows], [r[1:4] for r in rows]

    def read(self, bucket, refs, flags=0, meta=None):
        """(status, bytes) of every entry; checksums verified."""
        refs = [ref_key(r) if isinstance(r, (str, bytes)) and r[:1] not in (b"\1", b"\2", b"\3") else r for r in refs]
        out = [[None, b""] for _ in refs]
        for f in self.call(READ, meta or read_meta(bucket, refs, flags)):
            at, pos = 2, 0
            for _ in range(struct.unpack("<H", f.meta[:2])[0]):
                (i, status, pflags, _, _, _, _, _, _, _, length, ncrc) = struct.unpack("<IHBBQQQQQQIH", f.meta[at:at + 62])
                at += 62
                crcs = struct.unpack(f"<{ncrc}I", f.meta[at:at + 4 * ncrc])
                at += 4 * ncrc + (16 if pflags & 2 else 0)
                cut = struct.unpack("<II", f.meta[at:at + 8]) if pflags & 8 else (0, length)
                at += 8 if pflags & 8 else 0
                if pflags & 4:
                    at += 2 + struct.unpack("<H", f.meta[at:at + 2])[0]
                piece = f.data[pos:pos + length]
                pos += length
                assert list(crcs) == [crc32c(piece[o:o + 65536]) for o in range(0, length, 65536)], "checksum of data"
                if pflags & 1:
                    out[i][0] = status
                out[i][1] += piece[cut[0]:cut[0] + cut[1]]
            assert at == len(f.meta) and pos == len(f.data)
        return [tuple(x) for x in out]

    def stat(self, bucket, refs):
        """status of each, and (object id, version, size, directory id)."""
        body = self.call(STAT, stat_meta(bucket, refs))[0].meta
        count, at, out = struct.unpack("<I", body[:4])[0], 4, []
        for _ in range(count):
            status = struct.unpack("<H", body[at:at + 2])[0]
            if status:
                out.append((status, None))
                at += 2
                continue
            _, _, flags, oid, version, size, _, directory = struct.unpack("<HBBQQQQQ", body[at:at + 44])
            out.append((0, (oid, version, size, directory)))
            at += 44 + 12 + 16
            if flags & 2:
                at += 2 + struct.unpack("<H", body[at:at + 2])[0]
        return out

    def list(self, bucket, **fields):
        """keys and common prefixes (these marked by a 2) of one page."""
        body = self.call(LIST, list_meta(bucket, **fields))[0].meta
        count, at, out = struct.unpack("<I", body[1:5])[0], 5, []
        for _ in range(count):
            kind, n = struct.unpack("<BH", body[at:at + 3])
            out.append((kind, body[at + 3:at + 3 + n]))
            at += 3 + n + (8 * 5 + 4 + 1 + 16 if kind == 1 else 0)
        assert at == len(body), (at, len(body))
        return out

    def bucket_create(self, bucket):
        return self.status(BUCKET_CREATE, self.mutation(bucket))

    def key_create(self, grants, expires=0):
        """grants: (actions, bucket, prefix); the id and the secret."""
        body = b"".join(struct.pack("<B", a) + b16(b) + b16(p) for a, b, p in grants)
        meta = self.mutation("") + struct.pack("<Q", expires) + b16("test") + struct.pack("<H", len(grants)) + body
        answer = self.call(KEY_CREATE, meta)[0].meta
        n = struct.unpack("<H", answer[:2])[0]
        return answer[2:2 + n].decode(), bytes.fromhex(answer[4 + n:].decode())

    def key_remove(self, key):
        self.call(KEY_REMOVE, self.mutation("") + b16(key))

    def counters(self):
        text = self.call(STATUS)[0].data.decode()
        return {k: v for k, v in (line.split(" ", 1) for line in text.splitlines() if " " in line)}


class Server:
    """A granaryd of its own, in a folder of its own."""

    def __init__(self, *options, config=None, keep=None):
        self.dir = pathlib.Path(keep or tempfile.mkdtemp(prefix="granary-test-"))
        self.owned = keep is None
        self.data = self.dir / "data"
        self.data.mkdir(exist_ok=True)
        self.options = list(options)
        if config is not None:
            (self.dir / "granaryd.yaml").write_text(config)
            self.options += ["--config", str(self.dir / "granaryd.yaml")]
        self.process = None

    def start(self, timeout=60):
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(
            [str(BUILD / "granaryd"), "--data", str(self.data), "--listen", "127.0.0.1:0", "--listen",
             f"unix:{self.dir}/sock", *self.options], stdout=subprocess.PIPE, stderr=self.log)
        deadline = time.monotonic() + timeout
        line = b""
        while not line.startswith(b"ready"):
            line = self.process.stdout.readline()
            if not line or time.monotonic() > deadline:
                raise RuntimeError(f"granaryd did not start:\n{self.log_text()[-3000:]}")
        self.addresses = re.findall(r"address=(\S+)", line.decode())
        self.address = self.addresses[0]
        self.unix = self.addresses[1]
        text = (self.data / "root.credentials").read_text()
        self.key = re.search(r"^access_key=(.*)$", text, re.M).group(1)
        self.secret = bytes.fromhex(re.search(r"^secret=(.*)$", text, re.M).group(1))
        return self

    def log_text(self):
        return (self.dir / "log").read_text(errors="replace")

    def client(self, **fields):
        fields = {"key": self.key, "secret": self.secret} | fields
        return Client(fields.pop("address", self.address), **fields)

    def wire(self, **fields):
        return Wire(self.address, **fields)

    def rss(self):
        """Bytes: resident, huge pages included."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return sum(int(re.search(rf"^{k}:\s+(\d+) kB", text, re.M).group(1)) for k in ("VmRSS", "HugetlbPages")) * 1024

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if not self.process:
            return None
        self.process.send_signal(sig)
        rc = self.process.wait(timeout)
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return rc

    def destroy(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.owned:
            shutil.rmtree(self.dir, ignore_errors=True)


def files_limit_raise():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
