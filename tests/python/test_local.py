#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads by descriptor (PROTOCOL 4.16, 4.17): what is in the page cache comes without the server, with the same bytes and as
fresh as over the socket; damage is found and answered by the server; away, killed, compacted, out of descriptors, forked, or
switched off: reading goes on."""
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time
import unittest

import granary_case
from granary_case import BUILD, Case, content, crash_lib, forks, granary

SIZE, COUNT = 40000, 1000
FLIP = BUILD / "tests" / "read_flip.so"


def numbers(client):
    return {k: v for k, v in client.info().items() if isinstance(v, int)}


class Local(Case):
    SETTINGS = {"local-reads": "on", "pack-size": "16MiB", "cache-size": "64MiB", "job-interval": "150ms"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.files = {f"train/{i:05d}": content(i, SIZE) for i in range(COUNT)}
        cls.client.put_many(cls.files)
        cls.client.snapshot("v1", create=True, prefix="train/").close()
        cls.keys = list(cls.files)

    @classmethod
    def heat(cls):
        """All packs into the page cache."""
        for path in cls.server.packs():
            path.read_bytes()

    @classmethod
    def cool(cls):
        """No pack in the page cache."""
        for path in cls.server.packs():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    @staticmethod
    def memory_is_free():
        """What the library asks before it fills the page cache."""
        with open("/proc/meminfo", encoding="ascii") as f:
            kib = {line.split(":")[0]: int(line.split()[1]) for line in f}
        return kib["MemFree"] > kib["MemTotal"] / 6

    def until_local(self, client, read):
        """Reads until bytes come by descriptor: they are asked for in the background."""
        end, before = time.monotonic() + 60, numbers(client)["local_bytes"]
        while numbers(client)["local_bytes"] == before:
            self.assertLess(time.monotonic(), end, "nothing is read by descriptor")
            self.heat()
            read()
            time.sleep(0.02)

    def settled(self, client, read):
        """Reads until no request is sent any more: all that can be read so has its descriptor."""
        self.until_local(client, read)
        end = time.monotonic() + 60
        while True:
            before = numbers(client)
            read()
            after = numbers(client)
            if after["requests"] == before["requests"] and after["local_bytes"] > before["local_bytes"]:
                return
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def check_snapshot(self, snapshot, ids):
        got = snapshot.read_many(ids)
        for key, data in zip(snapshot.keys(ids), got):
            self.assertEqual(bytes(data), self.files[key], key)


class Reads(Local):
    def test_samples_of_a_snapshot_need_no_request(self):
        with granary.connect(self.url, **self.login) as client:
            s = client.snapshot("v1")
            ids = range(0, 300, 3)  # sealed packs; the last one is still open
            self.settled(client, lambda: self.check_snapshot(s, ids))
            before = numbers(client)
            self.check_snapshot(s, ids)
            after = numbers(client)
            self.assertEqual(after["requests"], before["requests"])
            self.assertGreaterEqual(after["local_bytes"] - before["local_bytes"], 100 * SIZE)
            self.check_snapshot(s, range(COUNT))  # the open pack too

    def test_live_reads_are_fresh(self):
        with granary.connect(self.url, **self.login) as client:
            keys = self.keys[:200]
            self.until_local(client, lambda: client.get_many(keys))
            for key, data in zip(keys, client.get_many(keys)):
                self.assertEqual(bytes(data), self.files[key])
            client.put(keys[7], b"new")
            self.assertEqual(bytes(client.get_many(keys)[7]), b"new")
            client.delete([keys[8]])
            got = client.get_many(keys, on_missing="none")
            self.assertIsNone(got[8])
            self.assertEqual(bytes(got[9]), self.files[keys[9]])
            client.put(keys[7], self.files[keys[7]])
            client.put(keys[8], self.files[keys[8]])
            self.assertEqual(client.get(keys[20], offset=1000, length=30000), self.files[keys[20]][1000:31000])
            for _ in range(40):  # ranges, single ones, in any order
                self.assertEqual(client.get(keys[21], offset=39990, length=100), self.files[keys[21]][39990:])
                self.assertEqual(len(client.get_many(keys, order="any")), 200)
            with self.assertRaises(KeyError):
                client.get("train/none")

    def test_an_epoch(self):
        for mode in ("exact", "blocks"):
            seen = {}
            with granary.connect(self.url, **self.login) as client:
                s = client.snapshot("v1")
                self.heat()
                for batch in self.stream(shuffle=mode, seed=3):
                    for i, valid, data in zip(batch.ids, batch.valid, batch):
                        if valid:
                            seen[i] = bytes(data)
                self.assertEqual(sorted(seen), list(range(COUNT)))
                for key, i in zip(s.keys(range(0, COUNT, 50)), range(0, COUNT, 50)):
                    self.assertEqual(seen[i], self.files[key], mode)

    def test_epochs_from_the_disk(self):
        """What is not in the page cache is read there by the process itself, once it has descriptors."""
        for mode in ("exact", "blocks"):
            ds = granary.IterableDataset(f"{self.url}@v1", shuffle=mode, batch_size=8, last="keep", **self.login)
            for epoch in range(3):
                self.cool()
                before, seen = numbers(ds.place.client())["local_bytes"], {}
                for batch in ds:
                    for i, data in zip(batch.ids, batch):
                        seen[i] = bytes(data)
                keys = ds.place.open().keys(range(COUNT))
                self.assertEqual([seen[i] for i in range(COUNT)], [self.files[key] for key in keys], mode)
                read = numbers(ds.place.client())["local_bytes"] - before
                if epoch > 0 and self.memory_is_free():
                    self.assertGreater(read, COUNT * SIZE // 2, mode)

    def test_epochs_from_the_disk_that_are_given_up(self):
        ds = granary.IterableDataset(f"{self.url}@v1", shuffle="blocks", batch_size=4, **self.login)
        for batches in range(24):
            if batches % 4 == 0:
                self.cool()
            stream = iter(ds)
            for _ in range(batches % 6):
                next(stream)
            stream.close()
            ds.set_epoch(batches + 1)

    @unittest.skipIf(crash_lib.SANITIZED, "a sanitizer's allocator may be locked by a thread that the child does not have")
    def test_a_fork_while_the_disk_is_read(self):
        ds = granary.IterableDataset(f"{self.url}@v1", shuffle="blocks", batch_size=4, **self.login)
        self.cool()
        stream = iter(ds)
        next(stream)
        child = os.fork()  # the threads that read are not there
        if child == 0:
            code = 1
            try:
                del stream
                code = 0 if len(next(iter(ds))) == 4 else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        stream.close()

    @forks
    def test_a_forked_child(self):
        with granary.connect(self.url, **self.login) as client:
            s = client.snapshot("v1")
            self.settled(client, lambda: self.check_snapshot(s, range(100)))
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    self.check_snapshot(s, range(100))
                    client.get_many(self.keys[:50])
                    code = 0
                finally:
                    os._exit(code)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            self.check_snapshot(s, range(100))

    def test_many_threads(self):
        with granary.connect(self.url, **self.login) as client:
            s = client.snapshot("v1")
            self.until_local(client, lambda: self.check_snapshot(s, range(100)))
            failed = []

            def work(n):
                try:
                    for i in range(5):
                        self.check_snapshot(s, range(n * 40 + i, n * 40 + 100))
                        client.get_many(self.keys[n * 40:n * 40 + 60])
                except BaseException as e:  # pylint: disable=broad-except
                    failed.append(e)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(failed, [])

    def test_switched_off(self):
        os.environ["GRANARY_LOCAL_READS"] = "off"
        try:
            with granary.connect(self.url, **self.login) as client:
                s = client.snapshot("v1")
                self.heat()
                for _ in range(5):
                    self.check_snapshot(s, range(50))
                    client.get_many(self.keys[:50])
                    time.sleep(0.05)
                self.assertEqual(numbers(client)["local_bytes"], 0)
            os.environ["GRANARY_LOCAL_READS"] = "maybe"
            with self.assertRaises(granary.Error):
                granary.connect(self.url, **self.login)
        finally:
            del os.environ["GRANARY_LOCAL_READS"]


PROGRAM = """
import pathlib, resource, sys, time
sys.path[:0] = {path!r}
import granary, granary_case
limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
with granary.connect({url!r}, credentials={credentials!r}) as client:
    s = client.snapshot("v1")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for path in pathlib.Path({packs!r}).glob("*/*.pack"):  # what was wrong was dropped from the page cache
            path.read_bytes()
        for ids in (range(0, 300, 3), range(100, {count})):
            keys = s.keys(ids)
            for key, data in zip(keys, s.read_many(ids) if "snapshot" in {kinds!r} else ()):
                assert bytes(data) == granary_case.content(int(key[-5:]), {size}), key
            for key, data in zip(keys, client.get_many(keys) if "live" in {kinds!r} else ()):
                assert bytes(data) == granary_case.content(int(key[-5:]), {size}), key
        info = client.info()
        if info["local_bytes"] > 0 and info["crc_errors"] >= {errors}:
            break
        time.sleep(0.05)
    else:
        sys.exit(f"no local reads, or no errors: {{info}}")
