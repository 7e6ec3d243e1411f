# SPDX-License-Identifier: Apache-2.0
"""Batch: samples in one block of memory; Sample: one of them."""
import array
import io
import sys

from . import _native

PADDED, SKIPPED, MISSING = _native.PADDED, _native.SKIPPED, _native.MISSING


class Batch(_native.Batch):
    """n samples in one block of memory, as they came from the server: nothing is copied to look at them.

        data     uint8[nbytes]   all samples, one after the other
        offsets  int64[n+1]      sample i is data[offsets[i]:offsets[i+1]], bytes
        ids      int64[n]        dense ids in the snapshot (of get_many(): places in the list of keys)
        labels   int64[n]        numbers of the classes, -1 without one; classes are directories, as ImageFolder has them
        valid    uint8[n]        0 where a sample only fills up the last batch of an epoch, or is missing; else 1
        flags    uint32[n]       granary.PADDED, SKIPPED, MISSING, or-ed

    batch[i] is a memoryview of sample i (None when it is missing), batch["jpg"] the list of that field of all samples.
    numpy.asarray(batch.data) and torch.from_dlpack(batch.data) see the same memory. It is given back to the stream when
    the batch and all that looks into it are gone; copy() makes one that stands alone.
    """

    __slots__ = ("source", "_pinned", "_labels", "_keys", "__weakref__")

    def _get(self, name):
        try:
            return getattr(self, name)
        except AttributeError:
            return None

    def _source(self):
        source = self._get("source")
        if source is None:
            raise ValueError("this batch is of no snapshot: it has no labels and no fields")
        return source

    @property
    def fields(self):
        """Names of the files of a sample, the suffixes of their keys: ("jpg", "json"); ("",) for samples of one file."""
        return tuple(name for name in self._places() if name is not None)

    def _places(self):
        """The name of each file of a sample, None of one that was not asked for."""
        source = self._get("source")
        return source.field_names() if source is not None else ("",) * self.fields_count

    def field(self, name):
        """List of memoryviews: the file of this name of every sample. batch[name] is the same."""
        if name not in self.fields:
            raise KeyError(f"no field '{name}': the samples have {', '.join(map(repr, self.fields))}")
        at = self._places().index(name)
        return [self._file(i, at) for i in range(len(self))]

    def keys(self):
        """List of str: the key of each sample, of its first file. Made when asked for."""
        keys = self._get("_keys")
        if keys is None:
            keys = self._keys = self._source().keys_of(self.ids)
        return list(keys)

    @property
    def labels(self):
        """int64[n]: the number of each sample's class among the sorted classes; -1 without one."""
        labels = self._get("_labels")
        if labels is None:
            labels = self._labels = array.array("q", bytes(self._source().labels_of(self.ids)))
        return _native.Array.over(labels, "q")

    def samples(self):
        """List of Sample, one each."""
        return [Sample(self, i) for i in range(len(self))]

    def tensor(self):
        """torch.uint8[nbytes] over the same memory (page-locked after pin_memory())."""
        import torch
        pinned = self._get("_pinned")
        return pinned if pinned is not None else torch.utils.dlpack.from_dlpack(self.__dlpack__())

    def _like(self, data):
        copy = type(self)._from_buffers(data, bytes(self.field_offsets), bytearray(self.ids), bytearray(self.flags),
                                        self.fields_count, self.position, self.number, self._token_bytes)
        for name in ("source", "_labels", "_keys"):
            if self._get(name) is not None:
                setattr(copy, name, self._get(name))
        return copy

    def copy(self):
        """The same samples in memory of their own."""
        return self._like(bytearray(memoryview(self)))

    def pin_memory(self, device=None):
        """The same samples in page-locked memory, from which copies to a GPU need not wait. Without a GPU: a copy."""
        import torch
        pinned = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        if self.nbytes:
            memoryview(pinned.numpy())[:] = memoryview(self)
        copy = self._like(pinned.numpy())
        copy._pinned = pinned
        return copy

    def is_pinned(self):
        """Whether the bytes lie in page-locked memory."""
        pinned = self._get("_pinned")
        return pinned is not None and pinned.is_pinned()

    def __reduce__(self):
        raise TypeError("a Batch is not pickled: between processes it travels through multiprocessing's queues and "
                        "pipes, as shared memory; to keep one use bytes(batch.data) or batch.copy()")

    def __repr__(self):
        return f"granary.Batch({len(self)} samples, {self.nbytes} bytes)"


class Sample:
    """One sample of a batch: `data` is a memoryview of its bytes, no copy; bytes(sample) copies."""

    __slots__ = ("batch", "index")

    def __init__(self, batch, index):
        self.batch, self.index = batch, index

    @property
    def data(self):
        """memoryview, uint8[size]: all its files, one after the other; None when it is missing."""
        return self.batch[self.index]

    @property
    def id(self):
        """Its dense id in the snapshot."""
        return self.batch.ids[self.index]

    @property
    def key(self):
        """Its key (of its first file)."""
        keys = self.batch._get("_keys")
        return keys[self.index] if keys is not None else self.batch._source().keys_of([self.id])[0]

    @property
    def label(self):
        """The number of its class, -1 without one."""
        labels = self.batch._get("_labels")
        return labels[self.index] if labels is not None else self.batch._source().labels_of([self.id])[0]

    @property
    def valid(self):
        """False where it only fills up a batch, or is missing."""
        return bool(self.batch.valid[self.index])

    @property
    def fields(self):
        """dict of field name to memoryview."""
        return {name: self.batch._file(self.index, i) for i, name in enumerate(self.batch._places()) if name is not None}

    def __getitem__(self, name):
        if name not in self.batch.fields:
            raise KeyError(f"no field '{name}': the sample has {', '.join(map(repr, self.batch.fields))}")
        return self.batch._file(self.index, self.batch._places().index(name))

    def read(self):
        """bytes: a copy of all of it."""
        return bytes(self)

    def open(self):
        """A seekable binary file of its bytes."""
        return io.BytesIO(bytes(self))

    def __bytes__(self):
        data = self.data
        return b"" if data is None else bytes(data)

    def __len__(self):
        data = self.data
        return 0 if data is None else len(data)

    def __repr__(self):
        return f"granary.Sample(id={self.id}, {len(self)} bytes)"


_native.set_batch_class(Batch)


def torch_of():
    """The module torch if the program has imported it, else None: this package never imports it by itself."""
    return sys.modules.get("torch")
