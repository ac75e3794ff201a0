"""Batches on the device: shuffled and augmented for training, in order and whole for evaluation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from crossdistill.data import augment, draws, memory
from crossdistill.data.images import fit
from crossdistill.data.sources import ImageSource
from crossdistill.data.transforms import TrainTransform
from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions


@dataclass
class Batch:
    """Images on the device.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B,) int64 class indices.
        indices: (B,) int64 positions of the images in their source.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class TrainLoader:
    """Augmented training batches whose content depends on (data seed, epoch, step) alone.

    A global batch is the same images in the same order, each with the same augmentation, whatever the number of
    devices, accumulation steps and workers; every process takes its own slice. Small images are kept in memory and
    augmented in batches on the device, others one by one in worker processes (`memory.keeps` decides from the data
    and the options, never from the machine).

    Args:
        source: the training images.
        image_size: height and width of the batches.
        batch_size: images of one optimiser step, over all processes and accumulation steps.
        accumulate: micro-batches of one optimiser step.
        rank: number of this process.
        world_size: number of processes.
        data_seed: seed of order and augmentation.
        device: where the batches go.
        options: what is done to the images.

    Raises:
        UserError: fewer images than a batch, a batch that cannot be shared out, or options that exclude each other.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        data_seed: int,
        device: torch.device | str,
        options: TrainingOptions,
    ) -> None:
        _check_batch(len(source), batch_size, accumulate, world_size, options)
        self.source = source
        self.image_size = image_size
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.data_seed = data_seed
        self.device = torch.device(device)
        self.options = options
        self.steps_per_epoch = len(source) // batch_size

        kept_size = memory.natural_size(source, image_size) if options.crop == "resized" else image_size
        in_workers = bool(options.rand_augment or options.color_jitter)
        if in_workers and options.cache_images == "true":
            raise UserError("--cache_images true does not go with --rand_augment or --color_jitter: leave it at auto")
        self.pixels: Tensor | None = None
        if not in_workers and memory.keeps(source, kept_size, options.cache_images):
            self.pixels = memory.keep(source, kept_size)
            # More than what is kept unasked could crowd the model out of the device; batches are then sent one by one.
            if self.pixels.nbytes <= memory.MOST_BYTES:
                self.pixels = self.pixels.to(self.device)
        else:
            dataset = _Augmented(source, TrainTransform(image_size, options), data_seed)
            self._views = _Batches()
            self._workers = _data_loader(dataset, self._views, options.workers, self.device)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This process's micro-batches of one epoch, in order: `accumulate` for each optimiser step.

        Args:
            epoch: number of the epoch.
            start_step: optimiser step within the epoch to begin with; what is skipped is not read.
        """
        indices, repetitions = self._order(epoch)
        parts = [self._part(step, micro) for step in range(start_step, self.steps_per_epoch) for micro in range(self.accumulate)]
        if self.pixels is None:
            self._views.content = [
                [(epoch, *view) for view in zip(indices[part].tolist(), repetitions[part].tolist(), strict=True)]
                for part in parts
            ]
            for part, images in zip(parts, self._workers, strict=True):
                yield self._batch(epoch, images, indices[part], repetitions[part])
        else:
            # One copy for the epoch; the slices below are then taken without the host waiting for the device.
            indices, repetitions = indices.to(self.pixels.device), repetitions.to(self.pixels.device)
            for part in parts:
                yield self._batch(epoch, self.pixels[indices[part]], indices[part], repetitions[part])

    def plain(self, limit: int | None = None) -> Iterable[Tensor]:
        """Training images as for evaluation, (B, 3, H, W) in [0, 1]: the same on every process, a fresh pass each time.

        Args:
            limit: number of images, a random choice; None: all of them.
        """
        chosen = draws.permutation(len(self.source), self.data_seed, 0, draws.SUBSET)[:limit]
        batches = EvalLoader(
            self.source.subset(chosen),
            image_size=self.image_size,
            batch_size=self.batch_size // (self.world_size * self.accumulate),
            device=self.device,
            workers=self.options.workers,
            cache_images="false" if self.source.pixels is None else "auto",
        )
        return _Images(batches)

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Image and repetition number at each place of the epoch, both (N,)."""
        order = draws.permutation(len(self.source), self.data_seed, epoch)
        views = self.options.repeated_augmentation
        if views == 1:
            return order, torch.zeros_like(order)
        # The views of an image are in one batch (Hoffer et al., "Augment your batch", CVPR 2020), but not side by side,
        # where mixing would pair an image with itself.
        runs = order[: -(-len(order) // views)].split(-(-self.batch_size // views))
        indices = torch.cat([run.repeat(views) for run in runs])
        repetitions = torch.cat([torch.arange(views).repeat_interleave(len(run)) for run in runs])
        return indices[: len(order)], repetitions[: len(order)]

    def _part(self, step: int, micro: int) -> slice:
        """Where this process's share of a micro-batch lies in the epoch's order."""
        size = self.batch_size // (self.world_size * self.accumulate)
        start = step * self.batch_size + (micro * self.world_size + self.rank) * size
        return slice(start, start + size)

    def _batch(self, epoch: int, pixels: Tensor, indices: Tensor, repetitions: Tensor) -> Batch:
        """Put a batch on the device and do there what remains to be done."""
        labels = self.source.labels[indices.cpu()] if self._labels is None else self._labels[indices]
        pixels, labels, indices, repetitions = (
            _send(tensor, self.device) for tensor in (pixels, labels, indices, repetitions)
        )
        images = augment.to_float(pixels) if self.pixels is None else self._augment(epoch, pixels, indices, repetitions)
        if self.options.random_erasing:
            keys = draws.keys(draws.ERASE, self.data_seed, epoch, indices, repetitions)
            images = augment.erase(images, keys, self.options.random_erasing)
        return Batch(images, labels, indices)
