#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a file that a client has open keeps its bytes when another one deletes or replaces it, also over kill -9 of the
server; it goes when the last one closes it, or when its client was killed. Its locks exclude those of other clients, also
over kill -9 of the server; a lock of a client that is killed goes to who waits for it; so does one of a client that is
stopped for longer than its lease, and what that one still writes under it is refused. Method: libgranary through ctypes,
two clients of one process and one that is killed or stopped."""
import ctypes
import os
import signal
import subprocess
import sys
import time

from crash_lib import Server, need_programs, scratch, spawn
from stream_lib import Command, check

BUILD = os.path.abspath(os.environ.get("GRANARY_BUILD", os.path.join(os.path.dirname(__file__), "../../build/release")))
UNSTABLE, READ, WRITE = 1, 1, 2
LEASE_S = 2
ESTALE, ENOTFOUND, ELOCKED, EDEADLOCK, ETIMEDOUT, ETOOBIG = -22, -1, -31, -42, -11, -15
NONE, SHARED, EXCLUSIVE = 0, 1, 2
ENTRY, GONE = 1, 2
DATA = bytes(range(256)) * 1000


class Call(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("bucket", ctypes.c_char_p), ("done", ctypes.c_void_p), ("arg", ctypes.c_void_p),
                ("timeout_ms", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("file", ctypes.c_void_p)]


class Ref(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dir_id", ctypes.c_uint64), ("object_id", ctypes.c_uint64),
                ("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class Stat(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("kind", ctypes.c_uint32)] + \
        [(n, ctypes.c_uint64) for n in ("object_id", "version", "size", "mtime_ns", "dir_id")] + \
        [(n, ctypes.c_uint32) for n in ("mode", "uid", "gid", "has_hash")] + \
        [("hash", ctypes.c_uint8 * 16), ("meta", ctypes.c_void_p), ("meta_count", ctypes.c_uint64)]


class Inode(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("ctime_ns", "atime_ns", "rdev")] + \
        [("nlink", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("holes", ctypes.c_uint64)]


class Opened(ctypes.Structure):
    _fields_ = [("file", ctypes.c_void_p), ("stat", Stat), ("inode", Inode)]


class Entry(ctypes.Structure):
    _fields_ = [("ref", Ref), ("flags", ctypes.c_uint32), ("status", ctypes.c_int32)] + \
        [(n, ctypes.c_uint64) for n in ("offset", "length", "version")] + \
        [("buf", ctypes.c_void_p), ("buf_size", ctypes.c_size_t), ("data", ctypes.c_void_p), ("data_len", ctypes.c_size_t)] + \
        [(n, ctypes.c_uint64) for n in ("object_id", "dir_id", "size", "mtime_ns")] + \
        [("hash", ctypes.c_uint8 * 16), ("user", ctypes.c_void_p)]


class Lock(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("owner", "start", "end")] + \
        [(n, ctypes.c_uint32) for n in ("kind", "type", "pid", "is_ours")]


class Changed(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("dir_id", ctypes.c_uint64),
                ("object_id", ctypes.c_uint64), ("name", ctypes.c_char_p)]


class Changes(ctypes.Structure):
    _fields_ = [("cursor", ctypes.c_uint64), ("count", ctypes.c_uint32), ("all", ctypes.c_uint32),
                ("changes", ctypes.POINTER(Changed))]


def whole(kind):
    return Lock(1, 0, 2**64 - 1, 1, kind, 0, 0)


def span(kind, start, end):
    return Lock(1, start, end, 2, kind, os.getpid(), 0)


class Client:
    def __init__(self):
        self.lib = lib = ctypes.CDLL(os.path.join(BUILD, "libgranary.so"))
        lib.granary_last_error.restype = ctypes.c_char_p
        lib.granary_read_batch_into.restype = ctypes.c_int64
        lib.granary_file_ref.restype = Ref
        lib.granary_file_open.argtypes = [ctypes.c_void_p, Ref, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p]
        self.handle = ctypes.c_void_p()
        err = lib.granary_open(None, ctypes.byref(self.handle))
        check(err == 0, f"granary_open: {err}")

    def call(self, flags=0):
        return ctypes.byref(Call(ctypes.sizeof(Call), b"data", None, None, 60000, flags))

    def put(self, key, data, flags=0):
        err = self.lib.granary_put(self.handle, key.encode(), data, ctypes.c_size_t(len(data)), self.call(flags))
        check(err == 0, f"put {key}: {err} {self.error()}")

    def delete(self, key, flags=0):
        err = self.lib.granary_delete(self.handle, key.encode(), self.call(flags))
        check(err == 0, f"delete {key}: {err} {self.error()}")

    def open(self, key, access=READ):
        out = Opened()
        err = self.lib.granary_file_open(self.handle, Ref(key.encode(), 0, 0, 1, 0), access, ctypes.byref(out), self.call())
        return err, out

    def must_open(self, key, access=READ):
        err, out = self.open(key, access)
        check(err == 0, f"open {key}: {err} {self.error()}")
        return ctypes.c_void_p(out.file), out

    def open_read(self, key, room=len(DATA) + 100):
        """Status or bytes, and the file, in one request."""
        entry = Entry(ref=Ref(key.encode(), 0, 0, 1, 0), buf_size=room)
        slab, file, op = ctypes.create_string_buffer(room + 1), ctypes.c_void_p(), ctypes.c_void_p()
        entry.buf = ctypes.addressof(slab)
        err = self.lib.granary_file_open_read_start(self.handle, ctypes.byref(entry), ctypes.byref(file), self.call(),
                                                    ctypes.byref(op))
        check(err == 0, f"open_read {key}: {err} {self.error()}")
        result = self.wait(op)
        check(result >= 0 and bool(file) == (entry.status == 0), f"open_read {key}: {result} {entry.status} {file}")
        return (entry.status if entry.status < 0 else slab.raw[:entry.data_len]), file

    def check_file(self, file):
        return self.lib.granary_file_check(file)

    def ref(self, file):
        return self.lib.granary_file_ref(file)

    def close_file(self, file):
        self.lib.granary_file_close(ctypes.byref(file))

    def read(self, ref):
        """Status or bytes."""
        entry, slab = Entry(ref=ref), ctypes.create_string_buffer(len(DATA) + 100)
        err = self.lib.granary_read_batch_into(self.handle, ctypes.byref(entry), ctypes.c_size_t(1), slab,
                                               ctypes.c_size_t(len(slab)), 0, self.call())
        check(err >= 0 or entry.status < 0, f"read: {err} {self.error()}")
        return entry.status if entry.status < 0 else slab.raw[:entry.data_len]

    def write(self, ref, offset, data, locked=None, flags=0):
        """locked: a file whose locks it rests on."""
        self.lib.granary_write.argtypes = [ctypes.c_void_p, Ref, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t,
                                           ctypes.c_void_p, ctypes.c_void_p]
        call = Call(ctypes.sizeof(Call), b"data", None, None, 60000, flags, locked)
        return self.lib.granary_write(self.handle, ref, offset, data, len(data), None, ctypes.byref(call))

    def lock(self, file, lock, wait=False, timeout_ms=60000):
        call = Call(ctypes.sizeof(Call), b"data", None, None, timeout_ms, 0)
        return self.lib.granary_file_lock(file, ctypes.byref(lock), int(wait), ctypes.byref(call))

    def lock_start(self, file, lock):
        op = ctypes.c_void_p()
        err = self.lib.granary_file_lock_start(file, ctypes.byref(lock), 1, self.call(), ctypes.byref(op))
        check(err == 0, f"lock_start: {err}")
        return op

    def wait(self, op):
        self.lib.granary_wait.restype = ctypes.c_int64
        result = self.lib.granary_wait(op, 60000)
        self.lib.granary_op_free(ctypes.byref(op))
        return result

    def lock_test(self, file, lock):
        err = self.lib.granary_file_lock_test(file, ctypes.byref(lock), self.call())
        check(err == 0, f"lock_test: {err}")
        return lock

    def watch_start(self, cursor):
        op, page = ctypes.c_void_p(), ctypes.POINTER(Changes)()
        err = self.lib.granary_watch_start(self.handle, ctypes.c_uint64(cursor), ctypes.byref(page), self.call(),
                                           ctypes.byref(op))
        check(err == 0, f"watch_start: {err}")
        return op, page

    def watched(self, op, page):
        """Cursor, [(kind, name)], whether anything may have changed."""
        err = self.wait(op)
        check(err == 0 and page, f"watch: {err} {self.error()}")
        p = page.contents
        found = [(p.changes[i].kind, p.changes[i].name.decode()) for i in range(p.count)]
        result = p.cursor, found, bool(p.all)
        self.lib.granary_free(page)
        return result

    def watch(self, cursor):
        return self.watched(*self.watch_start(cursor))

    def error(self):
        return (self.lib.granary_last_error(self.handle) or b"").decode()

    def close(self):
        self.lib.granary_close(ctypes.byref(self.handle))


def child(key):
    client = Client()
    file, _ = client.must_open(key, READ | WRITE)
    check(client.lock(file, whole(EXCLUSIVE)) == 0, "the child's lock")
    print(client.ref(file).object_id, flush=True)
    while line := sys.stdin.readline():
        err = client.write(client.ref(file), 0, line.strip().encode(), file, UNSTABLE)
        print(err, client.check_file(file), flush=True)


def objects(cmd):
    """What the bucket counts: names, and objects without one."""
    return cmd.json("bucket", "ls", cmd.server.url)[0]["objects"]


def wait_for_orphans(cmd, n):
    want = n + len(cmd.json("ls", "-r", f"{cmd.server.url}/data/"))
    end = time.monotonic() + 60
    while objects(cmd) != want and time.monotonic() < end:
        time.sleep(0.05)
    check(objects(cmd) == want, f"{objects(cmd)} objects, not {want}")


def test_deleted_and_replaced(cmd, server):
    a, b = Client(), Client()
    a.put("x", DATA)
    a.put("y", DATA)
    x, out = a.must_open("x", READ | WRITE)
    y, _ = a.must_open("y")
    check(out.stat.size == len(DATA) and out.inode.nlink == 1, "what open tells")
    b.delete("x")
    b.put("y", b"another")
    check(a.read(a.ref(x)) == DATA and a.read(a.ref(y)) == DATA, "other bytes")
    check(b.read(a.ref(x)) == ESTALE, "who does not have it open reads it")
    check(a.write(a.ref(x), 10, b"written") == 0, f"write: {a.error()}")
    check(a.read(a.ref(x))[10:17] == b"written", "what was written is not there")
    check(a.open("x")[0] == ENOTFOUND, "it has a name")
    wait_for_orphans(cmd, 2)
    server.kill()
    server.start()
    check(a.read(a.ref(x))[10:17] == b"written" and a.read(a.ref(y)) == DATA, "other bytes after kill -9 of the server")
    check(a.check_file(x) == 0 and a.check_file(y) == 0, "a file is lost")
    a.close_file(x)
    a.close_file(y)
    wait_for_orphans(cmd, 0)
    a.close()
    b.close()


def test_read_opens(cmd, server):
    """Opened by what reads it: the same as if opened before, over kill -9 too; what could not be read is not kept."""
    a, b = Client(), Client()
    a.put("r", DATA)
    for _ in range(2):  # the server's tables know it the second time
        got, file = b.open_read("r")
        check(got == DATA, "what came with the open")
        b.close_file(file)
    _, file = b.open_read("r")
    check(b.open_read("r", 10)[0] == ETOOBIG, "more than there is room for")
    check(b.open_read("none")[0] == ENOTFOUND, "what is not there")
    a.delete("r")
    wait_for_orphans(cmd, 1)
    check(b.read(b.ref(file)) == DATA and a.read(b.ref(file)) == ESTALE, "it is kept for who has it open")
    server.kill()
    server.start()
    check(b.read(b.ref(file)) == DATA and b.check_file(file) == 0, "after kill -9 of the server")
    b.close_file(file)
    wait_for_orphans(cmd, 0)
    a.close()
    b.close()


def test_unstable(cmd, server):
    """Made, opened and deleted before any of it is durable; all of it is sent again."""
    a = Client()
    a.put("first", b"1", UNSTABLE)
    a.put("u", DATA, UNSTABLE)
    file, _ = a.must_open("u")
    a.delete("u", UNSTABLE)
    server.kill()
    server.start()
    check(a.read(a.ref(file)) == DATA, f"what was sent again: {a.check_file(file)}")
    check(a.open("u")[0] == ENOTFOUND, "its name is back")
    a.close_file(file)
    wait_for_orphans(cmd, 0)
    a.close()


def test_locks(cmd, server):
    a, b = Client(), Client()
    a.put("l", DATA)
    fa, _ = a.must_open("l", READ | WRITE)
    fb, _ = b.must_open("l", READ | WRITE)
    check(a.lock(fa, span(EXCLUSIVE, 0, 99)) == 0, a.error())
    check(b.lock(fb, span(SHARED, 50, 60)) == ELOCKED, "two have it")
    other = b.lock_test(fb, span(SHARED, 50, 60))
    check((other.type, other.start, other.end, other.pid, other.is_ours) == (EXCLUSIVE, 0, 99, os.getpid(), 0), "the test")
    check(b.lock(fb, span(SHARED, 50, 60), True, 300) == ETIMEDOUT, "it waits for less than it was told to")
    check(b.lock(fb, span(EXCLUSIVE, 100, 199)) == 0, b.error())
    op = a.lock_start(fa, span(EXCLUSIVE, 150, 150))
    while cmd.json("status")[0]["locks_waiting"] != 1:
        time.sleep(0.01)
    check(b.lock(fb, span(EXCLUSIVE, 5, 5), True) == EDEADLOCK, "a circle")
    server.kill()
    server.start()
    check(b.lock(fb, span(SHARED, 50, 60)) == ELOCKED, "the restart gave it away")
    check(b.lock(fb, span(NONE, 0, 2**64 - 1)) == 0 and a.wait(op) == 0, "what waited over the restart")
    check(a.check_file(fa) == 0 and b.check_file(fb) == 0, "a file is lost")
    check(cmd.json("status")[0]["locks"] == 2, "the one that timed out is held")
    a.close_file(fa)
    check(b.lock(fb, span(EXCLUSIVE, 0, 2**64 - 1), True) == 0, b.error())
    b.close_file(fb)
    a.close()
    b.close()


def test_watch(cmd, server):
    """A client that waits for changes hears of them, and after a restart that anything may have changed."""
    del cmd
    a, b = Client(), Client()
    cursor, changes, everything = a.watch(0)
    check(not changes and not everything, "the first page")
    op, page = a.watch_start(cursor)
    b.put("w/new", b"1")
    cursor, changes, everything = a.watched(op, page)
    check((ENTRY, "new") in changes and not everything, f"what is told: {changes}")
    b.delete("w/new")
    cursor, changes, everything = a.watch(cursor)
    check((GONE, "w") in changes, f"what is told of a delete: {changes}")
    op, page = a.watch_start(cursor)
    server.kill()
    server.start()
    cursor, changes, everything = a.watched(op, page)
    check(everything, "a restart is not told")
    op, page = a.watch_start(cursor)
    a.put("w/own", b"1")
    b.put("w/others", b"1")
    cursor, changes, everything = a.watched(op, page)
    check(changes == [(ENTRY, "others")] and not everything, f"after the restart: {changes}")
    a.delete("w/own")
    a.delete("w/others")
    a.close()
    b.close()


def test_client_closed(cmd, server):
    """Files are closed with their client."""
    del server
    a, b = Client(), Client()
    a.put("c", DATA)
    file, _ = a.must_open("c")
    b.delete("c")
    wait_for_orphans(cmd, 1)
    a.close()
    wait_for_orphans(cmd, 0)
    a.close_file(file)
    b.close()


def test_client_killed(cmd, server):
    """And the server: nobody comes back for the file."""
    a = Client()
    a.put("k", DATA)
    a.put("k2", DATA)
    p, object_id = spawn_child(cmd, "k")
    a.delete("k")
    wait_for_orphans(cmd, 1)
    file, _ = a.must_open("k2")
    check(a.lock(file, whole(EXCLUSIVE)) == 0, a.error())
    p.kill()
    p.wait()
    server.kill()
    server.start()
    check(a.lock(file, whole(SHARED)) == 0, "a lock after the restart")
    wait_for_orphans(cmd, 0)
    check(a.read(Ref(b"", 0, object_id, 3, 0)) == ESTALE, "it is still there")
    a.close()


def spawn_child(cmd, key):
    p = spawn([sys.executable, os.path.abspath(__file__), "child", key], env=cmd.env, stdin=subprocess.PIPE,
              stdout=subprocess.PIPE, text=True)
    return p, int(p.stdout.readline())


def test_client_stopped(cmd, server):
    """It has its connections, and comes back after another one got its lock: what it writes is refused at the server, by
    one that was started anew too; over a restart that it is there for it keeps the lock."""
    a = Client()
    a.put("s", DATA)
    p, _ = spawn_child(cmd, "s")

    def tell(text):
        p.stdin.write(text + "\n")
        p.stdin.flush()

    def told():
        return tuple(map(int, p.stdout.readline().split()))

    tell("under-its-lock")
    check(told() == (0, 0), "a write under its lock")
    server.kill()
    server.start()
    tell("after-a-restart")
    check(told() == (0, 0), "a write after a restart")
    file, _ = a.must_open("s", READ | WRITE)
    check(a.lock(file, whole(EXCLUSIVE)) == ELOCKED, "two have it")
    time.sleep(3 * LEASE_S)  # it does nothing, and says that it lives
    check(a.lock(file, whole(EXCLUSIVE)) == ELOCKED, "a client that does nothing loses its lock")
    p.send_signal(signal.SIGSTOP)
    check(a.lock(file, whole(EXCLUSIVE), True) == 0, f"the lock of one that is stopped: {a.error()}")
    check(a.write(a.ref(file), 0, b"of-who-has-it", file) == 0, a.error())
    tell("of-who-lost-it")  # it is sent before the client can know
    p.send_signal(signal.SIGCONT)
    check(told() == (ESTALE, ESTALE), "a write of one that lost its lock")
    tell("once-more")
    check(told() == (ESTALE, ESTALE), "another one")
    check(a.read(a.ref(file)).startswith(b"of-who-has-it") and a.check_file(file) == 0, "other bytes")
    check(a.write(a.ref(file), 0, b"all-the-time", file) == 0, a.error())
    p.kill()
    p.wait()
    a.close_file(file)
    a.close()


def main():
    need_programs()
    server = Server(scratch("opens"))
    server.start()
    cmd = Command(server)
    os.environ.update(GRANARY_URL=server.url, GRANARY_CREDENTIALS=str(server.credentials))
    cmd.run("bucket", "create", f"{server.url}/data")
    for test in (test_deleted_and_replaced, test_read_opens, test_unstable, test_locks, test_watch, test_client_closed,
                 test_client_killed):
        begun = time.monotonic()
        test(cmd, server)
        print(f"{test.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
    check(cmd.json("ls", "-r", f"{server.url}/data/")[0]["key"].endswith("first"), "what is left")
    server.stop()
    server = Server(scratch("opens"), settings={"lease": f"{LEASE_S}s"})
    server.start()
    cmd = Command(server)
    os.environ.update(GRANARY_URL=server.url, GRANARY_CREDENTIALS=str(server.credentials))
    cmd.run("bucket", "create", f"{server.url}/data")
    begun = time.monotonic()
    test_client_stopped(cmd, server)
    print(f"test_client_stopped: {time.monotonic() - begun:.1f} s", flush=True)
    server.stop()
    print("passed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[2])
    else:
        main()
