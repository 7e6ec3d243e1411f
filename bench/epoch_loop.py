#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shuffled epochs of raw bytes, from where the samples are, in a process of its own; folder_rows.py runs it.

  epoch_loop.py READER WHERE SAMPLES SIZE BATCH WORKERS,... CACHE [CREDENTIALS]
  epoch_loop.py convert READER FOLDER WHERE CACHE          from the folder of files to what READER reads

READER: granary, folder, webdataset, mds, litdata. CACHE: drop, the page cache is dropped before the clock starts; or keep.
Prints JSON, for each number of workers: seconds from the first call of the iterator to the end (granary: of the dataset too),
CPU seconds of this process and its workers, samples and bytes. Fails unless every sample came once (count, sum and sum of
squares of the numbers that their bytes begin with) and those looked at have the right bytes.
"""
import json
import os
import random
import resource
import sys
import time

HEAD = 8  # bytes: the number of a sample, little-endian
POOL = random.Random(7).randbytes(4 << 20)
CLASSES = 100
SHARD = 64 << 20
SHUFFLE_BUFFER = 1000


def content(number, size):
    at = number * 7919 % (len(POOL) - size)
    return number.to_bytes(HEAD, "little") + POOL[at:at + size - HEAD]


def path_of(folder, number, count):
    return os.path.join(folder, f"c{number * CLASSES // count:03}", f"{number:08}.bin")


def make_files(folder, count, size):
    """Files in class folders, as many in each."""
    for c in range(CLASSES):
        os.makedirs(os.path.join(folder, f"c{c:03}"), exist_ok=True)
    for number in range(count):
        with open(path_of(folder, number, count), "wb") as f:
            f.write(content(number, size))


def list_files(folder):
    return sorted(os.path.join(d, n) for d, _, names in os.walk(folder) for n in names if n.endswith(".bin"))


def read_file(path):
    with open(path, "rb", buffering=0) as f:
        return f.read()


class Check:
    """What came, looked at while it comes, as cheaply as it can be."""

    def __init__(self, size):
        self.size, self.count, self.bytes, self.sum, self.squares, self.looked = size, 0, 0, 0, 0, 0

    def batch(self, data, count):
        """`data`: all samples of it, one after the other."""
        import numpy
        rows = numpy.frombuffer(data, numpy.uint8).reshape(count, self.size)
        numbers = rows[:, :HEAD].copy().view("<u8").reshape(count)
        self._numbers(numbers, count)
        if self.count % 7 == 0:
            self._look(bytes(rows[0]))

    def samples(self, samples):
        """`samples`: bytes of each."""
        import numpy
        numbers = numpy.frombuffer(b"".join([s[:HEAD] for s in samples]), "<u8")
        self._numbers(numbers, len(samples))
        if self.count % 7 == 0:
            self._look(bytes(samples[0]))

    def _numbers(self, numbers, count):
        self.count += count
        self.bytes += count * self.size
        self.sum += int(numbers.sum())
        self.squares += int((numbers * numbers).sum())

    def _look(self, sample):
        self.looked += 1
        if sample != content(int.from_bytes(sample[:HEAD], "little"), self.size):
            raise SystemExit(f"a sample of {len(sample)} bytes has wrong bytes")

    def end(self, count):
        n = count - 1
        expected = (count, n * count // 2, n * count * (2 * n + 1) // 6)
        if (self.count, self.sum, self.squares) != expected:
            raise SystemExit(f"not every sample came once: {self.count} of {count}, sum {self.sum} of {expected[1]}")


# ---- where samples are: functions that give (iterator of batches, what checks one) ----

def pack(samples):
    """A list of samples as one tensor: what a worker sends in shared memory."""
    import torch
    return torch.frombuffer(bytearray(b"".join(samples)), dtype=torch.uint8), len(samples)


def keep(samples):
    return samples


def collate(workers):
    return pack if workers > 0 else keep


def look(check, workers):
    return (lambda b: check.batch(b[0].numpy(), b[1])) if workers > 0 else check.samples


def from_granary(where, _, batch, workers, check, credentials):
    import granary
    ds = granary.IterableDataset(where, shuffle="auto", batch_size=batch, last="keep", credentials=credentials)
    return granary.DataLoader(ds, num_workers=workers), lambda b: check.batch(b.data, len(b))


def from_folder(where, _, batch, workers, check, __):
    from torch.utils.data import DataLoader

    class Files:
        """ImageFolder without images."""

        def __init__(self):
            self.paths = list_files(where)

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            return read_file(self.paths[i])

    loader = DataLoader(Files(), batch_size=batch, shuffle=True, num_workers=workers, collate_fn=collate(workers))
    return loader, look(check, workers)


def from_webdataset(where, samples, batch, workers, check, _):
    import webdataset
    urls = sorted(os.path.join(where, n) for n in os.listdir(where) if n.endswith(".tar"))
    ds = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(SHUFFLE_BUFFER)
    ds = ds.map(lambda s: s["bin"]).batched(batch, collation_fn=collate(workers), partial=True)
    del samples
    return webdataset.WebLoader(ds, batch_size=None, num_workers=workers), look(check, workers)


def from_mds(where, _, batch, workers, check, __):
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader
    ds = StreamingDataset(local=where, shuffle=True, batch_size=batch)
    put = collate(workers)
    return (DataLoader(ds, batch_size=batch, num_workers=workers, collate_fn=lambda b: put([s["data"] for s in b])),
            look(check, workers))


def from_litdata(where, _, batch, workers, check, __):
    from litdata import StreamingDataLoader, StreamingDataset
    ds = StreamingDataset(where, shuffle=True)
    return (StreamingDataLoader(ds, batch_size=batch, num_workers=workers, collate_fn=collate(workers)),
            look(check, workers))


# ---- conversions ----

def to_webdataset(paths, where):
    import webdataset
    with webdataset.ShardWriter(os.path.join(where, "%06d.tar"), maxsize=SHARD, maxcount=1 << 30, verbose=0) as out:
        for i, path in enumerate(paths):
            out.write({"__key__": f"{i:08}", "bin": read_file(path)})


def to_mds(paths, where):
    from streaming import MDSWriter
    with MDSWriter(out=where, columns={"data": "bytes"}, size_limit=SHARD) as out:
        for path in paths:
            out.write({"data": read_file(path)})


def to_litdata(paths, where):
    from litdata import optimize
    optimize(fn=read_file, inputs=paths, output_dir=where, chunk_bytes=SHARD, num_workers=os.cpu_count(), verbose=False)


READERS = {"granary": from_granary, "folder": from_folder, "webdataset": from_webdataset, "mds": from_mds,
           "litdata": from_litdata}
WRITERS = {"webdataset": to_webdataset, "mds": to_mds, "litdata": to_litdata}


def cpu():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def modules(reader):
    """Imports are not counted, neither ours nor theirs."""
    import numpy  # noqa: F401  pylint: disable=unused-import
    if reader != "granary":
        import torch  # noqa: F401  pylint: disable=unused-import
    __import__({"folder": "torch", "mds": "streaming"}.get(reader, reader))


def drop_page_cache():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def epoch(reader, where, samples, size, batch, workers, cache, credentials):
    check = Check(size)
    if cache == "drop":
        drop_page_cache()
    began, used = time.monotonic(), cpu()
    loader, see = READERS[reader](where, samples, batch, workers, check, credentials)
    if reader != "granary":  # they find out what there is before the clock starts
        began, used = time.monotonic(), cpu()
    for got in loader:
        see(got)
    seconds = time.monotonic() - began
    del loader, got
    check.end(samples)
    return {"workers": workers, "seconds": seconds, "cpu_s": cpu() - used, "samples": check.count, "bytes": check.bytes,
            "looked": check.looked}


def convert(reader, folder, where, cache):
    os.makedirs(where)
    if cache == "drop":
        drop_page_cache()
    began, used = time.monotonic(), cpu()
    WRITERS[reader](list_files(folder), where)
    os.sync()
    return {"seconds": time.monotonic() - began, "cpu_s": cpu() - used}


def main():
    if sys.argv[1] == "convert":
        modules(sys.argv[2])
        result = convert(*sys.argv[2:])
    else:
        reader, where, samples, size, batch, workers, cache, *credentials = sys.argv[1:]
        modules(reader)
        result = [epoch(reader, where, int(samples), int(size), int(batch), int(w), cache, *(credentials or [None]))
                  for w in workers.split(",")]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
