# SPDX-License-Identifier: Apache-2.0
"""crash_lib -- what the crash tests share: a granaryd that can be started, stopped and killed, and the oracle.

Everything a test starts is ended by its process id when the test ends, also when it fails. Standard library only.
"""
import atexit
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", ROOT / "build" / "release"))
GRANARYD, GRANARY, ORACLE = BUILD / "granaryd", BUILD / "granary", BUILD / "tests" / "oracle"
FSCK = ROOT / "tools" / "granary-fsck"
LONG = os.environ.get("GRANARY_TEST_LONG") == "1"
BRIEF = os.environ.get("GRANARY_TEST_BRIEF") == "1"
SANITIZED = bool(os.environ.get("GRANARY_SANITIZE"))
START_S = 120 if SANITIZED else 60  # until ready; generous: no test judges time

# Small packs, busy jobs: sealing, compaction and removal happen within seconds. Bytes come from the server, so that what
# happens to it is seen; tests of reads by descriptor switch them on.
SETTINGS = {"local-reads": "off", "pack-size": "16MiB", "job-interval": "150ms", "compact-dead": "10%", "cache-size": "64MiB",
            "memory": "256MiB"}

_children = []


@atexit.register
def _end_children():
    for p in _children:
        if p.poll() is None:
            p.kill()
            p.wait()


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too


def spawn(args, **kw):
    p = subprocess.Popen([str(a) for a in args], **kw)
    _children[:] = [c for c in _children if c.poll() is None] + [p]
    return p


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def fail(text):
    print(f"FAIL {text}", flush=True)
    sys.exit(1)


def need_programs():
    for p in (GRANARYD, GRANARY, ORACLE):
        if not p.exists():
            skip(f"{p.name} is not built")


def seed_of(argv_seed=None):
    """The seed of this run: given, from GRANARY_TEST_SEED, or new. Printed, so that the run can be repeated."""
    seed = argv_seed if argv_seed is not None else os.environ.get("GRANARY_TEST_SEED")
    seed = int(seed) if seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed={seed}", flush=True)
    return seed


def scratch(prefix, base=None):
    """A new directory, removed at exit unless keep(path) was called."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"granary-{prefix}-", dir=base))
    _scratch.add(path)
    return path


_scratch = set()


def keep(path):
    _scratch.discard(pathlib.Path(path))


@atexit.register
def _remove_scratch():
    _end_children()
    for path in _scratch:
        shutil.rmtree(path, ignore_errors=True)


class Server:
    """One data directory and the granaryd on it; it listens on a Unix socket beside the directory."""

    def __init__(self, base, engine=None, settings=None, env=None):
        self.base = pathlib.Path(base)
        self.data = self.base / "data"
        self.data.mkdir(exist_ok=True)
        self.socket = self.base / "s"
        self.log = self.base / "granaryd.log"
        self.settings = {**SETTINGS, **(settings or {})}
        self.env = {**os.environ, "LD_PRELOAD": "", **(env or {})}  # a sanitizer's runtime is for the interpreter alone
        if engine:
            self.env["GRANARY_IO_ENGINE"] = engine
        self.process = None
        self.starts_ms = []
        self.url = "granary://" + urllib.parse.quote(str(self.socket), safe="")
        self.credentials = self.data / "root.credentials"

    def launch(self):
        """Starts it without waiting."""
        args = [GRANARYD, "--data", self.data, "--listen", f"unix:{self.socket}"]
        for name, value in self.settings.items():
            args += [f"--{name}", value]
        self.began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = spawn(args, stdout=subprocess.PIPE, stderr=log, env=self.env)
        return self

    def wait_ready(self):
        """Milliseconds until it was ready; None when it ended before."""
        fd, text, end = self.process.stdout.fileno(), b"", self.began + START_S
        os.set_blocking(fd, False)
        while time.monotonic() < end:
            try:
                text += os.read(fd, 65536)
            except BlockingIOError:
                pass
            if b"ready address=" in text:
                ms = (time.monotonic() - self.began) * 1000
                self.starts_ms.append(ms)
                return ms
            if self.process.poll() is not None:
                return None
            time.sleep(0.002)
        return None

    def start(self):
        ms = self.launch().wait_ready()
        if ms is None:
            state = self.process.poll()
            self.kill()
            raise Broken(f"the server did not start: {'no answer' if state is None else f'exit code {state}'}; "
                         f"the end of its log:\n{self.tail()}")
        return ms

    def tail(self, lines=15):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def stop(self):
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Broken(f"SIGTERM did not end the server within 60 s; the end of its log:\n{self.tail()}") from None
        self.process.stdout.close()
        self.process = None
        return code

    def client_env(self):
        return {**os.environ, "LD_PRELOAD": "", "GRANARY_URL": self.url, "GRANARY_CREDENTIALS": str(self.credentials)}

    def cli(self, *args, check=True, timeout=300, **kw):
        """Runs the granary command; returns the finished process."""
        p = subprocess.run([str(GRANARY), *map(str, args)], env=self.client_env(), capture_output=True, timeout=timeout,
                           check=False, **kw)
        if check and p.returncode != 0:
            raise Broken(f"granary {' '.join(map(str, args))}: exit code {p.returncode}\n"
                         f"{p.stdout.decode(errors='replace')[-800:]}{p.stderr.decode(errors='replace')[-800:]}")
        return p

    def packs(self):
        return sorted(self.data.glob("packs/*/*.pack"))

    def status(self):
        """name -> value of `granary status`."""
        rows = self.cli("status", "--json").stdout.decode()
        return rows


class Broken(Exception):
    """Something that must not happen did."""


def run(main):
    """A test's end: what main() returns, 0 if nothing; Broken is a failure."""
    try:
        sys.exit(main())
    except Broken as e:
        fail(str(e))


