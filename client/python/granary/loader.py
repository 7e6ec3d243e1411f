# SPDX-License-Identifier: Apache-2.0
"""DataLoader: torch's loader around an IterableDataset, whose state counts what the loop has got."""
import copy
import traceback

from .batch import torch_of
from .errors import Error
from .shared import sweep
from .stream import STATE_VERSION, IterableDataset, Singles, Stream


class _Item:
    """What travels from a worker: the value, and where the epoch goes on behind it. Or what went wrong."""

    __slots__ = ("value", "token", "error")

    def __init__(self, value=None, token=None, error=None):
        self.value, self.token, self.error = value, token, error

    def __reduce__(self):
        return _Item, (self.value, self.token, self.error)

    def pin_memory(self, device=None):
        if self.error is None:
            from torch.utils.data._utils.pin_memory import pin_memory
            self.value = pin_memory(self.value) if device is None else pin_memory(self.value, device)
        return self


class _Feed:
    """The dataset as torch's loader sees it: items instead of values."""

    def __init__(self, dataset):
        self.dataset = dataset

    __class__ = IterableDataset.__dict__["__class__"]  # counts as one of torch's datasets too

    def __reduce__(self):
        return _Feed, (self.dataset,)

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        return _FeedIterator(self.dataset)


class _FeedIterator:
    def __init__(self, dataset):
        self.values = iter(dataset)
        self.stream = self.values.stream if isinstance(self.values, Singles) else self.values
        self.failed = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.failed:
            raise StopIteration
        try:
            value = next(self.values)
        except StopIteration:
            raise
        except Exception as e:  # pylint: disable=broad-except
            if not self.stream.inside:
                raise
            self.failed = True
            return _Item(error=_portable(e))
        token = self.stream.after if isinstance(self.values, Stream) else None
        return _Item(value, token)


def _portable(error):
    """The exception as it can travel: with what it carries where it is ours, else its text."""
    where = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if isinstance(error, Error):
        error = copy.copy(error)
        error.message += f"\n\nin a worker process:\n{where}"
        return error
    return RuntimeError(f"{type(error).__name__} in a worker process:\n{where}")


def _same(item):
    return item


class DataLoader:
    """Batches of an IterableDataset for a training loop.

    num_workers    0, the default: batches are read ahead by threads of the library, which is fastest where nothing is
                   transformed. More: so many processes in which transform and collate_fn run; a rank's batches are the same
    pin_memory     batches in page-locked memory, copied in a thread of their own
    prefetch_factor  batches that each worker has ready
    persistent_workers  workers stay from epoch to epoch; set_epoch() reaches them
    multiprocessing_context  "fork", "spawn" or "forkserver"
    collate_fn     as of the dataset, instead of its own

    state_dict() counts the batches that the loop has got, not those read ahead; load_state_dict() goes on behind them, with
    any number of ranks and workers. An epoch read to its end is followed by the next one, unless set_epoch() says otherwise.
    len(): batches of this rank in a whole epoch.
    """

    def __init__(self, dataset, *, num_workers=0, pin_memory=False, prefetch_factor=2, persistent_workers=False,
                 multiprocessing_context=None, collate_fn=None):
        if not isinstance(dataset, IterableDataset):
            raise TypeError(f"granary.DataLoader takes a granary.IterableDataset, not {type(dataset).__name__}: a MapDataset "
                            "goes into torch.utils.data.DataLoader")
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
            raise ValueError(f"num_workers is a whole number of at least 0, not {num_workers!r}")
        if dataset.single and num_workers > 0:
            raise ValueError("single samples (batch_size=None) come without workers: give the dataset a batch_size")
        if collate_fn is not None:
            dataset = copy.copy(dataset)  # shares epoch and position
            dataset.collate_fn = collate_fn
        self.dataset, self.num_workers = dataset, num_workers
        self._token, self._running = None, None
        self._loader = self._torch(pin_memory, prefetch_factor, persistent_workers, multiprocessing_context)

    def _torch(self, pin_memory, prefetch_factor, persistent_workers, context):
        if self.num_workers == 0 and not pin_memory:
            if persistent_workers:
                raise ValueError("persistent_workers=True needs num_workers of at least 1")
            return _Feed(self.dataset)
        torch = torch_of()
        if torch is None:
            raise ValueError("workers and pin_memory need torch: import torch before granary.DataLoader is made")
        from torch.utils.data import DataLoader as TorchLoader
        self.dataset._rank()  # what the environment says is said before there are workers
        more = {"prefetch_factor": prefetch_factor, "persistent_workers": persistent_workers,
                "multiprocessing_context": context} if self.num_workers > 0 else {}
        return TorchLoader(_Feed(self.dataset), batch_size=None, num_workers=self.num_workers, pin_memory=pin_memory,
                           collate_fn=_same, **more)

    @property
    def batch_size(self):
        """Samples a batch of this rank."""
        return self.dataset.batch_size

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        self._running = _Pass(self)
        return self._running

    def set_epoch(self, epoch):
        """The next pass is this epoch's. The epoch of a state that was just loaded keeps its position."""
        if epoch != self.dataset.epoch:
            self._running = None
        self.dataset.set_epoch(epoch)

    @property
    def epoch(self):
        """Number of the epoch that is being read, else of the next one."""
        return self._running.epoch if self._running is not None and self._running.going else self.dataset.epoch

    def state_dict(self):
        """Where the loop stands: small, plain, valid for any number of ranks, workers and prefetched batches."""
        run = self._running
        if run is None or not run.going or run.token is None:
            return self.dataset.state_dict()
        return {"version": STATE_VERSION, "epoch": run.epoch, "token": run.token, "next": 0, "seed": self.dataset.seed}

    def load_state_dict(self, state):
        """The next pass goes on where the state was taken."""
        self._running = None
        self.dataset.load_state_dict(state)


class _Pass:
    """One pass of the loop."""

    def __init__(self, loader):
        cell = loader.dataset._cell
        self.loader, self.token, self.going = loader, None, True
        self.epoch, _, self.changes, _ = cell.get()
        self.items = iter(loader._loader)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.going:
            raise StopIteration
        try:
            item = next(self.items)
        except StopIteration:
            self.going = False
            self._end()
            raise
        if item.error is not None:
            self.going = False
            raise item.error
        if item.token is not None:
            self.token = item.token
        return item.value

    def _end(self):
        cell = self.loader.dataset._cell
        if self.loader.num_workers > 0 and cell.get()[2] == self.changes:
            cell.set(self.epoch + 1)
        sweep()

    def __len__(self):
        return len(self.loader)
