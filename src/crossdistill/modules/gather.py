"""Tensors of all processes, with gradient back to where each came from."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


# PyTorch's own, torch.distributed.nn.functional.all_gather, is deprecated, and what is to follow it is private.
class _AllGather(torch.autograd.Function):
    """Concatenate along the batch; backward, every process sums what all of them ask of its own part."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


# Collectives inside an autograd function are nothing that a compiler can trace; with one process nothing is called.
@torch.compiler.disable
def _gather(own: Tensor, own_first: bool) -> Tensor:
    everything: Tensor = _AllGather.apply(own.contiguous())
    return everything.roll(-dist.get_rank() * len(own), dims=0) if own_first else everything


def gather_batches(own: Tensor, own_first: bool = True) -> Tensor:
    """(B, ...) of each process -> (processes * B, ...); the same B everywhere.

    A loss that is the mean over a process's own rows, averaged over processes by DDP, has the gradient of the one that
    a single process computes on the whole batch. So has one that every process computes on all rows.

    Args:
        own: (B, ...).
        own_first: this process's own rows come first; else they are in the order of the processes, the same everywhere.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _gather(own, own_first) if several else own
