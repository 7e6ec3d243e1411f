# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Python package share: a real granaryd with a bucket of samples, and the package from the build."""
import os
import pathlib
import random
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", ROOT / "build" / "release"))
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
sys.path.insert(0, str(BUILD / "python"))
os.environ["PYTHONPATH"] = str(BUILD / "python") + os.pathsep + str(ROOT / "tests" / "python")  # for spawned workers

import crash_lib  # noqa: E402  pylint: disable=wrong-import-position

if not crash_lib.GRANARYD.exists():
    crash_lib.skip("granaryd is not built")
import granary  # noqa: E402  pylint: disable=wrong-import-position

BRIEF = crash_lib.BRIEF
# ThreadSanitizer does not know the threads of a process that another with threads forked.
forks = unittest.skipIf(os.environ.get("GRANARY_SANITIZE") == "thread", "forks under ThreadSanitizer")
CLASSES = ("ankle", "boot", "coat", "dress", "sandal")


def content(i, size=None):
    """The bytes of sample i: of any size, a few empty."""
    rng = random.Random(i)
    size = size if size is not None else 0 if i % 211 == 7 else rng.randrange(1, 6000)
    return rng.randbytes(size)


class Case(unittest.TestCase):
    """One server a class of tests; bucket `data` with SAMPLES files in class folders below train/, snapshot v1 of them."""

    SAMPLES = 0
    SETTINGS = {}

    @classmethod
    def setUpClass(cls):
        cls.base = crash_lib.scratch("python")
        cls.server = crash_lib.Server(cls.base, settings=cls.SETTINGS)
        cls.server.start()
        cls.login = {"credentials": str(cls.server.credentials)}
        cls.url = f"{cls.server.url}/data"
        cls.client = granary.connect(cls.url, **cls.login)
        cls.client.create_bucket("data")
        cls.files = {f"train/{CLASSES[i % len(CLASSES)]}/{i:05d}.bin": content(i) for i in range(cls.SAMPLES)}
        if cls.files:
            cls.client.put_many(cls.files)
            cls.client.snapshot("v1", create=True, prefix="train/").close()
        cls.v1 = f"{cls.url}@v1"

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()

    def stream(self, **options):
        options.setdefault("batch_size", 16)
        return granary.IterableDataset(self.v1, **{**self.login, **options})


def ids_of(batches):
    """[(ids of a batch)], padded ones left out."""
    return [tuple(i for i, v in zip(b.ids, b.valid) if v) for b in batches]


def main():
    random.seed(1)
    unittest.main(verbosity=1)
