#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: an IterableDataset gives every sample once an epoch over all ranks, the bytes of the files, goes on where it was
stopped, and keeps memory and references as they were; a Batch lives as long as anything that looks into it."""
import array
import gc
import os
import pickle
import sys
import threading
import time
import unittest

import granary_case
from granary_case import Case, forks, granary, ids_of


class Batches(Case):
    SAMPLES = 300

    def test_content(self):
        snapshot = self.client.snapshot("v1")
        for shuffle in ("auto", "exact", "blocks", "none", True, False):
            seen = {}
            for batch in self.stream(shuffle=shuffle, seed=3):
                self.assertEqual(len(batch), 16)
                self.assertEqual(len(batch.offsets), 17)
                self.assertEqual(batch.nbytes, sum(map(len, batch)))
                self.assertEqual(bytes(batch.data), b"".join(map(bytes, batch)))
                for i, key in enumerate(batch.keys()):
                    self.assertEqual(bytes(batch[i]), self.files[key])
                    self.assertEqual(snapshot.classes()[batch.labels[i]], key.split("/")[1])
                    if batch.valid[i]:
                        self.assertNotIn(batch.ids[i], seen)
                        seen[batch.ids[i]] = key
                    else:
                        self.assertEqual(batch.flags[i], granary.PADDED)
            self.assertEqual(sorted(seen.values()), sorted(self.files))

    def test_looking(self):
        batch = next(iter(self.stream()))
        self.assertEqual(bytes(batch[-1]), bytes(batch[15]))
        self.assertEqual([bytes(b) for b in batch[2:8:3]], [bytes(batch[2]), bytes(batch[5])])
        for wrong in (16, -17):
            with self.assertRaises(IndexError):
                batch[wrong]
            with self.assertRaises(IndexError):
                batch.ids[wrong]
        for wrong in (1.5, None):
            with self.assertRaises(TypeError):
                batch[wrong]
        view = memoryview(batch.offsets)
        self.assertEqual((view.format, view.shape, view.itemsize), ("q", (17,), 8))
        self.assertEqual(memoryview(batch.flags).format, "I")
        self.assertEqual(memoryview(batch).nbytes, batch.nbytes)
        self.assertEqual(batch.ids[2:4].tolist(), batch.ids.tolist()[2:4])
        sample = batch.samples()[3]
        self.assertEqual((bytes(sample), sample.id, sample.key, sample.label),
                         (bytes(batch[3]), batch.ids[3], batch.keys()[3], batch.labels[3]))
        self.assertEqual(sample.open().read(), bytes(batch[3]))

    def test_outlives(self):
        """Views, copies and batches are good after the stream, the client and the server's bytes are gone."""
        client = granary.connect(self.url, **self.login)
        native = granary._native.Epoch(client, "data@v1", batch=16)
        batch = native.next()
        view, ids, copy = batch[5], batch.ids, batch.copy()
        expected = bytes(view), ids.tolist(), bytes(batch.data)
        native.close()
        with self.assertRaisesRegex(ValueError, "closed"):
            native.next()
        client.close()
        del batch, client, native
        gc.collect()
        self.assertEqual((bytes(view), ids.tolist(), bytes(copy.data)), expected)
        view[:] = bytes(len(view))  # memory of our own: writing is fine
        self.assertEqual(bytes(copy.data), expected[2])

    def test_state(self):
        for shuffle in ("exact", "blocks"):
            whole = ids_of(self.stream(shuffle=shuffle, seed=9))
            for k in (0, 1, 7, len(whole)):
                ds = self.stream(shuffle=shuffle, seed=9)
                loader = granary.DataLoader(ds)
                running = iter(loader)
                first = ids_of(next(running) for _ in range(k))
                state = pickle.loads(pickle.dumps(loader.state_dict()))
                other = granary.DataLoader(self.stream(shuffle=shuffle, seed=9))
                other.load_state_dict(state)
                rest = ids_of(other) if k < len(whole) or state["token"] else []
                self.assertEqual(first + rest, whole)
                self.assertEqual(other.epoch, 1)

    def test_resume_with_other_ranks(self):
        seen, state = [], None
        for world, count in ((3, 2), (2, 3), (5, None)):
            states, rows = set(), []
            for rank in range(world):
                loader = granary.DataLoader(self.stream(shuffle="blocks", seed=4, dp_rank=rank, dp_size=world, batch_size=8))
                if state:
                    loader.load_state_dict(state)
                running = iter(loader)
                batches = list(running) if count is None else [next(running) for _ in range(count)]
                rows.append(len(batches))
                seen += [i for ids in ids_of(batches) for i in ids]
                states.add(tuple(sorted(loader.state_dict().items(), key=str)))
            self.assertEqual(len(states), 1)
            self.assertEqual(len(set(rows)), 1)
            state = dict(states.pop())
        self.assertEqual(sorted(seen), list(range(self.SAMPLES)))

    def test_epochs(self):
        ds = self.stream(shuffle="exact", seed=2)
        loader = granary.DataLoader(ds)
        epochs = [ids_of(loader) for _ in range(3)]
        self.assertEqual(len({tuple(e) for e in epochs}), 3)
        loader.set_epoch(1)
        self.assertEqual(ids_of(loader), epochs[1])
        ds.set_epoch(0)
        self.assertEqual(ids_of(ds), epochs[0])
        self.assertEqual(loader.epoch, 1)

    def test_lengths(self):
        for last in ("pad", "drop", "keep"):
            for world in (1, 3, 7):
                for size in (1, 16, 100):
                    for rank in (0, world - 1):
                        ds = self.stream(last=last, dp_rank=rank, dp_size=world, batch_size=size)
                        self.assertEqual(len(ds), len(list(ds)), (last, world, size, rank))
        self.assertEqual(len(granary.DataLoader(self.stream())), -(-self.SAMPLES // 16))

    def test_singles(self):
        ds = self.stream(batch_size=None)
        samples = list(ds)
        self.assertEqual(len(ds), len(samples))
        self.assertEqual(sorted(s.id for s in samples if s.valid), list(range(self.SAMPLES)))

    def test_transform(self):
        ds = self.stream(transform=lambda s: (len(s), s.label), collate_fn=lambda rows: rows, shuffle="none")
        rows = [row for batch in ds for row in batch][:self.SAMPLES]
        snapshot = self.client.snapshot("v1")
        self.assertEqual(rows, [(len(self.files[k]), la) for k, la in zip(snapshot.keys(), snapshot.labels())])

    def test_transform_fails(self):
        def decode(sample):
            if sample.id in (3, 4, 40):
                raise ValueError("not an image")
            return sample.id
        ds = self.stream(transform=decode, collate_fn=list, shuffle="none")
        with self.assertRaises(granary.errors.SampleError) as caught:
            list(ds)
        self.assertIn("sample 3", str(caught.exception))
        self.assertEqual(caught.exception.key, self.client.snapshot("v1").keys([3])[0])
        self.assertIsInstance(caught.exception.__cause__, ValueError)
        skipping = self.stream(transform=decode, collate_fn=list, shuffle="none", on_error="skip")
        rows = [i for batch in skipping for i in batch]
        self.assertEqual(rows[:6] + [rows[40]], [0, 1, 2, 5, 5, 5, 41])
        self.assertEqual(len(rows), 304)
        with self.assertRaises(granary.errors.SampleError):
            list(self.stream(transform=decode, collate_fn=list, shuffle="none", on_error="skip", max_errors=2))

    def test_ranks(self):
        from granary.ranks import resolve
        self.assertEqual(resolve(2, 5), (2, 5, 1))
        for rank, size in ((5, 5), (-1, 5), (0, 0), (None, 3), (1, None)):
            with self.assertRaises(ValueError):
                resolve(rank, size)
        keep = dict(os.environ)
        try:
            os.environ.update(RANK="5", WORLD_SIZE="8", SLURM_PROCID="1", SLURM_NTASKS="2")
            self.assertEqual(resolve(), (5, 8, 1))
            self.assertEqual(resolve(replicate=2), (2, 4, 2))
            self.assertEqual(resolve(0, 3), (0, 3, 1))
            self.assertEqual(resolve(0, 3, None, 4), (0, 3, 4))
            with self.assertRaises(ValueError):
                resolve(replicate=3)
            with self.assertRaises(ValueError):
                resolve(process_group=object())
            mine = pickle.loads(pickle.dumps(self.stream(shuffle="none")))
            os.environ.pop("RANK")
            self.assertEqual(resolve(), (1, 2, 1))
            self.assertEqual(mine._rank(), (5, 8))
            os.environ["SLURM_PROCID"] = "x"
            with self.assertRaisesRegex(ValueError, "SLURM_PROCID"):
                resolve()
        finally:
            os.environ.clear()
            os.environ.update(keep)

    def test_wrong_arguments(self):
        for options, error in (({"shuffle": "random"}, ValueError), ({"last": "x"}, ValueError), ({"on_error": 1}, ValueError),
                               ({"batch_size": 0}, ValueError), ({"batch_size": 5000}, ValueError),
                               ({"batch_size": "16"}, TypeError), ({"seed": -1}, ValueError), ({"seed": 1.5}, TypeError),
                               ({"dp_rank": 3, "dp_size": 3}, ValueError), ({"dp_rank": 0}, ValueError),
                               ({"transform": 5}, TypeError), ({"stall_timeout": 0}, ValueError),
                               ({"replicate": 0, "dp_rank": None}, ValueError)):
            with self.assertRaises(error, msg=str(options)):
                next(iter(self.stream(**options)))
        for wrong in ("granary://x", 5, "file:///x"):
            with self.assertRaises((ValueError, TypeError)):
                granary.IterableDataset(wrong, **self.login)
        with self.assertRaises(KeyError):
            list(granary.IterableDataset(f"{self.url}@none", **self.login))
        with self.assertRaisesRegex(ValueError, "nothing of source"):
            list(granary.IterableDataset(f"{self.url}@v1/train/bo", **self.login))
        self.assertEqual(len(list(granary.IterableDataset(f"{self.url}@v1/train", **self.login))), 5)
        loader = granary.DataLoader(self.stream())
        for state in ({}, 5, {"version": 9}, {**loader.state_dict(), "token": "A" * 80}, {**loader.state_dict(), "seed": 1}):
            with self.assertRaises(ValueError, msg=str(state)):
                loader.load_state_dict(state)
        with self.assertRaises(TypeError):
            granary.DataLoader([1, 2])

    def test_token_of_another_snapshot(self):
        self.client.snapshot("other", create=True, prefix="train/boot/", exist_ok=True)
        loader = granary.DataLoader(granary.IterableDataset(f"{self.url}@other", batch_size=4, **self.login))
        next(iter(loader))
        mine = granary.DataLoader(self.stream())
        mine.load_state_dict(loader.state_dict())
        with self.assertRaises(ValueError):
            next(iter(mine))

    def test_a_directory_of_a_snapshot(self):
        """BUCKET@SNAPSHOT/PREFIX: its samples below that directory, each once over all ranks, resumed, with their labels; the
        same order in every process; a read-only key is enough; what a job was given can be told again."""
        self.client.put_many({f"part/{split}/{'ab'[i % 2]}/{i}": b"%s %d" % (split.encode(), i)
                              for split in ("tr*[in", "train", "val") for i in range(150)})
        self.client.snapshot("whole", create=True, prefix="part/").close()
        for path, split in (("part/train", "train"), ("part/tr*[in/", "tr*[in"), ("part/train/b/", "train/b")):
            keys, count = [], 75 if split.endswith("b") else 150
            for rank in range(3):
                ds = granary.IterableDataset(f"{self.url}@whole/{path}", batch_size=8, seed=4, shuffle="blocks", dp_rank=rank,
                                             dp_size=3, job="parts", **self.login)
                if not split.endswith("b"):
                    self.assertEqual((ds.samples_count(), len(ds)), (count, -(-count // 24)))
                for batch in ds:
                    keys += [k for k, v in zip(batch.keys(), batch.valid) if v]
                    for key, label, data in zip(batch.keys(), batch.labels, batch):
                        self.assertEqual(key.rsplit("/", 2)[0] + "/", "part/" + split.split("/")[0] + "/")
                        self.assertEqual(label, -1 if split.endswith("b") else "ab".index(key.split("/")[2]))
                        self.assertEqual(bytes(data).decode(), f"{key.split('/')[1]} {key.rsplit('/', 1)[1]}")
            self.assertEqual((len(keys), len(set(keys))), (count, count))
        make = lambda: granary.IterableDataset(f"{self.url}@whole/part/train", batch_size=8, seed=4, **self.login)
        whole = ids_of(make())
        loader = granary.DataLoader(make())
        running = iter(loader)
        first = ids_of(next(running) for _ in range(5))
        again = granary.DataLoader(make())
        again.load_state_dict(loader.state_dict())
        self.assertEqual(first + ids_of(again), whole)
        with self.assertRaisesRegex(ValueError, "token"):
            other = granary.DataLoader(granary.IterableDataset(f"{self.url}@whole/part/val", batch_size=8, seed=4, **self.login))
            other.load_state_dict(loader.state_dict())
            list(other)
        log = self.server.cli("provenance", "parts", f"{self.server.url}/data", "--verify").stdout.decode()
        for path in ("train", "tr*[in/", "train/b/"):
            self.assertIn(f"data@whole/part/{path}", log)
        self.assertEqual(self.client.snapshot("whole").describe()["samples"], 450)
        for url, error in ((f"{self.url}@whole/part/none", ValueError), (f"{self.url}@none/part", KeyError)):
            with self.assertRaises(error):
                list(granary.IterableDataset(url, **self.login))
            with self.assertRaises(error):
                len(granary.MapDataset(url, **self.login))
        self.assertEqual(len(granary.MapDataset(f"{self.url}@whole/part", **self.login)), 450)

    def test_a_directory_by_number(self):
        """MapDataset of BUCKET@SNAPSHOT/PREFIX: what lies there, numbered from 0 as in the snapshot."""
        self.client.put_many({f"some/{split}/{'ab'[i % 2]}/{i}": b"%s %d" % (split.encode(), i)
                              for i in range(150) for split in ("a-b", "train", "val")})
        whole = self.client.snapshot("some", create=True, prefix="some/")
        ds = granary.MapDataset(f"{self.url}@some/some/train/", **self.login)
        expected = [k for k in whole.keys() if k.startswith("some/train/")]
        self.assertEqual((len(ds), ds.classes, ds.class_to_idx), (150, ["a", "b"], {"a": 0, "b": 1}))
        self.assertEqual([ds.key(i) for i in range(150)], expected)
        self.assertEqual(ds.targets.tolist(), ["ab".index(k.split("/")[2]) for k in expected])
        item = lambda i: (b"train %s" % expected[i].rsplit("/", 1)[1].encode(), ds.targets[i])
        self.assertEqual(pickle.loads(pickle.dumps(ds)).__getitems__([149, 0, -2, 0]), [item(i) for i in (149, 0, 148, 0)])
        batch = ds.batch([7, 3])
        self.assertEqual((batch.keys(), batch.labels.tolist()), ([expected[7], expected[3]], [item(i)[1] for i in (7, 3)]))
        self.assertEqual(whole.keys(batch.ids), batch.keys())
        for wrong in (150, -151):
            with self.assertRaises(IndexError):
                ds[wrong]
        deeper = granary.MapDataset(f"{self.url}@some/some/val/b", transform=lambda s: (s.key, s.label), **self.login)
        self.assertEqual((len(deeper), {label for _, label in deeper}, deeper.classes), (75, {-1}, []))
        self.assertTrue(all(key.startswith("some/val/b/") for key, _ in deeper))

    @forks
    def test_automatic(self):
        ds = granary.IterableDataset.from_prefix(f"{self.url}/train/", batch_size=100, **self.login)
        self.assertEqual(sorted(i for ids in ids_of(ds) for i in ids), list(range(self.SAMPLES)))
        self.assertTrue(ds.place.snapshot.startswith(".auto-"))
        keys = list(self.files)[3:9]
        ds = granary.IterableDataset.from_objects([f"{self.url}/{k}" for k in keys], batch_size=2, last="keep", **self.login)
        self.assertEqual(sorted(k for b in ds for k in b.keys()), sorted(keys))
        window = granary.IterableDataset(f"{self.url}/train/", window=2, shuffle="blocks", **self.login)
        self.assertEqual(sorted(i for ids in ids_of(window) for i in ids), list(range(self.SAMPLES)))
        for call, url in ((granary.IterableDataset.from_prefix, self.v1), (granary.IterableDataset.from_snapshot, self.url)):
            with self.assertRaises(ValueError):
                call(url, **self.login)

    def test_map(self):
        ds = granary.MapDataset(self.v1, **self.login)
        self.assertEqual(len(ds), self.SAMPLES)
        self.assertEqual(ds.classes, sorted(granary_case.CLASSES))
        self.assertEqual(ds[5], (self.files[ds.key(5)], ds.targets[5]))
        self.assertEqual(ds[-1], ds[self.SAMPLES - 1])
        self.assertEqual(ds.__getitems__([7, 7, 2]), [ds[7], ds[7], ds[2]])
        for wrong in (self.SAMPLES, -self.SAMPLES - 1):
            with self.assertRaises(IndexError):
                ds[wrong]
        with self.assertRaises(TypeError):
            ds["5"]
        again = pickle.loads(pickle.dumps(ds))
        self.assertEqual(again[5], ds[5])
        keys = list(self.files)[:5]
        objects = granary.MapDataset.from_objects([f"{self.url}/{k}" for k in keys], transform=bytes, **self.login)
        self.assertEqual([objects[i] for i in range(5)], [self.files[k] for k in keys])
        self.assertEqual(len(granary.MapDataset.from_prefix(f"{self.url}/train/boot", **self.login)), self.SAMPLES // 5)

    def test_flat(self):
        """References and memory are as before after 100 epochs."""
        ds = self.stream(shuffle="blocks", seed=1)

        def rss():
            with open("/proc/self/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) * 4096
        for _ in range(10):
            for batch in ds:
                batch.labels, batch.keys()
        del batch
        gc.collect()
        place, before = sys.getrefcount(ds.place), rss()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            for batch in ds:
                batch[0], batch.ids, batch.labels
        del batch
        gc.collect()
        self.assertEqual(sys.getrefcount(ds.place), place)
        if not granary_case.crash_lib.SANITIZED:  # AddressSanitizer keeps what was freed for a while
            self.assertLess(rss() - before, 16 << 20)
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)
        self.assertEqual([o for o in gc.get_objects() if type(o) is granary.Batch], [])

    def test_one_thread(self):
        """Two threads at one stream: one of them is told, no batch is lost or given twice."""
        stream, seen, lock = iter(self.stream(batch_size=1)), [], threading.Lock()

        def work():
            while True:
                try:
                    batch = next(stream)
                except RuntimeError:
                    time.sleep(0.001)
                except StopIteration:
                    return
                else:
                    with lock:
                        seen.extend(batch.ids)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted(seen), list(range(self.SAMPLES)))

    @forks
    def test_between_processes(self):
        """Batches through a queue: as memory, with labels; the sender uses it again; a process that has ended is named."""
        import multiprocessing
        context = multiprocessing.get_context("fork")
        queue, done = context.Queue(), context.Event()

        def send():
            for batch in self.stream(shuffle="none"):
                batch.labels
                queue.put(batch)
            queue.put(None)
            done.wait()
            os._exit(0)
        process = context.Process(target=send)
        process.start()
        got = list(iter(queue.get, None))
        self.assertEqual(sorted(i for ids in ids_of(got) for i in ids), list(range(self.SAMPLES)))
        for batch in got:
            for i, key in enumerate(batch.keys()):
                self.assertEqual(bytes(batch[i]), self.files[key])
        view = got[0][0]
        text = bytes(view)
        done.set()
        process.join()
        del got, batch
        self.assertEqual(bytes(view), text)
        from granary.shared import _receive
        with self.assertRaisesRegex(granary.Error, "has ended"):
            _receive(process.pid, 3, 1, 4096, None, None, None)

    def test_memory_is_used_again(self):
        from granary import _native, shared
        batch = next(iter(self.stream()))
        before = _native.send_count()
        for _ in range(50):
            make, args = shared._send(batch)
            self.assertEqual(bytes(make(*args).data), bytes(batch.data))
        self.assertLessEqual(_native.send_count(), before + 1)

    def test_batches_are_read_into_the_memory_that_travels(self):
        """As in a worker: what is sent is not copied, is not used again while it is away, and sent again it is a copy."""
        from granary import _native, shared
        stream = self.stream(batch_size=64, shuffle="exact")
        epoch = stream._epoch(0, None, 0, 1, 1, 0)
        expected = [(list(b.ids), bytes(b.data)) for b in iter(epoch.next, None)]
        source = stream._source()

        def shared_epoch():
            return _native.Epoch(stream.place.client(), stream.place.name(), seed=stream.seed, mode=stream.shuffle, batch=64,
                                 last=stream.last, shared=True)
        sent = []
        for batch in iter(shared_epoch().next, None):
            batch.source = source
            make, args = shared._send(batch)
            again = shared._send(batch)[1]
            self.assertNotEqual(args[2], again[2])
            sent += [make(*args), make(*again)]
        del batch
        self.assertEqual([(list(b.ids), bytes(b.data)) for b in sent[::2]], expected)
        self.assertEqual([(list(b.ids), bytes(b.data)) for b in sent[1::2]], expected)
        count = _native.send_count()
        del sent
        for _ in range(3):
            for batch in iter(shared_epoch().next, None):
                batch.source = source
                make, args = shared._send(batch)
                got = make(*args)
                del batch
                self.assertEqual((list(got.ids), bytes(got.data)), expected[got.number])
        self.assertLessEqual(_native.send_count(), count + 1)

    def test_broken_memory(self):
        from granary import _native
        fd = os.memfd_create("test")
        good, rest = [0x3248435441424e47, 8192], [0] * 600
        heads = ([1 << 40] * 30, good + [4096 + 4], good + [8200], good + [512], good + [8184, 0, 0, 1 << 32 | 4000],
                 good + [4096, 0, 0, 1], good + [4096, 0, 0, 1 << 32 | 1, 0, 1 << 20])
        for text in (b"", b"x" * 9000, *(array.array("Q", head + rest).tobytes() for head in heads),
                     array.array("Q", [*good, 8000, 0, 0, 1 << 32 | 1, 0, *rest, *([1 << 40] * 600)]).tobytes()):
            os.pwrite(fd, text, 0)
            with self.assertRaises(ValueError):
                _native.Shared(fd).read(granary.Batch)
        os.close(fd)
        with self.assertRaises(OSError):
            _native.Shared(fd)
        with self.assertRaises(TypeError):
            _native.Shared().read(int)
        with self.assertRaises(TypeError):
            _native.Shared().write(b"")

    def test_memory_of_others_is_mapped_once(self):
        """And unmapped once its sender has closed it; what was received stays."""
        from granary import _native, shared
        shared._arrivals.forget()
        batch, memory = next(iter(self.stream())), _native.Shared()
        for _ in range(3):
            got = shared._arrivals.memory(os.getpid(), memory.fileno(), 1, memory.write(batch)).read(granary.Batch)
        self.assertEqual(len(shared._arrivals.maps), 1)
        del memory
        again = shared._receive(*shared._send(batch)[1])
        self.assertEqual(len(shared._arrivals.maps), 1)
        self.assertEqual((bytes(got.data), bytes(again.data)), (bytes(batch.data), bytes(batch.data)))

    def test_memory_grows(self):
        from granary import shared
        sizes = []
        for batch_size in (1, 3, 40):
            batch = next(iter(self.stream(batch_size=batch_size)))
            make, args = shared._send(batch)
            got = make(*args)
            self.assertEqual((bytes(got.data), list(got.ids), got.token), (bytes(batch.data), list(batch.ids), batch.token))
            sizes.append(got.nbytes)
            del got
        self.assertEqual(sizes, sorted(sizes))

    @forks
    def test_exit_in_mid_stream(self):
        import subprocess
        code = ("import granary, sys\n"
                f"ds = granary.IterableDataset({self.v1!r}, batch_size=4, credentials={self.login['credentials']!r})\n"
                "it = iter(ds); keep = [next(it) for _ in range(3)]; view = keep[0][0]\n"
                "sys.exit(7)")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
        self.assertEqual((done.returncode, done.stderr), (7, b""))


class Fields(Case):
    """Samples of three files, of which one is most of the bytes."""

    SAMPLES = 0

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for i in range(200):
            for suffix, size in (("cls", 5), ("mp4", 50000 + i), ("txt", 300)):
                cls.files[f"clips/{i % 5}/{i:04d}.{suffix}"] = granary_case.content(hash((i, suffix)) & 0xffff, size)
        cls.client.put_many(cls.files)
        cls.client.snapshot("v1", create=True, prefix="clips/", group="basename").close()
        cls.whole = sum(map(len, cls.files.values()))

    def test_only_what_is_wanted_is_read(self):
        for shuffle in ("exact", "blocks", "none"):
            for world in (1, 2):
                seen, fetched = [], 0
                for rank in range(world):
                    stream = iter(self.stream(shuffle=shuffle, seed=2, fields=("txt", "cls"), dp_rank=rank, dp_size=world))
                    for batch in stream:
                        self.assertEqual(batch.fields, ("cls", "txt"))
                        for sample in batch.samples():
                            stem = sample.key.rsplit(".", 1)[0]
                            self.assertEqual(bytes(sample["txt"]), self.files[f"{stem}.txt"])
                            self.assertEqual({k: bytes(v) for k, v in sample.fields.items()},
                                             {k: self.files[f"{stem}.{k}"] for k in ("cls", "txt")})
                            self.assertEqual(len(sample), 305)
                            with self.assertRaises(KeyError):
                                sample["mp4"]
                            if sample.valid:
                                seen.append(sample.id)
                        self.assertEqual([bytes(v) for v in batch["cls"]], [bytes(s["cls"]) for s in batch.samples()])
                        with self.assertRaises(KeyError):
                            batch["mp4"]
                    fetched += stream.info()["bytes_fetched"]
                self.assertEqual(sorted(seen), list(range(200)), (shuffle, world))
                self.assertLess(fetched, self.whole / 20, (shuffle, world))

    def test_all(self):
        stream = iter(self.stream(shuffle="exact", seed=2))
        order = [tuple(b.ids) for b in stream]
        self.assertGreater(stream.info()["bytes_fetched"], self.whole)
        self.assertEqual([tuple(b.ids) for b in self.stream(shuffle="exact", seed=2, fields=["mp4"])], order)
        made = granary.IterableDataset(f"{self.url}/clips/", fields=["mp4"], batch_size=16, **self.login)
        with self.assertRaisesRegex(ValueError, "mp4"):
            next(iter(made))  # without group= each file is a sample: it has no fields
        for wrong in (["mp3"], []):
            with self.assertRaisesRegex(ValueError, "'txt'"):
                next(iter(self.stream(fields=wrong)))
        with self.assertRaisesRegex(ValueError, "beyond the 3 files"):
            granary._native.Epoch(self.client, "data@v1", files=8)

    @forks
    def test_between_processes(self):
        import multiprocessing.reduction
        batch = next(iter(self.stream(fields=["txt"])))
        again = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(batch))
        self.assertEqual((again.fields, bytes(again["txt"][3])), (("txt",), bytes(batch["txt"][3])))
        self.assertEqual(batch.copy().fields, ("txt",))


if __name__ == "__main__":
    granary_case.main()
