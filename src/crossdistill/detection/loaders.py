"""Batches of images with boxes: shuffled and augmented for training, in order and whole for evaluation."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data import Batch, draws
from crossdistill.data.augment import to_float
from crossdistill.data.memory import send
from crossdistill.data.shares import Shares
from crossdistill.data.workers import BatchPlan, Workers
from crossdistill.detection.augment import BoxTransform
from crossdistill.detection.boxes import Targets, fit
from crossdistill.detection.sources import SceneSource
from crossdistill.options import DataOptions

# Pixels (B, 3, H, W) uint8, and a target for each.
_Read = tuple[Tensor, Targets]


class SceneTrainLoader:
    """Augmented training batches whose content depends on (data seed, epoch, step) alone.

    As `crossdistill.data.TrainLoader`, whose order of the images it has; the labels of a batch are its targets: of each
    image `boxes` (N, 4) in pixels of the batch and `labels` (N,).

    Args:
        source: the training images.
        image_size: height and width of the batches.
        batch_size: images of one optimiser step, over all processes and accumulation steps.
        accumulate: micro-batches of one optimiser step.
        rank: number of this process.
        world_size: number of processes.
        data_seed: seed of order and augmentation.
        device: where the batches go.
        options: how the images are augmented, and by how many workers.

    Raises:
        UserError: fewer images than a batch, a batch that cannot be shared out, or an augmentation of classification.
    """

    def __init__(
        self,
        source: SceneSource,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        data_seed: int,
        device: torch.device | str,
        options: DataOptions,
    ) -> None:
        self.shares = Shares(batch_size, accumulate, rank, world_size)
        self.shares.check(len(source))
        self.source = source
        self.image_size = image_size
        self.data_seed = data_seed
        self.device = torch.device(device)
        self.options = options
        self.steps_per_epoch = len(source) // batch_size
        views = _AugmentedScenes(source, BoxTransform(image_size, options), data_seed)
        self._plan, self._decoded = _reader(views, options.workers, self.device)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch]:
        """This process's micro-batches of one epoch, in order; `start_step` as of `TrainLoader.epoch`."""
        order = draws.permutation(len(self.source), self.data_seed, epoch)
        parts = [order[part] for part in self.shares.parts(range(start_step, self.steps_per_epoch))]
        self._plan.batches = [[(epoch, index) for index in part.tolist()] for part in parts]
        for part, read in zip(parts, self._decoded, strict=True):
            yield _batch(read, part, self.device)

    def plain(self, limit: int | None = None) -> Iterable[Tensor]:
        """Training images as for evaluation, (B, 3, H, W) in [0, 1]; `limit` as of `TrainLoader.plain`."""
        chosen = draws.permutation(len(self.source), self.data_seed, 0, draws.SUBSET)[:limit]
        return _Images(
            self.source.subset(chosen), self.image_size, self.shares.micro_batch, self.device, self.options.workers
        )


class SceneEvalLoader:
    """Every image once, in order, without augmentation; the targets have boxes in pixels of the batch.

    Args:
        source: the images.
        image_size: height and width of the batches.
        batch_size: images of one batch on this process.
        device: where the batches go.
        workers: processes that decode.
        rank: number of this process, which reads every `world_size`-th image.
        world_size: number of processes.

    Attributes:
        indices: (N,) positions in the source of the images that this process reads.
    """

    def __init__(
        self,
        source: SceneSource,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        device: torch.device | str,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source = source
        self.image_size = image_size
        self.device = torch.device(device)
        self.indices = torch.arange(len(source))[rank::world_size]
        self._parts = list(self.indices.split(batch_size)) if len(self.indices) else []
        self._plan, self._decoded = _reader(_FittedScenes(source, image_size), workers, self.device)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        self._plan.batches = [part.tolist() for part in self._parts]
        for part, read in zip(self._parts, self._decoded, strict=True):
            yield _batch(read, part, self.device)


class _AugmentedScenes(Dataset):
    def __init__(self, source: SceneSource, transform: BoxTransform, data_seed: int) -> None:
        self.source, self.transform, self.data_seed = source, transform, data_seed

    def __getitem__(self, view: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, index = view
        seed = draws.seed_of(draws.TRANSFORM, self.data_seed, epoch, index)
        return self.transform(self.source.read(index), self.source.annotations[index], seed)


class _FittedScenes(Dataset):
    def __init__(self, source: SceneSource, image_size: tuple[int, int]) -> None:
        self.source, self.image_size = source, image_size

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        annotation = self.source.annotations[index]
        image, boxes = fit(self.source.read(index), annotation.boxes, self.image_size)
        return pil_to_tensor(image), {"boxes": boxes, "labels": annotation.labels}


class _Images:
    """The images of an evaluation loader's batches, without the rest."""

    def __init__(
        self, source: SceneSource, image_size: tuple[int, int], batch_size: int, device: torch.device, workers: int
    ) -> None:
        self._make = lambda: SceneEvalLoader(
            source, image_size=image_size, batch_size=batch_size, device=device, workers=workers
        )

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self._make())


def _reader(dataset: Dataset, workers: int, device: torch.device) -> tuple[BatchPlan, Workers]:
    plan = BatchPlan()
    loader = Workers(
        dataset,
        batch_sampler=plan,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=_collate,
    )
    return plan, loader


def _collate(items: list[tuple[Tensor, dict[str, Tensor]]]) -> _Read:
    return torch.stack([pixels for pixels, _ in items]), [target for _, target in items]


def _batch(read: Any, indices: Tensor, device: torch.device) -> Batch:
    pixels, targets = cast(_Read, read)
    sent = [{name: send(part, device) for name, part in target.items()} for target in targets]
    return Batch(to_float(send(pixels, device)), sent, send(indices, device))  # type: ignore[arg-type]
