#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: with the real packages (plain DDP, Accelerate, Lightning, Hugging Face Trainer, a data x tensor mesh) every sample
comes once an epoch over all ranks, each rank has as many batches, and a job goes on with other ranks where it was stopped;
torchdata's StatefulDataLoader resumes the same batches; MosaicML Streaming reads what its writer left in a bucket.

Debian's torch in `tools/test`, with the last versions that accept it; what is current with GRANARY_TEST_LONG=1.
"""
import itertools
import json
import os
import socket
import subprocess
import sys

import venv_lib

LATER = ["numpy", "tqdm", "xxhash", "zstd", "Brotli", "python-snappy", "filelock", "catalogue", "pyyaml"]
if venv_lib.LONG:
    venv_lib.enter("frameworks", ["torch", "torchvision", "pillow", "torchdata", "accelerate", "lightning", "transformers", *LATER],
                   alone=["mosaicml-streaming"])
else:
    venv_lib.enter("frameworks", ["numpy<2", "fsspec", "huggingface_hub<1", "tokenizers<0.15", "safetensors", "regex",
                                  "requests", "psutil", "packaging<25", *LATER],
                   alone=["accelerate==0.24.1", "transformers==4.35.2", "torchdata==0.9.0", "mosaicml-streaming==0.13.0"],
                   system=True)

import granary_case  # noqa: E402  pylint: disable=wrong-import-position
from granary_case import Case, granary, ids_of  # noqa: E402  pylint: disable=wrong-import-position

try:
    import torch  # noqa: F401  pylint: disable=unused-import
except ImportError:
    granary_case.crash_lib.skip("torch is not installed: tools/deps --torch")

RANKS_S = 240  # only to end ranks that hang


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Frameworks(Case):
    SAMPLES = 203  # neither batches nor ranks divide it
    number = itertools.count()

    def train(self, kind, world, **options):
        """What each rank noted."""
        out = self.base / f"{kind}-{next(self.number)}"
        env = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
               "GRANARY_QUIET": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        program = granary_case.ROOT / "tests" / "python" / "rank_train.py"
        ranks = [granary_case.crash_lib.spawn(
            [sys.executable, program, kind, self.v1, self.login["credentials"], out, json.dumps(options)],
            env={**env, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for rank in range(world)]
        texts = [rank.communicate(timeout=RANKS_S)[0] for rank in ranks]
        for rank, text in zip(ranks, texts):
            self.assertEqual(rank.returncode, 0, text[-3000:])
        return [json.loads(out.with_suffix(f".{rank}").read_text(encoding="ascii")) for rank in range(world)]

    def once(self, ranks, seen=()):
        self.assertEqual(len({len(r["steps"]) for r in ranks}), 1, "each rank has as many steps")
        ids = sorted([*seen, *(i for r in ranks for s in r["steps"] for i in s)])
        self.assertEqual(ids, list(range(self.SAMPLES)))
        self.assertEqual(len({str(r["weights"]) for r in ranks}), 1, "the weights are the same on all ranks")

    def test_ddp(self):
        for world, workers in (((1, 0), (2, 2), (3, 0), (4, 1)) if venv_lib.LONG else ((4, 1),)):
            self.once(self.train("ddp", world, workers=workers))

    def test_accelerate(self):
        for world, workers in (((1, 0), (2, 1), (3, 0)) if venv_lib.LONG else ((2, 1),)):
            self.once(self.train("accelerate", world, workers=workers))

    def test_lightning(self):
        """Debian's torch cannot load its own torch.distributed._shard, which all of Lightning needs."""
        if not venv_lib.LONG:
            self.skipTest("Lightning is tried with GRANARY_TEST_LONG=1")
        for world, workers in ((1, 0), (2, 1), (4, 0)):
            self.once(self.train("lightning", world, workers=workers))

    def test_trainer(self):
        for world, workers in (((1, 0), (2, 1), (3, 0)) if venv_lib.LONG else ((2, 1),)):
            self.once(self.train("trainer", world, workers=workers))

    def test_elastic(self):
        """Stopped with one number of ranks, goes on with another; the global batch differs as well."""
        seen, state = [], {}
        for kind, world, steps in (("ddp", 2, 3), ("accelerate", 3, 2), ("ddp", 1, None)):
            ranks = self.train(kind, world, workers=world % 2, **({"steps": steps} if steps else {}), **state)
            if steps is None:
                self.once(ranks, seen)
            seen += [i for r in ranks for s in r["steps"] for i in s]
            self.assertEqual(len({str(r["state"]) for r in ranks}), 1, "the state is the same on all ranks")
            state = {"state": ranks[0]["state"]}

    def test_mesh(self):
        for how in ("process_group", "replicate"):
            ranks = self.train("mesh", 4, how=how)
            self.assertEqual((ranks[0]["steps"], ranks[2]["steps"]), (ranks[1]["steps"], ranks[3]["steps"]))
            self.once([ranks[0], ranks[2]])


class Stateful(Case):
    """torchdata's StatefulDataLoader, and MosaicML Streaming."""

    SAMPLES = 203

    def loader(self, workers, prefetch, persistent, context):
        from torchdata.stateful_dataloader import StatefulDataLoader
        more = {"prefetch_factor": prefetch, "persistent_workers": persistent, "multiprocessing_context": context}
        return StatefulDataLoader(self.stream(shuffle="exact", seed=9, batch_size=8), batch_size=None, num_workers=workers,
                                  **(more if workers else {}))

    def test_stateful(self):
        whole = ids_of(self.stream(shuffle="exact", seed=9, batch_size=8))
        cases = [(0, 2, False, None)]
        cases += [(w, p, keep, "fork") for w, p, keep in itertools.product((2, 8), (2, 8), (False, True))]
        cases += [(2, 2, False, "spawn")]
        for n, case in enumerate(cases):
            k = (1, 6, 17)[n % 3]
            loader = self.loader(*case)
            running = iter(loader)
            first = ids_of(next(running) for _ in range(k))
            state = loader.state_dict()
            del running, loader
            again = self.loader(*case)  # it wants as many workers as before
            again.load_state_dict(state)
            self.assertEqual(first + ids_of(again), whole, (case, k))

    def test_streaming(self):
        """Shards that MosaicML's writer made, put into a bucket, come back through its downloader."""
        from streaming import MDSWriter, StreamingDataset
        from granary import integrations
        local = self.base / "mds"
        with MDSWriter(out=str(local), columns={"n": "int", "data": "bytes"}, size_limit=1 << 16) as out:
            for i, name in enumerate(sorted(self.files)):
                out.write({"n": i, "data": self.files[name]})
        self.client.put_many({f"mds/{p.name}": p.read_bytes() for p in local.iterdir()})
        downloader = integrations.register_streaming(**self.login)
        found = StreamingDataset(remote=f"{self.url}/mds", local=str(self.base / "cache"), shuffle=True, batch_size=4)
        rows = {row["n"]: row["data"] for row in found}
        self.assertEqual(rows, {i: self.files[name] for i, name in enumerate(sorted(self.files))})
        with self.assertRaises(KeyError):
            downloader().download(f"{self.url}/mds/none", str(self.base / "none"))
        self.assertFalse([p.name for p in self.base.iterdir() if p.name.startswith("none")], "nothing half is left")


if __name__ == "__main__":
    granary_case.main()
