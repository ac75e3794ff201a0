"""Channels-last or not: what is faster differs between models and machines, so it is measured."""

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from crossdistill.staged import StagedModel

# The faster of so many passes each, taken in turns, so that what else the machine does falls on both.
_ROUNDS = 3
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class MemoryFormats:
    """Seconds of the student's forward and backward and the teacher's forward on one micro-batch, in each format."""

    contiguous: float
    channels_last: float

    @property
    def prefers_channels_last(self) -> bool:
        return self.channels_last < self.contiguous


def measure_memory_formats(student: StagedModel, teacher: StagedModel | None, batch_size: int) -> MemoryFormats:
    """Time both formats on noise. Neither the models nor the random states change.

    Args:
        student: on its device.
        teacher: on its device; None where the step does not run it.
        batch_size: images of a micro-batch.
    """
    device = next(student.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        images = torch.rand(batch_size, 3, *student.image_size, device=device)
        copies = {
            name: (_copy(student, kind).train(), teacher and _copy(teacher, kind), images.to(memory_format=kind))
            for name, kind in _FORMATS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in copies}
        for _ in range(1 + _ROUNDS):
            for name, (learner, source, batch) in copies.items():
                times[name].append(_seconds(learner, source, batch))
    # The first pass of each allocates.
    return MemoryFormats(**{name: min(taken[1:]) for name, taken in times.items()})


def _copy(model: StagedModel, memory_format: torch.memory_format) -> StagedModel:
    return copy.deepcopy(model).to(memory_format=memory_format)  # type: ignore[call-overload]


def _seconds(student: StagedModel, teacher: StagedModel | None, images: Tensor) -> float:
    _synchronize(images.device)
    started = time.perf_counter()
    if teacher is not None:
        with torch.no_grad():
            teacher(images)
    student(images).final.float().square().mean().backward()
    _synchronize(images.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
