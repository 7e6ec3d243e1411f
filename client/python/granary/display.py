# SPDX-License-Identifier: Apache-2.0
"""show(ds): the rate of a stream, how long its loop waited for it, and where its bytes came from, drawn."""
import time

from .errors import Error
from .loader import DataLoader
from .stream import History, IterableDataset, Stream


def _served(place):
    """(bytes that the server read from disk, bytes that it sent), of all its clients; None where the key may not know."""
    try:
        lines = dict(line.split(" ", 1) for line in place.client()._status().splitlines() if " " in line)
        return int(lines["disk_bytes_read"]), int(lines["bytes_out_range"])
    except (Error, KeyError, ValueError):
        return None


def rates(rows):
    """[(seconds since the beginning, samples/s, MB/s, share of the time waiting, bytes fetched a byte delivered)]"""
    out = []
    for a, b in zip(rows, rows[1:]):
        span = max(b[0] - a[0], 1e-9)
        out.append((b[0] - rows[0][0], (b[1] - a[1]) / span, (b[2] - a[2]) / span / 1e6,
                    min(1.0, (b[4] - a[4]) / 1e9 / span), (b[3] - a[3]) / max(b[2] - a[2], 1)))
    return out


def _read(dataset, batches, every):
    """A pass of its own, without transform: (its history, [(second, share of what the server sent that was on disk)])"""
    stream = Stream(dataset)
    stream.inside = True  # the dataset's own epoch stays what it is
    stream.history = history = History()
    served, due, count = [], 0.0, 0
    while batches is None or count < batches:
        if stream.next_batch() is None:
            break
        count += 1
        history.due = min(history.due, history.rows[-1][0] + every)
        if time.monotonic() >= due:
            served.append((time.monotonic(), _served(dataset.place)))
            due = time.monotonic() + every
    history.note(stream, time.monotonic())
    served.append((time.monotonic(), _served(dataset.place)))
    stream.close()
    return history, _disk_shares(served, history.rows[0][0])


def _disk_shares(served, began):
    out = []
    for (_, a), (now, b) in zip(served, served[1:]):
        if a is not None and b is not None and b[1] > a[1]:
            out.append((now - began, (b[0] - a[0]) / (b[1] - a[1])))
    return out


def _steps(axis, points, **how):
    """A line that is level from one point to the next; points: (second, value of the time before it)."""
    if points:
        axis.step([0.0] + [at for at, _ in points], [points[0][1]] + [value for _, value in points], where="pre", **how)


def _draw(history, disk):
    from matplotlib.figure import Figure
    rows, info = rates(history.rows), history.info
    figure = Figure(figsize=(9, 7), layout="constrained")
    rate, wait, tier = figure.subplots(3, 1, sharex=True)
    _steps(rate, [(r[0], r[2]) for r in rows], color="C0")
    rate.set(ylabel="MB/s delivered", ylim=(0, 1.1 * max([r[2] for r in rows], default=1) or 1))
    samples = rate.twinx()
    samples.set(ylabel="samples/s", ylim=(0, 1.1 * max([r[1] for r in rows], default=1) or 1))
    wait.fill_between([0.0] + [r[0] for r in rows], [0.0] + [100 * r[3] for r in rows], step="pre", color="C3", alpha=0.5)
    wait.set(ylabel="% of the time waiting", ylim=(0, 100))
    _steps(tier, [(r[0], r[4]) for r in rows], color="C2", label="fetched from the server")
    _steps(tier, disk, color="C1", label="read by the server from disk (of all it sends)")
    tier.set(ylabel="bytes a byte delivered", xlabel="seconds")
    tier.set_ylim(bottom=0)
    tier.set_xlim(left=0)
    tier.legend(loc="best", fontsize="small")
    for axis in (rate, wait, tier):
        axis.grid(alpha=0.3)
    spent = max(history.rows[-1][0] - history.rows[0][0], 1e-9)
    rate.set_title(f"{info['bucket']}@{info['snapshot']}, order {info['mode']}, epoch {info['epoch']}, rank {info['rank']} of "
                   f"{info['world']}\n{info['samples_read']:,} samples, {info['bytes_read'] / 1e6:,.0f} MB in {spent:.1f} s: "
                   f"{info['samples_read'] / spent:,.0f} samples/s, waited {info['waited_ns'] / 1e7 / spent:.1f} %",
                   fontsize="medium")
    return figure


def show(ds, path=None, *, batches=None, every=0.25):
    """Draws rate, waiting and where bytes came from: of the stream that a loop over `ds` runs, or ran last, in this process.

    ds: a granary.DataLoader without workers, or an IterableDataset. Where no loop has run, or `batches` is given, it reads an
    epoch (or so many batches of it) by itself; then it also asks the server how much came from its disks, and the epoch of the
    dataset stays what it is. path: a PNG file to write; None: the figure is returned, which a notebook shows. every: seconds
    a point of a pass of its own. Needs matplotlib."""
    try:
        import matplotlib  # noqa: F401  pylint: disable=unused-import
    except ImportError as e:
        raise ImportError("granary.show() draws with matplotlib, which is not installed") from e
    dataset = ds.dataset if isinstance(ds, DataLoader) else ds
    if not issubclass(type(dataset), IterableDataset):
        raise TypeError(f"show() takes an IterableDataset or a granary.DataLoader, not {type(ds).__name__}")
    history, disk = dataset._history, []
    if batches is not None or len(history.rows) < 2:
        history, disk = _read(dataset, batches, every)
    figure = _draw(history, disk)
    if path is not None:
        figure.savefig(path)
    return figure
