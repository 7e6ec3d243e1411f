#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training loops in a process of their own; train_rows.py runs it. All print JSON.

  train_loop.py stall URL CREDENTIALS MODE BATCH STEP SECONDS   STEP: seconds that each step lasts; 0: none, what can be done
  train_loop.py first URL CREDENTIALS BATCH WORKERS             time.monotonic() when the first batch was there
  train_loop.py accuracy URL CREDENTIALS DATA EPOCHS SEEDS      accuracy on the test images, in %, of each seed and order
"""
import json
import os
import sys
import time


def stall(url, credentials, mode, batch, step, seconds):
    """A loop that computes nothing for `step` a batch, as one does that waits for its GPU. Warm-up is not counted."""
    import granary
    ds = granary.IterableDataset(url, shuffle=mode, batch_size=batch, credentials=credentials)
    loader, waits, samples = granary.DataLoader(ds), [], 0
    running = iter(loader)
    for _ in range(20):
        got = next(running)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        asked = time.monotonic()
        got = next(running, None)
        if got is None:
            running = iter(loader)  # opening the next epoch is part of it
            got = next(running)
        there = time.monotonic()
        waits.append(there - asked)
        samples += len(got)
        if step:
            time.sleep(max(0.0, there + step - time.monotonic()))
    spent = time.monotonic() - began
    waits.sort()
    return {"per_s": samples / spent, "batches": len(waits), "wait_s": sum(waits), "seconds": spent, "mean_step": spent / len(waits),
            "p999": waits[min(len(waits) - 1, int(len(waits) * 0.999))], "worst": waits[-1]}


def first(url, credentials, batch, workers):
    import torch  # noqa: F401  pylint: disable=unused-import
    imported = time.monotonic()
    import granary
    ds = granary.IterableDataset(url, batch_size=batch, credentials=credentials)
    running = iter(granary.DataLoader(ds, num_workers=workers))
    got = next(running)
    result = {"first": time.monotonic(), "imported": imported, "samples": len(got), "of": len(ds)}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # what the workers have read ahead is nobody's concern


# ---- accuracy ----

def idx(path):
    import gzip
    import struct

    import numpy
    with gzip.open(path) as f:
        dims = struct.unpack("BBBB", f.read(4))[3]
        shape = struct.unpack(f">{dims}I", f.read(4 * dims))
        return numpy.frombuffer(f.read(), numpy.uint8).reshape(shape)


def tensors(images):
    import torch
    return (torch.from_numpy(images.reshape(len(images), -1).copy()).float() / 255 - 0.2860) / 0.3530


def train(url, credentials, epochs, seed, mode, batch=128, rate=2e-3):
    """A network of two layers; the learning rate falls to 0, so that the end does not depend on the last few steps."""
    import numpy
    import torch

    import granary
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    ds = granary.IterableDataset(url, shuffle=mode, seed=seed, batch_size=batch, last="drop", credentials=credentials)
    loader = granary.DataLoader(ds)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    seen = 0
    for _ in range(epochs):
        ids = []
        for got in loader:
            x = tensors(numpy.frombuffer(got.data, numpy.uint8).reshape(len(got), 784))
            y = torch.from_numpy(numpy.frombuffer(got.labels, numpy.int64).copy())
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            ids.append(numpy.frombuffer(got.ids, numpy.int64).copy())
        ids = numpy.concatenate(ids)
        if len(numpy.unique(ids)) != len(ids) or len(ids) != len(loader) * batch:
            raise SystemExit("an epoch did not bring each sample once")
        seen += len(ids)
    return model, seen


def accuracy(url, credentials, data, epochs, seeds):
    import torch
    torch.set_num_threads(1)
    x, y = tensors(idx(os.path.join(data, "t10k-images-idx3-ubyte.gz"))), idx(os.path.join(data, "t10k-labels-idx1-ubyte.gz"))
    names = CLASSES
    label = {name: i for i, name in enumerate(sorted(names))}
    wanted = torch.tensor([label[names[i]] for i in y])
    out = {"exact": [], "blocks": []}
    for seed in range(seeds):
        for mode, results in out.items():
            model, _ = train(url, credentials, epochs, seed, mode)
            with torch.no_grad():
                results.append(100 * float((model(x).argmax(1) == wanted).float().mean()))
    return out


CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def main():
    what, url, credentials, *rest = sys.argv[1:]
    if what == "stall":
        result = stall(url, credentials, rest[0], int(rest[1]), float(rest[2]), float(rest[3]))
    elif what == "first":
        result = first(url, credentials, int(rest[0]), int(rest[1]))
    else:
        result = accuracy(url, credentials, rest[0], int(rest[1]), int(rest[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
