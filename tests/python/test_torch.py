#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: in torch a rank's batches do not depend on workers, prefetching or how processes are started; a state taken anywhere
goes on exactly there, with our loader and torch's; what breaks says so instead of hanging."""
import itertools
import os
import signal
import time

import granary_case
from granary_case import Case, granary, ids_of

LONG = os.environ.get("GRANARY_TEST_LONG") == "1"

try:
    import numpy
    import torch
    from torch.utils.data import DataLoader as TorchLoader
    from torch.utils.data import get_worker_info
except ImportError as e:
    granary_case.crash_lib.skip(f"{e.name} is not installed: tools/deps --torch")


def double(sample):
    return len(sample) * 2, sample.label


def where(sample):
    info = get_worker_info()
    return sample.id, info.id if info is not None else -1


def fails_at_77(sample):
    if sample.id == 77:
        raise ValueError("cannot decode this")
    return sample.id


def dies_at_77(sample):
    if sample.id == 77 and get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample.id


def same(value):
    return value


class Torch(Case):
    SAMPLES = 300

    def test_no_copy(self):
        batch = next(iter(self.stream(shuffle="none")))
        data = torch.from_dlpack(batch.data) if hasattr(torch, "from_dlpack") else batch.tensor()
        self.assertEqual((data.dtype, tuple(data.shape)), (torch.uint8, (batch.nbytes,)))
        array = numpy.asarray(batch.data)
        self.assertEqual(array.ctypes.data, data.data_ptr())
        self.assertEqual(numpy.asarray(batch).ctypes.data, data.data_ptr())
        self.assertEqual(torch.utils.dlpack.from_dlpack(batch).data_ptr(), data.data_ptr())
        self.assertEqual(numpy.from_dlpack(batch.offsets).tolist(), batch.offsets.tolist())
        self.assertEqual(numpy.asarray(batch.ids).dtype, numpy.int64)
        self.assertEqual(torch.from_dlpack(batch.labels).tolist(), batch.labels.tolist())
        self.assertEqual(numpy.asarray(batch.valid).tolist(), [1] * 16)
        expected = bytes(batch.data)
        del batch
        self.assertEqual(bytes(data.numpy()), expected)
        del data
        self.assertEqual(array.tobytes(), expected)

    def test_pinned(self):
        for batch in granary.DataLoader(self.stream(), pin_memory=torch.cuda.is_available()):
            pinned = batch.pin_memory()
            self.assertEqual(bytes(pinned.tensor().numpy()), bytes(batch.data))
            self.assertEqual(pinned.ids.tolist(), batch.ids.tolist())
            self.assertEqual(pinned.keys(), batch.keys())
            self.assertEqual(pinned.is_pinned(), torch.cuda.is_available())
            break

    def test_workers(self):
        """Our loader and torch's, with any number of workers: the same batches, their bytes right."""
        for shuffle in ("blocks", "exact"):
            whole = ids_of(self.stream(shuffle=shuffle, seed=5))
            for workers, context in ((0, None), (1, "fork"), (2, "fork"), (5, "fork"), (2, "spawn")):
                if context == "spawn" and shuffle == "exact" and not LONG:
                    continue
                more = {"multiprocessing_context": context} if workers else {}
                ds = self.stream(shuffle=shuffle, seed=5)
                ours = list(granary.DataLoader(ds, num_workers=workers, **more))
                self.assertEqual(ids_of(ours), whole, (shuffle, workers, context))
                for batch in ours:
                    self.assertEqual([bytes(b) for b in batch], [self.files[k] for k in batch.keys()])
                theirs = TorchLoader(self.stream(shuffle=shuffle, seed=5), batch_size=None, num_workers=workers, **more)
                self.assertEqual(len(theirs), len(whole))
                self.assertEqual(ids_of(theirs), whole, (shuffle, workers, context))

    def test_resume(self):
        """Saved at step k with 0, 2, 8 workers, prefetched 2 and 8, persistent or not, forked or spawned: goes on exactly."""
        whole = ids_of(self.stream(shuffle="blocks", seed=6))
        cases = [(0, 2, False, None)]
        cases += [(w, p, keep, "fork") for w, p, keep in itertools.product((2, 8), (2, 8), (False, True))]
        if not LONG:  # each of the others: with --long
            cases = [cases[i] for i in (0, 1, 4, 5, 8)]
        cases += [(2, 2, False, "spawn"), (8, 8, True, "spawn")][: 2 if LONG else 1]
        for n, (workers, prefetch, persistent, context) in enumerate(cases):
            more = {"prefetch_factor": prefetch, "persistent_workers": persistent, "multiprocessing_context": context}
            loader = granary.DataLoader(self.stream(shuffle="blocks", seed=6), num_workers=workers, **(more if workers else {}))
            k = (1, 5, 11)[n % 3]
            running = iter(loader)
            first = ids_of(next(running) for _ in range(k))
            state = loader.state_dict()
            del running
            other, more_there = cases[(n * 3 + 1) % len(cases)], {}
            if other[0]:
                more_there = {"prefetch_factor": other[1], "persistent_workers": other[2], "multiprocessing_context": other[3]}
            again = granary.DataLoader(self.stream(shuffle="blocks", seed=6), num_workers=other[0], **more_there)
            again.load_state_dict(state)
            self.assertEqual(first + ids_of(again), whole, (cases[n], other, k))
            self.assertEqual(again.epoch, 1)
            # the same loader goes on as well
            loader.load_state_dict(state)
            self.assertEqual(first + ids_of(loader), whole, cases[n])

    def test_torch_resumes_the_dataset(self):
        """Torch's own loader keeps no state: the dataset's is that of its last load, or what a token says."""
        whole = ids_of(self.stream(shuffle="exact", seed=6))
        loader = TorchLoader(self.stream(shuffle="exact", seed=6), batch_size=None, num_workers=2)
        running = iter(loader)
        batches = [next(running) for _ in range(7)]
        del running
        ds = self.stream(shuffle="exact", seed=6)
        ds.load_state_dict({**ds.state_dict(), "token": batches[-1].token})
        self.assertEqual(ids_of(batches) + ids_of(TorchLoader(ds, batch_size=None, num_workers=3)), whole)

    def test_set_epoch(self):
        """Persistent workers see it; an epoch that was read is followed by the next one."""
        want = []
        for epoch in range(3):
            ds = self.stream(shuffle="exact", seed=1)
            ds.set_epoch(epoch)
            want.append(ids_of(ds))
        for context in ("fork",):
            loader = granary.DataLoader(self.stream(shuffle="exact", seed=1), num_workers=2, persistent_workers=True,
                                        multiprocessing_context=context)
            self.assertEqual([ids_of(loader), ids_of(loader)], want[:2])
            loader.set_epoch(2)
            self.assertEqual(ids_of(loader), want[2])
            loader.set_epoch(0)
            self.assertEqual(ids_of(loader), want[0])
            self.assertEqual(len(loader), len(want[0]))

    def test_transform(self):
        for workers in (0, 2):
            ds = self.stream(shuffle="none", transform=double)
            rows = list(granary.DataLoader(ds, num_workers=workers))
            self.assertIsInstance(rows[0][0], torch.Tensor)
            snapshot = self.client.snapshot("v1")
            sizes = torch.cat([r[0] for r in rows]).tolist()[:self.SAMPLES]
            self.assertEqual(sizes, [2 * len(self.files[k]) for k in snapshot.keys()])
            self.assertEqual(torch.cat([r[1] for r in rows]).tolist()[:self.SAMPLES], snapshot.labels().tolist())
        seen = {w for batch in granary.DataLoader(self.stream(transform=where, collate_fn=list), num_workers=2)
                for _, w in batch}
        self.assertEqual(seen, {0, 1})
        lists = list(granary.DataLoader(self.stream(shuffle="none"), num_workers=2, collate_fn=len))
        self.assertEqual(lists, [16] * 19)

    def test_fails_in_worker(self):
        """The exception of a worker arrives with its key; skip goes on."""
        for workers in (0, 2):
            loader = granary.DataLoader(self.stream(shuffle="none", transform=fails_at_77, collate_fn=list),
                                        num_workers=workers)
            with self.assertRaises(granary.errors.SampleError) as caught:
                list(loader)
            self.assertEqual(caught.exception.key, self.client.snapshot("v1").keys([77])[0])
            self.assertIn("cannot decode this", str(caught.exception))
            skip = granary.DataLoader(self.stream(shuffle="none", transform=fails_at_77, collate_fn=list, on_error="skip"),
                                      num_workers=workers)
            self.assertEqual([i for b in skip for i in b][76:79], [76, 78, 78])

    def test_worker_killed(self):
        loader = granary.DataLoader(self.stream(shuffle="none", transform=dies_at_77, collate_fn=list), num_workers=2)
        seen = []
        with self.assertRaisesRegex(RuntimeError, "exited unexpectedly|killed by signal"):
            for batch in loader:
                seen += batch
        self.assertEqual(seen, list(range(len(seen))))
        again = granary.DataLoader(self.stream(shuffle="none", collate_fn=ids), num_workers=2)
        again.load_state_dict(loader.state_dict())
        self.assertEqual((seen + [i for b in again for i in b])[:self.SAMPLES], list(range(self.SAMPLES)))

    def test_batches_travel_as_memory(self):
        """Nothing of theirs lies in /dev/shm; descriptors are given back."""
        before = set(os.listdir("/dev/shm"))
        loader = granary.DataLoader(self.stream(batch_size=4), num_workers=2, persistent_workers=True)
        list(loader)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            for batch in loader:
                self.assertFalse([n for n in set(os.listdir("/dev/shm")) - before if "torch" in n])
        del batch
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), descriptors + 2)

    def test_fork_while_streaming(self):
        """A stream that is running does not disturb workers that are forked now, and the other way round."""
        running = iter(self.stream(shuffle="exact", seed=3))
        first = [next(running) for _ in range(3)]
        forked = ids_of(granary.DataLoader(self.stream(shuffle="exact", seed=3), num_workers=2))
        self.assertEqual(ids_of(first) + ids_of(running), forked)

    def test_map(self):
        ds = granary.MapDataset(self.v1, transform=double, **self.login)
        one = [ds[i] for i in range(len(ds))]
        for workers, context in ((0, None), (2, "fork"), (1, "spawn")):
            more = {"multiprocessing_context": context} if workers else {}
            rows = list(TorchLoader(ds, batch_size=50, num_workers=workers, **more))
            self.assertEqual(list(zip(torch.cat([r[0] for r in rows]).tolist(), torch.cat([r[1] for r in rows]).tolist())), one)
        subset = torch.utils.data.Subset(ds, [5, 3, 8])
        self.assertEqual([subset[i] for i in range(3)], [one[5], one[3], one[8]])
        requests = self.client.info()["requests"]
        self.assertGreaterEqual(self.client.info()["requests"], requests)

    def test_looks_like_torch(self):
        ds, loader = self.stream(), granary.DataLoader(self.stream())
        self.assertIsInstance(ds, torch.utils.data.IterableDataset)
        self.assertNotIsInstance(loader, TorchLoader)
        with self.assertRaises(ValueError):
            granary.DataLoader(self.stream(), num_workers=-1)
        with self.assertRaises(ValueError):
            granary.DataLoader(self.stream(batch_size=None), num_workers=1)
        with self.assertRaises(ValueError):
            granary.DataLoader(self.stream(), persistent_workers=True)

    def test_distributed(self):
        """Ranks come from torch.distributed, also inside spawned workers; equal counts, every sample once."""
        import multiprocessing
        context = multiprocessing.get_context("fork")
        queue, port = context.Queue(), 20000 + os.getpid() % 20000

        def rank(number):
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GRANARY_QUIET="1")
            torch.distributed.init_process_group("gloo", rank=number, world_size=3)
            group = torch.distributed.new_group([0, 1, 2])
            rows = [ids_of(granary.DataLoader(self.stream(shuffle="exact", batch_size=8), num_workers=w)) for w in (0, 2)]
            rows.append(ids_of(self.stream(shuffle="exact", batch_size=8, process_group=group)))
            torch.distributed.barrier()
            queue.put(rows)
            queue.close()
            queue.join_thread()
            os._exit(0)
        ranks = [context.Process(target=rank, args=(i,)) for i in range(3)]
        for process in ranks:
            process.start()
        rows = [queue.get(timeout=120) for _ in ranks]
        for process in ranks:
            process.join()
        for kind in zip(*rows):
            self.assertEqual(len({len(r) for r in kind}), 1)
            self.assertEqual(sorted(i for r in kind for b in r for i in b), list(range(self.SAMPLES)))


def ids(batch):
    return batch.ids.tolist()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    time.sleep(0)
    granary_case.main()
