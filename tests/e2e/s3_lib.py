# SPDX-License-Identifier: Apache-2.0
"""A real S3 service for tests, and a proxy in front of it that misbehaves.

Service: radosgw by tests/radosgw, one for a test run of a program, in a directory of its own. Proxy: HTTP/1.1, one thread
a connection; what it does to a request is drawn from a seeded generator, or set for all of them.
"""
import datetime
import hashlib
import hmac
import http.client
import pathlib
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse

ACCESS, SECRET = "granarytest", "granarysecret"
SRC = pathlib.Path(__file__).resolve().parents[1]


def free_ports(count):
    """`count` neighbouring free ports, the first of them."""
    for _ in range(200):
        first = random.randrange(20000, 32000 - count)
        try:
            for i in range(count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Service:
    """radosgw in base/radosgw; None from start() where it is not installed."""

    def __init__(self, base):
        self.dir = pathlib.Path(base) / "radosgw"
        self.port = free_ports(70)

    @staticmethod
    def missing():
        return [p for p in ("radosgw", "ceph-mon", "ceph-osd", "radosgw-admin", "ceph") if not shutil.which(p)]

    def start(self):
        subprocess.run([str(SRC / "radosgw"), "start", str(self.dir), str(self.port)], check=True, timeout=240)

    def stop(self):
        subprocess.run([str(SRC / "radosgw"), "stop", str(self.dir)], check=False, timeout=60)

    def request(self, method, path, query=(), body=b""):
        """One signed request; (status, body). A second signer, apart from the server's."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        host, digest = f"127.0.0.1:{self.port}", hashlib.sha256(body).hexdigest()
        text = "&".join(f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}"
                        for k, v in sorted(query))
        uri = urllib.parse.quote(path, safe="-_.~/")
        headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(sorted(headers))
        canonical = "\n".join([method, uri, text, *(f"{k}:{headers[k]}" for k in sorted(headers)), "", names, digest])
        scope = f"{now[:8]}/us-east-1/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + SECRET.encode()
        for part in (now[:8], "us-east-1", "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope},SignedHeaders={names},"
                                    f"Signature={hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, uri + ("?" + text if text else ""), body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def make_bucket(self, name):
        status, body = self.request("PUT", f"/{name}")
        if status != 200:
            raise RuntimeError(f"bucket {name}: {status} {body[:200]}")

    def credentials(self, base, secret=SECRET):
        """A file of keys as `credentials` takes it."""
        path = pathlib.Path(base) / "s3-credentials"
        path.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {secret}\n")
        path.chmod(0o600)
        return path


class Proxy:
    """Between a client and a service. kinds: what may be done to a request, with their chances; `all_do` overrides.

    drop   the connection closes before the request was passed on
    lost   passed on, but the answer never comes: the connection closes
    e500   answered with 500, passed on or not
    e503   answered with 503 SlowDown
    cut    half of the answer, then the connection closes
    hang   nothing happens until the client goes away
    slow   a third of a second late
    e403   answered as if the key were not known any more
    full   whatever writes is answered with QuotaExceeded, as by a service that is full
    stale  lists are answered as the first one was
    flip   one bit of the answer's body is another
    refuse the connection is closed at once
    """

    def __init__(self, port, seed=1, chances=None):
        self.upstream, self.rng, self.lock = port, random.Random(seed), threading.Lock()
        self.chances, self.all_do, self.counts, self.listed = chances or {}, None, {}, None
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port, self.ended = self.listener.getsockname()[1], False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.ended:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                continue  # of one connection; or the listener was closed, and it ended
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def close(self):
        self.ended = True
        self.listener.close()

    def draw(self):
        with self.lock:
            kind, x = self.all_do, self.rng.random()
            if kind is None:
                for name, chance in self.chances.items():
                    if x < chance:
                        kind = name
                        break
                    x -= chance
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return kind

    @staticmethod
    def message(f):
        """Start line, header lines and body of one message; None at the end."""
        head = []
        while (line := f.readline()) not in (b"\r\n", b""):
            head.append(line)
        if not head:
            return None
        length = 0
        for line in head[1:]:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, length

    def answer(self, f, head_method, head, length):
        empty = head_method == b"HEAD" or head[0].split()[1] in (b"204", b"304")
        chunked = any(h.lower().startswith(b"transfer-encoding:") and b"chunked" in h.lower() for h in head[1:])
        if not chunked:
            return head, b"" if empty else f.read(length)
        body = b""
        while (size := int(f.readline().split(b";")[0], 16)) > 0:
            body += f.read(size)
            f.readline()
        f.readline()
        head = [h for h in head if not h.lower().startswith(b"transfer-encoding:")]
        return head + [b"Content-Length: %d\r\n" % len(body)], body

    def forward(self, head, body):
        with socket.create_connection(("127.0.0.1", self.upstream)) as up:
            host = [b"Connection: close\r\n"]
            up.sendall(b"".join([h for h in head if not h.lower().startswith(b"connection:")] + host) + b"\r\n" + body)
            f = up.makefile("rb")
            got = self.message(f)
            if got is None:
                return None
            return self.answer(f, head[0].split()[0], *got)

    def serve(self, peer):
        try:
            with peer:
                f = peer.makefile("rb")
                while not self.ended and self.one(peer, f):
                    pass
        except (OSError, ValueError):
            pass

    def one(self, peer, f):
        if self.all_do == "refuse":
            return False
        got = self.message(f)
        if got is None:
            return False
        head, length = got
        body = f.read(length)
        kind = self.draw()
        if kind in ("drop", "refuse"):
            return False
        if kind == "hang":
            peer.settimeout(120)
            peer.recv(1)
            return False
        if kind == "slow":
            time.sleep(0.33)
        if kind == "e403" or (kind == "full" and head[0].split()[0] in (b"PUT", b"POST")):
            code = b"InvalidAccessKeyId" if kind == "e403" else b"QuotaExceeded"
            text = b"<Error><Code>" + code + b"</Code></Error>"
            peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return True
        if kind == "e503" or (kind == "e500" and self.counts[kind] % 2):
            status, code = (b"503 Slow Down", b"SlowDown") if kind == "e503" else (b"500 Error", b"InternalError")
            text = b"<Error><Code>" + code + b"</Code></Error>"
            peer.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return True
        is_list = kind == "stale" and b"list-type=2" in head[0]
        answer = self.listed if is_list and self.listed else self.forward(head, body)
        if is_list:
            self.listed = answer
        if answer is None or kind == "lost":
            return False
        if kind == "e500":
            peer.sendall(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n")
            return True
        lines, data = answer
        lines = [h for h in lines if not h.lower().startswith(b"connection:")]
        if kind == "flip" and data:
            at = len(data) // 2
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
        whole = b"".join(lines) + b"\r\n" + data
        peer.sendall(whole[: len(whole) - (len(data) + 1) // 2] if kind == "cut" else whole)
        return kind != "cut"
