# SPDX-License-Identifier: Apache-2.0
"""show(ds): the rate of a running stream, how long its loop waited, and where its bytes came from, drawn."""
import time


class Watch:
    """Samples the counters of a stream while its loop runs: one line of numbers each `every` seconds."""

    def __init__(self, iterator, every=0.5):
        self.iterator, self.every, self.rows = iterator, every, []
        self._note(time.monotonic())

    def _note(self, now):
        info = self.iterator.info()
        self.rows.append((now, info["samples_read"], info["bytes_read"], info["bytes_fetched"], info["waited_ns"]))

    def __iter__(self):
        for batch in self.iterator:
            now = time.monotonic()
            if now - self.rows[-1][0] >= self.every:
                self._note(now)
            yield batch
        self._note(time.monotonic())

    def lines(self):
        """[(seconds since the beginning, samples/s, MB/s, share of the time waiting, bytes fetched a byte delivered)]"""
        out = []
        for a, b in zip(self.rows, self.rows[1:]):
            span = max(b[0] - a[0], 1e-9)
            out.append((b[0] - self.rows[0][0], (b[1] - a[1]) / span, (b[2] - a[2]) / span / 1e6,
                        min(1.0, (b[4] - a[4]) / 1e9 / span), (b[3] - a[3]) / max(b[2] - a[2], 1)))
        return out


def show(ds, path=None, *, batches=None, every=0.5):
    """Reads one epoch of an IterableDataset (or its first `batches`), and draws rate, waiting and read amplification.

    path: a PNG file to write; None: the figure is returned, which a notebook shows. `every`: seconds a point.
    It takes a pass of its own: a loop that is running elsewhere is not touched. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("granary.show() draws with matplotlib, which is not installed") from e
    from .stream import Stream
    stream = Stream(ds)
    stream.inside = True  # the dataset's own epoch stays what it is
    watch = Watch(_Batches(stream, batches), every)
    for _ in watch:
        pass
    rows, info = watch.lines(), stream.info()
    stream.close()
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    at = [r[0] for r in rows]
    for axis, column, label in ((axes[0], 2, "MB/s"), (axes[1], 3, "share of time waiting"),
                                (axes[2], 4, "bytes fetched / delivered")):
        axis.plot(at, [r[column] for r in rows])
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[2].set_xlabel("seconds")
    axes[0].set_title(f"{info['bucket']}@{info['snapshot']}, {info['mode']}, rank {info['rank']} of {info['world']}: "
                      f"{info['samples_read']} samples, {info['bytes_read'] / 1e6:.0f} MB")
    if path is not None:
        figure.savefig(path)
    return figure


class _Batches:
    """The batches of a stream as they are, without transform, at most so many."""

    def __init__(self, stream, most):
        self.stream, self.most = stream, most
        self.info = stream.info

    def __iter__(self):
        count = 0
        while self.most is None or count < self.most:
            batch = self.stream.next_batch()
            if batch is None:
                return
            count += 1
            yield batch
