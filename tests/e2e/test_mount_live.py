#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a mounted bucket behaves as a local filesystem does: tools that people use leave the same trees, every call gives
what ext4 gives, two mounts see what the other one closed, files outlive their names, and a server that is killed under
load costs nothing that was closed or synced. Method: each on the classic transport and over io_uring where the kernel
has it, once with the server's engine of threads; a reference tree on the local disk."""
import errno
import fcntl
import mmap
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

from crash_lib import BUILD, GRANARY, GRANARYD, Server, fail, scratch, skip, spawn
from stream_lib import Command, check

MOUNT = BUILD / "granary-mount"
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Mount:
    def __init__(self, cmd, bucket, at, *options):
        self.cmd, self.bucket, self.at, self.options = cmd, bucket, pathlib.Path(at), options
        self.at.mkdir(exist_ok=True)
        self.process = None

    def start(self):
        self.log = open(self.at.with_suffix(".log"), "ab")
        args = [MOUNT, f"{self.cmd.server.url}/{self.bucket}", self.at, "--foreground"]
        for o in self.options:
            args += ["-o", o]
        self.process = spawn(args, env=self.cmd.env, stdout=self.log, stderr=self.log)
        for _ in range(1200):
            if os.path.ismount(self.at):
                return self
            check(self.process.poll() is None, "granary-mount ended at once")
            time.sleep(0.05)
        fail("nothing is mounted")

    def stop(self):
        subprocess.run(["umount", "-l", str(self.at)], check=False, capture_output=True)
        try:
            check(self.process.wait(60) == 0, f"granary-mount ended with {self.process.returncode}")
        except subprocess.TimeoutExpired:
            fail("granary-mount does not end")

    def kill(self):
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "-l", str(self.at)], check=False, capture_output=True)


def sh(*args, timeout=120, **kw):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout, **kw)
    check(p.returncode == 0, f"{' '.join(map(str, args))}: {p.returncode}: {(p.stdout + p.stderr)[-800:]}")
    return p.stdout


def refused(want, call, *args, **kw):
    try:
        call(*args, **kw)
    except OSError as e:
        check(e.errno == want, f"{call.__name__}{args}: {errno.errorcode.get(e.errno, e.errno)}, not {errno.errorcode[want]}")
        return
    fail(f"{call.__name__}{args} is not refused")


def shape(top):
    """What a tree is: kinds, modes, owners, sizes, times, targets, link counts of files."""
    out = {}
    for path in sorted(top.rglob("*")):
        s = path.lstat()
        entry = (stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid)
        if stat.S_ISREG(s.st_mode):
            entry += (s.st_size, s.st_mtime_ns, s.st_nlink)
        if stat.S_ISLNK(s.st_mode):
            entry += (os.readlink(path),)
        out[str(path.relative_to(top))] = entry
    return out


def same(a, b, what):
    sh("diff", "-r", "--no-dereference", "--exclude=pipe", a, b)
    left, right = shape(a), shape(b)
    check(left == right, f"{what}: {[(k, left.get(k), right.get(k)) for k in left.keys() | right.keys() if left.get(k) != right.get(k)][:3]}")


# ---- tools ----

def test_tools(top, local):
    """tar, cp, rsync, git, SQLite: as on the local disk."""
    tree = local / "tree"
    if not tree.exists():
        tree.mkdir()
        for name in ("common", "fuse", "include", "docs"):
            shutil.copytree(ROOT / name, tree / name)
        os.symlink("common/bytes.h", tree / "link")
        os.link(tree / "docs/PROTOCOL.md", tree / "hard")
        os.chmod(tree / "fuse/main.c", 0o4750)
        os.chown(tree / "fuse/live.c", 1234, 4321)
        os.setxattr(tree / "fuse/ring.c", "user.note", b"value")
        (tree / "empty").touch()
        os.mkfifo(tree / "pipe", 0o640)
        sh("tar", "--xattrs", "-cf", local / "tree.tar", "-C", tree, ".")
    (top / "tar").mkdir()
    sh("tar", "--xattrs", "-xpf", local / "tree.tar", "-C", top / "tar")
    same(tree, top / "tar", "tar")
    check(os.getxattr(top / "tar/fuse/ring.c", "user.note") == b"value", "an xattr in the archive")
    sh("cp", "-a", tree, top / "cp")
    same(tree, top / "cp", "cp -a")
    if shutil.which("rsync"):
        sh("rsync", "-aH", f"{tree}/", f"{top}/rsync/")
        same(tree, top / "rsync", "rsync")
        check(sh("rsync", "-aHi", f"{tree}/", f"{top}/rsync/") == "", "rsync finds something to do again")
    if shutil.which("git"):
        git(top / "git", tree)
    sqlite(top / "db")
    sh("rm", "-rf", top / "tar", top / "cp", top / "rsync", top / "git")
    check(set(os.listdir(top)) == {"db", "db-journal"}, f"left: {os.listdir(top)}")


