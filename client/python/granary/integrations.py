# SPDX-License-Identifier: Apache-2.0
"""What other loaders need to read from Granary; each works only where its package is installed, none is imported before.

    register_webdataset()   wds.WebDataset("granary://HOST/BUCKET/shard-{000..099}.tar"), and ShardWriter's "wb"
    register_streaming()    streaming.StreamingDataset(remote="granary://HOST/BUCKET/mds", local=...)
    DaliSource(dataset)     fn.external_source(source, num_outputs=2, batch=True)
    ray, pandas, pyarrow, datasets, duckdb   GranaryFileSystem of granary.fs is all they need
    Grain                   granary.MapDataset is a RandomAccessDataSource, its batches are one request

One client a process and login is shared by all of them, and opened when it is needed.
"""
import importlib
import os
import threading

from .place import Place


def _place(url, login):
    place = Place(url, login)
    if place.snapshot or not place.path:
        raise ValueError(f"'{url}' names no object: granary://HOST/BUCKET/KEY")
    return place


class _Gopen:
    """What webdataset calls for an address; it travels to workers as its login."""

    def __init__(self, login):
        self.login = login

    def __call__(self, url, mode="rb", bufsize=8192, **_):
        place = _place(url, self.login)
        if mode == "rb":
            return place.client().open_read(place.path)
        if mode == "wb":
            return place.client().open_write(place.path)
        raise ValueError(f"'{url}': mode is 'rb' or 'wb', not {mode!r}")


def register_webdataset(**login):
    """webdataset reads and writes shards at granary://HOST/BUCKET/KEY from here on, in workers that are forked too.

    login: credentials=, access_key=, ... of granary.connect(). A worker that is spawned calls it again (where the dataset
    is made in a module, a line of that module is enough)."""
    schemes = importlib.import_module("webdataset.gopen").gopen_schemes  # the package has a function of that name
    schemes["granary"] = _Gopen(login)


def register_streaming(**login):
    """MosaicML Streaming downloads from granary://HOST/BUCKET/PREFIX from here on; returns the class of the downloader.

    A file is there when it is whole: it is written beside and renamed."""
    from streaming.base.storage import download

    class GranaryDownloader(download.CloudDownloader):
        """Objects of a Granary server into files."""

        @staticmethod
        def _client_identifier():
            return "granary"

        def clean_up(self):
            """The client stays: others of the process use it."""

        def _download_file_impl(self, remote, local, timeout):
            place, beside = _place(remote, login), f"{local}.{os.getpid()}-{threading.get_ident()}.part"
            try:
                with open(beside, "wb") as out, place.client().open_read(place.path, timeout=timeout) as source:
                    while piece := source.read1():
                        out.write(piece)
                os.replace(beside, local)
            except BaseException:
                if os.path.exists(beside):
                    os.remove(beside)
                raise

    download.DOWNLOADER_MAPPINGS["granary"] = GranaryDownloader
    return GranaryDownloader


class DaliSource:
    """A callable for DALI's fn.external_source(source, batch=True): the batches of an IterableDataset.

    dataset   granary.IterableDataset; transform and collate_fn are not used, DALI decodes
    labels    True: (list of uint8 arrays, int64[n, 1] of labels), num_outputs=2; False: the list alone

    Without an argument it gives the next batch, behind the end of an epoch the next epoch. With a number, as DALI calls it
    in its own process, it gives that batch; a number that is no larger than the one before begins the next epoch. With
    DALI's BatchInfo (batch_info=True, which parallel=True needs) it gives that batch of that epoch, the same one in every
    process; a worker that takes every k-th batch reads only those. At the end of an epoch it raises StopIteration. The
    arrays look into the batch, nothing is copied; the last batch of an epoch is filled up as the dataset's `last` says. It
    is pickled as its dataset, every process opens its own stream.
    """

    def __init__(self, dataset, labels=True):
        self.dataset, self.labels = dataset, labels
        self._begin()

    def _begin(self):
        self._number = -1  # the last one that was asked for
        self._forget()

    def _forget(self):
        self._stream, self._epoch, self._last, self._step = None, None, None, 1

    def _following_epoch(self):
        self.dataset.set_epoch(self.dataset.epoch + 1)

    def __getstate__(self):
        return {"dataset": self.dataset, "labels": self.labels}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._begin()

    def __call__(self, info=None):
        if info is None:
            return self._following()
        if hasattr(info, "iteration"):
            return self._take(self.dataset.epoch + info.epoch_idx, info.iteration)
        if info <= self._number:
            self._following_epoch()
        self._number = info
        return self._take(self.dataset.epoch, info)

    def _following(self):
        epoch = self.dataset.epoch
        try:
            return self._take(epoch, self._last + 1 if self._stream is not None and self._epoch == epoch else 0)
        except StopIteration:
            self._following_epoch()
            raise

    def _take(self, epoch, number):
        if self._stream is None or epoch != self._epoch or number != self._last + self._step:
            step = number - self._last if self._stream is not None and epoch == self._epoch and number > self._last else 1
            self._open(epoch, number, step)
        self._last = number
        batch = self._stream.next()
        if batch is None:
            self._forget()
            raise StopIteration
        return self._outputs(batch)

    def _open(self, epoch, first, step):
        if self._stream is not None:
            self._stream.close()
        self._stream = self.dataset._open(epoch, None, first, step, 1)
        self._epoch, self._step = epoch, step

    def _outputs(self, batch):
        import numpy
        data = [numpy.frombuffer(view, dtype=numpy.uint8) for view in batch]
        if not self.labels:
            return data
        batch.source = self.dataset._source()
        return data, numpy.array(batch.labels, dtype=numpy.int64).reshape(-1, 1)
