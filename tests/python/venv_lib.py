# SPDX-License-Identifier: Apache-2.0
"""A test against packages of PyPI: enter() starts it again in a virtual environment below the build folder that has them.

Each environment is made once; it is made anew when what is wanted changes. Without network, or when it takes longer than
INSTALL_S, the test is skipped with the reason. GRANARY_VENV=DIR takes that one instead, as it is.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", ROOT / "build" / "release"))
LONG = os.environ.get("GRANARY_TEST_LONG") == "1"
INSTALL_S = 1800 if LONG else 240
PIP = ("install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "15")
SKIP = 77


def _make(folder, commands):
    """None when it is there, else why not."""
    end = time.monotonic() + INSTALL_S
    for command in commands:
        try:
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False,
                                  timeout=max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"installing took more than {INSTALL_S} s"
        if done.returncode != 0:
            return ((done.stderr or done.stdout).strip().splitlines() or ["no reason given"])[-1]
    (folder / "ready").touch()
    return None


def environment(name, wanted, alone=(), system=False):
    """(its Python, None), or (None, why there is none). alone: installed without what they depend on; system: Debian's
    packages are seen too."""
    if os.environ.get("GRANARY_VENV"):
        return pathlib.Path(os.environ["GRANARY_VENV"]) / "bin" / "python", None
    stamp = hashlib.sha256(repr((sorted(wanted), sorted(alone), system, sys.version)).encode()).hexdigest()[:10]
    kind = f"{name}-long" if LONG else name
    folder = BUILD / f"venv-{kind}-{stamp}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        for old in BUILD.glob(f"venv-{kind}-{'?' * len(stamp)}"):
            shutil.rmtree(old, ignore_errors=True)
        commands = [[sys.executable, "-m", "venv", *(["--system-site-packages"] if system else []), folder]]
        commands += [[python, "-m", "pip", *PIP, "--no-deps", *alone]] if alone else []
        commands += [[python, "-m", "pip", *PIP, *wanted]]
        why = _make(folder, commands)
        if why is not None:
            return None, why
    return python, None


def enter(name, wanted, alone=(), system=False):
    """Returns inside of the environment, also in processes that the test starts there; elsewhere it never returns."""
    if os.environ.get("GRANARY_IN_VENV") == name:
        return
    python, why = environment(name, wanted, alone, system)
    if python is None:
        print(f"skipped: no virtual environment with {' '.join([*wanted, *alone])}: {why}")
        sys.exit(SKIP)
    os.environ["GRANARY_IN_VENV"] = name
    os.execv(python, [str(python), *sys.argv])
