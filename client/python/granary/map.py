# SPDX-License-Identifier: Apache-2.0
"""MapDataset: samples by number, for torch's samplers and loader; a list of numbers is one native batch."""
import operator

from .place import Place
from .stream import objects_of


class MapDataset:
    """ds[i] is (bytes of sample i, label), or transform(sample) of a granary.Sample.

    url        granary://HOST/BUCKET@SNAPSHOT; granary://HOST/BUCKET@SNAPSHOT/PREFIX: its samples below that directory,
               numbered from 0; or .../BUCKET/PREFIX: a snapshot of it is made (from_prefix)
    transform  transform(sample) -> item; sample.data is a memoryview, sample.label, sample.key, sample.id
    labels     False: without labels, an item is the bytes alone
    login      credentials=, access_key=, ... of granary.connect()

    len(ds) samples, numbered as in the snapshot, negative numbers from the end. classes, class_to_idx, targets: as
    torchvision's ImageFolder has them, a class being the first directory below the prefix; targets is an Array of int64.
    torch's DataLoader calls __getitems__, so a batch is one request; Grain takes it as a RandomAccessDataSource. Picklable;
    every process opens its own connection.
    """

    def __init__(self, url, *, transform=None, labels=True, job=None, **login):
        if transform is not None and not callable(transform):
            raise TypeError(f"transform is a function, not {type(transform).__name__}")
        self.place, self.transform, self.labels = Place(url, login), transform, labels
        self.objects = None
        if not self.place.snapshot:
            self.place = _automatic(self.place, job)

    @classmethod
    def from_prefix(cls, url, **options):
        """All objects below granary://HOST/BUCKET/PREFIX, as a snapshot made now (or in the last day)."""
        if Place(url, {}).snapshot:
            raise ValueError(f"'{url}' names a snapshot: from_snapshot() takes it")
        return cls(url, **options)

    @classmethod
    def from_snapshot(cls, url, **options):
        """The samples of granary://HOST/BUCKET@SNAPSHOT."""
        if not Place(url, {}).snapshot:
            raise ValueError(f"'{url}' names no snapshot: granary://HOST/BUCKET@SNAPSHOT")
        return cls(url, **options)

    @classmethod
    def from_objects(cls, urls, *, transform=None, **login):
        """These objects, in this order: a list of granary://HOST/BUCKET/KEY of one bucket. They have no labels."""
        self = cls.__new__(cls)
        self.place, self.objects = objects_of(urls, login)
        self.transform, self.labels = transform, False
        return self

    def __len__(self):
        return len(self.objects) if self.objects is not None else len(self.place.numbered())

    def _index(self, i):
        try:
            index = operator.index(i)
        except TypeError:
            raise TypeError(f"a sample is taken by its number, not by {type(i).__name__}") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index}: there are {len(self)}, numbered from 0")
        return index + len(self) if index < 0 else index

    def batch(self, indices):
        """The granary.Batch of these samples, one native request, in the given order."""
        indices = [self._index(i) for i in indices]
        if self.objects is not None:
            return self.place.client().get_many([self.objects[i] for i in indices])
        batch = self.place.numbered().read_many(indices)
        batch.source = self.place
        return batch

    def __getitems__(self, indices):
        batch = self.batch(indices)
        if self.transform is not None:
            return [self.transform(sample) for sample in batch.samples()]
        if not self.labels:
            return [bytes(data) for data in batch]
        return list(zip(map(bytes, batch), batch.labels))

    _getitems = __getitems__  # as Grain calls it

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    @property
    def classes(self):
        """Sorted list of str: names of the classes."""
        return self.place.numbered().classes() if self.objects is None else []

    @property
    def class_to_idx(self):
        """dict of class name to label."""
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def targets(self):
        """Array, int64[n]: the label of every sample; numpy.asarray() and tolist() take it, so does torch.as_tensor()."""
        return self.place.numbered().labels() if self.objects is None else [-1] * len(self)

    def key(self, index):
        """The key of a sample."""
        index = self._index(index)
        return self.objects[index] if self.objects is not None else self.place.numbered().keys([index])[0]

    def __repr__(self):
        return f"granary.MapDataset('{self.place.name()}')"


def _automatic(place, job):
    """The place with a snapshot of what is below its prefix now, made once a day for each job and prefix."""
    import hashlib
    name = ".auto-map-" + hashlib.sha256(f"{job or ''}\n{place.path}".encode()).hexdigest()[:16]
    place.client().snapshot(name, create=True, exist_ok=True, bucket=place.bucket, prefix=place.path,
                            note="made by a MapDataset that named no snapshot")
    return place.named(name)
