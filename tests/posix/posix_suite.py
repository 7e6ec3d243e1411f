#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""posix_suite -- what POSIX and the Linux manual pages say of file system calls, case by case and errno by errno.

  posix_suite.py DIRECTORY [--only WORD] [--list]

Each case gets an empty directory of its own below DIRECTORY and asserts what a call returns, which errno it fails with, and
what it does to link counts, sizes and times. Cases marked `user` run as uid 65534 without capabilities, in a directory that
is its own. Needs root. Meant to be all green on ext4, and then on whatever else is to be a POSIX file system; a case whose
name is in a file system's list of agreed differences (--differs NAME) must then differ, so that the list stays true.
Prints a line for each failure; last line: "N passed, N failed".
"""
import argparse
import ctypes
import errno
import fcntl
import inspect
import mmap
import os
import pathlib
import shutil
import signal
import socket
import stat
import struct
import sys
import time
import traceback

NOBODY = 65534
CASES = []
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO = 1, 2, 8, 16
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def case(f):
    CASES.append((f.__name__, f, False))
    return f


def user(f):
    CASES.append((f.__name__, f, True))
    return f


def fails(number, call, *args, **kw):
    """The call must fail with this errno (or one of these)."""
    numbers = number if isinstance(number, tuple) else (number,)
    try:
        got = call(*args, **kw)
    except OSError as e:
        if e.errno not in numbers:
            raise AssertionError(f"{call.__name__}{args}: {errno.errorcode.get(e.errno, e.errno)}, not "
                                 f"{[errno.errorcode[n] for n in numbers]}") from None
        return
    raise AssertionError(f"{call.__name__}{args}: {got!r}, not {[errno.errorcode[n] for n in numbers]}")


def same(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, not {wanted!r}")


def true(value, what=""):
    if not value:
        raise AssertionError(what or "does not hold")


def make(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode)
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


def text(path):
    with open(path, "rb") as f:
        return f.read()


def nlink(path):
    return os.lstat(path).st_nlink


def tick():
    """Times of the file system that are taken after this are greater than those before (clocks tick in 4 ms)."""
    time.sleep(0.012)


class Times:
    """Which times of paths a block of calls changes: with Times(a=..., b=...) as t: ...; t.check(a="cm", b="")."""

    def __init__(self, **paths):
        self.paths = paths

    def __enter__(self):
        self.before = {n: os.lstat(p) for n, p in self.paths.items()}
        tick()
        return self

    def __exit__(self, *exc):
        self.after = {n: os.lstat(p) for n, p in self.paths.items() if os.path.lexists(p)}

    def check(self, **wanted):
        for name, letters in wanted.items():
            a, b = self.before[name], self.after[name]
            got = "".join(x for x, y in (("c", a.st_ctime_ns != b.st_ctime_ns), ("m", a.st_mtime_ns != b.st_mtime_ns)) if y)
            same(got, letters, f"times of {name} that changed")
            true(b.st_ctime_ns >= a.st_ctime_ns, f"ctime of {name} went back")


def renameat2(src, dst, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(src), AT_FDCWD, os.fsencode(dst), flags) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


def fallocate(fd, mode, offset, length):
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


def as_user(f, *args):
    """In a child without privileges; an assertion there is one here."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            f(*args)
            os._exit(0)
        except BaseException as e:
            os.write(w, f"{e}\n{traceback.format_exc(limit=-3)}".encode()[:60000])
            os._exit(1)
    os.close(w)
    with os.fdopen(r, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise AssertionError(said.strip() or f"ended with {status}")


N255, N256 = "n" * 255, "n" * 256


def long_path():
    """A path of more than 4,095 bytes, of short components."""
    return "/".join(["d" * 200] * 21)


# ---- open, creat ----


@case
def open_creates_with_mode_and_umask(d):
    old = os.umask(0o027)
    try:
        fd = os.open("f", os.O_CREAT | os.O_WRONLY, 0o666)
        st = os.fstat(fd)
        os.close(fd)
        same(stat.S_IMODE(st.st_mode), 0o640)
        same((st.st_size, st.st_nlink, st.st_uid, st.st_gid), (0, 1, 0, 0))
        true(stat.S_ISREG(st.st_mode))
    finally:
        os.umask(old)


@case
def open_excl(d):
    make("f")
    fails(errno.EEXIST, os.open, "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("none", "l")
    fails(errno.EEXIST, os.open, "l", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.mkdir("sub")
    fails(errno.EEXIST, os.open, "sub", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@case
def open_missing(d):
    fails(errno.ENOENT, os.open, "none", os.O_RDONLY)
    fails(errno.ENOENT, os.open, "none/f", os.O_CREAT | os.O_WRONLY)
    fails(errno.ENOENT, os.open, "", os.O_RDONLY)


@case
def open_through_a_file(d):
    make("f")
    fails(errno.ENOTDIR, os.open, "f/x", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, "f/x", os.O_CREAT | os.O_WRONLY)
    fails(errno.ENOTDIR, os.open, "f/", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, "f", os.O_RDONLY | os.O_DIRECTORY)


@case
def open_directory(d):
    os.mkdir("sub")
    fails(errno.EISDIR, os.open, "sub", os.O_WRONLY)
    fails(errno.EISDIR, os.open, "sub", os.O_RDWR)
    fails(errno.EISDIR, os.open, "sub", os.O_CREAT | os.O_RDWR)
    fd = os.open("sub", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.read, fd, 1)
    os.close(fd)


@case
def open_symlinks(d):
    os.symlink("f", "l")
    make("f", b"abc")
    same(text("l"), b"abc")
    fails(errno.ELOOP, os.open, "l", os.O_RDONLY | os.O_NOFOLLOW)
    os.symlink("b", "a")
    os.symlink("a", "b")
    fails(errno.ELOOP, os.open, "a", os.O_RDONLY)
    os.symlink("new", "dangling")
    fd = os.open("dangling", os.O_CREAT | os.O_WRONLY, 0o600)
    os.close(fd)
    true(os.path.exists("new"))


@case
def open_truncates(d):
    make("f", b"hello")
    with Times(f="f") as t:
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    t.check(f="cm")
    same(os.stat("f").st_size, 0)


@case
def open_without_truncation_changes_nothing(d):
    make("f", b"hello")
    with Times(f="f", d=".") as t:
        os.close(os.open("f", os.O_RDWR))
        os.close(os.open("f", os.O_RDWR | os.O_CREAT, 0o600))
    t.check(f="", d="")


@case
def open_create_changes_the_directory(d):
    os.mkdir("sub")
    with Times(sub="sub") as t:
        make("sub/f")
    t.check(sub="cm")


@case
def open_names(d):
    make(N255)
    same(os.listdir("."), [N255])
    fails(errno.ENAMETOOLONG, os.open, N256, os.O_CREAT | os.O_WRONLY)
    fails(errno.ENAMETOOLONG, os.open, N256, os.O_RDONLY)
    fails(errno.ENAMETOOLONG, os.open, "/".join(["."] * 2049), os.O_RDONLY)
    make("a b\t\n\"'\\*?é")
    true(os.path.exists("a b\t\n\"'\\*?é"))


@case
def open_deep_paths(d):
    here = os.open(".", os.O_RDONLY)
    try:
        for _ in range(21):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        make("deepest", b"x")
        same(text("deepest"), b"x")
        os.fchdir(here)
        fails(errno.ENAMETOOLONG, os.stat, long_path() + "/deepest")
    finally:
        os.fchdir(here)
        os.close(here)


@case
def open_access_modes(d):
    make("f", b"x")
    r, w = os.open("f", os.O_RDONLY), os.open("f", os.O_WRONLY)
    fails(errno.EBADF, os.write, r, b"y")
    fails(errno.EBADF, os.read, w, 1)
    os.close(r)
    os.close(w)
    fails(errno.EBADF, os.fstat, w)


@case
def open_path_only(d):
    make("f", b"x")
    fd = os.open("f", os.O_PATH)
    fails(errno.EBADF, os.read, fd, 1)
    same(os.fstat(fd).st_size, 1)
    os.close(fd)


@user
def open_permissions(d):
    make("f", b"x", 0o400)
    fails(errno.EACCES, os.open, "f", os.O_WRONLY)
    os.close(os.open("f", os.O_RDONLY))
    os.chmod("f", 0o200)
    fails(errno.EACCES, os.open, "f", os.O_RDONLY)
    os.mkdir("closed", 0o600)
    fails(errno.EACCES, os.open, "closed/f", os.O_CREAT | os.O_WRONLY)
    os.mkdir("readonly", 0o500)
    fails(errno.EACCES, os.open, "readonly/f", os.O_CREAT | os.O_WRONLY)
    fd = os.open("new", os.O_CREAT | os.O_RDWR, 0o000)
    same(os.write(fd, b"mine"), 4)
    os.close(fd)


# ---- read, write, append, holes ----


@case
def write_and_read(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    same(os.write(fd, b"hello world"), 11)
    same(os.lseek(fd, 0, os.SEEK_SET), 0)
    same(os.read(fd, 5), b"hello")
    same(os.pread(fd, 100, 6), b"world")
    same(os.read(fd, 100), b" world")
    same(os.read(fd, 1), b"")
    same(os.pread(fd, 5, 1000), b"")
    same(os.pwrite(fd, b"W", 6), 1)
    same(os.pread(fd, 100, 0), b"hello World")
    os.close(fd)
    same(text("f"), b"hello World")


@case
def write_past_the_end_leaves_zeros(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, b"x", 100000)
    same(os.fstat(fd).st_size, 100001)
    same(os.pread(fd, 200000, 0), b"\0" * 100000 + b"x")
    os.pwrite(fd, b"y", 50000)
    same(os.pread(fd, 3, 49999), b"\0y\0")
    os.close(fd)
    same(len(text("f")), 100001)


@case
def write_overlapping(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    model = bytearray(300000)
    for i, (offset, length) in enumerate([(0, 70000), (65536, 65536), (1000, 5), (131000, 100), (64000, 4096), (299999, 1)]):
        data = bytes([65 + i]) * length
        os.pwrite(fd, data, offset)
        model[offset:offset + length] = data
    same(os.pread(fd, 400000, 0), bytes(model))
    os.fsync(fd)
    os.close(fd)
    same(text("f"), bytes(model))


@case
def write_times(d):
    make("f", b"a")
    fd = os.open("f", os.O_WRONLY)
    with Times(f="f", d=".") as t:
        os.write(fd, b"b")
        os.fsync(fd)
    t.check(f="cm", d="")
    with Times(f="f") as t:
        os.close(fd)
    t.check(f="")


@case
def write_of_nothing(d):
    make("f", b"a")
    fd = os.open("f", os.O_WRONLY)
    with Times(f="f") as t:
        same(os.write(fd, b""), 0)
    t.check(f="")
    os.close(fd)


@case
def append(d):
    make("f", b"one")
    a, b = os.open("f", os.O_WRONLY | os.O_APPEND), os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(a, b"two")
    os.write(b, b"three")
    os.lseek(a, 0, os.SEEK_SET)
    os.write(a, b"four")
    same(os.lseek(a, 0, os.SEEK_CUR), 15)
    os.close(a)
    os.close(b)
    same(text("f"), b"onetwothreefour")


@case
def large_file(d):
    block = os.urandom(1 << 20)
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    for i in range(24):
        same(os.write(fd, block), len(block))
    same(os.fstat(fd).st_size, 24 << 20)
    for i in (0, 11, 23):
        same(os.pread(fd, 1 << 20, i << 20), block)
    same(os.pread(fd, 1000, (7 << 20) - 500), block[-500:] + block[:500])
    os.close(fd)


@case
def sparse_file_of_50_gib(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, b"end", 50 << 30)
    same(os.fstat(fd).st_size, (50 << 30) + 3)
    same(os.pread(fd, 10, (50 << 30) - 2), b"\0\0end")
    same(os.pread(fd, 4, 25 << 30), b"\0" * 4)
    true(os.fstat(fd).st_blocks * 512 < 1 << 20, "blocks of a sparse file")
    os.close(fd)


def kib(path):
    """What is allocated, in KiB."""
    return os.stat(path).st_blocks // 2


@case
def blocks_of_sparse_files(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.ftruncate(fd, 50 << 30)
    same(kib("f"), 0, "of a file that is one hole")
    os.pwrite(fd, b"x" * 65536, 1 << 30)
    os.fsync(fd)
    same(kib("f"), 64, "one stretch")
    os.pwrite(fd, b"y" * 65536, 1 << 30)
    os.pwrite(fd, b"z" * 4096, 40 << 30)
    os.fsync(fd)
    same(kib("f"), 68, "one of them twice, and another one")
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, (1 << 30) + 8192, 16384)
    same(kib("f"), 52, "punched")
    os.ftruncate(fd, (1 << 30) + 4096)
    same((kib("f"), os.fstat(fd).st_size), (4, (1 << 30) + 4096), "cut")
    os.close(fd)
    same(kib("f"), 4, "closed")
    os.truncate("f", 0)
    same(kib("f"), 0, "empty")


@case
def blocks_of_dense_files(d):
    make("f", b"x" * (1 << 20))
    os.close(os.open("f", os.O_RDWR))
    fd = os.open("f", os.O_RDWR)
    os.fsync(fd)
    same(kib("f"), 1024)
    os.pwrite(fd, b"y" * 4096, 8192)
    os.pwrite(fd, b"y" * 4096, 1 << 20)
    os.fsync(fd)
    same(kib("f"), 1028)
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 2 << 20)
    os.close(fd)
    same((kib("f"), os.stat("f").st_size), (0, (1 << 20) + 4096))
    with os.scandir(".") as found:
        same([e.stat().st_blocks for e in found], [0])


@case
def offset_errors(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    fails(errno.EINVAL, os.lseek, fd, -1, os.SEEK_SET)
    fails(errno.EINVAL, os.pread, fd, 1, -1)
    fails(errno.EINVAL, os.pwrite, fd, b"x", -1)
    same(os.lseek(fd, 100, os.SEEK_END), 100)
    same(os.read(fd, 1), b"")
    os.close(fd)


@case
def vectors(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    same(os.writev(fd, [b"ab", b"", b"cde"]), 5)
    a, b = bytearray(3), bytearray(10)
    same(os.preadv(fd, [a, b], 0), 5)
    same((bytes(a), bytes(b[:2])), (b"abc", b"de"))
    os.close(fd)


@case
def two_descriptors_see_each_other(d):
    a, b = os.open("f", os.O_CREAT | os.O_RDWR, 0o644), os.open("f", os.O_RDWR)
    os.write(a, b"12345")
    same(os.read(b, 10), b"12345")
    os.pwrite(b, b"x", 2)
    same(os.pread(a, 5, 0), b"12x45")
    same(os.fstat(b).st_size, 5)
    os.close(a)
    os.close(b)


@case
def dup_shares_the_offset(d):
    make("f", b"abcdef")
    a = os.open("f", os.O_RDONLY)
    b = os.dup(a)
    same(os.read(a, 2), b"ab")
    same(os.read(b, 2), b"cd")
    os.close(a)
    same(os.read(b, 2), b"ef")
    os.close(b)


# ---- truncate, fallocate, seek ----


@case
def truncate_down_and_up(d):
    make("f", b"x" * 200000)
    os.truncate("f", 100001)
    same(os.stat("f").st_size, 100001)
    os.truncate("f", 150000)
    same(text("f"), b"x" * 100001 + b"\0" * 49999)
    os.truncate("f", 0)
    os.truncate("f", 10)
    same(text("f"), b"\0" * 10)


@case
def truncate_times(d):
    make("f", b"abc")
    for size in (1, 5):
        with Times(f="f", d=".") as t:
            os.truncate("f", size)
        t.check(f="cm", d="")
    fd = os.open("f", os.O_RDWR)
    with Times(f="f") as t:
        os.ftruncate(fd, 3)
    t.check(f="cm")
    os.close(fd)


@case
def truncate_errors(d):
    os.mkdir("sub")
    make("f")
    fails(errno.EISDIR, os.truncate, "sub", 0)
    fails(errno.ENOENT, os.truncate, "none", 0)
    fails(errno.ENOTDIR, os.truncate, "f/x", 0)
    fails(errno.EINVAL, os.truncate, "f", -1)
    fd = os.open("f", os.O_RDONLY)
    fails((errno.EINVAL, errno.EBADF), os.ftruncate, fd, 0)
    os.close(fd)


@user
def truncate_permissions(d):
    make("f", b"abc", 0o400)
    fails(errno.EACCES, os.truncate, "f", 0)
    same(text("f"), b"abc")


@case
def fallocate_grows_or_keeps(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    fallocate(fd, 0, 0, 10000)
    same(os.fstat(fd).st_size, 10000)
    fallocate(fd, FALLOC_KEEP_SIZE, 0, 50000)
    same(os.fstat(fd).st_size, 10000)
    same(os.pread(fd, 20000, 0), b"\0" * 10000)
    fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
    fails(errno.EINVAL, fallocate, fd, 0, -1, 10)
    os.close(fd)


@case
def fallocate_punch_and_zero(d):
    data = os.urandom(300000)
    make("f", data)
    fd = os.open("f", os.O_RDWR)
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 65536, 65536)
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 5, 10)
    fallocate(fd, FALLOC_ZERO, 200000, 50000)
    wanted = bytearray(data)
    wanted[65536:131072] = bytes(65536)
    wanted[5:15] = bytes(10)
    wanted[200000:250000] = bytes(50000)
    same(os.pread(fd, 400000, 0), bytes(wanted))
    same(os.fstat(fd).st_size, 300000)
    fallocate(fd, FALLOC_ZERO, 290000, 20000)
    same(os.fstat(fd).st_size, 310000)
    fails((errno.EOPNOTSUPP, errno.EINVAL), fallocate, fd, FALLOC_PUNCH_HOLE, 0, 10)
    os.close(fd)


@case
def fallocate_refusals(d):
    make("f", b"abc")
    fd = os.open("f", os.O_RDONLY)
    fails(errno.EBADF, fallocate, fd, 0, 0, 10)
    os.close(fd)


@case
def seek_data_and_hole(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, b"x" * 65536, 1 << 20)
    os.ftruncate(fd, 2 << 20)
    os.fsync(fd)
    same(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
    same(os.lseek(fd, 1 << 20, os.SEEK_HOLE), (1 << 20) + 65536)
    same(os.lseek(fd, 0, os.SEEK_HOLE), 0)
    fails(errno.ENXIO, os.lseek, fd, (1 << 20) + 65536, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_HOLE)
    os.close(fd)


@case
def copy_file_range(d):
    data = os.urandom(500000)
    make("a", data)
    a, b = os.open("a", os.O_RDONLY), os.open("b", os.O_CREAT | os.O_RDWR, 0o644)
    done = 0
    while done < 400000:
        n = os.copy_file_range(a, b, 400000 - done, 50000 + done, 10 + done)
        true(n > 0)
        done += n
    same(os.pread(b, 500000, 0), b"\0" * 10 + data[50000:450000])
    same(os.copy_file_range(a, b, 10, 500000, 0), 0)
    fails(errno.EBADF, os.copy_file_range, b, a, 10, 0, 0)
    os.close(a)
    os.close(b)


# ---- mmap ----


@case
def mmap_shared_writes(d):
    make("f", b"\0" * 10000)
    fd = os.open("f", os.O_RDWR)
    m = mmap.mmap(fd, 10000)
    m[5000:5005] = b"hello"
    same(os.pread(fd, 5, 5000), b"hello")
    os.pwrite(fd, b"J", 5000)
    same(m[5000:5005], b"Jello")
    m.flush()
    m.close()
    os.close(fd)
    same(text("f")[5000:5005], b"Jello")


@case
def mmap_private_does_not_write(d):
    make("f", b"a" * 5000)
    fd = os.open("f", os.O_RDONLY)
    m = mmap.mmap(fd, 5000, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    m[0:1] = b"b"
    m.close()
    os.close(fd)
    same(text("f")[:1], b"a")


@case
def mmap_outlives_the_descriptor(d):
    make("f", b"a" * 5000)
    fd = os.open("f", os.O_RDWR)
    m = mmap.mmap(fd, 5000)
    os.close(fd)
    m[4999:5000] = b"z"
    m.flush()
    m.close()
    same(text("f")[-1:], b"z")


@case
def mmap_of_a_read_only_descriptor(d):
    make("f", b"a" * 5000)
    fd = os.open("f", os.O_RDONLY)
    fails(errno.EACCES, mmap.mmap, fd, 5000)
    mmap.mmap(fd, 5000, mmap.MAP_SHARED, mmap.PROT_READ).close()
    os.close(fd)


# ---- stat, chmod, chown, utimens ----


@case
def stat_of_each_kind(d):
    make("f", b"abc")
    os.mkdir("dir")
    os.symlink("target", "link")
    os.mkfifo("fifo")
    os.mknod("char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod("block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    s = socket.socket(socket.AF_UNIX)
    s.bind("sock")
    s.close()
    kinds = {"f": stat.S_ISREG, "dir": stat.S_ISDIR, "link": stat.S_ISLNK, "fifo": stat.S_ISFIFO, "char": stat.S_ISCHR,
             "block": stat.S_ISBLK, "sock": stat.S_ISSOCK}
    inodes = set()
    for name, judge in kinds.items():
        st = os.lstat(name)
        true(judge(st.st_mode), name)
        same(st.st_nlink, 2 if name == "dir" else 1, name)
        inodes.add(st.st_ino)
    same(len(inodes), len(kinds), "inode numbers")
    same(os.lstat("char").st_rdev, os.makedev(1, 3))
    same(os.lstat("link").st_size, 6)
    with os.scandir(".") as it:
        for e in it:
            same(e.is_dir(follow_symlinks=False), e.name == "dir", e.name)
            same(e.is_symlink(), e.name == "link", e.name)
            same(e.inode(), os.lstat(e.name).st_ino, e.name)


@case
def inode_numbers_last(d):
    make("a")
    os.mkdir("b")
    before = (os.stat("a").st_ino, os.stat("b").st_ino)
    os.rename("a", "b/c")
    same(os.stat("b/c").st_ino, before[0])
    os.rename("b", "e")
    same((os.stat("e/c").st_ino, os.stat("e").st_ino), before)
    same(os.stat("e/.").st_ino, before[1])
    same(os.stat("e/c/..".replace("c/..", ".")).st_ino, before[1])


@case
def chmod_changes_ctime(d):
    make("f")
    with Times(f="f", d=".") as t:
        os.chmod("f", 0o4751)
    t.check(f="c", d="")
    same(stat.S_IMODE(os.stat("f").st_mode), 0o4751)
    os.mkdir("dir")
    os.chmod("dir", 0o3777)
    same(stat.S_IMODE(os.stat("dir").st_mode), 0o3777)
    fails(errno.ENOENT, os.chmod, "none", 0o600)
    os.symlink("f", "l")
    os.chmod("l", 0o600)
    same(stat.S_IMODE(os.stat("f").st_mode), 0o600)


@case
def fchmod_of_an_unlinked_file(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.unlink("f")
    os.fchmod(fd, 0o400)
    same(stat.S_IMODE(os.fstat(fd).st_mode), 0o400)
    same(os.fstat(fd).st_nlink, 0)
    os.close(fd)


@user
def chmod_permissions(d):
    make("f")
    os.chmod("f", 0o600)
    fails(errno.EPERM, os.chmod, "/", 0o777)


@case
def chmod_of_others(d):
    make("f")

    def other():
        fails(errno.EPERM, os.chmod, "f", 0o777)
        fails(errno.EPERM, os.chown, "f", NOBODY, NOBODY)
        fails((errno.EPERM, errno.EACCES), os.utime, "f")
    as_user(other)


@case
def chown(d):
    make("f")
    with Times(f="f") as t:
        os.chown("f", 123, 456)
    t.check(f="c")
    st = os.stat("f")
    same((st.st_uid, st.st_gid), (123, 456))
    os.chown("f", -1, 7)
    os.chown("f", 8, -1)
    st = os.stat("f")
    same((st.st_uid, st.st_gid), (8, 7))
    os.symlink("f", "l")
    os.lchown("l", 5, 6)
    same((os.lstat("l").st_uid, os.stat("f").st_uid), (5, 8))
    fails(errno.ENOENT, os.chown, "none", 1, 1)


@case
def chown_clears_setuid(d):
    make("f", b"", 0o755)
    os.chmod("f", 0o6755)
    os.chown("f", 100, 100)
    same(stat.S_IMODE(os.stat("f").st_mode), 0o755)
    os.mkdir("dir")
    os.chmod("dir", 0o6755)
    os.chown("dir", 100, 100)
    same(stat.S_IMODE(os.stat("dir").st_mode), 0o6755)


@case
def write_by_others_clears_setuid(d):
    make("f", b"x")
    os.chmod("f", 0o6777)

    def other():
        fd = os.open("f", os.O_WRONLY)
        os.write(fd, b"y")
        os.close(fd)
    os.chmod(".", 0o777)
    as_user(other)
    same(stat.S_IMODE(os.stat("f").st_mode), 0o777)


@case
def truncate_by_others_clears_setuid(d):
    make("f", b"xyz")
    os.chmod("f", 0o6777)
    as_user(os.truncate, "f", 1)
    same(stat.S_IMODE(os.stat("f").st_mode), 0o777)


@case
def utimens(d):
    make("f")
    with Times(f="f", d=".") as t:
        os.utime("f", ns=(123456789012345678, 987654321098765432))
    st = os.stat("f")
    same((st.st_atime_ns, st.st_mtime_ns), (123456789012345678, 987654321098765432))
    t.check(f="cm", d="")
    before = time.time_ns() - 2_000_000_000
    os.utime("f")
    true(os.stat("f").st_mtime_ns >= before, "now")
    os.utime("f", ns=(0, 0))
    same((os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns), (0, 0))
    os.symlink("f", "l")
    os.utime("l", ns=(5, 6), follow_symlinks=False)
    same((os.lstat("l").st_mtime_ns, os.stat("f").st_mtime_ns), (6, 0))


@case
def utimens_of_a_new_sparse_file(d):
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"x" * 100, 400_000)
    os.pwrite(fd, b"y" * 100, 200_000)
    os.utime(fd, ns=(5, 7_000_000_002))
    same(os.pread(fd, 3, 200_000), b"yyy")
    same(os.fstat(fd).st_mtime_ns, 7_000_000_002)
    os.close(fd)
    same(os.stat("f").st_mtime_ns, 7_000_000_002)


@case
def utimens_omit(d):
    make("f")
    os.utime("f", ns=(111, 222))

    def utimensat(a, m):
        times = struct.pack("qqqq", 0, a, 0, m)
        same(libc.utimensat(AT_FDCWD, b"f", times, 0), 0)
    utimensat(UTIME_OMIT, 333)
    st = os.stat("f")
    same((st.st_atime_ns, st.st_mtime_ns), (111, 333))
    utimensat(444, UTIME_OMIT)
    st = os.stat("f")
    same((st.st_atime_ns, st.st_mtime_ns), (444, 333))
    utimensat(UTIME_OMIT, UTIME_NOW)
    true(os.stat("f").st_mtime_ns > 10**18 and os.stat("f").st_atime_ns == 444)


@case
def utimens_by_others(d):
    make("f")
    os.chmod("f", 0o666)

    def other():
        os.utime("f")
        fails(errno.EPERM, os.utime, "f", (1, 1))
    as_user(other)


@case
def access(d):
    make("f", b"", 0o640)
    true(os.access("f", os.R_OK | os.W_OK))
    true(not os.access("f", os.X_OK))
    true(not os.access("none", os.F_OK))

    def other():
        true(not os.access("f", os.R_OK))
        true(os.access("f", os.F_OK))
    as_user(other)


@case
def groups_give_access(d):
    make("f", b"x", 0o040)
    os.chown("f", 1, NOBODY)

    def member():
        os.close(os.open("f", os.O_RDONLY))
        fails(errno.EACCES, os.open, "f", os.O_WRONLY)
    as_user(member)


@case
def owners_bits_come_first(d):
    make("f", b"x", 0o077)
    os.chown("f", NOBODY, NOBODY)
    os.chmod("f", 0o077)

    def owner():
        fails(errno.EACCES, os.open, "f", os.O_RDONLY)
    as_user(owner)


@case
def setgid_directories_hand_on_their_group(d):
    os.mkdir("dir")
    os.chown("dir", 0, 4711)
    os.chmod("dir", 0o2777)
    make("dir/f")
    os.mkdir("dir/sub")
    same(os.stat("dir/f").st_gid, 4711)
    same(os.stat("dir/sub").st_gid, 4711)
    true(os.stat("dir/sub").st_mode & stat.S_ISGID)


# ---- mkdir, rmdir ----


@case
def mkdir_counts_links(d):
    base = nlink(".")
    with Times(d=".") as t:
        os.mkdir("a", 0o750)
    t.check(d="cm")
    same((nlink("."), nlink("a")), (base + 1, 2))
    os.mkdir("a/b")
    same((nlink("."), nlink("a")), (base + 1, 3))
    os.rmdir("a/b")
    same(nlink("a"), 2)
    with Times(d=".") as t:
        os.rmdir("a")
    t.check(d="cm")
    same(nlink("."), base)


@case
def mkdir_errors(d):
    make("f")
    os.mkdir("dir")
    os.symlink("none", "l")
    for name in ("f", "dir", "l", "dir/", ".", "..", "/"):
        fails(errno.EEXIST, os.mkdir, name)
    fails(errno.ENOENT, os.mkdir, "none/x")
    fails(errno.ENOTDIR, os.mkdir, "f/x")
    fails(errno.ENAMETOOLONG, os.mkdir, N256)
    os.mkdir(N255)
    os.mkdir("slash/")
    true(os.path.isdir("slash"))


@case
def mkdir_mode(d):
    old = os.umask(0o022)
    try:
        os.mkdir("a", 0o1777)
        same(stat.S_IMODE(os.stat("a").st_mode), 0o1755)
    finally:
        os.umask(old)


@user
def mkdir_permissions(d):
    os.mkdir("closed", 0o500)
    fails(errno.EACCES, os.mkdir, "closed/x")
    os.mkdir("nosearch", 0o200)
    fails(errno.EACCES, os.mkdir, "nosearch/x")


@case
def rmdir_errors(d):
    make("f")
    os.mkdir("full")
    make("full/x")
    os.mkdir("e")
    os.symlink("e", "l")
    fails(errno.ENOTEMPTY, os.rmdir, "full")
    fails(errno.ENOTDIR, os.rmdir, "f")
    fails(errno.ENOTDIR, os.rmdir, "l")
    fails(errno.ENOENT, os.rmdir, "none")
    fails(errno.EINVAL, os.rmdir, "e/.")
    fails(errno.ENOTEMPTY, os.rmdir, "e/..")
    fails(errno.ENOTDIR, os.rmdir, "f/x")
    os.rmdir("e/")


@case
def rmdir_of_an_open_directory(d):
    os.mkdir("a")
    fd = os.open("a", os.O_RDONLY)
    os.rmdir("a")
    same(os.listdir(fd), [])
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


@case
def many_directories(d):
    for i in range(300):
        os.mkdir(str(i))
    same(nlink("."), 302)
    same(sorted(os.listdir("."), key=int), [str(i) for i in range(300)])
    for i in range(300):
        os.rmdir(str(i))
    same(nlink("."), 2)


# ---- unlink, link, symlink ----


@case
def unlink_times(d):
    make("a")
    os.link("a", "b")
    with Times(b="b", d=".") as t:
        os.unlink("a")
    t.check(b="c", d="cm")
    same(nlink("b"), 1)


@case
def unlink_errors(d):
    os.mkdir("dir")
    make("f")
    fails(errno.EISDIR, os.unlink, "dir")
    fails(errno.ENOENT, os.unlink, "none")
    fails(errno.ENOTDIR, os.unlink, "f/x")
    fails(errno.ENOTDIR, os.unlink, "f/")
    fails(errno.ENAMETOOLONG, os.unlink, N256)


@case
def unlinked_files_live_while_open(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"hello")
    os.unlink("f")
    fails(errno.ENOENT, os.stat, "f")
    same(os.fstat(fd).st_nlink, 0)
    same(os.pread(fd, 10, 0), b"hello")
    os.pwrite(fd, b"J" + b"x" * 100000, 0)
    same(os.fstat(fd).st_size, 100001)
    make("f", b"another")
    same(os.pread(fd, 2, 0), b"Jx")
    os.ftruncate(fd, 1)
    same(os.pread(fd, 10, 0), b"J")
    os.close(fd)
    same(text("f"), b"another")


@user
def unlink_permissions(d):
    os.mkdir("dir")
    make("dir/f")
    os.chmod("dir", 0o500)
    fails(errno.EACCES, os.unlink, "dir/f")
    os.chmod("dir", 0o700)
    os.unlink("dir/f")


@case
def sticky_directories(d):
    os.mkdir("tmp")
    os.chmod("tmp", 0o1777)
    make("tmp/roots", b"x", 0o666)
    os.mkdir("tmp/dir")

    def other():
        fails((errno.EPERM, errno.EACCES), os.unlink, "tmp/roots")
        fails((errno.EPERM, errno.EACCES), os.rmdir, "tmp/dir")
        fails((errno.EPERM, errno.EACCES), os.rename, "tmp/roots", "tmp/mine")
        make("tmp/own")
        fails((errno.EPERM, errno.EACCES), os.rename, "tmp/own", "tmp/roots")
        os.rename("tmp/own", "tmp/own2")
        os.unlink("tmp/own2")
    as_user(other)


@case
def link_counts(d):
    make("a", b"x")
    os.mkdir("sub")
    with Times(a="a", sub="sub", d=".") as t:
        os.link("a", "sub/b")
    t.check(a="c", sub="cm", d="")
    same((nlink("a"), os.stat("a").st_ino), (2, os.stat("sub/b").st_ino))
    fd = os.open("sub/b", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"y")
    os.close(fd)
    same(text("a"), b"xy")
    os.chmod("a", 0o600)
    same(stat.S_IMODE(os.stat("sub/b").st_mode), 0o600)
    os.unlink("a")
    same((text("sub/b"), nlink("sub/b")), (b"xy", 1))


@case
def link_errors(d):
    make("a")
    make("b")
    os.mkdir("dir")
    fails(errno.EEXIST, os.link, "a", "b")
    fails(errno.EEXIST, os.link, "a", "a")
    fails(errno.EEXIST, os.link, "a", "dir")
    fails(errno.ENOENT, os.link, "none", "c")
    fails(errno.ENOENT, os.link, "a", "none/c")
    fails(errno.EPERM, os.link, "dir", "c")
    fails(errno.ENOTDIR, os.link, "a", "b/c")
    fails(errno.ENAMETOOLONG, os.link, "a", N256)
    fails(errno.EXDEV, os.link, "a", "/dev/shm/granary-posix-link")


@case
def link_of_a_symlink_and_a_fifo(d):
    os.symlink("none", "l")
    os.link("l", "l2", follow_symlinks=False)
    same((os.readlink("l2"), nlink("l")), ("none", 2))
    os.mkfifo("p")
    os.link("p", "p2")
    same(nlink("p2"), 2)
    true(stat.S_ISFIFO(os.lstat("p2").st_mode))


@case
def symlinks(d):
    with Times(d=".") as t:
        os.symlink("../x y/é", "l")
    t.check(d="cm")
    same(os.readlink("l"), "../x y/é")
    same(os.lstat("l").st_size, len(os.fsencode("../x y/é")))
    same(stat.S_IMODE(os.lstat("l").st_mode), 0o777)
    fails(errno.EEXIST, os.symlink, "y", "l")
    fails(errno.ENOENT, os.symlink, "y", "none/l")
    fails(errno.ENOENT, os.symlink, "", "m")
    fails(errno.ENAMETOOLONG, os.symlink, "y", N256)
    fails(errno.ENAMETOOLONG, os.symlink, "y" * 4096, "m")
    os.symlink("y" * 4095, "m")
    same(len(os.readlink("m")), 4095)
    make("f")
    fails(errno.EINVAL, os.readlink, "f")
    fails(errno.ENOENT, os.readlink, "none")
    os.unlink("l")
    fails(errno.ENOENT, os.readlink, "l")


@case
def symlinks_in_paths(d):
    os.mkdir("dir")
    make("dir/f", b"x")
    os.symlink("dir", "l")
    same(text("l/f"), b"x")
    os.symlink("dir/f", "lf")
    fails(errno.ENOTDIR, os.stat, "lf/x")
    os.symlink(os.path.abspath("dir"), "absolute")
    same(text("absolute/f"), b"x")


# ---- rename ----


@case
def rename_replaces_a_file(d):
    make("a", b"a")
    make("b", b"b")
    inode = os.stat("a").st_ino
    fd = os.open("b", os.O_RDONLY)
    with Times(a="a", d=".") as t:
        os.rename("a", "b")
    t.check(d="cm")
    same((text("b"), os.stat("b").st_ino), (b"a", inode))
    same((os.read(fd, 5), os.fstat(fd).st_nlink), (b"b", 0))
    os.close(fd)
    same(os.listdir("."), ["b"])


@case
def rename_changes_ctime_and_both_directories(d):
    os.mkdir("x")
    os.mkdir("y")
    make("x/f")
    before = os.stat("x/f")
    with Times(x="x", y="y") as t:
        os.rename("x/f", "y/g")
    t.check(x="cm", y="cm")
    after = os.stat("y/g")
    same(after.st_mtime_ns, before.st_mtime_ns, "mtime")
    true(after.st_ctime_ns > before.st_ctime_ns, "ctime")


@case
def rename_of_a_directory_moves_links(d):
    os.mkdir("x")
    os.mkdir("y")
    os.mkdir("x/sub")
    make("x/sub/f", b"1")
    same((nlink("x"), nlink("y")), (3, 2))
    os.rename("x/sub", "y/sub")
    same((nlink("x"), nlink("y")), (2, 3))
    same(text("y/sub/f"), b"1")
    same(os.stat("y/sub/..").st_ino, os.stat("y").st_ino)


@case
def rename_onto_an_empty_directory(d):
    os.mkdir("a")
    make("a/f")
    os.mkdir("b")
    base = nlink(".")
    os.rename("a", "b")
    same((os.listdir("b"), nlink(".")), (["f"], base - 1))


@case
def rename_errors(d):
    make("f")
    os.mkdir("dir")
    os.mkdir("full")
    make("full/x")
    fails(errno.ENOTDIR, os.rename, "dir", "f")
    fails(errno.EISDIR, os.rename, "f", "dir")
    fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, "dir", "full")
    fails(errno.ENOENT, os.rename, "none", "x")
    fails(errno.ENOENT, os.rename, "f", "none/x")
    fails(errno.EINVAL, os.rename, "full", "full/x/y".replace("x/y", "sub"))
    os.mkdir("full/sub")
    fails(errno.EINVAL, os.rename, "full", "full/sub/y")
    fails((errno.ENOTEMPTY, errno.EEXIST, errno.EINVAL), os.rename, "full/sub", "full")
    fails(errno.ENOTDIR, os.rename, "f/x", "y")
    fails(errno.ENOTDIR, os.rename, "f", "f2/")
    fails(errno.ENAMETOOLONG, os.rename, "f", N256)
    fails((errno.EBUSY, errno.EINVAL), os.rename, "dir/.", "y")
    fails((errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY), os.rename, "dir", ".")
    fails(errno.EXDEV, os.rename, "f", "/dev/shm/granary-posix-rename")


@case
def rename_to_itself(d):
    make("a", b"x")
    os.link("a", "b")
    os.rename("a", "a")
    os.rename("a", "b")
    same(sorted(os.listdir(".")), ["a", "b"])
    same(nlink("a"), 2)


@case
def rename_of_links_and_specials(d):
    os.symlink("x", "l")
    os.mkfifo("p")
    make("f")
    os.rename("l", "l2")
    os.rename("p", "f")
    same(os.readlink("l2"), "x")
    true(stat.S_ISFIFO(os.lstat("f").st_mode))


@case
def rename_noreplace(d):
    make("a", b"a")
    make("b", b"b")
    fails(errno.EEXIST, renameat2, "a", "b", RENAME_NOREPLACE)
    renameat2("a", "c", RENAME_NOREPLACE)
    same((text("c"), text("b")), (b"a", b"b"))


@case
def rename_exchange(d):
    make("a", b"a")
    os.mkdir("b")
    make("b/x")
    with Times(a="a", b="b", d=".") as t:
        renameat2("a", "b", RENAME_EXCHANGE)
        same((os.stat("b").st_ino, os.stat("a").st_ino), (t.before["a"].st_ino, t.before["b"].st_ino))
    same(text("b"), b"a")
    same(os.listdir("a"), ["x"])
    same(os.stat(".").st_mtime_ns != t.before["d"].st_mtime_ns, True, "mtime of the directory")
    fails(errno.ENOENT, renameat2, "a", "none", RENAME_EXCHANGE)
    fails(errno.ENOENT, renameat2, "none", "a", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, "a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE)
    fails(errno.ENOTDIR, renameat2, "b/", "a", RENAME_EXCHANGE)


@case
def rename_exchange_of_directories(d):
    os.makedirs("x/sub/deep")
    os.makedirs("y/other")
    make("x/sub/f", b"f")
    renameat2("x/sub", "y", RENAME_EXCHANGE)
    same((sorted(os.listdir("y")), os.listdir("x/sub")), (["deep", "f"], ["other"]))
    same(os.stat("y/..").st_ino, os.stat(".").st_ino)
    same(os.stat("x/sub/..").st_ino, os.stat("x").st_ino)
    fails(errno.EINVAL, renameat2, "x", "x/sub", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, "x/sub", "x", RENAME_EXCHANGE)
    make("x/f")
    fails(errno.EINVAL, renameat2, "x", "x/f", RENAME_EXCHANGE)
    renameat2("x", "x", RENAME_EXCHANGE)
    make("y/deep/new")
    same(os.listdir("y/deep"), ["new"])


@case
def rename_exchange_moves_links(d):
    os.makedirs("x/sub")
    os.mkdir("y")
    make("y/f")
    renameat2("x/sub", "y/f", RENAME_EXCHANGE)
    same((nlink("x"), nlink("y")), (2, 3))
    renameat2("x", "y/f", RENAME_EXCHANGE)
    same((nlink("x"), nlink("y"), nlink("y/f")), (2, 3, 2))


@case
def links_of_directories(d):
    base = nlink(".")
    for i in range(5):
        os.makedirs(f"a/{i}/x")
    same((nlink("."), nlink("a"), nlink("a/3")), (base + 1, 7, 3))
    os.chmod("a", 0o700)
    os.utime("a", ns=(1, 1))
    os.mkdir("a/b")
    make("a/f")
    os.symlink("b", "a/l")
    same(nlink("a"), 8)
    os.rmdir("a/3/x")
    os.rename("a/4", "a/3")
    same((nlink("a"), nlink("a/3")), (7, 3))
    fd = os.open("a/b", os.O_RDONLY)
    os.rmdir("a/b")
    same((nlink("a"), os.fstat(fd).st_nlink), (6, 0))
    os.close(fd)


@case
def rename_exchange_of_links_and_open_files(d):
    make("a", b"1")
    os.link("a", "a2")
    make("b", b"2")
    os.symlink("b", "l")
    r, w = os.open("a", os.O_RDONLY), os.open("b", os.O_WRONLY | os.O_APPEND)
    renameat2("a", "b", RENAME_EXCHANGE)
    os.write(w, b"3")
    same((text("a"), text("b"), text("a2"), os.read(r, 9)), (b"23", b"1", b"1", b"1"))
    renameat2("a2", "b", RENAME_EXCHANGE)
    same((nlink("a2"), nlink("b"), nlink("a")), (2, 2, 1))
    renameat2("l", "a", RENAME_EXCHANGE)
    same((os.readlink("a"), text("l")), ("b", b"23"))
    os.unlink("l")
    os.write(w, b"4")
    for fd in (r, w):
        os.close(fd)
    same(sorted(os.listdir(".")), ["a", "a2", "b"])


@case
def rename_exchange_of_new_files(d):
    x, y = os.open("x", os.O_CREAT | os.O_RDWR, 0o644), os.open("y", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(x, b"x")
    renameat2("x", "y", RENAME_EXCHANGE)
    os.write(x, b"1")
    os.write(y, b"y")
    for fd in (x, y):
        os.close(fd)
    same((text("y"), text("x")), (b"x1", b"y"))
    same(stat.S_IMODE(os.stat("x").st_mode), 0o600)


@user
def rename_exchange_permissions(d):
    os.mkdir("x")
    os.mkdir("y")
    make("x/f")
    make("y/g")
    os.chmod("y", 0o500)
    fails(errno.EACCES, renameat2, "x/f", "y/g", RENAME_EXCHANGE)
    fails(errno.EACCES, renameat2, "y/g", "x/f", RENAME_EXCHANGE)
    os.chmod("y", 0o700)
    renameat2("x/f", "y/g", RENAME_EXCHANGE)


@case
def rename_while_open(d):
    fd = os.open("a", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"1")
    os.rename("a", "b")
    os.write(fd, b"2")
    os.close(fd)
    same(text("b"), b"12")


@user
def rename_permissions(d):
    os.mkdir("x")
    os.mkdir("y")
    make("x/f")
    os.chmod("x", 0o500)
    fails(errno.EACCES, os.rename, "x/f", "y/f")
    os.chmod("x", 0o700)
    os.chmod("y", 0o500)
    fails(errno.EACCES, os.rename, "x/f", "y/f")
    os.chmod("y", 0o700)


@case
def file_without_a_name(d):
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"x")
    same((os.fstat(fd).st_nlink, os.listdir(".")), (0, []))
    same(libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, b"named", 0x400), 0)  # AT_SYMLINK_FOLLOW
    same((text("named"), nlink("named"), stat.S_IMODE(os.stat("named").st_mode)), (b"x", 1, 0o640))
    os.close(fd)


# ---- mknod ----


@case
def mknod_and_fifo(d):
    with Times(d=".") as t:
        os.mkfifo("p", 0o620)
    t.check(d="cm")
    same(stat.S_IMODE(os.lstat("p").st_mode), 0o620 & ~0o022)
    fails(errno.EEXIST, os.mkfifo, "p")
    fails(errno.ENOENT, os.mkfifo, "none/p")
    os.mknod("r", stat.S_IFREG | 0o600)
    true(stat.S_ISREG(os.stat("r").st_mode))
    pid = os.fork()
    if pid == 0:
        fd = os.open("p", os.O_WRONLY)
        os.write(fd, b"through")
        os._exit(0)
    with open("p", "rb") as f:
        same(f.read(), b"through")
    os.waitpid(pid, 0)


@user
def mknod_permissions(d):
    os.mkfifo("p")
    fails(errno.EPERM, os.mknod, "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    fails(errno.EPERM, os.mknod, "b", stat.S_IFBLK | 0o600, os.makedev(7, 0))


@case
def sockets(d):
    a = socket.socket(socket.AF_UNIX)
    a.bind("s")
    a.listen(1)
    b = socket.socket(socket.AF_UNIX)
    b.connect("s")
    c, _ = a.accept()
    b.send(b"x")
    same(c.recv(1), b"x")
    for s in (a, b, c):
        s.close()
    fails(errno.ENXIO, os.open, "s", os.O_RDONLY)


@case
def device_nodes_are_what_they_are(d):
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    try:
        fd = os.open("null", os.O_RDWR)
    except OSError as e:
        if e.errno != errno.EACCES:  # mounted nodev
            raise
        return
    same(os.write(fd, b"gone"), 4)
    same(os.read(fd, 1), b"")
    os.close(fd)


# ---- directories ----


@case
def readdir_sees_what_is_there(d):
    names = {f"name-{i:04}" for i in range(1500)}
    for name in names:
        make(name)
    same(set(os.listdir(".")), names)
    for name in sorted(names)[::2]:
        os.unlink(name)
    same(set(os.listdir(".")), set(sorted(names)[1::2]))


@case
def readdir_while_it_changes(d):
    for i in range(400):
        make(f"stays-{i}")
    seen = []
    with os.scandir(".") as it:
        for n, e in enumerate(it):
            seen.append(e.name)
            if n % 10 == 0:
                make(f"new-{n}")
    true({f"stays-{i}" for i in range(400)} <= set(seen), "one that stayed was not seen")
    same(len([s for s in seen if s.startswith("stays")]), 400, "seen twice")


@case
def readdir_of_removals_while_reading(d):
    for i in range(500):
        make(f"f{i}")
    seen = 0
    with os.scandir(".") as it:
        for e in it:
            os.unlink(e.name)
            seen += 1
    same((seen, os.listdir(".")), (500, []))


@case
def dot_and_dotdot(d):
    os.mkdir("a")
    os.mkdir("a/b")
    same(os.stat("a/b/..").st_ino, os.stat("a").st_ino)
    same(os.stat("a/b/../..").st_ino, os.stat(".").st_ino)
    here = os.getcwd()
    os.chdir("a/b")
    same(os.getcwd(), os.path.join(here, "a/b"))
    os.chdir("../..")


@case
def fsync_of_files_and_directories(d):
    make("f", b"x")
    for path, flags in (("f", os.O_WRONLY), ("f", os.O_RDONLY), (".", os.O_RDONLY)):
        fd = os.open(path, flags)
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)


@case
def statfs(d):
    s = os.statvfs(".")
    same(s.f_namemax, 255)
    true(s.f_bsize > 0 and s.f_blocks > 0 and s.f_bavail <= s.f_blocks)


@case
def cwd_that_is_removed(d):
    os.mkdir("a")
    here = os.open(".", os.O_RDONLY)
    os.chdir("a")
    os.rmdir("../a")
    fails(errno.ENOENT, os.open, "f", os.O_CREAT | os.O_WRONLY)
    os.fchdir(here)
    os.close(here)


# ---- extended attributes ----


@case
def xattrs(d):
    make("f")
    with Times(f="f") as t:
        os.setxattr("f", "user.one", b"1")
    t.check(f="c")
    os.setxattr("f", "user.two", b"\0binary\xff")
    same(os.getxattr("f", "user.two"), b"\0binary\xff")
    same({n for n in os.listxattr("f") if n.startswith("user.")}, {"user.one", "user.two"})
    fails(errno.EEXIST, os.setxattr, "f", "user.one", b"x", os.XATTR_CREATE)
    os.setxattr("f", "user.one", b"x", os.XATTR_REPLACE)
    fails(errno.ENODATA, os.setxattr, "f", "user.none", b"x", os.XATTR_REPLACE)
    fails(errno.ENODATA, os.getxattr, "f", "user.none")
    fails(errno.ENODATA, os.removexattr, "f", "user.none")
    os.setxattr("f", "user.empty", b"")
    same(os.getxattr("f", "user.empty"), b"")
    os.removexattr("f", "user.one")
    fails(errno.ENODATA, os.getxattr, "f", "user.one")
    fails((errno.EOPNOTSUPP, errno.ENOTSUP), os.setxattr, "f", "nonsense.x", b"1")
    fails((errno.ERANGE, errno.EOPNOTSUPP), os.setxattr, "f", "user." + "n" * 251, b"1")
    os.mkdir("dir")
    os.setxattr("dir", "user.d", b"2")
    same(os.getxattr("dir", "user.d"), b"2")
    os.setxattr("f", "trusted.t", b"3")
    same(os.getxattr("f", "trusted.t"), b"3")


@case
def xattr_size_of_a_short_buffer(d):
    make("f")
    os.setxattr("f", "user.a", b"x" * 100)
    buf = ctypes.create_string_buffer(10)
    same(libc.getxattr(b"f", b"user.a", buf, 0), 100)
    same(libc.getxattr(b"f", b"user.a", buf, 10), -1)
    same(ctypes.get_errno(), errno.ERANGE)
    same(libc.listxattr(b"f", buf, 3), -1)
    same(ctypes.get_errno(), errno.ERANGE)


@user
def xattr_permissions(d):
    make("f", b"", 0o600)
    os.setxattr("f", "user.a", b"1")
    os.chmod("f", 0o400)
    fails(errno.EACCES, os.setxattr, "f", "user.a", b"2")
    os.symlink("f", "l")
    fails(errno.EPERM, os.setxattr, "l", "user.a", b"2", 0, follow_symlinks=False)
    fails(errno.EPERM, os.setxattr, "f", "trusted.a", b"2")


@case
def xattrs_move_with_the_file(d):
    make("f")
    os.setxattr("f", "user.a", b"1")
    os.link("f", "g")
    same(os.getxattr("g", "user.a"), b"1")
    os.rename("f", "h")
    os.unlink("g")
    same(os.getxattr("h", "user.a"), b"1")


# ---- locks ----


def in_child(f):
    """The value of f() in a child, an integer."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(f())
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def try_lock(how, kind, path, *args):
    fd = os.open(path, os.O_RDWR)
    try:
        how(fd, kind | fcntl.LOCK_NB, *args)
        return 0
    except OSError as e:
        return 1 if e.errno in (errno.EAGAIN, errno.EACCES) else 98


@case
def flock(d):
    make("f")
    fd, fd2 = os.open("f", os.O_RDWR), os.open("f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(fd2, fcntl.LOCK_SH)
    same(in_child(lambda: try_lock(fcntl.flock, fcntl.LOCK_SH, "f")), 0)
    same(in_child(lambda: try_lock(fcntl.flock, fcntl.LOCK_EX, "f")), 1)
    fcntl.flock(fd2, fcntl.LOCK_UN)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fails(errno.EAGAIN, fcntl.flock, fd2, fcntl.LOCK_SH | fcntl.LOCK_NB)
    same(in_child(lambda: try_lock(fcntl.flock, fcntl.LOCK_SH, "f")), 1)
    os.close(fd)
    same(in_child(lambda: try_lock(fcntl.flock, fcntl.LOCK_EX, "f")), 0)
    os.close(fd2)


@case
def posix_locks_have_ranges(d):
    make("f", b"x" * 100)
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    fcntl.lockf(fd, fcntl.LOCK_SH, 10, 50)
    ask = lambda kind, n, at: in_child(lambda: try_lock(fcntl.lockf, kind, "f", n, at))  # noqa: E731
    same(ask(fcntl.LOCK_EX, 10, 10), 0)
    same(ask(fcntl.LOCK_EX, 1, 9), 1)
    same(ask(fcntl.LOCK_SH, 1, 55), 0)
    same(ask(fcntl.LOCK_EX, 1, 55), 1)
    fcntl.lockf(fd, fcntl.LOCK_UN, 4, 3)
    same(ask(fcntl.LOCK_EX, 4, 3), 0)
    same(ask(fcntl.LOCK_EX, 1, 2), 1)
    same(ask(fcntl.LOCK_EX, 1, 7), 1)
    os.close(os.open("f", os.O_RDONLY))  # closing any descriptor of the file drops them all
    same(ask(fcntl.LOCK_EX, 0, 0), 0)
    os.close(fd)


@case
def posix_locks_are_told(d):
    make("f")
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 7, 5)
    me = os.getpid()

    def asks():
        other = os.open("f", os.O_RDWR)
        flock_t = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(other, fcntl.F_GETLK, flock_t))
        return 0 if (kind, start, length, pid) == (fcntl.F_WRLCK, 5, 7, me) else 1
    same(in_child(asks), 0)
    os.close(fd)


@case
def posix_lock_needs_access(d):
    make("f")
    fd = os.open("f", os.O_RDONLY)
    fails(errno.EBADF, fcntl.lockf, fd, fcntl.LOCK_EX)
    fcntl.lockf(fd, fcntl.LOCK_SH)
    os.close(fd)


def hold_and_wait(how):
    """A child waits for a lock until it is let go."""
    make("f")
    fd = os.open("f", os.O_RDWR)
    how(fd, fcntl.LOCK_EX)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        other = os.open("f", os.O_RDWR)
        how(other, fcntl.LOCK_EX)
        os.write(w, b"x")
        os._exit(0)
    os.set_blocking(r, False)
    time.sleep(0.2)
    fails(errno.EAGAIN, os.read, r, 1)
    how(fd, fcntl.LOCK_UN)
    os.set_blocking(r, True)
    same(os.read(r, 1), b"x")
    os.waitpid(pid, 0)
    for x in (fd, r, w):
        os.close(x)


@case
def flock_waits(d):
    hold_and_wait(fcntl.flock)


@case
def posix_lock_waits(d):
    hold_and_wait(fcntl.lockf)


@case
def waiting_for_a_lock_is_interrupted(d):
    make("f")
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX)
        os._exit(1)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    same(os.WTERMSIG(status), signal.SIGTERM)
    os.close(fd)


@case
def locks_of_a_killed_process_go(d):
    make("f")
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open("f", os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.write(w, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(r, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for x in (fd, r, w):
        os.close(x)


# ---- running ----


def run_case(base, name, f, is_user):
    """None, or what was wrong."""
    d = pathlib.Path(base) / name
    d.mkdir()
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            os.umask(0o022)
            if is_user:
                os.chown(d, NOBODY, NOBODY)
            else:
                os.chmod(d, 0o755)
            os.chdir(d)
            if is_user:
                as_user(f, ".")
            else:
                f(".")
            os._exit(0)
        except BaseException as e:
            where = traceback.extract_tb(e.__traceback__)
            line = next((t.lineno for t in reversed(where) if t.name == name), where[-1].lineno)
            os.write(w, f"line {line}: {type(e).__name__}: {e}".encode()[:4000])
            os._exit(1)
    os.close(w)
    with os.fdopen(r, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    shutil.rmtree(d, ignore_errors=True)
    return None if status == 0 else said.splitlines()[0] if said else f"ended with {status}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--only", default="")
    parser.add_argument("--differs", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    a = parser.parse_args()
    cases = [c for c in CASES if a.only in c[0]]
    if a.list:
        print("\n".join(c[0] for c in cases))
        return 0
    if os.getuid() != 0:
        print("skipped: needs root")
        return 77
    base = pathlib.Path(a.directory) / f"posix-{os.getpid()}"
    base.mkdir()
    os.chmod(base, 0o755)
    passed = failed = 0
    for name, f, is_user in cases:
        wrong = run_case(base, name, f, is_user)
        differs = name in a.differs
        if (wrong is None) == (not differs):
            passed += 1
            continue
        failed += 1
        print(f"FAIL {name}: {wrong or 'does not differ any more: take it off the list'}", flush=True)
    shutil.rmtree(base, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
