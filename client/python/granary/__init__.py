# SPDX-License-Identifier: Apache-2.0
"""Granary: ordinary files as shuffled, resumable epochs of batches.

    import granary

    client = granary.connect("granary://localhost/fashion")     # credentials: GRANARY_CREDENTIALS
    client.put("train/boot/1.png", data)
    batch = client.get_many(["train/boot/1.png", "train/boot/2.png"])

    ds = granary.IterableDataset("granary://localhost/fashion@v1", shuffle="blocks", seed=7, batch_size=256)
    for batch in granary.DataLoader(ds):
        ...

No framework is imported here: NumPy and torch see the memory of a Batch through the buffer protocol and DLPack.
"""
from . import errors
from ._native import Array
from ._native import version as __version__
from .batch import MISSING, PADDED, SKIPPED, Batch, Sample
from .client import DIRECTORY, FILE, PREFIX, Client, Entry, Snapshot, Stat, connect
from .errors import Error
from .loader import DataLoader
from .map import MapDataset
from .stream import IterableDataset
from . import shared as _shared  # how batches travel between processes

__all__ = ["Array", "Batch", "Client", "DataLoader", "DIRECTORY", "Entry", "Error", "errors", "FILE", "GranaryFileSystem",
           "IterableDataset", "MapDataset", "MISSING", "PADDED", "PREFIX", "Sample", "show", "SKIPPED", "Snapshot", "Stat",
           "connect", "__version__"]


def __getattr__(name):  # what needs another package is imported when it is asked for
    if name == "GranaryFileSystem":
        from .fs import GranaryFileSystem
        return GranaryFileSystem
    if name == "show":
        from .display import show
        return show
    raise AttributeError(f"module 'granary' has no attribute '{name}'")
