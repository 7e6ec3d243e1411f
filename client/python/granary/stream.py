# SPDX-License-Identifier: Apache-2.0
"""IterableDataset: one rank's part of shuffled epochs, batch after batch."""
import hashlib
import operator
import threading
import time

from . import _native
from ._runtime import notice
from .batch import torch_of
from .errors import Error, SampleError
from .place import Chosen, Place
from .ranks import resolve
from .replicate import join
from .shared import Cell

SHUFFLES = {"auto": 0, "exact": 1, "blocks": 2, "none": 3, True: 0, False: 3, None: 3}
LASTS = {"pad": 0, "drop": 1, "keep": 2}
ON_ERRORS = {"raise": 0, "skip": 1}
STATE_VERSION = 1
_torch_classes = {}


def _word(name, value, words):
    try:
        return words[value]
    except (KeyError, TypeError):
        names = ", ".join(repr(w) for w in words if isinstance(w, str))
        raise ValueError(f"{name} is one of {names}, not {value!r}") from None


def _number(name, value, least, most):
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is {least} to {most}, not {number}")
    return number


def worker():
    """(number of this worker process of torch's loader, how many there are); (0, 0) outside of them."""
    torch = torch_of()
    info = torch.utils.data.get_worker_info() if torch is not None else None
    return (info.id, info.num_workers) if info is not None else (0, 0)


class History:
    """Counters of the latest stream of a dataset in this process, noted now and then while its loop runs."""

    EVERY, ROWS_MAX = 0.25, 4096  # seconds; when there are more rows, every second one is forgotten

    def __init__(self):
        self.rows, self.info, self.every, self.due = [], None, self.EVERY, 0.0

    def begin(self):
        self.__init__()

    def note(self, stream, now):
        info = self.info = stream.info()
        self.rows.append((now, info["samples_read"], info["bytes_read"], info["bytes_fetched"], info["waited_ns"]))
        if len(self.rows) > self.ROWS_MAX:
            del self.rows[1::2]
            self.every *= 2
        self.due = now + self.every

    def __reduce__(self):
        return History, ()  # of this process alone


class Resumable:
    """epoch and position that all processes of a dataset share."""

    def set_epoch(self, epoch):
        """The next pass is this epoch's; persistent workers see it too. The epoch of a state that was just loaded keeps
        its position."""
        epoch = _number("epoch", epoch, 0, 2**64 - 1)
        if epoch != self._cell.get()[0]:
            self._cell.set(epoch)

    @property
    def epoch(self):
        """Number of the epoch that the next pass gives."""
        return self._cell.get()[0]


