#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what a mount has beyond the calls of tests/posix/posix_suite.py: owners and modes by option, the extended attributes
that the server answers, what is refused and how, and files that programs map: np.memmap, pyarrow.memory_map and a read-only
mapping shared by processes, on a bucket and on a snapshot."""
import ctypes
import errno
import mmap
import os
import stat
import sys

from crash_lib import GRANARY, GRANARYD, Server, fail, scratch, skip
from stream_lib import Command, check
from test_mount_live import MOUNT, Mount, refused

COUNT = 1_000_000  # of numbers in the file that is mapped


def xattr(path, name):
    return os.getxattr(path, "user.granary." + name).decode()


def attributes(cmd, d, url):
    (d / "sub").mkdir()
    (d / "sub/f").write_bytes(b"x" * 100000)
    (d / "empty").touch()
    os.sync()
    fd = os.open(d / "sub/f", os.O_RDONLY)
    os.fsync(fd)
    told = cmd.json("stat", f"{url}/sub/f")[0]
    check(xattr(d / "sub/f", "etag") == told["etag"], f"etag: {xattr(d / 'sub/f', 'etag')}, not {told['etag']}")
    check(xattr(fd, "tier") == "hot", "tier")
    pack, where = xattr(d / "sub/f", "pack").split(":")
    check(int(pack, 16) > 0 and where.endswith("+100000"), f"pack {pack}:{where}")
    check(os.listxattr(d / "sub/f") == [], "they are in no list")
    refused(errno.ENODATA, xattr, d / "sub/f", "pin")
    refused(errno.ENODATA, xattr, d / "sub/f", "other")
    refused(errno.ENODATA, xattr, d / "sub", "pack")
    refused(errno.ENODATA, xattr, d / "empty", "tier")
    refused(errno.EOPNOTSUPP, os.setxattr, d / "sub/f", "user.granary.etag", b"mine")
    refused(errno.EINVAL, os.setxattr, d / "sub/f", "user.granary.pin", b"yes")
    refused(errno.ENODATA, os.removexattr, d / "sub/f", "user.granary.pin")
    os.setxattr(d / "sub", "user.granary.pin", b"1")
    check(xattr(d / "sub/f", "pin") == "attrs/sub" == xattr(d / "sub", "pin"), "the pin above it")
    check("attrs/sub" in cmd.run("tier", "pins").stdout.decode(), "granary pins shows it")
    refused(errno.EEXIST, os.setxattr, d / "sub/f", "user.granary.pin", b"1", os.XATTR_CREATE)
    os.rename(d / "sub", d / "moved")
    refused(errno.ENODATA, xattr, d / "moved/f", "pin")  # of a path
    os.setxattr(d / "moved/f", "user.granary.pin", b"1")
    check(xattr(d / "moved/f", "pin") == "attrs/moved/f", "a file's own")
    os.setxattr(d / "moved/f", "user.granary.pin", b"0")
    refused(errno.ENODATA, xattr, d / "moved/f", "pin")
    os.setxattr(d, "user.granary.pin", b"1")
    check(xattr(d / "empty", "pin").rstrip("/") == "attrs", "the whole bucket")
    os.removexattr(d, "user.granary.pin")
    refused(errno.ENODATA, xattr, d / "empty", "pin")
    os.setxattr(d / "moved/f", "user.mine", b"1")
    check(os.listxattr(d / "moved/f") == ["user.mine"], "others are as before")
    fresh = os.open(d / "fresh", os.O_CREAT | os.O_WRONLY)
    os.write(fresh, b"new")
    check(xattr(d / "fresh", "etag").endswith("-1"), "of a file that is being written")
    for f in (fd, fresh):
        os.close(f)


def refusals(d):
    """A file without a name cannot be made: open says so at once, in each directory, and makes none."""
    before = sorted(os.listdir(d))
    refused(errno.EOPNOTSUPP, os.open, d, os.O_TMPFILE | os.O_RDWR, 0o600)
    check(sorted(os.listdir(d)) == before, "O_TMPFILE left something")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(d, os.O_RDONLY)
    check(libc.syncfs(fd) == 0, "syncfs")
    os.close(fd)


def as_user(uid, what):
    """Whether what() is true of a process that is this user's."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(99, 99, 99)
        os.setresuid(uid, uid, uid)
        try:
            os._exit(0 if what() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def may_write(at):
    try:
        os.close(os.open(at / "mine", os.O_RDWR))
        (at / "new").write_text("by the owner")
    except OSError:
        return False
    return True


def may_not_read(at):
    try:
        os.open(at / "mine", os.O_RDONLY)
    except PermissionError:
        return True
    return False


def owners(cmd, base):
    """Shown and judged as these owners; what the files have stays."""
    plain = Mount(cmd, "attrs", base / "plain").start()
    (plain.at / "mine").write_text("x")
    os.chmod(plain.at / "mine", 0o666)
    (plain.at / "dir").mkdir()
    other = Mount(cmd, "attrs", base / "owned", "uid=1234", "gid=2345", "umask=027").start()
    for name, mode in (("mine", stat.S_IFREG | 0o640), ("dir", stat.S_IFDIR | 0o750), ("", stat.S_IFDIR | 0o750)):
        st = os.stat(other.at / name)
        check((st.st_uid, st.st_gid, st.st_mode) == (1234, 2345, mode), f"{name}: {st}")
    with os.scandir(other.at) as found:
        check(all(e.stat().st_uid == 1234 for e in found), "as listed")
    check(os.stat(plain.at / "mine").st_uid == 0 and os.stat(plain.at / "mine").st_mode & 0o777 == 0o666, "what it has")
    check(as_user(1234, lambda: may_write(other.at)), "the owner may write")
    check(as_user(98, lambda: may_not_read(other.at)), "others may not read")
    other.stop()
    plain.stop()


def mapped_by_processes(path, want):
    """Each maps it shared and read-only, and finds the same bytes."""
    pids = []
    for i in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open(path, os.O_RDONLY)
            with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as m:
                at = i * len(want) // 8
                os._exit(0 if m[:] == want and m[at:at + 100] == want[at:at + 100] else 1)
        pids.append(pid)
    check(all(os.waitpid(p, 0)[1] == 0 for p in pids), f"{path}: processes that map it")


def maps(d, kind):
    want = b"".join(i.to_bytes(8, "little") for i in range(COUNT))
    check((d / "numbers.bin").read_bytes() == want, f"{kind}: read")
    mapped_by_processes(d / "numbers.bin", want)
    try:
        import numpy
    except ImportError as e:
        print(f"{kind}: np.memmap is not tried: {e}")
    else:
        m = numpy.memmap(d / "numbers.bin", dtype="<u8", mode="r", shape=(COUNT,))
        check(int(m.sum()) == COUNT * (COUNT - 1) // 2 and int(m[123457]) == 123457, f"{kind}: np.memmap")
        del m
    try:
        import pyarrow
    except ImportError as e:
        print(f"{kind}: pyarrow.memory_map is not tried: {e}")
        return
    with pyarrow.memory_map(str(d / "numbers.bin"), "r") as source:
        check(source.read() == want, f"{kind}: pyarrow.memory_map")


def mapped(cmd, base, url):
    live = Mount(cmd, "maps", base / "live").start()
    with open(live.at / "numbers.bin", "wb") as f:
        for i in range(0, COUNT, 10000):
            f.write(b"".join(n.to_bytes(8, "little") for n in range(i, i + 10000)))
    maps(live.at, "bucket")
    try:
        import numpy
    except ImportError:
        pass
    else:
        m = numpy.memmap(live.at / "numbers.bin", dtype="<u8", mode="r+", shape=(COUNT,))
        m[7] = 8
        m.flush()
        m[7] = 7
        del m
        maps(live.at, "bucket, written by a map")
    fd = os.open(live.at / "numbers.bin", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    live.stop()
    cmd.run("snapshot", "create", f"{url}@v1")
    for io in ("cached", "direct"):
        snapshot = Mount(cmd, "maps@v1", base / f"snapshot-{io}", f"io={io}").start()
        maps(snapshot.at, f"snapshot, io={io}")
        snapshot.stop()


def main():
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or not all(p.exists() for p in (GRANARY, GRANARYD, MOUNT)):
        skip("needs /dev/fuse, root and granary-mount")
    base = scratch("mount-posix")
    os.chmod(base, 0o755)
    server = Server(base)
    server.start()
    cmd = Command(server)
    for bucket in ("attrs", "maps"):
        cmd.run("bucket", "create", f"{server.url}/{bucket}")
    mount = Mount(cmd, "attrs", base / "attrs").start()
    attributes(cmd, mount.at, f"{server.url}/attrs")
    refusals(mount.at)
    mount.stop()
    owners(cmd, base)
    mapped(cmd, base, f"{server.url}/maps")
    if server.stop() != 0:
        fail("the server did not end well")
    print("passed")


if __name__ == "__main__":
    sys.exit(main())