"""


class Faults(Local):
    def program(self, **fields):
        fields = {"errors": 0, "limit": 0, "kinds": "snapshot live", "count": COUNT} | fields
        return PROGRAM.format(path=[str(BUILD / "python"), os.path.dirname(os.path.abspath(__file__))], url=self.url, size=SIZE,
                              credentials=self.login["credentials"], packs=str(self.server.data / "packs"), **fields)

    def run_program(self, errors=0, limit=0, kinds="snapshot live", **env):
        text = self.program(errors=errors, limit=limit, kinds=kinds)
        p = subprocess.run([sys.executable, "-c", text], env={**os.environ, **env}, capture_output=True, text=True, timeout=200,
                           check=False)
        self.assertEqual(p.returncode, 0, p.stderr[-3000:])

    def test_damage_on_the_way_is_found_and_read_again_from_the_server(self):
        if crash_lib.SANITIZED:
            self.skipTest("a library is preloaded")
        self.run_program(errors=3, kinds="snapshot", LD_PRELOAD=str(FLIP), READ_FLIP_EVERY="3")
        before = self.client_status("corrupt_reported")
        self.run_program(errors=3, kinds="live", LD_PRELOAD=str(FLIP), READ_FLIP_EVERY="5")
        self.assertGreater(self.client_status("corrupt_reported"), before)  # READ told the server of its own

    def client_status(self, name):
        text = self.server.cli("status", "--json").stdout.decode()
        return int(text.split(f'"{name}":', 1)[1].split(",")[0].strip("} \n"))

    def test_damage_on_the_disk_is_an_error_that_names_the_sample(self):
        with granary.connect(self.url, **self.login) as client:
            s = client.snapshot("v1")
            self.settled(client, lambda: self.check_snapshot(s, range(100)))
            key = s.keys([5])[0]
            data = self.files[key]
            path, at = next((p, a) for p in self.server.packs() if (a := p.read_bytes().find(data[:64])) >= 0)
            self.patch(path, at + 33, bytes([data[33] ^ 4]))
            try:
                self.check_snapshot(s, range(10))        # what the server has in memory is good
                self.assertEqual(client.get(key), data)
            except granary.Error as error:
                self.assertIn(key, str(error))
            self.assertGreater(numbers(client)["crc_errors"], 0)
            self.server.kill()                           # now it has only the disk
            self.server.start()
            for read in (lambda: s.read_many(range(10)), lambda: client.get(key)):
                with self.assertRaises(granary.Error) as e:
                    read()
                self.assertIn(key, str(e.exception))
            self.check_snapshot(s, range(10, 100))
            self.patch(path, at + 33, data[33:34])
            self.check_snapshot(s, range(100))
            self.assertEqual(client.get(key), data)

    def test_damage_on_the_disk_in_an_epoch(self):
        for mode in ("exact", "blocks"):
            ds = granary.IterableDataset(f"{self.url}@v1", shuffle=mode, batch_size=8, last="keep", on_error="skip",
                                         **self.login)
            key = ds.place.open().keys([17])[0]
            data = self.files[key]
            path, at = next((p, a) for p in self.server.packs() if (a := p.read_bytes().find(data[:64])) >= 0)
            self.patch(path, at + 33, bytes([data[33] ^ 4]))
            try:
                self.server.kill()  # what it has in memory is good
                self.server.start()
                for _ in range(2):
                    self.cool()
                    skipped = 0
                    for batch in ds:
                        skipped += sum(1 for flags in batch.flags if flags & granary.SKIPPED)
                        for name, sample in zip(batch.keys(), batch):
                            self.assertEqual(bytes(sample), self.files[name])
                    self.assertEqual(skipped, 1, mode)
            finally:
                self.patch(path, at + 33, data[33:34])

    @staticmethod
    def patch(path, at, data):
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())

    def test_few_descriptors(self):
        self.run_program(limit=24)
        for limit in (14, 18):  # too few even for those that were passed
            p = subprocess.run(["prlimit", f"--nofile={limit}", "true"], check=False)
            if p.returncode == 0:
                self.run_program_limited(limit)

    def run_program_limited(self, limit):
        """As run_program, but nothing needs to be read by descriptor."""
        text = self.program(limit=limit, count=400)
        text = text.replace("+ 60", "+ 1").replace("sys.exit(", "print(")
        p = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200, check=False)
        self.assertTrue(p.returncode == 0 or "descriptor" in p.stderr or "open files" in p.stderr, p.stderr[-3000:])


class Restarts(Local):
    def test_the_server_is_killed_and_comes_back(self):
        with granary.connect(self.url, **self.login) as client:
            s = client.snapshot("v1")
            self.settled(client, lambda: self.check_snapshot(s, range(100)))
            self.server.kill()
            self.check_snapshot(s, range(100))  # what is held is read: the lease runs
            self.server.start()
            client.get_many(self.keys[:10])     # another server by its boot: what was passed before is closed
            before = numbers(client)["local_bytes"]
            self.check_snapshot(s, range(50))
            self.settled(client, lambda: self.check_snapshot(s, range(100)))
            self.assertGreater(numbers(client)["local_bytes"], before)
            held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.islink(f"/proc/self/fd/{fd}")]
            packs = [h for h in held if h.endswith(".pack")]
            self.assertEqual(len(packs), len(set(packs)), packs)

    def test_packs_that_are_compacted_away_meanwhile(self):
        with granary.connect(self.url, **self.login) as client:
            extra = {f"extra/{i:04d}": content(i, SIZE) for i in range(800)}
            client.put_many(extra)
            keys = list(extra)
            self.until_local(client, lambda: client.get_many(keys))
            stop, failed = threading.Event(), []

            def work():
                try:
                    with granary.connect(self.url, **self.login) as mine:
                        while not stop.is_set():
                            for key, data in zip(keys[::4], mine.get_many(keys[::4])):
                                assert bytes(data) == extra[key], key
                except BaseException as e:  # pylint: disable=broad-except
                    failed.append(e)

            t = threading.Thread(target=work)
            t.start()
            before = set(self.server.packs())
            client.delete([k for i, k in enumerate(keys) if i % 4])
            end = time.monotonic() + 60
            while before <= set(self.server.packs()) and not failed and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.3)
            stop.set()
            t.join()
            self.assertEqual(failed, [])
            self.assertFalse(before <= set(self.server.packs()), "nothing was compacted")


if __name__ == "__main__":
    assert pathlib.Path(FLIP).exists(), FLIP
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    granary_case.main()
