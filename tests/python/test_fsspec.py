#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: GranaryFileSystem passes fsspec's own suite (fsspec.tests.abstract) against a real server, and what it adds is right.

Debian's fsspec is older than its suite, so the suite runs in a virtual environment with the package of PyPI.
"""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import venv_lib  # noqa: E402

venv_lib.enter("fsspec", ["fsspec>=2024.6", "pytest>=7"])

import fsspec  # noqa: E402
import pytest  # noqa: E402
from fsspec.tests import abstract  # noqa: E402
from granary_case import Case, content, granary  # noqa: E402
from granary.fs import GranaryFileSystem, register  # noqa: E402


class Server(Case):
    SAMPLES = 0


@pytest.fixture(scope="session")
def filesystem():
    Server.setUpClass()
    register()
    host = Server.server.url[len("granary://"):]
    yield GranaryFileSystem(host=host, skip_instance_cache=True, **Server.login)
    Server.tearDownClass()


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture(scope="class")
    def fs(self, filesystem):
        return filesystem

    @pytest.fixture
    def fs_path(self):
        return "data"

    @pytest.fixture
    def fs_join(self):
        return lambda *args: "/".join(args)


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


for _name in ("AbstractMvTests", "AbstractOpenTests", "AbstractPipeTests"):
    if hasattr(abstract, _name):
        globals()["Test" + _name[8:-5]] = type("Test" + _name[8:-5], (getattr(abstract, _name), Fixtures), {})


class TestOurs:
    @pytest.fixture(autouse=True)
    def clean(self, filesystem):
        self.fs = filesystem
        yield
        for path in self.fs.ls("data", detail=False):
            self.fs.rm(path, recursive=True)

    def test_cat(self):
        files = {f"data/c/{i:03d}": content(i, 100 + i) for i in range(50)}
        self.fs.pipe(files)
        assert self.fs.cat("data/c", recursive=True) == files
        assert self.fs.cat(["data/c/003", "data/c/004"]) == {k: files[k] for k in ("data/c/003", "data/c/004")}
        assert self.fs.cat_file("data/c/005", 10, 20) == files["data/c/005"][10:20]
        assert self.fs.cat_file("data/c/005", -10) == files["data/c/005"][-10:]
        assert self.fs.cat_file("data/c/005", 5, -5) == files["data/c/005"][5:-5]
        assert self.fs.cat_file("data/c/005", 10**9) == b""
        got = self.fs.cat_ranges(["data/c/001", "data/c/none", "data/c/002"], [0, 0, -5], [7, 9, None])
        assert (got[0], got[2]) == (files["data/c/001"][:7], files["data/c/002"][-5:])
        assert isinstance(got[1], FileNotFoundError)
        with pytest.raises(FileNotFoundError):
            self.fs.cat_ranges(["data/c/none"], [0], [1], on_error="raise")
        with pytest.raises(FileNotFoundError):
            self.fs.cat_file("data/c/none")
        assert self.fs.find("data/c") == sorted(files)
        assert self.fs.find("data/c", detail=True)["data/c/007"]["size"] == 107
        assert self.fs.glob("data/c/00*") == [f"data/c/{i:03d}" for i in range(10)]
        assert self.fs.du("data/c") == sum(map(len, files.values()))

    def test_open(self):
        data = content(1, 9 << 20)
        with self.fs.open("data/big", "wb") as f:
            for at in range(0, len(data), 1 << 20):
                f.write(data[at:at + (1 << 20)])
            assert not self.fs.exists("data/big")
        with self.fs.open("data/big", "rb") as f:
            f.seek(-100, 2)
            assert f.read() == data[-100:]
            f.seek(5)
            assert f.read(10) == data[5:15]
        with pytest.raises(NotImplementedError):
            self.fs.open("data/big", "ab")
        with pytest.raises(FileNotFoundError):
            self.fs.open("data/none", "rb").read()
        self.fs.mv("data/big", "data/moved/big")
        assert self.fs.cat_file("data/moved/big") == data
        self.fs.cp_file("data/moved/big", "data/copy")
        assert self.fs.ukey("data/copy").split("-")[2] == self.fs.ukey("data/moved/big").split("-")[2]
        assert self.fs.modified("data/copy").year >= 2020

    def test_directories(self):
        self.fs.mkdir("data/a/b")
        assert self.fs.isdir("data/a/b") and self.fs.isdir("data/a") and self.fs.ls("data/a/b") == []
        with pytest.raises(FileExistsError):
            self.fs.mkdir("data/a/b")
        self.fs.makedirs("data/a/b", exist_ok=True)
        self.fs.touch("data/a/b/file")
        with pytest.raises(OSError):
            self.fs.rmdir("data/a/b")
        with pytest.raises(IsADirectoryError):
            self.fs.rm("data/a/b")
        with pytest.raises(FileNotFoundError):
            self.fs.ls("data/none")
        self.fs.rm("data/a", recursive=True)
        assert not self.fs.exists("data/a")
        assert not self.fs.exists("nobucket/x")
        with pytest.raises(ValueError):
            self.fs.info("")

    def test_url(self):
        url = f"{Server.url}/from/url.txt"
        with fsspec.open(url, "wb", **Server.login) as f:
            f.write(b"hello")
        with fsspec.open(url, "rb", **Server.login) as f:
            assert f.read() == b"hello"
        fs, path = fsspec.core.url_to_fs(url, **Server.login)
        assert path == url[len("granary://"):]
        assert fs.unstrip_protocol(path) == url == fs.unstrip_protocol("data/from/url.txt")
        assert fs.cat_file("data/from/url.txt") == fs.cat_file(path) == b"hello"
        folder = path.rsplit("/", 1)[0]
        assert (fs.find(folder), fs.find("data/from")) == ([path], ["data/from/url.txt"])
        assert (fs.glob(f"{folder}/*"), fs.ls(folder, detail=False), fs.info(path)["name"]) == ([path], [path], path)
        assert fs.info(folder)["name"] == folder and fs.isdir(folder)
        fs.mv(path, "data/from/other.txt")
        assert fs.ls("data/from", detail=False) == ["data/from/other.txt"]
        assert granary.GranaryFileSystem is GranaryFileSystem


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", os.path.abspath(__file__)]))
