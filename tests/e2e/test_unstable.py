#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what the library was answered before it is durable (GRANARY_UNSTABLE) survives kill -9 of the server, or of the
client; when both go, what was synced is there and nothing is torn; a sync tells what could not be done again, and the log
too. Method: libgranary through ctypes, clients as processes of their own, a server that is killed with changes pending."""
import ctypes
import os
import signal
import subprocess
import sys
import time

from crash_lib import Server, need_programs, scratch, spawn
from stream_lib import Command, check

BUILD = os.path.abspath(os.environ.get("GRANARY_BUILD", os.path.join(os.path.dirname(__file__), "../../build/release")))
UNSTABLE = 1
COUNT = 300


class Call(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("bucket", ctypes.c_char_p), ("done", ctypes.c_void_p), ("arg", ctypes.c_void_p),
                ("timeout_ms", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


class Ref(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dir_id", ctypes.c_uint64), ("object_id", ctypes.c_uint64),
                ("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class Change(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("offset", ctypes.c_uint64),
                ("length", ctypes.c_uint64), ("data", ctypes.c_char_p)]


class Attributes(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("set", ctypes.c_uint32), ("mode", ctypes.c_uint32), ("uid", ctypes.c_uint32),
                ("gid", ctypes.c_uint32), ("atime_ns", ctypes.c_uint64), ("mtime_ns", ctypes.c_uint64)]


def ref(key):
    return Ref(key.encode(), 0, 0, 1, 0)


def u64(n):
    return ctypes.c_uint64(n)


class Client:
    def __init__(self):
        self.lib = ctypes.CDLL(os.path.join(BUILD, "libgranary.so"))
        self.lib.granary_last_error.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p()
        err = self.lib.granary_open(None, ctypes.byref(self.handle))
        check(err == 0, f"granary_open: {err}")

    def call(self, flags=0):
        return ctypes.byref(Call(ctypes.sizeof(Call), b"data", None, None, 60000, flags))

    def put(self, key, data, flags=UNSTABLE):
        return self.lib.granary_put(self.handle, key.encode(), data, ctypes.c_size_t(len(data)), self.call(flags))

    def sync(self):
        return self.lib.granary_sync(self.handle, self.call())

    def do(self, name, *args):
        err = getattr(self.lib, "granary_" + name)(self.handle, *args, self.call(UNSTABLE))
        check(err == 0, f"{name}: {err} {self.error()}")

    def write(self, key, offset, data):
        self.do("write", ref(key), u64(offset), data, ctypes.c_size_t(len(data)), None)

    def error(self):
        return (self.lib.granary_last_error(self.handle) or b"").decode()

    def close(self):
        self.lib.granary_close(ctypes.byref(self.handle))


def content(prefix, i):
    return f"{prefix} {i} ".encode() * (1 + 37 * i % 400)


def child(prefix):
    """A client of its own: puts, then does what its input says, a word a line."""
    client = Client()
    for i in range(COUNT):
        err = client.put(f"{prefix}/{i}", content(prefix, i))
        check(err == 0, f"put {i}: {err} {client.error()}")
    print("put", flush=True)
    for line in sys.stdin:
        err = client.sync()
        print(f"{line.strip()} {err} {client.error() if err else ''}", flush=True)


def changes(p):
    """One of each kind that a mount makes, resting on each other; none of them is durable when its call returns."""
    c = Client()
    c.do("mkdir", ref(p), 0o755, 0, None)
    c.do("mkdir", ref(f"{p}/sub"), 0o700, 0, None)
    c.do("mkdir", ref(f"{p}/gone"), 0o755, 0, None)
    c.do("mknod", ref(f"{p}/a"), 0o100640, u64(0), 0, 0, None)
    c.write(f"{p}/a", 0, b"a" * 10000)
    for i in range(0, 9000, 600):
        c.write(f"{p}/a", i, b"%d" % i)
    c.do("truncate", ref(f"{p}/a"), u64(9500), None)
    c.do("change", ref(f"{p}/a"), ctypes.byref(Change(3, 0, 2000, 1000, None)), 1, None, None)
    check(c.put(f"{p}/b", b"b" * 5000) == 0, "put")
    c.do("copy_range", ref(f"{p}/a"), u64(1500), ref(f"{p}/b"), u64(100), u64(2000), None, None, None)
    c.do("copy", ref(f"{p}/a"), ref(f"{p}/copy"), None, None)
    c.write(f"{p}/a", 20000, b"end")
    c.do("rename", ref(f"{p}/b"), ref(f"{p}/sub/c"), 0)
    c.do("link", ref(f"{p}/sub/c"), ref(f"{p}/d"), None)
    c.write(f"{p}/d", 4998, b"through a link")
    c.do("symlink", b"sub/c", ref(f"{p}/s"), None)
    c.do("mknod", ref(f"{p}/pipe"), 0o10600, u64(0), 3, 4, None)
    c.do("setattr", ref(f"{p}/a"), ctypes.byref(Attributes(ctypes.sizeof(Attributes), 1 | 2, 0o600, 12)))
    c.do("xattr_set", ref(f"{p}/a"), b"user.x", b"1", ctypes.c_size_t(1), 0)
    check(c.put(f"{p}/e", b"e") == 0, "put")
    c.do("delete", f"{p}/e".encode())
    c.do("rename", ref(f"{p}/sub"), ref(f"{p}/dir"), 0)
    c.do("rmdir", ref(f"{p}/gone"))
    return c


def changes_child(prefix):
    client = changes(prefix)
    print("put", flush=True)
    for line in sys.stdin:
        err = client.sync()
        print(f"{line.strip()} {err} {client.error() if err else ''}", flush=True)


def expect_changes(cmd, p):
    url = f"{cmd.server.url}/data/{p}"
    a = bytearray(b"a" * 9500)
    for i in range(0, 9000, 600):
        a[i:i + len(b"%d" % i)] = b"%d" % i
    a[2000:3000] = bytes(1000)
    c = bytearray(b"b" * 5000)
    c[100:2100] = a[1500:3500]
    c = c[:4998] + b"through a link"
    names = sorted(e["key"].removeprefix("data/").removeprefix(f"{p}/") for e in cmd.json("ls", "-r", f"{url}/"))
    names = [n for n in names if n and not n.endswith("/")]
    check(names == ["a", "copy", "d", "dir/c", "pipe", "s"], f"the names are {names}")
    check(cmd.run("cat", f"{url}/copy").stdout == a, "copy has other bytes")
    check(cmd.run("cat", f"{url}/a").stdout == a + bytes(20000 - 9500) + b"end", "a has other bytes")
    for name in "dir/c", "d":
        check(cmd.run("cat", f"{url}/{name}").stdout == c, f"{name} has other bytes")
    stat = cmd.json("stat", f"{url}/a")[0]
    check(stat["mode"] == "0600" and stat["uid"] == 12, f"the attributes are {stat}")
    check(cmd.run("xattr", f"{url}/a", "user.x").stdout.strip() == b"user.x=1", "the extended attribute is not there")


def test_every_change(cmd, server):
    """One of each kind, and the server is killed."""
    p = start_child(cmd, "all", "changes")
    server.kill()
    server.start()
    answer = ask(p)
    check(answer[1] == "0", f"sync after the server was killed: {answer}")
    expect_changes(cmd, "all")
    end(p)
    p = start_child(cmd, "alone", "changes")
    p.kill()
    p.wait()
    expect_changes(cmd, "alone")


def start_child(cmd, prefix, what="child"):
    p = spawn([sys.executable, os.path.abspath(__file__), what, prefix], env=cmd.env, stdin=subprocess.PIPE,
              stdout=subprocess.PIPE, text=True)
    line = p.stdout.readline().strip()
    check(line == "put", f"the child says '{line}'")
    return p


def ask(p):
    p.stdin.write("sync\n")
    p.stdin.flush()
    return p.stdout.readline().split(maxsplit=2)


def end(p):
    p.stdin.close()
    p.wait(60)


def got(cmd, prefix):
    """i -> bytes of what is there."""
    names = [e["key"] for e in cmd.json("ls", "-r", f"{cmd.server.url}/data/{prefix}/")]
    return {int(n.rsplit("/", 1)[1]): cmd.run("cat", f"{cmd.server.url}/data/{n.removeprefix('data/')}").stdout for n in names}


def check_all(cmd, prefix, step=29):
    names = {e["key"].rsplit("/", 1)[1] for e in cmd.json("ls", "-r", f"{cmd.server.url}/data/{prefix}/")}
    check(len(names) == COUNT, f"{prefix}: {len(names)} of {COUNT} are there")
    for i in range(0, COUNT, step):
        check(cmd.run("cat", f"{cmd.server.url}/data/{prefix}/{i}").stdout == content(prefix, i), f"{prefix}/{i}: other bytes")


def test_server_killed(cmd, server):
    p = start_child(cmd, "server")
    server.kill()
    server.start()
    answer = ask(p)
    check(answer[1] == "0", f"sync after the server was killed: {answer}")
    check_all(cmd, "server")
    end(p)


def test_client_killed(cmd):
    p = start_child(cmd, "client")
    p.kill()
    p.wait()
    check_all(cmd, "client")


def test_both_killed(cmd, server):
    p = start_child(cmd, "both")
    check(ask(p)[1] == "0", "sync")
    q = start_child(cmd, "unsynced")
    server.kill()
    for one in (p, q):
        one.kill()
        one.wait()
    server.start()
    check_all(cmd, "both")
    for i, data in list(got(cmd, "unsynced").items())[:20]:
        check(data == content("unsynced", i), f"unsynced/{i} is torn")


def test_two_sessions(cmd, server):
    """Another client writes the same names after the restart: its puts come after what is sent again."""
    p = start_child(cmd, "same")
    server.kill()
    server.start()
    other = Client()
    check(other.put("same/0", b"later", 0) == 0, f"the other client: {other.error()}")
    answer = ask(p)
    check(answer[1] == "0", f"sync beside another client: {answer}")
    check(cmd.run("cat", f"{cmd.server.url}/data/same/0").stdout == b"later", "what came later is not what is there")
    check(cmd.run("cat", f"{cmd.server.url}/data/same/1").stdout == content("same", 1), "what was sent again is not there")
    other.close()
    end(p)


def too_late(cmd, server, prefix):
    """False: the last change was durable before the server was killed: nothing was lost."""
    last = COUNT - 1
    p = start_child(cmd, prefix)
    os.kill(p.pid, signal.SIGSTOP)
    server.kill()
    server.start()
    other = Client()
    check(other.put(f"{prefix}/{last}", b"newer", 0) == 0, f"the other client: {other.error()}")
    os.kill(p.pid, signal.SIGCONT)
    answer = ask(p)
    check(cmd.run("cat", f"{cmd.server.url}/data/{prefix}/{last}").stdout == b"newer", "the newer bytes are gone")
    check(cmd.run("cat", f"{cmd.server.url}/data/{prefix}/1").stdout == content(prefix, 1), "others are not there")
    check(ask(p)[1] == "0", "it is told once")
    other.close()
    end(p)
    if answer[1] == "0":
        return False
    check(int(answer[1]) < 0 and "could not be done again" in answer[2], f"the text of the error: {answer}")
    check("did not send again" in server.log.read_text(errors="replace"), "the log does not tell")
    return True


def test_too_late(cmd, server):
    """The client sleeps for longer than the server waits; another one writes the same name meanwhile."""
    check(any(too_late(cmd, server, f"late{n}") for n in range(5)), "nothing was lost in five tries")


def test_stopped(cmd, server):
    """A clean stop loses nothing, and the next start waits for nobody."""
    p = start_child(cmd, "stopped")
    check(server.stop() == 0, "SIGTERM")
    server.start()
    begun = server.log.read_text(errors="replace").rsplit('msg="stopped"', 1)[-1]
    check("waiting for what sessions had not synced" not in begun, "the start waits for somebody")
    answer = ask(p)
    check(answer[1] == "0", f"sync after a stop: {answer}")
    check_all(cmd, "stopped")
    end(p)


class Written(ctypes.Structure):
    _fields_ = [("object_id", ctypes.c_uint64), ("version", ctypes.c_uint64), ("object_size", ctypes.c_uint64)]


class Started:
    """Writes that are under way at once; bytes, answer and operation stay as long as it."""
    def __init__(self, client, key, offset, data, flags=UNSTABLE):
        self.client, self.data, self.out, self.op = client, data, Written(), ctypes.c_void_p()
        change = Change(1, 0, offset, len(data), data)
        err = client.lib.granary_change_start(client.handle, ref(key), ctypes.byref(change), 1, None,
                                              ctypes.byref(self.out), client.call(flags), ctypes.byref(self.op))
        check(err == 0, f"change_start: {err} {client.error()}")

    def wait(self):
        self.client.lib.granary_wait.restype = ctypes.c_int64
        err = self.client.lib.granary_wait(self.op, 0xffffffff)
        self.free()
        return err

    def free(self):
        self.client.lib.granary_op_free(ctypes.byref(self.op))


def test_grouped(cmd, server):
    """Writes of one object that are under way at once travel together: the server is killed under them, some are given
    up, and one that is refused takes no other with it."""
    client, size, depth = Client(), 4096, 32
    check(client.put("grouped", b"\0" * size * 64, 0) == 0, "put")
    check(client.put("grouped-2", b"\0" * size * 64, 0) == 0, "put")
    expected, versions, under_way = {}, [], []
    for i in range(1500):
        if len(under_way) == depth:
            key, at, done = under_way.pop(0)
            given_up = i % 97 == 0
            err = done.free() if given_up else done.wait()
            check(given_up or err == 0, f"write {i}: {err} {client.error()}")
            versions.append((key, done.out.version))
            expected[key, at].append(done.data if not given_up else None)
        key, at = "grouped" if i % 5 else "grouped-2", i % 64 * size
        while any(w[:2] == (key, at) for w in under_way):  # who waits for an answer knows what comes later
            at = (at + size) % (64 * size)
        expected.setdefault((key, at), [b"\0" * size])
        if expected[key, at][-1] is None:  # it may be done or not
            at = 64 * size
            expected.setdefault((key, at), [])
        data = (b"%d " % i * size)[:size - i % 3]
        under_way.append((key, at, Started(client, key, at, data)))
        if i == 700:
            server.kill()
            server.start()
    for key, at, done in under_way:
        check(done.wait() == 0, f"write: {client.error()}")
        expected[key, at].append(done.data)
    check(client.sync() == 0, f"sync: {client.error()}")
    for key in "grouped", "grouped-2":
        there = cmd.run("cat", f"{cmd.server.url}/data/{key}").stdout
        for (k, at), datas in expected.items():
            if k == key and at < 64 * size and datas[-1] is not None:
                check(there[at:at + len(datas[-1])] == datas[-1], f"{key}: other bytes at {at}")
    check(len(set(versions)) < len(versions) / 2, f"{len(set(versions))} versions of {len(versions)} writes")
    missing = [Started(client, "grouped-not-there", i * size, b"x") for i in range(depth)]
    errors = {w.wait() for w in missing}
    check(errors == {-1}, f"writes to an object that is not there: {errors}")
    client.close()


def main():
    need_programs()
    server = Server(scratch("unstable"))
    server.start()
    cmd = Command(server)
    os.environ.update(GRANARY_URL=server.url, GRANARY_CREDENTIALS=str(server.credentials))
    cmd.run("bucket", "create", f"{server.url}/data")
    for test in (test_every_change, test_server_killed, test_both_killed, test_two_sessions, test_too_late, test_stopped,
                 test_grouped):
        begun = time.monotonic()
        test(cmd, server)
        print(f"{test.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
    test_client_killed(cmd)
    server.stop()
    print("passed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2])
    elif sys.argv[1:2] == ["changes"]:
        changes_child(sys.argv[2])
    else:
        main()
