"""Decoding in worker processes: what PyTorch's DataLoader needs for images that are not kept in memory."""

import atexit
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data import draws
from crossdistill.data.images import fit
from crossdistill.data.sources import ImageSource
from crossdistill.data.transforms import TrainTransform
from crossdistill.errors import UserError

# Epoch, position in the source, repetition.
View = tuple[int, int, int]


class AugmentedViews(Dataset):
    """Augmented images: item (epoch, index, repetition) is (3, H, W) uint8, a function of those and the data seed."""

    def __init__(self, source: ImageSource, transform: TrainTransform, data_seed: int) -> None:
        self.source = source
        self.transform = transform
        self.data_seed = data_seed

    def __getitem__(self, view: View) -> Tensor:
        epoch, index, repetition = view
        seed = draws.seed_of(draws.TRANSFORM, self.data_seed, epoch, index, repetition)
        return self.transform(self.source.read(index), seed)


class FittedImages(Dataset):
    """Images as for evaluation: item `index` is (3, H, W) uint8."""

    def __init__(self, source: ImageSource, size: tuple[int, int], crop_fraction: float) -> None:
        self.source = source
        self.size = size
        self.crop_fraction = crop_fraction

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        return pil_to_tensor(fit(self.source.read(index), self.size, self.crop_fraction))


class BatchPlan:
    """A batch sampler whose batches are set before each pass, so that the workers live on from epoch to epoch."""

    def __init__(self) -> None:
        self.batches: list[list] = []

    def __iter__(self) -> Iterator[list]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Workers(DataLoader):
    """A DataLoader that takes no number from the global random generators.

    It raises a `UserError` of a worker process as the line that it was, without the traceback that PyTorch writes into
    the message.
    """

    def __init__(self, dataset: Dataset, **arguments: Any) -> None:
        # A generator of its own, because it otherwise takes a number from the global one.
        super().__init__(dataset, generator=torch.Generator(), worker_init_fn=_leave_signals_to_the_parent, **arguments)
        _LOADERS.add(self)

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(str(error).rpartition(f"{UserError.__module__}.UserError: ")[2].strip()) from error


_LOADERS: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """Python waits at its end for the workers of a pass that a kept error holds, and they ignore its signal to end."""
    for loader in _LOADERS:
        for process in getattr(loader._iterator, "_workers", ()):
            process.kill()


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; a run stops after its step, and needs its workers for that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def start_workers(dataset: Dataset, plan: BatchPlan, workers: int, device: torch.device) -> Workers:
    """A loader of (B, 3, H, W) uint8 batches."""
    return Workers(
        dataset,
        batch_sampler=plan,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