class IterableDataset(Resumable):
    """Batches of one rank's part of shuffled epochs of a snapshot: every sample once an epoch over all ranks.

    url            granary://HOST/BUCKET@SNAPSHOT; granary://HOST/BUCKET@SNAPSHOT/PREFIX: its samples below that
                   directory, in an order of their own (docs/ORDER.md 8.5), classes being directories below it; or
                   granary://HOST/BUCKET/PREFIX: then a snapshot of it is made, one for each `job` and prefix, kept for
                   a day after its last use
    shuffle        "blocks": neighbours are read together, then mixed in a window; "exact": one permutation of all samples;
                   "auto": what the snapshot recorded; "none"
    seed           with the number of the epoch it gives the order
    batch_size     samples a batch of this rank, 1..4,096; or None: single samples
    window         for "blocks": blocks a window; only where a snapshot is made here
    last           "pad": the last batch is filled up with samples from the beginning, valid[i] is 0 there; "drop"; "keep"
    dp_rank, dp_size, process_group, replicate
                   which part is ours: from the arguments, the process group, torch.distributed, the environment, in that
                   order. replicate: so many neighbouring ranks get equal batches (tensor, pipeline parallel), as do all
                   that give the same dp_rank; those of a node read them once
    transform      transform(sample) for each granary.Sample; then an item is what collate_fn makes of their list
    collate_fn     with a transform: of a list; without: of the Batch. None: torch's default_collate if torch is imported,
                   else the list; the Batch as it is
    fields         names of the files of a sample that are wanted, for samples of several files: the others are not read
    on_error       "raise", or "skip": another sample takes the place of one that cannot be read or transformed, up to
    max_errors     of them
    stall_timeout  seconds without a byte, while a batch is waited for, that end the epoch with TimeoutError
    memory         bytes for batches and read-ahead, shared out over the workers; None: enough for two windows
    job            a name under which `granary jobs` shows the stream
    login          credentials=, access_key=, secret=, timeout=, ... of granary.connect()

    It is pickled as a few texts; every process opens its own connection. In torch's DataLoader (batch_size=None) worker w
    of n gives batches w, w + n, ...: so the batches do not depend on the number of workers. set_epoch() chooses the epoch;
    a pass in this process (or of granary.DataLoader) that reached its end is followed by the next one by itself.
    """

    def __init__(self, url, *, shuffle="auto", seed=0, batch_size=64, window=None, last="pad", dp_rank=None, dp_size=None,
                 process_group=None, replicate=1, transform=None, collate_fn=None, fields=None, on_error="raise",
                 max_errors=100, stall_timeout=300.0, memory=None, read_ahead=None, weight=1, job=None, **login):
        self.place = Place(url, login)
        self.shuffle = _word("shuffle", shuffle, SHUFFLES)
        self.last = _word("last", last, LASTS)
        self.on_error = on_error if _word("on_error", on_error, ON_ERRORS) is not None else None
        self.seed = _number("seed", seed, 0, 2**64 - 1)
        self.single = batch_size is None
        self.batch_size = _number("batch_size", 64 if self.single else batch_size, 1, 4096)
        self.window = None if window is None else _number("window", window, 1, 2**62)
        self.max_errors = _number("max_errors", max_errors, 1, 2**32 - 1)
        self.memory = None if memory is None else _number("memory", memory, 1 << 20, 2**63)
        self.read_ahead = 0 if read_ahead is None else _number("read_ahead", read_ahead, 1, 1 << 20)
        self.weight = _number("weight", weight, 1, 1000)
        if not isinstance(stall_timeout, (int, float)) or not 0 < stall_timeout < 4e6:
            raise ValueError(f"stall_timeout is a number of seconds above 0, not {stall_timeout!r}")
        self.stall_timeout = stall_timeout
        for name, function in (("transform", transform), ("collate_fn", collate_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} is a function, not {type(function).__name__}")
        self.transform, self.collate_fn = transform, collate_fn
        self.wanted = None if fields is None else tuple(fields)
        self.job = job
        self._ranks = (dp_rank, dp_size, process_group, replicate)
        self._resolved = None
        self._samples, self._chosen = None, None
        self._cell, self._history = Cell(), History()
        self._resume = None  # of a worker that another loader resumed: (epoch, token, next batch)
        self._errors = 0
        if dp_rank is not None or dp_size is not None:
            self._rank()

    # -- the constructors of the vendors' connectors --

    @classmethod
    def from_prefix(cls, url, **options):
        """All objects below granary://HOST/BUCKET/PREFIX, as a snapshot made now (or earlier by this job)."""
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
    def from_objects(cls, urls, **options):
        """These objects, all of one bucket: a list of granary://HOST/BUCKET/KEY. A snapshot of them is made."""
        place, keys = objects_of(urls, login_of(options))
        name = ".auto-objects-" + hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        globs = [glob_of(key) for key in keys]
        place.client().snapshot(name, create=True, exist_ok=True, bucket=place.bucket, include=globs,
                                note="made of a list of objects")
        return cls(place.url.split("/" + place.bucket, 1)[0] + f"/{place.bucket}@{name}", **options)

    # -- what torch and others look at --

    @property
    def __class__(self):
        """In a program that imported torch it counts as one of torch's datasets."""
        torch = torch_of()
        base = getattr(getattr(getattr(torch, "utils", None), "data", None), "IterableDataset", None)
        cls = type(self)
        if base is None or issubclass(cls, base):
            return cls
        if cls not in _torch_classes:
            _torch_classes[cls] = type(cls.__name__, (cls, base), {"__module__": cls.__module__})
        return _torch_classes[cls]

    def _rank(self):
        if self._resolved is None:
            self._resolved = resolve(*self._ranks)
        return self._resolved[:2]

    def __getstate__(self):
        self._rank()  # the other process may not be of the process group
        state = self.__dict__.copy()
        rank, world, copies = self._resolved
        state["_ranks"] = (rank, world, None, copies)
        return state

    def __reduce__(self):
        return _unpickle, (type(self), self.__getstate__())

    def _locate(self):
        """The snapshot is known by name from here on."""
        if not self.place.snapshot and self.window is not None:
            text = f"{self.place.path}\n{self.job or ''}\n{self.window}"
            name = ".auto-window-" + hashlib.sha256(text.encode()).hexdigest()[:16]
            self.place.client().snapshot(name, create=True, exist_ok=True, bucket=self.place.bucket,
                                         prefix=self.place.path, window=self.window, note="made by a stream with a window")
            self.place = self.place.named(name)
        if self.place.snapshot:
            snapshot = self.place.open()
            about = snapshot.describe()
            if self.window is not None and self.window != about["window"]:
                raise ValueError(f"snapshot '{self.place.snapshot}' has a window of {about['window']} blocks, not "
                                 f"{self.window}: give window= where the snapshot is made")
            if not self.place.is_part(snapshot):
                self._samples = len(snapshot)

    def _open(self, epoch, token, first, step, share):
        """The stream of a part of an epoch: batches first, first + step, ...; memory for one of `share` processes."""
        rank, world = self._rank()
        copies = self._resolved[2]
        self._locate()

        def part(number):
            return self._open_native(epoch, token, first + number * step, step, share)
        if copies > 1:
            what = (self.place.key, self.place.name(), self.job, self.seed, epoch, self.shuffle, rank, world, self.batch_size,
                    self.last, self.on_error, self.max_errors, self.wanted, token, first, step)
            opened = join(what, copies - 1, part, self.stall_timeout)
        else:
            opened = part(0)
        if not self.place.snapshot:
            self.place = self.place.named(opened.info()["snapshot"])
            notice(f"reading snapshot {self.place.bucket}@{self.place.snapshot}")
        if self._samples is None:
            self._samples = opened.info()["samples"]
        return opened

    def _files(self):
        """The bits of the files that are wanted."""
        if self.wanted is None:
            return 0
        if not self.place.snapshot:  # a snapshot is made; then it is known what its samples have
            first = self._epoch(0, None, 0, 1, 1, 0)
            self.place = self.place.named(first.info()["snapshot"])
            first.close()
        names = self.place.field_names()
        unknown = [f for f in self.wanted if f not in names]
        if unknown or not self.wanted:
            raise ValueError(f"fields {unknown}: the samples have {list(names)}")
        return sum(1 << names.index(f) for f in set(self.wanted))

    def _open_native(self, *part):
        return self._epoch(*part, self._files())

    def _epoch(self, epoch, token, first, step, share, files):
        rank, world = self._rank()
        return _native.Epoch(
            self.place.client(), self.place.name(), seed=self.seed, epoch=epoch, mode=self.shuffle, rank=rank, world=world,
            batch=self.batch_size, last=self.last, on_error=ON_ERRORS[self.on_error], max_errors=self.max_errors,
            stall_timeout_ms=max(1, int(self.stall_timeout * 1000)), read_ahead=self.read_ahead, weight=self.weight,
            memory=(self.memory or 0) // share, job=self.job, token=token, first=first, step=step, files=files,
            shared=worker()[1] > 0 and self.transform is None)  # batches go to the loop's process as they are

    def _source(self):
        """What batches ask for names and labels."""
        if self.wanted is None:
            return self.place
        if self._chosen is None or self._chosen.place is not self.place:
            self._chosen = Chosen(self.place, self.wanted)
        return self._chosen

    def samples_count(self):
        """Samples of the snapshot."""
        if self._samples is None:
            self._locate()
        if self._samples is None:
            self._open(0, None, 0, 1, 1).close()
        return self._samples

    def __len__(self):
        """Batches of this rank in a whole epoch (samples, where batch_size is None)."""
        rank, world = self._rank()
        samples, batch = self.samples_count(), self.batch_size
        if self.last == LASTS["keep"] or self.single:
            own = (samples - rank + world - 1) // world
            if self.single and self.last != LASTS["keep"]:
                own = (-(-samples // (world * batch)) if self.last == LASTS["pad"] else samples // (world * batch)) * batch
            return own if self.single else -(-own // batch)
        return samples // (world * batch) if self.last == LASTS["drop"] else -(-samples // (world * batch))

    # -- values --

    def _transformed(self, sample):
        try:
            return self.transform(sample)
        except Exception as e:  # pylint: disable=broad-except
            text = f"transform failed for sample {sample.id}: {type(e).__name__}: {e}"
            try:
                key = sample.key
            except Error:
                key = None
            raise SampleError(text, key=key, hint="on_error='skip' takes another sample instead") from e

    def _items(self, batch):
        items, bad = [], []
        for i, sample in enumerate(batch.samples()):
            try:
                items.append(self._transformed(sample))
            except SampleError as e:
                self._errors += 1
                if self.on_error == "raise" or self._errors > self.max_errors:
                    raise
                items.append(e)
                bad.append(i)
        if len(bad) == len(items) and bad:
            raise items[0]
        for i in bad:  # the next good one of the batch, so that the same one is taken on every run
            items[i] = next(items[(i + k) % len(items)] for k in range(1, len(items)) if (i + k) % len(items) not in bad)
        return items

    def _value(self, batch):
        """What the loop gets of a batch."""
        if self.transform is None:
            return self.collate_fn(batch) if self.collate_fn is not None else batch
        items = self._items(batch)
        if self.collate_fn is not None:
            return self.collate_fn(items)
        torch = torch_of()
        return torch.utils.data.default_collate(items) if torch is not None else items

    def __iter__(self):
        return Singles(self) if self.single else Stream(self)

    # -- state --

    def state_dict(self):
        """Where the next pass begins; granary.DataLoader's counts what its loop has got."""
        epoch, first, _, token = self._cell.get()
        return {"version": STATE_VERSION, "epoch": epoch, "token": token, "next": first, "seed": self.seed}

    def load_state_dict(self, state):
        """Goes on where a state_dict() was taken, with any number of ranks and workers."""
        epoch, token, first = state_of(state, self.seed)
        if worker()[1] > 0:
            self._resume = (epoch, token, first)
        else:
            self._cell.set(epoch, token, first)


class Stream:
    """One pass over an epoch: an iterator that knows where it is."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.worker, workers = worker()
        self.workers = max(workers, 1)
        self.inside = workers > 0
        self.epoch, self.first, self.changes, self.token = dataset._cell.get()
        if dataset._resume is not None:
            self.epoch, self.token, self.first = dataset._resume
            dataset._resume = None
        elif self.inside or self.first:
            self.first += self.worker
        self.number = None  # of the last batch handed out
        self.native = None
        self.after = self.token
        self.lock, self.history = threading.Lock(), dataset._history

    def open(self):
        with self.lock:
            if self.native is None:
                self.history.begin()
                began = time.monotonic()
                self.native = self.dataset._open(self.epoch, self.token, self.first, self.workers, self.workers)
                self.history.note(self.native, began)
            return self.native

    def next_batch(self):
        """The next Batch; None at the end."""
        native = self.open()
        batch, now = native.next(), time.monotonic()
        if now >= self.history.due or batch is None:
            self.history.note(native, now)
        if batch is None:
            self._ended()
            return None
        batch.source = self.dataset._source()
        self.number = batch.number
        return batch

    def _ended(self):
        cell = self.dataset._cell
        if not self.inside and cell.get()[2] == self.changes:
            cell.set(self.epoch + 1)
        self.changes = None

    def __iter__(self):
        return self

    def __next__(self):
        batch = self.next_batch()
        if batch is None:
            raise StopIteration
        value = self.dataset._value(batch)
        self.after = batch.token
        return value

    def state_dict(self):
        """Where this iterator stands: torchdata's StatefulDataLoader asks for it in each worker."""
        state = {"version": STATE_VERSION, "epoch": self.epoch, "token": self.token, "next": self.first,
                 "seed": self.dataset.seed}
        if self.number is not None and self.workers == 1:
            state.update(token=self.after, next=0)
        elif self.number is not None:
            state["next"] = self.number + self.workers
        return state

    def load_state_dict(self, state):
        self.epoch, self.token, self.first = state_of(state, self.dataset.seed)
        self.close()
        self.native, self.number = None, None

    def info(self):
        """dict: what the stream is and how far it got."""
        return self.open().info()

    def close(self):
        """No more batches; those taken stay as they are."""
        if self.native is not None:
            self.native.close()

    def __del__(self):
        if getattr(self, "native", None) is not None and not isinstance(self.native, _native.Epoch):
            self.native.close()  # its thread would keep it alive


class Singles:
    """Samples one by one: Sample, or what transform makes of it."""

    def __init__(self, dataset):
        self.stream, self.row, self.batch, self.items = Stream(dataset), 0, None, []

    def __iter__(self):
        return self

    def __next__(self):
        while self.row == len(self.items):
            self.batch = self.stream.next_batch()
            if self.batch is None:
                raise StopIteration
            dataset = self.stream.dataset
            self.items = self.batch.samples() if dataset.transform is None else dataset._items(self.batch)
            self.row = 0
        self.row += 1
        return self.items[self.row - 1]


def _unpickle(cls, state):
    self = cls.__new__(cls)
    self.__dict__.update(state)
    return self


def state_of(state, seed):
    """(epoch, token, next batch) of a state_dict(), checked."""
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise ValueError("this is no state of a granary dataset or loader, or of a later version")
    if state.get("seed") != seed:
        raise ValueError(f"the state was taken with seed {state.get('seed')}, the dataset has seed {seed}: the order differs")
    token = state.get("token")
    if token is not None:
        _native.check_token(token)
    return (_number("epoch of the state", state.get("epoch"), 0, 2**64 - 1), token,
            _number("position of the state", state.get("next", 0), 0, 2**32 - 1))


def login_of(options):
    names = ("credentials", "access_key", "secret", "name", "timeout", "connect_timeout", "connections")
    return {k: options[k] for k in names if k in options}


def objects_of(urls, login):
    """(place of their bucket, keys) of a list of addresses."""
    if isinstance(urls, str):
        raise TypeError("from_objects() takes a list of addresses; from_prefix() takes one")
    urls = list(urls)
    if not urls:
        raise ValueError("from_objects(): the list is empty")
    parsed = [_native.parse_url(u) for u in urls]
    buckets = {p[0] for p in parsed}
    if len(buckets) != 1 or any(not p[2] or p[1] for p in parsed):
        raise ValueError("from_objects(): all are granary://HOST/BUCKET/KEY of one bucket")
    return Place(urls[0], login), [p[2] for p in parsed]


def glob_of(key):
    """The glob that matches this key alone."""
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in key)
