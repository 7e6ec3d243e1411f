#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rank_train.py KIND URL CREDENTIALS OUT [JSON] -- one rank of a training job, as a user of that framework writes it.

test_frameworks.py starts it with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. It trains on the sizes of the samples, so that
every step is a collective, and writes the ids of each of its steps to OUT.RANK, with the weights that it ended with. Padded
samples are left out. JSON: batch_size, workers, steps (stop after so many; the state goes to OUT.state), state, ...
"""
import json
import os
import sys
import warnings

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import granary

warnings.simplefilter("ignore")
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def collate(batch):
    """Tensors of a batch: sizes to train on, ids to note; padded samples have the id -1."""
    sizes = torch.tensor([[len(data) / 6000.0] for data in batch])
    return {"x": sizes, "labels": sizes * 3, "ids": torch.tensor([i if v else -1 for i, v in zip(batch.ids, batch.valid)])}


class Model(torch.nn.Module):
    """One weight to learn: 3."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, x, labels=None, ids=None):
        out = self.layer(x)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


class Job:
    """What the kinds share."""

    def __init__(self, url, credentials, out, options):
        self.out, self.options, self.steps = out, options, []
        self.url, self.credentials = url, credentials

    def dataset(self, **more):
        return granary.IterableDataset(self.url, credentials=self.credentials, collate_fn=collate, shuffle="exact", seed=11,
                                       batch_size=self.options.get("batch_size", 8), **more)

    def loader(self, **more):
        loader = granary.DataLoader(self.dataset(**more), num_workers=self.options.get("workers", 0))
        if "state" in self.options:
            loader.load_state_dict(self.options["state"])
        return loader

    def note(self, batch):
        self.steps.append([i for i in batch["ids"].tolist() if i >= 0])

    def full(self):
        return len(self.steps) == self.options.get("steps")

    def write(self, model, state=None):
        weights = [p.detach().flatten().tolist() for p in model.parameters()]
        with open(f"{self.out}.{RANK}", "w", encoding="ascii") as f:
            json.dump({"steps": self.steps, "weights": weights, "state": state}, f)


def train_ddp(job):
    torch.distributed.init_process_group("gloo")
    model, loader = DistributedDataParallel(Model()), job.loader()
    step(job, model, loader, lambda loss: loss.backward())
    job.write(model, loader.state_dict())
    torch.distributed.barrier()


def step(job, model, loader, backward):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in loader:
        job.note(batch)
        optimizer.zero_grad()
        backward(model(**batch)["loss"])
        optimizer.step()
        if job.full():
            break


def train_accelerate(job):
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    loader = job.loader()
    model, prepared = accelerator.prepare(Model(), loader)
    assert prepared is loader, "Accelerate left our loader as it is"
    step(job, model, prepared, accelerator.backward)
    job.write(model, loader.state_dict())
    accelerator.wait_for_everyone()


def train_lightning(job):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        """The model as Lightning wants it."""

        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, batch, _):
            job.note(batch)
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)
    os.environ.update(TORCHELASTIC_RUN_ID="granary", GROUP_RANK="0", LOCAL_RANK=str(RANK), LOCAL_WORLD_SIZE=str(WORLD))
    trainer = lightning.Trainer(accelerator="cpu", devices=WORLD, strategy="ddp", max_epochs=1, logger=False,
                                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    module = Module()
    torch.distributed.init_process_group("gloo")  # before the dataset looks for its rank
    loader = job.loader()
    trainer.fit(module, train_dataloaders=loader)
    job.write(module, loader.state_dict())


def train_trainer(job):
    import transformers
    from transformers import Trainer, TrainingArguments
    transformers.logging.set_verbosity_error()

    class Ours(Trainer):
        """The loader is ours, whole: no part of it is for the Trainer to share out."""

        def get_train_dataloader(self):
            return loader

        def training_step(self, model, inputs, *rest):
            job.note(inputs)
            return super().training_step(model, inputs, *rest)
    more = {"use_cpu": True} if "use_cpu" in TrainingArguments.__dataclass_fields__ else {"no_cuda": True}
    os.environ["LOCAL_RANK"] = str(RANK)
    arguments = TrainingArguments(output_dir=job.out + ".trainer", num_train_epochs=1, report_to=[], save_strategy="no",
                                  per_device_train_batch_size=8, learning_rate=0.1, disable_tqdm=True,
                                  ddp_backend="gloo", remove_unused_columns=False, **more)
    loader = job.loader()
    model = Model()
    Ours(model=model, args=arguments, train_dataset=loader.dataset).train()
    job.write(model, loader.state_dict())


def train_mesh(job):
    """2 x 2: rank = 2 * data + tensor; the ranks of a tensor group see the same batches."""
    torch.distributed.init_process_group("gloo")
    if hasattr(torch.distributed, "init_device_mesh"):
        mesh = torch.distributed.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        data, tensor = mesh["data"].get_group(), mesh["tensor"].get_group()
    else:
        groups = [torch.distributed.new_group(ranks) for ranks in ([0, 2], [1, 3], [0, 1], [2, 3])]
        data, tensor = groups[RANK % 2], groups[2 + RANK // 2]
    model = Model()
    more = {"process_group": data} if job.options["how"] == "process_group" else {"replicate": 2}
    for batch in job.loader(**more):
        job.note(batch)
        both = [torch.zeros_like(batch["ids"]) for _ in range(2)]
        torch.distributed.all_gather(both, batch["ids"], group=tensor)
        assert torch.equal(*both), "the ranks of a tensor group have other samples"
        loss = model(**batch)["loss"]
        loss.backward()
        for p in model.parameters():
            torch.distributed.all_reduce(p.grad, group=data)
            p.data -= 0.05 * p.grad
            p.grad = None
    job.write(model)
    torch.distributed.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    KIND, URL, CREDENTIALS, OUT = sys.argv[1:5]
    globals()[f"train_{KIND}"](Job(URL, CREDENTIALS, OUT, json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}))
    sys.stdout.flush()
    os._exit(0)
