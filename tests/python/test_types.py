#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: mypy --strict accepts the stubs and a program that uses them, and finds what is wrong in one that does not."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import venv_lib

venv_lib.enter("types", ["mypy"])

PACKAGE = venv_lib.BUILD / "python"
RIGHT = """
import granary
client = granary.connect("granary://localhost/vision")
data: bytes = client.get("a")
with client.open_read("a") as f:
    more: bytes = f.read()
versions: list[int] = client.put_many({"a": data})
count: int = client.get_many(["a", "b"], on_missing="skip").nbytes
ds = granary.IterableDataset("granary://localhost/vision@v1", shuffle="blocks", fields=["jpg"], replicate=2)
loader = granary.DataLoader(ds, num_workers=2)
for batch in loader:
    state = loader.state_dict()
length: int = len(granary.MapDataset("granary://localhost/vision@v1"))
try:
    client.get("none")
except granary.Error as e:
    text: str = e.hint + e.request_id
"""
WRONG = "import granary\nsize: str = granary.connect().get_many([\"a\"]).nbytes\ngranary.connect().gte(\"a\")\n"


class Types(unittest.TestCase):
    def mypy(self, *paths):
        return subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, *map(str, paths)],
                              capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(PACKAGE)}, check=False)

    def program(self, text):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "program.py"
            path.write_text(text, encoding="ascii")
            return self.mypy(path)

    def test_program(self):
        done = self.program(RIGHT)
        self.assertEqual(done.returncode, 0, done.stdout)
        done = self.program(WRONG)
        self.assertEqual(done.returncode, 1)
        self.assertIn("program.py:2", done.stdout)
        self.assertIn("program.py:3", done.stdout)


if __name__ == "__main__":
    unittest.main()
