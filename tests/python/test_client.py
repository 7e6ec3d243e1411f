#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a Client does what its docstrings say against a real server, and what goes wrong is Python's usual exception with the
key, the endpoint, the request and a hint."""
import io
import os
import pathlib
import pickle
import threading
import time
import unittest

import granary_case
from granary_case import Case, content, forks, granary


class Objects(Case):
    SAMPLES = 40

    def test_get(self):
        for key, data in self.files.items():
            self.assertEqual(self.client.get(key), data)
        key = "train/ankle/00000.bin"
        self.assertEqual(self.client.get(key, offset=3, length=5), self.files[key][3:8])
        self.assertEqual(self.client.get(key, offset=3), self.files[key][3:])
        self.assertEqual(self.client.get(key, offset=len(self.files[key])), b"")

    def test_get_fails(self):
        with self.assertRaises(KeyError) as caught:
            self.client.get("train/nothing")
        e = caught.exception
        self.assertIsInstance(e, granary.Error)
        self.assertEqual((e.name, e.key), ("NOTFOUND", "train/nothing"))
        self.assertIn("data", e.endpoint)
        self.assertRegex(e.request_id, "^[0-9a-f]+-[0-9]+$")
        self.assertIn("Client.list", e.hint)
        for word in ("train/nothing", e.endpoint, e.request_id, e.hint):
            self.assertIn(word, str(e))
        self.assertEqual(str(pickle.loads(pickle.dumps(e))), str(e))
        with self.assertRaises(IndexError):
            self.client.get("train/ankle/00000.bin", offset=1 << 40)
        with self.assertRaises(ValueError):
            self.client.get("")
        for key in (None, 3, b"train", ["train"]):
            with self.assertRaises(TypeError):
                self.client.get(key)
        with self.assertRaises(ValueError):
            self.client.get("a\0b")
        with self.assertRaises(KeyError):
            self.client.get("train/ankle")  # a directory is no object

    def test_get_many(self):
        keys = list(self.files)[::-1]
        batch = self.client.get_many(keys)
        self.assertEqual([bytes(b) for b in batch], [self.files[k] for k in keys])
        self.assertEqual(batch.keys(), keys)
        self.assertEqual(batch.ids.tolist(), list(range(len(keys))))
        self.assertEqual(bytes(batch.data), b"".join(self.files[k] for k in keys))
        self.assertEqual(self.client.get_many([]).nbytes, 0)
        part = self.client.get_many([(keys[0], 2, 4), keys[1]])
        self.assertEqual([bytes(b) for b in part], [self.files[keys[0]][2:6], self.files[keys[1]]])

    def test_get_many_into(self):
        keys = list(self.files)
        total = sum(map(len, self.files.values()))
        out = bytearray(total + 100)
        for order in ("given", "any"):
            batch = self.client.get_many(keys, out=out, order=order)
            for i, key in zip(batch.ids, batch.keys()):
                self.assertEqual(keys[i], key)
            self.assertEqual({k: bytes(b) for k, b in zip(batch.keys(), batch)}, self.files)
            if order == "given":
                self.assertEqual(out[:total], b"".join(self.files.values()))
        with self.assertRaises(ValueError):
            self.client.get_many(keys, out=bytearray(100))
        with self.assertRaises((TypeError, BufferError)):
            self.client.get_many(keys, out=b"constant")

    def test_get_many_missing(self):
        keys = ["train/ankle/00000.bin", "missing/1", "train/boot/00001.bin", "missing/2"]
        with self.assertRaises(KeyError) as caught:
            self.client.get_many(keys)
        self.assertEqual(caught.exception.key, "missing/1")
        skipped = self.client.get_many(keys, on_missing="skip")
        self.assertEqual(skipped.ids.tolist(), [0, 2])
        self.assertEqual([bytes(b) for b in skipped], [self.files[keys[0]], self.files[keys[2]]])
        self.assertEqual(skipped.keys(), [keys[0], keys[2]])
        none = self.client.get_many(keys, on_missing="none")
        self.assertEqual(none.valid.tolist(), [1, 0, 1, 0])
        self.assertIsNone(none[1])
        self.assertEqual(bytes(none[2]), self.files[keys[2]])
        self.assertEqual(self.client.get_many(["x", "y"], on_missing="skip").ids.tolist(), [])
        for wrong in ("ignore", None):
            with self.assertRaises(ValueError):
                self.client.get_many(keys, on_missing=wrong)
        with self.assertRaises(TypeError):
            self.client.get_many("train/ankle/00000.bin")

    def test_put(self):
        first = self.client.put("put/a", b"one")
        self.assertGreater(self.client.put("put/a", memoryview(b"two"), meta={"who": "me"}), 0)
        self.assertGreater(first, 0)
        self.assertEqual(self.client.get("put/a"), b"two")
        self.assertEqual(self.client.stat("put/a").meta, {"who": "me"})
        with self.assertRaises(FileExistsError):
            self.client.put("put/a", b"three", if_absent=True)
        self.client.put("put/empty", b"")
        self.assertEqual(self.client.get("put/empty"), b"")
        self.client.put_many({f"put/many/{i}": content(i) for i in range(300)})
        self.assertEqual(self.client.get("put/many/299"), content(299))
        for wrong in ("text", None, 5):
            with self.assertRaises(TypeError):
                self.client.put("put/wrong", wrong)
        large = os.urandom(9 << 20)
        self.client.put("put/large", large)
        self.assertEqual(self.client.get("put/large"), large)

    def test_open_write(self):
        data = os.urandom(5 << 20)
        with self.client.open_write("written/a") as f:
            for at in range(0, len(data), 700000):
                f.write(data[at:at + 700000])
            with self.assertRaises(KeyError):
                self.client.get("written/a")
        self.assertEqual(self.client.get("written/a"), data)
        with self.assertRaises(ZeroDivisionError):
            with self.client.open_write("written/b") as f:
                f.write(b"half")
                raise ZeroDivisionError
        with self.assertRaises(KeyError):
            self.client.get("written/b")
        with self.assertRaises(ValueError):
            f.write(b"more")

    def test_list_stat_delete(self):
        self.client.put_many({f"names/d{i % 3}/{i:04d}": bytes(i) for i in range(1500)})
        entries = list(self.client.list("names/"))
        self.assertEqual([e.key for e in entries], sorted(f"names/d{i % 3}/{i:04d}" for i in range(1500)))
        self.assertEqual(entries[5].size, int(entries[5].key[-4:]))
        self.assertEqual([(e.key, e.kind) for e in self.client.list("names/", delimiter="/")],
                         [(f"names/d{i}/", granary.PREFIX) for i in range(3)])
        self.assertEqual(next(self.client.list("names/", start_after="names/d1/0004")).key, "names/d1/0007")
        stat = self.client.stat("names/d1/0007")
        self.assertEqual((stat.size, stat.kind), (7, granary.FILE))
        with self.assertRaises(KeyError):
            self.client.stat("names/none")
        self.assertIsInstance(self.client.stat_many(["names/d1/0007", "names/none"])[1], KeyError)
        self.client.delete("names/d1/0007")
        with self.assertRaises(KeyError):
            self.client.delete("names/d1/0007")
        self.client.delete(["names/d1/0007", "names/d1/0010"], missing_ok=True)
        self.assertNotIn("names/d1/0010", [e.key for e in self.client.list("names/d1/")])
        self.client.rename("names/d0", "names/e0")
        self.assertEqual(self.client.get("names/e0/0003"), bytes(3))
        self.client.mkdir("names/empty/deep")
        self.client.rmdir("names/empty/deep")
        with self.assertRaises(OSError):
            self.client.rmdir("names/e0")

    def test_closed(self):
        client = granary.connect(self.url, **self.login)
        batch = client.get_many(list(self.files))
        view, snapshot, listing = batch[3], client.snapshot("v1"), client.list("train/")
        client.close()
        client.close()
        self.assertTrue(client.closed)
        for call in (lambda: client.get("x"), lambda: client.get_many(["x"]), lambda: client.put("x", b""), client.ping,
                     lambda: client.stat("x"), lambda: client.delete("x"), lambda: client.snapshot("v1"),
                     lambda: snapshot.read(0), lambda: next(listing)):
            with self.assertRaisesRegex(ValueError, "closed"):
                call()
        self.assertEqual(bytes(view), list(self.files.values())[3])
        del batch
        self.assertEqual(bytes(view), list(self.files.values())[3])

    def test_wrong_addresses(self):
        for wrong in ("http://x/y", "granary://", "granary://host/bad_bucket!"):
            with self.assertRaises(ValueError):
                granary.connect(wrong, **self.login)
        for wrong in (5, ["granary://x"]):
            with self.assertRaises(TypeError):
                granary.connect(wrong)
        with self.assertRaises(KeyError):
            granary.connect(self.url, credentials="/does/not/exist")
        with self.assertRaises(PermissionError):
            granary.connect(self.url, access_key="nobody", secret="0" * 64).ping()
        with self.assertRaises(ConnectionError) as caught:
            granary.connect("granary://127.0.0.1:1/data", timeout=0.5, **self.login).get("x")
        self.assertIn("granaryd", caught.exception.hint)
        with self.assertRaises(KeyError) as caught:
            granary.connect(f"{self.server.url}/nobucket", **self.login).get("x")
        self.assertIn("bucket create", caught.exception.hint)
        for wrong in (0, -1):
            with self.assertRaises(ValueError):
                self.client.get("x", timeout=wrong)

    def test_threads(self):
        failures = []

        def work():
            try:
                for key, data in self.files.items():
                    assert self.client.get(key) == data
            except Exception as e:  # pylint: disable=broad-except
                failures.append(e)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failures, [])

    @forks
    def test_fork(self):
        self.client.ping()
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if self.client.get("train/ankle/00000.bin") == content(0) else 1)
            finally:
                os._exit(2)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertEqual(self.client.get("train/ankle/00000.bin"), content(0))

    def test_not_pickled(self):
        for thing in (self.client, self.client.get_many(list(self.files)), self.client.snapshot("v1")):
            with self.assertRaises(TypeError):
                pickle.dumps(thing)


class Snapshots(Case):
    SAMPLES = 100

    def test_read(self):
        snapshot = self.client.snapshot("v1")
        self.assertEqual(len(snapshot), self.SAMPLES)
        keys = snapshot.keys()
        self.assertEqual(sorted(keys), sorted(self.files))
        self.assertEqual([snapshot[i] for i in range(len(snapshot))], [self.files[k] for k in keys])
        self.assertEqual(snapshot[-1], self.files[keys[-1]])
        batch = snapshot.read_many([5, 2, 2, 99])
        self.assertEqual([bytes(b) for b in batch], [self.files[keys[i]] for i in (5, 2, 2, 99)])
        self.assertEqual(batch.keys(), [keys[i] for i in (5, 2, 2, 99)])
        self.assertEqual([bytes(b) for b in snapshot[10:13]], [self.files[k] for k in keys[10:13]])
        self.assertEqual(snapshot.find(keys[7]), (7, 0))
        self.assertEqual(snapshot.read_many([]).nbytes, 0)
        for wrong in (100, -101, 1 << 62):
            with self.assertRaises(IndexError):
                snapshot[wrong]
        for wrong in ("0", 1.5, None):
            with self.assertRaises(TypeError):
                snapshot[wrong]
        with self.assertRaises(KeyError):
            snapshot.find("train/none")

    def test_keys_of_all_samples(self):
        snapshot = self.client.snapshot("v1")
        keys, made = snapshot.keys(), snapshot.keys(range(self.SAMPLES))
        self.assertIsInstance(made, list)
        self.assertEqual(len(keys), self.SAMPLES)
        self.assertEqual((list(keys), keys[3], keys[-1], keys[-100]), (made, made[3], made[-1], made[0]))
        for part in (slice(5, 90, 7), slice(None, None, -1), slice(200, 300)):
            self.assertEqual(keys[part], made[part])
        self.assertEqual(list(reversed(keys)), made[::-1])
        self.assertEqual((made[4] in keys, "train/none" in keys, keys.index(made[9])), (True, False, 9))
        self.assertTrue(keys == made and made == keys and keys == snapshot.keys() and keys != made[1:] and keys != "train")
        keys.CHUNK = 7
        self.assertEqual(list(keys), made)
        for wrong in (self.SAMPLES, -101, 1 << 62):
            with self.assertRaises(IndexError):
                keys[wrong]
        with self.assertRaises(TypeError):
            keys["0"]

    def test_open(self):
        snapshot = self.client.snapshot("v1")
        with snapshot.open(3) as f:
            data = self.files[snapshot.keys([3])[0]]
            self.assertTrue(f.seekable())
            f.seek(-4, io.SEEK_END)
            self.assertEqual(f.read(), data[-4:])
            f.seek(1)
            self.assertEqual(f.read(3), data[1:4])

    def test_labels(self):
        snapshot = self.client.snapshot("v1")
        self.assertEqual(snapshot.classes(), sorted(granary_case.CLASSES))
        for key, label in zip(snapshot.keys(), snapshot.labels()):
            self.assertEqual(snapshot.classes()[label], key.split("/")[1])

    def test_labels_sorted_as_names(self):
        """Among keys 'a-b/x' comes before 'a/x'; among names 'a' comes first."""
        self.client.put_many({f"odd/{d}/{i}": b"x" for d in ("a-b", "a", "b") for i in range(3)} | {"odd/file": b"no class"})
        snapshot = self.client.snapshot("odd", create=True, prefix="odd/")
        self.assertEqual(snapshot.classes(), ["a", "a-b", "b"])
        for key, label in zip(snapshot.keys(), snapshot.labels()):
            self.assertEqual(label, -1 if key == "odd/file" else snapshot.classes().index(key.split("/")[1]))

    def test_fields(self):
        self.client.put_many({f"pairs/{i:03d}.{suffix}": f"{i}{suffix}".encode() for i in range(20) for suffix in ("png", "txt")})
        snapshot = self.client.snapshot("pairs", create=True, prefix="pairs/", group="basename")
        self.assertEqual((len(snapshot), snapshot.field_names()), (20, ("png", "txt")))
        batch = snapshot.read_many([4, 1])
        self.assertEqual([bytes(b) for b in batch["txt"]], [k.encode() + b"txt" for k in
                         [str(int(key[6:9])) for key in batch.keys()]])
        self.assertEqual(bytes(batch[0]), bytes(batch["png"][0]) + bytes(batch["txt"][0]))
        sample = batch.samples()[1]
        self.assertEqual(bytes(sample["png"]), bytes(sample.fields["png"]))
        with self.assertRaises(KeyError):
            batch["jpg"]

    def test_names(self):
        names = [s["name"] for s in self.client.snapshots()]
        self.assertIn("v1", names)
        self.client.snapshot("gone", create=True, prefix="train/boot/").close()
        with self.assertRaises(FileExistsError):
            self.client.snapshot("gone", create=True)
        self.client.remove_snapshot("gone")
        with self.assertRaises(KeyError):
            self.client.snapshot("gone")


class Waiting(Case):
    def test_interrupt(self):
        """Ctrl-C ends a call that would wait for long; the client goes on."""
        import signal
        self.client.ping()
        self.server.process.send_signal(signal.SIGSTOP)
        while not self.stopped():
            time.sleep(0.001)
        try:
            for call in (lambda: self.client.get("x"), lambda: self.client.snapshot("v1")):
                timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
                timer.start()
                began = time.monotonic()
                with self.assertRaises(KeyboardInterrupt):
                    call()
                self.assertLess(time.monotonic() - began, 25)  # the call's own deadline is 30 s
        finally:
            self.server.process.send_signal(signal.SIGCONT)
        self.client.put("after", b"1")
        self.assertEqual(self.client.get("after"), b"1")

    def stopped(self):
        """Whether all threads of the server stand."""
        tasks = pathlib.Path(f"/proc/{self.server.process.pid}/task").glob("*/stat")
        return all(stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T" for stat in tasks)

    def test_notice(self):
        """After 2 s of waiting one line says what is waited for."""
        import contextlib
        import signal
        self.client.ping()
        self.server.process.send_signal(signal.SIGSTOP)
        while not self.stopped():
            time.sleep(0.001)
        text = io.StringIO()
        try:
            with contextlib.redirect_stderr(text), self.assertRaises(TimeoutError):
                self.client.get("slow/key", timeout=3)
        finally:
            self.server.process.send_signal(signal.SIGCONT)
        self.assertIn("waiting for 1 objects, the first 'slow/key'", text.getvalue())


if __name__ == "__main__":
    granary_case.main()