class Oracle:
    """The log, and the two programs that write and judge it. The log is a file of ours: the writer gets a descriptor."""

    def __init__(self, server, base, seed, **options):
        self.server, self.base, self.seed = server, pathlib.Path(base), seed
        self.options = options
        self.round = 0
        self.log = self.base / "oracle-0.log"
        self.log.touch()
        self.writer = None
        self.totals = {}

    def arguments(self, verb, **extra):
        args = [ORACLE, verb, "--url", self.server.url, "--credentials", self.server.credentials, "--log", self.log]
        for name, value in extra.items():
            if value is not None:
                args += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return args

    def begin(self, **extra):
        fd = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        args = self.arguments("write", log_fd=fd, seed=self.seed, **{**self.options, **extra})
        with open(self.base / "oracle.err", "ab") as err:
            self.writer = spawn(args, stdout=subprocess.PIPE, stderr=err, pass_fds=(fd,), text=True)
        os.close(fd)

    def wait(self, timeout=300):
        out, _ = self.writer.communicate(timeout=timeout)
        code, self.writer = self.writer.returncode, None
        if code != 0:
            raise Broken(f"oracle write: exit code {code}\n{out}{self.errors()}")
        return dict(word.split("=", 1) for word in out.split())

    def end(self):
        """Lets the workers finish what they are at."""
        self.writer.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        code = self.writer.poll()
        self.writer.kill()
        self.writer.communicate()
        self.writer = None
        if code == 1:
            raise Broken(f"oracle write found a violation\n{self.errors()}")

    def errors(self):
        try:
            return (self.base / "oracle.err").read_text(errors="replace")[-3000:]
        except OSError:
            return ""

    def check(self, log=None, settle=True, timeout=600, **extra):
        """Judges the store; counts are added up. With settle the next log begins with what is there now."""
        following = self.base / f"oracle-{self.round + 1}.log"
        keep_log, self.log = self.log, log or self.log
        args = self.arguments("check", state_out=following if settle else None, timeout_ms=60000, **extra)
        self.log = keep_log
        p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout, check=False)
        counts = {k: int(v) for k, v in (word.split("=", 1) for word in p.stdout.split() if "=" in word)}
        for name, value in counts.items():
            self.totals[name] = self.totals.get(name, 0) + value
        if p.returncode != 0:
            raise Broken(f"oracle check: exit code {p.returncode}: {p.stdout}{p.stderr[-4000:]}")
        if settle:
            if self.round > 1:
                (self.base / f"oracle-{self.round - 2}.log").unlink(missing_ok=True)
            self.round += 1
            self.log = following
        return counts


def fsck(paths, *options):
    """tools/granary-fsck; (exit code, text)."""
    if not paths:
        return 0, ""
    p = subprocess.run([sys.executable, str(FSCK), *options, *map(str, paths)], capture_output=True, text=True, check=False)
    return p.returncode, p.stdout + p.stderr


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))] if values else 0
