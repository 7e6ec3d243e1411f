#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the extension needs nothing but libc and OpenSSL and no symbol newer than GLIBC_2.34; importing the package imports no
framework; every public name is documented and in the stubs; show() draws."""
import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import unittest

import granary_case
from granary_case import BUILD, Case, granary

NATIVE = next((BUILD / "python" / "granary").glob("_native*.so"))


class Module(unittest.TestCase):
    def test_needs(self):
        text = subprocess.run(["objdump", "-p", NATIVE], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"NEEDED\s+(\S+)", text)
        self.assertIn("libc.so.6", needed)
        self.assertEqual([n for n in needed if not re.match(r"(libc|libcrypto|ld-linux-[\w-]+|libm|libpthread)\.so", n)], [])

    def test_symbols(self):
        text = subprocess.run(["objdump", "-T", NATIVE], capture_output=True, text=True, check=True).stdout
        versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", text)}
        self.assertLessEqual(max(versions), (2, 34), "a symbol that is not in every system of the last years")
        mine = [row.split()[-1] for row in text.splitlines() if " g " in row and "*UND*" not in row]
        self.assertEqual(mine, ["PyInit__native"])

    def test_no_framework(self):
        code = "import sys, granary; print([m for m in ('torch', 'numpy', 'fsspec', 'matplotlib') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.strip(), "[]")

    def test_stubs(self):
        stubs = ast.parse((BUILD / "python" / "granary" / "__init__.pyi").read_text(encoding="utf-8"))
        known = {}
        for node in stubs.body:
            if isinstance(node, ast.ClassDef):
                known[node.name] = {n.name if isinstance(n, ast.FunctionDef) else n.target.id for n in node.body
                                    if isinstance(n, (ast.FunctionDef, ast.AnnAssign))}
            elif isinstance(node, ast.FunctionDef):
                known[node.name] = set()
            elif isinstance(node, ast.AnnAssign):
                known[node.target.id] = set()
            elif isinstance(node, ast.ImportFrom):
                known.update({a.asname or a.name: set() for a in node.names})
        for name in granary.__all__:
            self.assertIn(name, known, "is not in the stubs")
        for cls in (granary.Client, granary.Snapshot, granary.Batch, granary.Sample, granary.MapDataset,
                    granary.IterableDataset, granary.DataLoader):
            self.assertTrue(cls.__doc__, cls)
            for name, member in vars(cls).items():
                if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                    self.assertIn(name, known[cls.__name__], f"{cls.__name__}.{name} is not in the stubs")
                    self.assertTrue(inspect.getdoc(member), f"{cls.__name__}.{name} is not documented")


class Show(Case):
    SAMPLES = 200

    def test_show(self):
        try:
            import matplotlib  # noqa: F401  pylint: disable=unused-import
        except ImportError:
            self.skipTest("matplotlib is not installed: tools/deps --torch")
        ds = self.stream()
        granary.show(ds, self.base / "rate.png", every=0.001)
        self.assertEqual((self.base / "rate.png").read_bytes()[:4], b"\x89PNG")
        self.assertEqual(ds.epoch, 0)
        self.assertEqual(len(list(ds)), len(ds))
        with self.assertRaises(TypeError):
            granary.show([])

    def test_show_what_a_loop_did(self):
        if importlib.util.find_spec("matplotlib") is None:
            self.skipTest("matplotlib is not installed: tools/deps --torch")
        ds = self.stream(collate_fn=len, last="keep")
        loader = granary.DataLoader(ds)
        self.assertEqual(sum(loader), self.SAMPLES)
        self.assertEqual(ds._history.info["samples_read"], self.SAMPLES)
        self.assertGreater(ds._history.info["waited_ns"], 0)  # the first batch is not there at once
        title = granary.show(loader).axes[0].get_title()
        self.assertIn(f"epoch 0, rank 0 of 1\n{self.SAMPLES} samples", title)
        self.assertEqual(ds.epoch, 1)


if __name__ == "__main__":
    granary_case.main()
