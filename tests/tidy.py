#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tidy.py -- rules that a reviewer should not have to check. Fails on what is a rule, lists what is a compass.

Rules: who may include whom; system calls on files and sockets only in server/io; banned calls; no marks of unfinished
work (NEEDSWORK with what, why and when is allowed and counted); every public function documented; an SPDX line in every
source; no line above 120 columns; no absolute paths of somebody's machine.
Compass (listed, never failing): lines above 100 columns, functions above 70 lines, files above 800.
"""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS_LISTED, COLUMNS_MAX, FUNCTION_LINES, FILE_LINES = 100, 120, 70, 800
LISTED_MAX = 12

SERVER_MAY = {
    "net": "req io", "http": "req io", "req": "jobs meta pack tier io", "jobs": "meta pack tier io",
    "meta": "io", "pack": "tier meta io", "tier": "meta io", "io": "",
}
LAYERS = set(SERVER_MAY)
TOP_MAY = {  # folder -> folders a path with a slash may start with, besides its own
    "include": {"granary"}, "common": {"common", "granary"}, "client": {"common", "granary"},
    "fuse": {"granary"}, "bench": {"common", "granary"},
}
OURS = LAYERS | {"common", "granary", "client", "cli", "fuse", "bench", "server", "tests", "include"}

SYSTEM_CALLS = re.compile(
    r"(?<![\w.>])(open|openat|creat|pread|pwrite|preadv|pwritev|preadv2|pwritev2|fsync|fdatasync|syncfs|rename|renameat|"
    r"unlink|unlinkat|ftruncate|truncate|fallocate|posix_fallocate|socket|socketpair|bind|listen|connect|send|recv|"
    r"sendto|recvfrom|sendmsg|recvmsg|sendfile|splice|accept|accept4|mkdir|mkdirat|rmdir|opendir|fdopendir|fopen)\s*\(")
SYSTEM_CALLS_MAY = re.compile(r"^server/(io/|granaryd\.c$|config[^/]*\.[ch]$)")
BANNED = re.compile(
    r"(?<![\w.>])(strcpy|strncpy|strcat|strncat|sprintf|vsprintf|gets|strtok|alloca|atoi|atol|atoll|tmpnam|mktemp)\s*\(")
BANNED_MAY = {"common/banned.h"}
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.}])(/wo" r"rk/|/ro" r"ot/)")

failures, lists = [], {}


def fail(path, line, text):
    failures.append(f"{path}:{line}: {text}")


def note(kind, text):
    lists.setdefault(kind, []).append(text)


def tree_files():
    """Tracked files and new ones that git does not ignore; without git, all but build output."""
    try:
        out = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             check=True, capture_output=True).stdout.decode()
        names = sorted(set(filter(None, out.split("\0"))))
    except (OSError, subprocess.CalledProcessError):
        names = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file())
        names = [n for n in names if not n.startswith(("build/", "build-", ".git/", ".data/"))]
    return [n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink()]


def without_comments(text, strings=False):
    """Comments (and, if asked, string contents) blanked; line numbers stay."""
    def blank(m):
        s = m.group(0)
        if s[0] == "/":
            return re.sub(r"[^\n]", " ", s)
        return '""' if strings and s[0] == '"' else s
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def check_includes(name, text):
    parts = name.split("/")
    top = parts[0]
    for number, line in enumerate(text.split("\n"), 1):
        m = re.match(r'\s*#\s*include\s*["<]([\w./-]+)[">]', line)
        if not m or top == "tests":
            continue
        target = m.group(1)
        if ".." in target:
            fail(name, number, f"include of '{target}': name it from its root folder")
            continue
        if "/" not in target:
            continue
        dep = target.split("/")[0]
        if dep not in OURS or not is_ours(dep, target):
            continue
        if top == "server":
            layer = parts[1] if len(parts) > 2 else None
            allowed = LAYERS if layer is None else set(SERVER_MAY.get(layer, "").split()) | {layer}
            if dep not in allowed | {"common", "granary"}:
                fail(name, number, f"include of '{target}': {layer or 'server'} may not use {dep}")
        elif dep not in TOP_MAY.get(top, set()) | {top} | ({"cli"} if name.startswith("client/cli/") else set()):
            fail(name, number, f"include of '{target}': {top} may not use {dep}")


def is_ours(dep, target):
    """True when the path is a file of this tree: <net/if.h> of the system is not server/net."""
    return any((ROOT / base / target).exists() for base in ("", "include", "server", "client"))


def check_calls(name, code):
    for number, line in enumerate(code.split("\n"), 1):
        for m in BANNED.finditer(line):
            if name not in BANNED_MAY:
                fail(name, number, f"banned call {m.group(1)}()")
        if name.startswith("server/") and not SYSTEM_CALLS_MAY.match(name):
            for m in SYSTEM_CALLS.finditer(line):
                fail(name, number, f"{m.group(1)}() outside server/io: use an op of io.h")


def check_lines(name, text):
    rows = text.split("\n")
    for number, line in enumerate(rows, 1):
        width = len(line.expandtabs(8))
        if width > COLUMNS_MAX:
            fail(name, number, f"{width} columns, the limit is {COLUMNS_MAX}")
        elif width > COLUMNS_LISTED:
            note(f"lines above {COLUMNS_LISTED} columns", f"{name}:{number} ({width})")
    if len(rows) > FILE_LINES:
        note(f"files above {FILE_LINES} lines", f"{name} ({len(rows)})")
    if "SPDX-License-Identifier:" not in "\n".join(rows[:2]):
        fail(name, 1, "no SPDX-License-Identifier in the first two lines")
    is_template = "included twice" in text[:400]
    if name.endswith(".h") and not is_template and "#pragma once" not in text:
        fail(name, 1, "no '#pragma once'")


def check_public(name, text):
    """A /** comment must end right before each declaration that starts with GRANARY_API."""
    for m in re.finditer(r"^GRANARY_API\b[^;{]*", text, re.M):
        before = text[:m.start()].rstrip()
        number = text.count("\n", 0, m.start()) + 1
        if not before.endswith("*/") or not before[before.rfind("/*"):].startswith("/**"):
            what = re.search(r"(\w+)\s*\(", m.group(0).replace("GRANARY_API", ""))
            fail(name, number, f"{what.group(1) if what else 'declaration'} has no /** comment right before it")


def check_marks(name, text):
    for number, line in enumerate(text.split("\n"), 1):
        m = UNFINISHED.search(line)
        if m:
            fail(name, number, f"'{m.group(1)}': do it, or say NEEDSWORK with what, why and when it matters")
        if MACHINE_PATHS.search(line):
            fail(name, number, "an absolute path of somebody's machine")
        if "NEEDSWORK:" in line and name != "tests/tidy.py":
            note("NEEDSWORK marks", f"{name}:{number}")


def check_function_lengths(names):
    if not shutil.which("ctags") or not names:
        note("not checked", "function lengths: ctags is missing")
        return
    run = subprocess.run(["ctags", "-x", "--c-kinds=f", "--fields=+ne", "--_xformat=%F\t%N\t%n\t%e", "-L", "-"],
                         input="\n".join(names), cwd=ROOT, capture_output=True, text=True, check=False)
    for row in run.stdout.splitlines():
        cells = row.split("\t")
        if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit():
            length = int(cells[3]) - int(cells[2]) + 1
            if length > FUNCTION_LINES:
                note(f"functions above {FUNCTION_LINES} lines", f"{cells[0]}:{cells[2]} {cells[1]} ({length})")


def main():
    names = tree_files()
    sources = [n for n in names if n.endswith((".c", ".h"))]
    for name in names:
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if name != "LICENSE":
            check_marks(name, text)
        if name not in sources:
            continue
        check_lines(name, text)
        check_includes(name, without_comments(text))
        check_calls(name, without_comments(text, strings=True))
        if name.startswith("include/granary/"):
            check_public(name, text)
    check_function_lengths([n for n in sources if n.endswith(".c")])

    for kind, rows in sorted(lists.items()):
        print(f"{kind}: {len(rows)}")
        for row in rows[:LISTED_MAX]:
            print(f"  {row}")
        if len(rows) > LISTED_MAX:
            print(f"  ... and {len(rows) - LISTED_MAX} more")
    for row in failures:
        print(f"FAIL {row}")
    print(f"tidy: {len(sources)} sources, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