def git(at, tree):
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
           "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    sh("git", "init", "-q", at, env=env)
    shutil.copytree(tree / "common", at / "common")
    sh("git", "-C", at, "add", ".", env=env)
    sh("git", "-C", at, "commit", "-qm", "one", env=env)
    sh("git", "clone", "-q", at, at / "clone", env=env)
    check(sh("git", "-C", at / "clone", "status", "--short", env=env) == "", "git status after a clone")
    sh("git", "-C", at, "gc", "-q", env=env)
    sh("git", "-C", at, "fsck", "--full", env=env)


def sqlite(at):
    import sqlite3
    for mode in ("delete", "truncate"):
        db = sqlite3.connect(at)
        db.execute(f"pragma journal_mode={mode}")
        db.execute("create table if not exists t(a integer primary key, b blob)")
        for k in range(8):
            with db:
                db.executemany("insert into t(b) values(?)", [(bytes([k]) * (700 + k),) for _ in range(60)])
        check(db.execute("pragma integrity_check").fetchone() == ("ok",), f"sqlite: {mode}")
        db.close()


# ---- calls ----

def test_calls(top):
    """One call after the other, with what it must give and refuse."""
    d = top / "calls"
    d.mkdir()
    f = d / "f"
    f.write_bytes(b"0123456789")
    refused(errno.EEXIST, os.open, f, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    refused(errno.ENOENT, os.stat, d / "none")
    refused(errno.ENOTDIR, os.stat, f / "x")
    refused(errno.ENAMETOOLONG, os.stat, d / ("n" * 256))
    refused(errno.EILSEQ, os.mkdir, os.fsencode(d) + b"/\xff\xfe")
    (d / ("n" * 255)).touch()
    refused(errno.EISDIR, os.unlink, d)
    refused(errno.ENOTEMPTY, os.rmdir, d)
    refused(errno.EEXIST, os.mkdir, f)
    refused(errno.EINVAL, os.rename, d, d / "below")
    s = os.stat(f)
    os.utime(f, ns=(1_000_000_001, 2_000_000_002))
    s2 = os.stat(f)
    check((s2.st_atime_ns, s2.st_mtime_ns) == (1_000_000_001, 2_000_000_002), "times in nanoseconds")
    check(s2.st_ino == s.st_ino and s2.st_ctime_ns > s.st_ctime_ns, "ctime and inode number")
    fd = os.open(f, os.O_RDWR | os.O_APPEND)
    os.write(fd, b"ab")
    os.ftruncate(fd, 11)
    os.pwrite(fd, b"-", 0)  # O_APPEND wins on Linux
    os.lseek(fd, 0, 0)
    check(os.read(fd, 100) == b"0123456789a-", "append")
    os.ftruncate(fd, 20)
    check(os.fstat(fd).st_size == 20 and os.pread(fd, 100, 10) == b"a-" + bytes(8), "longer")
    os.close(fd)
    holes(d / "holes")
    links(d)
    modes(d)
    refused(errno.EOPNOTSUPP, os.open, d, os.O_TMPFILE | os.O_RDWR)
    m = os.statvfs(d)
    check(m.f_namemax == 255 and m.f_bfree > 0, "statvfs")
    with open(f, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
    os.setxattr(f, "user.a", b"1")
    refused(errno.EEXIST, os.setxattr, f, "user.a", b"2", os.XATTR_CREATE)
    refused(errno.ENODATA, os.setxattr, f, "user.b", b"2", os.XATTR_REPLACE)
    check(os.listxattr(f) == ["user.a"], "listxattr")
    os.removexattr(f, "user.a")
    refused(errno.ENODATA, os.getxattr, f, "user.a")


def holes(at):
    fd = os.open(at, os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 8192, 1 << 20)
    check(os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20 and os.lseek(fd, 0, os.SEEK_HOLE) == 0, "lseek over a hole")
    check(os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 8192, "the hole at the end")
    refused(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_DATA)
    os.posix_fallocate(fd, 0, 2 << 20)
    check(os.fstat(fd).st_size == 2 << 20, "fallocate")
    check(os.copy_file_range(fd, fd, 4096, 1 << 20, 0) == 4096 and os.pread(fd, 4096, 0) == b"x" * 4096, "copy_file_range")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    with open(at, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[5000:5004] = b"mmap"
        m.flush()
        f.seek(5000)
        check(f.read(4) == b"mmap", "a shared mapping")
    check(at.read_bytes()[5000:5004] == b"mmap", "what was mapped")
    with open(at, "wb") as f:
        f.truncate(50 << 30)
        f.seek(40 << 30)
        f.write(b"far")
    with open(at, "rb") as f:
        f.seek((40 << 30) - 2)
        check(f.read(7) == b"\0\0far\0\0" and os.fstat(f.fileno()).st_size == 50 << 30, "50 GiB, sparse")


def links(d):
    f = d / "f"
    os.link(f, d / "g")
    check(os.stat(f).st_nlink == 2 and os.stat(d / "g").st_ino == os.stat(f).st_ino, "a hard link")
    refused(errno.EPERM, os.link, d, d / "dirlink")
    os.unlink(f)
    check(os.stat(d / "g").st_nlink == 1, "one name less")
    os.rename(d / "g", f)
    os.symlink("f", d / "s")
    check(os.readlink(d / "s") == "f" and os.lstat(d / "s").st_size == 1, "a symbolic link")
    (d / "over").write_bytes(b"old")
    held = os.open(d / "over", os.O_RDWR)
    (d / "new").write_bytes(b"new")
    os.rename(d / "new", d / "over")
    check((d / "over").read_bytes() == b"new" and os.pread(held, 9, 0) == b"old", "what was replaced, while it is open")
    os.pwrite(held, b"still", 0)
    check(os.pread(held, 9, 0) == b"still" and os.fstat(held).st_nlink == 0, "and is written")
    os.close(held)
    held = os.open(d / "gone", os.O_CREAT | os.O_RDWR)
    os.write(held, b"one")
    os.unlink(d / "gone")
    os.write(held, b"two")
    check(os.pread(held, 9, 0) == b"onetwo", "a file without a name")
    os.close(held)
    refused(errno.ENOENT, os.stat, d / "gone")
    (d / "sub").mkdir()
    (d / "sub2").mkdir()
    (d / "sub/x").touch()
    refused(errno.ENOTEMPTY, os.rename, d / "sub2", d / "sub")
    os.rename(d / "sub", d / "sub2")
    check(os.listdir(d / "sub2") == ["x"], "a directory over an empty one")
    os.mknod(d / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    check(os.stat(d / "null").st_rdev == os.makedev(1, 3), "a device")


def modes(d):
    f = d / "mode"
    f.touch()
    os.chown(f, 100, 200)
    os.chmod(f, 0o6755)
    os.chown(f, 101, 200)
    check(stat.S_IMODE(os.stat(f).st_mode) == 0o755, "chown clears the set-id bits")
    (d / "setgid").mkdir()
    os.chown(d / "setgid", 0, 77)
    os.chmod(d / "setgid", 0o2777)
    (d / "setgid/f").touch()
    (d / "setgid/d").mkdir()
    check(os.stat(d / "setgid/f").st_gid == 77 and os.stat(d / "setgid/d").st_mode & stat.S_ISGID, "set-group-id directories")
    (d / "private").mkdir(mode=0o700)
    child = os.fork()
    if child == 0:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        try:
            os.listdir(d / "private")
        except PermissionError:
            os._exit(0)
        os._exit(1)
    check(os.waitpid(child, 0)[1] == 0, "permissions of another user")


def test_listing(top):
    """Names that stay come once while others come and go."""
    d = top / "listing"
    d.mkdir()
    for i in range(2500):
        (d / f"stays{i:05}").touch()
    seen, n = [], 0
    with os.scandir(d) as it:
        for e in it:
            seen.append(e.name)
            n += 1
            if n % 50 == 0:
                (d / f"a{n:05}").touch()
                (d / f"z{n:05}").touch()
            if n % 100 == 0:
                os.unlink(d / f"a{n:05}")
    stays = [s for s in seen if s.startswith("stays")]
    check(len(stays) == 2500 and len(set(seen)) == len(seen), f"{len(stays)} names, {len(seen) - len(set(seen))} twice")
    shutil.rmtree(d)


# ---- two mounts ----

def test_two_mounts(a, b):
    (a / "two").mkdir()
    for i in range(30):
        (a / "two/f").write_text(f"number {i}" * (1 + i * 997))
        check((b / "two/f").read_text() == f"number {i}" * (1 + i * 997), f"close-to-open, {i}")
    for i in range(30):
        (a / "two/new").write_text(f"{i}")
        os.rename(a / "two/new", a / "two/f")
        check((b / "two/f").read_text() == f"{i}", f"close-to-open over a rename, {i}")
    held = os.open(b / "two/f", os.O_RDONLY)
    os.rename(a / "two/f", a / "two/g")
    check(os.pread(held, 10, 0) == b"29", "open here, renamed there")
    os.unlink(a / "two/g")
    os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
    check(os.pread(held, 10, 0) == b"29", "open here, removed there")
    os.close(held)
    fd = os.open(a / "two/x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    refused(errno.EEXIST, os.open, b / "two/x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(fd)
    (a / "two/dir").mkdir()
    (a / "two/dir/f").write_text("moved")
    inside = os.open(b / "two/dir", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(a / "two/dir", a / "two/dir2")
    fd = os.open("f", os.O_RDONLY, dir_fd=inside)
    check(os.read(fd, 10) == b"moved", "a directory that was renamed there is still the same one here")
    os.close(fd)
    os.close(inside)


def asked(mount, *ops):
    """How often the kernel asked the mount for these."""
    lines = (mount / ".granary/metrics").read_text().splitlines()
    return sum(int(line.split()[-1]) for line in lines for op in ops if line.startswith(f'granary_mount_op_count{{op="{op}"}}'))


def eventually(what, condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    fail(what)


def watched_files(a, b):
    """Changed at `a`, they show at `b`, where the kernel keeps what it was told."""
    names = ["mode", "size", "gone", "moved", "replaced"] + [f"same{i}" for i in range(30)]
    shutil.rmtree(a / "watched", ignore_errors=True)
    (a / "watched/dir").mkdir(parents=True)
    for n in names:
        (a / "watched" / n).write_text(n)
    (a / "watched/dir/f").write_text("f")

    def look():
        return [(b / "watched" / n).stat() for n in names]

    eventually("files made at the other mount", lambda: all((b / "watched" / n).exists() for n in names))
    eventually("the server tells what changes", lambda: is_kept(b, look))
    old = (b / "watched/dir/f").stat().st_ino
    os.chmod(a / "watched/mode", 0o600)
    (a / "watched/size").write_text("another size")
    os.unlink(a / "watched/gone")
    os.rename(a / "watched/moved", a / "watched/here")
    (a / "watched/new").write_text("new")
    os.rename(a / "watched/new", a / "watched/replaced")
    os.rename(a / "watched/dir", a / "watched/dir2")
    (a / "watched/dir").mkdir()
    w = b / "watched"
    eventually("chmod", lambda: stat.S_IMODE((w / "mode").stat().st_mode) == 0o600)
    eventually("write", lambda: (w / "size").stat().st_size == 12)
    eventually("unlink", lambda: not (w / "gone").exists())
    eventually("rename", lambda: (w / "here").exists() and not (w / "moved").exists())
    eventually("replace", lambda: (w / "replaced").stat().st_ino == (a / "watched/replaced").stat().st_ino)
    eventually("rename of a directory", lambda: not (w / "dir/f").exists() and (w / "dir2/f").stat().st_ino == old)
    check((w / "replaced").read_text() == "new", "bytes of what was replaced")

    def made():
        (w / f"made{time.monotonic_ns()}").write_text("made")
        return stat.S_IMODE(w.stat().st_mode)

    made()
    os.chmod(a / "watched", 0o711)
    eventually("chmod of a directory in which files are made", lambda: made() == 0o711)


def is_kept(b, look):
    """No file is asked for again, though the preset's second is over."""
    look()
    time.sleep(1.3)
    before = asked(b, "GETATTR"), asked(b, "LOOKUP")
    look()
    after = asked(b, "GETATTR"), asked(b, "LOOKUP")
    return after[0] - before[0] < 10 and after[1] - before[1] < 10  # the directory, and .granary itself


def test_watched(server, a, b):
    """What others change is told by the server; when it was started anew, nothing that was kept is taken for true."""
    watched_files(a, b)
    server.kill()
    server.start()
    os.chmod(a / "watched/mode", 0o640)
    eventually("chmod after a restart", lambda: stat.S_IMODE((b / "watched/mode").stat().st_mode) == 0o640)
    watched_files(a, b)


def test_locks(a, b):
    """What one mount locks the other one sees; who dies gives it back."""
    (a / "lock-me").write_text("x")
    fd, other = os.open(a / "lock-me", os.O_RDWR), os.open(b / "lock-me", os.O_RDWR)
    for kind in (fcntl.flock, fcntl.lockf):
        kind(fd, fcntl.LOCK_EX)
        refused(errno.EAGAIN, kind, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kind(fd, fcntl.LOCK_UN)
        kind(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kind(other, fcntl.LOCK_UN)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, b / "lock-me"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    refused(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    threading.Timer(0.3, holder.kill).start()
    fcntl.lockf(fd, fcntl.LOCK_EX)
    holder.wait()
    waiter = subprocess.Popen([sys.executable, "-c", HOLD, b / "lock-me"], stdout=subprocess.PIPE)
    time.sleep(0.3)
    waiter.kill()
    check(waiter.wait(30) == -signal.SIGKILL, "who waits for a lock is killed")
    os.close(fd)
    fcntl.lockf(other, fcntl.LOCK_EX)
    os.close(other)


HOLD = """
import fcntl, sys, time
f = open(sys.argv[1], "r+b")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


# ---- a server that is killed ----

def killer(server, stop):
    while not stop.wait(0.5):
        server.kill()
        server.start()


LINES = """
import os, sys
with open(sys.argv[1], "w", encoding="ascii") as f:
    for line in range(30):
        f.write(f"line {line}\\n")
        f.flush()
        os.fsync(f.fileno())
"""


def test_server_killed(server, top, local):
    """kill -9 while tar, dd and writers with fsync run: each goes on, and all is there."""
    stop = threading.Event()
    thread = threading.Thread(target=killer, args=(server, stop))
    thread.start()
    (top / "killed").mkdir()
    try:
        for i in range(5):
            (top / f"killed/{i}").mkdir()
            sh("tar", "--xattrs", "-xpf", local / "tree.tar", "-C", top / f"killed/{i}")
            sh("dd", f"if={local}/bytes", f"of={top}/killed/dd{i}", "bs=64k", "conv=fsync", "status=none")
            # A process of its own: a server that is started from here would close what is open here, and wait for itself.
            sh(sys.executable, "-c", LINES, top / f"killed/log{i}")
    finally:
        stop.set()
        thread.join()
    server.kill()
    server.start()
    for i in range(5):
        same(local / "tree", top / f"killed/{i}", "tar while the server is killed")
        sh("cmp", local / "bytes", top / f"killed/dd{i}")
        check((top / f"killed/log{i}").read_text() == "".join(f"line {k}\n" for k in range(30)), "lines that were synced")


def test_killed_client(cmd, server, base):
    """The mount's program is killed: what was synced is there, and what was closed a second ago."""
    m = Mount(cmd, "data", base / "mnt2").start()
    (m.at / "after").mkdir()
    with open(m.at / "after/synced", "wb") as f:
        f.write(b"s" * 100_000)
        f.flush()
        os.fsync(f.fileno())
    m.kill()
    m = Mount(cmd, "data", base / "mnt2").start()
    check((m.at / "after/synced").read_bytes() == b"s" * 100_000, "what was synced")
    m.stop()


def test_deadline(cmd, server, base):
    """A server that stands still: an error by the deadline; a process that waits can be killed."""
    m = Mount(cmd, "data", base / "mnt3", "deadline=1s").start()
    (m.at / "there").write_text("x")
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        refused(errno.ETIMEDOUT, os.stat, m.at / "asked-for")
        os.statvfs(m.at)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    check((m.at / "there").read_text() == "x", "after the server went on")
    m.stop()
    m = Mount(cmd, "data", base / "mnt3", "hard").start()
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        p = subprocess.Popen(["stat", str(m.at / "hard-asked")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.2)
        p.kill()
        check(p.wait(20) == -signal.SIGKILL, "a process that waits for ever is killed")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    m.stop()


def test_stopped_mount(cmd, base):
    """A mount's program is stopped for longer than its lease: another mount gets its lock, and what was written through it
    meanwhile, or is after that, gets EIO and changes nothing."""
    a, b = Mount(cmd, "data", base / "mnt-a", "deadline=60s").start(), Mount(cmd, "data", base / "mnt-b").start()
    (a.at / "ours").write_bytes(b"a" * 5000)
    (a.at / "made-locked").write_bytes(b"")
    for kind, name in ((fcntl.flock, "ours"), (fcntl.lockf, "made-locked")):
        fd = os.open(a.at / name, os.O_RDWR)
        kind(fd, fcntl.LOCK_EX)
        os.pwrite(fd, b"first", 0)
        os.fsync(fd)
        other = os.open(b.at / name, os.O_RDWR)
        refused(errno.EAGAIN, kind, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fd, b"stale", 0)  # in the program's memory
        a.process.send_signal(signal.SIGSTOP)
        writer = subprocess.Popen([sys.executable, "-c", WRITES, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE, text=True)
        try:
            kind(other, fcntl.LOCK_EX)  # waits for the lease to end
            os.pwrite(other, b"other", 0)
            os.fsync(other)
        finally:
            a.process.send_signal(signal.SIGCONT)
        check(writer.communicate(timeout=60)[0].strip() == str(errno.EIO), "what was written under a lost lock")
        refused(errno.EIO, os.pwrite, fd, b"again", 0)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what the kernel holds does not come to the mount
        refused(errno.EIO, os.pread, fd, 5, 0)
        refused(errno.EIO, os.fsync, fd)
        check(os.pread(other, 5, 0) == b"other", f"{kind.__name__}: the file has {os.pread(other, 5, 0)}")
        kind(other, fcntl.LOCK_UN)
        os.close(fd)
        os.close(other)
        with open(a.at / name, "r+b") as f:  # and anew
            kind(f, fcntl.LOCK_EX)
            check(f.read(5) == b"other", "what the other one wrote")
            f.seek(0)
            f.write(b"anew!")
            f.flush()
            os.fsync(f.fileno())
        check((b.at / name).read_bytes()[:5] == b"anew!", "a lock taken again")
    a.stop()
    b.stop()


WRITES = """
import os, sys
fd = int(sys.argv[1])
try:
    os.pwrite(fd, b"later", 0)
    os.fsync(fd)
    print(0)
except OSError as e:
    print(e.errno)
"""


def whole(transport, engine):
    base = scratch("live")
    local = base / "local"
    local.mkdir()
    (local / "bytes").write_bytes(os.urandom(3 << 20))
    server = Server(base, engine=engine)
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    m = Mount(cmd, "data", base / "mnt", f"transport={transport}", "deadline=60s").start()
    tests = [("tools", lambda: test_tools(m.at, local)), ("calls", lambda: test_calls(m.at)),
             ("listing", lambda: test_listing(m.at)),
             ("server killed", lambda: test_server_killed(server, m.at, local))]
    if engine:
        tests = tests[:2]
    for name, test in tests:
        begun = time.monotonic()
        test()
        print(f"{transport} {engine or ''} {name}: {time.monotonic() - begun:.1f} s", flush=True)
    if not engine:
        other = Mount(cmd, "data", base / "other", f"transport={transport}").start()
        test_two_mounts(m.at, other.at)
        test_watched(server, m.at, other.at)
        test_locks(m.at, other.at)
        other.stop()
    m.stop()
    if transport == "classic" and not engine:
        test_killed_client(cmd, server, base)
        test_deadline(cmd, server, base)
    check(server.stop() == 0, "the server ends")


def main():
    programs = [p for p in (GRANARY, GRANARYD, MOUNT) if not p.exists()]
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or programs:
        skip("needs /dev/fuse, root and granary-mount")
    whole("classic", None)
    base = scratch("live")
    server = Server(base, settings={"lease": "2s"})
    server.start()
    cmd = Command(server)
    cmd.run("bucket", "create", f"{server.url}/data")
    test_stopped_mount(cmd, base)
    check(server.stop() == 0, "the server ends")
    try:
        uring = pathlib.Path("/sys/module/fuse/parameters/enable_uring").read_text().strip() == "Y"
    except OSError:
        uring = False
    if uring:
        whole("uring", None)
    else:
        print("not tried: FUSE over io_uring (/sys/module/fuse/parameters/enable_uring is not Y)")
    whole("classic", "threads")
    print("passed")


if __name__ == "__main__":
    main()
