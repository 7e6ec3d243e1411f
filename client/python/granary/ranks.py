# SPDX-License-Identifier: Apache-2.0
"""Which rank of how many this process is: from arguments, the process group, torch.distributed, the environment, in that
order; said once."""
import os

from ._runtime import notice
from .batch import torch_of

ENVIRONMENT = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
               ("PMI_RANK", "PMI_SIZE"))
_said = set()


def _of_environment():
    for rank, size in ENVIRONMENT:
        if rank in os.environ and size in os.environ:
            try:
                return int(os.environ[rank]), int(os.environ[size]), f"environment {rank}, {size}"
            except ValueError:
                raise ValueError(f"environment: {rank}={os.environ[rank]!r}, {size}={os.environ[size]!r}: these are to be "
                                 "whole numbers") from None
    return 0, 1, "alone"


def _found(group):
    torch = torch_of()
    distributed = getattr(torch, "distributed", None) if torch is not None else None
    ready = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if group is not None:
        if not ready:
            raise ValueError("process_group is given, but torch.distributed is not initialised")
        return distributed.get_rank(group), distributed.get_world_size(group), "process group"
    if ready:
        return distributed.get_rank(), distributed.get_world_size(), "torch.distributed"
    return _of_environment()


def _copies(size, replicate):
    """How many ranks share a dp_rank, at least: where torch.distributed has more ranks than the data is cut into."""
    torch = torch_of()
    distributed = getattr(torch, "distributed", None) if torch is not None else None
    world = distributed.get_world_size() if distributed and distributed.is_available() and distributed.is_initialized() else 0
    return max(replicate, world // size if world % size == 0 else 1)


def resolve(dp_rank=None, dp_size=None, process_group=None, replicate=1):
    """(rank, world, how many ranks share this one). replicate: so many neighbouring ranks share a dp_rank (tensor, pipeline
    parallel); where dp_rank is given: that many have the same."""
    if (dp_rank is None) != (dp_size is None):
        raise ValueError("dp_rank and dp_size: give both or none")
    if isinstance(replicate, bool) or not isinstance(replicate, int) or replicate < 1:
        raise ValueError("replicate is a whole number of at least 1: how many ranks share a dp_rank")
    if dp_rank is not None:
        rank, size, source = int(dp_rank), int(dp_size), "arguments"
    else:
        rank, size, source = _found(process_group)
        if size % replicate != 0:
            raise ValueError(f"{size} ranks cannot be cut into groups of {replicate} (replicate)")
        rank, size = rank // replicate, size // replicate
    if size < 1 or not 0 <= rank < size:
        raise ValueError(f"rank {rank} of {size} ({source}): a rank is at least 0 and below their number")
    said = (rank, size, source, os.getpid())
    if source != "alone" and said not in _said:
        _said.add(said)
        notice(f"rank {rank} of {size} ({source})")
    return rank, size, _copies(size, replicate)
