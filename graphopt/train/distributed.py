"""Several processes that train one net: ``torchrun --nproc_per_node 2 -m graphopt prune RECIPE.yaml -o OUT.onnx``.

Without torchrun there is one process, and every function here does nothing or returns what it was given. With it, every
process holds the whole net and sees its share of each batch; ``DistributedDataParallel`` takes the mean of their
gradients. What is decided (masks, orders, scales) is decided by the first process and told to the others, because sums
on a GPU may differ in their last bit from process to process, and one other mask is another net.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def join(device: str = "auto") -> torch.device:
    """Join the other processes if torchrun started this one, and return the device of this process.

    ``auto``: a GPU where there is one, each process its own. Processes on GPUs talk by NCCL, others by Gloo.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(f"cuda:{local}" if device == "cuda" else device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(_leave)
    return chosen


def _leave() -> None:
    """Let the threads of the process group end while Python still runs.

    A wrapper of a net, which refers to itself, would keep the group, and its threads would meet an interpreter that is
    being taken down: the process would end with an abort.
    """
    gc.collect()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def told(value: T) -> T:
    """Return the first process's value, everywhere."""
    if size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T) -> list[T]:
    """Return every process's value, by rank."""
    if size() == 1:
        return [value]
    box: list[T | None] = [None] * size()
    distributed.all_gather_object(box, value)
    return box  # type: ignore[return-value]


@torch.no_grad()
def copied(tensors: Iterable[Tensor]) -> None:
    """Write the first process's numbers into these tensors, everywhere."""
    if size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def total(value: Tensor) -> Tensor:
    """Return the sum over the processes."""
    if size() > 1:
        distributed.all_reduce(value)
    return value
